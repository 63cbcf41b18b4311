/* One value of the scheduled kernel becomes one value per coordinate of the UPCAST and UNROLL
 * ranges it depends on, and a vector if it depends on the VECTOR range. Instances are kept in a
 * table per node, indexed by the coordinates of exactly those ranges, so that what does not depend
 * on a coordinate is shared.
 *
 * Index arithmetic is not instantiated node by node. An index is a sum of atoms (linsum.h):
 * expanded ranges contribute constants, the VECTOR range a stride between lanes, and only atoms
 * that are not linear (a quotient, a loaded index) are instantiated. Terms are added outermost loop
 * first, so that partial sums are loop invariants. Vectors of indices and of index comparisons are
 * computed in i32 where the bounds allow it. */
#include "compiler/passes/expand_parts.h"

#include <assert.h>
#include <stdlib.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/matrix.h"
#include "compiler/ir/verify.h"
#include "compiler/passes/begin.h"
#include "compiler/passes/expand_groups.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/spread.h"

enum { DEPTH_INNER = 1 << 20 };

Node *expand_node(Expand *e, const UOp *u) { return &e->nodes[nodemap_get(&e->pos, u)]; }

int expand_axis(const Expand *e, const UOp *range) {
  for (uint32_t i = 0; i < e->naxes; i++)
    if (e->axes[i].range == range) return (int)i;
  return -1;
}

bool expand_is_expanded(AxisType t) { return t == AX_UPCAST || t == AX_UNROLL || t == AX_VECTOR; }

static UOp *broadcast(Expand *e, UOp *u, unsigned lanes) {
  if (u->lanes == lanes) return u;
  assert(u->lanes == 1);
  return uop_make_lanes(e->job, OP_BROADCAST, DT_VOID, lanes, arg_none(), &u, 1);
}

/* -- dependencies ------------------------------------------------------------------------------ */

static void find_axes(Expand *e) {
  for (size_t i = 0; i < e->list.len; i++) {
    UOp *u = e->list.at[i];
    if (u->op != OP_RANGE || !expand_is_expanded(uop_axis(u))) continue;
    if (e->naxes == MAX_EXPANDED)
      job_abort(e->job, FAIL(RESOURCE_EXHAUSTED, "more than %d expanded axes", MAX_EXPANDED));
    if (uop_axis(u) == AX_VECTOR) e->vectors |= 1ull << e->naxes;
    ExpandedAxis x = {u, (uint32_t)u->src[0]->arg.i};
    e->axes[e->naxes++] = x;
  }
}

static void find_deps(Expand *e, size_t i) {
  UOp *u = e->list.at[i];
  Node *n = &e->nodes[i];
  n->n = 1;
  for (uint32_t k = 0; u->open && k < u->open->n; k++) {
    int axis = expand_axis(e, u->open->at[k]);
    if (axis < 0) continue;
    n->deps |= 1ull << axis;
    if (!(e->vectors >> axis & 1)) n->n *= e->axes[axis].size;
  }
  n->at = arena_array(&e->job->arena, n->n, sizeof(UOp *));
}

/* Loops of an END are as deep as their place in it; reduce loops are deeper than all of them. */
static void find_depths(Expand *e) {
  for (size_t i = 0; i < e->list.len; i++) {
    UOp *u = e->list.at[i];
    if (u->op != OP_END && u->op != OP_REDUCE) continue;
    for (uint32_t s = 1; s < u->nsrc; s++)
      expand_node(e, u->src[s])->depth = s + (u->op == OP_REDUCE ? DEPTH_INNER : 0);
  }
  for (size_t i = 0; i < e->list.len; i++) {
    Node *n = &e->nodes[i];
    for (uint32_t s = 0; s < e->list.at[i]->nsrc; s++) {
      uint32_t d = expand_node(e, e->list.at[i]->src[s])->depth;
      if (d > n->depth) n->depth = d;
    }
  }
}

static void find_indexes(Expand *e) {
  for (size_t i = e->list.len; i-- > 0;) {
    UOp *u = e->list.at[i];
    bool access = u->op == OP_INDEX || u->op == OP_STORE;
    if (access) expand_node(e, u->src[1])->indexes = true;
    for (uint32_t s = 0; !access && e->nodes[i].indexes && s < u->nsrc; s++)
      expand_node(e, u->src[s])->indexes = true;
  }
}

/* Index nodes are needed only as atoms of some sum. */
static void need_sources(Expand *e, const UOp *u) {
  for (uint32_t s = 0; s < u->nsrc; s++) {
    if (u->src[s]->dtype != DT_INDEX) {
      expand_node(e, u->src[s])->needed = true;
      continue;
    }
    const LinSum *a = linsum_of(&e->sums, u->src[s]);
    for (uint32_t t = 0; t < a->n; t++) expand_node(e, a->at[t].atom)->needed = true;
  }
}

bool expand_of_tiles(const UOp *u) { return u->op == OP_MMA && matrix_info(u->arg.i)->shared; }

/* The loads of a factor that stays in memory are not made. */
static void find_needed(Expand *e) {
  e->nodes[e->list.len - 1].needed = true;
  for (size_t i = e->list.len; i-- > 0;) {
    const UOp *u = e->list.at[i];
    if (!e->nodes[i].needed) continue;
    for (int f = 0; f < 2 && expand_of_tiles(u); f++) {
      if (matrix_in_memory(matrix_info(u->arg.i), f))
        need_sources(e, u->src[f]);
      else
        expand_node(e, u->src[f])->needed = true;
    }
    if (!expand_of_tiles(u)) need_sources(e, u);
  }
}

/* -- instances --------------------------------------------------------------------------------- */

/* Position of the current coordinates among a node's instances. */
uint32_t expand_slot(const Expand *e, uint64_t deps) {
  uint32_t slot = 0;
  for (deps &= ~e->vectors; deps; deps &= deps - 1) {
    uint32_t a = (uint32_t)__builtin_ctzll(deps);
    slot = slot * e->axes[a].size + e->coord[a];
  }
  return slot;
}

/* Steps the coordinates of `deps` like an odometer; false after the last. */
bool expand_next(Expand *e, uint64_t deps) {
  deps &= ~e->vectors;
  while (deps) {
    uint32_t a = 63u - (uint32_t)__builtin_clzll(deps);
    if (++e->coord[a] < e->axes[a].size) return true;
    e->coord[a] = 0;
    deps &= ~(1ull << a);
  }
  return false;
}

static unsigned lanes_of(const Expand *e, uint64_t deps) {
  deps &= e->vectors;
  return deps ? e->axes[__builtin_ctzll(deps)].size : 1;
}

UOp *expand_instance(Expand *e, UOp *u) {
  Node *n = expand_node(e, u);
  UOp *v = n->at[expand_slot(e, n->deps)];
  assert(v);
  return v;
}

/* -- indices ----------------------------------------------------------------------------------- */

static bool in_i32(const UOp *u) { return u->vmin >= INT32_MIN && u->vmax <= INT32_MAX; }

/* The dtype in which vectors of a node over indices are computed: i32 if the node and its index
 * sources fit. */
static DType vector_dtype(const UOp *u) {
  bool fits = u->dtype != DT_INDEX || in_i32(u);
  for (uint32_t s = 0; s < u->nsrc; s++)
    if (u->src[s]->dtype == DT_INDEX) fits = fits && in_i32(u->src[s]);
  return fits ? DT_I32 : DT_INDEX;
}

int expand_by_depth(const void *x, const void *y) {
  const SumTerm *a = x, *b = y;
  if (a->depth != b->depth) return a->depth < b->depth ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

IndexAt expand_index_at(Expand *e, UOp *u) {
  const LinSum *sum = linsum_of(&e->sums, u);
  SumTerm *terms = arena_array(&e->job->arena, sum->n + 1u, sizeof *terms);
  LinTerm *flat = arena_array(&e->job->arena, sum->n + 1u, sizeof *flat);
  LinTerm *vectors = arena_array(&e->job->arena, sum->n + 1u, sizeof *vectors);
  IndexAt r = {.lanes = lanes_of(e, expand_node(e, u)->deps), .vectors = vectors};
  int64_t konst = sum->konst;
  uint32_t n = 0;
  for (uint32_t i = 0; i < sum->n; i++) {
    LinTerm t = sum->at[i];
    int axis = t.atom->op == OP_RANGE ? expand_axis(e, t.atom) : -1;
    if (axis >= 0 && e->vectors >> axis & 1) {
      r.stride = t.coeff;
    } else if (axis >= 0) {
      konst += t.coeff * e->coord[axis];
    } else {
      Node *node = expand_node(e, t.atom);
      t.atom = expand_instance(e, t.atom);
      if (t.atom->lanes > 1)
        vectors[r.nvectors++] = t;
      else if (uop_is_const(t.atom))
        konst += t.coeff * t.atom->arg.i;
      else
        terms[n++] = (SumTerm){t, node->depth, t.atom->id};
    }
  }
  qsort(terms, n, sizeof *terms, expand_by_depth);
  for (uint32_t i = 0; i < n; i++) flat[i] = terms[i].term;
  r.base = linsum_build(e->job, flat, n, konst);
  return r;
}

static UOp *cast_lanes(Expand *e, UOp *u, DType d) { return uop_cast(e->job, u, d); }

static UOp *vector_sum(Expand *e, UOp *a, UOp *b) { return a ? uop2(e->job, OP_ADD, a, b) : b; }

static UOp *vector_times(Expand *e, UOp *v, int64_t k) {
  if (k == 1) return v;
  UOp *c = broadcast(e, uop_int(e->job, (DType)v->dtype, k), v->lanes);
  return uop2(e->job, OP_MUL, v, c);
}

/* All lanes of an index, in dtype d. */
static UOp *index_vector(Expand *e, const IndexAt *x, unsigned lanes, DType d) {
  UOp *v = NULL;
  for (uint32_t i = 0; i < x->nvectors; i++) {
    UOp *t = cast_lanes(e, x->vectors[i].atom, d);
    v = vector_sum(e, v, vector_times(e, t, x->vectors[i].coeff));
  }
  if (x->stride) {
    UOp *ramp = uop_make_lanes(e->job, OP_RAMP, DT_INDEX, lanes, arg_none(), NULL, 0);
    v = vector_sum(e, v, vector_times(e, cast_lanes(e, ramp, d), x->stride));
  }
  if (v && uop_is_int(x->base, 0)) return v;
  UOp *base = broadcast(e, cast_lanes(e, x->base, d), lanes);
  return v ? uop2(e->job, OP_ADD, base, v) : base;
}

/* -- building one instance --------------------------------------------------------------------- */

/* A source as an operand of an op with so many lanes. */
UOp *expand_operand(Expand *e, UOp *s, unsigned lanes, DType index_dtype) {
  if (s->dtype != DT_INDEX) return broadcast(e, expand_instance(e, s), lanes);
  IndexAt x = expand_index_at(e, s);
  if (lanes == 1) return x.base;
  return index_vector(e, &x, lanes, index_dtype);
}

/* Comparisons of indices are often decided by bounds at one coordinate: no gate in the middle of a
 * padded window. */
static UOp *decided(Expand *e, UOp *u, UOp *const *src) {
  UOp *r = uop_make(e->job, (Op)u->op, DT_VOID, arg_none(), src, 2);
  if (r->vmin != r->vmax) return r;
  return broadcast(e, uop_int(e->job, DT_BOOL, r->vmin), r->lanes);
}

static const UOp *splat_of(const UOp *u) { return u->op == OP_BROADCAST ? u->src[0] : u; }

static UOp *build_logic(Expand *e, UOp *u, UOp *const *src) {
  assert(src[1]);
  for (uint32_t s = 0; s < 2; s++) {
    const UOp *c = splat_of(src[s]);
    if (!uop_is_const(c)) continue;
    bool neutral = c->arg.i == (u->op == OP_AND);
    return neutral ? src[1 - s] : src[s];
  }
  return uop_make(e->job, (Op)u->op, DT_VOID, arg_none(), src, 2);
}

static UOp *make_alu(Expand *e, UOp *u, DType index_dtype, UOp *const *src) {
  assert(src[0]);
  bool logic = (u->op == OP_AND || u->op == OP_OR) && u->dtype == DT_BOOL;
  if (logic) return build_logic(e, u, src);
  if (op_info[u->op].type == TR_BOOL && u->src[0]->dtype == DT_INDEX) return decided(e, u, src);
  if (u->op == OP_WHERE && uop_is_const(splat_of(src[0])))
    return src[splat_of(src[0])->arg.i ? 1 : 2];
  if (u->op == OP_WHERE && src[1] == src[2]) return src[1];
  DType d = u->dtype == DT_INDEX ? index_dtype : (DType)u->dtype;
  return uop_make(e->job, (Op)u->op, d, u->arg, src, u->nsrc);
}

/* Lanes that are all equal are computed once. */
static UOp *build_alu(Expand *e, UOp *u) {
  unsigned lanes = lanes_of(e, expand_node(e, u)->deps);
  DType id = lanes > 1 ? vector_dtype(u) : DT_INDEX;
  UOp *src[3] = {0};
  bool splat = lanes > 1;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    src[s] = expand_operand(e, u->src[s], lanes, id);
    splat = splat && src[s]->op == OP_BROADCAST;
  }
  for (uint32_t s = 0; splat && s < u->nsrc; s++) src[s] = src[s]->src[0];
  return broadcast(e, make_alu(e, u, id, src), lanes);
}

/* Buffer, index and gate of an access; false when the gate is never true. Where sizes are symbolic
 * a proof for all places of a tile need not be found again for each of them, nor what a gate that
 * is known to be true here promises: then a gate that is true says so. */
typedef struct Access {
  UOp *index, *gate;
  int64_t step; /* between lanes; 0 when the index is a vector or the same for all lanes */
} Access;

static bool access_of(Expand *e, UOp *u, uint32_t gate_at, Access *out) {
  IndexAt x = expand_index_at(e, u->src[1]);
  *out = (Access){.index = x.base};
  if (x.nvectors) {
    DType d = in_i32(u->src[1]) ? DT_I32 : DT_INDEX;
    out->index = cast_lanes(e, index_vector(e, &x, x.lanes, d), DT_INDEX);
  } else {
    out->step = x.stride;
  }
  bool proven =
      !u->symbolic || verify_inside(e->job, uop_storage(u->src[0]), out->index, x.lanes, out->step);
  if (u->nsrc <= gate_at) {
    if (!proven) out->gate = uop_int(e->job, DT_BOOL, true);
    return true;
  }
  out->gate = expand_instance(e, u->src[gate_at]);
  if (out->gate->op == OP_BROADCAST) out->gate = out->gate->src[0];
  if (!uop_is_const(out->gate)) return true;
  bool open = out->gate->arg.i != 0;
  if (proven) out->gate = NULL;
  return open;
}

/* The buffer of a load, in the loops that change what it holds: none of them hoists the load. */
static UOp *read_anew(Expand *e, UOp *u) {
  UOp *buffer = expand_instance(e, u->src[0]);
  const RangeSet *open = u->nsrc > 3 ? u->src[3]->open : NULL;
  if (!open) return buffer;
  UOp **src = arena_array(&e->job->arena, open->n + 1u, sizeof *src);
  src[0] = buffer;
  for (uint32_t k = 0; k < open->n; k++) src[k + 1] = expand_instance(e, open->at[k]);
  return uop_make(e->job, OP_AFTER, DT_VOID, arg_none(), src, open->n + 1u);
}

static UOp *build_load(Expand *e, UOp *u) {
  unsigned all = lanes_of(e, expand_node(e, u)->deps);
  Access a;
  if (!access_of(e, u, 2, &a)) {
    UOp *zero = uop_scalar(e->job, (DType)u->dtype, (Scalar){0});
    return broadcast(e, zero, all);
  }
  unsigned lanes = all;
  if (a.index->lanes == 1 && !a.step) {
    /* One address for all lanes: a scalar, unless each lane has its own gate. */
    if (!a.gate || a.gate->lanes == 1)
      lanes = 1;
    else
      a.index = broadcast(e, a.index, lanes);
  }
  UOp *src[3] = {read_anew(e, u), a.index, a.gate};
  UOp *v = uop_make_lanes(e->job, OP_LOAD, DT_VOID, lanes, arg_i(a.step), src, a.gate ? 3 : 2);
  return broadcast(e, v, all);
}

static UOp *build_store(Expand *e, UOp *u) {
  unsigned lanes = lanes_of(e, expand_node(e, u)->deps);
  Access a;
  if (!access_of(e, u, 3, &a)) return NULL;
  if (lanes > 1 && a.index->lanes == 1 && !a.step) a.index = broadcast(e, a.index, lanes);
  UOp *value = expand_operand(e, u->src[2], lanes, DT_INDEX), *writer = NULL;
  const UOp *to = uop_storage(u->src[0]);
  if (to->op == OP_PARAM) writer = groups_one_writer(&e->groups);
  if (writer && a.gate) writer = broadcast(e, writer, a.gate->lanes);
  if (writer) a.gate = a.gate ? uop2(e->job, OP_AND, a.gate, writer) : writer;
  UOp *src[4] = {expand_instance(e, u->src[0]), a.index, value, a.gate};
  return uop_make_lanes(e->job, OP_STORE, DT_VOID, lanes, arg_i(a.step), src, a.gate ? 4 : 3);
}

static UOp *build_tilecopy(Expand *e, UOp *u) {
  UOp **src = arena_array(&e->job->arena, u->nsrc, sizeof *src);
  src[0] = expand_instance(e, u->src[0]);
  src[2] = u->src[2];
  for (uint32_t s = 1; s < u->nsrc; s++)
    if (s != 2) src[s] = expand_operand(e, u->src[s], 1, DT_INDEX);
  return uop_with_src(e->job, u, src);
}

/* Ranges of u that stay loops. */
static uint32_t kept_ranges(Expand *e, UOp *u, UOp **out) {
  uint32_t n = 0;
  for (uint32_t s = 1; s < u->nsrc; s++) {
    AxisType t = uop_axis(u->src[s]);
    bool loop = t == AX_LOOP || t == AX_SERIAL || t == AX_REDUCE;
    if (loop) out[n++] = expand_instance(e, u->src[s]);
  }
  return n;
}

uint64_t expand_closed(Expand *e, UOp *u) {
  uint64_t closed = 0;
  for (uint32_t s = 1; s < u->nsrc; s++) {
    int a = expand_axis(e, u->src[s]);
    if (a >= 0) closed |= 1ull << a;
  }
  return closed;
}

/* The tree of the unrolled values at the current coordinates, over what stays a loop, and the
 * threads that share it; lanes: of `u`'s value. */
static UOp *reduced(Expand *e, UOp *u, unsigned lanes) {
  uint64_t closed = expand_closed(e, u);
  UOp *tree = NULL, **kept = arena_array(&e->job->arena, u->nsrc, sizeof *kept);
  do {
    UOp *v = expand_is_product(u->src[0]) ? expand_product(e, u->src[0])
                                          : expand_operand(e, u->src[0], lanes, DT_INDEX);
    UOp *leaf =
        closed & ~e->vectors ? uop_make(e->job, OP_REDUCE, DT_VOID, arg_i(u->arg.i), &v, 1) : v;
    tree = tree ? uop2(e->job, (Op)u->arg.i, tree, leaf) : leaf;
  } while (expand_next(e, closed));
  return uop_reduce(e->job, (Op)u->arg.i, tree, kept, kept_ranges(e, u, kept));
}

static UOp *combine_groups(Expand *e, UOp *u, UOp *r) {
  for (uint32_t s = 1; s < u->nsrc; s++) {
    if (uop_axis(u->src[s]) == AX_GROUP)
      r = groups_combine(&e->groups, (Op)u->arg.i, r, (int)u->src[s]->arg.ints.at[1]);
    if (uop_axis(u->src[s]) == AX_WARP) r = groups_exchange(&e->groups, (Op)u->arg.i, r, u->src[s]);
  }
  return r;
}

/* The sum of all elements that the thread has is made once, with the first of them. */
static UOp *build_products(Expand *e, UOp *u) {
  Node *n = expand_node(e, u);
  UOp *mma = u->src[0];
  if (!n->product) n->product = arena_array(&e->job->arena, n->n, sizeof *n->product);
  uint32_t coord[MAX_EXPANDED];
  memcpy(coord, e->coord, sizeof coord);
  expand_go_to(e, mma, MATRIX_C, 0);
  UOp **all = &n->product[expand_slot(e, n->deps)];
  if (!*all) *all = combine_groups(e, u, reduced(e, u, 1));
  memcpy(e->coord, coord, sizeof coord);
  return expand_product_part(e, mma, *all);
}

static UOp *build_reduce(Expand *e, UOp *u) {
  if (expand_is_product(u->src[0])) return build_products(e, u);
  unsigned lanes = lanes_of(e, expand_closed(e, u));
  unsigned width = lanes > 1 ? lanes : lanes_of(e, expand_node(e, u)->deps);
  UOp *r = reduced(e, u, width);
  if (lanes > 1) r = uop_make(e->job, OP_HREDUCE, DT_VOID, arg_i(u->arg.i), &r, 1);
  r = combine_groups(e, u, r);
  return expand_node(e, u)->indexes ? lower_bounded(e->job, u, r) : r;
}

static UOp *group(Expand *e, UOp **effects, uint32_t n) {
  if (n == 1) return effects[0];
  return uop_make(e->job, OP_SINK, DT_VOID, arg_none(), effects, n);
}

/* Vectors stored `step` elements apart whose places are each other's gaps are one vector. */
static UOp *weave(Expand *e, UOp *const *stores, unsigned step) {
  int64_t first, at, lane[64];
  UOp *base = expand_index_base(stores[0]->src[1], &first), *value[8];
  unsigned lanes = stores[0]->lanes;
  for (unsigned k = 0; k < step; k++) {
    const UOp *u = stores[k];
    bool fits = u->op == OP_STORE && u->nsrc == 3 && u->src[0] == stores[0]->src[0] &&
                u->lanes == lanes && u->arg.i == step && u->src[2]->lanes == lanes &&
                u->src[1]->lanes == 1;
    if (!fits || expand_index_base(u->src[1], &at) != base || at != first + k) return NULL;
    value[k] = u->src[2];
  }
  for (unsigned k = 0; k < lanes * step; k++) lane[k] = k % step * lanes + k / step;
  UOp *src[3] = {stores[0]->src[0], stores[0]->src[1],
                 expand_shuffle(e, value, step, lane, lanes * step)};
  return uop_make_lanes(e->job, OP_STORE, DT_VOID, lanes * step, arg_i(1), src, 3);
}

static uint32_t weave_stores(Expand *e, UOp **effects, uint32_t n) {
  uint32_t out = 0;
  for (uint32_t i = 0; i < n;) {
    const UOp *u = effects[i];
    int64_t step = u->op == OP_STORE && u->lanes > 1 ? u->arg.i : 0;
    bool may = (step == 2 || step == 4 || step == 8) && u->lanes * step <= 64 && i + step <= n;
    UOp *whole = may ? weave(e, effects + i, (unsigned)step) : NULL;
    effects[out++] = whole ? whole : effects[i];
    i += whole ? (uint32_t)step : 1;
  }
  return out;
}

/* Effects of all coordinates that u closes, in the loops that stay. */
static UOp *build_end(Expand *e, UOp *u) {
  uint64_t closed = expand_closed(e, u);
  Node *inner = expand_node(e, u->src[0]);
  UOp **effects = arena_array(&e->job->arena, inner->n, sizeof *effects);
  UOp **src = arena_array(&e->job->arena, u->nsrc + 1u, sizeof *src);
  uint32_t n = 0;
  assert(!(inner->deps & ~closed));
  for (uint32_t i = 0; i < inner->n; i++)
    if (inner->at[i]) effects[n++] = inner->at[i];
  n = weave_stores(e, effects, n);
  src[0] = group(e, effects, n);
  uint32_t loops = kept_ranges(e, u, src + 1);
  return loops ? uop_make(e->job, OP_END, DT_VOID, arg_none(), src, loops + 1) : src[0];
}

static UOp *build_range(Expand *e, UOp *u) {
  UOp *end = expand_operand(e, u->src[0], 1, DT_INDEX);
  if (uop_axis(u) == AX_THREAD)
    return uop_make(e->job, OP_THREAD, DT_INDEX, arg_i(end->arg.i), NULL, 0);
  AxisType t = uop_axis(u);
  if (t == AX_GLOBAL || t == AX_LOCAL || t == AX_WARP || t == AX_GROUP)
    return groups_index(&e->groups, u);
  return end == u->src[0] ? u : uop_range(e->job, u->arg.i, uop_axis(u), end);
}

/* Proofs about loops and buffers of a size find it in the form that it has. */
static bool is_size(UOp *u) {
  return u->dtype == DT_INDEX && u->symbolic && !u->open && !dim_check(u);
}

static UOp *build(Expand *e, UOp *u) {
  if (is_size(u)) return u;
  switch (u->op) {
  case OP_CONST:
  case OP_PARAM:
  case OP_VAR:
  case OP_BUFFER: return u;
  case OP_RANGE: return expand_is_expanded(uop_axis(u)) ? NULL : build_range(e, u);
  case OP_INDEX: return build_load(e, u);
  case OP_STORE: return build_store(e, u);
  case OP_TILECOPY: return build_tilecopy(e, u);
  case OP_REDUCE: return build_reduce(e, u);
  case OP_MMA: return expand_product_part(e, u, expand_product(e, u));
  case OP_END: return build_end(e, u);
  case OP_AFTER:
  case OP_SINK: {
    UOp **src = arena_array(&e->job->arena, u->nsrc + 1u, sizeof *src);
    for (uint32_t s = 0; s < u->nsrc; s++) src[s] = expand_instance(e, u->src[s]);
    return uop_with_src(e->job, u, src);
  }
  default:
    assert(op_info[u->op].flags & OPF_ALU);
    return expand_begins_sum(u) ? expand_begun_sum(e, u) : build_alu(e, u);
  }
}

UOp *expand_kernel(Job *job, UOp *kernel, const Target *target) {
  Expand *e = arena_alloc(&job->arena, sizeof *e);
  kernel = spread_rows(job, kernel);
  if (target->max_group) kernel = begin_buffers(job, kernel);
  *e = (Expand){.job = job, .list = uop_toposort(job, kernel)};
  nodemap_number(job, &e->pos, &e->list);
  e->nodes = arena_array(&job->arena, e->list.len, sizeof *e->nodes);
  linsum_init(job, &e->sums);
  groups_init(job, &e->list, target, &e->groups);
  find_axes(e);
  for (size_t i = 0; i < e->list.len; i++) {
    find_deps(e, i);
    if (e->list.at[i]->dtype == DT_INDEX) linsum_of(&e->sums, e->list.at[i]);
  }
  find_depths(e);
  find_indexes(e);
  find_needed(e);
  for (size_t i = 0; i < e->list.len; i++) {
    Node *n = &e->nodes[i];
    if (!n->needed) continue;
    do n->at[expand_slot(e, n->deps)] = build(e, e->list.at[i]);
    while (expand_next(e, n->deps));
    job_poll(job);
  }
  return e->nodes[e->list.len - 1].at[0];
}
