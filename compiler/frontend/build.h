/* Building tensor-stage graphs out of values that users chose: every shape, dtype and count is
 * checked here, and a bad one aborts the job with INVALID_ARGUMENT (what, expected, got). The
 * frontends above decide what to build; the IR below only asserts.
 *
 * A rank-0 CONST stands for any shape. A splat is a CONST under RESHAPE and EXPAND; the functions
 * here keep splats splats, so constants reach the simplifier as constants. */
#pragma once

#include "compiler/ir/dim.h"

enum { MAX_DIMS = 32 };                      /* of any node */
enum { MAX_RANK = 16 };                      /* of a tensor that a model names */
static const int64_t MAX_NUMEL = 1ll << 48;  /* of any node; the IR has the same limit */
static const int64_t MAX_TENSOR = 1ll << 40; /* bytes of a tensor that a model names */

static inline Ints shape_make(const int64_t *dims, size_t n) { return (Ints){dims, (uint32_t)n}; }
static inline DType uop_dtype(const UOp *u) { return (DType)u->dtype; }
/* "[2, 3]" in the job's arena. */
const char *shape_text(Job *job, Ints shape);
/* The number of elements, a dim. Aborts on a dimension that may be negative, or when the product is
 * over max for all values of the symbols. */
int64_t shape_check(Job *job, Ints shape, int64_t max, const char *what);
/* axis in [-rank, rank) to [0, rank); aborts otherwise. */
size_t axis_check(Job *job, int64_t axis, size_t rank);

/* A rank-0 CONST with the dtype of `like`. */
UOp *build_num(Job *job, const UOp *like, double v);
UOp *build_splat(Job *job, UOp *scalar, Ints shape);
/* The CONST that every element equals, when the node shows it; else NULL. */
UOp *build_splat_value(UOp *u);

/* A dim as a rank-0 i64, and as a number with the dtype of `like`. */
UOp *build_size(Job *job, int64_t d);
UOp *build_size_num(Job *job, const UOp *like, int64_t d);
/* False when two sizes differ in every run. */
bool build_may_equal(int64_t a, int64_t b);
/* x with size d along the axis, which it has in every run that goes on: the run checks that.
 * build_may_equal is true. */
UOp *build_fit(Job *job, UOp *x, size_t axis, int64_t d);
/* Makes every run fail with OUT_OF_RANGE unless the rank-0 bool is true;
 * for builders whose result is only right then. Implemented by the frontend at work (front.c). */
void front_require(Job *job, UOp *condition, const char *otherwise);
/* The dim as a number; UNIMPLEMENTED when it is not one. For builders that cannot do without. */
int64_t front_static(Job *job, int64_t dim, const char *what);

/* Elementwise; sources broadcast as in numpy. Storage dtypes are computed in build_work and cast
 * back. */
UOp *build1(Job *job, Op op, UOp *a);
UOp *build2(Job *job, Op op, UOp *a, UOp *b);
UOp *build_where(Job *job, UOp *cond, UOp *a, UOp *b);
UOp *build_cast(Job *job, UOp *a, DType dtype);
/* FDIV for floats, IDIV for integers. */
UOp *build_div(Job *job, UOp *a, UOp *b);
UOp *build_not(Job *job, UOp *a);
/* The shape that a and b broadcast to; dims has room for MAX_DIMS. */
Ints build_broadcast(Job *job, Ints a, Ints b, int64_t *dims);

/* Movement. */
UOp *build_reshape(Job *job, UOp *x, Ints shape);
UOp *build_reshape_v(Job *job, UOp *x, size_t n, ...); /* n int64_t dimensions */
UOp *build_permute(Job *job, UOp *x, const int64_t *order, size_t n);
UOp *build_transpose(Job *job, UOp *x, size_t axis0, size_t axis1);
/* numpy.broadcast_to. */
UOp *build_expand(Job *job, UOp *x, Ints shape);
/* pads: lo0, hi0, lo1, ... A negative one crops. */
UOp *build_pad(Job *job, UOp *x, const int64_t *pads, UOp *fill);
UOp *build_pad_axis(Job *job, UOp *x, size_t axis, int64_t lo, int64_t hi, UOp *fill);
/* Elements start, start + step, ... (count of them) of one axis; step may be negative. */
UOp *build_slice(Job *job, UOp *x, size_t axis, int64_t start, int64_t count, int64_t step);
UOp *build_flip(Job *job, UOp *x, size_t axis);
UOp *build_window(Job *job, UOp *x, size_t axis, int64_t size, int64_t stride, int64_t dilation);
UOp *build_cat(Job *job, UOp *const *xs, size_t n, size_t axis);
UOp *build_unsqueeze(Job *job, UOp *x, size_t axis);
UOp *build_squeeze(Job *job, UOp *x, size_t axis);
UOp *build_iota(Job *job, DType dtype, size_t axis, Ints shape);
/* 0, 1, ... n-1 */
UOp *build_arange(Job *job, DType dtype, int64_t n);

/* src0[:axis] + indices + src0[axis+1:]; indices in [0, n). */
UOp *build_gather(Job *job, UOp *data, UOp *indices, size_t axis);

/* axes: a bit per axis. Plans add and multiply half floats in f32. */
UOp *build_reduce(Job *job, Op op, UOp *x, uint32_t axes, bool keep);
/* The dtype that values of d are computed in: d itself, or f32, i32 or u32 for a storage dtype. */
DType build_work(DType d);
/* f16, bf16 and storage floats as f32, storage integers in 32 bits, for what takes several steps
 * and is rounded once at the end. */
UOp *build_widen(Job *job, UOp *x);
UOp *build_mean(Job *job, UOp *x, uint32_t axes, bool keep);
static inline uint32_t axis_bit(size_t axis) { return 1u << axis; }
uint32_t axes_all(const UOp *x);
/* Elements under the axes. */
int64_t axes_numel(Job *job, const UOp *x, uint32_t axes);
