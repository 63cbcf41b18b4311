/* Every legal schedule computes what the kernel says: interp_kernel of the kernel against
 * interp_linear of what the passes make of it, for chosen and for random opt lists. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "compiler/compile.h"
#include "compiler/ir/interp.h"
#include "devices/device.h"
#include "tests/model/local_target.h"
#include "tests/unit/zoo_check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static Target target;
static int use_cpu(void **state) { return (void)state, target = zoo_cpu, 0; }
static int use_gpu(void **state) { return (void)state, target = zoo_opencl, 0; }

static uint64_t random_state;
static uint32_t random_below(uint32_t n) { return zoo_below(&random_state, n); }

static int64_t elements(const ZooRun *r, const UOp *p) {
  int64_t n = p->arg.ints.at[0];
  return dim_is_static(n) ? n : dim_eval(dim_node(n), r->vars, 2);
}

static void fill(const ZooRun *r, const UOp *p, void *data) {
  int64_t n = elements(r, p);
  for (int64_t i = 0; i < n; i++) {
    if (dtype_info[p->dtype].bytes == 1)
      ((uint8_t *)data)[i] = (uint8_t)random_below(256);
    else if (p->dtype == DT_BF16)
      ((uint16_t *)data)[i] = (uint16_t)(0x3f80 | random_below(2) << 15 | random_below(128));
    else if (p->dtype == DT_F32)
      ((float *)data)[i] = (float)random_below(2001) / 1000.f - 1.f;
    else
      ((int32_t *)data)[i] = (int32_t)random_below(40);
  }
}

static void compare(const ZooRun *r, const void *want, const void *got) {
  const UOp *p = r->k.params[0];
  for (int64_t i = 0; i < elements(r, p); i++) {
    char text[200];
    if (p->dtype == DT_F32) {
      double a = (double)((const float *)want)[i], b = (double)((const float *)got)[i];
      if (fabs(a - b) <= 1e-4 + 1e-4 * fabs(a)) continue;
      snprintf(text, sizeof text, "element %lld is %g, not %g", (long long)i, b, a);
    } else {
      int32_t a = ((const int32_t *)want)[i], b = ((const int32_t *)got)[i];
      if (a == b) continue;
      snprintf(text, sizeof text, "element %lld is %d, not %d", (long long)i, b, a);
    }
    zoo_explain(r, text);
    fail();
  }
}

/* -- the same opts on a device ---------------------------------------------------------------- */

static Device *device;

static ProgramSpec spec_of(const KernelObject *o) {
  ProgramSpec s = {.image = {(const uint8_t *)o->object.ptr, o->object.len},
                   .entry = o->entry,
                   .threads = o->threads,
                   .scratch_bytes = o->scratch_bytes};
  for (int d = 0; d < 3; d++) s.grid[d] = (uint32_t)o->grid[d], s.block[d] = o->block[d];
  return s;
}

static Status run_program(const InterpBuffer *bufs, size_t n, Program *p) {
  LaunchArg args[4];
  Fence fence;
  Status st = NULL;
  for (size_t a = 0; a < n; a++) {
    args[a] = (LaunchArg){0};
    if (!st) st = device_buffer_alloc(device, bufs[a].bytes, -1, &args[a].buffer);
    if (!st) st = device_write(device, args[a].buffer, 0, bufs[a].data, bufs[a].bytes);
  }
  Launch launch = {.program = p, .args = args, .nargs = (uint32_t)n};
  if (!st) st = device_submit(device, &launch, 1, &fence);
  if (!st) st = device_wait(device, fence, -1);
  if (!st) st = device_read(device, args[0].buffer, 0, bufs[0].data, bufs[0].bytes);
  for (size_t a = 0; a < n; a++) device_buffer_free(device, args[a].buffer);
  return st;
}

/* What compile_kernel makes of the kernel with those opts, in place of the interpreter. */
static void run_on_device(Job *job, const ZooRun *r, const InterpBuffer *bufs) {
  KernelObject object;
  Program *p = NULL;
  StrBuf opts = {0};
  Target t = local_target(device);
  opts_print(&r->opts, &opts);
  Status st = compile_kernel(job, r->k.sink, "tested", &t, opts.ptr ? opts.ptr : "", &object);
  if (!st) {
    ProgramSpec spec = spec_of(&object);
    st = device_program_load(device, &spec, &p);
  }
  if (!st) st = run_program(bufs, r->k.nargs, p);
  device_program_free(device, p);
  strbuf_deinit(&object.object);
  strbuf_deinit(&opts);
  zoo_must(r, st);
}

/* Runs a compiled schedule and checks its output. */
static void check_run(Job *job, ZooRun *r) {
  InterpBuffer bufs[6];
  for (uint32_t v = 0; v < 2; v++)
    bufs[r->k.nargs + v] = (InterpBuffer){&r->vars[v], sizeof r->vars[v]};
  for (uint32_t a = 0; a < r->k.nargs; a++) {
    bufs[a].bytes = (size_t)elements(r, r->k.params[a]) * 4;
    bufs[a].data = calloc(1, bufs[a].bytes);
    assert_non_null(bufs[a].data);
    if (a) fill(r, r->k.params[a], bufs[a].data);
  }
  void *want = calloc(1, bufs[0].bytes), *got = bufs[0].data;
  assert_non_null(want);
  memset(got, 0xAB, bufs[0].bytes);
  if (device)
    run_on_device(job, r, bufs);
  else
    zoo_must(r, interp_launch(job, &r->linear, bufs, r->k.nargs));
  bufs[0].data = want;
  zoo_must(r, interp_kernel(job, r->k.sink, bufs, r->k.nargs));
  compare(r, want, got);
  free(want);
  free(got);
  for (uint32_t a = 1; a < r->k.nargs; a++) free(bufs[a].data);
}

/* Compiles and runs one schedule and checks its output. */
static void check(Job *job, ZooRun *r) {
  zoo_must(r, job_run(job, zoo_compile, r));
  check_run(job, r);
}

static const ZooConv convs[] = {
    {.n = 1, .c = 3, .h = 9, .w = 10, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 1},
    {.n = 2, .c = 2, .h = 12, .w = 12, .oc = 5, .kh = 3, .kw = 3, .stride = 2, .pad = 1},
    {.n = 1,
     .c = 2,
     .h = 7,
     .w = 7,
     .oc = 9,
     .kh = 3,
     .kw = 3,
     .stride = 1,
     .pad = 1,
     .flat = true},
    {.n = 1,
     .c = 2,
     .h = 16,
     .w = 16,
     .oc = 4,
     .kh = 3,
     .kw = 3,
     .stride = 2,
     .pad = 1,
     .flat = true},
    {.n = 1,
     .c = 5,
     .h = 6,
     .w = 6,
     .oc = 9,
     .kh = 1,
     .kw = 1,
     .stride = 1,
     .pad = 0,
     .flat = true},
    {.n = 1,
     .c = 6,
     .h = 8,
     .w = 20,
     .oc = 6,
     .kh = 3,
     .kw = 3,
     .stride = 1,
     .pad = 1,
     .depthwise = true},
};

enum { NKERNELS = 30 };
static ZooKernel kernel(Job *job, int i) {
  switch (i) {
  case 0: return zoo_matmul(job, DT_F32, 12, 40, 24, false);
  case 1: return zoo_matmul(job, DT_F32, 9, 37, 13, true);
  case 2: return zoo_matmul(job, DT_I32, 8, 20, 16, false);
  case 3: return zoo_elementwise(job, 100);
  case 4: return zoo_transpose(job, 20, 33);
  case 5: return zoo_softmax(job, 3, 37, false);
  case 6: return zoo_softmax(job, 4, 32, true);
  case 7: return zoo_layernorm(job, 3, 40, false);
  case 8: return zoo_layernorm(job, 3, 33, true);
  case 9: return zoo_sum(job, DT_F32, OP_ADD, 5, 70, 0);
  case 10: return zoo_sum(job, DT_I32, OP_MAX, 50, 20, 1);
  case 11: return zoo_sum(job, DT_I32, OP_ADD, 20, 33, 2);
  case 12: return zoo_gather(job, 6, 11, 24);
  case 13: return zoo_nested(job, 6, 9, 12);
  case 14: return zoo_matmul(job, DT_F32, 1, 30, 64, true);
  case 15: return zoo_elementwise(job, 1);
  case 22: return zoo_prologue(job, 20, 40, 12);
  case 23: return zoo_matmul_of(job, DT_U8, DT_I8, DT_I32, 9, 40, 24, false);
  case 24: return zoo_matmul_of(job, DT_U8, DT_I8, DT_I32, 5, 32, 64, true);
  case 25: return zoo_matmul_of(job, DT_BF16, DT_BF16, DT_F32, 6, 33, 24, false);
  case 26: return zoo_matmul_of(job, DT_U8, DT_I8, DT_I32, 7, 50, 21, false);
  case 27: return zoo_attention(job, 20, 24, 6, 10, false);
  case 28: return zoo_attention(job, 19, 23, 5, 8, true);
  case 29: return zoo_gram(job, 6, 5);
  default: return zoo_conv(job, convs[i - 16]);
  }
}

typedef struct Case {
  int kernel;
  const char *opts;
} Case;

static const Case cases[] = {
    {0, ""},
    {0, "VECTOR(1,16)"},
    {0, "VECTOR(1,8) UPCAST(1,2) UPCAST(0,4)"},
    {0, "VECTOR(1,16) UPCAST(1,2) UPCAST(0,5) UNROLL(2,4) THREAD(0,2)"},
    {0, "VECTOR(1,16) UPCAST(0,8) ORDER(1,0) STAGE(1,1)"},
    {0, "VECTOR(1,8) UPCAST(1,2) UPCAST(0,3) UNROLL(2,2) ORDER(1,0) STAGE(1,1) THREAD(1,2)"},
    {0, "VECTOR(2,8) UPCAST(1,4) UNROLL(2,3)"},
    {0, "PADTO(1,64) VECTOR(1,64)"},
    {0, "PADTO(2,32) VECTOR(2,16) UNROLL(2,2)"},
    {1, "VECTOR(1,16) UPCAST(0,4) ORDER(1,0) STAGE(1,1)"},
    {1, "VECTOR(1,16) UPCAST(0,4) ORDER(1,0) STAGE(0,0) STAGE(1,1) THREAD(1,3)"},
    {1, "PADTO(2,16) VECTOR(2,16) UPCAST(1,4)"},
    {1, "STAGE(-1,0) STAGE(-1,1)"},
    {2, "VECTOR(1,16) UNROLL(2,16) UPCAST(0,2)"},
    {2, "VECTOR(2,16) UPCAST(1,4)"},
    {3, "VECTOR(0,16) UPCAST(0,4) THREAD(0,2)"},
    {3, "PADTO(0,16) VECTOR(0,16)"},
    {4, "VECTOR(1,16) UPCAST(0,16)"},
    {4, "VECTOR(0,16) UPCAST(1,4) THREAD(1,2)"},
    {5, "PADTO(2,16) VECTOR(2,16) UNROLL(2,3) VECTOR(1,16) THREAD(0,2)"},
    {6, "VECTOR(2,16) UNROLL(2,2) VECTOR(1,16) UPCAST(1,2)"},
    {5, "KEEP(0,0)"},
    {5, "KEEP(0,1)"},
    {5, "KEEP(0,0) KEEP(0,1) UPCAST(0,2)"},
    {5, "KEEP(-1,1) VECTOR(0,2)"},
    {5, "PADTO(2,16) VECTOR(2,16) UNROLL(2,3) VECTOR(1,16) KEEP(0,1) THREAD(0,2)"},
    {5, "UNROLL(2,37) VECTOR(1,8) UPCAST(1,2) KEEP(0,1)"},
    {5, "PADTO(2,40) UNROLL(2,4) PADTO(1,16) VECTOR(1,16) UPCAST(0,3) KEEP(0,0) KEEP(0,1)"},
    {5, "VECTOR(0,2) UNROLL(2,37) UPCAST(1,3) KEEP(0,1)"},
    {7, "VECTOR(2,8) VECTOR(3,8) UNROLL(3,5) VECTOR(1,8)"},
    {8, "VECTOR(1,16) UNROLL(2,3) UNROLL(3,3)"},
    {8, "PADTO(2,16) VECTOR(2,16) PADTO(3,16) VECTOR(3,16) VECTOR(1,16)"},
    {9, "PADTO(1,64) VECTOR(1,16) UNROLL(1,4)"},
    {10, "VECTOR(1,16) UNROLL(0,5)"},
    {11, "PADTO(1,16) VECTOR(1,16) UNROLL(0,4)"},
    {12, "VECTOR(1,16) UPCAST(0,2)"},
    {12, "VECTOR(0,4) UPCAST(1,3)"},
    {13, "VECTOR(0,4) UNROLL(1,3) UNROLL(2,4)"},
    {13, "VECTOR(2,4) UPCAST(0,3)"},
    {14, "VECTOR(2,16) UNROLL(2,2) UPCAST(1,4)"},
    {16, "VECTOR(2,8) UPCAST(0,4) UNROLL(4,3) UNROLL(5,3)"},
    {16, "VECTOR(2,8) UPCAST(1,3) UPCAST(0,2) STAGE(1,0)"},
    {17, "VECTOR(3,4) UPCAST(1,5) UNROLL(5,3) UNROLL(6,3) ORDER(3,0) STAGE(3,0)"},
    {18, "VECTOR(1,16) UPCAST(1,2) UPCAST(0,3) ORDER(1,0) STAGE(1,0) THREAD(1,2)"},
    {18, "PADTO(1,16) VECTOR(1,16) UPCAST(0,3) ORDER(1,0) STAGE(1,0)"},
    {18, "VECTOR(1,16) UNROLL(3,3) UNROLL(4,3)"},
    {19, "VECTOR(1,16) UPCAST(0,4) ORDER(1,0) STAGE(1,0)"},
    {19, "VECTOR(1,8) UNROLL(3,3) UNROLL(4,3)"},
    {17, "MERGE(2,3) VECTOR(2,16) UPCAST(1,5) ORDER(1,2) STAGE(2,0)"},
    {17, "MERGE(0,1) MERGE(0,2) MERGE(0,3) VECTOR(0,8) UNROLL(5,3)"},
    {16, "MERGE(3,4) MERGE(3,5) UNROLL(3,9) VECTOR(2,8)"},
    {22, "VECTOR(1,16) UPCAST(0,4) ORDER(0,1) STAGE(1,3)"},
    {27, "KEEP(0,0)"},
    {27, "KEEP(0,0) KEEP(0,1) KEEP(0,2)"},
    {27, "VECTOR(0,16) UPCAST(1,5) UNROLL(2,4) UNROLL(4,2) KEEP(0,0) KEEP(0,1) KEEP(0,2)"},
    {27, "REPAIR(2,8)"},
    {27, "REPAIR(6,1) UPCAST(0,3)"},
    {27, "REPAIR(4,6) KEEP(0,0) KEEP(0,1) KEEP(0,2)"},
    {27, "VECTOR(0,8) UPCAST(0,2) UPCAST(1,5) UNROLL(2,4) UNROLL(4,8) REPAIR(2,8) KEEP(0,0) "
         "KEEP(0,1) KEEP(0,2) THREAD(0,2)"},
    {27, "VECTOR(2,8) VECTOR(4,4) VECTOR(1,2) REPAIR(2,8) KEEP(0,0) KEEP(0,1)"},
    {27, "VECTOR(6,8) UNROLL(2,3) UPCAST(1,2) REPAIR(2,24) KEEP(0,1)"},
    {28, "PADTO(2,8) PADTO(4,8) PADTO(6,8) REPAIR(2,8)"},
    /* Copied for all blocks, outside of the loop over them. */
    {27, "REPAIR(2,8) STAGE(-1,1) STAGE(-1,3) STAGE(-1,5) STAGE(-1,6)"},
    {27, "VECTOR(0,16) UPCAST(1,5) UNROLL(2,4) UNROLL(4,2) REPAIR(2,8) STAGE(-1,1) STAGE(-1,3) "
         "STAGE(-1,5) STAGE(-1,6) KEEP(0,0) KEEP(0,1) KEEP(0,2)"},
    {28, "PADTO(2,8) PADTO(4,8) PADTO(6,8) REPAIR(2,8) STAGE(-1,1) STAGE(-1,3) STAGE(-1,5) "
         "STAGE(-1,6)"},
    {28, "PADTO(2,6) PADTO(4,6) PADTO(6,6) VECTOR(0,16) UNROLL(2,2) UNROLL(4,3) UPCAST(1,8) "
         "REPAIR(2,6) KEEP(0,0) KEEP(0,1) KEEP(0,2)"},
    {22, "VECTOR(1,16) UPCAST(0,4) ORDER(0,1) STAGE(1,1) STAGE(1,3)"},
    {29, "KEEP(-1,0)"},
    {29, "KEEP(-1,0) THREAD(0,2)"}, /* a thread needs the rows of the other one as well */
    {29, "KEEP(-1,0) THREAD(1,2)"},
    {29, "UPCAST(1,6) KEEP(-1,0) THREAD(0,2)"},
    {22, "UPCAST(0,4) STAGE(-1,3) STAGE(0,0)"},
    {0, "UNROLL(2,4) VECTOR(1,16) UPCAST(0,3) CARRY(2,0)"},
    {0, "SPLIT(2,8) VECTOR(1,8) UPCAST(0,5) CARRY(3,1) STAGE(3,0) STAGE(3,1) THREAD(0,2)"},
    {0, "SPLIT(1,16) SPLIT(2,12) VECTOR(1,16) UPCAST(0,5) ORDER(3,0) CARRY(4,1) STAGE(4,1)"},
    {0, "SPLIT(1,24) SPLIT(2,6) VECTOR(1,16) UPCAST(0,8) ORDER(3,0) ORDER(1,1) CARRY(4,1)"},
    {0, "SPLIT(0,5) SPLIT(1,24) SPLIT(2,6) VECTOR(1,8) UPCAST(0,2) ORDER(4,0) CARRY(5,1) "
        "STAGE(5,1) STAGE(3,0) THREAD(3,2)"},
    {1, "CARRY(2,0)"},
    {1, "PADTO(2,16) UNROLL(2,4) VECTOR(1,16) CARRY(2,1) STAGE(2,1)"},
    {2, "SPLIT(2,8) CARRY(3,0) VECTOR(1,16) STAGE(-1,0)"},
    {10, "SPLIT(0,10) VECTOR(1,16) CARRY(2,0)"}, /* a maximum */
    {17, "CARRY(4,2) VECTOR(3,4) STAGE(4,0)"},
    {20, "VECTOR(1,16) UPCAST(0,3)"},
    {21, "VECTOR(2,16) UPCAST(1,4) UNROLL(3,3) UNROLL(4,3)"},
};

/* Matrix instructions of a CPU. */
enum { U8I8 = MX_U8I8_N16K4, BF16 = MX_BF16_N16K2 };
static const struct {
  int kernel, row;
  int axis, n, k;
  const char *before, *after;
} tc_cases[] = {
    {23, U8I8, 0, 1, 2, "", ""},
    {23, U8I8, 0, 1, 2, "", " UPCAST(1,2) UPCAST(0,4) ORDER(0,1) STAGE(1,1)"},
    {23, U8I8, 1, 1, 2, "", " UPCAST(0,3) UNROLL(2,2) STAGE(-1,1) STAGE(0,0) THREAD(0,2)"},
    {23, U8I8, 0, 1, 2, "SPLIT(2,8) ", " UPCAST(0,2) CARRY(3,0) STAGE(3,1)"},
    {24, U8I8, 0, 1, 2, "", " UPCAST(0,5) ORDER(0,1) STAGE(1,1)"},
    {24, U8I8, 0, 1, 2, "SPLIT(2,16) ", " UPCAST(1,2) ORDER(0,1) CARRY(3,0) STAGE(1,1)"},
    {25, BF16, 0, 1, 2, "", " UPCAST(1,2) UPCAST(0,3) ORDER(0,1) STAGE(1,1)"},
    {25, BF16, 0, 1, 2, "", " UNROLL(2,3) STAGE(-1,1)"},
    {26, U8I8, 0, 1, 2, "PADTO(2,4) ", " UPCAST(0,3) ORDER(0,1) STAGE(1,1)"},
    {26, U8I8, 0, 1, 2, "PADTO(2,4) ", " UPCAST(1,2) STAGE(-1,1) STAGE(-1,0)"},
};

static const Case gpu_cases[] = {
    {0, ""},
    {0, "NOLOCALS(0,0) UPCAST(0,4)"},
    {0, "LOCAL(1,8) LOCAL(0,4)"},
    {0, "LOCAL(1,16) LOCAL(0,8) UNROLL(2,4)"}, /* neither divides */
    {0, "VECTOR(1,4) UPCAST(0,3) LOCAL(1,5) LOCAL(0,2) UNROLL(2,4)"},
    {0, "LOCAL(1,8) GROUP(2,4)"},
    {0, "GROUPTOP(2,8) LOCAL(1,8) UPCAST(0,4)"},
    {0, "VECTOR(2,4) GROUP(2,6) LOCAL(1,4)"},
    {1, "PADTO(2,16) GROUP(2,16) LOCAL(0,3)"},
    {1, "VECTOR(1,4) UPCAST(0,2) PADTO(2,32) GROUP(2,32)"},
    {2, "GROUP(2,16) VECTOR(1,4)"},
    {3, "VECTOR(0,4) LOCAL(0,16)"},
    {3, "PADTO(0,64) LOCAL(0,64)"},
    {4, "LOCAL(1,8) LOCAL(0,8)"},
    {5, "PADTO(2,32) GROUP(2,32) LOCAL(1,32)"}, /* the sum's threads write the row */
    {6, "GROUP(2,32) LOCAL(1,32)"},
    {6, "GROUP(2,16) LOCAL(0,2) LOCAL(1,16)"},
    {7, "GROUP(2,8) GROUP(3,8) LOCAL(1,8)"},
    {7, "VECTOR(2,4) GROUP(2,10) GROUPTOP(3,10) LOCAL(1,10)"},
    {8, "PADTO(2,64) GROUP(2,64) PADTO(3,64) GROUP(3,64)"},
    {9, "PADTO(1,128) GROUP(1,128)"},
    {9, "PADTO(1,128) VECTOR(1,4) GROUP(1,32) UPCAST(0,5)"},
    {10, "GROUP(0,25) LOCAL(1,10)"},
    {11, "GROUP(0,10) PADTO(1,64) GROUP(1,16)"},
    {12, "LOCAL(1,16)"},
    {13, "GROUP(1,3) GROUP(2,4)"},
    {13, "LOCAL(0,2) GROUP(2,4)"},
    {13, "GROUPTOP(2,12) LOCAL(0,3)"},
    {13, "UNROLL(2,4) PIPELINE(1,4) LOCAL(0,3) STAGE(1,1)"}, /* read by a loop inside of that one */
    {14, "PADTO(2,32) GROUP(2,32)"},
    {16, "LOCAL(2,8) GROUP(3,3) UPCAST(1,2)"},
    {17, "MERGE(2,3) LOCAL(2,16) GROUP(5,3)"},
    {21, "LOCAL(2,20) GROUP(4,3)"},
    {22, "LOCAL(1,16) GROUP(2,12)"},
    {3, "PADTO(0,112) VECTOR(0,4) LOCAL(0,7) SPREAD(0,2)"},
    {3, "LOCAL(0,5) SPREAD(0,4)"},
    {4, "LOCAL(0,4) SPREAD(0,5) LOCAL(1,3) SPREAD(1,11)"},
    /* a row in registers between its reductions and what is made of it */
    {5, "PADTO(2,64) GROUP(2,16) SPREAD(2,4) PADTO(1,64) LOCAL(1,16) SPREAD(1,4)"},
    {6, "VECTOR(2,4) GROUP(2,4) SPREAD(2,2) VECTOR(1,4) LOCAL(1,4) SPREAD(1,2)"},
    {7, "PADTO(2,48) VECTOR(2,4) GROUP(2,4) SPREAD(2,3) PADTO(3,48) VECTOR(3,4) GROUP(3,4) "
        "SPREAD(3,3) PADTO(1,48) VECTOR(1,4) LOCAL(1,4) SPREAD(1,3)"},
    {9, "UNROLL(1,5) GROUPTOP(1,7) SPREAD(1,2)"},
    {10, "LOCAL(1,5) SPREAD(1,4) GROUP(0,5) SPREAD(0,2)"},
    {0, "LOCAL(1,8) LOCAL(0,4) STAGE(-1,0)"},
    {0, "LOCAL(1,8) LOCAL(0,4) UNROLL(2,4) STAGE(2,0) STAGE(2,1)"},
    {0, "UPCAST(1,4) UPCAST(0,3) LOCAL(1,10) LOCAL(0,4) UNROLL(2,8) STAGE(2,0) STAGE(2,1)"},
    {0, "VECTOR(1,4) LOCAL(1,10) LOCAL(0,3) STAGE(2,0) STAGE(2,1) UNROLL(2,6)"},
    {0, "LOCAL(1,8) GROUP(2,4) STAGE(2,1)"},
    {1, "UPCAST(1,4) PADTO(2,8) UNROLL(2,8) LOCAL(1,9) LOCAL(0,4) STAGE(2,0) STAGE(2,1)"},
    {2, "STAGE(-1,0) STAGE(-1,1)"}, /* one thread */
    {16, "LOCAL(2,8) UPCAST(1,2) STAGE(3,0)"},
    {16, "LOCAL(2,8) UNROLL(5,3) STAGE(4,0) STAGE(3,1)"},
    {17, "MERGE(2,3) LOCAL(2,16) LOCAL(1,5) STAGE(4,1)"},
    {22, "LOCAL(1,8) LOCAL(0,4) UNROLL(2,4) STAGE(2,0) STAGE(2,3)"},
};

static void run_case(const Case *c) {
  Job job;
  job_init(&job, 0);
  ZooRun r = {.target = &target, .k = kernel(&job, c->kernel)};
  Status st = opts_parse(&job, str_from(c->opts), &r.opts);
  zoo_must(&r, st);
  check(&job, &r);
  job_deinit(&job);
}

static void chosen_schedules(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    random_state = i;
    run_case(&cases[i]);
  }
}

static void run_tc_cases(const Target *t) {
  for (size_t i = 0; i < sizeof tc_cases / sizeof *tc_cases; i++) {
    char text[200];
    if (!matrix_on(matrix_info(tc_cases[i].row), t)) continue;
    int64_t arg = opt_tc_arg(tc_cases[i].row, (uint32_t)tc_cases[i].n, (uint32_t)tc_cases[i].k);
    snprintf(text, sizeof text, "%sTC(%d,%lld)%s", tc_cases[i].before, tc_cases[i].axis,
             (long long)arg, tc_cases[i].after);
    random_state = i;
    run_case(&(Case){tc_cases[i].kernel, text});
  }
}

static void matrix_schedules(void **state) {
  (void)state;
  run_tc_cases(&target);
}

/* As machine code for this processor. */
static void chosen_as_code(void **state) {
  (void)state;
  assert_null(device_cpu_create(2, &device));
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    random_state = i;
    run_case(&cases[i]);
  }
  Target host = local_target(device);
  run_tc_cases(&host);
  device_destroy(device);
  device = NULL;
}

static void chosen_on_gpu(void **state) {
  (void)state;
  /* a driver takes its time for each kernel */
  for (size_t i = 0; i < sizeof gpu_cases / sizeof *gpu_cases; i += device ? 3 : 1) {
    random_state = i;
    run_case(&gpu_cases[i]);
  }
}

static void heuristic_schedules(void **state) {
  (void)state;
  for (uint32_t bytes = 64; bytes >= 16; bytes /= 2) {
    target.vector_bytes = bytes;
    target.vector_registers = bytes == 64 ? 32 : 16;
    for (int i = 0; i < NKERNELS; i++) {
      Job job;
      job_init(&job, 0);
      ZooRun r = {.target = &target, .k = kernel(&job, i), .heuristic = true};
      random_state = (uint64_t)i;
      check(&job, &r);
      /* Scalar loops are the way out when the rules contradict each other; they should not. */
      if (i != 15 && !r.opts.len) zoo_explain(&r, "no opts");
      if (i != 15) assert_true(r.opts.len > 0);
      job_deinit(&job);
    }
  }
  target.vector_bytes = 64, target.vector_registers = 32;
}

static void chosen_on_opencl(void **state) {
  Status st = SANITIZED ? FAIL(UNAVAILABLE, "drivers are not built with sanitizers")
                        : device_opencl_create(0, &device);
  if (st) {
    char text[300];
    status_text(st, text, sizeof text);
    print_message("skipped: %s\n", text);
    status_drop(st);
    return;
  }
  chosen_on_gpu(state);
  device_destroy(device);
  device = NULL;
}

static void heuristic_on_gpu(void **state) {
  (void)state;
  for (int i = 0; i < NKERNELS; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &target, .k = kernel(&job, i), .heuristic = true};
    random_state = (uint64_t)i;
    check(&job, &r);
    if (i != 15 && !r.opts.len) zoo_explain(&r, "no opts");
    if (i != 15) assert_true(r.opts.len > 0);
    job_deinit(&job);
  }
}

static void random_opts(Job *job, ZooRun *r) {
  static const int sizes[] = {2, 3, 4, 5, 7, 8, 16, 32};
  const KernelInfo *k = kernel_info(job, r->k.sink);
  uint32_t naxes = k->naxes;
  /* Not every proof about sizes that a run decides survives a SPLIT. */
  for (uint32_t n = r->k.sink->symbolic ? 0 : random_below(4); n-- > 0;)
    zoo_try(job, r, OPT_SPLIT, (int)random_below(naxes), 2 + random_below(15));
  naxes += (uint32_t)r->opts.len;
  for (uint32_t n = random_below(8); n-- > 0;) {
    OptKind kind = (OptKind)random_below(OPT__COUNT);
    int axis = (int)random_below(naxes + 1) - 1;
    int64_t arg = sizes[random_below(8)];
    if (kind == OPT_TC)
      arg = opt_tc_arg(random_below(MX__COUNT), random_below(naxes), random_below(naxes));
    if (kind == OPT_STAGE) arg = random_below(k->noperands + 1);
    if (kind == OPT_REPAIR && random_below(2)) arg = 1 + random_below(30);
    if (kind == OPT_KEEP) arg = random_below(k->nkept + 1);
    if (kind == OPT_ORDER || kind == OPT_CARRY) arg = random_below(3);
    zoo_try(job, r, kind, axis, arg);
  }
}

/* -- what is no number ------------------------------------------------------------------------- */

/* Inputs with a few infinities and NaNs: which results are no numbers is the same in every
 * schedule. The weights of a row do not underflow. */
static void spoil(ZooRun *r, InterpBuffer *args, int param, int kind) {
  static const float odd[] = {INFINITY, -INFINITY, NAN};
  const UOp *p = r->k.params[param];
  for (int n = 0; n < 2; n++)
    ((float *)args[param].data)[random_below((uint32_t)elements(r, p))] = odd[kind];
}

static void odd_rows(void **state) {
  static const char *const lists[] = {
      "KEEP(0,0) KEEP(0,1) KEEP(0,2)",
      "PADTO(2,4) PADTO(4,4) PADTO(6,4) REPAIR(2,4) KEEP(0,0) KEEP(0,1) KEEP(0,2)",
      "PADTO(2,8) PADTO(4,8) PADTO(6,8) VECTOR(0,8) UNROLL(2,4) UPCAST(1,2) REPAIR(2,8) KEEP(0,0) "
      "KEEP(0,1) KEEP(0,2)"};
  use_cpu(state);
  for (int round = 0; round < 54; round++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &target, .k = kernel(&job, 27 + round % 2)};
    InterpBuffer args[4];
    zoo_must(&r, opts_parse(&job, str_from(lists[round / 2 % 3]), &r.opts));
    zoo_must(&r, job_run(&job, zoo_compile, &r));
    for (uint32_t a = 0; a < 4; a++) {
      args[a].bytes = (size_t)elements(&r, r.k.params[a]) * 4;
      args[a].data = arena_alloc(&job.arena, args[a].bytes);
      fill(&r, r.k.params[a], args[a].data);
    }
    spoil(&r, args, 1 + round / 6 % 3, round / 18);
    float *want = arena_alloc(&job.arena, args[0].bytes), *got = args[0].data;
    zoo_must(&r, interp_kernel(&job, r.k.sink, args, 4));
    memcpy(want, got, args[0].bytes);
    zoo_must(&r, interp_linear(&job, r.linear.list, r.linear.len, args, 4, 0));
    for (size_t i = 0; i < args[0].bytes / 4; i++) {
      bool same =
          isnan(want[i]) ? isnan(got[i]) : want[i] == got[i] || fabsf(want[i] - got[i]) <= 1e-4f;
      if (!same) print_message("element %zu is %g, not %g\n", i, (double)got[i], (double)want[i]);
      if (!same) zoo_explain(&r, "differs");
      assert_true(same);
    }
    job_deinit(&job);
  }
}

static void random_schedules(void **state) {
  (void)state;
  for (int round = 0; round < 800; round++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &target, .k = kernel(&job, round % NKERNELS)};
    random_state = (uint64_t)round * 77 + 5;
    random_opts(&job, &r);
    check(&job, &r);
    job_deinit(&job);
  }
}

static void text_round_trip(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  static const char *const texts[] = {
      "", "VECTOR(1,16)",
      ("ORDER(1,0) VECTOR(1,16) UPCAST(0,8) UNROLL(2,4) THREAD(0,2) "
       "STAGE(-1,0) PADTO(3,64) MERGE(0,1)")};
  for (size_t i = 0; i < 3; i++) {
    OptList list;
    StrBuf b = {0};
    assert_null(opts_parse(&job, str_from(texts[i]), &list));
    opts_print(&list, &b);
    assert_string_equal(b.ptr ? b.ptr : "", texts[i]);
    strbuf_deinit(&b);
  }
  static const char *const bad[] = {"VECTOR",       "VECTOR(1,16",   "vector(1,16)",
                                    "VECTOR(1;16)", "VECTOR(1,x)",   "VECTOR(99999999999,1)",
                                    "FOO(1,2)",     "VECTOR(1,16) ,"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    OptList list;
    Status st = opts_parse(&job, str_from(bad[i]), &list);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
  job_deinit(&job);
}

typedef struct Illegal {
  int kernel;
  const char *opts, *why;
} Illegal;

static void expect_illegal(const Illegal *bad, size_t n) {
  for (size_t i = 0; i < n; i++) {
    Job job;
    job_init(&job, 0);
    OptList list;
    ZooKernel k = kernel(&job, bad[i].kernel);
    assert_null(opts_parse(&job, str_from(bad[i].opts), &list));
    Status st = opts_check(&job, k.sink, &target, &list);
    char text[300] = "";
    if (st) status_text(st, text, sizeof text);
    if (!strstr(text, bad[i].why)) {
      print_message("%s: expected '%s', got '%s'\n", bad[i].opts, bad[i].why, text);
      fail();
    }
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
    job_deinit(&job);
  }
}

static void illegal_opts(void **state) {
  (void)state;
  static const Illegal bad[] = {
      {0, "VECTOR(7,16)", "no such axis"},
      {0, "VECTOR(-1,16)", "no such axis"},
      {0, "VECTOR(1,12)", "power of two"},
      {0, "VECTOR(1,16) VECTOR(1,2)", "already"},
      {0, "VECTOR(1,16) VECTOR(0,4)", "two VECTOR"},
      {0, "VECTOR(1,64)", "has a tile of 64"},
      {0, "UPCAST(2,4)", "unrolled, not upcast"},
      {0, "UNROLL(0,4)", "upcast, not unrolled"},
      {0, "UNROLL(2,5)", "PADTO"},
      {0, "UPCAST(0,1)", "at least 2"},
      {0, "THREAD(2,2)", "only output axes"},
      {0, "THREAD(0,2) THREAD(1,2)", "already threaded"},
      {0, "UPCAST(0,12) THREAD(0,2)", "iterations for"},
      {0, "ORDER(1,2)", "fewer loops"},
      {0, "STAGE(1,3)", "fewer operands"},
      {0, "STAGE(1,1) STAGE(0,1)", "already staged"},
      {0, "STAGE(2,1)", "must be an output"},
      {0, "VECTOR(1,8) SPLIT(0,4)", "must come first"},
      {0, "SPLIT(2,5)", "multiple of the block"},
      {0, "SPLIT(0,12)", "smaller than the axis"},
      {0, "SPLIT(7,4)", "no such axis"},
      {0, "CARRY(0,0)", "must be a reduce axis"},
      {0, "CARRY(2,2)", "fewer output loops"},
      {0, "CARRY(2,0) CARRY(2,1)", "carried already"},
      {0, "UNROLL(2,24) CARRY(2,0)", "has no loop"},
      {6, "CARRY(2,0)", "belongs to 2"},
      {13, "CARRY(2,0)", "lies in another"},
      {0, "VECTOR(1,16) PADTO(1,64)", "before tiles"},
      {0, "MERGE(1,0)", "right inside"},
      {0, "MERGE(0,2)", "right inside"},
      {0, "VECTOR(1,16) MERGE(0,1)", "must come first"},
      {4, "UPCAST(0,20) UPCAST(1,33) UPCAST(1,2)", "tile of 66"},
  };
  expect_illegal(bad, sizeof bad / sizeof *bad);
}

/* -- sizes that are known when running ----------------------------------------------------------
 */

enum { NSYMBOLIC = 18 };
static ZooKernel symbolic_kernel(Job *job, int i) {
  int64_t n = dim_of(job, uop_var(job, 0, 1, 40, 1)), m = dim_of(job, uop_var(job, 1, 8, 48, 8));
  switch (i) {
  case 0: return zoo_matmul(job, DT_F32, n, 40, 24, false);
  case 1: return zoo_matmul(job, DT_F32, n, n, 12, true);
  case 2: return zoo_matmul(job, DT_F32, n, 32, n, false);
  case 3: return zoo_matmul(job, DT_F32, m, n, 8, false);
  case 4: return zoo_matmul(job, DT_F32, n, m, m, false);
  case 5: return zoo_elementwise(job, n);
  case 6: return zoo_elementwise(job, zoo_times(job, n, m));
  case 7: return zoo_transpose(job, n, m);
  case 8: return zoo_softmax(job, 3, n, false);
  case 9: return zoo_softmax(job, n, m, true);
  case 10: return zoo_sum(job, DT_F32, OP_ADD, n, m, 0);
  case 11: return zoo_sum(job, DT_I32, OP_MAX, n, 20, 1);
  case 12: return zoo_sum(job, DT_I32, OP_ADD, n, m, 2);
  case 13: return zoo_gather(job, n, 11, 24);
  case 14: return zoo_nested(job, n, m, 5);
  case 15: return zoo_prologue(job, n, 40, 12);
  case 16: return zoo_gram(job, 6, n);
  default: return zoo_matmul(job, DT_I32, 8, n, dim_add(job, n, m), false);
  }
}

static void check_sizes(Job *job, ZooRun *r) {
  static const int64_t sizes[][2] = {{1, 8}, {2, 48}, {7, 16}, {16, 32}, {17, 24}, {40, 40}};
  zoo_must(r, job_run(job, zoo_compile, r));
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    memcpy(r->vars, sizes[k], sizeof r->vars);
    check_run(job, r);
  }
}

static void symbolic_heuristic(void **state) {
  (void)state;
  for (uint32_t bytes = 64; bytes >= 16; bytes /= 2) {
    target.vector_bytes = bytes;
    target.vector_registers = bytes == 64 ? 32 : 16;
    for (int i = 0; i < NSYMBOLIC; i++) {
      Job job;
      job_init(&job, 0);
      ZooRun r = {.target = &target, .k = symbolic_kernel(&job, i), .heuristic = true};
      random_state = (uint64_t)i;
      check_sizes(&job, &r);
      if (!r.opts.len) zoo_explain(&r, "no opts");
      assert_true(r.opts.len > 0);
      job_deinit(&job);
    }
  }
  target.vector_bytes = 64, target.vector_registers = 32;
}

static void symbolic_chosen(void **state) {
  (void)state;
  static const Case some[] = {
      {0, "UPCAST(0,4) VECTOR(1,8) THREAD(0,3)"},
      {0, "PADTO(0,16) VECTOR(0,16) UPCAST(1,4)"},
      {0, "VECTOR(1,8) UPCAST(0,7) ORDER(0,1) STAGE(1,1) THREAD(1,2)"},
      {1, "PADTO(1,16) VECTOR(1,8) UPCAST(1,2) UPCAST(0,3) ORDER(0,1) STAGE(1,1) THREAD(1,2)"},
      {2, "PADTO(2,8) VECTOR(2,8) UPCAST(1,4)"},
      {2, "PADTO(2,6) UNROLL(2,6) VECTOR(1,16) STAGE(1,1)"},
      {3, "UPCAST(0,8) THREAD(0,4)"}, /* no clamp: 8 divides */
      {4, "VECTOR(1,8) UNROLL(2,4) UPCAST(0,2)"},
      {4, "VECTOR(1,8) UPCAST(0,3) STAGE(-1,1)"},
      {5, "PADTO(0,32) VECTOR(0,16) UPCAST(0,2) THREAD(0,2)"},
      {9, "VECTOR(2,8) VECTOR(1,8) THREAD(0,3)"},
      {12, "PADTO(0,4) UNROLL(0,4) VECTOR(1,8)"},
      {16, "UPCAST(1,6) PADTO(2,16) VECTOR(2,16) KEEP(-1,0) THREAD(0,2)"},
  };
  for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &target, .k = symbolic_kernel(&job, some[i].kernel)};
    random_state = i;
    zoo_must(&r, opts_parse(&job, str_from(some[i].opts), &r.opts));
    check_sizes(&job, &r);
    job_deinit(&job);
  }
}

/* Two tensors of n * n * n elements behind each other, the last of which is read at a row that a
 * gate tells to be its own. */
static ZooKernel symbolic_joined(Job *job, int64_t n) {
  Zoo z = {.job = job};
  int64_t rows = dim_mul(job, n, n), all = dim_mul(job, rows, n);
  UOp *c = zoo_param(&z, DT_F32, dim_mul(job, all, 4)), *x = zoo_param(&z, DT_F32, all);
  (void)c;
  UOp *i = zoo_range(&z, AX_LOOP, dim_mul(job, n, 4)), *j = zoo_range(&z, AX_LOOP, rows);
  UOp *three = dim_uop(job, dim_mul(job, n, 3));
  UOp *gate = uop2(job, OP_CMPLT, three, uop2(job, OP_ADD, i, uop_index(job, 1)));
  UOp *row = zoo_mul(&z, uop2(job, OP_SUB, i, three), rows), *at = zoo_mul(&z, i, rows);
  return zoo_done(&z, "joined", zoo_add(&z, at, j),
                  zoo_load(&z, x, uop2(job, OP_ADD, row, j), gate));
}

/* x[20 * n - 1 - i], with that taken apart into digits and put together again: it is inside, but a
 * proof is hardly found. */
static ZooKernel symbolic_digits(Job *job, int64_t n) {
  Zoo z = {.job = job};
  UOp *c = zoo_param(&z, DT_F32, dim_mul(job, n, 16)),
      *x = zoo_param(&z, DT_F32, dim_mul(job, n, 20));
  (void)c;
  UOp *i = zoo_range(&z, AX_LOOP, dim_mul(job, n, 16));
  UOp *t = uop2(job, OP_SUB, uop_index(job, -1), i);
  UOp *low = dim_uop(job, dim_mul(job, n, 2)), *high = dim_uop(job, dim_mul(job, n, 4));
  UOp *digit = uop2(job, OP_FLOORMOD, uop2(job, OP_FLOORDIV, t, low), uop_index(job, 2));
  UOp *at = zoo_mul(&z, uop2(job, OP_FLOORDIV, t, high), dim_mul(job, n, 4));
  at = uop2(job, OP_ADD, at, zoo_mul(&z, digit, dim_mul(job, n, 2)));
  at = uop2(job, OP_ADD, at, dim_uop(job, dim_mul(job, n, 20)));
  at = uop2(job, OP_ADD, at, uop2(job, OP_FLOORMOD, t, low));
  return zoo_done(&z, "digits", i, zoo_load(&z, x, at, NULL));
}

static void plain_loops(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  ZooRun r = {.target = &target};
  r.k = symbolic_digits(&job, dim_of(&job, uop_var(&job, 0, 1, 4, 1)));
  zoo_must(&r, job_run(&job, zoo_compile, &r));
  for (r.vars[0] = 1; r.vars[0] <= 4; r.vars[0]++) check_run(&job, &r);
  job_deinit(&job);
}

/* The gate of some rows of a tile is known: what it promised must be proven. */
static void known_gates(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  ZooRun r = {.target = &target};
  r.k = symbolic_joined(&job, dim_of(&job, uop_var(&job, 0, 1, 4, 1)));
  zoo_must(&r, opts_parse(&job, STR("UPCAST(0,16)"), &r.opts));
  zoo_must(&r, job_run(&job, zoo_compile, &r));
  for (r.vars[0] = 1; r.vars[0] <= 4; r.vars[0]++) check_run(&job, &r);
  job_deinit(&job);
}

static void symbolic_random(void **state) {
  (void)state;
  for (int round = 0; round < 200; round++) {
    Job job;
    job_init(&job, 0);
    ZooRun r = {.target = &target, .k = symbolic_kernel(&job, round % NSYMBOLIC)};
    random_state = (uint64_t)round * 77 + 5;
    random_opts(&job, &r);
    check_sizes(&job, &r);
    job_deinit(&job);
  }
}

static void illegal_on_gpu(void **state) {
  (void)state;
  static const Illegal bad[] = {
      {0, "THREAD(0,2)", "not threads"},
      {0, "STAGE(1,1)", "must be a reduce axis"},
      {0, "LOCAL(2,4)", "grouped, not local"},
      {0, "GROUP(0,4)", "local, not grouped"},
      {0, "LOCAL(1,1)", "at least 2"},
      {0, "LOCAL(1,4) LOCAL(1,2)", "already"},
      {0, "LOCAL(1,32) LOCAL(0,12)", "more threads than the device allows"},
      {0, "UPCAST(1,8) LOCAL(1,8)", "iterations for 8"},
      {0, "GROUP(2,16)", "PADTO"},
      {0, "UNROLL(2,4) GROUP(2,4)", "no multiple of 4"},
      {0, "SPREAD(1,2) LOCAL(1,4)", "must share the axis first"},
      {0, "LOCAL(1,4) SPREAD(1,7)", "that do 7 each"},
      {0, "LOCAL(1,4) SPREAD(1,2) SPREAD(1,2)", "already"},
      {0, "NOLOCALS(0,0) LOCAL(0,2)", "NOLOCALS"},
      {0, "LOCAL(0,2) NOLOCALS(0,0)", "already"},
      {0, "NOLOCALS(1,0)", "no axis"},
      {17, "LOCAL(1,5) LOCAL(2,6) LOCAL(3,2) GROUP(4,2)", "three dimensions"},
      {5, "KEEP(0,1) LOCAL(1,5)", "several threads"},
      {22, "STAGE(2,1) STAGE(2,3)", "is part of operand 3"},
      {18, "PIPELINE(3,2) STAGE(3,2)", "not read in the loop"},
      {5, "PIPELINE(2,2) STAGE(2,1)", "belongs to"},
  };
  expect_illegal(bad, sizeof bad / sizeof *bad);
}

#define ON(device_, test_)                                                                         \
  { #test_ " on " #device_, test_, use_##device_, NULL, NULL }

int main(void) {
  const struct CMUnitTest tests[] = {
      ON(cpu, text_round_trip),     ON(cpu, illegal_opts),       ON(cpu, chosen_schedules),
      ON(cpu, heuristic_schedules), ON(cpu, random_schedules),   ON(gpu, illegal_on_gpu),
      ON(gpu, chosen_on_gpu),       ON(gpu, chosen_on_opencl),   ON(gpu, heuristic_on_gpu),
      ON(gpu, random_schedules),    ON(cpu, symbolic_chosen),    ON(cpu, matrix_schedules),
      ON(cpu, chosen_as_code),      ON(cpu, symbolic_heuristic), ON(cpu, symbolic_random),
      ON(cpu, known_gates),         ON(cpu, plain_loops),        ON(gpu, symbolic_heuristic),
      ON(gpu, symbolic_random),     ON(cpu, odd_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
