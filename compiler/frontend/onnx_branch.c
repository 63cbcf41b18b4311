/* A branch whose condition the run decides, as a loop of one iteration or of none.
 *
 * The branch has been converted as if it were always taken. Where it is cheap it stays so. Where it
 * costs something, every value from outside that it looks at becomes what that value is in the
 * iteration of a LOOP, which puts the whole of the branch inside of it; its results are stored in
 * locals. When the LOOP is not entered they hold nothing, and the select behind it does not choose
 * them. */
#include "compiler/frontend/onnx_loop.h"

#include "compiler/frontend/build_nn.h"

/* Scalar operations that are worth a look at the condition, for which the run has to wait. */
static const int64_t WORTH_SKIPPING = 1 << 20;

static bool is_new(const UOp *u, uint32_t mark) { return u->id >= mark; }

/* The results of a branch under one node, so that one walk sees all of them. */
static UOp *together(Node *n, Val **results) {
  UOp **stores = arena_array(&n->job->arena, n->nout + 1, sizeof *stores);
  for (size_t i = 0; i < n->nout; i++) stores[i] = val_uop(n->f, results[i]);
  return uop_make(n->job, OP_SINK, DT_VOID, arg_none(), stores, n->nout);
}

static int64_t work_of(const UOp *u) {
  if (u->op == OP_REDUCE) return dims_typical(u->src[0]->shape);
  if (u->op == OP_LOOP) return WORTH_SKIPPING;
  return op_info[u->op].flags & OPF_ALU ? dims_typical(u->shape) : 0;
}

static bool is_worth_skipping(const UOpList *list, uint32_t mark) {
  int64_t work = 0;
  for (size_t i = 0; i < list->len && work < WORTH_SKIPPING; i++)
    if (is_new(list->at[i], mark)) work += work_of(list->at[i]);
  return work >= WORTH_SKIPPING;
}

/* Sizes, constants and effects stay what they are. */
static bool is_value(const UOp *u) {
  return u->dtype != DT_INDEX && u->dtype != DT_VOID && u->op != OP_CONST && u->op != OP_VAR;
}

/* The values from outside that new nodes look at. */
static size_t find_seen(Job *job, const UOpList *list, uint32_t mark, UOp **out) {
  bool *seen = arena_array(&job->arena, mark + 1, sizeof *seen);
  size_t n = 0;
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (!is_new(u, mark)) continue;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      UOp *from = u->src[s];
      bool effect = u->op == OP_AFTER && s == 0; /* the local itself */
      effect |= u->op == OP_STORE && s == 0;
      if (is_new(from, mark) || !is_value(from) || effect || seen[from->id]) continue;
      seen[from->id] = true;
      out[n++] = from;
    }
  }
  return n;
}

static UOp *make_loop(Node *n, UOp *var, UOp *taken, UOp *const *stores) {
  Job *job = n->job;
  UOp **src = arena_array(&job->arena, 3 + n->nout, sizeof *src);
  if (n->f->guard) taken = build2(job, OP_AND, n->f->guard, taken);
  src[0] = var;
  src[1] = build_cast(job, taken, DT_I64);
  src[2] = uop_int(job, DT_BOOL, 1);
  memcpy(src + 3, stores, n->nout * sizeof *src);
  return uop_make(job, OP_LOOP, DT_VOID, arg_none(), src, 3 + n->nout);
}

void onnx_branch_skip(Node *n, FrontMark made, uint32_t mark, UOp *taken, Val **results) {
  Job *job = n->job;
  Front *f = n->f;
  if (f->binds.len != made.binds || f->updates.len != made.updates) return;
  for (size_t i = 0; i < n->nout; i++)
    if (results[i]->kind != VAL_TENSOR) return;
  UOp *all = together(n, results);
  UOpList list = uop_toposort(job, all);
  if (!is_worth_skipping(&list, mark)) return;
  UOp **from = arena_array(&job->arena, list.len + 1, sizeof *from);
  UOp **to = arena_array(&job->arena, list.len + 1, sizeof *to);
  size_t seen = find_seen(job, &list, mark, from);
  if (!seen) return;
  UOp *var = front_loop_var(f, 2);
  for (size_t k = 0; k < seen; k++) to[k] = uop2(job, OP_AFTER, from[k], var);
  all = uop_substitute(job, all, from, to, seen);
  UOp **local = arena_array(&job->arena, n->nout + 1, sizeof *local);
  UOp **stores = arena_array(&job->arena, n->nout + 1, sizeof *stores);
  for (size_t i = 0; i < n->nout; i++) {
    UOp *x = all->src[i];
    local[i] = front_local(f, uop_dtype(x), x->shape);
    stores[i] = uop2(job, OP_STORE, uop2(job, OP_AFTER, local[i], var), x);
  }
  UOp *loop = make_loop(n, var, taken, stores);
  for (size_t i = 0; i < n->nout; i++)
    results[i] = val_from_uop(f, uop2(job, OP_AFTER, local[i], loop), true);
}
