/* ai.onnx.preview.training: the optimisers' update rules. A node updates several tensors with one
 * learning rate R and update count T: sources R, T, then all X, all gradients, all states of each
 * kind; results all new X, then all new states. Gradient is not here: it needs differentiation. */
#include "compiler/frontend/onnx_math.h"

typedef struct Update {
  Node *n;
  UOp *rate, *count; /* R, and T > 0 as bool or T as a number, by rule */
  UOp *x, *g, *state[2];
} Update;

/* Leaves the new X in x and the new states in state. */
typedef void (*UpdateRule)(Update *u);

static void each(Node *n, size_t states, UpdateRule rule) {
  size_t per = 2 + states, total = n->nin - 2, count = total / per;
  if (n->nin < 2 || total % per || !count)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "%zu sources, expected 2 and %zu per tensor", n->nin, per));
  for (size_t i = 0; i < count; i++) {
    Update u = {.n = n, .x = node_u(n, 2 + i)};
    u.rate = cast(n, build_reshape(n->job, node_u(n, 0), (Ints){0}), uop_dtype(u.x));
    u.count = build_reshape(n->job, node_u(n, 1), (Ints){0});
    u.g = node_u(n, 2 + count + i);
    for (size_t s = 0; s < states; s++) u.state[s] = node_u(n, 2 + (2 + s) * count + i);
    double norm = attr_float(n, "norm_coefficient", 0);
    if (norm != 0) u.g = add(n, scaled(n, u.x, norm), u.g);
    rule(&u);
    node_out(n, i, u.x);
    for (size_t s = 0; s < states; s++) node_out(n, (1 + s) * count + i, u.state[s]);
  }
}

static void adagrad(Update *u) {
  Node *n = u->n;
  UOp *t = cast(n, u->count, uop_dtype(u->x));
  UOp *rate = quot(n, u->rate, plus(n, scaled(n, t, attr_float(n, "decay_factor", 0)), 1));
  u->state[0] = add(n, u->state[0], mul(n, u->g, u->g));
  UOp *root = plus(n, un(n, OP_SQRT, u->state[0]), attr_float(n, "epsilon", (double)1e-6f));
  u->x = sub(n, u->x, quot(n, mul(n, rate, u->g), root));
}

static void adam(Update *u) {
  Node *n = u->n;
  double alpha = attr_float(n, "alpha", (double)0.9f), beta = attr_float(n, "beta", (double)0.999f);
  UOp *t = cast(n, u->count, DT_F64), *one = num(n, t, 1);
  UOp *v = add(n, scaled(n, u->state[0], alpha), scaled(n, u->g, 1 - alpha));
  UOp *h = add(n, scaled(n, u->state[1], beta), scaled(n, mul(n, u->g, u->g), 1 - beta));
  UOp *root = plus(n, un(n, OP_SQRT, h), attr_float(n, "epsilon", (double)1e-6f));
  UOp *b = un(n, OP_SQRT, sub(n, one, two(n, OP_POW, num(n, t, beta), t)));
  UOp *a = sub(n, one, two(n, OP_POW, num(n, t, alpha), t));
  UOp *later = less(n, num(n, t, 0), t);
  UOp *bias = quot(n, choose(n, later, b, one), choose(n, later, a, one));
  UOp *rate = mul(n, u->rate, cast(n, bias, uop_dtype(u->x)));
  u->x = sub(n, u->x, mul(n, rate, quot(n, v, root)));
  double post = attr_float(n, "norm_coefficient_post", 0);
  if (post != 0) u->x = scaled(n, u->x, 1 - post);
  u->state[0] = v;
  u->state[1] = h;
}

static void momentum(Update *u) {
  Node *n = u->n;
  Str mode = attr_str(n, "mode", "standard");
  double alpha = attr_float(n, "alpha", 0), beta = attr_float(n, "beta", 0);
  bool nesterov = str_is(mode, "nesterov");
  if (!nesterov && !str_is(mode, "standard"))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown mode '" STR_FMT "'", STR_ARG(mode)));
  UOp *later = less(n, num(n, u->count, 0), u->count);
  UOp *part = choose(n, later, num(n, u->x, beta), num(n, u->x, 1));
  UOp *v = add(n, scaled(n, u->state[0], alpha), mul(n, part, u->g));
  UOp *step = nesterov ? add(n, u->g, scaled(n, v, alpha)) : v;
  u->x = sub(n, u->x, mul(n, u->rate, step));
  u->state[0] = v;
}

static void op_adagrad(Node *n) { each(n, 1, adagrad); }
static void op_adam(Node *n) { each(n, 2, adam); }
static void op_momentum(Node *n) { each(n, 1, momentum); }

const OnnxOp onnx_training_ops[] = {
    {"ai.onnx.preview.training", "Adagrad", 1, 5, 255, op_adagrad},
    {"ai.onnx.preview.training", "Adam", 1, 6, 255, op_adam},
    {"ai.onnx.preview.training", "Momentum", 1, 5, 255, op_momentum},
    {0},
};
