/* Schedules in records and hints come from anywhere. Whatever the texts are, the search ends, and
 * what it proposes is legal and can be written down and read again. The first byte picks the kernel
 * and, by its highest bit, a device with workgroups; the texts are separated by newlines, and those
 * that begin with '!' are evidence. */
#include <stdlib.h>

#include "compiler/search/opts.h"
#include "compiler/search/search.h"
#include "tests/unit/zoo_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXTS = 16, WANT = 4 };

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
  const Target *target = data[0] & 128 ? &zoo_cuda : &zoo_cpu;
  UOp *kernel = zoo_pick(&job, data[0] & 127);
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
