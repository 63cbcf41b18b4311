/* Short names for the arithmetic that operator families write most; n->job is implied. */
#pragma once

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

static inline UOp *num(Node *n, const UOp *like, double v) { return build_num(n->job, like, v); }
static inline UOp *i64(Node *n, int64_t v) { return uop_int(n->job, DT_I64, v); }
static inline UOp *two(Node *n, Op op, UOp *a, UOp *b) { return build2(n->job, op, a, b); }
static inline UOp *un(Node *n, Op op, UOp *a) { return build1(n->job, op, a); }
static inline UOp *add(Node *n, UOp *a, UOp *b) { return two(n, OP_ADD, a, b); }
static inline UOp *sub(Node *n, UOp *a, UOp *b) { return two(n, OP_SUB, a, b); }
static inline UOp *mul(Node *n, UOp *a, UOp *b) { return two(n, OP_MUL, a, b); }
static inline UOp *quot(Node *n, UOp *a, UOp *b) { return build_div(n->job, a, b); }
static inline UOp *larger(Node *n, UOp *a, UOp *b) { return two(n, OP_MAX, a, b); }
static inline UOp *smaller(Node *n, UOp *a, UOp *b) { return two(n, OP_MIN, a, b); }
static inline UOp *less(Node *n, UOp *a, UOp *b) { return two(n, OP_CMPLT, a, b); }
static inline UOp *upto(Node *n, UOp *a, UOp *b) { return two(n, OP_CMPLE, a, b); }
static inline UOp *equal(Node *n, UOp *a, UOp *b) { return two(n, OP_CMPEQ, a, b); }
static inline UOp *both(Node *n, UOp *a, UOp *b) { return two(n, OP_AND, a, b); }
static inline UOp *either(Node *n, UOp *a, UOp *b) { return two(n, OP_OR, a, b); }
static inline UOp *scaled(Node *n, UOp *a, double k) { return mul(n, a, num(n, a, k)); }
static inline UOp *plus(Node *n, UOp *a, double k) { return add(n, a, num(n, a, k)); }
static inline UOp *cast(Node *n, UOp *a, DType d) { return build_cast(n->job, a, d); }
static inline UOp *choose(Node *n, UOp *c, UOp *a, UOp *b) { return build_where(n->job, c, a, b); }

/* Element k of the last axis, which goes away. */
static inline UOp *column(Node *n, UOp *x, int64_t k) {
  size_t last = (size_t)x->shape.n - 1;
  return build_squeeze(n->job, build_slice(n->job, x, last, k, 1, 1), last);
}

/* For handlers that calculate with sizes: aborts when a source has one that a run decides. */
static inline void need_static(Node *n) {
  for (size_t k = 0; k < n->nin; k++)
    for (uint32_t i = 0; n->in[k] && i < n->in[k]->shape.n; i++)
      front_static(n->job, n->in[k]->shape.at[i], "a dimension of a source");
}

_Noreturn static inline void bad_shape(Node *n, const char *what, const UOp *x) {
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "%s of shape %s", what, shape_text(n->job, x->shape)));
}
