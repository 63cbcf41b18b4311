/* A graph with symbolic sizes, run by giving the symbols values: VARs of the inputs first, then one
 * BIND after the other, each computed by the interpreter with the VARs before it replaced by
 * numbers. What is left is a static graph. */
#include <inttypes.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/interp.h"

static UOp *with_values(Job *job, UOp *u, const GraphVar *vars, const int64_t *values,
                        const bool *known, size_t n) {
  UOp **to = arena_array(&job->arena, n + 1, sizeof *to);
  for (size_t k = 0; k < n; k++)
    to[k] = known[k] ? uop_index(job, values[k])
                     : uop_var(job, (int64_t)k, vars[k].min, vars[k].max, vars[k].divisor);
  return dim_substitute(job, u, to, n);
}

static Status in_bounds(const GraphVar *v, int64_t value) {
  if (value >= v->min && value <= v->max && value % v->divisor == 0) return NULL;
  return FAIL(OUT_OF_RANGE,
              STR_FMT " is %" PRId64 ", expected a multiple of %" PRId64 " in [%" PRId64
                      ", %" PRId64 "]",
              STR_ARG(v->name), value, v->divisor, v->min, v->max);
}

static bool mentions_unknown(Job *job, UOp *u, const bool *known) {
  UOpList list = uop_toposort_dims(job, u);
  for (size_t k = 0; k < list.len; k++)
    if (list.at[k]->op == OP_VAR && !known[list.at[k]->arg.i]) return true;
  return false;
}

/* The value of a rank-0 i64. */
static Status value_of(Job *job, UOp *u, const InterpBuffer *slots, size_t nslots, int64_t *out) {
  InterpBuffer *with = arena_array(&job->arena, nslots + 1, sizeof *with);
  for (size_t k = 0; k < nslots; k++) with[k] = slots[k];
  with[nslots] = (InterpBuffer){out, sizeof *out};
  UOp *to = uop_param(job, (int64_t)nslots, DT_I64, NULL, 0);
  UOp *store = uop2(job, OP_STORE, to, u);
  return interp_tensor(job, uop_make(job, OP_SINK, DT_VOID, arg_none(), &store, 1), with,
                       nslots + 1);
}

Status interp_vars(Job *job, const TensorGraph *graph, int64_t *values, const InterpBuffer *slots,
                   UOp **out) {
  size_t n = graph->nvars, left = 0;
  UOp *sink = graph->sink, **rest = arena_array(&job->arena, sink->nsrc + 1u, sizeof *rest);
  bool *known = arena_alloc(&job->arena, n + 1);
  *out = NULL;
  for (size_t k = 0; k < n; k++) {
    known[k] = graph->vars[k].source == VAR_INPUT;
    if (known[k]) TRY(in_bounds(&graph->vars[k], values[k]));
  }
  for (uint32_t s = 0; s < sink->nsrc; s++) {
    UOp *bind = sink->src[s];
    if (bind->op != OP_BIND) {
      rest[left++] = bind;
      continue;
    }
    size_t var = (size_t)bind->src[0]->arg.i;
    UOp *u = with_values(job, bind->src[1], graph->vars, values, known, n);
    if (mentions_unknown(job, u, known)) return FAIL(INTERNAL, "a BIND before what it needs");
    TRY(value_of(job, u, slots, graph->nslots, &values[var]));
    TRY(in_bounds(&graph->vars[var], values[var]));
    known[var] = true;
  }
  sink = uop_make(job, OP_SINK, DT_VOID, arg_none(), rest, left);
  *out = with_values(job, sink, graph->vars, values, known, n);
  return NULL;
}
