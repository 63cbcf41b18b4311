/* What is read where a gate is false is 0, so a value behind a gate is computed everywhere and
 * reads nothing that is out of bounds. The gate of an access is its third source in both stages
 * that have accesses, and what stands behind it (the alternative of a LOAD) stays.
 *
 * Conditions are put side by side in the order given: kernels that differ in that order alone would
 * be two kernels to the cache. */
#include "compiler/passes/gates.h"

#include "compiler/ir/dim.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/replace.h"

UOp *gates_both(Job *job, UOp *a, UOp *b) {
  if (!a || a == b) return b;
  if (!b) return a;
  if (a->lanes > b->lanes)
    b = uop_make_lanes(job, OP_BROADCAST, DT_VOID, a->lanes, arg_none(), &b, 1);
  return uop2(job, OP_AND, a, b);
}

static UOp *behind(Job *job, UOp *u, UOp **src, UOp *gate) {
  src[2] = gates_both(job, u->nsrc > 2 ? src[2] : NULL, gate);
  return uop_make_lanes(job, (Op)u->op, DT_VOID, u->lanes, u->arg, src, u->nsrc > 3 ? u->nsrc : 3);
}

UOp *gates_around(Job *job, UOp *value, Op access, UOp *gate) {
  if (!gate) return value;
  Replace r = replace_begin(job, value);
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *u = r.list.at[i], **src = replace_renewed(&r, u);
    r.now[i] = (Op)u->op == access ? behind(job, u, src, gate) : replace_with(&r, u, src);
  }
  return replace_end(&r);
}

/* u with a gate when nothing proves that it stays inside its buffer. That a loop runs at all may
 * have been the reason, and the index not mention it. */
static UOp *gated(Job *job, UOp *u, const Target *target) {
  (void)target;
  uint32_t gate = u->op == OP_STORE ? 3 : 2;
  const UOp *buf = uop_storage(u->src[0]);
  int64_t n = buf->arg.ints.at[0];
  if (u->nsrc > gate || verify_inside(job, buf, u->src[1], 1, 0)) return u;
  UOp *low = uop2(job, OP_CMPLE, uop_index(job, 0), u->src[1]);
  UOp *high = uop2(job, OP_CMPLT, u->src[1], dim_uop(job, n)), *src[4];
  memcpy(src, u->src, u->nsrc * sizeof *src);
  src[gate] = uop2(job, OP_AND, low, high);
  return uop_make(job, (Op)u->op, DT_VOID, u->arg, src, gate + 1);
}

static bool is_access(const UOp *u, const Target *target) {
  (void)target;
  return u->op == OP_INDEX || u->op == OP_STORE;
}

UOp *gates_unproven(Job *job, UOp *sink) {
  return sink->symbolic ? replace_each(job, NULL, sink, is_access, gated) : sink;
}
