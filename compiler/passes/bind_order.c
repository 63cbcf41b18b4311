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
  bool *used;  /* by VAR, of the node being looked at */
  size_t nvars;
  uint8_t *state; /* by id */
  UOpList stack, list;
} Order;

static void need(Order *o, UOp *u) {
  if (o->state[u->id] != DONE) avec_push(&o->job->arena, &o->stack, u);
}

static void vars_of(const UOp *expression, bool *used, size_t nvars) {
  for (uint32_t s = 0; s < expression->nsrc; s++) vars_of(expression->src[s], used, nvars);
  if (expression->op == OP_VAR && (size_t)expression->arg.i < nvars) used[expression->arg.i] = true;
}

void bind_vars(const UOp *u, bool *used, size_t nvars) {
  bool dims = u->symbolic && dim_in_ints((Op)u->op);
  for (uint32_t s = 0; s < u->nsrc; s++) {
    if (u->src[s]->op == OP_VAR) vars_of(u->src[s], used, nvars);
  }
  for (uint32_t k = 0; dims && k < u->arg.ints.n; k++) {
    if (!dim_is_static(u->arg.ints.at[k])) vars_of(dim_node(u->arg.ints.at[k]), used, nvars);
  }
}

UOp **bind_nodes(Job *job, const UOp *sink, size_t nvars) {
  UOp **binds = arena_array(&job->arena, nvars + 1, sizeof *binds);
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    UOp *bind = sink->src[k];
    if (bind->op == OP_BIND && (size_t)bind->src[0]->arg.i < nvars) {
      binds[bind->src[0]->arg.i] = bind;
    }
  }
  return binds;
}

static void need_all(Order *o, UOp *u) {
  for (uint32_t s = u->nsrc; s-- > 0;) need(o, u->src[s]);
  if (!u->symbolic || u->op == OP_BIND) return;
  memset(o->used, 0, o->nvars * sizeof *o->used);
  bind_vars(u, o->used, o->nvars);
  for (size_t v = o->nvars; v-- > 0;) {
    if (o->used[v] && o->binds[v]) need(o, o->binds[v]);
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
  o.binds = bind_nodes(job, sink, nvars);
  for (size_t v = 0; v < nvars; v++) any |= o.binds[v] != NULL;
  if (!any) return uop_toposort(job, sink);
  o.used = arena_array(&job->arena, nvars + 1, sizeof *o.used);
  o.state = arena_array(&job->arena, job->next_id, sizeof *o.state);
  visit(&o, sink);
  return o.list;
}
