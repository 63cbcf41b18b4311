/* TfIdfVectorizer on integers: how often each n-gram of a pool occurs in a row, its elements 1 to
 * max_skip_count + 1 apart. Every n-gram of a length is compared with every window of a row.
 * Strings have no dtype here. */
#include "compiler/frontend/onnx_math.h"

enum { MAX_GRAM = 64, MAX_POOL = 1 << 20 };

typedef struct Pool {
  Ints items, starts, columns;
  int64_t width; /* of the result */
} Pool;

static Pool read_pool(Node *n) {
  Pool p = {attr_ints(n, "pool_int64s"), attr_ints(n, "ngram_counts"),
            attr_ints(n, "ngram_indexes"), 0};
  if (attr_has(n, "pool_strings"))
    job_abort(n->job, FAIL(UNIMPLEMENTED, "string tensors are not supported"));
  bool ok = p.items.n <= MAX_POOL && p.starts.n > 0 && p.columns.n > 0;
  for (uint32_t i = 0; ok && i < p.starts.n; i++)
    ok = p.starts.at[i] >= (i ? p.starts.at[i - 1] : 0) && p.starts.at[i] <= (int64_t)p.items.n;
  for (uint32_t i = 0; ok && i < p.columns.n; i++) {
    ok = p.columns.at[i] >= 0 && p.columns.at[i] < MAX_POOL;
    if (p.columns.at[i] >= p.width) p.width = p.columns.at[i] + 1;
  }
  if (!ok)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "pool of %u items, ngram_counts %s, %u ngram_indexes",
                           p.items.n, shape_text(n->job, p.starts), p.columns.n));
  return p;
}

/* [rows, count]: occurrences of `count` n-grams of `len` items each in x [rows, items]. */
static UOp *occurrences(Node *n, UOp *x, const int64_t *grams, int64_t count, int64_t len,
                        int64_t skips) {
  Job *job = n->job;
  int64_t items = x->shape.at[1];
  Val *table = val_from_data(n->f, DT_I64, (Ints){(int64_t[]){1, 1, count, len}, 4}, grams);
  UOp *sum =
      build_splat(job, uop_float(job, DT_F32, 0), (Ints){(int64_t[]){x->shape.at[0], count}, 2});
  for (int64_t s = 0; s <= (len > 1 ? skips : 0); s++) {
    if (items < (len - 1) * (s + 1) + 1) break;
    UOp *w = build_unsqueeze(job, build_window(job, x, 1, len, 1, s + 1), 2);
    UOp *hit = cast(n, equal(n, w, val_uop(n->f, table)), DT_U8); /* [rows, at, grams, len] */
    hit = build_reduce(job, OP_MIN, hit, axis_bit(3), false);
    sum = add(n, sum, build_reduce(job, OP_ADD, cast(n, hit, DT_F32), axis_bit(1), false));
  }
  return sum;
}

static UOp *weigh(Node *n, UOp *count, const float *weights, int64_t grams) {
  Str mode = attr_str(n, "mode", "");
  bool idf = str_is(mode, "IDF");
  if (!idf && !str_is(mode, "TFIDF") && !str_is(mode, "TF"))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "unknown mode '" STR_FMT "'", STR_ARG(mode)));
  if (idf) count = smaller(n, count, num(n, count, 1));
  if (str_is(mode, "TF") || !weights) return count;
  Val *w = val_from_data(n->f, DT_F32, shape_make(&grams, 1),
                         arena_copy(&n->job->arena, weights, (size_t)grams * sizeof *weights));
  return mul(n, count, val_uop(n->f, w));
}

/* Counts in the pool's order to the result's columns: column c is number at[c] of them, or 0. */
static UOp *arrange(Node *n, UOp *counts, const Pool *p, int64_t first, int64_t total) {
  int64_t *at = arena_array(&n->job->arena, (size_t)p->width, sizeof *at);
  for (int64_t c = 0; c < p->width; c++) at[c] = -1;
  for (int64_t k = 0; k < total; k++) at[p->columns.at[first + k]] = k;
  Val *table = val_from_data(n->f, DT_I64, shape_make(&p->width, 1), at);
  return build_gather(n->job, counts, val_uop(n->f, table), 1);
}

static void op_tfidf(Node *n) {
  need_static(n);
  Job *job = n->job;
  Pool p = read_pool(n);
  UOp *x = node_u(n, 0), *y = NULL, *parts[MAX_GRAM];
  const OnnxAttribute *weights = attr_find(n, "weights", ONNX_ATTR_FLOATS);
  int64_t lo = attr_need_int(n, "min_gram_length"), hi = attr_need_int(n, "max_gram_length");
  int64_t skips = attr_need_int(n, "max_skip_count"), gram = 0, first = -1;
  size_t nparts = 0;
  bool flat = x->shape.n == 1;
  if (!x->shape.n || x->shape.n > 2 || !dtype_is_int(uop_dtype(x))) bad_shape(n, "items", x);
  if (lo < 1 || hi < lo || hi > MAX_GRAM || skips < 0 || skips > MAX_POOL ||
      (weights && weights->floats.n != p.columns.n))
    job_abort(job, FAIL(INVALID_ARGUMENT, "n-grams of %lld to %lld items, %lld skips",
                        (long long)lo, (long long)hi, (long long)skips));
  if (flat) x = build_unsqueeze(job, x, 0);
  x = cast(n, x, DT_I64);
  for (int64_t len = 1; len <= hi && len <= (int64_t)p.starts.n; len++) {
    bool last = len == (int64_t)p.starts.n;
    int64_t from = p.starts.at[len - 1], to = last ? (int64_t)p.items.n : p.starts.at[len];
    int64_t count = (to - from) / len;
    if ((to - from) % len || gram + count > (int64_t)p.columns.n)
      job_abort(job, FAIL(INVALID_ARGUMENT, "%lld pool items for n-grams of %lld",
                          (long long)(to - from), (long long)len));
    if (len >= lo && count) {
      UOp *c = occurrences(n, x, p.items.at + from, count, len, skips);
      parts[nparts++] = weigh(n, c, weights ? weights->floats.at + gram : NULL, count);
      if (first < 0) first = gram;
    }
    gram += count;
  }
  if (nparts) {
    UOp *all = build_cat(job, parts, nparts, 1);
    y = arrange(n, all, &p, first, all->shape.at[1]);
  } else {
    y = build_splat(job, uop_float(job, DT_F32, 0),
                    (Ints){(int64_t[]){x->shape.at[0], p.width}, 2});
  }
  node_out(n, 0, flat ? build_squeeze(job, y, 0) : y);
}

const OnnxOp onnx_text_ops[] = {
    {"", "TfIdfVectorizer", 9, 1, 1, op_tfidf},
    {0},
};
