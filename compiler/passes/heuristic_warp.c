/* The schedule of a contraction on a device with matrix instructions, for sizes nobody has tuned.
 *
 * Both factors are staged for a tile of the output that a workgroup of warps computes, some
 * iterations ahead. The tile is the one of a short list that the model below expects to be done
 * first: tiles run in waves over the processors, so a large tile that leaves processors idle in the
 * last wave loses to a smaller one; a tile's time is that of its instructions, more for small
 * tiles, which load more for each product. Every opt is tried: one that is not legal is left out,
 * but for the instruction itself. */
#include "compiler/passes/heuristic_warp.h"

#include "compiler/passes/collapse.h"
#include "compiler/passes/linsum.h"

enum {
  LEAST_SIZE = 16,
  GROUPS_MAX = 4,
  FEW_STEPS = 4,
  LONG_SUM = 512,
  SHORT_ROW = 256, /* bytes of a row that is taken in one step */
};

/* Steps of a sum that are staged together, in bytes of a row, and how many such stages there are:
 * long steps have fewer barriers, short sums end before many stages are filled. */
static int64_t step_bytes(int64_t sum) { return sum >= LONG_SUM ? 128 : 64; }
static int64_t places_for(int64_t sum) { return sum >= LONG_SUM ? 3 : 4; }

/* Tile of a workgroup: warps times what each computes, in rows of 16 and columns of 8. */
typedef struct Tile {
  int64_t m, n;     /* elements */
  int64_t wm, wn;   /* warps */
  int64_t resident; /* workgroups that a processor holds */
} Tile;

static const Tile tiles[] = {
    {256, 128, 4, 2, 1}, {128, 256, 2, 4, 1}, {128, 128, 2, 4, 2}, {128, 64, 4, 2, 3},
    {64, 128, 2, 4, 3},  {64, 64, 2, 2, 6},   {64, 32, 2, 2, 8},   {32, 64, 2, 2, 8},
    {32, 32, 2, 2, 12},  {16, 128, 1, 4, 8},  {16, 64, 1, 4, 12},  {16, 32, 1, 4, 16},
    {64, 16, 4, 1, 12},  {16, 8, 1, 1, 24},
};
enum { TILES = sizeof tiles / sizeof *tiles };

typedef struct Ctx {
  Job *job;
  const KernelInfo *k;
  const Target *target;
  OptList *opts;
  OptPlan plan; /* of what was legal last */
  /* Instead of what the rules of thumb say; 0: what they say. */
  int64_t places, groups;
  bool other_copies; /* than are expected to be sooner */
  bool one_tile;     /* of a workgroup, and no PERSIST */
} Ctx;

static bool try_opt(Ctx *c, OptKind kind, int64_t axis, int64_t arg) {
  OptPlan plan;
  opts_push(c->job, c->opts, kind, (int)axis, arg);
  Status st = opts_plan(c->job, c->k, c->target, c->opts, &plan);
  if (st) {
    c->opts->len--;
    status_drop(st);
    return false;
  }
  c->plan = plan;
  return true;
}

static int64_t size_of(const Ctx *c, int64_t axis) { return c->k->axes[axis].size; }

/* -- which axes ---------------------------------------------------------------------------------
 */

/* How many accesses walk memory along the axis one element at a time. */
static int contiguous_along(const Ctx *c, LinSumMap *sums, const UOp *root, uint32_t axis) {
  UOpList list = uop_toposort(c->job, (UOp *)(uintptr_t)root);
  int n = 0;
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    bool access = u->op == OP_INDEX || u->op == OP_STORE;
    if (access && linsum_coeff(linsum_of(sums, u->src[1]), c->k->axes[axis].range) == 1) n++;
  }
  return n;
}

/* The output axis on which of both factors only this one depends: where it is contiguous, else the
 * largest. */
static int own_axis(const Ctx *c, LinSumMap *sums, const UOp *factor, const UOp *other) {
  int best = -1;
  int64_t most = 0;
  for (uint32_t i = 0; i < c->k->nloops; i++) {
    uint32_t a = (uint32_t)c->k->loops[i]->arg.i;
    if (!kernel_depends(factor, a) || kernel_depends(other, a)) continue;
    int64_t score = size_of(c, a) < LEAST_SIZE ? size_of(c, a) : LEAST_SIZE;
    score = score * 4 + contiguous_along(c, sums, c->k->store, a) * 2;
    if (best < 0 || score > most || (score == most && size_of(c, a) > size_of(c, best)))
      best = (int)a, most = score;
  }
  return best;
}

static int sum_axis(const Ctx *c, LinSumMap *sums, const UOp *reduce) {
  int best = -1;
  int64_t most = 0;
  for (uint32_t s = 1; s < reduce->nsrc; s++) {
    uint32_t a = (uint32_t)reduce->src[s]->arg.i;
    int64_t score = contiguous_along(c, sums, reduce->src[0], a);
    score += size_of(c, a) >= LEAST_SIZE ? 4 : 0;
    if (best < 0 || score > most || (score == most && size_of(c, a) > size_of(c, best)))
      best = (int)a, most = score;
  }
  return best;
}

static const UOp *main_sum(const Ctx *c) {
  const UOp *best = NULL;
  double most = 0;
  for (size_t i = 0; i < c->k->list.len; i++) {
    const UOp *u = c->k->list.at[i];
    if (u->op != OP_REDUCE || u->arg.i != OP_ADD || u->src[0]->op != OP_MUL) continue;
    double work = 1;
    for (uint32_t j = 0; u->src[0]->open && j < u->src[0]->open->n; j++)
      work *= (double)size_of(c, u->src[0]->open->at[j]->arg.i);
    if (!best || work > most) best = u, most = work;
  }
  return best;
}

/* -- the tile -----------------------------------------------------------------------------------
 */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* A product of few rows waits for memory alone: for what all workgroups read, and for those that
 * have more of them than others. */
static bool has_few_rows(int64_t m) { return m <= LEAST_SIZE; }

static double memory_time(const Tile *t, int64_t groups, int64_t processors) {
  int64_t each = ceil_div(groups, processors);
  double uneven = (double)(each * processors) / (double)groups;
  return (1 + (double)t->m / (double)t->n) * uneven;
}

static double expected_time(const Ctx *c, const Tile *t, int64_t m, int64_t n, int64_t batch) {
  int64_t groups = ceil_div(m, t->m) * ceil_div(n, t->n) * batch;
  int64_t processors = c->target->threads ? c->target->threads : 1;
  if (has_few_rows(m)) return memory_time(t, groups, processors);
  int64_t each = ceil_div(groups, processors); /* for the busiest processor */
  double one = (double)(t->m * t->n) * (1 + 24.0 / (double)t->m + 24.0 / (double)t->n);
  /* A processor that holds few warps waits for its instructions. */
  int64_t warps = t->wm * t->wn * (each < t->resident ? each : t->resident);
  return one * (double)each * (warps < 8 ? 8.0 / (double)warps : 1);
}

/* The tiles that fit, the one that is expected to be done first first. */
static uint32_t rank_tiles(const Ctx *c, int64_t m, int64_t n, int64_t batch, const Tile **out) {
  double time[TILES];
  uint32_t count = 0;
  for (size_t i = 0; i < TILES; i++) {
    const Tile *t = &tiles[i];
    if ((t->m > m || t->n > n) && (t->m > LEAST_SIZE || t->n > 8)) continue;
    double x = expected_time(c, t, m, n, batch);
    uint32_t at = count++;
    for (; at > 0 && time[at - 1] > x; at--) time[at] = time[at - 1], out[at] = out[at - 1];
    time[at] = x, out[at] = t;
  }
  return count;
}

static int64_t batch_of(const Ctx *c, int64_t m, int64_t n) {
  int64_t all = 1;
  for (uint32_t i = 0; i < c->k->nloops; i++) {
    int64_t a = c->k->loops[i]->arg.i;
    if (a != m && a != n && all < (int64_t)1 << 40) all *= size_of(c, a);
  }
  return all;
}

/* -- the list -----------------------------------------------------------------------------------
 */

static bool try_instruction(Ctx *c, int64_t id, int64_t m, int64_t n, int64_t k) {
  const MatrixInfo *info = matrix_info(id);
  size_t before = c->opts->len;
  const int64_t axis[3] = {m, n, k};
  int64_t step = step_bytes(size_of(c, k)) / dtype_info[info->dtype[MATRIX_A]].bytes;
  const int64_t unit[3] = {info->m, info->n, size_of(c, k) >= step ? step : info->k};
  for (int i = 0; i < 3; i++) {
    const KernelAxis *a = &c->k->axes[axis[i]];
    bool fits = i == 2 ? a->divisor % unit[i] == 0 : a->least >= unit[i];
    if (!fits) try_opt(c, OPT_PADTO, axis[i], unit[i]);
  }
  if (try_opt(c, OPT_TC, m, opt_tc_arg(id, (uint32_t)n, (uint32_t)k))) return true;
  c->opts->len = before;
  return false;
}

static void stage_factors(Ctx *c, int64_t k) {
  for (int f = 0; f < 2; f++)
    for (uint32_t i = 0; i < c->k->nstageable; i++)
      if (c->k->stageable[i] == c->plan.matrix.factor[f]) try_opt(c, OPT_STAGE, k, i);
  int64_t places = places_for(size_of(c, k));
  if (c->places) places = c->places;
  if (c->plan.axes[k].outer == 1) return; /* there is no next step to copy for */
  for (; c->plan.nstages && places > 1; places--)
    if (try_opt(c, OPT_PIPELINE, k, places)) break;
}

/* Few tiles: several groups of warps share the sum. */
static void share_sum(Ctx *c, const Tile *t, int64_t m, int64_t n, int64_t k) {
  int64_t groups = ceil_div(size_of(c, m), t->m) * ceil_div(size_of(c, n), t->n);
  groups *= batch_of(c, m, n);
  int64_t steps = c->plan.axes[k].outer;
  if (c->groups) {
    if (c->groups > 1) try_opt(c, OPT_GROUP, k, c->groups);
    return;
  }
  if (2 * groups > (int64_t)c->target->threads || t->wm * t->wn > 4) return;
  for (int64_t g = GROUPS_MAX; g > 1; g /= 2)
    if (steps % g == 0 && steps / g >= FEW_STEPS && try_opt(c, OPT_GROUP, k, g)) return;
}

static void give_tile(Ctx *c, const Tile *t, int64_t m, int64_t n, int64_t k) {
  const MatrixInfo *info = c->plan.matrix.info;
  int64_t per_m = t->m / t->wm / info->m, per_n = t->n / t->wn / info->n;
  int64_t item = dtype_info[info->dtype[MATRIX_A]].bytes;
  int64_t step = step_bytes(size_of(c, k)) / item / info->k, all = c->plan.axes[k].outer;
  if (per_m > 1) try_opt(c, OPT_UPCAST, m, per_m);
  if (per_n > 1) try_opt(c, OPT_UPCAST, n, per_n);
  bool few = has_few_rows(c->plan.axes[m].size), longer = false;
  if (few && all * info->k * item <= SHORT_ROW) longer = all > 1 && try_opt(c, OPT_UNROLL, k, all);
  if (few && !longer) longer = try_opt(c, OPT_UNROLL, k, 2 * step);
  if (step > 1 && !longer) try_opt(c, OPT_UNROLL, k, step);
  if (t->wm > 1) try_opt(c, OPT_LOCAL, m, t->wm);
  if (t->wn > 1) try_opt(c, OPT_LOCAL, n, t->wn);
  share_sum(c, t, m, n, k);
  stage_factors(c, k);
}

/* The axes of the main sum of products; false when there is none that is worth a tile. */
static bool find_axes(Ctx *c, int *m, int *n, int *r) {
  const KernelInfo *k = c->k;
  const UOp *sum = c->target->warp > 1 && k->store ? main_sum(c) : NULL;
  LinSumMap sums;
  if (!sum) return false;
  linsum_init(c->job, &sums);
  for (size_t i = 0; i < k->list.len; i++)
    if (k->list.at[i]->dtype == DT_INDEX) linsum_of(&sums, k->list.at[i]);
  const UOp *f[2] = {sum->src[0]->src[0], sum->src[0]->src[1]};
  int x = own_axis(c, &sums, f[0], f[1]), y = own_axis(c, &sums, f[1], f[0]);
  *r = sum_axis(c, &sums, sum);
  if (x < 0 || y < 0 || *r < 0 || size_of(c, *r) < LEAST_SIZE / 2) return false;
  bool swap = contiguous_along(c, &sums, k->store, (uint32_t)x) >
              contiguous_along(c, &sums, k->store, (uint32_t)y);
  *m = swap ? y : x, *n = swap ? x : y;
  /* Reading decides, and the threads of a workgroup read more at a time than tiles do. */
  if (size_of(c, *m) < LEAST_SIZE / 2 && !axis_is_static(&k->axes[*r])) return false;
  return size_of(c, *m) > 1 && size_of(c, *n) >= LEAST_SIZE / 2;
}

bool heuristic_warp_matrix(Job *job, const KernelInfo *k, const Target *target, OptList *opts) {
  Ctx c = {.job = job, .k = k, .target = target, .opts = opts};
  const Tile *tile[TILES];
  int m, n, r;
  if (!find_axes(&c, &m, &n, &r)) return false;
  for (int64_t id = 0; id < MX__COUNT; id++) {
    if (matrix_info(id)->shared || !try_instruction(&c, id, m, n, r)) continue;
    int64_t rows = c.plan.axes[m].size, columns = c.plan.axes[n].size;
    if (rank_tiles(&c, rows, columns, batch_of(&c, m, n), tile)) give_tile(&c, tile[0], m, n, r);
    return true;
  }
  return false;
}

/* -- sums over several axes ---------------------------------------------------------------------
 */

static bool merge(Ctx *c, UOp **kernel, OptList *head, int64_t a, int64_t b) {
  UOp *merged = merge_axes(c->job, *kernel, a, b);
  if (!merged) return false;
  opts_push(c->job, head, OPT_MERGE, (int)a, b);
  *kernel = merged;
  c->k = kernel_info(c->job, merged);
  return true;
}

/* The axes of the sum become one, so that copies run ahead across its inner loops. Steps stay
 * inside of the innermost axis, which lies in rows, unless no axis is long enough by itself. */
static bool merge_sum(Ctx *c, UOp **kernel, OptList *head) {
  enum { MOST_AXES = 4 };
  const UOp *sum = main_sum(c), *factor;
  int64_t axis[MOST_AXES], all = 1, longest = 0;
  uint32_t n = sum ? sum->nsrc - 1 : 0;
  if (n < 2 || n > MOST_AXES) return false;
  for (uint32_t i = 0; i < n; i++) {
    axis[i] = sum->src[i + 1]->arg.i;
    int64_t size = size_of(c, axis[i]);
    if (!axis_is_static(&c->k->axes[axis[i]])) return false;
    all *= size;
    if (size > longest) longest = size;
  }
  factor = sum->src[0]->src[0];
  if (factor->op == OP_CAST) factor = factor->src[0];
  int64_t step = step_bytes(all) / dtype_info[factor->dtype].bytes;
  bool brief = longest < LEAST_SIZE / 2 && all >= 2 * LEAST_SIZE;
  if (!brief && size_of(c, axis[n - 1]) % step) return false;
  for (uint32_t i = 1; i < n; i++)
    if (!merge(c, kernel, head, axis[0], axis[i])) return false;
  return true;
}

/* Neighbouring output loops of one factor whose results follow each other become one. */
static void merge_rows(Ctx *c, UOp **kernel, OptList *head) {
  const UOp *product = main_sum(c)->src[0];
  const LinSum *at = linsum_index(c->job, c->k->store->src[1]);
  for (uint32_t i = 0; i + 1 < c->k->nloops; i++) {
    const UOp *loop[2] = {c->k->loops[i], c->k->loops[i + 1]};
    uint32_t a = (uint32_t)loop[0]->arg.i, b = (uint32_t)loop[1]->arg.i;
    int64_t inner = linsum_coeff(at, loop[1]);
    if (!axis_is_static(&c->k->axes[a]) || !axis_is_static(&c->k->axes[b]) || !inner) continue;
    if (linsum_coeff(at, loop[0]) != inner * size_of(c, b)) continue;
    for (int f = 0; f < 2; f++) {
      const UOp *own = product->src[f], *other = product->src[!f];
      bool only = kernel_depends(own, a) && kernel_depends(own, b);
      if (!only || kernel_depends(other, a) || kernel_depends(other, b)) continue;
      merge(c, kernel, head, a, b);
      return;
    }
  }
}

/* The kernel in c with one sum over all taps; false when it is no such kernel. */
static bool merge_taps(Ctx *c, UOp *kernel, OptList *head) {
  const KernelInfo *whole = c->k;
  if (c->target->warp > 1 && whole->store && merge_sum(c, &kernel, head)) {
    merge_rows(c, &kernel, head);
    return true;
  }
  c->k = whole;
  head->len = 0;
  return false;
}

bool heuristic_warp_taps(Job *job, UOp *kernel, const Target *target, OptList *opts) {
  Ctx c = {.job = job, .k = kernel_info(job, kernel), .target = target};
  OptList head = {0}, body = {0};
  if (!merge_taps(&c, kernel, &head) || !heuristic_warp_matrix(job, c.k, target, &body))
    return false;
  opts_append(job, opts, &head);
  opts_append(job, opts, &body);
  return true;
}

/* -- instructions of several warps --------------------------------------------------------------
 */

/* How factors are copied sooner: by all threads, or by the hardware, whole tiles at a time. */
typedef enum Copies { BY_THREADS, WHOLE, WHOLE_IF_LONG } Copies;

/* Tile of a workgroup: its groups of warps lie one below the other, each with tiles of the
 * instruction's 64 rows below each other and all of the columns. */
typedef struct Wide {
  int64_t groups, up, n;
  int64_t step, other; /* cycles on an H100: of 128 bytes along the sum; before and after them */
  Copies copies;
} Wide;

/* As measured with every processor busy: the second level cache gives each 50 to 60 bytes a cycle,
 * and the workgroup's memory is written once and read by each instruction, 128 bytes a cycle. A
 * warp that copies whole tiles takes registers of which 160 sums in each thread of two groups have
 * none to spare. */
static const Wide wides[] = {
    {2, 1, 256, 1180, 2800, WHOLE},       {2, 2, 160, 1500, 5000, BY_THREADS},
    {2, 2, 128, 1240, 3000, WHOLE},       {2, 1, 224, 1090, 2600, WHOLE},
    {2, 1, 192, 960, 3000, BY_THREADS},   {1, 2, 192, 965, 2850, WHOLE},
    {2, 1, 160, 830, 2400, WHOLE},        {2, 1, 128, 740, 2300, WHOLE},
    {2, 1, 96, 560, 2200, WHOLE},         {1, 1, 256, 650, 2600, WHOLE},
    {1, 1, 224, 620, 2500, WHOLE},        {1, 2, 128, 640, 3000, WHOLE},
    {1, 1, 192, 560, 2500, BY_THREADS},   {1, 1, 160, 520, 2400, WHOLE},
    {1, 1, 128, 450, 2132, WHOLE},        {1, 1, 96, 380, 2000, WHOLE},
    {1, 1, 64, 325, 1361, WHOLE_IF_LONG}, {2, 1, 64, 540, 2402, WHOLE},
    {1, 1, 32, 258, 900, BY_THREADS},
};
enum {
  WIDES = sizeof wides / sizeof *wides,
  ROWS = 64,
  ROW_BYTES = 128,
  MOST_PLACES = 8,
  SHORT_STEPS = 20, /* of a sum that ends before it has use for more than */
  FEW_PLACES = 4
};

bool heuristic_wide_cycles(int64_t groups, int64_t up, int64_t columns, int64_t *step,
                           int64_t *other) {
  for (size_t i = 0; i < WIDES; i++) {
    const Wide *w = &wides[i];
    if (w->groups != groups || w->up != up || w->n != columns) continue;
    *step = w->step, *other = w->other;
    return true;
  }
  return false;
}

static int64_t rows_of(const Wide *w) { return w->groups * w->up * ROWS; }

/* Of a workgroup, in one step along the sum. */
static int64_t step_size(const Wide *w) { return (rows_of(w) + w->n) * 128; }

/* A processor does one workgroup after the other: what it could hold besides is worth more as
 * places. */
static int64_t wide_time(const Ctx *c, const Wide *w, int64_t m, int64_t n, int64_t k,
                         int64_t batch) {
  int64_t all = ceil_div(m, rows_of(w)) * ceil_div(n, w->n) * batch;
  int64_t each = ceil_div(all, c->target->threads ? c->target->threads : 1);
  return each * (k * w->step + w->other);
}

static int64_t tiles_of(const Ctx *c, const Wide *w, int m, int n) {
  int64_t all = ceil_div(size_of(c, m), rows_of(w)) * ceil_div(size_of(c, n), w->n);
  return all * batch_of(c, m, n);
}

/* Most of the processors would have nothing to do: as many small tiles fetch more at a time. */
static bool leaves_idle(const Ctx *c, const Wide *w, int m, int n) {
  return 3 * tiles_of(c, w, m, n) < (int64_t)c->target->threads;
}

/* What an instruction takes of the factor. */
static const UOp *factor_of(const UOp *f) {
  const UOp *whole = matrix_uncut(f);
  return whole ? whole : f->op == OP_CAST ? f->src[0] : f;
}

/* Whether 16 bytes of the factor lie side by side along the sum, or along its own axis where its
 * elements have 16 bits: else copies are slow, and fewer columns are better. */
static bool lies_in_rows(const Ctx *c, const UOp *factor, int m, int n, int r) {
  const UOp *u = factor_of(factor);
  if (u->op != OP_INDEX) return false;
  const LinSum *at = linsum_index(c->job, u->src[1]);
  int own = kernel_depends(u, (uint32_t)m) ? m : n;
  bool turned = dtype_info[u->dtype].bytes == 2 && linsum_coeff(at, c->k->axes[own].range) == 1;
  return turned || linsum_coeff(at, c->k->axes[r].range) == 1;
}

/* Columns that lie side by side are copied 128 bytes at a time: a tile has a multiple of that. */
static bool splits_rows(const Ctx *c, const Wide *w, int n) {
  const UOp *product = main_sum(c)->src[0];
  const UOp *u = factor_of(product->src[kernel_depends(product->src[1], (uint32_t)n)]);
  bool side = linsum_coeff(linsum_index(c->job, u->src[1]), c->k->axes[n].range) == 1;
  return side && w->n * dtype_info[u->dtype].bytes % ROW_BYTES;
}

/* The row of the table for the kernel's dtypes and so many columns; -1: none. */
static int64_t wide_row(Ctx *c, int m, int n, int r, int64_t columns) {
  for (int64_t id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    size_t before = c->opts->len;
    if (!info->shared || info->n != (unsigned)columns || !matrix_on(info, c->target)) continue;
    bool pad = c->k->axes[r].divisor % info->k;
    if (2 * ceil_div(size_of(c, r), info->k) * info->k > 3 * size_of(c, r)) continue;
    if (pad && !try_opt(c, OPT_PADTO, r, info->k)) continue;
    if (try_opt(c, OPT_TC, m, opt_tc_arg(id, (uint32_t)n, (uint32_t)r))) return id;
    c->opts->len = before;
  }
  return -1;
}

/* Tiles that run at the same time are in 2048 rows, so that they share columns, too: rows are cut
 * into blocks of about so many, and a block goes through all of its rows for each column of tiles.
 */
enum { BLOCK_ROWS = 2048, FEW_TILES = 12 };

static void order_tiles(Ctx *c, UOp **kernel, OptList *head, const Wide *w, int m, int n) {
  int64_t rows = size_of(c, m), unit = rows_of(w), all = ceil_div(rows, unit), blocks = 1,
          least = 0;
  for (int64_t b = rows / BLOCK_ROWS; b <= ceil_div(rows, BLOCK_ROWS); b++) {
    int64_t total = b > 0 ? b * ceil_div(all, b) : 0; /* tiles, as blocks are equally high */
    if (total && (!least || total <= least)) least = total, blocks = b;
  }
  int64_t block = ceil_div(all, blocks) * unit;
  if (ceil_div(size_of(c, n), w->n) <= FEW_TILES) return;
  if (blocks > 1 && axis_is_static(&c->k->axes[m]) && block < rows && c->k->naxes < INT8_MAX) {
    UOp *split = split_axis(c->job, *kernel, m, block, c->k->naxes);
    if (!split) return;
    *kernel = split;
    opts_push(c->job, head, OPT_SPLIT, m, block);
    c->k = kernel_info(c->job, split);
  }
  try_opt(c, OPT_ORDER, m, c->k->nloops - 1);
}

static int64_t tiles_of_plan(const Ctx *c) {
  int64_t all = 1;
  for (uint32_t i = 0; i < c->plan.nout; i++) {
    const AxisPlan *a = &c->plan.axes[c->plan.order[i]];
    all *= ceil_div(a->outer, a->lanes ? a->lanes : 1);
  }
  return all;
}

/* Whole tiles are copied into so many places. Workgroups that stay fetch the next tile's beginning
 * while a tile ends; of several groups of warps that do not, one multiplies while another waits. */
static bool give_ring(Ctx *c, const Wide *w, int r, int64_t places) {
  int64_t bytes = places * step_size(w) + TILE_ALIGN;
  int64_t resident = ((int64_t)c->target->local_bytes + TILE_ALIGN) / (bytes + TILE_ALIGN);
  int64_t all = (int64_t)c->target->threads * (resident > 1 ? resident : 1);
  int64_t n = tiles_of_plan(c);
  bool stay = !c->one_tile && n > all; /* with equally many each, in as many rounds */
  int64_t go_on = stay || w->groups < 2 ? PIPE_GO_ON : 0;
  if (places < 3 || !try_opt(c, OPT_PIPELINE, r, places + PIPE_WHOLE + go_on)) return false;
  return !stay || try_opt(c, OPT_PERSIST, 0, ceil_div(n, ceil_div(n, all)));
}

/* How many places are worth it: several workgroups of short sums take turns on a processor. */
static int64_t most_places(const Ctx *c, const Wide *w, int64_t steps, bool whole) {
  bool waves = tiles_of_plan(c) > (int64_t)c->target->threads, brief = steps < SHORT_STEPS;
  int64_t places = (int64_t)c->target->local_bytes / step_size(w);
  int64_t most = brief && (waves || !whole) ? FEW_PLACES + !waves : MOST_PLACES;
  if (places > most) places = most;
  return places < steps ? places : steps;
}

static bool give_wide(Ctx *c, const Wide *w, int m, int r) {
  if (w->up > 1 && !try_opt(c, OPT_UPCAST, m, w->up)) return false;
  if (w->groups > 1 && !try_opt(c, OPT_LOCAL, m, w->groups)) return false;
  int64_t steps = c->plan.axes[r].outer, places = most_places(c, w, steps, true);
  bool whole = w->copies == WHOLE || (w->copies == WHOLE_IF_LONG && steps >= SHORT_STEPS);
  if (c->other_copies) whole = !whole;
  for (; whole && places > 2; places--)
    if (give_ring(c, w, r, places)) return true;
  for (places = most_places(c, w, steps, false); places > 1; places--)
    if (try_opt(c, OPT_PIPELINE, r, places + (places > 2 ? PIPE_GO_ON : 0))) break;
  return true;
}

/* The tiles, the one that is expected to be done first first. */
static uint32_t rank_wides(const Ctx *c, int m, int n, int r, const Wide **out) {
  int64_t time[WIDES];
  uint32_t count = 0;
  int64_t bytes = dtype_info[factor_of(main_sum(c)->src[0]->src[0])->dtype].bytes;
  int64_t steps = ceil_div(bytes * size_of(c, r), ROW_BYTES);
  int64_t batch = batch_of(c, m, n);
  for (uint32_t i = 0; i < WIDES; i++) {
    const Wide *w = &wides[i];
    if (c->k->axes[m].least < rows_of(w) || c->k->axes[n].least < w->n) continue;
    int64_t t = wide_time(c, w, size_of(c, m), size_of(c, n), steps, batch);
    uint32_t at = count++;
    for (; at > 0 && time[at - 1] > t; at--) time[at] = time[at - 1], out[at] = out[at - 1];
    time[at] = t, out[at] = w;
  }
  return count;
}

/* Do both factors lie as these instructions want them? */
static bool takes_wides(const Ctx *c, int m, int n, int r) {
  const UOp *product = main_sum(c)->src[0];
  return lies_in_rows(c, product->src[0], m, n, r) && lies_in_rows(c, product->src[1], m, n, r);
}

/* The list for one tile, behind what is in *opts. */
static bool wide_list(Ctx *c, UOp *kernel, const Wide *w, int m, int n, int r, OptList *opts) {
  const KernelInfo *whole = c->k;
  OptList head = {0}, body = {0};
  if (splits_rows(c, w, n)) return false;
  c->opts = &body;
  order_tiles(c, &kernel, &head, w, m, n);
  bool ok = wide_row(c, m, n, r, w->n) >= 0 && give_wide(c, w, m, r);
  c->k = whole;
  if (ok) opts_append(c->job, opts, &head), opts_append(c->job, opts, &body);
  return ok;
}

bool heuristic_warp_groups(Job *job, UOp *kernel, const Target *target, OptList *opts) {
  Ctx c = {.job = job, .k = kernel_info(job, kernel), .target = target};
  const Wide *ranked[WIDES];
  int m, n, r;
  if (!find_axes(&c, &m, &n, &r) || !takes_wides(&c, m, n, r)) return false;
  uint32_t count = rank_wides(&c, m, n, r, ranked);
  for (uint32_t i = 0; i < count; i++)
    if (!leaves_idle(&c, ranked[i], m, n) && wide_list(&c, kernel, ranked[i], m, n, r, opts))
      return true;
  return false;
}

/* -- what else might be fast ----------------------------------------------------------------------
 */

/* A tile of one instruction's warps; with other numbers of places and of groups that share a sum.
 */
static bool tile_list(Ctx *c, const Tile *t, int m, int n, int r, OptList *opts) {
  *opts = (OptList){0};
  c->opts = opts;
  for (int64_t id = 0; id < MX__COUNT; id++) {
    if (matrix_info(id)->shared || !try_instruction(c, id, m, n, r)) continue;
    give_tile(c, t, m, n, r);
    bool shared = c->groups <= 1;
    for (size_t i = 0; i < opts->len; i++) shared |= opts->at[i].kind == OPT_GROUP;
    return shared;
  }
  return false;
}

/* The best tiles of warpgroups, copied in one way and another. */
static uint32_t wide_lists(Ctx *c, UOp *kernel, int m, int n, int r, OptList *out, uint32_t most) {
  enum { OTHER = 1, ONE_TILE = 2 };
  static const struct {
    uint32_t rank, how;
  } ways[] = {{0, 0}, {0, OTHER},    {1, 0}, {2, 0},     {0, ONE_TILE}, {1, OTHER},
              {3, 0}, {1, ONE_TILE}, {4, 0}, {2, OTHER}, {5, 0}};
  const Wide *wide[WIDES];
  uint32_t count = 0, nwide = takes_wides(c, m, n, r) ? rank_wides(c, m, n, r, wide) : 0;
  for (size_t i = 0; i < sizeof ways / sizeof *ways && count < most; i++) {
    if (ways[i].rank >= nwide) continue;
    bool waves = tiles_of(c, wide[ways[i].rank], m, n) > (int64_t)c->target->threads;
    if (ways[i].how == ONE_TILE && !waves) continue;
    c->other_copies = ways[i].how == OTHER, c->one_tile = ways[i].how == ONE_TILE;
    out[count] = (OptList){0};
    if (wide_list(c, kernel, wide[ways[i].rank], m, n, r, &out[count])) count++;
  }
  c->other_copies = c->one_tile = false;
  return count;
}

uint32_t heuristic_warp_others(Job *job, UOp *kernel, const Target *target, OptList *out,
                               uint32_t most) {
  static const struct {
    uint32_t rank;
    int64_t places, groups;
  } ways[] = {{0, 3, 1}, {1, 4, 1}, {0, 3, 2}, {2, 4, 1}, {1, 3, 2},
              {0, 2, 4}, {3, 4, 1}, {2, 3, 2}, {4, 4, 1}, {1, 2, 4},
              {5, 4, 1}, {3, 3, 2}, {4, 3, 2}, {0, 8, 1}, {1, 8, 1}};
  Ctx c = {.job = job, .k = kernel_info(job, kernel), .target = target};
  const Tile *tile[TILES];
  OptList head = {0}, body;
  int m, n, r;
  merge_taps(&c, kernel, &head);
  if (!find_axes(&c, &m, &n, &r)) return 0;
  uint32_t count = head.len ? 0 : wide_lists(&c, kernel, m, n, r, out, most);
  uint32_t ntiles = rank_tiles(&c, size_of(&c, m), size_of(&c, n), batch_of(&c, m, n), tile);
  for (size_t i = 0; i < sizeof ways / sizeof *ways && count < most; i++) {
    if (ways[i].rank >= ntiles) continue;
    c.places = ways[i].places, c.groups = ways[i].groups;
    if (!tile_list(&c, tile[ways[i].rank], m, n, r, &body)) continue;
    out[count] = (OptList){0};
    opts_append(job, &out[count], &head);
    opts_append(job, &out[count++], &body);
  }
  return count;
}

/* -- without matrix instructions ----------------------------------------------------------------
 */

static bool stage_all(Ctx *c, int64_t r) {
  int staged = 0;
  for (uint32_t i = 0; i < c->k->nstageable; i++) {
    const UOp *u = c->k->stageable[i];
    if (u->op == OP_INDEX && kernel_depends(u, (uint32_t)r)) staged += try_opt(c, OPT_STAGE, r, i);
  }
  return staged == 2;
}

enum { FOUR = 4, SIDE = 16, STEPS = 16, STAGES = 3 };

/* Rows and columns of a thread, threads along the rows, threads that share a sum; from large to
 * small. */
typedef struct Share {
  int64_t rows, columns, lanes, group;
} Share;
static const Share shares[] = {{8, 8, 16, 1}, {8, 4, 16, 1}, {4, 4, 16, 1},
                               {4, 4, 8, 2},  {4, 4, 4, 4},  {2, 4, 4, 4}};

/* The largest that gives half of the processors something to do, else the smallest that fits. */
static const Share *choose_share(const Ctx *c, int m, int n, int r) {
  const Share *best = NULL;
  for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
    const Share *s = &shares[i];
    int64_t tile = s->rows * s->lanes, side = s->columns * SIDE;
    if (s->columns > FOUR && (size_of(c, m) % tile || size_of(c, n) % side)) continue;
    if (size_of(c, m) < tile || size_of(c, n) < side) continue;
    if (size_of(c, r) / (STEPS * s->group) < FEW_STEPS) continue;
    int64_t groups = ceil_div(size_of(c, m), tile) * ceil_div(size_of(c, n), side);
    best = s;
    if (2 * groups * batch_of(c, m, n) >= (int64_t)c->target->threads) break;
  }
  return best;
}

/* Elements of a thread along an output axis, side by side: four where the factor has them so in
 * memory, which is one load; else none, and neighbours have neighbours, which lie in different
 * banks. */
static int64_t side_by_side(const Ctx *c, const UOp *factor, int axis) {
  const UOp *u = factor_of(factor);
  if (u->op != OP_INDEX) return 1;
  return linsum_coeff(linsum_index(c->job, u->src[1]), c->k->axes[axis].range) == 1 ? FOUR : 1;
}

/* Tiles whose elements are spread as the factors lie; all or nothing. */
static bool give_spread(Ctx *c, const Share *s, int m, int n, int r) {
  const UOp *product = main_sum(c)->src[0];
  bool swap = kernel_depends(product->src[0], (uint32_t)n);
  int64_t wide = side_by_side(c, product->src[!swap], n);
  int64_t high = side_by_side(c, product->src[swap], m);
  int64_t steps = s->columns > FOUR && wide > 1 ? STEPS / 2 : STEPS;
  size_t before = c->opts->len;
  bool all = c->k->axes[m].divisor % (s->rows * s->lanes) == 0 &&
             c->k->axes[n].divisor % (s->columns * SIDE) == 0;
  all = all && (wide == 1 || try_opt(c, OPT_VECTOR, n, wide)) &&
        (high == 1 || try_opt(c, OPT_UPCAST, m, high)) && try_opt(c, OPT_UNROLL, r, steps) &&
        try_opt(c, OPT_LOCAL, n, SIDE) && try_opt(c, OPT_LOCAL, m, s->lanes) &&
        (s->rows == high || try_opt(c, OPT_SPREAD, m, s->rows / high)) &&
        (s->columns == wide || try_opt(c, OPT_SPREAD, n, s->columns / wide)) && stage_all(c, r);
  if (all) try_opt(c, OPT_PIPELINE, r, STAGES + (steps < STEPS));
  if (!all) c->opts->len = before;
  return all;
}

/* The same for sizes of which tiles overlap, and for threads that share sums. */
static bool give_blocks(Ctx *c, const Share *s, int m, int n, int r) {
  bool all = try_opt(c, OPT_VECTOR, n, FOUR) && try_opt(c, OPT_UPCAST, m, s->rows) &&
             try_opt(c, OPT_UNROLL, r, STEPS) && try_opt(c, OPT_LOCAL, n, SIDE) &&
             try_opt(c, OPT_LOCAL, m, s->lanes) &&
             (s->group == 1 || try_opt(c, OPT_GROUP, r, s->group)) && stage_all(c, r);
  if (all) try_opt(c, OPT_PIPELINE, r, STAGES);
  return all;
}

/* Each thread a few rows and columns, 16 threads along the columns, 8 or 16 steps at a time. */
bool heuristic_warp_tile(Job *job, const KernelInfo *k, const Target *target, OptList *opts) {
  Ctx c = {.job = job, .k = k, .target = target, .opts = opts};
  size_t before = opts->len;
  int m, n, r;
  if (!target_is_cuda(target) || !find_axes(&c, &m, &n, &r)) return false;
  const Share *s = choose_share(&c, m, n, r);
  if (!s) return false;
  int64_t unit = STEPS * s->group;
  if (k->axes[r].divisor % unit && !try_opt(&c, OPT_PADTO, r, unit)) return false;
  if (s->group == 1 && give_spread(&c, s, m, n, r)) return true;
  if (give_blocks(&c, s, m, n, r)) return true;
  opts->len = before;
  return false;
}
