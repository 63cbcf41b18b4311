/* Entries of Graph.sizes to dims. A source is an earlier entry, so an explicit stack that goes from
 * an entry to its first unknown source ends. Every value stays within 2^48 for all sizes within
 * their bounds, which is what the arithmetic of dims needs. */
#include "compiler/frontend/kgraph_size.h"

#include "base/vec.h"
#include "kiln/v1/graph.pb-c.h"

static const ViewField size_rows[] = {
    VIEW_ROW(GSize, 1, VIEW_INT, false, op, NULL),
    VIEW_ROW(GSize, 2, VIEW_INT, true, src, NULL),
    VIEW_ROW(GSize, 3, VIEW_SINT, false, value, NULL),
    VIEW_ROW(GSize, 4, VIEW_STR, false, name, NULL),
    VIEW_ROW(GSize, 5, VIEW_INT, false, node, NULL),
    VIEW_ROW(GSize, 6, VIEW_INT, false, min, NULL),
    VIEW_ROW(GSize, 7, VIEW_INT, false, max, NULL),
};
const ViewMessage kgraph_size_message = VIEW_TABLE(size_rows, GSize, "Size");

static _Noreturn void bad(GraphSizes *s, size_t k, const char *what) {
  job_abort(s->front->job, FAIL(INVALID_ARGUMENT, "size %zu: %s", k, what));
}

static bool two_sources(int64_t op) {
  return op >= KILN__V1__SIZE_OP__SIZE_ADD && op <= KILN__V1__SIZE_OP__SIZE_MAX;
}

static uint64_t magnitude(int64_t d) {
  int64_t low = dim_low(d), high = dim_high(d);
  uint64_t below = low < 0 ? 0 - (uint64_t)low : 0, above = high > 0 ? (uint64_t)high : 0;
  return below > above ? below : above;
}

static bool product_fits(int64_t a, int64_t b) {
  uint64_t most;
  return !__builtin_mul_overflow(magnitude(a), magnitude(b), &most) && most <= (uint64_t)MAX_NUMEL;
}

static int64_t combined(GraphSizes *s, size_t k, int64_t a, int64_t b) {
  Job *job = s->front->job;
  int64_t op = s->at[k].op;
  bool divides = op == KILN__V1__SIZE_OP__SIZE_FLOORDIV || op == KILN__V1__SIZE_OP__SIZE_MOD;
  if (divides && !dim_le(job, 1, b))
    bad(s, k, arena_printf(&job->arena, "the divisor %s may be less than 1", dim_text(job, b)));
  if (op == KILN__V1__SIZE_OP__SIZE_MUL && !product_fits(a, b))
    bad(s, k, "a product that may be over 2^48");
  switch (op) {
  case KILN__V1__SIZE_OP__SIZE_ADD: return dim_add(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_SUB: return dim_sub(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_MUL: return dim_mul(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_FLOORDIV: return dim_floordiv(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_MOD:
    return dim_sub(job, a, dim_mul(job, b, dim_floordiv(job, a, b)));
  case KILN__V1__SIZE_OP__SIZE_MIN: return dim_min(job, a, b);
  default: return dim_max(job, a, b);
  }
}

static int64_t computed(GraphSizes *s, size_t k) {
  const GSize *z = &s->at[k];
  UOp *u = s->node_value(s->ctx, z->node);
  bool bounds = z->min || z->max;
  if (u->shape.n || !dtype_is_int(uop_dtype(u)))
    bad(s, k,
        arena_printf(&s->front->job->arena, "node %lld is %s%s, expected an integer scalar",
                     (long long)z->node, dtype_info[u->dtype].name,
                     shape_text(s->front->job, u->shape)));
  if (z->min < 0 || z->max < z->min || z->max > MAX_NUMEL) bad(s, k, "bad bounds");
  const char *what =
      arena_printf(&s->front->job->arena, "the value of node %lld", (long long)z->node);
  return front_bind(s->front, u, bounds ? z->min : 0, bounds ? z->max : FRONT_DIM_MAX, what);
}

/* An entry whose sources are known. */
static int64_t convert(GraphSizes *s, size_t k) {
  const GSize *z = &s->at[k];
  Job *job = s->front->job;
  int64_t d = 0;
  if (z->op == KILN__V1__SIZE_OP__SIZE_CONST) {
    d = z->value;
    if (!dim_is_static(d)) d = INT64_MAX; /* refused below */
  } else if (z->op == KILN__V1__SIZE_OP__SIZE_DIM) {
    if (!front_find_dim(s->front, z->name, &d))
      bad(s, k,
          arena_printf(&job->arena, "no parameter has a dimension '" STR_FMT "'",
                       STR_ARG(z->name)));
  } else if (z->op == KILN__V1__SIZE_OP__SIZE_NODE) {
    d = computed(s, k);
  } else if (two_sources(z->op)) {
    d = combined(s, k, s->dims[z->src.at[0]], s->dims[z->src.at[1]]);
  } else {
    bad(s, k, "an unknown op");
  }
  if (magnitude(d) > (uint64_t)MAX_NUMEL) bad(s, k, "a number that may be over 2^48");
  const char *why = dim_is_static(d) ? NULL : dim_check(dim_node(d));
  if (why) bad(s, k, why);
  return d;
}

/* An unknown source of entry k, else k itself. */
static size_t unknown_source(GraphSizes *s, size_t k) {
  const GSize *z = &s->at[k];
  if (!two_sources(z->op)) return k;
  if (z->src.n != 2) bad(s, k, "expected two sources");
  for (size_t i = 0; i < 2; i++) {
    int64_t from = z->src.at[i];
    if (from < 0 || from >= (int64_t)k) bad(s, k, "a source that is not an earlier size");
    if (!s->known[from]) return (size_t)from;
  }
  return k;
}

int64_t kgraph_size(GraphSizes *s, int64_t want) {
  Job *job = s->front->job;
  struct {
    size_t *at;
    size_t len, cap;
  } stack = {0};
  if (want < 0 || want >= (int64_t)s->n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "size %lld of %zu", (long long)want, s->n));
  avec_push(&job->arena, &stack, (size_t)want);
  while (stack.len) {
    size_t k = stack.at[stack.len - 1], from = s->known[k] ? k : unknown_source(s, k);
    if (from != k) {
      avec_push(&job->arena, &stack, from);
      continue;
    }
    if (!s->known[k]) s->dims[k] = convert(s, k);
    s->known[k] = true;
    stack.len--;
    job_poll(job);
  }
  return s->dims[want];
}
