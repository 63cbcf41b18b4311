/* Opt lists come from caches and other machines. Whatever parses and is found legal must go through
 * all passes and leave a program that the verifier accepts. The first byte picks the kernel, and
 * its highest bit a device with workgroups. */
#include <stdlib.h>

#include "compiler/ir/verify.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/schedule.h"
#include "tests/unit/zoo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const Target gpu = {.kind = "opencl",
                           .vector_bytes = 16,
                           .vector_registers = 64,
                           .threads = 1,
                           .max_group = 256,
                           .warp = 32,
                           .local_bytes = 48 << 10};
static const Target cpu = {.kind = "cpu",
                           .vector_bytes = 64,
                           .vector_registers = 32,
                           .threads = 4,
                           .l1_bytes = 48 << 10,
                           .l2_bytes = 2 << 20};

typedef struct Input {
  const Target *target;
  UOp *kernel;
  OptList opts;
} Input;

static UOp *pick_kernel(Job *job, uint8_t which) {
  ZooConv conv = {
      .n = 2, .c = 3, .h = 9, .w = 10, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 1};
  switch (which % 5) {
  case 0: return zoo_matmul(job, DT_F32, 12, 40, 24, false).sink;
  case 1: return zoo_conv(job, conv).sink;
  case 2: return zoo_softmax(job, 3, 37, true).sink;
  case 3: return zoo_nested(job, 6, 9, 12).sink;
  default: return zoo_gather(job, 6, 11, 24).sink;
  }
}

static void passes(Job *job, void *arg) {
  Input *in = arg;
  UOp *u = schedule_apply(job, in->kernel, in->target, &in->opts);
  Status st = verify_graph(job, u, STAGE_SCHEDULED, "schedule");
  if (!st) {
    u = lower_kernel(job, expand_kernel(job, u, in->target), in->target);
    st = verify_graph(job, u, STAGE_LOWERED, "lower");
  }
  if (st) abort();
  linearize_kernel(job, u, in->target);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || size > 400) return 0;
  Job job;
  job_init(&job, (size_t)256 << 20);
  Input in = {.target = data[0] & 128 ? &gpu : &cpu, .kernel = pick_kernel(&job, data[0] & 127)};
  Status st = opts_parse(&job, (Str){(const char *)data + 1, size - 1}, &in.opts);
  if (!st) st = opts_check(&job, in.kernel, in.target, &in.opts);
  if (!st) {
    st = job_run(&job, passes, &in);
    if (st && status_code(st) != ST_RESOURCE_EXHAUSTED) abort();
  }
  status_drop(st);
  job_deinit(&job);
  return 0;
}
