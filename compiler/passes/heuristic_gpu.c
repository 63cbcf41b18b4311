/* The schedule of a kernel nobody has tuned, on a device with workgroups.
 *
 * Threads side by side should touch elements side by side, and there should be many of them:
 * - Elementwise work: vectors of 16 bytes and then threads along the axis where most accesses are
 *   contiguous. Many threads with one vector each beat few with several. What is read across that
 *   axis and along another one is turned around in the workgroup's memory, tile by tile.
 * - Sums of products over two operands that share no output axis: a register tile of both, a
 *   workgroup of threads along both, and where threads run in step, so that the workgroup's memory
 *   is worth its barriers, both operands copied there for several steps at a time.
 * - Reductions along rows, and those with few results: the threads of a workgroup share a row
 *   (GROUP), about 16 elements each, vectors spread over the row (SPREAD). What the kernel does
 * with the row afterwards is done by the same threads, spread alike: a softmax has its row in
 * registers between the three times that it needs it.
 * - Other reductions: vectors and threads along the results, and some threads along the reduction.
 * Every opt is tried: one that is not legal together with those before it is left out. */
#include "compiler/passes/heuristic_gpu.h"

#include <assert.h>

#include "compiler/passes/heuristic_chain.h"
#include "compiler/passes/heuristic_warp.h"
#include "compiler/passes/linsum.h"
#include "compiler/search/opts.h"

enum {
  GROUP_THREADS = 256, /* threads of a workgroup, unless the device has fewer */
  FEW_THREADS = 64,    /* a workgroup should not be smaller */
  FEW_RESULTS = 4096,  /* results that do not fill a device by themselves */
  LONG_ROW = 32,       /* elements worth sharing between threads */
  TILE = 4,            /* rows and columns of a register tile */
  VECTOR_BYTES = 16,
  MOST_LANES = 8,
  TURN = 32,         /* rows and columns of a tile that is turned around */
  TURN_ROWS = 8,     /* threads along it */
  ROW_SHARE = 16,    /* elements of a row per thread, where there are rows enough */
  ROW_KEPT = 32,     /* at most, where there are threads enough: they stay in registers */
  ROW_MOST = 64,     /* at most */
  BUSY = 512,        /* threads that keep one of the device's processors busy */
  IN_FLIGHT = 8,     /* loads that one thread of a column waits for together */
  BUSY_COLUMN = 192, /* threads that so keep a processor's share of the memory busy */
  STRIP_SHARE = 16,  /* threads of a column of such a strip */
  FEW_ROWS = 8,      /* vectors times a matrix: reading that decides */
};

typedef struct Gpu {
  Job *job;
  const Target *target;
  const KernelInfo *k;
  OptList *opts;
  LinSumMap sums;
  int64_t threads; /* given so far */
} Gpu;

static int64_t size_of(const Gpu *g, int axis) { return g->k->axes[axis].size; }
/* A number that divides every size the axis may have. */
static int64_t divisor_of(const Gpu *g, int axis) { return g->k->axes[axis].divisor; }

static bool try_opt(Gpu *g, OptKind kind, int axis, int64_t arg) {
  OptPlan plan;
  opts_push(g->job, g->opts, kind, axis, arg);
  Status st = opts_plan(g->job, g->k, g->target, g->opts, &plan);
  if (st) {
    g->opts->len--;
    status_drop(st);
    return false;
  }
  g->threads = (int64_t)plan.block[0] * plan.block[1] * plan.block[2];
  return true;
}

static int64_t power_below(int64_t n) {
  int64_t p = 1;
  while (2 * p <= n) p *= 2;
  return p;
}

static int64_t most_threads(const Gpu *g) {
  int64_t most = power_below(g->target->max_group);
  return most < GROUP_THREADS ? most : GROUP_THREADS;
}

/* -- how memory is walked ---------------------------------------------------------------------- */

static bool depends(const UOp *u, int axis) {
  return axis >= 0 && kernel_depends(u, (uint32_t)axis);
}

/* 1: contiguous, 0: the same element, 2: anything else. */
static int walk(Gpu *g, const UOp *access, int axis) {
  UOp *index = access->src[1];
  if (!depends(index, axis)) return 0;
  const LinSum *sum = linsum_of(&g->sums, index);
  const UOp *range = g->k->axes[axis].range;
  for (uint32_t i = 0; i < sum->n; i++) /* times a size that only the run knows, divided, ... */
    if (sum->at[i].atom != range && depends(sum->at[i].atom, axis)) return 2;
  return linsum_coeff(sum, range) == 1 ? 1 : 2;
}

/* The output axis along which threads are best laid out, or -1. */
static int lane_axis(Gpu *g) {
  int best = -1, most = 0;
  for (uint32_t i = 0; i < g->k->nloops; i++) {
    static const int store_score[] = {-2, 3, -2}, load_score[] = {1, 2, -1};
    int a = (int)g->k->loops[i]->arg.i;
    int score = store_score[walk(g, g->k->store, a)] * (int)(g->k->noperands + 1);
    for (uint32_t l = 0; l < g->k->noperands; l++)
      score += load_score[walk(g, g->k->operands[l], a)];
    if (size_of(g, a) < 2) continue;
    if (best < 0 || score > most) best = a, most = score;
  }
  return best;
}

/* -- threads ----------------------------------------------------------------------------------- */

/* Iterations that the axis has left, under the tiles given so far. */
static int64_t left_on(const Gpu *g, int axis) {
  int64_t n = size_of(g, axis);
  for (size_t i = 0; i < g->opts->len; i++) {
    const Opt *o = &g->opts->at[i];
    bool tile = o->kind == OPT_VECTOR || o->kind == OPT_UPCAST || o->kind == OPT_UNROLL;
    if (o->axis == axis && tile) n /= o->arg;
  }
  return n;
}

static void give_local(Gpu *g, int axis, int64_t want) {
  int64_t n = power_below(left_on(g, axis));
  if (n > want) n = want;
  if (n >= 2) try_opt(g, OPT_LOCAL, axis, n);
}

/* More axes until a workgroup is large enough; innermost first. */
static void fill_group(Gpu *g, int first) {
  int64_t want = most_threads(g);
  if (first >= 0) give_local(g, first, want);
  for (uint32_t i = g->k->nloops; i-- > 0 && g->threads < FEW_THREADS;) {
    int a = (int)g->k->loops[i]->arg.i;
    if (a != first) give_local(g, a, want / g->threads);
  }
}

/* Elements of a vector along the axis: 16 bytes of the smallest that is contiguous there; 1 where
 * something is neither contiguous nor the same. */
static int64_t lanes_for(Gpu *g, int axis) {
  int64_t item = VECTOR_BYTES / TILE;
  for (uint32_t l = 0; l <= g->k->noperands; l++) {
    const UOp *access = l ? g->k->operands[l - 1] : g->k->store;
    int w = walk(g, access, axis), bytes = dtype_info[access->src[0]->dtype].bytes;
    if (w == 2) return 1;
    if (w == 1 && bytes < item) item = bytes;
  }
  int64_t lanes = VECTOR_BYTES / item;
  if (lanes > MOST_LANES) lanes = MOST_LANES;
  while (divisor_of(g, axis) % lanes) lanes /= 2;
  return lanes;
}

static int64_t give_vector(Gpu *g, int axis) {
  for (int64_t n = lanes_for(g, axis); n > 1; n /= 2)
    if (try_opt(g, OPT_VECTOR, axis, n)) return n;
  return 1;
}

/* -- transpositions ---------------------------------------------------------------------------- */

/* The axis along which an operand is contiguous that is strided along v, or -1. */
static int turned_axis(Gpu *g, const UOp *operand, int v) {
  if (walk(g, operand, v) != 2) return -1;
  for (uint32_t i = 0; i < g->k->nloops; i++) {
    int a = (int)g->k->loops[i]->arg.i;
    if (a != v && axis_is_static(&g->k->axes[a]) && size_of(g, a) >= TURN &&
        walk(g, operand, a) == 1)
      return a;
  }
  return -1;
}

/* Square tiles: threads along v, which they store along, and along the other axis. */
static bool schedule_turn(Gpu *g, int v) {
  if (v < 0 || !axis_is_static(&g->k->axes[v]) || size_of(g, v) < TURN) return false;
  if (g->target->warp <= 1 || g->target->max_group < TURN * TURN_ROWS) return false;
  size_t before = g->opts->len;
  for (uint32_t i = 0; i < g->k->nstageable; i++) {
    UOp *operand = g->k->stageable[i];
    int u = operand->op == OP_INDEX ? turned_axis(g, operand, v) : -1;
    if (u < 0) continue;
    bool ok = size_of(g, u) % TURN == 0 || try_opt(g, OPT_PADTO, u, TURN);
    ok = ok && try_opt(g, OPT_LOCAL, v, TURN) && try_opt(g, OPT_LOCAL, u, TURN_ROWS) &&
         try_opt(g, OPT_SPREAD, u, TURN / TURN_ROWS) && try_opt(g, OPT_STAGE, -1, i);
    if (ok) return true;
    g->opts->len = before;
    g->threads = 1;
  }
  return false;
}

/* -- reductions -------------------------------------------------------------------------------- */

typedef struct Reduction {
  UOp *reduce;
  int row;      /* the axis of it that most loads walk contiguously, or the longest */
  bool is_row;  /* loads are contiguous along it */
  int64_t size; /* elements that make one result */
} Reduction;

/* What decides how memory is walked is the load that reads most: the matrix, not the vector. */
static int64_t elements_of(const Gpu *g, const UOp *load) {
  int64_t n = 1;
  for (uint32_t i = 0; load->open && i < load->open->n && n < (int64_t)1 << 40; i++)
    n *= size_of(g, (int)load->open->at[i]->arg.i);
  return n;
}

static bool walks_rows(Gpu *g, int row) {
  int64_t most = 0;
  bool rows = false;
  for (uint32_t l = 0; l < g->k->noperands; l++) {
    const UOp *load = g->k->operands[l];
    if (!depends(load, row)) continue;
    int64_t n = elements_of(g, load);
    bool contiguous = walk(g, load, row) == 1;
    if (n > most) rows = false;
    if (n >= most) most = n, rows |= contiguous;
  }
  return rows;
}

static Reduction reduction_of(Gpu *g, UOp *reduce) {
  Reduction r = {.reduce = reduce, .row = -1, .size = 1};
  int most = -1;
  for (uint32_t s = 1; s < reduce->nsrc; s++) {
    int a = (int)reduce->src[s]->arg.i, score = 0;
    r.size *= size_of(g, a);
    for (uint32_t l = 0; l < g->k->noperands; l++) score += walk(g, g->k->operands[l], a) == 1;
    bool better = score > most || (score == most && size_of(g, a) > size_of(g, r.row));
    if (r.row < 0 || better) r.row = a, most = score;
  }
  r.is_row = most > 0 && walks_rows(g, r.row);
  return r;
}

static Reduction *find_reductions(Gpu *g, uint32_t *n) {
  Reduction *all = arena_array(&g->job->arena, g->k->list.len + 1, sizeof *all);
  *n = 0;
  for (size_t i = 0; i < g->k->list.len; i++)
    if (g->k->list.at[i]->op == OP_REDUCE) all[(*n)++] = reduction_of(g, g->k->list.at[i]);
  return all;
}

static int64_t results_of(const Gpu *g, const Reduction *r) {
  int64_t n = 1;
  for (uint32_t i = 0; i < g->k->nloops; i++)
    if (depends(r->reduce->src[0], (int)g->k->loops[i]->arg.i))
      n *= size_of(g, (int)g->k->loops[i]->arg.i);
  return n;
}

/* Threads that share the row; false when it is too short for that. */
static bool share_row(Gpu *g, const Reduction *r, int64_t threads) {
  int64_t n = size_of(g, r->row), left = left_on(g, r->row);
  if (n < LONG_ROW || threads < 2) return false;
  while (threads > left) threads /= 2;
  if (threads < 2) return false;
  size_t before = g->opts->len;
  if (divisor_of(g, r->row) % threads && !try_opt(g, OPT_PADTO, r->row, threads)) return false;
  if (try_opt(g, OPT_GROUP, r->row, threads)) return true;
  g->opts->len = before;
  return false;
}

static void unroll(Gpu *g, const Reduction *r, int64_t most) {
  for (int64_t n = most; n > 1; n /= 2)
    if (divisor_of(g, r->row) % n == 0 && left_on(g, r->row) % n == 0 &&
        try_opt(g, OPT_UNROLL, r->row, n))
      return;
}

/* How the threads of a workgroup share a row of n elements. */
typedef struct RowPlan {
  int64_t lanes, threads, spread;
} RowPlan;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* kept: the row is used again, from registers. */
static RowPlan plan_row(const Gpu *g, int64_t n, int64_t rows, int64_t lanes, bool kept) {
  int64_t units = n / lanes, threads = power_below(ceil_div(n, ROW_SHARE)), most = most_threads(g);
  int64_t busy = (int64_t)g->target->threads * BUSY;
  assert(units > 0);
  if (threads > most) threads = most;
  while (threads < most && (threads < FEW_THREADS / 2 || threads * rows < busy)) threads *= 2;
  while (2 * threads <= g->target->max_group / 2 && n > threads * ROW_KEPT) threads *= 2;
  while (threads > units) threads /= 2;
  if (units % threads && units % (threads / 2) == 0) threads /= 2;
  RowPlan p = {.lanes = lanes, .threads = threads, .spread = ceil_div(units, threads)};
  int64_t share = kept ? ROW_MOST : ROW_KEPT;
  if (p.spread * lanes > share) p.spread = share / lanes;
  return p;
}

/* All of it, or nothing. */
static bool spread_row(Gpu *g, int axis, const RowPlan *p) {
  bool output = !g->k->axes[axis].reduce;
  int64_t unit = p->lanes * p->threads * p->spread, n = size_of(g, axis);
  size_t before = g->opts->len;
  int64_t threads = g->threads;
  bool ok = n % unit == 0 || try_opt(g, OPT_PADTO, axis, unit);
  ok = ok && (p->lanes == 1 || try_opt(g, OPT_VECTOR, axis, p->lanes));
  ok = ok && try_opt(g, output ? OPT_LOCAL : OPT_GROUP, axis, p->threads);
  ok = ok && (p->spread == 1 || try_opt(g, OPT_SPREAD, axis, p->spread));
  if (!ok) g->opts->len = before, g->threads = threads;
  return ok;
}

static void share_row_out(Gpu *g, int v, int64_t threads) {
  size_t before = g->opts->len;
  if (divisor_of(g, v) % threads && !try_opt(g, OPT_PADTO, v, threads)) return;
  if (!try_opt(g, OPT_LOCAL, v, threads)) g->opts->len = before;
}

/* The innermost output axis on which the reductions depend. */
static int result_axis(const Gpu *g, const Reduction *r) {
  for (uint32_t i = g->k->nloops; i-- > 0;) {
    int a = (int)g->k->loops[i]->arg.i;
    if (depends(r->reduce->src[0], a) && size_of(g, a) > 1) return a;
  }
  return -1;
}

/* Results that are chosen among what the same sums give are computed by the thread that has them.
 */
static void write_out_choices(Gpu *g, const Reduction *all, uint32_t n) {
  for (uint32_t i = 0; i < g->k->nloops; i++) {
    int a = (int)g->k->loops[i]->arg.i;
    bool needed = false;
    for (uint32_t r = 0; r < n; r++) needed |= depends(all[r].reduce->src[0], a);
    if (!needed && axis_is_static(&g->k->axes[a]) && size_of(g, a) <= TILE)
      try_opt(g, OPT_UPCAST, a, size_of(g, a));
  }
}

/* The threads have been planned for the row; short rows share a workgroup. */
static void schedule_rows(Gpu *g, const Reduction *all, uint32_t n, int v) {
  int64_t rows = 1, threads = 1;
  bool column = v >= 0 && !depends(all[0].reduce->src[0], v);
  for (uint32_t i = 0; i < n; i++)
    if (results_of(g, &all[i]) > rows) rows = results_of(g, &all[i]);
  if (n > 1) write_out_choices(g, all, n);
  for (uint32_t i = 0; i < n; i++) {
    int row = all[i].row;
    int64_t length = size_of(g, row);
    bool spread = axis_is_static(&g->k->axes[row]) && length >= LONG_ROW;
    RowPlan p = plan_row(g, length, rows, lanes_for(g, row), n > 1 || column);
    if (threads > 1) p.threads = threads, p.spread = ceil_div(length / p.lanes, threads);
    if (p.spread * p.lanes > ROW_MOST) p.spread = ROW_MOST / p.lanes;
    if (!spread || !spread_row(g, row, &p)) share_row(g, &all[i], most_threads(g));
    if (g->threads > 1) threads = g->threads;
  }
  if (column && threads > 1 && axis_is_static(&g->k->axes[v])) {
    RowPlan p = {.lanes = lanes_for(g, v), .threads = threads};
    p.spread = ceil_div(size_of(g, v) / p.lanes, threads);
    if (p.spread * p.lanes > ROW_MOST) p.spread = ROW_MOST / p.lanes;
    if (size_of(g, v) / p.lanes < threads || !spread_row(g, v, &p)) column = false;
  }
  /* A row whose length only the run knows: the threads that share its sums take its elements. */
  if (column && threads > 1 && !axis_is_static(&g->k->axes[v])) share_row_out(g, v, threads);
  if (v >= 0 && !column && size_of(g, v) >= threads) try_opt(g, OPT_LOCAL, v, threads);
  int row = result_axis(g, &all[0]);
  if (row >= 0 && g->threads > 1 && g->threads < 2 * FEW_THREADS)
    give_local(g, row, 2 * FEW_THREADS / g->threads);
}

/* The same where only the run knows how long it is: loads of several steps are under way together,
 * those beyond the end gated off. */
static bool share_open_row(Gpu *g, const Reduction *r, int64_t threads) {
  size_t before = g->opts->len;
  int64_t given = g->threads;
  if (axis_is_static(&g->k->axes[r->row]) || size_of(g, r->row) < threads * IN_FLIGHT) return false;
  if (try_opt(g, OPT_PADTO, r->row, threads * IN_FLIGHT) &&
      try_opt(g, OPT_UNROLL, r->row, IN_FLIGHT) && try_opt(g, OPT_GROUP, r->row, threads))
    return true;
  g->opts->len = before, g->threads = given;
  return false;
}

/* A row of halves times a matrix as it is stored: narrow strips of it, and long pieces of a column
 * for each of few threads, are read sooner than wide ones by many. */
static bool is_strip(const Gpu *g, const Reduction *all, uint32_t n, int64_t lanes) {
  return n == 1 && lanes == MOST_LANES && all->reduce->src[0]->op == OP_MUL &&
         axis_is_static(&g->k->axes[all->row]) && all->size % (2 * IN_FLIGHT * STRIP_SHARE) == 0;
}

/* Threads side by side along the results, and enough of them along the reduction. */
static void schedule_columns(Gpu *g, const Reduction *all, uint32_t n, int v) {
  int64_t results = results_of(g, &all[0]), most = most_threads(g), vector = 1;
  if (v >= 0 && all[0].size >= LONG_ROW) results /= vector = give_vector(g, v);
  bool strip = is_strip(g, all, n, vector);
  for (uint32_t i = 0; i < n; i++) unroll(g, &all[i], strip ? 2 * IN_FLIGHT : IN_FLIGHT);
  bool idle = results < (int64_t)g->target->threads * BUSY_COLUMN || results < FEW_RESULTS;
  if (idle && all[0].size >= LONG_ROW && v >= 0) {
    /* A few vectors are enough of a row where that keeps more of the device's processors busy. */
    int64_t lanes = FEW_THREADS / 2, processors = g->target->threads;
    bool open = !axis_is_static(&g->k->axes[all[0].row]);
    int64_t least = open ? 2 : 8;
    if (strip) lanes = least, most = lanes * STRIP_SHARE;
    while (open && lanes > least && results / lanes < processors * 2 / 3) lanes /= 2;
    give_local(g, v, lanes);
    if (!share_open_row(g, &all[0], most / g->threads)) share_row(g, &all[0], most / g->threads);
  }
  fill_group(g, g->threads > 1 ? -1 : v);
}

/* -- contractions ------------------------------------------------------------------------------ */

static const UOp *through_casts(const UOp *u) {
  while (u->op == OP_CAST) u = u->src[0];
  return u;
}

/* The largest output axis on which the operands that depend on v do not depend. */
static int row_axis(const Gpu *g, const UOp *product, int v) {
  int best = -1;
  for (uint32_t i = 0; i < g->k->nloops; i++) {
    int a = (int)g->k->loops[i]->arg.i;
    bool clash = false, any = false;
    for (uint32_t s = 0; s < 2; s++) {
      clash |= depends(product->src[s], a) && depends(product->src[s], v);
      any |= depends(product->src[s], a);
    }
    if (a != v && any && !clash && (best < 0 || size_of(g, a) > size_of(g, best))) best = a;
  }
  return best;
}

static void give_tile(Gpu *g, int axis) {
  for (int64_t n = TILE; n > 1; n /= 2)
    if (size_of(g, axis) >= 2 * n && try_opt(g, OPT_UPCAST, axis, n)) return;
}

/* Both factors, for as many steps as are written out; all or nothing. */
static void stage_factors(Gpu *g, const Reduction *r, const UOp *product) {
  size_t before = g->opts->len;
  for (uint32_t s = 0; s < 2; s++)
    for (uint32_t i = 0; i < g->k->nstageable; i++) {
      if (g->k->stageable[i] != product->src[s]) continue;
      if (try_opt(g, OPT_STAGE, r->row, i)) break;
      g->opts->len = before;
      return;
    }
}

/* A few vectors times a matrix whose rows lie along the sum: some threads share a row of the
 * matrix, which is read once for all vectors. */
static bool schedule_few_rows(Gpu *g, const Reduction *r, int m, int v) {
  int64_t n = size_of(g, r->row), lanes = lanes_for(g, r->row);
  bool fixed = axis_is_static(&g->k->axes[r->row]) && axis_is_static(&g->k->axes[m]);
  if (!fixed || !r->is_row || n < LONG_ROW || size_of(g, m) > FEW_ROWS) return false;
  RowPlan p = {.lanes = lanes, .threads = power_below(n / lanes), .spread = 1};
  if (p.threads > most_threads(g)) p.threads = most_threads(g);
  p.spread = ceil_div(n / lanes, p.threads);
  if (p.spread * size_of(g, m) > ROW_MOST / TILE) p.spread = 1;
  if (n % (p.lanes * p.threads) || !try_opt(g, OPT_UPCAST, m, size_of(g, m))) return false;
  if (!spread_row(g, r->row, &p)) return false;
  if (g->threads < GROUP_THREADS) give_local(g, v, GROUP_THREADS / g->threads);
  return true;
}

static bool schedule_contraction(Gpu *g, const Reduction *r, int v) {
  const UOp *product = through_casts(r->reduce->src[0]);
  if (r->reduce->arg.i != OP_ADD || product->op != OP_MUL || v < 0 || !depends(product, v))
    return false;
  int m = row_axis(g, product, v);
  if (m < 0 || size_of(g, m) < TILE || size_of(g, v) < TILE) return false;
  size_t before = g->opts->len;
  if (schedule_few_rows(g, r, m, v)) return true;
  g->opts->len = before, g->threads = 1;
  /* Tiles would leave most of the device idle: the sum is shared instead. */
  bool open = !axis_is_static(&g->k->axes[r->row]);
  if (open && results_of(g, r) < FEW_RESULTS && r->size >= LONG_ROW) return false;
  give_tile(g, v);
  give_tile(g, m);
  unroll(g, r, TILE);
  give_local(g, v, 16);
  give_local(g, m, most_threads(g) / 16);
  if (g->threads < FEW_THREADS) fill_group(g, -1);
  if (g->target->warp > 1) stage_factors(g, r, product);
  return true;
}

/* -- the pass ---------------------------------------------------------------------------------- */

void heuristic_gpu(Job *job, UOp *kernel, const Target *target, OptList *opts) {
  Gpu g = {.job = job, .target = target, .k = kernel_info(job, kernel), .opts = opts, .threads = 1};
  uint32_t n, main = 0;
  if (!g.k->store || heuristic_chain_gpu(job, g.k, target, opts)) return;
  if (heuristic_warp_groups(job, kernel, target, opts)) return;
  if (heuristic_warp_taps(job, kernel, target, opts)) return;
  if (heuristic_warp_matrix(job, g.k, target, opts)) return;
  if (heuristic_warp_tile(job, g.k, target, opts)) return;
  linsum_init(job, &g.sums);
  for (size_t i = 0; i < g.k->list.len; i++)
    if (g.k->list.at[i]->dtype == DT_INDEX) linsum_of(&g.sums, g.k->list.at[i]);
  Reduction *all = find_reductions(&g, &n);
  int v = lane_axis(&g);
  for (uint32_t i = 0; i < n; i++)
    if (all[i].size * results_of(&g, &all[i]) > all[main].size * results_of(&g, &all[main]))
      main = i;
  if (!n) {
    if (schedule_turn(&g, v)) return;
    if (v >= 0 && walk(&g, g.k->store, v) == 1) give_vector(&g, v);
    fill_group(&g, v);
    return;
  }
  if (schedule_contraction(&g, &all[main], v)) return;
  bool strided = v < 0 || !depends(all[main].reduce->src[0], v);
  if (all[main].is_row || strided)
    schedule_rows(&g, all, n, v);
  else
    schedule_columns(&g, all, n, v);
  if (g.threads < FEW_THREADS) fill_group(&g, v);
}
