/* Two matrix products in one kernel: the elements of a row come from the first (the inner product,
 * whose second output axis is a reduce axis), and the second sums over that row.
 *
 * Both are computed over the same rows, by instructions with which a thread has those elements of
 * the inner product's result that the second one wants of its first factor: thread q + 4 p of
 * m16n8k16 holds columns 2 q and 2 q + 1 of every eight, and so does that of a wgmma. Every reduce
 * axis that runs along the row is dealt out to the threads in that way, what is kept along it stays
 * in their registers, and the reductions combine threads of a warp by exchanges. */
#include "compiler/search/opts.h"

/* A digit of the coordinate that threads' numbers have: where it stands. */
static const MatrixDigit *thread_digit(const MatrixLayout *l, bool second, unsigned nth) {
  for (unsigned i = 0; i < l->n; i++) {
    bool thread = l->digit[i].of > 'c';
    if (thread && l->digit[i].second == second && !nth--) return &l->digit[i];
  }
  return NULL;
}

/* Threads have the same elements of a coordinate of x as of one of y. */
static bool same_threads(const MatrixLayout *x, bool xsecond, const MatrixLayout *y, bool ysecond) {
  const MatrixDigit *d, *e;
  for (unsigned n = 0;; n++) {
    d = thread_digit(x, xsecond, n), e = thread_digit(y, ysecond, n);
    if (!d || !e) return n && !d && !e;
    if (d->of != e->of || d->size != e->size || d->weight != e->weight) return false;
  }
}

/* A factor has the rows that the result has, where threads hold it. */
static bool same_rows(const MatrixInfo *info) {
  const MatrixLayout *c = &info->layout[MATRIX_C], *a = &info->layout[MATRIX_A];
  return matrix_in_memory(info, MATRIX_A) || same_threads(c, false, a, false);
}

bool opts_chain_begins(const MatrixInfo *info) {
  const MatrixLayout *c = &info->layout[MATRIX_C];
  return info->threads > 1 && thread_digit(c, true, 0) && !thread_digit(c, true, 1) &&
         same_rows(info);
}

bool opts_chain_fits(const MatrixInfo *inner, const MatrixInfo *outer) {
  const MatrixLayout *c = &inner->layout[MATRIX_C], *a = &outer->layout[MATRIX_A];
  return inner->threads == outer->threads && inner->m == outer->m && opts_chain_begins(inner) &&
         !matrix_in_memory(outer, MATRIX_A) && same_rows(outer) &&
         same_threads(c, false, a, false) && same_threads(c, true, a, true) &&
         inner->dtype[MATRIX_C] == outer->dtype[MATRIX_C];
}

static Status refuse(const char *why) { return FAIL(INVALID_ARGUMENT, "TC: %s", why); }

/* Axes that run along the row of the inner product and belong to no product have its digits. */
Status opts_chain_rows(const KernelInfo *k, OptPlan *plan) {
  const RepairChain *c = &plan->repair;
  const MatrixPlan *inner = &plan->inner;
  bool n = false, sum = false;
  if (!inner->info) return NULL;
  if (!plan->matrix.info || !c->n)
    return refuse(
        "a product along a reduce axis needs another one that sums over it, and a REPAIR");
  for (uint32_t l = 0; l < c->n; l++) {
    uint32_t axis = c->at[l].axis;
    AxisPlan *a = &plan->axes[axis];
    n |= axis == inner->n, sum |= axis == plan->matrix.k;
    if (a->lanes) return refuse("the row is shared by other threads than those of the instruction");
    if (axis == inner->n || axis == plan->matrix.k) continue;
    a->matrix = (int32_t)inner->info->n;
    a->digits = PLACE_N;
    a->tile *= a->matrix;
  }
  if (!n || !sum) return refuse("the products are not of one row");
  const AxisPlan *last = &plan->axes[plan->matrix.k];
  if (plan->under && last->block != last->tile)
    return refuse("a product that is one block late takes a block at once");
  for (uint32_t i = 0; i < plan->nkeeps; i++)
    for (uint32_t m = 0; m < k->kept[plan->keeps[i].value].n; m++)
      if (kernel_depends(k->kept[plan->keeps[i].value].at[m], inner->n)) return NULL;
  return refuse("the inner product is not part of what is kept");
}

int64_t opts_chain_padding(const KernelInfo *k, const OptPlan *plan, uint32_t stage,
                           int64_t elements) {
  const StagePlan *s = &plan->stages[stage];
  if (!plan->inner.info || opts_matrix_tiled(plan, k->stageable[s->operand])) return 0;
  bool inner = kernel_depends(k->stageable[s->operand], plan->inner.k);
  int64_t row = opts_staged_extent(k, plan, inner ? plan->inner.k : plan->matrix.n, s->level);
  return row ? elements / row * OPT_ROW_PADDING : 0;
}

/* -- where rows are kept ----------------------------------------------------------------------- */

/* How threads of the workgroup share an axis. */
typedef struct Shares {
  int64_t threads, step; /* and how far the elements of neighbours are apart */
  int dim;
} Shares;

static Shares shares_of(const OptPlan *plan, uint32_t axis) {
  const AxisPlan *a = &plan->axes[axis];
  const MatrixInfo *info = plan->inner.info;
  bool matrix = info && (a->digits == PLACE_N || axis == plan->matrix.k);
  if (matrix) {
    const MatrixDigit *d = thread_digit(&info->layout[MATRIX_C], true, 0);
    return (Shares){d->size, d->weight, -1};
  }
  if (!a->lanes) return (Shares){1, 0, 0};
  return (Shares){a->lanes, a->top ? a->outer / a->lanes * a->tile : a->tile, a->dim};
}

int opts_kept_space(const OptPlan *plan, const Kept *kept) {
  bool shared = false, spread = false;
  for (uint32_t r = 0; plan->groups && r < kept->n * kept->nrow; r++) {
    Shares a = shares_of(plan, (uint32_t)kept->row[r]->arg.i);
    Shares b = shares_of(plan, (uint32_t)kept->row[r % kept->nrow]->arg.i);
    shared |= a.threads != b.threads || a.step != b.step || a.dim != b.dim;
    spread |= a.threads > 1;
  }
  return shared ? 2 : spread ? 3 : 0;
}
