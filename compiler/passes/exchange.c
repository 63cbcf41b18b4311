/* The threads of a matrix instruction hold a few elements of a row each: two, next to those of the
 * next thread, and again four times as far on. Stored as they are, a thread writes 4 bytes at a
 * time. But four threads in a row have, in four such stores, four times what one of them could
 * write at once: they exchange it, the first takes what all of them have for the first store, the
 * second for the second store, and so on.
 *
 *   thread q of 4:  for j < n: y[x + L q + P j] = v_j                             L elements
 *   becomes         y[x + L n (q / n) + P (q % n)] = EXCHANGE(v_0, ..., v_(n-1))  n L elements
 *
 * n is 4 or 2, so that 16 bytes are written. All threads of a workgroup run the same statements, so
 * the neighbours are there. */
#include "compiler/passes/exchange.h"

#include <stdlib.h>

#include "base/vec.h"

#include "compiler/passes/linsum.h"

enum { QUAD = 4, WARP = 32, STORE_BYTES = 16 };

typedef struct Part {
  UOp *store;
  const LinSum *at;
  const UOp *quad; /* the number of the thread among four */
  bool done;
} Part;

typedef struct Parts {
  Part *at;
  size_t len, cap;
} Parts;

static bool is_quad(const UOp *u) {
  return u->op == OP_FLOORMOD && u->src[0]->op == OP_SPECIAL && u->src[0]->arg.i == 3 &&
         uop_is_int(u->src[1], QUAD) && u->src[0]->src[0]->arg.i % WARP == 0;
}

/* How many stores of `lanes` elements become one. */
static unsigned fold_of(const UOp *store) {
  unsigned bytes = store->src[2]->lanes * dtype_info[store->src[2]->dtype].bytes;
  if (bytes % 4) return 1; /* registers are exchanged */
  return bytes * 4 <= STORE_BYTES ? 4 : bytes * 2 <= STORE_BYTES ? 2 : 1;
}

/* Whether what the tile of an axis begins with is a multiple: one that overlaps begins at a
 * minimum.
 */
static bool is_multiple(Job *job, UOp *u, int64_t of) {
  if (u->op == OP_MIN || u->op == OP_MAX)
    return is_multiple(job, u->src[0], of) && is_multiple(job, u->src[1], of);
  const LinSum *sum = linsum_index(job, u);
  bool all = sum->konst % of == 0;
  for (uint32_t t = 0; all && t < sum->n; t++) {
    UOp *atom = sum->at[t].atom;
    all = sum->at[t].coeff % of == 0 || (atom != u && is_multiple(job, atom, of));
  }
  return all;
}

static void find_parts(Job *job, const UOpList *list, Parts *out) {
  for (size_t i = 0; i < list->len; i++) {
    UOp *u = list->at[i];
    if (u->op != OP_STORE || u->nsrc != 3 || uop_storage(u->src[0])->op != OP_PARAM) continue;
    int64_t lanes = u->src[2]->lanes, wide = lanes * fold_of(u);
    if (wide == lanes || u->src[1]->lanes > 1 || (lanes > 1 && u->arg.i != 1)) continue;
    Part p = {.store = u, .at = linsum_index(job, u->src[1])};
    bool even = true;
    for (uint32_t t = 0; t < p.at->n; t++) {
      const LinTerm *term = &p.at->at[t];
      if (is_quad(term->atom) && term->coeff == lanes)
        p.quad = term->atom;
      else
        even &= term->coeff % wide == 0 || is_multiple(job, term->atom, wide);
    }
    if (p.quad && even) avec_push(&job->arena, out, p);
  }
}

/* The same but for the constant. */
static bool side_by_side(const Part *a, const Part *b) {
  if (a->store->src[0] != b->store->src[0] || a->at->n != b->at->n) return false;
  if (a->store->open != b->store->open || a->store->src[2]->dtype != b->store->src[2]->dtype)
    return false;
  if (a->store->src[2]->lanes != b->store->src[2]->lanes) return false;
  for (uint32_t t = 0; t < a->at->n; t++)
    if (a->at->at[t].atom != b->at->at[t].atom || a->at->at[t].coeff != b->at->at[t].coeff)
      return false;
  return true;
}

/* One store for n of them, `apart` elements apart. */
static UOp *wide_store(Job *job, Part *const *part, unsigned n, int64_t apart) {
  const Part *first = part[0];
  int64_t lanes = first->store->src[2]->lanes;
  LinTerm *terms = arena_array(&job->arena, first->at->n + 2u, sizeof *terms);
  UOp *value[QUAD], *quad = NULL, *size = uop_index(job, n);
  uint32_t k = 0;
  for (uint32_t t = 0; t < first->at->n; t++) {
    if (first->at->at[t].atom == first->quad)
      quad = first->at->at[t].atom;
    else
      terms[k++] = first->at->at[t];
  }
  terms[k++] = (LinTerm){n < QUAD ? uop2(job, OP_FLOORMOD, quad, size) : quad, apart};
  if (n < QUAD) terms[k++] = (LinTerm){uop2(job, OP_FLOORDIV, quad, size), lanes * n};
  for (unsigned j = 0; j < n; j++) value[j] = part[j]->store->src[2];
  UOp *all = uop_make_lanes(job, OP_EXCHANGE, DT_VOID, (unsigned)lanes * n, arg_none(), value, n);
  UOp *src[3] = {first->store->src[0], linsum_build(job, terms, k, first->at->konst), all};
  return uop_make_lanes(job, OP_STORE, DT_VOID, (unsigned)lanes * n, arg_i(1), src, 3);
}

static Part *part_at(Parts *parts, const Part *like, int64_t konst) {
  for (size_t i = 0; i < parts->len; i++) {
    Part *p = &parts->at[i];
    if (!p->done && p->at->konst == konst && side_by_side(p, like)) return p;
  }
  return NULL;
}

UOp *exchange_stores(Job *job, UOp *kernel, const Target *target) {
  UOpList list = uop_toposort(job, kernel), from = {0}, to = {0};
  Parts parts = {0};
  if (target->warp != WARP || !target_is_cuda(target)) return kernel;
  find_parts(job, &list, &parts);
  for (size_t i = 0; i < parts.len; i++) {
    Part *p = &parts.at[i], *of[QUAD] = {p};
    unsigned n = fold_of(p->store), found = 1;
    int64_t lanes = p->store->src[2]->lanes, apart = QUAD * lanes;
    if (p->done || p->at->konst % (apart * n)) continue;
    for (; found < n; found++)
      if (!(of[found] = part_at(&parts, p, p->at->konst + found * apart))) break;
    if (found < n) continue;
    UOp *store = wide_store(job, of, n, apart);
    for (unsigned j = 0; j < n; j++) {
      of[j]->done = true;
      avec_push(&job->arena, &from, of[j]->store);
      avec_push(&job->arena, &to, store);
    }
  }
  return from.len ? uop_substitute(job, kernel, from.at, to.at, from.len) : kernel;
}
