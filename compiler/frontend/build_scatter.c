/* The checks of SCATTER, and the dtypes that it does not know: bool counts as u8 and storage dtypes
 * as what they are computed in, where updates are combined.
 *
 * Sizes of indices, updates and data may be known only when running: what does not show to be equal
 * is fitted, so that the run fails where it is not. */
#include "compiler/frontend/build_scatter.h"

UOp *build_wrap(Job *job, UOp *indices, int64_t size) {
  indices = build_cast(job, indices, DT_I64);
  if (indices->vmin >= 0) return indices;
  UOp *up = build2(job, OP_ADD, indices, build_size(job, size));
  UOp *below = build2(job, OP_CMPLT, indices, uop_int(job, DT_I64, 0));
  return build_where(job, below, up, indices);
}

static void refuse(Job *job, const UOp *data, const UOp *indices, const UOp *updates) {
  job_abort(job, FAIL(INVALID_ARGUMENT, "indices %s and updates %s for data of shape %s",
                      shape_text(job, indices->shape), shape_text(job, updates->shape),
                      shape_text(job, data->shape)));
}

/* Makes the sizes along axis k what SCATTER wants, in every run that goes on. */
static bool fit_axis(Job *job, const UOp *data, UOp **indices, UOp **updates, uint32_t k,
                     bool along) {
  int64_t n = data->shape.at[k];
  if (along) {
    int64_t count = (*indices)->shape.at[k];
    if (!build_may_equal(count, (*updates)->shape.at[k])) return false;
    *updates = build_fit(job, *updates, k, count);
    return true;
  }
  int64_t size = (*updates)->shape.at[k];
  if (dim_low(size) > dim_high(n)) return false;
  if (size != n && !dim_le(job, size, n)) size = n;
  if (!build_may_equal(size, (*updates)->shape.at[k])) return false;
  *updates = build_fit(job, *updates, k, size);
  if ((*indices)->shape.at[k] == 1) return true;
  if (!build_may_equal((*indices)->shape.at[k], size)) return false;
  *indices = build_fit(job, *indices, k, size);
  return true;
}

UOp *build_scatter(Job *job, UOp *data, UOp *indices, UOp *updates, size_t axis, Op op) {
  DType d = uop_dtype(data), work = d;
  uint32_t rank = data->shape.n;
  bool ok = axis < rank && indices->shape.n == rank && updates->shape.n == rank;
  if (ok && !dtype_is_int(uop_dtype(indices)))
    job_abort(job, FAIL(INVALID_ARGUMENT, "indices of dtype %s, expected integers",
                        dtype_info[indices->dtype].name));
  if (uop_dtype(updates) != d)
    job_abort(job, FAIL(INVALID_ARGUMENT, "updates of dtype %s for data of dtype %s",
                        dtype_info[updates->dtype].name, dtype_info[d].name));
  for (uint32_t k = 0; ok && k < rank; k++)
    ok = fit_axis(job, data, &indices, &updates, k, k == axis);
  if (!ok) refuse(job, data, indices, updates);
  if (op != OP_STORE) work = dtype_is_bool(d) ? DT_U8 : build_work(d);
  UOp *src[3] = {build_cast(job, data, work), indices, build_cast(job, updates, work)};
  for (int s = 0; s < 3; s++) /* a rank-0 constant may stand for any shape */
    if (!src[s]->shape.n) src[s] = build_expand(job, src[s], s ? updates->shape : data->shape);
  Arg arg = arg_both(op, &(int64_t){(int64_t)axis}, 1);
  return build_cast(job, uop_make(job, OP_SCATTER, DT_VOID, arg, src, 3), d);
}
