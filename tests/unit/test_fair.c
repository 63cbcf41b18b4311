/* The fair queue alone, with time that the test makes up: shares follow weights whatever jobs cost
 * and however many wait, newcomers are neither punished nor paid for idleness, sessions share
 * inside a tenant, levels go first, stickiness is bounded, and estimates may be wrong. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "daemon/server/fair.h"

enum { US = 1000, MS = 1000 * US, JOBS = 4096 };

typedef struct Stream {
  FairSource from;
  int64_t cost, estimate;
  uint64_t kind;
  uint8_t level;
  int64_t served; /* time it has got */
  size_t waiting;
} Stream;

typedef struct Load {
  FairQueue q;
  FairJob jobs[JOBS];
  Stream *of[JOBS];
  size_t free[JOBS], nfree;
} Load;

static Load *load_create(void) {
  Load *l = calloc(1, sizeof *l);
  assert_non_null(l);
  for (size_t i = 0; i < JOBS; i++) l->free[l->nfree++] = i;
  return l;
}

static void load_free(Load *l) {
  for (FairJob *job; (job = fair_first(&l->q));) fair_remove(&l->q, job);
  fair_deinit(&l->q);
  free(l);
}

static void push(Load *l, Stream *s) {
  size_t i = l->free[--l->nfree];
  l->jobs[i] = (FairJob){.kind = s->kind, .estimate_ns = s->estimate, .level = s->level};
  l->of[i] = s;
  s->waiting++;
  assert_null(fair_push(&l->q, &l->jobs[i], &s->from));
}

/* One job from choice to end; whose it was. */
static Stream *step(Load *l, int64_t slack) {
  const FairJob *next = fair_next(&l->q, slack);
  FairJob *job = fair_take(&l->q, slack);
  assert_ptr_equal(job, next);
  if (!job) return NULL;
  size_t i = (size_t)(job - l->jobs);
  Stream *s = l->of[i];
  s->waiting--;
  s->served += s->cost;
  fair_done(&l->q, job, s->cost);
  l->free[l->nfree++] = i;
  return s;
}

/* Keeps `depth` jobs of each stream waiting for so much device time. */
static void serve(Load *l, Stream *s, size_t n, const size_t *depth, int64_t ns, int64_t slack) {
  for (int64_t t = 0; t < ns;) {
    for (size_t i = 0; i < n; i++)
      while (s[i].waiting < depth[i]) push(l, &s[i]);
    t += step(l, slack)->cost;
  }
}

static void assert_share(const Stream *s, int64_t total, double part) {
  double got = (double)s->served / (double)total;
  if (got < part - 0.01 || got > part + 0.01)
    fail_msg("tenant %d got %.3f, expected %.3f", (int)s->from.tenant, got, part);
}

static void test_equal_weights(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 1}, .cost = 10 * US, .estimate = 10 * US},
                {.from = {2, 2, 1}, .cost = 700 * US, .estimate = 10 * US},
                {.from = {3, 3, 1}, .cost = 90 * US, .estimate = 5 * MS}};
  const size_t depth[] = {1, 1, 500};
  serve(l, s, 3, depth, 1000 * MS, 0);
  for (int i = 0; i < 3; i++) assert_share(&s[i], 1000 * MS, 1.0 / 3);
  load_free(l);
}

static void test_weights(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 4}, .cost = 50 * US}, {.from = {2, 2, 1}, .cost = 500 * US}};
  const size_t depth[] = {2, 64};
  serve(l, s, 2, depth, 1000 * MS, 0);
  assert_share(&s[0], 1000 * MS, 0.8);
  load_free(l);
}

static void test_more_sessions_are_no_more(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 1}, .cost = 100 * US},
                {.from = {2, 2, 1}, .cost = 100 * US},
                {.from = {2, 3, 1}, .cost = 300 * US},
                {.from = {2, 4, 1}, .cost = 100 * US}};
  const size_t depth[] = {1, 100, 1, 1};
  serve(l, s, 4, depth, 1000 * MS, 0);
  assert_share(&s[0], 1000 * MS, 0.5);
  for (int i = 1; i < 4; i++) assert_share(&s[i], 1000 * MS, 1.0 / 6);
  load_free(l);
}

/* One that was away does not get back what it did not use, and does not wait behind the rest. */
static void test_newcomer(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 1}, .cost = 100 * US}, {.from = {2, 2, 1}, .cost = 100 * US}};
  const size_t alone[] = {64, 0}, both[] = {64, 4};
  serve(l, s, 2, alone, 500 * MS, 0);
  push(l, &s[1]);
  bool soon = step(l, 0) == &s[1] || step(l, 0) == &s[1];
  assert_true(soon);
  s[0].served = s[1].served = 0;
  serve(l, s, 2, both, 100 * MS, 0);
  assert_share(&s[0], 100 * MS, 0.5);
  load_free(l);
}

/* Coming and going does not shed what one has used. */
static void test_leaving_forgets_nothing(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 1}, .cost = 100 * US}, {.from = {2, 2, 1}, .cost = 5 * MS}};
  for (int64_t t = 0; t < 1000 * MS;) {
    while (s[0].waiting < 3) push(l, &s[0]);
    if (!s[1].waiting) push(l, &s[1]); /* idle before every job */
    t += step(l, 0)->cost;
  }
  assert_share(&s[1], 1000 * MS, 0.5);
  load_free(l);
}

static void test_levels(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 1}, .cost = MS, .level = FAIR_PATIENT},
                {.from = {1, 2, 1}, .cost = MS, .level = FAIR_NORMAL},
                {.from = {1, 1, 1}, .cost = MS, .level = FAIR_URGENT},
                {.from = {2, 3, 1}, .cost = MS, .level = FAIR_PATIENT}};
  for (int i = 0; i < 3; i++) push(l, &s[0]), push(l, &s[1]), push(l, &s[2]);
  int order[9];
  for (int i = 0; i < 9; i++) order[i] = (int)(step(l, 0) - s);
  for (int i = 0; i < 9; i++) assert_int_equal(order[i], 2 - i / 3);
  /* but only inside a tenant */
  s[3].served = s[2].served = 0;
  const size_t depth[] = {0, 0, 4, 4};
  serve(l, s, 4, depth, 100 * MS, 0);
  assert_share(&s[3], 100 * MS, 0.5);
  load_free(l);
}

static void test_order_in_a_session(void **state) {
  (void)state;
  FairQueue q = {.last = NULL};
  FairJob jobs[5] = {{.kind = 0}};
  const FairSource from = {1, 1, 1};
  for (int i = 0; i < 5; i++) assert_null(fair_push(&q, &jobs[i], &from));
  assert_int_equal(fair_waiting(&q, 1), 5);
  fair_remove(&q, &jobs[1]);
  fair_remove(&q, &jobs[4]);
  assert_ptr_equal(fair_take(&q, 0), &jobs[0]);
  assert_ptr_equal(fair_take(&q, 0), &jobs[2]);
  fair_done(&q, &jobs[2], 5);
  assert_ptr_equal(fair_take(&q, 0), &jobs[3]);
  assert_null(fair_take(&q, 0));
  fair_done(&q, &jobs[0], 5);
  fair_done(&q, &jobs[3], 5);
  assert_int_equal(q.len + q.running, 0);
  fair_deinit(&q);
}

static void test_what_is_first_and_how_many(void **state) {
  (void)state;
  FairQueue q = {.last = NULL};
  FairJob low = {.level = FAIR_PATIENT}, high = {.level = FAIR_URGENT}, other = {.level = 1};
  const FairSource one = {1, 1, 1}, two = {2, 2, 1};
  assert_null(fair_first(&q));
  assert_null(fair_push(&q, &low, &one));
  assert_null(fair_push(&q, &high, &one));
  assert_null(fair_push(&q, &other, &two));
  assert_int_equal(fair_waiting_at(&q, 1, FAIR_PATIENT), 1);
  assert_int_equal(fair_waiting_at(&q, 1, FAIR_NORMAL), 0);
  assert_int_equal(fair_waiting_at(&q, 2, FAIR_NORMAL), 1);
  assert_int_equal(fair_waiting_at(&q, 3, FAIR_NORMAL), 0);
  for (int i = 0; i < 3; i++) {
    FairJob *first = fair_first(&q);
    assert_ptr_equal(fair_take(&q, 0), first);
    assert_true(i || first != &low);
    fair_done(&q, first, 100 * US);
  }
  assert_int_equal(fair_waiting_at(&q, 1, FAIR_PATIENT), 0);
  fair_deinit(&q);
}

/* As if it had not been taken: shares are what they would have been. */
static void test_put_back(void **state) {
  (void)state;
  FairQueue q = {.last = NULL};
  FairJob a[2] = {{.estimate_ns = 10 * MS, .level = 1}, {.estimate_ns = 10 * MS, .level = 1}};
  FairJob b = {.estimate_ns = MS, .level = 1};
  const FairSource one = {1, 1, 1}, two = {2, 2, 1};
  for (int i = 0; i < 2; i++) assert_null(fair_push(&q, &a[i], &one));
  assert_ptr_equal(fair_take(&q, 0), &a[0]);
  assert_ptr_equal(fair_take(&q, 0), &a[1]);
  assert_null(fair_push(&q, &b, &two));
  assert_true(fair_before(&b, &a[1]));
  assert_false(fair_before(&a[1], &b));
  assert_false(fair_before(&a[0], &a[1]));
  assert_null(fair_put_back(&q, &a[1]));
  assert_int_equal(fair_waiting(&q, 1), 1);
  assert_ptr_equal(fair_take(&q, 0), &b);
  assert_true(fair_alone(&b));
  assert_false(fair_alone(&a[0])); /* one waits */
  fair_done(&q, &b, MS);
  assert_null(fair_put_back(&q, &a[0])); /* before the other one of its session */
  assert_ptr_equal(fair_take(&q, 0), &a[0]);
  assert_ptr_equal(fair_take(&q, 0), &a[1]);
  assert_false(fair_alone(&a[1])); /* one runs */
  fair_done(&q, &a[0], 10 * MS);
  assert_true(fair_alone(&a[1]));
  fair_done(&q, &a[1], 10 * MS);
  assert_int_equal(q.len + q.running, 0);
  fair_deinit(&q);
}

/* Stays with one kind for about the slack, and shares stay what they are. */
static void test_stickiness(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[] = {{.from = {1, 1, 1}, .cost = 100 * US, .estimate = 100 * US, .kind = 7},
                {.from = {2, 2, 1}, .cost = 100 * US, .estimate = 100 * US, .kind = 8}};
  int switches = 0, run = 0, longest = 0;
  const Stream *last = NULL;
  for (int k = 0; k < 10000; k++) {
    for (int i = 0; i < 2; i++)
      while (s[i].waiting < 16) push(l, &s[i]);
    const Stream *now = step(l, 2 * MS);
    run = now == last ? run + 1 : 1;
    switches += now != last;
    if (run > longest) longest = run;
    last = now;
  }
  assert_in_range(longest, 20, 45); /* ahead by 2 ms, after having been behind by 2 ms */
  assert_in_range(switches, 10000 / 45, 10000 / 20);
  assert_share(&s[0], 1000 * MS, 0.5);
  load_free(l);
}

/* Sessions that come once and never again do not pile up. */
static void test_sessions_are_dropped(void **state) {
  (void)state;
  FairQueue q = {.last = NULL};
  FairJob hold = {.kind = 0};
  const FairSource other = {2, 1, 1};
  assert_null(fair_push(&q, &hold, &other)); /* never idle */
  for (uint64_t i = 1; i < 100000; i++) {
    FairJob job = {.estimate_ns = 1000};
    const FairSource from = {1, i, 1};
    assert_null(fair_push(&q, &job, &from));
    FairJob *got = fair_take(&q, 0);
    bool held = got == &hold;
    fair_done(&q, got, 1000);
    if (!held) continue;
    assert_ptr_equal(fair_take(&q, 0), &job);
    fair_done(&q, &job, 1000);
    assert_null(fair_push(&q, &hold, &other));
  }
  MapSlot *slot;
  size_t i = 0;
  assert_true(map_next(&q.by_id, &i, &slot));
  assert_true(q.by_id.len == 2);
  if (hold.waiting) fair_remove(&q, &hold);
  fair_deinit(&q);
}

/* Random traffic: every job that goes in comes out once or is removed, and nothing leaks. */
static void test_random(void **state) {
  (void)state;
  Load *l = load_create();
  Stream s[24];
  unsigned seed = 1;
  for (size_t i = 0; i < 24; i++)
    s[i] = (Stream){.from = {1 + i % 5, 1 + i, (uint32_t)(1 + i % 5)},
                    .cost = (int64_t)(1 + i * 37 % 900) * US,
                    .estimate = (int64_t)(i * 7919 % 500) * US,
                    .kind = i % 3,
                    .level = (uint8_t)(i % FAIR_LEVELS)};
  for (int k = 0; k < 200000; k++) {
    seed = seed * 1103515245u + 12345u;
    unsigned what = seed >> 16;
    if (what % 2 && l->nfree) {
      push(l, &s[what / 2 % 24]);
    } else if (what % 10 == 0) {
      FairJob *job = fair_first(&l->q);
      if (!job) continue;
      l->of[job - l->jobs]->waiting--;
      fair_remove(&l->q, job);
      l->free[l->nfree++] = (size_t)(job - l->jobs);
    } else if (what % 10 == 2) {
      FairJob *job = fair_take(&l->q, 500 * US);
      if (job) assert_null(fair_put_back(&l->q, job));
    } else {
      step(l, 500 * US);
    }
  }
  size_t waiting = 0;
  for (size_t i = 0; i < 24; i++) waiting += s[i].waiting;
  assert_int_equal(waiting, l->q.len);
  while (step(l, 0)) waiting--;
  assert_int_equal(waiting, 0);
  assert_int_equal(l->nfree, JOBS);
  load_free(l);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_equal_weights),
      cmocka_unit_test(test_weights),
      cmocka_unit_test(test_more_sessions_are_no_more),
      cmocka_unit_test(test_newcomer),
      cmocka_unit_test(test_leaving_forgets_nothing),
      cmocka_unit_test(test_levels),
      cmocka_unit_test(test_order_in_a_session),
      cmocka_unit_test(test_what_is_first_and_how_many),
      cmocka_unit_test(test_put_back),
      cmocka_unit_test(test_stickiness),
      cmocka_unit_test(test_sessions_are_dropped),
      cmocka_unit_test(test_random),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
