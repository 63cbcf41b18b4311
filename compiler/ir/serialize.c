/* Graphs as canonical bytes.
 *
 *   "KUOP" version
 *   names:  varint n, then n times varint length and text: the ops used, in order of first use
 *   names:  the same for dtypes
 *   nodes:  varint n, then per node
 *             varint op (place in the names), varint dtype, varint lanes
 *             arg.i     zigzag varint, 8 little-endian bytes for a float CONST; when the op has one
 *             arg.ints  varint n, n zigzag varints; when the op has them. A dim that is an
                       expression is the distance back to its node, negated
 *             sources   varint n unless the op's number is fixed, then varint distance back (>= 1)
 *
 * Names make the bytes independent of the order of ops.def. The order of nodes is that of
 * uop_toposort, so equal graphs have equal bytes. The reader takes bytes from anyone: counts are
 * compared with what is left before anything is allocated. */
#include "compiler/ir/text.h"

#include "base/vec.h"
#include "compiler/ir/dim.h"

enum { FORMAT_VERSION = 1 };
static const char magic[4] = {'K', 'U', 'O', 'P'};

/* -- writing ----------------------------------------------------------------------------------- */

static void put(StrBuf *out, uint64_t v) {
  uint8_t bytes[10];
  size_t n = 0;
  for (; v >= 0x80; v >>= 7) bytes[n++] = (uint8_t)(v | 0x80);
  bytes[n++] = (uint8_t)v;
  strbuf_add(out, bytes, n);
}

static void put_signed(StrBuf *out, int64_t v) {
  put(out, ((uint64_t)v << 1) ^ (v < 0 ? UINT64_MAX : 0));
}

static bool is_float_const(Op op, DType dtype) { return op == OP_CONST && dtype_is_float(dtype); }

static void put_name(StrBuf *out, const char *name) {
  put(out, strlen(name));
  strbuf_adds(out, name);
}

typedef struct Names {
  uint8_t used[256], number[256]; /* in order of first use, and back */
  size_t n;
} Names;

static void name(Names *names, uint8_t what) {
  for (size_t k = 0; k < names->n; k++) {
    if (names->used[k] == what) return;
  }
  names->number[what] = (uint8_t)names->n;
  names->used[names->n++] = what;
}

static void put_node(StrBuf *out, const UOp *u, const Names *ops, const Names *dtypes) {
  ArgKind kind = op_info[u->op].arg;
  put(out, ops->number[u->op]);
  put(out, dtypes->number[u->dtype]);
  put(out, u->lanes);
  if (is_float_const((Op)u->op, (DType)u->dtype)) {
    strbuf_add(out, &u->arg.i, sizeof u->arg.i);
  } else if (kind == ARG_I || kind == ARG_BOTH) {
    put_signed(out, u->arg.i);
  }
  if (kind == ARG_INTS || kind == ARG_BOTH) {
    put(out, u->arg.ints.n);
    for (uint32_t k = 0; k < u->arg.ints.n; k++) {
      int64_t v = u->arg.ints.at[k];
      put_signed(out, dim_is_static(v) ? v : (int64_t)dim_node(v)->place - (int64_t)u->place);
    }
  }
  if (op_info[u->op].nsrc < 0) put(out, u->nsrc);
  for (uint32_t s = 0; s < u->nsrc; s++) put(out, u->place - u->src[s]->place);
}

void uop_serialize(Job *job, UOp *root, StrBuf *out) {
  UOpList list = uop_toposort_dims(job, root);
  Names ops = {.n = 0}, dtypes = {.n = 0};
  for (size_t k = 0; k < list.len; k++) {
    name(&ops, list.at[k]->op);
    name(&dtypes, list.at[k]->dtype);
  }
  strbuf_add(out, magic, sizeof magic);
  put(out, FORMAT_VERSION);
  put(out, ops.n);
  for (size_t k = 0; k < ops.n; k++) put_name(out, op_info[ops.used[k]].name);
  put(out, dtypes.n);
  for (size_t k = 0; k < dtypes.n; k++) put_name(out, dtype_info[dtypes.used[k]].name);
  put(out, list.len);
  for (size_t k = 0; k < list.len; k++) put_node(out, list.at[k], &ops, &dtypes);
}

/* -- reading ----------------------------------------------------------------------------------- */

typedef struct Reader {
  Job *job;
  const uint8_t *at, *end;
  Op ops[OP__COUNT];
  DType dtypes[DT__COUNT];
  size_t nops, ndtypes;
  UOp **nodes;
  VEC(int64_t) ints; /* in the arena, like src */
  VEC(UOp *) src;
  const char *why;
} Reader;

static bool wrong(Reader *r, const char *why) {
  if (!r->why) r->why = why;
  return false;
}

static bool get(Reader *r, uint64_t *out) {
  uint64_t v = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (r->at == r->end) return wrong(r, "the bytes end early");
    uint8_t b = *r->at++;
    if (shift == 63 && b > 1) return wrong(r, "a number is too long");
    v |= (uint64_t)(b & 0x7f) << shift;
    if (b < 0x80) {
      if (shift && !b) return wrong(r, "a number is not in its shortest form");
      *out = v;
      return true;
    }
  }
  return wrong(r, "a number is too long");
}

/* A number of things that take at least one byte each. */
static bool get_count(Reader *r, uint64_t *out) {
  if (!get(r, out)) return false;
  return *out <= (uint64_t)(r->end - r->at) ? true : wrong(r, "a count exceeds the bytes left");
}

static bool get_signed(Reader *r, int64_t *out) {
  uint64_t v;
  if (!get(r, &v)) return false;
  *out = (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
  return true;
}

static bool get_text(Reader *r, Str *out) {
  uint64_t n = 0;
  if (!get_count(r, &n)) return false;
  *out = (Str){(const char *)r->at, (size_t)n};
  r->at += n;
  return true;
}

static bool get_names(Reader *r) {
  uint64_t n;
  Str s;
  if (!get_count(r, &n)) return false;
  if (n > OP__COUNT) return wrong(r, "too many op names");
  for (r->nops = 0; r->nops < n; r->nops++) {
    if (!get_text(r, &s)) return false;
    if (!op_parse(s, &r->ops[r->nops])) return wrong(r, "unknown op");
  }
  if (!get_count(r, &n)) return false;
  if (n > DT__COUNT) return wrong(r, "too many dtype names");
  for (r->ndtypes = 0; r->ndtypes < n; r->ndtypes++) {
    if (!get_text(r, &s)) return false;
    if (!dtype_parse(s, &r->dtypes[r->ndtypes])) return wrong(r, "unknown dtype");
  }
  return true;
}

static bool get_dim(Reader *r, size_t node, int64_t *v) {
  if (*v >= 0) return true;
  if (*v < -(int64_t)node) return wrong(r, "a size is not an earlier node");
  UOp *u = r->nodes[(int64_t)node + *v];
  const char *why = dim_check(u);
  if (why) return wrong(r, why);
  *v = dim_of(r->job, u);
  return true;
}

static bool get_arg(Reader *r, size_t node, Op op, DType dtype, Arg *arg) {
  ArgKind kind = op_info[op].arg;
  uint64_t n;
  *arg = arg_none();
  if (is_float_const(op, dtype)) {
    if (r->end - r->at < 8) return wrong(r, "the bytes end early");
    memcpy(&arg->i, r->at, 8);
    r->at += 8;
  } else if ((kind == ARG_I || kind == ARG_BOTH) && !get_signed(r, &arg->i)) {
    return false;
  }
  if (kind != ARG_INTS && kind != ARG_BOTH) return true;
  if (!get_count(r, &n)) return false;
  r->ints.len = 0;
  for (uint64_t k = 0; k < n; k++) {
    int64_t v;
    if (!get_signed(r, &v) || (dim_in_ints(op) && !get_dim(r, node, &v))) return false;
    if (!dim_is_static(v) && !dim_in_ints(op)) return wrong(r, "a number is out of range");
    avec_push(&r->job->arena, &r->ints, v);
  }
  arg->ints = (Ints){r->ints.at, (uint32_t)n};
  return true;
}

static bool get_sources(Reader *r, Op op, size_t node) {
  uint64_t n = op_info[op].nsrc < 0 ? 0 : (uint64_t)op_info[op].nsrc, back;
  if (op_info[op].nsrc < 0 && !get_count(r, &n)) return false;
  r->src.len = 0;
  for (uint64_t s = 0; s < n; s++) {
    if (!get(r, &back)) return false;
    if (back < 1 || back > node) return wrong(r, "a source is not an earlier node");
    avec_push(&r->job->arena, &r->src, r->nodes[node - back]);
  }
  return true;
}

static bool get_node(Reader *r, size_t node) {
  uint64_t op, dtype, lanes;
  Arg arg;
  if (!get(r, &op) || !get(r, &dtype) || !get(r, &lanes)) return false;
  if (op >= r->nops || dtype >= r->ndtypes) return wrong(r, "no such name");
  if (lanes < 1 || lanes > UINT16_MAX) return wrong(r, "the number of lanes is out of range");
  Op o = r->ops[op];
  DType d = r->dtypes[dtype];
  if (!get_arg(r, node, o, d, &arg) || !get_sources(r, o, node)) return false;
  const char *why = uop_check(r->job, o, d, (unsigned)lanes, arg, r->src.at, r->src.len);
  if (why) return wrong(r, why);
  UOp *u = uop_make_lanes(r->job, o, d, (unsigned)lanes, arg, r->src.at, r->src.len);
  r->nodes[node] = u;
  return u->dtype == d ? true : wrong(r, "the op's sources give another dtype");
}

Status uop_deserialize(Job *job, Bytes bytes, UOp **out) {
  Reader r = {.job = job, .at = bytes.ptr, .end = bytes.ptr + bytes.len};
  uint64_t n;
  *out = NULL;
  if (bytes.len < sizeof magic + 1 || memcmp(bytes.ptr, magic, sizeof magic) != 0) {
    return FAIL(INVALID_ARGUMENT, "the bytes are not a graph");
  }
  if (bytes.ptr[sizeof magic] != FORMAT_VERSION) {
    return FAIL(INVALID_ARGUMENT, "graph format %u, expected %d", bytes.ptr[sizeof magic],
                FORMAT_VERSION);
  }
  r.at += sizeof magic + 1;
  if (!get_names(&r) || !get_count(&r, &n)) goto fail;
  if (!n) return FAIL(INVALID_ARGUMENT, "the graph has no node");
  r.nodes = arena_array(&job->arena, (size_t)n, sizeof *r.nodes);
  for (size_t k = 0; k < n; k++) {
    if (!get_node(&r, k)) goto fail;
  }
  if (r.at != r.end) wrong(&r, "bytes are left over");
  if (!r.why) *out = r.nodes[n - 1];
fail:
  if (!r.why) return NULL;
  return FAIL(INVALID_ARGUMENT, "byte %zu: %s", (size_t)(r.at - bytes.ptr), r.why);
}
