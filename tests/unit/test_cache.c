/* cache/: hits, misses, canonical comparison, eviction, corruption, and every file that is not a
 * good cache of ours. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/map.h"
#include "cache/cache.h"
#include "cache/record.h"
#include "proto/digest.h"
#include "tests/unit/cache_fixture.h"

/* A key and a value made from two numbers. */
typedef struct Sample {
  uint8_t hash[32], target[32], canonical[64];
  uint8_t *value;
  CacheRecord record;
} Sample;

static void sample(Sample *s, CacheKind kind, uint64_t graph, uint64_t target, size_t size) {
  for (size_t k = 0; k < 8; k++) {
    uint64_t h = hash_u64(graph * 8 + k);
    memcpy(s->canonical + 8 * k, &h, 8);
  }
  digest_sha256(s->canonical, 64, s->hash);
  digest_sha256(&target, 8, s->target);
  s->value = malloc(size ? size : 1);
  for (size_t k = 0; k < size; k++) s->value[k] = (uint8_t)(hash_u64(graph + target + k / 4) >> 9);
  s->record = (CacheRecord){.kind = kind,
                            .key = {s->hash, s->target, {s->canonical, 64}},
                            .note = "a note",
                            .value = {s->value, size}};
}

static bool hit(Cache *c, const Sample *s) {
  StrBuf out = {0};
  bool found;
  Status st = cache_find(c, s->record.kind, &s->record.key, &found, &out);
  assert_null(st);
  if (found) {
    assert_int_equal(out.len, s->record.value.len);
    if (out.len) assert_memory_equal(out.ptr, s->value, out.len);
  }
  strbuf_deinit(&out);
  return found;
}

static void put(Cache *c, const Sample *s) { assert_null(cache_put(c, &s->record, 1)); }

static CacheStats stats(Cache *c) {
  CacheStats s;
  assert_null(cache_stats(c, &s));
  return s;
}

static void test_hits(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  Sample s[6];
  for (int k = 0; k < 6; k++) {
    sample(&s[k], k < 2 ? CACHE_PLAN : CACHE_KERNEL, (uint64_t)k, 1, (size_t)k * 5000);
    assert_false(hit(c, &s[k]));
  }
  CacheRecord all[6];
  for (int k = 0; k < 6; k++) all[k] = s[k].record;
  assert_null(cache_put(c, all, 6));
  for (int k = 0; k < 6; k++) assert_true(hit(c, &s[k]));
  cache_close(c);
  c = opened(f->path, 0); /* and after a restart */
  for (int k = 0; k < 6; k++) assert_true(hit(c, &s[k]));
  CacheStats st = stats(c);
  assert_int_equal(st.plans, 2);
  assert_int_equal(st.kernels, 4);
  assert_int_equal(st.hits, 6);
  assert_int_equal(st.misses, 0);
  /* another kind, another target, another graph with the same hash */
  Sample other = s[5];
  other.record.kind = CACHE_PLAN;
  assert_false(hit(c, &other));
  uint8_t target[32] = {9};
  other = s[5];
  other.record.key.target = target;
  assert_false(hit(c, &other));
  other = s[5];
  uint8_t canonical[64];
  memcpy(canonical, s[5].canonical, 64);
  canonical[63] ^= 1;
  other.record.key.canonical = (Bytes){canonical, 64};
  assert_false(hit(c, &other));
  other.record.key.canonical = (Bytes){canonical, 63};
  assert_false(hit(c, &other));
  assert_int_equal(stats(c).misses, 4);
  /* replacing keeps one */
  s[5].value[0] ^= 1;
  put(c, &s[5]);
  assert_true(hit(c, &s[5]));
  assert_int_equal(stats(c).kernels, 4);
  for (int k = 0; k < 6; k++) free(s[k].value);
  cache_close(c);
  struct stat file;
  assert_int_equal(stat(f->path, &file), 0);
  assert_int_equal(file.st_mode & 0777, 0600);
}

static void test_eviction(void **state) {
  const Fixture *f = *state;
  enum { N = 40, SIZE = 8000 };
  Cache *c = opened(f->path, 10 * (SIZE + 1000));
  Sample s[N], big;
  for (int k = 0; k < N; k++) {
    sample(&s[k], CACHE_KERNEL, (uint64_t)k, 1, SIZE);
    for (int b = 0; b < SIZE; b++) s[k].value[b] = (uint8_t)hash_u64((uint64_t)(k * SIZE + b));
    put(c, &s[k]);
    assert_true(hit(c, &s[0])); /* in use, so it stays */
    assert_true(stats(c).bytes <= stats(c).max_bytes);
  }
  int left = 0;
  for (int k = 1; k < N; k++) {
    bool here = hit(c, &s[k]);
    if (here) left++;
    assert_true(here || !left); /* the newest are left, without a gap */
  }
  assert_true(left >= 7 && left <= 10);
  assert_true(hit(c, &s[N - 1]));
  assert_true(hit(c, &s[0]));
  assert_int_equal(stats(c).evictions, N - 1 - left);
  sample(&big, CACHE_PLAN, 1000, 1, 200000);
  for (size_t b = 0; b < 200000; b++) big.value[b] = (uint8_t)hash_u64(b);
  Status st = cache_put(c, &big.record, 1);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  assert_true(hit(c, &s[0])); /* nothing was thrown out for it */
  for (int k = 0; k < N; k++) free(s[k].value);
  free(big.value);
  cache_close(c);
}

static void test_corrupt_entry(void **state) {
  const Fixture *f = *state;
  Sample a, b;
  sample(&a, CACHE_KERNEL, 1, 1, 3000);
  sample(&b, CACHE_KERNEL, 2, 1, 3000);
  Cache *c = opened(f->path, 0);
  put(c, &a);
  put(c, &b);
  cache_close(c);
  sql(f->path,
      "UPDATE blobs SET record=substr(record, 1, 90)||x'ff'||substr(record, 92) WHERE id=1");
  c = opened(f->path, 0);
  assert_false(hit(c, &a));
  assert_true(hit(c, &b));
  assert_int_equal(stats(c).corrupt, 1);
  assert_int_equal(stats(c).kernels, 1);
  put(c, &a); /* heals */
  assert_true(hit(c, &a));
  cache_close(c);
  free(a.value);
  free(b.value);
}

static void expect_refused(const char *path, StatusCode code, const char *part) {
  Cache *c;
  check_refused(cache_open(path, 0, &c), code, part);
  assert_null(c);
}

static void write_file(const char *path, const void *bytes, size_t n) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, n, file), n);
  fclose(file);
}

static void test_bad_files(void **state) {
  const Fixture *f = *state;
  char path[128];
  snprintf(path, sizeof path, "%s/other", f->dir);
  write_file(path,
             "a text file, and none of ours: at least one hundred bytes long, so that it "
             "could have been a database header.",
             109);
  expect_refused(path, ST_FAILED_PRECONDITION, "is not a database");
  write_file(path, "short", 5);
  expect_refused(path, ST_FAILED_PRECONDITION, "is not a database");
  remove(path);
  sql(path, "CREATE TABLE mine(x)");
  expect_refused(path, ST_FAILED_PRECONDITION, "belongs to another program");
  sql(path, "INSERT INTO mine VALUES(1)"); /* untouched */
  expect_refused(f->dir, ST_FAILED_PRECONDITION, "is a folder");
  expect_refused("/proc/nowhere/cache.db", ST_PERMISSION_DENIED, "creating folder");
  cache_close(opened(f->path, 0));
  sql(f->path, "PRAGMA user_version=4");
  expect_refused(f->path, ST_FAILED_PRECONDITION, "has schema 4, this server knows 3");
}

static void test_torn_file(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  struct stat file;
  for (uint64_t k = 0; k < 50; k++) {
    Sample s;
    sample(&s, CACHE_KERNEL, k, 1, 5000);
    put(c, &s);
    free(s.value);
  }
  cache_close(c);
  assert_int_equal(stat(f->path, &file), 0);
  assert_int_equal(truncate(f->path, file.st_size / 2), 0);
  expect_refused(f->path, ST_DATA_LOSS, "is torn");
}

/* Random damage inside: every call ends, with an answer or a Status; nothing wrong is served. */
static void test_scribbled_file(void **state) {
  const Fixture *f = *state;
  enum { N = 30 };
  Sample s[N];
  uint64_t rng = 1;
  for (int k = 0; k < N; k++) sample(&s[k], CACHE_KERNEL, (uint64_t)k, 1, 5000);
  for (int round = 0; round < 40; round++) {
    char side[128];
    remove(f->path);
    Cache *c = opened(f->path, 0);
    for (int k = 0; k < N; k++) put(c, &s[k]);
    cache_close(c);
    struct stat file;
    assert_int_equal(stat(f->path, &file), 0);
    int fd = open(f->path, O_RDWR);
    for (int k = 0; k < 60; k++) {
      rng = hash_u64(rng + 1);
      uint8_t byte = (uint8_t)(rng >> 50);
      off_t at = 100 + (off_t)(rng % (uint64_t)(file.st_size - 100));
      assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
    Status st = cache_open(f->path, 0, &c);
    status_drop(st);
    for (int k = 0; k < N && c; k++) {
      StrBuf out = {0};
      bool found;
      status_drop(cache_find(c, CACHE_KERNEL, &s[k].record.key, &found, &out));
      if (found) {
        assert_int_equal(out.len, 5000);
        assert_memory_equal(out.ptr, s[k].value, 5000);
      }
      strbuf_deinit(&out);
    }
    cache_close(c);
    for (int k = 0; k < 2; k++) {
      snprintf(side, sizeof side, "%s%s", f->path, k ? "-wal" : "-shm");
      remove(side);
    }
  }
  for (int k = 0; k < N; k++) free(s[k].value);
}

static void test_read_only(void **state) {
  const Fixture *f = *state;
  cache_close(opened(f->path, 0));
  assert_int_equal(chmod(f->path, 0400), 0);
  bool root = geteuid() == 0;
  if (root) { /* root may write anything: be somebody else for a moment */
    assert_int_equal(chown(f->path, 65534, 65534), 0);
    assert_int_equal(chmod(f->dir, 0755), 0);
    char sub[96];
    snprintf(sub, sizeof sub, "%s/a", f->dir);
    assert_int_equal(chmod(sub, 0755), 0);
    snprintf(sub, sizeof sub, "%s/a/b", f->dir);
    assert_int_equal(chmod(sub, 0755), 0);
    assert_int_equal(seteuid(65534), 0);
  }
  expect_refused(f->path, ST_PERMISSION_DENIED, "for writing");
  if (root) assert_int_equal(seteuid(0), 0);
}

/* A disk that takes no more: writes fail with a Status, reads go on, and so do writes afterwards.
 */
static void test_full_disk(void **state) {
  const Fixture *f = *state;
  Sample a, b;
  struct rlimit old, small;
  sample(&a, CACHE_KERNEL, 1, 1, 3000);
  sample(&b, CACHE_KERNEL, 2, 1, 900000);
  for (size_t k = 0; k < 900000; k++) b.value[k] = (uint8_t)hash_u64(k);
  Cache *c = opened(f->path, 0);
  put(c, &a);
  uint64_t bytes = stats(c).bytes;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = old;
  small.rlim_cur = 300000;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status st = cache_put(c, &b.record, 1);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
  assert_non_null(st);
  status_drop(st);
  assert_int_equal(stats(c).write_errors, 1);
  assert_int_equal(stats(c).bytes, bytes);
  assert_true(hit(c, &a));
  assert_false(hit(c, &b));
  put(c, &b);
  assert_true(hit(c, &b));
  cache_close(c);
  free(a.value);
  free(b.value);
}

static void count_entry(void *ctx, const CacheEntry *e) {
  int *n = ctx;
  assert_string_equal(e->note, "a note");
  ++*n;
}

static void test_list_and_why(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  Sample a, b;
  StrBuf out = {0};
  char hex[65];
  int n = 0;
  sample(&a, CACHE_PLAN, 1, 1, 100);
  sample(&b, CACHE_KERNEL, 2, 2, 100);
  put(c, &a);
  put(c, &b);
  assert_true(hit(c, &a));
  assert_null(cache_list(c, 0, count_entry, &n));
  assert_int_equal(n, 2);
  assert_null(cache_list(c, 1, count_entry, &n));
  assert_int_equal(n, 3);
  assert_null(cache_put_target(c, a.target, STR("cpu=skylake\nthreads=2\n")));
  assert_null(cache_put_target(c, b.target, STR("cpu=znver4\nthreads=2\n")));
  digest_to_hex(a.hash, 32, hex);
  assert_null(cache_why(c, (Str){hex, 10}, a.target, &out));
  assert_non_null(strstr(out.ptr, "plan "));
  assert_non_null(strstr(out.ptr, "1 uses"));
  assert_non_null(strstr(out.ptr, "is a hit"));
  out.len = 0;
  assert_null(cache_why(c, (Str){hex, 64}, b.target, &out));
  assert_non_null(strstr(out.ptr, "same graph, another target"));
  assert_non_null(strstr(out.ptr, "cpu: stored for 'skylake', this server has 'znver4'"));
  assert_null(strstr(out.ptr, "threads:"));
  out.len = 0;
  assert_null(cache_why(c, STR("00000000"), NULL, &out));
  assert_non_null(strstr(out.ptr, "nothing is stored"));
  char long_hex[66];
  memset(long_hex, '1', sizeof long_hex);
  long_hex[65] = 0;
  const char *const bad[] = {"", "abc", "xyzw", long_hex};
  for (int k = 0; k < 4; k++) {
    Status st = cache_why(c, str_from(bad[k]), NULL, &out);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
  strbuf_deinit(&out);
  free(a.value);
  free(b.value);
  cache_close(c);
}

static void test_record(void **state) {
  (void)state;
  RecordCodec codec = {0};
  StrBuf record = {0}, out = {0};
  size_t split;
  assert_null(record_encode(&codec, (Bytes){(const uint8_t *)"key", 3},
                            (Bytes){(const uint8_t *)"value", 5}, &record));
  Bytes bytes = {(uint8_t *)record.ptr, record.len};
  assert_null(record_decode(&codec, bytes, &out, &split));
  assert_int_equal(split, 3);
  assert_string_equal(out.ptr, "keyvalue");
  for (size_t k = 0; k < record.len; k++) {
    record.ptr[k] ^= 0x10;
    Status st = record_decode(&codec, bytes, &out, &split);
    assert_int_equal(status_code(st), ST_DATA_LOSS);
    status_drop(st);
    record.ptr[k] ^= 0x10;
    st = record_decode(&codec, (Bytes){bytes.ptr, k}, &out, &split);
    assert_int_equal(status_code(st), ST_DATA_LOSS);
    status_drop(st);
  }
  strbuf_deinit(&record);
  strbuf_deinit(&out);
  record_codec_deinit(&codec);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_hits, setup, teardown),
      cmocka_unit_test_setup_teardown(test_eviction, setup, teardown),
      cmocka_unit_test_setup_teardown(test_corrupt_entry, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bad_files, setup, teardown),
      cmocka_unit_test_setup_teardown(test_torn_file, setup, teardown),
      cmocka_unit_test_setup_teardown(test_scribbled_file, setup, teardown),
      cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
      cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
      cmocka_unit_test_setup_teardown(test_list_and_why, setup, teardown),
      cmocka_unit_test(test_record),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
