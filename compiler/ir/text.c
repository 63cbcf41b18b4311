/* Graphs as lines of text, both directions; the format is in text.h.
 *
 * The number in the list of a REDUCE, HREDUCE, SCATTER or SCAN prints as the op's name and that of
 * a RANGE as the axis type's; the parser takes numbers there too. Blank lines and lines that start
 * with # are skipped. The parser trusts nothing: every line goes through uop_check before it is
 * built. */
#include "compiler/ir/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/vec.h"
#include "compiler/ir/dim.h"

static bool names_op(Op op) {
  return op == OP_REDUCE || op == OP_HREDUCE || op == OP_SCATTER || op == OP_SCAN;
}

/* -- printing ---------------------------------------------------------------------------------- */

static void print_number(const UOp *u, StrBuf *out) {
  if (u->op == OP_CONST && dtype_is_float((DType)u->dtype)) {
    double v = uop_float_value(u);
    if (isnan(v)) {
      strbuf_adds(out, "nan");
    } else {
      strbuf_addf(out, isinf(v) ? "%f" : "%a", v);
    }
  } else if (u->op == OP_CONST && u->dtype == DT_U64) {
    strbuf_addf(out, "%" PRIu64, (uint64_t)u->arg.i);
  } else if (names_op((Op)u->op)) {
    strbuf_adds(out, op_info[u->arg.i].name);
  } else {
    strbuf_addf(out, "%" PRId64, u->arg.i);
  }
}

static void print_arg(const UOp *u, StrBuf *out) {
  ArgKind kind = op_info[u->op].arg;
  if (kind == ARG_NONE) return;
  strbuf_adds(out, " [");
  if (kind != ARG_INTS) print_number(u, out);
  if (kind == ARG_INTS || u->arg.ints.n) strbuf_adds(out, kind == ARG_INTS ? ";" : "; ");
  if (kind == ARG_INTS && u->arg.ints.n) strbuf_adds(out, " ");
  for (uint32_t k = 0; k < u->arg.ints.n; k++) {
    if (u->op == OP_RANGE && !k) {
      strbuf_adds(out, axis_type_name[u->arg.ints.at[k]]);
    } else if (!dim_is_static(u->arg.ints.at[k])) {
      strbuf_addf(out, k ? ", %%%u" : "%%%u", dim_node(u->arg.ints.at[k])->place);
    } else {
      strbuf_addf(out, k ? ", %" PRId64 : "%" PRId64, u->arg.ints.at[k]);
    }
  }
  strbuf_adds(out, "]");
}

void uop_print(Job *job, UOp *root, StrBuf *out) {
  UOpList list = uop_toposort_dims(job, root);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    strbuf_addf(out, "%%%zu = %s %s", k, op_info[u->op].name, dtype_info[u->dtype].name);
    if (u->lanes != 1) strbuf_addf(out, "x%u", u->lanes);
    print_arg(u, out);
    for (uint32_t s = 0; s < u->nsrc; s++) {
      strbuf_addf(out, s ? ", %%%u" : " (%%%u", u->src[s]->place);
    }
    strbuf_adds(out, u->nsrc ? ")\n" : "\n");
  }
}

/* -- parsing ----------------------------------------------------------------------------------- */

typedef struct Parser {
  Job *job;
  const char *at, *end; /* of the rest of the line */
  size_t line;
  UOp **names; /* by number */
  size_t names_len, names_cap, limit;
  VEC(int64_t) ints; /* of the node being read; in the arena, like src */
  VEC(UOp *) src;
  const char *why;
} Parser;

static bool wrong(Parser *p, const char *why) {
  if (!p->why) p->why = why;
  return false;
}

static void skip(Parser *p) {
  while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\r')) p->at++;
}

static bool take(Parser *p, char c) {
  skip(p);
  if (p->at == p->end || *p->at != c) return false;
  p->at++;
  return true;
}

static Str word(Parser *p) {
  skip(p);
  const char *begin = p->at;
  while (p->at < p->end && *p->at && (isalnum((unsigned char)*p->at) || strchr("_.+-", *p->at))) {
    p->at++;
  }
  return (Str){begin, (size_t)(p->at - begin)};
}

/* Decimal; the magnitude up to UINT64_MAX, as the bit pattern of a u64. */
static bool parse_int(Str s, int64_t *out, bool *large) {
  bool neg = s.len && s.ptr[0] == '-';
  uint64_t v = 0;
  if (s.len == neg) return false;
  for (size_t k = neg; k < s.len; k++) {
    if (s.ptr[k] < '0' || s.ptr[k] > '9') return false;
    if (__builtin_mul_overflow(v, 10u, &v)) return false;
    if (__builtin_add_overflow(v, (uint64_t)(s.ptr[k] - '0'), &v)) return false;
  }
  if (neg && v > (uint64_t)INT64_MAX + 1) return false;
  *large = !neg && v > INT64_MAX;
  *out = (int64_t)(neg ? 0 - v : v);
  return true;
}

static bool parse_float(Str s, double *out) {
  char buf[64], *end;
  if (!s.len || s.len >= sizeof buf) return false;
  memcpy(buf, s.ptr, s.len);
  buf[s.len] = 0;
  *out = strtod(buf, &end);
  return *end == 0;
}

static bool parse_name(Parser *p, size_t *out) {
  int64_t v;
  bool large;
  if (!take(p, '%')) return wrong(p, "expected a name like %3");
  if (!parse_int(word(p), &v, &large) || large || v < 0 || (size_t)v >= p->limit) {
    return wrong(p, "bad number after %");
  }
  *out = (size_t)v;
  return true;
}

/* "f32" or "f32x16"; index has an x of its own. */
static bool parse_dtype(Parser *p, DType *dtype, unsigned *lanes) {
  Str w = word(p);
  *lanes = 1;
  if (dtype_parse(w, dtype)) return true;
  for (size_t k = w.len; k-- > 1;) {
    int64_t n;
    bool large;
    if (w.ptr[k] != 'x') continue;
    if (!dtype_parse((Str){w.ptr, k}, dtype)) break;
    if (!parse_int((Str){w.ptr + k + 1, w.len - k - 1}, &n, &large) || large || n < 1 ||
        n > 65535) {
      break;
    }
    *lanes = (unsigned)n;
    return true;
  }
  return wrong(p, "unknown dtype");
}

static bool parse_const(Parser *p, DType dtype, Str w, int64_t *out) {
  bool large = false;
  if (!dtype_is_float(dtype)) {
    if (!parse_int(w, out, &large)) return wrong(p, "expected an integer");
    bool fits = scalar_wrap(dtype, (Scalar){.i = *out}).i == *out && (!large || dtype == DT_U64);
    return fits && !(dtype == DT_U64 && w.ptr[0] == '-') ? true
                                                         : wrong(p, "the value does not fit");
  }
  double v;
  if (!parse_float(w, &v)) return wrong(p, "expected a number");
  memcpy(out, &v, sizeof v);
  return true;
}

static bool parse_number(Parser *p, Op op, DType dtype, int64_t *out) {
  Op combiner;
  bool large;
  Str w = word(p);
  if (op == OP_CONST) return parse_const(p, dtype, w, out);
  if (names_op(op) && op_parse(w, &combiner)) {
    *out = combiner;
    return true;
  }
  if (!parse_int(w, out, &large) || large) return wrong(p, "expected an integer");
  return true;
}

/* %4: the expression of a node above. */
static bool parse_dim(Parser *p) {
  size_t name;
  if (!parse_name(p, &name)) return false;
  if (name >= p->names_len || !p->names[name]) return wrong(p, "a size is not defined above");
  const char *why = dim_check(p->names[name]);
  if (why) return wrong(p, why);
  avec_push(&p->job->arena, &p->ints, dim_of(p->job, p->names[name]));
  return true;
}

static bool parse_element(Parser *p, Op op) {
  int64_t v;
  bool large;
  skip(p);
  if (dim_in_ints(op) && p->at < p->end && *p->at == '%') return parse_dim(p);
  Str w = word(p);
  if (op == OP_RANGE) {
    for (int k = 0; k < AX__COUNT; k++) {
      if (!str_is(w, axis_type_name[k])) continue;
      avec_push(&p->job->arena, &p->ints, k);
      return true;
    }
  }
  if (!parse_int(w, &v, &large) || large) return wrong(p, "expected an integer");
  if (!dim_is_static(v)) return wrong(p, "the number is out of range");
  avec_push(&p->job->arena, &p->ints, v);
  return true;
}

static bool parse_arg(Parser *p, Op op, DType dtype, Arg *arg) {
  *arg = arg_none();
  p->ints.len = 0;
  if (!take(p, '[')) {
    bool needed = op_info[op].arg == ARG_I || op_info[op].arg == ARG_BOTH;
    return needed ? wrong(p, "expected an argument in [ ]") : true;
  }
  if (!take(p, ';')) {
    if (!parse_number(p, op, dtype, &arg->i)) return false;
    if (take(p, ']')) return true;
    if (!take(p, ';')) return wrong(p, "expected ; or ]");
  }
  if (take(p, ']')) return true;
  do {
    if (!parse_element(p, op)) return false;
  } while (take(p, ','));
  arg->ints = (Ints){p->ints.at, (uint32_t)p->ints.len};
  return take(p, ']') ? true : wrong(p, "expected , or ]");
}

static bool parse_sources(Parser *p) {
  p->src.len = 0;
  if (!take(p, '(')) return true;
  do {
    size_t name;
    if (!parse_name(p, &name)) return false;
    if (name >= p->names_len || !p->names[name]) return wrong(p, "a source is not defined above");
    avec_push(&p->job->arena, &p->src, p->names[name]);
  } while (take(p, ','));
  return take(p, ')') ? true : wrong(p, "expected , or )");
}

static bool define(Parser *p, size_t name, UOp *u) {
  if (name >= p->names_len) {
    struct {
      UOp **at;
      size_t len, cap;
    } v = {p->names, p->names_len, p->names_cap};
    avec_reserve(&p->job->arena, &v, name + 1);
    p->names = v.at;
    p->names_cap = v.cap;
    p->names_len = name + 1;
  }
  if (p->names[name]) return wrong(p, "the name is defined twice");
  p->names[name] = u;
  return true;
}

static UOp *parse_line(Parser *p) {
  size_t name;
  Op op;
  DType dtype;
  unsigned lanes;
  Arg arg;
  if (!parse_name(p, &name)) return NULL;
  if (!take(p, '=')) return wrong(p, "expected ="), NULL;
  if (!op_parse(word(p), &op)) return wrong(p, "unknown op"), NULL;
  if (!parse_dtype(p, &dtype, &lanes) || !parse_arg(p, op, dtype, &arg) || !parse_sources(p)) {
    return NULL;
  }
  skip(p);
  if (p->at != p->end) return wrong(p, "more text than a node has"), NULL;
  const char *why = uop_check(p->job, op, dtype, lanes, arg, p->src.at, p->src.len);
  if (why) return wrong(p, why), NULL;
  UOp *u = uop_make_lanes(p->job, op, dtype, lanes, arg, p->src.at, p->src.len);
  if (u->dtype != dtype) return wrong(p, "the op's sources give another dtype"), NULL;
  return define(p, name, u) ? u : NULL;
}

Status uop_parse(Job *job, Str text, UOp **out) {
  Parser p = {.job = job, .limit = text.len};
  const char *at = text.ptr, *end = text.ptr + text.len;
  *out = NULL;
  while (at < end) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    p.line++;
    p.at = at;
    p.end = newline ? newline : end;
    at = newline ? newline + 1 : end;
    skip(&p);
    if (p.at == p.end || *p.at == '#') continue;
    if (!(*out = parse_line(&p))) return FAIL(INVALID_ARGUMENT, "line %zu: %s", p.line, p.why);
  }
  return *out ? NULL : FAIL(INVALID_ARGUMENT, "the text has no node");
}
