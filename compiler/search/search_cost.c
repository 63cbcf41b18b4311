/* What a kernel has to do, and what a schedule of it is expected to cost on a CPU.
 *
 * Three things are counted for a plan, per phase (the loop of a reduction, or what is outside of
 * them): instructions by the unit that runs them, the latency of accumulators, and the lines that
 * move between the levels of the cache. For the last one the loops are tried from the outside: the
 * first depth at which everything that the inner loops touch fits a level says how often its lines
 * come in. Rows that lie a multiple of 4 KiB apart share few sets of a cache: `pressure` is how
 * much of it they really take.
 *
 * The numbers are those of a current x86 core where the target does not say. The ranking corrects
 * what is wrong by a constant factor, and by more once there are measurements. */
#include <math.h>

#include "compiler/ir/dim.h"
#include "compiler/passes/schedule.h"
#include "compiler/search/internal.h"

enum { LINE = 64, SETS = 64, FMA_LATENCY = 4, WANTED_CHAINS = 8, LONG_BODY = 200 };

static uint64_t bit(uint32_t axis) { return (uint64_t)1 << axis; }
static double larger(double a, double b) { return a > b ? a : b; }
static double smaller(double a, double b) { return a < b ? a : b; }

/* -- footprints -------------------------------------------------------------------------------- */

static uint64_t gcd(uint64_t a, uint64_t b) {
  while (b) {
    uint64_t t = a % b;
    a = b, b = t;
  }
  return a;
}

/* Rows of `run` bytes that start `stride` bytes apart: how much more of a cache they take than they
 * have lines. */
static double pressure_of(double rows, double run, uint64_t stride) {
  if (stride % LINE || rows < 2) return 1;
  uint64_t starts = SETS / gcd(stride / LINE, SETS);
  double used = (double)starts * ceil(run / LINE);
  return used >= SETS || rows <= (double)starts ? 1 : SETS / used;
}

Footprint search_footprint(const Access *a, const double *extent) {
  double span = 1, count = 1, rows = 1, run = 1;
  uint64_t stride = 0;
  for (uint32_t i = 0; i < a->nsteps; i++) {
    double e = extent[a->steps[i].axis];
    int64_t step = a->steps[i].step;
    if (e <= 1 || step == 0) continue;
    if (step == STEP_FAR) {
      rows *= e, count *= e, span = a->numel;
      continue;
    }
    double s = fabs((double)step);
    if (s <= span) { /* dense, or a window that overlaps */
      if (rows == 1) run += s * (e - 1);
      count = smaller(count * e, span + s * (e - 1));
    } else {
      if (rows == 1) stride = (uint64_t)(step < 0 ? -step : step) * a->bytes;
      rows *= e, count *= e;
    }
    span += s * (e - 1);
  }
  if (count > a->numel) count = a->numel;
  double bytes = run * a->bytes;
  double lines = rows * (bytes <= LINE ? 1 : bytes / LINE + 0.5);
  double most = smaller(span, a->numel) * a->bytes / LINE + 1;
  return (Footprint){count, smaller(lines, most), pressure_of(rows, bytes, stride)};
}

/* -- the machine ------------------------------------------------------------------------------- */

static bool has_word(const char *text, const char *word) { return text && strstr(text, word); }

static Machine gpu_machine(const Target *t) {
  bool hopper = has_word(t->cpu, "sm_90"), nvidia = target_is_cuda(t);
  bool cpu = t->warp <= 1; /* an OpenCL device whose threads are loops */
  Machine m = {.ghz = 1.5, .launch_ns = 3000, .l2 = (double)t->l2_bytes};
  m.cores = hopper ? 132 : nvidia ? 80 : cpu ? 2 : 32;
  m.flops_ns = (cpu ? 16 : nvidia ? 256 : 128) * m.ghz;
  m.f64_flops_ns = m.flops_ns / 2;
  m.dram_ns = hopper ? 3000 : nvidia ? 800 : cpu ? 10 : 300;
  return m;
}

/* What was measured takes the place of what is assumed. The clock is what makes the measured flops
 * of the assumed ones per cycle, within reason: a core with one FMA unit is not one at half the
 * clock. */
static void use_peaks(Machine *m, const Peaks *p) {
  if (p->flops_f32 > 0) {
    double clock = p->flops_f32 / m->flops_ns;
    m->ghz *= smaller(larger(clock, 0.6), 2);
    m->flops_ns = p->flops_f32;
    m->f64_flops_ns = m->flops_ns / 2;
  }
  if (p->flops_f64 > 0) m->f64_flops_ns = p->flops_f64;
  if (p->l2_bytes > 0) m->l2_cycle = p->l2_bytes / m->ghz;
  if (p->l3_bytes > 0) m->l3_cycle = p->l3_bytes / m->ghz;
  if (p->memory_bytes > 0) m->dram_cycle = p->memory_bytes / m->ghz;
  if (p->all_memory_bytes > 0) m->dram_ns = larger(p->all_memory_bytes, p->memory_bytes);
}

Machine search_machine(const Target *t) {
  if (t->max_group) return gpu_machine(t);
  bool wide = t->vector_bytes >= 64, fma = wide || has_word(t->features, "+fma");
  Machine m = {.ghz = wide ? 2.6 : 3.0, .launch_ns = 20, .cores = t->threads ? t->threads : 1};
  m.flops_ns = (double)t->vector_bytes / 4 * (fma ? 4 : 2) * m.ghz;
  m.l1 = t->l1_bytes ? (double)t->l1_bytes : 32 << 10;
  m.l2 = t->l2_bytes ? (double)t->l2_bytes : 1 << 20;
  m.l3 = (double)t->l3_bytes;
  m.l2_cycle = 32, m.l3_cycle = 12, m.dram_cycle = 5;
  m.dram_ns = smaller(m.cores, 4) * 5 * m.ghz;
  m.f64_flops_ns = m.flops_ns / 2;
  use_peaks(&m, &t->peaks);
  return m;
}

/* -- bounds ------------------------------------------------------------------------------------ */

static int64_t whole(double v) {
  return v >= 9e18 ? INT64_MAX / 2 : v < 0 ? 0 : (int64_t)llround(v);
}

static bool counts_as_flop(const UOp *u) {
  return op_info[u->op].flags & OPF_ALU && u->dtype != DT_INDEX && u->dtype != DT_BOOL &&
         u->op != OP_CAST && u->op != OP_BITCAST && u->op != OP_WHERE;
}

static double evaluations(const Model *m, const UOp *u) {
  double n = 1;
  for (uint32_t i = 0; u->open && i < u->open->n; i++) n *= m->size[u->open->at[i]->arg.i];
  return n;
}

static bool same_place(const Access *a, const Access *b) {
  return a->param == b->param && a->store == b->store;
}

/* Distinct bytes of each operand, by the access that touches most of it. */
static void count_bytes(const Model *m, double *read, double *written) {
  *read = *written = 0;
  for (uint32_t i = 0; i < m->naccess; i++) {
    const Access *a = &m->access[i];
    bool first = true;
    double most = 0;
    for (uint32_t k = 0; k < m->naccess; k++) {
      if (!same_place(a, &m->access[k])) continue;
      first = first && k >= i;
      most = larger(most, search_footprint(&m->access[k], m->size).elements);
    }
    if (first) *(a->store ? written : read) += most * a->bytes;
  }
}

static bool loads_dtype(const Model *m, DType d) {
  for (uint32_t i = 0; i < m->naccess; i++)
    if (!m->access[i].store && m->access[i].node->dtype == d) return true;
  return false;
}

/* How much faster than f32 multiplications the target's matrix instructions for the operands are.
 */
static double matrix_gain(const Model *m) {
  double gain = 1;
  for (int64_t id = 0; m->nreductions && id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    if (info->cut || !matrix_on(info, m->target) || !loads_dtype(m, info->dtype[MATRIX_A]) ||
        !loads_dtype(m, info->dtype[MATRIX_B]))
      continue;
    gain = larger(gain,
                  info->threads > 1 ? 16.0 / dtype_info[info->dtype[MATRIX_A]].bytes * 2 : info->k);
  }
  return gain;
}

void search_bounds(const Model *m, SearchCost *out) {
  double flops = 0, read, written;
  for (size_t i = 0; i < m->info->list.len; i++) {
    const UOp *u = m->info->list.at[i];
    if (u->op == OP_REDUCE && u->nsrc > 1) flops += evaluations(m, u->src[0]);
    if (counts_as_flop(u)) flops += evaluations(m, u);
  }
  count_bytes(m, &read, &written);
  Machine c = search_machine(m->target);
  double bytes = read + written, per_ns = c.dram_ns;
  if (!m->target->max_group) {
    double cycle = bytes <= c.l1 ? 64 : bytes <= c.cores * c.l2 ? c.l2_cycle : 0;
    bool memory = cycle == 0 && bytes > c.l3, known = m->target->peaks.all_memory_bytes > 0;
    if (cycle == 0) cycle = memory ? 2 * c.dram_cycle : 1.3 * c.l3_cycle;
    per_ns = memory && known ? c.dram_ns : cycle * c.ghz * c.cores;
  } else if (bytes <= c.l2) {
    per_ns *= 2;
  }
  double rate = c.cores * (m->f64 ? c.f64_flops_ns : c.flops_ns * matrix_gain(m));
  double ns = larger(flops / rate, bytes / per_ns);
  *out = (SearchCost){whole(flops), whole(read), whole(written), whole(ns) + 1, 0};
}

/* -- prediction -------------------------------------------------------------------------------- */

typedef struct Loops { /* by axis */
  const Model *m;
  const OptPlan *plan;
  double trips[MODEL_AXES]; /* iterations of its loop, in one thread */
  double tile[MODEL_AXES];
  double copies[MODEL_AXES]; /* instances in the body, vectors counting once */
  double lanes[MODEL_AXES];
  int place[MODEL_AXES];      /* in `order` */
  uint32_t order[MODEL_AXES]; /* all loops; the first nout are those of outputs and a carried one */
  int nout, n;
  uint64_t outer; /* axes of the first nout */
  uint64_t carried;
  uint64_t vectors;
  double threads;
} Loops;

static void push_loop(Loops *l, uint32_t axis) {
  l->place[axis] = l->n;
  l->order[l->n++] = axis;
}

static void find_order(Loops *l) {
  const OptPlan *plan = l->plan;
  if (plan->carry >= 0) l->carried = bit((uint32_t)plan->carry);
  for (uint32_t i = 0; i < plan->nout; i++) {
    if (plan->carry >= 0 && plan->carry_at == i) push_loop(l, (uint32_t)plan->carry);
    push_loop(l, plan->order[i]);
  }
  l->nout = l->n;
  for (int i = 0; i < l->n; i++) l->outer |= bit(l->order[i]);
  for (uint32_t i = plan->nout; i < plan->nout + plan->nred; i++)
    if ((int)plan->order[i] != plan->carry) push_loop(l, plan->order[i]);
}

static void find_loops(Loops *l, const Model *m, const OptPlan *plan) {
  *l = (Loops){.m = m, .plan = plan, .threads = 1};
  for (uint32_t i = 0; i < m->info->naxes; i++) {
    const AxisPlan *a = &plan->axes[i];
    if (!m->info->axes[i].range) continue;
    double steps =
        axis_is_static(&m->info->axes[i]) ? (double)a->outer : ceil(m->size[i] / (double)a->tile);
    if (a->threads) l->threads = a->threads, steps = ceil(steps / a->threads);
    l->trips[i] = larger(steps, 1);
    l->tile[i] = (double)a->tile;
    l->lanes[i] = a->vector;
    int64_t copies = a->tile / a->vector / a->matrix;
    l->copies[i] = (double)copies;
    if (a->matrix > 1 && !m->info->axes[i].reduce) l->lanes[i] = a->matrix;
    if (l->lanes[i] > 1) l->vectors |= bit(i);
  }
  find_order(l);
}

/* One more than the place of the innermost of the loops over `axes`. */
static int depth_of(const Loops *l, uint64_t axes) {
  int depth = 0;
  for (; axes; axes &= axes - 1) {
    int p = l->place[__builtin_ctzll(axes)] + 1;
    if (p > depth) depth = p;
  }
  return depth;
}

/* Does the loop at a place run around the values of a group? */
static bool is_around(const Loops *l, const Group *g, int place) {
  uint64_t axis = bit(l->order[place]);
  if (place < depth_of(l, g->nest & l->outer)) return !(axis & l->carried) || g->nest & axis;
  return place < depth_of(l, g->open & l->m->reduce) && g->nest & axis;
}

/* How often the loops run through the place where a group's values are computed. */
static double rounds_of(const Loops *l, const Group *g) {
  double n = 1;
  for (int i = 0; i < l->n; i++)
    if (is_around(l, g, i)) n *= l->trips[l->order[i]];
  return n;
}

static double copies_of(const Loops *l, uint64_t axes) {
  double n = 1;
  for (; axes; axes &= axes - 1) n *= l->copies[__builtin_ctzll(axes)];
  return n;
}

/* Registers that a value of that many bytes per element takes. */
static double registers_of(const Loops *l, uint64_t axes, uint32_t bytes) {
  uint64_t v = axes & l->vectors;
  if (!v) return 1;
  double width = l->lanes[__builtin_ctzll(v)] * bytes / l->m->target->vector_bytes;
  return larger(width, 1);
}

static double lanes_of(const Loops *l, uint64_t axes) {
  uint64_t v = axes & l->vectors;
  return v ? l->lanes[__builtin_ctzll(v)] : 1;
}

typedef struct Units {
  double alu, load, store, other, stall;
} Units;

static double cycles_of(const Units *u, bool wide) {
  double front = (u->alu + u->load + u->store + u->other) / 6;
  double alu = u->alu / (wide ? 2 : 2.5);
  return larger(larger(front, alu), larger(larger(u->load / 2, u->store), u->stall));
}

/* The StagePlan by whose copy the values are computed, or NULL. */
static const StagePlan *stage_of_group(const Loops *l, const Group *g) {
  for (uint32_t i = 0; i < l->plan->nstages; i++) {
    uint32_t o = l->plan->stages[i].operand;
    if (o < 64 && g->under >> o & 1) return &l->plan->stages[i];
  }
  return NULL;
}

static const StagePlan *stage_of(const Loops *l, const Access *a) {
  return stage_of_group(l, &l->m->groups[a->group]);
}

/* The share of a group's evaluations that is left when what it is part of is kept. */
static double kept_share(const Loops *l, const Group *g) {
  double share = 1;
  for (uint32_t i = 0; i < l->plan->nkeeps; i++) {
    uint32_t v = l->plan->keeps[i].value;
    if (v < 64 && g->kept >> v & 1) share /= larger(l->m->info->kept[v].n, 1);
  }
  return share;
}

static int64_t step_along(const Access *a, uint32_t axis) {
  for (uint32_t i = 0; i < a->nsteps; i++)
    if (a->steps[i].axis == axis) return a->steps[i].step;
  return 0;
}

/* Instructions that bring a vector of the access, in loads. */
static double load_cost(const Loops *l, const Access *a, bool staged) {
  uint64_t v = a->mask & l->vectors;
  if (!v) return 1;
  uint32_t axis = (uint32_t)__builtin_ctzll(v);
  int64_t step = step_along(a, axis), per_line = LINE / (int64_t)a->bytes;
  double lanes = l->lanes[axis], width = registers_of(l, v, a->bytes);
  if (staged) return width;
  if (step == 1) {
    for (uint32_t i = 0; i < a->nsteps; i++) /* parts of two lines */
      if (a->steps[i].axis != axis && a->steps[i].step % per_line) return 1.6 * width;
    return width;
  }
  if (step == 0) return 1;
  if (step == 2 || step == -1) return 3 * width;
  for (uint32_t i = 0; i < a->nsteps && step != STEP_FAR; i++) /* rows that are transposed */
    if (a->steps[i].step == 1 && l->tile[a->steps[i].axis] >= 4) return lanes * 0.6;
  return lanes * 2;
}

static void add_access(const Loops *l, const Access *a, Units *u) {
  const Group *g = &l->m->groups[a->group];
  bool staged = stage_of(l, a) != NULL;
  double n = rounds_of(l, g) * copies_of(l, g->open) * kept_share(l, g);
  double cost = load_cost(l, a, staged);
  if (a->store)
    u->store += n * cost;
  else
    u->load += n * cost;
  if (a->gated && !staged) u->other += 3 * n;
}

/* The extents of a staged tile, as opts.c counts them. */
static double staged_elements(const Loops *l, uint64_t axes, int level, uint64_t *inside) {
  double n = 1;
  *inside = 0;
  for (; axes; axes &= axes - 1) {
    uint32_t a = (uint32_t)__builtin_ctzll(axes);
    bool in = level < 0 || l->m->reduce & ~l->carried & bit(a) || l->place[a] > l->place[level];
    n *= l->tile[a] * (in ? l->trips[a] : 1);
    if (in) *inside |= bit(a);
  }
  return n;
}

/* The sums of a tile come and go with each block of a carried axis. */
static double carried_vectors(const Loops *l, const Reduction *r) {
  double n = copies_of(l, r->out & ~l->m->reduce) * registers_of(l, r->out, r->bytes);
  for (int i = 0; i < l->nout; i++) n *= l->trips[l->order[i]];
  return n;
}

static double carried_bytes(const Loops *l, const Reduction *r) {
  uint64_t inside;
  return staged_elements(l, r->out & ~l->m->reduce, l->plan->carry, &inside) * r->bytes;
}

/* Accumulators: their chains, and what does not fit the registers beside the vectors that each step
 * loads. */
static void add_reduction(const Loops *l, int phase, const Group *g, Units *u) {
  const Reduction *r = &l->m->reductions[phase - 1];
  double operands = 1;
  for (uint32_t i = 0; i < l->m->naccess; i++) {
    const Access *a = &l->m->access[i];
    if (l->m->groups[a->group].phase == phase && a->mask & l->vectors)
      operands = larger(operands, copies_of(l, a->mask & r->out));
  }
  if (operands >= copies_of(l, r->out)) operands = 1; /* each is used once, and then dead */
  double rounds = rounds_of(l, g), acc = copies_of(l, r->out), steps = copies_of(l, r->red);
  double width = registers_of(l, r->out | r->red, r->bytes);
  double chains = larger(acc, smaller(acc * steps, WANTED_CHAINS));
  if (r->red & l->carried) {
    double vectors = carried_vectors(l, r);
    u->load += vectors, u->store += vectors;
  }
  u->stall += rounds * FMA_LATENCY * acc * steps / chains;
  double live = chains * width + operands * width + 1;
  double spilled = live - l->m->target->vector_registers;
  if (l->m->target->vector_registers && spilled > 0)
    u->load += 3 * rounds * steps * spilled, u->store += 2 * rounds * steps * spilled;
}

/* Instructions that count iterations, and cycles for leaving loops. */
static void add_loop(const Loops *l, uint32_t axis, double *rounds, Units *u, double *left) {
  double trips = l->trips[axis];
  if (trips <= 1) return;
  *left += *rounds * (trips > 24 ? 12 : 2); /* short ones are predicted */
  *rounds *= trips;
  u->other += 3 * *rounds;
}

static double add_loops(const Loops *l, const Group *g, Units *u) {
  double rounds = 1, left = 0;
  for (int i = 0; i < l->n; i++)
    if (is_around(l, g, i)) add_loop(l, l->order[i], &rounds, u, &left);
  return left;
}

static double rounds_to(const Loops *l, int level) {
  double n = 1;
  for (int i = 0; level >= 0 && i <= l->place[level]; i++) n *= l->trips[l->order[i]];
  return n;
}

/* The same in a copy, which turns rows of what lies side by side around (schedule_stage.c). */
static double copy_cost(const Loops *l, const Access *a) {
  uint64_t v = a->mask & l->vectors;
  double cost = load_cost(l, a, false);
  if (!v || a->gated) return cost;
  uint32_t axis = (uint32_t)__builtin_ctzll(v);
  int64_t step = step_along(a, axis);
  if (step == STEP_FAR || (step <= 4 && step >= -4)) return cost;
  for (uint32_t i = 0; i < a->nsteps; i++)
    if (a->steps[i].step == 1 && l->tile[a->steps[i].axis] * l->trips[a->steps[i].axis] >= 16)
      return smaller(cost, l->lanes[axis] * 0.35);
  return cost;
}

static void add_stage(const Loops *l, const Access *a, const StagePlan *s, Units *u) {
  uint64_t inside;
  double n = staged_elements(l, a->mask, s->level, &inside) * rounds_to(l, s->level);
  double lanes = lanes_of(l, a->mask);
  double per_element = copy_cost(l, a) / lanes;
  u->load += n * per_element;
  u->store += n / lanes;
  u->other += n * ((a->gated ? 4 : 1.5) / lanes);
}

/* -- traffic ----------------------------------------------------------------------------------- */

typedef struct Nest { /* the loops of a phase, outermost first */
  uint32_t axis[MODEL_AXES];
  uint32_t n;
} Nest;

static Nest nest_of(const Loops *l, uint64_t axes) {
  Nest nest = {.n = 0};
  for (int i = 0; i < l->n; i++) {
    uint32_t axis = l->order[i];
    bool red = (l->m->reduce & bit(axis)) != 0;
    if (l->trips[axis] > 1 && (!red || axes & bit(axis))) nest.axis[nest.n++] = axis;
  }
  return nest;
}

/* Extents of all axes inside of the loop at `depth`. */
static void extents_at(const Loops *l, const Nest *nest, uint32_t depth, double *extent) {
  for (uint32_t i = 0; i < l->m->info->naxes; i++) extent[i] = l->tile[i];
  for (uint32_t i = depth; i < nest->n; i++)
    extent[nest->axis[i]] = l->tile[nest->axis[i]] * l->trips[nest->axis[i]];
}

/* Lines of an access or of the buffer it is staged in; *axes: those that move it. */
static double lines_at(const Loops *l, const Access *a, const double *extent, uint64_t *axes,
                       double *pressure) {
  const StagePlan *s = stage_of(l, a);
  *axes = 0;
  *pressure = 1;
  if (s) {
    double n = 1;
    staged_elements(l, a->mask, s->level, axes);
    for (uint64_t m = a->mask; m; m &= m - 1) {
      uint32_t axis = (uint32_t)__builtin_ctzll(m);
      n *= *axes & bit(axis) ? extent[axis] : l->tile[axis];
    }
    return n * a->bytes / LINE + 1;
  }
  for (uint32_t i = 0; i < a->nsteps; i++) *axes |= bit(a->steps[i].axis);
  Footprint f = search_footprint(a, extent);
  *pressure = f.pressure;
  return f.lines;
}

typedef struct Traffic {
  double into_l1, into_l2, into_l3; /* lines of one thread */
} Traffic;

typedef struct Level {
  double bytes;
  double *lines;
} Level;

/* Lines of one access that come in when `depth` is where everything fits. */
static double reloads(const Loops *l, const Nest *nest, uint32_t depth, double lines,
                      uint64_t axes) {
  bool moved = false;
  for (uint32_t i = depth; i-- > 0;) {
    moved |= (axes & bit(nest->axis[i])) != 0;
    if (moved) lines *= l->trips[nest->axis[i]];
  }
  return lines;
}

static bool in_phase(const Loops *l, const Access *a, int phase) {
  return l->m->groups[a->group].phase == phase;
}

static void add_level(const Loops *l, int phase, const Nest *nest, const Level *level) {
  double extent[MODEL_AXES], pressure;
  uint64_t axes;
  uint32_t depth = 0;
  for (; depth < nest->n; depth++) {
    double used = 0;
    extents_at(l, nest, depth, extent);
    for (uint32_t i = 0; i < l->m->naccess; i++) {
      if (!in_phase(l, &l->m->access[i], phase)) continue;
      double lines = lines_at(l, &l->m->access[i], extent, &axes, &pressure);
      used += lines * pressure * LINE;
    }
    if (used <= 0.8 * level->bytes) break;
  }
  if (depth == 0) return; /* stays there from one run to the next */
  /* One pass of the next loop finds again what two neighbouring steps share. */
  extents_at(l, nest, --depth, extent);
  for (uint32_t i = 0; i < l->m->naccess; i++) {
    const Access *a = &l->m->access[i];
    if (!in_phase(l, a, phase)) continue;
    double lines = lines_at(l, a, extent, &axes, &pressure);
    *level->lines += reloads(l, nest, depth, lines, axes) * (a->store ? 1.3 : 1);
  }
}

/* What the copies into staged tiles read. */
static void add_copies(const Loops *l, const Access *a, const Level *level) {
  const StagePlan *s = stage_of(l, a);
  if (!s) return;
  double extent[MODEL_AXES], all[MODEL_AXES];
  uint64_t inside;
  staged_elements(l, a->mask, s->level, &inside);
  for (uint32_t i = 0; i < l->m->info->naxes; i++) {
    all[i] = l->tile[i] * l->trips[i];
    extent[i] = inside & bit(i) ? all[i] : l->tile[i];
  }
  Footprint once = search_footprint(a, extent), whole_ = search_footprint(a, all);
  if (whole_.lines * LINE < 0.8 * level->bytes) return;
  *level->lines += once.lines * rounds_to(l, s->level);
}

static double traffic_cycles(const Loops *l, const Machine *c) {
  Traffic t = {0};
  double share = larger(l->threads, 1);
  Level levels[3] = {{c->l1, &t.into_l1}, {c->l2, &t.into_l2}, {c->l3 / share, &t.into_l3}};
  for (int level = 0; level < 3; level++) {
    if (levels[level].bytes <= 0) {
      *levels[level].lines = t.into_l2;
      continue;
    }
    for (int phase = 0; phase <= (int)l->m->nreductions; phase++) {
      uint64_t axes = phase ? l->m->reductions[phase - 1].red : 0;
      for (uint32_t g = 0; g < l->m->ngroups; g++)
        if (l->m->groups[g].phase == phase) axes |= l->m->groups[g].nest;
      Nest nest = nest_of(l, axes);
      add_level(l, phase, &nest, &levels[level]);
    }
    for (uint32_t i = 0; i < l->m->naccess; i++) add_copies(l, &l->m->access[i], &levels[level]);
    for (uint32_t i = 0; i < l->m->nreductions; i++) {
      const Reduction *r = &l->m->reductions[i];
      bool kept = !(r->red & l->carried) || carried_bytes(l, r) < 0.5 * levels[level].bytes;
      if (!kept)
        *levels[level].lines += 1.5 * carried_vectors(l, r) * l->m->target->vector_bytes / LINE;
    }
  }
  double crowd = larger(1, share / 4);
  double l1 = t.into_l1 * LINE / c->l2_cycle, l2 = t.into_l2 * LINE / c->l3_cycle;
  return 0.2 * l1 + larger(l1, larger(l2, t.into_l3 * LINE / c->dram_cycle * crowd));
}

/* -- all of it --------------------------------------------------------------------------------- */

/* How often what is staged is computed. */
static double staged_rounds(const Loops *l, const Group *g, const StagePlan *s) {
  uint64_t inside;
  double elements = staged_elements(l, g->open, s->level, &inside);
  return elements * rounds_to(l, s->level) / lanes_of(l, g->open);
}

/* Adds the arithmetic of one phase; returns the group that is computed most often. */
static const Group *add_groups(const Loops *l, int phase, Units *u) {
  const Group *body = NULL;
  double most = -1;
  for (uint32_t i = 0; i < l->m->ngroups; i++) {
    const Group *g = &l->m->groups[i];
    if (g->phase != phase) continue;
    double rounds = rounds_of(l, g), n = rounds * copies_of(l, g->open) * kept_share(l, g);
    const StagePlan *s = stage_of_group(l, g);
    if (s) n = staged_rounds(l, g, s);
    u->alu += g->work * n * registers_of(l, g->open, g->bytes);
    if (!s && rounds > most) most = rounds, body = g;
  }
  return body;
}

static double compute_cycles(const Loops *l) {
  const Model *m = l->m;
  bool wide = m->target->vector_bytes >= 64;
  double cycles = 0;
  for (int phase = 0; phase <= (int)m->nreductions; phase++) {
    Units u = {0};
    const Group *body = add_groups(l, phase, &u);
    for (uint32_t i = 0; i < m->naccess; i++)
      if (in_phase(l, &m->access[i], phase)) add_access(l, &m->access[i], &u);
    for (uint32_t i = 0; i < m->naccess; i++) {
      const StagePlan *s = stage_of(l, &m->access[i]);
      if (s && in_phase(l, &m->access[i], phase)) add_stage(l, &m->access[i], s, &u);
    }
    if (phase && body) add_reduction(l, phase, body, &u);
    if (body) cycles += add_loops(l, body, &u);
    cycles += cycles_of(&u, wide);
  }
  return cycles;
}

static double body_of(const Loops *l) {
  const Model *m = l->m;
  double n = 0;
  for (uint32_t i = 0; i < m->ngroups; i++) {
    const Group *g = &m->groups[i];
    n += g->work * copies_of(l, g->open) * registers_of(l, g->open, g->bytes);
  }
  for (uint32_t i = 0; i < m->naccess; i++) {
    const Access *a = &m->access[i];
    double copies = copies_of(l, m->groups[a->group].open);
    n += copies * load_cost(l, a, false); /* staged: in the copy */
    if (stage_of(l, a)) n += copies * load_cost(l, a, true);
  }
  return n;
}

double search_body(const Model *m, const OptPlan *plan) {
  Loops l;
  find_loops(&l, m, plan);
  return body_of(&l);
}

double search_predict(const Model *m, const OptPlan *plan) {
  if (m->target->max_group) return search_predict_gpu(m, plan);
  Machine c = search_machine(m->target);
  Loops l;
  find_loops(&l, m, plan);
  double compute = compute_cycles(&l), memory = traffic_cycles(&l, &c);
  double most = larger(compute, memory), least = smaller(compute, memory);
  double cycles = most + 0.25 * least, body = body_of(&l);
  /* Long bodies are decoded anew, and their values do not stay in registers. */
  if (body > LONG_BODY) cycles *= 1 + 0.15 * log2(body / LONG_BODY);
  double wake = l.threads > 1 ? 400 : 0;
  return cycles / c.ghz + c.launch_ns + wake;
}

/* -- the call ---------------------------------------------------------------------------------- */

typedef struct CostArgs {
  UOp *kernel;
  const Target *target;
  const char *opts;
  SearchCost *out;
} CostArgs;

static void must(Job *job, Status st) {
  if (st) job_abort(job, st);
}

static void cost_steps(Job *job, void *arg) {
  CostArgs *a = arg;
  OptList list = {0}, rest;
  OptPlan plan;
  UOp *merged = a->kernel;
  if (a->opts)
    must(job, opts_parse(job, str_from(a->opts), &list));
  else
    schedule_heuristic(job, a->kernel, a->target, &list);
  must(job, opts_merge(job, a->kernel, &list, &merged, &rest));
  Model *m = search_model(job, merged, a->target);
  if (!m) {
    must(job, opts_plan(job, kernel_info(job, merged), a->target, &rest, &plan));
    return; /* nothing is known of it: all zero */
  }
  must(job, opts_plan(job, m->info, a->target, &rest, &plan));
  search_bounds(m, a->out);
  a->out->predicted_ns = whole(search_predict(m, &plan)) + 1;
}

Status search_cost(Job *job, UOp *kernel, const Target *target, const char *opts, SearchCost *out) {
  CostArgs a = {kernel, target, opts, out};
  *out = (SearchCost){0};
  return job_run(job, cost_steps, &a);
}
