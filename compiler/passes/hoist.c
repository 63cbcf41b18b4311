/* sum over j of round(e[j] * r) * v[j]  =  r * sum over j of round(e[j]) * v[j]
 *
 * where r is the same for all j: softmax's division, done once per result instead of once per
 * weight, and off the way between the sum of a row and its products. The weight is rounded to 16
 * bits either way, to the same relative precision, and the sum is f32. So is a question that has
 * one answer for all j, whether there are weights at all: sum of (c ? 0 : e[j] * r) * v[j] is
 * c ? 0 : the sum. */
#include "compiler/passes/hoist.h"

#include "compiler/passes/replace.h"

static bool varies(const UOp *u, const UOp *reduce) {
  for (uint32_t s = 1; s < reduce->nsrc; s++)
    if (uop_is_open(u, reduce->src[s])) return true;
  return false;
}

/* What is under f32(16-bit(...)), or NULL. */
static UOp *rounded(UOp *f) {
  UOp *half = f->op == OP_CAST && f->dtype == DT_F32 ? f->src[0] : NULL;
  if (!half || half->op != OP_CAST || dtype_info[half->dtype].bytes != 2) return NULL;
  return half->src[0]->dtype == DT_F32 ? half->src[0] : NULL;
}

/* c ? 0 : x, where c is the same for all steps. */
static bool is_all_or_nothing(const UOp *u, const UOp *reduce) {
  return u->op == OP_WHERE && !varies(u->src[0], reduce) && uop_is_number(u->src[1], 0);
}

static bool is_reduce(const UOp *u, const Target *target) {
  (void)target;
  return u->op == OP_REDUCE;
}

static UOp *hoisted(Job *job, UOp *reduce, const Target *target) {
  (void)target;
  UOp *product = reduce->src[0];
  bool sum = reduce->arg.i == OP_ADD && product->op == OP_MUL && product->dtype == DT_F32;
  for (uint32_t s = 0; sum && s < 2; s++) {
    UOp *f = product->src[s], *p = rounded(f), *none = NULL, *y = NULL;
    if (p && is_all_or_nothing(p, reduce)) none = p, p = p->src[2];
    for (uint32_t k = 0; p && p->op == OP_MUL && k < 2 && !y; k++) {
      UOp *same = p->src[k], *weight = p->src[!k];
      if (varies(same, reduce) || !varies(weight, reduce) || weight->op != OP_EXP) continue;
      weight = uop_cast(job, uop_cast(job, weight, (DType)f->src[0]->dtype), DT_F32);
      UOp *x = uop2(job, OP_MUL, weight, product->src[!s]);
      y = uop_reduce(job, OP_ADD, x, reduce->src + 1, reduce->nsrc - 1u);
      y = uop2(job, OP_MUL, y, same);
    }
    if (y) return none ? uop3(job, OP_WHERE, none->src[0], none->src[1], y) : y;
  }
  return reduce;
}

UOp *hoist_factors(Job *job, UOp *kernel) {
  return replace_each(job, NULL, kernel, is_reduce, hoisted);
}
