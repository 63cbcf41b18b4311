/* Opt lists come from caches and other machines. Whatever parses and is found legal must go through
 * all passes and leave a program that the verifier accepts. The first byte picks the kernel, and
 * its highest bit a device with workgroups. */
#include <stdlib.h>

#include "tests/unit/zoo_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
  const Target *target;
  UOp *kernel;
  OptList opts;
} Input;

static void passes(Job *job, void *arg) {
  Input *in = arg;
  UOp *u = schedule_apply(job, in->kernel, in->target, &in->opts);
  Linear linear;
  if (zoo_lower(job, u, in->target, &linear)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || size > 400) return 0;
  Job job;
  job_init(&job, (size_t)256 << 20);
  Input in = {.target = data[0] & 128 ? &zoo_opencl : &zoo_cpu,
              .kernel = zoo_pick(&job, data[0] & 127)};
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
