/* What a schedule is expected to cost on a device with workgroups.
 *
 * Three times are compared: instructions of all warps over the multiprocessors that have one,
 * sectors of 32 bytes that the warps' accesses take out of the second cache, and distinct bytes out
 * of memory. Few warps on a multiprocessor hide little latency; the last wave of workgroups takes
 * as long as a full one. Neighbours are the threads of the first dimension: the step of an access
 * along its axis says how many sectors a warp touches. */
#include <math.h>

#include "compiler/search/internal.h"

enum { SECTOR = 32, HIDING_WARPS = 12, MAX_WARPS = 64, REGISTERS = 65536, ISSUE = 128 };

static uint64_t bit(uint32_t axis) { return (uint64_t)1 << axis; }
static double larger(double a, double b) { return a > b ? a : b; }

typedef struct Grid {
  const Model *m;
  const OptPlan *plan;
  double threads, groups;
  double trips[MODEL_AXES]; /* of reduce loops, in one thread */
} Grid;

static Grid grid_of(const Model *m, const OptPlan *plan) {
  Grid g = {.m = m, .plan = plan, .groups = 1};
  g.threads = (double)plan->block[0] * plan->block[1] * plan->block[2];
  for (uint32_t i = 0; i < m->info->naxes; i++) {
    const AxisPlan *a = &plan->axes[i];
    if (!m->info->axes[i].range) continue;
    double all = (a->lanes ? a->lanes : 1) * (double)a->spread,
           steps = ceil((double)a->outer / all);
    if (!axis_is_static(&m->info->axes[i])) steps = ceil(m->size[i] / (double)a->tile / all);
    if (m->info->axes[i].reduce)
      g.trips[i] = larger(steps, 1);
    else
      g.groups *= larger(steps, 1);
  }
  return g;
}

/* How often one thread evaluates what depends on `open` inside the loops of `nest`. */
static double evaluations(const Grid *g, uint64_t open, uint64_t nest, bool vectors) {
  double n = 1;
  bool inside = (open & g->m->reduce) != 0;
  for (uint32_t i = 0; i < g->m->info->naxes; i++) {
    const AxisPlan *a = &g->plan->axes[i];
    int64_t copies = a->tile * a->spread / (vectors ? 1 : a->vector) / a->matrix;
    if (open & bit(i)) n *= (double)copies;
    if (inside && nest & g->m->reduce & bit(i)) n *= g->trips[i];
  }
  return n;
}

static double vector_of(const Grid *g, uint64_t mask) {
  for (uint32_t i = 0; i < g->m->info->naxes; i++)
    if (mask & bit(i) && g->plan->axes[i].vector > 1) return g->plan->axes[i].vector;
  return 1;
}

/* Sectors of one access of a warp. */
static double sectors_of(const Grid *g, const Access *a, double warp) {
  double width = vector_of(g, a->mask) * a->bytes, lanes = warp;
  double sectors = 1, same = 1;
  for (uint32_t i = 0; i < a->nsteps; i++) {
    const AxisPlan *p = &g->plan->axes[a->steps[i].axis];
    if (!p->lanes || p->dim != 0) continue;
    double n = p->lanes < lanes ? p->lanes : lanes, step = fabs((double)a->steps[i].step);
    if (a->steps[i].step == STEP_FAR) step = SECTOR;
    if (step == 0) continue;
    double bytes = larger(step * a->bytes * (double)p->tile, 1);
    sectors = bytes >= SECTOR ? n : larger(1, n * bytes / SECTOR);
    same = n;
  }
  double rows = same > 1 ? lanes / same : 1;
  return sectors * larger(1, rows) * larger(1, same > 1 ? 1 : width / SECTOR);
}

static const StagePlan *stage_of(const Grid *g, const Access *a) {
  for (uint32_t i = 0; i < g->plan->nstages; i++) {
    uint32_t o = g->plan->stages[i].operand;
    if (o < 64 && g->m->groups[a->group].under >> o & 1) return &g->plan->stages[i];
  }
  return NULL;
}

/* Elements that a workgroup copies of a staged access in all. */
static double copied(const Grid *g, const Access *a) {
  double n = 1;
  for (uint32_t i = 0; i < g->m->info->naxes; i++) {
    const AxisPlan *p = &g->plan->axes[i];
    if (!(a->mask & bit(i))) continue;
    n *= (double)p->tile * p->spread * (p->lanes ? p->lanes : 1);
    if (g->m->reduce & bit(i)) n *= g->trips[i];
  }
  return n;
}

typedef struct Load {
  double instructions; /* of one thread */
  double sectors;      /* of one workgroup */
} Load;

static void add_access(const Grid *g, const Access *a, double warp, Load *load) {
  const Group *group = &g->m->groups[a->group];
  double n = evaluations(g, group->open, group->nest, false);
  load->instructions += n * (a->gated ? 2 : 1);
  if (!stage_of(g, a)) {
    load->sectors += n * ceil(g->threads / warp) * sectors_of(g, a, warp);
    return;
  }
  double elements = copied(g, a);
  load->sectors += elements * a->bytes / SECTOR;
  load->instructions += 6 * elements / g->threads;
}

static double registers_of(const Grid *g) {
  double most = 16;
  for (uint32_t i = 0; i < g->m->ngroups; i++) {
    double n = 1;
    for (uint32_t a = 0; a < g->m->info->naxes; a++)
      if (g->m->groups[i].open & ~g->m->reduce & bit(a))
        n *= (double)(g->plan->axes[a].tile * g->plan->axes[a].spread);
    most = larger(most, 24 + n);
  }
  return most;
}

static double distinct_bytes(const Model *m) {
  SearchCost c;
  search_bounds(m, &c);
  return (double)c.bytes_read + (double)c.bytes_written;
}

double search_predict_gpu(const Model *m, const OptPlan *plan) {
  Machine c = search_machine(m->target);
  Grid g = grid_of(m, plan);
  Load load = {.instructions = 20};
  if (plan->matrix.info && !plan->inner.info)
    return search_predict_matrix(m, plan, g.groups, distinct_bytes(m) / c.dram_ns);
  double warp = m->target->warp > 1 ? m->target->warp : 1;
  for (uint32_t i = 0; i < m->ngroups; i++) {
    const Group *group = &m->groups[i];
    load.instructions += group->work * evaluations(&g, group->open, group->nest, true);
  }
  for (uint32_t i = 0; i < m->naccess; i++) add_access(&g, &m->access[i], warp, &load);
  bool grouped = false;
  for (uint32_t i = 0; i < m->info->naxes; i++)
    grouped |= plan->axes[i].lanes && m->info->axes[i].reduce;
  if (grouped) load.instructions += 40 + 15 * log2(larger(g.threads, 2));
  for (uint32_t i = 0; i < plan->nstages; i++) load.instructions += 30;
  double registers = registers_of(&g), warps = ceil(g.threads / warp);
  double resident =
      larger(1, fmin(fmin(MAX_WARPS / warps, 32), REGISTERS / (registers * g.threads)));
  resident = floor(resident);
  if (registers > 255) load.instructions *= 1 + (registers - 255) / 64; /* spills */
  double waves = ceil(g.groups / (c.cores * resident));
  double busy = fmin(resident, ceil(g.groups / c.cores)) * warps;
  double issue = ISSUE / warp, hidden = fmin(1, busy / HIDING_WARPS);
  double cycles = waves * resident * warps * load.instructions / (issue * larger(hidden, 0.05));
  double sectors = load.sectors * g.groups * SECTOR / (c.dram_ns * 2 * larger(hidden, 0.1));
  double memory = distinct_bytes(m) / (c.dram_ns * larger(hidden, 0.1));
  double ns = larger(cycles / c.ghz, larger(sectors, memory));
  return ns + 0.2 * (cycles / c.ghz + sectors + memory) + c.launch_ns;
}
