/* At which sizes a kernel with VARs is timed, and whose evidence that is.
 *
 * The code of such a kernel serves every size, so there is one schedule in use; but what was timed
 * at one size is no evidence for another. A search works at the sizes that most runs had, and what
 * it measures is kept under a key of the kernel and the kind of these sizes. What wins there must
 * not lose at the other kinds that runs have had; it is then recorded under the kernel's own hash
 * too, where builds look. */
#include "daemon/server/tune_internal.h"
#include "proto/digest.h"

enum { USUAL = 32 }; /* what the compiler expects of a size that nobody knows */

static const Kiln__V1__PlanCall *call_of(const Kiln__V1__Plan *plan, uint32_t kernel) {
  for (size_t i = 0; i < plan->n_calls; i++)
    if (plan->calls[i]->kernel == kernel && !plan->calls[i]->once) return plan->calls[i];
  return NULL;
}

/* What a run of that kind had for the kernel's VAR i, 0 where the inputs do not say. */
static int64_t seen_size(const Executable *e, const Kiln__V1__PlanCall *call, size_t kind,
                         size_t i) {
  const Kiln__V1__Plan *plan = e->artifact->plan;
  uint32_t var = call && i < call->n_vars ? call->vars[i] : UINT32_MAX;
  bool said = kind < e->seen.n && var < plan->n_vars && var < e->face->n_vars &&
              plan->vars[var]->source == KILN__V1__PLAN_VAR__SOURCE__INPUT;
  return said ? e->seen.kinds[kind].at[var] : 0;
}

void tune_evidence_key(const Executable *e, uint32_t kernel, uint8_t out[DIGEST_BYTES]) {
  const Kiln__V1__Plan *plan = e->artifact->plan;
  const Kiln__V1__PlanCall *call = call_of(plan, kernel);
  size_t n = call ? call->n_vars : 0;
  StrBuf b = {0};
  memcpy(out, plan->kernels[kernel]->hash.data, DIGEST_BYTES);
  strbuf_add(&b, out, DIGEST_BYTES);
  for (size_t i = 0; i < n; i++) {
    int64_t size = seen_size(e, call, sizes_usual(&e->seen), i);
    uint8_t kind = (uint8_t)sizes_kind(size ? size : USUAL);
    strbuf_add(&b, &kind, 1);
  }
  if (n && !b.failed) digest_sha256(b.ptr, b.len, out);
  strbuf_deinit(&b);
}

static int64_t fitting(const Kiln__V1__KernelVar *v, int64_t n) {
  if (v->multiple > 1) n -= n % (int64_t)v->multiple;
  return n < v->min ? v->min : n > v->max ? v->max : n;
}

/* The kernel's sizes in a run of that kind. */
static int64_t *sizes_of(Tune *t, const TuneKernel *k, size_t kind) {
  const Kiln__V1__KernelFacts *f = k->facts;
  int64_t *sizes = arena_array(&t->arena, f->n_vars, sizeof *sizes);
  for (size_t i = 0; sizes && i < f->n_vars; i++) {
    int64_t n = seen_size(t->spec.exe, k->call, kind, i);
    sizes[i] = fitting(f->vars[i], n ? n : USUAL);
  }
  return sizes;
}

static bool same_kind(const int64_t *a, const int64_t *b, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (sizes_kind(a[i]) != sizes_kind(b[i])) return false;
  return true;
}

static bool known_kind(const TuneKernel *k, const int64_t *sizes) {
  size_t n = k->facts->n_vars;
  bool known = same_kind(k->sizes, sizes, n);
  for (size_t i = 0; i < k->nelsewhere; i++) known |= same_kind(k->elsewhere[i]->vars, sizes, n);
  return known;
}

void tune_choose_sizes(Tune *t, TuneKernel *k) {
  const SizesSeen *seen = &t->spec.exe->seen;
  size_t n = k->facts->n_vars, usual = sizes_usual(seen);
  tune_evidence_key(t->spec.exe, k->index, k->evidence_key);
  k->sizes = n ? sizes_of(t, k, usual) : NULL;
  k->nelsewhere = 0;
  for (size_t i = 0; k->sizes && i < seen->n; i++) {
    int64_t *sizes = i == usual ? NULL : sizes_of(t, k, i);
    if (!sizes || known_kind(k, sizes)) continue;
    Kiln__V1__TimingSizes *m = arena_alloc(&t->arena, sizeof *m);
    if (!m) return;
    kiln__v1__timing_sizes__init(m);
    m->vars = sizes;
    m->n_vars = n;
    k->elsewhere[k->nelsewhere++] = m;
  }
}
