/* The reference for tensor graphs.
 *
 * A node's value is a view (offset and strides) of a counted array of Scalars; movement ops other
 * than PAD, CAT and GATHER make views and copy nothing. An ALU node with one reader that can take
 * it in pieces is not computed at all until that reader asks for CHUNK elements at a time, so a
 * convolution written as REDUCE(MUL(WINDOW, EXPAND)) never exists as a whole. Arrays are freed
 * after their last use.
 *
 * Float sums and products accumulate in double and are rounded once. What is on the heap hangs off
 * the Interp; nothing that can abort the job runs while it exists. */
#include "compiler/ir/interp.h"

#include <stdlib.h>

#include "compiler/ir/view.h"

enum { CHUNK = 2048, MAX_LAZY = 6, MAX_DIMS = 40 };

typedef struct Storage {
  Scalar *at;
  uint32_t refs;
} Storage;

typedef struct Value {
  bool lazy;  /* an ALU node to be computed by its reader */
  bool whole; /* a STORE whose value is a state */
  uint8_t depth;
  uint32_t uses; /* readers still to come */
  UOp *reader;
  Storage *store; /* NULL: lazy, or no value */
  int64_t offset;
  int64_t *stride; /* of every axis; in the arena */
} Value;

typedef struct Interp {
  UOpList list;
  Value *values; /* by place */
  InterpBuffer *slots;
  size_t nslots;
  Storage *stores; /* by place: the array that the node made, if any */
  Scalar *chunks;  /* (MAX_LAZY + 2) * 3 pieces of CHUNK */
} Interp;

static Value *value_of(Interp *in, const UOp *u) { return &in->values[u->place]; }

static Status no_memory(const UOp *u) {
  return FAIL(RESOURCE_EXHAUSTED, "no memory for the value of %s", op_info[u->op].name);
}

/* -- storage ----------------------------------------------------------------------------------- */

static Status allocate_shape(Interp *in, UOp *u, Ints shape, Scalar **out) {
  Value *v = value_of(in, u);
  size_t bytes, n = (size_t)shape_numel(shape);
  if (!size_mul(n ? n : 1, sizeof(Scalar), &bytes)) return no_memory(u);
  v->store = &in->stores[u->place];
  v->store->at = malloc(bytes);
  if (!v->store->at) return no_memory(u);
  v->store->refs = 1;
  v->offset = 0;
  int64_t step = 1;
  for (uint32_t k = shape.n; k-- > 0;) {
    v->stride[k] = step;
    step *= shape.at[k];
  }
  *out = v->store->at;
  return NULL;
}

static Status allocate(Interp *in, UOp *u, Scalar **out) {
  return allocate_shape(in, u, u->shape, out);
}

static void release(Interp *in, UOp *u) {
  Value *v = value_of(in, u);
  if (--v->uses) return;
  if (v->lazy) {
    for (uint32_t s = 0; s < u->nsrc; s++) release(in, u->src[s]); /* at most MAX_LAZY deep */
  }
  if (!v->store || --v->store->refs) return;
  free(v->store->at);
  v->store->at = NULL;
}

/* -- reading elements -------------------------------------------------------------------------- */

typedef struct Walk {
  int64_t coord[MAX_DIMS];
  int64_t at; /* offset of the current element */
} Walk;

static void walk_start(Walk *w, Ints shape, const int64_t *stride, int64_t offset, int64_t linear) {
  *w = (Walk){.at = offset};
  for (uint32_t k = shape.n; k-- > 0;) {
    w->coord[k] = linear % shape.at[k];
    linear /= shape.at[k];
    w->at += w->coord[k] * stride[k];
  }
}

static void walk_next(Walk *w, Ints shape, const int64_t *stride) {
  for (uint32_t k = shape.n; k-- > 0;) {
    w->at += stride[k];
    if (++w->coord[k] < shape.at[k]) return;
    w->at -= stride[k] * shape.at[k];
    w->coord[k] = 0;
  }
}

static void read_view(const Value *v, Ints shape, int64_t begin, size_t n, Scalar *out) {
  const Scalar *at = v->store->at;
  Walk w;
  if (!shape.n) { /* rank 0 spreads over the reader's shape */
    for (size_t k = 0; k < n; k++) out[k] = at[v->offset];
    return;
  }
  walk_start(&w, shape, v->stride, v->offset, begin);
  uint32_t last = shape.n - 1;
  for (size_t k = 0; k < n;) { /* runs along the last axis */
    int64_t run = shape.at[last] - w.coord[last], step = v->stride[last];
    if ((size_t)run > n - k) run = (int64_t)(n - k);
    for (int64_t r = 0; r < run; r++) out[k++] = at[w.at + r * step];
    w.coord[last] += run - 1;
    w.at += (run - 1) * step;
    walk_next(&w, shape, v->stride);
  }
}

/* Elements [begin, begin + n) of u in row-major order, n <= CHUNK. */
static void read_chunk(Interp *in, UOp *u, int64_t begin, size_t n, Scalar *out) {
  const Value *v = value_of(in, u);
  if (!v->lazy) {
    read_view(v, u->shape, begin, n, out);
    return;
  }
  Scalar *piece = in->chunks + (size_t)v->depth * 3 * CHUNK;
  const Scalar *src[3] = {piece, piece + CHUNK, piece + 2 * CHUNK};
  for (uint32_t s = 0; s < u->nsrc; s++) read_chunk(in, u->src[s], begin, n, piece + s * CHUNK);
  op_eval_many((Op)u->op, (DType)u->dtype, (DType)u->src[u->nsrc - 1]->dtype, src, out, n);
}

static void read_all(Interp *in, UOp *u, Scalar *out, int64_t total) {
  for (int64_t b = 0; b < total; b += CHUNK) {
    read_chunk(in, u, b, (size_t)(total - b < CHUNK ? total - b : CHUNK), out + b);
  }
}

/* -- views ------------------------------------------------------------------------------------- */

static void share(Interp *in, UOp *u) {
  Value *v = value_of(in, u), *from = value_of(in, u->src[0]);
  v->store = from->store;
  v->store->refs++;
  v->offset = from->offset;
}

static bool row_major(const Value *v, Ints shape) {
  int64_t step = 1;
  for (uint32_t k = shape.n; k-- > 0;) {
    if (shape.at[k] != 1 && v->stride[k] != step) return false;
    step *= shape.at[k];
  }
  return true;
}

static Status reshape(Interp *in, UOp *u) {
  Scalar *out;
  Value *v = value_of(in, u);
  if (!row_major(value_of(in, u->src[0]), u->src[0]->shape)) {
    TRY(allocate(in, u, &out));
    read_all(in, u->src[0], out, shape_numel(u->shape));
    return NULL;
  }
  share(in, u);
  int64_t step = 1;
  for (uint32_t k = u->shape.n; k-- > 0;) {
    v->stride[k] = step;
    step *= u->shape.at[k];
  }
  return NULL;
}

static void view(Interp *in, UOp *u) {
  const UOp *from = u->src[0];
  const int64_t *old = value_of(in, from)->stride, *arg = u->arg.ints.at;
  Value *v = value_of(in, u);
  share(in, u);
  for (uint32_t k = 0, o = 0; k < from->shape.n; k++) {
    switch (u->op) {
    case OP_PERMUTE: v->stride[k] = old[arg[k]]; break;
    case OP_EXPAND: v->stride[k] = from->shape.at[k] == u->shape.at[k] ? old[k] : 0; break;
    case OP_SHRINK:
      v->stride[k] = old[k];
      v->offset += arg[2 * k] * old[k];
      break;
    case OP_WINDOW:
      v->stride[o++] = k == arg[0] ? old[k] * arg[2] : old[k];
      if (k == arg[0]) v->stride[o++] = old[k] * arg[3];
      break;
    default: v->stride[k] = old[k];
    }
  }
  for (uint32_t k = 0; u->op == OP_FLIP && k < u->arg.ints.n; k++) {
    int64_t axis = arg[k];
    v->offset += (from->shape.at[axis] - 1) * v->stride[axis];
    v->stride[axis] = -v->stride[axis];
  }
}

/* -- ops that make arrays ---------------------------------------------------------------------- */

/* Writes all of u into the box of `to` that starts at offset. */
static void write_box(Interp *in, UOp *u, Scalar *to, int64_t offset, const int64_t *stride) {
  Scalar *piece = in->chunks + (size_t)(MAX_LAZY + 1) * 3 * CHUNK;
  int64_t total = shape_numel(u->shape);
  Walk w;
  for (int64_t b = 0; b < total; b += CHUNK) {
    size_t n = (size_t)(total - b < CHUNK ? total - b : CHUNK);
    read_chunk(in, u, b, n, piece);
    walk_start(&w, u->shape, stride, offset, b);
    for (size_t k = 0; k < n; k++) {
      to[w.at] = piece[k];
      walk_next(&w, u->shape, stride);
    }
  }
}

static Status pad(Interp *in, UOp *u) {
  Scalar *out, fill;
  TRY(allocate(in, u, &out));
  read_chunk(in, u->src[1], 0, 1, &fill);
  int64_t total = shape_numel(u->shape), offset = 0;
  for (int64_t k = 0; k < total; k++) out[k] = fill;
  const int64_t *stride = value_of(in, u)->stride;
  for (uint32_t k = 0; k < u->shape.n; k++) offset += u->arg.ints.at[2 * k] * stride[k];
  write_box(in, u->src[0], out, offset, stride);
  return NULL;
}

static Status cat(Interp *in, UOp *u) {
  Scalar *out;
  TRY(allocate(in, u, &out));
  const int64_t *stride = value_of(in, u)->stride;
  int64_t offset = 0, axis = u->arg.i;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    write_box(in, u->src[s], out, offset, stride);
    offset += u->src[s]->shape.at[axis] * stride[axis];
  }
  return NULL;
}

static Status gather(Interp *in, UOp *u) {
  Scalar *out;
  UOp *data = u->src[0], *index = u->src[1];
  const Value *d = value_of(in, data);
  int64_t outer = 1, inner = 1, n = data->shape.at[u->arg.i], many = shape_numel(index->shape);
  TRY(allocate(in, u, &out));
  for (uint32_t k = 0; k < data->shape.n; k++) {
    if (k < u->arg.i) outer *= data->shape.at[k];
    if (k > u->arg.i) inner *= data->shape.at[k];
  }
  bool wide = dtype_is_uint((DType)index->dtype);
  Scalar zero = scalar_wrap((DType)u->dtype, (Scalar){0});
  for (int64_t m = 0; m < many; m++) {
    Scalar at;
    read_chunk(in, index, m, 1, &at);
    bool inside = at.i < n && (at.i >= 0 && (!wide || (uint64_t)at.i < (uint64_t)n));
    for (int64_t o = 0; o < outer; o++) {
      Scalar *row = out + (o * many + m) * inner;
      for (int64_t k = 0; k < inner; k += CHUNK) {
        size_t run = (size_t)(inner - k < CHUNK ? inner - k : CHUNK);
        if (inside) {
          read_view(d, data->shape, (o * n + at.i) * inner + k, run, row + k);
        } else {
          for (size_t e = 0; e < run; e++) row[k + (int64_t)e] = zero;
        }
      }
    }
  }
  return NULL;
}

/* Where an index names an element along the scatter's axis; false: outside of it. */
static bool named(Interp *in, const UOp *u, UOp *index, int64_t linear, int64_t *at) {
  Scalar s;
  read_chunk(in, index, linear, 1, &s);
  *at = s.i;
  return s.i >= 0 && s.i < u->shape.at[u->arg.ints.at[0]];
}

static Status scatter(Interp *in, UOp *u) {
  Scalar *out;
  UOp *index = u->src[1], *update = u->src[2];
  DType d = (DType)u->dtype;
  int64_t axis = u->arg.ints.at[0], along[MAX_DIMS] = {0}, step[MAX_DIMS] = {0}, place = 1;
  TRY(allocate(in, u, &out));
  read_all(in, u->src[0], out, shape_numel(u->shape));
  const int64_t *stride = value_of(in, u)->stride;
  for (uint32_t k = u->shape.n; k-- > 0; place *= index->shape.at[k])
    along[k] = index->shape.at[k] == 1 ? 0 : place;
  for (uint32_t k = 0; k < u->shape.n; k++) step[k] = k == axis ? 0 : stride[k];
  Walk to, from;
  int64_t total = shape_numel(update->shape), at;
  if (!total) return NULL;
  walk_start(&to, update->shape, step, 0, 0);
  walk_start(&from, update->shape, along, 0, 0);
  for (int64_t k = 0; k < total; k++) {
    Scalar v[2];
    if (named(in, u, index, from.at, &at)) {
      Scalar *e = &out[to.at + at * stride[axis]];
      read_chunk(in, update, k, 1, &v[1]);
      v[0] = *e;
      *e = u->arg.i == OP_STORE ? v[1] : op_eval((Op)u->arg.i, d, d, v);
    }
    walk_next(&to, update->shape, step);
    walk_next(&from, update->shape, along);
  }
  return NULL;
}

/* As a reduction of each prefix: float sums and products in double, rounded for each element. */
static Status scan(Interp *in, UOp *u) {
  Scalar *out;
  DType d = (DType)u->dtype, wide = dtype_is_float(d) ? DT_F64 : d;
  int64_t axis = u->arg.ints.at[0], n = u->shape.at[axis], total = shape_numel(u->shape);
  TRY(allocate(in, u, &out));
  read_all(in, u->src[0], out, total);
  int64_t step = value_of(in, u)->stride[axis];
  for (int64_t k = 0; k < total; k++) {
    if (k / step % n) continue;
    Scalar all = out[k];
    for (int64_t i = 1; i < n; i++) {
      Scalar *e = &out[k + i * step];
      all = op_eval((Op)u->arg.i, wide, wide, (Scalar[]){all, *e});
      *e = scalar_wrap(d, all);
    }
  }
  return NULL;
}

static Status iota(Interp *in, UOp *u) {
  Scalar *out;
  TRY(allocate(in, u, &out));
  int64_t total = shape_numel(u->shape), axis = u->arg.i;
  int64_t step = value_of(in, u)->stride[axis], size = u->shape.at[axis];
  for (int64_t k = 0; k < total; k++) {
    out[k] = op_eval(OP_CAST, (DType)u->dtype, DT_I64, &(Scalar){.i = k / step % size});
  }
  return NULL;
}

static Status reduce(Interp *in, UOp *u) {
  Scalar *out, *piece = in->chunks + (size_t)(MAX_LAZY + 1) * 3 * CHUNK;
  UOp *x = u->src[0];
  DType d = (DType)u->dtype, wide = dtype_is_float(d) ? DT_F64 : d;
  Op op = (Op)u->arg.i;
  int64_t total = shape_numel(x->shape), kept = shape_numel(u->shape), stride[MAX_DIMS] = {0};
  TRY(allocate(in, u, &out));
  for (uint32_t k = 0; k < x->shape.n; k++) {
    stride[k] = u->shape.at[k] == x->shape.at[k] ? value_of(in, u)->stride[k] : 0;
  }
  for (int64_t k = 0; k < kept; k++) out[k] = reduce_identity(op, d);
  for (int64_t b = 0; b < total; b += CHUNK) {
    size_t n = (size_t)(total - b < CHUNK ? total - b : CHUNK);
    Walk w;
    read_chunk(in, x, b, n, piece);
    walk_start(&w, x->shape, stride, 0, b);
    for (size_t k = 0; k < n; k++) {
      Scalar *acc = &out[w.at];
      if (op == OP_ADD && wide == DT_F64) {
        acc->f += piece[k].f;
      } else {
        *acc = op_eval(op, wide, wide, (Scalar[]){*acc, piece[k]});
      }
      walk_next(&w, x->shape, stride);
    }
  }
  for (int64_t k = 0; k < kept; k++) out[k] = scalar_wrap(d, out[k]);
  return NULL;
}

/* The contents of a slot. */
static Status load(Interp *in, UOp *u) {
  Scalar *out;
  size_t slot = (size_t)u->arg.i, size = dtype_info[u->dtype].bytes;
  size_t n = (size_t)shape_numel(u->shape);
  if (slot >= in->nslots) return FAIL(INTERNAL, "slot %zu of %zu", slot, in->nslots);
  if (in->slots[slot].bytes < n * size) {
    return FAIL(INTERNAL, "slot %zu has %zu bytes, expected %zu", slot, in->slots[slot].bytes,
                n * size);
  }
  TRY(allocate(in, u, &out));
  const char *at = in->slots[slot].data;
  for (size_t k = 0; k < n; k++) out[k] = scalar_load((DType)u->dtype, at + k * size);
  return NULL;
}

/* -- STORE -------------------------------------------------------------------------------------
 *
 * Of an output: into the slot. Of a view of a state: the STORE's value is the whole state, a copy
 * of the version below the view with the view's elements replaced; SINK writes it to the slot. */

static Status store_output(Interp *in, UOp *u) {
  const UOp *to = u->src[0];
  Scalar *piece = in->chunks + (size_t)(MAX_LAZY + 1) * 3 * CHUNK;
  size_t size = dtype_info[to->dtype].bytes, slot = (size_t)to->arg.i;
  int64_t total = shape_numel(to->shape);
  char *at = in->slots[slot].data;
  for (int64_t b = 0; b < total; b += CHUNK) {
    size_t n = (size_t)(total - b < CHUNK ? total - b : CHUNK);
    read_chunk(in, u->src[1], b, n, piece);
    for (size_t k = 0; k < n; k++) {
      scalar_store((DType)to->dtype, piece[k], at + ((size_t)b + k) * size);
    }
  }
  return NULL;
}

/* One op of a view: the coordinates in its source of the element at the coordinates c. */
static void step_down(const UOp *u, int64_t *c) {
  const int64_t *arg = u->arg.ints.at;
  Ints from = u->src[0]->shape;
  int64_t old[MAX_DIMS], flat = 0;
  memcpy(old, c, sizeof old);
  for (uint32_t k = 0; k < u->shape.n; k++) flat = flat * u->shape.at[k] + old[k];
  for (uint32_t k = from.n; u->op == OP_RESHAPE && k-- > 0; flat /= from.at[k])
    c[k] = flat % from.at[k];
  for (uint32_t k = 0; k < from.n; k++) {
    if (u->op == OP_PERMUTE) c[arg[k]] = old[k];
    if (u->op == OP_SHRINK) c[k] = old[k] + arg[2 * k];
    if (u->op == OP_WINDOW && k > arg[0]) c[k] = old[k + 1];
    if (u->op == OP_WINDOW && k == arg[0]) c[k] = old[k] * arg[2] + old[k + 1] * arg[3];
  }
  for (uint32_t k = 0; u->op == OP_FLIP && k < u->arg.ints.n; k++)
    c[arg[k]] = from.at[arg[k]] - 1 - old[arg[k]];
}

static int64_t place_in_root(const UOp *view, int64_t linear) {
  int64_t c[MAX_DIMS] = {0}, flat = 0;
  for (uint32_t k = view->shape.n; k-- > 0; linear /= view->shape.at[k])
    c[k] = linear % view->shape.at[k];
  for (; view_op(view); view = view->src[0]) step_down(view, c);
  for (uint32_t k = 0; k < view->shape.n; k++) flat = flat * view->shape.at[k] + c[k];
  return flat;
}

static Status store_view(Interp *in, UOp *u) {
  UOp *root = view_root(u->src[0]);
  Scalar *out, *piece = in->chunks + (size_t)(MAX_LAZY + 1) * 3 * CHUNK;
  TRY(allocate_shape(in, u, root->shape, &out));
  read_all(in, root, out, shape_numel(root->shape));
  int64_t total = shape_numel(u->src[1]->shape);
  for (int64_t b = 0; b < total; b += CHUNK) {
    size_t n = (size_t)(total - b < CHUNK ? total - b : CHUNK);
    read_chunk(in, u->src[1], b, n, piece);
    for (size_t k = 0; k < n; k++) out[place_in_root(u->src[0], b + (int64_t)k)] = piece[k];
  }
  return NULL;
}

static Status store(Interp *in, UOp *u) {
  const UOp *param = view_param(u->src[0]);
  size_t slot = param ? (size_t)param->arg.i : in->nslots;
  size_t bytes = param ? (size_t)shape_numel(param->shape) * dtype_info[param->dtype].bytes : 0;
  if (slot >= in->nslots || in->slots[slot].bytes < bytes) {
    return FAIL(INTERNAL, "STORE into slot %zu of %zu", slot, in->nslots);
  }
  return value_of(in, u)->whole ? store_view(in, u) : store_output(in, u);
}

/* The last versions of the states reach their slots. */
static Status finish(Interp *in, UOp *sink) {
  for (uint32_t s = 0; s < sink->nsrc; s++) {
    UOp *store = sink->src[s];
    const Value *v = value_of(in, store);
    if (!v->whole) continue;
    const UOp *param = view_param(store->src[0]);
    size_t n = (size_t)shape_numel(param->shape), size = dtype_info[param->dtype].bytes;
    char *at = in->slots[param->arg.i].data;
    for (size_t k = 0; k < n; k++) {
      scalar_store((DType)param->dtype, v->store->at[k], at + k * size);
    }
  }
  return NULL;
}

/* A state after a STORE; with anything else, the value as it is. */
static void after(Interp *in, UOp *u) {
  if (u->src[1]->op != OP_STORE) {
    view(in, u);
    return;
  }
  Value *v = value_of(in, u), *from = value_of(in, u->src[1]);
  v->store = from->store;
  v->store->refs++;
  v->offset = 0;
  memcpy(v->stride, from->stride, u->shape.n * sizeof *v->stride);
}

static Status compute(Interp *in, UOp *u) {
  Scalar *out;
  if (op_info[u->op].flags & OPF_ALU || u->op == OP_CONTIGUOUS) {
    TRY(allocate(in, u, &out));
    Value *v = value_of(in, u);
    v->lazy = u->op != OP_CONTIGUOUS; /* so that read_chunk computes it */
    if (v->lazy) read_all(in, u, out, shape_numel(u->shape));
    if (!v->lazy) read_all(in, u->src[0], out, shape_numel(u->shape));
    v->lazy = false;
    return NULL;
  }
  switch (u->op) {
  case OP_CONST:
    TRY(allocate(in, u, &out));
    *out = uop_const_value(u);
    return NULL;
  case OP_PARAM: return load(in, u);
  case OP_IOTA: return iota(in, u);
  case OP_RESHAPE: return reshape(in, u);
  case OP_PAD: return pad(in, u);
  case OP_CAT: return cat(in, u);
  case OP_GATHER: return gather(in, u);
  case OP_SCATTER: return scatter(in, u);
  case OP_SCAN: return scan(in, u);
  case OP_REDUCE: return reduce(in, u);
  case OP_STORE: return store(in, u);
  case OP_SINK: return finish(in, u);
  case OP_PERMUTE:
  case OP_EXPAND:
  case OP_SHRINK:
  case OP_FLIP:
  case OP_WINDOW: view(in, u); return NULL;
  case OP_AFTER: after(in, u); return NULL;
  default: return FAIL(INTERNAL, "%s is not a tensor-stage op", op_info[u->op].name);
  }
}

/* -- driver ------------------------------------------------------------------------------------ */

/* A reader that asks for pieces, once each, in order. */
static bool takes_pieces(const UOp *reader) {
  return op_info[reader->op].flags & OPF_ALU || reader->op == OP_REDUCE || reader->op == OP_STORE ||
         reader->op == OP_CONTIGUOUS;
}

static void prepare(Interp *in, Job *job) {
  size_t n = in->list.len;
  in->values = arena_array(&job->arena, n, sizeof *in->values);
  in->stores = arena_array(&job->arena, n, sizeof *in->stores);
  /* folding constants calls the interpreter often: the pieces are kept, not allocated each time */
  in->chunks = (Scalar *)job_scratch(job, JOB_SCRATCH_PIECES, (size_t)(MAX_LAZY + 2) * 3 * CHUNK);
  for (size_t k = 0; k < n; k++) {
    UOp *u = in->list.at[k];
    uint32_t rank = u->op == OP_STORE ? view_root(u->src[0])->shape.n : u->shape.n;
    in->values[k].stride = arena_array(&job->arena, rank + 1, sizeof(int64_t));
    in->values[k].whole |= view_is_update(u);
    if (u->op == OP_AFTER && u->src[1]->op == OP_STORE) in->values[u->src[1]->place].whole = true;
    if (u->op == OP_STORE) in->values[view_root(u->src[0])->place].uses++; /* store_view reads it */
    for (uint32_t s = 0; s < u->nsrc; s++) {
      in->values[u->src[s]->place].uses++;
      in->values[u->src[s]->place].reader = u;
    }
  }
  for (size_t k = 0; k < n; k++) {
    UOp *u = in->list.at[k];
    Value *v = &in->values[k];
    if (!(op_info[u->op].flags & OPF_ALU)) continue;
    unsigned depth = 0;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      const Value *x = value_of(in, u->src[s]);
      if (x->lazy && x->depth + 1u > depth) depth = x->depth + 1u;
    }
    v->depth = (uint8_t)depth;
    v->lazy = u->shape.n && v->uses == 1 && takes_pieces(v->reader) && depth < MAX_LAZY;
  }
}

Status interp_tensor(Job *job, UOp *sink, InterpBuffer *slots, size_t nslots) {
  Interp in = {.slots = slots, .nslots = nslots};
  Status st = NULL;
  in.list = uop_toposort(job, sink);
  prepare(&in, job);
  for (size_t k = 0; k < in.list.len && !st; k++) {
    UOp *u = in.list.at[k];
    if (in.values[k].lazy) continue;
    st = compute(&in, u);
    for (uint32_t s = 0; s < u->nsrc && !st; s++) release(&in, u->src[s]);
    if (u->op == OP_STORE && !st) release(&in, view_root(u->src[0]));
  }
  for (size_t k = 0; k < in.list.len; k++) free(in.stores[k].at);
  return st;
}
