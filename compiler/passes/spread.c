/* A buffer of space 3 is laid out as one row for a whole workgroup, and threads take the elements
 * that their numbers select: an index is a sum in which ranges over threads are digits of certain
 * weights. Whoever made the kernel sees to it that all accesses have the same such digits, so that
 * a thread reads what it has written itself. Then no memory need be shared: each thread has a
 * buffer of its own, in which the places of those digits are left out - what counts in steps of
 * more than a digit's span counts in so many fewer - and which registers can hold. */
#include "compiler/passes/spread.h"

#include <assert.h>

#include "compiler/passes/linsum.h"
#include "compiler/passes/replace.h"

enum { SPREAD = 3 };

static bool is_spread(const UOp *u) {
  const UOp *b = uop_storage(u);
  return b->op == OP_BUFFER && b->arg.ints.at[1] == SPREAD;
}

static bool is_thread(const UOp *u) {
  if (u->op != OP_RANGE) return false;
  AxisType t = uop_axis(u);
  return t == AX_WARP || t == AX_LOCAL || t == AX_GROUP;
}

/* A step of c elements of the row in elements of one thread. */
static int64_t own_step(const LinSum *sum, int64_t c) {
  int64_t step = c;
  for (uint32_t i = 0; i < sum->n; i++) {
    if (!is_thread(sum->at[i].atom)) continue;
    int64_t size = sum->at[i].atom->src[0]->arg.i;
    if (c < sum->at[i].coeff * size) continue;
    assert(c % (sum->at[i].coeff * size) == 0); /* schedule_keep.c lays rows out so */
    step /= size;
  }
  return step;
}

static UOp *own_index(Job *job, UOp *index) {
  const LinSum *sum = linsum_index(job, index);
  LinTerm *t = arena_array(&job->arena, sum->n + 1u, sizeof *t);
  uint32_t n = 0;
  for (uint32_t i = 0; i < sum->n; i++)
    if (!is_thread(sum->at[i].atom))
      t[n++] = (LinTerm){sum->at[i].atom, own_step(sum, sum->at[i].coeff)};
  return linsum_build(job, t, n, sum->konst ? own_step(sum, sum->konst) : 0);
}

/* Elements that one thread has of the buffer under an access. */
static int64_t own_elements(Job *job, const UOp *buffer, UOp *index) {
  const LinSum *sum = linsum_index(job, index);
  int64_t n = buffer->arg.ints.at[0];
  for (uint32_t i = 0; i < sum->n; i++)
    if (is_thread(sum->at[i].atom)) n /= sum->at[i].atom->src[0]->arg.i;
  return n;
}

UOp *spread_rows(Job *job, UOp *kernel) {
  Replace r = replace_begin(job, kernel);
  UOpList list = r.list;
  bool any = false;
  for (size_t i = 0; i < list.len; i++) any |= list.at[i]->op == OP_BUFFER && is_spread(list.at[i]);
  if (!any) return kernel;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if ((u->op != OP_INDEX && u->op != OP_STORE) || !is_spread(u->src[0])) continue;
    const UOp *b = uop_storage(u->src[0]);
    int64_t ints[2] = {own_elements(job, b, u->src[1]), 0};
    UOp *own = uop_make(job, OP_BUFFER, (DType)b->dtype, arg_both(b->arg.i, ints, 2), NULL, 0);
    r.now[nodemap_get(&r.pos, b)] = own;
  }
  for (size_t i = 0; i < list.len; i++) {
    if (r.now[i]) continue;
    UOp *u = list.at[i], **src = replace_renewed(&r, u);
    if ((u->op == OP_INDEX || u->op == OP_STORE) && is_spread(u->src[0]))
      src[1] = own_index(job, src[1]);
    r.now[i] = replace_with(&r, u, src);
  }
  return replace_end(&r);
}
