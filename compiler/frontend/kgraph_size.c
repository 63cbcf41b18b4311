/* A size is computed when a node first uses it, with the sizes that it is made of: those are marked
 * from the back of the list, and computed from its front, so that depth costs no stack. A size that
 * is the value of a node becomes a VAR with a BIND, unless the value is an expression itself. */
#include "compiler/frontend/kgraph_size.h"

#include "compiler/frontend/elem.h"
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
const ViewMessage size_message = VIEW_TABLE(size_rows, GSize, "Size");

static const int64_t LIMIT = (int64_t)1 << 40;

void sizes_init(Sizes *s, Front *front, const GSize *at, size_t n, SizeNodeFn node, void *arg) {
  Arena *arena = &front->job->arena;
  *s = (Sizes){.front = front, .at = at, .n = n, .node = node, .arg = arg};
  s->state = arena_alloc(arena, n + 1);
  s->dim = arena_array(arena, n + 1, sizeof *s->dim);
}

static int64_t node_size(Sizes *s, size_t k, size_t user) {
  Job *job = s->front->job;
  const GSize *g = &s->at[k];
  int64_t min = g->min, max = g->max || g->min ? g->max : FRONT_DIM_MAX;
  if (g->node < 0 || g->node >= (int64_t)user)
    job_abort(job, FAIL(INVALID_ARGUMENT, "size %zu is node %lld, expected an earlier node", k,
                        (long long)g->node));
  UOp *u = s->node(s->arg, g->node);
  if (u->shape.n || !dtype_is_int(uop_dtype(u)))
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "size %zu is node %lld, %s of shape %s, expected an integer scalar", k,
                        (long long)g->node, dtype_info[u->dtype].name, shape_text(job, u->shape)));
  if (min < 0 || max < min || max > LIMIT)
    job_abort(job, FAIL(INVALID_ARGUMENT, "size %zu has the bounds [%lld, %lld]", k, (long long)min,
                        (long long)max));
  u = build_cast(job, u, DT_I64);
  UOp *known = front_elem(s->front, u, NULL);
  if (known && known->vmin >= min && known->vmax <= max) return dim_of(job, known);
  const char *what =
      arena_printf(&job->arena, "size %zu, the value of node %lld", k, (long long)g->node);
  return front_bind(s->front, u, min, max, what);
}

static int64_t quotient(Sizes *s, size_t k, int64_t a, int64_t b) {
  Job *job = s->front->job;
  if (!dim_le(job, 1, b))
    job_abort(job, FAIL(INVALID_ARGUMENT, "size %zu divides by %s, which may be less than 1", k,
                        dim_text(job, b)));
  return dim_floordiv(job, a, b);
}

static int64_t compute(Sizes *s, size_t k, size_t user) {
  Job *job = s->front->job;
  const GSize *g = &s->at[k];
  int64_t a = g->src.n ? s->dim[g->src.at[0]] : 0, b = g->src.n ? s->dim[g->src.at[1]] : 0, d;
  switch (g->op) {
  case KILN__V1__SIZE_OP__SIZE_CONST:
    if (g->value < -LIMIT || g->value > LIMIT)
      job_abort(job, FAIL(INVALID_ARGUMENT, "size %zu is %lld", k, (long long)g->value));
    return g->value;
  case KILN__V1__SIZE_OP__SIZE_DIM:
    if (front_find_dim(s->front, g->name, &d)) return d;
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "size %zu is the dimension '" STR_FMT "', which no parameter has", k,
                        STR_ARG(g->name)));
  case KILN__V1__SIZE_OP__SIZE_NODE: return node_size(s, k, user);
  case KILN__V1__SIZE_OP__SIZE_ADD: return dim_add(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_SUB: return dim_sub(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_MUL: return dim_mul(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_FLOORDIV: return quotient(s, k, a, b);
  case KILN__V1__SIZE_OP__SIZE_MOD: return dim_sub(job, a, dim_mul(job, quotient(s, k, a, b), b));
  case KILN__V1__SIZE_OP__SIZE_MIN: return dim_min(job, a, b);
  case KILN__V1__SIZE_OP__SIZE_MAX: return dim_max(job, a, b);
  default:
    job_abort(job, FAIL(UNIMPLEMENTED, "size %zu: op %lld is not known", k, (long long)g->op));
  }
}

/* The sizes that size k is made of are checked and wanted too. */
static void mark(Sizes *s, size_t k) {
  Job *job = s->front->job;
  const GSize *g = &s->at[k];
  size_t want = g->op >= KILN__V1__SIZE_OP__SIZE_ADD ? 2 : 0;
  if (g->src.n != want)
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "size %zu has %zu sources, expected %zu", k, g->src.n, want));
  for (size_t i = 0; i < want; i++) {
    int64_t from = g->src.at[i];
    if (from < 0 || from >= (int64_t)k)
      job_abort(job,
                FAIL(INVALID_ARGUMENT, "size %zu is made of size %lld, expected an earlier one", k,
                     (long long)from));
    if (!s->state[from]) s->state[from] = 1;
  }
}

int64_t sizes_get(Sizes *s, int64_t k, size_t user) {
  Job *job = s->front->job;
  if (k < 1 || k > (int64_t)s->n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "size %lld of %zu", (long long)k - 1, s->n));
  size_t root = (size_t)k - 1, first = root;
  if (s->state[root] == 2) return s->dim[root];
  s->state[root] = 1;
  for (size_t i = root + 1; i-- > 0;) {
    if (i % 4096 == 0) job_poll(job);
    if (s->state[i] != 1) continue;
    mark(s, i);
    first = i;
  }
  for (size_t i = first; i <= root; i++) {
    if (s->state[i] != 1) continue;
    s->dim[i] = compute(s, i, user);
    const char *why = dim_check(job, dim_uop(job, s->dim[i]));
    if (why) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "size %zu: %s", i, why));
    s->state[i] = 2;
  }
  return s->dim[root];
}
