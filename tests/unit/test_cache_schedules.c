/* Schedule records: the bytes of one, what a cache keeps and in which order it shows it, damage of
 * every kind, two processes on one file, a full disk. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/map.h"
#include "cache/schedule.h"
#include "proto/digest.h"
#include "tests/unit/cache_fixture.h"

enum { TARGET = 4000, OTHER = 4001, CLASS = 4002 };

static Schedule measured(uint64_t kernel, const char *opts, int64_t median) {
  return (Schedule){.kernel = hash(kernel),
                    .target = hash(TARGET),
                    .opts = opts,
                    .name = "r_8",
                    .compiler = "kiln test",
                    .host = "here",
                    .median_ns = median,
                    .mad_ns = 3,
                    .reps = 7,
                    .peer_ns = 2 * median,
                    .measured_at = 1000000 - median};
}

static Schedule winner(uint64_t kernel, const char *opts, int64_t median) {
  Schedule s = measured(kernel, opts, median);
  s.verified = true;
  return s;
}

static Schedule failed(uint64_t kernel, const char *opts, ScheduleCause cause, int64_t at) {
  Schedule s = measured(kernel, opts, 0);
  s.cause = cause;
  s.measured_at = at;
  return s;
}

static void put(Cache *c, Schedule s) { assert_null(cache_put_tuned(c, NULL, 0, &s, 1)); }

static CacheStats stats(Cache *c) {
  CacheStats s;
  assert_null(cache_stats(c, &s));
  return s;
}

/* What a question shows, as text: "opts:cause " each. */
static bool note(void *ctx, const Schedule *s) {
  StrBuf *out = ctx;
  strbuf_addf(out, "%s%s%s ", s->opts, s->cause ? ":" : "",
              s->cause ? schedule_cause_name[s->cause] : "");
  return true;
}

static void expect_tried(Cache *c, uint64_t kernel, const uint8_t *target, const char *expected) {
  StrBuf out = {0};
  strbuf_adds(&out, "");
  assert_null(cache_schedules(c, hash(kernel), target, note, &out));
  assert_string_equal(out.ptr, expected);
  strbuf_deinit(&out);
}

static void expect_best(Cache *c, uint64_t kernel, const char *expected) {
  StrBuf out = {0};
  strbuf_adds(&out, "");
  assert_null(cache_best_schedule(c, hash(kernel), hash(TARGET), note, &out));
  assert_string_equal(out.ptr, expected);
  strbuf_deinit(&out);
}

/* -- bytes --------------------------------------------------------------------------------------
 */

static void test_bytes(void **state) {
  (void)state;
  static const int64_t sizes[] = {512, 0, 7};
  Schedule s = winner(1, "VECTOR(1,16)", 12345), out;
  StrBuf bytes = {0};
  Arena arena;
  size_t used;
  s.class_hash = hash(CLASS);
  s.sizes = sizes;
  s.nsizes = 3;
  assert_null(schedule_encode(&s, &bytes));
  arena_init(&arena, 0);
  Bytes b = {(uint8_t *)bytes.ptr, bytes.len};
  assert_null(schedule_decode(b, &arena, &out, &used));
  assert_int_equal(used, bytes.len);
  assert_memory_equal(out.kernel, s.kernel, 32);
  assert_memory_equal(out.target, s.target, 32);
  assert_memory_equal(out.class_hash, s.class_hash, 32);
  assert_memory_equal(out.sizes, sizes, sizeof sizes);
  assert_string_equal(out.opts, s.opts);
  assert_string_equal(out.name, "r_8");
  assert_string_equal(out.compiler, "kiln test");
  assert_string_equal(out.host, "here");
  assert_int_equal(out.median_ns, 12345);
  assert_int_equal(out.peer_ns, 24690);
  assert_int_equal(out.reps, 7);
  assert_true(out.verified && !out.imported && schedule_serves(&out));
  for (size_t k = 0; k < bytes.len; k++) { /* each flipped bit and each cut is found */
    bytes.ptr[k] ^= 0x10;
    Status st = schedule_decode(b, &arena, &out, &used);
    assert_int_equal(status_code(st), ST_DATA_LOSS);
    status_drop(st);
    bytes.ptr[k] ^= 0x10;
    st = schedule_decode((Bytes){b.ptr, k}, &arena, &out, &used);
    assert_int_equal(status_code(st), ST_DATA_LOSS);
    status_drop(st);
  }
  arena_deinit(&arena);
  strbuf_deinit(&bytes);
}

static void expect_unfit(Schedule s, const char *words) {
  StrBuf bytes = {0};
  check_refused(schedule_encode(&s, &bytes), ST_INVALID_ARGUMENT, words);
  strbuf_deinit(&bytes);
}

static void test_unfit_fields(void **state) {
  (void)state;
  static char long_text[SCHEDULE_MAX_OPTS + 2];
  static int64_t sizes[SCHEDULE_MAX_SIZES + 1];
  memset(long_text, 'x', sizeof long_text - 1);
  Schedule s = measured(1, "A(0,1)", 5);
  s.opts = long_text;
  expect_unfit(s, "opts of more than 4096 bytes");
  s.opts = "A\nforged";
  expect_unfit(s, "control character at byte 1");
  s = measured(1, "A(0,1)", 5);
  s.sizes = sizes;
  s.nsizes = SCHEDULE_MAX_SIZES + 1;
  expect_unfit(s, "257 sizes");
  s.nsizes = 1;
  sizes[0] = -3;
  expect_unfit(s, "size 0 of a schedule is -3");
  s = measured(1, "A(0,1)", 0);
  expect_unfit(s, "without a median");
  s = failed(1, "A(0,1)", SC_CRASH, 1);
  s.verified = true;
  expect_unfit(s, "verified and failed");
  s = failed(1, "A(0,1)", SC__COUNT, 1);
  expect_unfit(s, "cause is 6");
  s = measured(1, "A(0,1)", 5);
  s.mad_ns = -1;
  expect_unfit(s, "negative time");
}

/* -- what is kept and shown ---------------------------------------------------------------------
 */

static void test_order(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  put(c, measured(1, "slow", 300));
  put(c, failed(1, "old", SC_TIMEOUT, 1));
  put(c, failed(1, "new", SC_WRONG_RESULT, 2));
  put(c, measured(1, "fast", 100));
  expect_best(c, 1, ""); /* nothing is verified */
  put(c, winner(1, "won", 200));
  Schedule other = winner(1, "elsewhere", 1);
  other.target = hash(OTHER);
  put(c, other);
  put(c, winner(2, "another", 1));
  expect_tried(c, 1, hash(TARGET), "won fast slow new:wrong_result old:timeout ");
  expect_tried(c, 1, NULL, "elsewhere won fast slow new:wrong_result old:timeout ");
  expect_best(c, 1, "won ");
  expect_best(c, 3, "");
  cache_close(c);
  c = opened(f->path, 0); /* and after a restart */
  expect_tried(c, 1, hash(TARGET), "won fast slow new:wrong_result old:timeout ");
  assert_int_equal(stats(c).schedules, 7);
  /* timed again: still verified; then it failed: served no more */
  put(c, measured(1, "won", 250));
  expect_best(c, 1, "won ");
  Schedule later = winner(1, "later", 260); /* it has beaten the other on a slower day */
  later.measured_at = 2000000;
  put(c, later);
  expect_best(c, 1, "later ");
  Schedule again = measured(1, "won", 10); /* its time was taken again, it has not won again */
  again.measured_at = 3000000;
  put(c, again);
  expect_best(c, 1, "later ");
  put(c, failed(1, "later", SC_WRONG_RESULT, 4000000));
  expect_best(c, 1, "won ");
  put(c, failed(1, "won", SC_CRASH, 9));
  expect_best(c, 1, "");
  assert_int_equal(stats(c).schedules, 8);
  cache_close(c);
}

static void test_imports(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  Schedule s = winner(1, "theirs", 10);
  s.imported = true;
  put(c, s); /* says that it is verified: not by us */
  expect_best(c, 1, "");
  expect_tried(c, 1, hash(TARGET), "theirs ");
  put(c, winner(1, "ours", 20));
  s.opts = "ours";
  s.median_ns = 1;
  put(c, s); /* does not replace what was measured here */
  expect_best(c, 1, "ours ");
  put(c, winner(1, "theirs", 15)); /* verified here */
  expect_best(c, 1, "theirs ");
  cache_close(c);
}

static void test_bounds(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  enum { N = 300 };
  Schedule all[2 * N];
  static char opts[2 * N][16];
  for (int k = 0; k < 2 * N; k++) {
    snprintf(opts[k], sizeof opts[k], "O%d", k);
    all[k] = k < N ? measured(1, opts[k], 1000 - k) : failed(1, opts[k], SC_OOM, k);
  }
  all[0].verified = true; /* the slowest, and the only one that serves */
  assert_null(cache_put_tuned(c, NULL, 0, all, 2 * N));
  CacheStats s = stats(c);
  assert_int_equal(s.schedules, SCHEDULE_KEEP_BEST + SCHEDULE_KEEP_FAILED);
  assert_true(s.schedule_bytes == s.bytes && s.bytes > 256 * 200);
  expect_best(c, 1, "O0 ");
  StrBuf out = {0};
  assert_null(cache_schedules(c, hash(1), hash(TARGET), note, &out));
  assert_non_null(strstr(out.ptr, "O0 O299 O298 ")); /* the fastest are kept */
  assert_null(strstr(out.ptr, " O1 "));
  assert_non_null(strstr(out.ptr, " O599:oom O598:oom "));
  assert_null(strstr(out.ptr, "O300:oom"));
  strbuf_deinit(&out);
  cache_close(c);
}

/* A quarter of the limit is theirs; what serves goes last, and binaries keep the rest. */
static void test_size_limit(void **state) {
  const Fixture *f = *state;
  uint64_t max = 400000;
  Cache *c = opened(f->path, max);
  uint8_t value[20000];
  for (size_t k = 0; k < sizeof value; k++) value[k] = (uint8_t)hash_u64(k);
  put(c, winner(0, "keep", 5));
  for (uint64_t k = 1; k < 600; k++) {
    CacheRecord r = {.kind = CACHE_KERNEL,
                     .key = {hash(k), hash(TARGET), {hash(k), 32}},
                     .value = {value, sizeof value}};
    Schedule s = measured(k, "x", (int64_t)k);
    if (k % 10 == 0)
      assert_null(cache_put_tuned(c, &r, 1, &s, 1));
    else
      put(c, s);
    CacheStats now = stats(c);
    assert_true(now.bytes <= max && now.schedule_bytes <= max / 4);
  }
  assert_true(stats(c).schedule_bytes > max / 8 && stats(c).kernels > 10);
  expect_best(c, 0, "keep ");
  cache_close(c);
}

static Schedule of_class(uint64_t kernel, const int64_t *sizes, size_t n, const char *opts) {
  Schedule s = winner(kernel, opts, 10);
  s.class_hash = hash(CLASS);
  s.sizes = sizes;
  s.nsizes = n;
  return s;
}

static void test_nearest(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  static const int64_t a[] = {64, 64}, b[] = {128, 64}, d[] = {4096, 64}, e[] = {64, 64, 64};
  static const int64_t mine[] = {256, 64};
  put(c, of_class(1, a, 2, "two"));
  put(c, of_class(2, b, 2, "one"));
  put(c, of_class(3, d, 2, "four"));
  put(c, of_class(4, e, 3, "no"));
  Schedule slower = of_class(2, b, 2, "slower");
  slower.median_ns = 20;
  slower.measured_at--;
  put(c, slower);
  Schedule far = of_class(5, mine, 2, "equal-elsewhere");
  far.target = hash(OTHER);
  put(c, far);
  Schedule self = of_class(9, mine, 2, "self-elsewhere");
  self.target = hash(OTHER);
  put(c, self);
  put(c, of_class(9, mine, 2, "self")); /* evidence, no hint */
  ScheduleNear near = {.kernel = hash(9),
                       .target = hash(TARGET),
                       .class_hash = hash(CLASS),
                       .sizes = mine,
                       .nsizes = 2,
                       .limit = 10};
  StrBuf out = {0};
  assert_null(cache_near_schedules(c, &near, note, &out));
  assert_string_equal(out.ptr, "self-elsewhere one two four equal-elsewhere ");
  out.len = 0;
  near.limit = 2;
  assert_null(cache_near_schedules(c, &near, note, &out));
  assert_string_equal(out.ptr, "self-elsewhere one ");
  out.len = 0;
  near.class_hash = NULL;
  assert_null(cache_near_schedules(c, &near, note, &out));
  assert_string_equal(out.ptr, "self-elsewhere ");
  strbuf_deinit(&out);
  assert_true(schedule_distance(a, 2, d, 2) == 6);
  assert_true(isinf(schedule_distance(a, 2, e, 3)));
  cache_close(c);
}

/* -- damage -------------------------------------------------------------------------------------
 */

static void test_corrupt(void **state) {
  const Fixture *f = *state;
  static const char *const harm[] = {
      "UPDATE schedules SET record=substr(record, 1, 90)||x'ff'||substr(record, 92) WHERE opts='a'",
      "UPDATE schedules SET record=x'' WHERE opts='a'",
      "UPDATE schedules SET verified=1 WHERE opts='a'", /* the record does not say so */
      "UPDATE schedules SET cause=0, median=1 WHERE opts='a'",
      "UPDATE schedules SET record=(SELECT record FROM schedules WHERE opts='b') WHERE opts='a'",
      "UPDATE schedules SET record=record||x'00' WHERE opts='a'"};
  for (size_t k = 0; k < sizeof harm / sizeof *harm; k++) {
    remove(f->path);
    Cache *c = opened(f->path, 0);
    put(c, k == 3 ? failed(1, "a", SC_CRASH, 1) : measured(1, "a", 5));
    put(c, winner(1, "b", 9));
    cache_close(c);
    sql(f->path, harm[k]);
    c = opened(f->path, 0);
    expect_tried(c, 1, hash(TARGET), "b ");
    expect_best(c, 1, "b ");
    assert_int_equal(stats(c).corrupt, 1);
    assert_int_equal(stats(c).schedules, 1);
    cache_close(c);
  }
}

/* A record of a newer version, sealed as it should be: ignored, and left for whom it is meant. */
static void test_future_version(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  StrBuf bytes = {0};
  Schedule s = winner(1, "b", 9);
  put(c, s);
  cache_close(c);
  assert_null(schedule_encode(&s, &bytes));
  bytes.ptr[4] = 3;
  Digest *d = digest_create();
  digest_add(d, bytes.ptr, 16);
  digest_add(d, bytes.ptr + 48, bytes.len - 48);
  digest_finish(d, (uint8_t *)bytes.ptr + 16);
  sqlite3 *db;
  sqlite3_stmt *q;
  assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
  assert_int_equal(sqlite3_prepare_v2(db, "UPDATE schedules SET record=?1", -1, &q, NULL), 0);
  sqlite3_bind_blob(q, 1, bytes.ptr, (int)bytes.len, SQLITE_STATIC);
  assert_int_equal(sqlite3_step(q), SQLITE_DONE);
  sqlite3_finalize(q);
  sqlite3_close(db);
  strbuf_deinit(&bytes);
  c = opened(f->path, 0);
  expect_best(c, 1, "");
  expect_tried(c, 1, NULL, "");
  assert_int_equal(stats(c).corrupt, 0);
  assert_int_equal(stats(c).schedules, 1);
  cache_close(c);
}

static void test_full_disk(void **state) {
  const Fixture *f = *state;
  struct rlimit old, small;
  enum { N = 250 };
  Schedule many[N];
  Cache *c = opened(f->path, 0);
  put(c, winner(1, "b", 9));
  CacheStats before = stats(c);
  static char opts[N][SCHEDULE_MAX_OPTS];
  for (int k = 0; k < N; k++) {
    memset(opts[k], 'a' + k % 20, sizeof opts[k] - 1);
    many[k] = measured((uint64_t)k + 2, opts[k], 5);
  }
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  small = old;
  small.rlim_cur = 300000;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status st = cache_put_tuned(c, NULL, 0, many, N);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
  assert_non_null(st);
  status_drop(st);
  assert_int_equal(stats(c).bytes, before.bytes); /* all or none */
  assert_int_equal(stats(c).schedules, 1);
  assert_int_equal(stats(c).write_errors, 1);
  expect_best(c, 1, "b ");
  assert_null(cache_put_tuned(c, NULL, 0, many, N));
  assert_int_equal(stats(c).schedules, N + 1);
  cache_close(c);
}

/* A writer that is killed in the middle: what was committed is there, nothing is torn. */
static void test_killed_writer(void **state) {
  const Fixture *f = *state;
  cache_close(opened(f->path, 0));
  int pipes[2];
  assert_int_equal(pipe(pipes), 0);
  pid_t child = fork();
  if (!child) {
    Cache *c = opened(f->path, 0);
    for (int k = 0;; k++) {
      char opts[16];
      snprintf(opts, sizeof opts, "O%d", k % 50);
      put(c, winner((uint64_t)k % 50, opts, 5 + k));
      if (k == 20 && write(pipes[1], "", 1) != 1) _exit(1);
    }
  }
  char byte;
  assert_int_equal(read(pipes[0], &byte, 1), 1);
  usleep(20000);
  kill(child, SIGKILL);
  assert_int_equal(waitpid(child, NULL, 0), child);
  close(pipes[0]);
  close(pipes[1]);
  Cache *c = opened(f->path, 0);
  CacheStats s = stats(c);
  assert_true(s.schedules >= 20 && s.schedules <= 50 && s.corrupt == 0);
  expect_best(c, 3, "O3 ");
  uint64_t shown = 0;
  StrBuf out = {0};
  for (uint64_t k = 0; k < 50; k++) {
    assert_null(cache_schedules(c, hash(k), NULL, note, &out));
  }
  for (size_t i = 0; i < out.len; i++) shown += out.ptr[i] == ' ';
  assert_int_equal(shown, s.schedules);
  strbuf_deinit(&out);
  cache_close(c);
}

/* Two caches on one file, as two servers have it: each sees what the other wrote, and both know how
 * large it is. */
static void test_two_on_one_file(void **state) {
  const Fixture *f = *state;
  Cache *a = opened(f->path, 0), *b = opened(f->path, 0);
  for (int k = 0; k < 40; k++) {
    char opts[16];
    snprintf(opts, sizeof opts, "O%d", k);
    put(k % 2 ? a : b, winner(1, opts, 100 - k));
    expect_best(k % 2 ? b : a, 1, strcat(opts, " "));
  }
  put(a, winner(2, "x", 1));
  put(b, winner(3, "x", 1));
  put(a, winner(4, "x", 1));
  assert_int_equal(stats(a).bytes, stats(b).bytes);
  assert_int_equal(stats(a).schedules, 43);
  cache_close(a);
  put(b, winner(5, "x", 1));
  cache_close(b);
  b = opened(f->path, 0);
  assert_int_equal(stats(b).schedules, 44);
  cache_close(b);
}

/* A file of the schema before: it gains the table and keeps what it has. */
static void test_migration(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f->path, 0);
  CacheRecord r = {
      .kind = CACHE_KERNEL, .key = {hash(1), hash(TARGET), {hash(1), 32}}, .value = {hash(2), 32}};
  StrBuf out = {0};
  bool found;
  assert_null(cache_put(c, &r, 1));
  cache_close(c);
  sql(f->path, "DROP TABLE schedules; DROP TABLE outbox; DROP TABLE said; PRAGMA user_version=1");
  c = opened(f->path, 0);
  assert_null(cache_find(c, CACHE_KERNEL, &r.key, &found, &out));
  assert_true(found);
  put(c, winner(1, "b", 9));
  expect_best(c, 1, "b ");
  strbuf_deinit(&out);
  cache_close(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_bytes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_unfit_fields, setup, teardown),
      cmocka_unit_test_setup_teardown(test_order, setup, teardown),
      cmocka_unit_test_setup_teardown(test_imports, setup, teardown),
      cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
      cmocka_unit_test_setup_teardown(test_size_limit, setup, teardown),
      cmocka_unit_test_setup_teardown(test_nearest, setup, teardown),
      cmocka_unit_test_setup_teardown(test_corrupt, setup, teardown),
      cmocka_unit_test_setup_teardown(test_future_version, setup, teardown),
      cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
      cmocka_unit_test_setup_teardown(test_killed_writer, setup, teardown),
      cmocka_unit_test_setup_teardown(test_two_on_one_file, setup, teardown),
      cmocka_unit_test_setup_teardown(test_migration, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
