/* Kernels as PTX: what the text must say, and what it must not. No GPU is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/compile.h"
#include "compiler/passes/linsum.h"
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
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors),
                                     cmocka_unit_test(test_unaligned)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
