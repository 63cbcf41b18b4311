/* How a factor lies in the workgroup's memory for a matrix instruction that reads it there.
 *
 * Rows of 128 bytes, in one of two ways: along the sum, as many as the tile has rows (or columns),
 * for each such step of the sum anew; or along the tile's rows, one for each step of the sum, for
 * each 128 bytes of rows anew. It is the way in which the source has its elements side by side, so
 * that they are copied 16 bytes at a time; the second way the instructions know for elements of 16
 * bits alone.
 *
 * A dimension that begins within a row and ends beyond it is split. */
#include <assert.h>

#include "compiler/passes/schedule_parts.h"

enum { ROW_BYTES = 128 };

const MatrixPlan *schedule_tiled(const Apply *a, const UOp *old, int *factor) {
  const MatrixPlan *both[2] = {&a->plan->matrix, &a->plan->inner};
  for (int p = 0; p < 2; p++)
    for (int f = 0; both[p]->info && f < 2; f++)
      if (old == both[p]->factor[f] && matrix_in_memory(both[p]->info, f)) {
        *factor = f;
        return both[p];
      }
  return NULL;
}

static bool is_of_axis(const Apply *a, uint32_t axis, const UOp *range) {
  const NewAxis *x = &a->axes[axis];
  bool is = range == x->lane || range == x->place || range == x->loop;
  for (uint32_t k = 0; k < x->ninner; k++) is |= range == x->inner[k];
  return is;
}

/* The dimensions of an axis, innermost first: the place in the instruction, then as the source has
 * them. Returns their number. */
static uint32_t dims_of(const Staging *s, uint32_t axis, StageDim **out) {
  const UOp *place = s->a->axes[axis].place;
  uint32_t n = 0;
  for (int inner = 1; inner >= 0; inner--)
    for (uint32_t d = s->n; d-- > 0;) {
      StageDim *dim = &s->dims[d];
      bool here = is_of_axis(s->a, axis, dim->range) && (dim->range == place) == inner;
      if (here) out[n++] = dim;
    }
  return n;
}

/* Elements side by side, `row` of them; beyond, `apart` for each row. Returns the number of rows.
 */
static int64_t lay_along(StageDim **dims, uint32_t n, int64_t row, int64_t apart) {
  int64_t at = 1;
  for (uint32_t k = 0; k < n; k++) {
    int64_t size = range_size(dims[k]->range);
    if (at >= row) {
      dims[k]->stride = at / row * apart;
    } else {
      dims[k]->stride = at;
      if (at * size > row) dims[k]->whole = row / at, dims[k]->outer = apart;
    }
    at *= size;
  }
  return (at + row - 1) / row;
}

static int64_t lay_across(StageDim **dims, uint32_t n, int64_t stride) {
  for (uint32_t k = 0; k < n; k++) {
    dims[k]->stride = stride;
    stride *= range_size(dims[k]->range);
  }
  return stride;
}

static int64_t extent(StageDim **dims, uint32_t n) {
  int64_t all = 1;
  for (uint32_t k = 0; k < n; k++) all *= range_size(dims[k]->range);
  return all;
}

void schedule_lay_out_tiles(Staging *s, const UOp *old) {
  int factor;
  const MatrixPlan *m = schedule_tiled(s->a, old, &factor);
  StageDim **along = arena_array(&s->a->job->arena, 3 * s->n + 3u, sizeof *along);
  StageDim **rows = along + s->n + 1, *last = &s->dims[s->n - 1];
  uint32_t axis = factor == MATRIX_A ? m->m : m->n;
  uint32_t nalong = dims_of(s, m->k, along), nrows = dims_of(s, axis, rows);
  int64_t bytes = dtype_info[old->dtype].bytes, row = ROW_BYTES / bytes;
  bool turned = bytes == 2 && last->step == 1 && last == rows[0] && extent(rows, nrows) % row == 0;
  if (factor == MATRIX_B && m->info->n > row && m->info->n % row) turned = false;
  if (turned) {
    StageDim **swap = along;
    uint32_t n = nalong;
    along = rows, rows = swap, nalong = nrows, nrows = n;
  }
  int64_t apart = extent(rows, nrows) * row, all = lay_along(along, nalong, row, apart) * apart;
  lay_across(rows, nrows, row);
  for (uint32_t d = s->n; d-- > 0;) {
    bool placed = false;
    for (uint32_t k = 0; k < nalong + nrows; k++)
      placed |= (k < nalong ? along[k] : rows[k - nalong]) == &s->dims[d];
    if (placed) continue;
    s->dims[d].stride = all;
    all *= range_size(s->dims[d].range);
  }
  s->elements = all;
}
