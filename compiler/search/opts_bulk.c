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
  return t->kind && !strcmp(t->kind, "cuda") && t->cpu && !strcmp(t->cpu, "sm_90a");
}

static bool is_static(const KernelInfo *k, const UOp *u) {
  for (uint32_t i = 0; u->open && i < u->open->n; i++)
    if (!axis_is_static(&k->axes[u->open->at[i]->arg.i])) return false;
  return true;
}

/* A term that is no axis of the product. */
static bool is_apart(const KernelInfo *k, const UOp *atom, uint32_t own, uint32_t sum) {
  (void)k;
  return !kernel_depends(atom, own) && !kernel_depends(atom, sum) && atom->vmin >= 0 &&
         atom->vmax < INT32_MAX;
}

static bool fits_boxes(int64_t rows) { return rows <= MOST_ROWS || rows % MOST_ROWS == 0; }

/* NULL: it can be copied as tiles. */
static const char *why_not(Job *job, const KernelInfo *k, const OptPlan *plan, int f) {
  const MatrixPlan *m = &plan->matrix;
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
    if (!axis && !is_apart(k, atom, own, m->k)) return "the index of a factor is no sum of axes";
    int64_t step = sum->at[i].coeff;
    if (step < 1 || (step == 1 && !axis)) return "a factor is walked in no order";
    if (step > 1 && step * bytes % PIECE_BYTES) return "rows do not begin at multiples of 16 bytes";
  }
  int64_t lanes = a->lanes ? a->lanes : 1, rows = a->tile * lanes;
  if (a->spread > 1) return "threads have tiles apart from each other";
  if (across == 1 && along == 1) return "a factor is walked in no order";
  if (across == 1 && a->tile % row) return "a tile has no whole rows of 128 bytes";
  if (!fits_boxes(rows) || !fits_boxes(a->tile) || !fits_boxes(plan->axes[m->k].tile))
    return "a tile is no number of boxes of 256 rows";
  return NULL;
}

Status opts_bulk_check(Job *job, const KernelInfo *k, const Target *target, const OptPlan *plan) {
  const MatrixPlan *m = &plan->matrix;
  const char *why = NULL;
  if (plan->persist && !plan->bulk)
    return FAIL(INVALID_ARGUMENT, "PERSIST: nobody copies for the next tile");
  if (!plan->bulk) return NULL;
  if (!copies_tiles(target)) why = "the target does not copy tiles";
  if (!why && (!m->info || !m->info->shared || plan->inner.info))
    why = "no matrix instruction reads the tiles in memory";
  if (!why && (plan->pipeline != (int)m->k || plan->nred != 1 || plan->nstages != 2))
    why = "more than the two factors is copied, or the sum has more axes";
  if (!why && plan->axes[m->k].lanes) why = "threads share the sum";
  for (int f = 0; !why && f < 2; f++) why = why_not(job, k, plan, f);
  return why ? FAIL(INVALID_ARGUMENT, "PIPELINE with copies of tiles: %s", why) : NULL;
}
