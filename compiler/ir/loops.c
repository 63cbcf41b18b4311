/* Every node has the set of loops whose VARs it depends on, as bits; the innermost of them is the
 * one that it stands in. */
#include "compiler/ir/loops.h"

#include "base/vec.h"
#include "compiler/ir/view.h"

/* -- order ------------------------------------------------------------------------------------- */

void loops_vars(const UOp *u, void (*fn)(void *ctx, const UOp *var), void *ctx) {
  bool dims = u->symbolic && dim_in_ints((Op)u->op);
  for (uint32_t s = u->op == OP_BIND || u->op == OP_LOOP; s < u->nsrc; s++)
    if (u->src[s]->dtype == DT_INDEX) dim_vars(u->src[s], fn, ctx);
  for (uint32_t k = 0; dims && k < u->arg.ints.n; k++)
    if (!dim_is_static(u->arg.ints.at[k])) dim_vars(dim_node(u->arg.ints.at[k]), fn, ctx);
}

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

static void need_bind(void *ctx, const UOp *var) {
  Order *o = ctx;
  if ((size_t)var->arg.i < o->nvars && o->binds[var->arg.i]) need(o, o->binds[var->arg.i]);
}

static void visit(Order *o, UOp *root) {
  need(o, root);
  while (o->stack.len) {
    UOp *u = o->stack.at[o->stack.len - 1];
    uint8_t *state = &o->state[u->id];
    if (*state == NEW) {
      *state = OPEN;
      size_t before = o->stack.len;
      for (uint32_t s = u->nsrc; s-- > 0;) need(o, u->src[s]);
      loops_vars(u, need_bind, o);
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

UOpList loops_order(Job *job, UOp *sink, size_t nvars) {
  Order o = {.job = job, .nvars = nvars};
  UOpList plain = uop_toposort(job, sink);
  bool any = false;
  o.binds = arena_array(&job->arena, nvars + 1, sizeof *o.binds);
  for (size_t i = 0; i < plain.len; i++) {
    UOp *bind = plain.at[i];
    if (bind->op != OP_BIND || (size_t)bind->src[0]->arg.i >= nvars) continue;
    o.binds[bind->src[0]->arg.i] = bind;
    any = true;
  }
  if (!any) return plain;
  o.state = arena_array(&job->arena, job->next_id, sizeof *o.state);
  visit(&o, sink);
  return o.list;
}

/* -- regions ----------------------------------------------------------------------------------- */

typedef struct Sets {
  Loops *loops;
  uint64_t *bits; /* by place, `words` each */
  size_t words;
  uint64_t *now;
} Sets;

static void join(Sets *s, const uint64_t *from) {
  for (size_t w = 0; w < s->words; w++) s->now[w] |= from[w];
}

static void join_var(void *ctx, const UOp *var) {
  Sets *s = ctx;
  uint32_t loop = s->loops->var_loop[var->arg.i], bind = s->loops->var_bind[var->arg.i];
  if (loop) s->now[(loop - 1) / 64] |= (uint64_t)1 << (loop - 1) % 64;
  if (bind) join(s, s->bits + (bind - 1) * s->words);
}

static void find_sets(Sets *s, const UOpList *list, const uint32_t *number) {
  Loops *l = s->loops;
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    s->now = s->bits + i * s->words;
    for (uint32_t k = 0; k < u->nsrc; k++) {
      if (u->op == OP_BIND && k == 0) continue;
      join(s, s->bits + number[u->src[k]->id] * s->words);
    }
    if (u->op == OP_VAR) join_var(s, u);
    loops_vars(u, join_var, s);
    if (u->op != OP_LOOP) continue;
    uint32_t own = l->var_loop[u->src[0]->arg.i] - 1;
    s->now[own / 64] &= ~((uint64_t)1 << own % 64);
  }
}

static bool is_around(const Loops *l, uint32_t outer, uint32_t inner) {
  while (inner && inner != outer) inner = l->at[inner - 1].parent;
  return inner == outer;
}

/* The loop in the set that is inside of all others of it. */
static uint32_t innermost(Job *job, const Sets *s, const uint64_t *bits) {
  const Loops *l = s->loops;
  uint32_t best = 0;
  for (int pass = 0; pass < 2; pass++) {
    for (size_t w = 0; w < s->words; w++) {
      for (uint64_t left = bits[w]; left; left &= left - 1) {
        uint32_t k = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(left) + 1;
        if (pass && !is_around(l, k, best))
          job_abort(job, FAIL(INTERNAL, "a value belongs to loops that are not nested"));
        if (!best || l->at[k - 1].depth > l->at[best - 1].depth) best = k;
      }
    }
  }
  return best;
}

void loops_find(Job *job, const UOpList *list, const uint32_t *number, size_t nvars, Loops *out) {
  *out = (Loops){0};
  out->region = arena_array(&job->arena, list->len + 1, sizeof *out->region);
  out->var_loop = arena_array(&job->arena, nvars + 1, sizeof *out->var_loop);
  out->var_bind = arena_array(&job->arena, nvars + 1, sizeof *out->var_bind);
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    bool known = (u->op == OP_LOOP || u->op == OP_BIND) && (size_t)u->src[0]->arg.i < nvars;
    if (known && u->op == OP_LOOP) out->var_loop[u->src[0]->arg.i] = ++out->n;
    if (known && u->op == OP_BIND) out->var_bind[u->src[0]->arg.i] = (uint32_t)i + 1;
  }
  if (!out->n) return;
  out->at = arena_array(&job->arena, out->n, sizeof *out->at);
  Sets s = {.loops = out, .words = (out->n + 63) / 64};
  s.bits = arena_array(&job->arena, list->len * s.words, sizeof *s.bits);
  find_sets(&s, list, number);
  for (size_t i = list->len; i-- > 0;) { /* outer loops first */
    UOp *u = list->at[i];
    if (u->op != OP_LOOP) continue;
    LoopInfo *loop = &out->at[out->var_loop[u->src[0]->arg.i] - 1];
    loop->node = u;
    loop->parent = innermost(job, &s, s.bits + i * s.words);
    loop->depth = 1 + (loop->parent ? out->at[loop->parent - 1].depth : 0);
  }
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    out->region[i] = innermost(job, &s, s.bits + i * s.words);
    for (uint32_t k = 3; u->op == OP_LOOP && k < u->nsrc; k++)
      if (!view_in_body(u, k)) out->region[number[u->src[k]->id]] = out->region[i];
  }
}
