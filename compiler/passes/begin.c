/* for r: ... (r > 0 ? buffer[at] : c) ... buffer[at] = ...
 *
 * asks in every iteration whether it is the first one. The same with buffer = c before the loop
 * does not, and leaves registers that go round. It is done for code alone: where the interpreter
 * runs threads one after the other they share buffers, and each has to begin anew. */
#include "compiler/passes/begin.h"

#include "compiler/passes/nodemap.h"

typedef struct Begin {
  Job *job;
  UOpList list;
  NodeMap pos;
  UOp **now;
  UOp **first; /* of a BUFFER: the number it begins with, NULL: it does not */
  UOp **begun; /* of a BUFFER: after it was filled */
  int64_t next_range;
} Begin;

/* "0 < r" of a loop; NULL for other conditions. */
static UOp *loop_of(const UOp *gate) {
  bool fits = gate->op == OP_CMPLT && uop_is_int(gate->src[0], 0) && gate->src[1]->op == OP_RANGE &&
              uop_axis(gate->src[1]) == AX_LOOP;
  return fits ? gate->src[1] : NULL;
}

static bool is_first_read(const UOp *u) {
  return u->op == OP_INDEX && u->nsrc == 3 && u->src[0]->op == OP_BUFFER &&
         u->src[0]->arg.ints.at[1] == 0 && loop_of(u->src[2]);
}

static uint32_t position(const Begin *b, const UOp *u) { return nodemap_get(&b->pos, u); }

/* Zero stands for what a gate keeps out, unless a WHERE says something else. */
static void find_first(Begin *b) {
  for (size_t i = 0; i < b->list.len; i++) {
    const UOp *u = b->list.at[i];
    if (is_first_read(u)) {
      UOp **to = &b->first[position(b, u->src[0])];
      if (!*to) *to = uop_scalar(b->job, (DType)u->dtype, (Scalar){0});
    }
    bool where = u->op == OP_WHERE && is_first_read(u->src[1]) && u->src[0] == u->src[1]->src[2];
    if (where && uop_is_const(u->src[2])) b->first[position(b, u->src[1]->src[0])] = u->src[2];
    if (u->op == OP_RANGE && u->arg.i >= b->next_range) b->next_range = u->arg.i + 1;
  }
}

/* The buffer in each iteration of the loops around that one, and not before them all. */
static UOp *anew(Begin *b, UOp *buffer, const UOp *loop) {
  UOp *end = NULL;
  for (size_t i = 0; i < b->list.len && !end; i++)
    if (b->list.at[i]->op == OP_END && b->list.at[i]->src[1] == loop) end = b->list.at[i];
  uint32_t open = end && end->open ? end->open->n : 0, n = 1;
  UOp **src = arena_array(&b->job->arena, open + 1u, sizeof *src);
  src[0] = buffer;
  for (uint32_t k = 0; k < open; k++)
    if (uop_axis(end->open->at[k]) == AX_LOOP) src[n++] = end->open->at[k];
  return n == 1 ? buffer : uop_make(b->job, OP_AFTER, DT_VOID, arg_none(), src, n);
}

static UOp *fill(Begin *b, UOp *buffer, const UOp *loop) {
  Job *job = b->job;
  uint32_t at = position(b, buffer);
  if (b->begun[at]) return b->begun[at];
  UOp *r = uop_range(job, b->next_range++, AX_UPCAST, uop_index(job, buffer->arg.ints.at[0]));
  UOp *src[3] = {anew(b, buffer, loop), r, b->first[at]};
  UOp *store = uop_make(job, OP_STORE, DT_VOID, arg_i(0), src, 3);
  return b->begun[at] = uop2(job, OP_AFTER, buffer, uop2(job, OP_END, store, r));
}

static UOp *rebuild(Begin *b, UOp *u) {
  Job *job = b->job;
  if (u->op == OP_WHERE && is_first_read(u->src[1]) && u->src[0] == u->src[1]->src[2] &&
      u->src[2] == b->first[position(b, u->src[1]->src[0])])
    return b->now[position(b, u->src[1])];
  UOp **src = arena_array(&job->arena, u->nsrc + 2u, sizeof *src);
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = b->now[position(b, u->src[s])];
  if (!is_first_read(u)) return u->nsrc ? uop_with_src(job, u, src) : u;
  src[0] = fill(b, u->src[0], loop_of(u->src[2]));
  src[2] = uop_int(job, DT_BOOL, true);
  src[3] = loop_of(u->src[2]);
  return uop_make(job, OP_INDEX, DT_VOID, arg_none(), src, 4);
}

UOp *begin_buffers(Job *job, UOp *kernel) {
  Begin b = {.job = job, .list = uop_toposort(job, kernel)};
  b.now = arena_array(&job->arena, b.list.len, sizeof *b.now);
  b.first = arena_array(&job->arena, b.list.len, sizeof *b.first);
  b.begun = arena_array(&job->arena, b.list.len, sizeof *b.begun);
  nodemap_number(job, &b.pos, &b.list);
  find_first(&b);
  for (size_t i = 0; i < b.list.len; i++) b.now[i] = rebuild(&b, b.list.at[i]);
  return b.now[b.list.len - 1];
}
