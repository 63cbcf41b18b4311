/* An AFTER of a buffer of the workgroup says that what follows reads what the effects wrote, in
 * whichever thread: the effects get a BARRIER. A loop whose body writes such a buffer writes it
 * again in the next iteration, when a slower thread may still read it: its body ends with a
 * BARRIER too. Outside of loops a buffer is written once, so nothing else can go wrong.
 *
 * Every thread runs the same statements (loops have the same bounds in all of them, accesses are
 * gated one by one), so all arrive at each BARRIER. */
#include "compiler/passes/barriers.h"

#include "compiler/ir/matrix.h"
#include "compiler/passes/pipeline.h"
#include "compiler/passes/replace.h"

static bool is_shared(const UOp *u) {
  const UOp *b = uop_storage(u);
  return b->op == OP_BUFFER && b->arg.ints.at[1] == 2;
}

/* Wrapped in a BARRIER, unless it is one. */
static UOp *fenced(Job *job, UOp *const *effects, size_t n) {
  if (n == 1 && effects[0]->op == OP_BARRIER) return effects[0];
  return uop_make(job, OP_BARRIER, DT_VOID, arg_none(), effects, n);
}

/* Whether a node that lies in the loop reads the workgroup's memory; if none does, no thread can be
 * too early in writing it again. */
static bool reads_shared(const UOpList *list, const UOp *range) {
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    bool read = u->op == OP_LOAD || u->op == OP_LDMATRIX || u->op == OP_TILEMMA;
    uint32_t from = u->op == OP_TILEMMA ? matrix_source(matrix_info(u->arg.i), MATRIX_B) : 0;
    if (read && is_shared(u->src[from]) && uop_is_open(u, range)) return true;
  }
  return false;
}

/* Whether a node under the END that lies in its loop stores to the workgroup's memory. */
static bool writes_shared(const UOpList *list, const UOp *range) {
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (u->op == OP_STORE && is_shared(u->src[0]) && uop_is_open(u, range)) return true;
  }
  return false;
}

/* Loops whose copies run ahead wait for each other at their beginning; loops around them at their
 * end, because the first copies are before the inner loop. */
static bool ends_fenced(const UOpList *list, const UOp *range) {
  if (pipeline_is_loop(list, range)) return false;
  bool again = writes_shared(list, range) && reads_shared(list, range);
  return again || pipeline_inside(list, range);
}

UOp *barriers_insert(Job *job, UOp *kernel) {
  UOpList list = uop_toposort(job, kernel);
  bool any = false;
  for (size_t i = 0; i < list.len; i++) any |= list.at[i]->op == OP_BUFFER && is_shared(list.at[i]);
  if (!any) return kernel;
  Replace r = replace_begin(job, kernel);
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i], **src = replace_renewed(&r, u);
    bool ahead = u->op == OP_AFTER && is_shared(u) && pipeline_places(u) > 1;
    if (u->op == OP_AFTER && is_shared(u) && !ahead) {
      r.now[i] = uop2(job, OP_AFTER, src[0], fenced(job, src + 1, u->nsrc - 1));
      continue;
    }
    if (u->op == OP_END && ends_fenced(&list, u->src[1])) src[0] = fenced(job, src, 1);
    r.now[i] = replace_with(&r, u, src);
  }
  return replace_end(&r);
}
