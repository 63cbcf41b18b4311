/* KEEP and REPAIR: what a list that has them needs besides.
 *
 * A kept row lies in the loop around it, and fits a buffer. The blocks of a repaired row hold whole
 * tiles and cover it, with padding if need be; the loop over them runs inside of every loop that
 * its first reduction depends on, and around all others. */
#include "compiler/search/opts.h"

static bool is_row(const Kept *k, const UOp *range) {
  for (uint32_t r = 0; r < k->nrow; r++)
    if (k->row[r] == range) return true;
  return false;
}

/* Elements along a row: as many as the member that goes furthest may touch. */
static int64_t row_extent(const OptPlan *plan, const Kept *kept, uint32_t r) {
  int64_t most = 0;
  for (uint32_t m = 0; m < kept->n; m++) {
    const AxisPlan *a = &plan->axes[kept->row[m * kept->nrow + r]->arg.i];
    int64_t size = a->block ? a->block : a->size;
    if (size > most) most = size;
  }
  return most;
}

/* Are the rows of member m walked as a whole, and not dealt out to threads or workgroups that know
 * nothing of each other? */
static bool row_is_whole(const KernelInfo *k, const OptPlan *plan, const Kept *kept, uint32_t m) {
  for (uint32_t r = 0; r < kept->nrow; r++) {
    uint32_t axis = (uint32_t)kept->row[m * kept->nrow + r]->arg.i;
    const AxisPlan *a = &plan->axes[axis];
    bool one_group = axis_is_static(&k->axes[axis]) &&
                     a->outer <= (int64_t)a->spread * (a->lanes ? a->lanes : 1);
    if (k->axes[axis].reduce) continue;
    if (plan->groups ? !one_group : a->threads) return false;
  }
  return true;
}

/* A member that the matrix product along the row computes. */
static bool is_product(const OptPlan *plan, const Kept *kept, uint32_t m) {
  return plan->inner.info && kernel_depends(kept->at[m], plan->inner.n);
}

uint32_t opts_kept_filler(const KernelInfo *k, const OptPlan *plan, const Kept *kept) {
  uint32_t best = 0;
  int64_t most = -1;
  for (uint32_t m = 0; m < kept->n; m++)
    if (is_product(plan, kept, m)) return m;
  for (uint32_t m = 0; m < kept->n; m++) {
    int64_t tile = 1;
    if (!row_is_whole(k, plan, kept, m)) continue;
    for (uint32_t r = 0; r < kept->nrow; r++) {
      int64_t axis = kept->row[m * kept->nrow + r]->arg.i;
      bool factor = plan->inner.info && axis == plan->matrix.k;
      tile = k->axes[axis].reduce && !factor ? tile * plan->axes[axis].tile : 0;
    }
    if (tile > most) best = m, most = tile;
  }
  return best;
}

/* What lies in the workgroup's memory is computed by one thread each: threads along any axis share
 * the row that is walked, or have values of their own. */
static bool each_by_one(const KernelInfo *k, const OptPlan *plan, const Kept *kept) {
  uint32_t m = opts_kept_filler(k, plan, kept);
  unsigned all = 0, apart = 0;
  for (uint32_t x = 0; x < k->naxes; x++) {
    const AxisPlan *a = &plan->axes[x];
    bool in_row = false;
    for (uint32_t r = 0; r < kept->nrow; r++) in_row |= kept->row[m * kept->nrow + r]->arg.i == x;
    if (a->lanes <= 1) continue;
    all |= 1u << a->dim;
    if (in_row || (!k->axes[x].reduce && kernel_depends(kept->at[m], x))) apart |= 1u << a->dim;
  }
  return all == apart;
}

/* A member's row lies in the loop at whose level it is kept, and who computes the value has all of
 * some member's. */
static Status check_rows(const KernelInfo *k, const OptPlan *plan, const KeepPlan *keep) {
  const Kept *kept = &k->kept[keep->value];
  bool whole = false;
  for (uint32_t m = 0; m < kept->n; m++) whole |= row_is_whole(k, plan, kept, m);
  if (!whole)
    return FAIL(INVALID_ARGUMENT, "KEEP(%d,%u): threads or workgroups deal out the rows of all",
                keep->level, keep->value);
  if (!plan->inner.info && opts_kept_space(plan, kept) == 2 && !each_by_one(k, plan, kept))
    return FAIL(INVALID_ARGUMENT, "KEEP(%d,%u): several threads would compute the same part of it",
                keep->level, keep->value);
  for (uint32_t r = 0; r < kept->n * kept->nrow; r++) {
    uint32_t a = (uint32_t)kept->row[r]->arg.i;
    bool inside = keep->level != (int)a && opts_inside(plan, a, keep->level);
    if (!k->axes[a].reduce && !inside)
      return FAIL(INVALID_ARGUMENT, "KEEP(%d,%u): the row along axis %u is not inside of that loop",
                  keep->level, keep->value, a);
  }
  return NULL;
}

static bool grows_to(int64_t *size, int64_t times) {
  return !__builtin_mul_overflow(*size, times, size) && *size <= OPT_MAX_STAGE;
}

static Status check_keeps(const KernelInfo *k, const OptPlan *plan) {
  for (uint32_t i = 0; i < plan->nkeeps; i++) {
    const KeepPlan *keep = &plan->keeps[i];
    const Kept *kept = &k->kept[keep->value];
    const RangeSet *open = kept->at[0]->open;
    int64_t size = 1;
    bool fits = true;
    TRY(check_rows(k, plan, keep));
    if (plan->carry >= 0)
      return FAIL(INVALID_ARGUMENT, "KEEP(%d,%u): not in a list with CARRY", keep->level,
                  keep->value);
    for (uint32_t r = 0; r < kept->nrow; r++)
      fits = fits && grows_to(&size, row_extent(plan, kept, r));
    for (uint32_t j = 0; j < open->n; j++)
      if (!is_row(kept, open->at[j]))
        fits = fits && grows_to(&size, opts_staged_extent(k, plan, (uint32_t)open->at[j]->arg.i,
                                                          keep->level));
    if (!fits)
      return FAIL(INVALID_ARGUMENT, "KEEP(%d,%u) would keep more than %lld elements", keep->level,
                  keep->value, (long long)OPT_MAX_STAGE);
  }
  return NULL;
}

/* The innermost loop that the first reduction of the chain depends on. */
static int find_level(const OptPlan *plan) {
  int level = -1;
  for (uint32_t i = 0; i < plan->nout; i++)
    if (kernel_depends(plan->repair.at[0].reduce, plan->order[i])) level = (int)plan->order[i];
  return level;
}

static Status refuse(const char *why) { return FAIL(INVALID_ARGUMENT, "REPAIR: %s", why); }

/* Of one reduction of the chain. */
static Status check_link(const KernelInfo *k, const OptPlan *plan, const RepairLink *link) {
  const AxisPlan *a = &plan->axes[link->axis];
  const RangeSet *open = link->reduce->open, *first = plan->repair.at[0].reduce->open;
  int64_t size = 1;
  bool fits = true;
  if (a->block % (a->tile * (a->lanes ? a->lanes : 1) * a->spread))
    return refuse(
        "a block is no multiple of the tile along the row, and of the threads that share it");
  if (k->axes[link->axis].divisor % a->block && a->size % a->block)
    return refuse("the row is no multiple of a block; use PADTO first");
  if (!axis_is_static(&k->axes[link->axis]) && k->axes[link->axis].divisor % a->block &&
      a->pad % a->block)
    return refuse("a run decides the length of the row; use PADTO with the block");
  for (uint32_t o = 0; open && o < open->n; o++) {
    uint32_t axis = (uint32_t)open->at[o]->arg.i;
    bool shared = false;
    for (uint32_t n = 0; first && n < first->n; n++) shared |= first->at[n] == open->at[o];
    if (k->axes[axis].reduce) return refuse("the row is inside of another reduction");
    if (!shared && !opts_inside(plan, axis, plan->repair_level))
      return refuse("a loop that the first reduction does not run in is around the row's");
    fits = fits && grows_to(&size, opts_staged_extent(k, plan, axis, plan->repair_level));
  }
  return fits ? NULL : refuse("its results so far do not fit a buffer");
}

static Status check_repair(const KernelInfo *k, OptPlan *plan) {
  if (!plan->repair.n) return NULL;
  if (plan->carry >= 0 || (plan->matrix.info && !plan->inner.info))
    return refuse("not in a list with CARRY or TC");
  plan->repair_level = find_level(plan);
  for (uint32_t l = 0; l < plan->repair.n; l++) TRY(check_link(k, plan, &plan->repair.at[l]));
  return NULL;
}

Status opts_rows_check(const KernelInfo *k, OptPlan *plan) {
  TRY(check_repair(k, plan));
  return check_keeps(k, plan);
}
