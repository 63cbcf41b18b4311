/* Schedules to start from: the shapes that good ones have, for every axis that they may lie on.
 *
 * - Lanes along an output axis where something is contiguous, one to six registers wide; alone, and
 *   with two to fourteen rows of another output axis, in the order of panels, with what both share
 *   copied per panel or not.
 * - Lanes along a reduce axis, for up to sixteen results of an output axis at a time.
 * - On workgroups, threads along one axis.
 * Each also on all threads of the device, and over each pair of merged output axes. */
#include "compiler/search/internal.h"

enum { LANES_MAX = 64 };

typedef struct Seeds {
  Space *s;
  const Model *m;
  SpaceFn fn;
  void *ctx;
  Opt list[LIST_MAX + 4];
  size_t len;
  uint64_t until; /* work after which no more are made */
} Seeds;

static void add(Seeds *d, OptKind kind, int axis, int64_t arg) {
  if (d->len < LIST_MAX) d->list[d->len++] = (Opt){(uint8_t)kind, (int8_t)axis, (int32_t)arg};
}

static bool seed(Seeds *d) {
  Point p;
  if (d->s->work > d->until || !search_space_point(d->s, d->list, d->len, &p)) return false;
  d->fn(d->ctx, &p);
  return true;
}

/* The list, and the same on all threads along the outermost loop that has enough to do. */
static void seed_threads(Seeds *d) {
  int32_t threads = (int32_t)d->s->target->threads;
  size_t len = d->len;
  if (!seed(d) || threads < 2 || d->s->target->max_group) return;
  for (uint32_t i = 0; i < d->m->info->nloops && i < 4; i++) {
    add(d, OPT_THREAD, (int)d->m->info->loops[i]->arg.i, threads);
    bool done = seed(d);
    d->len = len;
    if (done) return;
  }
}

static void pad(Seeds *d, int axis, int64_t tile) {
  const KernelAxis *a = &d->m->info->axes[axis];
  bool rest = axis_is_static(a) ? a->size % tile && (a->reduce || a->size < tile) : true;
  if (rest && a->divisor % tile) add(d, OPT_PADTO, axis, tile);
}

/* The accesses that the vector axis moves and the row axis does not are copied per panel. */
static void stage_panels(Seeds *d, int v, int m) {
  for (uint32_t i = 0; i < d->m->naccess; i++) {
    const Access *a = &d->m->access[i];
    if (a->store || !(a->mask >> v & 1) || a->mask >> m & 1 || !(a->mask & d->m->reduce)) continue;
    for (uint32_t s = 0; s < d->m->info->nstageable; s++)
      if (d->m->info->stageable[s] == a->node) add(d, OPT_STAGE, v, s);
  }
}

static void seed_tile(Seeds *d, int v, int32_t lanes, int nv, int m, int mr) {
  int last = (int)d->m->info->nloops - 1;
  size_t start = d->len;
  pad(d, v, lanes);
  add(d, OPT_VECTOR, v, lanes);
  if (nv > 1) add(d, OPT_UPCAST, v, nv);
  if (m >= 0 && mr > 1) add(d, OPT_UPCAST, m, mr);
  seed_threads(d);
  if (m >= 0 && mr > 1) {
    add(d, OPT_ORDER, v, last);
    add(d, OPT_ORDER, m, last);
    seed_threads(d);
    size_t plain = d->len;
    stage_panels(d, v, m);
    if (d->len > plain) seed_threads(d);
  }
  d->len = start;
}

static int32_t native_lanes(const Seeds *d) {
  uint32_t bytes = dtype_info[d->m->info->store->src[2]->dtype].bytes;
  uint32_t lanes = d->s->target->vector_bytes / (bytes ? bytes : 4);
  return lanes < 2 ? 2 : lanes > LANES_MAX ? LANES_MAX : (int32_t)lanes;
}

static void seed_tiles(Seeds *d, int v) {
  static const int widths[] = {1, 2, 3, 4, 6}, heights[] = {2, 3, 4, 5, 6, 7, 8, 10, 12, 14};
  int32_t lanes = native_lanes(d);
  int64_t size = d->m->info->axes[v].size;
  while (lanes > 2 && lanes / 2 >= size) lanes /= 2;
  for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
    if (widths[w] > 1 && widths[w] * lanes > size) break;
    seed_tile(d, v, lanes, widths[w], -1, 1);
    for (uint32_t i = 0; i < d->m->info->nloops; i++) {
      int m = (int)d->m->info->loops[i]->arg.i;
      for (size_t h = 0; m != v && h < sizeof heights / sizeof *heights; h++)
        if (heights[h] <= d->m->info->axes[m].size)
          seed_tile(d, v, lanes, widths[w], m, heights[h]);
    }
  }
}

/* Lanes along a reduce axis, for several results at a time along an output axis (-1: none). */
static void seed_rows(Seeds *d, int k, int m) {
  static const int rows_[] = {1, 2, 4, 8, 12, 16};
  int32_t lanes = native_lanes(d);
  size_t start = d->len;
  for (size_t r = 0; r < sizeof rows_ / sizeof *rows_; r++)
    for (int unroll = 1; unroll <= 4; unroll *= 2) {
      d->len = start;
      if (r && (m < 0 || rows_[r] > d->m->info->axes[m].size)) break;
      if (!r && m >= 0) break;
      pad(d, k, (int64_t)lanes * unroll);
      add(d, OPT_VECTOR, k, lanes);
      if (unroll > 1) add(d, OPT_UNROLL, k, unroll);
      if (r) add(d, OPT_UPCAST, m, rows_[r]);
      seed_threads(d);
    }
  d->len = start;
}

static void seed_dots(Seeds *d, int k) {
  seed_rows(d, k, -1);
  for (uint32_t i = 0; i < d->m->info->nloops && i < 4; i++)
    seed_rows(d, k, (int)d->m->info->loops[i]->arg.i);
}

/* Is something contiguous along the axis? */
static bool has_unit_step(const Model *m, uint32_t axis) {
  for (uint32_t i = 0; i < m->naccess; i++)
    for (uint32_t k = 0; k < m->access[i].nsteps; k++)
      if (m->access[i].steps[k].axis == axis && m->access[i].steps[k].step == 1) return true;
  return false;
}

static void seed_groups(Seeds *d) {
  size_t start = d->len;
  for (uint32_t i = 0; i < d->m->info->nloops; i++)
    for (int64_t n = 32; n <= d->s->target->max_group && n <= 512; n *= 2) {
      d->len = start;
      add(d, OPT_LOCAL, (int)d->m->info->loops[i]->arg.i, n);
      seed(d);
    }
  for (uint32_t axis = 0; axis < d->m->info->naxes; axis++)
    for (int64_t n = 32; n <= d->s->target->max_group && d->m->reduce >> axis & 1; n *= 2) {
      d->len = start;
      pad(d, (int)axis, n);
      add(d, OPT_GROUP, (int)axis, n);
      seed(d);
    }
  d->len = start;
}

static void seed_variant(Seeds *d) {
  seed_threads(d);
  if (d->s->target->max_group) {
    seed_groups(d);
    return;
  }
  for (uint32_t axis = 0; axis < d->m->info->naxes && axis <= INT8_MAX; axis++) {
    const KernelAxis *a = &d->m->info->axes[axis];
    if (!a->range || a->size < 2 || !has_unit_step(d->m, axis)) continue;
    if (a->reduce)
      seed_dots(d, (int)axis);
    else
      seed_tiles(d, (int)axis);
  }
}

static void start_from(Space *s, const Opt *merges, size_t n, uint64_t until, SpaceFn fn,
                       void *ctx) {
  Point head = {.len = (uint32_t)n};
  if (n) memcpy(head.at, merges, n * sizeof *merges);
  const Model *m = search_space_model(s, &head);
  if (!m) return;
  Seeds *d = arena_alloc(&s->job->arena, sizeof *d);
  *d = (Seeds){.s = s, .m = m, .fn = fn, .ctx = ctx, .until = until};
  if (n) memcpy(d->list, merges, n * sizeof *merges);
  d->len = n;
  seed_variant(d);
}

void search_seeds(Space *s, SpaceFn fn, void *ctx) {
  uint64_t share = s->work_limit / 4;
  start_from(s, NULL, 0, s->work + share, fn, ctx);
  const Model *plain = search_space_model(s, &(Point){.len = 0});
  if (!plain) return;
  const KernelInfo *k = plain->info;
  for (uint32_t i = k->nloops; i-- > 1;) {
    Opt merge = {OPT_MERGE, (int8_t)k->loops[i - 1]->arg.i, (int32_t)k->loops[i]->arg.i};
    if (k->loops[i - 1]->arg.i <= INT8_MAX) start_from(s, &merge, 1, s->work + share / 2, fn, ctx);
  }
}
