/* Kernels with several stores on devices with workgroups.
 *
 * Each effect is spread over the threads by itself: the number of a thread is taken apart into the
 * effect's ranges, and threads beyond its elements do nothing. */
#include "compiler/passes/gates.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

enum { SPREAD_THREADS = 64 };

static int64_t count_elements(const UOp *effect) {
  int64_t n = 1;
  for (uint32_t s = 1; effect->op == OP_END && s < effect->nsrc; s++)
    n *= range_size(effect->src[s]);
  return n;
}

/* One effect over the index of a thread: its ranges are digits of the index, as if every size were
 * the largest; what is beyond the true size is gated off. */
static UOp *spread_one(Job *job, UOp *effect, UOp *at, UOp *const *ranges, uint32_t nranges) {
  uint32_t n = effect->op == OP_END ? effect->nsrc - 1 : 0;
  UOp *store = effect->op == OP_END ? effect->src[0] : effect;
  UOp **to = arena_array(&job->arena, n + 1u, sizeof *to);
  UOp **src = arena_array(&job->arena, nranges + 1u, sizeof *src);
  UOp *inside = NULL;
  int64_t stride = 1;
  for (uint32_t s = n; s-- > 0;) {
    int64_t size = range_size(effect->src[s + 1]);
    UOp *digit = stride > 1 ? uop2(job, OP_FLOORDIV, at, uop_index(job, stride)) : at;
    to[s] = uop2(job, OP_FLOORMOD, digit, uop_index(job, size));
    UOp *end = effect->src[s + 1]->src[0];
    if (!uop_is_const(end)) inside = gates_both(job, inside, uop2(job, OP_CMPLT, to[s], end));
    stride *= size;
  }
  store = uop_substitute(job, store, effect->src + 1, to, n);
  store = gates_around(job, store, OP_INDEX, inside);
  UOp *gate = uop2(job, OP_CMPLT, at, uop_index(job, stride));
  gate = gates_both(job, gates_both(job, gate, inside), store->nsrc > 3 ? store->src[3] : NULL);
  UOp *parts[4] = {store->src[0], store->src[1], store->src[2], gate};
  src[0] = uop_make(job, OP_STORE, DT_VOID, store->arg, parts, 4);
  for (uint32_t r = 0; r < nranges; r++) src[r + 1] = ranges[r];
  return uop_make(job, OP_END, DT_VOID, arg_none(), src, nranges + 1u);
}

UOp *schedule_spread_stores(Job *job, UOp *sink, const KernelInfo *k, const Target *target) {
  int64_t most = 1;
  UOp **effects = arena_array(&job->arena, sink->nsrc + 1u, sizeof *effects), *ranges[2];
  for (uint32_t s = 0; s < sink->nsrc; s++) {
    int64_t n = count_elements(sink->src[s]);
    if (n > most) most = n;
  }
  int64_t lanes = target->max_group < SPREAD_THREADS ? target->max_group : SPREAD_THREADS;
  int64_t groups = (most + lanes - 1) / lanes;
  ranges[0] = uop_range(job, k->naxes, AX_GLOBAL, uop_index(job, groups));
  ranges[1] = uop_thread_range(job, k->naxes + 1, AX_LOCAL, 0, uop_index(job, lanes));
  UOp *at = index_add(job, index_mul(job, ranges[0], lanes), ranges[1]);
  uint32_t n = 0;
  for (uint32_t s = 0; s < sink->nsrc; s++)
    if (count_elements(sink->src[s])) effects[n++] = spread_one(job, sink->src[s], at, ranges, 2);
  sink = uop_make(job, OP_SINK, DT_VOID, arg_none(), effects, n);
  return linsum_simplify(job, sink);
}
