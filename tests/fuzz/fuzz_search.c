/* Schedules in records and hints come from anywhere. Whatever the texts are, the search ends, and
 * what it proposes is legal and can be written down and read again. The first byte picks the kernel
 * and, by its highest bit, a device with workgroups; the texts are separated by newlines, and those
 * that begin with '!' are evidence. */
#include <stdlib.h>

#include "compiler/search/opts.h"
#include "compiler/search/search.h"
#include "tests/unit/zoo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const Target gpu = {.kind = "cuda",
                           .cpu = "sm_90",
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

enum { TEXTS = 16, WANT = 4 };

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

static void check(Job *job, UOp *kernel, const Target *target, const char *opts) {
  OptList list;
  if (opts_parse(job, str_from(opts), &list)) abort();
  if (opts_check(job, kernel, target, &list)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || size > 1000) return 0;
  Job job;
  Evidence tried[TEXTS];
  const char *hints[TEXTS];
  Candidate out[WANT];
  size_t ntried = 0, nhints = 0, n;
  job_init(&job, (size_t)256 << 20);
  char *text = arena_strdup(&job.arena, (Str){(const char *)data + 1, size - 1}), *rest = text;
  while (rest && ntried < TEXTS && nhints < TEXTS) {
    char *one = rest;
    rest = strchr(rest, '\n');
    if (rest) *rest++ = 0;
    if (*one == '!')
      tried[ntried] = (Evidence){one + 1, (int64_t)ntried * 1000 + 500, 1, 3, one[1] == '?'},
      ntried++;
    else
      hints[nhints++] = one;
  }
  const Target *target = data[0] & 128 ? &gpu : &cpu;
  UOp *kernel = pick_kernel(&job, data[0] & 127);
  SearchInput in = {.kernel = kernel,
                    .target = target,
                    .tried = tried,
                    .ntried = ntried,
                    .hints = hints,
                    .nhints = nhints,
                    .want = WANT};
  Status st = search_propose(&job, &in, out, &n);
  for (size_t i = 0; !st && i < n; i++) check(&job, kernel, target, out[i].opts);
  if (st && status_code(st) != ST_RESOURCE_EXHAUSTED) abort();
  status_drop(st);
  job_deinit(&job);
  return 0;
}
