/* Determinant and inverse: elimination with row pivoting, unrolled over the columns. Matrices that
 * models hold in these ops are small; each step is stored, so that the next one reads it. */
#include "compiler/frontend/onnx_math.h"

enum { MAX_SIZE = 256 };

static UOp *square(Node *n, UOp *x) {
  uint32_t r = x->shape.n;
  if (r < 2 || x->shape.at[r - 1] != x->shape.at[r - 2] || !dtype_is_float(uop_dtype(x)))
    bad_shape(n, "matrix", x);
  int64_t size = x->shape.at[r - 1], batch = 1;
  if (size > MAX_SIZE)
    job_abort(n->job, FAIL(UNIMPLEMENTED, "matrices of more than %d rows", MAX_SIZE));
  for (uint32_t i = 0; i + 2 < r; i++) batch *= x->shape.at[i];
  return build_reshape_v(n->job, build_widen(n->job, x), 3, batch, size, size);
}

/* Rows k and the one with the largest element of column k at or below it, exchanged. swapped: [B,
 * 1, 1], whether they differ. a: [B, n, m]. */
static UOp *pivot(Node *n, UOp *a, int64_t k, UOp **swapped) {
  Job *job = n->job;
  int64_t batch = a->shape.at[0], rows = a->shape.at[1];
  UOp *c = build_slice(job, build_slice(job, a, 2, k, 1, 1), 1, k, rows - k, 1);
  UOp *best = build_argmax(job, un(n, OP_ABS, c), 1, OP_MAX, false); /* [B, 1, 1] */
  UOp *p = add(n, best, i64(n, k));
  UOp *row = build_iota(job, DT_I64, 1, (Ints){(int64_t[]){batch, rows, 1}, 3});
  UOp *from = choose(n, equal(n, row, p), i64(n, k), choose(n, equal(n, row, i64(n, k)), p, row));
  UOp *image = build_iota(job, DT_I64, 0, (Ints){(int64_t[]){batch, rows, 1}, 3});
  from = add(n, mul(n, image, i64(n, rows)), from);
  UOp *flat = build_reshape_v(job, a, 2, batch * rows, a->shape.at[2]);
  UOp *moved = build_gather(job, flat, build_reshape_v(job, from, 2, batch, rows), 0);
  *swapped = two(n, OP_CMPNE, best, i64(n, 0));
  return uop_make(job, OP_CONTIGUOUS, DT_VOID, arg_none(), &moved, 1);
}

static void op_det(Node *n) {
  need_static(n);
  Job *job = n->job;
  UOp *x = node_u(n, 0), *a = square(n, x), *det = num(n, a, 1);
  int64_t batch = a->shape.at[0], size = a->shape.at[1];
  det = build_splat(job, det, (Ints){(int64_t[]){batch, 1, 1}, 3});
  for (int64_t k = 0; k < size && batch; k++) {
    UOp *swapped;
    a = pivot(n, a, 0, &swapped);
    UOp *row = build_slice(job, a, 1, 0, 1, 1), *head = build_slice(job, row, 2, 0, 1, 1);
    det = mul(n, choose(n, swapped, un(n, OP_NEG, det), det), head);
    int64_t rest = size - k - 1;
    if (!rest) break;
    UOp *zero = equal(n, head, num(n, head, 0));
    UOp *safe = choose(n, zero, num(n, head, 1), head);
    UOp *below = build_slice(job, a, 1, 1, rest, 1);
    UOp *factor = quot(n, build_slice(job, below, 2, 0, 1, 1), safe);
    a = sub(n, below, mul(n, factor, row));
    a = build_slice(job, a, 2, 1, rest, 1);
  }
  det = build_reshape(job, det, (Ints){x->shape.at, x->shape.n - 2});
  node_out(n, 0, cast(n, det, uop_dtype(x)));
}

/* Gauss-Jordan on [A | 1]. A singular matrix gives infinities or NaN. */
static void op_inverse(Node *n) {
  need_static(n);
  Job *job = n->job;
  UOp *x = node_u(n, 0), *a = square(n, x), *swapped;
  int64_t batch = a->shape.at[0], size = a->shape.at[1];
  Ints shape = a->shape;
  UOp *on = equal(n, build_iota(job, DT_I64, 1, shape), build_iota(job, DT_I64, 2, shape));
  UOp *unit = choose(n, on, num(n, a, 1), num(n, a, 0));
  a = build_cat(job, (UOp *[]){a, unit}, 2, 2);
  for (int64_t k = 0; k < size && batch; k++) {
    a = pivot(n, a, k, &swapped);
    UOp *row = build_slice(job, a, 1, k, 1, 1);
    row = quot(n, row, build_slice(job, row, 2, k, 1, 1));
    UOp *factor = build_slice(job, a, 2, k, 1, 1);
    UOp *mine = equal(n, build_iota(job, DT_I64, 1, a->shape), i64(n, k));
    a = choose(n, mine, row, sub(n, a, mul(n, factor, row)));
  }
  a = build_slice(job, a, 2, size, size, 1);
  node_out(n, 0, cast(n, build_reshape(job, a, x->shape), uop_dtype(x)));
}

const OnnxOp onnx_linalg_ops[] = {
    {"", "Det", 11, 1, 1, op_det},
    {"com.microsoft", "Inverse", 1, 1, 1, op_inverse},
    {0},
};
