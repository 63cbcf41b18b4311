/* Upkeep of the cache: export and import, verify, prune, remove, and what `why` says of schedules.
 */
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache/schedule.h"
#include "proto/digest.h"
#include "tests/unit/cache_fixture.h"

enum { TARGET = 60, OTHER = 61 };

static Str hex(uint64_t n, size_t digits) {
  static char text[65];
  digest_to_hex(hash(n), 32, text);
  return (Str){text, digits};
}

static void put(Cache *c, uint64_t kernel, uint64_t target, const char *opts, int64_t median,
                bool verified) {
  Schedule s = {.kernel = hash(kernel),
                .target = hash(target),
                .opts = opts,
                .name = "E_8",
                .host = "here",
                .cause = median ? SC_MEASURED : SC_CRASH,
                .median_ns = median,
                .reps = 5,
                .measured_at = clock_wall_ns() - 1000000000,
                .verified = verified};
  assert_null(cache_put_tuned(c, NULL, 0, &s, 1));
}

static void put_kernel(Cache *c, uint64_t kernel, uint64_t target) {
  CacheRecord r = {.kind = CACHE_KERNEL,
                   .key = {hash(kernel), hash(target), {hash(kernel), 32}},
                   .note = "E_8",
                   .value = {hash(2), 32}};
  assert_null(cache_put(c, &r, 1));
}

static CacheStats stats(Cache *c) {
  CacheStats s;
  assert_null(cache_stats(c, &s));
  return s;
}

static bool note(void *ctx, const Schedule *s) {
  strbuf_addf(ctx, "%s%s%s ", s->opts, s->verified ? "!" : "", s->imported ? "?" : "");
  return true;
}

static void expect(Cache *c, uint64_t kernel, const char *expected) {
  StrBuf out = {0};
  strbuf_adds(&out, "");
  assert_null(cache_schedules(c, hash(kernel), NULL, note, &out));
  assert_string_equal(out.ptr, expected);
  strbuf_deinit(&out);
}

static StrBuf exported(Cache *c, Str kernel, uint64_t expected) {
  StrBuf file = {0};
  uint64_t n;
  assert_null(cache_export(c, kernel, &file, &n));
  assert_int_equal(n, expected);
  return file;
}

static Bytes bytes_of(const StrBuf *b) { return (Bytes){(uint8_t *)b->ptr, b->len}; }

static void expect_refused(Cache *c, Bytes file, StatusCode code, const char *words) {
  CacheImported in;
  char text[512];
  uint64_t before = stats(c).schedules;
  Status st = cache_import(c, file, &in);
  status_text(st, text, sizeof text);
  if (status_code(st) != code || !strstr(text, words))
    fail_msg("'%s' (%s), expected '%s'", st ? text : "imported", status_code_name(status_code(st)),
             words);
  status_drop(st);
  assert_int_equal(in.records + in.stored, 0);
  assert_int_equal(stats(c).schedules, before);
}

static void test_transfer(void **state) {
  const Fixture *f = *state;
  Cache *a = opened(f->path, 0), *b = opened(f->other, 0);
  CacheImported in;
  put(a, 1, TARGET, "x", 10, true);
  put(a, 1, TARGET, "y", 20, false);
  put(a, 1, OTHER, "z", 0, false);
  put(a, 2, TARGET, "w", 10, true);
  StrBuf all = exported(a, STR(""), 4), one = exported(a, hex(1, 64), 3);
  StrBuf none = exported(a, STR("00000000"), 0);
  assert_null(cache_import(b, bytes_of(&one), &in));
  assert_int_equal(in.records, 3);
  assert_int_equal(in.stored, 3);
  expect(b, 2, "");
  assert_null(cache_import(b, bytes_of(&all), &in));
  assert_int_equal(in.records, 4);
  assert_int_equal(in.stored, 1);
  assert_null(cache_import(b, bytes_of(&none), &in));
  assert_int_equal(in.records, 0);
  expect(b, 1, "x? y? z? "); /* candidates, whatever they were there */
  /* back again: what was measured here stays what it is */
  StrBuf back = exported(b, STR(""), 4);
  assert_null(cache_import(a, bytes_of(&back), &in));
  assert_int_equal(in.stored, 0);
  expect(a, 1, "x! y z ");
  strbuf_deinit(&all);
  strbuf_deinit(&one);
  strbuf_deinit(&none);
  strbuf_deinit(&back);
  cache_close(a);
  cache_close(b);
}

static void seal(StrBuf *file, size_t at, size_t head, size_t n) {
  Digest *d = digest_create();
  digest_add(d, file->ptr + at, head);
  digest_add(d, file->ptr + at + head + 32, n);
  digest_finish(d, (uint8_t *)file->ptr + at + head);
}

static void test_bad_files(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  put(c, 1, TARGET, "x", 10, true);
  put(c, 1, TARGET, "y", 20, false);
  StrBuf file = exported(c, STR(""), 2);
  Bytes whole = bytes_of(&file);
  put(c, 3, TARGET, "mine", 5, true);
  for (size_t k = 0; k < file.len; k++) { /* every bit of one and every cut is found */
    StatusCode code = k >= 8 && k < 16 ? ST_FAILED_PRECONDITION : ST_INVALID_ARGUMENT;
    file.ptr[k] ^= 0x04;
    expect_refused(c, whole, code, "byte");
    file.ptr[k] ^= 0x04;
    expect_refused(c, (Bytes){whole.ptr, k}, ST_INVALID_ARGUMENT, "byte");
  }
  size_t first = 64, body = file.len - first;
  file.ptr[16] = 3; /* says more records than there are */
  seal(&file, 0, 32, body);
  expect_refused(c, whole, ST_INVALID_ARGUMENT, "record 2 at byte");
  memset(file.ptr + 16, 0xff, 8);
  seal(&file, 0, 32, body);
  expect_refused(c, whole, ST_INVALID_ARGUMENT, "byte 16: the file says 18446744073709551615");
  memset(file.ptr + 16, 0, 8);
  file.ptr[16] = 1;
  seal(&file, 0, 32, body);
  expect_refused(c, whole, ST_INVALID_ARGUMENT, "bytes behind the last record");
  file.ptr[16] = 2;
  file.ptr[8] = 2;
  seal(&file, 0, 32, body);
  expect_refused(c, whole, ST_FAILED_PRECONDITION, "version 2, this server reads 1");
  file.ptr[8] = 1;
  file.ptr[first + 4] = 9; /* a record of a future version, sealed */
  seal(&file, first, 16, body / 2 - 48);
  seal(&file, 0, 32, body);
  expect_refused(c, whole, ST_FAILED_PRECONDITION,
                 "record 0 at byte 64: a schedule record of version 9");
  file.ptr[first + 4] = 1;
  memset(file.ptr + first + 48 + 96, 0xff, 8); /* its cause */
  seal(&file, first, 16, body / 2 - 48);
  seal(&file, 0, 32, body);
  expect_refused(c, whole, ST_INVALID_ARGUMENT, "record 0 at byte 64");
  expect_refused(c, (Bytes){(const uint8_t *)"", 0}, ST_INVALID_ARGUMENT, "not a file of schedule");
  expect(c, 3, "mine! ");
  strbuf_deinit(&file);
  cache_close(c);
}

static bool never(void *ctx) {
  int *left = ctx;
  return (*left)-- <= 0;
}

static void test_verify(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  CacheCheck check;
  int left = 2;
  for (uint64_t k = 0; k < 10; k++) {
    put_kernel(c, k, TARGET);
    put(c, k, TARGET, "x", 10, true);
  }
  assert_null(cache_verify(c, NULL, NULL, &check));
  assert_int_equal(check.entries, 10);
  assert_int_equal(check.schedules, 10);
  assert_int_equal(check.corrupt + check.newer, 0);
  assert_null(check.problems.ptr);
  Status st = cache_verify(c, never, &left, &check);
  assert_int_equal(status_code(st), ST_CANCELLED);
  status_drop(st);
  cache_close(c);
  sql(f->path, "UPDATE blobs SET record=x'00' WHERE id IN (2, 5);"
               "UPDATE schedules SET record=x'00' WHERE id=3;"
               "UPDATE schedules SET median=1, opts='other' WHERE id=4");
  c = opened(f->path, 0);
  assert_null(cache_verify(c, NULL, NULL, &check));
  assert_int_equal(check.entries, 8);
  assert_int_equal(check.schedules, 8);
  assert_int_equal(check.corrupt, 4);
  assert_int_equal(stats(c).kernels, 8);
  assert_null(cache_verify(c, NULL, NULL, &check));
  assert_int_equal(check.corrupt, 0);
  strbuf_deinit(&check.problems);
  cache_close(c);
}

static void test_prune(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  CacheRemoved gone;
  for (uint64_t k = 0; k < 10; k++) {
    put_kernel(c, k, k < 4 ? OTHER : TARGET);
    put(c, k, k < 4 ? OTHER : TARGET, "x", 10, k == 9);
  }
  CachePrune what = {.target = hex(OTHER, 16)};
  uint64_t before = stats(c).bytes;
  assert_null(cache_prune(c, &what, &gone));
  assert_int_equal(gone.entries, 4);
  assert_int_equal(gone.schedules, 4);
  assert_int_equal(stats(c).bytes, before - gone.bytes);
  what = (CachePrune){.before_ns = clock_wall_ns() - 3600 * (int64_t)1000000000};
  assert_null(cache_prune(c, &what, &gone));
  assert_int_equal(gone.entries + gone.schedules, 0);
  what = (CachePrune){.bytes = stats(c).schedule_bytes}; /* binaries go first */
  assert_null(cache_prune(c, &what, &gone));
  assert_int_equal(gone.entries, 6);
  assert_int_equal(gone.schedules, 0);
  what.before_ns = clock_wall_ns() + 1;
  assert_null(cache_prune(c, &what, &gone));
  assert_int_equal(gone.schedules, 6);
  assert_int_equal(stats(c).bytes, 0);
  const char *const bad[] = {"x", "abc", "zzzz"};
  for (int k = 0; k < 3; k++) {
    what = (CachePrune){.target = str_from(bad[k])};
    Status st = cache_prune(c, &what, &gone);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
  cache_close(c);
}

static void expect_not_removed(Cache *c, Str prefix, StatusCode code) {
  CacheRemoved gone;
  Status st = cache_remove(c, prefix, &gone);
  assert_int_equal(status_code(st), code);
  assert_int_equal(gone.entries + gone.schedules + gone.bytes, 0);
  status_drop(st);
}

static void test_remove(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  CacheRemoved gone;
  uint8_t near[32];
  memcpy(near, hash(1), 32);
  near[31] ^= 1;
  put_kernel(c, 1, TARGET);
  put(c, 1, TARGET, "x", 10, true);
  put(c, 1, OTHER, "x", 10, true);
  put(c, 2, OTHER, "y", 10, true);
  Schedule s = {.kernel = near, .target = hash(TARGET), .opts = "n", .median_ns = 1};
  assert_null(cache_put_tuned(c, NULL, 0, &s, 1));
  expect_not_removed(c, hex(1, 60), ST_INVALID_ARGUMENT); /* begins two */
  expect_not_removed(c, STR("00000000"), ST_NOT_FOUND);
  expect_not_removed(c, STR("12"), ST_INVALID_ARGUMENT);
  assert_null(cache_remove(c, hex(1, 64), &gone));
  assert_int_equal(gone.entries, 1);
  assert_int_equal(gone.schedules, 2);
  expect(c, 1, "");
  expect(c, 2, "y! ");
  cache_close(c);
}

static void test_why(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  StrBuf out = {0};
  put_kernel(c, 1, TARGET);
  put(c, 1, TARGET, "VECTOR(0,8)", 1500, true);
  for (int k = 0; k < 12; k++) {
    char opts[16];
    snprintf(opts, sizeof opts, "O%d", k);
    put(c, 1, TARGET, opts, k < 10 ? 2000 + k : 0, false);
  }
  put(c, 1, OTHER, "far", 3, false);
  assert_null(cache_why(c, hex(1, 12), hash(TARGET), &out));
  static const char *const words[] = {
      "kernel ",       "schedules of kernel ", "1.500 us", "verified by here",
      "VECTOR(0,8)\n", "and 3 more",           "crash",    "not this server's: only hints"};
  for (size_t k = 0; k < sizeof words / sizeof *words; k++)
    if (!strstr(out.ptr, words[k])) fail_msg("'%s' is not in:\n%s", words[k], out.ptr);
  out.len = 0;
  put(c, 2, TARGET, "alone", 7, false); /* known, without a binary */
  assert_null(cache_why(c, hex(2, 12), hash(TARGET), &out));
  assert_non_null(strstr(out.ptr, "alone"));
  assert_null(strstr(out.ptr, "nothing is stored"));
  strbuf_deinit(&out);
  cache_close(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_transfer, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bad_files, setup, teardown),
      cmocka_unit_test_setup_teardown(test_verify, setup, teardown),
      cmocka_unit_test_setup_teardown(test_prune, setup, teardown),
      cmocka_unit_test_setup_teardown(test_remove, setup, teardown),
      cmocka_unit_test_setup_teardown(test_why, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
