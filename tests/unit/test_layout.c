/* Convolutions of all kinds, in chains with what stands between them, as plans over blocked
 * channels, against the interpreter on the graph as it was built. */
#include "plan_check.h"

#include "compiler/frontend/build_nn.h"
#include "compiler/passes/conv.h"

static Job job;
static Graph graph;
static uint32_t seed;

static const Target vectors = {.kind = "cpu",
                               .threads = 2,
                               .memory_bytes = (uint64_t)1 << 40,
                               .vector_bytes = 16,
                               .vector_registers = 16,
                               .l1_bytes = 32 << 10,
                               .l2_bytes = 1 << 20,
                               .l3_bytes = 8 << 20};

static int setup(void **state) {
  (void)state;
  seed = 1;
  return 0;
}

static void begin(void) {
  job_init(&job, 0);
  graph_init(&graph, &job);
  graph.seed = seed;
}

static void plan_in_job(Job *j, void *arg) {
  Graph *g = arg;
  plan_build(j, &g->tg, &vectors, &g->plan);
}

/* How many calls write a value that only once calls read or that is kept. */
static void finish(UOp *out, UOp *value, size_t *once, size_t *calls) {
  graph.stores[0] = uop2(&job, OP_STORE, out, value);
  graph.tg.sink = uop_make(&job, OP_SINK, DT_VOID, arg_none(), graph.stores, 1);
  check(job_run(&job, plan_in_job, &graph));
  *once = graph.plan.nonce, *calls = graph.plan.ncalls;
  if (getenv("KILN_SHOW")) show_plan(&graph);
  assert_true(plan_equals_graph(&graph, 1e-4));
}

static UOp *weight(int64_t a, int64_t b, int64_t c, int64_t d) {
  return graph_param(&graph, SLOT_WEIGHT, DT_F32, DIMS(a, b, c, d));
}
static UOp *relu(UOp *x) { return uop2(&job, OP_MAX, x, t_f32(&graph, 0)); }

static int64_t pick(int64_t lo, int64_t hi) {
  return lo + (int64_t)(next_random(&seed) % (uint32_t)(hi - lo + 1));
}

static int64_t out_size(int64_t in, const ConvSpec *s, size_t d, int64_t k) {
  return (in + s->lo[d] + s->hi[d] - s->dilation[d] * (k - 1) - 1) / s->stride[d] + 1;
}

static UOp *conv3(UOp *x, int64_t k, int64_t stride) {
  ConvSpec s = {.spatial = 2, .groups = 1, .lo = {1, 1}, .hi = {1, 1}};
  s.stride[0] = s.stride[1] = stride, s.dilation[0] = s.dilation[1] = 1;
  return build_conv(&job, x, weight(k, x->shape.at[1], 3, 3), NULL, &s);
}
static UOp *conv1(UOp *x, int64_t k) {
  ConvSpec s = {.spatial = 2, .groups = 1, .stride = {1, 1}, .dilation = {1, 1}};
  return build_conv(&job, x, weight(k, x->shape.at[1], 1, 1), NULL, &s);
}

/* One convolution of random shape behind and before others, which make blocks worth their while. */
static void convolutions_of_all_kinds(void **state) {
  (void)state;
  size_t blocked = 0, once, calls;
  for (int round = 0; round < 60; round++) {
    begin();
    int64_t g = pick(0, 3) ? 1 : 4 * pick(1, 2), each = g > 1 ? pick(1, 2) : 0;
    int64_t c = each == 1 ? g : g > 1 ? 2 * g : 4 * pick(1, 4) - (pick(0, 5) ? 0 : 1);
    int64_t k = each == 1 ? g : g > 1 ? g : 4 * pick(1, 4), h = pick(4, 9), w = pick(4, 9);
    int64_t kh = pick(1, 3), kw = pick(1, 3), n = pick(1, 2);
    ConvSpec s = {.spatial = 2, .groups = g};
    for (int d = 0; d < 2; d++) {
      s.stride[d] = pick(1, 2), s.dilation[d] = pick(1, 3) > 2 ? 2 : 1;
      s.lo[d] = pick(0, 2), s.hi[d] = pick(0, 2);
    }
    if (out_size(h, &s, 0, kh) < 1 || out_size(w, &s, 1, kw) < 1) s.dilation[0] = s.dilation[1] = 1;
    int64_t oh = out_size(h, &s, 0, kh), ow = out_size(w, &s, 1, kw);
    UOp *x = graph_input(&graph, DIMS(n, 16, h, w));
    UOp *out = graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(n, 16, oh, ow));
    x = conv3(conv3(x, 16, 1), c, 1);
    UOp *y = build_conv(&job, x, weight(k, c / g, kh, kw), NULL, &s);
    finish(out, conv3(relu(y), 16, 1), &once, &calls);
    blocked += once > 3;
    job_deinit(&job);
  }
  assert_in_range(blocked, 15, 55);
}

static void conv_match_sees_what_it_is(void **state) {
  (void)state;
  begin();
  ConvSpec s = {.spatial = 2, .groups = 1, .stride = {2, 1}, .dilation = {1, 2}};
  s.lo[0] = 1, s.hi[1] = 3;
  UOp *x = graph_input(&graph, DIMS(2, 6, 9, 11)), *w = weight(5, 6, 3, 2);
  UOp *y = build_conv(&job, x, w, NULL, &s);
  while (y->op != OP_REDUCE) y = y->src[0];
  Conv c;
  assert_true(conv_match(&job, y, &c));
  assert_ptr_equal(c.x, x);
  assert_ptr_equal(c.w, w);
  assert_true(c.batch == 2 && c.channels == 6 && c.filters == 5 && c.groups == 1);
  assert_true(c.kernel[0] == 3 && c.kernel[1] == 2 && c.stride[0] == 2 && c.stride[1] == 1);
  assert_true(c.dilation[1] == 2 && c.lo[0] == 1 && c.lo[1] == 0 && c.hi[1] == 3);
  assert_true(c.in[0] == 9 && c.in[1] == 11 && c.out[0] == 4 && c.out[1] == 12);
  job_deinit(&job);
}

/* A matrix product, and a product of equal tensors, are no convolutions. */
static void others_do_not_match(void **state) {
  (void)state;
  begin();
  Conv c;
  UOp *x = graph_input(&graph, DIMS(4, 4, 4, 4)), *y = graph_input(&graph, DIMS(4, 4, 4, 4));
  UOp *sum = t_reduce(&graph, OP_ADD, uop2(&job, OP_MUL, x, y), DIMS(1, 2, 3));
  assert_false(conv_match(&job, sum, &c));
  UOp *a = graph_input(&graph, DIMS(5, 6, 1)), *b = graph_input(&graph, DIMS(1, 6, 7));
  a = t_expand(&graph, a, DIMS(5, 6, 7)), b = t_expand(&graph, b, DIMS(5, 6, 7));
  assert_false(conv_match(&job, t_reduce(&graph, OP_ADD, uop2(&job, OP_MUL, a, b), DIMS(1)), &c));
  job_deinit(&job);
}

static UOp *max_pool(UOp *x) {
  UOp *low = t_f32(&graph, -INFINITY), *src[] = {x, low};
  x = uop_make(&job, OP_PAD, DT_VOID, arg_ints(DIMS(0, 0, 0, 0, 1, 0, 1, 0)), src, 2);
  x = t_int(&graph, OP_WINDOW, x, DIMS(2, 3, 2, 1));
  x = t_int(&graph, OP_WINDOW, x, DIMS(4, 3, 2, 1));
  UOp *y = t_reduce(&graph, OP_MAX, x, DIMS(3, 5));
  return t_reshape(&graph, y, DIMS(y->shape.at[0], y->shape.at[1], y->shape.at[2], y->shape.at[4]));
}

/* Residual sums, pooling, concatenation and the mean of each channel stay in blocks: what is
 * reordered is the input and, after the mean, nothing. */
static void chains_stay_in_blocks(void **state) {
  (void)state;
  size_t once, calls;
  begin();
  UOp *x = graph_input(&graph, DIMS(2, 3, 16, 16));
  UOp *out = graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(2, 24));
  UOp *y = max_pool(relu(conv3(x, 8, 2)));
  UOp *z = relu(uop2(&job, OP_ADD, conv3(relu(conv1(y, 8)), 8, 1), y));
  UOp *parts[] = {relu(conv1(z, 16)), relu(conv3(z, 8, 1))};
  z = uop_make(&job, OP_CAT, DT_VOID, arg_i(1), parts, 2);
  finish(out, t_reshape(&graph, t_reduce(&graph, OP_ADD, z, DIMS(2, 3)), DIMS(2, 24)), &once,
         &calls);
  assert_int_equal(once, 5);                       /* the weights */
  for (size_t k = 0; k < graph.plan.ncalls; k++) { /* no pure reorder of a tensor in between */
    const PlanCall *c = &graph.plan.calls[k];
    bool copies = !c->once && !strncmp(graph.plan.kernels[c->kernel].name, "E", 1) && c->nargs == 2;
    if (copies) assert_int_equal(graph.plan.buffers[c->args[1]].kind, PB_INPUT);
  }
  job_deinit(&job);
}

/* Channels that nobody else has in blocks: two reorders cost more than a 1x1 convolution gains. */
static void short_chains_stay_plain(void **state) {
  (void)state;
  size_t once, calls;
  begin();
  UOp *x = graph_input(&graph, DIMS(1, 8, 16, 16));
  UOp *out = graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(1, 8, 16, 16));
  finish(out, relu(conv1(x, 8)), &once, &calls);
  assert_int_equal(once, 0);
  assert_int_equal(calls, 1);
  job_deinit(&job);
}

/* What sums over all channels and pixels reads them in its own order, from a kernel that does
 * nothing but reorder the result of the convolution. */
static void reorders_are_kernels(void **state) {
  (void)state;
  size_t once, calls, copies = 0;
  begin();
  UOp *x = graph_input(&graph, DIMS(1, 16, 8, 8));
  UOp *out = graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(4));
  UOp *w = graph_param(&graph, SLOT_WEIGHT, DT_F32, DIMS(4, 1024));
  UOp *y = t_reshape(&graph, relu(conv3(conv3(x, 16, 1), 16, 1)), DIMS(1, 1024));
  UOp *product = uop2(&job, OP_MUL, t_expand(&graph, y, DIMS(4, 1024)), w);
  y = t_reshape(&graph, t_reduce(&graph, OP_ADD, product, DIMS(1)), DIMS(4));
  finish(out, y, &once, &calls);
  assert_int_equal(once, 2);
  for (size_t k = once; k < calls; k++) {
    const PlanCall *c = &graph.plan.calls[k];
    copies += c->nargs == 2 && !strncmp(graph.plan.kernels[c->kernel].name, "E_2_8_64", 8);
  }
  assert_int_equal(copies, 1);
  job_deinit(&job);
}

/* 3x3 over enough tiles: three kernels, and weights of 36 points. */
static void winograd_of(int64_t edge, int64_t c, int64_t points) {
  size_t once, calls, kept = 0;
  begin();
  graph.tg.fast_math = true;
  UOp *x = graph_input(&graph, DIMS(1, c, edge, edge));
  UOp *out = graph_param(&graph, SLOT_OUTPUT, DT_F32, DIMS(1, 2 * c, edge, edge));
  finish(out, relu(conv3(x, 2 * c, 1)), &once, &calls);
  for (size_t b = 0; b < graph.plan.nbuffers; b++)
    if (graph.plan.buffers[b].kind == PB_KEPT) kept = (size_t)graph.plan.buffers[b].numel;
  assert_int_equal(kept, points * c * 2 * c);
  job_deinit(&job);
}
static void winograd_by_four(void **state) {
  (void)state;
  winograd_of(20, 24, 36);
}
static void winograd_by_two(void **state) {
  (void)state;
  winograd_of(18, 48, 16);
}
static void too_few_tiles_are_direct(void **state) {
  (void)state;
  winograd_of(6, 24, 9);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define T(name_) cmocka_unit_test_setup(name_, setup)
      T(convolutions_of_all_kinds), T(conv_match_sees_what_it_is), T(others_do_not_match),
      T(chains_stay_in_blocks),     T(winograd_by_four),           T(winograd_by_two),
      T(too_few_tiles_are_direct),  T(short_chains_stay_plain),    T(reorders_are_kernels),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
