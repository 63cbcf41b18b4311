/* Which reductions over a row can be computed block by block.
 *
 * M = max_r f(r) and O = sum_r g(r, M) seem to need two passes, but if g(r, M') = g(r, M) * ratio
 * with a ratio that is the same along the row, the sum so far can be repaired whenever a block
 * moves the maximum (online softmax: Milakov and Gimelshein, 2018; for attention: Rabe and Staats,
 * 2021, Dao et al., 2022). The test is mechanical. A body is taken apart into factors; each is free
 * of earlier results, or the exponential of a difference whose second half is the same along the
 * row, or one over what is. Casts between floats are looked through: they round, and so would the
 * sum.
 *
 * An earlier result that may be divided by or exponentiated must be a maximum, a minimum, or a sum
 * of this kind: before its first element it says by its value (the identity; 0) that nothing has
 * been summed yet. */
#include "compiler/search/repair.h"

#include "base/vec.h"
#include "compiler/search/kept.h"

typedef struct Finder {
  const UOpList *list;
  NodeMap pos;
  bool *uses;  /* by position: depends on a reduction of the chain */
  UOp **names; /* ranges that run along the row */
  uint32_t nnames;
} Finder;

static bool add_name(Finder *f, UOp *range) {
  for (uint32_t k = 0; k < f->nnames; k++)
    if (f->names[k] == range) return false;
  f->names[f->nnames++] = range;
  return true;
}

/* All ranges that some kept value has in the place of a known one. */
static void find_names(Finder *f, const Kept *kept, uint32_t nkept) {
  for (bool more = true; more;) {
    more = false;
    for (uint32_t k = 0; k < nkept; k++)
      for (uint32_t r = 0; r < kept[k].n * kept[k].nrow; r++) {
        bool known = false;
        for (uint32_t n = 0; n < f->nnames; n++) known |= f->names[n] == kept[k].row[r];
        for (uint32_t m = r % kept[k].nrow; known && m < kept[k].n * kept[k].nrow;
             m += kept[k].nrow)
          more |= add_name(f, kept[k].row[m]);
      }
  }
}

static bool along_row(const Finder *f, const UOp *u) {
  for (uint32_t k = 0; k < f->nnames; k++)
    if (uop_is_open(u, f->names[k])) return true;
  return false;
}

static bool uses_chain(const Finder *f, const UOp *u) { return f->uses[nodemap_get(&f->pos, u)]; }

/* The factors of a body that depend on earlier results; false when one is of no known kind. */
static bool take_apart(const Finder *f, UOp *u, RepairLink *link, int depth) {
  if (!uses_chain(f, u)) return true;
  if (!depth || link->nparts == 8) return false;
  RepairPart *part = &link->parts[link->nparts];
  switch (u->op) {
  case OP_MUL:
    return take_apart(f, u->src[0], link, depth - 1) && take_apart(f, u->src[1], link, depth - 1);
  case OP_CAST:
    return dtype_is_float((DType)u->dtype) && dtype_is_float((DType)u->src[0]->dtype) &&
           take_apart(f, u->src[0], link, depth - 1);
  case OP_WHERE:
    return !uses_chain(f, u->src[0]) && uop_is_number(u->src[2], 0) &&
           take_apart(f, u->src[1], link, depth - 1);
  case OP_RECIP:
    if (along_row(f, u)) return false;
    *part = (RepairPart){REPAIR_OVER, u->src[0], NULL}, link->nparts++;
    return true;
  case OP_FDIV:
    if (!uses_chain(f, u->src[1])) return take_apart(f, u->src[0], link, depth - 1);
    if (along_row(f, u->src[1])) return false;
    *part = (RepairPart){REPAIR_OVER, u->src[1], NULL}, link->nparts++;
    return take_apart(f, u->src[0], link, depth - 1);
  case OP_EXP:
  case OP_EXP2: {
    const UOp *d = u->src[0];
    if (d->op != OP_SUB || uses_chain(f, d->src[0]) || along_row(f, d->src[1])) return false;
    *part = (RepairPart){u->op == OP_EXP ? REPAIR_EXP : REPAIR_EXP2, d->src[1], d->src[0]};
    link->nparts++;
    return true;
  }
  default: return false;
  }
}

/* A REDUCE over one name of the row; -1 when it runs over none, -2 over that and more. */
static int row_of(const Finder *f, const UOp *u) {
  int axis = -1;
  for (uint32_t s = 1; u->op == OP_REDUCE && s < u->nsrc; s++)
    for (uint32_t k = 0; k < f->nnames; k++)
      if (u->src[s] == f->names[k]) axis = u->nsrc == 2 ? (int)u->src[s]->arg.i : -2;
  return axis;
}

/* What is exponentiated or divided by is a result of the chain itself. */
static bool is_result(const RepairChain *c, const RepairPart *part) {
  uint32_t link = repair_link(c, part->of);
  if (link == NODE_ABSENT) return false;
  bool sum = part->of->arg.i == OP_ADD;
  return part->kind == REPAIR_OVER ? sum && c->at[link].nparts : !sum;
}

static const char *add_link(Job *job, Finder *f, RepairChain *c, UOp *u, int axis) {
  enum { DEPTH = 32, PARTS = 8 };
  RepairLink *link = &c->at[c->n];
  *link = (RepairLink){.reduce = u, .axis = (uint32_t)axis};
  link->parts = arena_array(&job->arena, PARTS, sizeof *link->parts);
  if (!dtype_is_float((DType)u->dtype)) return "a reduction of the row is not of floats";
  if (u->arg.i != OP_ADD && u->arg.i != OP_MAX && u->arg.i != OP_MIN)
    return "a reduction of the row is no sum and no extreme";
  if (u->arg.i != OP_ADD && uses_chain(f, u->src[0])) return "an extreme needs another reduction";
  if (!take_apart(f, u->src[0], link, DEPTH))
    return "what a sum needs of another reduction is no exponential of a difference and no factor";
  for (uint32_t p = 0; p < link->nparts; p++)
    if (!is_result(c, &link->parts[p])) return "a sum needs more than results of the row";
  c->n++;
  return NULL;
}

Status repair_find(Job *job, const UOpList *list, const Kept *kept, uint32_t nkept, uint32_t axis,
                   RepairChain *out) {
  Finder f = {.list = list};
  const char *why = NULL;
  *out = (RepairChain){.at = arena_array(&job->arena, list->len + 1, sizeof *out->at)};
  f.uses = arena_array(&job->arena, list->len + 1, sizeof *f.uses);
  f.names = arena_array(&job->arena, list->len + 1, sizeof *f.names);
  nodemap_number(job, &f.pos, list);
  for (size_t i = 0; i < list->len; i++)
    if (list->at[i]->op == OP_RANGE && list->at[i]->arg.i == axis) add_name(&f, list->at[i]);
  find_names(&f, kept, nkept);
  for (uint32_t n = 0; n < f.nnames; n++)
    if (uop_axis(f.names[n]) != AX_REDUCE) why = "the output runs along the row";
  for (size_t i = 0; i < list->len && !why; i++) {
    UOp *u = list->at[i];
    int row = row_of(&f, u);
    for (uint32_t s = 0; s < u->nsrc; s++) f.uses[i] |= uses_chain(&f, u->src[s]);
    if (row == -2) why = "a reduction runs over the row and more";
    if (row >= 0) why = add_link(job, &f, out, u, row), f.uses[i] = true;
  }
  if (!why && out->n < 2) why = "there is one reduction of that row";
  return why ? FAIL(INVALID_ARGUMENT, "%s", why) : NULL;
}

uint32_t repair_link(const RepairChain *c, const UOp *reduce) {
  for (uint32_t k = 0; k < c->n; k++)
    if (c->at[k].reduce == reduce) return k;
  return NODE_ABSENT;
}
