/* See view.h. A chain is as long as the user made it, so everything here is a loop. */
#include "compiler/ir/view.h"

bool view_op(const UOp *u) {
  return op_info[u->op].flags & OPF_MOVE && u->op != OP_PAD && u->op != OP_CAT &&
         u->op != OP_GATHER;
}

UOp *view_root(UOp *u) {
  while (view_op(u)) u = u->src[0];
  return u;
}

UOp *view_param(UOp *u) {
  u = view_root(u);
  if (u->op == OP_AFTER) u = u->src[0];
  return u->op == OP_PARAM ? u : NULL;
}

/* Windows that overlap, and copies made by EXPAND, show elements twice. */
bool view_is_injective(const UOp *u) {
  for (; view_op(u); u = u->src[0]) {
    if (u->op == OP_EXPAND && !shape_eq(u->shape, u->src[0]->shape)) return false;
    if (u->op != OP_WINDOW) continue;
    const int64_t *w = u->arg.ints.at; /* axis, size, stride, dilation */
    bool apart = w[1] == 1 || u->shape.at[w[0]] == 1 || w[3] * (w[1] - 1) < w[2];
    if (!apart) return false;
  }
  return true;
}

bool view_same(const UOp *a, const UOp *b) {
  for (; view_op(a) && view_op(b); a = a->src[0], b = b->src[0]) {
    if (a == b) return true;
    if (a->op != b->op || a->arg.i != b->arg.i || !shape_eq(a->arg.ints, b->arg.ints)) return false;
  }
  return !view_op(a) && !view_op(b) && shape_eq(a->shape, b->shape);
}

bool view_is_update(const UOp *store) {
  const UOp *to = store->src[0];
  return store->op == OP_STORE && (view_op(to) || to->op == OP_AFTER);
}

bool view_loop_updates(const UOp *loop, const UOp *param) {
  for (uint32_t s = 3; s < loop->nsrc; s++) {
    UOp *effect = loop->src[s];
    UOp *view = effect->op == OP_STORE ? effect->src[0] : effect;
    if (effect->op != OP_BIND && view_param(view) == param) return true;
  }
  return false;
}

bool view_in_body(const UOp *loop, uint32_t s) {
  const UOp *effect = loop->src[s];
  if (effect->op == OP_BIND) return true;
  while (effect->op == OP_STORE) {
    const UOp *root = view_root(effect->src[0]);
    if (root->op != OP_AFTER) return false;
    effect = root->src[1];
  }
  return effect->op == OP_VAR;
}
