/* ai.onnx.ml on numbers: feature preparation, linear models, label encoding. Strings and maps have
 * no dtype here; what needs them is refused by name. Tree ensembles are in onnx_trees.c. */
#include <math.h>
#include <stdio.h>

#include "compiler/frontend/onnx_math.h"
#include "compiler/frontend/onnx_ml.h"

static const double PI = 3.14159265358979323846;

Val *ml_floats(Node *n, const char *name) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_FLOATS);
  if (!a || !a->floats.n) return NULL;
  int64_t count = (int64_t)a->floats.n;
  return val_from_data(n->f, DT_F32, shape_make(&count, 1), a->floats.at);
}

static Val *ints_val(Node *n, const char *name) {
  Ints a = attr_ints(n, name);
  return a.n ? val_from_i64(n->f, a.at, a.n) : NULL;
}

void ml_no_strings(Node *n, const char *name) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_STRINGS);
  if (a && a->strings.n)
    job_abort(n->job, FAIL(UNIMPLEMENTED, "attribute '%s': strings are not supported", name));
}

/* Inverse error function in the approximation that the reference uses (Winitzki). */
static UOp *probit(Node *n, UOp *p) {
  UOp *x = plus(n, scaled(n, p, 2), -1), *one = num(n, p, 1);
  UOp *log = un(n, OP_LOG, mul(n, sub(n, one, x), add(n, one, x)));
  UOp *v = plus(n, scaled(n, log, 0.5), 2 / (PI * 0.147));
  UOp *root = un(n, OP_SQRT, sub(n, mul(n, v, v), scaled(n, log, 1 / 0.147)));
  UOp *y = un(n, OP_SQRT, sub(n, root, v));
  y = choose(n, less(n, x, num(n, x, 0)), un(n, OP_NEG, y), y);
  return scaled(n, y, 1.41421356);
}

/* Softmax over the elements that are not 0; these stay 0. */
static UOp *softmax_zero(Node *n, UOp *x) {
  uint32_t axis = axis_bit(x->shape.n - 1u);
  UOp *zero = num(n, x, 0), *none = equal(n, x, zero);
  UOp *top = build_reduce(n->job, OP_MAX, x, axis, true);
  UOp *e = choose(n, none, zero, un(n, OP_EXP, sub(n, x, top)));
  UOp *sum = build_reduce(n->job, OP_ADD, e, axis, true);
  return choose(n, none, zero, quot(n, e, sum));
}

UOp *ml_post(Node *n, UOp *scores, int how) {
  switch (how) {
  case ML_LOGISTIC: return build_sigmoid(n->job, scores);
  case ML_SOFTMAX: return build_softmax(n->job, scores, axis_bit(scores->shape.n - 1u));
  case ML_SOFTMAX_ZERO: return softmax_zero(n, scores);
  case ML_PROBIT: return probit(n, scores);
  default: return scores;
  }
}

int ml_post_attr(Node *n) {
  static const char *const names[] = {"NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"};
  Str got = attr_str(n, "post_transform", "NONE");
  for (int i = 0; i < 5; i++)
    if (str_is(got, names[i])) return i;
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown post_transform '" STR_FMT "'", STR_ARG(got)));
}

/* A matrix of rows; a vector is one row. */
UOp *ml_rows(Node *n, UOp *x) {
  if (x->shape.n == 1) x = build_unsqueeze(n->job, x, 0);
  if (x->shape.n != 2) bad_shape(n, "features", x);
  return dtype_is_float(uop_dtype(x)) ? x : cast(n, x, DT_F32);
}

/* -- features -------------------------------------------------------------------------------- */

static void op_array_feature_extractor(Node *n) {
  need_static(n);
  UOp *x = node_u(n, 0), *at = node_u(n, 1);
  if (!x->shape.n) bad_shape(n, "data", x);
  int64_t count = shape_numel(at->shape);
  at = build_reshape(n->job, at, shape_make(&count, 1));
  if (x->shape.n == 1) x = build_unsqueeze(n->job, x, 0);
  node_out(n, 0, build_gather(n->job, x, at, (size_t)x->shape.n - 1));
}

static void op_binarizer(Node *n) {
  UOp *x = node_u(n, 0);
  UOp *above = less(n, num(n, x, attr_float(n, "threshold", 0)), x);
  node_out(n, 0, cast(n, above, uop_dtype(x)));
}

static void op_scaler(Node *n) {
  UOp *x = node_u(n, 0), *y = cast(n, x, DT_F32);
  Val *offset = ml_floats(n, "offset"), *scale = ml_floats(n, "scale");
  if (offset) y = sub(n, y, val_uop(n->f, offset));
  if (scale) y = mul(n, y, val_uop(n->f, scale));
  node_out(n, 0, y);
}

static void op_normalizer(Node *n) {
  UOp *x = cast(n, node_u(n, 0), DT_F32), *norm;
  Str how = attr_str(n, "norm", "MAX");
  if (!x->shape.n || x->shape.n > 2) bad_shape(n, "features", x);
  uint32_t axis = axis_bit(x->shape.n - 1u);
  if (str_is(how, "MAX")) {
    norm = build_reduce(n->job, OP_MAX, un(n, OP_ABS, x), axis, true);
  } else if (str_is(how, "L1")) {
    norm = build_reduce(n->job, OP_ADD, un(n, OP_ABS, x), axis, true);
  } else if (str_is(how, "L2")) {
    norm = un(n, OP_SQRT, build_reduce(n->job, OP_ADD, mul(n, x, x), axis, true));
  } else {
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown norm '" STR_FMT "'", STR_ARG(how)));
  }
  UOp *none = equal(n, norm, num(n, norm, 0));
  node_out(n, 0, quot(n, x, choose(n, none, num(n, norm, 1), norm)));
}

static void op_imputer(Node *n) {
  UOp *x = node_u(n, 0), *hit;
  bool flt = dtype_is_float(uop_dtype(x));
  Val *values = flt ? ml_floats(n, "imputed_value_floats") : ints_val(n, "imputed_value_int64s");
  if (!values)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "no imputed values for %s", dtype_info[x->dtype].name));
  double old = attr_float(n, "replaced_value_float", 0);
  if (flt)
    hit = old != old ? two(n, OP_CMPNE, x, x) : equal(n, x, num(n, x, old));
  else
    hit = equal(n, x, uop_int(n->job, uop_dtype(x), attr_int(n, "replaced_value_int64", 0)));
  node_out(n, 0, choose(n, hit, cast(n, val_uop(n->f, values), uop_dtype(x)), x));
}

/* Sources side by side, each cut or filled with zeros to its inputdimensions. */
static void op_feature_vectorizer(Node *n) {
  need_static(n);
  Ints widths = attr_ints(n, "inputdimensions");
  UOp **parts = arena_array(&n->job->arena, n->nin, sizeof *parts);
  if (widths.n && widths.n != n->nin)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%u inputdimensions, expected %zu", widths.n, n->nin));
  for (size_t i = 0; i < n->nin; i++) {
    UOp *x = cast(n, node_u(n, i), DT_F32);
    if (x->shape.n == 1) x = build_unsqueeze(n->job, x, 1);
    if (x->shape.n != 2) bad_shape(n, "features", x);
    int64_t more = widths.n ? widths.at[i] - x->shape.at[1] : 0;
    parts[i] = build_pad_axis(n->job, x, 1, 0, more, num(n, x, 0));
  }
  node_out(n, 0, build_cat(n->job, parts, n->nin, 1));
}

static void op_one_hot_encoder(Node *n) {
  UOp *x = node_u(n, 0);
  ml_no_strings(n, "cats_strings");
  Val *cats = ints_val(n, "cats_int64s");
  if (!cats) job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute 'cats_int64s' is missing"));
  UOp *c = val_uop(n->f, cats);
  UOp *hit = equal(n, build_unsqueeze(n->job, cast(n, x, DT_I64), x->shape.n), c);
  node_out(n, 0, cast(n, hit, DT_F32));
}

/* -- labels ---------------------------------------------------------------------------------- */

static Val *tensor_attr(Node *n, const char *name) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_TENSOR);
  return a ? onnx_tensor(n->f, a->t, name) : NULL;
}

/* Keys or values of a LabelEncoder, of whichever of its attributes is there. */
static Val *label_list(Node *n, const char *what) {
  char name[40];
  snprintf(name, sizeof name, "%s_strings", what);
  ml_no_strings(n, name);
  snprintf(name, sizeof name, "%s_tensor", what);
  Val *v = tensor_attr(n, name);
  snprintf(name, sizeof name, "%s_floats", what);
  if (!v) v = ml_floats(n, name);
  snprintf(name, sizeof name, "%s_int64s", what);
  return v ? v : ints_val(n, name);
}

/* Every element is compared with every key; the first that is equal gives the value. From version 4
 * on NaN equals NaN. */
static void op_label_encoder(Node *n) {
  Job *job = n->job;
  ml_no_strings(n, "classes_strings");
  UOp *x = node_u(n, 0);
  Val *keys = label_list(n, "keys"), *values = label_list(n, "values");
  if (!keys || !values || keys->shape.n != 1 || !shape_eq(keys->shape, values->shape))
    job_abort(job, FAIL(INVALID_ARGUMENT, "keys and values are missing, or differ in number"));
  Val *other = tensor_attr(n, "default_tensor");
  DType d = values->dtype;
  double usual = dtype_is_float(d) ? attr_float(n, "default_float", -0.0)
                                   : (double)attr_int(n, "default_int64", -1);
  UOp *rest =
      other ? build_reshape(job, val_uop(n->f, other), (Ints){0}) : uop_number(job, d, usual);
  UOp *k = cast(n, val_uop(n->f, keys), uop_dtype(x)), *v = val_uop(n->f, values);
  UOp *wide = build_unsqueeze(job, x, x->shape.n), *hit = equal(n, wide, k);
  if (n->opset >= 4 && dtype_is_float(uop_dtype(x)))
    hit = either(n, hit, both(n, two(n, OP_CMPNE, wide, wide), two(n, OP_CMPNE, k, k)));
  int64_t count = keys->shape.at[0];
  UOp *at = build_arange(job, DT_I64, count);
  UOp *first =
      build_reduce(job, OP_MIN, choose(n, hit, at, i64(n, count)), axis_bit(x->shape.n), false);
  UOp *found = less(n, first, i64(n, count));
  UOp *y = build_gather(job, v, first, 0);
  node_out(n, 0, choose(n, found, y, cast(n, rest, d)));
}

/* -- linear models --------------------------------------------------------------------------- */

/* x times the coefficients, [classes, features] in the attribute. */
static UOp *linear_scores(Node *n, UOp *x, int64_t classes) {
  Val *c = ml_floats(n, "coefficients"), *b = ml_floats(n, "intercepts");
  int64_t features = x->shape.at[1];
  if (!c || classes < 1 || c->shape.at[0] != classes * features)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "%lld coefficients for %lld classes of %lld features",
                   (long long)(c ? c->shape.at[0] : 0), (long long)classes, (long long)features));
  UOp *w = build_reshape_v(n->job, cast(n, val_uop(n->f, c), uop_dtype(x)), 2, classes, features);
  UOp *y = build_matmul(n->job, x, build_transpose(n->job, w, 0, 1));
  return b ? add(n, y, cast(n, val_uop(n->f, b), uop_dtype(y))) : y;
}

static void op_linear_regressor(Node *n) {
  UOp *y = linear_scores(n, ml_rows(n, node_u(n, 0)), attr_int(n, "targets", 1));
  node_out(n, 0, ml_post(n, y, ml_post_attr(n)));
}

static void op_linear_classifier(Node *n) {
  need_static(n);
  Job *job = n->job;
  UOp *x = ml_rows(n, node_u(n, 0)), *label;
  ml_no_strings(n, "classlabels_strings");
  Val *labels = ints_val(n, "classlabels_ints"), *c = ml_floats(n, "coefficients");
  int64_t features = x->shape.at[1];
  int64_t rows = c && features ? c->shape.at[0] / features : 0;
  if (!labels || rows < 1)
    job_abort(job, FAIL(INVALID_ARGUMENT, "classlabels_ints or coefficients are missing"));
  UOp *s = linear_scores(n, x, rows);
  int how = ml_post_attr(n);
  if (rows == 1 && labels->shape.at[0] == 2) {
    /* Of one score the sign decides. The other class gets what is left to 1, as ONNX Runtime has
     * it, or the negative where a softmax follows. */
    UOp *yes = less(n, num(n, s, 0), s);
    label = build_squeeze(job, cast(n, yes, DT_I64), 1);
    bool soft = how == ML_SOFTMAX || how == ML_SOFTMAX_ZERO;
    UOp *p = soft ? s : ml_post(n, s, how);
    UOp *rest = soft ? un(n, OP_NEG, p) : sub(n, num(n, p, 1), p);
    s = build_cat(job, (UOp *[]){rest, p}, 2, 1);
    if (soft) s = ml_post(n, s, how);
  } else {
    if (labels->shape.at[0] != rows)
      job_abort(job, FAIL(INVALID_ARGUMENT, "%lld labels of %lld classes",
                          (long long)labels->shape.at[0], (long long)rows));
    label = build_squeeze(job, build_argmax(job, s, 1, OP_MAX, false), 1);
    s = ml_post(n, s, how);
  }
  node_out(n, 0, build_gather(job, val_uop(n->f, labels), label, 0));
  node_out(n, 1, s);
}

const OnnxOp onnx_ml_ops[] = {
    {"ai.onnx.ml", "ArrayFeatureExtractor", 1, 2, 2, op_array_feature_extractor},
    {"ai.onnx.ml", "Binarizer", 1, 1, 1, op_binarizer},
    {"ai.onnx.ml", "Scaler", 1, 1, 1, op_scaler},
    {"ai.onnx.ml", "Normalizer", 1, 1, 1, op_normalizer},
    {"ai.onnx.ml", "Imputer", 1, 1, 1, op_imputer},
    {"ai.onnx.ml", "FeatureVectorizer", 1, 1, 255, op_feature_vectorizer},
    {"ai.onnx.ml", "OneHotEncoder", 1, 1, 1, op_one_hot_encoder},
    {"ai.onnx.ml", "LabelEncoder", 2, 1, 1, op_label_encoder},
    {"ai.onnx.ml", "LinearRegressor", 1, 1, 1, op_linear_regressor},
    {"ai.onnx.ml", "LinearClassifier", 1, 1, 1, op_linear_classifier},
    {0},
};
