/* Two matrix products of one kernel (opts_chain.c): where an axis of theirs is split.
 *
 * The axes of the results - rows, and columns of either product - are sums of a tile's number, a
 * digit of the thread's number in its warp and one of the element's, so that everything that is
 * computed from them between the products is over ordinary ranges, and a reduction along a row ends
 * with a digit of the threads. Factors have other digits in these places: the digit of weight 1
 * stands for the factor's whole coordinate, the others are 0 there. Sums keep a place of their own,
 * which becomes the digits of either factor. */
#include "compiler/passes/linsum.h"
#include "compiler/passes/schedule_parts.h"

enum { MAX_RANGES = 12 };

static UOp **next_of(UOp **list) {
  while (*list) list++;
  return list;
}

UOp *schedule_digits(Apply *a, uint32_t axis, UOp *v) {
  Job *job = a->job;
  NewAxis *x = &a->axes[axis];
  const OptPlan *plan = a->plan;
  const MatrixInfo *info = axis == plan->matrix.n ? plan->matrix.info : plan->inner.info;
  const MatrixLayout *c = &info->layout[MATRIX_C];
  bool second = plan->axes[axis].digits == PLACE_N;
  for (unsigned i = 0; i < c->n; i++) {
    const MatrixDigit *d = &c->digit[i];
    UOp *size = uop_index(job, d->size), *r;
    if (d->second != second) continue;
    if (d->of > 'c') {
      r = uop_warp_range(job, a->next_id++, matrix_lane_step(info, d->of), size);
      *next_of(x->warp) = r;
    } else {
      AxisType type = a->k->axes[axis].reduce ? AX_UNROLL : AX_UPCAST;
      r = uop_range(job, a->next_id++, d->of == 'a' ? AX_VECTOR : type, size);
      *next_of(x->digit) = x->inner[x->ninner++] = r;
    }
    if (d->weight == 1) x->unit = r;
    v = index_add(job, v, index_mul(job, r, d->weight));
  }
  return v;
}

/* One product while it is built: the RANGEs of the MMA, and what stands for what in a factor. */
typedef struct Product {
  Apply *a;
  const MatrixPlan *plan;
  UOp *ranges[MAX_RANGES];
  UOp *from[2 + MAX_DIGITS], *to[2 + MAX_DIGITS];
  size_t n;
} Product;

static void put(Product *p, MatrixOperand o, char digit, UOp *range) {
  int at = matrix_range_at(p->plan->info, o, digit);
  if (at >= 0) p->ranges[at] = range;
}

static void make_ranges(Product *p) {
  Apply *a = p->a;
  const MatrixInfo *info = p->plan->info;
  const NewAxis *m = &a->axes[p->plan->m], *n = &a->axes[p->plan->n];
  for (int o = MATRIX_A; o <= MATRIX_B; o++)
    for (const char *c = "abc"; *c; c++) {
      int at = matrix_range_at(info, (MatrixOperand)o, *c);
      if (at < 0) continue;
      UOp *end = uop_index(a->job, matrix_range_size(info, (unsigned)at));
      p->ranges[at] = uop_range(a->job, a->next_id++, *c == 'a' ? AX_VECTOR : AX_UPCAST, end);
    }
  const MatrixLayout *l = &info->layout[MATRIX_C];
  UOp *const *warp[2] = {m->warp, n->warp}, *const * digit[2] = {m->digit, n->digit};
  for (unsigned i = 0; i < l->n; i++) {
    UOp *const **next = l->digit[i].of > 'c' ? warp : digit;
    put(p, MATRIX_C, l->digit[i].of, *next[l->digit[i].second]++);
  }
}

/* A coordinate of a factor over its digits. */
static UOp *coordinate(const Product *p, MatrixOperand o, bool second) {
  const MatrixLayout *l = &p->plan->info->layout[o];
  UOp *sum = uop_index(p->a->job, 0);
  for (unsigned i = 0; i < l->n; i++) {
    const MatrixDigit *d = &l->digit[i];
    if (d->second != second) continue;
    UOp *r = p->ranges[matrix_range_at(p->plan->info, o, d->of)];
    sum = index_add(p->a->job, sum, index_mul(p->a->job, r, d->weight));
  }
  return sum;
}

static void stands_for(Product *p, UOp *from, UOp *to) {
  p->from[p->n] = from;
  p->to[p->n++] = to;
}

/* The rows of A lie with the same threads as those of the product: its digits of elements differ
 * by name alone. */
static void rows_of_factor(Product *p) {
  const MatrixLayout *l = &p->plan->info->layout[MATRIX_A];
  UOp *const *digit = p->a->axes[p->plan->m].digit;
  for (unsigned i = 0; i < l->n; i++)
    if (!l->digit[i].second && l->digit[i].of <= 'c')
      stands_for(p, *digit++, p->ranges[matrix_range_at(p->plan->info, MATRIX_A, l->digit[i].of)]);
}

/* The axis's digits as those of one whole coordinate. */
static UOp *undivided(Apply *a, uint32_t axis, UOp *u, UOp *whole) {
  const NewAxis *x = &a->axes[axis];
  UOp *from[2 * MAX_DIGITS], *to[2 * MAX_DIGITS];
  size_t n = 0;
  for (int k = 0; k < 2 * MAX_DIGITS; k++) {
    UOp *r = k < MAX_DIGITS ? x->warp[k] : x->digit[k - MAX_DIGITS];
    if (r) from[n] = r, to[n++] = r == x->unit ? whole : uop_index(a->job, 0);
  }
  return uop_substitute(a->job, u, from, to, n);
}

UOp *schedule_places(Apply *a, uint32_t axis, UOp *u) {
  NewAxis *x = &a->axes[axis];
  if (!x->unit) return u;
  if (!x->place) x->place = new_range(a, AX_UPCAST, a->plan->axes[axis].matrix);
  return undivided(a, axis, u, x->place);
}

static UOp *factor(Product *p, MatrixOperand o, UOp *u) {
  Apply *a = p->a;
  uint32_t axis = o == MATRIX_A ? p->plan->m : p->plan->n;
  bool memory = matrix_in_memory(p->plan->info, (int)o);
  p->n = 0;
  stands_for(p, a->axes[p->plan->k].place, coordinate(p, o, true));
  if (memory) stands_for(p, a->axes[axis].place, coordinate(p, o, false));
  if (!memory && o == MATRIX_A) rows_of_factor(p);
  if (!memory && o == MATRIX_B) u = undivided(a, axis, u, coordinate(p, o, false));
  return uop_substitute(a->job, u, p->from, p->to, p->n);
}

UOp *schedule_chain_product(Apply *a, const MatrixPlan *plan, UOp *first, UOp *second) {
  Product p = {.a = a, .plan = plan};
  unsigned n = matrix_range_count(plan->info);
  UOp *src[2 + MAX_RANGES];
  make_ranges(&p);
  src[0] = factor(&p, MATRIX_A, first);
  src[1] = factor(&p, MATRIX_B, second);
  memcpy(src + 2, p.ranges, n * sizeof *src);
  return uop_make(a->job, OP_MMA, plan->info->dtype[MATRIX_C], arg_i(plan->id), src, 2 + n);
}

/* Weights of a sum of 16-bit products need not be exact to the last bit of f32. Of a difference
 * each half is scaled by itself: the second one is the same for a whole row. */
UOp *schedule_quick_exp(Job *job, Op op, UOp *x) {
  UOp *log2_e = uop_number(job, DT_F32, 1.4426950408889634);
  if (op == OP_EXP2) return uop1(job, OP_QEXP2, x);
  if (x->op != OP_SUB) return uop1(job, OP_QEXP2, uop2(job, OP_MUL, x, log2_e));
  UOp *less = uop1(job, OP_NEG, uop2(job, OP_MUL, x->src[1], log2_e)), *more = x->src[0];
  if (more->op == OP_MUL && uop_is_const(more->src[1])) { /* a scale: schedule_keep.c */
    log2_e = uop_number(job, DT_F32, 1.4426950408889634 * uop_const_value(more->src[1]).f);
    more = more->src[0];
  }
  return uop1(job, OP_QEXP2, uop3(job, OP_MULACC, more, log2_e, less));
}
