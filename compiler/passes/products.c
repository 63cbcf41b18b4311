/* Products of matrices, for devices with workgroups and matrix instructions of several warps.
 *
 * Factors are copied to the memory of a workgroup in rows of 128 bytes along the sum. Where the
 * rows of a factor begin at no multiple of that, each such row lies in two lines of memory, and
 * where they begin at no multiple of 16 bytes there is no instruction that copies in the
 * background. Such a factor is stored first, its rows along the sum and made longer by zeros, by a
 * kernel that only copies; that of a weight is done once. Zeros times zeros are what is added to
 * the sum, so both factors get them. Not for small products and long factors of few rows, where the
 * copy takes longer than it saves.
 *
 * Factors of 8 bits and less that a device has no such instruction for - those that it has on
 * sm_90a add up in fewer bits than f32 has - are stored as f16, which is exact, where the
 * instructions for f16 save more than that takes.
 *
 * Products of f32 without such instructions load four elements of a row or a column at a time where
 * these lie side by side: large ones have factors turned that do not.
 *
 * With fast math factors of f32 lose the bits that the instructions for them do not look at: the
 * graph says so, so that every device and the interpreter compute with the same numbers. */
#include "compiler/passes/products.h"

#include "compiler/ir/matrix.h"
#include "compiler/passes/replace.h"

enum {
  LINE = 128,       /* bytes that a row begins at a multiple of */
  LEAST_SIDE = 128, /* rows and columns of a product that is worth a copy */
  LEAST_SUM = 256,
  LEAST_CUT = 16, /* rows, columns and steps of a product for an instruction */
};

/* What such a device does in a microsecond, roughly: operations on elements of a byte; bytes. */
static const double PRODUCTS = 8e8, COPIED = 2e6, BEGUN = 3, LAUNCH = 1.5;
static const double NARROW =
    1.5; /* times the time of instructions of several warps: those of one */
static const double SCALAR = 4e7, SAVED = 0.1; /* without instructions for it; of its time */

typedef struct Product {
  UOp *factor[2]; /* as they are before they are repeated, 16 bits where widened */
  int64_t rows[2], deep;
  uint32_t axis;
} Product;

typedef struct Copies {
  bool copied[2];
  DType as; /* what copies are stored as */
} Copies;

/* -- factors ------------------------------------------------------------------------------------
 */

/* Whether an instruction multiplies such elements: of f32 its upper bits. */
static bool takes_pair(const Target *target, DType a, DType b, bool wide) {
  for (int64_t id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    bool both = info->dtype[MATRIX_A] == a && info->dtype[MATRIX_B] == b;
    if (both && info->shared >= wide && matrix_on(info, target)) return true;
  }
  return false;
}
static bool takes(const Target *target, DType d, bool wide) {
  return takes_pair(target, d, d, wide);
}

static bool widens(const UOp *f) {
  return f->op == OP_CAST && dtype_info[f->src[0]->dtype].bytes < dtype_info[f->dtype].bytes;
}

/* x without a cast that widens it, below movement ops perhaps; x when there is none. */
static UOp *before_cast(Job *job, UOp *x) {
  if (widens(x)) return x->src[0];
  if (x->op != OP_RESHAPE && x->op != OP_PERMUTE && x->op != OP_SHRINK) return x;
  UOp *inner = before_cast(job, x->src[0]);
  return inner == x->src[0] ? x : uop_with_src(job, x, &inner);
}

/* The value before it was repeated and widened. */
static UOp *narrowest(Job *job, UOp *f) {
  while (f->op == OP_EXPAND || widens(f)) f = f->src[0];
  return before_cast(job, f);
}

/* f of another value, whose last axis is longer perhaps. */
static UOp *widened_again(Job *job, UOp *f, UOp *to) {
  uint32_t r = f->shape.n;
  int64_t *shape = arena_copy(&job->arena, f->shape.at, r * sizeof *shape);
  shape[r - 1] = to->shape.at[r - 1];
  if (to->dtype != f->dtype) to = uop_cast(job, to, (DType)f->dtype);
  return uop_make(job, OP_EXPAND, DT_VOID, arg_ints(shape, r), &to, 1);
}

/* Elements from a row to the next where x lies in memory; 0: that does not show. */
static int64_t pitch_of(const UOp *x) {
  while (x->op == OP_RESHAPE || x->op == OP_PERMUTE || x->op == OP_SHRINK) x = x->src[0];
  uint32_t r = x->shape.n;
  while (r > 0 && x->shape.at[r - 1] == 1) r--;
  if (op_info[x->op].flags & OPF_MOVE || (!x->nsrc && x->op != OP_PARAM) || !r) return 0;
  return shape_numel(x->shape) > x->shape.at[r - 1] ? x->shape.at[r - 1] : 0;
}

/* Whether its rows lie along another axis than the sum: instructions that turn a factor are those
 * for 16 bits. */
static bool is_turned(const UOp *x) {
  for (; op_info[x->op].flags & OPF_MOVE && x->nsrc == 1; x = x->src[0])
    if (x->op == OP_PERMUTE && x->arg.ints.at[x->shape.n - 1] != x->shape.n - 1) return true;
  return false;
}

static bool is_uneven(const UOp *x) {
  int64_t bytes = dtype_info[x->dtype].bytes;
  return pitch_of(x) * bytes % LINE != 0 || (bytes != 2 && is_turned(x));
}

/* A sum over the last axis of products of two matrices that share no other axis. */
static bool find_product(Job *job, const UOp *u, UOp *x, Product *out) {
  uint32_t r = x->shape.n;
  bool sum = u->op == OP_REDUCE && u->arg.i == OP_ADD && u->arg.ints.n == 1 && !u->symbolic;
  if (!sum || x->op != OP_MUL || u->arg.ints.at[0] != (int64_t)r - 1) return false;
  *out = (Product){.rows = {1, 1}, .axis = r - 1, .deep = x->shape.at[r - 1]};
  for (int f = 0; f < 2; f++) {
    out->factor[f] = narrowest(job, x->src[f]);
    if (out->factor[f]->shape.n != r || out->factor[f]->shape.at[r - 1] != out->deep) return false;
  }
  for (uint32_t d = 0; d + 1 < r; d++) {
    int64_t a = out->factor[0]->shape.at[d], b = out->factor[1]->shape.at[d];
    if (a > 1 && b > 1) return false;
    out->rows[0] *= a, out->rows[1] *= b;
  }
  return true;
}

/* -- rows ---------------------------------------------------------------------------------------
 */

static double work_of(const Product *p) {
  return 2.0 * (double)p->rows[0] * (double)p->rows[1] * (double)p->deep;
}

static bool is_worth_it(const Product *p, const bool *copied) {
  double cost = 0, item = dtype_info[p->factor[0]->dtype].bytes;
  double time = work_of(p) * item / PRODUCTS + BEGUN;
  if (p->rows[0] < LEAST_SIDE || p->rows[1] < LEAST_SIDE || p->deep < LEAST_SUM) return false;
  for (int f = 0; f < 2; f++) {
    bool odd = copied[f] && (int64_t)item * pitch_of(p->factor[f]) % 16;
    if (copied[f]) cost += LAUNCH + 2 * item * (double)p->rows[f] * (double)p->deep / COPIED;
    if (odd) time *= 2;
  }
  return cost < time;
}

/* Whether all numbers of the dtype are ones of f16. */
static bool fits_half(DType d) {
  return dtype_is_storage(d) && dtype_is_float(d) && d != DT_F8E8M0;
}

/* Both factors as f16: instructions for that do what those of their own would, or none. */
static bool is_worth_halves(const Product *p, const Target *target) {
  DType a = (DType)p->factor[0]->dtype, b = (DType)p->factor[1]->dtype;
  if (!fits_half(a) || !fits_half(b) || !takes(target, DT_F16, false)) return false;
  if (p->rows[0] < LEAST_SIDE || p->rows[1] < LEAST_SIDE || p->deep < LEAST_SUM) return false;
  bool own = takes_pair(target, a, b, false);
  if (own && takes_pair(target, a, b, true) >= takes(target, DT_F16, true)) return false;
  double halves = work_of(p) * 2 / PRODUCTS, now = own ? NARROW * halves : work_of(p) / SCALAR;
  for (int f = 0; f < 2; f++) halves += LAUNCH + 3 * (double)p->rows[f] * (double)p->deep / COPIED;
  return halves < now;
}

/* Longer by zeros. */
static UOp *padded(Job *job, UOp *x, uint32_t axis, int64_t by) {
  UOp *src[2] = {x, uop_number(job, (DType)x->dtype, 0)};
  int64_t *grow = arena_array(&job->arena, 2 * x->shape.n + 1u, sizeof *grow);
  grow[2 * axis + 1] = by;
  return by ? uop_make(job, OP_PAD, DT_VOID, arg_ints(grow, 2 * x->shape.n), src, 2) : x;
}

/* Which factors are stored anew, and as what. */
static Copies choose_copies(const Product *p, const Target *target) {
  Copies c = {.as = (DType)p->factor[0]->dtype};
  if (is_worth_halves(p, target)) return (Copies){{true, true}, DT_F16};
  if (p->factor[1]->dtype != c.as || !takes(target, c.as, true)) return c;
  for (int f = 0; f < 2; f++) c.copied[f] = is_uneven(p->factor[f]);
  if (!is_worth_it(p, c.copied)) c.copied[0] = c.copied[1] = false;
  return c;
}

/* x stored with its last axis outermost. */
static UOp *turned(Job *job, UOp *x) {
  uint32_t r = x->shape.n;
  int64_t *first = arena_array(&job->arena, 2 * r + 1u, sizeof *first), *last = first + r;
  for (uint32_t d = 0; d < r; d++) first[d] = (d + r - 1) % r, last[d] = (d + 1) % r;
  x = uop_make(job, OP_PERMUTE, DT_VOID, arg_ints(first, r), &x, 1);
  x = uop1(job, OP_CONTIGUOUS, x);
  return uop_make(job, OP_PERMUTE, DT_VOID, arg_ints(last, r), &x, 1);
}

/* The sum of products of f32 with factors turned; NULL: they lie well, or it is not worth it. */
static UOp *with_columns(Job *job, const UOp *u, UOp *x, const Product *p) {
  double saved = 2.0 * (double)p->rows[0] * (double)p->rows[1] * (double)p->deep / SCALAR * SAVED;
  UOp *to[2] = {x->src[0], x->src[1]};
  bool any = false;
  for (int f = 0; f < 2; f++) {
    double cost = LAUNCH + 8.0 * (double)p->rows[f] * (double)p->deep / COPIED;
    bool lies = !pitch_of(p->factor[f]) || is_turned(p->factor[f]) || p->rows[f] % LEAST_SIDE;
    if (lies || cost > saved) continue;
    to[f] = widened_again(job, x->src[f], turned(job, p->factor[f]));
    any = true;
  }
  UOp *product = uop2(job, OP_MUL, to[0], to[1]);
  return any ? uop_with_src(job, (UOp *)(uintptr_t)u, &product) : NULL;
}

/* The sum u of products x; NULL where its factors lie well and keep their bits. */
static UOp *with_factors(Job *job, const UOp *u, UOp *x, const Target *target, bool cut) {
  Product p;
  UOp *to[2];
  if (!find_product(job, u, x, &p)) return NULL;
  bool equal = p.factor[0]->dtype == p.factor[1]->dtype;
  bool large = p.rows[0] >= LEAST_CUT && p.rows[1] >= LEAST_CUT && p.deep >= LEAST_CUT;
  bool wide = equal && p.factor[0]->dtype == DT_F32;
  cut &= wide && large;
  if (wide && !cut) return takes(target, DT_F16, false) ? with_columns(job, u, x, &p) : NULL;
  if (cut && !takes(target, DT_F32, false)) return NULL;
  Copies c = choose_copies(&p, target);
  if (!c.copied[0] && !c.copied[1] && !cut) return NULL;
  int64_t line = LINE / dtype_info[c.as].bytes, over = p.deep % line;
  bool longer = over && (c.copied[0] || c.copied[1]);
  for (int f = 0; f < 2; f++) {
    UOp *y = padded(job, p.factor[f], p.axis, longer ? line - over : 0);
    if (y->dtype != c.as) y = uop_cast(job, y, c.as);
    if (c.copied[f]) y = uop1(job, OP_CONTIGUOUS, y);
    to[f] = widened_again(job, x->src[f], cut ? matrix_cut(job, y) : y);
  }
  UOp *product = uop2(job, OP_MUL, to[0], to[1]);
  return uop_with_src(job, (UOp *)(uintptr_t)u, &product);
}

UOp *simplify_products(Job *job, const TensorGraph *graph, const Target *target, UOp *sink) {
  UOpList list = uop_toposort(job, sink);
  UOp **now = arena_array(&job->arena, list.len, sizeof *now);
  if (!target->max_group || target->warp <= 1) return sink;
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i], *value = replace_sources(job, u, now), *even = NULL;
    if (u->op == OP_REDUCE) even = with_factors(job, u, value->src[0], target, graph->fast_math);
    now[i] = even ? even : value;
    if (i % 64 == 0) job_poll(job);
  }
  return now[list.len - 1];
}
