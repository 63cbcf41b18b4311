/* TILEMMAs are begun one after the other and done later. A sum that one of them adds to may be that
 * of another one which is under way; whatever else uses it waits: for a SETTLE. All sums that are
 * made at the same place are begun before the first of them is waited for, so a SETTLE comes after
 * them all.
 *
 * A sum may be late: everything that is made of it needs something that is made of another one.
 * Then the other one is begun first, the first SETTLE leaves the late one under way, and that is
 * waited for when what is made of the other sum has been computed. */
#include "compiler/passes/settle.h"

#include "base/vec.h"

#include "compiler/passes/nodemap.h"

enum { MOST_SUMS = 32, MOST_UNDER_WAY = 7 };

/* Sums that something else than a TILEMMA or a SETTLE uses, and that depend on no other such sum.
 */
typedef struct Sums {
  Job *job;
  UOpList list;
  NodeMap pos;
  UOp *at[MOST_SUMS];
  uint32_t n;
  uint32_t *needs; /* by position: which of the sums */
  uint32_t late;
} Sums;

static void find_results(Sums *s) {
  enum { RESULT = 1, ABOVE = 2 };
  uint8_t *is = arena_alloc(&s->job->arena, s->list.len);
  for (size_t i = 0; i < s->list.len; i++) {
    const UOp *u = s->list.at[i];
    bool waits = u->op == OP_TILEMMA || u->op == OP_SETTLE;
    for (uint32_t k = 0; !waits && k < u->nsrc; k++)
      if (u->src[k]->op == OP_TILEMMA) is[nodemap_get(&s->pos, u->src[k])] |= RESULT;
  }
  for (size_t i = 0; i < s->list.len; i++) {
    const UOp *u = s->list.at[i];
    for (uint32_t k = 0; k < u->nsrc; k++)
      if (is[nodemap_get(&s->pos, u->src[k])]) is[i] |= ABOVE;
    if (is[i] == RESULT && s->n < MOST_SUMS) s->at[s->n++] = s->list.at[i];
  }
}

/* What a SETTLE has besides the sum it waits for says when it comes. */
static void find_needs(Sums *s) {
  s->needs = arena_array(&s->job->arena, s->list.len, sizeof *s->needs);
  for (size_t i = 0; i < s->list.len; i++) {
    const UOp *u = s->list.at[i];
    for (uint32_t k = 0; k < (u->op == OP_SETTLE ? 1u : u->nsrc); k++)
      s->needs[i] |= s->needs[nodemap_get(&s->pos, u->src[k])];
    for (uint32_t k = 0; k < s->n; k++)
      if (s->at[k] == u) s->needs[i] |= 1u << k;
  }
}

static uint32_t beside(const Sums *s, uint32_t i) {
  uint32_t all = 0;
  for (uint32_t k = 0; k < s->n; k++)
    if (s->at[k]->open == s->at[i]->open) all |= 1u << k;
  return all;
}

/* Whether an effect needs sum i and none of the others at its place. */
static bool used_alone(const Sums *s, uint32_t i) {
  uint32_t all = beside(s, i);
  for (size_t k = 0; k < s->list.len; k++)
    if (s->list.at[k]->op == OP_STORE && (s->needs[k] & all) == 1u << i) return true;
  return false;
}

static void find_late(Sums *s) {
  uint32_t alone = 0;
  for (uint32_t i = 0; i < s->n; i++) alone |= (uint32_t)used_alone(s, i) << i;
  for (uint32_t i = 0; i < s->n; i++)
    if (!(alone >> i & 1) && alone & beside(s, i)) s->late |= 1u << i;
}

/* What a late sum waits for: numbers that are kept, and need others at its place alone. */
static void add_earlier(const Sums *s, uint32_t i, UOpList *src) {
  uint32_t all = beside(s, i) & ~s->late;
  for (size_t k = 0; k < s->list.len; k++) {
    const UOp *u = s->list.at[k];
    UOp *v = u->op == OP_STORE ? u->src[2] : NULL;
    if (!v || v->dtype != s->at[i]->dtype || v->open != s->at[i]->open) continue;
    uint32_t needs = s->needs[nodemap_get(&s->pos, v)];
    if (needs & all && !(needs & s->late)) avec_push(&s->job->arena, src, v);
  }
}

static UOp *settled(Sums *s, uint32_t i) {
  UOpList src = {0};
  uint32_t all = beside(s, i), late = 0;
  bool is_late = s->late >> i & 1;
  avec_push(&s->job->arena, &src, s->at[i]);
  for (int pass = 0; pass < 2; pass++)
    for (uint32_t k = 0; k < s->n; k++) {
      bool last = s->late >> k & 1;
      if (k != i && all >> k & 1 && last == pass) avec_push(&s->job->arena, &src, s->at[k]);
      late += all >> k & 1 && last && last == pass;
    }
  if (is_late) add_earlier(s, i, &src);
  bool leaves = !is_late && late <= MOST_UNDER_WAY;
  return uop_make(s->job, OP_SETTLE, DT_VOID, arg_i(leaves ? late : 0), src.at, src.len);
}

/* SETTLEs that are there wait for what has been begun, late or not. */
static UOp *settle_some(Sums *s, UOp *kernel, bool late) {
  UOp **from = arena_array(&s->job->arena, s->list.len, sizeof *from);
  UOp **to = arena_array(&s->job->arena, s->list.len, sizeof *to);
  size_t n = 0;
  for (size_t i = 0; i < s->list.len; i++)
    if (s->list.at[i]->op == OP_SETTLE) from[n] = s->list.at[i], to[n++] = s->list.at[i];
  for (uint32_t i = 0; i < s->n; i++)
    if ((s->late >> i & 1) == late) from[n] = s->at[i], to[n++] = settled(s, i);
  return uop_substitute(s->job, kernel, from, to, n);
}

static void look_at(Sums *s, UOp *kernel) {
  s->list = uop_toposort(s->job, kernel);
  nodemap_number(s->job, &s->pos, &s->list);
}

UOp *settle_products(Job *job, UOp *kernel) {
  for (;;) {
    Sums s = {.job = job};
    look_at(&s, kernel);
    find_results(&s);
    if (!s.n) return kernel;
    find_needs(&s);
    find_late(&s);
    kernel = settle_some(&s, kernel, false);
    if (!s.late) continue;
    look_at(&s, kernel); /* what was computed from the others has changed */
    find_needs(&s);
    kernel = settle_some(&s, kernel, true);
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
  for (size_t i = 0; i < sums.len; i++) {
    UOp **src = arena_array(&job->arena, sums.len, sizeof *src);
    size_t n = 0;
    src[n++] = sums.at[i];
    for (size_t k = 0; k < sums.len; k++)
      if (k != i && sums.at[k]->open == sums.at[i]->open) src[n++] = sums.at[k];
    to[i] = uop_make(job, OP_SETTLE, DT_VOID, arg_i(0), src, n);
  }
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
    int64_t sums = 0;
    for (uint32_t k = 0; k < u->nsrc; k++) sums += u->src[k]->op == OP_TILEMMA;
    int64_t leave = under ? under * sums : u->arg.i;
    if (leave > MOST_UNDER_WAY) leave = 0;
    UOp *later = uop_make(job, OP_SETTLE, DT_VOID, arg_i(leave), src, u->nsrc + 1u);
    kernel = uop_substitute(job, kernel, &u, &later, 1);
  }
  return under ? settle_rest(job, kernel, range) : kernel;
}
