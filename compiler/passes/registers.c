/* Registers of a thread. Order is in the graph: what is loaded behind an AFTER is loaded when the
 * effects named there have happened, so a store before a loop, the store at the end of its body and
 * a load behind its END are three AFTERs of one buffer. */
#include "compiler/passes/registers.h"

UOp *register_new(Job *job, int64_t number, DType d, unsigned lanes) {
  int64_t ints[2] = {1, 1};
  return uop_make_lanes(job, OP_BUFFER, d, lanes, arg_both(number, ints, 2), NULL, 0);
}

UOp *register_after(Job *job, UOp *buffer, UOp *const *effects, size_t n) {
  if (!n) return buffer;
  UOp **src = arena_array(&job->arena, n + 1, sizeof *src);
  src[0] = buffer;
  memcpy(src + 1, effects, n * sizeof *src);
  return uop_make(job, OP_AFTER, DT_VOID, arg_none(), src, n + 1);
}

UOp *register_load(Job *job, UOp *buffer, unsigned lanes) {
  UOp *src[2] = {buffer, uop_index(job, 0)};
  return uop_make_lanes(job, OP_LOAD, DT_VOID, lanes, arg_i(0), src, 2);
}

UOp *register_store(Job *job, UOp *buffer, UOp *value) {
  UOp *src[3] = {buffer, uop_index(job, 0), value};
  return uop_make_lanes(job, OP_STORE, DT_VOID, value->lanes, arg_i(0), src, 3);
}
