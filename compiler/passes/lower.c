/* Turns every REDUCE into accumulators and a loop.
 *
 * REDUCEs that run over the same extents at the same place (equal open ranges) and do not depend on
 * each other share one loop: the register tile of a matmul, or the mean and the mean of squares.
 * Dependence is told by levels: a REDUCE's level is one more than the highest below it. A range
 * that several loops use is renamed in each, so that in the result each RANGE is one loop and the
 * open ranges of a node say exactly in which loops it lies.
 *
 * A product that is accumulated becomes MULACC. Elementwise code is not contracted: x and the
 * maximum of x, computed in two places, must be the same numbers.
 *
 * Before a long loop of a CPU the lines are fetched that will be written with its results: a row of
 * a register tile is a line of its own, and nothing else would ask for it before it is stored to.
 * In the loop of a register tile the lines of a large operand that lies in the order of the loop
 * are fetched ahead: weights that are read once a run come from far, and hardware that fetches
 * ahead stops at each page.
 *
 * A maximum of floats is a NaN where one of them is. Where the target can take the larger of two
 * numbers at once (native.def) the loop does that, and keeps beside it whether all were numbers: of
 * two vectors that is one comparison.
 *
 * Where few accumulators are alive, the unrolled steps of one REDUCE are spread over several
 * independent chains, because an addition takes about four cycles and two can start in each. */
#include "compiler/passes/lower.h"

#include <assert.h>
#include <math.h>

#include "base/vec.h"

#include "compiler/ir/matrix.h"
#include "compiler/ir/native.h"
#include "compiler/passes/barriers.h"
#include "compiler/passes/exchange.h"
#include "compiler/passes/ix.h"
#include "compiler/passes/pair_tiles.h"
#include "compiler/passes/peel.h"
#include "compiler/passes/pipeline.h"
#include "compiler/passes/prefetch.h"
#include "compiler/passes/recurrence.h"
#include "compiler/passes/registers.h"
#include "compiler/passes/replace.h"
#include "compiler/passes/settle.h"

enum {
  WANTED_CHAINS = 8,
  LONG_LOOP = 32,
  MAX_PREFETCHES = 64,
  LINE = 64,
  AHEAD = 4096,       /* bytes between what is read and what is fetched */
  DENSE = 1024,       /* bytes of a stream that one step may go through */
  LARGE = 128 << 10,  /* bytes of an operand that is not in the cache already */
  TILE_PER_FETCH = 6, /* multiplications that hide the fetch of a line */
};

typedef struct Lower {
  Job *job;
  UOpList list;
  NodeMap pos;
  UOp **now;
  uint32_t *level;
  bool *shared;  /* by position: several loops run over this RANGE */
  bool *indexes; /* by position: some index is computed from it */
  UOp **owner;   /* by position: a REDUCE over this RANGE */
  int64_t next_range, next_buffer;
  const Target *target;
  bool prefetches;
} Lower;

typedef struct Group {
  const RangeSet *open;
  UOpList of; /* the REDUCEs */
} Group;

typedef struct Groups {
  Group *at;
  size_t len, cap;
} Groups;

static uint32_t position(const Lower *l, const UOp *u) { return nodemap_get(&l->pos, u); }
static UOp *now(const Lower *l, const UOp *u) { return l->now[position(l, u)]; }

/* -- levels and groups ------------------------------------------------------------------------- */

static bool has_loops(const UOp *u) { return u->op == OP_REDUCE && u->nsrc > 1; }

static uint32_t find_levels(Lower *l) {
  uint32_t max = 0;
  for (size_t i = 0; i < l->list.len; i++) {
    UOp *u = l->list.at[i];
    for (uint32_t s = 0; s < u->nsrc; s++) {
      uint32_t p = position(l, u->src[s]);
      if (l->level[p] > l->level[i]) l->level[i] = l->level[p];
    }
    if (has_loops(u)) l->level[i]++;
    if (l->level[i] > max) max = l->level[i];
    for (uint32_t r = 1; has_loops(u) && r < u->nsrc; r++) {
      uint32_t p = position(l, u->src[r]);
      UOp *other = l->owner[p] ? l->owner[p] : u;
      l->owner[p] = u;
      if (other->open != u->open || l->level[position(l, other)] != l->level[i])
        l->shared[p] = true;
    }
    if (u->op == OP_RANGE && u->arg.i >= l->next_range) l->next_range = u->arg.i + 1;
    if (u->op == OP_BUFFER && u->arg.i >= l->next_buffer) l->next_buffer = u->arg.i + 1;
  }
  return max;
}

static bool same_extents(const UOp *a, const UOp *b) {
  if (a->nsrc != b->nsrc) return false;
  for (uint32_t s = 1; s < a->nsrc; s++)
    if (a->src[s]->src[0] != b->src[s]->src[0]) return false;
  return true;
}

static Groups find_groups(Lower *l, uint32_t level) {
  Groups g = {0};
  for (size_t i = 0; i < l->list.len; i++) {
    UOp *u = l->list.at[i];
    if (!has_loops(u) || l->level[i] != level) continue;
    Group *to = NULL;
    for (size_t k = 0; k < g.len && !to; k++)
      if (g.at[k].open == u->open && same_extents(g.at[k].of.at[0], u)) to = &g.at[k];
    if (!to) {
      Group fresh = {.open = u->open};
      avec_push(&l->job->arena, &g, fresh);
      to = &g.at[g.len - 1];
    }
    avec_push(&l->job->arena, &to->of, u);
  }
  return g;
}

/* -- one loop ---------------------------------------------------------------------------------- */

typedef struct Leaves {
  UOp **at;
  size_t len, cap;
} Leaves;

/* The values that one REDUCE combines, in order. */
static void find_leaves(Lower *l, UOp *tree, Op op, Leaves *out) {
  Leaves stack = {0};
  avec_push(&l->job->arena, &stack, tree);
  while (stack.len) {
    UOp *u = stack.at[--stack.len];
    bool leaf = u->op == OP_REDUCE && u->nsrc == 1;
    if (leaf || u->op != op) {
      avec_push(&l->job->arena, out, leaf ? u->src[0] : u);
      continue;
    }
    avec_push(&l->job->arena, &stack, u->src[1]);
    avec_push(&l->job->arena, &stack, u->src[0]);
  }
}

/* Only a tree whose leaves are marked was made by unrolling. */
static bool is_unrolled(const UOp *tree, Op op) {
  while (tree->op == op) tree = tree->src[0];
  return tree->op == OP_REDUCE && tree->nsrc == 1;
}

static bool fuses(DType d) { return d == DT_F32 || d == DT_F64; }

static bool is_product(const UOp *u) { return u->op == OP_MMA || u->op == OP_TILEMMA; }

static bool has_sum(const UOp *u) {
  return u->nsrc > matrix_source(matrix_info(u->arg.i), MATRIX_C);
}

static UOp *accumulate(Job *job, Op op, UOp *acc, UOp *value) {
  if (op == OP_ADD && value->op == OP_MMA && value->nsrc == 2) {
    UOp *src[3] = {value->src[0], value->src[1], acc};
    return uop_make_lanes(job, OP_MMA, (DType)value->dtype, value->lanes, value->arg, src, 3);
  }
  if (op == OP_ADD && value->op == OP_TILEMMA && !has_sum(value)) {
    UOp *src[5];
    memcpy(src, value->src, value->nsrc * sizeof *src);
    src[value->nsrc] = acc;
    return uop_make_lanes(job, OP_TILEMMA, (DType)value->dtype, value->lanes, value->arg, src,
                          value->nsrc + 1u);
  }
  if (op == OP_ADD && value->op == OP_MUL && fuses((DType)value->dtype))
    return uop3(job, OP_MULACC, value->src[0], value->src[1], acc);
  return uop2(job, op, acc, value);
}

static UOp *spread(Job *job, UOp *c, unsigned lanes) {
  if (lanes == 1) return c;
  return uop_make_lanes(job, OP_BROADCAST, DT_VOID, lanes, arg_none(), &c, 1);
}

static UOp *identity(Job *job, Op op, const UOp *like) {
  DType d = (DType)like->dtype;
  return spread(job, uop_scalar(job, d, reduce_identity(op, d)), like->lanes);
}

/* The loop of a group while it is built. */
typedef struct Loop {
  UOp **ranges; /* of the result */
  uint32_t nranges;
  UOp **from, **to; /* renamings */
  size_t nrename;
  UOp **buffers; /* one per chain, in order of members */
  size_t nchains;
  size_t chains; /* per member */
  UOp **checks;  /* by member: whether all were numbers; NULL: not asked */
  UOp **updates; /* of chains and checks; hints */
  size_t nupdates;
} Loop;

static void pick_ranges(Lower *l, const Group *g, Loop *loop) {
  const UOp *first = g->of.at[0];
  loop->nranges = first->nsrc - 1;
  loop->ranges = arena_array(&l->job->arena, loop->nranges, sizeof(UOp *));
  size_t room = g->of.len * loop->nranges;
  loop->from = arena_array(&l->job->arena, room, sizeof(UOp *));
  loop->to = arena_array(&l->job->arena, room, sizeof(UOp *));
  for (uint32_t k = 0; k < loop->nranges; k++) {
    UOp *r = first->src[k + 1];
    uint32_t p = position(l, r);
    loop->ranges[k] = l->shared[p] ? uop_range(l->job, l->next_range++, AX_REDUCE, r->src[0]) : r;
    for (size_t m = 0; m < g->of.len; m++) {
      UOp *old = g->of.at[m]->src[k + 1];
      bool known = old == loop->ranges[k];
      for (size_t j = 0; j < loop->nrename; j++) known |= loop->from[j] == old;
      if (known) continue;
      loop->from[loop->nrename] = old;
      loop->to[loop->nrename++] = loop->ranges[k];
    }
  }
}

/* Loops inside of a renamed one become loops of their own: the other nest keeps them. */
static void rename_inner(Lower *l, Loop *loop, UOp *values) {
  UOpList list = uop_toposort(l->job, values);
  size_t outer = loop->nrename, room = outer;
  for (size_t i = 0; i < list.len; i++) room += list.at[i]->op == OP_END;
  UOp **from = arena_array(&l->job->arena, room, sizeof *from);
  UOp **to = arena_array(&l->job->arena, room, sizeof *to);
  memcpy(from, loop->from, outer * sizeof *from);
  memcpy(to, loop->to, outer * sizeof *to);
  loop->from = from, loop->to = to;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    bool inside = false;
    for (size_t j = 0; u->op == OP_END && j < outer; j++) inside |= uop_is_open(u, loop->from[j]);
    if (!inside) continue;
    UOp *r = u->src[1];
    loop->from[loop->nrename] = r;
    loop->to[loop->nrename++] = uop_range(l->job, l->next_range++, uop_axis(r), r->src[0]);
  }
}

/* All values of the group in one walk: a SINK holds them while ranges are renamed. */
static UOp *const *renamed_values(Lower *l, const Group *g, Loop *loop) {
  UOp **values = arena_array(&l->job->arena, g->of.len, sizeof *values);
  for (size_t m = 0; m < g->of.len; m++) values[m] = now(l, g->of.at[m]->src[0]);
  if (!loop->nrename) return values;
  UOp *all = uop_make(l->job, OP_SINK, DT_VOID, arg_none(), values, g->of.len);
  rename_inner(l, loop, all);
  return uop_substitute(l->job, all, loop->from, loop->to, loop->nrename)->src;
}

static void find_indexes(Lower *l) {
  for (size_t i = l->list.len; i-- > 0;) {
    UOp *u = l->list.at[i];
    bool access = u->op == OP_INDEX || u->op == OP_LOAD || u->op == OP_STORE;
    if (access) l->indexes[position(l, u->src[1])] = true;
    for (uint32_t s = 0; !access && l->indexes[i] && s < u->nsrc; s++)
      l->indexes[position(l, u->src[s])] = true;
  }
}

UOp *lower_bounded(Job *job, const UOp *u, UOp *r) {
  DType d = (DType)u->dtype;
  if (!dtype_is_int(d)) return r;
  UOp *ends[2] = {uop_int(job, d, u->vmax), uop_int(job, d, u->vmin)};
  for (int k = 0; k < 2 && r->lanes > 1; k++)
    ends[k] = uop_make_lanes(job, OP_BROADCAST, DT_VOID, r->lanes, arg_none(), &ends[k], 1);
  if (u->vmax < INT64_MAX && u->vmax < r->vmax) r = uop2(job, OP_MIN, r, ends[0]);
  if (u->vmin > INT64_MIN && u->vmin > r->vmin) r = uop2(job, OP_MAX, r, ends[1]);
  return r;
}

/* The places that STOREs in the same loops write as soon as the loop has run. */
static UOp **find_prefetches(Lower *l, const Group *g, const Loop *loop, size_t *n) {
  UOp **out = arena_array(&l->job->arena, MAX_PREFETCHES, sizeof *out);
  int64_t steps = 1;
  for (uint32_t k = 0; k < loop->nranges && steps < LONG_LOOP; k++)
    steps *= loop->ranges[k]->src[0]->vmin;
  *n = 0;
  for (size_t i = 0; l->prefetches && steps >= LONG_LOOP && i < l->list.len; i++) {
    const UOp *u = l->list.at[i];
    bool param = u->op == OP_STORE && u->src[0]->op == OP_PARAM;
    if (!param || u->open != g->open || l->level[position(l, u->src[1])]) continue;
    if (*n == MAX_PREFETCHES || u->src[1]->lanes > 1 || !l->level[i]) continue;
    UOp *at[2] = {u->src[0], now(l, u->src[1])};
    out[(*n)++] = uop_make(l->job, OP_PREFETCH, DT_VOID, arg_i(0), at, 2);
  }
  return out;
}

/* Does u read a line of an operand that lies in the order of r's loop? */
static bool is_streamed(const UOp *u, const UOp *r) {
  if (u->op != OP_LOAD || u->nsrc != 2 || u->src[0]->op != OP_PARAM) return false;
  int64_t bytes = dtype_info[u->dtype].bytes, all = u->src[0]->arg.ints.at[0];
  if (u->lanes * bytes < LINE || u->arg.i != 1 || u->src[1]->lanes > 1) return false;
  if (!dim_is_static(all) || all * bytes < LARGE) return false;
  IxSum index = ix_sum_of(u->src[1]);
  int64_t step = ix_coef(&index, r);
  return dim_is_static(step) && step > 0 && step * bytes <= DENSE;
}

/* Adds to the effects of the loop's body that what it will read is fetched. */
static void fetch_ahead(const Lower *l, Loop *loop) {
  Job *job = l->job;
  const UOp *inner = loop->ranges[loop->nranges - 1];
  UOp *all = uop_make(job, OP_SINK, DT_VOID, arg_none(), loop->updates, loop->nupdates);
  UOpList list = uop_toposort(job, all);
  size_t products = 0, n = 0;
  for (size_t i = 0; i < list.len; i++) {
    products += list.at[i]->op == OP_MULACC;
    n += is_streamed(list.at[i], inner);
  }
  if (!n || n > MAX_PREFETCHES || products < n * TILE_PER_FETCH) return;
  UOp **updates = arena_array(&job->arena, loop->nupdates + n, sizeof *updates);
  memcpy(updates, loop->updates, loop->nupdates * sizeof *updates);
  loop->updates = updates;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if (!is_streamed(u, inner)) continue;
    UOp *at = ix_scale(job, u->src[1], 1, AHEAD / dtype_info[u->dtype].bytes);
    UOp *src[2] = {u->src[0], at};
    updates[loop->nupdates++] = uop_make(job, OP_PREFETCH, DT_VOID, arg_i(1), src, 2);
  }
}

/* TILEMMAs queue up by themselves, and their sums are large. */
static size_t chains_for(const Group *g, size_t nleaves, const UOp *value) {
  size_t chains = 1;
  while (value->op == OP_ADD || value->op == OP_REDUCE) value = value->src[0];
  if (value->op == OP_TILEMMA) return 1;
  while (chains * 2 <= nleaves && chains * 2 * g->of.len <= WANTED_CHAINS) chains *= 2;
  return chains;
}

/* The op of a chain: the one that need not mind NaN where the target has it. */
static Op chain_op(const Lower *l, Op op, const UOp *value) {
  Op quick = op == OP_MAX ? OP_MAXNUM : op == OP_MIN ? OP_MINNUM : op;
  return native_find(l->target, quick, (DType)value->dtype) ? quick : op;
}

/* An accumulator in the loop: its value there, and in *inside the buffer to store the next one. */
static UOp *open_chain(Lower *l, const Loop *loop, UOp *buffer, UOp *first, UOp *const *before,
                       size_t nbefore, UOp **inside) {
  UOp **deps = arena_array(&l->job->arena, loop->nranges + 1u, sizeof *deps);
  deps[0] = register_store(l->job, register_after(l->job, buffer, before, nbefore), first);
  memcpy(deps + 1, loop->ranges, loop->nranges * sizeof *deps);
  *inside = register_after(l->job, buffer, deps, loop->nranges + 1u);
  return register_load(l->job, *inside, buffer->lanes);
}

/* Keeps whether all leaves are numbers; two by two, which is one comparison. */
static void add_check(Lower *l, Loop *loop, size_t member, const Leaves *leaves, UOp *const *before,
                      size_t nbefore) {
  Job *job = l->job;
  unsigned lanes = leaves->at[0]->lanes;
  UOp *buffer = register_new(l->job, l->next_buffer++, DT_BOOL, lanes), *inside;
  UOp *yes = spread(job, uop_number(job, DT_BOOL, 1), lanes);
  UOp *all = open_chain(l, loop, buffer, yes, before, nbefore, &inside);
  for (size_t i = 0; i < leaves->len; i += 2) {
    UOp *x = leaves->at[i], *y = leaves->at[i + 1 < leaves->len ? i + 1 : i];
    UOp *numbers = uop2(job, OP_AND, uop2(job, OP_CMPEQ, x, x), uop2(job, OP_CMPEQ, y, y));
    all = uop2(job, OP_AND, all, numbers);
  }
  loop->checks[member] = buffer;
  loop->updates[loop->nupdates++] = register_store(job, inside, all);
}

static void add_member(Lower *l, Loop *loop, size_t member, Op op, UOp *value, UOp *const *before,
                       size_t nbefore) {
  Job *job = l->job;
  Leaves leaves = {0};
  if (is_unrolled(value, op))
    find_leaves(l, value, op, &leaves);
  else
    avec_push(&job->arena, &leaves, value);
  assert(leaves.len);
  Op step = chain_op(l, op, value);
  for (size_t c = 0; c < loop->chains; c++) {
    UOp *buffer = register_new(l->job, l->next_buffer++, (DType)value->dtype, leaves.at[0]->lanes),
        *inside;
    UOp *acc =
        open_chain(l, loop, buffer, identity(job, op, leaves.at[0]), before, nbefore, &inside);
    for (size_t i = c; i < leaves.len; i += loop->chains)
      acc = accumulate(job, step, acc, leaves.at[i]);
    loop->buffers[loop->nchains++] = buffer;
    loop->updates[loop->nupdates++] = register_store(job, inside, acc);
  }
  if (step != op) add_check(l, loop, member, &leaves, before, nbefore);
}

/* What a member's chains come to when the loop is done. */
static UOp *member_result(Lower *l, const Loop *loop, size_t member, Op op, UOp *done) {
  Job *job = l->job;
  UOp *r = NULL;
  Op step = loop->checks[member] ? op == OP_MAX ? OP_MAXNUM : OP_MINNUM : op;
  for (size_t c = 0; c < loop->chains; c++) {
    UOp *buffer = loop->buffers[member * loop->chains + c];
    UOp *part = register_load(job, uop2(job, OP_AFTER, buffer, done), buffer->lanes);
    r = r ? uop2(job, step, r, part) : part;
  }
  if (!loop->checks[member]) return r;
  UOp *all = loop->checks[member];
  all = register_load(job, uop2(job, OP_AFTER, all, done), all->lanes);
  UOp *nan = spread(job, uop_float(job, (DType)r->dtype, (double)NAN), r->lanes);
  return uop3(job, OP_WHERE, all, r, nan);
}

static size_t min_leaves(Lower *l, const Group *g, UOp *const *values) {
  size_t least = SIZE_MAX;
  for (size_t m = 0; m < g->of.len; m++) {
    Leaves leaves = {0};
    Op op = (Op)g->of.at[m]->arg.i;
    if (is_unrolled(values[m], op)) find_leaves(l, values[m], op, &leaves);
    size_t n = leaves.len ? leaves.len : 1;
    if (n < least) least = n;
  }
  return least;
}

static void lower_group(Lower *l, const Group *g) {
  Job *job = l->job;
  Loop loop = {0};
  pick_ranges(l, g, &loop);
  UOp *const *values = renamed_values(l, g, &loop);
  loop.chains = chains_for(g, min_leaves(l, g, values), values[0]);
  loop.buffers = arena_array(&job->arena, g->of.len * loop.chains, sizeof(UOp *));
  loop.checks = arena_array(&job->arena, g->of.len, sizeof(UOp *));
  loop.updates = arena_array(&job->arena, g->of.len * (loop.chains + 1), sizeof(UOp *));
  size_t nopen = g->open ? g->open->n : 0, nfirst;
  UOp **first = find_prefetches(l, g, &loop, &nfirst);
  UOp **before = arena_array(&job->arena, nopen + nfirst + 1, sizeof *before);
  for (size_t k = 0; k < nopen; k++) before[k] = now(l, g->open->at[k]);
  memcpy(before + nopen, first, nfirst * sizeof *first);
  for (size_t m = 0; m < g->of.len; m++) /* the first member waits for all of them */
    add_member(l, &loop, m, (Op)g->of.at[m]->arg.i, values[m], before, nopen + (m ? 0 : nfirst));
  if (l->prefetches) fetch_ahead(l, &loop);
  UOp *done = loop.nupdates == 1
                  ? loop.updates[0]
                  : uop_make(job, OP_SINK, DT_VOID, arg_none(), loop.updates, loop.nupdates);
  for (uint32_t k = loop.nranges; k-- > 0;) done = uop2(job, OP_END, done, loop.ranges[k]);
  for (size_t m = 0; m < g->of.len; m++) {
    UOp *r = member_result(l, &loop, m, (Op)g->of.at[m]->arg.i, done);
    uint32_t at = position(l, g->of.at[m]);
    l->now[at] = l->indexes[at] ? lower_bounded(job, g->of.at[m], r) : r;
  }
}

/* -- the rest ---------------------------------------------------------------------------------- */

static UOp *split_end(Lower *l, UOp *effect, UOp *const *ranges, uint32_t n) {
  for (uint32_t k = n; k-- > 0;) {
    UOp *r = now(l, ranges[k]), **owner = &l->owner[position(l, ranges[k])];
    if (*owner) { /* a second nest over the same range */
      UOp *fresh = uop_range(l->job, l->next_range++, uop_axis(r), r->src[0]);
      effect = uop_substitute(l->job, effect, &r, &fresh, 1);
      r = fresh;
    } else {
      *owner = r;
    }
    effect = uop2(l->job, OP_END, effect, r);
  }
  return effect;
}

static UOp *rebuild(Lower *l, UOp *u) {
  UOp **src = arena_array(&l->job->arena, u->nsrc + 1u, sizeof *src);
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = now(l, u->src[s]);
  if (u->op == OP_REDUCE) { /* no ranges left: the value itself, unless it marks a leaf */
    assert(u->nsrc == 1);
    return uop_with_src(l->job, u, src);
  }
  if (u->op == OP_END) return split_end(l, src[0], u->src + 1, u->nsrc - 1);
  return u->nsrc ? uop_with_src(l->job, u, src) : u;
}

/* A tree of marked leaves that no loop took: fully unrolled reductions. */
static UOp *strip_marks(Job *job, UOp *root) {
  Replace r = replace_begin(job, root);
  for (size_t i = 0; i < r.list.len; i++) {
    UOp *u = r.list.at[i], **src = replace_renewed(&r, u);
    bool sum = u->op == OP_ADD && u->src[1]->op == OP_REDUCE &&
               (fuses((DType)u->dtype) || is_product(u->src[1]->src[0]));
    if (u->op == OP_REDUCE)
      r.now[i] = src[0];
    else if (sum)
      r.now[i] = accumulate(job, OP_ADD, src[0], src[1]);
    else
      r.now[i] = replace_with(&r, u, src);
  }
  return replace_end(&r);
}

UOp *lower_kernel(Job *job, UOp *kernel, const Target *target) {
  Lower l = {.job = job,
             .list = uop_toposort(job, kernel),
             .target = target,
             .prefetches = target->max_group == 0};
  nodemap_number(job, &l.pos, &l.list);
  l.now = arena_array(&job->arena, l.list.len, sizeof *l.now);
  l.level = arena_array(&job->arena, l.list.len, sizeof *l.level);
  l.shared = arena_array(&job->arena, l.list.len, sizeof *l.shared);
  l.owner = arena_array(&job->arena, l.list.len, sizeof *l.owner);
  l.indexes = arena_alloc(&job->arena, l.list.len);
  find_indexes(&l);
  uint32_t levels = find_levels(&l);
  for (uint32_t level = 0; level <= levels; level++) {
    Groups g = level ? find_groups(&l, level) : (Groups){0};
    for (size_t k = 0; k < g.len; k++) lower_group(&l, &g.at[k]);
    for (size_t i = 0; i < l.list.len; i++)
      if (l.level[i] == level && !has_loops(l.list.at[i])) l.now[i] = rebuild(&l, l.list.at[i]);
    job_poll(job);
  }
  UOp *root = recurrence_in_registers(job, strip_marks(job, l.now[l.list.len - 1]));
  root = barriers_insert(job, settle_products(job, root));
  root = peel_whole(job, peel_first(job, pipeline_copies(job, root)));
  root = pair_tiles(job, exchange_stores(job, root, target));
  return prefetch_panels(job, prefetch_rows(job, root, target), target);
}
