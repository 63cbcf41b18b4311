/* Loads and stores, lane by lane.
 *
 * Contiguous lanes are read and written in pieces of up to 16 bytes where the index is known to be
 * a multiple of the piece (unit.h): a Lanes<T, N> is a struct that is aligned to its size, of which
 * NVRTC makes one vector access. Everything else goes element by element, each behind its gate. A
 * buffer of vectors is one of their elements, which its index counts in vectors; registers are
 * arrays with constant indices. A bool in memory is any byte that is not 0. */
#include "compiler/codegen/cuda_memory.h"

enum { PIECE_BYTES = 16, SPACE_REGISTERS = 1, SPACE_SHARED = 2 };

typedef struct Access {
  const UOp *buffer, *index, *gate; /* gate: or NULL */
  const char *name;
  unsigned lanes, width; /* width: lanes of an element of the buffer */
  unsigned piece;        /* lanes that are accessed at once */
  int64_t stride;
  DType dtype;
} Access;

static bool is_register(const UOp *b) {
  return b->op == OP_BUFFER && b->arg.ints.at[1] == SPACE_REGISTERS;
}

static unsigned piece_of(const CText *c, const Access *a) {
  bool together = a->index->lanes == 1 && a->stride == 1 && !is_register(a->buffer);
  if (!together || (a->gate && a->gate->lanes > 1)) return 1;
  unsigned n = unit_of(&c->units, a->index, a->buffer) * a->width;
  while (n > 1 && (a->lanes % n || n * dtype_info[a->dtype].bytes > PIECE_BYTES)) n /= 2;
  return n;
}

static Access access_of(CText *c, const UOp *u, unsigned lanes, uint32_t gate) {
  const UOp *b = uop_storage(u->src[0]);
  Access a = {.buffer = b,
              .index = u->src[1],
              .gate = u->nsrc > gate ? u->src[gate] : NULL,
              .name = c_buffer_name(c, b),
              .lanes = lanes,
              .width = b->op == OP_BUFFER ? b->lanes : 1,
              .stride = u->arg.i,
              .dtype = (DType)b->dtype};
  if (a.width > 1) a.stride = 1;
  a.piece = piece_of(c, &a);
  return a;
}

/* Where lane k is: "p0 + v3 + 4". */
static const char *place(CText *c, const Access *a, unsigned k) {
  const char *i = c_node_lane(c, a->index, k);
  int64_t by = a->index->lanes > 1 ? 0 : a->stride * k;
  if (a->width > 1) i = c_text(c, "%s * %u", i, a->width);
  return by ? c_text(c, "%s + %s + %lld", a->name, i, (long long)by)
            : c_text(c, "%s + %s", a->name, i);
}

static const char *element(CText *c, const Access *a, unsigned k) {
  return c_text(c, "*(%s)", place(c, a, k));
}

static const char *lanes_type(CText *c, const Access *a) {
  return c_text(c, "Lanes<%s, %u>", c_type(c, a->dtype, 1), a->piece);
}

/* -- LOAD -------------------------------------------------------------------------------------- */

/* Lanes from k on, into a variable of their own. */
static uint32_t load_piece(CText *c, const Access *a, unsigned k) {
  const char *t = lanes_type(c, a), *from = place(c, a, k);
  uint32_t n = ++c->count;
  if (!a->gate) {
    c_line(c, "%s t%u = *(const %s *)(%s);", t, n, t, from);
    return n;
  }
  c_line(c, "%s t%u = {};", t, n);
  c_line(c, "if (%s) t%u = *(const %s *)(%s);", c_value(c, a->gate), n, t, from);
  return n;
}

void cuda_load(CText *c, const UOp *u) {
  Access a = access_of(c, u, u->lanes, 2);
  const UOp *other = u->nsrc > 3 ? u->src[3] : NULL;
  uint32_t piece = 0;
  for (unsigned k = 0; k < a.lanes; k++) {
    c->lane = k;
    if (a.piece > 1 && k % a.piece == 0) piece = load_piece(c, &a, k);
    const char *v = a.piece > 1 ? c_text(c, "t%u.v[%u]", piece, k % a.piece) : element(c, &a, k);
    v = c_canonical(c, a.dtype, 1, v);
    const char *zero = c_text(c, "(%s)(0)", c_type(c, a.dtype, 1));
    const char *alt = other ? c_operand(c, other, a.dtype, 1) : zero;
    if (a.gate && (other || a.piece == 1))
      v = c_text(c, "%s ? %s : %s", c_value(c, a.gate), v, alt);
    c_define(c, u, v);
  }
  c->lane = 0;
}

/* -- STORE ------------------------------------------------------------------------------------- */

static void store_piece(CText *c, const Access *a, const UOp *value, unsigned k) {
  const char *t = lanes_type(c, a), *all = "";
  for (unsigned n = 0; n < a->piece; n++)
    all = c_text(c, "%s%s%s", all, n ? ", " : "", c_node_lane(c, value, k + n));
  uint32_t n = ++c->count;
  c_line(c, "%s t%u = {{%s}};", t, n, all);
  const char *gate = a->gate ? c_text(c, "if (%s) ", c_value(c, a->gate)) : "";
  c_line(c, "%s*(%s *)(%s) = t%u;", gate, t, place(c, a, k), n);
}

void cuda_store(CText *c, const UOp *u) {
  const UOp *value = u->src[2];
  unsigned lanes = value->lanes > u->src[1]->lanes ? value->lanes : u->src[1]->lanes;
  Access a = access_of(c, u, lanes, 3);
  for (unsigned k = 0; k < lanes; k += a.piece) {
    c->lane = k;
    if (a.piece > 1) {
      store_piece(c, &a, value, k);
      continue;
    }
    const char *gate = a.gate ? c_text(c, "if (%s) ", c_value(c, a.gate)) : "";
    c_line(c, "%s%s = %s;", gate, element(c, &a, k), c_operand(c, value, (DType)value->dtype, 1));
  }
  c->lane = 0;
}

/* -- declarations ------------------------------------------------------------------------------ */

static void declare(CText *c, const UOp *p, const char *read_only, const char *apart) {
  const char *t = c_type(c, (DType)p->dtype, 1);
  strbuf_addf(&c->head, "  %s%s *%sp%lld = (%s%s *)a%lld;\n", read_only, t, apart,
              (long long)p->arg.i, read_only, t, (long long)p->arg.i);
}

static void declare_param(CText *c, const UOp *p, bool written) {
  declare(c, p, written ? "" : "const ", "");
}

static void declare_apart(CText *c, const UOp *p, bool written) {
  declare(c, p, written ? "" : "const ", "__restrict__ ");
}

/* Buffers of the workgroup follow each other in the memory that the launch brings, or are declared.
 */
static void declare_shared(CText *c, const UOp *b, const char *t, long long n) {
  const char *name = c_buffer_name(c, b);
  if (b->arg.ints.n > 3 && !c->failure)
    c->failure = FAIL(UNIMPLEMENTED, "CUDA C++: a buffer in the order of matrix instructions");
  if (!c->linear->shared_given) {
    strbuf_addf(&c->head, "  alignas(%d) __shared__ %s %s[%lld];\n", PIECE_BYTES, t, name, n);
    return;
  }
  uint64_t align = c->linear->shared_align;
  uint64_t bytes = (uint64_t)n * dtype_info[b->dtype].bytes;
  strbuf_addf(&c->head, "  %s *%s = (%s *)(workgroup_memory() + %llu);\n", t, name, t,
              (unsigned long long)c->given);
  c->given += (bytes + align - 1) / align * align;
}

static void declare_buffer(CText *c, const UOp *b) {
  const char *t = c_type(c, (DType)b->dtype, 1);
  long long n = (long long)b->arg.ints.at[0] * b->lanes;
  if (b->arg.ints.at[1] == SPACE_SHARED)
    declare_shared(c, b, t, n);
  else
    strbuf_addf(&c->head, "  alignas(%d) %s %s[%lld]%s;\n", PIECE_BYTES, t, c_buffer_name(c, b), n,
                is_register(b) ? " = {}" : "");
}

void cuda_declare(CText *c, bool apart) {
  c_declare(c, apart ? declare_apart : declare_param, declare_buffer);
}
