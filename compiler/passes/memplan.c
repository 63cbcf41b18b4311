/* Memory of temporaries: offsets in one arena.
 *
 * Greedy: one buffer after the other, each at the best-fitting gap between the buffers that are
 * placed already and alive at the same time, or above them all. Which order is best depends on the
 * graph: largest first, longest-lived first and in order of time are tried, and the smallest arena
 * wins. Every step keeps a list of what is placed and alive there, so the cost is the lifetimes'
 * lengths times how much is alive.
 *
 * What is kept lies one after the other in memory of its own.
 *
 * When a size is symbolic the offsets are of no use: the executor places the buffers from the true
 * sizes. The plan then has the lifetimes, and temp_bytes says what the sizes expected would take.
 */
#include "compiler/passes/memplan.h"

#include <stdlib.h>

#include "base/vec.h"

enum { ALIGNMENT = 64 };

typedef struct Life {
  uint32_t buffer, first, last;
  int64_t bytes, offset;
} Life;

typedef struct Alive {
  Life **at;
  size_t len, cap;
} Alive;

static int64_t aligned_bytes(const PlanBuffer *b) {
  int64_t bytes = dims_typical((Ints){&b->numel, 1}) * dtype_info[b->dtype].bytes;
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void use(const Plan *plan, Life *life, uint32_t buffer, uint32_t step) {
  Life *l = &life[plan->buffers[buffer].base];
  if (l->first == UINT32_MAX) l->first = step;
  l->last = step;
}

/* What was there before a loop and is used in it is used again in the next iteration; what is
 * carried is there from the first to the last. Inner loops end first. */
static void through_loops(Job *job, const Plan *plan, Life *life) {
  uint32_t *open = arena_array(&job->arena, plan->nsteps + 1, sizeof *open), depth = 0;
  for (uint32_t s = 0; s < plan->nsteps; s++) {
    if (plan->steps[s].kind == STEP_LOOP) open[depth++] = s;
    if (plan->steps[s].kind != STEP_END) continue;
    uint32_t first = open[--depth];
    for (uint32_t b = 0; b < plan->nbuffers; b++) {
      Life *l = &life[b];
      if (l->first == UINT32_MAX || l->last < first || l->first > s) continue;
      if (plan->buffers[b].carried && l->first > first) l->first = first;
      if (l->first < first || plan->buffers[b].carried) l->last = l->last > s ? l->last : s;
    }
  }
}

static Life *lifetimes(Job *job, const Plan *plan) {
  Life *life = arena_array(&job->arena, plan->nbuffers + 1, sizeof *life);
  for (uint32_t b = 0; b < plan->nbuffers; b++) {
    life[b] = (Life){.buffer = b, .first = UINT32_MAX};
    life[b].bytes = aligned_bytes(&plan->buffers[b]);
  }
  for (uint32_t s = 0; s < plan->nsteps; s++) {
    const PlanStep *step = &plan->steps[s];
    if (step->buffer != NO_BUFFER) use(plan, life, step->buffer, s);
    if (step->condition != NO_BUFFER) use(plan, life, step->condition, s);
    if (step->kind != STEP_CALL) continue;
    const PlanCall *call = &plan->calls[step->call];
    for (uint32_t a = 0; a < call->nargs; a++) use(plan, life, call->args[a], s);
  }
  through_loops(job, plan, life);
  return life;
}

static int larger_first(const void *a, const void *b) {
  const Life *x = *(Life *const *)a, *y = *(Life *const *)b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x->buffer < y->buffer ? -1 : x->buffer > y->buffer;
}

static int longer_first(const void *a, const void *b) {
  const Life *x = *(Life *const *)a, *y = *(Life *const *)b;
  uint32_t m = x->last - x->first, n = y->last - y->first;
  return m != n ? (m < n ? 1 : -1) : larger_first(a, b);
}

static int earlier_first(const void *a, const void *b) {
  const Life *x = *(Life *const *)a, *y = *(Life *const *)b;
  return x->first != y->first ? (x->first < y->first ? -1 : 1) : larger_first(a, b);
}

static int lower_first(const void *a, const void *b) {
  const Life *x = *(Life *const *)a, *y = *(Life *const *)b;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  return x->buffer < y->buffer ? -1 : x->buffer > y->buffer;
}

/* The smallest gap between neighbours (sorted by offset, possibly overlapping each other) that
 * holds `bytes`. */
static int64_t best_gap(Life *const *neighbours, size_t n, int64_t bytes) {
  int64_t top = 0, best = -1, best_size = INT64_MAX;
  for (size_t k = 0; k < n; k++) {
    int64_t gap = neighbours[k]->offset - top, end = neighbours[k]->offset + neighbours[k]->bytes;
    if (gap >= bytes && gap < best_size) best = top, best_size = gap;
    if (end > top) top = end;
  }
  return best >= 0 ? best : top;
}

typedef struct Attempt {
  Job *job;
  Alive *alive; /* per step: what is placed */
  Alive neighbours;
  uint32_t *seen, stamp; /* per buffer: whose neighbour it was found to be last */
} Attempt;

static void place(Attempt *at, Life *l) {
  at->neighbours.len = 0;
  at->stamp++;
  for (uint32_t c = l->first; c <= l->last; c++) {
    for (size_t k = 0; k < at->alive[c].len; k++) {
      Life *other = at->alive[c].at[k];
      if (at->seen[other->buffer] == at->stamp) continue;
      at->seen[other->buffer] = at->stamp;
      avec_push(&at->job->arena, &at->neighbours, other);
    }
    avec_push(&at->job->arena, &at->alive[c], l);
  }
  if (at->neighbours.len) {
    qsort(at->neighbours.at, at->neighbours.len, sizeof *at->neighbours.at, lower_first);
  }
  l->offset = best_gap(at->neighbours.at, at->neighbours.len, l->bytes);
}

/* The size of the arena. */
static int64_t place_all(Attempt *at, size_t nsteps, Life **order, size_t n) {
  int64_t bytes = 0;
  for (size_t c = 0; c < nsteps; c++) at->alive[c].len = 0;
  for (size_t k = 0; k < n; k++) {
    place(at, order[k]);
    int64_t end = order[k]->offset + order[k]->bytes;
    if (end > bytes) bytes = end;
    job_poll(at->job);
  }
  return bytes;
}

/* One after the other: none ever makes room. */
static void place_kept(Job *job, Plan *plan) {
  for (size_t b = 0; b < plan->nbuffers; b++) {
    PlanBuffer *x = &plan->buffers[b];
    if (x->kind != PB_KEPT) continue;
    if (x->base == b) {
      x->offset = plan->kept_bytes;
      if (__builtin_add_overflow(plan->kept_bytes, aligned_bytes(x), &plan->kept_bytes))
        job_abort(job, FAIL(RESOURCE_EXHAUSTED, "more is kept than memory can hold"));
    } else {
      x->offset += plan->buffers[x->base].offset;
    }
  }
}

static int64_t all_bytes(const Plan *plan) {
  int64_t total = plan->temp_bytes;
  for (size_t b = 0; b < plan->nbuffers; b++) {
    const PlanBuffer *whole = &plan->buffers[b];
    if (whole->kind == PB_TEMP || whole->base != b) continue;
    if (__builtin_add_overflow(total, aligned_bytes(whole), &total)) return INT64_MAX;
  }
  return total;
}

void memplan(Job *job, Plan *plan) {
  static int (*const orders[])(const void *, const void *) = {larger_first, longer_first,
                                                              earlier_first};
  Life *life = lifetimes(job, plan), **order;
  Attempt at = {.job = job};
  bool fixed = true;
  size_t n = 0;
  at.alive = arena_array(&job->arena, plan->nsteps + 1, sizeof *at.alive);
  at.seen = arena_array(&job->arena, plan->nbuffers + 1, sizeof *at.seen);
  order = arena_array(&job->arena, plan->nbuffers + 1, sizeof(Life *));
  for (uint32_t b = 0; b < plan->nbuffers; b++) {
    PlanBuffer *whole = &plan->buffers[b];
    if (whole->kind != PB_TEMP || life[b].first == UINT32_MAX) continue;
    whole->first = life[b].first, whole->last = life[b].last;
    fixed &= dim_is_static(whole->numel);
    order[n++] = &life[b];
  }
  plan->temp_bytes = n ? INT64_MAX : 0;
  for (size_t k = 0; n && k < sizeof orders / sizeof *orders; k++) {
    qsort(order, n, sizeof *order, orders[k]);
    int64_t bytes = place_all(&at, plan->nsteps, order, n);
    if (bytes >= plan->temp_bytes) continue;
    plan->temp_bytes = bytes;
    for (size_t b = 0; fixed && b < n; b++) {
      plan->buffers[order[b]->buffer].offset = order[b]->offset;
    }
  }
  for (size_t b = 0; b < plan->nbuffers; b++) {
    PlanBuffer *part = &plan->buffers[b];
    if (part->kind == PB_TEMP && part->base != b) part->offset += plan->buffers[part->base].offset;
  }
  place_kept(job, plan);
  plan->peak_bytes = all_bytes(plan);
}
