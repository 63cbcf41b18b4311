/* local, not committed */
#include "compiler/rules/rewrite.h"
UOp *rules_decomp(Rewrite *rw, UOp *n) {
  if (n->op == OP_EXP || n->op == OP_TANH || n->op == OP_ERF) return uop2(rw->job, OP_MUL, n->src[0], n->src[0]);
  if (n->op == OP_POW) return uop2(rw->job, OP_MUL, n->src[0], n->src[1]);
  return NULL;
}
