/* One walk over the tensor graph, sources first. A tensor [n, c, ...] may get a second form
 * [n, c / b, ..., b], its channels in blocks of a vector or two. A convolution with constant
 * weights makes one; whatever works elementwise or along the other axes (pooling, padding,
 * concatenation, residual sums) passes it on; everything else asks for the plain form, which is a
 * PERMUTE of the blocked one. So reorders stand at the edges of chains only.
 *
 * What is connected in blocks is a chain. After the walk the reorders that are left are counted:
 * when those of a chain cost more than its convolutions gain, its convolutions stay plain, and the
 * walk is repeated. A reorder is a kernel of its own: part of a convolution before or after it, it
 * would break the vectors of that kernel, and be done again for each of its tiles.
 *
 * In the blocked form every load of a convolution is contiguous along channels, or one element for
 * a whole vector, whatever the strides, and weights are packed once in the order in which they are
 * read. A window that reaches over the edge reads a stored copy with the zeros around it (a halo):
 * that is a CAT, whose middle the producer writes in place, so it costs the zeros alone. */
#include "compiler/passes/layout.h"

#include <assert.h>

#include "base/vec.h"
#include "compiler/ir/matrix.h"
#include "compiler/passes/layout_cost.h"
#include "compiler/passes/replace.h"
#include "compiler/passes/winograd.h"
#include "compiler/rules/rewrite.h"

enum { MAX_RANK = 12, FEW_CHANNELS = 4, FEW_PIXELS = 16, MOST_WALKS = 4, MATRIX_CHANNELS = 16 };

/* The second form of a node: a tensor of plain shape `shape`, in blocks. NULL value: none. */
typedef struct Blocked {
  UOp *value;
  Ints shape;
  int64_t block;
} Blocked;

/* A tensor brought from one form into the other, at the cost of the chain of `user`. */
typedef struct Reorder {
  UOp *node;
  uint32_t user, source; /* places */
} Reorder;

typedef struct Reorders {
  Reorder *at;
  size_t len, cap;
} Reorders;

typedef struct Layout {
  Job *job;
  UOpList list; /* the graph as it was */
  const TensorGraph *graph;
  const Target *target;
  UOp **plain; /* by place in the list: the node, over its new sources */
  Blocked *blocked;
  bool *fixed;  /* depends on weights and constants alone */
  bool *sums;   /* whoever reads it would compute a sum */
  bool *shared; /* several compute with it: it is stored in any case */
  bool *wanted; /* something computes with the plain form, or it is an output */
  bool *stored; /* a reorder reads it: it is a kernel's result */
  bool *refused;
  uint32_t *chain; /* a forest: what is connected in blocks has the same root */
  double *gain;    /* of convolutions, in seconds */
  Reorders reorders;
  double spare; /* bytes by which transformed weights may still be larger than they were */
} Layout;

/* -- building ---------------------------------------------------------------------------------- */

static UOp *moved(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(v, n), &x, 1);
}
static UOp *reshape(Job *job, UOp *x, const int64_t *v, size_t n) {
  return moved(job, OP_RESHAPE, x, v, n);
}

#define DIMS(...) (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

/* -- between the forms ------------------------------------------------------------------------- */

/* Lanes of the vectors of a block over its size. */
static double block_waste(const Target *t, int64_t block) {
  int64_t lanes = t->vector_bytes / 4, whole = (block + lanes - 1) / lanes * lanes;
  return (double)whole / (double)block;
}

/* The block of one to `vectors` vectors that wastes least of them, and less than
 * `least`. */
static int64_t block_within(const Target *t, int64_t channels, int64_t vectors, double *least) {
  int64_t lanes = t->vector_bytes / 4, best = 0;
  for (int64_t b = vectors * lanes; b >= lanes && lanes > 1; b--) {
    double waste = block_waste(t, b);
    if (channels % b || waste >= *least) continue;
    best = b, *least = waste;
  }
  return best;
}

/* Channels side by side: one or two vectors, with little of the last one unused, or some more where
 * that were much; all of them for matrix instructions of workgroups, which sum along them. 0: no
 * number. */
static int64_t block_of(const Target *t, int64_t channels) {
  enum { FEW = 2, MANY = 8 };
  const double some = 1.34, much = 1.1;
  if (t->max_group) return channels % MATRIX_CHANNELS ? 0 : channels;
  double least = some;
  int64_t best = block_within(t, channels, FEW, &least);
  if (!best || least < much) return best;
  least -= much - 1;
  int64_t wide = block_within(t, channels, MANY, &least);
  return wide ? wide : best;
}

/* [s0, c, rest...] in blocks. Axis 1 may also have one element, which then is each block's. */
static UOp *to_blocks(Job *job, UOp *x, int64_t block) {
  uint32_t n = x->shape.n;
  int64_t dims[MAX_RANK + 1], order[MAX_RANK + 1];
  bool one = x->shape.at[1] == 1;
  memcpy(dims, x->shape.at, 2 * sizeof *dims);
  dims[1] = one ? 1 : x->shape.at[1] / block, dims[2] = one ? 1 : block;
  memcpy(dims + 3, x->shape.at + 2, (n - 2) * sizeof *dims);
  for (uint32_t k = 0; k <= n; k++) order[k] = k < 2 ? k : k == n ? 2 : k + 1;
  return moved(job, OP_PERMUTE, reshape(job, x, dims, n + 1), order, n + 1);
}

static UOp *from_blocks(Job *job, const Blocked *b) {
  uint32_t n = b->shape.n;
  int64_t order[MAX_RANK + 1];
  for (uint32_t k = 0; k <= n; k++) order[k] = k < 2 ? k : k == 2 ? n : k - 1;
  return reshape(job, moved(job, OP_PERMUTE, b->value, order, n + 1), b->shape.at, n);
}

/* The blocked shape of a plain one. */
static Ints blocked_shape(Job *job, Ints plain, int64_t block) {
  int64_t *dims = arena_array(&job->arena, plain.n + 1, sizeof *dims);
  memcpy(dims, plain.at, plain.n * sizeof *dims);
  dims[1] = plain.at[1] / block, dims[plain.n] = block;
  return (Ints){dims, plain.n + 1};
}

static uint32_t chain_of(Layout *l, uint32_t place) {
  while (l->chain[place] != place) place = l->chain[place] = l->chain[l->chain[place]];
  return place;
}

static void join(Layout *l, const UOp *a, const UOp *b) {
  l->chain[chain_of(l, a->place)] = chain_of(l, b->place);
}

static void note_reorder(Layout *l, UOp *node, uint32_t user, uint32_t source) {
  Reorder r = {.node = node, .user = user, .source = source};
  if (!l->fixed[source]) avec_push(&l->job->arena, &l->reorders, r);
}

/* What matrix instructions of workgroups take before it is widened: it is moved as it is, and
 * widened where it is multiplied. */
static UOp *narrow_of(const Layout *l, UOp *x) {
  bool widens = l->target->max_group && x->op == OP_CAST;
  return widens && matrix_takes(l->target, (DType)x->src[0]->dtype, (DType)x->dtype) ? x->src[0]
                                                                                     : x;
}

static UOp *cast_like(const Layout *l, UOp *x, const UOp *of) {
  return x->dtype == of->dtype ? x : uop_cast(l->job, x, (DType)of->dtype);
}

/* x, which takes the place of the old node `of`, in blocks of that size: as it is, or by a reorder
 * at the cost of the old node u. */
static UOp *brought(Layout *l, const UOp *u, const UOp *of, UOp *x, int64_t block) {
  const Blocked *b = &l->blocked[of->place];
  if (b->value && b->block == block && shape_eq(b->shape, x->shape)) {
    join(l, u, of);
    return b->value;
  }
  if (b->value && shape_eq(b->shape, x->shape)) x = from_blocks(l->job, b);
  if (block == 1) return to_blocks(l->job, x, block);
  UOp *y = to_blocks(l->job, narrow_of(l, x), block);
  note_reorder(l, y, u->place, of->place);
  return cast_like(l, y, x);
}

/* Source s of u in blocks of that size: what it has, or a reorder; a broadcast is reordered before
 * it is made. */
static UOp *in_blocks(Layout *l, const UOp *u, uint32_t s, int64_t block) {
  UOp *x = l->plain[u->src[s]->place];
  if (!x->shape.n) return x;
  if (x->op != OP_EXPAND || x->src[0]->shape.n != x->shape.n)
    return brought(l, u, u->src[s], x, block);
  Ints to = blocked_shape(l->job, x->shape, block);
  return moved(l->job, OP_EXPAND, to_blocks(l->job, x->src[0], block), to.at, to.n);
}

/* -- convolutions ------------------------------------------------------------------------------ */

static UOp *zeros(Job *job, DType dtype, Ints shape) {
  int64_t *ones = arena_array(&job->arena, shape.n, sizeof *ones);
  for (uint32_t k = 0; k < shape.n; k++) ones[k] = 1;
  return moved(job, OP_EXPAND, reshape(job, uop_number(job, dtype, 0), ones, shape.n), shape.at,
               shape.n);
}

/* x between lo and hi zeros along the axis. */
static UOp *between_zeros(Job *job, UOp *x, uint32_t axis, int64_t lo, int64_t hi) {
  UOp *parts[3];
  uint32_t n = 0;
  int64_t *dims = arena_copy(&job->arena, x->shape.at, x->shape.n * sizeof *dims);
  if (lo) dims[axis] = lo, parts[n++] = zeros(job, (DType)x->dtype, (Ints){dims, x->shape.n});
  parts[n++] = x;
  if (hi) dims[axis] = hi, parts[n++] = zeros(job, (DType)x->dtype, (Ints){dims, x->shape.n});
  return n > 1 ? uop_make(job, OP_CAT, DT_VOID, arg_i(axis), parts, n) : x;
}

/* Zeros that are made up when they are read: the axes of the image stay one. */
static UOp *padded(Job *job, UOp *x, uint32_t axis, int64_t lo, int64_t hi) {
  int64_t grow[2 * MAX_RANK] = {0};
  UOp *src[2] = {x, uop_number(job, (DType)x->dtype, 0)};
  grow[2 * axis] = lo, grow[2 * axis + 1] = hi;
  return lo || hi ? uop_make(job, OP_PAD, DT_VOID, arg_ints(grow, 2 * x->shape.n), src, 2) : x;
}

/* x with the zeros around it that the windows reach, and nothing that they do not. */
static UOp *with_halo(const Layout *l, UOp *x, const Conv *c) {
  Job *job = l->job;
  for (uint32_t d = 0; d < 2; d++) {
    x = l->target->max_group ? padded(job, x, 2 + d, c->lo[d], c->hi[d])
                             : between_zeros(job, x, 2 + d, c->lo[d], c->hi[d]);
    int64_t bounds[2 * 5], need;
    need = (c->out[d] - 1) * c->stride[d] + (c->kernel[d] - 1) * c->dilation[d] + 1;
    for (uint32_t k = 0; k < 5; k++) bounds[2 * k] = 0, bounds[2 * k + 1] = x->shape.at[k];
    bounds[2 * (2 + d) + 1] = need;
    if (need < x->shape.at[2 + d]) x = moved(job, OP_SHRINK, x, bounds, 10);
  }
  return x;
}

/* [n, cb, p, i, q, k, ci]: what each output pixel (p, q) reads at offset (i, k). */
static UOp *windows(const Layout *l, UOp *x, const Conv *c) {
  x = with_halo(l, x, c);
  for (uint32_t d = 0; d < 2; d++)
    x = moved(l->job, OP_WINDOW, x, DIMS(2 + 2 * d, c->kernel[d], c->stride[d], c->dilation[d]));
  return x;
}

static UOp *summed(Job *job, UOp *x, UOp *w, Ints space, uint32_t first) {
  int64_t axes[MAX_RANK];
  for (uint32_t k = first; k < space.n; k++) axes[k - first] = k;
  UOp *product = uop2(job, OP_MUL, moved(job, OP_EXPAND, x, space.at, space.n),
                      moved(job, OP_EXPAND, w, space.at, space.n));
  UOp *y = uop_make(job, OP_REDUCE, DT_VOID, arg_both(OP_ADD, axes, space.n - first), &product, 1);
  return reshape(job, y, space.at, first);
}

/* bi is 1 for a few channels that are no multiple of a vector: they stay as they are. */
static UOp *dense(Layout *l, const Conv *c, UOp *wide, int64_t bi, int64_t bo) {
  Job *job = l->job;
  UOp *x = narrow_of(l, wide);
  int64_t cb = c->channels / bi, kb = c->filters / bo, kh = c->kernel[0], kw = c->kernel[1];
  bool plain = bi == 1 || !l->graph->fast_math || l->target->max_group;
  int64_t tile = plain ? 0 : winograd_tile(l->target, c, l->spare);
  if (tile) l->spare -= winograd_more_weights(c, tile);
  if (tile) return winograd_conv(job, c, with_halo(l, x, c), tile, bi, bo);
  x = moved(job, OP_PERMUTE, windows(l, x, c), DIMS(0, 2, 4, 1, 3, 5, 6));
  x = reshape(job, x, DIMS(c->batch, 1, c->out[0], c->out[1], 1, cb, kh, kw, bi));
  UOp *w = reshape(job, narrow_of(l, c->w), DIMS(kb, bo, cb, bi, kh, kw));
  w = uop1(job, OP_CONTIGUOUS, moved(job, OP_PERMUTE, w, DIMS(0, 2, 4, 5, 3, 1)));
  w = moved(job, OP_PERMUTE, w, DIMS(0, 5, 1, 2, 3, 4));
  w = reshape(job, w, DIMS(1, kb, 1, 1, bo, cb, kh, kw, bi));
  int64_t space[] = {c->batch, kb, c->out[0], c->out[1], bo, cb, kh, kw, bi};
  x = cast_like(l, x, wide);
  return summed(job, x, cast_like(l, w, wide), (Ints){space, 9}, 5);
}

static UOp *depthwise(Layout *l, const Conv *c, UOp *x, int64_t b) {
  Job *job = l->job;
  int64_t cb = c->channels / b, kh = c->kernel[0], kw = c->kernel[1];
  x = windows(l, x, c);
  x = moved(job, OP_PERMUTE, x, DIMS(0, 1, 2, 4, 6, 3, 5));
  UOp *w = reshape(job, c->w, DIMS(cb, b, kh, kw));
  w = uop1(job, OP_CONTIGUOUS, moved(job, OP_PERMUTE, w, DIMS(0, 2, 3, 1)));
  w = moved(job, OP_PERMUTE, w, DIMS(0, 3, 1, 2));
  w = reshape(job, w, DIMS(1, cb, 1, 1, b, kh, kw));
  int64_t space[] = {c->batch, cb, c->out[0], c->out[1], b, kh, kw};
  return summed(job, x, w, (Ints){space, 7}, 5);
}

static Blocked *form_of(Layout *l, const UOp *u) { return &l->blocked[u->place]; }

/* The convolution that u is, if blocks suit it. The tensors below it are those of the old graph. */
static bool convolution(Layout *l, UOp *u, Blocked *out) {
  Conv c;
  if (u->dtype != DT_F32 || l->refused[u->place]) return false;
  if (!conv_match(l->job, u, &c) || !l->fixed[c.w->place]) return false;
  int64_t bo = block_of(l->target, c.filters), bi = block_of(l->target, c.channels);
  bool each = c.groups == c.channels && c.groups == c.filters;
  if (!bo || c.batch * c.out[0] * c.out[1] < FEW_PIXELS) return false;
  if (!bi && c.channels <= FEW_CHANNELS) bi = 1;
  if (!bi || (c.groups > 1 && !each)) return false;
  bool groups = l->target->max_group > 0;
  if (groups && (each || c.w->op != OP_CAST || narrow_of(l, c.w) == c.w)) return false;
  const UOp *of = c.x;
  c.x = l->plain[of->place];
  c.w = l->plain[c.w->place];
  UOp *x = brought(l, u, of, c.x, bi);
  l->gain[u->place] = layout_gain(l->target, &c, block_waste(l->target, bo));
  int64_t *dims = arena_array(&l->job->arena, 4, sizeof *dims);
  dims[0] = c.batch, dims[1] = c.filters, dims[2] = c.out[0], dims[3] = c.out[1];
  *out = (Blocked){.shape = {dims, 4}, .block = bo};
  out->value = each ? depthwise(l, &c, x, bo) : dense(l, &c, x, bi, bo);
  return true;
}

/* -- what passes the form on ------------------------------------------------------------------- */

static bool same_channels(const Blocked *b, const UOp *u) {
  return b->value && u->shape.n >= 2 && u->shape.n < MAX_RANK && b->shape.n >= 2 &&
         u->shape.at[0] == b->shape.at[0] && u->shape.at[1] == b->shape.at[1];
}

static UOp *with_arg(Layout *l, const UOp *u, UOp *x, const int64_t *v, size_t n) {
  UOp *src[2] = {x, u->nsrc > 1 ? l->plain[u->src[1]->place] : NULL};
  return uop_make(l->job, (Op)u->op, DT_VOID, arg_both(u->arg.i, v, n), src, u->nsrc);
}

/* PAD and SHRINK. */
static UOp *bounded(Layout *l, const UOp *u, const Blocked *b) {
  int64_t v[2 * MAX_RANK + 2];
  uint32_t n = u->arg.ints.n;
  bool pads = u->op == OP_PAD;
  memcpy(v, u->arg.ints.at, n * sizeof *v);
  v[2] = 0, v[3] = pads ? 0 : b->value->shape.at[1];
  v[n] = 0, v[n + 1] = pads ? 0 : b->block;
  return with_arg(l, u, b->value, v, n + 2);
}

/* A PERMUTE of the other axes. */
static UOp *permuted(Layout *l, const UOp *u, const Blocked *b) {
  int64_t order[MAX_RANK + 1];
  uint32_t n = u->shape.n;
  if (u->arg.ints.at[0] != 0 || u->arg.ints.at[1] != 1) return NULL;
  memcpy(order, u->arg.ints.at, n * sizeof *order);
  order[n] = n;
  return with_arg(l, u, b->value, order, n + 1);
}

static bool reduces_channels(const UOp *u) {
  for (uint32_t k = 0; k < u->arg.ints.n; k++)
    if (u->arg.ints.at[k] == 1) return true;
  return false;
}

/* A movement or reduction of the other axes. */
static UOp *along(Layout *l, UOp *u, const Blocked *b) {
  Ints to = blocked_shape(l->job, u->shape, b->block);
  switch (u->op) {
  case OP_PAD:
  case OP_SHRINK: return bounded(l, u, b);
  case OP_EXPAND:
  case OP_RESHAPE: return with_arg(l, u, b->value, to.at, to.n);
  case OP_PERMUTE: return permuted(l, u, b);
  case OP_WINDOW: return u->arg.ints.at[0] < 2 ? NULL : with_arg(l, u, b->value, u->arg.ints.at, 4);
  case OP_REDUCE:
    if (reduces_channels(u)) return NULL;
    return with_arg(l, u, b->value, u->arg.ints.at, u->arg.ints.n);
  case OP_CONTIGUOUS: return uop1(l->job, OP_CONTIGUOUS, b->value);
  default: return NULL;
  }
}

/* The smallest block among the sources of a CAT or an elementwise op, if it suits all of them. */
static int64_t common_block(const Layout *l, const UOp *u) {
  int64_t block = 0;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    const Blocked *b = form_of((Layout *)(uintptr_t)l, u->src[s]);
    if (b->value && shape_eq(b->shape, u->src[s]->shape) && (!block || b->block < block))
      block = b->block;
  }
  for (uint32_t s = 0; block && s < u->nsrc; s++) {
    Ints shape = u->src[s]->shape;
    if (shape.n && (shape.n < 2 || shape.n >= MAX_RANK || shape.at[1] % block)) return 0;
  }
  return block;
}

static UOp *over_blocks(Layout *l, const UOp *u, int64_t block) {
  UOp **src = arena_array(&l->job->arena, u->nsrc, sizeof *src);
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = in_blocks(l, u, s, block);
  return uop_make(l->job, (Op)u->op, (DType)u->dtype, u->arg, src, u->nsrc);
}

static Blocked pass_on(Layout *l, UOp *u) {
  Blocked out = {.shape = u->shape};
  if (u->symbolic || !u->nsrc || u->dtype == DT_VOID) return out;
  const Blocked *b = form_of(l, u->src[0]);
  bool many = op_info[u->op].flags & OPF_ALU || (u->op == OP_CAT && u->arg.i != 0);
  if (many && u->shape.n >= 2) {
    out.block = common_block(l, u);
    if (out.block) out.value = over_blocks(l, u, out.block);
  } else if (u->op == OP_RESHAPE && b->value && shape_eq(b->shape, u->shape)) {
    out = *b; /* a convolution's result in its own shape */
    join(l, u, u->src[0]);
  } else if (same_channels(b, u) && shape_eq(b->shape, u->src[0]->shape)) {
    out.block = b->block;
    out.value = along(l, u, b);
    if (out.value) join(l, u, u->src[0]);
  }
  return out;
}

/* -- the walk ---------------------------------------------------------------------------------- */

static bool is_fixed(const Layout *l, const UOp *u) {
  if (u->op == OP_PARAM) {
    size_t slot = (size_t)u->arg.i;
    return slot >= l->graph->nslots || l->graph->slots[slot].kind == SLOT_WEIGHT;
  }
  bool fixed = u->dtype != DT_VOID && u->op != OP_VAR;
  for (uint32_t s = 0; s < u->nsrc; s++) fixed &= l->fixed[u->src[s]->place];
  return fixed;
}

/* What is kept beside a model is bounded by its size: the first convolutions, which have the most
 * pixels for each weight, get it. */
static double spare_bytes(const TensorGraph *graph) {
  enum { ANYWAY = 6 << 20 };
  double all = 0;
  for (size_t s = 0; s < graph->nslots; s++)
    if (graph->slots[s].kind == SLOT_WEIGHT) all += (double)graph->slots[s].bytes;
  return ANYWAY + 0.04 * all;
}

static bool is_movement(const UOp *u) {
  return op_info[u->op].flags & OPF_MOVE && u->op != OP_CAT && u->op != OP_GATHER;
}

/* Who computes with a value, through movement or without, so that its order matters; an output that
 * is moved first is better left to the rules, which may undo one by the other. */
static void find_uses(Layout *l) {
  const UOp **last = arena_array(&l->job->arena, l->list.len, sizeof *last);
  bool *computed = arena_array(&l->job->arena, l->list.len, sizeof *computed);
  for (size_t i = l->list.len; i-- > 0;) {
    const UOp *u = l->list.at[i];
    bool moves = is_movement(u);
    for (uint32_t s = 0; s < u->nsrc; s++) {
      uint32_t p = u->src[s]->place;
      computed[p] |= moves ? computed[i] : u->op != OP_STORE && u->op != OP_SINK;
      l->wanted[p] |= computed[p] || u->op == OP_STORE;
      l->shared[p] |= last[p] && last[p] != u;
      last[p] = u;
    }
  }
}

static bool sums(const Layout *l, const UOp *u) {
  if (l->stored[u->place] || l->shared[u->place]) return false;
  if (u->op == OP_REDUCE) return true;
  bool passes = op_info[u->op].flags & (OPF_ALU | OPF_MOVE);
  for (uint32_t s = 0; passes && s < u->nsrc; s++)
    if (l->sums[u->src[s]->place]) return true;
  return false;
}

/* The plain form of a blocked value: a kernel's result, unless it is the same order. What is only
 * moved is moved in either form: its windows are more than what is to be reordered. */
static UOp *plain_form(Layout *l, UOp *u, const Blocked *b) {
  if (is_movement(u)) return replace_sources(l->job, u, l->plain);
  UOp *x = from_blocks(l->job, b);
  bool same = shape_numel(b->shape) == b->shape.at[0] * b->shape.at[1];
  if (same || !l->wanted[u->place]) return reshape(l->job, x, u->shape.at, u->shape.n);
  x = uop1(l->job, OP_CONTIGUOUS, x);
  note_reorder(l, x, u->place, u->place);
  return reshape(l->job, x, u->shape.at, u->shape.n);
}

static void visit(Layout *l, UOp *u) {
  Job *job = l->job;
  uint32_t i = u->place;
  Blocked b = {0};
  l->chain[i] = i;
  l->fixed[i] = is_fixed(l, u);
  if (!l->fixed[i] && (u->op != OP_REDUCE || !convolution(l, u, &b))) b = pass_on(l, u);
  if (b.value && l->stored[i]) b.value = uop1(job, OP_CONTIGUOUS, b.value);
  l->blocked[i] = b;
  l->plain[i] = b.value ? plain_form(l, u, &b) : replace_sources(l->job, u, l->plain);
  if (!b.value && l->stored[i]) l->plain[i] = uop1(job, OP_CONTIGUOUS, l->plain[i]);
  l->sums[i] = !l->fixed[i] && sums(l, u);
}

/* The graph as it would be now; NULL when nothing is in blocks. */
static UOp *walk(Layout *l, UOp *sink) {
  bool any = false;
  l->list = uop_toposort(l->job, sink); /* places are those of the last walk over a graph */
  l->spare = spare_bytes(l->graph);
  l->reorders.len = 0;
  memset(l->gain, 0, l->list.len * sizeof *l->gain);
  for (size_t i = 0; i < l->list.len; i++) {
    visit(l, l->list.at[i]);
    any |= l->blocked[i].value != NULL;
    if (i % 64 == 0) job_poll(l->job);
  }
  return any ? l->plain[l->list.len - 1] : NULL;
}

/* Takes the reorders that are left in `now` into account. True when the next walk has to differ. */
static bool weigh(Layout *l, UOp *now) {
  size_t n = l->list.len, nreorders = 0;
  bool differs = false;
  double *left = arena_array(&l->job->arena, n, sizeof *left);
  for (size_t i = 0; i < n; i++) left[chain_of(l, (uint32_t)i)] += l->gain[i];
  UOpList list = uop_toposort(l->job, now);
  for (size_t k = 0; k < l->reorders.len; k++) {
    Reorder r = l->reorders.at[k];
    if (r.node->place >= list.len || list.at[r.node->place] != r.node) continue;
    double bytes = (double)shape_numel(r.node->shape) * dtype_info[r.node->dtype].bytes;
    left[chain_of(l, r.user)] -= layout_reorder(l->target, bytes);
    l->reorders.at[nreorders++] = r;
  }
  for (size_t i = 0; i < n; i++) {
    if (l->gain[i] == 0 || left[chain_of(l, (uint32_t)i)] >= 0) continue;
    l->refused[i] = differs = true;
  }
  for (size_t k = 0; k < nreorders; k++) {
    uint32_t source = l->reorders.at[k].source;
    if (left[chain_of(l, l->reorders.at[k].user)] < 0 || !l->sums[source]) continue;
    l->stored[source] = differs = true;
  }
  return differs;
}

UOp *layout_channels(Job *job, const TensorGraph *graph, const Target *target, UOp *sink) {
  Layout l = {.job = job, .graph = graph, .target = target};
  bool halves = matrix_takes(target, DT_F16, DT_F32) || matrix_takes(target, DT_BF16, DT_F32);
  if (target->max_group && !halves) return sink; /* lanes are threads there */
  l.list = uop_toposort(job, sink);
  size_t n = l.list.len;
  l.plain = arena_array(&job->arena, n, sizeof *l.plain);
  l.blocked = arena_array(&job->arena, n, sizeof *l.blocked);
  l.gain = arena_array(&job->arena, n, sizeof *l.gain);
  l.chain = arena_array(&job->arena, n, sizeof *l.chain);
  bool **flags[] = {&l.fixed, &l.sums, &l.shared, &l.wanted, &l.stored, &l.refused};
  for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
    *flags[k] = arena_array(&job->arena, n, sizeof(bool));
  find_uses(&l);
  UOp *now = walk(&l, sink);
  for (int k = 1; now && weigh(&l, now) && k < MOST_WALKS; k++) now = walk(&l, sink);
  Rewrite rw = {.job = job};
  return now ? rewrite_graph(&rw, now, rules_movement) : sink;
}
