/* A loop that copies into buffers of S places by turns, and uses the copy at once, becomes one
 * whose copies are S - 1 iterations ahead:
 *
 *   for s < S - 1: copy(s)                          one group each
 *   for k < n:
 *     wait until group k has arrived; BARRIER
 *     copy(k + S - 1), unless that is beyond n      one group
 *     use place k mod S
 *
 * The BARRIER says both that all threads' parts of copy k are there, and that everybody is done
 * with iteration k - 1, whose place the new copy takes; no other one is needed. What is copied
 * without being computed with becomes a COPY, which a device may do in the background; the rest is
 * loaded and stored at once, ahead all the same.
 *
 * Where TILEMMAs read the places and those of an iteration may go on into the next, copies are one
 * iteration less ahead: the place that they take is that of the iteration before the last, for
 * whose TILEMMAs everybody waited before the BARRIER.
 *
 * The loop is the innermost one that the copy lies in: one over a reduce axis, or over the blocks
 * of a row that is repaired. */
#include "compiler/passes/pipeline.h"

#include "base/vec.h"

#include "compiler/ir/tilecopy.h"
#include "compiler/passes/gates.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/nodemap.h"
#include "compiler/passes/settle.h"

int64_t pipeline_places(const UOp *u) {
  const UOp *b = uop_storage(u);
  bool many = b->op == OP_BUFFER && b->arg.ints.n > 2 && b->arg.ints.at[2] > 1;
  return many ? b->arg.ints.at[2] : 1;
}

/* What a copy that does not run ahead yet leaves. */
static bool is_copied(const UOp *u) {
  if (u->op != OP_AFTER || u->nsrc != 2 || pipeline_places(u) < 2) return false;
  const UOp *effect = u->src[1];
  while (effect->op == OP_END || effect->op == OP_SINK) effect = effect->src[0];
  return (effect->op == OP_STORE || effect->op == OP_TILECOPY) &&
         uop_storage(effect->src[0]) == uop_storage(u);
}

/* Who copies whole tiles waits at a RING. */
static bool is_bulk(const UOp *copied) {
  const UOp *effect = copied->src[1];
  while (effect->op == OP_SINK) effect = effect->src[0];
  return effect->op == OP_TILECOPY;
}

static const UOp *end_of(const UOpList *list, const UOp *range) {
  for (size_t i = 0; i < list->len; i++)
    if (list->at[i]->op == OP_END && list->at[i]->src[1] == range) return list->at[i];
  return NULL;
}

/* The loop of a copied AFTER: the one that all others around the copy are around, too. */
static UOp *loop_of(const UOpList *list, const UOp *after) {
  const RangeSet *open = after->src[1]->open;
  UOp *best = NULL;
  for (uint32_t k = 0; open && k < open->n; k++) {
    if (uop_axis(open->at[k]) != AX_REDUCE && uop_axis(open->at[k]) != AX_LOOP) continue;
    const UOp *end = best ? end_of(list, open->at[k]) : NULL;
    if (!best || (end && uop_is_open(end, best))) best = open->at[k];
  }
  return best;
}

bool pipeline_is_loop(const UOpList *list, const UOp *range) {
  for (size_t i = 0; i < list->len; i++)
    if (is_copied(list->at[i]) && loop_of(list, list->at[i]) == range) return true;
  return false;
}

bool pipeline_inside(const UOpList *list, const UOp *range) {
  for (size_t i = 0; i < list->len; i++) {
    if (!is_copied(list->at[i]) || is_bulk(list->at[i])) continue;
    const UOp *loop = loop_of(list, list->at[i]), *end = loop ? end_of(list, loop) : NULL;
    if (end && uop_is_open(end, range)) return true;
  }
  return false;
}

/* -- one copy at another iteration --------------------------------------------------------------
 */

typedef struct Ahead {
  Job *job;
  UOp *loop, *at; /* the iteration in place of the loop's own */
  UOp *inside;    /* gate, or NULL */
  UOp *order;     /* effect after which the copy is, or NULL */
  const RangeSet *around;
  int64_t *next_range;
} Ahead;

/* The buffer once what must happen before has happened, in the loops around. */
static UOp *ordered(Ahead *a, UOp *buffer) {
  UOp **src = arena_array(&a->job->arena, 2u + (a->around ? a->around->n : 0), sizeof *src);
  uint32_t n = 0;
  src[n++] = buffer;
  if (a->order) src[n++] = a->order;
  for (uint32_t k = 0; a->around && k < a->around->n; k++) src[n++] = a->around->at[k];
  return n == 1 ? buffer : uop_make(a->job, OP_AFTER, DT_VOID, arg_none(), src, n);
}

/* A copy that nothing is computed in. */
static bool is_plain(const UOp *store) {
  const UOp *v = store->src[2];
  bool gate = v->nsrc > 2 && v->src[2]->lanes > 1;
  return v->op == OP_LOAD && uop_storage(v->src[0])->op == OP_PARAM && v->nsrc < 4 && !gate &&
         store->nsrc == 3 && v->lanes > 1 && v->arg.i == 1 && store->arg.i == 1 &&
         store->src[1]->lanes == 1 && v->src[1]->lanes == 1;
}

static UOp *store_ahead(Ahead *a, UOp *u) {
  Job *job = a->job;
  UOp *buffer = ordered(a, u->src[0]), *v = u->src[2];
  if (is_plain(u)) {
    UOp *gate = gates_both(job, v->nsrc > 2 ? v->src[2] : NULL, a->inside);
    UOp *src[5] = {buffer, u->src[1], v->src[0], v->src[1], gate};
    return uop_make(job, OP_COPY, DT_VOID, arg_i(v->lanes), src, gate ? 5 : 4);
  }
  UOp *src[4] = {buffer, u->src[1], gates_around(job, v, OP_LOAD, a->inside),
                 u->nsrc > 3 ? u->src[3] : NULL};
  return uop_make_lanes(job, OP_STORE, DT_VOID, u->lanes, u->arg, src, u->nsrc);
}

/* The effect over fresh loops of its own. */
static UOp *effect_ahead(Ahead *a, UOp *u) {
  Job *job = a->job;
  if (u->op == OP_END) {
    UOp *r = u->src[1];
    UOp *fresh = uop_range(job, (*a->next_range)++, uop_axis(r), r->src[0]);
    UOp *body = effect_ahead(a, u->src[0]);
    return uop2(job, OP_END, uop_substitute(job, body, &r, &fresh, 1), fresh);
  }
  if (u->op == OP_STORE) return store_ahead(a, u);
  UOp **src = arena_array(&job->arena, u->nsrc + 1u, sizeof *src);
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = effect_ahead(a, u->src[s]);
  return uop_with_src(job, u, src);
}

static UOp *copy_ahead(Ahead *a, UOp *effect) {
  return effect_ahead(a, uop_substitute(a->job, effect, &a->loop, &a->at, 1));
}

/* -- one loop -----------------------------------------------------------------------------------
 */

typedef struct Loop {
  UOp *range;
  const RangeSet *around; /* loops around it */
  UOpList copies;         /* the AFTERs */
  int64_t ahead;          /* iterations */
  int64_t under;          /* whose TILEMMAs may all be under way */
  int64_t late;           /* in which some place is still read */
} Loop;

/* One group: the copies of one iteration, after `before`. */
static UOp *group(Ahead *a, const Loop *l, UOp *before) {
  Job *job = a->job;
  UOp **src = arena_array(&job->arena, l->copies.len + 1, sizeof *src);
  size_t n = 0;
  UOp *iterations = l->range->src[0];
  a->inside = uop2(job, OP_CMPLT, a->at, iterations);
  if (uop_is_const(a->inside)) a->inside = a->inside->arg.i ? NULL : a->inside;
  for (size_t i = 0; i < l->copies.len; i++) src[n++] = copy_ahead(a, l->copies.at[i]->src[1]);
  if (before) src[n++] = before;
  return uop_make(job, OP_COMMIT, DT_VOID, arg_none(), src, n);
}

/* Whether TILEMMAs alone read what is copied: they are begun first, and the next copies while they
 * go on. */
static bool feeds_tiles(Job *job, UOp *kernel, const Loop *l) {
  UOpList list = uop_toposort(job, kernel);
  for (size_t i = 0; i < list.len; i++)
    for (uint32_t s = 0; s < list.at[i]->nsrc; s++)
      for (size_t c = 0; c < l->copies.len; c++)
        if (list.at[i]->src[s] == l->copies.at[c] && list.at[i]->op != OP_TILEMMA) return false;
  return true;
}

/* Replaces the AFTERs of a loop. */
static UOp *run_ahead(Job *job, UOp *kernel, const Loop *l, int64_t *next_range) {
  Ahead a = {.job = job, .loop = l->range, .around = l->around, .next_range = next_range};
  UOp *before = NULL;
  for (int64_t s = 0; s < l->ahead; s++) {
    a.at = uop_index(job, s);
    a.order = before; /* else all copies would be one group, and the first iteration late */
    before = group(&a, l, before);
  }
  UOp *src[2] = {before, l->range};
  UOp *wait = uop_make(job, OP_WAIT, DT_VOID, arg_i(l->ahead - 1), src, 2);
  UOp *top = uop_make(job, OP_BARRIER, DT_VOID, arg_none(), &wait, 1);
  a.at = uop2(job, OP_ADD, l->range, uop_index(job, l->ahead));
  a.order = top;
  a.around = NULL;
  UOp *next = group(&a, l, top);
  UOp **to = arena_array(&job->arena, l->copies.len, sizeof *to);
  UOp *ready = feeds_tiles(job, kernel, l) ? top : next;
  for (size_t i = 0; i < l->copies.len; i++)
    to[i] = uop2(job, OP_AFTER, (UOp *)(uintptr_t)uop_storage(l->copies.at[i]), ready);
  kernel = uop_substitute(job, kernel, l->copies.at, to, l->copies.len);
  return ready == top ? settle_after(job, kernel, l->range, next, l->under) : kernel;
}

/* -- a ring that another warp fills -------------------------------------------------------------
 *
 *   for k < n:
 *     RING: place k mod S is free; TILECOPYs; RING: it is filled
 *     use place k mod S
 *     RING: the place of the iteration whose TILEMMAs have been waited for is left
 *
 * In the order of the list nothing runs ahead. A loop around it fills each place again in each of
 * its iterations. But RINGs promise no other order, so who copies may
 * be as many iterations ahead as there are places.
 */

static UOp *ring_event(Job *job, int64_t kind, const Loop *l, int64_t bytes, UOp *const *src,
                       size_t n) {
  int64_t ints[2] = {pipeline_places(l->copies.at[0]), bytes};
  return uop_make(job, OP_RING, DT_VOID, arg_both(kind, ints, 2), src, n);
}

/* Iteration `at` is done with its place, after the effect. */
static UOp *leave(Job *job, const Loop *l, UOp *effect) {
  UOp *places = uop_index(job, pipeline_places(l->copies.at[0]));
  UOp *late = uop_index(job, l->late), *at = l->range;
  if (l->late) at = uop2(job, OP_MAX, uop2(job, OP_SUB, at, late), uop_index(job, 0));
  UOp *some = l->late ? uop2(job, OP_CMPLE, late, l->range) : uop_int(job, DT_BOOL, true);
  UOp *src[3] = {uop2(job, OP_FLOORMOD, at, places), some, effect};
  return ring_event(job, RING_LEFT, l, 0, src, 3);
}

static int64_t tile_bytes(const UOp *effect) {
  int64_t bytes = 0;
  if (effect->op == OP_TILECOPY)
    return tilecopy_of(effect).elements * dtype_info[effect->src[2]->dtype].bytes;
  for (uint32_t s = 0; s < effect->nsrc; s++) bytes += tile_bytes(effect->src[s]);
  return bytes;
}

/* The copies with the buffer as it is once the place is free. */
static UOp *fill(Job *job, UOp *effect, UOp *free) {
  UOp **src = arena_array(&job->arena, effect->nsrc + 1u, sizeof *src);
  memcpy(src, effect->src, effect->nsrc * sizeof *src);
  if (effect->op == OP_TILECOPY)
    src[0] = uop2(job, OP_AFTER, (UOp *)(uintptr_t)uop_storage(src[0]), free);
  else
    for (uint32_t s = 0; s < effect->nsrc; s++) src[s] = fill(job, src[s], free);
  return uop_with_src(job, effect, src);
}

/* How often the place has been filled before, in this iteration of the loops around and in those
 * before. */
static UOp *turn_of(Job *job, const Loop *l, UOp *place, UOp *places) {
  int64_t n = l->range->src[0]->vmax;
  UOp *turn = uop2(job, OP_FLOORDIV, l->range, places);
  if (!l->around || !l->around->n) return turn;
  UOp *uses = uop2(job, OP_SUB, uop_index(job, n - 1 + places->arg.i), place);
  uses =
      n % places->arg.i ? uop2(job, OP_FLOORDIV, uses, places) : uop_index(job, n / places->arg.i);
  return uop2(job, OP_ADD, uop2(job, OP_MUL, l->around->at[0], uses), turn);
}

/* Sums of the loop that are waited for behind it, in the one around. */
static void find_rest(Job *job, UOp *kernel, const Loop *l, UOpList *rest) {
  UOpList list = uop_toposort(job, kernel);
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    bool behind = u->op == OP_SETTLE && uop_is_open(u, l->around->at[0]);
    if (behind && !uop_is_open(u, l->range)) avec_push(&job->arena, rest, u);
  }
}

/* The places that the last iterations have not left are left behind the loop, where there is a next
 * time. */
static UOp *leave_rest(Job *job, UOp *kernel, const Loop *l) {
  int64_t n = l->range->src[0]->vmax, places = pipeline_places(l->copies.at[0]);
  if (!l->under || !l->around || !l->around->n) return kernel;
  UOpList list = uop_toposort(job, kernel), src = {0}, all = {0};
  UOp *end = (UOp *)(uintptr_t)end_of(&list, l->around->at[0]);
  avec_push(&job->arena, &src, uop_index(job, 0));
  avec_push(&job->arena, &src, uop_int(job, DT_BOOL, true));
  find_rest(job, kernel, l, &src);
  for (int64_t k = n - l->under; k < n; k++) {
    src.at[0] = uop_index(job, k % places);
    avec_push(&job->arena, &all, ring_event(job, RING_LEFT, l, 0, src.at, src.len));
  }
  avec_push(&job->arena, &all, end->src[0]); /* which takes long */
  UOp *effect = uop_make(job, OP_SINK, DT_VOID, arg_none(), all.at, all.len);
  UOp *left = uop2(job, OP_END, effect, l->around->at[0]);
  return uop_substitute(job, kernel, &end, &left, 1);
}

static UOp *make_ring(Job *job, UOp *kernel, const Loop *l) {
  UOp *places = uop_index(job, pipeline_places(l->copies.at[0]));
  size_t n = l->copies.len;
  UOp **src = arena_array(&job->arena, n + 2, sizeof *src);
  UOp **to = arena_array(&job->arena, n, sizeof *to);
  int64_t bytes = 0;
  src[0] = uop2(job, OP_FLOORMOD, l->range, places);
  src[1] = turn_of(job, l, src[0], places);
  UOp *free = ring_event(job, RING_FREE, l, 0, src, 2);
  for (size_t i = 0; i < n; i++) {
    src[2 + i] = fill(job, l->copies.at[i]->src[1], free);
    bytes += tile_bytes(src[2 + i]);
  }
  UOp *filled = ring_event(job, RING_FILLED, l, bytes, src, n + 2);
  for (size_t i = 0; i < n; i++)
    to[i] = uop2(job, OP_AFTER, (UOp *)(uintptr_t)uop_storage(l->copies.at[i]), filled);
  kernel = uop_substitute(job, kernel, l->copies.at, to, n);
  if (l->under) kernel = settle_after(job, kernel, l->range, filled, l->under);
  UOpList list = uop_toposort(job, kernel);
  UOp *end = (UOp *)(uintptr_t)end_of(&list, l->range);
  UOp *left = uop2(job, OP_END, leave(job, l, end->src[0]), l->range);
  return leave_rest(job, uop_substitute(job, kernel, &end, &left, 1), l);
}

static bool find_loop(Job *job, UOp *kernel, Loop *out, int64_t *next_range) {
  UOpList list = uop_toposort(job, kernel);
  *out = (Loop){0};
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if (u->op == OP_RANGE && u->arg.i >= *next_range) *next_range = u->arg.i + 1;
    if (!is_copied(u)) continue;
    UOp *loop = loop_of(&list, u);
    if (!loop || (out->range && out->range != loop)) continue;
    out->range = loop;
    const UOp *buffer = uop_storage(u);
    int64_t under = buffer->arg.ints.n > 4 ? buffer->arg.ints.at[4] : 0;
    out->ahead = pipeline_places(u) - 1 - under;
    if (!out->copies.len || under < out->under) out->under = under;
    if (under > out->late) out->late = under;
    const UOp *end = end_of(&list, loop);
    out->around = end ? end->open : NULL;
    avec_push(&job->arena, &out->copies, u);
  }
  return out->range != NULL;
}

UOp *pipeline_copies(Job *job, UOp *kernel) {
  Loop loop;
  int64_t next_range = 0;
  while (find_loop(job, kernel, &loop, &next_range))
    kernel = is_bulk(loop.copies.at[0]) ? make_ring(job, kernel, &loop)
                                        : run_ahead(job, kernel, &loop, &next_range);
  return kernel;
}
