/* Two matrix products in one kernel: the elements of a row come from the first (the inner product,
 * whose second output axis is a reduce axis), and the second sums over that row.
 *
 * Both are computed by the same instruction over the same rows, so a warp has the rows of the inner
 * product's result where the second one wants those of its first factor: thread q + 4 p of
 * m16n8k16 holds columns 2 q and 2 q + 1 of every eight. Every reduce axis that runs along the row
 * is dealt out to the threads in that way, what is kept along it stays in their registers, and the
 * reductions combine threads of a warp by exchanges. */
#include "compiler/search/opts.h"

/* A digit of the coordinate that threads' numbers have: where it stands. */
static const MatrixDigit *thread_digit(const MatrixLayout *l, bool second, unsigned nth) {
  for (unsigned i = 0; i < l->n; i++) {
    bool thread = l->digit[i].of == 'q' || l->digit[i].of == 'p';
    if (thread && l->digit[i].second == second && !nth--) return &l->digit[i];
  }
  return NULL;
}

static unsigned register_digits(const MatrixLayout *l, bool second) {
  unsigned n = 0;
  for (unsigned i = 0; i < l->n; i++) n += l->digit[i].second == second && l->digit[i].of <= 'c';
  return n;
}

/* Threads have the same elements of C's coordinate as of A's, and each coordinate of C has one
 * digit of the thread's number and one of the element's. */
static bool same_threads(const MatrixInfo *info, bool second) {
  const MatrixLayout *c = &info->layout[MATRIX_C], *a = &info->layout[MATRIX_A];
  const MatrixDigit *x = thread_digit(c, second, 0), *y = thread_digit(a, second, 0);
  bool one = x && y && !thread_digit(c, second, 1) && !thread_digit(a, second, 1);
  return one && register_digits(c, second) == 1 && x->of == y->of && x->size == y->size &&
         x->weight == y->weight;
}

bool opts_chain_fits(const MatrixInfo *info) {
  return info->threads == 32 && same_threads(info, false) && same_threads(info, true);
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
  for (uint32_t i = 0; i < plan->nkeeps; i++)
    for (uint32_t m = 0; m < k->kept[plan->keeps[i].value].n; m++)
      if (kernel_depends(k->kept[plan->keeps[i].value].at[m], inner->n)) return NULL;
  return refuse("the inner product is not part of what is kept");
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
