/* Losses. The class of each position is picked by a one-hot product over the class axis; positions
 * of class ignore_index count nothing. */
#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

/* x [N, C, d...], target [N, d...]. */
static void loss(Node *n, UOp *x) {
  Job *job = n->job;
  UOp *target = node_u(n, 1), *weight = node_opt(n, 2);
  Str reduction = attr_str(n, "reduction", "mean");
  uint32_t r = x->shape.n;
  bool ok = r >= 2 && target->shape.n == r - 1 && dtype_is_int(uop_dtype(target));
  for (uint32_t i = 0; ok && i < r - 1; i++)
    ok = build_may_equal(target->shape.at[i], x->shape.at[i ? i + 1 : 0]);
  if (ok && weight)
    ok = weight->shape.n == 1 && build_may_equal(weight->shape.at[0], x->shape.at[1]);
  if (!ok)
    job_abort(job, FAIL(INVALID_ARGUMENT, "target of shape %s (%s) for scores of shape %s",
                        shape_text(job, target->shape), dtype_info[target->dtype].name,
                        shape_text(job, x->shape)));
  for (uint32_t i = 0; i < r - 1; i++)
    target = build_fit(job, target, i, x->shape.at[i ? i + 1 : 0]);
  if (weight) weight = build_fit(job, weight, 0, x->shape.at[1]);
  target = build_unsqueeze(job, build_cast(job, target, DT_I64), 1);
  UOp *hit = build2(job, OP_CMPEQ, target, build_iota(job, DT_I64, 1, x->shape));
  if (attr_has(n, "ignore_index")) {
    UOp *ignored = uop_int(job, DT_I64, attr_int(n, "ignore_index", 0));
    hit = build2(job, OP_AND, hit, build2(job, OP_CMPNE, target, ignored));
  }
  UOp *zero = build_num(job, x, 0), *one = build_num(job, x, 1);
  UOp *w = weight ? build_along(job, weight, 1, r) : one;
  UOp *share = build_where(job, hit, w, zero);
  UOp *each = build_where(job, hit, build2(job, OP_MUL, build1(job, OP_NEG, x), w), zero);
  each = build_reduce(job, OP_ADD, each, axis_bit(1), false);
  if (str_is(reduction, "none")) {
    node_out(n, 0, each);
    return;
  }
  UOp *sum = build_reduce(job, OP_ADD, each, axes_all(each), false);
  if (str_is(reduction, "mean"))
    sum = build2(job, OP_FDIV, sum, build_reduce(job, OP_ADD, share, axes_all(share), false));
  else if (!str_is(reduction, "sum"))
    job_abort(job, FAIL(INVALID_ARGUMENT, "unknown reduction '" STR_FMT "'", STR_ARG(reduction)));
  node_out(n, 0, sum);
}

static void op_nll(Node *n) { loss(n, node_u(n, 0)); }

static void op_softmax_cross_entropy(Node *n) {
  UOp *x = node_u(n, 0);
  if (x->shape.n < 2)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "scores of shape %s", shape_text(n->job, x->shape)));
  UOp *log_prob = build_log_softmax(n->job, x, axis_bit(1));
  loss(n, log_prob);
  node_out(n, 1, log_prob);
}

const OnnxOp onnx_loss_ops[] = {
    {"", "NegativeLogLikelihoodLoss", 12, 2, 3, op_nll},
    {"", "SoftmaxCrossEntropyLoss", 12, 2, 3, op_softmax_cross_entropy},
    {0},
};
