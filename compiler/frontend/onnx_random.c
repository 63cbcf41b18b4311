/* Random ops. A node without a seed draws from the run's key, other numbers in every run; a seed
 * fixes the key, so that every run of every executable gives the same numbers.
 *
 * Multinomial is an exponential race: among classes with rates exp(logit) the first to ring is the
 * drawn one, so the maximum of logit - log(E), E exponential, needs no running sums. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_graph.h"
#include "compiler/frontend/random.h"

static RandomKey key_of(Node *n) {
  if (!attr_has(n, "seed")) return random_next(n->f);
  if (str_is(n->proto->op_type, "Dropout"))
    return random_fixed_key(n->job, (uint64_t)attr_int(n, "seed", 0));
  float seed = (float)attr_float(n, "seed", 0);
  uint32_t bits;
  memcpy(&bits, &seed, sizeof bits);
  return random_fixed_key(n->job, bits);
}

/* A result; one without a seed is not known at compile time. */
static void drawn(Node *n, size_t k, UOp *u) {
  node_out(n, k, u);
  if (!attr_has(n, "seed") && node_wants(n, k)) n->out[k]->dynamic = true;
}

/* The dtype of the attribute, else that of the first source, else f32. */
static DType dtype_of(Node *n) {
  int64_t d = attr_int(n, "dtype", 0);
  if (d) return onnx_dtype(n->job, d);
  return n->nin ? node_in(n, 0)->dtype : DT_F32;
}

static Ints shape_of(Node *n) {
  if (n->nin) return node_in(n, 0)->shape;
  Ints shape = attr_ints(n, "shape");
  if (shape.n > MAX_RANK)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "rank %u, at most %d", shape.n, MAX_RANK));
  shape_check(n->job, shape, MAX_TENSOR / dtype_info[dtype_of(n)].bytes, "shape");
  return shape;
}

static UOp *scaled(Node *n, UOp *x, double scale, double offset) {
  x = build2(n->job, OP_MUL, x, build_num(n->job, x, scale));
  return build2(n->job, OP_ADD, x, build_num(n->job, x, offset));
}

/* 16-bit floats are scaled in f32 and rounded once. */
static DType wide(DType d) { return d == DT_F16 || d == DT_BF16 ? DT_F32 : d; }

static void op_uniform(Node *n) {
  DType d = dtype_of(n);
  double low = attr_float(n, "low", 0), high = attr_float(n, "high", 1);
  UOp *x = random_uniform(n->job, key_of(n), shape_of(n), wide(d));
  drawn(n, 0, build_cast(n->job, scaled(n, x, high - low, low), d));
}

static void op_normal(Node *n) {
  DType d = dtype_of(n);
  UOp *x = random_normal(n->job, key_of(n), shape_of(n), wide(d));
  x = scaled(n, x, attr_float(n, "scale", 1), attr_float(n, "mean", 0));
  drawn(n, 0, build_cast(n->job, x, d));
}

static UOp *uniform_like(Node *n, UOp *x) {
  DType d = uop_dtype(x) == DT_F64 ? DT_F64 : DT_F32;
  return random_uniform(n->job, key_of(n), x->shape, d);
}

static void op_bernoulli(Node *n) {
  UOp *p = node_u(n, 0), *u = uniform_like(n, p);
  UOp *hit = build2(n->job, OP_CMPLT, u, build_cast(n->job, p, uop_dtype(u)));
  drawn(n, 0, build_cast(n->job, hit, dtype_of(n)));
}

/* -log(1 - v) for v in (0, 1), also where 1 - v rounds. */
static UOp *exponential(Node *n, UOp *v) {
  Job *job = n->job;
  static const double c[] = {0.25, 1.0 / 3, 0.5, 1};
  UOp *series = build_num(job, v, 0.2);
  for (int i = 0; i < 4; i++)
    series = build2(job, OP_ADD, build2(job, OP_MUL, series, v), build_num(job, v, c[i]));
  series = build2(job, OP_MUL, series, v);
  UOp *rest = build2(job, OP_SUB, build_num(job, v, 1), v);
  UOp *direct = build1(job, OP_NEG, build1(job, OP_LOG, rest));
  UOp *small = build2(job, OP_CMPLT, v, build_num(job, v, 0x1p-6));
  return build_where(job, small, series, direct);
}

/* (bits + 1/2) / 2^32, in f32 below 1. */
static UOp *open_uniform(Node *n, Ints shape) {
  UOp *u = build_cast(n->job, random_bits(n->job, key_of(n), shape, DT_U32), DT_F32);
  u = scaled(n, u, 0x1p-32, 0x1p-33);
  return build2(n->job, OP_MIN, u, build_num(n->job, u, 1 - 0x1p-24));
}

static void op_multinomial(Node *n) {
  Job *job = n->job;
  UOp *x = build_cast(job, node_u(n, 0), DT_F32);
  int64_t samples = attr_int(n, "sample_size", 1), d = attr_int(n, "dtype", ONNX_INT32);
  if (x->shape.n != 2 || x->shape.at[1] < 1 || samples < 1 || samples > INT32_MAX)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%lld samples of shape %s, expected [batch, classes]",
                        (long long)samples, shape_text(job, x->shape)));
  const int64_t dims[] = {x->shape.at[0], samples, x->shape.at[1]};
  Ints shape = shape_make(dims, 3);
  UOp *race = build1(job, OP_LOG, exponential(n, open_uniform(n, shape)));
  UOp *score = build2(job, OP_SUB, build_unsqueeze(job, x, 1), race);
  UOp *best = build_squeeze(job, build_argmax(job, score, 2, OP_MAX, false), 2);
  drawn(n, 0, build_cast(job, best, onnx_dtype(job, d)));
}

/* -- Dropout ----------------------------------------------------------------------------------- */

/* Whether elements are dropped at all: a bool of rank 0, or NULL when it is known that none are. */
static UOp *training(Node *n) {
  if (n->opset < 7) return attr_int(n, "is_test", 0) ? NULL : uop_int(n->job, DT_BOOL, 1);
  if (n->opset < 12 || !node_has(n, 2)) return NULL;
  Val *mode = node_in(n, 2);
  UOp *on = build_reshape(n->job, node_u(n, 2), (Ints){0});
  if (!val_data(n->f, mode)) return build_cast(n->job, on, DT_BOOL);
  return data_int(mode->dtype, val_data(n->f, mode), 0) ? uop_int(n->job, DT_BOOL, 1) : NULL;
}

static void op_dropout(Node *n) {
  Job *job = n->job;
  UOp *x = node_u(n, 0), *on = training(n);
  DType mask = n->opset >= 10 ? DT_BOOL : uop_dtype(x);
  if (!on) {
    node_out_val(n, 0, n->in[0]);
    if (node_wants(n, 1)) node_out(n, 1, build_splat(job, uop_number(job, mask, 1), x->shape));
    return;
  }
  DType d = uop_dtype(x) == DT_F64 ? DT_F64 : DT_F32;
  UOp *ratio = uop_float(job, d, n->opset >= 12 ? 0.5 : attr_float(n, "ratio", 0.5));
  if (n->opset >= 12 && node_has(n, 1))
    ratio = build_reshape(job, build_cast(job, node_u(n, 1), d), (Ints){0});
  ratio = build_where(job, on, ratio, build_num(job, ratio, 0));
  UOp *keep = build_not(job, build2(job, OP_CMPLT, uniform_like(n, x), ratio));
  UOp *y = build2(job, OP_MUL, build_cast(job, x, d), build_cast(job, keep, d));
  y = build2(job, OP_FDIV, y, build2(job, OP_SUB, build_num(job, ratio, 1), ratio));
  drawn(n, 0, build_cast(job, y, uop_dtype(x)));
  drawn(n, 1, build_cast(job, keep, mask));
}

const OnnxOp onnx_random_ops[] = {
    {"", "RandomUniform", 1, 0, 0, op_uniform}, {"", "RandomUniformLike", 1, 1, 1, op_uniform},
    {"", "RandomNormal", 1, 0, 0, op_normal},   {"", "RandomNormalLike", 1, 1, 1, op_normal},
    {"", "Bernoulli", 15, 1, 1, op_bernoulli},  {"", "Multinomial", 7, 1, 1, op_multinomial},
    {"", "Dropout", 1, 1, 3, op_dropout},       {0},
};
