/* The schedule of a chain of contractions - attention - on a device with matrix instructions.
 *
 * A workgroup has a tile of rows, each warp some of them whole: the inner product's elements stay
 * with the threads that computed them and are factors of the outer product there. What the rows
 * need of both other operands is staged block by block, one block ahead. The list is tried as a
 * whole, from large tiles to small ones. */
#include "compiler/passes/heuristic_chain.h"

#include "compiler/passes/linsum.h"

typedef struct Chain {
  Job *job;
  const KernelInfo *k;
  const Target *target;
  OptList *opts;
  RepairChain row; /* the reductions along the row */
  const UOp *outer, *inner;
  uint32_t m, n, depth; /* axes: rows, columns of the result, the inner product's sum */
  uint32_t row_in, row_out;
} Chain;

static const UOp *product_of(const UOp *reduce) {
  const UOp *p = reduce->op == OP_REDUCE && reduce->arg.i == OP_ADD ? reduce->src[0] : NULL;
  return p && p->op == OP_MUL && reduce->nsrc == 2 ? p : NULL;
}

static int64_t size_of(const Chain *c, uint32_t axis) { return c->k->axes[axis].size; }

static bool is_link(const Chain *c, const UOp *u) { return repair_link(&c->row, u) != NODE_ABSENT; }

/* The sum of products over a row that reductions along the same row precede. */
static bool find_outer(Chain *c) {
  for (size_t i = c->k->list.len; i-- > 0;) {
    const UOp *u = c->k->list.at[i];
    if (!product_of(u)) continue;
    Status st = repair_find(c->job, &c->k->list, c->k->kept, c->k->nkept,
                            (uint32_t)u->src[1]->arg.i, &c->row);
    bool found = !st && is_link(c, u);
    status_drop(st);
    if (!found) continue;
    c->outer = u;
    c->row_out = (uint32_t)u->src[1]->arg.i;
    return true;
  }
  return false;
}

/* The sum of products that computes what the first reduction of the row runs over. */
static bool find_inner(Chain *c) {
  c->row_in = c->row.at[0].axis;
  for (size_t i = 0; i < c->k->list.len; i++) {
    const UOp *u = c->k->list.at[i];
    if (!product_of(u) || is_link(c, u) || !kernel_depends(u, c->row_in)) continue;
    if (c->inner) return false;
    c->inner = u;
    c->depth = (uint32_t)u->src[1]->arg.i;
  }
  return c->inner != NULL;
}

/* The largest output axis that all of `with` depend on and none of `without`; of equal ones the
 * innermost. */
static bool own_axis(const Chain *c, const UOp *with, const UOp *const *without, uint32_t *out) {
  bool found = false;
  for (uint32_t i = 0; i < c->k->nloops; i++) {
    uint32_t a = (uint32_t)c->k->loops[i]->arg.i;
    if (!kernel_depends(with, a) || kernel_depends(without[0], a) || kernel_depends(without[1], a))
      continue;
    if (!found || size_of(c, a) >= size_of(c, *out)) *out = a;
    found = true;
  }
  return found;
}

/* Rows: what the one factor of the inner product has and nothing else; columns: what the outer
 * product has besides. */
static bool find_axes(Chain *c) {
  const UOp *f[2] = {product_of(c->inner)->src[0], product_of(c->inner)->src[1]};
  const UOp *g[2] = {product_of(c->outer)->src[0], product_of(c->outer)->src[1]};
  bool swap = kernel_depends(f[0], c->row_in), turn = !kernel_depends(g[0], c->row_out);
  const UOp *value = g[1];
  for (int s = 0; s < 2; s++) { /* the factor that no reduction is part of */
    UOpList list = uop_toposort(c->job, (UOp *)(uintptr_t)g[s]);
    bool plain = true;
    for (size_t i = 0; i < list.len; i++) plain &= list.at[i]->op != OP_REDUCE;
    if (plain) value = g[s];
  }
  const UOp *rows[2] = {f[!swap], value}, *columns[2] = {c->inner, c->inner};
  return !turn && own_axis(c, f[swap], rows, &c->m) && own_axis(c, value, columns, &c->n);
}

/* -- the list ---------------------------------------------------------------------------------- */

/* Tiles of the instruction's rows, groups of threads that have some of them each, steps of a block,
 * and how many are staged, as PIPELINE has it: the outer product late (PIPE_GO_ON), or whole tiles
 * by a warp of its own. */
typedef struct Shape {
  int64_t tiles, warps, block, stages;
} Shape;

/* Two tiles of rows read the other operands half as often, and fill the registers that a thread
 * has where columns are many: then one, and longer blocks, after which fewer sums are scaled. */
static const Shape narrow[] = {{2, 4, 64, 2}, {1, 4, 64, 2}, {1, 2, 64, 2}, {1, 2, 32, 2},
                               {1, 1, 32, 2}, {1, 1, 16, 2}, {1, 1, 16, 1}};
static const Shape wide[] = {{1, 8, 128, 2}, {1, 8, 64, 2}, {1, 4, 64, 2}, {1, 2, 32, 2},
                             {1, 1, 32, 2},  {1, 1, 16, 2}, {1, 1, 16, 1}};
enum { SHAPES = sizeof narrow / sizeof *narrow, MANY_COLUMNS = 64 };

/* Of instructions of several warps; the largest number of columns that each is for: what a thread
 * has of a block and of the results has to fit into its registers. Three groups of warps have
 * fewer each, which they get of those that copy, and take turns best; but their tiles of rows have
 * to fit the rows. */
static const struct {
  int64_t columns;
  Shape shape;
} grouped[] = {{64, {1, 3, 128, 2 + PIPE_WHOLE}},
               {64, {1, 2, 128, 3}},
               {128, {1, 2, 128, 2}},
               {256, {1, 2, 64, 2}},
               {128, {1, 1, 128, 2}},
               {256, {1, 1, 64, 2}}};

/* Workgroups that a shape makes. */
static int64_t groups_of(const Chain *c, const Shape *s, int64_t m) {
  int64_t rows = s->tiles * s->warps * m, all = 1;
  for (uint32_t i = 0; i < c->k->nloops; i++) {
    uint32_t a = (uint32_t)c->k->loops[i]->arg.i;
    int64_t n = size_of(c, a);
    if (a == c->m) n = (n + rows - 1) / rows;
    if (a != c->n && all < (int64_t)1 << 40) all *= n;
  }
  return all;
}

static void give(Chain *c, OptKind kind, int64_t axis, int64_t arg) {
  if (arg > 1 || kind == OPT_KEEP || kind == OPT_STAGE)
    opts_push(c->job, c->opts, kind, (int)axis, arg);
}

static int stage_of(const Chain *c, const UOp *factor) {
  const UOp *u = factor->op == OP_CAST ? factor->src[0] : factor;
  for (uint32_t i = 0; i < c->k->nstageable; i++)
    if (c->k->stageable[i] == u) return (int)i;
  return -1;
}

/* The innermost output loop that the row depends on. */
static int row_level(const Chain *c) {
  int level = -1;
  for (uint32_t i = 0; i < c->k->nloops; i++)
    if (kernel_depends(c->row.at[0].reduce, (uint32_t)c->k->loops[i]->arg.i))
      level = (int)c->k->loops[i]->arg.i;
  return level;
}

static void keep_rows(Chain *c) {
  int level = row_level(c);
  for (uint32_t n = 0; n < c->k->nkept; n++) {
    const Kept *kept = &c->k->kept[n];
    bool row = false;
    for (uint32_t r = 0; r < kept->n * kept->nrow; r++)
      for (uint32_t l = 0; l < c->row.n; l++) row |= kept->row[r]->arg.i == c->row.at[l].axis;
    if (row) give(c, OPT_KEEP, level, n);
  }
}

/* Factors that threads load again and again; what an instruction reads in memory is staged in any
 * case, and what it holds in registers is loaded once. */
static void stage_factors(Chain *c, const Shape *s, const MatrixInfo *inner) {
  for (int outer = 0; outer < 2 && !inner->shared; outer++) {
    const UOp *p = product_of(outer ? c->outer : c->inner);
    for (int f = 0; f < 2; f++) {
      int number = stage_of(c, p->src[f]);
      bool rows = kernel_depends(p->src[f], c->m);
      if (number >= 0) give(c, OPT_STAGE, rows ? -1 : (int)c->row_in, number);
    }
  }
  give(c, OPT_PIPELINE, c->row_in, s->stages);
}

static bool try_shape(Chain *c, const Shape *s, int64_t first, int64_t second) {
  const MatrixInfo *inner = matrix_info(first), *outer = matrix_info(second);
  size_t before = c->opts->len;
  OptPlan plan;
  if (size_of(c, c->m) < s->tiles * s->warps * inner->m && s->tiles * s->warps > 1) return false;
  if (size_of(c, c->row_in) < s->block && s->block > inner->k) return false;
  for (uint32_t l = 0; l < c->row.n; l++)
    if (c->k->axes[c->row.at[l].axis].divisor % s->block)
      give(c, OPT_PADTO, c->row.at[l].axis, s->block);
  if (c->k->axes[c->depth].divisor % inner->k) give(c, OPT_PADTO, c->depth, inner->k);
  give(c, OPT_TC, c->m, opt_tc_arg(first, c->row_in, c->depth));
  give(c, OPT_TC, c->m, opt_tc_arg(second, c->n, c->row_out));
  keep_rows(c);
  give(c, OPT_REPAIR, c->row_in, s->block);
  for (uint32_t l = 0; l < c->row.n; l++) {
    uint32_t axis = c->row.at[l].axis;
    give(c, OPT_UNROLL, axis, s->block / (axis == c->row_out ? outer->k : inner->n));
  }
  give(c, OPT_UNROLL, c->depth, (size_of(c, c->depth) + inner->k - 1) / inner->k);
  give(c, OPT_UPCAST, c->n, size_of(c, c->n) / outer->n);
  give(c, OPT_UPCAST, c->m, s->tiles);
  give(c, OPT_LOCAL, c->m, s->warps);
  stage_factors(c, s, inner);
  Status st = opts_plan(c->job, c->k, c->target, c->opts, &plan);
  if (!st) return true;
  status_drop(st);
  c->opts->len = before;
  return false;
}

static size_t count_loads(const Chain *c, const UOp *u) {
  UOpList list = uop_toposort(c->job, (UOp *)(uintptr_t)u);
  size_t n = 0;
  for (size_t i = 0; i < list.len; i++) n += list.at[i]->op == OP_INDEX;
  return n;
}

/* Whether scores are computed from more than the inner product's factors: a bias, a mask. */
static bool loads_more(const Chain *c, const UOp *body) {
  return count_loads(c, body) > count_loads(c, c->inner);
}

/* The row's blocks are equally many for every tile of rows: no mask says which are left out. */
static bool has_all_blocks(const Chain *c) {
  const UOp *body = c->row.at[0].reduce->src[0];
  while (body->op == OP_CAST) body = body->src[0];
  return body->op != OP_WHERE || count_loads(c, body->src[0]);
}

/* Workgroups that stay copy the next tile's first blocks while a tile's rows are stored. Where sums
 * take half of the registers there are none for another loop. */
static void stay(Chain *c, const Shape *s, int64_t m) {
  enum { MOST_COLUMNS = 128 };
  OptPlan plan;
  if (!has_all_blocks(c) || size_of(c, c->n) > MOST_COLUMNS ||
      groups_of(c, s, m) <= c->target->threads)
    return;
  size_t before = c->opts->len;
  give(c, OPT_PERSIST, 0, c->target->threads);
  Status st = opts_plan(c->job, c->k, c->target, c->opts, &plan);
  if (st) c->opts->len = before;
  status_drop(st);
}

/* A shape keeps half of the processors busy, or none could. */
static bool fills(const Chain *c, const Shape *s, int64_t m) {
  return groups_of(c, s, m) >= c->target->threads || s->warps == 1;
}

/* The instruction of several warps with so many columns; its first factor in registers or not. */
static int64_t grouped_row(const Chain *c, int64_t columns, bool held, DType d) {
  for (int64_t id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    if (info->shared && info->held == held && info->n == columns && info->dtype[0] == d &&
        matrix_on(info, c->target))
      return id;
  }
  return -1;
}

/* Of a long row the outer product is one block late: the inner one's time is too short for the
 * exponentials. That takes one place more, and time before and after all blocks, of which a mask
 * leaves out some; and registers, which what scores are made of besides may take. */
static bool pays_late(const Chain *c, const Shape *s, bool ring) {
  enum { LEAST_BLOCKS = 16, LEAST_OF_RING = 4 };
  const UOp *body = c->row.at[0].reduce->src[0];
  while (body->op == OP_CAST) body = body->src[0];
  bool masked = body->op == OP_WHERE;
  if (loads_more(c, body) || (masked && (!ring || body->src[0]->op == OP_AND))) return false;
  return size_of(c, c->row_in) >= (ring && !masked ? LEAST_OF_RING : LEAST_BLOCKS) * s->block;
}

/* Rows of the first factor lie in registers, too, where those are not full. */
enum { HELD_DEPTH = 128, MOST_COLUMNS = 256 };

/* Tiles of so many rows go beyond the end, or overlap, by less than a sixteenth. */
static bool covers(const Chain *c, const Shape *s, int64_t m) {
  int64_t tile = s->tiles * s->warps * m, rows = size_of(c, c->m);
  return (rows + tile - 1) / tile * tile - rows <= rows / 16;
}

/* Whole tiles by a warp of its own where that may be, with three places if they fit, which the late
 * product needs; where a mask leaves few blocks two were as many as are worth filling. */
static bool try_places(Chain *c, const Shape *s, bool held, int64_t first, int64_t second) {
  Shape now = *s;
  int64_t m = matrix_info(first)->m;
  if (s->stages & PIPE_WHOLE) {
    if (!covers(c, s, m) || !try_shape(c, s, first, second)) return false;
    return stay(c, s, m), true;
  }
  int64_t ring_of = has_all_blocks(c) || loads_more(c, c->row.at[0].reduce->src[0]) ? 3 : 2;
  const int64_t stages[] = {3 + PIPE_WHOLE + PIPE_GO_ON, ring_of + PIPE_WHOLE, 2 + PIPE_WHOLE,
                            3 + PIPE_GO_ON, s->stages};
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
    bool late = stages[i] & PIPE_GO_ON, ring = stages[i] & PIPE_WHOLE;
    if (late && !(held && pays_late(c, s, ring))) continue;
    now.stages = stages[i];
    if (!try_shape(c, &now, first, second)) continue;
    if (ring) stay(c, s, m);
    return true;
  }
  return false;
}

static bool by_groups(Chain *c) {
  const UOp *value = product_of(c->inner)->src[0];
  if (value->op == OP_CAST) value = value->src[0];
  bool held = size_of(c, c->depth) <= HELD_DEPTH;
  for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++) {
    const Shape *s = &grouped[i].shape;
    int64_t columns = size_of(c, c->n);
    if (columns > grouped[i].columns || columns % 32) continue;
    int64_t first = grouped_row(c, s->block, held, (DType)value->dtype), second = -1;
    for (int64_t n = MOST_COLUMNS; n >= 32 && second < 0; n /= 2)
      if (columns % n == 0) second = grouped_row(c, n, true, (DType)value->dtype);
    if (first < 0 || second < 0 || !fills(c, s, matrix_info(first)->m)) continue;
    if (try_places(c, s, held, first, second)) return true;
  }
  return false;
}

bool heuristic_chain_gpu(Job *job, const KernelInfo *k, const Target *target, OptList *opts) {
  Chain c = {.job = job, .k = k, .target = target, .opts = opts};
  if (!k->store || target->warp <= 1 || !find_outer(&c) || !find_inner(&c) || !find_axes(&c))
    return false;
  if (by_groups(&c)) return true;
  for (int64_t id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    if (info->shared || !matrix_on(info, target) || !opts_chain_fits(info, info)) continue;
    const Shape *shapes = size_of(&c, c.n) > MANY_COLUMNS ? wide : narrow;
    for (size_t s = 0; s < SHAPES; s++)
      if (fills(&c, &shapes[s], info->m) && try_shape(&c, &shapes[s], id, id)) return true;
  }
  return false;
}
