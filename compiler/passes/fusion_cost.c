/* What tensors cost, and whether one is stored or inlined.
 *
 * Costs are in units of one simple operation on one element. They are rough: the choice is between
 * computing a value where it is used, as often as it is used, and computing it once, writing it and
 * reading it back. Three things are not a matter of degree. A contraction (matmul, convolution) is
 * evaluated once per element, by a kernel that does nothing else but an elementwise epilogue of the
 * same index space. A reduction is inlined under a broadcast only if its loops can be outermost. A
 * kernel has a bounded number of operations, so that plans grow linearly with graphs.
 *
 * What depends on weights alone costs nothing to compute: that is done once, when the executable is
 * loaded. But it stays resident, beside the weights that it is made of. */
#include <math.h>

#include "compiler/ir/matrix.h"
#include "compiler/passes/fusion.h"

static const double KEEP = 4;             /* a byte that stays resident for good */
static const double BYTE = 2;             /* moving a byte to or from memory */
static const double LAUNCH = 50e3;        /* starting a kernel */
static const double SEVERAL = 1.5;        /* times that a product of a few rows uses an element */
static const double TILE_REUSE = 8;       /* loads that a register tile of a contraction saves */
static const double CONTRACTION = 4;      /* uses per operand element that make one */
static const double FREE_SHARE = 1 / 16.; /* of a kernel's work that may be recomputed freely */
static const double MOST = 1e15;
enum { MAX_OPS = 256, MAX_DEMANDS = 8, MAX_PARTS = 4, SPLIT_SIZE = 32768 };
enum { CHOICE = 2 }; /* operations of one */

static double op_flops(Op op) {
  switch (op) {
  case OP_EXP:
  case OP_EXP2:
  case OP_LOG:
  case OP_LOG2:
  case OP_FMOD: return 12;
  case OP_SIN:
  case OP_COS:
  case OP_TANH:
  case OP_ERF:
  case OP_ATAN: return 24;
  case OP_POW: return 40;
  case OP_RECIP:
  case OP_SQRT:
  case OP_FDIV:
  case OP_IDIV:
  case OP_IMOD:
  case OP_FLOORDIV:
  case OP_FLOORMOD: return 8;
  default: return 1;
  }
}

static double item_bytes(const Tensor *t) { return dtype_info[t->u->dtype].bytes; }

/* A value that is stored for certain: what it costs to read it. */
static Cost stored_cost(const Tensor *t) {
  return (Cost){.bytes = item_bytes(t), .inputs = (double)t->numel, .operands = 1};
}

static bool repeats(const Tensor *t, uint32_t s) {
  for (uint32_t p = 0; p < s; p++) {
    if (t->src[p] == t->src[s]) return true;
  }
  return false;
}

/* Has several readers and is not worth computing twice. Where the readers turn out to ask for the
 * same elements in the same kernel nothing is decided by cost, so that this does no harm. */
static bool surely_stored(const Tensor *t) {
  double n = (double)t->numel;
  return t->nconsumers > 1 && n * t->cost.flops > n * item_bytes(t) * BYTE * 2 + LAUNCH;
}

/* The sum of the sources' costs; each source counts once, scalars only once per tensor. */
static Cost below(const Fusion *f, const Tensor *t) {
  enum { OPERANDS = 1000 };
  Cost c = {0};
  for (uint32_t s = 0; s < t->u->nsrc; s++) {
    Tensor *from = &f->tensors[t->src[s]];
    Cost sure = stored_cost(from), *b = surely_stored(from) ? &sure : &from->cost;
    if (repeats(t, s)) continue;
    double share = from->u->shape.n || !t->numel ? 1 : 1 / (double)t->numel;
    c.flops = fmin(c.flops + b->flops * share, MOST);
    c.bytes = fmin(c.bytes + b->bytes * share, MOST);
    c.inputs = fmin(c.inputs + b->inputs, MOST);
    c.operands = c.operands + b->operands > OPERANDS ? OPERANDS : c.operands + b->operands;
    c.has_reduce |= b->has_reduce;
    c.contracts |= b->contracts && from->nconsumers == 1;
  }
  return c;
}

static Cost reduce_cost(const Fusion *f, const Tensor *t) {
  Cost c = below(f, t);
  double all = (double)f->tensors[t->src[0]].numel;
  double count = t->numel ? all / (double)t->numel : 0;
  c.contraction = c.operands >= 2 && all >= CONTRACTION * c.inputs;
  c.multiplies = c.operands >= 2 && all >= SEVERAL * c.inputs;
  c.flops = fmin((c.flops + 1) * count, MOST);
  c.bytes = c.contraction ? item_bytes(t) : fmin(c.bytes * count, MOST);
  c.inputs = (double)t->numel;
  c.operands = 1;
  c.has_reduce = true;
  c.contracts = c.contraction;
  return c;
}

static Cost movement_cost(const Fusion *f, const Tensor *t) {
  Cost c = below(f, t);
  double from = (double)f->tensors[t->src[0]].numel, to = (double)t->numel;
  double share = to > from ? from / to : 1;
  switch (t->u->op) {
  case OP_EXPAND:
    c.flops *= share, c.bytes *= share;
    c.contracts &= to == from;
    break;
  case OP_SHRINK: c.inputs = fmin(c.inputs, to); break;
  case OP_WINDOW: c.bytes *= share; break;
  case OP_PAD: c.flops += 1; break;
  case OP_CAT: c.flops += t->u->nsrc; break;
  case OP_GATHER: c.flops += 2; break;
  default: break;
  }
  return c;
}

/* What elementwise ops that lead to each other cost together, each counted once: a bound for the
 * sum over paths, which doubles wherever a value is used twice (ciphers, hashes). */
typedef struct Region {
  uint32_t parent;
  double flops, bytes;
} Region;

static uint32_t region_of(Region *r, uint32_t i) {
  while (r[i].parent != i) i = r[i].parent = r[r[i].parent].parent;
  return i;
}

static void join_region(const Fusion *f, Region *r, uint32_t i) {
  enum { TWICE = 16 }; /* counted more often than that, it is taken for once */
  const Tensor *t = &f->tensors[i];
  Cost *c = &f->tensors[i].cost;
  r[i] = (Region){.parent = i, .flops = op_flops((Op)t->u->op)};
  for (uint32_t s = 0; s < t->u->nsrc; s++) {
    const Tensor *from = &f->tensors[t->src[s]];
    uint32_t at = region_of(r, i), other = t->src[s];
    if (op_info[from->u->op].flags & OPF_ALU) {
      other = region_of(r, other);
      if (other == at) continue;
      r[other].parent = at;
      r[at].flops += r[other].flops;
      r[at].bytes += r[other].bytes;
    } else {
      r[at].flops += from->cost.flops;
      r[at].bytes += from->cost.bytes;
    }
  }
  if (c->flops > TWICE * r[i].flops) c->flops = r[i].flops;
  if (c->bytes > TWICE * r[i].bytes) c->bytes = r[i].bytes;
}

static void count_consumers(Fusion *f) {
  for (uint32_t i = 0; i < f->ntensors; i++) {
    const Tensor *t = &f->tensors[i];
    for (uint32_t s = 0; s < t->u->nsrc; s++) {
      Tensor *from = &f->tensors[t->src[s]];
      if (from->nconsumers < 2 && !repeats(t, s)) from->nconsumers++;
    }
  }
}

void fusion_costs(Fusion *f) {
  Region *regions = arena_array(&f->job->arena, f->ntensors, sizeof *regions);
  count_consumers(f);
  for (uint32_t i = 0; i < f->ntensors; i++) {
    Tensor *t = &f->tensors[i];
    uint32_t flags = op_info[t->u->op].flags;
    if (t->u->op == OP_PARAM || t->u->op == OP_AFTER || t->u->op == OP_CONTIGUOUS ||
        t->u->op == OP_SCATTER || t->u->op == OP_SCAN) {
      t->cost = stored_cost(t);
    } else if (t->u->op == OP_REDUCE) {
      t->cost = reduce_cost(f, t);
    } else if (flags & OPF_MOVE) {
      t->cost = movement_cost(f, t);
    } else if (flags & OPF_ALU) {
      t->cost = below(f, t);
      t->cost.flops += op_flops((Op)t->u->op);
      join_region(f, regions, i);
    } else if (t->u->op == OP_IOTA) {
      t->cost.flops = 1;
    }
  }
}

/* -- how often a demand is evaluated ----------------------------------------------------------- */

uint64_t fusion_ranges(const Fusion *f, UOp *const *index, size_t n) {
  uint64_t mask = 0;
  for (size_t k = 0; k < n; k++) {
    const RangeSet *open = index[k]->open;
    for (uint32_t r = 0; open && r < open->n; r++) {
      int64_t id = open->at[r]->arg.i;
      mask |= id < FIRST_HOLE ? (uint64_t)1 << id : f->holes.at[id - FIRST_HOLE].ranges;
    }
  }
  return mask;
}

static bool has_hole(const Demand *d, size_t rank) {
  for (size_t k = 0; k < rank; k++) {
    const RangeSet *open = d->index[k]->open;
    if (open && open->at[open->n - 1]->arg.i >= FIRST_HOLE) return true;
  }
  return false;
}

static double iterations(const FusedKernel *k, uint64_t ranges) {
  double n = 1;
  for (uint32_t r = 0; r < k->size.len; r++) {
    if (ranges >> r & 1) n *= (double)k->size.at[r];
  }
  return n;
}

/* By how much a selecting range is divided wherever the demand mentions it. */
static double divided(const Tensor *t, const Demand *d, int64_t range) {
  double by = 0;
  for (size_t k = 0; k < t->u->shape.n; k++) {
    const UOp *at = d->index[k];
    bool open = false;
    for (uint32_t r = 0; at->open && r < at->open->n; r++) open |= at->open->at[r]->arg.i == range;
    if (!open) continue;
    if (at->op != OP_FLOORDIV || at->src[0]->op != OP_RANGE || !uop_is_const(at->src[1])) return 1;
    double c = (double)at->src[1]->arg.i;
    if (by <= 0 || c < by) by = c;
  }
  return by > 0 ? by : 1;
}

/* Output loops are nested in the order of their ids; a value is computed in the innermost loop that
 * it depends on, and in a reduction's loop for every iteration. Loops that are written out share
 * what does not depend on them. */
static double evaluations(const Fusion *f, const Tensor *t, const Demand *d) {
  const FusedKernel *k = &f->kernels.at[d->kernel];
  uint64_t ranges = fusion_ranges(f, d->index, t->u->shape.n);
  if (ranges & k->reduce) return iterations(k, d->loops);
  uint64_t upto = ranges;
  for (uint32_t r = 0; r < k->size.len; r++) {
    if (ranges >> r > 1) upto |= (uint64_t)1 << r;
  }
  double n = iterations(k, upto & k->out & ~(k->selects & ~ranges));
  for (int64_t r = 0; (uint64_t)r < k->size.len; r++)
    if (k->selects & ranges & (uint64_t)1 << r) n /= divided(t, d, r);
  return n;
}

double fusion_work(const Fusion *f, const Demand *d) {
  const Tensor *t = &f->tensors[d->tensor];
  uint32_t flags = op_info[t->u->op].flags;
  if (t->u->op != OP_REDUCE && !(flags & OPF_ALU)) return 0;
  if (t->u->op != OP_REDUCE) return evaluations(f, t, d) * op_flops((Op)t->u->op);
  return d->src[0] ? iterations(&f->kernels.at[d->kernel], d->src[0]->loops) : 0;
}

/* -- the choices ------------------------------------------------------------------------------- */

static const char *const CONTRACTED = "a contraction is computed once, by a kernel of its own";

static bool is_wider_byte(const Fusion *f, const Tensor *t) {
  if (t->u->op != OP_CAST || !dtype_is_int((DType)t->u->dtype)) return false;
  return dtype_info[f->tensors[t->src[0]].u->dtype].bytes == 1;
}

/* Of what matrix instructions of the target take as it is, and all that ask for `as`, which is t in
 * some order, multiply matrices: they widen it themselves. Elsewhere widening costs more than the
 * bytes that it saves: a vector is widened once for all rows of a matrix, by what computes it. */
static bool is_widened(const Fusion *f, const Tensor *t, const Tensor *as) {
  if (t->u->op != OP_CAST || !dtype_is_float((DType)t->u->dtype)) return false;
  bool made = f->tensors[t->src[0]].u->op != OP_PARAM;
  for (const Demand *d = as->demands; made && d; d = d->next)
    if (!f->kernels.at[d->kernel].multiplies) return false;
  return matrix_takes(f->target, (DType)f->tensors[t->src[0]].u->dtype, (DType)t->u->dtype);
}

/* What instructions leave out of f32 costs nothing when it is left out again. */
static bool is_cut(const Tensor *t) { return matrix_uncut(t->u) || matrix_is_mask(t->u); }

static const char *elementwise_stores(const Fusion *f, const Tensor *t) {
  const Cost *c = &t->cost;
  double n = (double)t->numel, again = 0, kernels = 0;
  uint32_t last = UINT32_MAX;
  if (is_widened(f, t, t) || is_cut(t)) return NULL;
  bool place = c->inputs < 1 && c->flops <= CHOICE; /* compared with a number */
  if (f->target->max_group && place) return NULL;
  if (t->ndemands > MAX_DEMANDS && !place) return "it is read in many places";
  for (const Demand *d = t->demands; d; d = d->next) {
    const FusedKernel *k = &f->kernels.at[d->kernel];
    if (k->nops >= MAX_OPS) return "its reader has as many operations as a kernel may";
    double times = evaluations(f, t, d);
    if (c->contracts && (t->ndemands > 1 || times > n)) return CONTRACTED;
    bool operand = k->contraction && times > n;
    if (is_wider_byte(f, t)) times = fmin(times, n); /* matrix instructions take the bytes */
    if (operand && c->flops < 2) times = fmax(n, times / TILE_REUSE);
    if (times * c->flops >= FREE_SHARE * k->work) {
      again += times * c->flops;
    }
    kernels += d->kernel != last;
    last = d->kernel;
  }
  double read = n * c->bytes * BYTE, item = n * item_bytes(t) * BYTE;
  bool store = again + kernels * read > n * c->flops + read + item * (1 + kernels) + LAUNCH;
  return store ? "reading it is cheaper than computing it again" : NULL;
}

/* A fixed value that is inlined today: what runs save by reading it instead, against the memory. */
static const char *fixed_stores(const Fusion *f, const Tensor *t) {
  const Cost *c = &t->cost;
  double n = (double)t->numel, item = n * item_bytes(t), saved = 0;
  if (!t->weighs || c->flops < 2) return NULL;
  for (const Demand *d = t->demands; d; d = d->next) {
    const FusedKernel *k = &f->kernels.at[d->kernel];
    double work = evaluations(f, t, d) * c->flops;
    if (!k->once && work >= FREE_SHARE * k->work) saved += work + (n * c->bytes - item) * BYTE;
  }
  return saved > item * KEEP + LAUNCH ? "the same in every run" : NULL;
}

/* Parts are computed where they belong, unless all are cheap enough to be chosen among. */
static const char *cat_stores(const Fusion *f, const Tensor *t) {
  static const char *const why = "its parts are computed where they belong";
  if (t->ndemands > 2 || t->u->nsrc > MAX_PARTS) return why;
  for (uint32_t s = 0; s < t->u->nsrc; s++) {
    const Tensor *from = &f->tensors[t->src[s]];
    if (from->cost.has_reduce || from->cost.flops > MAX_PARTS) return why;
  }
  return elementwise_stores(f, t);
}

/* A set of output ranges whose loops can be outside of all others, given those chosen before. */
static bool can_hoist(const FusedKernel *k, uint64_t ranges) {
  for (uint32_t r = 0; r < k->nreduces; r++) {
    uint64_t both = k->hoist[r] & ranges;
    if (both != ranges && both != k->hoist[r]) return false;
  }
  return true;
}

/* Parts of a reduction that one kernel asks for, each element once: for elements of the result that
 * lie apart, as the two that a turned pair is computed from. */
static bool asks_for_parts(const Fusion *f, const Tensor *t, const Tensor *of) {
  const Demand *first = t->demands;
  const FusedKernel *k = &f->kernels.at[first->kernel];
  uint64_t ranges = fusion_ranges(f, first->index, t->u->shape.n);
  if (!f->target->max_group || of->cost.contraction || k->nreduces + t->ndemands > FUSED_REDUCES)
    return false;
  if (ranges & k->reduce || k->contraction || !can_hoist(k, ranges)) return false;
  if (k->size.len + of->u->arg.ints.n * (size_t)t->ndemands > FUSED_RANGES) return false;
  for (const Demand *d = first; d; d = d->next) {
    bool same = d->kernel == first->kernel && !d->gate && !has_hole(d, t->u->shape.n);
    if (!same || fusion_ranges(f, d->index, t->u->shape.n) != ranges) return false;
  }
  if (k->out & ~ranges & ~k->selects) return false;
  return iterations(k, ranges) * t->ndemands <= (double)t->numel;
}

/* Of reduction `of`, asked for as `t`: itself, or its elements in another order. */
static const char *reduce_stores(const Fusion *f, const Tensor *t, const Tensor *of) {
  if (t->ndemands > 1 && asks_for_parts(f, t, of)) return NULL;
  if (t->ndemands != 1) return "a reduction with several readers";
  if (t->demands->gate) return "a reduction that is read in part of a kernel";
  const Demand *d = t->demands;
  const FusedKernel *k = &f->kernels.at[d->kernel];
  uint64_t ranges = fusion_ranges(f, d->index, t->u->shape.n);
  if (ranges & k->reduce || k->contraction || has_hole(d, t->u->shape.n)) {
    return "a reduction under another";
  }
  if (k->size.len + of->u->arg.ints.n > FUSED_RANGES) return "its reader has many loops";
  double outputs = iterations(k, ranges), all = (double)f->tensors[of->src[0]].numel;
  if (outputs > (double)t->numel) return "a reduction whose elements are used several times";
  if (of->cost.contraction) return k->nreduces || ranges != k->out ? CONTRACTED : NULL;
  if (k->nreduces == FUSED_REDUCES || !can_hoist(k, ranges)) {
    return "a reduction whose loops do not fit around those of others";
  }
  /* The threads of a workgroup share a row: only a long one is worth a kernel that cuts it. */
  double most = SPLIT_SIZE * (f->target->max_group ? outputs : 1);
  bool alone = ranges != k->out && outputs < f->target->threads && all >= most;
  return alone ? "a long reduction to few elements" : NULL;
}

static uint32_t rank(const Tensor *t) {
  uint32_t n = 0;
  for (uint32_t k = 0; k < t->u->shape.n; k++) n += t->u->shape.at[k] != 1;
  return n;
}

/* If what is under a chain of RESHAPEs and PERMUTEs is to be stored and nobody else reads it, it is
 * stored in the chain's order, so that readers find merged axes. Not when that would give the
 * writer more axes, or take its innermost one apart. */
static const char *reordered_stores(const Fusion *f, const Tensor *t) {
  const Tensor *x = t;
  bool moved = false;
  while (x->u->op == OP_RESHAPE || x->u->op == OP_PERMUTE) {
    uint32_t n = x->u->shape.n;
    if (x != t && x->nconsumers != 1) return NULL;
    if (x->u->op == OP_PERMUTE && x->u->arg.ints.at[n - 1] != n - 1) return NULL;
    moved |= x->u->op == OP_PERMUTE;
    x = &f->tensors[x->src[0]];
  }
  if (!moved || x->nconsumers != 1 || rank(t) > rank(x)) return NULL;
  if (x->u->op == OP_REDUCE) return reduce_stores(f, t, x);
  bool computed = op_info[x->u->op].flags & OPF_ALU && !is_widened(f, x, t);
  return computed ? elementwise_stores(f, t) : NULL;
}

static const char *stores(const Fusion *f, const Tensor *t) {
  uint32_t flags = op_info[t->u->op].flags;
  if (t->u->op == OP_CONTIGUOUS) return "the graph asks for it";
  if (t->u->op == OP_SCATTER) return "updates are stored into it one by one";
  if (t->u->op == OP_SCAN) return "each element needs the one before it";
  if (t->row) return NULL;
  if (t->u->op == OP_REDUCE) return reduce_stores(f, t, t);
  if (t->u->op == OP_CAT) return cat_stores(f, t);
  if (t->u->op == OP_RESHAPE || t->u->op == OP_PERMUTE) return reordered_stores(f, t);
  return flags & OPF_ALU || t->u->op == OP_GATHER ? elementwise_stores(f, t) : NULL;
}

const char *fusion_stores(const Fusion *f, const Tensor *t) {
  const char *why = stores(f, t);
  bool computed = op_info[t->u->op].flags & OPF_ALU || t->u->op == OP_REDUCE;
  return why || !t->fixed || !computed ? why : fixed_stores(f, t);
}
