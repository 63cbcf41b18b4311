/* Elementwise ops: arithmetic, comparison, logic, rounding, activations.
 *
 * Before opset 7 binary ops had broadcasting attributes instead of numpy's rules (second()).
 * Activations are the formulas of the specification; their constants are attributes, in f32.
 * Functions that Kiln's op table lacks (tan, acosh, ...) are composed here with care for large
 * arguments and for signed zeros. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

static UOp *num(Node *n, const UOp *like, double v) { return build_num(n->job, like, v); }
static UOp *add(Node *n, UOp *a, UOp *b) { return build2(n->job, OP_ADD, a, b); }
static UOp *sub(Node *n, UOp *a, UOp *b) { return build2(n->job, OP_SUB, a, b); }
static UOp *mul(Node *n, UOp *a, UOp *b) { return build2(n->job, OP_MUL, a, b); }
static UOp *quot(Node *n, UOp *a, UOp *b) { return build_div(n->job, a, b); }
static UOp *scaled(Node *n, UOp *a, double k) { return mul(n, a, num(n, a, k)); }
static UOp *plus(Node *n, UOp *a, double k) { return add(n, a, num(n, a, k)); }
static UOp *less(Node *n, UOp *a, UOp *b) { return build2(n->job, OP_CMPLT, a, b); }
static UOp *select(Node *n, UOp *c, UOp *a, UOp *b) { return build_where(n->job, c, a, b); }
static UOp *un(Node *n, Op op, UOp *a) { return build1(n->job, op, a); }

/* The second source. Before opset 7 its dimensions stood at attribute `axis` of the first one's, by
 * default at the end. */
static UOp *second(Node *n) {
  UOp *b = node_u(n, 1);
  if (n->opset >= 7 || !attr_has(n, "axis") || !attr_int(n, "broadcast", 0)) return b;
  Ints a = node_in(n, 0)->shape;
  int64_t dims[MAX_DIMS];
  size_t axis = axis_check(n->job, attr_int(n, "axis", 0), a.n);
  if (axis + b->shape.n > a.n)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "shape %s at axis %zu of shape %s",
                           shape_text(n->job, b->shape), axis, shape_text(n->job, a)));
  for (size_t i = 0; i < a.n; i++)
    dims[i] = i >= axis && i < axis + b->shape.n ? b->shape.at[i - axis] : 1;
  return build_reshape(n->job, b, shape_make(dims, a.n));
}

/* A handler that is one unary op; a handler that is one binary op. */
#define UNARY(fn_, op_)                                                                            \
  static void fn_(Node *n) { node_out(n, 0, build1(n->job, (op_), node_u(n, 0))); }
#define BINARY(fn_, op_)                                                                           \
  static void fn_(Node *n) { node_out(n, 0, build2(n->job, (op_), node_u(n, 0), second(n))); }

UNARY(op_neg, OP_NEG)
UNARY(op_abs, OP_ABS)
UNARY(op_reciprocal, OP_RECIP)
UNARY(op_sqrt, OP_SQRT)
UNARY(op_exp, OP_EXP)
UNARY(op_log, OP_LOG)
UNARY(op_sin, OP_SIN)
UNARY(op_cos, OP_COS)
UNARY(op_tanh, OP_TANH)
UNARY(op_erf, OP_ERF)
UNARY(op_atan, OP_ATAN)
UNARY(op_floor, OP_FLOOR)
UNARY(op_ceil, OP_CEIL)
UNARY(op_round, OP_ROUND)

BINARY(op_add, OP_ADD)
BINARY(op_sub, OP_SUB)
BINARY(op_mul, OP_MUL)
BINARY(op_and, OP_AND)
BINARY(op_or, OP_OR)
BINARY(op_xor, OP_XOR)
BINARY(op_less, OP_CMPLT)
BINARY(op_less_equal, OP_CMPLE)
BINARY(op_equal, OP_CMPEQ)

static void op_div(Node *n) { node_out(n, 0, quot(n, node_u(n, 0), second(n))); }
static void op_greater(Node *n) { node_out(n, 0, less(n, second(n), node_u(n, 0))); }
static void op_greater_equal(Node *n) {
  node_out(n, 0, build2(n->job, OP_CMPLE, node_u(n, 1), node_u(n, 0)));
}
static void op_not(Node *n) { node_out(n, 0, build_not(n->job, node_u(n, 0))); }

static void op_bitwise_not(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build2(n->job, OP_XOR, x, uop_int(n->job, uop_dtype(x), -1)));
}

static void op_bit_shift(Node *n) {
  Str dir = attr_str(n, "direction", "");
  bool left = str_is(dir, "LEFT");
  if (!left && !str_is(dir, "RIGHT"))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "direction '" STR_FMT "', expected LEFT or RIGHT",
                           STR_ARG(dir)));
  node_out(n, 0, build2(n->job, left ? OP_SHL : OP_SHR, node_u(n, 0), node_u(n, 1)));
}

/* Exponentiation keeps the base's dtype; the exponent may have another. Integers are raised in
 * f64, which is exact up to 2^53. */
static void op_pow(Node *n) {
  UOp *x = node_u(n, 0), *y = second(n);
  DType d = uop_dtype(x), work = dtype_is_float(d) ? d : DT_F64;
  UOp *c = build_splat_value(y);
  if (c && uop_is_number(c, 2)) {
    y = build_expand(n->job, x,
                     build_broadcast(n->job, x->shape, y->shape, (int64_t[MAX_DIMS]){0}));
    node_out(n, 0, mul(n, y, y));
    return;
  }
  UOp *p = build2(n->job, OP_POW, build_cast(n->job, x, work), build_cast(n->job, y, work));
  node_out(n, 0, build_cast(n->job, p, d));
}

/* Floats: fmod=1 has the sign of the dividend; fmod=0 is for integers, sign of the divisor. */
static void op_mod(Node *n) {
  UOp *a = node_u(n, 0), *b = node_u(n, 1);
  bool fmod_ = attr_int(n, "fmod", 0) != 0, flt = dtype_is_float(uop_dtype(a));
  if (flt && fmod_) {
    node_out(n, 0, build2(n->job, OP_FMOD, a, b));
  } else if (!flt) {
    node_out(n, 0, build2(n->job, fmod_ ? OP_IMOD : OP_FLOORMOD, a, b));
  } else {
    UOp *r = build2(n->job, OP_FMOD, a, b), *zero = num(n, a, 0);
    UOp *differ = build2(n->job, OP_XOR, less(n, r, zero), less(n, b, zero));
    UOp *wrong = build2(n->job, OP_AND, build2(n->job, OP_CMPNE, r, zero), differ);
    node_out(n, 0, select(n, wrong, add(n, r, b), r));
  }
}

/* Max, Min, Sum, Mean: any number of sources. */
static UOp *fold_sources(Node *n, Op op) {
  UOp *x = node_u(n, 0);
  for (size_t i = 1; i < n->nin; i++) x = build2(n->job, op, x, node_u(n, i));
  return x;
}
static void op_max(Node *n) { node_out(n, 0, fold_sources(n, OP_MAX)); }
static void op_min(Node *n) { node_out(n, 0, fold_sources(n, OP_MIN)); }
static void op_sum(Node *n) { node_out(n, 0, fold_sources(n, OP_ADD)); }
static void op_mean(Node *n) {
  UOp *s = fold_sources(n, OP_ADD);
  node_out(n, 0, quot(n, s, num(n, s, (double)n->nin)));
}

static void op_where(Node *n) {
  node_out(n, 0, build_where(n->job, node_u(n, 0), node_u(n, 1), node_u(n, 2)));
}

static void op_sign(Node *n) {
  UOp *x = node_u(n, 0), *zero = num(n, x, 0);
  UOp *pos = select(n, less(n, zero, x), num(n, x, 1), x);
  node_out(n, 0,
           dtype_is_uint(uop_dtype(x)) ? pos : select(n, less(n, x, zero), num(n, x, -1), pos));
}

static void op_is_nan(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build2(n->job, OP_CMPNE, x, x));
}

static void op_is_inf(Node *n) {
  UOp *x = node_u(n, 0);
  bool pos = attr_int(n, "detect_positive", 1) != 0, neg = attr_int(n, "detect_negative", 1) != 0;
  UOp *p = build2(n->job, OP_CMPEQ, x, num(n, x, (double)INFINITY));
  UOp *m = build2(n->job, OP_CMPEQ, x, num(n, x, -(double)INFINITY));
  UOp *no = build_splat(n->job, uop_int(n->job, DT_BOOL, 0), x->shape);
  node_out(n, 0, pos && neg ? build2(n->job, OP_OR, p, m) : pos ? p : neg ? m : no);
}

/* -- trigonometry ---------------------------------------------------------------------------- */

static const double PI = 3.14159265358979323846;

static void op_tan(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, quot(n, un(n, OP_SIN, x), un(n, OP_COS, x)));
}

/* asin x = atan(x / sqrt((1 - x) (1 + x))) */
static UOp *arc_sine(Node *n, UOp *x) {
  UOp *c = un(n, OP_SQRT, mul(n, sub(n, num(n, x, 1), x), plus(n, x, 1)));
  return un(n, OP_ATAN, quot(n, x, c));
}
static void op_asin(Node *n) { node_out(n, 0, arc_sine(n, node_u(n, 0))); }
static void op_acos(Node *n) {
  UOp *x = node_u(n, 0);
  /* 2 atan(sqrt((1 - x) / (1 + x))) keeps its precision near 1, where pi/2 - asin does not */
  UOp *r = un(n, OP_SQRT, quot(n, sub(n, num(n, x, 1), x), plus(n, x, 1)));
  node_out(n, 0, scaled(n, un(n, OP_ATAN, r), 2));
}

static void op_cosh(Node *n) {
  UOp *e = un(n, OP_EXP, un(n, OP_ABS, node_u(n, 0)));
  node_out(n, 0, scaled(n, add(n, e, un(n, OP_RECIP, e)), 0.5));
}

/* Near 0 the difference of exponentials cancels; there x + x^3/6 + x^5/120 is exact enough. */
static void op_sinh(Node *n) {
  UOp *x = node_u(n, 0), *e = un(n, OP_EXP, x), *x2 = mul(n, x, x);
  UOp *big = scaled(n, sub(n, e, un(n, OP_RECIP, e)), 0.5);
  UOp *poly = plus(n, mul(n, x2, plus(n, scaled(n, x2, 1.0 / 120), 1.0 / 6)), 1);
  UOp *near = less(n, un(n, OP_ABS, x), num(n, x, 0.3));
  node_out(n, 0, select(n, near, mul(n, x, poly), big));
}

static UOp *log_of(Node *n, UOp *x) { return un(n, OP_LOG, x); }

/* log(1 + x): exact 1 + x is divided out (Kahan). */
static UOp *log1p_of(Node *n, UOp *x) {
  UOp *u = plus(n, x, 1), *d = plus(n, u, -1);
  UOp *same = build2(n->job, OP_CMPEQ, u, num(n, x, 1));
  UOp *inf = build2(n->job, OP_CMPEQ, u, num(n, x, (double)INFINITY));
  UOp *v = mul(n, log_of(n, u), quot(n, x, select(n, same, num(n, x, 1), d)));
  return select(n, same, x, select(n, inf, u, v));
}

static void op_asinh(Node *n) {
  UOp *x = node_u(n, 0), *a = un(n, OP_ABS, x), *a2 = mul(n, a, a);
  UOp *root = un(n, OP_SQRT, plus(n, a2, 1));
  UOp *v = log1p_of(n, add(n, a, quot(n, a2, plus(n, root, 1))));
  node_out(n, 0, select(n, less(n, x, num(n, x, 0)), un(n, OP_NEG, v), v));
}
static void op_acosh(Node *n) {
  UOp *x = node_u(n, 0), *t = plus(n, x, -1);
  node_out(n, 0, log1p_of(n, add(n, t, un(n, OP_SQRT, add(n, scaled(n, t, 2), mul(n, t, t))))));
}
static void op_atanh(Node *n) {
  UOp *x = node_u(n, 0);
  UOp *r = quot(n, scaled(n, x, 2), sub(n, num(n, x, 1), x));
  node_out(n, 0, scaled(n, log1p_of(n, r), 0.5));
}

/* -- activations ----------------------------------------------------------------------------- */

static void op_relu(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, build2(n->job, OP_MAX, x, num(n, x, 0)));
}

static UOp *leaky(Node *n, UOp *x, UOp *slope) {
  return select(n, less(n, x, num(n, x, 0)), mul(n, x, slope), x);
}
static void op_leaky_relu(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, leaky(n, x, num(n, x, attr_float(n, "alpha", (double)0.01f))));
}
static void op_prelu(Node *n) {
  UOp *x = node_u(n, 0), *slope = node_u(n, 1);
  if (n->opset < 7 && slope->shape.n == 1 && x->shape.n > 1 && slope->shape.at[0] != 1)
    slope = build_along(n->job, slope, 1, x->shape.n); /* per channel */
  node_out(n, 0, leaky(n, x, slope));
}

static void op_thresholded_relu(Node *n) {
  UOp *x = node_u(n, 0);
  UOp *above = less(n, num(n, x, attr_float(n, "alpha", 1)), x);
  node_out(n, 0, select(n, above, x, num(n, x, 0)));
}

static UOp *elu(Node *n, UOp *x, double alpha, double inner) {
  UOp *e = un(n, OP_EXP, inner == 1 ? x : quot(n, x, num(n, x, inner)));
  e = scaled(n, plus(n, e, -1), alpha);
  return select(n, less(n, x, num(n, x, 0)), e, x);
}
static void op_elu(Node *n) { node_out(n, 0, elu(n, node_u(n, 0), attr_float(n, "alpha", 1), 1)); }
static void op_celu(Node *n) {
  double alpha = attr_float(n, "alpha", 1);
  if (alpha == 0) job_abort(n->job, FAIL(INVALID_ARGUMENT, "alpha is 0"));
  node_out(n, 0, elu(n, node_u(n, 0), alpha, alpha));
}
static void op_selu(Node *n) {
  double alpha = attr_float(n, "alpha", (double)1.67326319217681884765625f);
  double gamma = attr_float(n, "gamma", (double)1.05070102214813232421875f);
  node_out(n, 0, scaled(n, elu(n, node_u(n, 0), alpha, 1), gamma));
}

static void op_sigmoid(Node *n) { node_out(n, 0, build_sigmoid(n->job, node_u(n, 0))); }

static UOp *clamp(Node *n, UOp *x, double lo, double hi) {
  return build2(n->job, OP_MIN, build2(n->job, OP_MAX, x, num(n, x, lo)), num(n, x, hi));
}
static void op_hard_sigmoid(Node *n) {
  UOp *x = node_u(n, 0);
  double alpha = attr_float(n, "alpha", (double)0.2f), beta = attr_float(n, "beta", 0.5);
  node_out(n, 0, clamp(n, plus(n, scaled(n, x, alpha), beta), 0, 1));
}
static void op_hard_swish(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, mul(n, x, clamp(n, plus(n, scaled(n, x, 1.0 / 6), 0.5), 0, 1)));
}
static void op_swish(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, mul(n, x, build_sigmoid(n->job, scaled(n, x, attr_float(n, "alpha", 1)))));
}
/* max(x, 0) + log(1 + exp(-|x|)) */
static UOp *softplus(Node *n, UOp *x) {
  UOp *e = un(n, OP_EXP, un(n, OP_NEG, un(n, OP_ABS, x)));
  return add(n, build2(n->job, OP_MAX, x, num(n, x, 0)), log1p_of(n, e));
}
static void op_softplus(Node *n) { node_out(n, 0, softplus(n, node_u(n, 0))); }
static void op_softsign(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, quot(n, x, plus(n, un(n, OP_ABS, x), 1)));
}
static void op_mish(Node *n) {
  UOp *x = node_u(n, 0);
  node_out(n, 0, mul(n, x, un(n, OP_TANH, softplus(n, x))));
}

static void op_gelu(Node *n) {
  UOp *x = node_u(n, 0), *t;
  Str how = attr_str(n, "approximate", "none");
  if (str_is(how, "tanh")) {
    UOp *cube = mul(n, mul(n, x, x), x);
    t = un(n, OP_TANH, scaled(n, add(n, x, scaled(n, cube, 0.044715)), sqrt(2 / PI)));
  } else {
    t = un(n, OP_ERF, scaled(n, x, sqrt(0.5)));
  }
  node_out(n, 0, mul(n, scaled(n, x, 0.5), plus(n, t, 1)));
}

static void op_shrink(Node *n) {
  UOp *x = node_u(n, 0);
  double bias = attr_float(n, "bias", 0), lambd = attr_float(n, "lambd", 0.5);
  UOp *low = select(n, less(n, x, num(n, x, -lambd)), plus(n, x, bias), num(n, x, 0));
  node_out(n, 0, select(n, less(n, num(n, x, lambd), x), plus(n, x, -bias), low));
}

/* Bounds are attributes before opset 11. A bound that is NaN or absent does not bind. */
static void op_clip(Node *n) {
  UOp *x = node_u(n, 0);
  UOp *lo = NULL, *hi = NULL;
  if (n->opset >= 11) {
    lo = node_opt(n, 1);
    hi = node_opt(n, 2);
  } else {
    if (attr_has(n, "min")) lo = num(n, x, attr_float(n, "min", 0));
    if (attr_has(n, "max")) hi = num(n, x, attr_float(n, "max", 0));
  }
  if (lo) x = build2(n->job, OP_MAX, x, lo);
  if (hi) x = build2(n->job, OP_MIN, x, hi);
  node_out(n, 0, x);
}

static void op_swiglu(Node *n) {
  UOp *a = node_u(n, 0), *b = node_u(n, 1);
  UOp *gate = mul(n, a, build_sigmoid(n->job, scaled(n, a, attr_float(n, "alpha", 1))));
  node_out(n, 0, mul(n, gate, b));
}

/* -- casts ----------------------------------------------------------------------------------- */

static void op_cast(Node *n) {
  DType d = n->opset < 6 ? onnx_dtype_named(n->job, attr_str(n, "to", ""))
                         : onnx_dtype(n->job, attr_need_int(n, "to"));
  node_out(n, 0, onnx_cast(n, node_u(n, 0), d));
}
static void op_cast_like(Node *n) {
  node_out(n, 0, onnx_cast(n, node_u(n, 0), node_in(n, 1)->dtype));
}
static void op_bit_cast(Node *n) {
  UOp *x = node_u(n, 0);
  DType d = onnx_dtype(n->job, attr_need_int(n, "to")), s = uop_dtype(x);
  if (d == s) {
    node_out(n, 0, x);
    return;
  }
  bool from_bool = dtype_is_bool(s) && dtype_info[d].bytes == 1;
  if (dtype_is_bool(d) || (dtype_is_bool(s) && !from_bool) ||
      dtype_info[d].bytes != dtype_info[s].bytes)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "cannot reinterpret %s as %s", dtype_info[s].name,
                           dtype_info[d].name));
  if (from_bool) { /* a bool is a byte that is 0 or 1 */
    node_out(n, 0, build_cast(n->job, x, d));
    return;
  }
  node_out(n, 0, uop_make(n->job, OP_BITCAST, d, arg_none(), &x, 1));
}

const OnnxOp onnx_elementwise_ops[] = {
    {"", "Neg", 1, 1, 1, op_neg},
    {"", "Abs", 1, 1, 1, op_abs},
    {"", "Reciprocal", 1, 1, 1, op_reciprocal},
    {"", "Sqrt", 1, 1, 1, op_sqrt},
    {"", "Exp", 1, 1, 1, op_exp},
    {"", "Log", 1, 1, 1, op_log},
    {"", "Sin", 7, 1, 1, op_sin},
    {"", "Cos", 7, 1, 1, op_cos},
    {"", "Tan", 7, 1, 1, op_tan},
    {"", "Asin", 7, 1, 1, op_asin},
    {"", "Acos", 7, 1, 1, op_acos},
    {"", "Atan", 7, 1, 1, op_atan},
    {"", "Sinh", 9, 1, 1, op_sinh},
    {"", "Cosh", 9, 1, 1, op_cosh},
    {"", "Asinh", 9, 1, 1, op_asinh},
    {"", "Acosh", 9, 1, 1, op_acosh},
    {"", "Atanh", 9, 1, 1, op_atanh},
    {"", "Tanh", 1, 1, 1, op_tanh},
    {"", "Erf", 9, 1, 1, op_erf},
    {"", "Floor", 1, 1, 1, op_floor},
    {"", "Ceil", 1, 1, 1, op_ceil},
    {"", "Round", 11, 1, 1, op_round},
    {"", "Sign", 9, 1, 1, op_sign},
    {"", "IsNaN", 9, 1, 1, op_is_nan},
    {"", "IsInf", 10, 1, 1, op_is_inf},
    {"", "Not", 1, 1, 1, op_not},
    {"", "BitwiseNot", 18, 1, 1, op_bitwise_not},
    {"", "Add", 1, 2, 2, op_add},
    {"", "Sub", 1, 2, 2, op_sub},
    {"", "Mul", 1, 2, 2, op_mul},
    {"", "Div", 1, 2, 2, op_div},
    {"", "Mod", 10, 2, 2, op_mod},
    {"", "Pow", 1, 2, 2, op_pow},
    {"", "And", 1, 2, 2, op_and},
    {"", "Or", 1, 2, 2, op_or},
    {"", "Xor", 1, 2, 2, op_xor},
    {"", "BitwiseAnd", 18, 2, 2, op_and},
    {"", "BitwiseOr", 18, 2, 2, op_or},
    {"", "BitwiseXor", 18, 2, 2, op_xor},
    {"", "BitShift", 11, 2, 2, op_bit_shift},
    {"", "Less", 1, 2, 2, op_less},
    {"", "LessOrEqual", 12, 2, 2, op_less_equal},
    {"", "Greater", 1, 2, 2, op_greater},
    {"", "GreaterOrEqual", 12, 2, 2, op_greater_equal},
    {"", "Equal", 1, 2, 2, op_equal},
    {"", "Max", 1, 1, 255, op_max},
    {"", "Min", 1, 1, 255, op_min},
    {"", "Sum", 1, 1, 255, op_sum},
    {"", "Mean", 1, 1, 255, op_mean},
    {"", "Where", 9, 3, 3, op_where},
    {"", "Relu", 1, 1, 1, op_relu},
    {"", "LeakyRelu", 1, 1, 1, op_leaky_relu},
    {"", "PRelu", 1, 2, 2, op_prelu},
    {"", "ThresholdedRelu", 1, 1, 1, op_thresholded_relu},
    {"", "Elu", 1, 1, 1, op_elu},
    {"", "Celu", 12, 1, 1, op_celu},
    {"", "Selu", 1, 1, 1, op_selu},
    {"", "Sigmoid", 1, 1, 1, op_sigmoid},
    {"", "HardSigmoid", 1, 1, 1, op_hard_sigmoid},
    {"", "HardSwish", 14, 1, 1, op_hard_swish},
    {"", "Swish", 24, 1, 1, op_swish},
    {"", "Softplus", 1, 1, 1, op_softplus},
    {"", "Softsign", 1, 1, 1, op_softsign},
    {"", "Mish", 18, 1, 1, op_mish},
    {"", "Gelu", 20, 1, 1, op_gelu},
    {"", "Shrink", 9, 1, 1, op_shrink},
    {"", "Clip", 1, 1, 3, op_clip},
    {"", "SwiGLU", 27, 2, 2, op_swiglu},
    {"", "Cast", 1, 1, 1, op_cast},
    {"", "CastLike", 15, 2, 2, op_cast_like},
    {"", "BitCast", 26, 1, 1, op_bit_cast},
    {0},
};
