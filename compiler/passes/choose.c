/* A turned pair (a cos - b sin, b cos + a sin) is two halves of a row, side by side, each computed
 * from both halves of another row. As a CAT it would be a kernel of its own, for what made the row
 * is asked for twice under two gates. As a choice along a new axis of as many places as there are
 * parts
 *
 *   CAT(p_0, p_1, ...)   ->   RESHAPE(WHERE(place = 0, p_0, WHERE(place = 1, p_1, ...)))
 *
 * all parts ask for the same elements, whichever is chosen. The kernel that computes the sums
 * behind them writes the axis out and has each sum once. Only parts that share a sum of products
 * are worth that, and only where a kernel more costs more than a choice. */
#include "compiler/passes/choose.h"

#include "compiler/ir/dim.h"
#include "compiler/passes/replace.h"

enum { MOST_PARTS = 4, MOST_RANK = 12, DEPTH = 16, SUMS = 8, LOOKED_AT = 128 };

typedef struct Sums {
  const UOp *at[SUMS];
  uint32_t n, looked_at;
} Sums;

static bool is_sum_of_products(const UOp *u) {
  return u->op == OP_REDUCE && u->arg.i == OP_ADD && u->src[0]->op == OP_MUL;
}

/* The sums of products that u is computed from element by element. */
static void find_sums(const UOp *u, int depth, Sums *out) {
  if (out->looked_at++ == LOOKED_AT) out->n = 0;
  if (out->looked_at > LOOKED_AT) return;
  if (is_sum_of_products(u)) {
    for (uint32_t k = 0; k < out->n; k++)
      if (out->at[k] == u) return;
    if (out->n < SUMS) out->at[out->n++] = u;
    return;
  }
  bool through = op_info[u->op].flags & (OPF_ALU | OPF_MOVE) || u->op == OP_CAST;
  for (uint32_t s = 0; through && depth && s < u->nsrc; s++) find_sums(u->src[s], depth - 1, out);
}

static bool are_equal(const UOp *u) {
  for (uint32_t s = 1; s < u->nsrc; s++)
    if (!shape_eq(u->src[s]->shape, u->src[0]->shape)) return false;
  return true;
}

static bool shares_sums(const UOp *u, const Target *target) {
  (void)target;
  if (u->op != OP_CAT || u->nsrc < 2 || u->nsrc > MOST_PARTS) return false;
  if (u->shape.n + 1 > MOST_RANK || !shape_is_static(u->shape) || !are_equal(u)) return false;
  Sums first = {.n = 0};
  find_sums(u->src[0], DEPTH, &first);
  for (uint32_t s = 1; s < u->nsrc; s++) {
    Sums other = {.n = 0};
    find_sums(u->src[s], DEPTH, &other);
    if (!first.n || other.n != first.n) return false;
    for (uint32_t k = 0; k < first.n; k++) {
      bool found = false;
      for (uint32_t i = 0; i < other.n; i++) found |= other.at[i] == first.at[k];
      if (!found) return false;
    }
  }
  return true;
}

static UOp *shaped(Job *job, Op op, UOp *x, const int64_t *dims, uint32_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(dims, n), &x, 1);
}

static UOp *chosen(Job *job, UOp *u, const Target *target) {
  (void)target;
  uint32_t axis = (uint32_t)u->arg.i, rank = u->shape.n;
  const UOp *part = u->src[0];
  int64_t one[MOST_RANK], wide[MOST_RANK], line[MOST_RANK];
  for (uint32_t k = 0; k <= rank; k++) {
    one[k] = wide[k] = k == axis ? 1 : part->shape.at[k - (k > axis)];
    line[k] = 1;
  }
  wide[axis] = line[axis] = u->nsrc;
  UOp *place = uop_make(job, OP_IOTA, DT_I32, arg_both(axis, line, rank + 1), NULL, 0);
  UOp *value = NULL;
  for (uint32_t s = u->nsrc; s-- > 0;) {
    UOp *x =
        shaped(job, OP_EXPAND, shaped(job, OP_RESHAPE, u->src[s], one, rank + 1), wide, rank + 1);
    UOp *here = uop2(job, OP_CMPLE, place, uop_int(job, DT_I32, s));
    here = shaped(job, OP_EXPAND, here, wide, rank + 1);
    value = value ? uop3(job, OP_WHERE, here, x, value) : x;
  }
  return shaped(job, OP_RESHAPE, value, u->shape.at, rank);
}

UOp *choose_parts(Job *job, const Target *target, UOp *sink) {
  return target->max_group ? replace_each(job, target, sink, shares_sums, chosen) : sink;
}
