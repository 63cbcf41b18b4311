/* The timing worker: which results count as the same, who wins a race, and what it costs when a
 * candidate is wrong, crashes, hangs or wants too much. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/channel/channel.h"
#include "daemon/worker/timing.h"
#include "daemon/worker/timing_worker.h"

enum { N = 4096 };

/* -- comparing ----------------------------------------------------------------------------------
 */

static char why[300];

static bool same(DType dtype, DType reduces, TimingPattern pattern, const void *a, const void *b,
                 uint64_t n) {
  TimingCompare c = {.dtype = dtype, .reduces = reduces, .terms = 100, .pattern = pattern};
  return timing_same(&c, a, b, n, why, sizeof why);
}

static void test_exact(void **state) {
  (void)state;
  float a[] = {1, NAN, INFINITY, 0.f}, b[] = {1, -NAN, INFINITY, -0.f};
  assert_true(same(DT_F32, DT_VOID, TP_RANDOM, a, b, 4));
  b[0] = nextafterf(1, 2);
  assert_false(same(DT_F32, DT_VOID, TP_RANDOM, a, b, 4));
  assert_non_null(strstr(why, "element 0"));
  b[0] = 1;
  b[1] = 3;
  assert_false(same(DT_F32, DT_VOID, TP_SPECIALS, a, b, 4));
  b[1] = NAN;
  b[2] = -INFINITY;
  assert_false(same(DT_F32, DT_VOID, TP_SPECIALS, a, b, 4));
  int32_t i[] = {1, 2}, j[] = {1, 3};
  assert_false(same(DT_I32, DT_VOID, TP_RANDOM, i, j, 2));
}

static void test_reordered(void **state) {
  (void)state;
  float a[] = {1, 2, 3, 4}, b[] = {1.00001f, 2, 3, 4};
  assert_true(same(DT_F32, DT_F32, TP_RANDOM, a, b, 4));
  b[0] = 1.01f;
  assert_false(same(DT_F32, DT_F32, TP_RANDOM, a, b, 4));
  /* a result near zero, of terms that are not: relative to the others */
  a[0] = 1e-9f, b[0] = 2e-6f;
  assert_true(same(DT_F32, DT_F32, TP_RANDOM, a, b, 4));
  /* one NaN more or less is never rounding */
  b[0] = NAN;
  assert_false(same(DT_F32, DT_F32, TP_RANDOM, a, b, 4));
  /* beside a large value that was added to all, small ones say little */
  float c[] = {1e25f, 1}, d[] = {1e25f, 2};
  assert_true(same(DT_F32, DT_F32, TP_SPECIALS, c, d, 2));
  assert_false(same(DT_F32, DT_F32, TP_RANDOM, (float[]){1, 1}, (float[]){1, 2}, 2));
  /* the largest number may round to infinity */
  float e[] = {0x1.fffffep127f}, f[] = {INFINITY}, g[] = {-INFINITY}, h[] = {1e30f};
  assert_true(same(DT_F32, DT_F32, TP_SPECIALS, e, f, 1));
  assert_false(same(DT_F32, DT_F32, TP_SPECIALS, e, g, 1));
  assert_false(same(DT_F32, DT_F32, TP_SPECIALS, h, f, 1));
}

/* Wherever in a large result the difference is, in every size of element. */
static void test_large(void **state) {
  (void)state;
  enum { LARGE = 200001 };
  static const DType types[] = {DT_F16, DT_BF16, DT_F32, DT_F64, DT_F8E4M3FN};
  static uint8_t a[8 * LARGE], b[8 * LARGE];
  for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
    DType d = types[t];
    size_t size = dtype_info[d].bytes;
    timing_fill(d, TP_RANDOM, t, a, LARGE);
    memcpy(b, a, sizeof b);
    assert_true(same(d, DT_F32, TP_RANDOM, a, b, LARGE));
    for (size_t i = 7; i < LARGE; i += 49998) {
      scalar_store(d, (Scalar){.f = 16}, b + i * size);
      assert_false(same(d, DT_F32, TP_RANDOM, a, b, LARGE));
      memcpy(b + i * size, a + i * size, size);
    }
    scalar_store(d, (Scalar){.f = 16}, b + (LARGE - 1) * size);
    assert_false(same(d, DT_F32, TP_RANDOM, a, b, LARGE));
    assert_true(same(d, DT_F32, TP_RANDOM, a, b, LARGE - 1));
  }
}

/* What is rounded after a sum may tip over, here and there. */
static void test_tipping(void **state) {
  (void)state;
  int32_t a[1024] = {0}, b[1024] = {0};
  b[3] = 1;
  assert_true(same(DT_I32, DT_F32, TP_RANDOM, a, b, 1024));
  assert_false(same(DT_I32, DT_VOID, TP_RANDOM, a, b, 1024));
  b[3] = 2;
  assert_false(same(DT_I32, DT_F32, TP_RANDOM, a, b, 1024));
  for (int i = 0; i < 100; i++) b[i] = 1;
  assert_false(same(DT_I32, DT_F32, TP_RANDOM, a, b, 1024));
}

static void test_data(void **state) {
  (void)state;
  static float f[100000], again[100000];
  int nans = 0, infinities = 0;
  timing_fill(DT_F32, TP_SPECIALS, 1, f, 100000);
  timing_fill(DT_F32, TP_SPECIALS, 1, again, 100000);
  assert_memory_equal(f, again, sizeof f);
  for (int i = 0; i < 100000; i++) nans += !!isnan(f[i]), infinities += !!isinf(f[i]);
  assert_in_range(nans, 1, 100);
  assert_in_range(infinities, 1, 100);
  timing_fill(DT_F32, TP_RANDOM, 2, f, 100000);
  for (int i = 0; i < 100000; i++) assert_true(f[i] >= -1 && f[i] <= 1);
  timing_fill(DT_F32, TP_FLAT, 2, f, 99999);
  for (int i = 0; i < 99999; i++) assert_true(f[i] == (i < 50000 ? .5f : 0));
  int8_t edges[5000];
  bool least = false, greatest = false;
  timing_fill(DT_I8, TP_SPECIALS, 3, edges, sizeof edges);
  for (size_t i = 0; i < sizeof edges; i++) least |= edges[i] == -128, greatest |= edges[i] == 127;
  assert_true(least && greatest);
  uint8_t bools[1000];
  timing_fill(DT_BOOL, TP_SPECIALS, 3, bools, sizeof bools);
  for (size_t i = 0; i < sizeof bools; i++) assert_true(bools[i] <= 1);
  uint8_t nibbles[1000];
  timing_fill(DT_U4, TP_SPECIALS, 3, nibbles, sizeof nibbles);
  for (size_t i = 0; i < sizeof nibbles; i++) assert_true(nibbles[i] <= 15);
}

/* Sums of products of numbers stay numbers, so that every order of them gives about the same. */
static void test_products_are_numbers(void **state) {
  (void)state;
  static const DType dtypes[] = {DT_F64, DT_F32, DT_F16, DT_BF16};
  static uint64_t data[20000];
  for (size_t k = 0; k < sizeof dtypes / sizeof *dtypes; k++) {
    DType d = dtypes[k];
    double most = 0;
    timing_fill(d, TP_SPECIALS, 5, data, 20000);
    for (size_t i = 0; i < 20000; i++) {
      double x = fabs(scalar_load(d, (char *)data + i * dtype_info[d].bytes).f);
      if (isfinite(x) && x > most) most = x;
    }
    uint64_t bits = 0;
    scalar_store(d, (Scalar){.f = 4 * most * most}, &bits);
    assert_true(most > 50 && isfinite(scalar_load(d, &bits).f));
  }
}

/* -- a job --------------------------------------------------------------------------------------
 */

static char object[1 << 16];
static size_t object_len;

typedef struct TestJob {
  Kiln__V1__TimingJob m;
  Kiln__V1__KernelFacts facts;
  Kiln__V1__KernelArg args[3], *arg_list[3];
  Kiln__V1__KernelBinary binaries[8], *candidates[8];
  size_t n;
} TestJob;

static Kiln__V1__KernelBinary *binary(TestJob *j, const char *entry) {
  Kiln__V1__KernelBinary *b = &j->binaries[j->n++];
  kiln__v1__kernel_binary__init(b);
  b->object = (ProtobufCBinaryData){object_len, (uint8_t *)object};
  b->entry = (char *)(uintptr_t)entry;
  b->opts = b->entry;
  b->threads = 1;
  return b;
}

static void make_job(TestJob *j, const char *incumbent, const char *const *candidates, size_t n) {
  *j = (TestJob){.n = 0};
  kiln__v1__timing_job__init(&j->m);
  kiln__v1__kernel_facts__init(&j->facts);
  for (size_t i = 0; i < 3; i++) {
    kiln__v1__kernel_arg__init(&j->args[i]);
    j->args[i].dtype = DT_F32;
    j->args[i].elements = N;
    j->args[i].read = i > 0;
    j->arg_list[i] = &j->args[i];
  }
  j->facts.args = j->arg_list;
  j->facts.n_args = 3;
  j->m.facts = &j->facts;
  j->m.untuned = binary(j, "plain");
  j->m.incumbent = binary(j, incumbent);
  for (size_t i = 0; i < n; i++) j->candidates[i] = binary(j, candidates[i]);
  j->m.candidates = j->candidates;
  j->m.n_candidates = n;
}

static int steps;
static void on_progress(void *ctx, Kiln__V1__TimingProgress__What what, uint32_t candidate,
                        uint32_t limit_ms) {
  (void)ctx, (void)what, (void)candidate;
  assert_true(limit_ms > 0);
  steps++;
}

static Kiln__V1__TimingDone done;
static Arena arena;

static Status run(TestJob *j) {
  Timing t = {.progress = on_progress};
  Status st = device_cpu_create(1, &t.dev);
  assert_null(st);
  arena_deinit(&arena);
  arena_init(&arena, 0);
  kiln__v1__timing_done__init(&done);
  st = timing_job(&t, &j->m, &arena, &done);
  timing_deinit(&t);
  device_destroy(t.dev);
  return st;
}

static void test_race(void **state) {
  (void)state;
  TestJob j;
  make_job(&j, "slow", (const char *[]){"wrong", "plain", "nothing", "wrong_nan", "slow"}, 5);
  assert_null(run(&j));
  assert_true(steps > 5);
  assert_int_equal(done.n_candidates, 5);
  assert_int_equal(done.winner, 2);
  assert_true(done.candidates[1]->compared);
  assert_string_equal(done.candidates[1]->evidence->cause, "");
  assert_true(done.candidates[1]->evidence->median_ns < done.incumbent->evidence->median_ns);
  assert_true(done.candidates[1]->gain_ns > done.candidates[1]->noise_ns);
  assert_string_equal(done.candidates[0]->evidence->cause, "wrong_result");
  assert_non_null(strstr(done.candidates[0]->message, "element 4095"));
  /* "nothing" is the fastest and leaves the incumbent's result where it is: only a comparison on
   * fresh buffers finds it */
  assert_string_equal(done.candidates[2]->evidence->cause, "wrong_result");
  assert_false(done.candidates[4]->compared);
}

/* A device whose programs have to be assembled: it takes off the mark in front of them. */
static const char mark[] = "assembly";
static DeviceVtbl assembling;
static size_t assembled;

static Status take_off_mark(Device *d, const Bytes *images, size_t n, StrBuf *code) {
  (void)d;
  for (size_t i = 0; i < n; i++) {
    if (images[i].len <= sizeof mark || memcmp(images[i].ptr, mark, sizeof mark)) continue;
    strbuf_add(&code[i], images[i].ptr + sizeof mark, images[i].len - sizeof mark);
    assembled++;
  }
  return NULL;
}

/* What runs is assembled once, however many jobs need it, and the winner's code goes with it. */
static void test_assembled(void **state) {
  (void)state;
  static char marked[sizeof mark + sizeof object + 1];
  TestJob j;
  Timing t = {.progress = on_progress};
  Device *cpu;
  assert_null(device_cpu_create(1, &cpu));
  assert_null(device_check_create(cpu, &t.dev));
  assembling = *t.dev->v;
  assembling.assemble = take_off_mark;
  t.dev->v = &assembling;
  memcpy(marked, mark, sizeof mark);
  memcpy(marked + sizeof mark, object, object_len);
  make_job(&j, "slow", (const char *[]){"plain", "slow"}, 2);
  for (size_t i = 0; i < j.n; i++)
    j.binaries[i].object = (ProtobufCBinaryData){sizeof mark + object_len, (uint8_t *)marked};
  assembled = 0;
  for (int round = 0; round < 2; round++) {
    arena_deinit(&arena);
    arena_init(&arena, 0);
    kiln__v1__timing_done__init(&done);
    assert_null(timing_job(&t, &j.m, &arena, &done));
    assert_int_equal(done.winner, 1);
    assert_int_equal(done.winner_code.len, object_len);
    assert_memory_equal(done.winner_code.data, object, object_len);
    assert_int_equal(done.n_phase_ns, 5);
    assert_int_equal(assembled, 4); /* all of the first job have one image */
  }
  marked[sizeof mark + object_len] = 1; /* another program, of the same code */
  for (size_t i = 0; i < j.n; i++) j.binaries[i].object.len++;
  assert_null(timing_job(&t, &j.m, &arena, &done));
  assert_int_equal(assembled, 8);
  timing_deinit(&t);
  device_destroy(t.dev);
}

/* Calls find weights and inputs elsewhere than the one before did, all else where it was. */
static void test_copies(void **state) {
  (void)state;
  TestJob j;
  Device *dev;
  TimingArgs a;
  make_job(&j, "plain", NULL, 0);
  j.args[2].far = true;
  assert_null(device_cpu_create(1, &dev));
  assert_null(timing_args_init(dev, &j.facts, NULL, 4 * N * sizeof(float), &a));
  assert_int_equal(a.ncopies, 4);
  assert_null(timing_args_fill(&a, TP_RANDOM, 1));
  for (size_t c = 1; c < 4; c++)
    for (size_t i = 0; i < 3; i++)
      assert_int_equal(a.args[3 * c + i].buffer == a.args[3 * (c - 1) + i].buffer, i < 2);
  float x[2];
  assert_null(device_read(dev, a.args[2].buffer, 0, &x[0], sizeof *x));
  assert_null(device_read(dev, a.args[11].buffer, 0, &x[1], sizeof *x));
  assert_true(x[0] == x[1]);
  timing_args_deinit(&a);
  j.args[2].far = false;
  assert_null(timing_args_init(dev, &j.facts, NULL, 4 * N * sizeof(float), &a));
  assert_int_equal(a.ncopies, 1);
  timing_args_deinit(&a);
  device_destroy(dev);
}

/* What wins at the size that most runs have must not lose at the others. */
static void test_elsewhere(void **state) {
  (void)state;
  int64_t here = 8, there = 512, beyond = 1 << 20;
  Kiln__V1__KernelVar var = KILN__V1__KERNEL_VAR__INIT, *var_list[] = {&var};
  Kiln__V1__TimingSizes sizes = KILN__V1__TIMING_SIZES__INIT, *list[] = {&sizes};
  var.min = 1, var.max = 4096, var.multiple = 1;
  sizes.vars = &there, sizes.n_vars = 1;
  TestJob j;
  for (int elsewhere = 0; elsewhere < 2; elsewhere++) {
    make_job(&j, "slow", (const char *[]){"small_only"}, 1);
    j.facts.vars = var_list, j.facts.n_vars = 1;
    j.m.vars = &here, j.m.n_vars = 1;
    j.m.elsewhere = list, j.m.n_elsewhere = (size_t)elsewhere;
    assert_null(run(&j));
    assert_int_equal(done.winner, !elsewhere);
  }
  make_job(&j, "slow", (const char *[]){"small_only", "plain"}, 2);
  j.facts.vars = var_list, j.facts.n_vars = 1;
  j.m.vars = &here, j.m.n_vars = 1;
  j.m.elsewhere = list, j.m.n_elsewhere = 1;
  assert_null(run(&j));
  assert_int_equal(done.winner, 2);
  sizes.vars = &beyond;
  Status st = run(&j);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
}

/* A candidate that is right on numbers only. */
static void test_only_nan_differs(void **state) {
  (void)state;
  TestJob j;
  make_job(&j, "slow", (const char *[]){"wrong_nan"}, 1);
  assert_null(run(&j));
  assert_int_equal(done.winner, 0);
  assert_string_equal(done.candidates[0]->evidence->cause, "wrong_result");
  assert_non_null(strstr(done.candidates[0]->message, "special"));
}

static void test_no_gain(void **state) {
  (void)state;
  TestJob j;
  make_job(&j, "plain", (const char *[]){"slow"}, 1);
  assert_null(run(&j));
  assert_int_equal(done.winner, 0);
  assert_string_equal(done.candidates[0]->evidence->cause, "");
  assert_int_equal(done.candidates[0]->evidence->reps, 1);
}

/* The incumbent is what is wrong: said so, and a candidate that is right can win. */
static void test_wrong_incumbent(void **state) {
  (void)state;
  TestJob j;
  make_job(&j, "wrong", (const char *[]){"plain"}, 1);
  assert_null(run(&j));
  assert_string_equal(done.incumbent->evidence->cause, "wrong_result");
}

static void test_unlinkable(void **state) {
  (void)state;
  TestJob j;
  make_job(&j, "slow", (const char *[]){"absent", "plain"}, 2);
  j.candidates[1]->scratch_bytes = UINT64_MAX / 4;
  assert_null(run(&j));
  assert_int_equal(done.winner, 0);
  assert_string_equal(done.candidates[0]->evidence->cause, "compile_error");
  assert_string_equal(done.candidates[1]->evidence->cause, "oom");
}

static void test_bad_jobs(void **state) {
  (void)state;
  TestJob j;
  Kiln__V1__SizeProgram size = KILN__V1__SIZE_PROGRAM__INIT;
  int64_t code[] = {1, 4};
  make_job(&j, "slow", NULL, 0);
  j.args[1].dtype = 200;
  Status st = run(&j);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  make_job(&j, "slow", NULL, 0);
  size.code = code;
  size.n_code = 2;
  j.args[1].size = &size; /* of a VAR that does not exist */
  st = run(&j);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  make_job(&j, "slow", NULL, 0);
  j.args[1].elements = UINT64_MAX / 8;
  st = run(&j);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
  make_job(&j, "slow", NULL, 0);
  int64_t vars[] = {1};
  j.m.vars = vars;
  j.m.n_vars = 1;
  st = run(&j);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
}

/* -- the process --------------------------------------------------------------------------------
 */

typedef struct Process {
  pid_t pid;
  Channel channel;
  int last; /* candidate that the last progress named */
} Process;

static void start(Process *p) {
  int pair[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  p->pid = fork();
  assert_true(p->pid >= 0);
  if (!p->pid) {
    close(pair[0]);
    signal(SIGSEGV, SIG_DFL); /* not cmocka's */
    _exit(timing_worker_main(pair[1], "cpu:0", (WorkerLimits){0}));
  }
  close(pair[1]);
  assert_null(channel_init(&p->channel, pair[0]));
  p->last = -1;
}

static void send_job(Process *p, TestJob *j) {
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  env.id = 5;
  env.body_case = KILN__V1__ENVELOPE__BODY_TIMING;
  env.timing = &j->m;
  Status st = channel_send(&p->channel, &env, NULL, 0);
  assert_null(st);
}

/* Reads until something else than progress comes; false when nothing came for so long, or the
 * worker is gone. */
static bool answer(Process *p, Message *m, int patience_ms) {
  for (;;) {
    struct pollfd fd = {.fd = p->channel.fd, .events = POLLIN};
    if (poll(&fd, 1, patience_ms) <= 0) return false;
    Status st = channel_recv(&p->channel, m);
    status_drop(st);
    if (st) return false;
    assert_int_equal(m->env->id, 5);
    if (m->env->body_case != KILN__V1__ENVELOPE__BODY_TIMING_PROGRESS) return true;
    const Kiln__V1__TimingProgress *progress = m->env->timing_progress;
    p->last = progress->what == KILN__V1__TIMING_PROGRESS__WHAT__CANDIDATE
                  ? (int)progress->candidate
                  : -1;
    message_close(m);
  }
}

static int end(Process *p) {
  int status = 0;
  channel_deinit(&p->channel);
  assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
  return status;
}

static void test_process(void **state) {
  (void)state;
  Process p;
  TestJob j;
  Message m;
  start(&p);
  make_job(&j, "slow", (const char *[]){"plain"}, 1);
  send_job(&p, &j);
  assert_true(answer(&p, &m, 60000));
  assert_int_equal(m.env->body_case, KILN__V1__ENVELOPE__BODY_TIMING_DONE);
  assert_int_equal(m.env->timing_done->winner, 1);
  message_close(&m);
  j.args[1].dtype = 200; /* a job that is refused leaves it alive */
  send_job(&p, &j);
  assert_true(answer(&p, &m, 60000));
  assert_int_equal(m.env->body_case, KILN__V1__ENVELOPE__BODY_ERROR);
  message_close(&m);
  int status = end(&p);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_crash(void **state) {
  (void)state;
  Process p;
  TestJob j;
  Message m;
  start(&p);
  make_job(&j, "slow", (const char *[]){"plain", "crash"}, 2);
  send_job(&p, &j);
  assert_false(answer(&p, &m, 60000));
  assert_int_equal(p.last, 1);
  int status = end(&p);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void test_hang(void **state) {
  (void)state;
  Process p;
  TestJob j;
  Message m;
  start(&p);
  make_job(&j, "slow", (const char *[]){"plain", "slow", "hang"}, 3);
  send_job(&p, &j);
  while (p.last < 2) answer(&p, &m, 100);
  assert_false(answer(&p, &m, 1000));
  kill(p.pid, SIGKILL);
  int status = end(&p);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void) {
  FILE *f = fopen(CANDIDATES, "rb");
  if (!f) return 1;
  object_len = fread(object, 1, sizeof object, f);
  fclose(f);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_exact),
      cmocka_unit_test(test_reordered),
      cmocka_unit_test(test_large),
      cmocka_unit_test(test_tipping),
      cmocka_unit_test(test_data),
      cmocka_unit_test(test_products_are_numbers),
      cmocka_unit_test(test_race),
      cmocka_unit_test(test_assembled),
      cmocka_unit_test(test_copies),
      cmocka_unit_test(test_elsewhere),
      cmocka_unit_test(test_only_nan_differs),
      cmocka_unit_test(test_no_gain),
      cmocka_unit_test(test_wrong_incumbent),
      cmocka_unit_test(test_unlinkable),
      cmocka_unit_test(test_bad_jobs),
      cmocka_unit_test(test_process),
      cmocka_unit_test(test_crash),
      cmocka_unit_test(test_hang),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  arena_deinit(&arena);
  return failed;
}
