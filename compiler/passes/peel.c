/* for r < n: ... 0 < r ? product : 0 ...
 *
 * computes the product in the first iteration, too, and drops it. Where that is one of matrix
 * instructions of several warps, the first iteration is done before the loop without it, and the
 * loop, of one iteration less, does without the question:
 *
 *   body(0);  for r < n - 1: body(r + 1)
 *
 * What the loop reads anew in each iteration, because it is written in it, it reads after the first
 * iteration's effects. There has to be an iteration.
 *
 * for r < n: ... r < m | c ? x : -inf ...
 *
 * asks c for every element of blocks of which all are there. It becomes two loops,
 *
 *   for r < m: body without the question;  for r < n - m: body(m + r) with c alone
 *
 * with 0 <= m <= n seen to. */
#include "compiler/passes/peel.h"

#include "base/vec.h"
#include "compiler/passes/replace.h"

static const UOp *plain(const UOp *u) { return u->op == OP_BROADCAST ? u->src[0] : u; }

static bool asks_for_first(const UOp *u, const UOp *range) {
  const UOp *c = u->op == OP_WHERE ? plain(u->src[0]) : NULL;
  return c && c->op == OP_CMPLT && uop_is_int(c->src[0], 0) && c->src[1] == range;
}

/* "r < m" or "r + 1 < m", where r is a loop whose first iteration was peeled. */
static bool asks_for_whole(const UOp *c, const UOp *range) {
  if (c->op != OP_CMPLT || uop_is_open(c->src[1], range)) return false;
  const UOp *at = c->src[0];
  return at == range || (at->op == OP_ADD && at->src[0] == range && uop_is_int(at->src[1], 1));
}

/* Where the loop is split for "r < m", of which either that or something else has to be true. */
static UOp *asks_for_some(Job *job, const UOp *u, const UOp *range) {
  for (uint32_t s = 0; u->op == OP_OR && s < 2; s++) {
    const UOp *c = plain(u->src[s]);
    if (!asks_for_whole(c, range)) continue;
    return c->src[0] == range ? c->src[1] : uop2(job, OP_ADD, c->src[1], uop_index(job, -1));
  }
  return NULL;
}

static bool has_products(Job *job, const UOp *effect, const UOp *range) {
  UOpList list = uop_toposort(job, (UOp *)(uintptr_t)effect);
  for (size_t i = 0; i < list.len; i++) {
    bool product = list.at[i]->op == OP_TILEMMA || list.at[i]->op == OP_MMA;
    if (product && uop_is_open(list.at[i], range)) return true;
  }
  return false;
}

static bool has_tiles(Job *job, UOp *u, const UOp *range) {
  UOpList list = uop_toposort(job, u);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_TILEMMA && uop_is_open(list.at[i], range)) return true;
  return false;
}

/* A loop that is to be peeled; NULL: none is left. */
static UOp *find_loop(Job *job, const UOpList *list) {
  for (size_t i = 0; i < list->len; i++) {
    UOp *end = list->at[i], *r = end->op == OP_END ? end->src[1] : NULL;
    if (!r || uop_axis(r) != AX_LOOP || r->src[0]->vmin < 1) continue;
    for (size_t k = 0; k < i; k++)
      if (asks_for_first(list->at[k], r) && has_tiles(job, list->at[k]->src[1], r)) return end;
  }
  return NULL;
}

/* A copy of the loop's body. */
typedef struct Body {
  Job *job;
  UOp *range, *at; /* the iteration in place of the loop's own */
  UOp *loop;       /* the RANGE of the new loop, NULL: it is the first iteration, in none */
  UOp *before;     /* the first iteration's effects */
  UOp *some;       /* the m of a loop that is split, NULL: it is peeled */
  bool all;        /* its iterations are those before m */
  UOpList dropped; /* sums that it does without */
  UOpList begun;   /* buffers of the loop after what is stored to them before it */
} Body;

/* A buffer that the loop reads anew is one of before, after the loop's RANGE. */
static void find_begun(Body *b, const UOpList *list) {
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    bool anew = u->op == OP_AFTER && u->src[0]->op == OP_AFTER;
    bool inside = false;
    for (uint32_t s = 1; anew && s < u->nsrc; s++) inside |= u->src[s] == b->range;
    if (inside && !uop_is_open(u->src[0], b->range))
      avec_push(&b->job->arena, &b->begun, u->src[0]);
  }
}

/* Sums that WHEREs leave out of the first iteration: a SETTLE on the way to the WHERE waits for
 * them. */
static void find_dropped(Body *b, UOp *u) {
  if (u->op == OP_SETTLE) {
    avec_push(&b->job->arena, &b->dropped, u->src[0]);
    return;
  }
  for (uint32_t s = 0; s < u->nsrc; s++)
    if (uop_is_open(u->src[s], b->range)) find_dropped(b, u->src[s]);
}

static bool is_dropped(const Body *b, const UOp *sum) {
  for (size_t i = 0; i < b->dropped.len; i++)
    if (b->dropped.at[i] == sum) return true;
  return false;
}

/* Effects in the order of nodes that say in which loop they are. */
static UOp *ordered(const Body *b, UOp *u, UOp *const *now) {
  UOp **src = arena_array(&b->job->arena, u->nsrc + 1u, sizeof *src);
  size_t n = 0;
  bool inside = false;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    inside |= u->src[s] == b->range;
    if (u->src[s] != b->range) src[n++] = now[s];
  }
  if (inside && b->before) src[n++] = b->before;
  if (inside && b->loop) src[n++] = b->loop;
  if (n == 1 && u->op == OP_AFTER) return src[0];
  return uop_make(b->job, (Op)u->op, DT_VOID, u->arg, src, n);
}

/* A SETTLE in the first iteration waits for no sum that is not begun there. */
static UOp *settled(const Body *b, UOp *u, UOp *const *now) {
  UOp **src = arena_array(&b->job->arena, u->nsrc, sizeof *src);
  int64_t under = u->arg.i;
  size_t n = 0;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    bool none = s && u->src[s]->op == OP_TILEMMA && is_dropped(b, u->src[s]);
    if (!none) src[n++] = now[s];
    under -= none && under;
  }
  return uop_make(b->job, OP_SETTLE, DT_VOID, arg_i(under), src, n);
}

/* What a buffer holds before the loop was stored before the first iteration stores to it. */
static UOp *store_first(const Body *b, UOp *u, UOp *const *now) {
  UOp **src = arena_array(&b->job->arena, u->nsrc, sizeof *src);
  memcpy(src, now, u->nsrc * sizeof *src);
  for (size_t i = 0; i < b->begun.len; i++) {
    UOp *from = b->begun.at[i];
    if (uop_storage(from) != uop_storage(u->src[0])) continue;
    for (uint32_t s = 1; s < from->nsrc; s++) src[0] = uop2(b->job, OP_AFTER, src[0], from->src[s]);
  }
  return uop_with_src(b->job, u, src);
}

/* An answer where there is one, else what is left of the question. */
static UOp *answered(const Body *b, UOp *u, UOp *const *now) {
  if (!b->all) return now[asks_for_whole(plain(u->src[0]), b->range)];
  UOp *yes = uop_int(b->job, DT_BOOL, true);
  return u->lanes > 1 ? uop_make_lanes(b->job, OP_BROADCAST, DT_VOID, u->lanes, arg_none(), &yes, 1)
                      : yes;
}

static UOp *rebuilt(const Body *b, UOp *u, UOp *const *now) {
  if (b->some && asks_for_some(b->job, u, b->range) == b->some) return answered(b, u, now);
  if (u->op == OP_STORE && !b->loop) return store_first(b, u, now);
  if (u->op == OP_AFTER || u->op == OP_WAIT) return ordered(b, u, now);
  if (u->op == OP_SETTLE && !b->loop) return settled(b, u, now);
  const UOp *c = u->op == OP_WHERE ? plain(now[0]) : NULL;
  if (c && c->vmin == c->vmax) return now[c->vmin ? 1 : 2];
  return uop_with_src(b->job, u, now);
}

static UOp *body_at(const Body *b, UOp *effect) {
  Replace r = replace_begin(b->job, effect);
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *u = r.list.at[i];
    bool same = !uop_is_open(u, b->range) || !u->nsrc;
    r.now[i] = u == b->range ? b->at : same ? u : rebuilt(b, u, replace_renewed(&r, u));
  }
  return replace_end(&r);
}

static int64_t next_id(const UOpList *list) {
  int64_t id = 0;
  for (size_t i = 0; i < list->len; i++)
    if (list->at[i]->op == OP_RANGE && list->at[i]->arg.i >= id) id = list->at[i]->arg.i + 1;
  return id;
}

UOp *peel_first(Job *job, UOp *kernel) {
  for (;;) {
    UOpList list = uop_toposort(job, kernel);
    UOp *end = find_loop(job, &list);
    if (!end) return kernel;
    Body b = {.job = job, .range = end->src[1], .at = uop_index(job, 0)};
    for (size_t i = 0; i < list.len; i++)
      if (asks_for_first(list.at[i], b.range)) find_dropped(&b, list.at[i]->src[1]);
    find_begun(&b, &list);
    b.before = body_at(&b, end->src[0]);
    UOp *rest = uop2(job, OP_ADD, b.range->src[0], uop_index(job, -1));
    b.loop = uop_range(job, next_id(&list), AX_LOOP, rest);
    b.at = uop2(job, OP_ADD, b.loop, uop_index(job, 1));
    UOp *loop = uop2(job, OP_END, body_at(&b, end->src[0]), b.loop);
    kernel = uop_substitute(job, kernel, &end, &loop, 1);
  }
}

/* A loop that is to be split, and where. */
static UOp *find_split(Job *job, const UOpList *list, UOp **some) {
  for (size_t i = 0; i < list->len; i++) {
    UOp *end = list->at[i], *r = end->op == OP_END ? end->src[1] : NULL;
    if (!r || uop_axis(r) != AX_LOOP) continue;
    for (size_t k = 0; k < i; k++) {
      *some = asks_for_some(job, list->at[k], r);
      if (*some && has_products(job, end->src[0], r)) return end;
    }
  }
  return NULL;
}

UOp *peel_whole(Job *job, UOp *kernel) {
  for (;;) {
    UOp *some = NULL;
    UOpList list = uop_toposort(job, kernel);
    UOp *end = find_split(job, &list, &some);
    if (!end) return kernel;
    Body b = {.job = job, .range = end->src[1], .some = some, .all = true};
    int64_t id = next_id(&list);
    UOp *n = b.range->src[0], *m = uop2(job, OP_MAX, some, uop_index(job, 0));
    m = uop2(job, OP_MIN, m, n);
    b.at = b.loop = uop_range(job, id, AX_LOOP, m);
    b.before = uop2(job, OP_END, body_at(&b, end->src[0]), b.loop);
    b.all = false;
    b.loop = uop_range(job, id + 1, AX_LOOP, uop2(job, OP_SUB, n, m));
    b.at = uop2(job, OP_ADD, m, b.loop);
    UOp *loop = uop2(job, OP_END, body_at(&b, end->src[0]), b.loop);
    kernel = uop_substitute(job, kernel, &end, &loop, 1);
  }
}
