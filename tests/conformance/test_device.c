/* One suite over every device that this machine has, each also behind the checking decorator.
 * `test_device cuda` (or opencl, cpu) runs the devices of that kind alone, under tools that slow
 * them down or cannot follow the others.
 *
 * Programs are made by the compiler from tiny linear programs. What a device cannot do (the null
 * device computes nothing) is skipped, and the skip is printed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/vec.h"
#include "compiler/codegen/codegen.h"
#include "compiler/codegen/llvm_emit.h"
#include "devices/device.h"
#include "tests/unit/status_check.h"

#if defined(__SANITIZE_THREAD__)
enum { SIGNALS_WAIT = 1 }; /* its runtime keeps them until the next system call */
#else
enum { SIGNALS_WAIT = 0 };
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static void expect_code(Status st, StatusCode code) {
  assert_non_null(st);
  assert_int_equal(status_code(st), code);
  status_drop(st);
}

static bool computes(const Device *d) { return strcmp(d->caps.kind, "null") != 0; }

/* -- programs
 * -------------------------------------------------------------------------------------- */

static Job job;
static UOpList list;

static UOp *op(Op o, DType d, unsigned lanes, Arg arg, UOp *const *src, size_t n) {
  UOp *u = uop_make_lanes(&job, o, d, lanes, arg, src, n);
  avec_push(&job.arena, &list, u);
  return u;
}
static UOp *load(UOp *buf, UOp *at) {
  return op(OP_LOAD, DT_VOID, 1, arg_i(1), (UOp *[]){buf, at}, 2);
}
static void store(UOp *buf, UOp *at, UOp *v) {
  op(OP_STORE, DT_VOID, 1, arg_i(1), (UOp *[]){buf, at, v}, 3);
}
static UOp *thread_index(int64_t threads) {
  return uop_make(&job, OP_THREAD, DT_INDEX, arg_i(threads), NULL, 0);
}
static UOp *param(int64_t slot, int64_t n) { return uop_param(&job, slot, DT_I64, &n, 1); }

static Target target_of(const Device *d) {
  return (Target){.kind = d->caps.kind,
                  .triple = d->caps.triple,
                  .cpu = d->caps.cpu,
                  .features = d->caps.features,
                  .vector_bytes = d->caps.vector_bytes};
}

static bool has_groups(const Device *d) { return d->caps.max_group > 0; }

/* Every other program is loaded from what the device makes of its image. */
static Program *load_linear(Device *d, Linear *l) {
  static unsigned loaded;
  StrBuf code = {0};
  Target t = target_of(d);
  CodegenOutput out = {0};
  Program *p = NULL;
  if (!has_groups(d)) l->scratch_bytes = llvm_scratch_bytes(l);
  if (computes(d)) check(codegen_emit(l, "entry", &t, &out));
  ProgramSpec spec = {.image = {(uint8_t *)out.object.ptr, out.object.len},
                      .entry = "entry",
                      .threads = l->threads,
                      .scratch_bytes = l->scratch_bytes,
                      .grid = {1, 1, 1}};
  memcpy(spec.block, l->block, sizeof spec.block);
  check(device_assemble(d, &spec.image, 1, &code));
  if (code.len && loaded++ % 2) spec.image = (Bytes){(uint8_t *)code.ptr, code.len};
  check(device_program_load(d, &spec, &p));
  Status st = device_program_check(d, p); /* a program that is not the best may still be run */
  if (status_code(st) == ST_INVALID_ARGUMENT) {
    status_drop(st);
    st = NULL;
  }
  check(st);
  strbuf_deinit(&code);
  codegen_deinit(&out);
  return p;
}

/* Compiles `list` for the device and loads it. */
static Program *load_list(Device *d, uint32_t nargs, uint32_t threads) {
  Linear l = {
      .list = list.at, .len = list.len, .nargs = nargs, .threads = threads, .block = {1, 1, 1}};
  return load_linear(d, &l);
}

/* a0[thread] = a0[thread] * scale + thread + 1: shows how often and in which order it ran. */
static Program *affine_program(Device *d, int64_t scale, uint32_t threads) {
  job_init(&job, 0);
  list = (UOpList){0};
  UOp *t = thread_index(threads), *buf = param(0, threads), *x = load(buf, t);
  UOp *term[2] = {x, uop_int(&job, DT_I64, scale)};
  UOp *y = op(OP_MUL, DT_VOID, 1, arg_none(), term, 2);
  UOp *k = op(OP_CAST, DT_I64, 1, arg_none(), &t, 1);
  y = op(OP_ADD, DT_VOID, 1, arg_none(), (UOp *[]){y, k}, 2);
  y = op(OP_ADD, DT_VOID, 1, arg_none(), (UOp *[]){y, uop_int(&job, DT_I64, 1)}, 2);
  store(buf, t, y);
  Program *p = load_list(d, 1, threads);
  job_deinit(&job);
  return p;
}

/* a0[thread] = a1[0] + ... + a1[n - 1], after a round trip through `n` elements of scratch. */
static Program *scratch_program(Device *d, int64_t n, uint32_t threads) {
  job_init(&job, 0);
  list = (UOpList){0};
  int64_t local[2] = {n, 0}, reg[2] = {1, 1};
  UOp *tmp = uop_make(&job, OP_BUFFER, DT_I64, arg_both(0, local, 2), NULL, 0);
  UOp *acc = uop_make(&job, OP_BUFFER, DT_I64, arg_both(1, reg, 2), NULL, 0);
  UOp *zero = uop_index(&job, 0);
  UOp *r = op(OP_RANGE, DT_INDEX, 1, arg_both(0, &(int64_t){AX_LOOP}, 1),
              (UOp *[]){uop_index(&job, n)}, 1);
  store(tmp, r, load(param(1, n), r));
  op(OP_END, DT_VOID, 1, arg_none(), (UOp *[]){list.at[list.len - 1], r}, 2);
  store(acc, zero, uop_int(&job, DT_I64, 0));
  UOp *s = op(OP_RANGE, DT_INDEX, 1, arg_both(1, &(int64_t){AX_LOOP}, 1),
              (UOp *[]){uop_index(&job, n)}, 1);
  UOp *inside = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, s}, 2);
  UOp *pair[2] = {load(inside, zero), load(tmp, s)};
  store(inside, zero, op(OP_ADD, DT_VOID, 1, arg_none(), pair, 2));
  UOp *done = op(OP_END, DT_VOID, 1, arg_none(), (UOp *[]){list.at[list.len - 1], s}, 2);
  UOp *after = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, done}, 2);
  store(param(0, threads), thread_index(threads), load(after, zero));
  Program *p = load_list(d, 2, threads);
  job_deinit(&job);
  return p;
}

/* a0[thread] = n0 - n1: variables behind the buffers, in their order. */
static Program *var_program(Device *d, uint32_t threads) {
  job_init(&job, 0);
  list = (UOpList){0};
  int64_t bounds[3] = {0, (int64_t)1 << 30, 1};
  UOp *n[2], *v[2];
  for (int k = 0; k < 2; k++) {
    n[k] = op(OP_VAR, DT_INDEX, 1, arg_both(k, bounds, 3), NULL, 0);
    v[k] = op(OP_CAST, DT_I64, 1, arg_none(), &n[k], 1);
  }
  store(param(0, threads), thread_index(threads), op(OP_SUB, DT_VOID, 1, arg_none(), v, 2));
  Linear l = {.list = list.at,
              .len = list.len,
              .nargs = 1,
              .nvars = 2,
              .threads = threads,
              .block = {1, 1, 1}};
  Program *p = load_linear(d, &l);
  job_deinit(&job);
  return p;
}

/* In every workgroup, a0 = a1 turned around, through the memory of the workgroup: thread (x, y, z)
 * leaves its element there and takes that of the last thread but so many. */
static Program *turn_program(Device *d, const uint32_t *block, int64_t groups) {
  job_init(&job, 0);
  list = (UOpList){0};
  int64_t threads = (int64_t)block[0] * block[1] * block[2], shared[2] = {threads, 2};
  UOp *at = uop_index(&job, 0), *ends[4], *index[4];
  for (int k = 0; k < 4; k++) {
    ends[k] = uop_index(&job, k < 3 ? block[k] : groups);
    index[k] = op(OP_SPECIAL, DT_INDEX, 1, arg_i(k < 3 ? 3 + k : 0), &ends[k], 1);
  }
  for (int k = 3; k-- > 0;) {
    at = op(OP_MUL, DT_VOID, 1, arg_none(), (UOp *[]){at, ends[k]}, 2);
    at = op(OP_ADD, DT_VOID, 1, arg_none(), (UOp *[]){at, index[k]}, 2);
  }
  UOp *buf = uop_make(&job, OP_BUFFER, DT_I64, arg_both(0, shared, 2), NULL, 0);
  UOp *base = op(OP_MUL, DT_VOID, 1, arg_none(), (UOp *[]){index[3], uop_index(&job, threads)}, 2);
  UOp *mine = op(OP_ADD, DT_VOID, 1, arg_none(), (UOp *[]){base, at}, 2);
  store(buf, at, load(param(1, threads * groups), mine));
  UOp *barrier = op(OP_BARRIER, DT_VOID, 1, arg_none(), &list.at[list.len - 1], 1);
  UOp *after = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){buf, barrier}, 2);
  UOp *last = uop_index(&job, threads - 1);
  UOp *other = op(OP_SUB, DT_VOID, 1, arg_none(), (UOp *[]){last, at}, 2);
  store(param(0, threads * groups), mine, load(after, other));
  Linear l = {.list = list.at, .len = list.len, .nargs = 2, .threads = 1};
  memcpy(l.block, block, sizeof l.block);
  Program *p = load_linear(d, &l);
  job_deinit(&job);
  return p;
}

static void launch(Device *d, const Launch *launches, size_t n) {
  Fence f;
  check(device_submit(d, launches, n, &f));
  check(device_wait(d, f, 10000000000));
}

/* -- the suite
 * ---------------------------------------------------------------------------------------- */

static void test_caps(void **state) {
  Device *d = *state;
  const DeviceCaps *c = &d->caps;
  assert_true(c->kind && *c->kind && c->description && *c->description);
  assert_non_null(c->triple);
  assert_non_null(c->cpu);
  assert_non_null(c->features);
  assert_true(c->threads >= 1 && c->vector_bytes >= 16 && c->vector_registers >= 8);
  assert_true(c->l1_bytes > 0 && c->l2_bytes >= c->l1_bytes && c->l3_bytes > 0);
  assert_true(c->memory_bytes > 0 && c->max_buffer_bytes > 0);
}

static void test_buffers(void **state) {
  Device *d = *state;
  static const size_t sizes[] = {0, 1, 100, 4096, 4097, 2 << 20, (2 << 20) + 1, 3 << 20};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  for (size_t k = 0; k < 2 * SIZES; k++) {
    size_t i = k / 2;
    Buffer *b;
    check(device_buffer_alloc(d, sizes[i], k % 2 ? BUFFER_PRIVATE : -1, &b));
    assert_ptr_equal(b->dev, d);
    assert_int_equal(b->size, sizes[i]);
    if (b->host) {
      assert_true((uintptr_t)b->host % 64 == 0);
      for (size_t at = 0; at < sizes[i]; at += 97) assert_int_equal(((uint8_t *)b->host)[at], 0);
      if (sizes[i]) memset(b->host, 1, sizes[i]);
    }
    device_buffer_free(d, b);
  }
  device_buffer_free(d, NULL);
  Buffer *huge = (Buffer *)1;
  expect_code(device_buffer_alloc(d, SIZE_MAX / 2, -1, &huge), ST_RESOURCE_EXHAUSTED);
  assert_null(huge);
  huge = (Buffer *)1;
  expect_code(device_buffer_alloc(d, SIZE_MAX, BUFFER_PRIVATE, &huge), ST_RESOURCE_EXHAUSTED);
  assert_null(huge);
}

/* Bytes in, between buffers, and out again; zero where nothing was written; bounds. */
static void test_copies(void **state) {
  Device *d = *state;
  enum { SIZE = 5000 };
  static uint8_t in[SIZE], out[SIZE];
  Buffer *a, *b;
  check(device_buffer_alloc(d, SIZE, -1, &a));
  check(device_buffer_alloc(d, SIZE, -1, &b));
  for (size_t i = 0; i < SIZE; i++) in[i] = (uint8_t)(i * 7 + 1);
  check(device_write(d, a, 100, in, 1000));
  check(device_copy(d, b, 3, a, 50, 2000));
  check(device_copy(d, b, 4000, b, 3, 500));
  check(device_read(d, b, 0, out, SIZE));
  for (size_t i = 0; i < SIZE; i++) {
    size_t k = i >= 4000 && i < 4500 ? i - 4000 + 50 : i + 47; /* in a */
    bool copied = (i >= 3 && i < 2003) || (i >= 4000 && i < 4500);
    assert_int_equal(out[i], copied && k >= 100 && k < 1100 ? in[k - 100] : 0);
  }
  memset(out, 9, SIZE);
  check(device_read(d, a, 1099, out, 2));
  assert_true(out[0] == in[999] && out[1] == 0 && out[2] == 9);
  check(device_write(d, a, SIZE, in, 0));
  expect_code(device_write(d, a, SIZE - 1, in, 2), ST_OUT_OF_RANGE);
  expect_code(device_read(d, a, UINT64_MAX, out, 2), ST_OUT_OF_RANGE);
  expect_code(device_copy(d, a, 0, b, SIZE - 3, 4), ST_OUT_OF_RANGE);
  device_buffer_free(d, a);
  device_buffer_free(d, b);
}

static int memory_file(size_t size, char fill) {
  char bytes[512];
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_true(fd >= 0 && size <= sizeof bytes);
  memset(bytes, fill, sizeof bytes);
  assert_int_equal(pwrite(fd, bytes, size, 0), (ssize_t)size);
  return fd;
}

static void test_import(void **state) {
  Device *d = *state;
  Buffer *b;
  if (!d->caps.shares_memory) {
    print_message("skipped: %s does not share memory\n", d->caps.kind);
    return;
  }
  int fd = memory_file(200, 7), watch = dup(fd);
  check(device_buffer_alloc(d, 150, fd, &b));
  assert_int_equal(b->size, 150);
  assert_int_equal(((char *)b->host)[149], 7);
  ((char *)b->host)[3] = 9; /* shared: seen through another descriptor */
  char x = 0;
  assert_int_equal(pread(watch, &x, 1, 3), 1);
  assert_int_equal(x, 9);
  device_buffer_free(d, b);
  assert_true(pread(fd, &x, 1, 3) < 0 && errno == EBADF); /* it was the buffer's to close */
  close(watch);
  /* Too small: refused, and the descriptor stays ours. */
  fd = memory_file(10, 1);
  expect_code(device_buffer_alloc(d, 11, fd, &b), ST_INVALID_ARGUMENT);
  assert_null(b);
  assert_int_equal(close(fd), 0);
  int pipes[2];
  assert_int_equal(pipe(pipes), 0);
  expect_code(device_buffer_alloc(d, 1, pipes[0], &b), ST_INVALID_ARGUMENT);
  close(pipes[0]);
  close(pipes[1]);
  /* Sealed against writing: readable all the same. */
  fd = memory_file(64, 5);
  assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK), 0);
  check(device_buffer_alloc(d, 64, fd, &b));
  assert_int_equal(((char *)b->host)[63], 5);
  device_buffer_free(d, b);
}

static void test_order(void **state) {
  Device *d = *state;
  enum { T = 5, ROUNDS = 12 };
  Program *twice = affine_program(d, 2, T), *thrice = affine_program(d, 3, T);
  Buffer *b;
  check(device_buffer_alloc(d, T * 8, -1, &b));
  Launch launches[2 * ROUNDS];
  LaunchArg arg = {b, 0};
  for (size_t i = 0; i < 2 * ROUNDS; i++) {
    launches[i] = (Launch){.program = i % 2 ? thrice : twice, .args = &arg, .nargs = 1};
  }
  launch(d, launches, 2 * ROUNDS);
  int64_t got[T] = {0};
  check(device_read(d, b, 0, got, sizeof got));
  for (int64_t t = 0; t < T && computes(d); t++) {
    int64_t want = 0;
    for (int i = 0; i < 2 * ROUNDS; i++) want = want * (i % 2 ? 3 : 2) + t + 1;
    assert_int_equal(got[t], want);
  }
  if (!computes(d)) print_message("skipped: %s computes nothing\n", d->caps.kind);
  device_buffer_free(d, b);
  device_program_free(d, twice);
  device_program_free(d, thrice);
}

static void test_threads(void **state) {
  Device *d = *state;
  if (!computes(d)) {
    print_message("skipped: %s computes nothing\n", d->caps.kind);
    return;
  }
  static const uint32_t counts[] = {1, 2, 3, 7, 64, 1000};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    Program *p = affine_program(d, 100, counts[i]);
    Buffer *b;
    check(device_buffer_alloc(d, counts[i] * 8, -1, &b));
    launch(d, &(Launch){.program = p, .args = &(LaunchArg){b, 0}, .nargs = 1}, 1);
    int64_t got[1000];
    check(device_read(d, b, 0, got, counts[i] * 8));
    for (int64_t t = 0; t < counts[i]; t++) {
      assert_int_equal(got[t], t + 1); /* once; twice would give 101 times that */
    }
    device_buffer_free(d, b);
    device_program_free(d, p);
  }
}

/* Many short rounds: where a lost wakeup or a piece run twice would show. */
static void test_many_launches(void **state) {
  Device *d = *state;
  enum { T = 4 };
  const int N = has_groups(d) ? 200 : 20000; /* no members there */
  Program *p = affine_program(d, 1, T);
  Buffer *b;
  check(device_buffer_alloc(d, T * 8, -1, &b));
  Launch one[50];
  LaunchArg arg = {b, 0};
  for (size_t i = 0; i < 50; i++) one[i] = (Launch){.program = p, .args = &arg, .nargs = 1};
  for (int i = 0; i < N / 50; i++) {
    launch(d, one, 50);
    if (i % 100 == 99) usleep(500); /* members fall asleep */
  }
  int64_t got[T] = {0};
  check(device_read(d, b, 0, got, sizeof got));
  for (int64_t t = 0; t < T && computes(d); t++) {
    assert_int_equal(got[t], (t + 1) * N);
  }
  device_buffer_free(d, b);
  device_program_free(d, p);
}

/* The same launches again and again, as a plan's are: with the same arguments, in other buffers,
 * with other values, after their program was replaced. */
static void test_again(void **state) {
  Device *d = *state;
  enum { T = 3, N = 4, ROUNDS = 12 };
  Program *p = var_program(d, T);
  Buffer *bufs[2];
  for (int k = 0; k < 2; k++) check(device_buffer_alloc(d, N * T * 8, -1, &bufs[k]));
  Launch launches[N];
  LaunchArg args[N];
  int64_t vars[N][2];
  for (int round = 0; round < ROUNDS; round++) {
    Buffer *to = bufs[round % 3 == 2];
    if (round == 7) {
      device_program_free(d, p);
      p = var_program(d, T);
    }
    for (int i = 0; i < N; i++) {
      args[i] = (LaunchArg){to, (uint64_t)i * T * 8};
      vars[i][0] = i == 1 ? round : 100 + i;
      vars[i][1] = round < 4 ? 1 : i;
      launches[i] =
          (Launch){.program = p, .args = &args[i], .nargs = 1, .nvars = 2, .vars = vars[i]};
    }
    launch(d, launches, round == 10 ? N - 1 : N);
    int64_t got[N * T] = {0};
    check(device_read(d, to, 0, got, sizeof got));
    for (int i = 0; i < (round == 10 ? N - 1 : N) && computes(d); i++)
      for (int t = 0; t < T; t++) assert_int_equal(got[i * T + t], vars[i][0] - vars[i][1]);
  }
  for (int k = 0; k < 2; k++) device_buffer_free(d, bufs[k]);
  device_program_free(d, p);
}

static void test_scratch(void **state) {
  Device *d = *state;
  if (!computes(d)) {
    print_message("skipped: %s computes nothing\n", d->caps.kind);
    return;
  }
  enum { T = 8 };
  static const int64_t sizes[] = {16, 100, 5000, 400000, 100};
  size_t n = has_groups(d) ? 2 : 5; /* where private memory is a handful of registers */
  for (size_t i = 0; i < n; i++) {
    Program *p = scratch_program(d, sizes[i], T);
    Buffer *out, *in;
    check(device_buffer_alloc(d, T * 8, -1, &out));
    check(device_buffer_alloc(d, (size_t)sizes[i] * 8, -1, &in));
    for (int64_t k = 0; k < sizes[i]; k++) check(device_write(d, in, (uint64_t)k * 8, &k, 8));
    launch(d, &(Launch){.program = p, .args = (LaunchArg[]){{out, 0}, {in, 0}}, .nargs = 2}, 1);
    int64_t got[T] = {0};
    check(device_read(d, out, 0, got, sizeof got));
    for (int t = 0; t < T; t++) {
      assert_int_equal(got[t], sizes[i] * (sizes[i] - 1) / 2);
    }
    device_buffer_free(d, out);
    device_buffer_free(d, in);
    device_program_free(d, p);
  }
}

static Device *interrupted;

static void on_alarm(int signal) {
  (void)signal;
  device_interrupt(interrupted, true);
}

/* A signal handler ends a launch that would take minutes; then the device does its work again. */
static void test_interrupt(void **state) {
  Device *d = interrupted = *state;
  if (SIGNALS_WAIT) {
    print_message("skipped: signals do not interrupt a kernel here\n");
    return;
  }
  enum { T = 50, N = 2000000, TIMES = 20 };
  Program *p = scratch_program(d, N, T);
  Buffer *out, *in;
  Fence fence;
  check(device_buffer_alloc(d, T * 8, -1, &out));
  check(device_buffer_alloc(d, N * 8, -1, &in));
  static Launch many[1000];
  const LaunchArg args[] = {{out, 0}, {in, 0}};
  for (int i = 0; i < 1000; i++) many[i] = (Launch){.program = p, .args = args, .nargs = 2};
  struct sigaction on = {.sa_handler = on_alarm, .sa_flags = SA_NODEFER | SA_RESTART}, old;
  sigaction(SIGALRM, &on, &old);
  for (int i = 0; i < TIMES; i++) {
    struct itimerval after = {.it_value = {.tv_usec = 500 + i * 997}};
    setitimer(ITIMER_REAL, &after, NULL);
    expect_code(device_submit(d, many, 1000, &fence), ST_CANCELLED);
    expect_code(device_submit(d, many, 1, &fence), ST_CANCELLED);
    device_interrupt(d, false);
  }
  sigaction(SIGALRM, &old, NULL);
  launch(d, many, 1);
  int64_t got[T];
  check(device_read(d, out, 0, got, sizeof got));
  for (int t = 0; t < T; t++) assert_int_equal(got[t], 0);
  device_buffer_free(d, out);
  device_buffer_free(d, in);
  device_program_free(d, p);
}

static void test_vars(void **state) {
  Device *d = *state;
  enum { T = 3 };
  if (!computes(d)) {
    print_message("skipped: %s computes nothing\n", d->caps.kind);
    return;
  }
  static const int64_t vars[][2] = {{7, 2}, {1000000007, 5}, {0, 1}};
  Program *p = var_program(d, T);
  Buffer *b;
  check(device_buffer_alloc(d, T * 8, -1, &b));
  for (size_t i = 0; i < 3; i++) {
    int64_t got[T];
    LaunchArg arg = {b, 0};
    launch(d, &(Launch){.program = p, .args = &arg, .nargs = 1, .nvars = 2, .vars = vars[i]}, 1);
    check(device_read(d, b, 0, got, sizeof got));
    for (int t = 0; t < T; t++) assert_int_equal(got[t], vars[i][0] - vars[i][1]);
  }
  device_buffer_free(d, b);
  device_program_free(d, p);
}

/* Arguments inside of buffers, at offsets that no device would choose. */
static void test_offsets(void **state) {
  Device *d = *state;
  enum { T = 4, N = 100 };
  Program *p = affine_program(d, 1, T);
  Buffer *b;
  int64_t got[N];
  check(device_buffer_alloc(d, sizeof got, -1, &b));
  for (uint64_t at = 0; at + T <= N; at += 9)
    launch(d, &(Launch){.program = p, .args = &(LaunchArg){b, at * 8}, .nargs = 1}, 1);
  check(device_read(d, b, 0, got, sizeof got));
  for (int64_t i = 0; i < N && computes(d); i++)
    assert_int_equal(got[i], i % 9 < T && i - i % 9 + T <= N ? i % 9 + 1 : 0);
  device_buffer_free(d, b);
  device_program_free(d, p);
}

static void test_workgroups(void **state) {
  Device *d = *state;
  if (!has_groups(d)) {
    print_message("skipped: %s has no workgroups\n", d->caps.kind);
    return;
  }
  static const uint32_t blocks[][3] = {{1, 1, 1}, {7, 1, 1}, {16, 4, 1}, {4, 3, 2}, {256, 1, 1}};
  assert_true(d->caps.max_group >= 256 && d->caps.local_bytes >= 4096 && d->caps.warp >= 1);
  for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
    enum { GROUPS = 9 };
    int64_t in[256 * GROUPS], out[256 * GROUPS];
    int64_t threads = (int64_t)blocks[i][0] * blocks[i][1] * blocks[i][2];
    size_t bytes = (size_t)threads * GROUPS * 8;
    Program *p = turn_program(d, blocks[i], GROUPS);
    Buffer *b[2];
    for (int64_t k = 0; k < threads * GROUPS; k++) in[k] = k * k + 3;
    for (int k = 0; k < 2; k++) check(device_buffer_alloc(d, bytes, -1, &b[k]));
    check(device_write(d, b[1], 0, in, bytes));
    LaunchArg args[2] = {{b[0], 0}, {b[1], 0}};
    uint32_t grid[3] = {GROUPS, 1, 1}, none[3] = {0, 1, 1};
    launch(d, &(Launch){.program = p, .args = args, .nargs = 2, .grid = none}, 1);
    launch(d, &(Launch){.program = p, .args = args, .nargs = 2, .grid = grid}, 1);
    check(device_read(d, b[0], 0, out, bytes));
    for (int64_t k = 0; k < threads * GROUPS; k++)
      assert_int_equal(out[k], in[k - k % threads + threads - 1 - k % threads]);
    for (int k = 0; k < 2; k++) device_buffer_free(d, b[k]);
    device_program_free(d, p);
  }
}

static void test_bad_images(void **state) {
  Device *d = *state;
  if (!computes(d)) {
    print_message("skipped: %s takes any image\n", d->caps.kind);
    return;
  }
  Program *p = affine_program(d, 1, 1), *bad = (Program *)1;
  uint8_t junk[4096] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  ProgramSpec spec = {.image = {junk, 0}, .entry = "entry", .threads = 1};
  expect_code(device_program_load(d, &spec, &bad), ST_INVALID_ARGUMENT);
  assert_null(bad);
  spec.image = (Bytes){
      (const uint8_t *)"not an object, but long enough to be one, if it only were one.....", 66};
  expect_code(device_program_load(d, &spec, &bad), ST_INVALID_ARGUMENT);
  StrBuf code[2] = {{0}};
  if (!strcmp(d->caps.kind, "cuda"))
    expect_code(device_assemble(d, (Bytes[]){spec.image, spec.image}, 2, code),
                ST_INVALID_ARGUMENT);
  for (int i = 0; i < 2; i++) strbuf_deinit(&code[i]);
  spec.image = (Bytes){junk, sizeof junk};
  expect_code(device_program_load(d, &spec, &bad), ST_INVALID_ARGUMENT);
  spec.scratch_bytes = UINT64_MAX / 2;
  expect_code(device_program_load(d, &spec, &bad), ST_RESOURCE_EXHAUSTED);
  device_program_free(d, p);
  device_program_free(d, NULL);
}

static void test_missing_entry(void **state) {
  Device *d = *state;
  if (!computes(d)) {
    print_message("skipped: %s takes any image\n", d->caps.kind);
    return;
  }
  Target t = target_of(d);
  CodegenOutput out = {0};
  Program *p;
  check(codegen_emit(&(Linear){.threads = 1, .block = {1, 1, 1}}, "one", &t, &out));
  ProgramSpec spec = {.image = {(uint8_t *)out.object.ptr, out.object.len},
                      .entry = "two",
                      .threads = 1,
                      .grid = {1, 1, 1},
                      .block = {1, 1, 1}};
  expect_code(device_program_load(d, &spec, &p), ST_INVALID_ARGUMENT);
  /* A truncated object. */
  spec.entry = "one";
  spec.image.len = out.object.len / 2;
  expect_code(device_program_load(d, &spec, &p), ST_INVALID_ARGUMENT);
  spec.image.len = out.object.len;
  check(device_program_load(d, &spec, &p)); /* and the same name twice at once */
  Program *again;
  check(device_program_load(d, &spec, &again));
  launch(d, (Launch[]){{.program = p}, {.program = again}}, 2);
  device_program_free(d, p);
  launch(d, &(Launch){.program = again}, 1);
  device_program_free(d, again);
  codegen_deinit(&out);
}

static void test_fences(void **state) {
  Device *d = *state;
  Fence first, second;
  check(device_submit(d, NULL, 0, &first));
  check(device_submit(d, NULL, 0, &second));
  assert_true(second > first);
  check(device_wait(d, first, 1000000000));
  check(device_wait(d, second, -1));
  expect_code(device_wait(d, second + 10, 0), ST_INVALID_ARGUMENT);
}

/* Load and unload often enough that a leak of code memory would end the process. */
static void test_reload(void **state) {
  Device *d = *state;
  int rounds = has_groups(d) ? 4 : 60; /* drivers compile slowly */
  for (int i = 0; i < rounds; i++) {
    Program *p[3];
    Buffer *b;
    for (int k = 0; k < 3; k++) p[k] = affine_program(d, k + 2, 1);
    check(device_buffer_alloc(d, 8, -1, &b));
    LaunchArg arg = {b, 0};
    Launch launches[3] = {
        {.args = &arg, .nargs = 1}, {.args = &arg, .nargs = 1}, {.args = &arg, .nargs = 1}};
    launches[0].program = p[2], launches[1].program = p[0], launches[2].program = p[1];
    launch(d, launches, 3);
    int64_t got = 0;
    check(device_read(d, b, 0, &got, sizeof got));
    if (computes(d)) assert_int_equal(got, (1 * 2 + 1) * 3 + 1);
    device_buffer_free(d, b);
    for (int k = 0; k < 3; k++) device_program_free(d, p[(k + i) % 3]);
  }
}

/* -- the decorator
 * ------------------------------------------------------------------------------------- */

static void test_check_arguments(void **state) {
  Device *d = *state;
  Program *p = affine_program(d, 1, 1);
  Buffer *b;
  Fence f;
  check(device_buffer_alloc(d, 8, -1, &b));
  Buffer foreign = *b;
  LaunchArg args[2] = {{b, 0}, {&foreign, 0}}, past = {b, 9};
  check(device_submit(d, &(Launch){.program = p, .args = args, .nargs = 1}, 1, &f));
  expect_code(device_submit(d, &(Launch){.program = p, .args = args, .nargs = 2}, 1, &f),
              ST_INVALID_ARGUMENT);
  expect_code(device_submit(d, &(Launch){.program = p, .args = &past, .nargs = 1}, 1, &f),
              ST_INVALID_ARGUMENT);
  Program *gone = p;
  device_program_free(d, p);
  expect_code(device_submit(d, &(Launch){.program = gone, .args = args, .nargs = 1}, 1, &f),
              ST_INVALID_ARGUMENT);
  device_buffer_free(d, b);
}

typedef void (*Misuse)(Device *d);

static void free_buffer_twice(Device *d) {
  Buffer *b;
  check(device_buffer_alloc(d, 8, -1, &b));
  device_buffer_free(d, b);
  device_buffer_free(d, b);
}
static void free_program_twice(Device *d) {
  Program *p = affine_program(d, 1, 1);
  device_program_free(d, p);
  device_program_free(d, p);
}
static void leak_buffer(Device *d) {
  Buffer *b;
  check(device_buffer_alloc(d, 8, -1, &b));
  device_destroy(d);
}
static void *other_thread(void *d) {
  Fence f;
  status_drop(device_submit(d, NULL, 0, &f));
  return NULL;
}
static void wrong_thread(Device *d) {
  pthread_t t;
  assert_int_equal(pthread_create(&t, NULL, other_thread, d), 0);
  pthread_join(t, NULL);
}

/* Each misuse must kill the process; children of a threaded process may do this much. */
static void test_check_bugs(void **state) {
  (void)state;
  static const Misuse misuses[] = {free_buffer_twice, free_program_twice, leak_buffer,
                                   wrong_thread};
  for (size_t i = 0; i < sizeof misuses / sizeof *misuses; i++) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
      Device *inner, *d;
      signal(SIGABRT, SIG_DFL);
      close(2); /* the log line is expected */
      if (device_null_create(&inner) || device_check_create(inner, &d)) _exit(1);
      misuses[i](d);
      _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  }
}

static void test_open(void **state) {
  (void)state;
  Device *d;
  check(device_open("null:0", &d));
  device_destroy(d);
  expect_code(device_open("null:1", &d), ST_UNAVAILABLE);
  expect_code(device_open("cpu:7", &d), ST_UNAVAILABLE);
  expect_code(device_open("opencl:200", &d), ST_UNAVAILABLE);
  expect_code(device_open("toaster:0", &d), ST_UNAVAILABLE);
  expect_code(device_open("", &d), ST_UNAVAILABLE);
  device_destroy(NULL);
}

/* -- which devices
 * --------------------------------------------------------------------------------------- */

static int open_null(void **state) { return device_null_create((Device **)state) ? -1 : 0; }
static int open_cpu(void **state) { return device_cpu_create(0, (Device **)state) ? -1 : 0; }
/* More members than cores: nobody may depend on spinning. */
static int open_cpu5(void **state) { return device_cpu_create(5, (Device **)state) ? -1 : 0; }
static int open_check_null(void **state) {
  Device *d;
  return device_null_create(&d) || device_check_create(d, (Device **)state) ? -1 : 0;
}
static int open_check_cpu(void **state) {
  Device *d;
  return device_cpu_create(0, &d) || device_check_create(d, (Device **)state) ? -1 : 0;
}
/* The first device of the machine that some driver offers. */
static int open_opencl(void **state) { return device_opencl_create(0, (Device **)state) ? -1 : 0; }
static int open_check_opencl(void **state) {
  Device *d;
  return device_opencl_create(0, &d) || device_check_create(d, (Device **)state) ? -1 : 0;
}
static int open_cuda(void **state) { return device_cuda_create(0, (Device **)state) ? -1 : 0; }
static int open_check_cuda(void **state) {
  Device *d;
  return device_cuda_create(0, &d) || device_check_create(d, (Device **)state) ? -1 : 0;
}
static int close_device(void **state) {
  device_destroy(*state);
  return 0;
}

static bool machine_has(const char *name) {
  Device *d;
  char text[300];
  Status st = device_open(name, &d);
  if (!st) device_destroy(d);
  status_text(st, text, sizeof text);
  if (st) printf("skipped: %s\n", text);
  bool has = !st;
  status_drop(st);
  return has;
}

int main(int argc, char **argv) {
#define ON(dev, name)                                                                              \
  { #name " on " #dev, name, open_##dev, close_device, NULL }
#define SUITE(dev)                                                                                 \
  ON(dev, test_caps), ON(dev, test_buffers), ON(dev, test_copies), ON(dev, test_import),           \
      ON(dev, test_order), ON(dev, test_threads), ON(dev, test_many_launches),                     \
      ON(dev, test_scratch), ON(dev, test_again), ON(dev, test_vars), ON(dev, test_offsets),       \
      ON(dev, test_workgroups), ON(dev, test_bad_images), ON(dev, test_missing_entry),             \
      ON(dev, test_fences), ON(dev, test_reload)
  const struct CMUnitTest tests[] = {
      SUITE(null),
      SUITE(check_null),
      SUITE(cpu),
      SUITE(cpu5),
      SUITE(check_cpu),
      ON(cpu, test_interrupt),
      ON(cpu5, test_interrupt),
      ON(check_cpu, test_interrupt),
      ON(check_cpu, test_check_arguments),
      ON(check_null, test_check_arguments),
      cmocka_unit_test(test_check_bugs),
      cmocka_unit_test(test_open),
  };
  const struct CMUnitTest on_opencl[] = {
      SUITE(opencl),
      SUITE(check_opencl),
      ON(check_opencl, test_check_arguments),
  };
  const struct CMUnitTest on_cuda[] = {
      SUITE(cuda),
      SUITE(check_cuda),
      ON(check_cuda, test_check_arguments),
  };
  const char *only = argc > 1 ? argv[1] : NULL;
  int failed = 0;
  if (!only || !strcmp(only, "cpu")) failed += cmocka_run_group_tests(tests, NULL, NULL);
  if (SANITIZED) {
    printf("skipped: drivers are not built with sanitizers\n");
    return failed;
  }
  if ((!only || !strcmp(only, "opencl")) && machine_has("opencl:0"))
    failed += cmocka_run_group_tests(on_opencl, NULL, NULL);
  if ((!only || !strcmp(only, "cuda")) && machine_has("cuda:0"))
    failed += cmocka_run_group_tests(on_cuda, NULL, NULL);
  return failed;
}
