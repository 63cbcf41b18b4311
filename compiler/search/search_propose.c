/* What to measure next.
 *
 * First the hints, made legal for these sizes, the heuristic's own choice, and the tiles that it
 * did not choose; then what the ranking picks from a pool of schedules: the seeds of the space, and
 * what is one step from the best measured ones (the beam) and from the best predicted ones. There
 * is no state: a round that was lost is proposed again.
 *
 * What the model is wrong about it is often wrong about for a whole family of schedules, those that
 * have the same axes in vectors: the measured one is then surrounded by others that are expected to
 * be as slow as it is, and the others look worse than they are. So while the best time is far from
 * the roofline, a part of each round goes to families of which nothing has been measured.
 *
 * When the search would end, the fastest two are tried once more as made by the target's other
 * compiler, where it has one. The search ends when the best time is within 5 % of the roofline, or
 * when the last two rounds gained less than 1 % and no such family is left. A schedule that failed
 * is learnt as a slow one, so that what is like it is not proposed first. */
#include <math.h>
#include <stdlib.h>

#include "base/map.h"
#include "compiler/passes/heuristic_warp.h"
#include "compiler/passes/schedule.h"
#include "compiler/search/internal.h"

enum {
  POOL = 3000,      /* schedules looked at in one call */
  RANKED = 500,     /* of them ranked */
  BEAM = 3,         /* measured ones whose neighbours are tried */
  QUIET_ROUNDS = 2, /* without a gain of 1 % */
  FAILURES = 24,    /* learnt from */
  HINTS_MAX = 64,
  TRIED_MAX = 4096, /* rows of evidence that are looked at, the last ones */
  FAR = 2,          /* times the roofline */
  FAMILIES = 64,
  TILES = 24,       /* schedules with matrix instructions */
  RECOMPILED = 2,   /* of the fastest, by the other compiler */
  TILE_REACH = 3,   /* tiles, and on devices with workgroups all that is ranked: the same */
  FAMILY_REACH = 4, /* families whose best is expected to take so many times what the best takes */
};

typedef struct Tried {
  Point point;
  int64_t ns; /* 0: not measured */
} Tried;

typedef struct Proposer {
  Job *job;
  const SearchInput *in;
  Space space;
  Tried *tried;
  size_t ntried;
  uint64_t *seen; /* open addressing; keys of what was tried, chosen or is in the pool */
  size_t seen_cap, nseen;
  bool untuned; /* the heuristic's list is known */
  Point heuristic;
  Point *pool;
  bool *near; /* by place in the pool: next to a measured one */
  bool near_now;
  bool *expanded;
  bool *taken; /* for a family */
  size_t npool;
  Candidate *out;
  size_t nout;
} Proposer;

/* -- what is known ----------------------------------------------------------------------------- */

/* False when the key was there. */
static bool remember(Proposer *p, uint64_t key) {
  if (!key) key = 1;
  for (size_t i = hash_u64(key) & (p->seen_cap - 1);; i = (i + 1) & (p->seen_cap - 1)) {
    if (p->seen[i] == key) return false;
    if (p->seen[i]) continue;
    if (p->nseen * 2 >= p->seen_cap) return false; /* sized so that this does not happen */
    p->seen[i] = key;
    p->nseen++;
    return true;
  }
}

/* The opts of a text; false when it is none or longer than any list that is proposed. */
static bool parse(Proposer *p, const char *text, OptList *list) {
  if (!text) return false;
  Status st = opts_parse(p->job, (Str){text, strnlen(text, 4096)}, list);
  if (!st) return list->len <= LIST_MAX;
  status_drop(st);
  return false;
}

static void read_evidence(Proposer *p) {
  const SearchInput *in = p->in;
  size_t first = in->ntried > TRIED_MAX ? in->ntried - TRIED_MAX : 0;
  p->tried = arena_array(&p->job->arena, in->ntried - first + 1, sizeof *p->tried);
  for (size_t i = first; i < in->ntried; i++) {
    OptList list;
    Tried *t = &p->tried[p->ntried];
    if (!parse(p, in->tried[i].opts, &list)) continue;
    uint64_t work = p->space.work;
    bool ok = search_space_point(&p->space, list.at, list.len, &t->point);
    p->space.work = work; /* evidence is no part of the search */
    if (!ok) continue;
    bool measured = in->tried[i].cause == EV_MEASURED && in->tried[i].median_ns > 0;
    t->ns = measured ? in->tried[i].median_ns : 0;
    remember(p, t->point.key);
    p->ntried++;
  }
}

static int64_t best_of(const Proposer *p, size_t n) {
  int64_t best = INT64_MAX;
  for (size_t i = 0; i < n; i++)
    if (p->tried[i].ns && p->tried[i].ns < best) best = p->tried[i].ns;
  return best;
}

static bool is_over(Proposer *p, const Model *m) {
  size_t quiet = QUIET_ROUNDS * p->in->want;
  int64_t best = best_of(p, p->ntried);
  SearchCost bounds;
  search_bounds(m, &bounds);
  double roofline = (double)bounds.roofline_ns;
  /* Faster than it: the target is faster than is known here, and the roofline says nothing. */
  if (best != INT64_MAX && 0.95 * (double)best <= roofline && (double)best >= 0.97 * roofline)
    return true;
  if (p->ntried <= quiet) return false;
  int64_t before = best_of(p, p->ntried - quiet);
  return before != INT64_MAX && (double)best > 0.99 * (double)before;
}

/* -- candidates -------------------------------------------------------------------------------- */

static const char *text_of(Proposer *p, const Point *point) {
  StrBuf text = {0};
  OptList list = {(Opt *)point->at, point->len, point->len};
  opts_print(&list, &text);
  size_t len = text.len;
  char small[1024];
  bool fits = !text.failed && len < sizeof small;
  if (fits) memcpy(small, text.ptr ? text.ptr : "", len);
  strbuf_deinit(&text);
  if (!fits) job_abort(p->job, FAIL(RESOURCE_EXHAUSTED, "out of memory for a schedule's text"));
  return arena_strdup(&p->job->arena, (Str){small, len});
}

static void put(Proposer *p, const Point *point, double ns) {
  p->out[p->nout++] = (Candidate){text_of(p, point), ns < 9e18 ? (int64_t)ns + 1 : INT64_MAX};
}

static void put_hints(Proposer *p) {
  for (size_t i = 0; i < p->in->nhints && i < HINTS_MAX && p->nout < p->in->want; i++) {
    OptList list;
    Point point;
    if (!parse(p, p->in->hints[i], &list)) continue;
    if (!search_space_repair(&p->space, list.at, list.len, &point)) continue;
    if (remember(p, point.key)) put(p, &point, point.predicted);
  }
}

static void put_heuristic(Proposer *p) {
  OptList list;
  if (p->nout == p->in->want) return;
  schedule_heuristic(p->job, p->in->kernel, p->in->target, &list);
  p->untuned =
      list.len <= LIST_MAX && search_space_point(&p->space, list.at, list.len, &p->heuristic);
  if (p->untuned && remember(p, p->heuristic.key)) put(p, &p->heuristic, p->heuristic.predicted);
}

/* What the model expects of the fastest measured one, or of the heuristic's. */
static double expected_of_best(const Proposer *p) {
  const Tried *best = NULL;
  for (size_t i = 0; i < p->ntried; i++)
    if (p->tried[i].ns && (!best || p->tried[i].ns < best->ns)) best = &p->tried[i];
  return best ? best->point.predicted : p->untuned ? p->heuristic.predicted : INFINITY;
}

/* Tiles for matrix instructions are many opts away from each other: those that the rules of thumb
 * know are timed unless the model expects several times what it expects of the best. */
static void put_tiles(Proposer *p) {
  OptList list[TILES];
  Point point;
  if (!p->in->target->max_group) return;
  double most = TILE_REACH * expected_of_best(p);
  uint32_t n = heuristic_warp_others(p->job, p->in->kernel, p->in->target, list, TILES);
  for (uint32_t i = 0; i < n && p->nout < (3 * p->in->want + 3) / 4; i++)
    if (list[i].len <= LIST_MAX && search_space_point(&p->space, list[i].at, list[i].len, &point) &&
        point.predicted <= most && remember(p, point.key))
      put(p, &point, point.predicted);
}

/* -- the pool ---------------------------------------------------------------------------------- */

static void pool_add(void *ctx, const Point *point) {
  Proposer *p = ctx;
  job_poll(p->job);
  if (p->npool == POOL || !remember(p, point->key)) return;
  p->near[p->npool] = p->near_now;
  p->pool[p->npool++] = *point;
}

static int by_time(const void *x, const void *y) {
  const Tried *const *a = x, *const *b = y;
  if ((*a)->ns != (*b)->ns) return (*a)->ns < (*b)->ns ? -1 : 1;
  return (*a)->point.key < (*b)->point.key ? -1 : (*a)->point.key > (*b)->point.key;
}

/* The measured ones, the fastest first. */
static size_t sort_measured(Proposer *p, const Tried ***out) {
  const Tried **list = arena_array(&p->job->arena, p->ntried + 1, sizeof *list);
  size_t n = 0;
  for (size_t i = 0; i < p->ntried; i++)
    if (p->tried[i].ns) list[n++] = &p->tried[i];
  qsort(list, n, sizeof *list, by_time);
  *out = list;
  return n;
}

static void fill_pool(Proposer *p, const Tried **measured, size_t nmeasured) {
  p->near_now = true;
  for (size_t i = 0; i < nmeasured && i < BEAM; i++)
    search_space_near(&p->space, &measured[i]->point, pool_add, p);
  if (!nmeasured && p->untuned) search_space_near(&p->space, &p->heuristic, pool_add, p);
  p->near_now = false;
  search_seeds(&p->space, pool_add, p);
  while (!search_space_spent(&p->space) && p->npool < POOL) {
    size_t best = p->npool;
    for (size_t i = 0; i < p->npool; i++)
      if (!p->expanded[i] && (best == p->npool || p->pool[i].predicted < p->pool[best].predicted))
        best = i;
    if (best == p->npool) break;
    p->expanded[best] = true;
    Point from = p->pool[best];
    search_space_near(&p->space, &from, pool_add, p);
  }
}

typedef struct Place {
  double predicted;
  uint32_t at;
  bool near;
} Place;

static int by_prediction(const void *x, const void *y) {
  const Place *a = x, *b = y;
  if (a->predicted != b->predicted) return a->predicted < b->predicted ? -1 : 1;
  return a->at < b->at ? -1 : a->at > b->at;
}

/* The neighbours of measured ones, and the best predicted of the others. */
static size_t shortlist(Proposer *p, uint32_t *list) {
  Place *places = arena_array(&p->job->arena, p->npool + 1, sizeof *places);
  size_t n = 0;
  size_t npool = 0;
  for (uint32_t i = 0; i < p->npool; i++)
    if (!p->taken[i]) places[npool++] = (Place){p->pool[i].predicted, i, p->near[i]};
  qsort(places, npool, sizeof *places, by_prediction);
  for (int near = 1; near >= 0; near--) {
    size_t most = near ? RANKED / 2 : RANKED;
    for (size_t i = 0; i < npool && n < most; i++)
      if (places[i].near == near) list[n++] = places[i].at;
  }
  return n;
}

/* What failed counts as e times slower than expected. */
static size_t add_failures(Proposer *p, Features *x, float *ln_ns, size_t rows) {
  double offset = 0;
  for (size_t i = 0; i < rows; i++) offset += (double)(ln_ns[i] - x[i].predicted) / (double)rows;
  size_t most = rows + FAILURES;
  for (size_t i = p->ntried; i-- > 0 && rows < most;) {
    if (p->tried[i].ns) continue;
    search_features(&p->tried[i].point, &x[rows]);
    ln_ns[rows] = x[rows].predicted + (float)(offset + 1);
    rows++;
  }
  return rows;
}

/* Of many measurements the fastest and a few others are learnt. */
static Rank *fit(Proposer *p, const Tried **measured, size_t n) {
  Features *x = arena_array(&p->job->arena, n + FAILURES + 1, sizeof *x);
  float *ln_ns = arena_array(&p->job->arena, n + FAILURES + 1, sizeof *ln_ns);
  size_t rows = 0, most = RANK_ROWS - FAILURES, half = most / 2;
  for (size_t i = 0; i < n && rows < most; i++) {
    size_t left = n - i, room = most - rows;
    if (i >= half && left > room && hash_u64(i ^ p->in->seed) % left >= room) continue;
    search_features(&measured[i]->point, &x[rows]);
    ln_ns[rows++] = (float)log((double)measured[i]->ns);
  }
  return search_rank_fit(p->job, x, ln_ns, add_failures(p, x, ln_ns, rows));
}

/* -- families ---------------------------------------------------------------------------------- */

/* Which axes are merged and which are in vectors. */
static uint64_t family_of(const Point *point) {
  uint64_t family = 1;
  for (uint32_t i = 0; i < point->len; i++) {
    const Opt *o = &point->at[i];
    if (o->kind == OPT_MERGE) family = hash_u64(family ^ (uint64_t)(o->axis * 256 + o->arg));
    if (o->kind == OPT_VECTOR) family = hash_u64(family ^ ((uint64_t)o->axis << 32));
  }
  return family;
}

typedef struct Family {
  uint64_t key;
  uint32_t best; /* in the pool */
  bool tried;
} Family;

static Family *find_family(Family *all, size_t *n, uint64_t key) {
  size_t i = 0;
  while (i < *n && all[i].key != key) i++;
  if (i == FAMILIES) return NULL;
  if (i == *n) all[(*n)++] = (Family){.key = key, .best = UINT32_MAX};
  return &all[i];
}

/* The best predicted of up to `most` families that nothing is known of, the most promising first.
 */
static void put_families(Proposer *p, size_t most) {
  Family all[FAMILIES], *f;
  size_t n = 0;
  double least = INFINITY;
  for (size_t i = 0; i < p->ntried; i++)
    if ((f = find_family(all, &n, family_of(&p->tried[i].point)))) f->tried = true;
  for (uint32_t i = 0; i < p->npool; i++) {
    double ns = p->pool[i].predicted;
    least = fmin(least, ns);
    if (!(f = find_family(all, &n, family_of(&p->pool[i])))) continue;
    if (f->best == UINT32_MAX || ns < p->pool[f->best].predicted) f->best = i;
  }
  for (; most > 0; most--) {
    Family *next = NULL;
    for (size_t i = 0; i < n; i++)
      if (!all[i].tried && all[i].best != UINT32_MAX &&
          (!next || p->pool[all[i].best].predicted < p->pool[next->best].predicted))
        next = &all[i];
    if (!next || p->pool[next->best].predicted > FAMILY_REACH * least) return;
    next->tried = p->taken[next->best] = true;
    put(p, &p->pool[next->best], p->pool[next->best].predicted);
  }
}

static bool is_far(const Proposer *p, const Model *m) {
  SearchCost bounds;
  int64_t best = best_of(p, p->ntried);
  search_bounds(m, &bounds);
  return best != INT64_MAX && best / FAR > bounds.roofline_ns;
}

/* far: a quarter of the round goes to new families. over: and nothing else is worth trying. */
static void put_ranked(Proposer *p, bool far, bool over) {
  const Tried **measured;
  size_t nmeasured = sort_measured(p, &measured);
  fill_pool(p, measured, nmeasured);
  if (far) put_families(p, (p->in->want - p->nout + 3) / 4);
  if (over) return;
  uint32_t *list = arena_array(&p->job->arena, RANKED + 1, sizeof *list);
  size_t n = shortlist(p, list), want = p->in->want - p->nout;
  Features *x = arena_array(&p->job->arena, n + 1, sizeof *x);
  for (size_t i = 0; i < n; i++) search_features(&p->pool[list[i]], &x[i]);
  Rank *rank = fit(p, measured, nmeasured);
  uint32_t picked[SEARCH_MAX_WANT];
  double ln_ns[SEARCH_MAX_WANT];
  size_t got = search_rank_pick(p->job, rank, x, n, want, picked, ln_ns);
  int64_t best = best_of(p, p->ntried);
  bool groups = p->in->target->max_group && best != INT64_MAX;
  for (size_t i = 0; i < got; i++) /* a driver takes long to assemble what is not worth timing */
    if (!groups || exp(ln_ns[i]) <= TILE_REACH * (double)best)
      put(p, &p->pool[list[picked[i]]], exp(ln_ns[i]));
}

/* -- the other compiler ------------------------------------------------------------------------ */

/* The fastest ones once more, as CUDA C++: only when nothing else is worth trying, because it says
 * little of schedules and takes long to compile. */
static void put_compiler(Proposer *p) {
  const Tried **measured;
  if (!target_has_nvrtc(p->in->target)) return;
  size_t n = sort_measured(p, &measured);
  for (size_t i = 0; i < n && i < RECOMPILED && p->nout < p->in->want; i++) {
    Point point = measured[i]->point;
    if (point.len == LIST_MAX) continue;
    point.at[point.len++] = (Opt){.kind = OPT_COMPILER, .arg = COMPILER_NVRTC};
    Point both;
    if (search_space_point(&p->space, point.at, point.len, &both) && remember(p, both.key))
      put(p, &both, both.predicted);
  }
}

/* -- the call ---------------------------------------------------------------------------------- */

static void propose_steps(Job *job, void *arg) {
  Proposer *p = arg;
  const SearchInput *in = p->in;
  size_t most = POOL + TRIED_MAX + HINTS_MAX + SEARCH_MAX_WANT + 1;
  for (p->seen_cap = 1; p->seen_cap < 2 * most;) p->seen_cap *= 2;
  p->job = job;
  p->seen = arena_array(&job->arena, p->seen_cap, sizeof *p->seen);
  p->pool = arena_array(&job->arena, POOL, sizeof *p->pool);
  p->near = arena_array(&job->arena, POOL, sizeof *p->near);
  p->expanded = arena_array(&job->arena, POOL, sizeof *p->expanded);
  p->taken = arena_array(&job->arena, POOL, sizeof *p->taken);
  search_space_init(&p->space, job, in->kernel, in->target);
  Point plain = {.len = 0};
  const Model *m = search_space_model(&p->space, &plain);
  if (!m) return; /* nothing to choose, or more than a search can hold */
  read_evidence(p);
  put_hints(p);
  bool far = is_far(p, m), over = !p->nout && is_over(p, m);
  if (over) put_compiler(p);
  if (over && !far) return;
  if (!over) put_heuristic(p), put_tiles(p);
  if (p->nout < in->want) put_ranked(p, far, over);
}

Status search_propose(Job *job, const SearchInput *in, Candidate *out, size_t *n) {
  Proposer p = {.in = in, .out = out};
  *n = 0;
  if (!in->want || in->want > SEARCH_MAX_WANT)
    return FAIL(INVALID_ARGUMENT, "a search proposes 1 to %d candidates, not %zu", SEARCH_MAX_WANT,
                in->want);
  TRY(job_run(job, propose_steps, &p));
  *n = p.nout;
  return NULL;
}
