/* The schedule for a kernel nobody has tuned yet.
 *
 * Everything is read off the steps with which each load and the store walk memory along each axis.
 * - A contraction (a sum of products in which some operand is reused along an output axis) gets a
 *   register tile: vectors along the store's unit-stride axis, rows along an axis on which the
 *   vector operand does not depend; its shape is the one that wastes least and keeps the FMA units
 *   busy. The vector operand is packed per panel (STAGE), because power-of-two row strides, padding
 *   gates and transposition are then paid once per panel instead of once per row tile.
 * - When the tile would have few rows and the reduce axis is contiguous, the reduce axis is the
 *   vector (matrix times vector).
 * - Any other reduction: vectors along the output if its operands are contiguous there, else along
 *   the reduce axis, unrolled into independent accumulators.
 * - Elementwise work: vectors along the axis where most accesses are contiguous.
 * Threads go to the loop that splits best, if each gets enough to do. */

#include "compiler/ir/verify.h"
#include "compiler/passes/collapse.h"
#include "compiler/passes/heuristic_gpu.h"
#include "compiler/passes/heuristic_parts.h"
#include "compiler/passes/schedule.h"

#define NONLINEAR INT64_MAX

enum {
  MIN_THREAD_WORK = 1 << 18, /* scalar operations that make a thread worth waking */
  MAX_UNROLLED_TILE = 160,   /* multiply-adds in one loop body */
  FAR_STEP = 1 << 10,        /* stands for a step that is known only at run time */
};

bool heuristic_given(const Sched *s, OptPlan *plan) {
  OptList rest = *s->opts;
  while (rest.len && opt_is_head(rest.at)) rest.at++, rest.len--;
  Status st = opts_plan(s->job, s->k, s->target, &rest, plan);
  bool legal = !st;
  status_drop(st);
  return legal;
}

/* -- steps ------------------------------------------------------------------------------------- */

static int64_t step_in(Sched *s, UOp *index, int axis, int64_t lanes);

/* A quotient or remainder by c moves regularly while the lanes stay inside one period. */
static int64_t step_in_atom(Sched *s, UOp *atom, int axis, int64_t lanes) {
  if (!kernel_depends(atom, (uint32_t)axis)) return 0;
  if (atom->op == OP_RANGE) return 1;
  if (atom->op == OP_MUL) { /* by something that is known only at run time: far apart */
    bool first = kernel_depends(atom->src[0], (uint32_t)axis);
    if (kernel_depends(atom->src[first], (uint32_t)axis)) return NONLINEAR;
    int64_t inner = step_in(s, atom->src[!first], axis, lanes);
    return times(inner, FAR_STEP); /* NONLINEAR stays what it is */
  }
  bool div = atom->op == OP_FLOORDIV;
  if ((!div && atom->op != OP_FLOORMOD) || !uop_is_const(atom->src[1])) return NONLINEAR;
  int64_t c = atom->src[1]->arg.i, inner = step_in(s, atom->src[0], axis, lanes);
  if (inner == NONLINEAR || inner <= 0 || inner > c || c % times(inner, lanes)) return NONLINEAR;
  return div ? 0 : inner;
}

/* Elements that an index moves when the axis moves by one, over `lanes` aligned iterations. */
static int64_t step_in(Sched *s, UOp *index, int axis, int64_t lanes) {
  const LinSum *sum = linsum_of(&s->sums, index);
  int64_t step = 0;
  for (uint32_t i = 0; i < sum->n; i++) {
    int64_t t = step_in_atom(s, sum->at[i].atom, axis, lanes);
    int64_t by = t == NONLINEAR ? NONLINEAR : times(t, sum->at[i].coeff);
    if (by == NONLINEAR || __builtin_add_overflow(step, by, &step)) return NONLINEAR;
  }
  return step;
}

int64_t heuristic_step(Sched *s, UOp *index, int axis) { return step_in(s, index, axis, 1); }

static int lanes_for(const Sched *s, DType d) {
  int bytes = dtype_info[d].bytes;
  return bytes ? (int)s->target->vector_bytes / bytes : 1;
}

/* The widest element that the kernel loads or stores decides the lanes. */
static int kernel_lanes(const Sched *s) {
  int lanes = lanes_for(s, (DType)s->k->store->src[0]->dtype);
  for (uint32_t i = 0; i < s->k->noperands; i++) {
    DType d = (DType)s->k->operands[i]->dtype;
    int l = lanes_for(s, d);
    if (dtype_is_float(d) && l < lanes) lanes = l;
  }
  int most = (int)s->target->vector_bytes / 4;
  return lanes > most ? most : lanes < 1 ? 1 : lanes;
}

/* -- reductions -------------------------------------------------------------------------------- */

/* Nodes that one instance of the kernel's values has. */
static int64_t value_nodes(const Sched *s) {
  int64_t n = 0;
  for (size_t i = 0; i < s->k->list.len; i++) n += heuristic_weight(s->k->list.at[i]);
  return n + 1;
}

/* The loads under a value, without those that belong to inner reductions. */
static Body body_of(Sched *s, UOp *reduce) {
  Body b = {.reduce = reduce, .work = 1};
  UOpList list = uop_toposort(s->job, reduce->src[0]);
  NodeMap pos;
  bool *reached = arena_array(&s->job->arena, list.len, sizeof *reached);
  b.loads = arena_array(&s->job->arena, list.len, sizeof *b.loads);
  nodemap_number(s->job, &pos, &list);
  reached[list.len - 1] = true;
  for (size_t i = list.len; i-- > 0;) {
    UOp *u = list.at[i];
    if (!reached[i] || u->op == OP_REDUCE) continue;
    if (u->dtype != DT_BOOL) b.weight += heuristic_weight(u);
    if (u->op == OP_INDEX && u->src[0]->op == OP_PARAM) b.loads[b.n++] = u;
    for (uint32_t k = 0; k < u->nsrc; k++) reached[nodemap_get(&pos, u->src[k])] = true;
  }
  const RangeSet *open = reduce->src[0]->open;
  for (uint32_t i = 0; open && i < open->n; i++) b.work = times(b.work, most_of(open->at[i]));
  return b;
}

static bool depends_on(const UOp *load, int axis) {
  return axis >= 0 && kernel_depends(load->src[1], (uint32_t)axis);
}

/* What a vector of accesses costs along an axis, in loads of one vector. */
static double access_cost(Sched *s, UOp *index, int axis, int64_t lanes) {
  int64_t t = step_in(s, index, axis, lanes);
  if (t == 0) return 0.3;
  if (t == 1) return 1;
  if (t == NONLINEAR) return (double)lanes * 1.5;
  return t == 2 || t == -1 ? 3 : (double)lanes * 0.7;
}

/* Gates that first have to find row and column. */
static bool costly_gate(Sched *s, const UOp *load) {
  if (load->nsrc < 3) return false;
  UOpList list = uop_toposort(s->job, load->src[2]);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_FLOORDIV || list.at[i]->op == OP_FLOORMOD) return true;
  return false;
}

/* Roughly how many instructions one step of the body is, in vectors along v. */
static int64_t body_weight(Sched *s, const Body *b, int v, int64_t lanes) {
  double w = 0;
  for (uint32_t l = 0; l < b->n; l++) {
    w += v < 0 ? 1 : access_cost(s, b->loads[l]->src[1], v, lanes);
    w += b->loads[l]->nsrc > 2 ? 1 : 0;
    w += costly_gate(s, b->loads[l]) ? 3 : 0;
  }
  return w < (double)b->weight ? b->weight : (int64_t)w;
}

int64_t heuristic_vector(Sched *s, int axis, int64_t lanes) {
  int64_t n = size_of(s, axis);
  bool reduce = s->k->axes[axis].reduce;
  if (n < lanes) lanes = power_above(n);
  if (is_static(s, axis) && (n < lanes || (reduce && n % lanes))) give(s, OPT_PADTO, axis, lanes);
  give(s, OPT_VECTOR, axis, lanes);
  return lanes;
}

/* -- contractions ------------------------------------------------------------------------------ */

typedef struct Contraction {
  const Body *body;
  int v, m; /* vector axis and row axis */
  int64_t lanes;
  int64_t nv, mr; /* vectors and rows of the register tile */
  int64_t depth;  /* product of the reduce extents */
  int64_t matrix; /* TC's argument, -1: no matrix instruction */
} Contraction;

/* The row axis: an output axis on which no vector operand depends. The innermost that has rows
 * enough, since rows that are far apart share sets of the cache; else the largest. */
int heuristic_row_axis(const Sched *s, const Body *b, int v) {
  enum { ENOUGH = 7 };
  int best = -1;
  for (uint32_t i = 0; i < s->k->nloops; i++) {
    int a = (int)s->k->loops[i]->arg.i;
    bool any = false, clash = false;
    for (uint32_t l = 0; l < b->n; l++) {
      any |= depends_on(b->loads[l], a);
      clash |= depends_on(b->loads[l], v) && depends_on(b->loads[l], a);
    }
    if (a == v || !any || clash || s->k->axes[a].serial) continue;
    if (best < 0 || size_of(s, a) >= ENOUGH || size_of(s, a) >= size_of(s, best)) best = a;
  }
  return best;
}

static int store_axis(Sched *s) {
  for (uint32_t i = 0; i < s->k->nloops; i++) {
    int a = (int)s->k->loops[i]->arg.i;
    if (!s->k->axes[a].serial && step_in(s, s->k->store->src[1], a, 1) == 1) return a;
  }
  return -1;
}

/* Unit step along the axis for every load that depends on it? */
static bool contiguous_along(Sched *s, const Body *b, int axis, int64_t lanes) {
  for (uint32_t l = 0; l < b->n; l++) {
    int64_t t = step_in(s, b->loads[l]->src[1], axis, lanes);
    if (t != 0 && t != 1) return false;
  }
  return true;
}

/* Rows innermost, vectors just outside of them: one packed panel serves all rows. */
static void order_panels(Sched *s, const Contraction *c) {
  int last = (int)s->k->nloops - 1, v = place_of(s, c->v), m = place_of(s, c->m);
  if (m != last) give(s, OPT_ORDER, c->m, last), v -= v > m;
  if (v != last - 1) give(s, OPT_ORDER, c->v, last - 1);
}

/* Bytes that all loads of the body that depend on the axis, but not on the other, are of. */
static double bytes_along(const Body *b, int axis, int other) {
  double bytes = 0;
  for (uint32_t l = 0; l < b->n; l++) {
    const UOp *of = b->loads[l]->src[0];
    if (depends_on(b->loads[l], axis) && !depends_on(b->loads[l], other))
      bytes += (double)dim_typical(of->arg.ints.at[0]) * dtype_info[of->dtype].bytes;
  }
  return bytes;
}

/* Of two outer loops, images and blocks of filters, say, each goes through all of the other's
 * operand again and again, unless that stays in the cache: the one comes first that moves less. */
static void order_outer(Sched *s, const Contraction *c) {
  double cache = (double)s->target->l2_bytes;
  if (s->k->nloops < 4) return;
  int a = (int)s->k->loops[0]->arg.i, b = (int)s->k->loops[1]->arg.i;
  double of_a = bytes_along(c->body, a, b), of_b = bytes_along(c->body, b, a);
  if (a == c->m || b == c->m || a == c->v || b == c->v || of_a <= 0 || of_b <= 0) return;
  double first = of_a + (of_b > cache ? of_b * (double)size_of(s, a) : of_b);
  double second = of_b + (of_a > cache ? of_a * (double)size_of(s, b) : of_a);
  if (second < 0.7 * first) give(s, OPT_ORDER, b, 0);
}

static bool reaches(Sched *s, UOp *from, const UOp *to) {
  UOpList list = uop_toposort(s->job, from);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i] == to) return true;
  return false;
}

/* What to pack for a load: the factor it is part of, so that what is computed from it is computed
 * once per panel, unless that varies along the rows. */
static UOp *panel_of(Sched *s, const Contraction *c, UOp *load) {
  if (c->matrix >= 0) return load; /* which the instruction takes as it is */
  const UOp *product = through_casts(c->body->reduce->src[0]);
  for (uint32_t k = 0; k < 2; k++) {
    UOp *factor = product->src[k];
    if (stage_number(s, factor) >= 0 && !kernel_depends(factor, (uint32_t)c->m) &&
        reaches(s, factor, load))
      return factor;
  }
  return load;
}

/* Does it lie in memory as a matrix instruction takes it? */
static bool is_packed(Sched *s, const Contraction *c, const UOp *load) {
  if (c->matrix < 0 || load->nsrc > 2) return false;
  const MatrixInfo *info = matrix_info(opt_tc_id(c->matrix));
  return step_in(s, load->src[1], c->v, info->n) == info->k;
}

/* Laid out as a panel already: the tile's columns, then the reduce axes from the innermost out. */
static bool is_panel(Sched *s, const Contraction *c, const UOp *load) {
  int64_t step = size_of(s, c->v);
  if (load->nsrc > 2 || step > c->nv * c->lanes || step_in(s, load->src[1], c->v, 1) != 1)
    return false;
  for (uint32_t r = c->body->reduce->nsrc; r-- > 1;) {
    int a = (int)c->body->reduce->src[r]->arg.i;
    if (step_in(s, load->src[1], a, 1) != step) return false;
    step = times(step, size_of(s, a));
  }
  return true;
}

/* True when every vector operand is packed now. */
static bool stage_panels(Sched *s, const Contraction *c) {
  int64_t rows = heuristic_tiles(size_of(s, c->m), c->mr);
  if (c->matrix >= 0) rows = 2; /* its columns are packed for it */
  bool all = rows >= 2;
  for (uint32_t l = 0; l < c->body->n; l++) {
    UOp *load = c->body->loads[l];
    if (rows < 2 || !depends_on(load, c->v) || is_packed(s, c, load)) continue;
    UOp *panel = panel_of(s, c, load);
    if (c->matrix < 0 && panel == load && is_panel(s, c, load)) {
      int a = (int)c->body->reduce->src[c->body->reduce->nsrc - 1]->arg.i;
      if (s->tile[a] == 1 && a != s->carried) give(s, OPT_UNROLL, a, divisor_below(s, a, 4));
      continue;
    }
    int64_t elements = c->nv * c->lanes;
    for (uint32_t r = 1; r < c->body->reduce->nsrc; r++)
      if (c->body->reduce->src[r]->arg.i != s->carried &&
          uop_is_open(panel, c->body->reduce->src[r]))
        elements = times(elements, most_of(c->body->reduce->src[r]));
    bool fits = (uint64_t)elements <= s->target->l2_bytes / dtype_info[panel->dtype].bytes;
    bool again = false;
    for (size_t i = 0; i < s->opts->len; i++)
      again |= s->opts->at[i].kind == OPT_STAGE && s->opts->at[i].arg == stage_number(s, panel);
    if (fits && !again) give(s, OPT_STAGE, c->v, stage_number(s, panel));
    all = all && fits;
  }
  return all;
}

/* Short reduce axes are written out, innermost first, while the body stays small. */
static void unroll_short(Sched *s, const Body *b, int64_t fma, int64_t most) {
  for (uint32_t r = b->reduce->nsrc; r-- > 1;) {
    int a = (int)b->reduce->src[r]->arg.i;
    int64_t n = size_of(s, a);
    bool loop = a == s->carried || !is_static(s, a);
    if (loop || s->tile[a] > 1 || n > most || fma * n > MAX_UNROLLED_TILE) continue;
    give(s, OPT_UNROLL, a, n);
    fma *= n;
  }
}

static int64_t reduce_extent(const Body *b) {
  int64_t n = 1;
  for (uint32_t r = 1; r < b->reduce->nsrc; r++) n = times(n, most_of(b->reduce->src[r]));
  return n;
}

/* Matrix times few vectors, rows contiguous along the reduce axis: lanes along it. */
static bool schedule_dots(Sched *s, const Body *b, int64_t lanes) {
  int k = -1;
  for (uint32_t r = 1; r < b->reduce->nsrc; r++) {
    int a = (int)b->reduce->src[r]->arg.i;
    if (contiguous_along(s, b, a, 1) && (k < 0 || size_of(s, a) > size_of(s, k))) k = a;
  }
  if (k < 0 || size_of(s, k) < lanes) return false;
  int64_t chains = 1, left = 1;
  for (uint32_t i = s->k->nloops; i-- > 0 && chains < 8;) {
    int a = (int)s->k->loops[i]->arg.i;
    if (!body_depends(b, a)) continue;
    int64_t n = size_of(s, a), f = n < 8 / chains ? n : 8 / chains;
    give(s, OPT_UPCAST, a, f);
    chains *= f;
  }
  while (left * 2 * chains <= 8 && size_of(s, k) % (lanes * left * 2) == 0) left *= 2;
  s->reduce_vector[k] = true;
  heuristic_vector(s, k, lanes);
  give(s, OPT_UNROLL, k, left);
  return true;
}

static void give_matrix(Sched *s, int v, int64_t arg) {
  const MatrixInfo *info = matrix_info(opt_tc_id(arg));
  int k = (int)opt_tc_k(arg);
  if (size_of(s, k) % info->k) give(s, OPT_PADTO, k, info->k);
  give(s, OPT_TC, v, arg);
  s->tile[v] *= info->n;
  s->tile[k] *= info->k;
}

/* One row times a matrix, block by block. */
static bool schedule_row(Sched *s, const Contraction *c) {
  int64_t used = heuristic_vector(s, c->v, c->lanes);
  s->vector = c->v;
  if (size_of(s, c->v) >= 2 * used) give(s, OPT_UPCAST, c->v, 2);
  give(s, OPT_CARRY, s->carried, 0);
  return true;
}

static bool schedule_contraction(Sched *s, const Body *b, int64_t lanes) {
  Contraction c = {.body = b, .v = store_axis(s), .lanes = lanes, .depth = reduce_extent(b)};
  if (!sums_products(b) || c.v < 0 || !body_depends(b, c.v) || b->n < 2) return false;
  c.m = heuristic_row_axis(s, b, c.v);
  int64_t N = size_of(s, c.v), M = c.m >= 0 ? size_of(s, c.m) : 1;
  bool direct = contiguous_along(s, b, c.v, lanes);
  c.matrix =
      M > 1 && c.m >= 0 ? heuristic_matrix(s->job, s->k, s->target, c.v, b->reduce, lanes) : -1;
  if (c.matrix < 0 && M < 8 && !direct && schedule_dots(s, b, lanes)) return true;
  if (c.m < 0 || M == 1) return s->carried >= 0 && schedule_row(s, &c);
  if (N < lanes) c.lanes = power_above(N);
  s->vector = c.v;
  TileShape shape = {
      .columns = N, .rows = M, .lanes = c.lanes, .epilogue = value_nodes(s) - b->weight};
  for (uint32_t l = 0; l < b->n; l++) shape.whole |= is_packed(s, &c, b->loads[l]);
  heuristic_tile(&shape, s->target, &c.nv, &c.mr);
  if (c.matrix >= 0)
    give_matrix(s, c.v, c.matrix);
  else
    heuristic_vector(s, c.v, c.lanes);
  give(s, OPT_UPCAST, c.v, c.nv);
  give(s, OPT_UPCAST, c.m, c.mr);
  order_panels(s, &c);
  order_outer(s, &c);
  /* Loops over a packed panel collapse into one; others are written out while they are short. */
  if (!stage_panels(s, &c)) unroll_short(s, b, c.nv * c.mr, 7);
  if (s->carried >= 0) give(s, OPT_CARRY, s->carried, 0);
  if (c.nv * c.mr < 8) {
    int a = (int)b->reduce->src[b->reduce->nsrc - 1]->arg.i;
    if (s->tile[a] == 1) give(s, OPT_UNROLL, a, divisor_below(s, a, 8 / (c.nv * c.mr)));
  }
  return true;
}

/* -- everything else --------------------------------------------------------------------------- */

static int best_vector_axis(Sched *s, int64_t lanes) {
  int best = -1;
  bool chained = heuristic_chained(s) >= 0;
  double least = 0, work = heuristic_shared(s, -1) > 1 ? (double)value_nodes(s) : 0;
  for (uint32_t i = 0; i < s->k->nloops; i++) {
    int a = (int)s->k->loops[i]->arg.i;
    int64_t n = size_of(s, a), used = n < lanes ? power_above(n) : lanes;
    if (n < 2 || s->k->axes[a].serial) continue;
    if (chained && step_in(s, s->k->store->src[1], a, 1) != 1) continue; /* rows at once instead */
    double cost = work;
    for (uint32_t l = 0; l < s->k->noperands; l++)
      cost += access_cost(s, s->k->operands[l]->src[1], a, lanes);
    cost /= (double)heuristic_shared(s, a);
    cost += 1.5 * access_cost(s, s->k->store->src[1], a, lanes);
    cost /= (double)(n < used ? n : used);
    if (best < 0 || cost < least) best = a, least = cost;
  }
  /* Scalars cost one load each. */
  return best >= 0 && least < 1.2 * (1 + s->k->noperands) ? best : -1;
}

/* Would some value lie in the lanes of two axes? */
static bool second_vector(const Sched *s, int axis) {
  for (size_t i = 0; i < s->k->list.len; i++) {
    const RangeSet *open = s->k->list.at[i]->open;
    bool here = false, other = false;
    for (uint32_t r = 0; open && r < open->n; r++) {
      int a = (int)open->at[r]->arg.i;
      here |= a == axis;
      other |= a != axis && (a == s->vector || s->reduce_vector[a]);
    }
    if (here && other) return true;
  }
  return false;
}

/* Lanes along the reduce axis of a row reduction, in `many` accumulators. */
static void vectorise_reduce(Sched *s, const Body *b, int64_t lanes, int64_t many, int64_t room) {
  int k = -1;
  for (uint32_t r = 1; r < b->reduce->nsrc; r++) {
    int a = (int)b->reduce->src[r]->arg.i;
    if (s->reduce_vector[a]) return;
    if (!contiguous_along(s, b, a, lanes) || size_of(s, a) < 4 || second_vector(s, a)) continue;
    if (k < 0 || size_of(s, a) > size_of(s, k)) k = a;
  }
  if (k < 0) {
    int a = (int)b->reduce->src[b->reduce->nsrc - 1]->arg.i;
    if (s->tile[a] == 1 && room >= 4) give(s, OPT_UNROLL, a, divisor_below(s, a, 8));
    return;
  }
  s->reduce_vector[k] = true;
  if (s->tile[k] > 1) return;
  int64_t n = size_of(s, k), unroll = room < many ? room : many;
  if (n < lanes) lanes = power_above(n);
  unroll = power_below(unroll);
  while (unroll > 1 && (n < lanes * unroll || (n % lanes == 0 && n % (lanes * unroll))))
    unroll /= 2;
  if (n % lanes == 0 || !is_static(s, k)) {
    give(s, OPT_VECTOR, k, lanes);
  } else {
    give(s, OPT_PADTO, k, lanes * unroll);
    give(s, OPT_VECTOR, k, lanes);
  }
  give(s, OPT_UNROLL, k, unroll);
}

/* Column reductions and windows: the reduce axes of a body that already has lanes. */
static void unroll_under_vector(Sched *s, const Body *b, int64_t lanes, int64_t tile,
                                int64_t room) {
  unroll_short(s, b, tile * body_weight(s, b, s->vector, lanes) / 2 + 1, 8);
  int a = (int)b->reduce->src[b->reduce->nsrc - 1]->arg.i;
  if (s->tile[a] > 1) return;
  int64_t want = tile > 8 ? 2 : 4;
  give(s, OPT_UNROLL, a, divisor_below(s, a, want < room ? want : room));
}

/* How many steps along the axis share something of a window: its loads, where the axis moves the
 * window by one or two of its own steps, or its gates, where only the loads depend on the axis. */
static int64_t sharing_along(Sched *s, const Body *b, int axis) {
  int64_t share = 1;
  for (uint32_t l = 0; l < b->n; l++) {
    UOp *load = b->loads[l];
    int64_t t = step_in(s, load->src[1], axis, 1);
    if (t == 0 || t == NONLINEAR) continue;
    for (uint32_t r = 1; r < b->reduce->nsrc; r++) {
      int64_t k = step_in(s, load->src[1], (int)b->reduce->src[r]->arg.i, 1);
      if (k > 0 && k != NONLINEAR && (t == k || t == 2 * k)) return t == k ? 4 : 2;
    }
    if (costly_gate(s, load) && !kernel_depends(load->src[2], (uint32_t)axis)) share = 4;
  }
  return share;
}

/* Window tiles: several steps along the output axis that shares most, innermost first. */
static int64_t tile_window(Sched *s, const Body *b, int v) {
  int best = -1;
  int64_t most = 1;
  for (uint32_t i = s->k->nloops; i-- > 0;) {
    int a = (int)s->k->loops[i]->arg.i;
    bool taken = a == v || s->tile[a] > 1 || s->k->axes[a].serial;
    int64_t share = taken ? 1 : sharing_along(s, b, a);
    if (share > most) best = a, most = share;
  }
  if (best < 0) return 1;
  if (most > size_of(s, best)) most = size_of(s, best);
  give(s, OPT_UPCAST, best, most);
  return most;
}

/* A reduction whose rows are contiguous while its output axis is not goes along the rows. */
static bool rows_are_better(Sched *s, const Body *b, int v, int64_t lanes) {
  if (!body_depends(b, v) || contiguous_along(s, b, v, lanes)) return false;
  for (uint32_t r = 1; r < b->reduce->nsrc; r++) {
    int a = (int)b->reduce->src[r]->arg.i;
    if (contiguous_along(s, b, a, lanes) && size_of(s, a) >= lanes) return true;
  }
  return false;
}

/* Makes the chosen axis the vector, and several of them where the body has room: rows of a
 * transpose, or vectors side by side. `many`: how many side by side. How often a body stands then.
 */
static int64_t widen_vector(Sched *s, int64_t lanes, int64_t room, int64_t many, bool reduces) {
  int64_t rows = reduces ? 0 : heuristic_transpose(s, lanes, room);
  if (rows) return rows;
  int v = s->vector;
  int64_t used = heuristic_vector(s, v, lanes), n = size_of(s, v);
  if (room < 2 || n < 2 * used) return 1;
  int64_t f = n / used < many ? n / used : many;
  if (f > room) f = room;
  while (f > 1 && n % (used * f) && n % used == 0) f--;
  give(s, OPT_UPCAST, v, f);
  return f > 1 ? f : 1;
}

/* Vectors of columns that are reduced side by side. Each step is another row, so that what is read
 * of a row should be as long as there are registers for the results; but threads have to share. */
static int64_t many_columns(const Sched *s, const Body *b, int64_t lanes) {
  enum { FEW = 4, LIGHT = 4 };
  if (b->reduce->nsrc > 2) return 2;
  int64_t most = s->target->vector_registers / 2, threads = s->target->threads;
  int64_t all = size_of(s, s->vector) / lanes;
  if (b->weight > LIGHT || !is_static(s, s->vector)) return FEW;
  for (; most > FEW; most /= 2)
    if (all >= most * (s->k->nloops > 1 || !threads ? 1 : threads)) return most;
  return FEW;
}

static void schedule_general(Sched *s, const Body *bodies, uint32_t nbodies, int64_t lanes) {
  int64_t nodes = value_nodes(s), tile = 1;
  s->vector = best_vector_axis(s, lanes);
  for (uint32_t i = 0; i < nbodies; i++)
    if (rows_are_better(s, &bodies[i], s->vector, lanes)) s->vector = -1;
  bool under_vector = false;
  for (uint32_t i = 0; i < nbodies; i++) under_vector |= body_depends(&bodies[i], s->vector);
  int64_t rows = heuristic_pair_rows(s, bodies, nbodies);
  if (heuristic_write_out(s)) {
    if (s->vector >= 0) heuristic_vector(s, s->vector, lanes);
  } else if (s->vector >= 0) {
    int64_t many = !under_vector ? 4 / rows : nbodies == 1 ? many_columns(s, bodies, lanes) : 2;
    tile = widen_vector(s, lanes, MAX_BODY / 4 / nodes, many, nbodies > 0);
  }
  for (uint32_t i = 0; i < nbodies; i++) {
    const Body *b = &bodies[i];
    int64_t room = MAX_BODY / (nodes * tile);
    if (!body_depends(b, s->vector)) {
      vectorise_reduce(s, b, lanes, 4 / rows, room);
      continue;
    }
    if (nbodies == 1 && room >= 32) tile *= tile_window(s, b, s->vector);
    unroll_under_vector(s, b, lanes, tile, room);
  }
}

/* -- threads ----------------------------------------------------------------------------------- */

static double total_work(const Sched *s) {
  double work = 0;
  for (size_t i = 0; i < s->k->list.len; i++) {
    const UOp *u = s->k->list.at[i];
    double n = (double)heuristic_weight(u);
    for (uint32_t r = 0; u->open && r < u->open->n; r++) n *= (double)most_of(u->open->at[r]);
    work += n;
  }
  return work;
}

/* The outermost loop that splits evenly enough, else the one that splits best. One whose size a run
 * may make so small that nothing is left to split counts half. */
static void give_threads(Sched *s) {
  int64_t T = s->target->threads;
  double work = total_work(s);
  if ((double)T * MIN_THREAD_WORK > work) T = (int64_t)(work / MIN_THREAD_WORK);
  if (T < 2) return;
  OptPlan plan;
  if (!heuristic_given(s, &plan)) return;
  int best = -1;
  double most = 0;
  for (uint32_t i = 0; i < plan.nout; i++) {
    int a = (int)plan.order[i];
    int64_t n = plan.axes[a].outer;
    if (n < T || s->k->axes[a].serial) continue;
    double even = (double)n / (double)(heuristic_tiles(n, T) * T);
    if (heuristic_tiles(s->k->axes[a].least, s->tile[a]) < T && !is_static(s, a)) even /= 2;
    if (even > most + 0.08) best = a, most = even;
  }
  if (best >= 0) give(s, OPT_THREAD, best, T);
}

/* -- merging ----------------------------------------------------------------------------------- */

/* The two axes of an image become one when the store is contiguous over both and the row operands
 * depend on neither: no vector is wasted at the end of a row, and the packed copy pays the price of
 * finding row and column. */
static bool merge_rows(Sched *s, const Body *b) {
  int v = store_axis(s);
  if (v < 0 || !sums_products(b) || b->n < 2) return false;
  int at = place_of(s, v), m = heuristic_row_axis(s, b, v);
  int outer = at > 0 ? (int)s->k->loops[at - 1]->arg.i : -1;
  if (m < 0 || outer < 0 || m == outer || size_of(s, outer) < 2) return false;
  if (!is_static(s, outer) || !is_static(s, v)) return false;
  if (step_in(s, s->k->store->src[1], outer, 1) != size_of(s, v)) return false;
  for (uint32_t l = 0; l < b->n; l++) {
    if (depends_on(b->loads[l], outer) && !depends_on(b->loads[l], v)) return false;
  }
  give(s, OPT_MERGE, outer, v);
  return true;
}

/* -- the pass ---------------------------------------------------------------------------------- */

static void analyse(Sched *s, UOp *kernel) {
  Job *job = s->job;
  s->k = kernel_info(job, kernel);
  s->tile = arena_array(&job->arena, s->k->naxes + 1u, sizeof *s->tile);
  s->reduce_vector = arena_array(&job->arena, s->k->naxes + 1u, sizeof *s->reduce_vector);
  for (uint32_t i = 0; i < s->k->naxes; i++) s->tile[i] = 1;
  linsum_init(job, &s->sums);
  for (size_t i = 0; i < s->k->list.len; i++)
    if (s->k->list.at[i]->dtype == DT_INDEX) linsum_of(&s->sums, s->k->list.at[i]);
}

/* The bodies of all REDUCEs; *main is the one with most work. */
static Body *find_bodies(Sched *s, uint32_t *n, uint32_t *main) {
  Body *bodies = arena_array(&s->job->arena, s->k->list.len, sizeof *bodies);
  *n = *main = 0;
  for (size_t i = 0; i < s->k->list.len; i++) {
    if (s->k->list.at[i]->op != OP_REDUCE) continue;
    bodies[*n] = body_of(s, s->k->list.at[i]);
    if (bodies[*n].work > bodies[*main].work) *main = *n;
    ++*n;
  }
  return bodies;
}

static bool is_tile(const Opt *o) {
  return o->kind == OPT_VECTOR || o->kind == OPT_UPCAST || o->kind == OPT_UNROLL;
}

/* Tiles that a size known only at run time need not be a multiple of are padded, where neither
 * overlapping nor clamping can do (opts.h). */
static void pad_symbolic(Sched *s) {
  OptList list = *s->opts;
  *s->opts = (OptList){0};
  for (size_t i = 0; i < list.len; i++) {
    const Opt *o = &list.at[i];
    bool first = is_tile(o) && !is_static(s, o->axis), vector = false;
    for (size_t k = 0; k < list.len; k++) {
      if (list.at[k].axis != o->axis || !is_tile(&list.at[k])) continue;
      first = first && k >= i;
      vector |= list.at[k].kind == OPT_VECTOR;
    }
    if (first) {
      const KernelAxis *a = &s->k->axes[o->axis];
      int64_t tile = s->tile[o->axis];
      bool needs = a->reduce || (vector && a->least < tile);
      if (needs && a->divisor % tile) opts_push(s->job, s->opts, OPT_PADTO, o->axis, tile);
    }
    opts_push(s->job, s->opts, (OptKind)o->kind, o->axis, o->arg);
  }
}

/* Cuts the reduce axis of a contraction into blocks, whose loop then goes around all others. True
 * when that made another kernel. */
static bool block_contraction(Sched *s, UOp *kernel, const Body *b) {
  int v = store_axis(s), k = (int)b->reduce->src[1]->arg.i;
  if (!sums_products(b) || v < 0 || !body_depends(b, v) || b->n < 2 || b->reduce->nsrc != 2)
    return false;
  int m = heuristic_row_axis(s, b, v);
  if (!is_static(s, k) || !is_static(s, v) || (m >= 0 && !is_static(s, m))) return false;
  if (s->k->nloops != (m >= 0 ? 2 : 1) || s->k->in_place) return false;
  BlockShape shape = {.rows = m >= 0 ? size_of(s, m) : 1,
                      .columns = size_of(s, v),
                      .depth = size_of(s, k),
                      .tile_rows = TILE_ROWS,
                      .sum_bytes = dtype_info[b->reduce->dtype].bytes,
                      .direct = contiguous_along(s, b, v, 1)};
  shape.packs =
      m >= 0 && heuristic_matrix(s->job, s->k, s->target, v, b->reduce, kernel_lanes(s)) >= 0;
  for (uint32_t l = 0; l < b->n; l++)
    if (depends_on(b->loads[l], v)) shape.bytes = dtype_info[b->loads[l]->dtype].bytes;
  Block block = heuristic_block(&shape, s->target);
  if (!block.steps || block.steps == shape.depth) return false;
  s->carried = block.unrolled ? k : (int)s->k->naxes;
  if (block.unrolled)
    give(s, OPT_UNROLL, k, block.steps);
  else
    give(s, OPT_SPLIT, k, block.steps);
  if (!block.unrolled) analyse(s, split_axis(s->job, kernel, k, block.steps, s->carried));
  return !block.unrolled;
}

static void choose(Sched *s, UOp *kernel) {
  uint32_t n, main;
  Body *bodies = find_bodies(s, &n, &main);
  int64_t lanes = kernel_lanes(s);
  if (lanes <= 1) return;
  if (n && !heuristic_inner(s, bodies, n) && merge_rows(s, &bodies[main])) {
    const Opt *o = &s->opts->at[s->opts->len - 1];
    kernel = merge_axes(s->job, kernel, o->axis, o->arg);
    analyse(s, kernel);
    bodies = find_bodies(s, &n, &main);
  }
  if (n > 2 && heuristic_chain(s, bodies, n, lanes)) return;
  if (n == 1 && block_contraction(s, kernel, bodies)) bodies = find_bodies(s, &n, &main);
  int v = n ? -1 : best_vector_axis(s, lanes);
  if (heuristic_transpose_blocks(s, v, lanes))
    analyse(s, split_axis(s->job, kernel, v, s->opts->at[0].arg, s->k->naxes));
  if (!n || !schedule_contraction(s, &bodies[main], lanes)) schedule_general(s, bodies, n, lanes);
  heuristic_serial(s);
}

UOp *schedule_heuristic(Job *job, UOp *kernel, const Target *target, OptList *applied) {
  Sched s = {.job = job, .target = target, .opts = applied, .vector = -1, .carried = -1};
  *applied = (OptList){0};
  analyse(&s, kernel);
  if (s.k->store && s.k->naxes <= INT8_MAX) { /* an Opt names no more */
    if (target->max_group) {
      heuristic_gpu(job, kernel, target, applied);
    } else {
      choose(&s, kernel);
      pad_symbolic(&s);
      heuristic_keep(&s);
      give_threads(&s);
    }
    /* What the rules of thumb put together need not be legal; scalar loops always are. */
    Status st = opts_check(job, kernel, target, applied);
    if (st) *applied = (OptList){0};
    status_drop(st);
  }
  UOp *scheduled = schedule_apply(job, kernel, target, applied);
  if (!kernel->symbolic || !applied->len) return scheduled;
  /* So is what the accesses of a symbolic kernel are proven for: the search for a proof gives up
   * somewhere. */
  Status st = verify_graph(job, scheduled, STAGE_SCHEDULED, "schedule");
  if (!st) return scheduled;
  status_drop(st);
  *applied = (OptList){0};
  return schedule_apply(job, kernel, target, applied);
}
