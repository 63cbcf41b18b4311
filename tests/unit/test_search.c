/* The search: classes without sizes, costs, and candidates that are legal, new and the same every
 * time. Times are made up by a function of the schedule, so that nothing here is timed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/search/opts.h"
#include "compiler/search/search.h"
#include "tests/unit/zoo.h"

static const Target cpu = {.kind = "cpu",
                           .features = "+fma",
                           .vector_bytes = 64,
                           .vector_registers = 32,
                           .threads = 2,
                           .l1_bytes = 48 << 10,
                           .l2_bytes = 2 << 20,
                           .l3_bytes = 64 << 20};
static const Target gpu = {.kind = "cuda",
                           .cpu = "sm_90",
                           .vector_bytes = 16,
                           .vector_registers = 255,
                           .threads = 1,
                           .max_group = 1024,
                           .warp = 32,
                           .local_bytes = 48 << 10,
                           .l2_bytes = 50 << 20};

static void must(Status st) {
  char text[1000];
  if (!st) return;
  status_text(st, text, sizeof text);
  fail_msg("%s", text);
}

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
  must(search_class(job, a, &x));
  must(search_class(job, b, &y));
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
  must(search_class(&job, mm, &c));
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
    must(search_class(&one, kernel_of(&one, i), &a));
    must(search_class(&two, kernel_of(&two, i), &b));
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
  must(search_cost(&job, kernel_of(&job, 0), &cpu, NULL, &c));
  assert_true(c.flops >= 2ll * 128 * 768 * 3072 && c.flops < 21ll * 128 * 768 * 307);
  assert_int_equal(c.bytes_written, 4 * 128 * 768);
  assert_int_equal(c.bytes_read, 4 * (128 * 3072 + 3072 * 768 + 768));
  assert_true(c.roofline_ns > 0 && c.predicted_ns > c.roofline_ns);
  must(search_cost(&job, kernel_of(&job, 0), &cpu, "", &scalar));
  assert_true(scalar.predicted_ns > 4 * c.predicted_ns);
  /* A window reads each element of its input once, however often it uses it. */
  must(search_cost(&job, conv(&job, 64, 56, 64, 3), &cpu, NULL, &c));
  assert_true(c.bytes_read <= 4 * (64 * 58 * 58 + 64 * 64 * 9 + 64));
  Status st = search_cost(&job, kernel_of(&job, 0), &cpu, "VECTOR(0,3)", &c);
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

static void check_legal(const Search *s, const char *opts) {
  OptList list, again;
  StrBuf text = {0};
  must(opts_parse(s->job, str_from(opts), &list));
  must(opts_check(s->job, s->kernel, s->target, &list));
  opts_print(&list, &text);
  assert_string_equal(text.ptr ? text.ptr : "", opts);
  must(opts_parse(s->job, (Str){text.ptr, text.len}, &again));
  assert_int_equal(again.len, list.len);
  strbuf_deinit(&text);
}

/* A time for every schedule: 1.7 of the prediction, and things that it knows nothing of: six rows
 * are best, and copies are slow. */
static int64_t made_up_ns(const Search *s, const char *opts) {
  SearchCost c;
  must(search_cost(s->job, s->kernel, s->target, opts, &c));
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
  must(search_propose(s->job, &in, out, &n));
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
    Search s = {
        .job = &job, .kernel = kernel_of(&job, i % KERNELS), .target = i < KERNELS ? &cpu : &gpu};
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
  Search s = {.job = &one, .kernel = kernel_of(&one, 0), .target = &cpu};
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

static void search_finds_what_the_model_does_not_know(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  Search s = {
      .job = &job, .kernel = zoo_matmul(&job, DT_F32, 252, 768, 512, false).sink, .target = &cpu};
  int64_t best = run_search(&s, 8, 256);
  SearchCost c;
  must(search_cost(&job, s.kernel, &cpu, NULL, &c));
  /* A little over what the best predicted one would take with six rows and no copies. */
  double reach = 1.7 * (double)c.predicted_ns * 1.06;
  if ((double)best > reach) fail_msg("best %g, within reach %g", (double)best, reach);
  assert_true(s.ntried < 200); /* it ended by itself */
  job_deinit(&job);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(class_forgets_sizes),
      cmocka_unit_test(class_is_the_graph_alone),
      cmocka_unit_test(distance_counts_ratios),
      cmocka_unit_test(costs_are_counted),
      cmocka_unit_test(candidates_are_legal_and_new),
      cmocka_unit_test(proposals_repeat_for_equal_inputs),
      cmocka_unit_test(search_finds_what_the_model_does_not_know),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
