/* What ONNX's Cast means beyond the CAST of the op table.
 *
 * To an 8-bit float it clips to the largest finite value unless `saturate` is 0 (infinities too;
 * NaN stays). To e8m0, a power of two, only the f32's exponent field counts, moved up or not as
 * `round_mode` says; the sign is ignored. To 4 and 2 bits integers wrap, also those that a float
 * was truncated to. */
#include "compiler/frontend/onnx_node.h"

static UOp *word(Node *n, int64_t v) { return uop_int(n->job, DT_U32, v); }

/* 1 where the fraction of the f32 with these bits rounds the exponent up, else 0. */
static UOp *rounds_up(Node *n, UOp *bits, UOp *exponent) {
  Job *job = n->job;
  Str mode = attr_str(n, "round_mode", "up");
  UOp *fraction = build2(job, OP_AND, bits, word(n, 0x7fffff)), *up;
  if (str_is(mode, "down")) return word(n, 0);
  if (str_is(mode, "up")) {
    up = build2(job, OP_CMPLT, word(n, 0), fraction);
  } else if (str_is(mode, "nearest")) { /* ties up, but for a subnormal */
    UOp *tie = build2(job, OP_AND, build2(job, OP_CMPEQ, fraction, word(n, 0x400000)),
                      build2(job, OP_CMPLT, word(n, 0), exponent));
    up = build2(job, OP_OR, build2(job, OP_CMPLT, word(n, 0x400000), fraction), tie);
  } else {
    job_abort(job, FAIL(INVALID_ARGUMENT, "round_mode '" STR_FMT "', expected up, down or nearest",
                        STR_ARG(mode)));
  }
  if (attr_int(n, "saturate", 1))
    up = build2(job, OP_AND, up, build2(job, OP_CMPLT, exponent, word(n, 254)));
  return build_cast(job, up, DT_U32);
}

static UOp *reinterpret(Node *n, UOp *x, DType d) {
  return uop_make(n->job, OP_BITCAST, d, arg_none(), &x, 1);
}

static UOp *to_e8m0(Node *n, UOp *x) {
  Job *job = n->job;
  UOp *bits = reinterpret(n, build_cast(job, x, DT_F32), DT_U32);
  UOp *e = build2(job, OP_AND, build2(job, OP_SHR, bits, word(n, 23)), word(n, 255));
  UOp *rounded = build2(job, OP_ADD, e, rounds_up(n, bits, e));
  UOp *special = build2(job, OP_CMPEQ, e, word(n, 255));
  UOp *code = build_where(job, special, word(n, 255), rounded);
  return reinterpret(n, build_cast(job, code, DT_U8), DT_F8E8M0);
}

static UOp *clipped(Node *n, UOp *x, double max) {
  if (!dtype_is_float(uop_dtype(x)) || dtype_is_storage(uop_dtype(x)))
    x = build_cast(n->job, x, DT_F32);
  x = build2(n->job, OP_MAX, x, build_num(n->job, x, -max));
  return build2(n->job, OP_MIN, x, build_num(n->job, x, max));
}

UOp *onnx_cast(Node *n, UOp *x, DType d) {
  const FloatFormat *f = float_format(d);
  DType from = uop_dtype(x);
  if (d == from || !dtype_is_storage(d)) return build_cast(n->job, x, d);
  if (d == DT_F8E8M0) return to_e8m0(n, x);
  if (f && f->specials != FS_NONE && attr_int(n, "saturate", 1)) x = clipped(n, x, f->max);
  if (!f && dtype_is_float(from)) x = build_cast(n->job, x, DT_I32);
  return build_cast(n->job, x, d);
}
