/* Reads a kernel, says what it takes to time it, and asks the search what to try.
 *
 * The untuned kernel is the one without opts: its loops as they are. On devices with threads its
 * outermost loop may be split over them, with workgroups its innermost, which changes no result. */
#include "daemon/worker/search_worker.h"

#include "base/clock.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/text.h"
#include "compiler/search/opts.h"
#include "compiler/search/search.h"
#include "daemon/worker/convert.h"
#include "proto/digest.h"

typedef struct Search {
  const Kiln__V1__SearchJob *m;
  Arena *arena;
  Target target;
  UOp *kernel;
  Kiln__V1__KernelFacts *facts;
  const UOp **params, **vars; /* by number */
  size_t nparams, nvars;
  bool read_first; /* the kernel reads what it writes */
  const char *untuned;
} Search;

static Status no_memory(void) { return FAIL(RESOURCE_EXHAUSTED, "no memory for a search"); }

/* -- facts --------------------------------------------------------------------------------------
 */

enum { ARGS_MAX = 4096, VARS_MAX = 256, UNTUNED_LANES = 64 };

/* A sum of floats that a schedule may reorder; of several, the one in the coarsest dtype. */
static void note_reduce(Search *s, const UOp *u) {
  int64_t terms = 1;
  DType d = (DType)u->dtype;
  if (!dtype_is_float(d) || (u->arg.i != OP_ADD && u->arg.i != OP_MUL)) return;
  for (uint32_t i = 1; i < u->nsrc; i++)
    if (u->src[i]->op == OP_RANGE && __builtin_mul_overflow(terms, u->src[i]->src[0]->vmax, &terms))
      terms = INT64_MAX;
  Kiln__V1__KernelFacts *f = s->facts;
  bool coarser = !f->reduces || d == DT_BF16 ||
                 (f->reduces != DT_BF16 && dtype_info[d].bytes < dtype_info[f->reduces].bytes);
  if (coarser) f->reduces = d;
  if ((uint64_t)terms > f->terms) f->terms = (uint64_t)terms;
}

static void find_steps(Job *job, void *arg) {
  Search *s = arg;
  UOpList list = uop_toposort_dims(job, s->kernel);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    bool param = u->op == OP_PARAM, var = u->op == OP_VAR;
    if (u->op == OP_REDUCE) note_reduce(s, u);
    if (u->op == OP_INDEX && u->src[0]->op == OP_PARAM && !u->src[0]->arg.i) s->read_first = true;
    if (!param && !var) continue;
    if (u->arg.i < 0 || u->arg.i >= (param ? ARGS_MAX : VARS_MAX))
      job_abort(job, FAIL(INVALID_ARGUMENT, "argument %lld of a kernel", (long long)u->arg.i));
    size_t n = (size_t)u->arg.i + 1;
    (param ? s->params : s->vars)[n - 1] = u;
    if (param && n > s->nparams) s->nparams = n;
    if (var && n > s->nvars) s->nvars = n;
  }
  if (!s->nparams || !s->params[0])
    job_abort(job, FAIL(INVALID_ARGUMENT, "a kernel that writes nothing"));
}

static Status add_arg(Search *s, size_t i) {
  Kiln__V1__KernelArg *a = arena_alloc(s->arena, sizeof *a);
  if (!a) return no_memory();
  kiln__v1__kernel_arg__init(a);
  s->facts->args[s->facts->n_args++] = a;
  a->dtype = DT_F32; /* one that simplification left unused has any dtype and no elements */
  const UOp *p = s->params[i];
  if (!p) return NULL;
  int64_t n = p->arg.ints.at[0];
  a->dtype = p->dtype;
  a->read = i || s->read_first;
  a->elements = (uint64_t)dim_high(n);
  return dim_is_static(n) ? NULL : convert_size(s->arena, n, 1, &a->size);
}

static Status add_var(Search *s, size_t i) {
  Kiln__V1__KernelVar *v = arena_alloc(s->arena, sizeof *v);
  if (!v) return no_memory();
  kiln__v1__kernel_var__init(v);
  s->facts->vars[s->facts->n_vars++] = v;
  if (!s->vars[i]) return NULL;
  const int64_t *ints = s->vars[i]->arg.ints.at;
  v->min = ints[0];
  v->max = ints[1];
  v->multiple = (uint64_t)ints[2];
  return NULL;
}

static Status add_class(Search *s, Job *job) {
  SearchClass c;
  SearchCost cost;
  Kiln__V1__KernelFacts *f = s->facts;
  TRY(search_class(job, s->kernel, &c));
  TRY(search_cost(job, s->kernel, &s->target, NULL, &cost));
  f->flops = (uint64_t)cost.flops;
  f->bytes = (uint64_t)(cost.bytes_read + cost.bytes_written);
  f->roofline_ns = cost.roofline_ns;
  f->predicted_ns = cost.predicted_ns;
  if (!c.bytes.len) return NULL;
  f->class_hash = (ProtobufCBinaryData){DIGEST_BYTES, arena_alloc(s->arena, DIGEST_BYTES)};
  f->sizes = arena_array(s->arena, c.naxes + 1, sizeof *f->sizes);
  if (!f->class_hash.data || !f->sizes) return no_memory();
  digest_sha256(c.bytes.ptr, c.bytes.len, f->class_hash.data);
  for (size_t i = 0; i < c.naxes; i++) f->sizes[f->n_sizes++] = c.axes[i].size;
  return NULL;
}

/* The outermost loop over the target's threads where that is legal. */
static void untuned_steps(Job *job, void *arg) {
  Search *s = arg;
  StrBuf text = {0};
  OptList list = {0};
  s->untuned = " "; /* a list without opts, where "" asks for the heuristic */
  const KernelInfo *k = kernel_info(job, s->kernel);
  bool groups = s->target.max_group > 0;
  if ((!groups && s->target.threads < 2) || !k->store || !k->nloops) return;
  const UOp *loop = k->loops[groups ? k->nloops - 1 : 0];
  opts_push(job, &list, groups ? OPT_LOCAL : OPT_THREAD, (int)loop->arg.i,
            groups ? UNTUNED_LANES : s->target.threads);
  Status st = opts_check(job, s->kernel, &s->target, &list);
  opts_print(&list, &text);
  if (!st && !text.failed) s->untuned = arena_strdup(&job->arena, (Str){text.ptr, text.len});
  status_drop(st);
  strbuf_deinit(&text);
}

static Status find_facts(Search *s, Job *job) {
  Kiln__V1__KernelFacts *f = s->facts = arena_alloc(s->arena, sizeof *f);
  s->params = arena_array(s->arena, ARGS_MAX, sizeof *s->params);
  s->vars = arena_array(s->arena, VARS_MAX, sizeof *s->vars);
  if (!f || !s->params || !s->vars) return no_memory();
  kiln__v1__kernel_facts__init(f);
  TRY(job_run(job, find_steps, s));
  f->args = arena_array(s->arena, s->nparams + 1, sizeof *f->args);
  f->vars = arena_array(s->arena, s->nvars + 1, sizeof *f->vars);
  if (!f->args || !f->vars) return no_memory();
  for (size_t i = 0; i < s->nparams; i++) TRY(add_arg(s, i));
  for (size_t i = 0; i < s->nvars; i++) TRY(add_var(s, i));
  TRY(job_run(job, untuned_steps, s));
  f->untuned = arena_strdup(s->arena, str_from(s->untuned));
  return f->untuned ? add_class(s, job) : no_memory();
}

/* -- candidates ---------------------------------------------------------------------------------
 */

static int cause_of(const char *name) {
  static const char *const names[] = {"",    "compile_error", "timeout",
                                      "oom", "crash",         "wrong_result"};
  for (int i = 0; i < 6; i++)
    if (!strcmp(names[i], name)) return i;
  return 1; /* whatever it was, it is not to be tried again */
}

static Status propose(Search *s, Job *job, Kiln__V1__SearchDone *out) {
  const Kiln__V1__SearchJob *m = s->m;
  Evidence *tried = arena_array(s->arena, m->n_evidence + 1, sizeof *tried);
  Candidate found[SEARCH_MAX_WANT];
  size_t n = 0;
  if (!tried) return no_memory();
  for (size_t i = 0; i < m->n_evidence; i++) {
    const Kiln__V1__TuneEvidence *e = m->evidence[i];
    tried[i] = (Evidence){.opts = e->opts,
                          .median_ns = e->median_ns,
                          .mad_ns = e->mad_ns,
                          .reps = e->reps,
                          .cause = cause_of(e->cause)};
  }
  SearchInput in = {.kernel = s->kernel,
                    .target = &s->target,
                    .tried = tried,
                    .ntried = m->n_evidence,
                    .hints = (const char *const *)m->hints,
                    .nhints = m->n_hints,
                    .want = m->want < SEARCH_MAX_WANT ? m->want : SEARCH_MAX_WANT,
                    .seed = m->seed};
  TRY(search_propose(job, &in, found, &n));
  out->candidates = arena_array(s->arena, n + 1, sizeof *out->candidates);
  if (!out->candidates) return no_memory();
  for (size_t i = 0; i < n; i++) {
    Kiln__V1__SearchCandidate *c = arena_alloc(s->arena, sizeof *c);
    if (!c) return no_memory();
    kiln__v1__search_candidate__init(c);
    /* no opts at all are spelt with a space: nothing would ask for the heuristic */
    c->opts = arena_strdup(s->arena, str_from(*found[i].opts ? found[i].opts : " "));
    c->predicted_ns = found[i].predicted_ns;
    if (!c->opts) return no_memory();
    out->candidates[out->n_candidates++] = c;
  }
  return NULL;
}

/* The kernel that measures something, as graph and candidate of the answer. */
static Status make_probe(Search *s, Job *job, Kiln__V1__SearchDone *out) {
  SearchProbeKernel probe;
  StrBuf bytes = {0};
  Kiln__V1__SearchCandidate *c = arena_alloc(s->arena, sizeof *c);
  out->candidates = arena_array(s->arena, 1, sizeof *out->candidates);
  if (!c || !out->candidates) return no_memory();
  TRY(search_probe(job, &s->target, (SearchProbe)(s->m->probe - 1), &probe));
  s->kernel = probe.kernel;
  out->probe_work = probe.work;
  if (!probe.kernel) return NULL;
  kiln__v1__search_candidate__init(c);
  c->opts = arena_strdup(s->arena, str_from(probe.opts));
  uop_serialize(job, s->kernel, &bytes);
  out->graph = (ProtobufCBinaryData){bytes.len, arena_copy(s->arena, bytes.ptr, bytes.len)};
  bool ok = c->opts && !bytes.failed && out->graph.data;
  strbuf_deinit(&bytes);
  out->candidates[out->n_candidates++] = c;
  return ok ? NULL : no_memory();
}

static Status run(Search *s, Job *job, Kiln__V1__SearchDone *out) {
  TRY(convert_target(s->arena, s->m->target, &s->target));
  convert_peaks(s->m->peaks, &s->target);
  if (s->m->probe)
    TRY(make_probe(s, job, out));
  else
    TRY(uop_deserialize(job, (Bytes){s->m->graph.data, s->m->graph.len}, &s->kernel));
  if (!s->kernel) return NULL;
  TRY(find_facts(s, job));
  out->facts = s->facts;
  return s->m->want ? propose(s, job, out) : NULL;
}

Status search_worker_run(const Kiln__V1__SearchJob *m, uint64_t memory_bytes, Arena *arena,
                         Kiln__V1__SearchDone *out) {
  int64_t start = clock_now_ns();
  Search s = {.m = m, .arena = arena};
  Job job;
  job_init(&job, memory_bytes);
  Status st = run(&s, &job, out);
  out->wall_ns = clock_now_ns() - start;
  job_deinit(&job);
  return st ? WRAP(st, "search for kernel %s", m->name) : NULL;
}
