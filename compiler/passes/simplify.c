/* What is done to a tensor graph before kernels are chosen.
 *
 * - A SCATTER becomes a reduction where the device wants that (scatter.c).
 * - Movement rules merge and remove movement ops.
 * - Sums and products of 16-bit floats are taken in f32 and rounded once. The factors of a summed
 *   product are widened, not the product: it is exact, and the REDUCE stays a contraction.
 * - A value that depends on no parameter and holds a reduction is computed now, by the reference
 *   interpreter, if it is small. It becomes a CONST when all elements are equal, else a constant
 *   buffer. Outputs without parameters are likewise known bytes and need no kernel.
 * - A long SCAN of few rows is cut into pieces (scan.c).
 * - A long reduction to fewer elements than there are threads is done in two stages, and so is a
 * deep product of small matrices. */
#include "compiler/passes/simplify.h"

#include "base/vec.h"
#include "compiler/ir/interp.h"
#include "compiler/passes/replace.h"
#include "compiler/passes/scan.h"
#include "compiler/passes/scatter.h"
#include "compiler/rules/rewrite.h"

enum {
  FOLD_WORK = 1 << 18,
  SPLIT_SIZE = 32768,
  PIECES = 64,          /* of a long reduction on a CPU */
  GROUPS_EACH = 4,      /* workgroups that one processor of a GPU runs at a time */
  PIECE_ROWS = 64,      /* a piece of a column is no shorter */
  COLUMN_THREADS = 256, /* of a processor, which keep memory busy (below) */
  COLUMN_BYTES = 16,    /* of a row that each of them reads at a time */
  MIN_COLUMNS = 32,
  LEAST_ROWS = 2,      /* of a factor of a product of matrices */
  ITEM = 2,            /* bytes of an element that instructions for matrices take */
  ROW_COLUMNS = 256,   /* of a row that is multiplied, for a workgroup */
  PRODUCT_TILE = 64,   /* rows and columns of a product that one workgroup computes, or more */
  PRODUCT_STEPS = 512, /* a piece of a sum of products is no shorter */
  MANY_VECTORS = 16,   /* times a matrix: they are for instructions */
  BATCH_TILES = 2,     /* of PRODUCT_TILE columns of many such products, for a processor */
};

/* -- 16-bit floats ----------------------------------------------------------------------------- */

static bool rounds_often(const UOp *u, const Target *target) {
  (void)target;
  return (u->op == OP_REDUCE || u->op == OP_SCAN) && (u->dtype == DT_F16 || u->dtype == DT_BF16) &&
         (u->arg.i == OP_ADD || u->arg.i == OP_MUL);
}

/* x in f32; a product, also one that was moved about, as the product of f32 factors. */
static UOp *widened(Job *job, UOp *x) {
  enum { MAX_MOVES = 8 };
  UOp *moves[MAX_MOVES], *y = x;
  uint32_t n = 0;
  while (n < MAX_MOVES && op_info[y->op].flags & OPF_MOVE && y->nsrc == 1) {
    moves[n++] = y;
    y = y->src[0];
  }
  if (y->op != OP_MUL) return uop_cast(job, x, DT_F32);
  y = uop2(job, OP_MUL, uop_cast(job, y->src[0], DT_F32), uop_cast(job, y->src[1], DT_F32));
  while (n--) y = uop_with_src(job, moves[n], &y);
  return y;
}

static UOp *round_once(Job *job, UOp *u, const Target *target) {
  (void)target;
  UOp *x = widened(job, u->src[0]);
  return uop_cast(job, uop_make(job, (Op)u->op, DT_VOID, u->arg, &x, 1), (DType)u->dtype);
}

/* -- two-stage reductions ---------------------------------------------------------------------- */

/* How many pieces an axis of n elements is cut into: the divisor nearest to `want`. */
static int64_t pieces_of(int64_t n, int64_t want) {
  for (int64_t d = 0; 2 * d < want; d++) {
    if (n % (want + d) == 0) return want + d;
    if (n % (want - d) == 0) return want - d;
  }
  return 1;
}

/* Workgroups share a row, but a column only as far as there are many. */
static bool is_column(const UOp *u) {
  uint32_t last = u->src[0]->shape.n - 1;
  for (uint32_t k = 0; k < u->arg.ints.n; k++)
    if (u->arg.ints.at[k] == last) return false;
  return u->src[0]->shape.at[last] >= MIN_COLUMNS;
}

/* Whether the factor depends on its place along the axis, as far as one can tell. */
static bool varies(const UOp *f, uint32_t axis) {
  while (f->op == OP_CAST) f = f->src[0];
  return f->op != OP_EXPAND || f->src[0]->shape.at[axis] == f->shape.at[axis];
}

/* Whether a factor comes from elements of 16 bits. */
static bool of_halves(const UOp *f) {
  while (f->op == OP_CAST || (f->nsrc == 1 && op_info[f->op].flags & OPF_MOVE)) f = f->src[0];
  return dtype_info[f->dtype].bytes == ITEM;
}

/* Whether the last axis of a factor, the one that is summed, is another one in memory. */
static bool is_turned(const UOp *f) {
  bool turned = false;
  for (; f->op == OP_CAST || (f->nsrc == 1 && op_info[f->op].flags & OPF_MOVE); f = f->src[0])
    turned |= f->op == OP_PERMUTE;
  return turned;
}

/* Few vectors times matrices as they are stored, some of them - the weights of attention and its
 * values, for few queries, heads and long rows: where tiles leave half of the processors without
 * any, and the others read all by themselves. Vectors that share a matrix need not show in the
 * axes; what the matrices are made of does. */
static int64_t batch_pieces(const UOp *u, const Target *target, const int64_t *size) {
  const UOp *x = u->src[0], *from = x->src[size[1] > size[0]];
  int64_t deep = x->shape.at[u->arg.ints.at[0]];
  if (!is_turned(from) || (size[0] < MIN_COLUMNS && size[1] < MIN_COLUMNS)) return 1;
  while (from->op == OP_CAST || (from->nsrc == 1 && op_info[from->op].flags & OPF_MOVE))
    from = from->src[0];
  int64_t elements = from->symbolic ? 0 : shape_numel(from->shape), all = shape_numel(x->shape);
  if (!elements || all / elements >= MANY_VECTORS) return 1; /* for each matrix */
  int64_t groups = (elements - 1) / (deep * PRODUCT_TILE) + 1, most = deep / PRODUCT_STEPS;
  int64_t processors = target->threads, want = processors * BATCH_TILES / groups;
  if (2 * groups > processors) return 1;
  return want < most ? want : most;
}

/* A product of two matrices, on a device with instructions for that, whose tiles leave processors
 * with nothing to do: into how many pieces its sum is cut, so that they all have a part. What the
 * pieces store is less than half of what the factors load. */
static int64_t product_pieces(const UOp *u, const Target *target) {
  const UOp *x = u->src[0];
  int64_t size[2] = {1, 1};
  bool batch = false;
  if (!target->max_group || target->warp <= 1 || x->op != OP_MUL || u->arg.i != OP_ADD) return 1;
  if (u->arg.ints.n != 1 || u->symbolic) return 1;
  int64_t deep = x->shape.at[u->arg.ints.at[0]];
  for (uint32_t k = 0; k < x->shape.n; k++) {
    bool a = varies(x->src[0], k), b = varies(x->src[1], k);
    if (k == u->arg.ints.at[0] || x->shape.at[k] == 1) continue;
    if (!a && !b) return 1;
    if (!a || !b) size[b] *= x->shape.at[k];
    batch |= a && b;
  }
  if (batch) return batch_pieces(u, target, size);
  int64_t loads = (size[0] + size[1]) * deep * ITEM, stores = size[0] * size[1] * 8;
  int64_t most = loads / 2 / stores, step = PRODUCT_STEPS, tiles;
  if (!of_halves(x->src[0]) || !of_halves(x->src[1])) return 1; /* no such instructions */
  if (size[0] == 1 || size[1] == 1) { /* a row times columns: a workgroup has some of these */
    if (!is_turned(x->src[size[0] == 1])) return 1;
    tiles = (size[0] * size[1] + ROW_COLUMNS - 1) / ROW_COLUMNS;
    step = PRODUCT_STEPS / 4;
  } else if (size[0] < LEAST_ROWS || size[1] < LEAST_ROWS) {
    return 1;
  } else {
    int64_t m = size[0] < PRODUCT_TILE ? size[0] : PRODUCT_TILE;
    int64_t n = size[1] < PRODUCT_TILE ? size[1] : PRODUCT_TILE;
    tiles = ((size[0] + m - 1) / m) * ((size[1] + n - 1) / n);
  }
  /* Of few rows a piece has twice the columns, so that they are read less often. */
  bool few = size[0] < PRODUCT_TILE || size[1] < PRODUCT_TILE;
  int64_t want = (few ? 2 : 1) * (int64_t)target->threads / tiles;
  if (most > deep / step) most = deep / step;
  return want < most ? want : most;
}

/* Of columns. A thread sums a piece of a few of them and waits for eight rows together, so that so
 * many threads ask for 32 KB at a time on each processor: as much as memory brings while one load
 * is on its way. More pieces would be read no faster, and stored, and read again. */
static int64_t column_pieces(const UOp *u, const Target *target) {
  const UOp *x = u->src[0];
  int64_t n = shape_numel(u->shape), size = shape_numel(x->shape) / n;
  while (x->op == OP_CAST) x = x->src[0];
  int64_t lanes = COLUMN_BYTES / dtype_info[x->dtype].bytes;
  int64_t want = (int64_t)target->threads * COLUMN_THREADS * lanes / n;
  return want < size / PIECE_ROWS ? want : size / PIECE_ROWS;
}

static int64_t wanted_pieces(const UOp *u, const Target *target) {
  if (product_pieces(u, target) > 1) return product_pieces(u, target);
  if (!target->max_group || target->warp <= 1) return PIECES;
  return is_column(u) ? column_pieces(u, target) : (int64_t)target->threads * GROUPS_EACH;
}

static UOp *split_reduce(Job *job, UOp *u, const Target *target) {
  UOp *x = u->src[0];
  Ints shape = x->shape, axes = u->arg.ints;
  uint32_t cut = 0;
  for (uint32_t k = 1; k < axes.n; k++) {
    if (shape.at[axes.at[k]] > shape.at[axes.at[cut]]) cut = k;
  }
  int64_t axis = axes.at[cut], pieces = pieces_of(shape.at[axis], wanted_pieces(u, target));
  if (pieces < 2) return u;
  int64_t *dims = arena_array(&job->arena, shape.n + 1, sizeof *dims);
  int64_t *inner = arena_array(&job->arena, axes.n, sizeof *inner);
  for (uint32_t k = 0; k < shape.n; k++) dims[k + (k > axis)] = shape.at[k];
  dims[axis] = pieces;
  dims[axis + 1] = shape.at[axis] / pieces;
  for (uint32_t k = 0; k < axes.n; k++) inner[k] = axes.at[k] + (axes.at[k] >= axis);
  x = uop_make(job, OP_RESHAPE, DT_VOID, arg_ints(dims, shape.n + 1), &x, 1);
  if (product_pieces(u, target) > 1) { /* pieces one after the other: the rows stay whole */
    for (uint32_t k = 0; k <= shape.n; k++) dims[k] = k > axis ? k : k - 1;
    dims[0] = axis;
    x = uop_make(job, OP_PERMUTE, DT_VOID, arg_ints(dims, shape.n + 1), &x, 1);
    axis = 0;
  }
  x = uop_make(job, OP_REDUCE, DT_VOID, arg_both(u->arg.i, inner, axes.n), &x, 1);
  x = uop1(job, OP_CONTIGUOUS, x);
  x = uop_make(job, OP_REDUCE, DT_VOID, arg_both(u->arg.i, &axis, 1), &x, 1);
  return uop_make(job, OP_RESHAPE, DT_VOID, arg_ints(u->shape.at, u->shape.n), &x, 1);
}

/* A sum of products is for the instructions that multiply matrices. */
static bool is_product(const UOp *x) {
  while (x->op == OP_CAST) x = x->src[0];
  return x->op == OP_MUL && x->src[0] != x->src[1];
}

static bool is_long(const UOp *u, const Target *target) {
  if (u->op != OP_REDUCE || u->symbolic) return false;
  int64_t n = shape_numel(u->shape), all = shape_numel(u->src[0]->shape);
  if (n < 1) return false;
  bool columns = target->max_group && target->warp > 1 && is_column(u) && !is_product(u->src[0]);
  if (columns) return all >= SPLIT_SIZE && wanted_pieces(u, target) > 1;
  if (product_pieces(u, target) > 1) return true;
  return n < (int64_t)target->threads && all / n >= SPLIT_SIZE;
}

/* -- values that are known --------------------------------------------------------------------- */

/* The element all elements are equal to, when that shows. */
static UOp *uniform(UOp *u) {
  while (u->nsrc == 1 && (op_info[u->op].flags & OPF_MOVE || u->op == OP_CONTIGUOUS)) u = u->src[0];
  return u->op == OP_CONST ? u : NULL;
}

/* The bytes of a value without parameters; empty when that is too much for the interpreter. */
static Bytes evaluate(Job *job, UOp *u) {
  int64_t work = 0;
  UOpList list = uop_toposort(job, u);
  for (size_t i = 0; i < list.len; i++) {
    int64_t n = shape_numel(list.at[i]->shape);
    if (n > FOLD_WORK || (work += n) > FOLD_WORK) return (Bytes){0};
  }
  size_t bytes = (size_t)shape_numel(u->shape) * dtype_info[u->dtype].bytes;
  InterpBuffer slot = {arena_alloc(&job->arena, bytes + 1), bytes};
  UOp *param = uop_param(job, 0, (DType)u->dtype, u->shape.at, u->shape.n);
  UOp *store = uop2(job, OP_STORE, param, u);
  Status st = interp_tensor(job, uop_make(job, OP_SINK, DT_VOID, arg_none(), &store, 1), &slot, 1);
  if (!st) return (Bytes){slot.data, bytes};
  status_drop(st);
  return (Bytes){0};
}

/* The first element alone when all are the same. */
static Bytes shortest(Bytes b, size_t item) {
  for (size_t k = item; k < b.len; k += item) {
    if (memcmp(b.ptr, b.ptr + k, item)) return b;
  }
  return (Bytes){b.ptr, b.len < item ? b.len : item};
}

static UOp *constant_node(Job *job, const TensorGraph *graph, UOp *u, Bytes b,
                          FoldedConstants *constants) {
  DType dtype = (DType)u->dtype;
  if (shortest(b, dtype_info[dtype].bytes).len == dtype_info[dtype].bytes) {
    int64_t *ones = arena_array(&job->arena, u->shape.n + 1, sizeof *ones);
    for (uint32_t k = 0; k < u->shape.n; k++) ones[k] = 1;
    UOp *c = uop_scalar(job, dtype, scalar_load(dtype, b.ptr));
    if (!u->shape.n) return c;
    c = uop_make(job, OP_RESHAPE, DT_VOID, arg_ints(ones, u->shape.n), &c, 1);
    return uop_make(job, OP_EXPAND, DT_VOID, arg_ints(u->shape.at, u->shape.n), &c, 1);
  }
  avec_push(&job->arena, constants, b);
  int64_t slot = (int64_t)(graph->nslots + constants->len - 1);
  return uop_param(job, slot, dtype, u->shape.at, u->shape.n);
}

typedef struct Known {
  bool constant; /* no PARAM and no VAR below */
  bool reduces;  /* a REDUCE, SCATTER or SCAN below */
  bool wanted;   /* folded: it holds a reduction, and something else uses it */
} Known;

/* By place in the list, which uop_toposort leaves in the nodes. */
static Known *known_values(Job *job, const UOpList *list) {
  Known *known = arena_array(&job->arena, list->len, sizeof *known);
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    known[i].constant = u->op != OP_PARAM && !u->symbolic;
    known[i].reduces = u->op == OP_REDUCE || u->op == OP_SCATTER || u->op == OP_SCAN;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      const Known *k = &known[u->src[s]->place];
      known[i].constant &= k->constant;
      known[i].reduces |= k->reduces;
    }
    bool whole = known[i].constant && !(op_info[u->op].flags & OPF_MOVE);
    for (uint32_t s = 0; !whole && s < u->nsrc; s++) {
      Known *k = &known[u->src[s]->place];
      uint32_t flags = op_info[u->src[s]->op].flags;
      k->wanted |= k->constant && k->reduces && !(flags & OPF_MOVE);
    }
  }
  return known;
}

static bool is_output(const TensorGraph *graph, const UOp *store) {
  const UOp *to = store->src[0];
  return to->op == OP_PARAM && graph->slots[to->arg.i].kind == SLOT_OUTPUT;
}

/* Replaces values by constants in the graph, and gives outputs without parameters their bytes. */
static UOp *fold_values(Job *job, const TensorGraph *graph, UOp *sink, PlanBuffer *interface,
                        FoldedConstants *constants) {
  UOpList list = uop_toposort(job, sink);
  const Known *known = known_values(job, &list);
  UOp **from = arena_array(&job->arena, list.len, sizeof *from);
  UOp **to = arena_array(&job->arena, list.len, sizeof *to);
  size_t n = 0;
  bool *constant = arena_array(&job->arena, sink->nsrc + 1, sizeof *constant);
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    bool store = sink->src[k]->op == OP_STORE;
    bool same = store && known[sink->src[k]->src[1]->place].constant;
    constant[k] = same && is_output(graph, sink->src[k]);
  }
  for (uint32_t k = 0; k < sink->nsrc; k++) {
    if (!constant[k]) continue;
    UOp *value = sink->src[k]->src[1], *same = uniform(value);
    if (!shape_numel(value->shape)) continue;
    Bytes b = evaluate(job, same ? same : value);
    if (!b.len) continue;
    interface[sink->src[k]->src[0]->arg.i].constant = shortest(b, dtype_info[value->dtype].bytes);
  }
  for (size_t i = 0; i < list.len; i++) {
    if (!known[i].wanted || !shape_numel(list.at[i]->shape)) continue;
    Bytes b = evaluate(job, list.at[i]);
    if (!b.len) continue;
    from[n] = list.at[i];
    to[n++] = constant_node(job, graph, list.at[i], b, constants);
  }
  return n ? uop_substitute(job, sink, from, to, n) : sink;
}

UOp *simplify_graph(Job *job, const TensorGraph *graph, const Target *target, PlanBuffer *interface,
                    FoldedConstants *constants) {
  Rewrite rw = {.job = job};
  UOp *sink = rewrite_graph(&rw, scatter_expand(job, target, graph->sink), rules_movement);
  UOp *wide = replace_each(job, target, sink, rounds_often, round_once);
  if (wide != sink) sink = rewrite_graph(&rw, wide, rules_movement);
  sink = fold_values(job, graph, sink, interface, constants);
  return scan_split(job, target, sink);
}

UOp *simplify_sums(Job *job, const Target *target, UOp *sink) {
  return replace_each(job, target, sink, is_long, split_reduce);
}
