/* .npy files that numpy writes, that others write, and that nobody should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/cli/npy.h"

/* A file of version `version` with this header and data. */
static StrBuf file_of(int version, const char *header, const void *data, size_t n) {
  StrBuf b = {0};
  size_t h = strlen(header);
  const char len[] = {(char)h, (char)(h >> 8), 0, 0};
  strbuf_add(&b, "\x93NUMPY", 6);
  strbuf_add(&b, (char[]){(char)version, 0}, 2);
  strbuf_add(&b, len, version == 1 ? 2 : 4);
  strbuf_adds(&b, header);
  strbuf_add(&b, data, n);
  return b;
}

static Status parse(StrBuf *b, Npy *out) {
  Status st = npy_parse((Bytes){(const uint8_t *)b->ptr, b->len}, out);
  strbuf_deinit(b);
  return st;
}

static void test_dtypes(void **state) {
  (void)state;
  static const char *const descr[] = {"|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2",
                                      "<u4", "<u8", "<f2", "<f4", "<f8", "<V2"};
  static const KilnDType dtype[] = {KILN_BOOL, KILN_I8,  KILN_I16, KILN_I32, KILN_I64,
                                    KILN_U8,   KILN_U16, KILN_U32, KILN_U64, KILN_F16,
                                    KILN_F32,  KILN_F64, KILN_BF16};
  const uint8_t data[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (size_t i = 0; i < sizeof descr / sizeof *descr; i++) {
    char header[100];
    Npy a;
    snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (2,), }   \n",
             descr[i]);
    StrBuf b = file_of(i % 2 ? 1 : 2, header, data, 2 * kiln_dtype_size(dtype[i]));
    assert_null(parse(&b, &a));
    assert_int_equal(a.dtype, dtype[i]);
    assert_int_equal(a.rank, 1);
    assert_int_equal(a.dims[0], 2);
    assert_memory_equal(a.data, data, a.bytes);
    npy_deinit(&a);
  }
}

static void test_layouts(void **state) {
  (void)state;
  const int32_t columns[] = {0, 3, 1, 4, 2, 5}, rows[] = {0, 1, 2, 3, 4, 5};
  Npy a;
  StrBuf b = file_of(1, "{'shape': (2, 3), 'fortran_order': True, 'descr': '<i4'}", columns,
                     sizeof columns);
  assert_null(parse(&b, &a));
  assert_memory_equal(a.data, rows, sizeof rows);
  npy_deinit(&a);
  const uint8_t big[] = {0, 0, 0, 1, 0, 0, 1, 0};
  b = file_of(3, "{\"descr\": \">i4\", \"fortran_order\": False, \"shape\": (2L,)}", big, 8);
  assert_null(parse(&b, &a));
  assert_int_equal(((int32_t *)a.data)[0], 1);
  assert_int_equal(((int32_t *)a.data)[1], 256);
  npy_deinit(&a);
  b = file_of(1, "{'descr': '<f8', 'fortran_order': False, 'shape': ()}", rows, 8);
  assert_null(parse(&b, &a));
  assert_int_equal(a.rank, 0);
  npy_deinit(&a);
  b = file_of(1, "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 0, 2)}", "", 0);
  assert_null(parse(&b, &a));
  assert_int_equal(a.bytes, 0);
  npy_deinit(&a);
}

static void test_bad(void **state) {
  (void)state;
  static const char *const headers[] = {
      "",
      "{",
      "{}",
      "{'descr': '<f4'}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
      "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 0, 4)}",
      "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
  };
  Npy a;
  for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
    StrBuf b = file_of(1, headers[i], "abcd", 4);
    Status st = parse(&b, &a);
    if (status_code(st) != ST_INVALID_ARGUMENT) fail_msg("accepted: %s", headers[i]);
    assert_null(a.data);
    status_drop(st);
  }
  StrBuf b = file_of(4, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "abcd", 4);
  for (size_t cut = 0; cut < b.len; cut++) {
    Status st = npy_parse((Bytes){(const uint8_t *)b.ptr, cut}, &a);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
  strbuf_deinit(&b);
}

static void test_files(void **state) {
  (void)state;
  char path[] = "/tmp/kiln-npy-XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  const uint64_t dims[] = {2, 1, 3};
  const float data[] = {1, 2, 3, 4, 5, 6};
  for (size_t rank = 0; rank < 4; rank += 3) {
    const KilnTensor t = {.dtype = KILN_F32,
                          .rank = rank,
                          .dims = dims,
                          .data = data,
                          .bytes = rank ? sizeof data : 4};
    Npy a;
    assert_null(npy_write(path, &t));
    assert_null(npy_read(path, &a));
    assert_int_equal(a.rank, rank);
    assert_int_equal(a.dtype, KILN_F32);
    assert_memory_equal(a.dims, dims, rank * sizeof *dims);
    assert_memory_equal(a.data, data, t.bytes);
    npy_deinit(&a);
  }
  /* Dtypes without a name in numpy come back as bytes. */
  for (KilnDType d = KILN_F8E4M3FN; kiln_dtype_size(d); d++) {
    const KilnTensor t = {.dtype = d, .rank = 1, .dims = dims, .data = "\1\2", .bytes = 2};
    Npy a;
    assert_null(npy_write(path, &t));
    assert_null(npy_read(path, &a));
    assert_int_equal(kiln_dtype_size(a.dtype), 1);
    assert_memory_equal(a.data, t.data, 2);
    npy_deinit(&a);
  }
  unlink(path);
  Npy a;
  Status st = npy_read(path, &a);
  assert_int_equal(status_code(st), ST_NOT_FOUND);
  status_drop(st);
  st = npy_read("/tmp", &a);
  assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
  status_drop(st);
  st = npy_write("/nowhere/x.npy", &(KilnTensor){.dtype = KILN_F32});
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  status_drop(st);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_dtypes),
      cmocka_unit_test(test_layouts),
      cmocka_unit_test(test_bad),
      cmocka_unit_test(test_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
