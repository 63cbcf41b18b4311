/* The search for schedules in one process, on the CPU device: propose, compile, check against the
 * heuristic's output, time in turns with the incumbent.
 *
 *   bench_search WHAT... [--budget S] [--threads N] [--want N] [--seed N] [--only NAME]
 *                        [--verbose] [--exhaustive] [--beam] [--transfer] [--suite FIRST N]
 *
 * WHAT is a kernel (mm:128x768x768 mmt: conv:C,H,OC,K,S,P dw:C,H,K,S,P softmax:RxC layernorm:RxC
 * sum:RxCxW (W: 0 rows, 1 columns, 2 all) transpose:RxC add:N), or a model (.onnx, .kgraph), whose
 * kernels share the budget by what they take. --exhaustive times everything that the space starts
 * from too (of a model's kernels a sample), and says how many timings the search needed for 95 % of
 * the best of all. --transfer tunes all kernels given and then each again from the winners of the
 * others, with 6 timings.
 * --suite: instead of WHAT, N of an endless list of small kernels of ten families; each is
 * searched, a sample of its space is timed, and a beam of width 2 walks it. The last line of each
 * says how many timings the search and the beam needed for 95 % of the best that any of the three
 * found. */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/map.h"
#include "compiler/ir/text.h"
#include "compiler/search/internal.h"
#include "tests/bench/bench_kernels.h"
#include "tests/model/local_target.h"

enum {
  ARGS_MAX = 64,
  TRIED_MAX = 4000,
  TRANSFER = 6,
  NEAREST = 3,
  KERNELS_MAX = 512,
  BEAM = 2,
  SAMPLE = 120 /* of a suite's kernel, besides what the search tries */
};

typedef struct Options {
  double budget;
  uint32_t threads;
  size_t want;
  uint64_t seed;
  const char *only; /* kernels of a model */
  bool verbose, exhaustive, transfer, beam;
} Options;

/* A kernel with buffers of its own. */
typedef struct Bench {
  const Options *o;
  Device *device;
  Target target;
  const char *label;
  UOp *kernel;
  Job *job; /* of the kernel */
  uint32_t nargs;
  DType dtype[ARGS_MAX];
  int64_t numel[ARGS_MAX];
  Buffer *buffers[ARGS_MAX];
  void *want; /* what the heuristic's kernel writes */
  Program *heuristic, *best;
  double heuristic_ns, best_ns; /* as measured during the search */
  char *best_opts;
  Evidence tried[TRIED_MAX];
  double found_ns[TRIED_MAX]; /* the best so far, after each timing */
  size_t root[TRIED_MAX];     /* by tried: the first one with the same code */
  size_t ntried, ntimed;
  Map objects;      /* hash of machine code -> index + 1 into tried */
  double search_ns; /* the best that the search itself measured */
  double propose_ns, compile_ns, last_compile_ns;
  size_t rounds;
} Bench;

static void die(Status st) {
  if (!st) return;
  char text[2000];
  status_text(st, text, sizeof text);
  fprintf(stderr, "bench_search: %s\n", text);
  exit(1);
}

/* One thread is measured in CPU time: the machine may be shared. */
static int64_t now_ns(const Bench *b) {
  return b->o->threads == 1 ? clock_cpu_ns() : clock_now_ns();
}

/* -- buffers ----------------------------------------------------------------------------------- */

static void fill(void *to, DType d, int64_t n, uint32_t seed) {
  for (int64_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    double v = (double)(seed >> 8) / 16777216. - .5;
    if (d == DT_F32)
      ((float *)to)[i] = (float)v;
    else if (d == DT_F64)
      ((double *)to)[i] = v;
    else if (dtype_is_float(d))
      scalar_store(d, (Scalar){.f = v}, (char *)to + i * dtype_info[d].bytes);
    else
      memset((char *)to + i * dtype_info[d].bytes, 0, dtype_info[d].bytes);
  }
}

static void make_buffers(Bench *b) {
  UOpList list = uop_toposort(b->job, b->kernel);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    if (u->op != OP_PARAM || u->arg.i >= ARGS_MAX) continue;
    b->dtype[u->arg.i] = (DType)u->dtype;
    b->numel[u->arg.i] = dim_high(u->arg.ints.at[0]);
    if (u->arg.i >= b->nargs) b->nargs = (uint32_t)u->arg.i + 1;
  }
  for (uint32_t a = 0; a < b->nargs; a++) {
    size_t bytes = (size_t)b->numel[a] * dtype_info[b->dtype[a]].bytes;
    die(device_buffer_alloc(b->device, bytes + 64, -1, &b->buffers[a]));
    fill(b->buffers[a]->host, b->dtype[a], b->numel[a], a + 1);
  }
}

static size_t output_bytes(const Bench *b) {
  return (size_t)b->numel[0] * dtype_info[b->dtype[0]].bytes;
}

static bool is_right(const Bench *b) {
  double scale = 1e-6, bad = 0;
  DType d = b->dtype[0];
  if (!dtype_is_float(d)) return !memcmp(b->buffers[0]->host, b->want, output_bytes(b));
  for (int pass = 0; pass < 2; pass++)
    for (int64_t i = 0; i < b->numel[0]; i++) {
      size_t at = (size_t)i * dtype_info[d].bytes;
      double want = scalar_load(d, (char *)b->want + at).f;
      double got = scalar_load(d, (char *)b->buffers[0]->host + at).f;
      if (!pass) {
        scale = fabs(want) > scale && isfinite(want) ? fabs(want) : scale;
        continue;
      }
      double error = want == got || (isnan(want) && isnan(got)) ? 0 : fabs(want - got);
      bad = error > bad || isnan(error) ? error : bad;
    }
  return bad <= 1e-3 * scale;
}

/* -- running ----------------------------------------------------------------------------------- */

static void run(Bench *b, Program *p, int times) {
  LaunchArg args[ARGS_MAX];
  Launch launches[64];
  Fence f;
  for (uint32_t i = 0; i < b->nargs; i++) args[i] = (LaunchArg){b->buffers[i], 0};
  for (int i = 0; i < times; i++)
    launches[i] = (Launch){.program = p, .args = args, .nargs = b->nargs};
  die(device_submit(b->device, launches, (size_t)times, &f));
  die(device_wait(b->device, f, -1));
}

static double sample(Bench *b, Program *p, int times) {
  int64_t t = now_ns(b);
  run(b, p, times);
  return (double)(now_ns(b) - t) / times;
}

static int by_value(const void *x, const void *y) {
  double a = *(const double *)x, c = *(const double *)y;
  return a < c ? -1 : a > c;
}

static double median(double *v, int n) {
  qsort(v, (size_t)n, sizeof *v, by_value);
  return v[n / 2];
}

/* What a program takes in terms of another that is timed in turns with it: the median of the ratios
 * of neighbours, which share what else the machine does. *other: the other one's median. */
static double ratio_to(Bench *b, Program *p, Program *q, int most, double *other) {
  double c[64], ratio[64], first = sample(b, p, 1);
  int times = first > 1e5 ? 1 : first > 2e4 ? 4 : first > 2000 ? 16 : 64;
  int reps = first > 1e8 ? 3 : first > 1e7 ? 5 : most;
  for (int i = 0; i < reps; i++) {
    c[i] = sample(b, q, times);
    ratio[i] = sample(b, p, times) / c[i];
    if (i == 1 && fmin(ratio[0], ratio[1]) > 2) reps = 2; /* no need to know how bad */
  }
  *other = median(c, reps);
  return median(ratio, reps);
}

/* NULL when it cannot be compiled; *again: place of equal machine code among the tried, or -1. */
static Program *build(Bench *b, const char *opts, int *again) {
  KernelObject k;
  int64_t t = clock_now_ns();
  Status st = compile_kernel(b->job, b->kernel, "kernel", &b->target, opts, &k);
  *again = -1;
  if (st) {
    char why[400];
    status_text(st, why, sizeof why);
    if (b->o->verbose) printf("  %s: %s\n", opts, why);
    status_drop(st);
    return NULL;
  }
  uint64_t h = hash_bytes(k.object.ptr, k.object.len) ^ k.threads;
  void *found = map_find(&b->objects, h);
  if (found) *again = (int)(intptr_t)found - 1;
  if (!found) map_put(&b->objects, h, (void *)(intptr_t)(b->ntried + 1));
  ProgramSpec spec = {.image = {(uint8_t *)k.object.ptr, k.object.len},
                      .entry = k.entry,
                      .threads = k.threads,
                      .scratch_bytes = k.scratch_bytes};
  Program *p = NULL;
  if (*again < 0) die(device_program_load(b->device, &spec, &p));
  strbuf_deinit(&k.object);
  b->last_compile_ns = (double)(clock_now_ns() - t);
  b->compile_ns += b->last_compile_ns;
  return p;
}

/* -- one candidate ----------------------------------------------------------------------------- */

static void note(Bench *b, const char *opts, double ns, int cause, int again) {
  if (b->ntried == TRIED_MAX) return;
  b->root[b->ntried] = again >= 0 ? b->root[again] : b->ntried;
  b->tried[b->ntried++] = (Evidence){
      .opts = strdup(opts), .median_ns = (int64_t)ns + 1, .mad_ns = 1, .reps = 5, .cause = cause};
}

static void take(Bench *b, Program *p, const char *opts, double ns) {
  if (b->best && b->best != b->heuristic) device_program_free(b->device, b->best);
  b->best = p;
  b->best_ns = ns;
  free(b->best_opts);
  b->best_opts = strdup(opts);
}

/* Times are in units of the heuristic's, which is timed in turns with the candidate: a machine that
 * slows down slows both, and luck does not add up. */
static void try_candidate(Bench *b, const char *opts, int64_t predicted) {
  int again;
  Program *p = build(b, opts, &again);
  if (!p && again >= 0 && (size_t)again < b->ntried) {
    note(b, opts, (double)b->tried[again].median_ns, b->tried[again].cause, again);
    return;
  }
  if (!p) {
    note(b, opts, 0, again >= 0 ? EV_MEASURED : EV_COMPILE_ERROR, -1);
    return;
  }
  memset(b->buffers[0]->host, 0xff, output_bytes(b));
  run(b, p, 1);
  bool right = is_right(b);
  double other, ns = b->heuristic_ns * ratio_to(b, p, b->heuristic, 9, &other);
  note(b, opts, ns, right ? EV_MEASURED : EV_WRONG_RESULT, -1);
  if (!right) printf("  WRONG %s %s\n", b->label, opts);
  if (b->o->verbose)
    printf("  %4zu %10.1f us predicted %10.1f compiled in %5.0f ms  %s%s\n", b->ntried, ns / 1e3,
           (double)predicted / 1e3, b->last_compile_ns / 1e6, opts, ns < b->best_ns ? "  *" : "");
  if (right && ns < b->best_ns)
    take(b, p, opts, ns);
  else
    device_program_free(b->device, p);
  if (b->ntimed < TRIED_MAX) b->found_ns[b->ntimed++] = b->best_ns;
}

static void start(Bench *b) {
  int again;
  make_buffers(b);
  b->want = malloc(output_bytes(b) + 1);
  b->heuristic = build(b, NULL, &again);
  if (!b->heuristic || !b->want) die(FAIL(INTERNAL, "no heuristic kernel"));
  map_deinit(&b->objects); /* the heuristic's list is to be timed by its name too */
  b->objects = (Map){0};
  memset(b->buffers[0]->host, 0xff, output_bytes(b)); /* kernels may write a part only */
  run(b, b->heuristic, 1);
  memcpy(b->want, b->buffers[0]->host, output_bytes(b));
  b->best = b->heuristic;
  ratio_to(b, b->heuristic, b->heuristic, 9, &b->heuristic_ns);
  b->best_ns = b->heuristic_ns;
  b->best_opts = strdup("");
}

static void finish(Bench *b) {
  if (b->best != b->heuristic) device_program_free(b->device, b->best);
  device_program_free(b->device, b->heuristic);
  for (uint32_t a = 0; a < b->nargs; a++) device_buffer_free(b->device, b->buffers[a]);
  for (size_t i = 0; i < b->ntried; i++) free((void *)(uintptr_t)b->tried[i].opts);
  map_deinit(&b->objects);
  free(b->want);
  free(b->best_opts);
}

/* A round of proposals; false when the search is over. */
static bool one_round(Bench *b, size_t want, const char *const *hints, size_t nhints) {
  Candidate out[SEARCH_MAX_WANT];
  Job job;
  size_t n;
  /* A job for the search alone: what it makes is not wanted afterwards. */
  job_init(&job, (size_t)1 << 30);
  StrBuf bytes = {0};
  uop_serialize(b->job, b->kernel, &bytes);
  UOp *kernel;
  die(uop_deserialize(&job, (Bytes){(uint8_t *)bytes.ptr, bytes.len}, &kernel));
  strbuf_deinit(&bytes);
  SearchInput in = {.kernel = kernel,
                    .target = &b->target,
                    .tried = b->tried,
                    .ntried = b->ntried,
                    .hints = hints,
                    .nhints = nhints,
                    .want = want,
                    .seed = b->o->seed};
  int64_t t = clock_cpu_ns();
  die(search_propose(&job, &in, out, &n));
  b->propose_ns += (double)(clock_cpu_ns() - t);
  if (b->o->verbose)
    printf("  proposed %zu in %.1f ms, %.1f MiB, after %zu\n", n,
           (double)(clock_cpu_ns() - t) / 1e6, (double)job.arena.used / 1048576, b->ntried);
  b->rounds++;
  for (size_t i = 0; i < n; i++) try_candidate(b, out[i].opts, out[i].predicted_ns);
  job_deinit(&job);
  return n > 0;
}

static void search(Bench *b, double budget) {
  int64_t until = clock_now_ns() + (int64_t)(budget * 1e9);
  while (clock_now_ns() < until && b->ntried + b->o->want < TRIED_MAX)
    if (!one_round(b, b->o->want, NULL, 0)) break;
}

/* -- reports ----------------------------------------------------------------------------------- */

static size_t timings_to(const Bench *b, double ns) {
  for (size_t i = 0; i < b->ntimed; i++)
    if (b->found_ns[i] <= ns) return i + 1;
  return b->ntimed;
}

static int by_time(const void *x, const void *y) {
  const Evidence *const *a = x, *const *c = y;
  return (*a)->median_ns < (*c)->median_ns ? -1 : (*a)->median_ns > (*c)->median_ns;
}

/* The fastest few once more, for longer: the best of many measurements was also a lucky one. */
static void confirm(Bench *b) {
  const Evidence *list[TRIED_MAX];
  size_t n = 0;
  double most = 0.985, other; /* a gain within the noise is none */
  for (size_t i = 0; i < b->ntried; i++)
    if (b->tried[i].cause == EV_MEASURED) list[n++] = &b->tried[i];
  qsort(list, n, sizeof *list, by_time);
  if (b->best != b->heuristic) device_program_free(b->device, b->best);
  b->best = b->heuristic;
  for (size_t i = 0; i < n && i < 4; i++) {
    int again;
    map_deinit(&b->objects);
    b->objects = (Map){0};
    Program *p = build(b, list[i]->opts, &again);
    double ratio = p ? ratio_to(b, p, b->heuristic, 21, &other) : 2;
    if (p && ratio < most) {
      most = ratio;
      take(b, p, list[i]->opts, b->heuristic_ns * ratio);
    } else if (p) {
      device_program_free(b->device, p);
    }
  }
  if (b->best != b->heuristic) return;
  b->best_ns = b->heuristic_ns;
  free(b->best_opts);
  b->best_opts = strdup("");
}

static double report(Bench *b) {
  SearchCost c;
  b->search_ns = b->best_ns;
  confirm(b);
  double other, ns = ratio_to(b, b->best, b->heuristic, 25, &other) * other;
  die(search_cost(b->job, b->kernel, &b->target, b->best == b->heuristic ? NULL : b->best_opts,
                  &c));
  printf(
      "%-28s %9.1f us heuristic %9.1f us best %5.2fx  %5.1f GF/s %4.0f%% of roofline predicted "
      "%8.1f us  %3zu timed (%zu to 99%%) %zu rounds, propose %.1f ms compile %.1f ms each  %s\n",
      b->label, other / 1e3, ns / 1e3, other / ns, (double)c.flops / ns,
      100 * (double)c.roofline_ns / ns, (double)c.predicted_ns / 1e3, b->ntimed,
      timings_to(b, b->best_ns / 0.99), b->rounds,
      b->propose_ns / 1e6 / (double)(b->rounds ? b->rounds : 1),
      b->compile_ns / 1e6 / (double)(b->ntried + 1), b->best_opts);
  fflush(stdout);
  return other / ns;
}

typedef struct Everything {
  Bench *b;
  Job *job;
  size_t n;
} Everything;

static void try_point(void *ctx, const Point *p) {
  Everything *e = ctx;
  StrBuf text = {0};
  OptList list = {(Opt *)(uintptr_t)p->at, p->len, p->len};
  opts_print(&list, &text);
  bool known = false;
  for (size_t i = 0; i < e->b->ntried; i++)
    known |= !strcmp(e->b->tried[i].opts, text.ptr ? text.ptr : "");
  if (!known && e->b->ntried < TRIED_MAX) {
    try_candidate(e->b, text.ptr ? text.ptr : "", (int64_t)p->predicted);
    e->n++;
  }
  strbuf_deinit(&text);
}

/* The times of different pieces of code in the order in which a way to search came to them. */
typedef struct Walk {
  bool seen[TRIED_MAX]; /* by root */
  double ns[TRIED_MAX];
  size_t n;
} Walk;

static void walk_add(Walk *w, const Bench *b, const Evidence *e) {
  size_t root = b->root[e - b->tried];
  if (w->seen[root]) return;
  w->seen[root] = true;
  w->ns[w->n++] = (double)e->median_ns;
}

typedef struct SpaceArgs {
  Everything *e;
  Space space;
  Bench *b;
  Walk *walk;
} SpaceArgs;

static void seeds_steps(Job *job, void *arg) {
  SpaceArgs *a = arg;
  search_space_init(&a->space, job, a->b->kernel, &a->b->target);
  OptList list = {0};
  Status st = opts_parse(job, str_from(a->b->best_opts), &list);
  Point best;
  status_drop(st);
  /* Collected first: compiling runs the job itself. */
  bool ok = search_space_point(&a->space, list.at, list.len, &best);
  search_seeds(&a->space, try_point, a->e);
  if (ok) search_space_near(&a->space, &best, try_point, a->e);
}

static const Evidence *evidence_of(const Bench *b, const Point *p) {
  StrBuf text = {0};
  const Evidence *found = NULL;
  OptList list = {(Opt *)(uintptr_t)p->at, p->len, p->len};
  opts_print(&list, &text);
  for (size_t i = 0; i < b->ntried && !found; i++)
    if (!strcmp(b->tried[i].opts, text.ptr ? text.ptr : "")) found = &b->tried[i];
  strbuf_deinit(&text);
  return found;
}

typedef struct Beam {
  Everything *e;
  int64_t until;
  Point at[BEAM], next[BEAM];
  int64_t ns[BEAM];
  size_t n, nnext;
  Walk *walk; /* optional */
} Beam;

static void beam_point(void *ctx, const Point *p) {
  Beam *m = ctx;
  if (clock_now_ns() > m->until) return;
  try_point(m->e, p);
  const Evidence *found = evidence_of(m->e->b, p);
  if (!found || found->cause != EV_MEASURED) return;
  if (m->walk) walk_add(m->walk, m->e->b, found);
  size_t at = m->nnext < BEAM ? m->nnext++ : BEAM;
  for (; at > 0 && found->median_ns < m->ns[at - 1]; at--)
    if (at < BEAM) m->next[at] = m->next[at - 1], m->ns[at] = m->ns[at - 1];
  if (at < BEAM) m->next[at] = *p, m->ns[at] = found->median_ns;
}

/* From no opts at all: every legal step of the best two is timed, until none gains 1 %. */
static void beam_steps(Job *job, void *arg) {
  SpaceArgs *a = arg;
  Beam m = {.e = a->e,
            .until = clock_now_ns() + (int64_t)(4e9 * a->b->o->budget),
            .n = 1,
            .walk = a->walk};
  int64_t best = INT64_MAX;
  search_space_init(&a->space, job, a->b->kernel, &a->b->target);
  if (!search_space_point(&a->space, NULL, 0, &m.at[0])) return;
  for (;;) {
    m.nnext = 0;
    for (size_t i = 0; i < m.n; i++) {
      a->space.work = 0;
      search_space_near(&a->space, &m.at[i], beam_point, &m);
    }
    if (!m.nnext || (double)m.ns[0] > 0.99 * (double)best || clock_now_ns() > m.until) return;
    best = m.ns[0];
    m.n = m.nnext;
    memcpy(m.at, m.next, sizeof m.at);
  }
}

/* The same kernel searched in another way. A job of its own makes the points: compiling runs the
 * kernel's. */
static void search_by(Bench *b, JobFn how, Walk *walk) {
  Job job;
  job_init(&job, (size_t)2 << 30);
  StrBuf bytes = {0};
  Bench copy = *b;
  uop_serialize(b->job, b->kernel, &bytes);
  die(uop_deserialize(&job, (Bytes){(uint8_t *)bytes.ptr, bytes.len}, &copy.kernel));
  strbuf_deinit(&bytes);
  Everything e = {.b = b, .job = &job};
  SpaceArgs *a = calloc(1, sizeof *a);
  a->e = &e, a->b = &copy, a->walk = walk;
  b->best_ns = 1e18;
  die(job_run(&job, how, a));
  free(a);
  job_deinit(&job);
}

static void compare(Bench *b, JobFn how, const char *name) {
  size_t timed = b->ntimed;
  double found = b->search_ns;
  search_by(b, how, NULL);
  double other = b->best_ns, most = fmin(other, found);
  size_t mine = 0, its = timed;
  while (mine < timed && b->found_ns[mine] > most / 0.95) mine++;
  while (its < b->ntimed && b->found_ns[its] > most / 0.95) its++;
  printf("%-28s %s, %zu more timings: %9.1f us, search %9.1f us = %.1f%%; to 95%% of the better: "
         "search %zu%s, %s %zu%s\n",
         b->label, name, b->ntimed - timed, other / 1e3, found / 1e3, 100 * other / found, mine + 1,
         mine < timed ? "" : " (not reached)", name, its - timed + 1,
         its < b->ntimed ? "" : " (not reached)");
  fflush(stdout);
}

/* -- what to tune ------------------------------------------------------------------------------ */

static UOp *kernel_of(Job *job, const char *what) {
  UOp *kernel = bench_kernel(job, what);
  if (!kernel) die(FAIL(INVALID_ARGUMENT, "'%s' is no kernel and no model", what));
  return kernel;
}

static double tune(Bench *b, double budget) {
  start(b);
  search(b, budget);
  double gain = report(b);
  if (b->o->exhaustive) compare(b, seeds_steps, "exhaustive");
  if (b->o->beam) compare(b, beam_steps, "beam");
  return gain;
}

/* -- a suite ----------------------------------------------------------------------------------- */

/* A part of what the space starts from and of the neighbours of all that. */
static void sample_point(void *ctx, const Point *p) {
  Everything *e = ctx;
  if (e->n < SAMPLE && hash_u64(p->key) % 4 == 0) try_point(e, p);
}

static void sample_steps(Job *job, void *arg) {
  SpaceArgs *a = arg;
  OptList list = {0};
  Point best;
  search_space_init(&a->space, job, a->b->kernel, &a->b->target);
  search_seeds(&a->space, sample_point, a->e);
  Status st = opts_parse(job, str_from(a->b->best_opts), &list);
  if (!st && search_space_point(&a->space, list.at, list.len, &best))
    search_space_near(&a->space, &best, sample_point, a->e);
  status_drop(st);
}

static size_t timings_within(const double *ns, size_t n, double most) {
  size_t i = 0;
  while (i < n && ns[i] > most) i++;
  return i + 1;
}

static void suite(const Options *o, Device *device, const Target *target, int first, int n) {
  double searched = 0, beamed = 0;
  int short_of[2] = {0};
  for (int i = first; i < first + n; i++) {
    char label[64];
    Job job;
    Bench *b = calloc(1, sizeof *b);
    Walk *walk = calloc(1, sizeof *walk);
    bench_suite(i, label, sizeof label);
    job_init(&job, (size_t)4 << 30);
    *b = (Bench){.o = o, .device = device, .target = *target, .label = label, .job = &job};
    b->kernel = kernel_of(&job, label);
    start(b);
    search(b, o->budget);
    size_t timed = b->ntimed;
    search_by(b, sample_steps, NULL);
    search_by(b, beam_steps, walk);
    confirm(b);
    size_t s = timings_within(b->found_ns, timed, b->best_ns / 0.95);
    size_t w = timings_within(walk->ns, walk->n, b->best_ns / 0.95);
    printf("%3d %-24s best %8.1f us; timings to 95%% of it: search %zu%s, beam %zu%s, of %zu\n", i,
           label, b->best_ns / 1e3, s, s > timed ? " (not reached)" : "", w,
           w > walk->n ? " (not reached)" : "", b->ntimed);
    fflush(stdout);
    searched += log((double)s), beamed += log((double)w);
    short_of[0] += s > timed, short_of[1] += w > walk->n;
    finish(b);
    job_deinit(&job);
    free(walk);
    free(b);
  }
  printf(
      "suite %d-%d: %.2f timings by the search (%d not reached), %.2f by the beam (%d), geometric "
      "means: %.1fx\n",
      first, first + n - 1, exp(searched / n), short_of[0], exp(beamed / n), short_of[1],
      exp((beamed - searched) / n));
}

/* -- models ------------------------------------------------------------------------------------ */

static Bytes map_file(const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &st)) die(FAIL(NOT_FOUND, "cannot open %s", path));
  void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  return (Bytes){p, (size_t)st.st_size};
}

/* What the search found, or what is better in a sample of its space and of the winner's neighbours.
 */
static double sampled_gain(Bench *b, double gain) {
  double other;
  size_t timed = b->ntimed;
  search_by(b, sample_steps, NULL);
  confirm(b);
  double found = 1 / ratio_to(b, b->best, b->heuristic, 25, &other);
  printf("%-28s a sample of %zu: %.2fx\n", b->label, b->ntimed - timed, found);
  return fmax(found, gain);
}

/* Every kernel of a model; the budget goes by what a kernel takes in a run. */
static void tune_model(const Options *o, Device *device, const Target *target, const char *path) {
  Job job;
  TensorGraph graph;
  Plan plan;
  FrontendOptions options = {.kind = strstr(path, ".kgraph") ? MODEL_KGRAPH : MODEL_ONNX};
  job_init(&job, (size_t)8 << 30);
  Bytes model = map_file(path);
  die(compile_frontend(&job, model, &options, &graph));
  die(compile_plan(&job, &graph, target, &plan));
  static Bench *all[KERNELS_MAX];
  double calls[KERNELS_MAX] = {0}, total = 0, before = 0, after = 0, longer = 0;
  size_t n = plan.nkernels < KERNELS_MAX ? plan.nkernels : KERNELS_MAX;
  for (size_t i = plan.nonce; i < plan.ncalls; i++)
    if (plan.calls[i].kernel < n) calls[plan.calls[i].kernel]++;
  for (size_t i = 0; i < n; i++) {
    if (!calls[i] || plan.kernels[i].nvars || plan.kernels[i].nargs > ARGS_MAX) continue;
    if (o->only && strcmp(o->only, plan.kernels[i].name)) continue;
    Bench *b = all[i] = calloc(1, sizeof *b);
    *b = (Bench){.o = o,
                 .device = device,
                 .target = *target,
                 .label = plan.kernels[i].name,
                 .kernel = plan.kernels[i].sink,
                 .job = &job};
    start(b);
    total += calls[i] * b->heuristic_ns;
  }
  for (size_t i = 0; i < n; i++) {
    Bench *b = all[i];
    if (!b) continue;
    search(b, o->budget * calls[i] * b->heuristic_ns / total);
    double gain = report(b);
    before += calls[i] * b->heuristic_ns, after += calls[i] * b->heuristic_ns / gain;
    if (o->exhaustive) gain = sampled_gain(b, gain);
    longer += calls[i] * b->heuristic_ns / gain;
    finish(b);
    free(b);
  }
  printf("%s: %.3f ms heuristic, %.3f ms tuned, %.2fx (sums of kernels)\n", path, before / 1e6,
         after / 1e6, before / after);
  if (o->exhaustive)
    printf("%s: %.3f ms by the better of that and a sample of the space\n", path, longer / 1e6);
  strbuf_deinit(&graph.constants);
  job_deinit(&job);
}

/* -- transfer ---------------------------------------------------------------------------------- */

/* The kernel again, from the winners of its nearest neighbours in the class, with few timings. */
static double again(Bench *all, size_t n, size_t i) {
  const char *hints[NEAREST];
  double distance[NEAREST];
  size_t nhints = 0;
  SearchClass mine, other;
  die(search_class(all[i].job, all[i].kernel, &mine));
  for (size_t k = 0; k < n; k++) {
    die(search_class(all[k].job, all[k].kernel, &other));
    bool same = mine.bytes.len == other.bytes.len &&
                !memcmp(mine.bytes.ptr, other.bytes.ptr, mine.bytes.len);
    if (k == i || !same || !*all[k].best_opts) continue;
    double d = search_distance(mine.axes, other.axes, mine.naxes);
    size_t at = nhints < NEAREST ? nhints++ : NEAREST;
    for (; at > 0 && distance[at - 1] > d; at--)
      if (at < NEAREST) hints[at] = hints[at - 1], distance[at] = distance[at - 1];
    if (at < NEAREST) hints[at] = all[k].best_opts, distance[at] = d;
  }
  Bench *b = calloc(1, sizeof *b);
  *b = (Bench){.o = all[i].o,
               .device = all[i].device,
               .target = all[i].target,
               .label = all[i].label,
               .kernel = all[i].kernel,
               .job = all[i].job};
  start(b);
  one_round(b, TRANSFER, hints, nhints);
  confirm(b);
  double tuned, share = 1 / ratio_to(b, b->best, all[i].best, 25, &tuned);
  printf("%-28s %zu hints, %zu timings: %5.1f%% of tuned  %s\n", b->label, nhints, b->ntimed,
         100 * share, b->best_opts);
  finish(b);
  free(b);
  return share;
}

int main(int argc, char **argv) {
  Options o = {.budget = 10, .threads = 1, .want = 8, .seed = 1};
  Bench *all = calloc((size_t)argc, sizeof *all);
  Device *device = NULL;
  Job job;
  size_t n = 0;
  for (int i = 1; i < argc; i++) {
    Str a = str_from(argv[i]);
    if (str_is(a, "--budget") && i + 1 < argc) o.budget = atof(argv[++i]);
    if (str_is(a, "--threads") && i + 1 < argc) o.threads = (uint32_t)atoi(argv[++i]);
    if (str_is(a, "--want") && i + 1 < argc) o.want = (size_t)atoi(argv[++i]);
    if (str_is(a, "--seed") && i + 1 < argc) o.seed = (uint64_t)atoll(argv[++i]);
    if (str_is(a, "--only") && i + 1 < argc) o.only = argv[++i];
    o.verbose |= str_is(a, "--verbose");
    o.exhaustive |= str_is(a, "--exhaustive");
    o.transfer |= str_is(a, "--transfer");
    o.beam |= str_is(a, "--beam");
  }
  job_init(&job, (size_t)16 << 30);
  die(device_cpu_create(o.threads, &device));
  Target target = local_target(device);
  double gains = 0, worst = 1, product = 0;
  for (int i = 1; i < argc; i++) {
    const char *what = argv[i];
    if (!strcmp(what, "--suite") && i + 2 < argc) {
      suite(&o, device, &target, atoi(argv[i + 1]), atoi(argv[i + 2]));
      i += 2;
      continue;
    }
    if (*what == '-') {
      i += !strcmp(what, "--budget") || !strcmp(what, "--threads") || !strcmp(what, "--want") ||
           !strcmp(what, "--seed") || !strcmp(what, "--only");
      continue;
    }
    if (strstr(what, ".onnx") || strstr(what, ".kgraph")) {
      tune_model(&o, device, &target, what);
      continue;
    }
    Bench *b = &all[n++];
    *b = (Bench){.o = &o,
                 .device = device,
                 .target = target,
                 .label = what,
                 .kernel = kernel_of(&job, what),
                 .job = &job};
    gains += log(tune(b, o.budget));
  }
  if (n > 1)
    printf("%zu kernels: %.3fx the heuristic, geometric mean\n", n, exp(gains / (double)n));
  for (size_t i = 0; o.transfer && i < n; i++) {
    double share = again(all, n, i);
    product += log(share), worst = fmin(worst, share);
  }
  if (o.transfer && n)
    printf("transfer: %.1f%% of tuned, geometric mean; worst %.1f%%\n",
           100 * exp(product / (double)n), 100 * worst);
  for (size_t i = 0; i < n; i++) finish(&all[i]);
  free(all);
  job_deinit(&job);
  device_destroy(device);
  return 0;
}
