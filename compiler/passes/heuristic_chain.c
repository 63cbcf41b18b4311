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

/* Rows of a warp in tiles of the instruction, warps, steps of a block, and how many are staged. */
typedef struct Shape {
  int64_t tiles, warps, block, stages;
} Shape;

static const Shape shapes[] = {{2, 4, 64, 2}, {1, 8, 64, 2}, {1, 4, 64, 2}, {1, 4, 32, 2},
                               {1, 2, 32, 2}, {1, 1, 32, 2}, {1, 1, 16, 2}, {1, 1, 16, 1}};

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

static void stage_factors(Chain *c, const Shape *s) {
  for (int outer = 0; outer < 2; outer++) {
    const UOp *p = product_of(outer ? c->outer : c->inner);
    for (int f = 0; f < 2; f++) {
      int number = stage_of(c, p->src[f]);
      bool rows = kernel_depends(p->src[f], c->m);
      if (number >= 0) give(c, OPT_STAGE, rows ? -1 : (int)c->row_in, number);
    }
  }
  give(c, OPT_PIPELINE, c->row_in, s->stages);
}

static bool try_shape(Chain *c, const Shape *s, int64_t id) {
  const MatrixInfo *info = matrix_info(id);
  size_t before = c->opts->len;
  OptPlan plan;
  if (size_of(c, c->m) < s->tiles * s->warps * info->m && s->tiles * s->warps > 1) return false;
  if (size_of(c, c->row_in) < s->block && s->block > info->k) return false;
  for (uint32_t l = 0; l < c->row.n; l++)
    if (c->k->axes[c->row.at[l].axis].divisor % s->block)
      give(c, OPT_PADTO, c->row.at[l].axis, s->block);
  if (c->k->axes[c->depth].divisor % info->k) give(c, OPT_PADTO, c->depth, info->k);
  give(c, OPT_TC, c->m, opt_tc_arg(id, c->row_in, c->depth));
  give(c, OPT_TC, c->m, opt_tc_arg(id, c->n, c->row_out));
  keep_rows(c);
  give(c, OPT_REPAIR, c->row_in, s->block);
  for (uint32_t l = 0; l < c->row.n; l++) {
    uint32_t axis = c->row.at[l].axis;
    give(c, OPT_UNROLL, axis, s->block / (axis == c->row_out ? info->k : info->n));
  }
  give(c, OPT_UNROLL, c->depth, (size_of(c, c->depth) + info->k - 1) / info->k);
  give(c, OPT_UPCAST, c->n, size_of(c, c->n) / info->n);
  give(c, OPT_UPCAST, c->m, s->tiles);
  give(c, OPT_LOCAL, c->m, s->warps);
  stage_factors(c, s);
  Status st = opts_plan(c->job, c->k, c->target, c->opts, &plan);
  if (!st) return true;
  status_drop(st);
  c->opts->len = before;
  return false;
}

bool heuristic_chain_gpu(Job *job, const KernelInfo *k, const Target *target, OptList *opts) {
  Chain c = {.job = job, .k = k, .target = target, .opts = opts};
  if (!k->store || target->warp <= 1 || !find_outer(&c) || !find_inner(&c) || !find_axes(&c))
    return false;
  for (int64_t id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    if (!matrix_on(info, target) || !opts_chain_fits(info)) continue;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
      if (try_shape(&c, &shapes[s], id)) return true;
  }
  return false;
}
