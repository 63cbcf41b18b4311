/* com.microsoft attention: Attention, MultiHeadAttention, GroupQueryAttention, RotaryEmbedding.
 * They differ in how queries, keys, values and masks are packed; each is brought to heads and an
 * additive bias, and attend() does the rest. */
#include <math.h>

#include "compiler/frontend/onnx_attention.h"
#include "compiler/frontend/onnx_math.h"

typedef struct Heads {
  UOp *q, *k, *v; /* [B, heads, tokens, size] */
  UOp *bias;      /* added to the scores, or NULL */
  UOp *allowed;   /* bool: elsewhere a key is not there at all; or NULL */
  UOp *sink;      /* logit of one more key without a value, or NULL */
  double scale, softcap;
} Heads;

/* Softmax over the last axis, with a sink if there is one. */
static UOp *probabilities(Node *n, const Heads *h, UOp *s) {
  uint32_t axis = axis_bit(s->shape.n - 1);
  if (!h->sink) return build_softmax(n->job, s, axis);
  UOp *top = larger(n, build_reduce(n->job, OP_MAX, s, axis, true), h->sink);
  UOp *e = un(n, OP_EXP, sub(n, s, top));
  UOp *sum = build_reduce(n->job, OP_ADD, e, axis, true);
  return quot(n, e, add(n, sum, un(n, OP_EXP, sub(n, h->sink, top))));
}

static UOp *attend(Node *n, const Heads *h) {
  Job *job = n->job;
  DType d = uop_dtype(h->v), work = uop_dtype(build_widen(job, h->q));
  UOp *kt = build_transpose(job, cast(n, h->k, work), 2, 3);
  UOp *s = scaled(n, build_matmul(job, cast(n, h->q, work), kt), h->scale);
  if (h->softcap > 0) s = scaled(n, un(n, OP_TANH, scaled(n, s, 1 / h->softcap)), h->softcap);
  if (h->bias) s = add(n, s, cast(n, h->bias, work));
  if (h->allowed) s = choose(n, h->allowed, s, num(n, s, -(double)INFINITY));
  UOp *p = probabilities(n, h, s);
  return cast(n, build_matmul(job, p, cast(n, h->v, work)), d);
}

static double default_scale(Node *n, const UOp *q) {
  double scale = attr_float(n, "scale", 0);
  return scale != 0 ? scale : 1 / sqrt((double)q->shape.at[3]);
}

static UOp *range4(Node *n, size_t axis, int64_t count) {
  return build_along(n->job, build_arange(n->job, DT_I64, count), axis, 4);
}

/* Query i may attend keys up to past + i. */
static UOp *causal(Node *n, const UOp *q, const UOp *k) {
  int64_t nq = q->shape.at[2], nk = k->shape.at[2];
  UOp *past = build_size(n->job, dim_sub(n->job, nk, nq));
  return upto(n, range4(n, 3, nk), add(n, range4(n, 2, nq), past));
}

static void plus_bias(Node *n, Heads *h, UOp *bias) {
  if (bias) h->bias = h->bias ? add(n, h->bias, cast(n, bias, uop_dtype(h->bias))) : bias;
}

/* The masks that Attention and MultiHeadAttention take: lengths [B], lengths and starts [2 B],
 * lengths and two lists of offsets [3 B + 2], keys [B, T], queries and keys [B, S, T], or all of
 * [B, 1, M, M]. Forbidden keys get mask_filter_value added, not minus infinity. */
static UOp *mask_bias(Node *n, UOp *mask, const UOp *q, const UOp *k) {
  Job *job = n->job;
  int64_t batch = q->shape.at[0], nq = q->shape.at[2], nk = k->shape.at[2];
  uint32_t r = mask->shape.n;
  UOp *keep = NULL, *key = range4(n, 3, nk);
  int64_t len = r ? mask->shape.at[0] : 0;
  mask = cast(n, mask, DT_I64);
  int64_t twice = dim_mul(job, 2, batch), thrice = dim_add(job, dim_mul(job, 3, batch), 2);
  if (r == 1 && (len == batch || len == twice || len == thrice)) {
    UOp *end = build_along(job, build_slice(job, mask, 0, 0, batch, 1), 0, 4);
    keep = less(n, key, end);
    if (len == twice) {
      UOp *start = build_along(job, build_slice(job, mask, 0, batch, batch, 1), 0, 4);
      keep = both(n, keep, upto(n, start, key));
    }
  } else if (r == 2 && mask->shape.at[1] == nk) {
    keep = less(n, i64(n, 0), build_reshape_v(job, mask, 4, len, (int64_t)1, (int64_t)1, nk));
  } else if (r == 3 && mask->shape.at[1] == nq && mask->shape.at[2] == nk) {
    keep = less(n, i64(n, 0), build_unsqueeze(job, mask, 1));
  } else if (r == 4 && dim_le(job, nk, mask->shape.at[2]) && dim_le(job, nk, mask->shape.at[3])) {
    mask = build_slice(job, build_slice(job, mask, 2, dim_sub(job, nk, nq), nq, 1), 3, 0, nk, 1);
    keep = less(n, i64(n, 0), mask);
  } else {
    job_abort(job, FAIL(INVALID_ARGUMENT, "mask of shape %s for %s queries and %s keys",
                        shape_text(job, mask->shape), dim_text(job, nq), dim_text(job, nk)));
  }
  UOp *zero = uop_float(job, uop_dtype(q), 0);
  double filter = attr_float(n, "mask_filter_value", -10000);
  return choose(n, keep, zero, uop_float(job, uop_dtype(q), filter));
}

static UOp *after(Node *n, UOp *past, UOp *x) {
  if (past && past->shape.n != 4) bad_shape(n, "past", past);
  return past ? build_cat(n->job, (UOp *[]){past, x}, 2, 2) : x;
}

/* -- Attention ------------------------------------------------------------------------------- */

static void op_attention(Node *n) {
  Job *job = n->job;
  UOp *x = node_u(n, 0), *w = node_u(n, 1), *bias = node_opt(n, 2), *past = node_opt(n, 4);
  int64_t heads = attr_need_int(n, "num_heads"), at = 0, sizes[3];
  Ints given = attr_ints(n, "qkv_hidden_sizes");
  if (x->shape.n != 3 || w->shape.n != 2 || (given.n && given.n != 3)) bad_shape(n, "weights", w);
  if (attr_int(n, "do_rotary", 0) || attr_int(n, "past_present_share_buffer", 0))
    job_abort(job, FAIL(UNIMPLEMENTED, "do_rotary and past_present_share_buffer of Attention are "
                                       "not supported"));
  for (int i = 0; i < 3; i++) sizes[i] = given.n ? given.at[i] : w->shape.at[1] / 3;
  if (sizes[0] < 1 || sizes[0] != sizes[1] || sizes[2] < 1 ||
      sizes[0] + sizes[1] + sizes[2] != w->shape.at[1])
    bad_shape(n, "weights", w);
  UOp *qkv[3];
  for (int i = 0; i < 3; at += sizes[i++]) {
    qkv[i] = build_matmul(job, x, build_slice(job, w, 1, at, sizes[i], 1));
    if (bias) qkv[i] = add(n, qkv[i], build_slice(job, bias, 0, at, sizes[i], 1));
    qkv[i] = attention_split(n, qkv[i], heads);
  }
  if (past) {
    if (past->shape.n != 5 || past->shape.at[0] != 2) bad_shape(n, "past", past);
    for (int i = 1; i < 3; i++) {
      UOp *old = build_squeeze(job, build_slice(job, past, 0, i - 1, 1, 1), 0);
      qkv[i] = after(n, old, qkv[i]);
    }
  }
  Heads h = {.q = qkv[0], .k = qkv[1], .v = qkv[2], .scale = default_scale(n, qkv[0])};
  if (node_has(n, 3)) h.bias = mask_bias(n, node_u(n, 3), h.q, h.k);
  plus_bias(n, &h, node_opt(n, 5));
  if (attr_int(n, "unidirectional", 0)) h.allowed = causal(n, h.q, h.k);
  node_out(n, 0, attention_join(n, attend(n, &h)));
  if (!node_wants(n, 1)) return;
  UOp *both_[2] = {build_unsqueeze(job, h.k, 0), build_unsqueeze(job, h.v, 0)};
  node_out(n, 1, build_cat(job, both_, 2, 0));
}

/* -- MultiHeadAttention ---------------------------------------------------------------------- */

/* Part i of `parts` of [B, S, heads, parts, size], as heads. */
static UOp *packed_part(Node *n, UOp *x, int64_t i) {
  UOp *p = build_squeeze(n->job, build_slice(n->job, x, 3, i, 1, 1), 3);
  return build_transpose(n->job, p, 1, 2);
}

static UOp *with_bias(Node *n, UOp *x, UOp *bias, int64_t heads, int64_t at) {
  if (!bias) return x;
  int64_t size = x->shape.at[3];
  UOp *b = build_slice(n->job, bias, 0, at, heads * size, 1);
  return add(n, x, build_reshape_v(n->job, b, 4, (int64_t)1, heads, (int64_t)1, size));
}

static void op_multi_head(Node *n) {
  UOp *q = node_u(n, 0), *k = node_opt(n, 1), *v = node_opt(n, 2), *bias = node_opt(n, 3);
  int64_t heads = attr_need_int(n, "num_heads");
  Heads h = {0};
  if (heads < 1) job_abort(n->job, FAIL(INVALID_ARGUMENT, "%lld heads", (long long)heads));
  if (q->shape.n == 5 && q->shape.at[3] == 3) {
    h.q = packed_part(n, q, 0), h.k = packed_part(n, q, 1), h.v = packed_part(n, q, 2);
  } else if (k && k->shape.n == 5 && k->shape.at[3] == 2) {
    h.q = attention_split(n, q, heads);
    h.k = packed_part(n, k, 0), h.v = packed_part(n, k, 1);
  } else if (q->shape.n == 3 && k && v) {
    h.q = attention_split(n, q, heads);
    h.k = attention_split(n, k, heads), h.v = attention_split(n, v, heads);
  } else {
    bad_shape(n, "query without key and value", q);
  }
  int64_t width = heads * h.q->shape.at[3];
  if (bias && (bias->shape.n != 1 || bias->shape.at[0] != 2 * width + heads * h.v->shape.at[3]))
    bad_shape(n, "bias", bias);
  h.q = with_bias(n, h.q, bias, heads, 0);
  if (!k || k->shape.n != 4) { /* keys of rank 4 come from another model part, biased already */
    h.k = with_bias(n, h.k, bias, heads, width);
    h.v = with_bias(n, h.v, bias, heads, 2 * width);
  }
  h.k = after(n, node_opt(n, 6), h.k);
  h.v = after(n, node_opt(n, 7), h.v);
  h.scale = default_scale(n, h.q);
  if (node_has(n, 4)) h.bias = mask_bias(n, node_u(n, 4), h.q, h.k);
  plus_bias(n, &h, node_opt(n, 5));
  if (attr_int(n, "unidirectional", 0)) h.allowed = causal(n, h.q, h.k);
  if (node_has(n, 8) || node_has(n, 9))
    job_abort(n->job, FAIL(UNIMPLEMENTED, "past_sequence_length and cache_indirection of "
                                          "MultiHeadAttention are not supported"));
  node_out(n, 0, attention_join(n, attend(n, &h)));
  node_out(n, 1, h.k);
  node_out(n, 2, h.v);
}

/* -- rotary embedding ------------------------------------------------------------------------ */

/* Rows of the cosines or sines at ids [B or 1, S]: [B or 1, 1, S, half]. */
static UOp *cache_rows(Node *n, UOp *cache, UOp *ids) {
  if (cache->shape.n != 2) bad_shape(n, "cache", cache);
  return build_unsqueeze(n->job, build_gather(n->job, cache, ids, 0), 1);
}

static UOp *rotate(Node *n, UOp *x, UOp *cos, UOp *sin, UOp *ids, bool interleaved) {
  DType d = uop_dtype(x), work = uop_dtype(build_widen(n->job, x));
  if (2 * cos->shape.at[1] > x->shape.at[3]) bad_shape(n, "cache", cos);
  UOp *c = cast(n, cache_rows(n, cos, ids), work), *s = cast(n, cache_rows(n, sin, ids), work);
  return cast(n, attention_rotate(n, cast(n, x, work), c, s, interleaved), d);
}

static void op_rotary(Node *n) {
  UOp *x = node_u(n, 0), *ids = node_u(n, 1), *cos = node_u(n, 2), *sin = node_u(n, 3);
  int64_t heads = attr_int(n, "num_heads", 0);
  bool flat = x->shape.n == 3;
  if (cos->shape.n != 2 || cos->shape.at[1] < 1 || !shape_eq(cos->shape, sin->shape))
    bad_shape(n, "cache", cos);
  if (attr_int(n, "is_packed_batching", 0))
    job_abort(n->job, FAIL(UNIMPLEMENTED, "is_packed_batching is not supported"));
  if (flat) x = attention_split(n, x, heads > 0 ? heads : x->shape.at[2] / (2 * cos->shape.at[1]));
  int64_t tokens = x->shape.at[2];
  if (shape_numel(ids->shape) == 1 && ids->shape.n <= 1) {
    ids = add(n, build_reshape_v(n->job, cast(n, ids, DT_I64), 2, (int64_t)1, (int64_t)1),
              build_along(n->job, build_arange(n->job, DT_I64, tokens), 1, 2));
  } else if (ids->shape.n != 2 || ids->shape.at[1] != tokens) {
    bad_shape(n, "position_ids", ids);
  }
  UOp *y = rotate(n, x, cos, sin, ids, attr_int(n, "interleaved", 0) != 0);
  double scale = attr_float(n, "scale", 1);
  if (scale != 1) y = scaled(n, y, scale);
  node_out(n, 0, flat ? attention_join(n, y) : y);
}

/* -- GroupQueryAttention --------------------------------------------------------------------- */

typedef struct Group {
  Heads h;
  int64_t nq, nkv, tokens, batch, total; /* total: keys that the request names */
  UOp *before;                           /* [B]: keys of each row before the new ones, i64 */
} Group;

static void group_sources(Node *n, Group *g) {
  UOp *q = node_u(n, 0), *k = node_opt(n, 1), *v = node_opt(n, 2);
  g->nq = attr_need_int(n, "num_heads"), g->nkv = attr_need_int(n, "kv_num_heads");
  if (g->nq < 1 || g->nkv < 1 || g->nq % g->nkv || q->shape.n != 3)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%lld heads, %lld of keys, query of shape %s",
                           (long long)g->nq, (long long)g->nkv, shape_text(n->job, q->shape)));
  if (!k) { /* queries, keys and values side by side */
    int64_t parts = g->nq + 2 * g->nkv, size = q->shape.at[2] / parts;
    if (!size || q->shape.at[2] % parts) bad_shape(n, "packed query", q);
    UOp *all = q;
    q = build_slice(n->job, all, 2, 0, g->nq * size, 1);
    k = build_slice(n->job, all, 2, g->nq * size, g->nkv * size, 1);
    v = build_slice(n->job, all, 2, (g->nq + g->nkv) * size, g->nkv * size, 1);
  } else if (!v) {
    bad_shape(n, "key without value", k);
  }
  g->h.q = attention_split(n, q, g->nq);
  g->h.k = attention_split(n, k, g->nkv);
  g->h.v = attention_split(n, v, g->nkv);
  g->batch = q->shape.at[0], g->tokens = q->shape.at[1];
}

/* The cache after this step, [B, heads, length, size]: what was there, then the new tokens; zeros
 * beyond. */
static UOp *updated_cache(Node *n, const Group *g, UOp *past, UOp *x, int64_t length) {
  Job *job = n->job;
  int64_t room = past ? past->shape.at[2] : 0, b = x->shape.at[0], heads = x->shape.at[1];
  if (past && (past->shape.n != 4 || past->shape.at[0] != b || past->shape.at[1] != heads ||
               past->shape.at[3] != x->shape.at[3]))
    bad_shape(n, "past", past);
  UOp *all = after(n, past, x);
  int64_t rows = dim_add(job, room, g->tokens);
  Ints wide = {(int64_t[]){b, heads, length}, 3};
  UOp *j = build_iota(job, DT_I64, 2, wide), *before = build_along(job, g->before, 0, 3);
  UOp *fresh = sub(n, j, before), *at = add(n, fresh, build_size(job, room));
  at = choose(n, less(n, j, before), j, at);
  UOp *head = add(n, mul(n, build_iota(job, DT_I64, 0, wide), build_size(job, heads)),
                  build_iota(job, DT_I64, 1, wide));
  at = add(n, mul(n, head, build_size(job, rows)), at);
  at = choose(n, less(n, fresh, build_size(job, g->tokens)), at, i64(n, -1));
  int64_t all_rows = dim_mul(job, dim_mul(job, b, heads), rows);
  all = build_reshape_v(job, all, 2, all_rows, x->shape.at[3]);
  return build_gather(job, all, at, 0);
}

static void group_masks(Node *n, Group *g, int64_t length) {
  UOp *key = range4(n, 3, length), *before = build_along(n->job, g->before, 0, 4);
  UOp *at = add(n, range4(n, 2, g->tokens), before);
  int64_t window = attr_int(n, "local_window_size", -1);
  if (!attr_int(n, "causal", 1))
    g->h.allowed = less(n, key, add(n, before, build_size(n->job, g->tokens)));
  else
    g->h.allowed = upto(n, key, at);
  if (window > 0 && !dim_le(n->job, length, window))
    g->h.allowed = both(n, g->h.allowed, less(n, plus(n, at, -(double)window), key));
  UOp *bias = node_opt(n, 10), *sink = node_opt(n, 11);
  if (bias) {
    int64_t have = bias->shape.n == 4 ? bias->shape.at[3] : 0;
    if (!have || !dim_le(n->job, have, length)) bad_shape(n, "attention_bias", bias);
    int64_t more = dim_sub(n->job, length, have);
    g->h.bias = build_pad_axis(n->job, bias, 3, 0, more, num(n, bias, 0));
  }
  DType work = uop_dtype(build_widen(n->job, g->h.q));
  if (sink) g->h.sink = build_along(n->job, cast(n, sink, work), 1, 4);
  if (!sink && attr_int(n, "smooth_softmax", 0) > 0) g->h.sink = uop_float(n->job, work, 0);
}

static void group_refuse(Node *n) {
  static const char *const names[] = {"k_quant_type", "v_quant_type"};
  for (size_t i = 0; i < 2; i++)
    if (!str_is(attr_str(n, names[i], "NONE"), "NONE"))
      job_abort(n->job, FAIL(UNIMPLEMENTED, "a quantised cache (%s) is not supported", names[i]));
  for (size_t k = 12; k < 17; k++)
    if (node_has(n, k))
      job_abort(n->job,
                FAIL(UNIMPLEMENTED, "source %zu of GroupQueryAttention is not supported", k));
}

static void op_group_query(Node *n) {
  Job *job = n->job;
  Group g = {0};
  UOp *past_k = node_opt(n, 3), *past_v = node_opt(n, 4), *lens = node_u(n, 5);
  group_refuse(n);
  group_sources(n, &g);
  NodeSizes total = node_sizes(n, 6, "total_sequence_length");
  if (total.n != 1) bad_shape(n, "total_sequence_length", node_u(n, 6));
  g.total = node_size_bound(n, &total, 0, FRONT_DIM_MAX, "total_sequence_length");
  int64_t room = past_k && past_k->shape.n == 4 ? past_k->shape.at[2] : 0;
  int64_t length = dim_max(job, room, g.total);
  if (dims_numel(job, lens->shape) != g.batch || dim_high(length) < 1)
    job_abort(job, FAIL(INVALID_ARGUMENT, "seqlens_k of shape %s, total_sequence_length %s",
                        shape_text(job, lens->shape), dim_text(job, g.total)));
  lens = cast(n, build_reshape(job, lens, shape_make(&g.batch, 1)), DT_I64);
  /* A prompt starts at 0 also when it is padded on the right. */
  UOp *tokens = build_size(job, g.tokens), *prompt = equal(n, tokens, build_size(job, g.total));
  g.before = choose(n, prompt, i64(n, 0), sub(n, plus(n, lens, 1), tokens));
  g.before = build_expand(job, g.before, shape_make(&g.batch, 1));
  if (attr_int(n, "do_rotary", 0)) {
    UOp *cos = node_u(n, 7), *sin = node_u(n, 8), *ids = node_opt(n, 9);
    bool interleaved = attr_int(n, "rotary_interleaved", 0) != 0;
    if (!ids)
      ids = add(n, build_unsqueeze(job, g.before, 1),
                build_along(job, build_arange(job, DT_I64, g.tokens), 1, 2));
    g.h.q = rotate(n, g.h.q, cos, sin, ids, interleaved);
    g.h.k = rotate(n, g.h.k, cos, sin, ids, interleaved);
  }
  UOp *k = updated_cache(n, &g, past_k, g.h.k, length);
  UOp *v = updated_cache(n, &g, past_v, g.h.v, length);
  g.h.k = attention_repeat(n, k, g.nq / g.nkv);
  g.h.v = attention_repeat(n, v, g.nq / g.nkv);
  g.h.scale = default_scale(n, g.h.q);
  g.h.softcap = attr_float(n, "softcap", 0);
  group_masks(n, &g, length);
  node_out(n, 0, attention_join(n, attend(n, &g.h)));
  node_out(n, 1, k);
  node_out(n, 2, v);
}

const OnnxOp onnx_ms_attention_ops[] = {
    {"com.microsoft", "Attention", 1, 2, 7, op_attention},
    {"com.microsoft", "MultiHeadAttention", 1, 1, 10, op_multi_head},
    {"com.microsoft", "GroupQueryAttention", 1, 6, 17, op_group_query},
    {"com.microsoft", "RotaryEmbedding", 1, 4, 4, op_rotary},
    {0},
};
