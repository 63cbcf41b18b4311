/* The order in which tensors are numbered: topological, and that of BINDs.
 *
 * What mentions a bound VAR, as a size or as a value, comes after the BIND that gives the VAR its
 * value. Without BINDs this is the order of uop_toposort. */
#include "base/vec.h"
#include "compiler/passes/fusion.h"

enum { NEW, OPEN, DONE };

typedef struct Order {
  Job *job;
  UOp **binds; /* by VAR */
  size_t nvars;
  uint8_t *state; /* by id */
  UOpList stack, list;
} Order;

static void need(Order *o, UOp *u) {
  if (o->state[u->id] != DONE) avec_push(&o->job->arena, &o->stack, u);
}

static void need_vars(Order *o, const UOp *expression) {
  for (uint32_t s = 0; s < expression->nsrc; s++) need_vars(o, expression->src[s]);
  if (expression->op != OP_VAR || (size_t)expression->arg.i >= o->nvars) return;
  if (o->binds[expression->arg.i]) need(o, o->binds[expression->arg.i]);
}

static void need_all(Order *o, UOp *u) {
  bool dims = u->symbolic && dim_in_ints((Op)u->op);
  for (uint32_t s = u->nsrc; s-- > 0;) {
    need(o, u->src[s]);
    if (u->src[s]->op == OP_VAR && u->op != OP_BIND) need_vars(o, u->src[s]);
  }
  for (uint32_t k = dims ? u->arg.ints.n : 0; k-- > 0;) {
    if (!dim_is_static(u->arg.ints.at[k])) need_vars(o, dim_node(u->arg.ints.at[k]));
  }
}

static void visit(Order *o, UOp *root) {
  need(o, root);
  while (o->stack.len) {
    UOp *u = o->stack.at[o->stack.len - 1];
    uint8_t *state = &o->state[u->id];
    if (*state == NEW) {
      *state = OPEN;
      size_t before = o->stack.len;
      need_all(o, u);
      for (size_t k = before; k < o->stack.len; k++) {
        if (o->state[o->stack.at[k]->id] != OPEN) continue;
        job_abort(o->job, FAIL(INVALID_ARGUMENT, "a size depends on a tensor of that size"));
      }
      continue;
    }
    o->stack.len--;
    if (*state == OPEN) avec_push(&o->job->arena, &o->list, u);
    *state = DONE;
  }
}

UOpList bind_order(Job *job, UOp *sink, size_t nvars) {
  Order o = {.job = job, .nvars = nvars};
  bool any = false;
  o.binds = arena_array(&job->arena, nvars + 1, sizeof *o.binds);
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    UOp *bind = sink->src[k];
    if (bind->op != OP_BIND) continue;
    any = true;
    if ((size_t)bind->src[0]->arg.i < nvars) o.binds[bind->src[0]->arg.i] = bind;
  }
  if (!any) return uop_toposort(job, sink);
  o.state = arena_array(&job->arena, job->next_id, sizeof *o.state);
  visit(&o, sink);
  return o.list;
}
