/* Sizes that may be unknown while compiling: see dim.h.
 *
 * All arithmetic goes through polynomials (poly.h), which is what makes the form canonical. */
#include "compiler/ir/dim.h"

#include <assert.h>
#include <inttypes.h>

#include "compiler/ir/poly.h"

enum { MAX_NODES = 2000, MAX_DEPTH = 600 };

/* -- handles ----------------------------------------------------------------------------------- */

UOp *dim_node(int64_t d) {
  assert(!dim_is_static(d));
  UOp *u = (UOp *)(uintptr_t)((uint64_t)d - (uint64_t)INT64_MIN);
  assert(((uintptr_t)u & 7) == 0 && u->dtype == DT_INDEX && u->op != OP_CONST);
  return u;
}

UOp *dim_uop(Job *job, int64_t d) { return dim_is_static(d) ? uop_index(job, d) : dim_node(d); }

static bool is_size_op(Op op) {
  switch (op) {
  case OP_CONST:
  case OP_VAR:
  case OP_ADD:
  case OP_SUB:
  case OP_MUL:
  case OP_NEG:
  case OP_MIN:
  case OP_MAX:
  case OP_FLOORDIV:
  case OP_FLOORMOD: return true;
  default: return false;
  }
}

/* Longest path, as poly.c recurses; the count stops graphs that share nodes. */
static const char *check_at(const UOp *u, int depth, int *nodes) {
  if (!is_size_op((Op)u->op) || u->dtype != DT_INDEX) return "a size is no expression over VARs";
  if (!depth || !(*nodes)--) return "a size expression is too large";
  if (u->op == OP_CONST && !dim_is_static(u->arg.i)) return "a size is out of range";
  const char *why = NULL;
  for (uint32_t s = 0; s < u->nsrc && !why; s++) why = check_at(u->src[s], depth - 1, nodes);
  return why;
}

/* The only place where handles are made. A number among them is nobody's size. */
static int64_t of_poly(Job *job, Poly p) {
  UOp *u = poly_make(job, p);
  int nodes = MAX_NODES;
  if (u->op == OP_CONST && !dim_is_static(u->arg.i))
    job_abort(job, FAIL(INVALID_ARGUMENT, "a size of %lld is out of range", (long long)u->arg.i));
  if (u->op == OP_CONST) return u->arg.i;
  const char *why = check_at(u, MAX_DEPTH, &nodes);
  if (why) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "%s", why));
  int64_t d = (int64_t)((uint64_t)(uintptr_t)u + (uint64_t)INT64_MIN);
  assert(!dim_is_static(d));
  return d;
}

static Poly poly_of_dim(Job *job, int64_t d) {
  return dim_is_static(d) ? poly_const(job, d) : poly_of(job, dim_node(d));
}

int64_t dim_of(Job *job, UOp *u) { return of_poly(job, poly_of_size(job, u)); }

const char *dim_check(UOp *u) {
  int nodes = MAX_NODES;
  if (u->lanes != 1) return "a size is a vector";
  return check_at(u, MAX_DEPTH, &nodes);
}

bool dim_in_ints(Op op) {
  return op == OP_PARAM || op == OP_IOTA || op == OP_RESHAPE || op == OP_EXPAND || op == OP_PAD ||
         op == OP_SHRINK;
}

bool shape_is_static(Ints shape) {
  for (uint32_t k = 0; k < shape.n; k++) {
    if (!dim_is_static(shape.at[k])) return false;
  }
  return true;
}

UOp *uop_var(Job *job, int64_t number, int64_t min, int64_t max, int64_t divisor) {
  return uop_make(job, OP_VAR, DT_INDEX, arg_both(number, (int64_t[]){min, max, divisor}, 3), NULL,
                  0);
}

/* -- arithmetic -------------------------------------------------------------------------------- */

static bool both_static(int64_t a, int64_t b) { return dim_is_static(a) && dim_is_static(b); }

static bool is_size(int64_t d) {
  return dim_is_static(d) ? d >= 0 : dim_node(d)->size || dim_node(d)->vmin >= 0;
}

void dim_mark_size(int64_t d) {
  if (!dim_is_static(d)) dim_node(d)->size = true;
}

static int64_t marked(int64_t d, bool size) {
  if (size) dim_mark_size(d);
  return d;
}

int64_t dim_add(Job *job, int64_t a, int64_t b) {
  int64_t r;
  if (both_static(a, b) && !__builtin_add_overflow(a, b, &r) && dim_is_static(r)) return r;
  r = of_poly(job, poly_add(job, poly_of_dim(job, a), poly_of_dim(job, b), 1));
  return marked(r, is_size(a) && is_size(b));
}

int64_t dim_sub(Job *job, int64_t a, int64_t b) {
  int64_t r;
  if (both_static(a, b) && !__builtin_sub_overflow(a, b, &r) && dim_is_static(r)) return r;
  return of_poly(job, poly_add(job, poly_of_dim(job, a), poly_of_dim(job, b), -1));
}

int64_t dim_mul(Job *job, int64_t a, int64_t b) {
  int64_t r;
  if (both_static(a, b) && !__builtin_mul_overflow(a, b, &r) && dim_is_static(r)) return r;
  r = of_poly(job, poly_mul(job, poly_of_dim(job, a), poly_of_dim(job, b)));
  return marked(r, is_size(a) && is_size(b));
}

int64_t dim_floordiv(Job *job, int64_t a, int64_t b) {
  assert(dim_le(job, 1, b));
  int64_t r = of_poly(job, poly_floordiv(job, poly_of_dim(job, a), poly_of_dim(job, b)));
  return marked(r, is_size(a));
}

int64_t dim_ceildiv(Job *job, int64_t a, int64_t b) {
  return dim_floordiv(job, dim_add(job, a, dim_sub(job, b, 1)), b);
}

static int64_t chosen(Job *job, Op op, int64_t a, int64_t b) {
  if (both_static(a, b)) return (op == OP_MIN) == (a < b) ? a : b;
  int64_t r = dim_of(job, uop2(job, op, dim_uop(job, a), dim_uop(job, b)));
  return marked(r, op == OP_MIN ? is_size(a) && is_size(b) : is_size(a) || is_size(b));
}

int64_t dim_min(Job *job, int64_t a, int64_t b) { return chosen(job, OP_MIN, a, b); }
int64_t dim_max(Job *job, int64_t a, int64_t b) { return chosen(job, OP_MAX, a, b); }

bool dim_divides(Job *job, int64_t a, int64_t b, int64_t *quotient) {
  Poly q, rest;
  if (b == 0) return false;
  poly_split(job, poly_of_dim(job, a), poly_of_dim(job, b), &q, &rest);
  if (rest.n) return false;
  *quotient = marked(of_poly(job, q), is_size(a) && is_size(b));
  return true;
}

/* -- facts ------------------------------------------------------------------------------------- */

int64_t dim_low(int64_t d) { return dim_is_static(d) ? d : dim_node(d)->vmin; }
int64_t dim_high(int64_t d) { return dim_is_static(d) ? d : dim_node(d)->vmax; }

int64_t dim_divisor(Job *job, int64_t d) {
  int64_t g = poly_divisor(poly_of_dim(job, d));
  return g ? g : 1;
}

bool dim_le(Job *job, int64_t a, int64_t b) {
  if (both_static(a, b)) return a <= b;
  if (a == b || dim_high(a) <= dim_low(b) || (a == 0 && is_size(b))) return true;
  bool proven = poly_proves(job, poly_add(job, poly_of_dim(job, b), poly_of_dim(job, a), -1));
  if (proven && a == 0) dim_mark_size(b);
  return proven;
}

bool dim_contains(Job *job, int64_t from, int64_t to, UOp *u) {
  if (dim_is_static(from) && dim_is_static(to) && u->vmin >= from && u->vmax < to) return true;
  if (!u->symbolic && dim_is_static(from) && dim_is_static(to)) return false;
  Poly x = poly_of(job, u), low = poly_add(job, x, poly_of_dim(job, from), -1);
  Poly high = poly_add(job, poly_of_dim(job, to), x, -1);
  return (u->vmin >= dim_high(from) || poly_proves(job, low)) &&
         poly_proves(job, poly_add(job, high, poly_const(job, 1), -1));
}

int64_t dims_numel(Job *job, Ints shape) {
  int64_t n = 1;
  for (uint32_t k = 0; k < shape.n; k++) {
    if (shape.at[k] == 0) return 0;
  }
  for (uint32_t k = 0; k < shape.n; k++) {
    n = dim_mul(job, n, shape.at[k]);
  }
  return n;
}

/* -- values ------------------------------------------------------------------------------------ */

static int64_t eval(const UOp *u, const int64_t *vars, size_t nvars, bool typical) {
  if (u->op == OP_CONST) return u->arg.i;
  if (u->op == OP_VAR) {
    if (!typical) {
      assert((size_t)u->arg.i < nvars);
      return vars[u->arg.i];
    }
    enum { TYPICAL = 32 };
    int64_t v = TYPICAL - TYPICAL % u->arg.ints.at[2];
    return v < u->vmin ? u->vmin : v > u->vmax ? u->vmax : v;
  }
  Scalar v[3] = {{0}};
  for (uint32_t s = 0; s < u->nsrc; s++) v[s].i = eval(u->src[s], vars, nvars, typical);
  return op_eval((Op)u->op, DT_INDEX, DT_INDEX, v).i;
}

int64_t dim_eval(const UOp *u, const int64_t *vars, size_t nvars) {
  return eval(u, vars, nvars, false);
}

int64_t dim_typical_of(const UOp *u) {
  int64_t v = eval(u, NULL, 0, true);
  return v < u->vmin ? u->vmin : v > u->vmax ? u->vmax : v;
}

int64_t dim_typical(int64_t d) { return dim_is_static(d) ? d : dim_typical_of(dim_node(d)); }

int64_t dims_typical(Ints shape) {
  int64_t n = 1;
  for (uint32_t k = 0; k < shape.n; k++) {
    int64_t d = dim_typical(shape.at[k]);
    if (shape.at[k] == 0) return 0;
    if (d < 1) d = 1; /* no size that is 0 only sometimes makes a tensor empty */
    if (__builtin_mul_overflow(n, d, &n) || n > INT64_MAX / 16) n = INT64_MAX / 16;
  }
  return n;
}

static const char *text_at(Job *job, const UOp *u, bool inner) {
  static const char *const sign[OP__COUNT] = {
      [OP_ADD] = " + ", [OP_SUB] = " - ", [OP_MUL] = "*", [OP_FLOORDIV] = "/", [OP_FLOORMOD] = "%"};
  Arena *a = &job->arena;
  if (u->op == OP_CONST) return arena_printf(a, "%" PRId64, u->arg.i);
  if (u->op == OP_VAR) return arena_printf(a, "n%" PRId64, u->arg.i);
  bool loose = u->op == OP_ADD || u->op == OP_SUB;
  const char *x = text_at(job, u->src[0], !loose);
  if (u->nsrc == 1) return arena_printf(a, "-%s", x);
  const char *y = text_at(job, u->src[1], u->op != OP_ADD);
  if (!sign[u->op]) return arena_printf(a, "%s(%s, %s)", u->op == OP_MIN ? "min" : "max", x, y);
  bool wrap = inner && (loose || u->op == OP_FLOORDIV || u->op == OP_FLOORMOD);
  return arena_printf(a, wrap ? "(%s%s%s)" : "%s%s%s", x, sign[u->op], y);
}

const char *dim_text(Job *job, int64_t d) {
  return dim_is_static(d) ? arena_printf(&job->arena, "%" PRId64, d)
                          : text_at(job, dim_node(d), false);
}

/* -- substitution ------------------------------------------------------------------------------ */

typedef struct Substitution {
  Job *job;
  UOp *const *to;
  size_t nvars;
} Substitution;

/* Size expressions are trees of bounded size: no memo is needed. */
static UOp *expression(const Substitution *s, UOp *u) {
  if (u->op == OP_VAR) {
    assert((size_t)u->arg.i < s->nvars);
    return s->to[u->arg.i];
  }
  UOp *src[3];
  for (uint32_t k = 0; k < u->nsrc; k++) src[k] = expression(s, u->src[k]);
  return u->nsrc ? uop_with_src(s->job, u, src) : u;
}

static Ints dims(const Substitution *s, Ints from) {
  int64_t *out = arena_array(&s->job->arena, from.n + 1, sizeof *out);
  for (uint32_t k = 0; k < from.n; k++) {
    int64_t d = from.at[k];
    out[k] = dim_is_static(d) ? d : dim_of(s->job, expression(s, dim_node(d)));
  }
  return (Ints){out, from.n};
}

/* A size that is no sum or product: in the order that its VARs have now, as the dims have it. */
static UOp *as_dim(Job *job, UOp *u) {
  bool closed = u->op == OP_FLOORDIV || u->op == OP_FLOORMOD || u->op == OP_MIN || u->op == OP_MAX;
  bool size = closed && u->dtype == DT_INDEX && u->symbolic && !u->open && !dim_check(u);
  return size ? dim_uop(job, dim_of(job, u)) : u;
}

UOp *dim_substitute(Job *job, UOp *root, UOp *const *to, size_t nvars) {
  if (!root->symbolic) return root;
  const Substitution s = {job, to, nvars};
  UOpList list = uop_toposort(job, root);
  UOp **result = arena_array(&job->arena, list.len, sizeof *result);
  for (size_t k = 0; k < list.len; k++) {
    UOp *u = list.at[k], **src = arena_array(&job->arena, u->nsrc + 1, sizeof *src);
    for (uint32_t n = 0; n < u->nsrc; n++) src[n] = result[u->src[n]->place];
    result[k] = u;
    if (!u->symbolic) continue;
    if (u->op == OP_VAR) {
      result[k] = expression(&s, u);
      continue;
    }
    bool choice = (u->op == OP_MIN || u->op == OP_MAX) && u->dtype == DT_INDEX;
    if (choice && src[1]->op != OP_CONST && uop_order(src[0], src[1]) > 0) {
      UOp *first = src[0]; /* as the dims have it */
      src[0] = src[1], src[1] = first;
    }
    Arg arg = u->arg;
    if (dim_in_ints((Op)u->op)) arg.ints = dims(&s, arg.ints);
    u = uop_make_lanes(job, (Op)u->op, (DType)u->dtype, u->lanes, arg, src, u->nsrc);
    result[k] = as_dim(job, u);
  }
  return result[list.len - 1];
}

void dim_vars(const UOp *expression, void (*fn)(void *ctx, const UOp *var), void *ctx) {
  if (expression->op == OP_VAR) fn(ctx, expression);
  for (uint32_t s = 0; s < expression->nsrc; s++) dim_vars(expression->src[s], fn, ctx);
}
