/* PIPELINE with copies of whole tiles (TILECOPY) by a warp that does nothing else.
 *
 * The hardware that makes such copies sees a factor as a tensor of up to five axes, whose elements
 * lie side by side along the first and in steps of whole 16 bytes along the others, and copies
 * boxes of it that are 128 bytes wide. Every term of the factor's index becomes an axis of that
 * tensor, so an index has to be a sum; what is outside of the tensor is 0, which is what a padded
 * axis wants. A list that asks for such copies where they cannot be made is refused: there are
 * others that copy piece by piece. */
#include "compiler/ir/tilecopy.h"
#include "compiler/passes/linsum.h"
#include "compiler/search/opts.h"

enum { ROW_BYTES = 128, PIECE_BYTES = 16, MOST_ROWS = 256 };

static bool copies_tiles(const Target *t) {
  return target_is_cuda(t) && t->cpu && !strcmp(t->cpu, "sm_90a");
}

static bool is_static(const KernelInfo *k, const UOp *u) {
  for (uint32_t i = 0; u->open && i < u->open->n; i++)
    if (!axis_is_static(&k->axes[u->open->at[i]->arg.i])) return false;
  return true;
}

/* A term that is no axis of the product. */
static bool is_apart(const UOp *atom, uint32_t own, uint32_t sum) {
  return !kernel_depends(atom, own) && !kernel_depends(atom, sum) && atom->vmin >= 0 &&
         atom->vmax < INT32_MAX;
}

static bool fits_boxes(int64_t rows) { return rows <= MOST_ROWS || rows % MOST_ROWS == 0; }

/* Rows of a factor that are copied together, and elements of each that they are copied in. */
static int64_t copied(const KernelInfo *k, const OptPlan *plan, uint32_t axis) {
  const AxisPlan *a = &plan->axes[axis];
  if (plan->inner.info) return opts_staged_extent(k, plan, axis, plan->pipeline);
  return k->axes[axis].reduce ? a->tile : a->tile * (a->lanes ? a->lanes : 1);
}

/* NULL: it can be copied as tiles. */
static const char *why_not(Job *job, const KernelInfo *k, const OptPlan *plan, const MatrixPlan *m,
                           int f) {
  const UOp *u = m->factor[f];
  uint32_t own = f ? m->n : m->m;
  const AxisPlan *a = &plan->axes[own];
  int64_t bytes = dtype_info[u->dtype].bytes, row = ROW_BYTES / bytes;
  if (u->op != OP_INDEX || u->src[0]->op != OP_PARAM || u->nsrc > 2) return "a factor is computed";
  if (!is_static(k, u)) return "a run decides the size of a factor";
  const LinSum *sum = linsum_index(job, u->src[1]);
  int64_t along = linsum_coeff(sum, k->axes[m->k].range);
  int64_t across = linsum_coeff(sum, k->axes[own].range);
  if (sum->konst || sum->n > TILE_AXES) return "a factor has too many axes, or begins elsewhere";
  if (along != 1 && (across != 1 || bytes != 2)) return "a factor does not lie along its rows";
  for (uint32_t i = 0; i < sum->n; i++) {
    const UOp *atom = sum->at[i].atom;
    bool axis = atom == k->axes[m->k].range || atom == k->axes[own].range;
    if (!axis && !is_apart(atom, own, m->k)) return "the index of a factor is no sum of axes";
    int64_t step = sum->at[i].coeff;
    if (step < 1 || (step == 1 && !axis)) return "a factor is walked in no order";
    if (step > 1 && step * bytes % PIECE_BYTES) return "rows do not begin at multiples of 16 bytes";
  }
  if (a->spread > 1) return "threads have tiles apart from each other";
  if (across == 1 && along == 1) return "a factor is walked in no order";
  if (across == 1 && a->tile % row) return "a tile has no whole rows of 128 bytes";
  if (!fits_boxes(copied(k, plan, own)) || !fits_boxes(a->tile) ||
      !fits_boxes(copied(k, plan, m->k)))
    return "a tile is no number of boxes of 256 rows";
  return NULL;
}

/* What the pipeline copies, by the list's own account. */
static uint32_t count_copied(const OptPlan *plan) {
  uint32_t n = 0;
  for (uint32_t s = 0; s < plan->nstages; s++) n += plan->stages[s].level == plan->pipeline;
  return n;
}

/* Of a chain the factors that lie along its row. */
static const char *why_not_chain(Job *job, const KernelInfo *k, const OptPlan *plan) {
  if (!plan->inner.info->shared || plan->pipeline != (int)plan->inner.n || count_copied(plan) != 2)
    return "more than the two factors along the row is copied";
  const char *why = why_not(job, k, plan, &plan->inner, MATRIX_B);
  return why ? why : why_not(job, k, plan, &plan->matrix, MATRIX_B);
}

Status opts_bulk_check(Job *job, const KernelInfo *k, const Target *target, const OptPlan *plan) {
  const MatrixPlan *m = &plan->matrix;
  const char *why = NULL;
  if (plan->persist && !plan->bulk)
    return FAIL(INVALID_ARGUMENT, "PERSIST: nobody copies for the next tile");
  if (!plan->bulk) return NULL;
  if (!copies_tiles(target)) why = "the target does not copy tiles";
  if (!why && (!m->info || !m->info->shared))
    why = "no matrix instruction reads the tiles in memory";
  if (!why && plan->inner.info) why = why_not_chain(job, k, plan);
  if (!why && !plan->inner.info &&
      (plan->pipeline != (int)m->k || plan->nred != 1 || plan->nstages != 2))
    why = "more than the two factors is copied, or the sum has more axes";
  if (!why && plan->axes[m->k].lanes) why = "threads share the sum";
  for (int f = 0; !why && !plan->inner.info && f < 2; f++) why = why_not(job, k, plan, m, f);
  return why ? FAIL(INVALID_ARGUMENT, "PIPELINE with copies of tiles: %s", why) : NULL;
}
