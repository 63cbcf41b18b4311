/* The leaves of a tree of ANDs. Trees are as deep as graphs make them, so depth is bounded like the
 * number of leaves. */
#include "compiler/rules/clauses.h"

static bool add(UOp *u, Clauses *out, int depth) {
  if (u->op == OP_AND)
    return depth < CLAUSES_MAX && add(u->src[0], out, depth + 1) && add(u->src[1], out, depth + 1);
  for (uint32_t i = 0; i < out->n; i++)
    if (out->at[i] == u) return true;
  if (out->n == CLAUSES_MAX) return false;
  out->at[out->n++] = u;
  return true;
}

bool clauses_add(UOp *cond, Clauses *out) { return add(cond, out, 0); }
