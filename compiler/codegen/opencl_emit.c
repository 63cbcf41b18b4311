/* Linear program -> OpenCL C.
 *
 * One walk over the list; every value becomes a variable of the block it is computed in, which is
 * the loop that holds it. Variables are numbered in the order of the list, so that equal programs
 * are equal texts, whatever the ids of their nodes. Helpers and declarations are collected on the
 * way and put in front. Contraction is off: MULACC says where a product and a sum are one. */
#include "compiler/codegen/opencl_emit.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler/codegen/opencl_build.h"

/* -- text -------------------------------------------------------------------------------------- */

const char *cl_fail(Cl *c, const UOp *u, const char *what) {
  if (!c->failure && u)
    c->failure = FAIL(INTERNAL, "code generation: node %u (%s %s x%u) %s", u->id,
                      op_info[u->op].name, dtype_info[u->dtype].name, u->lanes, what);
  if (!c->failure) c->failure = FAIL(INTERNAL, "code generation %s", what);
  return "0";
}

const char *cl_text(Cl *c, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  char *text = n < 0 ? NULL : arena_alloc(&c->arena, (size_t)n + 1);
  if (text) vsnprintf(text, (size_t)n + 1, fmt, again);
  va_end(again);
  return text ? text : cl_fail(c, NULL, "ran out of memory");
}

void cl_line(Cl *c, const char *fmt, ...) {
  va_list args;
  char few[512], *line = few;
  va_start(args, fmt);
  int n = vsnprintf(few, sizeof few, fmt, args);
  va_end(args);
  if (n >= (int)sizeof few && (line = arena_alloc(&c->arena, (size_t)n + 1))) {
    va_start(args, fmt);
    vsnprintf(line, (size_t)n + 1, fmt, args);
    va_end(args);
  }
  if (n < 0 || !line) {
    cl_fail(c, NULL, "ran out of memory");
    return;
  }
  strbuf_addf(&c->body, "%*s%s\n", 2 + 2 * c->depth, "", line);
}

/* -- types ------------------------------------------------------------------------------------- */

static bool fits_int(const UOp *u) { return u->vmin >= INT32_MIN && u->vmax <= INT32_MAX; }

DType cl_dtype(const UOp *u) {
  if (u->dtype != DT_INDEX) return (DType)u->dtype;
  return fits_int(u) ? DT_I32 : DT_I64;
}

static const char *scalar_type(DType d) {
  switch (d) {
  case DT_I8: return "char";
  case DT_I16: return "short";
  case DT_I32: return "int";
  case DT_I64:
  case DT_INDEX: return "long";
  case DT_F16:
  case DT_BF16:
  case DT_U16: return "ushort";
  case DT_U32: return "uint";
  case DT_U64: return "ulong";
  case DT_F32: return "float";
  case DT_F64: return "double";
  default: return "uchar"; /* bool, u8, and the storage dtypes of one byte */
  }
}

const char *cl_type(Cl *c, DType d, unsigned lanes) {
  if (d == DT_F64 && !c->fp64 && !c->failure)
    c->failure = FAIL(UNIMPLEMENTED, "the device has no 64-bit floats");
  bool legal = lanes == 1 || lanes == 2 || lanes == 4 || lanes == 8 || lanes == 16;
  if (!legal && !c->failure)
    c->failure = FAIL(UNIMPLEMENTED, "OpenCL C has no vectors of %u lanes", lanes);
  return lanes == 1 ? scalar_type(d) : cl_text(c, "%s%u", scalar_type(d), lanes);
}

DType cl_unsigned(DType d) {
  switch (dtype_info[d].bytes) {
  case 1: return DT_U8;
  case 2: return DT_U16;
  case 4: return DT_U32;
  default: return DT_U64;
  }
}

DType cl_signed(DType d) {
  switch (dtype_info[d].bytes) {
  case 1: return DT_I8;
  case 2: return DT_I16;
  case 4: return DT_I32;
  default: return DT_I64;
  }
}

/* -- values ------------------------------------------------------------------------------------ */

static const char *float_literal(Cl *c, DType d, double v) {
  if (d == DT_F32 && isnan(v)) return "as_float(0x7fc00000)";
  if (d == DT_F32 && isinf(v)) return v > 0 ? "INFINITY" : "(-INFINITY)";
  if (d == DT_F32) return cl_text(c, "(%af)", v);
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  if (isnan(v) || isinf(v)) return cl_text(c, "as_double(0x%" PRIx64 "UL)", bits);
  return cl_text(c, "(%a)", v);
}

static const char *int_literal(Cl *c, DType d, int64_t v) {
  switch (d) {
  case DT_I64:
    if (v == INT64_MIN) return "(-0x7fffffffffffffffL - 1)";
    return cl_text(c, "(%" PRId64 "L)", v);
  case DT_U64: return cl_text(c, "%" PRIu64 "UL", (uint64_t)v);
  case DT_U32: return cl_text(c, "%" PRId64 "u", v);
  case DT_I32:
    return v == INT32_MIN ? "(-0x7fffffff - 1)"
                          : cl_text(c, v < 0 ? "(%" PRId64 ")" : "%" PRId64, v);
  default: return cl_text(c, "((%s)(%" PRId64 "))", scalar_type(d), v);
  }
}

static const char *constant(Cl *c, const UOp *u) {
  DType d = cl_dtype(u);
  const char *v;
  if (d == DT_F32 || d == DT_F64) {
    v = float_literal(c, d, uop_float_value(u));
  } else if (dtype_is_float(d)) {
    uint16_t bits = 0;
    scalar_store(d, uop_const_value(u), &bits);
    v = int_literal(c, dtype_info[d].bytes == 1 ? DT_U8 : DT_U16, bits);
  } else {
    v = int_literal(c, d, d == DT_BOOL ? u->arg.i != 0 : u->arg.i);
  }
  return u->lanes == 1 ? v : cl_text(c, "(%s)(%s)", cl_type(c, d, u->lanes), v);
}

static const char *ramp(Cl *c, const UOp *u) {
  const char *v = cl_text(c, "(%s)(", cl_type(c, cl_dtype(u), u->lanes));
  for (unsigned k = 0; k < u->lanes; k++) v = cl_text(c, "%s%s%u", v, k ? ", " : "", k);
  return cl_text(c, "%s)", v);
}

static const char *special(Cl *c, const UOp *u) {
  const char *what = u->arg.i < 3 ? "group" : "local";
  return cl_text(c, "((%s)get_%s_id(%d))", scalar_type(cl_dtype(u)), what, (int)(u->arg.i % 3));
}

const char *cl_value(Cl *c, const UOp *u) {
  while (u->op == OP_AFTER) u = u->src[0];
  switch (u->op) {
  case OP_CONST: return constant(c, u);
  case OP_RAMP: return ramp(c, u);
  case OP_SPECIAL: return special(c, u);
  case OP_THREAD: return cl_text(c, "((%s)get_group_id(0))", scalar_type(cl_dtype(u)));
  case OP_VAR: return cl_text(c, "((%s)n%lld)", scalar_type(cl_dtype(u)), (long long)u->arg.i);
  default: break;
  }
  bool known = u->id >= c->first_id && u->id - c->first_id < c->nids;
  uint32_t n = known ? c->number[u->id - c->first_id] : 0;
  return n ? cl_text(c, "v%u", n) : cl_fail(c, u, "is used before it is defined");
}

const char *cl_operand(Cl *c, const UOp *u, DType d, unsigned lanes) {
  const char *v = cl_value(c, u);
  if (u->dtype == DT_INDEX && cl_dtype(u) != d && (d == DT_I32 || d == DT_I64))
    v = cl_text(c, "convert_%s(%s)", cl_type(c, d, u->lanes), v);
  return u->lanes == lanes ? v : cl_text(c, "(%s)(%s)", cl_type(c, d, lanes), v);
}

const char *cl_lane(Cl *c, const char *v, unsigned lanes, unsigned k) {
  return lanes == 1 ? v : cl_text(c, "(%s).s%x", v, k);
}

/* -- nodes ------------------------------------------------------------------------------------- */

static const char *hreduce(Cl *c, const UOp *u) {
  DType d = (DType)u->dtype;
  unsigned lanes = u->src[0]->lanes;
  const char *v = cl_value(c, u->src[0]), *r = cl_lane(c, v, lanes, 0);
  for (unsigned k = 1; k < lanes; k++)
    r = cl_binary(c, (Op)u->arg.i, d, 1, r, cl_lane(c, v, lanes, k));
  return r;
}

static const char *bitcast(Cl *c, const UOp *u) {
  DType to = cl_dtype(u), from = cl_dtype(u->src[0]);
  if (dtype_info[to].bytes != dtype_info[from].bytes)
    return cl_fail(c, u, "has dtypes of different sizes");
  const char *v = cl_text(c, "as_%s(%s)", cl_type(c, to, u->lanes), cl_value(c, u->src[0]));
  return cl_canonical(c, to, u->lanes, v);
}

static uint32_t new_number(Cl *c, const UOp *u) {
  return c->number[u->id - c->first_id] = ++c->count;
}

static void open_loop(Cl *c, const UOp *u) {
  const char *end = cl_value(c, u->src[0]), *t = scalar_type(cl_dtype(u));
  uint32_t n = new_number(c, u);
  cl_line(c, "for (%s v%u = 0; v%u < %s; v%u++) {", t, n, n, end, n);
  c->depth++;
}

static void close_loop(Cl *c, const UOp *u) {
  if (c->depth == 0) {
    cl_fail(c, u, "closes no loop");
    return;
  }
  c->depth--;
  cl_line(c, "}");
}

static const char *expression(Cl *c, const UOp *u) {
  switch (u->op) {
  case OP_LOAD: return cl_load(c, u);
  case OP_HREDUCE: return hreduce(c, u);
  case OP_CAST: return cl_cast(c, u);
  case OP_BITCAST: return bitcast(c, u);
  case OP_BROADCAST: return cl_operand(c, u->src[0], cl_dtype(u), u->lanes);
  default: break;
  }
  if (op_info[u->op].flags & OPF_ALU) return cl_alu(c, u);
  return cl_fail(c, u, "has no place in a linear program");
}

static void emit_node(Cl *c, const UOp *u) {
  switch (u->op) {
  case OP_CONST:
  case OP_PARAM:
  case OP_BUFFER:
  case OP_THREAD:
  case OP_SPECIAL:
  case OP_VAR:
  case OP_RAMP:
  case OP_AFTER:
  case OP_SINK: return;
  case OP_RANGE: open_loop(c, u); return;
  case OP_END: close_loop(c, u); return;
  case OP_STORE: cl_store(c, u); return;
  case OP_BARRIER: cl_line(c, "barrier(CLK_LOCAL_MEM_FENCE);"); return;
  default: break;
  }
  const char *x = expression(c, u), *t = cl_type(c, cl_dtype(u), u->lanes);
  cl_line(c, "%s v%u = %s;", t, new_number(c, u), x);
}

/* -- the kernel -------------------------------------------------------------------------------- */

static bool begin(Cl *c) {
  const Linear *l = c->linear;
  uint32_t last = 0;
  c->first_id = UINT32_MAX;
  for (size_t i = 0; i < l->len; i++) {
    const UOp *u = l->list[i];
    if (u->id > last) last = u->id;
    if (u->id < c->first_id) c->first_id = u->id;
    for (uint32_t s = 0; s < u->nsrc; s++) /* leaves may not be listed */
      if (u->src[s]->id < c->first_id) c->first_id = u->src[s]->id;
  }
  c->nids = l->len ? last - c->first_id + 1 : 0;
  c->number = arena_array(&c->arena, (size_t)c->nids + 1, sizeof *c->number);
  return c->number != NULL;
}

static void signature(Cl *c, const char *entry, StrBuf *out) {
  const Linear *l = c->linear;
  const uint32_t *b = l->block;
  if (l->threads <= 1)
    strbuf_addf(out, "__attribute__((reqd_work_group_size(%u, %u, %u)))\n", b[0] ? b[0] : 1,
                b[1] ? b[1] : 1, b[2] ? b[2] : 1);
  strbuf_addf(out, "__kernel void %s(", entry);
  for (uint32_t i = 0; i < l->nargs; i++)
    strbuf_addf(out, "%s__global uchar *a%u, ulong o%u", i ? ", " : "", i, i);
  for (uint32_t i = 0; i < l->nvars; i++)
    strbuf_addf(out, "%slong n%u", i || l->nargs ? ", " : "", i);
  strbuf_adds(out, ") {\n");
}

static bool has_feature(const Target *target, const char *name) {
  size_t n = strlen(name);
  for (const char *p = target->features; p && (p = strstr(p, name)); p += n) {
    bool starts = p == target->features || p[-1] == ' ';
    if (starts && (!p[n] || p[n] == ' ')) return true;
  }
  return false;
}

bool opencl_fuses(const Target *target) { return has_feature(target, "fma"); }

static void assemble(Cl *c, const char *entry, StrBuf *out) {
  if (c->fp64) strbuf_adds(out, "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n");
  strbuf_adds(out, "#pragma OPENCL FP_CONTRACT OFF\n");
  if (c->helpers.len) strbuf_add(out, c->helpers.ptr, c->helpers.len);
  signature(c, entry, out);
  if (c->head.len) strbuf_add(out, c->head.ptr, c->head.len);
  if (c->body.len) strbuf_add(out, c->body.ptr, c->body.len);
  strbuf_adds(out, "}\n");
  if (!c->failure && (c->helpers.failed || c->head.failed || c->body.failed || out->failed))
    c->failure = FAIL(RESOURCE_EXHAUSTED, "out of memory for a kernel's text");
}

Status opencl_emit(const Linear *linear, const char *entry, const Target *target, StrBuf *out) {
  Cl c = {.linear = linear, .target = target};
  c.fp64 = has_feature(target, "fp64");
  c.crdiv = has_feature(target, "crdiv");
  arena_init(&c.arena, 0);
  if (!begin(&c)) c.failure = FAIL(RESOURCE_EXHAUSTED, "out of memory for a kernel's text");
  if (!c.failure) cl_declare(&c);
  for (size_t i = 0; i < linear->len && !c.failure; i++) emit_node(&c, linear->list[i]);
  if (!c.failure && c.depth) cl_fail(&c, NULL, "leaves a loop open");
  if (!c.failure) assemble(&c, entry, out);
  strbuf_deinit(&c.helpers);
  strbuf_deinit(&c.head);
  strbuf_deinit(&c.body);
  arena_deinit(&c.arena);
  return c.failure;
}
