/* The executor over a device whose programs are functions of this test: where arguments point,
 * what is reused between runs, and that no message can make it touch what it should not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/shm.h"
#include "daemon/worker/executor.h"
#include "daemon/worker/loaded.h"
#include "devices/host_memory.h"

enum { N = 16, BYTES = N * (int)sizeof(float) };

/* -- a device -----------------------------------------------------------------------------------
 */

struct Program {
  float add; /* out = sum of the others + add */
};

static int live_programs, live_buffers, submitted;

static int open_descriptors(void) {
  int n = 0;
  for (int fd = 0; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

/* Without shared memory the same buffers hide their address in front of the struct's eyes. */
typedef struct Hidden {
  Buffer base;
  Buffer *real;
} Hidden;

static void *memory_of(const Buffer *b) {
  return b->host ? b->host : ((const Hidden *)b)->real->host;
}

static Status alloc(Device *d, size_t size, int fd, Buffer **out) {
  Status st = host_memory_alloc(d, size, fd, out);
  live_buffers += !st;
  if (st || d->caps.shares_memory) return st;
  Hidden *h = calloc(1, sizeof *h);
  *h = (Hidden){.base = {.dev = d, .size = size, .fd = -1}, .real = *out};
  assert_true(fd < 0);
  *out = &h->base;
  return NULL;
}
static void release(Device *d, Buffer *b) {
  live_buffers--;
  host_memory_free(d->caps.shares_memory ? b : ((Hidden *)b)->real);
  if (!d->caps.shares_memory) free(b);
}
static Status write_buffer(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t n) {
  (void)d;
  memcpy((char *)memory_of(b) + offset, from, n);
  return NULL;
}
static Status read_buffer(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t n) {
  (void)d;
  memcpy(to, (const char *)memory_of(b) + offset, n);
  return NULL;
}
static Status load(Device *d, const ProgramSpec *spec, Program **out) {
  (void)d;
  if (!strcmp(spec->entry, "broken")) return FAIL(INTERNAL, "no such kernel");
  *out = calloc(1, sizeof **out);
  (*out)->add = (float)atof(spec->entry);
  live_programs++;
  return NULL;
}
static void unload(Device *d, Program *p) {
  (void)d;
  live_programs--;
  free(p);
}
static char *bytes_of(const LaunchArg *a) { return (char *)memory_of(a->buffer) + a->offset; }

static Status submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  (void)d;
  *out = 1;
  submitted += (int)n;
  for (size_t i = 0; i < n; i++)
    for (size_t k = 0; k < N; k++) {
      float sum = launches[i].program->add;
      for (uint32_t a = 1; a < launches[i].nargs; a++)
        sum += ((float *)bytes_of(&launches[i].args[a]))[k];
      ((float *)bytes_of(&launches[i].args[0]))[k] = sum;
    }
  return NULL;
}
static Status wait_fence(Device *d, Fence fence, int64_t timeout_ns) {
  (void)d;
  (void)fence;
  (void)timeout_ns;
  return NULL;
}
static void destroy(Device *d) { (void)d; }

static const DeviceVtbl vtbl = {.name = "test",
                                .destroy = destroy,
                                .buffer_alloc = alloc,
                                .buffer_free = release,
                                .program_load = load,
                                .program_free = unload,
                                .write = write_buffer,
                                .read = read_buffer,
                                .submit = submit,
                                .wait = wait_fence};
static Device device = {.v = &vtbl, .caps = {.max_buffer_bytes = 1ull << 30}};

/* -- a model: temp = x + w + 1; y = temp + x + c + 10; z = temp + 100 ---------------------------
 */

typedef struct Model {
  Kiln__V1__LoadExecutable load;
  Kiln__V1__Plan plan;
  Kiln__V1__PlanBuffer buffers[6], *buffer_list[6];
  Kiln__V1__PlanKernel kernels[3], *kernel_list[3];
  Kiln__V1__PlanCall calls[3], *call_list[3];
  Kiln__V1__KernelBinary binaries[3], *binary_list[3];
  Kiln__V1__WeightSource weights[2], *weight_list[2];
  uint32_t args[3][4];
  uint64_t in[1], out[2];
  float model[3 + N], constants[N];
} Model;

enum { X, Y, Z, W, K, T };

static void set_buffer(Model *m, int i, Kiln__V1__PlanBuffer__Kind kind, uint32_t slot) {
  kiln__v1__plan_buffer__init(&m->buffers[i]);
  m->buffers[i].kind = kind;
  m->buffers[i].slot = slot;
  m->buffers[i].bytes = BYTES;
  m->buffer_list[i] = &m->buffers[i];
}

static void set_call(Model *m, int i, const char *entry, const uint32_t *args, size_t nargs) {
  kiln__v1__plan_kernel__init(&m->kernels[i]);
  kiln__v1__plan_call__init(&m->calls[i]);
  kiln__v1__kernel_binary__init(&m->binaries[i]);
  memcpy(m->args[i], args, nargs * sizeof *args);
  m->kernels[i].name = (char *)(uintptr_t)entry;
  m->binaries[i].entry = (char *)(uintptr_t)entry;
  m->binaries[i].threads = 1;
  m->calls[i].kernel = (uint32_t)i;
  m->calls[i].args = m->args[i];
  m->calls[i].n_args = nargs;
  m->kernel_list[i] = &m->kernels[i];
  m->call_list[i] = &m->calls[i];
  m->binary_list[i] = &m->binaries[i];
}

static void set_weight(Model *m, int i, uint32_t slot, bool constants, uint64_t offset) {
  kiln__v1__weight_source__init(&m->weights[i]);
  m->weights[i].slot = slot;
  m->weights[i].in_constants = constants;
  m->weights[i].offset = offset;
  m->weights[i].bytes = BYTES;
  m->weight_list[i] = &m->weights[i];
}

static void make_model(Model *m, uint64_t id) {
  *m = (Model){.in = {BYTES}, .out = {BYTES, BYTES}};
  kiln__v1__load_executable__init(&m->load);
  kiln__v1__plan__init(&m->plan);
  set_buffer(m, X, KILN__V1__PLAN_BUFFER__KIND__INPUT, 0);
  set_buffer(m, Y, KILN__V1__PLAN_BUFFER__KIND__OUTPUT, 1);
  set_buffer(m, Z, KILN__V1__PLAN_BUFFER__KIND__OUTPUT, 2);
  set_buffer(m, W, KILN__V1__PLAN_BUFFER__KIND__WEIGHT, 3);
  set_buffer(m, K, KILN__V1__PLAN_BUFFER__KIND__WEIGHT, 4);
  set_buffer(m, T, KILN__V1__PLAN_BUFFER__KIND__TEMP, 0);
  m->buffers[T].offset = 64;
  m->plan.temp_bytes = 64 + BYTES;
  set_call(m, 0, "1", (uint32_t[]){T, X, W}, 3);
  set_call(m, 1, "10", (uint32_t[]){Y, T, X, K}, 4);
  set_call(m, 2, "100", (uint32_t[]){Z, T}, 2);
  set_weight(m, 0, 3, false, 3 * sizeof(float));
  set_weight(m, 1, 4, true, 0);
  for (int i = 0; i < N; i++) m->model[3 + i] = 0.5f, m->constants[i] = (float)i;
  m->plan.buffers = m->buffer_list, m->plan.n_buffers = 6;
  m->plan.kernels = m->kernel_list, m->plan.n_kernels = 3;
  m->plan.calls = m->call_list, m->plan.n_calls = 3;
  m->load.executable = id;
  m->load.plan = &m->plan;
  m->load.binaries = m->binary_list, m->load.n_binaries = 3;
  m->load.weights = m->weight_list, m->load.n_weights = 2;
  m->load.model_bytes = sizeof m->model;
  m->load.const_bytes = sizeof m->constants;
  m->load.input_bytes = m->in, m->load.n_input_bytes = 1;
  m->load.output_bytes = m->out, m->load.n_output_bytes = 2;
}

static Status load_model(Executor *x, Model *m) {
  int model, constants;
  assert_null(shm_from_bytes("m", (Bytes){(uint8_t *)m->model, sizeof m->model}, &model));
  assert_null(
      shm_from_bytes("c", (Bytes){(uint8_t *)m->constants, sizeof m->constants}, &constants));
  Status st = executor_load(x, &m->load, model, constants);
  char text[256];
  status_text(st, text, sizeof text);
  if (st) print_message("%s\n", text);
  return st;
}

/* -- runs ---------------------------------------------------------------------------------------
 */

typedef struct Job {
  Kiln__V1__RunJob run;
  Kiln__V1__RunInput input, *inputs[1];
  uint32_t outputs[2];
  uint64_t buffers[2], offsets[2];
  float x[N];
} Job;

static void make_job(Job *j, uint64_t exe, float x) {
  *j = (Job){.outputs = {0, 1}};
  kiln__v1__run_job__init(&j->run);
  kiln__v1__run_input__init(&j->input);
  for (int i = 0; i < N; i++) j->x[i] = x;
  j->input.value_case = KILN__V1__RUN_INPUT__VALUE_INLINE;
  j->input.inline_ = (ProtobufCBinaryData){BYTES, (uint8_t *)j->x};
  j->input.bytes = BYTES;
  j->inputs[0] = &j->input;
  j->run.executable = exe;
  j->run.inputs = j->inputs, j->run.n_inputs = 1;
  j->run.outputs = j->outputs, j->run.n_outputs = 2;
}

static void check_y(const float *y, float x) {
  for (int i = 0; i < N; i++) assert_float_equal(y[i], (x + 0.5f + 1) + x + (float)i + 10, 1e-6);
}
static void check_z(const float *z, float x) {
  for (int i = 0; i < N; i++) assert_float_equal(z[i], (x + 0.5f + 1) + 100, 1e-6);
}

typedef struct Fixture {
  Executor *x;
  Model *m;
  int descriptors;
} Fixture;

static int setup_on(void **state, bool shares_memory) {
  device.caps.shares_memory = shares_memory;
  Fixture *f = calloc(1, sizeof *f);
  f->m = malloc(sizeof *f->m);
  f->descriptors = open_descriptors();
  live_programs = live_buffers = 0;
  assert_null(executor_create(&device, &f->x));
  make_model(f->m, 1);
  *state = f;
  return 0;
}

static int setup_shared(void **state) { return setup_on(state, true); }
static int setup_apart(void **state) { return setup_on(state, false); }

static int teardown(void **state) {
  Fixture *f = *state;
  executor_release(f->x);
  assert_int_equal(live_programs, 0);
  assert_int_equal(live_buffers, 0);
  assert_int_equal(open_descriptors(), f->descriptors);
  free(f->m);
  free(f);
  return 0;
}

static void test_inline(void **state) {
  Fixture *f = *state;
  assert_null(load_model(f->x, f->m));
  for (int round = 0; round < 3; round++) {
    Job j;
    Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
    make_job(&j, 1, (float)round);
    int before = live_buffers;
    assert_null(executor_run(f->x, 1, &j.run, -1, &done));
    if (round) assert_int_equal(live_buffers, before); /* a run allocates nothing */
    assert_int_equal(done.n_outputs, 2);
    check_y((float *)done.outputs[0].data, (float)round);
    check_z((float *)done.outputs[1].data, (float)round);
  }
}

/* The same model, whose first call is now K + 1 into what is kept: done when loading. */
static void keep(Model *m) {
  m->buffers[T].kind = KILN__V1__PLAN_BUFFER__KIND__KEPT;
  m->plan.kept_bytes = 64 + BYTES;
  m->plan.temp_bytes = 0;
  m->calls[0].once = 1;
  m->args[0][1] = K;
}

static void test_once(void **state) {
  Fixture *f = *state;
  keep(f->m);
  submitted = 0;
  assert_null(load_model(f->x, f->m));
  assert_int_equal(submitted, 1);
  for (int round = 1; round < 4; round++) {
    Job j;
    Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
    make_job(&j, 1, (float)round);
    assert_null(executor_run(f->x, 1, &j.run, -1, &done));
    assert_int_equal(submitted, 1 + 2 * round);
    const float *y = (float *)done.outputs[0].data, *z = (float *)done.outputs[1].data;
    for (int i = 0; i < N; i++) {
      float kept = (float)i + 0.5f + 1;
      assert_float_equal(y[i], kept + (float)round + (float)i + 10, 1e-6);
      assert_float_equal(z[i], kept + 100, 1e-6);
    }
  }
}

/* z of a run: what the last kernel adds tells which code it has. */
static void check_z_adds(Fixture *f, float add) {
  Job j;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  make_job(&j, 1, 2);
  assert_null(executor_run(f->x, 1, &j.run, -1, &done));
  check_y((float *)done.outputs[0].data, 2);
  const float *z = (float *)done.outputs[1].data;
  for (int i = 0; i < N; i++) assert_float_equal(z[i], (2 + 0.5f + 1) + add, 1e-6);
}

static StatusCode replace(Fixture *f, uint64_t executable, uint32_t kernel, const char *entry,
                          uint32_t threads) {
  Kiln__V1__ReplaceKernel m = KILN__V1__REPLACE_KERNEL__INIT;
  Kiln__V1__KernelBinary b = KILN__V1__KERNEL_BINARY__INIT;
  b.entry = (char *)(uintptr_t)entry;
  b.threads = threads;
  m.executable = executable;
  m.kernel = kernel;
  m.binary = entry ? &b : NULL;
  Status st = executor_replace(f->x, &m);
  StatusCode code = status_code(st);
  status_drop(st);
  return code;
}

static void test_replace(void **state) {
  Fixture *f = *state;
  assert_null(load_model(f->x, f->m));
  check_z_adds(f, 100);
  assert_int_equal(replace(f, 1, 2, "200", 1), ST_OK);
  assert_int_equal(live_programs, 3);
  check_z_adds(f, 200);
  /* what cannot be taken leaves the code as it is */
  assert_int_equal(replace(f, 1, 2, "broken", 1), ST_INTERNAL);
  assert_int_equal(replace(f, 1, 2, "300", 0), ST_INTERNAL);
  assert_int_equal(replace(f, 1, 2, NULL, 1), ST_INTERNAL);
  assert_int_equal(replace(f, 1, 3, "300", 1), ST_INTERNAL);
  assert_int_equal(replace(f, 2, 2, "300", 1), ST_INTERNAL);
  assert_int_equal(live_programs, 3);
  check_z_adds(f, 200);
}

static void once_later(Model *m) { m->calls[0].once = 0, m->calls[1].once = 1; }
static void once_reads_input(Model *m) { m->args[0][1] = X; }
static void once_writes_output(Model *m) { m->args[0][0] = Y; }
static void run_writes_kept(Model *m) { m->args[1][0] = T; }
static void kept_outside(Model *m) { m->plan.kept_bytes = BYTES; }
static void kept_overflow(Model *m) { m->buffers[T].offset = UINT64_MAX - 8; }
static void once_index(Model *m) { m->args[0][2] = 6; }

static void test_wrong_once(void **state) {
  Fixture *f = *state;
  static void (*const spoils[])(Model *) = {once_later,      once_reads_input, once_writes_output,
                                            run_writes_kept, kept_outside,     kept_overflow,
                                            once_index};
  for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
    make_model(f->m, 1);
    keep(f->m);
    spoils[i](f->m);
    Status st = load_model(f->x, f->m);
    if (!st) fail_msg("spoiled load %zu was taken", i);
    status_drop(st);
    assert_int_equal(live_programs, 0);
  }
}

static void test_some_outputs(void **state) {
  Fixture *f = *state;
  Job j;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  assert_null(load_model(f->x, f->m));
  make_job(&j, 1, 2);
  j.outputs[0] = 1;
  j.run.n_outputs = 1;
  assert_null(executor_run(f->x, 1, &j.run, -1, &done));
  assert_int_equal(done.n_outputs, 1);
  check_z((float *)done.outputs[0].data, 2);
}

static void test_slab(void **state) {
  Fixture *f = *state;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  int fd, copy;
  char *slab;
  assert_null(load_model(f->x, f->m));
  assert_null(shm_create("slab", 4096, &fd));
  copy = dup(fd);
  assert_null(shm_map(copy, 4096, true, (void **)&slab));
  for (int round = 0; round < 3; round++) {
    Job j;
    make_job(&j, 1, (float)round);
    memcpy(slab + 128, j.x, BYTES);
    j.input.value_case = KILN__V1__RUN_INPUT__VALUE_OFFSET;
    j.input.offset = 128;
    j.offsets[0] = 1024, j.offsets[1] = 4096 - BYTES;
    j.run.output_offsets = j.offsets, j.run.n_output_offsets = 2;
    j.run.slab = 77;
    j.run.slab_bytes = round ? 0 : 4096; /* brought once */
    assert_null(executor_run(f->x, 1, &j.run, round ? -1 : fd, &done));
    assert_int_equal(done.n_outputs, 0);
    check_y((float *)(slab + 1024), (float)round);
    check_z((float *)(slab + 4096 - BYTES), (float)round);
  }
  executor_slab_free(f->x, 77);
  executor_slab_free(f->x, 77);
  munmap(slab, 4096);
  close(copy);
}

static void test_buffers(void **state) {
  Fixture *f = *state;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  Job j;
  int fd;
  uint64_t bytes;
  float got[N];
  assert_null(load_model(f->x, f->m));
  make_job(&j, 1, 3);
  assert_null(shm_from_bytes("x", (Bytes){(uint8_t *)j.x, BYTES}, &fd));
  assert_null(executor_buffer_create(f->x, 5, BYTES, fd));
  j.input.value_case = KILN__V1__RUN_INPUT__VALUE_BUFFER;
  j.input.buffer = 5;
  j.buffers[0] = 6, j.buffers[1] = 7;
  j.run.output_buffers = j.buffers, j.run.n_output_buffers = 2;
  assert_null(executor_run(f->x, 1, &j.run, -1, &done));
  assert_null(executor_buffer_read(f->x, 6, &bytes, &fd));
  assert_true(bytes >= BYTES);
  assert_null(shm_read(fd, 0, got, BYTES));
  check_y(got, 3);
  Status st = executor_run(f->x, 1, &j.run, -1, &done); /* the ids are taken */
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  executor_buffer_free(f->x, 7);
  st = executor_buffer_read(f->x, 7, &bytes, &fd);
  assert_int_equal(status_code(st), ST_NOT_FOUND);
  status_drop(st);
}

/* The arena of temporaries grows with a second executable; the first one still finds its own. */
static void test_two_executables(void **state) {
  Fixture *f = *state;
  Model *big = malloc(sizeof *big);
  assert_null(load_model(f->x, f->m));
  make_model(big, 2);
  big->plan.temp_bytes = 10 << 20;
  big->buffers[T].offset = (10 << 20) - BYTES;
  for (int i = 0; i < 6; i++) {
    uint64_t id = (uint64_t)(i % 3 == 1 ? 2 : 1);
    if (i == 1) assert_null(load_model(f->x, big));
    Job j;
    Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
    make_job(&j, id, (float)i);
    assert_null(executor_run(f->x, 1, &j.run, -1, &done));
    check_y((float *)done.outputs[0].data, (float)i);
  }
  executor_unload(f->x, 1);
  executor_unload(f->x, 1);
  Job j;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  make_job(&j, 1, 0);
  Status st = executor_run(f->x, 1, &j.run, -1, &done);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  free(big);
}

/* -- wrong messages -----------------------------------------------------------------------------
 */

typedef void (*Spoil)(Model *m);
static void no_plan(Model *m) { m->load.plan = NULL; }
static void few_binaries(Model *m) { m->load.n_binaries = 2; }
static void no_threads(Model *m) { m->binaries[1].threads = 0; }
static void broken_kernel(Model *m) { m->binaries[2].entry = (char *)(uintptr_t) "broken"; }
static void kernel_index(Model *m) { m->calls[1].kernel = 3; }
static void buffer_index(Model *m) { m->args[1][2] = 6; }
static void slot_index(Model *m) { m->buffers[X].slot = 99; }
static void input_as_output(Model *m) { m->buffers[X].slot = 1; }
static void output_as_input(Model *m) { m->buffers[Y].slot = 0; }
static void short_slot(Model *m) { m->in[0] = BYTES - 1; }
static void writes_input(Model *m) { m->args[0][0] = X; }
static void writes_weight(Model *m) { m->args[0][0] = W; }
static void four_dims(Model *m) {
  static uint32_t dims[4] = {1, 1, 1, 1};
  m->binaries[0].grid = dims, m->binaries[0].n_grid = 4;
}
static void no_groups(Model *m) {
  static uint32_t zero;
  m->binaries[0].block = &zero, m->binaries[0].n_block = 1;
}
static void temp_outside(Model *m) { m->buffers[T].offset = 65; }
static void temp_overflow(Model *m) { m->buffers[T].offset = UINT64_MAX - 8; }
static void weight_outside(Model *m) { m->weights[0].offset = 4 * sizeof(float); }
static void weight_overflow(Model *m) { m->weights[0].offset = UINT64_MAX - 8; }
static void weight_short(Model *m) { m->weights[0].bytes = BYTES - 1; }
static void weight_missing(Model *m) { m->weights[0].slot = 9; }
static void model_too_long(Model *m) { m->load.model_bytes = 1 << 20; }
static void buffer_kind(Model *m) { m->buffers[X].kind = (Kiln__V1__PlanBuffer__Kind)9; }

static void test_wrong_loads(void **state) {
  Fixture *f = *state;
  static const Spoil spoils[] = {
      no_plan,         few_binaries,   no_threads,     broken_kernel,   kernel_index,
      buffer_index,    slot_index,     short_slot,     writes_input,    writes_weight,
      temp_outside,    temp_overflow,  weight_short,   buffer_kind,     weight_outside,
      weight_overflow, weight_missing, model_too_long, input_as_output, output_as_input,
      four_dims,       no_groups,
  };
  for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
    make_model(f->m, 1);
    spoils[i](f->m);
    Status st = load_model(f->x, f->m);
    if (!st) fail_msg("spoiled load %zu was taken", i);
    status_drop(st);
    assert_int_equal(live_programs, 0);
  }
  make_model(f->m, 1);
  assert_null(load_model(f->x, f->m));
  Status st = load_model(f->x, f->m); /* the id is taken */
  assert_non_null(st);
  status_drop(st);
}

typedef void (*SpoilRun)(Job *j);
static void no_such_executable(Job *j) { j->run.executable = 2; }
static void no_inputs(Job *j) { j->run.n_inputs = 0; }
static void no_value(Job *j) { j->input.value_case = KILN__V1__RUN_INPUT__VALUE__NOT_SET; }
static void wrong_bytes(Job *j) { j->input.bytes = BYTES + 1; }
static void short_inline(Job *j) { j->input.inline_.len = BYTES - 1; }
static void no_slab(Job *j) {
  j->input.value_case = KILN__V1__RUN_INPUT__VALUE_OFFSET;
  j->input.offset = 0;
}
static void unknown_slab(Job *j) { j->run.slab = 8; }
static void unknown_buffer(Job *j) {
  j->input.value_case = KILN__V1__RUN_INPUT__VALUE_BUFFER;
  j->input.buffer = 8;
}
static void output_index(Job *j) { j->outputs[1] = 2; }
static void places_differ(Job *j) {
  j->run.output_buffers = j->buffers, j->run.n_output_buffers = 1;
}
static void offsets_without_slab(Job *j) {
  j->run.output_offsets = j->offsets, j->run.n_output_offsets = 2;
}
static void output_twice(Job *j) {
  j->outputs[1] = 0;
  j->buffers[0] = 1, j->buffers[1] = 2;
  j->run.output_buffers = j->buffers, j->run.n_output_buffers = 2;
}
static void past(Job *j) { j->run.deadline_ns = 1; }

static void test_wrong_runs(void **state) {
  Fixture *f = *state;
  static const SpoilRun spoils[] = {
      no_such_executable,
      no_inputs,
      no_value,
      wrong_bytes,
      short_inline,
      no_slab,
      unknown_slab,
      unknown_buffer,
      output_index,
      places_differ,
      offsets_without_slab,
      output_twice,
      past,
  };
  assert_null(load_model(f->x, f->m));
  for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
    Job j;
    Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
    make_job(&j, 1, 1);
    spoils[i](&j);
    Status st = executor_run(f->x, 1, &j.run, -1, &done);
    if (!st) fail_msg("spoiled run %zu was taken", i);
    status_drop(st);
    make_job(&j, 1, 1);
    done = (Kiln__V1__RunDone)KILN__V1__RUN_DONE__INIT;
    assert_null(executor_run(f->x, 1, &j.run, -1, &done));
    check_y((float *)done.outputs[0].data, 1);
  }
}

/* Offsets at and past the ends of a slab. */
static void test_slab_bounds(void **state) {
  Fixture *f = *state;
  static const uint64_t bad[] = {4096 - BYTES + 1, 4096, 4097, UINT64_MAX, UINT64_MAX - BYTES + 1};
  int fd;
  assert_null(load_model(f->x, f->m));
  assert_null(shm_create("slab", 4096, &fd));
  for (size_t i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
    Job j;
    Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
    make_job(&j, 1, 0);
    j.run.slab = 3;
    j.run.slab_bytes = i ? 0 : 4096;
    j.run.output_offsets = j.offsets, j.run.n_output_offsets = 2;
    j.input.value_case = KILN__V1__RUN_INPUT__VALUE_OFFSET;
    *(i % 2 ? &j.input.offset : &j.offsets[1]) = bad[i / 2];
    Status st = executor_run(f->x, 1, &j.run, i ? -1 : fd, &done);
    assert_int_equal(status_code(st), ST_INTERNAL);
    status_drop(st);
  }
}

/* -- outputs whose size the run decides ----------------------------------------------------------
 */

typedef struct Open {
  Kiln__V1__PlanVar var, *vars[1];
  Kiln__V1__PlanStep step[4], *steps[4];
  Kiln__V1__SizeProgram size, rest, sixteen, *rest_dim[1], *sixteen_dim[1];
  Kiln__V1__SlotShape shape[3], *shapes[3];
} Open;

/* The first call leaves 16 in every word of T, which the BIND takes for 16 + (16 << 32); the
 * outputs have the rest of that by 32 elements. */
static void make_open(Model *m, Open *o) {
  static int64_t rest[] = {1, 0, 0, 32, 6}, size[] = {1, 0, 0, 32, 6, 0, 4, 4}, sixteen[] = {0, N};
  static const char *const bits16 = "2.2420775429197073e-44";
  *o = (Open){0};
  kiln__v1__plan_var__init(&o->var);
  o->var.name = (char *)(uintptr_t) "count";
  o->var.max = INT64_MAX / 4;
  o->var.source = KILN__V1__PLAN_VAR__SOURCE__BOUND;
  o->vars[0] = &o->var;
  kiln__v1__size_program__init(&o->size);
  o->rest = o->sixteen = o->size;
  o->size.code = size, o->size.n_code = 8;
  o->rest.code = rest, o->rest.n_code = 5;
  o->sixteen.code = sixteen, o->sixteen.n_code = 2;
  o->rest_dim[0] = &o->rest, o->sixteen_dim[0] = &o->sixteen;
  for (int i = 0; i < 3; i++) {
    kiln__v1__slot_shape__init(&o->shape[i]);
    o->shape[i].dims = i ? o->rest_dim : o->sixteen_dim;
    o->shape[i].n_dims = 1;
    o->shape[i].item_bytes = 4;
    o->shapes[i] = &o->shape[i];
  }
  for (int i = 0; i < 4; i++) {
    kiln__v1__plan_step__init(&o->step[i]);
    o->step[i].call = i > 1 ? (uint32_t)i - 1 : 0;
    o->steps[i] = &o->step[i];
  }
  o->step[1].kind = KILN__V1__PLAN_STEP__KIND__BIND;
  o->step[1].buffer = T;
  set_call(m, 0, bits16, (uint32_t[]){T}, 1);
  m->buffers[T].bytes = sizeof(int64_t);
  m->buffers[T].whole = T, m->buffers[T].offset = 0;
  m->buffers[T].last = 3;
  m->buffers[Y].size = m->buffers[Z].size = &o->size;
  m->plan.vars = o->vars, m->plan.n_vars = 1;
  m->plan.steps = o->steps, m->plan.n_steps = 4;
  m->load.shapes = o->shapes, m->load.n_shapes = 3;
}

static void check_open(const float *y, const float *z, float x) {
  for (int i = 0; i < N; i++) {
    assert_float_equal(y[i], x + (float)i + 10, 1e-6);
    assert_float_equal(z[i], 100, 1e-6);
  }
}

/* Inline, or in memory that comes with the reply where the host cannot see the device's. */
static void test_open(void **state) {
  Fixture *f = *state;
  Open o;
  make_open(f->m, &o);
  assert_null(load_model(f->x, f->m));
  for (int round = 0; round < 3; round++) {
    Job j;
    Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
    int64_t vars[1] = {0};
    make_job(&j, 1, (float)round);
    j.run.vars = vars, j.run.n_vars = 1;
    assert_null(executor_run(f->x, 1, &j.run, -1, &done));
    assert_int_equal(done.n_dims, 2);
    assert_int_equal(done.dims[1]->dims[0], N);
    assert_int_equal(done.n_outputs, 2);
    int fd = executor_output_fd(f->x);
    if (device.caps.shares_memory) {
      assert_true(fd < 0);
      check_open((float *)done.outputs[0].data, (float *)done.outputs[1].data, (float)round);
      continue;
    }
    char *memory;
    assert_int_equal(done.n_places, 2);
    assert_null(shm_map(fd, done.memory_bytes, false, (void **)&memory));
    check_open((float *)(memory + done.places[0]), (float *)(memory + done.places[1]),
               (float)round);
    munmap(memory, done.memory_bytes);
  }
}

static void test_open_buffers(void **state) {
  Fixture *f = *state;
  Open o;
  Job j;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  int64_t vars[1] = {0};
  uint64_t bytes;
  int fd;
  make_open(f->m, &o);
  assert_null(load_model(f->x, f->m));
  make_job(&j, 1, 3);
  j.run.vars = vars, j.run.n_vars = 1;
  j.buffers[0] = 70, j.buffers[1] = 71;
  j.run.output_buffers = j.buffers, j.run.n_output_buffers = 2;
  assert_null(executor_run(f->x, 1, &j.run, -1, &done));
  assert_int_equal(done.n_outputs, 0);
  for (int i = 0; i < 2; i++) {
    assert_null(executor_buffer_read(f->x, j.buffers[i], &bytes, &fd));
    assert_int_equal(bytes, BYTES);
  }
  Status st = executor_run(f->x, 1, &j.run, -1, &done); /* the buffers exist */
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  o.var.max = 15; /* the plan keeps a copy: nothing changes */
  j.run.n_output_buffers = 0;
  assert_null(executor_run(f->x, 1, &j.run, -1, &done));
}

static void test_bound_outside(void **state) {
  Fixture *f = *state;
  Open o;
  Job j;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  int64_t vars[1] = {0};
  make_open(f->m, &o);
  o.var.max = 1000;
  assert_null(load_model(f->x, f->m));
  make_job(&j, 1, 3);
  j.run.vars = vars, j.run.n_vars = 1;
  Status st = executor_run(f->x, 1, &j.run, -1, &done);
  assert_int_equal(status_code(st), ST_OUT_OF_RANGE);
  status_drop(st);
  j.run.n_vars = 0;
  st = executor_run(f->x, 1, &j.run, -1, &done);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
}

static bool all_zero(Executor *x, const Buffer *b) {
  char *bytes = malloc(b->size);
  assert_null(device_read(x->dev, b, 0, bytes, b->size));
  size_t n = 0;
  while (n < b->size && !bytes[n]) n++;
  free(bytes);
  return n == b->size;
}

/* What a run leaves in memory that all share is there for its own tenant, and gone for the next. */
static void test_change_of_tenant(void **state) {
  Fixture *f = *state;
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  Job j;
  assert_null(load_model(f->x, f->m));
  make_job(&j, 1, 3);
  j.run.tenant = 1;
  for (int i = 0; i < 2; i++) assert_null(executor_run(f->x, 1, &j.run, -1, &done));
  assert_false(all_zero(f->x, f->x->temps[0]));
  assert_false(all_zero(f->x, f->x->staging));
  assert_null(scrub_enter(f->x, 1));
  assert_false(all_zero(f->x, f->x->temps[0]));
  assert_null(scrub_enter(f->x, 2));
  for (size_t i = 0; i < f->x->ntemps; i++)
    if (f->x->temps[i]) assert_true(all_zero(f->x, f->x->temps[i]));
  assert_true(all_zero(f->x, f->x->staging));
  for (size_t i = 0; i < f->x->mirror_size; i++) assert_int_equal(f->x->mirror[i], 0);
  j.run.tenant = 2;
  assert_null(executor_run(f->x, 1, &j.run, -1, &done));
  check_y((float *)done.outputs[0].data, 3);
}

#define WITH(memory, test_)                                                                        \
  { #test_ " with memory " #memory, test_, setup_##memory, teardown, NULL }
#define ALL(memory)                                                                                \
  WITH(memory, test_inline), WITH(memory, test_replace), WITH(memory, test_once),                  \
      WITH(memory, test_wrong_once), WITH(memory, test_some_outputs), WITH(memory, test_slab),     \
      WITH(memory, test_buffers), WITH(memory, test_two_executables),                              \
      WITH(memory, test_wrong_loads), WITH(memory, test_wrong_runs),                               \
      WITH(memory, test_slab_bounds), WITH(memory, test_open), WITH(memory, test_open_buffers),    \
      WITH(memory, test_bound_outside), WITH(memory, test_change_of_tenant)

int main(void) {
  const struct CMUnitTest tests[] = {ALL(shared), ALL(apart)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
