/* Loads and stores.
 *
 * Contiguous lanes are vloadN and vstoreN, which ask for no more than the element's alignment;
 * other vectors are put together from their elements, each behind its own gate. A REG buffer is a
 * variable; one with lanes holds vectors. A bool in memory is any byte that is not 0. */
#include "compiler/codegen/opencl_memory.h"

static const char *lane_of(CText *c, const char *v, unsigned lanes, unsigned k) {
  return lanes == 1 ? v : c_text(c, "(%s).s%x", v, k);
}

static bool is_register(const UOp *buf) {
  return buf->op == OP_BUFFER && (buf->arg.ints.at[1] == 1 || buf->lanes > 1);
}

/* A register, or an element of a buffer of vectors. */
static const char *whole_element(CText *c, const UOp *u, const UOp *buf) {
  const char *name = c_buffer_name(c, buf);
  if (buf->arg.ints.at[1] == 1 && buf->arg.ints.at[0] == 1) return name;
  return c_text(c, "%s[%s]", name, c_value(c, u->src[1]));
}

typedef struct Access {
  const char *name, *index, *gate;
  unsigned lanes, index_lanes, gate_lanes;
  int64_t stride;
  DType dtype;
} Access;

static Access access_of(CText *c, const UOp *u, unsigned lanes, uint32_t gate) {
  const UOp *buf = uop_storage(u->src[0]), *index = u->src[1];
  Access a = {.name = c_buffer_name(c, buf),
              .index = c_value(c, index),
              .lanes = lanes,
              .index_lanes = index->lanes,
              .stride = u->arg.i,
              .dtype = (DType)buf->dtype};
  if (u->nsrc <= gate) return a;
  a.gate = c_value(c, u->src[gate]);
  a.gate_lanes = u->src[gate]->lanes;
  return a;
}

static const char *lane_address(CText *c, const Access *a, unsigned k) {
  if (a->index_lanes > 1)
    return c_text(c, "%s[%s]", a->name, lane_of(c, a->index, a->index_lanes, k));
  int64_t by = a->stride * k;
  return by ? c_text(c, "%s[%s + %lld]", a->name, a->index, (long long)by)
            : c_text(c, "%s[%s]", a->name, a->index);
}

static bool contiguous(const Access *a) { return a->index_lanes == 1 && a->stride == 1; }

/* -- LOAD -------------------------------------------------------------------------------------- */

/* Without a gate, or behind one for all lanes. */
static const char *load_open(CText *c, const Access *a, const char *alt) {
  const char *t = c_type(c, a->dtype, a->lanes), *v = c_text(c, "(%s)(", t);
  bool each = a->gate_lanes > 1;
  if (a->lanes == 1) {
    v = lane_address(c, a, 0);
  } else if (contiguous(a) && !each) {
    v = c_text(c, "vload%u(0, %s + %s)", a->lanes, a->name, a->index);
  } else if (a->index_lanes == 1 && !a->stride && !each) {
    v = c_text(c, "(%s)(%s)", t, lane_address(c, a, 0));
  } else {
    for (unsigned k = 0; k < a->lanes; k++) {
      const char *x = lane_address(c, a, k);
      if (each)
        x = c_text(c, "%s ? %s : %s", lane_of(c, a->gate, a->gate_lanes, k), x,
                   lane_of(c, alt, a->lanes, k));
      v = c_text(c, "%s%s%s", v, k ? ", " : "", x);
    }
    v = c_text(c, "%s)", v);
  }
  return v;
}

const char *opencl_load(CText *c, const UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  if (is_register(buf)) return whole_element(c, u, buf);
  Access a = access_of(c, u, u->lanes, 2);
  const char *zero = c_text(c, "(%s)(0)", c_type(c, a.dtype, a.lanes));
  const char *alt = u->nsrc > 3 ? c_operand(c, u->src[3], a.dtype, a.lanes) : zero;
  const char *v = c_canonical(c, a.dtype, a.lanes, load_open(c, &a, alt));
  /* the type: a narrow scalar is widened by ?: */
  if (a.gate && a.gate_lanes == 1) v = c_text(c, "%s ? %s : %s", a.gate, v, alt);
  return v;
}

/* -- STORE ------------------------------------------------------------------------------------- */

void opencl_store(CText *c, const UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  unsigned lanes = u->src[2]->lanes > u->src[1]->lanes ? u->src[2]->lanes : u->src[1]->lanes;
  Access a = access_of(c, u, lanes, 3);
  const char *v = c_operand(c, u->src[2], (DType)u->src[2]->dtype, lanes);
  const char *gate = a.gate && a.gate_lanes == 1 ? c_text(c, "if (%s) ", a.gate) : "";
  if (is_register(buf)) {
    c_line(c, "%s%s = %s;", gate, whole_element(c, u, buf), v);
    return;
  }
  if (lanes > 1 && contiguous(&a) && a.gate_lanes <= 1) {
    c_line(c, "%svstore%u(%s, 0, %s + %s);", gate, lanes, v, a.name, a.index);
    return;
  }
  for (unsigned k = 0; k < lanes; k++) {
    if (a.gate_lanes > 1) gate = c_text(c, "if (%s) ", lane_of(c, a.gate, a.gate_lanes, k));
    c_line(c, "%s%s = %s;", gate, lane_address(c, &a, k), lane_of(c, v, lanes, k));
  }
}

/* -- declarations ------------------------------------------------------------------------------ */

static void declare_param(CText *c, const UOp *p, bool written) {
  long long i = (long long)p->arg.i;
  const char *t = c_type(c, (DType)p->dtype, 1);
  const char *read_only = written ? "" : "const ";
  strbuf_addf(&c->head, "  __global %s%s *p%lld = (__global %s%s *)(a%lld + o%lld);\n", read_only,
              t, i, read_only, t, i, i);
}

static void declare_buffer(CText *c, const UOp *b) {
  const char *t = c_type(c, (DType)b->dtype, b->lanes), *name = c_buffer_name(c, b);
  int64_t space = b->arg.ints.at[1], n = b->arg.ints.at[0];
  if (space == 1 && n == 1)
    strbuf_addf(&c->head, "  %s %s = (%s)(0);\n", t, name, t);
  else
    strbuf_addf(&c->head, "  %s%s %s[%lld];\n", space == 2 ? "__local " : "", t, name,
                (long long)n);
}

void opencl_declare(CText *c) { c_declare(c, declare_param, declare_buffer); }
