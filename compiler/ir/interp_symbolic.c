/* Graphs with symbolic sizes, interpreted: the VARs are replaced by their values, and what is left
 * is a static graph.
 *
 * A VAR bound by the graph has no value before the tensor that gives it one is known. BINDs are
 * resolved one after the other, each by interpreting what it depends on, so the order in which they
 * stand does not matter. Slow, and independent of how plans order them. */
#include <inttypes.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/interp.h"

typedef struct Symbolic {
  Job *job;
  InterpBuffer *slots; /* one more than the graph has: where a BIND's value goes */
  size_t nslots, nvars;
  int64_t *vars; /* INTERP_UNBOUND: not known yet */
  UOp **to;      /* the CONST of each that is known */
} Symbolic;

static bool is_known(const Symbolic *s, UOp *root) {
  UOpList list = uop_toposort_dims(s->job, root);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if (u->op != OP_VAR) continue;
    if ((size_t)u->arg.i >= s->nvars || s->vars[u->arg.i] == INTERP_UNBOUND) return false;
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

static Status resolve(Symbolic *s, const UOp *bind) {
  int64_t value = 0;
  UOp *param = uop_param(s->job, (int64_t)s->nslots, DT_I64, NULL, 0);
  UOp *x = dim_substitute(s->job, bind->src[1], s->to, s->nvars);
  UOp *store = uop2(s->job, OP_STORE, param, x);
  UOp *sink = uop_make(s->job, OP_SINK, DT_VOID, arg_none(), &store, 1);
  s->slots[s->nslots] = (InterpBuffer){&value, sizeof value};
  TRY(interp_tensor(s->job, sink, s->slots, s->nslots + 1));
  return assign(s, bind->src[0], value);
}

static Status resolve_all(Symbolic *s, const UOp *sink) {
  bool *done = arena_array(&s->job->arena, sink->nsrc + 1, sizeof *done);
  for (bool any = true; any;) {
    any = false;
    for (uint32_t k = 0; k < sink->nsrc; k++) {
      const UOp *bind = sink->src[k];
      if (bind->op != OP_BIND || done[k] || !is_known(s, bind->src[1])) continue;
      TRY(resolve(s, bind));
      done[k] = any = true;
    }
  }
  return NULL;
}

/* The VARs of inputs are in `to` from the start, checked against their bounds. */
static Status check_given(Symbolic *s, UOp *sink) {
  UOpList list = uop_toposort_dims(s->job, sink);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if (u->op != OP_VAR || (size_t)u->arg.i >= s->nvars) continue;
    if (s->vars[u->arg.i] != INTERP_UNBOUND) TRY(assign(s, u, s->vars[u->arg.i]));
  }
  return NULL;
}

Status interp_symbolic(Job *job, UOp *sink, InterpBuffer *slots, size_t nslots, int64_t *vars,
                       size_t nvars) {
  Symbolic s = {.job = job, .nslots = nslots, .vars = vars, .nvars = nvars};
  s.slots = arena_array(&job->arena, nslots + 1, sizeof *s.slots);
  if (nslots) memcpy(s.slots, slots, nslots * sizeof *slots);
  s.to = arena_array(&job->arena, nvars + 1, sizeof(UOp *));
  TRY(check_given(&s, sink));
  TRY(resolve_all(&s, sink));
  UOp **stores = arena_array(&job->arena, sink->nsrc + 1, sizeof(UOp *));
  size_t n = 0;
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    if (sink->src[k]->op != OP_BIND) stores[n++] = sink->src[k];
  }
  sink = uop_make(job, OP_SINK, DT_VOID, arg_none(), stores, n);
  if (!is_known(&s, sink)) return FAIL(INVALID_ARGUMENT, "a size has no value");
  return interp_tensor(job, dim_substitute(job, sink, s.to, nvars), s.slots, nslots);
}
