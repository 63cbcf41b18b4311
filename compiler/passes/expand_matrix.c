/* Matrix instructions while a kernel is expanded: the elements of a factor that a thread has become
 * one vector, loaded by tiles where they lie so, and the product is one vector whose parts are the
 * instances of its elements. */
#include <assert.h>
#include <stdlib.h>

#include "compiler/passes/expand_parts.h"

UOp *expand_shuffle(Expand *e, UOp *const *src, size_t n, const int64_t *lanes, unsigned count) {
  bool same = n == 1 && src[0]->lanes == count;
  for (unsigned k = 0; k < count; k++) same = same && lanes[k] == k;
  if (same) return src[0];
  return uop_make_lanes(e->job, OP_SHUFFLE, DT_VOID, count, arg_ints(lanes, count), src, n);
}

/* Sets the coordinates of an operand's digits to those of its element `reg`. */
void expand_go_to(Expand *e, UOp *mma, MatrixOperand o, unsigned reg) {
  const MatrixInfo *info = matrix_info(mma->arg.i);
  for (const char *c = "abc"; *c; c++) {
    int at = matrix_range_at(info, o, *c);
    if (at < 0) continue;
    int axis = expand_axis(e, mma->src[2 + at]);
    e->coord[axis] = matrix_digit(&info->layout[o], info, *c, 0, reg);
    if (e->vectors >> axis & 1) e->coord[axis] = 0;
  }
}

/* The number of C's element that the coordinates name; of its first one in a vector. */
static unsigned element_here(const Expand *e, const UOp *mma) {
  const MatrixInfo *info = matrix_info(mma->arg.i);
  unsigned reg = 0, weight = 1;
  for (const char *c = "abc"; *c; c++) {
    int at = matrix_range_at(info, MATRIX_C, *c);
    if (at < 0) continue;
    int axis = expand_axis(e, mma->src[2 + at]);
    if (!(e->vectors >> axis & 1)) reg += weight * e->coord[axis];
    weight *= e->axes[axis].size;
  }
  return reg;
}

/* Elements of an operand that are one instance: they follow each other. */
static unsigned vector_elements(const Expand *e, const UOp *mma, MatrixOperand o) {
  int at = matrix_range_at(matrix_info(mma->arg.i), o, 'a');
  int axis = at < 0 ? -1 : expand_axis(e, mma->src[2 + at]);
  return axis >= 0 && e->vectors >> axis & 1 ? e->axes[axis].size : 1;
}

/* How a factor in the workgroup's memory lies there, for loads of 8 by 8 tiles. */
typedef struct TileLoad {
  bool turned;          /* the elements of a row have the row's number in common, not k */
  int64_t row, step[2]; /* between rows of a tile; of the digits b and c */
  unsigned size[2];
  UOp *const *ranges; /* of the MMA's digits */
} TileLoad;

static UOp *digit_range(UOp *mma, MatrixOperand o, char digit) {
  int at = matrix_range_at(matrix_info(mma->arg.i), o, digit);
  return at < 0 ? NULL : mma->src[2 + at];
}

/* Tiles of 16-bit elements whose rows are 16 bytes side by side, at multiples of 16 bytes. */
static bool is_tile_load(Expand *e, UOp *mma, MatrixOperand o, TileLoad *out) {
  static const char digits[] = "qpabc";
  const MatrixInfo *info = matrix_info(mma->arg.i);
  const UOp *u = mma->src[o], *buffer = u->src[0];
  if (u->op != OP_INDEX || u->nsrc > 2 || dtype_info[u->dtype].bytes != 2) return false;
  while (buffer->op == OP_AFTER) buffer = buffer->src[0];
  if (buffer->op != OP_BUFFER || buffer->arg.ints.at[1] != 2 || info->threads != 32) return false;
  if (buffer->arg.ints.n > 3) return false; /* in an order of its own */
  const LinSum *sum = linsum_of(&e->sums, u->src[1]);
  int64_t c[5] = {0};
  for (uint32_t i = 0; i < sum->n; i++) {
    int own = -1;
    for (int d = 0; d < 5; d++) {
      UOp *r = digit_range(mma, o, digits[d]);
      if (r && sum->at[i].atom == r) own = d;
      if (r && sum->at[i].atom != r && uop_is_open(sum->at[i].atom, r)) return false;
    }
    if (own >= 0) c[own] = sum->at[i].coeff;
    if (own < 0 && sum->at[i].coeff % 8) return false;
  }
  bool straight = c[2] == 1 && c[0] == 2 && c[1] % 8 == 0;
  *out = (TileLoad){.turned = c[1] == 1 && c[0] == 2 * c[2] && c[2] % 8 == 0,
                    .row = straight ? c[1] : c[2],
                    .step = {c[3], c[4]}};
  for (int d = 0; d < 2; d++) {
    UOp *r = digit_range(mma, o, digits[3 + d]);
    out->size[d] = r ? (unsigned)r->src[0]->arg.i : 1;
  }
  return (straight || out->turned) && sum->konst % 8 == 0 && c[3] % 8 == 0 && c[4] % 8 == 0;
}

/* The place that this thread names: row t mod 8 of tile t / 8. */
static UOp *tile_row(Expand *e, const TileLoad *t) {
  Job *job = e->job;
  UOp *thread = groups_thread(&e->groups, 0);
  UOp *tile = uop2(job, OP_FLOORDIV, thread, uop_index(job, 8));
  UOp *at = index_mul(job, uop2(job, OP_FLOORMOD, thread, uop_index(job, 8)), t->row);
  UOp *b = uop2(job, OP_FLOORMOD, tile, uop_index(job, t->size[0]));
  if (t->size[0] > 1) at = index_add(job, at, index_mul(job, b, t->step[0]));
  UOp *c = uop2(job, OP_FLOORDIV, tile, uop_index(job, t->size[0]));
  c = uop2(job, OP_FLOORMOD, c, uop_index(job, t->size[1]));
  if (t->size[1] > 1) at = index_add(job, at, index_mul(job, c, t->step[1]));
  return at;
}

/* The index without the digits of the thread's own elements, which are 0, plus the row. */
static UOp *tile_place(Expand *e, UOp *mma, MatrixOperand o, UOp *row) {
  const LinSum *sum = linsum_of(&e->sums, mma->src[o]->src[1]);
  SumTerm *terms = arena_array(&e->job->arena, sum->n + 1u, sizeof *terms);
  LinTerm *flat = arena_array(&e->job->arena, sum->n + 1u, sizeof *flat);
  int64_t konst = sum->konst;
  uint32_t n = 0;
  for (uint32_t i = 0; i < sum->n; i++) {
    LinTerm t = sum->at[i];
    int axis = t.atom->op == OP_RANGE ? expand_axis(e, t.atom) : -1;
    bool own = t.atom == digit_range(mma, o, 'q') || t.atom == digit_range(mma, o, 'p');
    for (const char *c = "abc"; *c; c++) own |= t.atom == digit_range(mma, o, *c);
    if (own) continue;
    if (axis >= 0) {
      konst += t.coeff * e->coord[axis];
      continue;
    }
    uint32_t depth = expand_node(e, t.atom)->depth;
    t.atom = expand_instance(e, t.atom);
    if (uop_is_const(t.atom))
      konst += t.coeff * t.atom->arg.i;
    else
      terms[n++] = (SumTerm){t, depth, t.atom->id};
  }
  qsort(terms, n, sizeof *terms, expand_by_depth);
  flat[0] = (LinTerm){row, 1};
  for (uint32_t i = 0; i < n; i++) flat[i + 1] = terms[i].term;
  return linsum_build(e->job, flat, n + 1, konst);
}

/* An index without its constant. */
UOp *expand_index_base(UOp *index, int64_t *konst) {
  bool sum = index->op == OP_ADD && uop_is_const(index->src[1]);
  *konst = sum ? index->src[1]->arg.i : uop_is_const(index) ? index->arg.i : 0;
  return sum ? index->src[0] : uop_is_const(index) ? NULL : index;
}

/* Loads that follow each other in memory are one. */
static UOp *one_load(Expand *e, UOp *const *part, unsigned n) {
  int64_t first, at;
  UOp *base = expand_index_base(part[0]->src[1], &first);
  unsigned lanes = part[0]->lanes;
  for (unsigned k = 0; k < n; k++) {
    const UOp *u = part[k];
    if (u->op != OP_LOAD || u->nsrc > 2 || u->src[0] != part[0]->src[0]) return NULL;
    if (u->arg.i != 1 || u->lanes != lanes || expand_index_base(u->src[1], &at) != base)
      return NULL;
    if (u->src[1]->lanes > 1 || at != first + (int64_t)k * lanes) return NULL;
  }
  return uop_make_lanes(e->job, OP_LOAD, DT_VOID, n * lanes, arg_i(1), part[0]->src, 2);
}

/* A factor as the instruction takes it: the thread's elements, in order. */
static UOp *factor_vector(Expand *e, UOp *mma, MatrixOperand o) {
  TileLoad tile;
  if (is_tile_load(e, mma, o, &tile)) {
    expand_go_to(e, mma, o, 0);
    UOp *at = tile_place(e, mma, o, tile_row(e, &tile));
    UOp *src[2] = {expand_instance(e, mma->src[o]->src[0]), at};
    unsigned lanes = matrix_info(mma->arg.i)->layout[o].registers;
    return uop_make_lanes(e->job, OP_LDMATRIX, DT_VOID, lanes, arg_i(tile.turned), src, 2);
  }
  unsigned n = matrix_info(mma->arg.i)->layout[o].registers, wide = vector_elements(e, mma, o);
  UOp **part = arena_array(&e->job->arena, n, sizeof *part);
  int64_t *lanes = arena_array(&e->job->arena, n, sizeof *lanes);
  for (unsigned r = 0; r < n; r += wide) {
    expand_go_to(e, mma, o, r);
    part[r / wide] = expand_operand(e, mma->src[o], wide, DT_INDEX);
  }
  expand_go_to(e, mma, o, 0);
  for (unsigned r = 0; r < n; r++) lanes[r] = r;
  UOp *load = n > wide && part[0]->op == OP_LOAD ? one_load(e, part, n / wide) : NULL;
  if (load) return load;
  return n == wide ? part[0] : expand_shuffle(e, part, n / wide, lanes, n);
}

/* The product of factors that lie in the workgroup's memory. */
static UOp *tile_product(Expand *e, UOp *mma) {
  static const char digits[] = "abc";
  const MatrixInfo *info = matrix_info(mma->arg.i);
  UOp *src[4];
  int64_t steps[6];
  uint32_t n = 0, nsteps = 0;
  for (int o = 0; o < 2; o++) {
    UOp *load = mma->src[o];
    if (!matrix_in_memory(info, o)) {
      src[n++] = factor_vector(e, mma, (MatrixOperand)o);
      continue;
    }
    const LinSum *sum = linsum_of(&e->sums, load->src[1]);
    assert(load->op == OP_INDEX && load->nsrc == 2); /* staged: opts_matrix.c */
    expand_go_to(e, mma, (MatrixOperand)o, 0);
    src[n++] = expand_instance(e, load->src[0]);
    src[n++] = expand_index_at(e, load->src[1]).base;
    for (int d = 0; d < 3; d++, nsteps++) {
      const UOp *r = digit_range(mma, (MatrixOperand)o, digits[d]);
      steps[nsteps] = r ? linsum_coeff(sum, r) : 64 * steps[nsteps - 1];
    }
  }
  return uop_make_lanes(e->job, OP_TILEMMA, info->dtype[MATRIX_C], info->layout[MATRIX_C].registers,
                        arg_both(mma->arg.i, steps, nsteps), src, n);
}

UOp *expand_product(Expand *e, UOp *mma) {
  if (expand_of_tiles(mma)) return tile_product(e, mma);
  UOp *src[2] = {factor_vector(e, mma, MATRIX_A), factor_vector(e, mma, MATRIX_B)};
  const MatrixInfo *info = matrix_info(mma->arg.i);
  return uop_make_lanes(e->job, OP_MMA, info->dtype[MATRIX_C], info->layout[MATRIX_C].registers,
                        arg_i(mma->arg.i), src, 2);
}

/* Of all elements of the product those of this instance. */
UOp *expand_product_part(Expand *e, UOp *mma, UOp *product) {
  unsigned wide = vector_elements(e, mma, MATRIX_C), first = element_here(e, mma);
  int64_t *lanes = arena_array(&e->job->arena, wide, sizeof *lanes);
  for (unsigned k = 0; k < wide; k++) lanes[k] = first + k;
  return expand_shuffle(e, &product, 1, lanes, wide);
}

bool expand_is_product(const UOp *u) { return u->op == OP_MMA && u->nsrc > 3; }

/* All elements of x, as the thread has those of the product, joined with what is added to them. */
static UOp *joined(Expand *e, UOp *mma, UOp *x) {
  unsigned n = matrix_info(mma->arg.i)->layout[MATRIX_C].registers;
  unsigned wide = vector_elements(e, mma, MATRIX_C);
  UOp **part = arena_array(&e->job->arena, n, sizeof *part);
  int64_t *lanes = arena_array(&e->job->arena, n, sizeof *lanes);
  for (unsigned r = 0; r < n; r += wide) {
    expand_go_to(e, mma, MATRIX_C, r);
    part[r / wide] = expand_operand(e, x, wide, DT_INDEX);
  }
  expand_go_to(e, mma, MATRIX_C, 0);
  for (unsigned r = 0; r < n; r++) lanes[r] = r;
  return expand_shuffle(e, part, n / wide, lanes, n);
}

static UOp *product_of(UOp *sum) {
  bool many = sum->op == OP_REDUCE && sum->arg.i == OP_ADD;
  UOp *mma = many ? sum->src[0] : sum;
  return mma->op == OP_MMA ? mma : NULL;
}

/* A value and a sum of products all of whose steps, or the only one, are written out: the sum
 * begins with the value. */
bool expand_begins_sum(const UOp *u) {
  UOp *sum = u->op == OP_ADD && u->nsrc == 2 ? u->src[1] : NULL,
      *mma = sum ? product_of(sum) : NULL;
  for (uint32_t s = 1; mma && sum != mma && s < sum->nsrc; s++)
    if (!expand_is_expanded(uop_axis(sum->src[s]))) return false;
  return mma && matrix_info(mma->arg.i)->threads > 1;
}

UOp *expand_begun_sum(Expand *e, UOp *u) {
  Node *n = expand_node(e, u);
  UOp *sum = u->src[1], *mma = product_of(sum);
  if (!n->product) n->product = arena_array(&e->job->arena, n->n, sizeof *n->product);
  uint32_t coord[MAX_EXPANDED];
  memcpy(coord, e->coord, sizeof coord);
  expand_go_to(e, mma, MATRIX_C, 0);
  UOp **all = &n->product[expand_slot(e, n->deps)];
  uint64_t closed = sum == mma ? 0 : expand_closed(e, sum);
  UOp *tree = *all ? *all : joined(e, mma, u->src[0]);
  if (!*all) do {
      UOp *v = expand_product(e, mma);
      v = uop_make(e->job, OP_REDUCE, DT_VOID, arg_i(OP_ADD), &v, 1);
      tree = uop2(e->job, OP_ADD, tree, v);
    } while (expand_next(e, closed));
  *all = tree;
  memcpy(e->coord, coord, sizeof coord);
  return expand_product_part(e, mma, *all);
}
