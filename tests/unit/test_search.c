/* The search: classes without sizes, costs, and candidates that are legal, new and the same every
 * time. Times are made up by a function of the schedule, so that nothing here is timed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "compiler/search/opts.h"
#include "compiler/search/search.h"
#include "tests/unit/status_check.h"
#include "tests/unit/zoo.h"
#include "tests/unit/zoo_targets.h"

static UOp *conv(Job *job, int64_t c, int64_t h, int64_t oc, int64_t k) {
  return zoo_conv(job, (ZooConv){.n = 1,
                                 .c = c,
                                 .h = h,
                                 .w = h,
                                 .oc = oc,
                                 .kh = k,
                                 .kw = k,
                                 .stride = 1,
                                 .pad = k / 2})
      .sink;
}

static UOp *kernel_of(Job *job, int i) {
  switch (i) {
  case 0: return zoo_matmul(job, DT_F32, 128, 768, 3072, false).sink;
  case 1: return conv(job, 64, 56, 64, 3);
  case 2: return zoo_softmax(job, 512, 128, true).sink;
  case 3: return zoo_layernorm(job, 128, 768, false).sink;
  case 4: return zoo_transpose(job, 1024, 1000).sink;
  case 5: return zoo_sum(job, DT_F32, OP_ADD, 1000, 1024, 0).sink;
  case 6: return zoo_gather(job, 6, 11, 24).sink;
  case 7:
    return zoo_elementwise(job, dim_mul(job, dim_of(job, uop_var(job, 0, 1, 512, 1)), 3072)).sink;
  case 8:
    return zoo_matmul(job, DT_F32, dim_of(job, uop_var(job, 0, 1, 512, 1)), 768, 768, true).sink;
  default: return zoo_nested(job, 6, 9, 12).sink;
  }
}
enum { KERNELS = 10 };

/* -- class ------------------------------------------------------------------------------------- */

static bool same_class(Job *job, UOp *a, UOp *b) {
  SearchClass x, y;
  check(search_class(job, a, &x));
  check(search_class(job, b, &y));
  return x.naxes == y.naxes && x.bytes.len == y.bytes.len &&
         !memcmp(x.bytes.ptr, y.bytes.ptr, x.bytes.len);
}

static void class_forgets_sizes(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  UOp *mm = kernel_of(&job, 0);
  assert_true(same_class(&job, mm, zoo_matmul(&job, DT_F32, 100, 10, 7, false).sink));
  assert_true(same_class(&job, mm, zoo_matmul(&job, DT_F32, 64, 64, 64, false).sink));
  assert_true(same_class(&job, conv(&job, 64, 56, 64, 3), conv(&job, 3, 32, 16, 3)));
  assert_true(same_class(&job, zoo_layernorm(&job, 8, 8, false).sink,
                         zoo_layernorm(&job, 128, 768, false).sink));
  assert_false(same_class(&job, mm, zoo_matmul(&job, DT_F32, 64, 64, 64, true).sink));
  assert_false(same_class(&job, mm, zoo_matmul(&job, DT_F64, 64, 64, 64, false).sink));
  assert_false(same_class(&job, mm, kernel_of(&job, 8)));
  SearchClass c;
  check(search_class(&job, mm, &c));
  assert_int_equal(c.naxes, 3);
  assert_int_equal(c.axes[0].size, 128);
  assert_int_equal(c.axes[1].size, 768);
  assert_int_equal(c.axes[1].pow2, 256);
  job_deinit(&job);
}

/* Nodes made in another order, in another job, with what does not belong to the kernel between. */
static void class_is_the_graph_alone(void **state) {
  (void)state;
  for (int i = 0; i < KERNELS; i++) {
    Job one, two;
    job_init(&one, 0);
    job_init(&two, 0);
    SearchClass a, b;
    for (int k = KERNELS; k-- > 0;) kernel_of(&two, k);
    check(search_class(&one, kernel_of(&one, i), &a));
    check(search_class(&two, kernel_of(&two, i), &b));
    assert_int_equal(a.bytes.len, b.bytes.len);
    assert_memory_equal(a.bytes.ptr, b.bytes.ptr, a.bytes.len);
    job_deinit(&one);
    job_deinit(&two);
  }
}

static void distance_counts_ratios(void **state) {
  (void)state;
  SearchAxis a[2] = {{64, 64}, {100, 4}}, b[2] = {{128, 64}, {100, 4}}, c[2] = {{512, 64}, {7, 1}};
  assert_true(search_distance(a, a, 2) == 0);
  assert_true(search_distance(a, b, 2) == search_distance(b, a, 2));
  assert_true(search_distance(a, b, 2) < search_distance(a, c, 2));
}

/* -- cost -------------------------------------------------------------------------------------- */

static void costs_are_counted(void **state) {
  (void)state;
  Job job;
  SearchCost c, scalar;
  job_init(&job, 0);
  check(search_cost(&job, kernel_of(&job, 0), &zoo_cpu, NULL, &c));
  assert_true(c.flops >= 2ll * 128 * 768 * 3072 && c.flops < 21ll * 128 * 768 * 307);
  assert_int_equal(c.bytes_written, 4 * 128 * 768);
  assert_int_equal(c.bytes_read, 4 * (128 * 3072 + 3072 * 768 + 768));
  assert_true(c.roofline_ns > 0 && c.predicted_ns > c.roofline_ns);
  check(search_cost(&job, kernel_of(&job, 0), &zoo_cpu, "", &scalar));
  assert_true(scalar.predicted_ns > 4 * c.predicted_ns);
  /* A window reads each element of its input once, however often it uses it. */
  check(search_cost(&job, conv(&job, 64, 56, 64, 3), &zoo_cpu, NULL, &c));
  assert_true(c.bytes_read <= 4 * (64 * 58 * 58 + 64 * 64 * 9 + 64));
  Status st = search_cost(&job, kernel_of(&job, 0), &zoo_cpu, "VECTOR(0,3)", &c);
  assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
  status_drop(st);
  job_deinit(&job);
}

/* -- candidates -------------------------------------------------------------------------------- */

typedef struct Search {
  Job *job;
  UOp *kernel;
  const Target *target;
  Evidence tried[512];
  size_t ntried, rounds;
} Search;

static bool was_tried(const Search *s, const char *opts) {
  for (size_t i = 0; i < s->ntried; i++)
    if (!strcmp(s->tried[i].opts, opts)) return true;
  return false;
}

/* What was measured is what the roofline is made of. */
static void peaks_make_the_roofline(void **state) {
  Job job;
  SearchCost assumed, slow, fast;
  (void)state;
  job_init(&job, 64 << 20);
  UOp *mm = zoo_matmul(&job, DT_F32, 512, 512, 512, false).sink;
  Target t = zoo_cpu;
  check(search_cost(&job, mm, &t, NULL, &assumed));
  t.peaks.flops_f32 = 50;
  check(search_cost(&job, mm, &t, NULL, &slow));
  t.peaks.flops_f32 = 100;
  check(search_cost(&job, mm, &t, NULL, &fast));
  double flops = (double)slow.flops;
  assert_true(fabs((double)slow.roofline_ns - flops / 100) < 10); /* two threads */
  assert_true(fabs((double)fast.roofline_ns - flops / 200) < 10);
  assert_true(slow.predicted_ns > assumed.predicted_ns);
  UOp *add = zoo_elementwise(&job, 100 << 20).sink;
  t = zoo_cpu;
  t.peaks.memory_bytes = 6, t.peaks.all_memory_bytes = 10;
  check(search_cost(&job, add, &t, NULL, &slow));
  double bytes = (double)(slow.bytes_read + slow.bytes_written);
  assert_true(fabs((double)slow.roofline_ns - bytes / 10) < 10);
  job_deinit(&job);
}

/* Legal for every target, and what they do is what they say. */
static void probes_measure_what_they_say(void **state) {
  Target targets[] = {zoo_cpu, zoo_cpu, zoo_cpu, zoo_opencl};
  (void)state;
  targets[1].vector_bytes = 32, targets[1].vector_registers = 16, targets[1].threads = 1;
  targets[2].vector_bytes = 16, targets[2].vector_registers = 16, targets[2].threads = 61;
  targets[2].l3_bytes = 0;
  for (size_t i = 0; i < 4; i++)
    for (int which = 0; which < SP__COUNT; which++) {
      Job job;
      SearchProbeKernel p;
      SearchCost cost;
      job_init(&job, 64 << 20);
      check(search_probe(&job, &targets[i], (SearchProbe)which, &p));
      bool cache = which == SP_L2 || which == SP_L3; /* of one core */
      bool none = targets[i].max_group || (cache && targets[i].threads > 8);
      assert_int_equal(p.work > 0, !none);
      assert_int_equal(p.kernel != NULL, !none);
      if (!none) {
        assert_true(*p.opts);
        check(search_cost(&job, p.kernel, &targets[i], p.opts, &cost));
        bool flops = which <= SP_FLOPS_F64;
        double got = (double)(flops ? cost.flops : cost.bytes_read);
        assert_true(fabs(got - p.work) < 1);
      }
      job_deinit(&job);
    }
}

static void check_legal(const Search *s, const char *opts) {
  OptList list, again;
  StrBuf text = {0};
  check(opts_parse(s->job, str_from(opts), &list));
  check(opts_check(s->job, s->kernel, s->target, &list));
  opts_print(&list, &text);
  assert_string_equal(text.ptr ? text.ptr : "", opts);
  check(opts_parse(s->job, (Str){text.ptr, text.len}, &again));
  assert_int_equal(again.len, list.len);
  strbuf_deinit(&text);
}

/* A time for every schedule: 1.7 of the prediction, and things that it knows nothing of: six rows
 * are best, and copies are slow. */
static int64_t made_up_ns(const Search *s, const char *opts) {
  SearchCost c;
  check(search_cost(s->job, s->kernel, s->target, opts, &c));
  const char *tile = strstr(opts, "UPCAST(0,");
  double rows = tile ? atof(tile + 9) : 1;
  double ns = 1.7 * (double)c.predicted_ns * (1 + 0.3 * fabs(log2(rows / 6)));
  if (strstr(opts, "STAGE")) ns *= 1.1;
  return (int64_t)ns + 1;
}

static size_t propose(Search *s, size_t want, Candidate *out) {
  SearchInput in = {.kernel = s->kernel,
                    .target = s->target,
                    .tried = s->tried,
                    .ntried = s->ntried,
                    .want = want,
                    .seed = 7};
  size_t n;
  check(search_propose(s->job, &in, out, &n));
  assert_true(n <= want);
  return n;
}

static int64_t run_search(Search *s, size_t want, size_t most) {
  Candidate out[SEARCH_MAX_WANT];
  int64_t best = INT64_MAX;
  for (; s->ntried + want <= most; s->rounds++) {
    size_t n = propose(s, want, out);
    if (!n) break;
    for (size_t i = 0; i < n; i++) {
      check_legal(s, out[i].opts);
      assert_false(was_tried(s, out[i].opts));
      int64_t ns = made_up_ns(s, out[i].opts);
      if (ns < best) best = ns;
      s->tried[s->ntried++] = (Evidence){out[i].opts, ns, 1, 5, EV_MEASURED};
    }
  }
  return best;
}

static void candidates_are_legal_and_new(void **state) {
  (void)state;
  for (int i = 0; i < 2 * KERNELS; i++) {
    Job job;
    job_init(&job, (size_t)1 << 30);
    Search s = {.job = &job,
                .kernel = kernel_of(&job, i % KERNELS),
                .target = i < KERNELS ? &zoo_cpu : &zoo_cuda};
    run_search(&s, 8, 48);
    assert_true(s.ntried > 4);
    job_deinit(&job);
  }
}

static void proposals_repeat_for_equal_inputs(void **state) {
  (void)state;
  Candidate a[8], b[8];
  Job one, two;
  job_init(&one, 0);
  job_init(&two, 0);
  Search s = {.job = &one, .kernel = kernel_of(&one, 0), .target = &zoo_cpu};
  for (int round = 0; round < 3; round++) {
    for (int k = 0; k < round; k++) kernel_of(&two, k);
    Search t = s;
    t.job = &two, t.kernel = kernel_of(&two, 0);
    size_t n = propose(&s, 8, a), m = propose(&t, 8, b);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
      assert_string_equal(a[i].opts, b[i].opts);
      assert_int_equal(a[i].predicted_ns, b[i].predicted_ns);
      s.tried[s.ntried++] = (Evidence){a[i].opts, made_up_ns(&s, a[i].opts), 1, 5, EV_MEASURED};
    }
  }
  job_deinit(&one);
  job_deinit(&two);
}

/* The best of the tiles that a person would try. */
static int64_t best_by_hand(const Search *s) {
  int64_t best = INT64_MAX;
  for (int rows = 2; rows <= 12; rows++)
    for (int vectors = 2; vectors <= 6; vectors++)
      for (int stage = 0; stage < 2; stage++) {
        char opts[200];
        snprintf(opts, sizeof opts, "UPCAST(0,%d) VECTOR(1,16) UPCAST(1,%d) ORDER(0,1)%s", rows,
                 vectors, stage ? " STAGE(1,1)" : "");
        int64_t ns = made_up_ns(s, opts);
        if (ns < best) best = ns;
      }
  return best;
}

/* The times have little to do with the prediction: what is best by it is not best. The search ends
 * by itself, close to the best, after far fewer timings than the 110 that the hand needs. */
static void search_finds_what_the_model_does_not_know(void **state) {
  (void)state;
  for (int size = 0; size < 3; size++) {
    Job job;
    job_init(&job, 0);
    Search s = {.job = &job, .target = &zoo_cpu};
    s.kernel = zoo_matmul(&job, DT_F32, 252 << size, 768, 512, false).sink;
    int64_t best = run_search(&s, 8, 400), reach = best_by_hand(&s);
    if ((double)best > 1.05 * (double)reach)
      fail_msg("%lld after %zu timings, by hand %lld", (long long)best, s.ntried, (long long)reach);
    assert_true(s.ntried < 100);
    job_deinit(&job);
  }
}

/* The model is wrong by one factor about all schedules with the same axis in vectors, among them
 * all that it prefers: the others, which look worse than these turned out to be, are tried too. */
static void a_family_is_not_the_space(void **state) {
  (void)state;
  Job job;
  Candidate out[8];
  job_init(&job, 0);
  Search s = {.job = &job, .target = &zoo_cpu};
  s.kernel = zoo_matmul(&job, DT_F32, 256, 256, 256, true).sink;
  char favourite[20] = "";
  size_t others = 0;
  for (int round = 0; round < 30; round++, s.rounds++) {
    size_t n = propose(&s, 8, out);
    if (!n) break;
    for (size_t i = 0; i < n; i++) {
      SearchCost c;
      check(search_cost(&job, s.kernel, s.target, out[i].opts, &c));
      const char *vector = strstr(out[i].opts, "VECTOR(");
      if (!*favourite && vector) snprintf(favourite, sizeof favourite, "%.9s", vector);
      bool same = *favourite && strstr(out[i].opts, favourite);
      int64_t ns = c.predicted_ns * (same ? 12 : 1);
      others += !same;
      s.tried[s.ntried++] = (Evidence){out[i].opts, ns, 1, 5, EV_MEASURED};
    }
  }
  assert_string_not_equal(favourite, "");
  assert_true(others > 2);
  assert_true(s.ntried < 240);
  job_deinit(&job);
}

/* -- hints ------------------------------------------------------------------------------------- */

static size_t propose_hints(Search *s, const char *const *hints, size_t nhints, size_t want,
                            Candidate *out) {
  SearchInput in = {.kernel = s->kernel,
                    .target = s->target,
                    .tried = s->tried,
                    .ntried = s->ntried,
                    .hints = hints,
                    .nhints = nhints,
                    .want = want};
  size_t n;
  check(search_propose(s->job, &in, out, &n));
  for (size_t i = 0; i < n; i++) check_legal(s, out[i].opts);
  return n;
}

static void hints_are_made_to_fit(void **state) {
  (void)state;
  static const char *const hints[] = {
      "UPCAST(0,8) VECTOR(1,16) UPCAST(1,2) ORDER(0,1) STAGE(1,1)",
      "SPLIT(2,256) UPCAST(0,6) VECTOR(1,16) UPCAST(1,4) CARRY(3,1) ORDER(0,1) STAGE(3,1)",
      "VECTOR(2,16) UNROLL(2,4) THREAD(0,64)",
  };
  Candidate out[8];
  Job job;
  job_init(&job, 0);
  /* It fits as it is. */
  Search s = {.job = &job, .kernel = kernel_of(&job, 0), .target = &zoo_cpu};
  assert_true(propose_hints(&s, hints, 1, 8, out) > 1);
  assert_string_equal(out[0].opts, hints[0]);
  /* Five rows, a depth of 300 that has no block of 256. */
  s.kernel = zoo_matmul(&job, DT_F32, 5, 768, 300, false).sink;
  assert_int_equal(propose_hints(&s, hints, 3, 3, out), 3);
  assert_string_equal(out[0].opts, "UPCAST(0,5) VECTOR(1,16) UPCAST(1,2) ORDER(0,1) STAGE(1,1)");
  assert_string_equal(
      out[1].opts,
      "SPLIT(2,150) UPCAST(0,5) VECTOR(1,16) UPCAST(1,4) CARRY(3,1) ORDER(0,1) STAGE(3,1)");
  assert_string_equal(out[2].opts, "PADTO(2,64) VECTOR(2,16) UNROLL(2,4) THREAD(0,2)");
  job_deinit(&job);
}

/* A hint that was tried under another spelling is not proposed again. */
static void spellings_are_one(void **state) {
  (void)state;
  static const char *const hint = "UPCAST(0,8) VECTOR(1,16) UPCAST(1,2) ORDER(0,1) STAGE(1,1)";
  static const char *const spellings[] = {
      "STAGE(1,1) ORDER(0,1) UPCAST(0,2) VECTOR(1,16) UPCAST(1,2) UPCAST(0,4)",
      "ORDER(1,0)  UPCAST(1,2) VECTOR(1,16) UPCAST(0,8) STAGE(1,1)"};
  Candidate out[8];
  for (int i = 0; i < 2; i++) {
    Job job;
    job_init(&job, 0);
    Search s = {.job = &job, .kernel = kernel_of(&job, 0), .target = &zoo_cpu, .ntried = 1};
    s.tried[0] = (Evidence){spellings[i], 1000000, 1, 5, i ? EV_MEASURED : EV_CRASH};
    size_t n = propose_hints(&s, &hint, 1, 8, out);
    for (size_t k = 0; k < n; k++) assert_string_not_equal(out[k].opts, hint);
    job_deinit(&job);
  }
}

/* Texts from elsewhere may be anything. */
static void bad_texts_are_passed_over(void **state) {
  (void)state;
  static const char *const hints[] = {
      "",
      "no opts",
      "UPCAST(0,",
      "UPCAST(99,4)",
      "MERGE(0,1) MERGE(0,1) MERGE(0,1) MERGE(0,1) MERGE(0,1) MERGE(0,1) MERGE(0,1) MERGE(0,1) "
      "MERGE(0,1) MERGE(0,1)",
      "SPLIT(2,1) SPLIT(2,2147483647) CARRY(127,3) STAGE(-1,2147483647) ORDER(0,2147483647)",
      "UNROLL(2,2147483647) UPCAST(0,2147483647) UPCAST(1,2147483647) VECTOR(1,64)",
      NULL,
  };
  enum { N = sizeof hints / sizeof *hints };
  Candidate out[8];
  for (int i = 0; i < KERNELS; i++) {
    Job job;
    job_init(&job, 0);
    Search s = {.job = &job, .kernel = kernel_of(&job, i), .target = &zoo_cpu};
    for (int k = 0; k < N; k++)
      s.tried[s.ntried++] = (Evidence){hints[k], -5, -1, 0, k % 3 ? EV_MEASURED : 77};
    propose_hints(&s, hints, N, 8, out);
    job_deinit(&job);
  }
}

/* -- bounds ------------------------------------------------------------------------------------ */

/* A kernel with that many output axes, and values that each depend on a few of them. */
static UOp *wide_kernel(Job *job, int axes, int values) {
  UOp *ranges[64], *src[65], *sum = uop_number(job, DT_F32, 0), *at = uop_index(job, 0);
  for (int i = 0; i < axes; i++) {
    ranges[i] = uop_range(job, i, AX_LOOP, uop_index(job, 3));
    if (i < 20) at = uop2(job, OP_ADD, uop2(job, OP_MUL, at, uop_index(job, 3)), ranges[i]);
  }
  int64_t n = 1000000, all = 1;
  for (int i = 0; i < axes && i < 20; i++) all *= 3;
  for (int i = 0; i < values; i++) {
    UOp *x = uop2(job, OP_ADD, ranges[i % axes],
                  uop2(job, OP_MUL, ranges[(i * 7 + 3) % axes], uop_index(job, 3 + i)));
    UOp *load[2] = {uop_param(job, 1 + i % 3, DT_F32, &n, 1), x};
    sum = uop2(job, OP_ADD, sum, uop_make(job, OP_INDEX, DT_VOID, arg_none(), load, 2));
  }
  UOp *store[3] = {uop_param(job, 0, DT_F32, &all, 1), at, sum};
  src[0] = uop_make(job, OP_STORE, DT_VOID, arg_i(0), store, 3);
  for (int i = 0; i < axes; i++) src[i + 1] = ranges[i];
  UOp *end = uop_make(job, OP_END, DT_VOID, arg_none(), src, (size_t)axes + 1);
  return uop_make(job, OP_SINK, DT_VOID, arg_none(), &end, 1);
}

/* Bounded by memory, of which a search takes little, whatever the kernel is. */
static void a_large_kernel_is_searched_less(void **state) {
  (void)state;
  static const struct {
    int axes, values;
  } wide[] = {{12, 80}, {30, 90}, {60, 95}, {12, 3000}, {4, 3000}};
  for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
    Job job;
    job_init(&job, (size_t)128 << 20);
    Search s = {.job = &job, .target = &zoo_cpu};
    s.kernel = wide_kernel(&job, wide[i].axes, wide[i].values);
    Candidate out[8];
    SearchCost c;
    SearchClass class;
    propose_hints(&s, NULL, 0, 8, out);
    check(search_cost(&job, s.kernel, &zoo_cpu, NULL, &c));
    check(search_class(&job, s.kernel, &class));
    job_deinit(&job);
  }
}

static void a_search_ends(void **state) {
  (void)state;
  Candidate out[8];
  Job job;
  job_init(&job, 0);
  Search s = {.job = &job, .kernel = kernel_of(&job, 4), .target = &zoo_cpu};
  size_t n = propose(&s, 8, out);
  assert_true(n > 1);
  /* At the roofline there is nothing to gain. */
  SearchCost c;
  check(search_cost(&job, s.kernel, &zoo_cpu, NULL, &c));
  s.tried[s.ntried++] = (Evidence){out[0].opts, c.roofline_ns, 1, 5, EV_MEASURED};
  assert_int_equal(propose(&s, 8, out), 0);
  Status st = search_propose(&job, &(SearchInput){.kernel = s.kernel, .target = &zoo_cpu}, out, &n);
  assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
  status_drop(st);
  job_deinit(&job);
}

/* A search that has nothing more to try tries the best two by the other compiler, once. */
static void the_other_compiler_comes_last(void **state) {
  (void)state;
  for (int has = 0; has < 2; has++) {
    Candidate out[8];
    Job job;
    Target t = zoo_cuda;
    if (has) t.compiler = "CUDA driver 13000, NVRTC 13000";
    job_init(&job, (size_t)1 << 30);
    Search s = {.job = &job, .kernel = kernel_of(&job, 4), .target = &t};
    SearchCost c;
    check(search_cost(&job, s.kernel, &t, NULL, &c));
    size_t n = propose(&s, 8, out);
    assert_true(n > 2);
    for (size_t i = 0; i < n; i++) {
      assert_null(strstr(out[i].opts, "COMPILER"));
      s.tried[s.ntried++] = (Evidence){out[i].opts, c.roofline_ns + (int64_t)i, 1, 5, EV_MEASURED};
    }
    n = propose(&s, 8, out);
    assert_int_equal(n, has ? 2 : 0);
    for (size_t i = 0; i < n; i++) {
      assert_non_null(strstr(out[i].opts, "COMPILER(0,1)"));
      check_legal(&s, out[i].opts);
      s.tried[s.ntried++] = (Evidence){out[i].opts, c.roofline_ns + 100, 1, 5, EV_MEASURED};
    }
    assert_int_equal(propose(&s, 8, out), 0);
    job_deinit(&job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_other_compiler_comes_last),
      cmocka_unit_test(class_forgets_sizes),
      cmocka_unit_test(class_is_the_graph_alone),
      cmocka_unit_test(distance_counts_ratios),
      cmocka_unit_test(costs_are_counted),
      cmocka_unit_test(peaks_make_the_roofline),
      cmocka_unit_test(probes_measure_what_they_say),
      cmocka_unit_test(candidates_are_legal_and_new),
      cmocka_unit_test(proposals_repeat_for_equal_inputs),
      cmocka_unit_test(search_finds_what_the_model_does_not_know),
      cmocka_unit_test(a_family_is_not_the_space),
      cmocka_unit_test(hints_are_made_to_fit),
      cmocka_unit_test(spellings_are_one),
      cmocka_unit_test(bad_texts_are_passed_over),
      cmocka_unit_test(a_large_kernel_is_searched_less),
      cmocka_unit_test(a_search_ends),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
