/* A compile job: see job.h.
 *
 * The arena calls job_abort when it is full, so allocation never returns NULL in compiler/. What is
 * on the heap (node table, set table, walk scratch) is reachable from the Job and freed by
 * job_deinit, which is what makes leaving by longjmp safe at any point. */
#include "compiler/ir/job.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

static void arena_full(void *ctx) {
  Job *job = ctx;
  job_abort(job, FAIL(RESOURCE_EXHAUSTED,
                      "the compile job needs more than its memory limit of %zu bytes",
                      job->arena.limit));
}

void job_init(Job *job, size_t memory_limit) {
  *job = (Job){0};
  arena_init(&job->arena, memory_limit);
  job->arena.on_full = arena_full;
  job->arena.on_full_ctx = job;
}

void job_deinit(Job *job) {
  free(job->table);
  free(job->sets);
  for (int k = 0; k < JOB_SCRATCH__COUNT; k++) free(job->scratch[k].at);
  arena_deinit(&job->arena);
  status_drop(job->failure);
  *job = (Job){0};
}

Status job_run(Job *job, JobFn fn, void *arg) {
  assert(!job->out && "job_run is not reentrant for one job");
  jmp_buf out;
  job->out = &out;
  job->proving = false;
  if (!setjmp(out)) fn(job, arg);
  job->out = NULL;
  Status st = job->failure;
  job->failure = NULL;
  return st;
}

Status job_try(Job *job, JobFn fn, void *arg) {
  jmp_buf *outer = job->out, inner;
  bool proving = job->proving;
  assert(outer && "job_try is part of a job_run");
  job->out = &inner;
  if (!setjmp(inner)) fn(job, arg);
  job->out = outer;
  job->proving = proving;
  Status st = job->failure;
  job->failure = NULL;
  if (st && st->code != ST_INVALID_ARGUMENT && st->code != ST_UNIMPLEMENTED &&
      st->code != ST_FAILED_PRECONDITION)
    job_abort(job, st);
  return st;
}

_Noreturn void job_abort(Job *job, Status st) {
  assert(st && "an abort has a reason");
  if (!job->out) {
    char text[512];
    status_text(st, text, sizeof text);
    fprintf(stderr, "job_abort outside of job_run: %s\n", text);
    abort();
  }
  job->failure = st;
  longjmp(*job->out, 1);
}

void job_poll(Job *job) {
  if (job->step_limit && job->steps > job->step_limit) {
    job_abort(job, FAIL(RESOURCE_EXHAUSTED, "the compile job took more than %llu rewrite steps",
                        (unsigned long long)job->step_limit));
  }
  if (job->deadline_ns && clock_now_ns() > job->deadline_ns) {
    job_abort(job, FAIL(DEADLINE_EXCEEDED, "the deadline passed while compiling"));
  }
}

void **job_scratch(Job *job, int k, size_t n) {
  size_t bytes = job->scratch[k].bytes ? job->scratch[k].bytes : 4096;
  while (bytes / sizeof(void *) < n) bytes *= 2;
  if (bytes != job->scratch[k].bytes || !job->scratch[k].at) {
    void *p = realloc(job->scratch[k].at, bytes);
    if (!p) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "no memory for a walk over %zu nodes", n));
    job->scratch[k].at = p;
    job->scratch[k].bytes = bytes;
  }
  return job->scratch[k].at;
}
