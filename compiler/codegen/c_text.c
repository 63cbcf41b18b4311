/* What printers of C have in common.
 *
 * One walk over the list; every value becomes a variable of the block it is computed in, which is
 * the loop that holds it: where the language has vectors one variable, else one for each lane.
 * Variables are numbered in the order of the list, so that equal programs are equal texts, whatever
 * the ids of their nodes. Helpers and declarations are collected on the way and put in front. */
#include "compiler/codegen/c_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* -- text -------------------------------------------------------------------------------------- */

const char *c_fail(CText *c, const UOp *u, const char *what) {
  if (!c->failure && u)
    c->failure = FAIL(INTERNAL, "code generation: node %u (%s %s x%u) %s", u->id,
                      op_info[u->op].name, dtype_info[u->dtype].name, u->lanes, what);
  if (!c->failure) c->failure = FAIL(INTERNAL, "code generation %s", what);
  return "0";
}

const char *c_text(CText *c, const char *fmt, ...) {
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  int n = vsnprintf(NULL, 0, fmt, args);
  va_end(args);
  char *text = n < 0 ? NULL : arena_alloc(&c->arena, (size_t)n + 1);
  if (text) vsnprintf(text, (size_t)n + 1, fmt, again);
  va_end(again);
  return text ? text : c_fail(c, NULL, "ran out of memory");
}

void c_line(CText *c, const char *fmt, ...) {
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
    c_fail(c, NULL, "ran out of memory");
    return;
  }
  strbuf_addf(&c->body, "%*s%s\n", 2 + 2 * c->depth, "", line);
}

/* -- types ------------------------------------------------------------------------------------- */

static bool fits_int(const UOp *u) { return u->vmin >= INT32_MIN && u->vmax <= INT32_MAX; }

DType c_dtype(const UOp *u) {
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

const char *c_type(CText *c, DType d, unsigned lanes) {
  if (d == DT_F64 && !c->fp64 && !c->failure)
    c->failure = FAIL(UNIMPLEMENTED, "the device has no 64-bit floats");
  bool legal = lanes == 1 || lanes == 2 || lanes == 4 || lanes == 8 || lanes == 16;
  if (!legal && !c->failure)
    c->failure = FAIL(UNIMPLEMENTED, "%s has no vectors of %u lanes", c->dialect->what, lanes);
  return lanes == 1 ? scalar_type(d) : c_text(c, "%s%u", scalar_type(d), lanes);
}

DType c_unsigned(DType d) {
  switch (dtype_info[d].bytes) {
  case 1: return DT_U8;
  case 2: return DT_U16;
  case 4: return DT_U32;
  default: return DT_U64;
  }
}

DType c_signed(DType d) {
  switch (dtype_info[d].bytes) {
  case 1: return DT_I8;
  case 2: return DT_I16;
  case 4: return DT_I32;
  default: return DT_I64;
  }
}

/* -- values ------------------------------------------------------------------------------------ */

static const char *float_literal(CText *c, DType d, double v) {
  if (d == DT_F32 && isnan(v)) return "as_float(0x7fc00000)";
  if (d == DT_F32 && isinf(v)) return v > 0 ? "INFINITY" : "(-INFINITY)";
  if (d == DT_F32) return c_text(c, "(%af)", v);
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  if (isnan(v) || isinf(v)) return c_text(c, "as_double(0x%" PRIx64 "UL)", bits);
  return c_text(c, "(%a)", v);
}

static const char *int_literal(CText *c, DType d, int64_t v) {
  switch (d) {
  case DT_I64:
    if (v == INT64_MIN) return "(-0x7fffffffffffffffL - 1)";
    return c_text(c, "(%" PRId64 "L)", v);
  case DT_U64: return c_text(c, "%" PRIu64 "UL", (uint64_t)v);
  case DT_U32: return c_text(c, "%" PRId64 "u", v);
  case DT_I32:
    return v == INT32_MIN ? "(-0x7fffffff - 1)"
                          : c_text(c, v < 0 ? "(%" PRId64 ")" : "%" PRId64, v);
  default: return c_text(c, "((%s)(%" PRId64 "))", scalar_type(d), v);
  }
}

unsigned c_lanes(const CText *c, const UOp *u) { return c->dialect->lanes_apart ? 1 : u->lanes; }

static const char *constant(CText *c, const UOp *u) {
  DType d = c_dtype(u);
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
  return c_lanes(c, u) == 1 ? v : c_text(c, "(%s)(%s)", c_type(c, d, u->lanes), v);
}

static const char *ramp(CText *c, const UOp *u) {
  if (c->dialect->lanes_apart) return c_text(c, "%u", c->lane);
  const char *v = c_text(c, "(%s)(", c_type(c, c_dtype(u), u->lanes));
  for (unsigned k = 0; k < u->lanes; k++) v = c_text(c, "%s%s%u", v, k ? ", " : "", k);
  return c_text(c, "%s)", v);
}

static const char *special(CText *c, const UOp *u) {
  const char *what = u->arg.i < 3 ? "group" : "local";
  return c_text(c, "((%s)get_%s_id(%d))", scalar_type(c_dtype(u)), what, (int)(u->arg.i % 3));
}

/* Of lanes that are apart each has a variable. */
static const char *variable(CText *c, const UOp *u, uint32_t n) {
  bool apart = c->dialect->lanes_apart && u->lanes > 1;
  return apart ? c_text(c, "v%u_%u", n, c->lane) : c_text(c, "v%u", n);
}

const char *c_value(CText *c, const UOp *u) {
  while (u->op == OP_AFTER) u = u->src[0];
  switch (u->op) {
  case OP_CONST: return constant(c, u);
  case OP_RAMP: return ramp(c, u);
  case OP_SPECIAL: return special(c, u);
  case OP_THREAD: return c_text(c, "((%s)get_group_id(0))", scalar_type(c_dtype(u)));
  case OP_VAR: return c_text(c, "((%s)n%lld)", scalar_type(c_dtype(u)), (long long)u->arg.i);
  default: break;
  }
  bool known = u->id >= c->first_id && u->id - c->first_id < c->nids;
  uint32_t n = known ? c->number[u->id - c->first_id] : 0;
  return n ? variable(c, u, n) : c_fail(c, u, "is used before it is defined");
}

const char *c_operand(CText *c, const UOp *u, DType d, unsigned lanes) {
  const char *v = c_value(c, u);
  if (u->dtype == DT_INDEX && c_dtype(u) != d && (d == DT_I32 || d == DT_I64))
    v = c_text(c, "convert_%s(%s)", c_type(c, d, c_lanes(c, u)), v);
  return c_lanes(c, u) == lanes ? v : c_text(c, "(%s)(%s)", c_type(c, d, lanes), v);
}

const char *c_node_lane(CText *c, const UOp *u, unsigned k) {
  unsigned lane = c->lane;
  c->lane = k;
  const char *v = c_value(c, u);
  c->lane = lane;
  return c_lanes(c, u) == 1 ? v : c_text(c, "(%s).s%x", v, k);
}

/* -- nodes ------------------------------------------------------------------------------------- */

static const char *hreduce(CText *c, const UOp *u) {
  DType d = (DType)u->dtype;
  unsigned lanes = u->src[0]->lanes;
  const char *r = c_node_lane(c, u->src[0], 0);
  for (unsigned k = 1; k < lanes; k++)
    r = c_binary(c, (Op)u->arg.i, d, 1, r, c_node_lane(c, u->src[0], k));
  return r;
}

static const char *bitcast(CText *c, const UOp *u) {
  DType to = c_dtype(u), from = c_dtype(u->src[0]);
  if (dtype_info[to].bytes != dtype_info[from].bytes)
    return c_fail(c, u, "has dtypes of different sizes");
  unsigned lanes = c_lanes(c, u);
  const char *v = c_text(c, "as_%s(%s)", c_type(c, to, lanes), c_value(c, u->src[0]));
  return c_canonical(c, to, lanes, v);
}

static uint32_t new_number(CText *c, const UOp *u) {
  return c->number[u->id - c->first_id] = ++c->count;
}

void c_define(CText *c, const UOp *u, const char *v) {
  uint32_t n = c->lane ? c->number[u->id - c->first_id] : new_number(c, u);
  c_line(c, "%s %s = %s;", c_type(c, c_dtype(u), c_lanes(c, u)), variable(c, u, n), v);
}

static void open_loop(CText *c, const UOp *u) {
  const char *end = c_value(c, u->src[0]), *t = scalar_type(c_dtype(u));
  uint32_t n = new_number(c, u);
  c_line(c, "for (%s v%u = 0; v%u < %s; v%u++) {", t, n, n, end, n);
  c->depth++;
}

static void close_loop(CText *c, const UOp *u) {
  if (c->depth == 0) {
    c_fail(c, u, "closes no loop");
    return;
  }
  c->depth--;
  c_line(c, "}");
}

static const char *expression(CText *c, const UOp *u) {
  switch (u->op) {
  case OP_HREDUCE: return hreduce(c, u);
  case OP_CAST: return c_cast(c, u);
  case OP_BITCAST: return bitcast(c, u);
  case OP_BROADCAST: return c_operand(c, u->src[0], c_dtype(u), c_lanes(c, u));
  default: break;
  }
  if (op_info[u->op].flags & OPF_ALU) return c_alu(c, u);
  return c_fail(c, u, "has no place in a linear program");
}

static void emit_node(CText *c, const UOp *u) {
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
  case OP_BARRIER: c_line(c, "barrier(CLK_LOCAL_MEM_FENCE);"); return;
  default: break;
  }
  if (c->dialect->node(c, u)) return;
  unsigned n = c->dialect->lanes_apart ? u->lanes : 1;
  for (c->lane = 0; c->lane < n; c->lane++) c_define(c, u, expression(c, u));
  c->lane = 0;
}

/* -- the kernel -------------------------------------------------------------------------------- */

const char *c_buffer_name(CText *c, const UOp *buf) {
  if (buf->op == OP_PARAM) return c_text(c, "p%lld", (long long)buf->arg.i);
  static const char letters[] = "brs";
  return c_text(c, "%c%lld", letters[buf->arg.ints.at[1]], (long long)buf->arg.i);
}

/* A leaf need not be in the list: those that a listed node uses are found through it. */
void c_declare(CText *c, void (*param)(CText *c, const UOp *p, bool written),
               void (*buffer)(CText *c, const UOp *b)) {
  const Linear *l = c->linear;
  bool *params = arena_array(&c->arena, l->nargs + 1, 1), *written;
  written = arena_array(&c->arena, l->nargs + 1, 1);
  if (!params || !written) {
    c_fail(c, NULL, "ran out of memory");
    return;
  }
  for (size_t i = 0; i < l->len; i++) {
    const UOp *u = l->list[i];
    const UOp *to = u->op == OP_STORE ? uop_storage(u->src[0]) : u;
    if (u->op == OP_STORE && to->op == OP_PARAM && to->arg.i < l->nargs) written[to->arg.i] = true;
  }
  for (size_t i = 0; i < l->len; i++) {
    const UOp *u = l->list[i];
    if (u->op != OP_LOAD && u->op != OP_STORE) continue;
    const UOp *b = uop_storage(u->src[0]);
    bool *known = b->op == OP_PARAM ? &params[b->arg.i] : NULL;
    if (known && !*known) *known = true, param(c, b, written[b->arg.i]);
    if (b->op != OP_BUFFER || c->number[b->id - c->first_id]) continue;
    c->number[b->id - c->first_id] = 1;
    buffer(c, b);
  }
}

static bool begin(CText *c) {
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
  unit_init(&c->units, &c->arena, c->first_id, c->nids);
  return c->number != NULL;
}

static void assemble(CText *c, const char *entry, StrBuf *out) {
  for (const char *const *text = c->dialect->begin; *text; text++) strbuf_adds(out, *text);
  if (c->helpers.len) strbuf_add(out, c->helpers.ptr, c->helpers.len);
  c->dialect->signature(c, entry, out);
  if (c->head.len) strbuf_add(out, c->head.ptr, c->head.len);
  if (c->body.len) strbuf_add(out, c->body.ptr, c->body.len);
  strbuf_adds(out, "}\n");
  if (!c->failure && (c->helpers.failed || c->head.failed || c->body.failed || out->failed))
    c->failure = FAIL(RESOURCE_EXHAUSTED, "out of memory for a kernel's text");
}

Status c_print(CText *c, const char *entry, StrBuf *out) {
  const Linear *l = c->linear;
  arena_init(&c->arena, 0);
  if (!begin(c)) c->failure = FAIL(RESOURCE_EXHAUSTED, "out of memory for a kernel's text");
  if (!c->failure) c->dialect->declare(c);
  for (size_t i = 0; i < l->len && !c->failure; i++) emit_node(c, l->list[i]);
  if (!c->failure && c->depth) c_fail(c, NULL, "leaves a loop open");
  if (!c->failure) assemble(c, entry, out);
  strbuf_deinit(&c->helpers);
  strbuf_deinit(&c->head);
  strbuf_deinit(&c->body);
  arena_deinit(&c->arena);
  return c->failure;
}
