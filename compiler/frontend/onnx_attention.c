/* Attention and its companions. Scores, softmax and the product with V are the primitive nodes of
 * build_nn.c, so that fusion sees them; masks of every origin (causal, window, padding, the mask
 * source) are one condition and one additive bias. A row that may attend nothing gives 0, not NaN.
 */
#include <math.h>

#include "compiler/frontend/onnx_attention.h"

static UOp *i64(Node *n, int64_t v) { return uop_int(n->job, DT_I64, v); }

static _Noreturn void bad_shapes(Node *n, const char *what, const UOp *a, const UOp *b) {
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "%s: shapes %s and %s do not fit", what,
                         shape_text(n->job, a->shape), shape_text(n->job, b->shape)));
}

UOp *attention_split(Node *n, UOp *x, int64_t h) {
  if (x->shape.n == 4) return x;
  int64_t size;
  if (x->shape.n != 3 || h < 1 || !dim_divides(n->job, x->shape.at[2], h, &size))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%lld heads of a source of shape %s", (long long)h,
                           shape_text(n->job, x->shape)));
  int64_t dims[4] = {x->shape.at[0], x->shape.at[1], h, size};
  return build_transpose(n->job, build_reshape(n->job, x, shape_make(dims, 4)), 1, 2);
}

static UOp *split_heads(Node *n, UOp *x, const char *attr) {
  return x->shape.n == 4 ? x : attention_split(n, x, attr_need_int(n, attr));
}

UOp *attention_join(Node *n, UOp *y) {
  y = build_transpose(n->job, y, 1, 2);
  int64_t dims[3] = {y->shape.at[0], y->shape.at[1],
                     dim_mul(n->job, y->shape.at[2], y->shape.at[3])};
  return build_reshape(n->job, y, shape_make(dims, 3));
}

UOp *attention_repeat(Node *n, UOp *x, int64_t times) {
  if (times == 1) return x;
  int64_t d[5] = {x->shape.at[0], x->shape.at[1], times, x->shape.at[2], x->shape.at[3]};
  x = build_expand(n->job, build_unsqueeze(n->job, x, 2), shape_make(d, 5));
  return build_reshape_v(n->job, x, 4, d[0], dim_mul(n->job, d[1], times), d[3], d[4]);
}

static int64_t head_size(Node *n, const UOp *x) {
  return front_static(n->job, x->shape.at[3], "the size of a head");
}

typedef struct Mask {
  UOp *allowed;    /* bool, or NULL */
  UOp *bias;       /* additive, or NULL */
  bool may_be_all; /* a row may allow nothing */
} Mask;

static void allow(Node *n, Mask *m, UOp *cond) {
  m->allowed = m->allowed ? build2(n->job, OP_AND, m->allowed, cond) : cond;
}

/* Causal and window limits: key j against query position i + offset. */
static void positions(Node *n, Mask *m, UOp *offset, int64_t nq, int64_t nk) {
  int64_t left = attr_int(n, "left_window_size", -1), right = attr_int(n, "right_window_size", -1);
  bool causal = attr_int(n, "is_causal", 0) != 0;
  Ints shape = {(int64_t[]){1, 1, nq, nk}, 4};
  if (left > MAX_NUMEL || right > MAX_NUMEL || left < -1 || right < -1)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "window sizes %lld, %lld", (long long)left, (long long)right));
  UOp *at = build2(n->job, OP_ADD, build_iota(n->job, DT_I64, 2, shape), offset);
  UOp *key = build_iota(n->job, DT_I64, 3, shape);
  if (causal) allow(n, m, build2(n->job, OP_CMPLE, key, at));
  if (left >= 0)
    allow(n, m, build2(n->job, OP_CMPLE, build2(n->job, OP_SUB, at, i64(n, left)), key));
  if (right >= 0)
    allow(n, m, build2(n->job, OP_CMPLE, key, build2(n->job, OP_ADD, at, i64(n, right))));
  if (left >= 0 || right >= 0 || (causal && offset->vmin < 0)) m->may_be_all = true;
}

/* The mask source: bool (true = attend) or added to scores of dtype d, short of keys on the right.
 */
static void mask_source(Node *n, Mask *m, UOp *mask, DType d, int64_t nk) {
  if (!mask) return;
  bool is_bool = dtype_is_bool(uop_dtype(mask));
  if (!is_bool) mask = build_cast(n->job, mask, d);
  uint32_t r = mask->shape.n;
  if (!r || r > 4 || dim_low(mask->shape.at[r - 1]) > dim_high(nk))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attn_mask of shape %s for %s keys",
                           shape_text(n->job, mask->shape), dim_text(n->job, nk)));
  UOp *none = is_bool ? uop_int(n->job, DT_BOOL, 0) : build_num(n->job, mask, -(double)INFINITY);
  int64_t have = mask->shape.at[r - 1], more = have == 1 ? 0 : dim_sub(n->job, nk, have);
  if (dim_low(more) < 0) more = 0; /* not provably short: broadcast with the scores */
  mask = build_pad_axis(n->job, mask, r - 1, 0, more, none);
  m->may_be_all = true;
  if (is_bool)
    allow(n, m, mask);
  else
    m->bias = mask;
}

static Mask make_mask(Node *n, const UOp *q, int64_t nk, int64_t past) {
  Mask m = {0};
  int64_t nq = q->shape.at[2], batch = q->shape.at[0];
  UOp *offset = build_size(n->job, past), *valid = node_opt(n, 6);
  if (valid) {
    if (valid->shape.n != 1 || !build_may_equal(valid->shape.at[0], batch) || past)
      bad_shapes(n, "nonpad_kv_seqlen", valid, q);
    valid = build_fit(n->job, valid, 0, batch);
    valid = build_along(n->job, build_cast(n->job, valid, DT_I64), 0, 4);
    UOp *key = build_iota(n->job, DT_I64, 3, (Ints){(int64_t[]){1, 1, 1, nk}, 4});
    allow(n, &m, build2(n->job, OP_CMPLT, key, valid));
    m.may_be_all = true;
    offset = build2(n->job, OP_SUB, valid, build_size(n->job, nq));
  }
  positions(n, &m, offset, nq, nk);
  mask_source(n, &m, node_opt(n, 3), uop_dtype(q), nk);
  return m;
}

static UOp *with_past(Node *n, UOp *x, UOp *past) {
  if (!past) return x;
  if (past->shape.n != 4) bad_shapes(n, "past", past, x);
  return build_cat(n->job, (UOp *[]){past, x}, 2, 2);
}

/* A row of scores that allows nothing has probabilities of 0: the softmax's own maximum says so. */
static UOp *probabilities(Node *n, UOp *scores, const Mask *m) {
  DType d = uop_dtype(scores);
  int64_t precision = attr_int(n, "softmax_precision", 0);
  uint32_t axis = axis_bit(scores->shape.n - 1);
  if (precision) scores = build_cast(n->job, scores, onnx_dtype(n->job, precision));
  UOp *p = build_softmax(n->job, scores, axis);
  if (m->may_be_all) {
    UOp *top = build_reduce(n->job, OP_MAX, build_widen(n->job, scores), axis, true);
    UOp *none = build2(n->job, OP_CMPEQ, top, build_num(n->job, top, -(double)INFINITY));
    p = build_where(n->job, none, build_num(n->job, p, 0), p);
  }
  return build_cast(n->job, p, d);
}

/* q k^T * scale. ONNX scales half floats half each, so that nothing overflows; here their products
 * are summed and scaled in f32, which rounds less and leaves them as the factors that matrix
 * instructions take. */
static UOp *scaled_product(Node *n, UOp *q, UOp *k, double scale) {
  bool half = dtype_info[q->dtype].bytes < 4;
  k = build_transpose(n->job, k, 2, 3);
  if (!half) return build_matmul(n->job, build2(n->job, OP_MUL, q, build_num(n->job, q, scale)), k);
  UOp *s = build_matmul(n->job, build_cast(n->job, q, DT_F32), build_cast(n->job, k, DT_F32));
  return build2(n->job, OP_MUL, s, build_num(n->job, s, scale));
}

/* What is masked is not looked at. */
static UOp *masked(Node *n, UOp *scores, const Mask *m) {
  DType d = uop_dtype(scores);
  if (m->bias) scores = build2(n->job, OP_ADD, scores, build_cast(n->job, m->bias, d));
  if (!m->allowed) return scores;
  return build_where(n->job, m->allowed, scores, build_num(n->job, scores, -(double)INFINITY));
}

/* p v in the dtype of p, computed in one that holds both. */
static UOp *weighted(Node *n, UOp *p, UOp *v) {
  DType a = uop_dtype(p), b = uop_dtype(v), d = a;
  if (a != b) d = a == DT_F64 || b == DT_F64 ? DT_F64 : DT_F32;
  UOp *y = build_matmul(n->job, build_cast(n->job, p, d), build_cast(n->job, v, d));
  return build_cast(n->job, y, a);
}

static void op_attention(Node *n) {
  UOp *q = node_u(n, 0), *past_k = node_opt(n, 4), *past_v = node_opt(n, 5);
  bool flat = q->shape.n == 3;
  q = split_heads(n, q, "q_num_heads");
  UOp *k = with_past(n, split_heads(n, node_u(n, 1), "kv_num_heads"), past_k);
  UOp *v = with_past(n, split_heads(n, node_u(n, 2), "kv_num_heads"), past_v);
  if (q->shape.n != 4 || k->shape.n != 4 || v->shape.n != 4) bad_shapes(n, "heads", q, k);
  int64_t heads = front_static(n->job, q->shape.at[1], "the number of heads of Q");
  int64_t kv = front_static(n->job, k->shape.at[1], "the number of heads of K");
  if (!kv || heads % kv || v->shape.at[1] != kv) bad_shapes(n, "heads", q, k);
  if (!dtype_is_float(uop_dtype(q)) || !dtype_is_float(uop_dtype(v)))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attention over %s", dtype_info[q->dtype].name));
  node_out(n, 1, k);
  node_out(n, 2, v);
  int64_t times = heads / kv, nk = k->shape.at[2];
  Mask m = make_mask(n, q, nk, past_k ? past_k->shape.at[2] : 0);
  k = attention_repeat(n, k, times);
  v = attention_repeat(n, v, times);
  double scale = attr_float(n, "scale", 1 / sqrt((double)head_size(n, q)));
  double softcap = attr_float(n, "softcap", 0);
  UOp *scores = scaled_product(n, q, k, scale);
  if (softcap > 0) {
    UOp *cap = build_num(n->job, scores, softcap);
    scores = build1(n->job, OP_TANH, build2(n->job, OP_FDIV, scores, cap));
    scores = build2(n->job, OP_MUL, scores, cap);
  }
  UOp *biased = masked(n, scores, &m);
  UOp *p = build_cast(n->job, probabilities(n, biased, &m), uop_dtype(q));
  int64_t mode = attr_int(n, "qk_matmul_output_mode", 0);
  node_out(n, 3, build_cast(n->job, mode == 3 ? p : mode == 2 ? biased : scores, uop_dtype(q)));
  UOp *y = weighted(n, p, v);
  node_out(n, 0, flat ? attention_join(n, y) : y);
}

/* -- rotary embedding ------------------------------------------------------------------------ */

static UOp *at_positions(Node *n, UOp *cache, UOp *ids, const UOp *x, int64_t half) {
  if (ids) {
    if (cache->shape.n != 2 || !dtype_is_int(uop_dtype(ids))) bad_shapes(n, "position_ids", ids, x);
    cache = build_gather(n->job, cache, ids, 0);
  }
  if (cache->shape.n != 3 || !build_may_equal(cache->shape.at[2], half))
    bad_shapes(n, "cache", cache, x);
  cache = build_fit(n->job, cache, 2, half);
  return build_unsqueeze(n->job, cache, 1); /* [B, 1, S, half] */
}

UOp *attention_rotate(Node *n, UOp *x, UOp *c, UOp *s, bool interleaved) {
  int64_t half = c->shape.at[3], dim = 2 * half, size = x->shape.at[3];
  UOp *a = build_slice(n->job, x, 3, 0, half, interleaved ? 2 : 1);
  UOp *b = build_slice(n->job, x, 3, interleaved ? 1 : half, half, interleaved ? 2 : 1);
  UOp *re = build2(n->job, OP_SUB, build2(n->job, OP_MUL, c, a), build2(n->job, OP_MUL, s, b));
  UOp *im = build2(n->job, OP_ADD, build2(n->job, OP_MUL, s, a), build2(n->job, OP_MUL, c, b));
  UOp *parts[2] = {re, im}, *y;
  if (interleaved) {
    int64_t dims[4] = {x->shape.at[0], x->shape.at[1], x->shape.at[2], dim};
    parts[0] = build_unsqueeze(n->job, re, 4);
    parts[1] = build_unsqueeze(n->job, im, 4);
    y = build_reshape(n->job, build_cat(n->job, parts, 2, 4), shape_make(dims, 4));
  } else {
    y = build_cat(n->job, parts, 2, 3);
  }
  if (dim == size) return y;
  return build_cat(n->job, (UOp *[]){y, build_slice(n->job, x, 3, dim, size - dim, 1)}, 2, 3);
}

static void op_rotary(Node *n) {
  UOp *x = node_u(n, 0), *ids = node_opt(n, 3);
  bool flat = x->shape.n == 3, interleaved = attr_int(n, "interleaved", 0) != 0;
  x = split_heads(n, x, "num_heads");
  if (x->shape.n != 4) bad_shapes(n, "heads", x, x);
  int64_t size = head_size(n, x), dim = attr_int(n, "rotary_embedding_dim", 0);
  if (!dim) dim = size;
  if (dim < 2 || dim > size || dim % 2)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "rotary_embedding_dim %lld of heads of %lld",
                           (long long)dim, (long long)size));
  int64_t half = dim / 2;
  UOp *c = at_positions(n, node_u(n, 1), ids, x, half);
  UOp *s = at_positions(n, node_u(n, 2), ids, x, half);
  UOp *y = attention_rotate(n, x, c, s, interleaved);
  node_out(n, 0, flat ? attention_join(n, y) : y);
}

/* -- linear attention ------------------------------------------------------------------------ */

/* [B, T, H or H * D] to [B, H, T, 1 or D]. */
static UOp *gate_heads(Node *n, UOp *x, int64_t heads) {
  int64_t size;
  if (x->shape.n != 3 || heads < 1 || !dim_divides(n->job, x->shape.at[2], heads, &size))
    bad_shapes(n, "gate", x, x);
  int64_t dims[4] = {x->shape.at[0], x->shape.at[1], heads, size};
  return build_transpose(n->job, build_reshape(n->job, x, shape_make(dims, 4)), 1, 2);
}

static UOp *step_of(Node *n, UOp *x, int64_t t) { return build_slice(n->job, x, 2, t, 1, 1); }

enum { MAX_STEPS = 1 << 14 };

/* The recurrence over time, unrolled: state *= exp(decay), state += k (x) v', y = q state, where v'
 * is v, or beta (v - k state) with the delta rule. */
static void op_linear_attention(Node *n) {
  Job *job = n->job;
  int64_t hk = attr_need_int(n, "kv_num_heads"), hq = attr_need_int(n, "q_num_heads");
  UOp *q = split_heads(n, node_u(n, 0), "q_num_heads"), *past = node_opt(n, 3);
  UOp *k = split_heads(n, node_u(n, 1), "kv_num_heads");
  UOp *v = split_heads(n, node_u(n, 2), "kv_num_heads");
  UOp *decay = node_opt(n, 4), *beta = node_opt(n, 5);
  DType d = uop_dtype(q);
  if (!hk || hq % hk || q->shape.at[3] != k->shape.at[3]) bad_shapes(n, "heads", q, k);
  int64_t steps = front_static(job, q->shape.at[2], "the number of steps"),
          dims[4] = {q->shape.at[0], hk, k->shape.at[3], v->shape.at[3]};
  if (steps > MAX_STEPS || !steps)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%lld time steps", (long long)steps));
  if (decay) decay = build_cast(job, gate_heads(n, decay, hk), DT_F32);
  if (beta) beta = build_cast(job, gate_heads(n, beta, beta->shape.at[2] == 1 ? 1 : hk), DT_F32);
  q = build_cast(job, q, DT_F32), k = build_cast(job, k, DT_F32), v = build_cast(job, v, DT_F32);
  UOp *state = past ? build_cast(job, past, DT_F32)
                    : build_splat(job, uop_float(job, DT_F32, 0), shape_make(dims, 4));
  double scale = attr_float(n, "scale", 0);
  if (scale == 0) scale = 1 / sqrt((double)head_size(n, q));
  UOp **ys = arena_array(&job->arena, (size_t)steps, sizeof *ys);
  for (int64_t t = 0; t < steps; t++) {
    UOp *kt = build_transpose(job, step_of(n, k, t), 2, 3), *vt = step_of(n, v, t);
    if (decay) {
      UOp *g = build_transpose(job, build1(job, OP_EXP, step_of(n, decay, t)), 2, 3);
      state = build2(job, OP_MUL, state, g);
    }
    if (beta) {
      UOp *known = build_reduce(job, OP_ADD, build2(job, OP_MUL, state, kt), axis_bit(2), true);
      vt = build2(job, OP_MUL, step_of(n, beta, t), build2(job, OP_SUB, vt, known));
    }
    state = build2(job, OP_ADD, state, build2(job, OP_MUL, kt, vt));
    UOp *read = attention_repeat(n, state, hq / hk);
    ys[t] = build_matmul(job, step_of(n, q, t), read);
  }
  UOp *y = build_cat(job, ys, (size_t)steps, 2);
  y = build2(job, OP_MUL, y, build_num(job, y, scale));
  node_out(n, 0, build_cast(job, attention_join(n, y), d));
  node_out(n, 1, build_cast(job, state, past ? uop_dtype(past) : d));
}

/* Depthwise convolution over [past_state, x], with the tail as the next state. */
static void op_causal_conv(Node *n) {
  Job *job = n->job;
  UOp *x = node_u(n, 0), *w = node_u(n, 1), *past = node_opt(n, 3);
  Str act = attr_str(n, "activation", "none");
  if (x->shape.n != 3 || w->shape.n != 3) bad_shapes(n, "weights", w, x);
  int64_t keep = front_static(job, w->shape.at[2], "the size of the kernel") - 1;
  if (keep < 0) bad_shapes(n, "weights", w, x);
  UOp *wide = past ? build_cat(job, (UOp *[]){past, x}, 2, 2)
                   : build_pad_axis(job, x, 2, keep, 0, build_num(job, x, 0));
  ConvSpec spec = {.spatial = 1,
                   .groups = front_static(job, x->shape.at[1], "the number of channels"),
                   .stride = {1},
                   .dilation = {1}};
  UOp *y = build_conv(job, wide, w, node_opt(n, 2), &spec);
  if (str_is(act, "silu") || str_is(act, "swish")) {
    UOp *f = build_cast(job, y, DT_F32);
    y = build_cast(job, build2(job, OP_MUL, f, build_sigmoid(job, f)), uop_dtype(y));
  } else if (!str_is(act, "none")) {
    job_abort(job, FAIL(INVALID_ARGUMENT, "unknown activation '" STR_FMT "'", STR_ARG(act)));
  }
  node_out(n, 0, y);
  if (dim_high(wide->shape.at[2]) < keep) bad_shapes(n, "past_state", wide, w);
  node_out(n, 1, build_slice(job, wide, 2, dim_sub(job, wide->shape.at[2], keep), keep, 1));
}

const OnnxOp onnx_attention_ops[] = {
    {"", "Attention", 23, 3, 7, op_attention},
    {"", "RotaryEmbedding", 23, 3, 4, op_rotary},
    {"", "LinearAttention", 27, 3, 6, op_linear_attention},
    {"", "CausalConvWithState", 27, 2, 4, op_causal_conv},
    {0},
};
