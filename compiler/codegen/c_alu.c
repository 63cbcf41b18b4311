/* Elementwise ops and conversions as C expressions.
 *
 * The value of every op is the one of ops.def for all inputs: signed arithmetic is done in unsigned
 * integers, because overflow is undefined in C; divisions and shifts go through helpers that guard
 * them unless bounds prove them harmless. 16-bit floats are widened to float around an op and
 * rounded after it. */
#include "compiler/codegen/c_text.h"

static bool is_small_float(DType d) { return d == DT_F16 || d == DT_BF16; }
static bool is_unsigned(DType d) { return dtype_is_uint(d) || d == DT_BOOL; }

const char *c_to_f32(CText *c, DType d, unsigned lanes, const char *v) {
  if (!is_small_float(d)) return v;
  const char *name = d == DT_F16 ? "from_half" : "from_bf16";
  return c_text(c, "%s(%s)", c_helper(c, name, DT_U16, lanes), v);
}

static const char *from_f32(CText *c, DType d, unsigned lanes, const char *v) {
  if (!is_small_float(d)) return v;
  const char *name = d == DT_F16 ? "to_half" : "to_bf16";
  return c_text(c, "%s(%s)", c_helper(c, name, DT_U16, lanes), v);
}

/* -- integers ---------------------------------------------------------------------------------- */

/* `a op b` of a signed or unsigned dtype, wrapping. */
static const char *wrapping(CText *c, char op, DType d, unsigned lanes, const char *a,
                            const char *b) {
  const char *t = c_type(c, d, lanes), *u = c_type(c, c_unsigned(d), lanes);
  /* narrow scalars are widened to int by C, in which a product of two ushorts may overflow */
  bool widens = lanes == 1 && dtype_info[d].bytes < 4;
  if (widens) return c_text(c, "((%s)((uint)(%s) %c (uint)(%s)))", t, a, op, b);
  if (dtype_is_uint(d)) return c_text(c, "(%s %c %s)", a, op, b);
  return c_text(c, "as_%s(as_%s(%s) %c as_%s(%s))", t, u, a, op, u, b);
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

static const char *call2(CText *c, const char *name, DType d, unsigned lanes, const char *a,
                         const char *b) {
  return c_text(c, "%s(%s, %s)", c_helper(c, name, d, lanes), a, b);
}

static const char *division(CText *c, const UOp *u, DType d, const char *a, const char *b) {
  bool rem = u->op == OP_IMOD || u->op == OP_FLOORMOD;
  bool floors = u->op == OP_FLOORDIV || u->op == OP_FLOORMOD;
  const char *t = c_type(c, d, c_lanes(c, u));
  if (natural(u)) return c_text(c, "((%s)(%s %c %s))", t, a, rem ? '%' : '/', b);
  if (is_unsigned(d)) return call2(c, rem ? "urem" : "udiv", d, c_lanes(c, u), a, b);
  if (floors) return call2(c, rem ? "floormod" : "floordiv", d, c_lanes(c, u), a, b);
  return call2(c, rem ? "irem" : "idiv", d, c_lanes(c, u), a, b);
}

static const char *shift(CText *c, const UOp *u, DType d, const char *a, const char *b) {
  if (u->op == OP_SHL) return call2(c, "shl", d, c_lanes(c, u), a, b);
  return call2(c, is_unsigned(d) ? "ushr" : "shr", d, c_lanes(c, u), a, b);
}

/* -- pairs ------------------------------------------------------------------------------------- */

static const char *max_min(CText *c, bool max, DType d, unsigned lanes, const char *a,
                           const char *b) {
  if (dtype_is_float(d)) return call2(c, max ? "fmax" : "fmin", d, lanes, a, b);
  if (d == DT_BOOL)
    return c_text(c, "((%s)(%s %c %s))", c_type(c, d, lanes), a, max ? '|' : '&', b);
  return c_text(c, "%s(%s, %s)", max ? "max" : "min", a, b);
}

static const char *quotient(CText *c, DType d, unsigned lanes, const char *a, const char *b) {
  if (d == DT_F32 && !c->crdiv && c->fp64) return call2(c, "fdiv", d, lanes, a, b);
  return c_text(c, "(%s / %s)", a, b);
}

/* Sums and products of INDEX values cannot overflow: their bounds are known. */
static const char *arithmetic(CText *c, char op, DType d, bool index, unsigned lanes, const char *a,
                              const char *b) {
  if (dtype_is_float(d) || index) return c_text(c, "(%s %c %s)", a, op, b);
  return wrapping(c, op, d, lanes, a, b);
}

const char *c_binary(CText *c, Op op, DType d, unsigned lanes, const char *a, const char *b) {
  if (is_small_float(d)) {
    const char *r =
        c_binary(c, op, DT_F32, lanes, c_to_f32(c, d, lanes, a), c_to_f32(c, d, lanes, b));
    return from_f32(c, d, lanes, r);
  }
  switch (op) {
  case OP_ADD: return arithmetic(c, '+', d, false, lanes, a, b);
  case OP_MUL: return arithmetic(c, '*', d, false, lanes, a, b);
  case OP_MAX:
  case OP_MIN: return max_min(c, op == OP_MAX, d, lanes, a, b);
  default: return c_fail(c, NULL, "cannot combine lanes with this op");
  }
}

/* -- unary ------------------------------------------------------------------------------------- */

static const char *negated(CText *c, DType d, unsigned lanes, const char *a) {
  if (dtype_is_float(d)) return c_text(c, "(-%s)", a);
  return wrapping(c, '-', d, lanes, c_text(c, "(%s)(0)", c_type(c, d, lanes)), a);
}

static const char *absolute(CText *c, DType d, unsigned lanes, const char *a) {
  if (dtype_is_float(d)) return c_text(c, "fabs(%s)", a);
  if (is_unsigned(d)) return a;
  return c_text(c, "%s(%s)", c_helper(c, "iabs", d, lanes), a);
}

static const char *root(CText *c, DType d, unsigned lanes, const char *a) {
  if (d == DT_F32 && !c->crdiv && c->fp64)
    return c_text(c, "%s(%s)", c_helper(c, "fsqrt", d, lanes), a);
  return c_text(c, "sqrt(%s)", a);
}

/* -- comparison, choice ------------------------------------------------------------------------ */

static const char *comparison(CText *c, const UOp *u, const char *a, const char *b) {
  const char *op = u->op == OP_CMPLT   ? "<"
                   : u->op == OP_CMPLE ? "<="
                   : u->op == OP_CMPEQ ? "=="
                                       : "!=";
  if (c_lanes(c, u) == 1) return c_text(c, "((uchar)(%s %s %s))", a, op, b);
  return c_text(c, "convert_%s(-(%s %s %s))", c_type(c, DT_BOOL, c_lanes(c, u)), a, op, b);
}

static const char *choice(CText *c, const UOp *u, DType d) {
  const char *a = c_operand(c, u->src[1], d, c_lanes(c, u)),
             *b = c_operand(c, u->src[2], d, c_lanes(c, u));
  const char *cond = c_value(c, u->src[0]);
  if (c_lanes(c, u->src[0]) == 1) return c_text(c, "(%s ? %s : %s)", cond, a, b);
  const char *mask = c_type(c, c_signed(d), c_lanes(c, u));
  return c_text(c, "((convert_%s(%s) != (%s)(0)) ? %s : %s)", mask, cond, mask, a, b);
}

/* -- all of them ------------------------------------------------------------------------------- */

/* An instruction of GPUs that only one dialect can name. */
static const char *quick(CText *c, const UOp *u, const char *name, const char *v) {
  if (!c->dialect->lanes_apart) return c_fail(c, u, "is an instruction that the target lacks");
  return c_text(c, "%s(%s)", name, v);
}

static const char *float_op(CText *c, const UOp *u, DType d, const char **v) {
  switch (u->op) {
  case OP_RECIP:
    return quotient(c, d, c_lanes(c, u), c_text(c, "(%s)(1)", c_type(c, d, c_lanes(c, u))), v[0]);
  case OP_SQRT: return root(c, d, c_lanes(c, u), v[0]);
  case OP_TRUNC: return c_text(c, "trunc(%s)", v[0]);
  case OP_FLOOR: return c_text(c, "floor(%s)", v[0]);
  case OP_CEIL: return c_text(c, "ceil(%s)", v[0]);
  case OP_ROUND: return c_text(c, "rint(%s)", v[0]);
  case OP_FDIV: return quotient(c, d, c_lanes(c, u), v[0], v[1]);
  case OP_FMOD: return c_text(c, "fmod(%s, %s)", v[0], v[1]);
  case OP_MULACC:
    return c->fuses ? c_text(c, "fma(%s, %s, %s)", v[0], v[1], v[2])
                    : c_text(c, "(%s * %s + %s)", v[0], v[1], v[2]);
  case OP_QEXP2: return quick(c, u, "quick_exp2", v[0]);
  case OP_QRECIP: return quick(c, u, "quick_recip", v[0]);
  default: return c_fail(c, u, "should have been decomposed before code generation");
  }
}

static const char *compute(CText *c, const UOp *u, DType d, const char **v) {
  bool index = u->dtype == DT_INDEX;
  switch (u->op) {
  case OP_NEG: return negated(c, d, c_lanes(c, u), v[0]);
  case OP_ABS: return absolute(c, d, c_lanes(c, u), v[0]);
  case OP_ADD: return arithmetic(c, '+', d, index, c_lanes(c, u), v[0], v[1]);
  case OP_SUB: return arithmetic(c, '-', d, index, c_lanes(c, u), v[0], v[1]);
  case OP_MUL: return arithmetic(c, '*', d, index, c_lanes(c, u), v[0], v[1]);
  case OP_MAX:
  case OP_MIN: return max_min(c, u->op == OP_MAX, d, c_lanes(c, u), v[0], v[1]);
  case OP_IDIV:
  case OP_IMOD:
  case OP_FLOORDIV:
  case OP_FLOORMOD: return division(c, u, d, v[0], v[1]);
  case OP_AND:
  case OP_OR:
  case OP_XOR: {
    char op = u->op == OP_AND ? '&' : u->op == OP_OR ? '|' : '^';
    return c_text(c, "((%s)(%s %c %s))", c_type(c, d, c_lanes(c, u)), v[0], op, v[1]);
  }
  case OP_SHL:
  case OP_SHR: return shift(c, u, d, v[0], v[1]);
  case OP_CMPLT:
  case OP_CMPLE:
  case OP_CMPEQ:
  case OP_CMPNE: return comparison(c, u, v[0], v[1]);
  case OP_MULACC:
    if (dtype_is_float(d)) break;
    return wrapping(c, '+', d, c_lanes(c, u), wrapping(c, '*', d, c_lanes(c, u), v[0], v[1]), v[2]);
  default: break;
  }
  if (!dtype_is_float(d)) return c_fail(c, u, "has no form for integers");
  return float_op(c, u, d, v);
}

/* Whether INDEX sources and result all fit an int. Not shifts, whose counts are checked against the
 * width of the dtype. */
static bool all_narrow(const UOp *u) {
  if (u->op == OP_SHL || u->op == OP_SHR) return false;
  bool narrow = c_dtype(u) != DT_I64;
  for (uint32_t s = 0; s < u->nsrc; s++)
    narrow = narrow && (u->src[s]->dtype != DT_INDEX || c_dtype(u->src[s]) == DT_I32);
  return narrow;
}

const char *c_alu(CText *c, const UOp *u) {
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
      v[s] = c_to_f32(c, d, c_lanes(c, u), c_operand(c, u->src[s], d, c_lanes(c, u)));
    r = compute(c, u, small ? DT_F32 : d, v);
    if (small && is_small_float((DType)u->dtype)) r = from_f32(c, d, c_lanes(c, u), r);
  }
  if (u->dtype != DT_INDEX || c_dtype(u) == d) return r;
  return c_text(c, "convert_%s(%s)", c_type(c, c_dtype(u), c_lanes(c, u)), r);
}

/* -- conversions ------------------------------------------------------------------------------- */

static const char *float_to_float(CText *c, DType from, DType to, unsigned lanes, const char *v) {
  bool small = is_small_float(to);
  v = c_to_f32(c, from, lanes, v);
  if (from == DT_F64 && small) v = c_text(c, "%s(%s)", c_helper(c, "round_odd", DT_F32, lanes), v);
  if (small) return from_f32(c, to, lanes, v);
  return c_text(c, "convert_%s(%s)", c_type(c, to, lanes), v);
}

/* Up to 16 bits an integer fits float; beyond that it takes double to be rounded once. */
static const char *int_to_float(CText *c, DType from, DType to, unsigned lanes, const char *v) {
  if (!is_small_float(to)) return c_text(c, "convert_%s(%s)", c_type(c, to, lanes), v);
  DType via = dtype_info[from].bits <= 16 ? DT_F32 : DT_F64;
  v = c_text(c, "convert_%s(%s)", c_type(c, via, lanes), v);
  return float_to_float(c, via, to, lanes, v);
}

/* Drivers differ in what a saturating conversion makes of NaN, and of what no 64-bit integer holds.
 */
static const char *float_to_int(CText *c, DType from, DType to, unsigned lanes, const char *v) {
  bool wide = from == DT_F64;
  const char *f = c_type(c, wide ? DT_F64 : DT_F32, lanes), *t = c_type(c, to, lanes);
  v = c_to_f32(c, from, lanes, v);
  if (c->dialect->lanes_apart) return c_text(c, "saturated<%s>(%s)", t, v);
  v = c_text(c, "((%s != %s) ? (%s)(0) : %s)", v, v, f, v);
  const char *r = c_text(c, "convert_%s_sat(%s)", t, v);
  if (dtype_info[to].bits < 64) return r;
  bool uns = dtype_is_uint(to);
  return c_text(c, "select(%s, (%s)(%s), convert_%s(%s >= (%s)(0x1p%d%s)))", r, t,
                uns ? "ULONG_MAX" : "LONG_MAX", c_type(c, DT_I64, lanes), v, f, uns ? 64 : 63,
                wide ? "" : "f");
}

static const char *to_bool(CText *c, DType from, unsigned lanes, const char *v) {
  if (from == DT_BOOL) return v;
  const char *t = c_type(c, from, lanes);
  if (is_small_float(from)) v = c_text(c, "(%s & (%s)(0x7fff))", v, t); /* all but the sign */
  if (lanes == 1) return c_text(c, "((uchar)(%s != 0))", v);
  return c_text(c, "convert_%s(-(%s != (%s)(0)))", c_type(c, DT_BOOL, lanes), v, t);
}

const char *c_canonical(CText *c, DType d, unsigned lanes, const char *v) {
  unsigned bits = dtype_info[d].bits;
  if (d == DT_BOOL) return to_bool(c, DT_U8, lanes, v);
  if (!dtype_is_storage(d) || bits == 8) return v;
  const char *t = c_type(c, DT_U8, lanes), *s = c_type(c, DT_I8, lanes);
  if (dtype_info[d].cls != DC_SINT)
    return c_text(c, "((%s)(%s & (%s)(%u)))", t, v, t, (1u << bits) - 1);
  return c_text(c, "as_%s((%s)(as_%s((%s)(%s << (%s)(%u))) >> (%s)(%u)))", t, s, s, t, v, t,
                8 - bits, s, 8 - bits);
}

const char *c_cast(CText *c, const UOp *u) {
  DType to = c_dtype(u), from = c_dtype(u->src[0]);
  const char *v = c_operand(c, u->src[0], from, c_lanes(c, u));
  bool float_from = dtype_is_float(from), float_to = dtype_is_float(to);
  if (dtype_is_storage(from) || dtype_is_storage(to))
    return c_fail(c, u, "should have been decomposed before code generation");
  if (to == DT_BOOL) return to_bool(c, from, c_lanes(c, u), v);
  if (float_from && float_to) return float_to_float(c, from, to, c_lanes(c, u), v);
  if (float_to) return int_to_float(c, from, to, c_lanes(c, u), v);
  if (float_from) return float_to_int(c, from, to, c_lanes(c, u), v);
  if (c_lanes(c, u) == 1) return c_text(c, "((%s)(%s))", c_type(c, to, 1), v);
  return c_text(c, "convert_%s(%s)", c_type(c, to, c_lanes(c, u)), v);
}
