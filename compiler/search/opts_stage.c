/* What STAGE copies: how much of an operand lies inside of a loop, and when a copy is legal. */
#include "compiler/search/opts.h"

/* -- what a tile covers inside the loop `level` -------------------------------------------------
 */

/* Where the loop over an axis stands among the output loops; what stays in a REDUCE is inside of
 * all. */
static uint32_t place_in_nest(const OptPlan *plan, uint32_t axis) {
  if ((int)axis == plan->carry) return 2 * plan->carry_at;
  for (uint32_t i = 0; i < plan->nout; i++)
    if (plan->order[i] == axis) return 2 * i + 1;
  return UINT32_MAX;
}

bool opts_inside(const OptPlan *plan, uint32_t axis, int level) {
  return level < 0 || place_in_nest(plan, axis) > place_in_nest(plan, (uint32_t)level);
}

/* Of what a workgroup uses; 0 when a run decides. */
static int64_t shared_extent(const KernelInfo *k, const OptPlan *plan, uint32_t axis, int level) {
  const AxisPlan *a = &plan->axes[axis];
  int64_t own = a->tile * (a->lanes ? a->lanes : 1) * a->spread;
  if (!k->axes[axis].reduce) return own;
  if (level >= 0 && plan->axes[level].block && a->block) return a->block;
  bool inside = level < 0 || plan->axes[level].block;
  for (uint32_t i = plan->nout; i < plan->nout + plan->nred; i++) {
    if (plan->order[i] == axis) break;
    inside |= plan->order[i] == (uint32_t)level;
  }
  if (!inside || axis == (uint32_t)level) return own;
  return axis_is_static(&k->axes[axis]) ? a->size : 0;
}

int64_t opts_staged_extent(const KernelInfo *k, const OptPlan *plan, uint32_t axis, int level) {
  const AxisPlan *a = &plan->axes[axis];
  if (plan->groups) return shared_extent(k, plan, axis, level);
  if (level < 0) return a->size;
  if (k->axes[axis].reduce && (int)axis != plan->carry) return a->size;
  return opts_inside(plan, axis, level) ? a->outer * a->tile : a->tile;
}

/* -- legality ---------------------------------------------------------------------------------- */

static bool contains(Job *job, UOp *u, const UOp *x) {
  UOpList list = uop_toposort(job, u);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i] == x) return true;
  return false;
}

/* Whether one of the axis' iterations computes with the operand. */
static bool is_read_along(const KernelInfo *k, const UOp *operand, uint32_t axis) {
  bool read = kernel_depends(operand, axis);
  for (size_t i = 0; !read && i < k->list.len; i++) {
    const UOp *u = k->list.at[i];
    for (uint32_t s = 0; s < u->nsrc; s++) read |= u->src[s] == operand && kernel_depends(u, axis);
  }
  return read;
}

/* What is copied ahead of a loop is read in it, and the loop is one; that over the blocks of a row
 * that is repaired has all of the row's reductions. */
static Status check_ahead(const KernelInfo *k, const OptPlan *plan) {
  if (!plan->slots || plan->axes[plan->pipeline].block) return NULL;
  uint32_t n;
  (void)opts_reduce_over(k, (uint32_t)plan->pipeline, &n);
  if (n != 1)
    return FAIL(INVALID_ARGUMENT, "PIPELINE: axis %d belongs to %u reductions, expected one",
                plan->pipeline, n);
  for (uint32_t s = 0; s < plan->nstages; s++) {
    const StagePlan *stage = &plan->stages[s];
    if (stage->level != plan->pipeline) continue;
    if (!is_read_along(k, k->stageable[stage->operand], (uint32_t)stage->level))
      return FAIL(INVALID_ARGUMENT, "PIPELINE: operand %u is not read in the loop over axis %d",
                  stage->operand, stage->level);
  }
  return NULL;
}

/* A copy that threads share does not read what another copy made: its elements are dealt out
 * otherwise than those of the loops that the other one is for. */
static Status check_nested(Job *job, const KernelInfo *k, const OptPlan *plan) {
  for (uint32_t s = 0; plan->groups && s < plan->nstages; s++) {
    UOp *u = k->stageable[plan->stages[s].operand];
    for (uint32_t other = 0; other < plan->nstages; other++)
      if (other != s && contains(job, u, k->stageable[plan->stages[other].operand]))
        return FAIL(INVALID_ARGUMENT, "STAGE(%d,%u): the operand is part of operand %u",
                    plan->stages[other].level, plan->stages[other].operand,
                    plan->stages[s].operand);
  }
  return NULL;
}

static Status check_sizes(const KernelInfo *k, const Target *target, const OptPlan *plan) {
  int64_t shared = plan->bulk ? TILE_ALIGN : 0; /* barriers of the ring */
  for (uint32_t s = 0; s < plan->nstages; s++) {
    const UOp *u = k->stageable[plan->stages[s].operand];
    int level = plan->stages[s].level;
    if (!plan->groups && level >= 0 && k->axes[level].reduce && level != plan->carry)
      return FAIL(INVALID_ARGUMENT,
                  "STAGE(%d,%u) is not legal: the loop must be an output axis, or carried", level,
                  plan->stages[s].operand);
    const RangeSet *open = u->open;
    int64_t size = 1;
    for (uint32_t j = 0; open && j < open->n; j++) {
      uint32_t a = (uint32_t)open->at[j]->arg.i;
      size *= opts_staged_extent(k, plan, a, plan->stages[s].level);
      if (size > OPT_MAX_STAGE)
        return FAIL(INVALID_ARGUMENT, "STAGE(%d,%u) would copy more than %lld elements",
                    plan->stages[s].level, plan->stages[s].operand, (long long)OPT_MAX_STAGE);
      if (!size)
        return FAIL(INVALID_ARGUMENT,
                    "STAGE(%d,%u) would copy a number of elements that is known "
                    "only at run time",
                    plan->stages[s].level, plan->stages[s].operand);
    }
    bool ahead = plan->slots && plan->stages[s].level == plan->pipeline;
    size = size * dtype_info[u->dtype].bytes + opts_chain_padding(k, plan, s, size);
    bool early = plan->inner.info && !plan->bulk && kernel_depends(u, plan->inner.k);
    shared += size * (ahead ? plan->slots - (early ? plan->under : 0) : 1);
    if (plan->groups && (uint64_t)shared > target->local_bytes)
      return FAIL(INVALID_ARGUMENT, "what is staged takes more than the workgroup's %llu bytes",
                  (unsigned long long)target->local_bytes);
  }
  return NULL;
}

Status opts_stages_check(Job *job, const KernelInfo *k, const Target *target, const OptPlan *plan) {
  TRY(check_sizes(k, target, plan));
  TRY(check_ahead(k, plan));
  return check_nested(job, k, plan);
}
