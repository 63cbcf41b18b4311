/* What TC asks of a kernel and of the other opts.
 *
 * The reduce axis sums products of two factors in the instruction's dtypes, each over one of the
 * output axes. Where the instruction takes its factors from the workgroup's memory they are staged,
 * whether the list says so or not: then inside of the loop over the reduce axis. What lies there is
 * ordered as the instruction wants it, so nothing else reads it. */
#include "compiler/search/opts.h"

/* The only REDUCE over the range, when it sums products in that dtype. */
static UOp *products_over(const KernelInfo *k, const UOp *range, DType d) {
  UOp *found = NULL;
  for (size_t i = 0; i < k->list.len; i++) {
    UOp *u = k->list.at[i];
    for (uint32_t s = 1; u->op == OP_REDUCE && s < u->nsrc; s++) {
      if (u->src[s] != range) continue;
      if (found) return NULL;
      found = u;
    }
  }
  bool fits = found && found->arg.i == OP_ADD && found->dtype == d && found->src[0]->op == OP_MUL;
  return fits ? found : NULL;
}

/* The factor before it was cast to the dtype of the sum, or cut as the instruction does; NULL when
 * it has another dtype, or when there are reductions in it, unless it is that of a chain. */
static UOp *matrix_factor(Job *job, UOp *u, const MatrixInfo *info, MatrixOperand o, bool chained) {
  UOp *x = info->cut ? matrix_uncut(u) : u->op == OP_CAST ? u->src[0] : u;
  if (!x || x->dtype != info->dtype[o]) return NULL;
  if (chained) return x;
  UOpList list = uop_toposort(job, x);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_REDUCE) return NULL;
  return x;
}

bool opts_matrix_find(Job *job, const KernelInfo *k, MatrixPlan *t, bool chained) {
  t->reduce = products_over(k, k->axes[t->k].range, t->info->dtype[MATRIX_C]);
  if (!t->reduce) return false;
  for (int swap = 0; swap < 2; swap++) {
    UOp *a = t->reduce->src[0]->src[swap], *b = t->reduce->src[0]->src[!swap];
    bool rows = t->info->m > 1;
    if (rows && (!kernel_depends(a, t->m) || kernel_depends(b, t->m))) continue;
    if (kernel_depends(a, t->n)) continue;
    if (!kernel_depends(b, t->n) || !kernel_depends(a, t->k) || !kernel_depends(b, t->k)) continue;
    t->factor[0] = matrix_factor(job, a, t->info, MATRIX_A, chained);
    t->factor[1] = matrix_factor(job, b, t->info, MATRIX_B, false);
    return t->factor[0] && t->factor[1];
  }
  return false;
}

/* The factor is used once, through what the instruction does itself perhaps. */
static bool is_only_factor(const KernelInfo *k, const UOp *factor) {
  uint32_t uses = 0;
  for (size_t i = 0; i < k->list.len; i++)
    for (uint32_t s = 0; s < k->list.at[i]->nsrc; s++) {
      const UOp *u = k->list.at[i];
      if (u->src[s] != factor) continue;
      bool through = u->op == OP_CAST || u->op == OP_BITCAST || u->op == OP_AND;
      if (through && !is_only_factor(k, u)) return false;
      uses++;
    }
  return uses == 1;
}

/* The loop inside of which a factor is staged that memory has to hold. */
static int stage_level(const OptPlan *plan, const MatrixPlan *t, const UOp *factor) {
  if (!plan->inner.info) return (int)t->k;
  bool row = kernel_depends(factor, plan->inner.n) || kernel_depends(factor, plan->matrix.k);
  return row ? (int)plan->inner.n : -1;
}

/* A factor that memory of the workgroup has to hold. */
static Status stage_factor(const KernelInfo *k, OptPlan *plan, const MatrixPlan *t, int f) {
  uint32_t at = 0;
  if (!is_only_factor(k, t->factor[f]))
    return FAIL(INVALID_ARGUMENT, "TC: factor %d is used for something else, too", f);
  if (t->factor[f]->op != OP_INDEX && plan->axes[t->k].padded)
    return FAIL(INVALID_ARGUMENT, "TC: factor %d is computed, and its axis is padded", f);
  while (at < k->nstageable && k->stageable[at] != t->factor[f]) at++;
  if (at == k->nstageable)
    return FAIL(INVALID_ARGUMENT, "TC: factor %d cannot be copied to the workgroup's memory", f);
  for (uint32_t s = 0; s < plan->nstages; s++)
    if (plan->stages[s].operand == at) return NULL;
  int level = stage_level(plan, t, t->factor[f]);
  plan->stages[plan->nstages++] = (StagePlan){.operand = at, .level = level};
  return NULL;
}

bool opts_matrix_tiled(const OptPlan *plan, const UOp *operand) {
  const MatrixPlan *both[2] = {&plan->matrix, &plan->inner};
  bool tiled = false;
  for (int p = 0; p < 2; p++)
    for (int f = 0; both[p]->info && f < 2; f++)
      tiled |= operand == both[p]->factor[f] && matrix_in_memory(both[p]->info, f);
  return tiled;
}

/* Matrix instructions make vectors of their own. */
Status opts_matrix_check(const KernelInfo *k, OptPlan *plan) {
  const MatrixPlan *both[2] = {&plan->inner, &plan->matrix};
  for (uint32_t i = 0; plan->matrix.info && i < k->naxes; i++)
    if (plan->axes[i].vector > 1)
      return FAIL(INVALID_ARGUMENT, "axis %u has a VECTOR beside a TC", i);
  for (int p = 0; p < 2; p++)
    for (int f = 0; both[p]->info && f < 2; f++)
      if (matrix_in_memory(both[p]->info, f)) TRY(stage_factor(k, plan, both[p], f));
  return NULL;
}
