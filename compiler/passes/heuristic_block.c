/* The register tile with the least work, waste and stalls included; and blocks along the reduce
 * axis, from what was measured.
 *
 * - Few rows: an operand larger than the cache is read once, and the product is as fast as that.
 *   A register tile that walks down a column of it touches a new page at every step; a few steps
 *   at a time for all columns are as many streams that the hardware prefetches. The sums of all
 *   columns are small enough to be carried.
 * - A product with sums that fit the cache: what is packed is a fraction of the depth, so that it
 *   and the rows of the other operand stay close. Of not too many rows the fraction fits the first
 *   cache, so that the places where lines are waited for are free for the next one
 *   (prefetch_panel.c); many rows pay for the packing as it is, and sums go to and fro once more
 *   for each fraction.
 * Everything else keeps its sums in registers from the first step to the last. */
#include "compiler/passes/heuristic_block.h"

enum {
  STREAMS = 16, /* steps of one stream each */
  PACKED_STREAMS = 64,
  UNROLLED_ROWS = 4,  /* so few rows leave room to write steps out */
  UNROLLED_STEPS = 8, /* then */
  DEEP = 1536,
  PANEL = 96, /* steps of a packed panel, about */
  FEW_ROWS = 224,
  FEW_DEEP = 512, /* for so few rows */
  FEW_PANEL = 64,
};

int64_t heuristic_weight(const UOp *u) {
  switch (u->op) {
  case OP_EXP:
  case OP_EXP2:
  case OP_LOG:
  case OP_LOG2: return 16;
  case OP_TANH:
  case OP_ERF:
  case OP_ATAN: return 30;
  case OP_SIN:
  case OP_COS: return 50;
  case OP_POW:
  case OP_FMOD: return 60;
  default: return u->dtype != DT_INDEX && u->dtype != DT_VOID && u->nsrc > 0;
  }
}

static double tile_cost(const TileShape *s, int64_t nv, int64_t mr) {
  double width = (double)(nv * s->lanes);
  double done = (double)heuristic_tiles(s->columns, nv * s->lanes) * width *
                (double)(heuristic_tiles(s->rows, mr) * mr);
  double fma = (double)(nv * mr), loads = (double)(nv + mr);
  double rate = loads > fma ? loads / fma : 1;
  if (fma < 8) rate *= 8 / fma;                 /* latency of the accumulators */
  if (fma < 16) rate *= 1 + 0.01 * (16 - fma);  /* loop overhead */
  if (fma > 16) rate *= 1 + 0.002 * (fma - 16); /* code to compile */
  rate *= 1 + 0.35 * loads / fma;               /* what the caches have to deliver */
  return done * rate;
}

void heuristic_tile(const TileShape *s, const Target *target, int64_t *vectors, int64_t *rows) {
  int64_t registers = target->vector_registers ? (int64_t)target->vector_registers : 16;
  double best = -1;
  *vectors = *rows = 1;
  for (int64_t nv = 1; nv <= 8; nv++) {
    if (nv > 1 && nv * s->lanes > s->columns) break;
    if (s->whole && s->columns % (nv * s->lanes)) continue;
    for (int64_t mr = 1; mr <= s->rows && mr <= 14; mr++) {
      if (nv * mr > 4 && nv * mr * s->epilogue > 2 * MAX_BODY) break;
      if (nv * mr + nv + 1 > registers || nv * mr > registers * 3 / 4 + 4) break;
      double cost = tile_cost(s, nv, mr);
      if (best < 0 || cost < best) best = cost, *vectors = nv, *rows = mr;
    }
  }
}

/* A factor of n close to `want`: the largest in [least, want], else the smallest up to most. */
static int64_t factor_near(int64_t n, int64_t least, int64_t want, int64_t most) {
  for (int64_t f = want; f >= least; f--)
    if (n % f == 0) return f;
  for (int64_t f = want + 1; f <= most; f++)
    if (n % f == 0) return f;
  return 0;
}

Block heuristic_block(const BlockShape *s, const Target *target) {
  double operand = (double)s->columns * (double)s->depth * (double)s->bytes;
  double sums = (double)s->rows * (double)s->columns * (double)s->sum_bytes;
  double cache = (double)target->l2_bytes;
  if (sums > cache * 0.75) return (Block){0};
  if (s->direct && s->rows <= (s->packs ? 1 : UNROLLED_ROWS) && operand > cache) {
    int64_t f = factor_near(s->depth, 4, UNROLLED_STEPS, 2 * UNROLLED_STEPS);
    return (Block){.steps = f, .unrolled = true};
  }
  if (s->direct && s->rows <= 2 * s->tile_rows && operand > cache) {
    int64_t n = s->packs ? PACKED_STREAMS : STREAMS;
    return (Block){.steps = factor_near(s->depth, n / 2, n, 2 * n)};
  }
  bool few = s->rows < FEW_ROWS;
  int64_t wide = s->bytes ? 4 / s->bytes : 1;   /* elements where the numbers above have one */
  if (wide < 1 || (few && !s->packs)) wide = 1; /* those are widened as they are packed */
  if (s->depth < (few ? FEW_DEEP : DEEP) * wide || s->rows <= s->tile_rows) return (Block){0};
  int64_t panel = (few ? FEW_PANEL : PANEL) * wide;
  return (Block){.steps = factor_near(s->depth, panel / 2, panel, 2 * panel)};
}

int64_t heuristic_matrix(Job *job, const KernelInfo *kernel, const Target *target, int v,
                         const UOp *reduce, int64_t lanes) {
  uint32_t k = (uint32_t)reduce->src[reduce->nsrc - 1]->arg.i;
  for (int id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *info = matrix_info(id);
    if (info->threads > 1 || info->m > 1 || !matrix_on(info, target)) continue;
    if (dtype_is_float(info->dtype[MATRIX_C]) || info->n != lanes) continue;
    if (kernel->axes[v].size < lanes) continue;
    int64_t arg = opt_tc_arg(id, (uint32_t)v, k);
    OptList list = {0};
    OptPlan plan;
    if (kernel->axes[k].size % info->k) opts_push(job, &list, OPT_PADTO, (int)k, info->k);
    opts_push(job, &list, OPT_TC, v, arg);
    Status st = opts_plan(job, kernel, target, &list, &plan);
    bool fits = !st;
    status_drop(st);
    if (fits) return arg;
  }
  return -1;
}
