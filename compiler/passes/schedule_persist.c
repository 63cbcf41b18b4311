/* PERSIST: fewer workgroups than tiles, each of which does one tile after the other.
 *
 *   for tile < n, by workgroups:                 for b < G, by workgroups:
 *     body(tile)                        becomes    for r < number of tiles b, b + G, ...:
 *                                                    body(b + r G)
 *
 * What the ranges of workgroups counted become digits of the tile's number, the innermost the
 * fastest, so tiles come in the order in which the device would have begun them. */
#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

static bool is_workgroup(const UOp *r) { return r->op == OP_RANGE && uop_axis(r) == AX_GLOBAL; }

/* The tiles of the kernel; 0: a run decides. */
static int64_t tiles_of(const UOp *end) {
  int64_t n = 1;
  for (uint32_t s = 1; s < end->nsrc; s++) {
    if (!is_workgroup(end->src[s])) continue;
    if (!uop_is_const(end->src[s]->src[0])) return 0;
    n *= range_size(end->src[s]);
  }
  return n;
}

/* How many of n tiles workgroup b of `groups` has. */
static UOp *rounds_of(Job *job, UOp *b, int64_t n, int64_t groups) {
  if (n % groups == 0) return uop_index(job, n / groups);
  UOp *left = uop2(job, OP_SUB, uop_index(job, n - 1), b);
  return index_add(job, uop2(job, OP_FLOORDIV, left, uop_index(job, groups)), uop_index(job, 1));
}

UOp *schedule_persist(Apply *a, UOp *sink) {
  Job *job = a->job;
  UOp *end = sink->src[0];
  int64_t groups = a->plan->persist, n = end->op == OP_END ? tiles_of(end) : 0, below = 1;
  if (!groups || n <= groups) return sink;
  UOp **from = arena_array(&job->arena, end->nsrc, sizeof *from);
  UOp **to = arena_array(&job->arena, end->nsrc, sizeof *to);
  UOp **src = arena_array(&job->arena, end->nsrc + 2u, sizeof *src);
  UOp *b = new_range(a, AX_GLOBAL, groups);
  UOp *r = uop_range(job, a->next_id++, AX_LOOP, rounds_of(job, b, n, groups));
  UOp *tile = uop2(job, OP_MIN, index_add(job, index_mul(job, r, groups), b),
                   uop_index(job, n - 1)); /* which it never is beyond */
  uint32_t count = 0, nsrc = 1;
  for (uint32_t s = end->nsrc; s-- > 1;) {
    if (!is_workgroup(end->src[s])) continue;
    UOp *size = end->src[s]->src[0];
    UOp *digit = below > 1 ? uop2(job, OP_FLOORDIV, tile, uop_index(job, below)) : tile;
    below *= size->arg.i;
    from[count] = end->src[s];
    to[count++] = below < n ? uop2(job, OP_FLOORMOD, digit, size) : digit;
  }
  src[0] = uop_substitute(job, end->src[0], from, to, count);
  src[nsrc++] = b;
  src[nsrc++] = r;
  for (uint32_t s = 1; s < end->nsrc; s++)
    if (!is_workgroup(end->src[s])) src[nsrc++] = end->src[s];
  UOp *all = uop_make(job, OP_END, DT_VOID, arg_none(), src, nsrc);
  return uop_make(job, OP_SINK, DT_VOID, arg_none(), &all, 1);
}
