/* What a schedule with matrix instructions is expected to take on a device with workgroups.
 *
 * The busiest processor does so many workgroups one after the other; each takes so many cycles for
 * 128 bytes along the sum and so many before and after. For instructions of several warps these
 * come from the table that the rules of thumb choose by (heuristic_warp.c), and for tiles that are
 * not in it from the same limits: the instruction, the workgroup's memory, the second level cache.
 * Warps that multiply by themselves are as the rules of thumb have them, and several times slower
 * when nothing is staged. */
#include <math.h>

#include "compiler/ir/matrix.h"
#include "compiler/passes/heuristic_warp.h"
#include "compiler/search/internal.h"

/* Of an H100: what the table's cycles are cycles of; products of 16 bits that a processor's warps
 * do in a cycle, each by itself; loads that wait. */
#define CYCLES_NS   1.7
#define WARP_RATE   800.0
#define UNSTAGED    4.0
#define LEAST_STEP  258.0
#define L2_PER_DRAM 2.5
#define TURNED      5.5
#define SPILLED     6.0
enum { ROW_BYTES = 128, ENOUGH_WARPS = 8 };

static double larger(double a, double b) { return a > b ? a : b; }

static double side(const AxisPlan *a) {
  return (double)a->tile * a->spread * (a->lanes ? a->lanes : 1);
}

/* Sums that do not fit the registers of a thread, with what else it needs, wait in memory. Threads
 * that copy give theirs to others (llvm_ring.c). */
static bool spills(const OptPlan *plan, double groups, double sums) {
  enum { MOST = 255, OWN = 38 };
  double most = fmin(MOST, floor(QUARTER_REGISTERS / groups / REGISTERS_UNIT) * REGISTERS_UNIT);
  if (plan->bulk && groups > 1) most = matrix_registers_given((unsigned)groups);
  return sums + OWN > most;
}

/* Of 128 bytes along the sum, which `shares` groups of threads go through together. One group of
 * warps has 64 rows, and the groups' tiles lie below each other; groups wait for each other. */
static double wide_cycles(const OptPlan *plan, double rows, double columns, double steps,
                          double shares) {
  static const double used[] = {0.75, 0.75, 0.69}; /* of the instructions' speed */
  double groups = larger(plan->axes[plan->matrix.m].lanes, 1), up = rows / (64 * groups);
  int64_t step, other;
  if (shares > 1 ||
      !heuristic_wide_cycles((int64_t)groups, (int64_t)up, (int64_t)columns, &step, &other)) {
    double multiply = 2 * columns * rows / 64 / used[groups < 3 ? (int)groups - 1 : 2];
    double copy = (rows + columns) * ROW_BYTES / 50;
    step = (int64_t)larger(larger(multiply, copy), LEAST_STEP / shares);
    other = 2600;
  }
  double few = plan->slots < 2 ? 2.5 : plan->slots < 3 ? 1.4 : plan->slots < 4 ? 1.05 : 1;
  if (spills(plan, groups, up * columns / 2)) few *= SPILLED;
  return steps * (double)step * few + (double)other * shares * (plan->persist ? 0.5 : 1);
}

static double warp_cycles(const OptPlan *plan, double rows, double columns, double steps,
                          double shares, double each) {
  double warps = (double)plan->block[0] * plan->block[1] * plan->block[2] / 32;
  double busy = warps * larger(1, fmin(each, 24 / larger(warps, 1)));
  double products = rows * columns * (1 + 24 / rows + 24 / columns) * ROW_BYTES / 2;
  double step = products / WARP_RATE * (busy < ENOUGH_WARPS ? ENOUGH_WARPS / busy : 1);
  if (!plan->nstages) step *= UNSTAGED;
  double least = plan->nstages ? LEAST_STEP / (fmin(each, 4) * shares) : 0;
  return steps * larger(step, least) + 1500;
}

/* Neighbours in memory are a column's: each is a store by itself. */
static bool stores_turned(const Model *m, const OptPlan *plan) {
  for (uint32_t i = 0; i < m->naccess; i++)
    for (uint32_t s = 0; m->access[i].store && s < m->access[i].nsteps; s++)
      if (m->access[i].steps[s].axis == plan->matrix.m && m->access[i].steps[s].step == 1)
        return true;
  return false;
}

double search_predict_matrix(const Model *m, const OptPlan *plan, double groups, double memory) {
  const MatrixPlan *t = &plan->matrix;
  Machine c = search_machine(m->target);
  double rows = side(&plan->axes[t->m]), columns = side(&plan->axes[t->n]), tiles = 1, sum = 1;
  double bytes = dtype_info[t->info->dtype[MATRIX_A]].bytes;
  double shares = larger(plan->axes[t->k].lanes, 1);
  for (uint32_t i = 0; i < m->info->naxes; i++) {
    if (!m->info->axes[i].range || i == t->m || i == t->n) continue;
    if (!m->info->axes[i].reduce)
      tiles *= side(&plan->axes[i]);
    else if (kernel_depends(t->reduce->src[0], i))
      sum *= m->size[i];
  }
  double steps = ceil(sum * bytes / ROW_BYTES), each = ceil(groups / c.cores);
  double cycles = t->info->shared ? wide_cycles(plan, rows, columns, steps, shares)
                                  : warp_cycles(plan, rows, columns, steps, shares, each);
  if (stores_turned(m, plan)) cycles += rows * columns * TURNED;
  double ns = each * tiles * cycles / CYCLES_NS, l2 = 0;
  if (!t->info->shared)
    l2 = groups * tiles * (rows + columns) * steps * ROW_BYTES / (L2_PER_DRAM * c.dram_ns);
  return larger(larger(ns, l2), memory) + c.launch_ns / 2;
}
