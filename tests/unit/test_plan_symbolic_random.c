/* Random tensor graphs with symbolic sizes: the plan, step by step, gives what the interpreter
 * gives, at several values of the VARs, one plan for all of them.
 *
 *   test_plan_symbolic_random [graphs [first seed]] */
#include "random_nodes.h"
#include "symbolic_check.h"

enum { MAX_NODES = 30, MAX_ELEMENTS = 900, INPUT_VARS = 3, VALUES = 4 };

static int graphs = 400;
static uint32_t first_seed = 1;

/* The values tried; n2 is a multiple of 4. The first is used to bound what is built. */
static const int64_t values[VALUES][MAX_VARS] = {{3, 5, 8}, {1, 1, 4}, {4, 2, 12}, {2, 7, 4}};

static Sized sized; /* the graph at hand */

/* The bound VAR counts as large as it gets. */
static int64_t most_elements(Ints shape) {
  int64_t most = 0;
  for (int k = 0; k < VALUES; k++) {
    int64_t at[MAX_VARS];
    memcpy(at, values[k], sizeof at);
    at[INPUT_VARS] = 6;
    int64_t n = numel_at(shape, at);
    most = n > most ? n : most;
  }
  return most;
}

static void keep(Random *r, UOp *u) {
  bool small = u->shape.n <= MAX_AXES && most_elements(u->shape) <= MAX_ELEMENTS;
  if (small && r->n < 2 * MAX_NODES) r->node[r->n++] = u;
}

/* A size: a number, a VAR, or one of the sizes around. */
static int64_t random_dim(Random *r) {
  if (below(r, 2)) return 1 + below(r, 4);
  if (below(r, 3)) return sized.dim[below(r, INPUT_VARS)];
  UOp *u = pick(r);
  return u->shape.n ? u->shape.at[below(r, u->shape.n)] : 2;
}

/* -- shapes ------------------------------------------------------------------------------------ */

/* Axes merged, or one cut by a divisor. */
static UOp *random_reshape(Random *r, UOp *x) {
  int64_t dims[MAX_AXES + 1];
  uint32_t n = 0, at = x->shape.n ? below(r, x->shape.n) : 0;
  bool merge = below(r, 2) && at + 1 < x->shape.n;
  for (uint32_t k = 0; k < x->shape.n; k++) {
    int64_t d = x->shape.at[k], by, times;
    if (merge && k == at + 1) {
      dims[n - 1] = dim_mul(&r->job, dims[n - 1], d);
    } else {
      dims[n++] = d;
    }
    if (merge || k != at || x->shape.n == MAX_AXES) continue;
    by = below(r, 2) ? 2 + below(r, 3) : sized.dim[below(r, INPUT_VARS)];
    if (!dim_divides(&r->job, d, by, &times)) continue;
    bool outer = below(r, 2);
    dims[n - 1] = outer ? by : times;
    dims[n++] = outer ? times : by;
  }
  return t_reshape(r->g, x, dims, n);
}

/* Everything flat, or a flat tensor in any shape of the same size. */
static UOp *random_flatten(Random *r, UOp *x) {
  UOp *y = pick(r);
  bool same = dims_numel(&r->job, x->shape) == dims_numel(&r->job, y->shape);
  if (same) return t_reshape(r->g, x, y->shape.at, y->shape.n);
  return t_reshape(r->g, x, DIMS(dims_numel(&r->job, x->shape)));
}

static UOp *random_expand(Random *r, UOp *x) {
  int64_t dims[MAX_AXES];
  if (x->shape.n && x->shape.n < MAX_AXES && below(r, 2)) { /* a new axis */
    memcpy(dims + 1, x->shape.at, x->shape.n * sizeof *dims);
    dims[0] = 1;
    x = t_reshape(r->g, x, dims, x->shape.n + 1);
  }
  for (uint32_t k = 0; k < x->shape.n; k++) {
    dims[k] = x->shape.at[k] == 1 ? random_dim(r) : x->shape.at[k];
  }
  return t_expand(r->g, x, dims, x->shape.n);
}

static UOp *random_pad(Random *r, UOp *x) {
  int64_t arg[2 * MAX_AXES];
  for (uint32_t k = 0; k < 2 * x->shape.n; k++) {
    arg[k] = below(r, 2) ? 0 : below(r, 4) ? below(r, 3) : sized.dim[below(r, INPUT_VARS)];
  }
  UOp *src[] = {x, uop_number(&r->job, (DType)x->dtype, (double)below(r, 2))};
  return uop_make(&r->job, OP_PAD, DT_VOID, arg_ints(arg, 2 * x->shape.n), src, 2);
}

/* What is proven to lie inside; else the first or the last elements, as many as there are. */
static UOp *random_shrink(Random *r, UOp *x) {
  int64_t arg[2 * MAX_AXES];
  Job *job = &r->job;
  for (uint32_t k = 0; k < x->shape.n; k++) {
    int64_t d = x->shape.at[k], cut = below(r, 3) ? (int64_t)below(r, 3) : random_dim(r);
    arg[2 * k] = 0, arg[2 * k + 1] = d;
    if (below(r, 2)) continue;
    if (!dim_le(job, cut, d)) cut = dim_min(job, cut, d);
    if (below(r, 2)) {
      arg[2 * k] = cut;
    } else {
      arg[2 * k + 1] = below(r, 2) ? cut : dim_sub(job, d, cut);
    }
  }
  return t_int(r->g, OP_SHRINK, x, arg, 2 * x->shape.n);
}

static UOp *random_reduce(Random *r, UOp *x) {
  static const Op ops[] = {OP_ADD, OP_MAX, OP_MIN, OP_ADD};
  int64_t axes[MAX_AXES];
  uint32_t n = 0;
  Op op = dtype_is_bool((DType)x->dtype) ? OP_MAX : ops[below(r, 4)];
  for (uint32_t k = 0; k < x->shape.n; k++) {
    if (!below(r, 3)) axes[n++] = k;
  }
  Ints before = x->shape;
  x = t_reduce(r->g, op, x, axes, n);
  return below(r, 2) ? t_expand(r->g, x, before.at, before.n) : x;
}

/* -- values ------------------------------------------------------------------------------------ */

static UOp *partner(Random *r, UOp *x, DType dtype) {
  for (int tries = 0; tries < 6; tries++) {
    UOp *y = fit(r, pick(r), x);
    if (y) return uop_cast(&r->job, y, dtype);
  }
  if (below(r, 3)) return uop_number(&r->job, dtype, (double)below(r, 5) - 2);
  return uop_cast(&r->job, dim_uop(&r->job, random_dim(r)), dtype); /* a size as a value */
}

static UOp *random_binary(Random *r, UOp *x) {
  static const Op any[] = {OP_MAX, OP_MIN, OP_CMPLT, OP_CMPEQ};
  static const Op numbers[] = {OP_ADD, OP_SUB, OP_MUL, OP_ADD};
  bool arithmetic = !dtype_is_bool((DType)x->dtype) && below(r, 3);
  Op op = arithmetic ? numbers[below(r, 4)] : any[below(r, 4)];
  UOp *y = partner(r, x, (DType)x->dtype);
  return below(r, 2) ? uop2(&r->job, op, x, y) : uop2(&r->job, op, y, x);
}

static UOp *random_unary(Random *r, UOp *x) {
  if (dtype_is_float((DType)x->dtype)) return uop1(&r->job, below(r, 2) ? OP_SIN : OP_ABS, x);
  return dtype_is_bool((DType)x->dtype) ? x : uop1(&r->job, OP_NEG, x);
}

static UOp *random_where(Random *r, UOp *x) {
  return uop3(&r->job, OP_WHERE, partner(r, x, DT_BOOL), x, partner(r, x, (DType)x->dtype));
}

static UOp *random_cast(Random *r, UOp *x) {
  static const DType to[] = {DT_F32, DT_I64, DT_I32, DT_BOOL};
  return uop_cast(&r->job, x, to[below(r, 4)]);
}

static UOp *random_matmul(Random *r, UOp *x) {
  UOp *y = pick(r);
  Graph *g = r->g;
  if (x->shape.n != 2 || y->shape.n != 2 || !dtype_is_float((DType)x->dtype)) return x;
  int64_t m = x->shape.at[0], k = x->shape.at[1], n = y->shape.at[0];
  if (y->shape.at[1] != k) return x;
  y = uop_cast(&r->job, y, (DType)x->dtype);
  UOp *a = t_expand(g, t_reshape(g, x, DIMS(m, 1, k)), DIMS(m, n, k));
  UOp *b = t_expand(g, t_reshape(g, y, DIMS(1, n, k)), DIMS(m, n, k));
  UOp *c = t_reduce(g, OP_ADD, uop2(&r->job, OP_MUL, a, b), DIMS(2));
  return t_reshape(g, c, DIMS(m, n));
}

/* -- the property ------------------------------------------------------------------------------ */

static void grow(Random *r, size_t want) {
  static UOp *(*const makers[])(Random *, UOp *) = {
      random_reshape, random_reshape, random_flatten,  random_permute, random_expand, random_expand,
      random_pad,     random_shrink,  random_shrink,   random_window,  random_flip,   random_reduce,
      random_reduce,  random_binary,  random_binary,   random_binary,  random_unary,  random_where,
      random_cast,    random_cat,     random_cat,      random_gather,  random_matmul, random_iota,
      random_stored,  random_matmul,  random_normalise};
  for (size_t k = 0; k < want; k++) {
    UOp *x = below(r, 2) ? r->node[r->n - 1] : pick(r);
    keep(r, makers[below(r, sizeof makers / sizeof *makers)](r, x));
  }
}

/* A size between 0 and 6 out of a tensor, and a tensor of that size. */
static void bind_size(Random *r) {
  Job *job = &r->job;
  UOp *x = uop_cast(job, pick(r), DT_I64);
  int64_t axes[MAX_AXES];
  for (uint32_t k = 0; k < x->shape.n; k++) axes[k] = k;
  UOp *v = t_reshape(r->g, t_reduce(r->g, OP_MAX, x, axes, x->shape.n), NULL, 0);
  v = uop2(job, OP_MIN, uop2(job, OP_MAX, v, uop_int(job, DT_I64, 0)), uop_int(job, DT_I64, 6));
  int64_t n = sized_var(&sized, VAR_BOUND, 0, 6, 1);
  sized_bind(&sized, sized.g.tg.nvars - 1, v);
  keep(r, uop_make(job, OP_IOTA, DT_I64, arg_both(0, &n, 1), NULL, 0));
  int64_t dims[2] = {n, sized.dim[below(r, INPUT_VARS)]};
  keep(r, uop_make(job, OP_IOTA, DT_F32, arg_both(below(r, 2), dims, 2), NULL, 0));
}

static void make_graph(Random *r) {
  static const DType dtypes[] = {DT_F32, DT_F32, DT_F32, DT_I64, DT_I32};
  uint32_t inputs = 1 + below(r, 3), outputs = 1 + below(r, 3);
  sized_var(&sized, VAR_INPUT, 1, 4, 1);
  sized_var(&sized, VAR_INPUT, 1, 65536, 1);
  sized_var(&sized, VAR_INPUT, 4, 4096, 4);
  for (uint32_t k = 0; k < inputs; k++) {
    int64_t dims[3];
    uint32_t rank = k ? 1 + below(r, 3) : 3;
    for (uint32_t a = 0; a < rank; a++) {
      dims[a] = below(r, 3) ? sized.dim[below(r, INPUT_VARS)] : 1 + below(r, 6);
    }
    r->node[r->n++] = graph_param(r->g, SLOT_INPUT, dtypes[below(r, 5)], dims, rank);
  }
  grow(r, 3 + below(r, MAX_NODES / 2));
  if (!below(r, 4)) bind_size(r);
  grow(r, 1 + below(r, MAX_NODES / 2));
  for (uint32_t k = 0; k < outputs; k++) graph_output(r->g, k ? pick(r) : r->node[r->n - 1]);
  sized_finish(&sized);
}

static bool try_graph(Random *r, uint32_t seed) {
  sized_init(&sized, &r->job);
  r->g = &sized.g;
  r->n = 0;
  r->seed = seed * 2654435761u;
  make_graph(r);
  Status st = job_run(&r->job, build_in_job, r->g);
  bool ok = !st;
  for (int k = 0; ok && k < VALUES; k++) {
    sized.g.seed = seed;
    ok = sized_equals(&sized, values[k], 1e-4);
    if (!ok) printf("at %d %d %d\n", (int)values[k][0], (int)values[k][1], (int)values[k][2]);
  }
  if (ok) return true;
  StrBuf text = {0};
  uop_print(&r->job, sized.g.tg.sink, &text);
  printf("seed %u\n%s", seed, text.ptr);
  strbuf_deinit(&text);
  if (!st) show_plan(r->g);
  check(st);
  return false;
}

static void plans_equal_graphs(void **state) {
  (void)state;
  Random *r = calloc(1, sizeof *r);
  assert_non_null(r);
  for (int k = 0; k < graphs; k++) {
    job_init(&r->job, 0);
    if (!try_graph(r, first_seed + (uint32_t)k)) fail();
    job_deinit(&r->job);
  }
  free(r);
}

int main(int argc, char **argv) {
  if (argc > 1) graphs = atoi(argv[1]);
  if (argc > 2) first_seed = (uint32_t)atoi(argv[2]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(plans_equal_graphs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
