/* TILEMMAs are begun one after the other and done later. A sum that one of them adds to may be that
 * of another one which is under way; whatever else uses it waits: for a SETTLE. All sums that are
 * made at the same place are begun before the first of them is waited for, so a SETTLE comes after
 * them all. */
#include "compiler/passes/settle.h"

#include "base/vec.h"

#include "compiler/passes/nodemap.h"

/* Sums that something else than a TILEMMA or a SETTLE uses, and that depend on no other such sum.
 */
static size_t find_results(Job *job, const UOpList *list, UOp **out) {
  enum { RESULT = 1, ABOVE = 2 };
  NodeMap pos;
  uint8_t *is = arena_alloc(&job->arena, list->len);
  size_t n = 0;
  nodemap_number(job, &pos, list);
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    bool waits = u->op == OP_TILEMMA || u->op == OP_SETTLE;
    for (uint32_t s = 0; !waits && s < u->nsrc; s++)
      if (u->src[s]->op == OP_TILEMMA) is[nodemap_get(&pos, u->src[s])] |= RESULT;
  }
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    for (uint32_t s = 0; s < u->nsrc; s++)
      if (is[nodemap_get(&pos, u->src[s])]) is[i] |= ABOVE;
    if (is[i] == RESULT) out[n++] = list->at[i];
  }
  return n;
}

static UOp *settled(Job *job, UOp *const *sum, size_t n, size_t i) {
  UOp **src = arena_array(&job->arena, n, sizeof *src);
  size_t count = 0;
  src[count++] = sum[i];
  for (size_t k = 0; k < n; k++)
    if (k != i && sum[k]->open == sum[i]->open) src[count++] = sum[k];
  return uop_make(job, OP_SETTLE, DT_VOID, arg_i(0), src, count);
}

UOp *settle_products(Job *job, UOp *kernel) {
  for (;;) {
    UOpList list = uop_toposort(job, kernel);
    UOp **sum = arena_array(&job->arena, list.len, sizeof *sum);
    size_t n = find_results(job, &list, sum);
    if (!n) return kernel;
    UOp **to = arena_array(&job->arena, n, sizeof *to);
    for (size_t i = 0; i < n; i++) to[i] = settled(job, sum, n, i);
    kernel = uop_substitute(job, kernel, sum, to, n);
  }
}

/* Registers that a SETTLE of the loop is kept in, read behind it. */
static bool reads_settled(const UOpList *list, const UOp *load, const UOp *range) {
  if (load->op != OP_LOAD || uop_is_open(load, range)) return false;
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    bool kept = u->op == OP_STORE && u->src[2]->op == OP_SETTLE && uop_is_open(u->src[2], range);
    if (kept && uop_storage(u->src[0]) == uop_storage(load->src[0])) return true;
  }
  return false;
}

/* The sums are read behind the loop once they are there. */
static UOp *settle_rest(Job *job, UOp *kernel, const UOp *range) {
  UOpList list = uop_toposort(job, kernel), sums = {0};
  for (size_t i = 0; i < list.len; i++)
    if (reads_settled(&list, list.at[i], range)) avec_push(&job->arena, &sums, list.at[i]);
  UOp **to = arena_array(&job->arena, sums.len + 1, sizeof *to);
  for (size_t i = 0; i < sums.len; i++) to[i] = settled(job, sums.at, sums.len, i);
  return uop_substitute(job, kernel, sums.at, to, sums.len);
}

/* A SETTLE in the loop that does not wait for the effect; those that others need come first. */
static UOp *hasty(Job *job, UOp *kernel, const UOp *range, const UOp *effect) {
  UOpList list = uop_toposort(job, kernel);
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if (u->op == OP_SETTLE && uop_is_open(u, range) && u->src[u->nsrc - 1] != effect) return u;
  }
  return NULL;
}

UOp *settle_after(Job *job, UOp *kernel, const UOp *range, UOp *effect, int64_t under) {
  UOp *u = hasty(job, kernel, range, effect);
  if (!u) return kernel;
  for (; u; u = hasty(job, kernel, range, effect)) {
    UOp **src = arena_array(&job->arena, u->nsrc + 1u, sizeof *src);
    memcpy(src, u->src, u->nsrc * sizeof *src);
    src[u->nsrc] = effect;
    UOp *later = uop_make(job, OP_SETTLE, DT_VOID, arg_i(under), src, u->nsrc + 1u);
    kernel = uop_substitute(job, kernel, &u, &later, 1);
  }
  return under ? settle_rest(job, kernel, range) : kernel;
}
