/* Elementwise ops and conversions as C expressions.
 *
 * The value of every op is the one of ops.def for all inputs: signed arithmetic is done in unsigned
 * integers, because overflow is undefined in C; divisions and shifts go through helpers that guard
 * them unless bounds prove them harmless. 16-bit floats are widened to float around an op and
 * rounded after it. */
#include "compiler/codegen/opencl_build.h"

static bool is_small_float(DType d) { return d == DT_F16 || d == DT_BF16; }
static bool is_unsigned(DType d) { return dtype_is_uint(d) || d == DT_BOOL; }

const char *cl_to_f32(Cl *c, DType d, unsigned lanes, const char *v) {
  if (!is_small_float(d)) return v;
  const char *name = d == DT_F16 ? "from_half" : "from_bf16";
  return cl_text(c, "%s(%s)", cl_helper(c, name, DT_U16, lanes), v);
}

static const char *from_f32(Cl *c, DType d, unsigned lanes, const char *v) {
  if (!is_small_float(d)) return v;
  const char *name = d == DT_F16 ? "to_half" : "to_bf16";
  return cl_text(c, "%s(%s)", cl_helper(c, name, DT_U16, lanes), v);
}

/* -- integers ---------------------------------------------------------------------------------- */

/* `a op b` of a signed or unsigned dtype, wrapping. */
static const char *wrapping(Cl *c, char op, DType d, unsigned lanes, const char *a, const char *b) {
  const char *t = cl_type(c, d, lanes), *u = cl_type(c, cl_unsigned(d), lanes);
  /* narrow scalars are widened to int by C, in which a product of two ushorts may overflow */
  bool widens = lanes == 1 && dtype_info[d].bytes < 4;
  if (widens) return cl_text(c, "((%s)((uint)(%s) %c (uint)(%s)))", t, a, op, b);
  if (dtype_is_uint(d)) return cl_text(c, "(%s %c %s)", a, op, b);
  return cl_text(c, "as_%s(as_%s(%s) %c as_%s(%s))", t, u, a, op, u, b);
}

static const UOp *constant_of(const UOp *u) {
  while (u->op == OP_BROADCAST) u = u->src[0];
  return uop_is_const(u) ? u : NULL;
}
static bool at_least(const UOp *u, int64_t lo) {
  const UOp *k = constant_of(u);
  return k && !dtype_is_float((DType)k->dtype) ? k->arg.i >= lo : u->vmin >= lo;
}
static bool natural(const UOp *u) { return at_least(u->src[0], 0) && at_least(u->src[1], 1); }

static const char *call2(Cl *c, const char *name, DType d, unsigned lanes, const char *a,
                         const char *b) {
  return cl_text(c, "%s(%s, %s)", cl_helper(c, name, d, lanes), a, b);
}

static const char *division(Cl *c, const UOp *u, DType d, const char *a, const char *b) {
  bool rem = u->op == OP_IMOD || u->op == OP_FLOORMOD;
  bool floors = u->op == OP_FLOORDIV || u->op == OP_FLOORMOD;
  const char *t = cl_type(c, d, u->lanes);
  if (natural(u)) return cl_text(c, "((%s)(%s %c %s))", t, a, rem ? '%' : '/', b);
  if (is_unsigned(d)) return call2(c, rem ? "urem" : "udiv", d, u->lanes, a, b);
  if (floors) return call2(c, rem ? "floormod" : "floordiv", d, u->lanes, a, b);
  return call2(c, rem ? "irem" : "idiv", d, u->lanes, a, b);
}

static const char *shift(Cl *c, const UOp *u, DType d, const char *a, const char *b) {
  if (u->op == OP_SHL) return call2(c, "shl", d, u->lanes, a, b);
  return call2(c, is_unsigned(d) ? "ushr" : "shr", d, u->lanes, a, b);
}

/* -- pairs ------------------------------------------------------------------------------------- */

static const char *max_min(Cl *c, bool max, DType d, unsigned lanes, const char *a, const char *b) {
  if (dtype_is_float(d)) return call2(c, max ? "fmax" : "fmin", d, lanes, a, b);
  if (d == DT_BOOL)
    return cl_text(c, "((%s)(%s %c %s))", cl_type(c, d, lanes), a, max ? '|' : '&', b);
  return cl_text(c, "%s(%s, %s)", max ? "max" : "min", a, b);
}

static const char *quotient(Cl *c, DType d, unsigned lanes, const char *a, const char *b) {
  if (d == DT_F32 && !c->crdiv && c->fp64) return call2(c, "fdiv", d, lanes, a, b);
  return cl_text(c, "(%s / %s)", a, b);
}

/* Sums and products of INDEX values cannot overflow: their bounds are known. */
static const char *arithmetic(Cl *c, char op, DType d, bool index, unsigned lanes, const char *a,
                              const char *b) {
  if (dtype_is_float(d) || index) return cl_text(c, "(%s %c %s)", a, op, b);
  return wrapping(c, op, d, lanes, a, b);
}

const char *cl_binary(Cl *c, Op op, DType d, unsigned lanes, const char *a, const char *b) {
  if (is_small_float(d)) {
    const char *r =
        cl_binary(c, op, DT_F32, lanes, cl_to_f32(c, d, lanes, a), cl_to_f32(c, d, lanes, b));
    return from_f32(c, d, lanes, r);
  }
  switch (op) {
  case OP_ADD: return arithmetic(c, '+', d, false, lanes, a, b);
  case OP_MUL: return arithmetic(c, '*', d, false, lanes, a, b);
  case OP_MAX:
  case OP_MIN: return max_min(c, op == OP_MAX, d, lanes, a, b);
  default: return cl_fail(c, NULL, "cannot combine lanes with this op");
  }
}

/* -- unary ------------------------------------------------------------------------------------- */

static const char *negated(Cl *c, DType d, unsigned lanes, const char *a) {
  if (dtype_is_float(d)) return cl_text(c, "(-%s)", a);
  return wrapping(c, '-', d, lanes, cl_text(c, "(%s)(0)", cl_type(c, d, lanes)), a);
}

static const char *absolute(Cl *c, DType d, unsigned lanes, const char *a) {
  if (dtype_is_float(d)) return cl_text(c, "fabs(%s)", a);
  if (is_unsigned(d)) return a;
  return cl_text(c, "as_%s(abs(%s))", cl_type(c, d, lanes), a);
}

static const char *root(Cl *c, DType d, unsigned lanes, const char *a) {
  if (d == DT_F32 && !c->crdiv && c->fp64)
    return cl_text(c, "%s(%s)", cl_helper(c, "fsqrt", d, lanes), a);
  return cl_text(c, "sqrt(%s)", a);
}

/* -- comparison, choice ------------------------------------------------------------------------ */

static const char *comparison(Cl *c, const UOp *u, const char *a, const char *b) {
  const char *op = u->op == OP_CMPLT   ? "<"
                   : u->op == OP_CMPLE ? "<="
                   : u->op == OP_CMPEQ ? "=="
                                       : "!=";
  if (u->lanes == 1) return cl_text(c, "((uchar)(%s %s %s))", a, op, b);
  return cl_text(c, "convert_%s(-(%s %s %s))", cl_type(c, DT_BOOL, u->lanes), a, op, b);
}

static const char *choice(Cl *c, const UOp *u, DType d) {
  const char *a = cl_operand(c, u->src[1], d, u->lanes), *b = cl_operand(c, u->src[2], d, u->lanes);
  const char *cond = cl_value(c, u->src[0]);
  if (u->src[0]->lanes == 1) return cl_text(c, "(%s ? %s : %s)", cond, a, b);
  const char *mask = cl_type(c, cl_signed(d), u->lanes);
  return cl_text(c, "((convert_%s(%s) != (%s)(0)) ? %s : %s)", mask, cond, mask, a, b);
}

/* -- all of them ------------------------------------------------------------------------------- */

static const char *float_op(Cl *c, const UOp *u, DType d, const char **v) {
  switch (u->op) {
  case OP_RECIP:
    return quotient(c, d, u->lanes, cl_text(c, "(%s)(1)", cl_type(c, d, u->lanes)), v[0]);
  case OP_SQRT: return root(c, d, u->lanes, v[0]);
  case OP_TRUNC: return cl_text(c, "trunc(%s)", v[0]);
  case OP_FLOOR: return cl_text(c, "floor(%s)", v[0]);
  case OP_CEIL: return cl_text(c, "ceil(%s)", v[0]);
  case OP_ROUND: return cl_text(c, "rint(%s)", v[0]);
  case OP_FDIV: return quotient(c, d, u->lanes, v[0], v[1]);
  case OP_FMOD: return cl_text(c, "fmod(%s, %s)", v[0], v[1]);
  case OP_MULACC:
    return opencl_fuses(c->target) ? cl_text(c, "fma(%s, %s, %s)", v[0], v[1], v[2])
                                   : cl_text(c, "(%s * %s + %s)", v[0], v[1], v[2]);
  default: return cl_fail(c, u, "should have been decomposed before code generation");
  }
}

static const char *compute(Cl *c, const UOp *u, DType d, const char **v) {
  bool index = u->dtype == DT_INDEX;
  switch (u->op) {
  case OP_NEG: return negated(c, d, u->lanes, v[0]);
  case OP_ABS: return absolute(c, d, u->lanes, v[0]);
  case OP_ADD: return arithmetic(c, '+', d, index, u->lanes, v[0], v[1]);
  case OP_SUB: return arithmetic(c, '-', d, index, u->lanes, v[0], v[1]);
  case OP_MUL: return arithmetic(c, '*', d, index, u->lanes, v[0], v[1]);
  case OP_MAX:
  case OP_MIN: return max_min(c, u->op == OP_MAX, d, u->lanes, v[0], v[1]);
  case OP_IDIV:
  case OP_IMOD:
  case OP_FLOORDIV:
  case OP_FLOORMOD: return division(c, u, d, v[0], v[1]);
  case OP_AND:
  case OP_OR:
  case OP_XOR: {
    char op = u->op == OP_AND ? '&' : u->op == OP_OR ? '|' : '^';
    return cl_text(c, "((%s)(%s %c %s))", cl_type(c, d, u->lanes), v[0], op, v[1]);
  }
  case OP_SHL:
  case OP_SHR: return shift(c, u, d, v[0], v[1]);
  case OP_CMPLT:
  case OP_CMPLE:
  case OP_CMPEQ:
  case OP_CMPNE: return comparison(c, u, v[0], v[1]);
  case OP_MULACC:
    if (dtype_is_float(d)) break;
    return wrapping(c, '+', d, u->lanes, wrapping(c, '*', d, u->lanes, v[0], v[1]), v[2]);
  default: break;
  }
  if (!dtype_is_float(d)) return cl_fail(c, u, "has no form for integers");
  return float_op(c, u, d, v);
}

/* Whether INDEX sources and result all fit an int. Not shifts, whose counts are checked against the
 * width of the dtype. */
static bool all_narrow(const UOp *u) {
  if (u->op == OP_SHL || u->op == OP_SHR) return false;
  bool narrow = cl_dtype(u) != DT_I64;
  for (uint32_t s = 0; s < u->nsrc; s++)
    narrow = narrow && (u->src[s]->dtype != DT_INDEX || cl_dtype(u->src[s]) == DT_I32);
  return narrow;
}

const char *cl_alu(Cl *c, const UOp *u) {
  const UOp *last = u->src[u->nsrc - 1];
  DType d = (DType)last->dtype;
  bool index = d == DT_INDEX;
  if (index) d = all_narrow(u) ? DT_I32 : DT_I64;
  const char *v[3] = {0}, *r;
  if (u->op == OP_WHERE) {
    r = choice(c, u, d);
  } else {
    bool small = is_small_float(d);
    for (uint32_t s = 0; s < u->nsrc; s++)
      v[s] = cl_to_f32(c, d, u->lanes, cl_operand(c, u->src[s], d, u->lanes));
    r = compute(c, u, small ? DT_F32 : d, v);
    if (small && is_small_float((DType)u->dtype)) r = from_f32(c, d, u->lanes, r);
  }
  if (u->dtype != DT_INDEX || cl_dtype(u) == d) return r;
  return cl_text(c, "convert_%s(%s)", cl_type(c, cl_dtype(u), u->lanes), r);
}

/* -- conversions ------------------------------------------------------------------------------- */

static const char *float_to_float(Cl *c, DType from, DType to, unsigned lanes, const char *v) {
  bool small = is_small_float(to);
  v = cl_to_f32(c, from, lanes, v);
  if (from == DT_F64 && small)
    v = cl_text(c, "%s(%s)", cl_helper(c, "round_odd", DT_F32, lanes), v);
  if (small) return from_f32(c, to, lanes, v);
  return cl_text(c, "convert_%s(%s)", cl_type(c, to, lanes), v);
}

/* Up to 16 bits an integer fits float; beyond that it takes double to be rounded once. */
static const char *int_to_float(Cl *c, DType from, DType to, unsigned lanes, const char *v) {
  if (!is_small_float(to)) return cl_text(c, "convert_%s(%s)", cl_type(c, to, lanes), v);
  DType via = dtype_info[from].bits <= 16 ? DT_F32 : DT_F64;
  v = cl_text(c, "convert_%s(%s)", cl_type(c, via, lanes), v);
  return float_to_float(c, via, to, lanes, v);
}

/* Drivers differ in what a saturating conversion makes of NaN, and of what no 64-bit integer holds.
 */
static const char *float_to_int(Cl *c, DType from, DType to, unsigned lanes, const char *v) {
  bool wide = from == DT_F64;
  const char *f = cl_type(c, wide ? DT_F64 : DT_F32, lanes), *t = cl_type(c, to, lanes);
  v = cl_to_f32(c, from, lanes, v);
  v = cl_text(c, "((%s != %s) ? (%s)(0) : %s)", v, v, f, v);
  const char *r = cl_text(c, "convert_%s_sat(%s)", t, v);
  if (dtype_info[to].bits < 64) return r;
  bool uns = dtype_is_uint(to);
  return cl_text(c, "select(%s, (%s)(%s), convert_%s(%s >= (%s)(0x1p%d%s)))", r, t,
                 uns ? "ULONG_MAX" : "LONG_MAX", cl_type(c, DT_I64, lanes), v, f, uns ? 64 : 63,
                 wide ? "" : "f");
}

static const char *to_bool(Cl *c, DType from, unsigned lanes, const char *v) {
  if (from == DT_BOOL) return v;
  const char *t = cl_type(c, from, lanes);
  if (is_small_float(from)) v = cl_text(c, "(%s & (%s)(0x7fff))", v, t); /* all but the sign */
  if (lanes == 1) return cl_text(c, "((uchar)(%s != 0))", v);
  return cl_text(c, "convert_%s(-(%s != (%s)(0)))", cl_type(c, DT_BOOL, lanes), v, t);
}

const char *cl_canonical(Cl *c, DType d, unsigned lanes, const char *v) {
  unsigned bits = dtype_info[d].bits;
  if (d == DT_BOOL) return to_bool(c, DT_U8, lanes, v);
  if (!dtype_is_storage(d) || bits == 8) return v;
  const char *t = cl_type(c, DT_U8, lanes), *s = cl_type(c, DT_I8, lanes);
  if (dtype_info[d].cls != DC_SINT)
    return cl_text(c, "((%s)(%s & (%s)(%u)))", t, v, t, (1u << bits) - 1);
  return cl_text(c, "as_%s((%s)(as_%s((%s)(%s << (%s)(%u))) >> (%s)(%u)))", t, s, s, t, v, t,
                 8 - bits, s, 8 - bits);
}

const char *cl_cast(Cl *c, const UOp *u) {
  DType to = cl_dtype(u), from = cl_dtype(u->src[0]);
  const char *v = cl_operand(c, u->src[0], from, u->lanes);
  bool float_from = dtype_is_float(from), float_to = dtype_is_float(to);
  if (dtype_is_storage(from) || dtype_is_storage(to))
    return cl_fail(c, u, "should have been decomposed before code generation");
  if (to == DT_BOOL) return to_bool(c, from, u->lanes, v);
  if (float_from && float_to) return float_to_float(c, from, to, u->lanes, v);
  if (float_to) return int_to_float(c, from, to, u->lanes, v);
  if (float_from) return float_to_int(c, from, to, u->lanes, v);
  if (u->lanes == 1) return cl_text(c, "((%s)(%s))", cl_type(c, to, 1), v);
  return cl_text(c, "convert_%s(%s)", cl_type(c, to, u->lanes), v);
}
