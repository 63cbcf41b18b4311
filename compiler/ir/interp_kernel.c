/* The reference for kernels in ranged form.
 *
 * Values are computed on demand and remembered. Advancing a loop gives its RANGE a new tick; a
 * remembered value is good while none of the RANGEs open in it ticked since, and no STORE that it
 * has to see happened since: values under an AFTER carry the same open ranges as the effects, so
 * the effects are repeated exactly when an enclosing loop advances. Lanes do not occur here.
 *
 * Float sums and products accumulate in double and are rounded once, as in interp_tensor. */
#include "compiler/ir/interp.h"

#include <inttypes.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/matrix.h"
#include "compiler/ir/tilecopy.h"

enum { MAX_DEPTH = 5000 };

typedef struct Interp {
  InterpBuffer *args;
  size_t nargs;
  Scalar *values;  /* by place: of a RANGE the loop variable */
  uint64_t *ticks; /* when the value was computed; of a RANGE when it last moved */
  uint64_t now;
  Scalar **buffers; /* by place: storage of BUFFERs, on the heap */
  Status failure;
  int depth;
  UOpList list;
} Interp;

static Scalar eval(Interp *in, UOp *u);

static Scalar failed(Interp *in, Status st) {
  if (in->failure) {
    status_drop(st);
  } else {
    in->failure = st;
  }
  return (Scalar){0};
}

static bool fresh(const Interp *in, const UOp *u) {
  uint64_t when = in->ticks[u->place];
  if (!when) return false;
  for (uint32_t k = 0; u->open && k < u->open->n; k++) {
    if (in->ticks[u->open->at[k]->place] > when) return false;
  }
  return true;
}

/* Runs body for every combination of the ranges' values, in order, the last one fastest. */
static void loop(Interp *in, UOp *const *ranges, size_t n, void (*body)(Interp *, void *),
                 void *ctx) {
  if (!n) {
    body(in, ctx);
    return;
  }
  UOp *r = ranges[0];
  int64_t end = eval(in, r->src[0]).i;
  for (int64_t k = 0; k < end && !in->failure; k++) {
    in->values[r->place].i = k;
    in->ticks[r->place] = ++in->now;
    loop(in, ranges + 1, n - 1, body, ctx);
  }
}

/* -- memory ------------------------------------------------------------------------------------ */

static bool inside(Interp *in, const UOp *u, const UOp *buf, int64_t index) {
  int64_t n;
  if (buf->op == OP_BUFFER) {
    n = buf->arg.ints.at[0];
  } else if (buf->op == OP_PARAM && (size_t)buf->arg.i < in->nargs) {
    n = (int64_t)(in->args[buf->arg.i].bytes / dtype_info[buf->dtype].bytes);
    if (dim_high(buf->arg.ints.at[0]) < n) n = dim_high(buf->arg.ints.at[0]);
  } else {
    failed(in, FAIL(INTERNAL, "%s accesses %s %" PRId64 ", which the kernel does not have",
                    op_info[u->op].name, op_info[buf->op].name, buf->arg.i));
    return false;
  }
  if (index >= 0 && index < n) return true;
  failed(in, FAIL(INTERNAL, "%s of %s %" PRId64 ": element %" PRId64 " of %" PRId64,
                  op_info[u->op].name, op_info[buf->op].name, buf->arg.i, index, n));
  return false;
}

static Scalar load(Interp *in, UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  eval(in, u->src[0]);
  if (u->nsrc > 2 && !eval(in, u->src[2]).i) return scalar_wrap((DType)u->dtype, (Scalar){0});
  int64_t index = eval(in, u->src[1]).i;
  if (in->failure || !inside(in, u, buf, index)) return (Scalar){0};
  if (buf->op == OP_BUFFER) return in->buffers[buf->place][index];
  const char *at = in->args[buf->arg.i].data;
  return scalar_load((DType)buf->dtype, at + (size_t)index * dtype_info[buf->dtype].bytes);
}

static void store(Interp *in, UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  eval(in, u->src[0]);
  if (u->nsrc > 3 && !eval(in, u->src[3]).i) return;
  int64_t index = eval(in, u->src[1]).i;
  Scalar v = eval(in, u->src[2]);
  if (in->failure || !inside(in, u, buf, index)) return;
  if (buf->op == OP_BUFFER) {
    in->buffers[buf->place][index] = v;
  } else {
    char *at = in->args[buf->arg.i].data;
    scalar_store((DType)buf->dtype, v, at + (size_t)index * dtype_info[buf->dtype].bytes);
  }
}

static void copy_tile(Interp *in, UOp *u) {
  const UOp *from = u->src[2], *to = uop_storage(u->src[0]);
  TileCopy t = tilecopy_of(u);
  int64_t at[TILE_AXES], first = eval(in, u->src[1]).i, source;
  for (uint32_t d = 0; d < t.axes; d++) at[d] = eval(in, u->src[3 + d]).i;
  for (int64_t k = 0; k < t.elements && !in->failure; k++) {
    Scalar v = scalar_wrap((DType)from->dtype, (Scalar){0});
    if (!inside(in, u, to, first + k)) return;
    if (tilecopy_source(&t, at, k, &source)) {
      if (!inside(in, u, from, source)) return;
      const char *data = in->args[from->arg.i].data;
      v = scalar_load((DType)from->dtype, data + (size_t)source * dtype_info[from->dtype].bytes);
    }
    in->buffers[to->place][first + k] = v;
  }
}

/* -- values ------------------------------------------------------------------------------------ */

typedef struct Reduction {
  UOp *u;
  Scalar acc;
} Reduction;

static void reduce_step(Interp *in, void *ctx) {
  Reduction *r = ctx;
  DType d = (DType)r->u->dtype, wide = dtype_is_float(d) ? DT_F64 : d;
  r->acc = op_eval((Op)r->u->arg.i, wide, wide, (Scalar[]){r->acc, eval(in, r->u->src[0])});
}

/* Where the RANGEs of the product's digits stood before a factor was looked at. */
typedef struct Place {
  Scalar values[MATRIX_DIGITS];
  uint64_t ticks[MATRIX_DIGITS], start;
} Place;

/* Sets RANGEs to the digits that say where an operand's element (x, y) lies. */
static Place go_to_element(Interp *in, UOp *u, const MatrixInfo *info, MatrixOperand o, unsigned x,
                           unsigned y) {
  Place from = {.start = in->now};
  unsigned thread, reg;
  for (unsigned k = 0; k < matrix_shared_ranges(info); k++) {
    from.values[k] = in->values[u->src[2 + k]->place];
    from.ticks[k] = in->ticks[u->src[2 + k]->place];
  }
  matrix_find(&info->layout[o], info, x, y, &thread, &reg);
  for (const char *c = "qprabc"; *c; c++) {
    int at = matrix_range_at(info, o, *c);
    if (at < 0) continue;
    UOp *r = u->src[2 + at];
    int64_t digit = matrix_digit(&info->layout[o], info, *c, thread, reg);
    if (in->ticks[r->place] && in->values[r->place].i == digit) continue;
    in->values[r->place].i = digit;
    in->ticks[r->place] = ++in->now;
  }
  return from;
}

/* The digits of this thread count again, as if they had not moved; what was computed from other
 * ones is forgotten. */
static void come_back(Interp *in, UOp *u, const MatrixInfo *info, const Place *from) {
  for (unsigned k = 0; k < matrix_shared_ranges(info); k++) {
    UOp *r = u->src[2 + k];
    if (in->ticks[r->place] == from->ticks[k]) continue;
    in->values[r->place] = from->values[k];
    in->ticks[r->place] = from->ticks[k];
    for (size_t i = 0; i < in->list.len; i++) {
      const UOp *x = in->list.at[i];
      if (in->ticks[i] > from->start && x->op != OP_RANGE && uop_is_open(x, r)) in->ticks[i] = 0;
    }
  }
}

/* A factor's element at (x, y), in the dtype that products are summed in. */
static Scalar factor_at(Interp *in, UOp *u, const MatrixInfo *info, MatrixOperand o, unsigned x,
                        unsigned y, DType wide) {
  Place from = go_to_element(in, u, info, o, x, y);
  Scalar v = matrix_seen(info, eval(in, u->src[o]));
  come_back(in, u, info, &from);
  return op_eval(OP_CAST, wide, info->dtype[o], &v);
}

static unsigned range_value(const Interp *in, const UOp *u, int at) {
  return at < 0 ? 0 : (unsigned)in->values[u->src[2 + at]->place].i;
}

/* One element of the product; which one, the RANGEs of the thread's digits and of C's say. */
static Scalar matrix_product(Interp *in, UOp *u) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  const MatrixLayout *l = &info->layout[MATRIX_C];
  DType d = info->dtype[MATRIX_C], wide = dtype_is_float(d) ? DT_F64 : d;
  unsigned thread = 0, reg = 0, weight = 1, at[2];
  Scalar acc = {0};
  for (const char *c = matrix_lanes; *c; c++)
    thread += range_value(in, u, matrix_range_at(info, MATRIX_C, *c)) * matrix_lane_step(info, *c);
  for (const char *c = "abc"; *c; c++) {
    int k = matrix_range_at(info, MATRIX_C, *c);
    reg += range_value(in, u, k) * weight;
    if (k >= 0) weight *= matrix_range_size(info, (unsigned)k);
  }
  matrix_element(l, info, thread, reg, at);
  for (unsigned k = 0; k < info->k; k++) {
    Scalar v[2] = {factor_at(in, u, info, MATRIX_A, at[0], k, wide),
                   factor_at(in, u, info, MATRIX_B, at[1], k, wide)};
    v[0] = op_eval(OP_MUL, wide, wide, v);
    acc = op_eval(OP_ADD, wide, wide, (Scalar[]){acc, v[0]});
  }
  return scalar_wrap(d, acc);
}

static void end_step(Interp *in, void *ctx) { eval(in, ctx); }

static Scalar alu(Interp *in, UOp *u) {
  Scalar v[3];
  if (u->op == OP_WHERE) return eval(in, u->src[eval(in, u->src[0]).i ? 1 : 2]);
  for (uint32_t s = 0; s < u->nsrc; s++) v[s] = eval(in, u->src[s]);
  return op_eval((Op)u->op, (DType)u->dtype, (DType)u->src[u->nsrc - 1]->dtype, v);
}

static Scalar compute(Interp *in, UOp *u) {
  DType d = (DType)u->dtype;
  switch (u->op) {
  case OP_CONST: return uop_const_value(u);
  case OP_PARAM:
  case OP_BUFFER: return (Scalar){0};
  case OP_VAR: {
    Scalar v = {0};
    Status st = interp_var(in->args, in->nargs, u, &v.i);
    return st ? failed(in, st) : v;
  }
  case OP_RANGE:
    return failed(in, FAIL(INTERNAL, "RANGE %" PRId64 " is used outside of its loop", u->arg.i));
  case OP_INDEX: return load(in, u);
  case OP_STORE: store(in, u); return (Scalar){0};
  case OP_TILECOPY: copy_tile(in, u); return (Scalar){0};
  case OP_REDUCE: {
    Reduction r = {u, reduce_identity((Op)u->arg.i, d)};
    loop(in, u->src + 1, u->nsrc - 1, reduce_step, &r);
    return scalar_wrap(d, r.acc);
  }
  case OP_MMA: return matrix_product(in, u);
  case OP_END: loop(in, u->src + 1, u->nsrc - 1, end_step, u->src[0]); return (Scalar){0};
  case OP_AFTER:
    for (uint32_t s = u->nsrc; s-- > 1;) {
      if (u->src[s]->op != OP_RANGE) eval(in, u->src[s]);
    }
    return eval(in, u->src[0]);
  case OP_SINK:
    for (uint32_t s = 0; s < u->nsrc; s++) eval(in, u->src[s]);
    return (Scalar){0};
  default: break;
  }
  if (op_info[u->op].flags & OPF_ALU) return alu(in, u);
  return failed(in, FAIL(INTERNAL, "%s is not an op of a ranged kernel", op_info[u->op].name));
}

static Scalar eval(Interp *in, UOp *u) {
  if (in->failure) return (Scalar){0};
  bool live = u->op == OP_RANGE && in->ticks[u->place];
  if (live || fresh(in, u)) return in->values[u->place];
  if (in->depth == MAX_DEPTH) {
    return failed(in, FAIL(RESOURCE_EXHAUSTED, "the kernel is nested too deep to interpret"));
  }
  in->depth++;
  Scalar v = compute(in, u);
  in->depth--;
  in->values[u->place] = v;
  in->ticks[u->place] = ++in->now;
  return v;
}

Status interp_kernel(Job *job, UOp *sink, InterpBuffer *args, size_t nargs) {
  Interp in = {.args = args, .nargs = nargs};
  UOpList list = in.list = uop_toposort(job, sink);
  in.values = arena_array(&job->arena, list.len, sizeof *in.values);
  in.ticks = arena_array(&job->arena, list.len, sizeof *in.ticks);
  in.buffers = arena_array(&job->arena, list.len, sizeof *in.buffers);
  for (size_t k = 0; k < list.len; k++) {
    if (list.at[k]->op != OP_BUFFER) continue;
    size_t n = (size_t)list.at[k]->arg.ints.at[0];
    in.buffers[k] = arena_array(&job->arena, n, sizeof(Scalar));
  }
  eval(&in, sink);
  return in.failure;
}
