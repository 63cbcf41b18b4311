/* A candidate gives what the untuned kernel gives, on data of every pattern and, where sizes are
 * variables, at the least, at usual and at large ones.
 *
 * The untuned kernel has no tile, no vector and no reordered sum; it is slow, so its results are
 * kept for the candidates to come, of this job and of the next ones about the same kernel. */
#include <stdio.h>
#include <stdlib.h>

#include "daemon/worker/timing.h"
#include "proto/digest.h"

_Static_assert(sizeof((Timing){0}).key == DIGEST_BYTES, "the key is a SHA-256");

enum { UNTUNED_LIMIT_MS = 120000, SEED = 7 };
#define LARGE_BYTES (64ull << 20) /* arguments at large sizes */

static void drop_cases(Timing *t) {
  for (size_t i = 0; i < t->ncases; i++) {
    free(t->cases[i].vars);
    free(t->cases[i].result);
  }
  t->ncases = 0;
  t->keyed = false;
}

void timing_deinit(Timing *t) {
  if (t->args_kept) timing_args_deinit(&t->args);
  t->args_kept = false;
  timing_code_deinit(&t->codes);
  drop_cases(t);
}

static Status add_case(Timing *t, TimingPattern pattern, const int64_t *vars, size_t nvars) {
  int64_t *copy = calloc(nvars + 1, sizeof *copy);
  if (!copy || t->ncases == TIMING_CASES_MAX) {
    free(copy);
    return FAIL(RESOURCE_EXHAUSTED, "cases");
  }
  if (nvars) memcpy(copy, vars, nvars * sizeof *vars);
  t->cases[t->ncases++] = (TimingCase){.pattern = pattern, .vars = copy};
  return NULL;
}

/* The arguments at these sizes, or UINT64_MAX. */
static uint64_t bytes_at(Device *dev, const Kiln__V1__KernelFacts *facts, const int64_t *vars) {
  TimingArgs a;
  Status st = timing_args_init(dev, facts, vars, 0, &a);
  uint64_t bytes = st ? UINT64_MAX : a.footprint;
  if (!st) timing_args_deinit(&a);
  status_drop(st);
  return bytes;
}

static int64_t round_down(const Kiln__V1__KernelVar *v, int64_t x) {
  int64_t multiple = v->multiple > 1 ? (int64_t)v->multiple : 1;
  x -= x % multiple;
  return x < v->min ? v->min : x;
}

/* Sizes up to four times the usual ones, of a kernel that is then not too large. */
static void large_vars(Device *dev, const Kiln__V1__KernelFacts *facts, const int64_t *usual,
                       int64_t *out) {
  for (int64_t times = 4; times > 1; times--) {
    for (size_t i = 0; i < facts->n_vars; i++) {
      const Kiln__V1__KernelVar *v = facts->vars[i];
      int64_t most = usual[i] > INT64_MAX / times ? INT64_MAX : usual[i] * times;
      out[i] = round_down(v, most < v->max ? most : v->max);
    }
    if (bytes_at(dev, facts, out) <= LARGE_BYTES) return;
  }
  memcpy(out, usual, facts->n_vars * sizeof *out);
}

static Status add_cases(Timing *t, const Kiln__V1__KernelFacts *facts, const int64_t *vars) {
  size_t n = facts->n_vars;
  TRY(add_case(t, TP_RANDOM, vars, n));
  TRY(add_case(t, TP_SPECIALS, vars, n));
  TRY(add_case(t, TP_FLAT, vars, n));
  if (!n) return NULL;
  int64_t *other = calloc(n, sizeof *other);
  if (!other) return FAIL(RESOURCE_EXHAUSTED, "cases");
  for (size_t i = 0; i < n; i++) other[i] = facts->vars[i]->min;
  Status st = add_case(t, TP_RANDOM, other, n);
  if (!st) st = add_case(t, TP_SPECIALS, other, n);
  large_vars(t->dev, facts, vars, other);
  if (!st) st = add_case(t, TP_RANDOM, other, n);
  free(other);
  return st;
}

/* The cases belong to the kernel and sizes of the job. */
static Status choose_cases(Timing *t, const Kiln__V1__TimingJob *job, const int64_t *vars) {
  uint8_t key[DIGEST_BYTES];
  StrBuf text = {0};
  strbuf_add(&text, job->untuned->object.data, job->untuned->object.len);
  strbuf_add(&text, vars, job->facts->n_vars * sizeof *vars);
  if (text.failed) return strbuf_deinit(&text), FAIL(RESOURCE_EXHAUSTED, "the untuned kernel");
  digest_sha256(text.ptr ? text.ptr : "", text.len, key);
  strbuf_deinit(&text);
  if (t->keyed && !memcmp(key, t->key, sizeof key)) return NULL;
  drop_cases(t);
  TRY(add_cases(t, job->facts, vars));
  memcpy(t->key, key, sizeof key);
  t->keyed = true;
  return NULL;
}

static Status run_filled(const Timing *t, TimingArgs *a, const Kiln__V1__KernelBinary *binary,
                         TimingPattern pattern, const void **out) {
  TimingProgram p;
  Bytes code = timing_code(&t->codes, binary);
  TRY(timing_args_fill(a, pattern, SEED));
  TRY(timing_program_load(a->dev, binary, code, a->vars, a->facts->n_vars, &p));
  Status st = timing_run_once(a, &p);
  timing_program_free(a->dev, &p);
  return st ? st : timing_args_result(a, out);
}

static Status compute_untuned(Timing *t, const Kiln__V1__TimingJob *job, TimingCase *c,
                              TimingArgs *a) {
  const void *result;
  t->progress(t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__UNTUNED, 0, UNTUNED_LIMIT_MS);
  Status st = run_filled(t, a, job->untuned, c->pattern, &result);
  if (st) return WRAP(st, "the untuned kernel");
  uint64_t bytes = timing_args_result_bytes(a);
  c->result = malloc(bytes + 1);
  if (!c->result) return FAIL(RESOURCE_EXHAUSTED, "results of the untuned kernel");
  memcpy(c->result, result, bytes);
  return NULL;
}

static Status check_case(Timing *t, const Kiln__V1__TimingJob *job, TimingCase *c,
                         uint32_t candidate, uint32_t limit_ms, bool *same, char *why, size_t cap) {
  const void *got;
  TimingArgs a;
  TRY(timing_args_init(t->dev, job->facts, c->vars, 0, &a));
  Status st = c->result ? NULL : compute_untuned(t, job, c, &a);
  if (!st) {
    t->progress(t->ctx, KILN__V1__TIMING_PROGRESS__WHAT__CANDIDATE, candidate, limit_ms);
    st = run_filled(t, &a, job->candidates[candidate], c->pattern, &got);
  }
  if (!st) {
    const Kiln__V1__KernelFacts *f = job->facts;
    TimingCompare compare = {.dtype = (DType)f->args[0]->dtype,
                             .reduces = (DType)f->reduces,
                             .terms = f->terms,
                             .pattern = c->pattern};
    *same = timing_same(&compare, c->result, got, a.elements[0], why, cap);
  }
  timing_args_deinit(&a);
  return st;
}

Status timing_check(Timing *t, const Kiln__V1__TimingJob *job, const int64_t *vars,
                    uint32_t candidate, uint32_t limit_ms, bool *same, char *why, size_t cap) {
  *same = true;
  TRY(choose_cases(t, job, vars));
  for (size_t i = 0; *same && i < t->ncases; i++)
    TRY(check_case(t, job, &t->cases[i], candidate, limit_ms, same, why, cap));
  return NULL;
}
