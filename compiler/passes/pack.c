/* A register tile of a product takes, at each step of the reduce axis, a vector or two of columns:
 * lines that lie rows apart in a weight W [k, n], on another page each, which no hardware fetches
 * ahead; a matrix instruction of a processor takes a few steps of a few columns, bytes that lie
 * rows apart. Here such a W is stored once, when the executable is loaded, as [n / columns,
 * k / steps, columns, steps], so that an operand is one load, and a register tile of several
 * vectors of columns reads as many streams from front to back.
 *
 * The product stays what it was: the new order is undone by movement ops, which become index
 * arithmetic. Casts are done after the bytes are loaded, not before they are stored. What is stored
 * for vectors doubles the memory of a weight, so that there is a bound for each graph. */
#include "compiler/passes/pack.h"

#include <string.h>

#include "compiler/ir/matrix.h"
#include "compiler/passes/replace.h"
#include "compiler/rules/rewrite.h"

enum {
  MIN_ELEMENTS = 1 << 14,
  MIN_ROWS = 16, /* fewer read a weight once, in any order; measured with f32 */
  MAX_RANK = 8,
  MOST_BYTES = 1 << 30,
};

/* How the columns of a weight lie. */
typedef struct Form {
  DType dtype;
  int64_t columns, steps;
} Form;

typedef struct Pack {
  Job *job;
  const TensorGraph *graph;
  UOp **now;    /* by place in the list */
  bool *fixed;  /* depends on weights and constants alone, and on a weight */
  Form bytes;   /* as an instruction takes them; 0 columns: the target has none */
  int64_t line; /* bytes of a vector; 0: the target has none that a weight is stored for */
  int64_t left; /* bytes that may still be stored for vectors */
} Pack;

static UOp *moved(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(v, n), &x, 1);
}

static Form byte_form(const Target *target) {
  for (int id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    bool bytes = dtype_info[info->dtype[MATRIX_B]].bytes == 1;
    if (bytes && info->threads == 1 && matrix_on(info, target))
      return (Form){info->dtype[MATRIX_B], info->n, info->k};
  }
  return (Form){0};
}

static bool is_moved(const UOp *x) {
  return x->op == OP_RESHAPE || x->op == OP_PERMUTE || x->op == OP_EXPAND;
}

/* x with a cast that widens, below its movement ops, above them; x when there is none. */
static UOp *cast_last(Job *job, UOp *x) {
  if (!is_moved(x)) return x;
  UOp *y = cast_last(job, x->src[0]);
  if (y->op != OP_CAST || dtype_info[y->src[0]->dtype].bytes >= dtype_info[x->dtype].bytes)
    return x;
  return uop_cast(job, moved(job, (Op)x->op, y->src[0], x->arg.ints.at, x->arg.ints.n),
                  (DType)x->dtype);
}

static bool is_columns(const UOp *x, int64_t n, int64_t k) {
  uint32_t r = x->shape.n;
  if (r < 2 || r > MAX_RANK || x->shape.at[r - 2] != n || x->shape.at[r - 1] != k) return false;
  for (uint32_t d = 0; d + 2 < r; d++)
    if (x->shape.at[d] != 1) return false;
  return true;
}

/* Whether a product reads the weight itself, so that what is stored is no larger. */
static bool is_weight(const UOp *x) {
  while (is_moved(x)) x = x->src[0];
  return x->op == OP_PARAM;
}

/* How x, which has n columns of k steps, is to be stored for so many rows; 0 columns: as it is. */
static Form form_of(const Pack *p, const UOp *x, int64_t rows, int64_t n, int64_t k) {
  Form f = p->bytes;
  if (f.columns && x->dtype == f.dtype) return n % f.columns || k % f.steps ? (Form){0} : f;
  int64_t bytes = n * k * dtype_info[x->dtype].bytes;
  f = (Form){(DType)x->dtype, p->line / 4, 1};
  bool suits = f.columns > 1 && dtype_is_float(f.dtype) && rows >= MIN_ROWS && n % f.columns == 0;
  return suits && is_weight(x) && bytes <= p->left ? f : (Form){0};
}

/* x, [1, ..., n, k] under casts and broadcasts, in the new order; NULL when it is something else.
 */
static UOp *in_order(Pack *p, UOp *x, int64_t rows, int64_t n, int64_t k) {
  Job *job = p->job;
  if (x->op == OP_CAST || x->op == OP_EXPAND) {
    UOp *inner = in_order(p, x->src[0], rows, n, k);
    return inner ? uop_with_src(job, x, &inner) : NULL;
  }
  if (!is_columns(x, n, k)) return NULL;
  Form f = form_of(p, x, rows, n, k);
  if (!f.columns) return NULL;
  int64_t w = f.columns, q = f.steps;
  if (q == 1) p->left -= n * k * dtype_info[x->dtype].bytes;
  UOp *y = moved(job, OP_RESHAPE, x, (int64_t[]){n / w, w, k / q, q}, 4);
  y = uop1(job, OP_CONTIGUOUS, moved(job, OP_PERMUTE, y, (int64_t[]){0, 2, 1, 3}, 4));
  y = moved(job, OP_PERMUTE, y, (int64_t[]){0, 2, 1, 3}, 4);
  return moved(job, OP_RESHAPE, y, x->shape.at, x->shape.n);
}

/* u, rebuilt, is a sum over the last axis of products with one fixed factor. */
static UOp *packed(Pack *p, const UOp *old, UOp *u) {
  uint32_t r = old->src[0]->shape.n;
  bool last = u->op == OP_REDUCE && u->arg.i == OP_ADD && u->arg.ints.n == 1 && r >= 3 &&
              u->arg.ints.at[0] == (int64_t)r - 1;
  if (!last || u->src[0]->op != OP_MUL || u->symbolic) return u;
  UOp *product = u->src[0], *factor[2] = {product->src[0], product->src[1]};
  int64_t m = product->shape.at[r - 3], n = product->shape.at[r - 2], k = product->shape.at[r - 1];
  if (n * k < MIN_ELEMENTS || m < 2) return u;
  int64_t rows = shape_numel(product->shape) / (n * k);
  for (int s = 0; s < 2; s++) {
    const UOp *f = old->src[0]->src[s], *other = old->src[0]->src[!s];
    if (!p->fixed[f->place] || p->fixed[other->place]) continue;
    UOp *w = in_order(p, cast_last(p->job, factor[s]), rows, n, k);
    if (!w) continue;
    factor[s] = w;
    product = uop2(p->job, OP_MUL, factor[0], factor[1]);
    return uop_with_src(p->job, u, &product);
  }
  return u;
}

static bool is_fixed(const Pack *p, const UOp *u) {
  if (u->op == OP_PARAM) {
    size_t slot = (size_t)u->arg.i;
    return slot < p->graph->nslots && p->graph->slots[slot].kind == SLOT_WEIGHT;
  }
  bool all = u->dtype != DT_VOID && u->op != OP_VAR && u->nsrc, any = false;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    bool constant = !u->src[s]->nsrc && u->src[s]->op == OP_CONST;
    all &= p->fixed[u->src[s]->place] || constant;
    any |= p->fixed[u->src[s]->place];
  }
  return all && any;
}

UOp *pack_weights(Job *job, const TensorGraph *graph, const Target *target, UOp *sink) {
  UOpList list = uop_toposort(job, sink);
  Pack p = {.job = job, .graph = graph, .bytes = byte_form(target), .left = MOST_BYTES};
  if (!target->max_group) p.line = target->vector_bytes;
  if (!p.bytes.columns && !p.line) return sink;
  p.now = arena_array(&job->arena, list.len, sizeof *p.now);
  p.fixed = arena_array(&job->arena, list.len, sizeof *p.fixed);
  bool any = false;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i], *v = replace_sources(job, u, p.now);
    p.fixed[i] = is_fixed(&p, u);
    p.now[i] = u->op == OP_REDUCE ? packed(&p, u, v) : v;
    any |= p.now[i] != v;
    if (i % 64 == 0) job_poll(job);
  }
  Rewrite rw = {.job = job};
  return any ? rewrite_graph(&rw, p.now[list.len - 1], rules_movement) : sink;
}
