/* Times plans with the schedules that are given for their kernels, on any device.
 *
 *   bench_opts DEVICE FILE [ROUNDS]
 *
 * A line of FILE is "NAME MODEL" (.onnx or .kgraph), or that and one or more of "| K=OPTS", the
 * schedule of the plan's kernel number K; the others have the heuristic's. An empty line ends a
 * group: in a group every line has the same inputs and is to have the same answer as its first
 * line, which may be another graph. All lines are compiled first, then timed in turns. Printed per
 * line: the median and the least time of one run of the plan, the median of one of eight runs
 * queued together, and what each kernel takes of eight of it queued together.
 *
 * Where the device makes machine code of what the compiler gives it, that is done for all lines at
 * the same time. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/vec.h"
#include "compiler/compile.h"
#include "tests/model/local_target.h"
#include "tests/read_file.h"

enum { TOGETHER = 8, MOST_ROUNDS = 101, LINE = 8192, MANY = 1 << 26, SAMPLED = 5 };

typedef struct Slot {
  Buffer *buffer;
  size_t bytes;
} Slot;

/* The buffers of a group, by slot. */
typedef struct Slots {
  Slot *at;
  size_t len, cap;
} Slots;

typedef struct Line {
  char *text, *name;
  Job job;
  Plan plan;
  TensorGraph graph;
  KernelObject *objects;
  Program **programs;
  Buffer *temp, *kept, **constants;
  Launch *launches; /* of TOGETHER runs */
  size_t n;         /* of one run */
  size_t group;
  double one[MOST_ROUNDS], many[MOST_ROUNDS];
  double *alone; /* each launch of a run, several of it queued together */
  const char *failed;
} Line;

static Device *device;
static Target target;
static VEC(Line) lines;

static void die(Status st, const char *what) {
  if (!st) return;
  char text[4000];
  status_text(st, text, sizeof text);
  fprintf(stderr, "bench_opts: %s: %s\n", what, text);
  exit(1);
}

/* -- compiling ------------------------------------------------------------------------------------
 */

/* The schedule that the line gives for kernel k, or NULL. */
static const char *opts_of(const Line *l, size_t k, char *to) {
  for (const char *at = strchr(l->text, '|'); at; at = strchr(at + 1, '|')) {
    char *end;
    if (strtoul(at + 1, &end, 10) != k || *end != '=') continue;
    snprintf(to, LINE, "%.*s", (int)strcspn(end + 1, "|\n"), end + 1);
    for (size_t n = strlen(to); n && to[n - 1] == ' '; n--) to[n - 1] = 0;
    return to;
  }
  return NULL;
}

static Status compile_line(Line *l) {
  char path[LINE], name[LINE], opts[LINE];
  if (sscanf(l->text, "%s %s", name, path) != 2) return FAIL(INVALID_ARGUMENT, "no model");
  l->name = strdup(name);
  job_init(&l->job, (size_t)2 << 30);
  const char *dot = strrchr(path, '.');
  FrontendOptions o = {.kind = dot && !strcmp(dot, ".onnx") ? MODEL_ONNX : MODEL_KGRAPH};
  StrBuf model = {0}; /* whose weights are used until the end */
  if (!read_file(path, &model)) return FAIL(NOT_FOUND, "%s cannot be read", path);
  Bytes bytes = {(const uint8_t *)model.ptr, model.len};
  TRY(compile_frontend(&l->job, bytes, &o, &l->graph));
  TRY(compile_plan(&l->job, &l->graph, &target, &l->plan));
  if (l->plan.nvars) return FAIL(INVALID_ARGUMENT, "open sizes");
  l->objects = calloc(l->plan.nkernels + 1, sizeof *l->objects);
  for (size_t k = 0; k < l->plan.nkernels; k++) {
    const Kernel *x = &l->plan.kernels[k];
    TRY(compile_kernel(&l->job, x->sink, x->name, &target, opts_of(l, k, opts), &l->objects[k]));
  }
  return NULL;
}

static Status assemble_all(void) {
  VEC(Bytes) images = {0};
  VEC(StrBuf *) owners = {0};
  for (size_t i = 0; i < lines.len; i++) {
    for (size_t k = 0; !lines.at[i].failed && k < lines.at[i].plan.nkernels; k++) {
      StrBuf *b = &lines.at[i].objects[k].object;
      Bytes image = {(const uint8_t *)b->ptr, b->len};
      if (!vec_push(&images, image) || !vec_push(&owners, b)) abort();
    }
  }
  StrBuf *code = calloc(images.len + 1, sizeof *code);
  TRY(device_assemble(device, images.at, images.len, code));
  for (size_t i = 0; i < images.len; i++)
    if (code[i].len) *owners.at[i] = code[i];
  return NULL;
}

static Status load_line(Line *l) {
  l->programs = calloc(l->plan.nkernels + 1, sizeof(Program *));
  for (size_t k = 0; k < l->plan.nkernels; k++) {
    const KernelObject *o = &l->objects[k];
    ProgramSpec spec = {.image = {(const uint8_t *)o->object.ptr, o->object.len},
                        .entry = o->entry,
                        .threads = o->threads,
                        .scratch_bytes = o->scratch_bytes};
    for (int d = 0; d < 3; d++) spec.grid[d] = (uint32_t)o->grid[d];
    memcpy(spec.block, o->block, sizeof spec.block);
    TRY(device_program_load(device, &spec, &l->programs[k]));
    Status spilled = device_program_check(device, l->programs[k]);
    if (spilled) printf("%s: kernel %zu spills or waits\n", l->name, k);
    status_drop(spilled);
  }
  return NULL;
}

/* -- data -----------------------------------------------------------------------------------------
 */

static uint16_t half_of(float x, bool brain) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  if (brain) return (uint16_t)(u >> 16);
  int e = (int)(u >> 23 & 255) - 112; /* numbers here are normal or 0 */
  return (uint16_t)(e <= 0 ? 0 : (u >> 16 & 0x8000) | (uint32_t)e << 10 | (u >> 13 & 1023));
}

/* Numbers in [-1, 1), the same for the same slot. */
static void fill(Buffer *b, DType d, size_t bytes, uint32_t seed) {
  char *data = malloc(bytes + 1);
  size_t item = dtype_info[d].bytes;
  uint32_t s = 2463534242u + seed * 7919u;
  for (size_t i = 0; i < bytes / item; i++) {
    s ^= s << 13, s ^= s >> 17, s ^= s << 5;
    float x = (float)(s >> 8) / 8388608.f - 1;
    uint16_t h = half_of(x, d == DT_BF16);
    int32_t n = (int32_t)(s % 100);
    const void *from = d == DT_F32 ? (const void *)&x : item == 2 ? (const void *)&h : &n;
    memset(data + i * item, 0, item);
    memcpy(data + i * item, from, item < 4 ? item : 4);
  }
  die(device_write(device, b, 0, data, bytes), "writing an input");
  free(data);
}

static void place_slots(Slots *s, const Line *l) {
  for (size_t i = 0; i < l->graph.nslots; i++) {
    const GraphSlot *g = &l->graph.slots[i];
    size_t bytes = (size_t)shape_numel(g->shape) * dtype_info[g->dtype].bytes;
    if (i < s->len && s->at[i].bytes != bytes)
      die(FAIL(INVALID_ARGUMENT, "slot %zu is not as in the group's first line", i), l->name);
    if (i < s->len) continue;
    Slot new = {.bytes = bytes};
    die(device_buffer_alloc(device, bytes, -1, &new.buffer), "an input");
    if (g->kind != SLOT_OUTPUT) fill(new.buffer, g->dtype, bytes, (uint32_t)i);
    if (!vec_push(s, new)) abort();
  }
}

static LaunchArg place(const Line *l, const Slots *s, uint32_t buffer) {
  const PlanBuffer *b = &l->plan.buffers[buffer];
  if (b->kind == PB_CONST) return (LaunchArg){l->constants[buffer], 0};
  Buffer *whole = b->kind == PB_KEPT   ? l->kept
                  : b->kind == PB_TEMP ? l->temp
                                       : s->at[b->slot].buffer;
  return (LaunchArg){whole, (uint64_t)b->offset};
}

static void place_constants(Line *l) {
  l->constants = calloc(l->plan.nbuffers + 1, sizeof(Buffer *));
  for (uint32_t i = 0; i < l->plan.nbuffers; i++) {
    const PlanBuffer *b = &l->plan.buffers[i];
    size_t bytes = (size_t)b->numel * dtype_info[b->dtype].bytes;
    if (b->kind != PB_CONST) continue;
    die(device_buffer_alloc(device, bytes, -1, &l->constants[i]), "a constant");
    for (size_t at = 0; at < bytes; at += b->constant.len)
      die(device_write(device, l->constants[i], at, b->constant.ptr,
                       bytes - at < b->constant.len ? bytes - at : b->constant.len),
          "a constant");
  }
}

/* Calls that are done once are queued here; the others are the line's launches. */
static void make_launches(Line *l, const Slots *s) {
  size_t n = l->plan.ncalls;
  Launch *all = calloc(n * TOGETHER + 1, sizeof *all);
  for (size_t c = 0; c < n; c++) {
    const PlanCall *call = &l->plan.calls[c];
    LaunchArg *args = calloc(call->nargs + 1, sizeof *args);
    for (uint32_t k = 0; k < call->nargs; k++) args[k] = place(l, s, call->args[k]);
    all[c] = (Launch){.program = l->programs[call->kernel], .args = args, .nargs = call->nargs};
  }
  size_t once = 0;
  while (once < n && l->plan.calls[once].once) once++;
  Fence f;
  if (once) {
    die(device_submit(device, all, once, &f), l->name);
    die(device_wait(device, f, -1), l->name);
  }
  l->n = n - once;
  memmove(all, all + once, l->n * sizeof *all);
  for (size_t k = 1; k < TOGETHER; k++) memcpy(all + k * l->n, all, l->n * sizeof *all);
  l->launches = all;
}

static double number(const char *p, DType d) {
  float f;
  uint16_t h;
  if (d == DT_F32) return memcpy(&f, p, 4), (double)f;
  memcpy(&h, p, 2);
  uint32_t u = (uint32_t)h << 16;
  if (d == DT_BF16) return memcpy(&f, &u, 4), (double)f;
  double v =
      ldexp((h >> 10 & 31) ? 1024 + (h & 1023) : h & 1023, (h >> 10 & 31 ? h >> 10 & 31 : 1) - 25);
  return h >> 15 ? -v : v;
}

/* The largest difference beside the largest value of all outputs of one run; of many elements,
 * of every fifth. */
static double run_once(const Line *l, const Slots *s, char **want) {
  double worst = 0, largest = 1e-30;
  Fence f;
  for (size_t i = 0; i < l->graph.nslots; i++)
    if (l->graph.slots[i].kind == SLOT_OUTPUT)
      die(device_zero(device, s->at[i].buffer, s->at[i].bytes), l->name);
  die(device_submit(device, l->launches, l->n, &f), l->name);
  die(device_wait(device, f, -1), l->name);
  for (size_t i = 0; i < l->graph.nslots; i++) {
    const GraphSlot *g = &l->graph.slots[i];
    if (g->kind != SLOT_OUTPUT) continue;
    char *got = malloc(s->at[i].bytes + 1);
    die(device_read(device, s->at[i].buffer, 0, got, s->at[i].bytes), l->name);
    if (!want[i]) {
      want[i] = got;
      continue;
    }
    size_t item = dtype_info[g->dtype].bytes;
    size_t step = s->at[i].bytes < MANY ? item : SAMPLED * item;
    for (size_t at = 0; at < s->at[i].bytes; at += step) {
      double a = number(got + at, g->dtype), b = number(want[i] + at, g->dtype);
      if (!(fabs(a - b) <= worst)) worst = fabs(a - b);
      if (fabs(b) > largest) largest = fabs(b);
    }
    free(got);
  }
  return worst / largest;
}

/* -- timing ---------------------------------------------------------------------------------------
 */

static double us_of(const Line *l, size_t runs) {
  Fence f;
  int64_t ns;
  die(device_timer_start(device), l->name);
  die(device_submit(device, l->launches, l->n * runs, &f), l->name);
  die(device_timer_stop(device, f, &ns), l->name);
  return (double)ns / 1e3 / (double)runs;
}

static int by_value(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return (a > b) - (a < b);
}

static void time_group(size_t first, size_t end, int rounds) {
  for (int r = -2; r < rounds; r++) { /* the first two record */
    for (size_t i = first; i < end; i++) {
      Line *l = &lines.at[i];
      if (l->failed) continue;
      double one = us_of(l, 1), many = us_of(l, TOGETHER);
      if (r >= 0) l->one[r] = one, l->many[r] = many;
    }
  }
  for (size_t i = first; i < end; i++) {
    Line *l = &lines.at[i];
    qsort(l->one, (size_t)rounds, sizeof(double), by_value);
    qsort(l->many, (size_t)rounds, sizeof(double), by_value);
  }
}

static void time_alone(Line *l) {
  Launch again[TOGETHER];
  l->alone = calloc(l->n + 1, sizeof *l->alone);
  for (size_t c = 0; c < l->n; c++) {
    for (int k = 0; k < TOGETHER; k++) again[k] = l->launches[c];
    for (int r = 0; r < 5; r++) {
      Fence f;
      int64_t ns;
      die(device_timer_start(device), l->name);
      die(device_submit(device, again, TOGETHER, &f), l->name);
      die(device_timer_stop(device, f, &ns), l->name);
      double us = (double)ns / 1e3 / TOGETHER;
      if (r == 0 || us < l->alone[c]) l->alone[c] = us;
    }
  }
}

static void print_line(const Line *l, double difference, int rounds) {
  printf("%-24s %8.2f us, least %8.2f, of %d %8.2f  difference %.1e ", l->name, l->one[rounds / 2],
         l->one[0], TOGETHER, l->many[rounds / 2], difference);
  for (size_t k = 0; k < l->plan.nkernels; k++)
    printf(" %s[%lld,%lld,%lld] %s;", l->plan.kernels[k].name, (long long)l->objects[k].grid[0],
           (long long)l->objects[k].grid[1], (long long)l->objects[k].grid[2], l->objects[k].opts);
  for (size_t c = 0; c < l->n && l->n > 1; c++) printf("%s %.2f", c ? "" : " alone", l->alone[c]);
  printf("\n");
  fflush(stdout);
}

static void run_group(size_t first, size_t end, int rounds) {
  Slots slots = {0};
  char *want[64] = {0};
  double *difference = calloc(end - first + 1, sizeof *difference);
  for (size_t i = first; i < end; i++) {
    Line *l = &lines.at[i];
    if (l->failed) continue;
    place_slots(&slots, l);
    place_constants(l);
    die(device_buffer_alloc(device, (size_t)l->plan.temp_bytes + 1, -1, &l->temp), l->name);
    die(device_buffer_alloc(device, (size_t)l->plan.kept_bytes + 1, -1, &l->kept), l->name);
    make_launches(l, &slots);
    difference[i - first] = run_once(l, &slots, want);
  }
  time_group(first, end, rounds);
  for (size_t i = first; i < end; i++)
    if (!lines.at[i].failed) time_alone(&lines.at[i]);
  for (size_t i = first; i < end; i++) {
    if (lines.at[i].failed)
      printf("%-24s %s\n", lines.at[i].name, lines.at[i].failed);
    else
      print_line(&lines.at[i], difference[i - first], rounds);
  }
  for (size_t i = 0; i < slots.len; i++) device_buffer_free(device, slots.at[i].buffer);
}

static void keep_failure(Line *l, Status st) {
  char text[LINE];
  if (!st) return;
  status_text(st, text, sizeof text);
  status_drop(st);
  l->failed = strdup(text);
}

int main(int argc, char **argv) {
  char text[LINE];
  int rounds = argc > 3 ? atoi(argv[3]) : 15;
  size_t group = 0;
  FILE *f = argc > 2 ? fopen(argv[2], "r") : NULL;
  if (!f || rounds < 1 || rounds > MOST_ROUNDS) {
    fprintf(stderr, "usage: %s DEVICE FILE [ROUNDS]\n", argv[0]);
    return 64;
  }
  die(device_open(argv[1], &device), argv[1]);
  target = local_target(device);
  while (fgets(text, sizeof text, f)) {
    if (text[0] == '#') continue;
    if (text[strspn(text, " \n")] == 0) {
      group++;
      continue;
    }
    if (!vec_push(&lines, ((Line){.text = strdup(text), .group = group}))) abort();
  }
  fclose(f);
  for (size_t i = 0; i < lines.len; i++) keep_failure(&lines.at[i], compile_line(&lines.at[i]));
  die(assemble_all(), "assembling");
  for (size_t i = 0; i < lines.len; i++)
    if (!lines.at[i].failed) keep_failure(&lines.at[i], load_line(&lines.at[i]));
  printf("%s\n", device->caps.description);
  for (size_t i = 0, end; i < lines.len; i = end) {
    for (end = i; end < lines.len && lines.at[end].group == lines.at[i].group;) end++;
    run_group(i, end, rounds);
    printf("\n");
  }
  return 0;
}
