/* See gen.h. */
#include "tests/rules/gen.h"

#include <assert.h>
#include <math.h>

#include "base/map.h"

uint64_t gen_random(Gen *g, uint64_t below) {
  g->rng = g->rng * 6364136223846793005u + 1442695040888963407u;
  return hash_u64(g->rng) % below;
}

DType gen_dtype(Gen *g, unsigned mask) {
  static const DType pool[] = {DT_BOOL,  DT_I8,    DT_I32,   DT_I64,  DT_U8,  DT_U32,
                               DT_U64,   DT_F16,   DT_F32,   DT_BF16, DT_F64, DT_F32,
                               DT_INDEX, DT_INDEX, DT_INDEX, DT_I32,  DT_I64};
  for (;;) {
    DType d = pool[gen_random(g, sizeof pool / sizeof *pool)];
    if (rewrite_class(&(UOp){.dtype = (uint8_t)d}) & mask) return d;
  }
}

static int64_t any_int(Gen *g, DType d) {
  static const int64_t extreme[] = {INT64_MIN,  INT64_MAX, INT32_MIN, INT32_MAX,
                                    UINT32_MAX, 127,       -128,      255};
  if (d != DT_INDEX && !gen_random(g, 6)) return extreme[gen_random(g, 8)];
  if (!gen_random(g, 8)) return (int64_t)gen_random(g, 2000) - 1000;
  return (int64_t)gen_random(g, 25) - 12;
}

static double any_float(Gen *g) {
  static const double pool[] = {0.0,      -0.0,      1,   -1,    2, 0.5,  3,   -7.25,
                                INFINITY, -INFINITY, NAN, 1e-40, 4, 1e30, 0.3, 16};
  if (!gen_random(g, 4)) return (double)gen_random(g, 4000) / 128 - 16;
  return pool[gen_random(g, 16)];
}

UOp *gen_const(Gen *g, DType d) {
  if (d == DT_BOOL) return uop_int(g->job, d, (int64_t)gen_random(g, 2));
  if (dtype_is_float(d)) return uop_float(g->job, d, any_float(g));
  return uop_int(g->job, d, any_int(g, d));
}

UOp *gen_number(Gen *g, DType d, double v) { return uop_number(g->job, d, v); }

static UOp *a_range(Gen *g) {
  int64_t id = (int64_t)gen_random(g, GEN_RANGES);
  return uop_range(g->job, id, AX_LOOP, uop_index(g->job, g->size[id]));
}

static UOp *a_load(Gen *g, DType d) {
  UOp *i = gen_random(g, 4) ? uop_index(g->job, (int64_t)gen_random(g, 3)) : a_range(g);
  UOp *p = uop_param(g->job, (int64_t)gen_random(g, 3) + 8 * d, d, &(int64_t){64}, 1);
  return uop_make(g->job, OP_INDEX, DT_VOID, arg_none(), (UOp *[]){p, i}, 2);
}

static UOp *an_index(Gen *g) {
  Job *job = g->job;
  UOp *c = uop_index(job, (int64_t)gen_random(g, 6) + 1);
  switch (gen_random(g, 8)) {
  case 0: return uop2(job, OP_ADD, an_index(g), an_index(g));
  case 1: return uop2(job, OP_MUL, an_index(g), c);
  case 2: return uop2(job, OP_FLOORDIV, an_index(g), c);
  case 3: return uop2(job, OP_FLOORMOD, an_index(g), c);
  case 4: return uop_cast(job, a_load(g, DT_I32), DT_INDEX);
  default: return a_range(g);
  }
}

static UOp *a_bool(Gen *g) {
  Job *job = g->job;
  switch (gen_random(g, 7)) {
  case 0: return uop2(job, OP_CMPLT, an_index(g), gen_const(g, DT_INDEX));
  case 1: return uop2(job, OP_CMPLT, gen_const(g, DT_INDEX), an_index(g));
  case 2: return uop2(job, OP_CMPEQ, a_range(g), an_index(g));
  case 3: return uop2(job, OP_XOR, a_load(g, DT_BOOL), uop_int(job, DT_BOOL, 1));
  case 4: return uop2(job, OP_AND, a_load(g, DT_BOOL), a_bool(g));
  default: return a_load(g, DT_BOOL);
  }
}

UOp *gen_value(Gen *g, DType d) {
  if (d == DT_INDEX) return an_index(g);
  if (d == DT_BOOL) return a_bool(g);
  switch (gen_random(g, 8)) {
  case 0: return uop_cast(g->job, a_range(g), d);
  case 1: return uop_cast(g->job, a_bool(g), d);
  case 2: return gen_const(g, d);
  case 3: return uop1(g->job, OP_NEG, a_load(g, d));
  case 4: return uop2(g->job, OP_ADD, a_load(g, d), gen_const(g, d));
  case 5:
    return uop3(g->job, OP_WHERE, a_bool(g), gen_random(g, 2) ? a_load(g, d) : gen_const(g, d),
                gen_number(g, d, 0));
  default: return a_load(g, d);
  }
}

static UOp *a_reduce(Gen *g, DType d, UOp *x) {
  static const Op ops[] = {OP_ADD, OP_ADD, OP_ADD, OP_MUL, OP_MAX, OP_MIN};
  Op op = d == DT_BOOL ? OP_MAX : ops[gen_random(g, 6)];
  UOp *ranges[2];
  size_t n = 1 + gen_random(g, 2);
  if (dtype_is_float(d)) g->lenient = true;
  for (size_t k = 0; k < n; k++) {
    ranges[k] = a_range(g);
    if (x->open && gen_random(g, 4)) ranges[k] = x->open->at[gen_random(g, x->open->n)];
    for (size_t j = 0; j < k; j++)
      if (ranges[j] == ranges[k]) n = k;
  }
  return uop_reduce(g->job, op, x, ranges, n);
}

UOp *gen_op(Gen *g, Op op, DType d, UOp *const *src, size_t n, bool tail) {
  Job *job = g->job;
  UOp *s[4] = {src[0], n > 1 ? src[1] : NULL, n > 2 ? src[2] : NULL, n > 3 ? src[3] : NULL};
  (void)tail;
  switch (op) {
  case OP_CAST: return uop_make(job, OP_CAST, d, arg_none(), src, 1);
  case OP_REDUCE: return a_reduce(g, d, s[0]);
  case OP_RANGE: return uop_range(job, GEN_RANGES - 1, AX_LOOP, uop_index(job, 1));
  case OP_INDEX: s[0] = uop_param(job, 8 * d, d, &(int64_t){64}, 1); break;
  case OP_STORE: s[0] = uop_param(job, 1, (DType)s[2]->dtype, &(int64_t){64}, 1); break;
  case OP_BROADCAST: return uop_make_lanes(job, op, DT_VOID, 4, arg_none(), s, 1);
  default: break;
  }
  return uop_make(job, op, DT_VOID, arg_none(), s, n);
}

void gen_sizes(Gen *g) {
  g->lenient = false;
  for (int k = 0; k < GEN_RANGES; k++) g->size[k] = 1 + (int64_t)gen_random(g, 9);
  g->size[GEN_RANGES - 1] = 1;
}

void gen_point(Gen *g) {
  for (int k = 0; k < GEN_RANGES; k++) g->at[k] = (int64_t)gen_random(g, (uint64_t)g->size[k]);
  g->seed = gen_random(g, UINT64_MAX);
}

/* -- evaluation ----------------------------------------------------------------------------------
 */

static Scalar load(Gen *g, const UOp *u) {
  DType d = (DType)u->dtype;
  if (u->nsrc > 2 && !gen_eval(g, u->src[2]).i) return (Scalar){0};
  Gen h = *g;
  h.rng = hash_u64(g->seed ^ (uint64_t)u->src[0]->arg.i) ^ (uint64_t)gen_eval(g, u->src[1]).i;
  if (d == DT_BOOL) return (Scalar){.i = (int64_t)gen_random(&h, 2)};
  if (dtype_is_float(d)) return scalar_wrap(d, (Scalar){.f = any_float(&h)});
  return scalar_wrap(d, (Scalar){.i = any_int(&h, d)});
}

/* Nested loops by recursion over the ranges from k on. */
static void reduce(Gen *g, const UOp *u, uint32_t k, Scalar *acc) {
  DType d = (DType)u->dtype;
  if (k == u->nsrc) {
    Scalar v[2] = {*acc, gen_eval(g, u->src[0])};
    *acc = op_eval((Op)u->arg.i, d, d, v);
    return;
  }
  int64_t id = u->src[k]->arg.i, saved = g->at[id];
  for (g->at[id] = 0; g->at[id] < g->size[id]; g->at[id]++) reduce(g, u, k + 1, acc);
  g->at[id] = saved;
}

Scalar gen_eval(Gen *g, const UOp *u) {
  Scalar v[3] = {{0}};
  switch (u->op) {
  case OP_CONST: return uop_const_value(u);
  case OP_RANGE: return (Scalar){.i = g->at[u->arg.i]};
  case OP_INDEX: return load(g, u);
  case OP_BROADCAST: return gen_eval(g, u->src[0]);
  case OP_STORE: /* what is written where, as one number */
    if (u->nsrc > 3 && !gen_eval(g, u->src[3]).i) return (Scalar){0};
    return (Scalar){.i = (int64_t)((uint64_t)gen_eval(g, u->src[1]).i * 31u +
                                   (uint64_t)gen_eval(g, u->src[2]).i)};
  case OP_REDUCE:
    v[0] = reduce_identity((Op)u->arg.i, (DType)u->dtype);
    reduce(g, u, 1, v);
    return v[0];
  default: break;
  }
  assert(op_info[u->op].flags & OPF_ALU);
  for (uint32_t k = 0; k < u->nsrc; k++) v[k] = gen_eval(g, u->src[k]);
  return op_eval((Op)u->op, (DType)u->dtype, (DType)u->src[u->nsrc - 1]->dtype, v);
}

bool gen_same(const Gen *g, DType d, Scalar a, Scalar b) {
  if (!dtype_is_float(d)) return a.i == b.i;
  if (isnan(a.f) || isnan(b.f)) return isnan(a.f) == isnan(b.f) || g->lenient;
  if (!g->lenient) return a.f == b.f && !signbit(a.f) == !signbit(b.f);
  if (!isfinite(a.f) || !isfinite(b.f)) return true; /* overflow depends on the order */
  double eps = d == DT_F64 ? 1e-13 : d == DT_F32 ? 1e-5 : d == DT_F16 ? 0.05 : 0.3;
  return fabs(a.f - b.f) <= eps * (fabs(a.f) + fabs(b.f) + (fabs(a.f) > 1e20 ? 0 : 60));
}
