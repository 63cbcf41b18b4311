/* Random tensor graphs: the plan, kernel by kernel, gives what the graph interpreter gives.
 *
 *   test_plan_random [graphs [first seed]] */
#include "plan_check.h"
#include "random_nodes.h"

/* Most graphs are tiny; one in eight is large enough for storing to pay. */
enum { MAX_NODES = 40, MAX_ELEMENTS = 600, MANY_ELEMENTS = 20000 };

static int graphs = 500;
static uint32_t first_seed = 1;

static bool large; /* the graph at hand */

static bool small(const UOp *u) {
  int64_t most = large ? MANY_ELEMENTS : MAX_ELEMENTS;
  return u->shape.n <= MAX_AXES && shape_numel(u->shape) <= most;
}

static void keep(Random *r, UOp *u) {
  if (shape_numel(u->shape) < 8 && below(r, 4)) return;
  if (small(u) && r->n < ROOM) r->node[r->n++] = u;
}

/* -- shapes ------------------------------------------------------------------------------------ */

static UOp *random_reshape(Random *r, UOp *x) {
  int64_t dims[MAX_AXES], left = shape_numel(x->shape);
  uint32_t n = 0, want = 1 + below(r, MAX_AXES);
  if (!left) return x;
  while (n + 1 < want) {
    int64_t d = 1 + below(r, 6);
    dims[n++] = left % d ? 1 : d;
    left /= dims[n - 1];
  }
  dims[n++] = left;
  return t_reshape(r->g, x, dims, n);
}

static UOp *random_expand(Random *r, UOp *x) {
  int64_t dims[MAX_AXES];
  for (uint32_t k = 0; k < x->shape.n; k++) {
    dims[k] = x->shape.at[k] == 1 ? 1 + below(r, 4) : x->shape.at[k];
  }
  return t_expand(r->g, x, dims, x->shape.n);
}

static UOp *random_pad(Random *r, UOp *x) {
  int64_t arg[2 * MAX_AXES];
  for (uint32_t k = 0; k < 2 * x->shape.n; k++) arg[k] = below(r, 2) ? 0 : below(r, 3);
  UOp *src[] = {x, uop_number(&r->job, (DType)x->dtype, (double)below(r, 2))};
  return uop_make(&r->job, OP_PAD, DT_VOID, arg_ints(arg, 2 * x->shape.n), src, 2);
}

static UOp *random_shrink(Random *r, UOp *x) {
  int64_t arg[2 * MAX_AXES];
  for (uint32_t k = 0; k < x->shape.n; k++) {
    int64_t d = x->shape.at[k];
    arg[2 * k] = d ? below(r, (uint32_t)d) : 0;
    arg[2 * k + 1] = arg[2 * k] + (d ? 1 + below(r, (uint32_t)(d - arg[2 * k])) : 0);
    if (below(r, 2)) arg[2 * k] = 0, arg[2 * k + 1] = d;
  }
  return t_int(r->g, OP_SHRINK, x, arg, 2 * x->shape.n);
}

static UOp *random_reduce(Random *r, UOp *x) {
  static const Op ops[] = {OP_ADD, OP_MAX, OP_MIN, OP_MUL, OP_ADD, OP_ADD};
  int64_t axes[MAX_AXES];
  uint32_t n = 0;
  Op op = ops[below(r, 6)];
  if (dtype_is_bool((DType)x->dtype)) op = below(r, 2) ? OP_MAX : OP_MIN;
  for (uint32_t k = 0; k < x->shape.n; k++) {
    if (!below(r, 3)) axes[n++] = k;
  }
  Ints before = x->shape;
  x = t_reduce(r->g, op, x, axes, n);
  if (!below(r, 3)) return random_expand(r, x);
  return below(r, 2) ? t_expand(r->g, x, before.at, before.n) : x;
}

/* -- values ------------------------------------------------------------------------------------ */

static UOp *partner(Random *r, UOp *x, DType dtype) {
  for (int tries = 0; tries < 6; tries++) {
    UOp *y = fit(r, pick(r), x);
    if (y) return uop_cast(&r->job, y, dtype);
  }
  return uop_number(&r->job, dtype, (double)below(r, 5) - 2);
}

static UOp *random_binary(Random *r, UOp *x) {
  static const Op any[] = {OP_MAX, OP_MIN, OP_CMPLT, OP_CMPEQ, OP_CMPNE, OP_CMPLE};
  static const Op numbers[] = {OP_ADD, OP_SUB, OP_MUL, OP_ADD, OP_MUL, OP_MAX};
  bool arithmetic = !dtype_is_bool((DType)x->dtype) && below(r, 3);
  Op op = arithmetic ? numbers[below(r, 6)] : any[below(r, 6)];
  UOp *y = partner(r, x, (DType)x->dtype);
  return below(r, 2) ? uop2(&r->job, op, x, y) : uop2(&r->job, op, y, x);
}

static UOp *random_unary(Random *r, UOp *x) {
  static const Op floats[] = {OP_NEG, OP_ABS, OP_EXP, OP_SIN, OP_FLOOR, OP_TANH};
  if (dtype_is_float((DType)x->dtype)) return uop1(&r->job, floats[below(r, 6)], x);
  return dtype_is_bool((DType)x->dtype) ? x : uop1(&r->job, OP_NEG, x);
}

static UOp *random_where(Random *r, UOp *x) {
  UOp *c = partner(r, x, DT_BOOL), *y = partner(r, x, (DType)x->dtype);
  return uop3(&r->job, OP_WHERE, c, x, y);
}

static UOp *random_cast(Random *r, UOp *x) {
  static const DType to[] = {DT_F32, DT_I32, DT_I64, DT_BOOL, DT_U8, DT_F64};
  return uop_cast(&r->job, x, to[below(r, 6)]);
}

/* Integers in [-1, n] that meet now and then: some tensor's, or of the coordinates. */
static UOp *random_places(Random *r, UOp *like, int64_t n) {
  UOp *at = like;
  if (!dtype_is_int((DType)like->dtype)) {
    at = uop_int(&r->job, DT_I64, below(r, 9));
    for (uint32_t k = 0; k < like->shape.n; k++) {
      Arg arg = arg_both(k, like->shape.at, like->shape.n);
      UOp *i = uop_make(&r->job, OP_IOTA, DT_I64, arg, NULL, 0);
      at = uop2(&r->job, OP_ADD, uop2(&r->job, OP_MUL, i, uop_int(&r->job, DT_I64, 5)), at);
    }
  }
  at = uop2(&r->job, OP_FLOORMOD, uop_cast(&r->job, at, DT_I64), uop_int(&r->job, DT_I64, n + 2));
  return uop2(&r->job, OP_SUB, at, uop_int(&r->job, DT_I64, 1));
}

static UOp *random_scatter(Random *r, UOp *x) {
  static const Op ops[] = {OP_STORE, OP_ADD, OP_MAX, OP_MIN, OP_MUL};
  Op op = ops[below(r, dtype_is_int((DType)x->dtype) ? 5 : x->dtype == DT_BOOL ? 1 : 4)];
  UOp *y = pick(r);
  int64_t upto[2 * MAX_AXES], one[2 * MAX_AXES];
  if (!x->shape.n) return x;
  if (y->dtype != x->dtype || y->shape.n != x->shape.n) y = random_unary(r, x);
  if (y->dtype != x->dtype || y->shape.n != x->shape.n) return x;
  uint32_t axis = below(r, x->shape.n);
  for (uint32_t k = 0; k < x->shape.n; k++) {
    int64_t n = y->shape.at[k], most = x->shape.at[k];
    upto[2 * k] = one[2 * k] = 0;
    upto[2 * k + 1] = k == axis || n <= most ? n : most;
    one[2 * k + 1] = k != axis && upto[2 * k + 1] ? 1 : upto[2 * k + 1];
  }
  y = uop_make(&r->job, OP_SHRINK, DT_VOID, arg_ints(upto, 2 * x->shape.n), &y, 1);
  UOp *at = random_places(r, y, x->shape.at[axis]);
  if (below(r, 2))
    at = uop_make(&r->job, OP_SHRINK, DT_VOID, arg_ints(one, 2 * x->shape.n), &at, 1);
  return uop_make(&r->job, OP_SCATTER, DT_VOID, arg_both(op, &(int64_t){axis}, 1),
                  (UOp *[]){x, at, y}, 3);
}

static UOp *random_scan(Random *r, UOp *x) {
  static const Op ops[] = {OP_ADD, OP_MAX, OP_MIN, OP_MUL};
  if (!x->shape.n || x->dtype == DT_BOOL) return x;
  Op op = ops[below(r, dtype_is_int((DType)x->dtype) ? 4 : 3)];
  Arg arg = arg_both(op, &(int64_t){below(r, x->shape.n)}, 1);
  return uop_make(&r->job, OP_SCAN, DT_VOID, arg, &x, 1);
}

static UOp *random_matmul(Random *r, UOp *x) {
  UOp *y = pick(r);
  if (x->shape.n != 2 || y->shape.n != 2 || !dtype_is_float((DType)x->dtype)) return x;
  int64_t m = x->shape.at[0], k = x->shape.at[1], n = y->shape.at[1];
  if (y->shape.at[0] != k) y = t_permute(r->g, y, DIMS(1, 0)), n = y->shape.at[1];
  if (y->shape.at[0] != k) return x;
  y = uop_cast(&r->job, t_permute(r->g, y, DIMS(1, 0)), (DType)x->dtype);
  UOp *a = t_expand(r->g, t_reshape(r->g, x, DIMS(m, 1, k)), DIMS(m, n, k));
  UOp *b = t_expand(r->g, t_reshape(r->g, y, DIMS(1, n, k)), DIMS(m, n, k));
  UOp *c = t_reduce(r->g, OP_ADD, uop2(&r->job, OP_MUL, a, b), DIMS(2));
  return t_reshape(r->g, c, DIMS(m, n));
}

/* -- the property ------------------------------------------------------------------------------ */

static void grow(Random *r) {
  static UOp *(*const makers[])(Random *, UOp *) = {
      random_reshape, random_reshape, random_permute, random_expand,    random_pad,
      random_shrink,  random_window,  random_flip,    random_reduce,    random_reduce,
      random_binary,  random_binary,  random_binary,  random_unary,     random_where,
      random_cast,    random_cat,     random_cat,     random_gather,    random_matmul,
      random_iota,    random_stored,  random_matmul,  random_normalise, random_normalise,
      random_scatter, random_scatter, random_scan};
  size_t want = 4 + below(r, MAX_NODES - 4);
  for (size_t k = 0; k < want; k++) {
    UOp *x = below(r, 2) ? r->node[r->n - 1] : pick(r);
    keep(r, makers[below(r, sizeof makers / sizeof *makers)](r, x));
  }
}

static void make_graph(Random *r) {
  uint32_t inputs = 1 + below(r, 3), outputs = 1 + below(r, 3);
  static const DType dtypes[] = {DT_F32, DT_F32, DT_F32, DT_I64, DT_I32};
  for (uint32_t k = 0; k < inputs; k++) {
    int64_t dims[3];
    uint32_t rank = 1 + below(r, 3), most = large ? 24 : 6;
    if (k == 0) rank = 3;
    for (uint32_t a = 0; a < rank; a++) dims[a] = below(r, 60) ? 2 + below(r, most) : below(r, 2);
    r->node[r->n++] = graph_param(r->g, SLOT_INPUT, dtypes[below(r, 5)], dims, rank);
  }
  grow(r);
  for (uint32_t k = 0; k < outputs; k++) {
    graph_output(r->g, k ? pick(r) : r->node[r->n - 1]);
  }
}

static void plans_equal_graphs(void **state) {
  (void)state;
  Random *r = calloc(1, sizeof *r);
  Graph *g = calloc(1, sizeof *g);
  assert_true(r && g);
  for (int k = 0; k < graphs; k++) {
    uint32_t seed = first_seed + (uint32_t)k;
    job_init(&r->job, 0);
    graph_init(g, &r->job);
    r->g = g;
    r->n = 0;
    large = seed % 8 == 0;
    r->seed = seed * 2654435761u;
    make_graph(r);
    g->seed = seed;
    Status st = job_run(&r->job, build_in_job, g);
    bool ok = !st && plan_equals_graph(g, 1e-4);
    if (!ok) {
      StrBuf text = {0};
      uop_print(&r->job, g->tg.sink, &text);
      printf("seed %u\n%s", seed, text.ptr);
      strbuf_deinit(&text);
      if (!st) show_plan(g);
      check(st);
      fail();
    }
    job_deinit(&r->job);
  }
  free(g);
  free(r);
}

int main(int argc, char **argv) {
  if (argc > 1) graphs = atoi(argv[1]);
  if (argc > 2) first_seed = (uint32_t)atoi(argv[2]);
  const struct CMUnitTest tests[] = {cmocka_unit_test(plans_equal_graphs)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
