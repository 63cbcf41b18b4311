/* Graphs with symbolic sizes and loops, interpreted: VARs are replaced by their values, LOOPs by
 * what they left, and what remains is a static graph.
 *
 * A VAR bound by the graph has no value before the tensor that gives it one is known, and a LOOP
 * can run when all VARs that come from outside of it are. BINDs and LOOPs are settled one after the
 * other, each by interpreting what it depends on, so the order in which they stand does not matter.
 * The locals of a loop are slots whose memory is made here. Slow, and independent of how plans
 * order things. */
#include <inttypes.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/interp.h"
#include "compiler/ir/view.h"

typedef struct Symbolic {
  Job *job;
  InterpBuffer *slots; /* one more than the graph has: where the value of a scalar goes */
  size_t nslots, nvars;
  int64_t *vars; /* INTERP_UNBOUND: not known yet */
  UOp **to;      /* the CONST of each that is known */
} Symbolic;

static Status run(Symbolic *s, UOp *sink);

static bool is_given(const Symbolic *s, const UOp *var) {
  return (size_t)var->arg.i < s->nvars && s->vars[var->arg.i] != INTERP_UNBOUND;
}

/* No VAR without a value below, other than those that a LOOP or BIND below gives one. */
static bool is_closed(const Symbolic *s, UOp *root) {
  UOpList list = uop_toposort_dims(s->job, root);
  bool *own = arena_array(&s->job->arena, s->nvars + 1, sizeof *own);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if ((u->op == OP_LOOP || u->op == OP_BIND) && (size_t)u->src[0]->arg.i < s->nvars)
      own[u->src[0]->arg.i] = true;
  }
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if (u->op == OP_VAR && !is_given(s, u) && !own[u->arg.i]) return false;
  }
  return true;
}

/* Nothing below has to be settled first. */
static bool is_settled(const Symbolic *s, UOp *root) {
  UOpList list = uop_toposort_dims(s->job, root);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if (u->op == OP_LOOP || (u->op == OP_VAR && !is_given(s, u))) return false;
  }
  return true;
}

static Status assign(Symbolic *s, const UOp *var, int64_t value) {
  const int64_t *v = var->arg.ints.at;
  if ((size_t)var->arg.i >= s->nvars) return FAIL(INTERNAL, "VAR %" PRId64, var->arg.i);
  if (value < v[0] || value > v[1] || value % v[2]) {
    return FAIL(OUT_OF_RANGE,
                "size n%" PRId64 " is %" PRId64 ", expected %" PRId64 " to %" PRId64
                " and a multiple of %" PRId64,
                var->arg.i, value, v[0], v[1], v[2]);
  }
  s->vars[var->arg.i] = value;
  s->to[var->arg.i] = uop_index(s->job, value);
  return NULL;
}

static void forget(Symbolic *s, const UOp *var) {
  s->vars[var->arg.i] = INTERP_UNBOUND;
  s->to[var->arg.i] = NULL;
}

/* A settled scalar. */
static Status scalar(Symbolic *s, UOp *u, int64_t *out) {
  UOp *param = uop_param(s->job, (int64_t)s->nslots, (DType)u->dtype, NULL, 0);
  UOp *store = uop2(s->job, OP_STORE, param, dim_substitute(s->job, u, s->to, s->nvars));
  UOp *sink = uop_make(s->job, OP_SINK, DT_VOID, arg_none(), &store, 1);
  *out = 0;
  s->slots[s->nslots] = (InterpBuffer){out, sizeof *out};
  return interp_tensor(s->job, sink, s->slots, s->nslots + 1);
}

static Status bind(Symbolic *s, const UOp *u) {
  int64_t value;
  TRY(scalar(s, u->src[1], &value));
  return assign(s, u->src[0], value);
}

/* -- loops ------------------------------------------------------------------------------------- */

/* The memory of a local, as large as it has to be now. */
static Status make_local(Symbolic *s, const UOp *param) {
  UOp *p = dim_substitute(s->job, (UOp *)(uintptr_t)param, s->to, s->nvars);
  size_t slot = (size_t)param->arg.i, bytes;
  if (slot >= s->nslots || !shape_is_static(p->shape)) return FAIL(INTERNAL, "local %zu", slot);
  if (!size_mul((size_t)shape_numel(p->shape), dtype_info[p->dtype].bytes, &bytes) ||
      bytes > (size_t)1 << 32)
    return FAIL(RESOURCE_EXHAUSTED, "a local of %zu bytes", bytes);
  if (s->slots[slot].data && s->slots[slot].bytes == bytes) return NULL;
  s->slots[slot] = (InterpBuffer){arena_alloc(&s->job->arena, bytes + 1), bytes};
  return NULL;
}

/* A SINK of what a LOOP does before its iterations, or in each. */
static Status part_of(Symbolic *s, UOp *loop, bool body, UOp **out) {
  UOp **src = arena_array(&s->job->arena, loop->nsrc, sizeof *src);
  size_t n = 0;
  for (uint32_t k = 3; k < loop->nsrc; k++) {
    UOp *effect = loop->src[k];
    if (effect->op == OP_STORE) TRY(make_local(s, view_param(effect->src[0])));
    bool effects = effect->op == OP_STORE || effect->op == OP_BIND;
    if (effects && view_in_body(loop, k) == body) src[n++] = effect;
  }
  *out = uop_make(s->job, OP_SINK, DT_VOID, arg_none(), src, n);
  return NULL;
}

static void forget_bound(Symbolic *s, UOp *body) {
  UOpList list = uop_toposort(s->job, body);
  for (size_t k = 0; k < list.len; k++)
    if (list.at[k]->op == OP_BIND) forget(s, list.at[k]->src[0]);
}

static Status loop(Symbolic *s, UOp *u) {
  UOp *before, *body;
  int64_t count, go;
  TRY(scalar(s, u->src[1], &count));
  TRY(part_of(s, u, false, &before));
  TRY(run(s, before));
  TRY(part_of(s, u, true, &body));
  for (int64_t k = 0; k < count; k++) {
    job_poll(s->job);
    TRY(assign(s, u->src[0], k));
    TRY(scalar(s, u->src[2], &go));
    if (!go) break;
    TRY(run(s, body));
    forget_bound(s, body);
  }
  forget(s, u->src[0]);
  return NULL;
}

/* The graph in which what a LOOP left is what its locals hold. */
static UOp *without_loop(Symbolic *s, UOp *sink, const UOp *done) {
  UOpList list = uop_toposort(s->job, sink);
  UOp **from = arena_array(&s->job->arena, list.len, sizeof *from);
  UOp **to = arena_array(&s->job->arena, list.len, sizeof *to);
  size_t n = 0;
  for (size_t k = 0; k < list.len; k++) {
    UOp *u = list.at[k];
    if (u->op == OP_AFTER && u->src[1] == done) from[n] = u, to[n++] = u->src[0];
  }
  return uop_substitute(s->job, sink, from, to, n);
}

/* -- driver ------------------------------------------------------------------------------------ */

/* One BIND or LOOP that can be; *out: none was. */
static Status settle(Symbolic *s, UOp **sink, bool *out) {
  UOpList list = uop_toposort_dims(s->job, *sink);
  *out = true;
  for (size_t k = 0; k < list.len; k++) {
    UOp *u = list.at[k];
    if (u->op == OP_BIND && !is_given(s, u->src[0]) && is_settled(s, u->src[1])) {
      *out = false;
      return bind(s, u);
    }
    if (u->op != OP_LOOP || !is_closed(s, u) || !is_settled(s, u->src[1])) continue;
    *out = false;
    TRY(loop(s, u));
    *sink = without_loop(s, *sink, u);
    return NULL;
  }
  return NULL;
}

/* Settles everything; *out is the static graph that remains. */
static Status settle_all(Symbolic *s, UOp *sink, UOp **out) {
  for (bool done = false; !done;) TRY(settle(s, &sink, &done));
  UOp **stores = arena_array(&s->job->arena, sink->nsrc + 1, sizeof(UOp *));
  size_t n = 0;
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    if (sink->src[k]->op != OP_BIND) stores[n++] = sink->src[k];
  }
  sink = uop_make(s->job, OP_SINK, DT_VOID, arg_none(), stores, n);
  if (!is_settled(s, sink)) return FAIL(INVALID_ARGUMENT, "a size has no value");
  *out = dim_substitute(s->job, sink, s->to, s->nvars);
  return NULL;
}

static Status run(Symbolic *s, UOp *sink) {
  UOp *rest;
  TRY(settle_all(s, sink, &rest));
  return interp_tensor(s->job, rest, s->slots, s->nslots);
}

/* The VARs of inputs are in `to` from the start, checked against their bounds. */
static Status check_given(Symbolic *s, UOp *sink) {
  UOpList list = uop_toposort_dims(s->job, sink);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if (u->op == OP_VAR && is_given(s, u)) TRY(assign(s, u, s->vars[u->arg.i]));
  }
  return NULL;
}

static Status begin(Job *job, UOp *sink, const InterpBuffer *slots, size_t nslots, int64_t *vars,
                    size_t nvars, Symbolic *s) {
  *s = (Symbolic){.job = job, .nslots = nslots, .vars = vars, .nvars = nvars};
  s->slots = arena_array(&job->arena, nslots + 1, sizeof *s->slots);
  if (nslots) memcpy(s->slots, slots, nslots * sizeof *slots);
  s->to = arena_array(&job->arena, nvars + 1, sizeof(UOp *));
  return check_given(s, sink);
}

Status interp_symbolic(Job *job, UOp *sink, InterpBuffer *slots, size_t nslots, int64_t *vars,
                       size_t nvars) {
  Symbolic s;
  TRY(begin(job, sink, slots, nslots, vars, nvars, &s));
  return run(&s, sink);
}

Status interp_settle(Job *job, UOp *sink, const InterpBuffer *slots, size_t nslots, int64_t *vars,
                     size_t nvars, UOp **out) {
  Symbolic s;
  *out = NULL;
  TRY(begin(job, sink, slots, nslots, vars, nvars, &s));
  return settle_all(&s, sink, out);
}
