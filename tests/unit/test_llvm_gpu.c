/* Kernels as PTX: what the text must say, and what it must not. No GPU is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/compile.h"
#include "compiler/passes/linsum.h"
#include "tests/unit/zoo.h"
#include "tests/unit/zoo_targets.h"

typedef struct Copy {
  DType dtype;
  int64_t n, factor, shift; /* out[i] = in[i * factor + shift] + 1 */
  const char *opts;
} Copy;

static UOp *copy_kernel(Job *job, const Copy *c) {
  int64_t in = (c->n - 1) * c->factor + c->shift + 1;
  UOp *to = uop_param(job, 0, c->dtype, &c->n, 1), *from = uop_param(job, 1, c->dtype, &in, 1);
  UOp *i = uop_range(job, 0, AX_LOOP, uop_index(job, c->n));
  UOp *at = index_add(job, index_mul(job, i, c->factor), uop_index(job, c->shift));
  UOp *x = uop2(job, OP_INDEX, from, at);
  x = uop2(job, OP_ADD, x, uop_number(job, c->dtype, 1));
  UOp *src[3] = {to, i, x};
  UOp *store = uop_make(job, OP_STORE, DT_VOID, arg_i(0), src, 3);
  UOp *end = uop2(job, OP_END, store, i);
  return uop_make(job, OP_SINK, DT_VOID, arg_none(), &end, 1);
}

typedef struct Case {
  const Copy *copy;
  UOp *kernel;
} Case;

static void build(Job *job, void *arg) {
  Case *c = arg;
  c->kernel = copy_kernel(job, c->copy);
}

/* The PTX holds the text `with` (unless it is NULL) and not the text `without`. */
static void expect(Copy copy, const char *with, const char *without) {
  Job job;
  Case c = {.copy = &copy};
  KernelObject object;
  Target ampere = zoo_cuda; /* code for sm_90 may start before its input is there: no .nc loads */
  ampere.cpu = "sm_80", ampere.features = "+ptx78";
  job_init(&job, 0);
  assert_null(job_run(&job, build, &c));
  assert_null(compile_kernel(&job, c.kernel, "k", &ampere, copy.opts, &object));
  strbuf_add(&object.object, "", 1);
  const char *ptx = object.object.ptr;
  if (with && !strstr(ptx, with)) fail_msg("no %s in\n%s", with, ptx);
  if (without && strstr(ptx, without)) fail_msg("%s in\n%s", without, ptx);
  strbuf_deinit(&object.object);
  job_deinit(&job);
}

static void test_vectors(void **state) {
  (void)state;
  expect((Copy){DT_F32, 4096, 1, 0, "VECTOR(0,4) LOCAL(0,64)"}, "ld.global.nc.v4", "b8");
  expect((Copy){DT_F32, 4096, 1, 0, "VECTOR(0,4) LOCAL(0,64)"}, "st.global.v4", NULL);
  expect((Copy){DT_F32, 4096, 1, 8, "VECTOR(0,4) LOCAL(0,64)"}, "ld.global.nc.v4", NULL);
  expect((Copy){DT_F16, 4096, 1, 0, "VECTOR(0,8) LOCAL(0,64)"}, "ld.global.nc.v4", NULL);
}

/* Of what is not known to be aligned, no more is read at once than is. */
static void test_unaligned(void **state) {
  (void)state;
  expect((Copy){DT_F32, 4096, 1, 1, "VECTOR(0,4) LOCAL(0,64)"}, "st.global.v4", "ld.global.nc.v");
  expect((Copy){DT_F32, 4096, 1, 2, "VECTOR(0,4) LOCAL(0,64)"}, "ld.global.nc.v2",
         "ld.global.nc.v4");
  /* The last tile is moved back to an odd place. */
  expect((Copy){DT_F32, 4095, 1, 0, "VECTOR(0,4) LOCAL(0,64)"}, NULL, ".v2");
  for (int64_t shift = 1; shift <= 8; shift *= 2)
    expect((Copy){DT_U8, 4096, 1, shift, "VECTOR(0,16) LOCAL(0,64)"}, "ld.global.nc.u",
           "ld.global.nc.v");
}

/* -- products of matrices ---------------------------------------------------------------------- */

typedef struct Product {
  DType dtype;
  int64_t m, n, k;
  bool turned; /* B is [n, k] */
  UOp *kernel;
} Product;

static void build_product(Job *job, void *arg) {
  Product *p = arg;
  Zoo z = {.job = job};
  (void)zoo_param(&z, p->dtype, p->m * p->n);
  UOp *a = zoo_param(&z, p->dtype, p->m * p->k), *b = zoo_param(&z, p->dtype, p->k * p->n);
  UOp *m = zoo_range(&z, AX_LOOP, p->m), *n = zoo_range(&z, AX_LOOP, p->n);
  UOp *k = zoo_range(&z, AX_REDUCE, p->k);
  UOp *at = p->turned ? zoo_add(&z, zoo_mul(&z, n, p->k), k) : zoo_add(&z, zoo_mul(&z, k, p->n), n);
  UOp *x = zoo_load(&z, a, zoo_add(&z, zoo_mul(&z, m, p->k), k), NULL);
  UOp *y = uop_cast(job, zoo_load(&z, b, at, NULL), DT_F32);
  UOp *sum = uop_reduce(job, OP_ADD, uop2(job, OP_MUL, uop_cast(job, x, DT_F32), y), &k, 1);
  UOp *to = zoo_add(&z, zoo_mul(&z, m, p->n), n);
  p->kernel = zoo_done(&z, "product", to, uop_cast(job, sum, p->dtype)).sink;
}

static unsigned count(const char *text, const char *what) {
  unsigned n = 0;
  while ((text = strstr(text, what))) n++, text += strlen(what);
  return n;
}

/* The PTX of the heuristic's schedule; the caller frees it. */
static StrBuf product_text(Product p, const char *cpu, const char *features) {
  Job job;
  KernelObject object;
  Target target = zoo_cuda;
  target.cpu = cpu, target.features = features;
  job_init(&job, 0);
  assert_null(job_run(&job, build_product, &p));
  assert_null(compile_kernel(&job, p.kernel, "k", &target, "", &object));
  strbuf_add(&object.object, "", 1);
  job_deinit(&job);
  return object.object;
}

/* Instructions of warpgroups where the GPU has them: in groups, each begun after a fence and waited
 * for; whole tiles are copied, and those who copy and those who multiply wait for each other; 16
 * bytes are stored at a time. */
static void test_warpgroups(void **state) {
  (void)state;
  for (int turned = 0; turned < 2; turned++) {
    Product p = {.dtype = DT_BF16, .m = 4096, .n = 4096, .k = 4096, .turned = turned};
    StrBuf text = product_text(p, "sm_90a", "+ptx83");
    assert_int_equal(count(text.ptr, "m64n256k16.f32.bf16.bf16 "), 4);
    assert_int_equal(count(text.ptr, turned ? ", 1, 1, 1, 0, 0;" : ", 1, 1, 1, 0, 1;"), 4);
    assert_int_equal(count(text.ptr, "wgmma.fence"), 1);
    assert_int_equal(count(text.ptr, "wgmma.commit_group"), 1);
    assert_int_equal(count(text.ptr, "wgmma.wait_group.sync.aligned 0;"), 1);
    assert_int_equal(count(text.ptr, "cp.async.bulk.tensor"), turned ? 2 : 5); /* 64 columns */
    assert_int_equal(count(text.ptr, "mbarrier.init"), 8);
    assert_int_equal(count(text.ptr, "mbarrier.try_wait"), 2);
    assert_int_equal(count(text.ptr, "mbarrier.arrive"), 2);
    assert_int_equal(count(text.ptr, "bar.sync"), 1);
    assert_int_equal(count(text.ptr, "cp.async.cg"), 0);
    assert_int_equal(count(text.ptr, "st.global.v4"), 16);
    assert_int_equal(count(text.ptr, "st.global"), 16);
    strbuf_deinit(&text);
  }
}

/* The same copied piece by piece: what is copied is made visible to the instructions. */
static void test_pieces(void **state) {
  (void)state;
  Product p = {.dtype = DT_BF16, .m = 4096, .n = 4096, .k = 4096, .turned = true};
  Job job;
  KernelObject object;
  Target target = zoo_cuda;
  target.features = "+ptx83";
  job_init(&job, 0);
  assert_null(job_run(&job, build_product, &p));
  static const char opts[] = "TC(0,65806) LOCAL(0,2) PIPELINE(2,20)";
  assert_null(compile_kernel(&job, p.kernel, "k", &target, opts, &object));
  strbuf_add(&object.object, "", 1);
  char *text = object.object.ptr;
  assert_int_equal(count(text, "wgmma.wait_group.sync.aligned 1;"), 1);
  assert_int_equal(count(text, "wgmma.wait_group.sync.aligned 0;"), 1);
  assert_int_equal(count(text, "fence.proxy.async"), count(text, "bar.sync"));
  assert_int_equal(count(text, "cp.async.cg"), 12 * 3); /* 2 stages ahead, and one */
  char *group = strstr(text, "cp.async.commit_group");  /* of the first stage alone */
  assert_non_null(group);
  *group = 0;
  assert_int_equal(count(text, "cp.async.cg"), 12);
  *group = 'c';
  strbuf_deinit(&object.object);
  job_deinit(&job);
}

static void test_no_warpgroups(void **state) {
  (void)state;
  static const char *const cpus[][2] = {{"sm_80", "+ptx78"}, {"sm_90", "+ptx83"}};
  for (int i = 0; i < 2; i++) {
    Product p = {.dtype = DT_F16, .m = 4096, .n = 4096, .k = 4096, .turned = true};
    StrBuf text = product_text(p, cpus[i][0], cpus[i][1]);
    assert_int_equal(count(text.ptr, "wgmma"), 0);
    assert_true(count(text.ptr, "mma.sync") > 0);
    strbuf_deinit(&text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_vectors), cmocka_unit_test(test_unaligned),
      cmocka_unit_test(test_warpgroups), cmocka_unit_test(test_pieces),
      cmocka_unit_test(test_no_warpgroups)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
