/* Ranges of a launch become special indices, and a reduction over threads becomes memory.
 *
 * The three innermost GLOBAL ranges are the grid's x, y and z; more of them, or ones that y and z
 * cannot hold, are digits of x.
 *
 * A GROUP's partial results are stored to the workgroup's memory, one element per thread; then
 * every thread adds up those along its dimension. Many threads do it in two steps of about the
 * square root of their number each. Where the threads of a warp can look at each other's registers
 * they combine two by two first, one of them stores what the warp has, and the warps' results are
 * combined two by two in every warp. Nothing here says where threads wait for each other:
 * barriers.c reads that off the AFTERs. The order of the sum is fixed, so a result does not depend
 * on the run, and it is the same in all threads. */
#include "compiler/passes/expand_groups.h"

#include <assert.h>
#include <string.h>

#include "compiler/passes/linsum.h"

enum { GRID_YZ_MAX = 65535, ONE_STEP = 16, WARP = 32 };

/* Outermost first, as END lists them. */
static void find_globals(Groups *g, const UOpList *kernel) {
  for (size_t i = 0; i < kernel->len; i++) {
    const UOp *u = kernel->at[i];
    for (uint32_t s = u->nsrc; u->op == OP_END && s-- > 1;) {
      UOp *r = u->src[s];
      bool known = uop_axis(r) != AX_GLOBAL;
      for (uint32_t k = 0; k < g->nglobal; k++) known |= g->global[k] == r;
      if (!known) g->global[g->nglobal++] = r;
    }
  }
}

/* Dimensions along which threads write elements of their own. */
static void find_covered(Groups *g, const UOpList *kernel) {
  for (size_t i = 0; i < kernel->len; i++) {
    const UOp *u = kernel->at[i], *to = u->op == OP_END ? u->src[0] : u;
    if (u->op != OP_END || to->op != OP_STORE) continue;
    to = to->src[0];
    while (to->op == OP_AFTER) to = to->src[0];
    for (uint32_t s = 1; to->op == OP_PARAM && s < u->nsrc; s++)
      if (uop_axis(u->src[s]) == AX_LOCAL || uop_axis(u->src[s]) == AX_WARP)
        g->covered[u->src[s]->arg.ints.at[1]] = true;
  }
}

static int64_t range_max(const UOp *r) { return r->src[0]->vmax; }

void groups_init(Job *job, const UOpList *kernel, const Target *target, Groups *out) {
  *out = (Groups){.job = job, .block = {1, 1, 1}};
  out->peers = target->warp == WARP && target_is_cuda(target);
  size_t ranges = 0;
  for (size_t i = 0; i < kernel->len; i++) {
    const UOp *u = kernel->at[i];
    if (u->op == OP_BUFFER && u->arg.i >= out->next_buffer) out->next_buffer = u->arg.i + 1;
    if (u->op != OP_RANGE) continue;
    ranges++;
    if (u->arg.i >= out->next_range) out->next_range = u->arg.i + 1;
    AxisType t = uop_axis(u);
    if (t != AX_LOCAL && t != AX_GROUP && t != AX_WARP) continue;
    assert(uop_is_const(u->src[0]));
    int64_t threads = u->src[0]->arg.i * (t == AX_WARP ? u->arg.ints.at[2] : 1);
    if (threads > out->block[u->arg.ints.at[1]]) out->block[u->arg.ints.at[1]] = threads;
  }
  find_covered(out, kernel);
  out->global = arena_array(&job->arena, ranges + 1, sizeof *out->global);
  find_globals(out, kernel);
  out->flat = out->nglobal > 3;
  for (uint32_t k = 1; k < out->nglobal; k++) out->flat |= range_max(out->global[k]) > GRID_YZ_MAX;
}

static UOp *special(const Groups *g, int which, UOp *end) {
  return uop_make(g->job, OP_SPECIAL, DT_INDEX, arg_i(which), &end, 1);
}

static UOp *lane(const Groups *g, int dim) {
  return special(g, 3 + dim, uop_index(g->job, g->block[dim]));
}

UOp *groups_thread(const Groups *g, int dim) { return lane(g, dim); }

/* x counts through all GLOBAL ranges, the innermost fastest. */
static UOp *digit(const Groups *g, uint32_t k) {
  Job *job = g->job;
  UOp *all = uop_index(job, 1), *below = NULL;
  for (uint32_t i = 0; i < g->nglobal; i++) {
    if (i == k) below = all;
    all = uop2(job, OP_MUL, all, g->global[i]->src[0]);
  }
  UOp *at = special(g, 0, all);
  assert(below); /* k is one of them */
  if (!uop_is_int(below, 1)) at = uop2(job, OP_FLOORDIV, at, below);
  /* Of the last digit the remainder is no change, but proves its bound where sizes are symbolic. */
  bool last = k + 1 == g->nglobal && !all->symbolic;
  return last ? at : uop2(job, OP_FLOORMOD, at, g->global[k]->src[0]);
}

/* A digit of the thread's number. */
static UOp *warp_digit(const Groups *g, const UOp *range) {
  int64_t step = range->arg.ints.at[2], size = range->src[0]->arg.i;
  UOp *at = lane(g, 0);
  if (step > 1) at = uop2(g->job, OP_FLOORDIV, at, uop_index(g->job, step));
  if (step * size == g->block[0]) return at;
  return uop2(g->job, OP_FLOORMOD, at, uop_index(g->job, size));
}

UOp *groups_index(const Groups *g, const UOp *range) {
  if (uop_axis(range) == AX_WARP) return warp_digit(g, range);
  if (uop_axis(range) != AX_GLOBAL) return lane(g, (int)range->arg.ints.at[1]);
  uint32_t k = 0;
  while (g->global[k] != range) k++;
  return g->flat ? digit(g, k) : special(g, (int)k, range->src[0]);
}

UOp *groups_one_writer(const Groups *g) {
  UOp *one = NULL;
  for (int d = 0; d < 3; d++) {
    if (g->block[d] == 1 || g->covered[d]) continue;
    UOp *first = uop2(g->job, OP_CMPEQ, lane(g, d), uop_index(g->job, 0));
    one = one ? uop2(g->job, OP_AND, one, first) : first;
  }
  return one;
}

/* Threads that differ in another dimension than dim have elements of their own. */
static UOp *others(const Groups *g, int dim) {
  UOp *at = uop_index(g->job, 0);
  for (int d = 3; d-- > 0;) {
    if (d == dim || g->block[d] == 1) continue;
    at = index_add(g->job, index_mul(g->job, at, g->block[d]), lane(g, d));
  }
  return at;
}

/* Element `at` of the thread's `width`. Neighbours among the threads touch neighbours in memory:
 * with the elements of each together, all of a warp would want the same banks. */
static UOp *access_at(const Groups *g, int dim, int64_t width, UOp *at) {
  int64_t before = 1, all = g->block[0] * g->block[1] * g->block[2];
  for (int d = 0; d < dim; d++) before *= g->block[d];
  if (before == 1) return index_add(g->job, index_mul(g->job, others(g, dim), width), at);
  return index_add(g->job, index_mul(g->job, at, all / g->block[dim]), others(g, dim));
}

static UOp *share(Groups *g, UOp *value, int dim, int64_t width, UOp *at, UOp *gate) {
  Job *job = g->job;
  int64_t all = g->block[0] * g->block[1] * g->block[2];
  int64_t ints[2] = {all / g->block[dim] * width, 2};
  UOp *buffer = uop_make_lanes(job, OP_BUFFER, (DType)value->dtype, value->lanes,
                               arg_both(g->next_buffer++, ints, 2), NULL, 0);
  UOp *src[4] = {buffer, access_at(g, dim, width, at), value, gate};
  UOp *store = uop_make_lanes(job, OP_STORE, DT_VOID, value->lanes, arg_i(0), src, gate ? 4 : 3);
  return uop2(job, OP_AFTER, buffer, store);
}

/* n elements from `first`, `step` apart. */
static UOp *collect(Groups *g, Op op, UOp *buffer, int dim, int64_t width, UOp *first, int64_t step,
                    int64_t n) {
  Job *job = g->job;
  UOp *r = uop_range(job, g->next_range++, AX_REDUCE, uop_index(job, n));
  UOp *at = index_add(job, first, index_mul(job, r, step));
  UOp *src[2] = {buffer, access_at(g, dim, width, at)};
  UOp *v = uop_make_lanes(job, OP_LOAD, DT_VOID, buffer->lanes, arg_i(0), src, 2);
  return uop_reduce(job, op, v, &r, 1);
}

/* The larger divisor of n up to its square root that is a power of two. */
static int64_t root_of(int64_t n) {
  int64_t b = 1;
  while (4 * b * b <= n && n % (2 * b) == 0) b *= 2;
  return b;
}

/* `part` of `n` threads whose numbers are `step` apart, powers of two, combined two by two. */
static UOp *exchange(const Groups *g, Op op, UOp *part, int64_t step, int64_t n) {
  for (int64_t bit = step; bit < step * n; bit *= 2) {
    UOp *other =
        uop_make_lanes(g->job, OP_PEER, (DType)part->dtype, part->lanes, arg_i(bit), &part, 1);
    part = uop2(g->job, op, part, other);
  }
  return part;
}

static bool is_power(int64_t n) { return n > 0 && !(n & (n - 1)); }

/* How many threads along the dimension, `step` apart, are of one warp; 1: they cannot see each
 * other's registers. */
static int64_t peers_along(const Groups *g, int dim, int64_t *step) {
  int64_t all = g->block[0] * g->block[1] * g->block[2], n = g->block[dim];
  *step = 1;
  for (int d = 0; d < dim; d++) *step *= g->block[d];
  if (!g->peers || all % WARP || !is_power(n) || !is_power(*step) || *step >= WARP) return 1;
  return n < WARP / *step ? n : WARP / *step;
}

UOp *groups_combine(Groups *g, Op op, UOp *part, int dim) {
  Job *job = g->job;
  int64_t step, n = g->block[dim], peers = peers_along(g, dim, &step), left = n / peers;
  UOp *me = lane(g, dim), *zero = uop_index(job, 0);
  if (peers > 1 && (left <= peers || left <= ONE_STEP)) {
    part = exchange(g, op, part, step, peers);
    if (left == 1) return part;
    UOp *all = uop_index(job, peers);
    UOp *gate = uop2(job, OP_CMPEQ, uop2(job, OP_FLOORMOD, me, all), zero);
    UOp *buffer = share(g, part, dim, left, uop2(job, OP_FLOORDIV, me, all), gate);
    if (left > peers) return collect(g, op, buffer, dim, left, zero, 1, left);
    UOp *mine = uop2(job, OP_FLOORMOD, me, uop_index(job, left));
    UOp *src[2] = {buffer, access_at(g, dim, left, mine)};
    part = uop_make_lanes(job, OP_LOAD, DT_VOID, buffer->lanes, arg_i(0), src, 2);
    return exchange(g, op, part, step, left);
  }
  int64_t b = n > ONE_STEP ? root_of(n) : 1;
  UOp *buffer = share(g, part, dim, n, me, NULL);
  if (b == 1) return collect(g, op, buffer, dim, n, zero, 1, n);
  UOp *mine = uop2(job, OP_FLOORMOD, me, uop_index(job, b));
  UOp *some = collect(g, op, buffer, dim, n, mine, b, n / b);
  UOp *gate = uop2(job, OP_CMPLT, me, uop_index(job, b));
  return collect(g, op, share(g, some, dim, b, mine, gate), dim, b, zero, 1, b);
}

UOp *groups_exchange(Groups *g, Op op, UOp *part, const UOp *range) {
  return exchange(g, op, part, range->arg.ints.at[2], range->src[0]->arg.i);
}
