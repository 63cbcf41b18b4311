/* Buffers are as a run would have them: aligned, zeroed by the device, filled through device_write.
 * A kernel whose model is larger than the caches finds its weights, and what a run is given, in
 * memory, not where the run before left them: there are as many copies of these as fill the working
 * set (at most 32), and calls take them in turn. Everything else was written by a call just before
 * this one, so there is one copy of it, which stays where it is. */
#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"
#include "daemon/channel/size_program.h"
#include "daemon/worker/timing.h"

enum {
  COPIES_MAX = 32,
  BATCH_MAX = 64,
  STOPS_MAX = 50,
  THREADS_MAX = 1 << 16,
  ARGS_MAX = 4096,
  VARS_MAX = 256
};
#define FOOTPRINT_MAX (4ull << 30)
#define WORKING_MAX   (128ull << 20) /* what the copies take together, when one takes less */
#define BROKEN(...)   FAIL(INTERNAL, __VA_ARGS__)

Status timing_facts_check(const Kiln__V1__KernelFacts *f) {
  if (!f || !f->n_args || f->n_args > ARGS_MAX || f->n_vars > VARS_MAX)
    return BROKEN("facts of a kernel with %zu arguments", f ? f->n_args : 0);
  if (f->reduces >= DT__COUNT) return BROKEN("dtype %u", f->reduces);
  for (size_t i = 0; i < f->n_args; i++) {
    const Kiln__V1__KernelArg *a = f->args[i];
    if (a->dtype >= DT__COUNT || !dtype_info[a->dtype].bytes) return BROKEN("dtype %u", a->dtype);
    if (a->size) TRY(size_program_check(a->size, f->n_vars));
  }
  for (size_t i = 0; i < f->n_vars; i++)
    if (f->vars[i]->min < 0 || f->vars[i]->max < f->vars[i]->min)
      return BROKEN("a variable of %lld to %lld", (long long)f->vars[i]->min,
                    (long long)f->vars[i]->max);
  return NULL;
}

/* -- buffers ------------------------------------------------------------------------------------
 */

static uint64_t arg_bytes(const TimingArgs *a, size_t i) {
  return a->elements[i] * dtype_info[a->facts->args[i]->dtype].bytes;
}

static Status find_sizes(TimingArgs *a, uint64_t *largest) {
  *largest = 0;
  for (size_t i = 0; i < a->facts->n_args; i++) {
    const Kiln__V1__KernelArg *arg = a->facts->args[i];
    int64_t n = 0;
    size_t bytes;
    if (arg->size && !size_program_eval(arg->size, a->vars, &n))
      return FAIL(RESOURCE_EXHAUSTED, "an argument whose size overflows");
    a->elements[i] = arg->size ? (uint64_t)n : arg->elements;
    if (!size_mul(a->elements[i], dtype_info[arg->dtype].bytes, &bytes) ||
        !size_add(a->footprint, bytes, &a->footprint) || a->footprint > FOOTPRINT_MAX)
      return FAIL(RESOURCE_EXHAUSTED, "the kernel's arguments take more than %llu bytes",
                  FOOTPRINT_MAX);
    if (bytes > *largest) *largest = bytes;
  }
  return NULL;
}

static uint32_t copies_for(const TimingArgs *a, uint64_t working_set) {
  uint64_t want = working_set < WORKING_MAX ? working_set : WORKING_MAX, far = 0;
  for (size_t i = 0; i < a->facts->n_args; i++)
    if (a->facts->args[i]->far) far += arg_bytes(a, i);
  uint64_t n = far ? want / far : 1;
  return n < 1 ? 1 : n > COPIES_MAX ? COPIES_MAX : (uint32_t)n;
}

static Status alloc_buffers(TimingArgs *a) {
  size_t n = a->facts->n_args, total = n * a->ncopies;
  a->buffers = calloc(total + 1, sizeof *a->buffers); /* there may be none */
  a->args = calloc(total + 1, sizeof *a->args);
  a->nbuffers = total;
  if (!a->buffers || !a->args) return FAIL(RESOURCE_EXHAUSTED, "buffers");
  for (size_t i = 0; i < total; i++) {
    uint64_t bytes = arg_bytes(a, i % n);
    if (i >= n && !a->facts->args[i % n]->far) {
      a->args[i] = a->args[i % n];
      continue;
    }
    TRY(device_buffer_alloc(a->dev, bytes ? bytes : 1, BUFFER_PRIVATE, &a->buffers[i]));
    a->args[i] = (LaunchArg){a->buffers[i], 0};
  }
  return NULL;
}

Status timing_args_init(Device *dev, const Kiln__V1__KernelFacts *facts, const int64_t *vars,
                        uint64_t working_set, TimingArgs *out) {
  uint64_t largest = 0;
  Status st = NULL;
  *out = (TimingArgs){.dev = dev, .facts = facts, .ncopies = 1};
  out->vars = calloc(facts->n_vars + 1, sizeof *out->vars);
  out->elements = calloc(facts->n_args + 1, sizeof *out->elements);
  if (!out->vars || !out->elements) st = FAIL(RESOURCE_EXHAUSTED, "buffers");
  if (!st && facts->n_vars) memcpy(out->vars, vars, facts->n_vars * sizeof *vars);
  if (!st) st = find_sizes(out, &largest);
  if (!st) {
    out->ncopies = copies_for(out, working_set);
    out->staging = malloc(largest + 1);
    st = out->staging ? alloc_buffers(out) : FAIL(RESOURCE_EXHAUSTED, "buffers");
  }
  if (st) timing_args_deinit(out);
  return st;
}

void timing_args_deinit(TimingArgs *a) {
  for (size_t i = 0; a->buffers && i < a->nbuffers; i++) device_buffer_free(a->dev, a->buffers[i]);
  free(a->buffers);
  free(a->args);
  free(a->vars);
  free(a->elements);
  free(a->staging);
  *a = (TimingArgs){0};
}

/* One argument, in all copies. */
static Status fill_arg(TimingArgs *a, size_t i, TimingPattern pattern, uint64_t seed) {
  const Kiln__V1__KernelArg *arg = a->facts->args[i];
  uint64_t bytes = arg_bytes(a, i);
  if (arg->read || i)
    timing_fill((DType)arg->dtype, pattern, seed + i, a->staging, a->elements[i]);
  else
    memset(a->staging, 0xa5, bytes);
  for (size_t c = 0; c < (arg->far ? a->ncopies : 1) && bytes; c++)
    TRY(device_write(a->dev, a->buffers[c * a->facts->n_args + i], 0, a->staging, bytes));
  return NULL;
}

Status timing_args_fill(TimingArgs *a, TimingPattern pattern, uint64_t seed) {
  for (size_t i = 0; i < a->facts->n_args; i++) TRY(fill_arg(a, i, pattern, seed));
  return NULL;
}

Status timing_args_restore(TimingArgs *a, TimingPattern pattern, uint64_t seed) {
  return a->facts->args[0]->read ? fill_arg(a, 0, pattern, seed) : NULL;
}

uint64_t timing_args_result_bytes(const TimingArgs *a) { return arg_bytes(a, 0); }

Status timing_args_result(TimingArgs *a, const void **out) {
  uint64_t bytes = arg_bytes(a, 0);
  *out = a->staging;
  return bytes ? device_read(a->dev, a->buffers[0], 0, a->staging, bytes) : NULL;
}

/* -- programs -----------------------------------------------------------------------------------
 */

static Status set_block(const Kiln__V1__KernelBinary *b, ProgramSpec *spec) {
  if (b->n_grid > 3 || b->n_block > 3) return BROKEN("%zu dimensions of a launch", b->n_grid);
  for (size_t d = 0; d < 3; d++) {
    spec->grid[d] = d < b->n_grid ? b->grid[d] : 1;
    spec->block[d] = d < b->n_block ? b->block[d] : 1;
    if (!spec->block[d]) return BROKEN("a workgroup of size 0");
  }
  return NULL;
}

static Status set_grid(const Kiln__V1__KernelBinary *b, const int64_t *vars, size_t nvars,
                       TimingProgram *out) {
  if (!b->n_grid_size) return NULL;
  if (b->n_grid_size != 3) return BROKEN("%zu sizes of a grid", b->n_grid_size);
  out->sized = true;
  for (size_t d = 0; d < 3; d++) {
    int64_t n;
    TRY(size_program_check(b->grid_size[d], nvars));
    if (!size_program_eval(b->grid_size[d], vars, &n) || n > UINT32_MAX)
      return FAIL(RESOURCE_EXHAUSTED, "a launch has more workgroups than can be counted");
    out->grid[d] = (uint32_t)n;
  }
  return NULL;
}

Status timing_program_load(Device *dev, const Kiln__V1__KernelBinary *b, Bytes code,
                           const int64_t *vars, size_t nvars, TimingProgram *out) {
  *out = (TimingProgram){0};
  if (!b || !*b->entry || !b->threads || b->threads > THREADS_MAX) return BROKEN("a kernel's code");
  ProgramSpec spec = {.image = code.len ? code : (Bytes){b->object.data, b->object.len},
                      .entry = b->entry,
                      .threads = b->threads,
                      .scratch_bytes = b->scratch_bytes};
  TRY(set_block(b, &spec));
  TRY(set_grid(b, vars, nvars, out));
  return device_program_load(dev, &spec, &out->program);
}

void timing_program_free(Device *dev, TimingProgram *p) {
  device_program_free(dev, p->program);
  *p = (TimingProgram){0};
}

static Launch launch_of(const TimingArgs *a, const TimingProgram *p, uint32_t copy) {
  size_t n = a->facts->n_args;
  return (Launch){.program = p->program,
                  .args = a->args + n * copy,
                  .nargs = (uint32_t)n,
                  .nvars = (uint32_t)a->facts->n_vars,
                  .vars = a->vars,
                  .grid = p->sized ? p->grid : NULL};
}

Status timing_run_once(TimingArgs *a, const TimingProgram *p) {
  Launch launch = launch_of(a, p, 0);
  Fence fence;
  TRY(device_submit(a->dev, &launch, 1, &fence));
  return device_wait(a->dev, fence, -1);
}

/* -- runs ---------------------------------------------------------------------------------------
 */

static volatile sig_atomic_t stops; /* how often the process was stopped; wraps */
static int64_t lost_ns;

static void on_continue(int signal) {
  (void)signal;
  stops = (int)((unsigned)stops + 1);
}

void timing_notice_stops(void) {
  sigaction(SIGCONT, &(struct sigaction){.sa_handler = on_continue, .sa_flags = SA_RESTART}, NULL);
}

int64_t timing_lost_ns(void) { return lost_ns; }

static Status run_batch(TimingArgs *a, const TimingProgram *p, uint32_t times, int64_t *ns) {
  Launch launches[BATCH_MAX];
  Fence fence;
  for (uint32_t i = 0; i < times; i++) {
    launches[i] = launch_of(a, p, a->next);
    a->next = (a->next + 1) % a->ncopies;
  }
  TRY(device_timer_start(a->dev));
  TRY(device_submit(a->dev, launches, times, &fence));
  TRY(device_timer_stop(a->dev, fence, ns));
  *ns /= times;
  return NULL;
}

Status timing_run(TimingArgs *a, const TimingProgram *p, uint32_t times, int64_t *ns) {
  if (!times || times > BATCH_MAX) return BROKEN("%u launches", times);
  for (int i = 0; i < STOPS_MAX; i++) {
    int64_t start = clock_now_ns();
    int before = stops;
    TRY(run_batch(a, p, times, ns));
    if (stops == before) return NULL;
    lost_ns += clock_now_ns() - start;
  }
  return FAIL(UNAVAILABLE, "it was never left alone for as long as the kernel takes");
}
