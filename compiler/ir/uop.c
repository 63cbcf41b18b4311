/* The node table: building and hash-consing.
 *
 * The table is open addressing over node pointers; the hash covers everything that identity covers
 * and uses source ids, not addresses, so that it is the same in every run. A lookup that hits does
 * no checking: a node that exists was legal. On a miss the rules are asserted, ALU ops over CONSTs
 * become CONSTs, and facts (shape, bounds, open ranges) are worked out once. */
#include "compiler/ir/uop.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/infer.h"

enum { FIRST_TABLE = 1024 };

static uint32_t hash_key(Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src, size_t n) {
  uint64_t h = (uint64_t)op | (uint64_t)dtype << 8 | (uint64_t)lanes << 16 | (uint64_t)n << 32;
  h = (h ^ (uint64_t)arg.i) * 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 29)) + arg.ints.n;
  for (uint32_t k = 0; k < arg.ints.n; k++) {
    int64_t v = arg.ints.at[k];
    h = (h ^ (dim_is_static(v) ? (uint64_t)v : ~(uint64_t)dim_node(v)->id)) * 0xbf58476d1ce4e5b9u;
    h ^= h >> 31;
  }
  for (size_t s = 0; s < n; s++) {
    h = (h ^ src[s]->id) * 0x94d049bb133111ebu;
    h ^= h >> 32;
  }
  return (uint32_t)(h ^ (h >> 32));
}

static bool same_key(const UOp *u, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                     size_t n) {
  if (u->op != op || u->dtype != dtype || u->lanes != lanes || u->nsrc != n) return false;
  if (u->arg.i != arg.i || !shape_eq(u->arg.ints, arg.ints)) return false;
  for (size_t s = 0; s < n; s++) {
    if (u->src[s] != src[s]) return false;
  }
  return true;
}

static void table_grow(Job *job) {
  size_t cap = job->table_cap ? job->table_cap * 2 : FIRST_TABLE;
  NodeSlot *next = calloc(cap, sizeof *next);
  if (!next) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "no memory for a table of %zu nodes", cap));
  for (size_t k = 0; k < job->table_cap; k++) {
    NodeSlot slot = job->table[k];
    if (!slot.node) continue;
    size_t at = slot.hash & (cap - 1);
    while (next[at].node) at = (at + 1) & (cap - 1);
    next[at] = slot;
  }
  free(job->table);
  job->table = next;
  job->table_cap = cap;
}

static _Noreturn void broken(Op op, const char *why) {
  fprintf(stderr, "uop_make %s: %s\n", op_info[op].name, why);
  abort();
}

static UOp *fold(Job *job, Op op, DType dtype, unsigned lanes, UOp *const *src, size_t n) {
  if (!(op_info[op].flags & OPF_ALU)) return NULL;
  assert(n);
  Scalar v[3] = {{0}};
  for (size_t s = 0; s < n; s++) {
    if (src[s]->op != OP_CONST) return NULL;
    v[s] = uop_const_value(src[s]);
  }
  Scalar r = op_eval(op, dtype, (DType)src[n - 1]->dtype, v);
  bool is_float = dtype_is_float(dtype);
  if (op == OP_BITCAST && is_float && isnan(r.f)) return NULL; /* a NaN's payload would be lost */
  int64_t bits = r.i;
  if (is_float) memcpy(&bits, &r.f, sizeof bits);
  return uop_make_lanes(job, OP_CONST, dtype, lanes, arg_i(bits), NULL, 0);
}

static bool is_symbolic(Op op, Arg arg, UOp *const *src, size_t n) {
  bool any = op == OP_VAR || !shape_is_static(arg.ints);
  for (size_t s = 0; s < n && !any; s++) any = src[s]->symbolic;
  return any;
}

static UOp *create(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                   size_t n) {
  UOp *u = arena_alloc(&job->arena, sizeof(UOp) + n * sizeof *src);
  u->op = (uint8_t)op; /* the rest is zero already */
  u->dtype = (uint8_t)dtype;
  u->lanes = (uint16_t)lanes;
  u->nsrc = (uint32_t)n;
  u->id = job->next_id++;
  u->symbolic = is_symbolic(op, arg, src, n);
  u->arg = arg;
  if (arg.ints.n) {
    u->arg.ints.at = arena_copy(&job->arena, arg.ints.at, arg.ints.n * sizeof *arg.ints.at);
  } else {
    u->arg.ints.at = NULL;
  }
  if (n) memcpy(u->src, src, n * sizeof *src);
  const char *why = shape_infer(job, op, u->arg, u->src, n, &u->shape);
  if (why) broken(op, why);
  bounds_infer(u, &u->vmin, &u->vmax);
  u->open = ranges_infer(job, u);
  return u;
}

static Arg canonical_const(DType dtype, Arg arg) {
  Scalar v = {.i = arg.i};
  if (dtype_is_float(dtype)) memcpy(&v.f, &arg.i, sizeof v.f);
  v = scalar_wrap(dtype, v);
  int64_t bits = v.i;
  if (dtype_is_float(dtype)) memcpy(&bits, &v.f, sizeof bits);
  return arg_i(bits);
}

static void insert(Job *job, UOp *u, uint32_t hash) {
  if ((job->table_len + 1) * 2 > job->table_cap) table_grow(job);
  size_t mask = job->table_cap - 1, at = hash & mask;
  while (job->table[at].node) at = (at + 1) & mask;
  job->table[at] = (NodeSlot){u, hash};
  job->table_len++;
}

UOp *uop_make_lanes(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                    size_t n) {
  dtype = dtype_infer(op, dtype, src, n);
  if (!lanes) lanes = lanes_infer(op, src, n);
  if (op == OP_CONST) arg = canonical_const(dtype, arg);
  if ((job->table_len + 1) * 2 > job->table_cap) table_grow(job);
  uint32_t hash = hash_key(op, dtype, lanes, arg, src, n);
  size_t mask = job->table_cap - 1, at = hash & mask;
  for (const NodeSlot *s; (s = &job->table[at])->node; at = (at + 1) & mask) {
    if (s->hash == hash && same_key(s->node, op, dtype, lanes, arg, src, n)) return s->node;
  }
  const char *why = check_rules(job, op, dtype, lanes, arg, src, n);
  if (why) broken(op, why);
  UOp *folded = fold(job, op, dtype, lanes, src, n);
  if (folded) return folded;
  UOp *u = create(job, op, dtype, lanes, arg, src, n);
  insert(job, u, hash); /* symbolic shapes have made nodes of their own: the slot may be taken */
  return u;
}

UOp *uop_make(Job *job, Op op, DType dtype, Arg arg, UOp *const *src, size_t nsrc) {
  return uop_make_lanes(job, op, dtype, 0, arg, src, nsrc);
}

UOp *uop_with_src(Job *job, UOp *u, UOp *const *src) {
  return uop_make_lanes(job, (Op)u->op, (DType)u->dtype, u->lanes, u->arg, src, u->nsrc);
}

/* -- shorthands -------------------------------------------------------------------------------- */

UOp *uop_scalar(Job *job, DType dtype, Scalar v) {
  int64_t bits = v.i;
  if (dtype_is_float(dtype)) memcpy(&bits, &v.f, sizeof bits);
  return uop_make(job, OP_CONST, dtype, arg_i(bits), NULL, 0);
}

UOp *uop_int(Job *job, DType dtype, int64_t value) {
  assert(!dtype_is_float(dtype));
  return uop_scalar(job, dtype, (Scalar){.i = value});
}

UOp *uop_float(Job *job, DType dtype, double value) {
  assert(dtype_is_float(dtype));
  return uop_scalar(job, dtype, (Scalar){.f = value});
}

UOp *uop_number(Job *job, DType dtype, double value) {
  return uop_scalar(job, dtype, op_eval(OP_CAST, dtype, DT_F64, &(Scalar){.f = value}));
}

UOp *uop1(Job *job, Op op, UOp *a) { return uop_make(job, op, DT_VOID, arg_none(), &a, 1); }

UOp *uop2(Job *job, Op op, UOp *a, UOp *b) {
  return uop_make(job, op, DT_VOID, arg_none(), (UOp *[]){a, b}, 2);
}

UOp *uop3(Job *job, Op op, UOp *a, UOp *b, UOp *c) {
  return uop_make(job, op, DT_VOID, arg_none(), (UOp *[]){a, b, c}, 3);
}

UOp *uop_cast(Job *job, UOp *a, DType dtype) {
  return a->dtype == dtype ? a : uop_make(job, OP_CAST, dtype, arg_none(), &a, 1);
}

UOp *uop_param(Job *job, int64_t slot, DType dtype, const int64_t *dims, size_t ndim) {
  return uop_make(job, OP_PARAM, dtype, arg_both(slot, dims, ndim), NULL, 0);
}

UOp *uop_range(Job *job, int64_t id, AxisType type, UOp *end) {
  int64_t axis = type;
  return uop_make(job, OP_RANGE, DT_INDEX, arg_both(id, &axis, 1), &end, 1);
}

UOp *uop_thread_range(Job *job, int64_t id, AxisType type, int dim, UOp *end) {
  int64_t ints[2] = {type, dim};
  return uop_make(job, OP_RANGE, DT_INDEX, arg_both(id, ints, 2), &end, 1);
}

UOp *uop_warp_range(Job *job, int64_t id, int64_t step, UOp *end) {
  int64_t ints[3] = {AX_WARP, 0, step};
  return uop_make(job, OP_RANGE, DT_INDEX, arg_both(id, ints, 3), &end, 1);
}

UOp *uop_reduce(Job *job, Op op, UOp *x, UOp *const *ranges, size_t n) {
  if (!n) return x;
  UOp **src = arena_array(&job->arena, n + 1, sizeof *src);
  src[0] = x;
  memcpy(src + 1, ranges, n * sizeof *src);
  return uop_make(job, OP_REDUCE, DT_VOID, arg_i(op), src, n + 1);
}

/* -- constants --------------------------------------------------------------------------------- */

double uop_float_value(const UOp *u) {
  assert(u->op == OP_CONST && dtype_is_float((DType)u->dtype));
  double v;
  memcpy(&v, &u->arg.i, sizeof v);
  return v;
}

Scalar uop_const_value(const UOp *u) {
  assert(u->op == OP_CONST);
  if (dtype_is_float((DType)u->dtype)) return (Scalar){.f = uop_float_value(u)};
  return (Scalar){.i = u->arg.i};
}

bool uop_is_number(const UOp *u, double v) {
  if (u->op != OP_CONST) return false;
  if (dtype_is_float((DType)u->dtype)) {
    double x = uop_float_value(u);
    return x == v && signbit(x) == signbit(v);
  }
  double x = dtype_is_uint((DType)u->dtype) ? (double)(uint64_t)u->arg.i : (double)u->arg.i;
  return x == v;
}
