/* The reference for linear programs: one pass of a program counter over the list; for a workgroup,
 * one counter per thread, each of which runs until it waits at a BARRIER.
 *
 * Every node has a place and `lanes` Scalars there; RANGE and END move the counter. Nodes that are
 * used but not listed (constants and the like) are placed behind the list and computed first. */
#include "compiler/ir/interp.h"

#include <assert.h>
#include <inttypes.h>

#include "base/vec.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/matrix.h"
#include "compiler/ir/plan.h"
#include "compiler/ir/tilecopy.h"

/* Who touched an element of the workgroup's memory last; phases count from 1. */
typedef struct Cell {
  uint32_t written, writer, read, reader; /* phase, thread, phase, thread or MANY */
} Cell;
#define MANY UINT32_MAX

/* An element on its way into the workgroup's memory. */
typedef struct Pending {
  const UOp *copy;
  int64_t to, group;
  Scalar value;
} Pending;

typedef struct Interp {
  Job *job;
  InterpBuffer *args;
  size_t nargs;
  int64_t thread;
  int64_t special[6];
  uint32_t me, phase; /* in the workgroup */
  size_t pc;
  bool waits; /* at the node before pc, which all threads do together */
  struct {
    Pending *at;
    size_t len, cap;
  } pending;        /* COPYs that have not been waited for */
  int64_t groups;   /* closed by a COMMIT */
  Cell **cells;     /* by place: of the workgroup's BUFFERs; shared by its threads */
  Scalar **values;  /* by place */
  Scalar **buffers; /* by place: storage of BUFFERs */
  uint32_t *closes; /* by place: END of a RANGE and RANGE of an END */
} Interp;

static Scalar lane(const Interp *in, const UOp *u, unsigned k) {
  return in->values[u->place][u->lanes == 1 ? 0 : k];
}

Status interp_var(const InterpBuffer *args, size_t nargs, const UOp *var, int64_t *out) {
  const InterpBuffer *value = &args[nargs + (size_t)var->arg.i];
  *out = 0;
  if (value->bytes != sizeof *out)
    return FAIL(INTERNAL, "VAR %" PRId64 " has no value", var->arg.i);
  memcpy(out, value->data, sizeof *out);
  if (*out >= var->vmin && *out <= var->vmax) return NULL;
  return FAIL(INTERNAL, "VAR %" PRId64 " is %" PRId64 ", outside of [%" PRId64 ", %" PRId64 "]",
              var->arg.i, *out, var->vmin, var->vmax);
}

/* -- memory ------------------------------------------------------------------------------------ */

/* Whether lane k of the access happens. */
static bool gated_in(const Interp *in, const UOp *u, uint32_t gate, unsigned k) {
  return u->nsrc <= gate || lane(in, u->src[gate], k).i;
}

/* The element that lane k accesses: an index of scalars, whatever the buffer's lanes. */
static int64_t element(const Interp *in, const UOp *u, unsigned k) {
  const UOp *buf = uop_storage(u->src[0]);
  if (buf->lanes > 1) return lane(in, u->src[1], 0).i * buf->lanes + k;
  if (u->src[1]->lanes > 1) return lane(in, u->src[1], k).i;
  return lane(in, u->src[1], 0).i + (int64_t)k * (u->lanes == 1 ? 0 : u->arg.i);
}

static Status check(const Interp *in, const UOp *u, int64_t at) {
  const UOp *buf = uop_storage(u->src[0]);
  int64_t n;
  if (buf->op == OP_BUFFER) {
    n = buf->arg.ints.at[0] * buf->lanes;
  } else if (buf->op == OP_PARAM && (size_t)buf->arg.i < in->nargs) {
    n = (int64_t)(in->args[buf->arg.i].bytes / dtype_info[buf->dtype].bytes);
    if (dim_high(buf->arg.ints.at[0]) < n) n = dim_high(buf->arg.ints.at[0]);
  } else {
    return FAIL(INTERNAL, "%s accesses %s %" PRId64 ", which the kernel does not have",
                op_info[u->op].name, op_info[buf->op].name, buf->arg.i);
  }
  if (at >= 0 && at < n) return NULL;
  return FAIL(INTERNAL, "%s of %s %" PRId64 ": element %" PRId64 " of %" PRId64,
              op_info[u->op].name, op_info[buf->op].name, buf->arg.i, at, n);
}

static bool is_shared(const UOp *buf) { return buf->op == OP_BUFFER && buf->arg.ints.at[1] == 2; }

static Status touch(Interp *in, const UOp *u, const UOp *buf, int64_t at, bool write) {
  if (!is_shared(buf) || !in->phase) return NULL;
  Cell *c = &in->cells[buf->place][at];
  bool race = c->written == in->phase && c->writer != in->me;
  race |= write && c->read == in->phase && c->reader != in->me;
  if (race)
    return FAIL(INTERNAL,
                "%s of element %" PRId64 " of the workgroup's BUFFER %" PRId64
                " by two threads without a BARRIER between them",
                op_info[u->op].name, at, buf->arg.i);
  if (write) {
    c->written = in->phase, c->writer = in->me;
  } else {
    c->reader = c->read == in->phase && c->reader != in->me ? MANY : in->me;
    c->read = in->phase;
  }
  return NULL;
}

static Status load(Interp *in, const UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  for (unsigned k = 0; k < u->lanes; k++) {
    Scalar *out = &in->values[u->place][k];
    if (!gated_in(in, u, 2, k)) {
      *out = u->nsrc > 3 ? lane(in, u->src[3], k) : scalar_wrap((DType)u->dtype, (Scalar){0});
      continue;
    }
    int64_t at = element(in, u, k);
    TRY(check(in, u, at));
    TRY(touch(in, u, buf, at, false));
    if (buf->op == OP_BUFFER) {
      *out = in->buffers[buf->place][at];
    } else {
      const char *data = in->args[buf->arg.i].data;
      *out = scalar_load((DType)buf->dtype, data + (size_t)at * dtype_info[buf->dtype].bytes);
    }
  }
  return NULL;
}

static Status store(Interp *in, const UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  for (unsigned k = 0; k < u->lanes; k++) {
    if (!gated_in(in, u, 3, k)) continue;
    int64_t at = element(in, u, k);
    TRY(check(in, u, at));
    TRY(touch(in, u, buf, at, true));
    if (buf->op == OP_BUFFER) {
      in->buffers[buf->place][at] = lane(in, u->src[2], k);
    } else {
      char *data = in->args[buf->arg.i].data;
      scalar_store((DType)buf->dtype, lane(in, u->src[2], k),
                   data + (size_t)at * dtype_info[buf->dtype].bytes);
    }
  }
  return NULL;
}

/* Elements are read at once, and written when the thread has waited for them. */
static Status copy_elements(Interp *in, const UOp *u) {
  const UOp *from = uop_storage(u->src[2]), *to = uop_storage(u->src[0]);
  bool all = u->nsrc < 5 || lane(in, u->src[4], 0).i;
  if (to->op != OP_BUFFER || from->op != OP_PARAM)
    return FAIL(INTERNAL, "a COPY is from a PARAM to a BUFFER");
  for (int64_t k = 0; k < u->arg.i; k++) {
    Pending p = {.copy = u, .to = lane(in, u->src[1], 0).i + k, .group = in->groups};
    int64_t at = lane(in, u->src[3], 0).i + k;
    size_t item = dtype_info[from->dtype].bytes;
    if (p.to < 0 || p.to >= to->arg.ints.at[0]) return FAIL(INTERNAL, "a COPY leaves its buffer");
    if (all && (at < 0 || (uint64_t)at >= in->args[from->arg.i].bytes / item))
      return FAIL(INTERNAL, "a COPY reads element %" PRId64 " of PARAM %" PRId64, at, from->arg.i);
    const char *data = in->args[from->arg.i].data;
    if (all) p.value = scalar_load((DType)from->dtype, data + (size_t)at * item);
    avec_push(&in->job->arena, &in->pending, p);
  }
  return NULL;
}

/* The first thread does it for all. */
static Status copy_tile(Interp *in, const UOp *u) {
  const UOp *from = u->src[2], *to = uop_storage(u->src[0]);
  TileCopy t = tilecopy_of(u);
  int64_t at[TILE_AXES], first = lane(in, u->src[1], 0).i, source;
  size_t item = dtype_info[from->dtype].bytes;
  for (uint32_t d = 0; d < t.axes; d++) at[d] = lane(in, u->src[3 + d], 0).i;
  for (int64_t k = 0; k < t.elements && !in->me; k++) {
    Scalar v = scalar_wrap((DType)from->dtype, (Scalar){0});
    if (first < 0 || first + k >= to->arg.ints.at[0])
      return FAIL(INTERNAL, "a TILECOPY leaves its buffer");
    if (tilecopy_source(&t, at, k, &source)) {
      if ((uint64_t)source >= in->args[from->arg.i].bytes / item)
        return FAIL(INTERNAL, "a TILECOPY reads element %" PRId64 " of PARAM %" PRId64, source,
                    from->arg.i);
      const char *data = in->args[from->arg.i].data;
      v = scalar_load((DType)from->dtype, data + (size_t)source * item);
    }
    TRY(touch(in, u, to, first + k, true));
    in->buffers[to->place][first + k] = v;
  }
  return NULL;
}

static Status arrive(Interp *in, int64_t groups) {
  size_t left = 0;
  for (size_t k = 0; k < in->pending.len; k++) {
    Pending p = in->pending.at[k];
    if (p.group >= groups) {
      in->pending.at[left++] = p;
      continue;
    }
    const UOp *to = uop_storage(p.copy->src[0]);
    TRY(touch(in, p.copy, to, p.to, true));
    in->buffers[to->place][p.to] = p.value;
  }
  in->pending.len = left;
  return NULL;
}

/* -- values ------------------------------------------------------------------------------------ */

static void alu(Interp *in, const UOp *u) {
  for (unsigned k = 0; k < u->lanes; k++) {
    Scalar v[3];
    for (uint32_t s = 0; s < u->nsrc; s++) v[s] = lane(in, u->src[s], k);
    in->values[u->place][k] =
        op_eval((Op)u->op, (DType)u->dtype, (DType)u->src[u->nsrc - 1]->dtype, v);
  }
}

static void shuffle(Interp *in, const UOp *u) {
  for (unsigned k = 0; k < u->lanes; k++) {
    uint32_t at = (uint32_t)u->arg.ints.at[k], s = 0;
    for (; at >= u->src[s]->lanes; s++) at -= u->src[s]->lanes;
    in->values[u->place][k] = lane(in, u->src[s], at);
  }
}

static Status compute(Interp *in, const UOp *u) {
  Scalar *out = in->values[u->place];
  DType d = (DType)u->dtype;
  switch (u->op) {
  case OP_CONST:
    for (unsigned k = 0; k < u->lanes; k++) out[k] = uop_const_value(u);
    return NULL;
  case OP_THREAD: out->i = in->thread; return NULL;
  case OP_VAR: return interp_var(in->args, in->nargs, u, &out->i);
  case OP_SPECIAL: out->i = in->special[u->arg.i]; return NULL;
  case OP_RAMP:
    for (unsigned k = 0; k < u->lanes; k++) out[k].i = k;
    return NULL;
  case OP_BROADCAST:
    for (unsigned k = 0; k < u->lanes; k++) out[k] = lane(in, u->src[0], 0);
    return NULL;
  case OP_HREDUCE:
    *out = lane(in, u->src[0], 0);
    for (unsigned k = 1; k < u->src[0]->lanes; k++) {
      *out = op_eval((Op)u->arg.i, d, d, (Scalar[]){*out, lane(in, u->src[0], k)});
    }
    return NULL;
  case OP_SETTLE:
  case OP_AFTER:
    for (unsigned k = 0; k < u->lanes; k++) out[k] = lane(in, u->src[0], k);
    return NULL;
  case OP_SHUFFLE: shuffle(in, u); return NULL;
  case OP_LOAD: return load(in, u);
  case OP_PREFETCH: return NULL;
  case OP_STORE: return store(in, u);
  case OP_COPY: return copy_elements(in, u);
  case OP_TILECOPY: return copy_tile(in, u);
  case OP_COMMIT: in->groups++; return NULL;
  case OP_WAIT: return arrive(in, in->groups - u->arg.i);
  case OP_PARAM:
  case OP_BUFFER:
  case OP_SINK: return NULL;
  default: break;
  }
  if (!(op_info[u->op].flags & OPF_ALU)) {
    return FAIL(INTERNAL, "%s is not an op of a linear program", op_info[u->op].name);
  }
  alu(in, u);
  return NULL;
}

/* -- the program ------------------------------------------------------------------------------- */

/* Storage for the values and buffers of one thread; the workgroup's buffers are those of `first`,
 * unless this is the first. */
static void allocate(Interp *in, Job *job, const UOpList *all, const Interp *first) {
  in->values = arena_array(&job->arena, all->len, sizeof *in->values);
  in->buffers = arena_array(&job->arena, all->len, sizeof *in->buffers);
  if (!first) in->cells = arena_array(&job->arena, all->len, sizeof *in->cells);
  for (size_t k = 0; k < all->len; k++) {
    const UOp *u = all->at[k];
    in->values[k] = arena_array(&job->arena, u->lanes, sizeof(Scalar));
    if (u->op != OP_BUFFER) continue;
    size_t size = (size_t)u->arg.ints.at[0] * u->lanes;
    if (first && is_shared(u)) {
      in->buffers[k] = first->buffers[k];
      continue;
    }
    in->buffers[k] = arena_array(&job->arena, size, sizeof(Scalar));
    if (is_shared(u)) in->cells[k] = arena_array(&job->arena, size, sizeof(Cell));
  }
}

static Status place(Interp *in, Job *job, UOp *const *list, size_t n, UOpList *all) {
  for (size_t k = 0; k < n; k++) {
    for (uint32_t s = 0; s < list[k]->nsrc; s++) list[k]->src[s]->place = UINT32_MAX;
  }
  for (size_t k = 0; k < n; k++) list[k]->place = (uint32_t)k;
  for (size_t k = 0; k < n; k++) avec_push(&job->arena, all, list[k]);
  for (size_t k = 0; k < n; k++) {
    for (uint32_t s = 0; s < list[k]->nsrc; s++) {
      UOp *x = list[k]->src[s];
      if (x->place != UINT32_MAX) continue;
      if (x->nsrc) {
        return FAIL(INTERNAL, "node %zu, %s, uses a %s that is not listed", k,
                    op_info[list[k]->op].name, op_info[x->op].name);
      }
      x->place = (uint32_t)all->len;
      avec_push(&job->arena, all, x);
    }
  }
  in->closes = arena_array(&job->arena, all->len, sizeof *in->closes);
  allocate(in, job, all, NULL);
  return NULL;
}

/* Sources come first, and every END closes the RANGE opened last. */
static Status match_loops(Interp *in, Job *job, UOp *const *list, size_t n) {
  VEC(uint32_t) open = {0};
  for (size_t k = 0; k < n; k++) {
    const UOp *u = list[k];
    for (uint32_t s = 0; s < u->nsrc; s++) {
      if (u->src[s]->nsrc && u->src[s]->place >= k) {
        return FAIL(INTERNAL, "node %zu, %s, is listed before its source", k, op_info[u->op].name);
      }
    }
    if (u->op == OP_RANGE) avec_push(&job->arena, &open, (uint32_t)k);
    if (u->op != OP_END) continue;
    if (u->nsrc != 2 || !open.len || list[open.at[open.len - 1]] != u->src[1]) {
      return FAIL(INTERNAL, "node %zu: END does not close the innermost RANGE", k);
    }
    open.len--;
    in->closes[k] = u->src[1]->place;
    in->closes[u->src[1]->place] = (uint32_t)k;
  }
  return open.len ? FAIL(INTERNAL, "%zu RANGEs are not closed", open.len) : NULL;
}

/* Element (x, y) of an operand, in whichever thread of the warp holds it. */
static Scalar matrix_value(const Interp *warp, const UOp *u, const MatrixInfo *info,
                           MatrixOperand o, unsigned x, unsigned y) {
  unsigned thread, reg;
  matrix_find(&info->layout[o], info, x, y, &thread, &reg);
  DType d = info->dtype[o], wide = dtype_is_float(d) ? DT_F64 : info->dtype[MATRIX_C];
  Scalar v = matrix_seen(info, warp[thread].values[u->src[o]->place][reg]);
  return op_eval(OP_CAST, wide, d, &v);
}

static void multiply(Interp *warp, const UOp *u) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  const MatrixLayout *l = &info->layout[MATRIX_C];
  DType d = info->dtype[MATRIX_C], wide = dtype_is_float(d) ? DT_F64 : d;
  for (unsigned t = 0; t < info->threads; t++)
    for (unsigned reg = 0; reg < l->registers; reg++) {
      unsigned at[2];
      matrix_element(l, info, t, reg, at);
      Scalar acc = {0};
      if (u->nsrc > 2) acc = lane(&warp[t], u->src[2], reg);
      for (unsigned k = 0; k < info->k; k++) {
        Scalar v[2] = {matrix_value(warp, u, info, MATRIX_A, at[0], k),
                       matrix_value(warp, u, info, MATRIX_B, at[1], k)};
        v[0] = op_eval(OP_MUL, wide, wide, v);
        acc = op_eval(OP_ADD, wide, wide, (Scalar[]){acc, v[0]});
      }
      warp[t].values[u->place][reg] = scalar_wrap(d, acc);
    }
}

/* Element (x, k) of a factor of a TILEMMA; all of its threads read it in memory. */
static Status tile_value(Interp *warp, const UOp *u, MatrixOperand factor, unsigned x, unsigned k,
                         Scalar *out) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  uint32_t from = matrix_source(info, factor);
  const UOp *buf = uop_storage(u->src[from]);
  const int64_t *step = u->arg.ints.at + (info->held ? 0 : 3 * (int)factor);
  DType d = info->dtype[factor], wide = dtype_is_float(d) ? DT_F64 : info->dtype[MATRIX_C];
  if (!matrix_in_memory(info, (int)factor)) {
    *out = matrix_value(warp, u, info, factor, x, k);
    return NULL;
  }
  int64_t at = lane(warp, u->src[from + 1], 0).i;
  at += k * step[0] + x % 64 * step[1] + x / 64 * step[2];
  if (at < 0 || at >= buf->arg.ints.at[0]) return FAIL(INTERNAL, "a TILEMMA leaves its buffer");
  for (unsigned t = 0; t < 2; t++) TRY(touch(&warp[t], u, buf, at, false));
  Scalar v = matrix_seen(info, warp->buffers[buf->place][at]);
  *out = op_eval(OP_CAST, wide, d, &v);
  return NULL;
}

static Status multiply_tiles(Interp *warp, const UOp *u) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  const MatrixLayout *l = &info->layout[MATRIX_C];
  DType d = info->dtype[MATRIX_C], wide = dtype_is_float(d) ? DT_F64 : d;
  const unsigned rows[2] = {info->m, info->n};
  uint32_t sum = matrix_source(info, MATRIX_C);
  Scalar *factor[2];
  for (int f = 0; f < 2; f++) {
    factor[f] = arena_array(&warp->job->arena, (size_t)rows[f] * info->k, sizeof(Scalar));
    for (unsigned x = 0; x < rows[f]; x++)
      for (unsigned k = 0; k < info->k; k++)
        TRY(tile_value(warp, u, (MatrixOperand)f, x, k, &factor[f][x * info->k + k]));
  }
  for (unsigned t = 0; t < info->threads; t++)
    for (unsigned reg = 0; reg < l->registers; reg++) {
      unsigned at[2];
      matrix_element(l, info, t, reg, at);
      Scalar acc = {0};
      if (u->nsrc > sum) acc = lane(&warp[t], u->src[sum], reg);
      for (unsigned k = 0; k < info->k; k++) {
        Scalar v[2] = {factor[0][at[0] * info->k + k], factor[1][at[1] * info->k + k]};
        v[0] = op_eval(OP_MUL, wide, wide, v);
        acc = op_eval(OP_ADD, wide, wide, (Scalar[]){acc, v[0]});
      }
      warp[t].values[u->place][reg] = scalar_wrap(d, acc);
    }
  return NULL;
}

static bool is_collective(const UOp *u) {
  bool warps = u->op == OP_MMA && matrix_info(u->arg.i)->threads > 1;
  return u->op == OP_BARRIER || u->op == OP_RING || warps || u->op == OP_LDMATRIX ||
         u->op == OP_TILEMMA || u->op == OP_EXCHANGE || u->op == OP_PEER;
}

static Status step(Interp *in, UOp *const *list) {
  const UOp *u = list[in->pc];
  if (u->op == OP_RANGE) {
    in->values[in->pc]->i = 0;
    if (lane(in, u->src[0], 0).i <= 0) in->pc = in->closes[in->pc];
  } else if (u->op == OP_END) {
    size_t start = in->closes[in->pc];
    if (++in->values[start]->i < lane(in, list[start]->src[0], 0).i) in->pc = start;
  } else if (is_collective(u)) {
    in->waits = true;
  } else if (u->op == OP_MMA) {
    assert(matrix_info(u->arg.i)->threads == 1); /* a warp's is collective */
    multiply(in, u);
  } else {
    TRY(compute(in, u));
  }
  ++in->pc;
  return NULL;
}

/* To the next node that threads do together, or to the end. */
static Status run(Interp *in, UOp *const *list, size_t n) {
  in->waits = false;
  while (in->pc < n && !in->waits) TRY(step(in, list));
  return NULL;
}

static Status prepare(Interp *in, Job *job, UOp *const *list, size_t n, UOpList *all) {
  TRY(place(in, job, list, n, all));
  return match_loops(in, job, list, n);
}

static Status compute_leaves(Interp *in, const UOpList *all, size_t n) {
  for (size_t k = n; k < all->len; k++) TRY(compute(in, all->at[k]));
  return NULL;
}

Status interp_linear(Job *job, UOp *const *list, size_t n, InterpBuffer *args, size_t nargs,
                     int64_t thread) {
  Interp in = {.job = job, .args = args, .nargs = nargs, .thread = thread};
  UOpList all = {0};
  TRY(prepare(&in, job, list, n, &all));
  TRY(compute_leaves(&in, &all, n));
  while (in.pc < n) TRY(run(&in, list, n));
  return NULL;
}

/* -- workgroups -------------------------------------------------------------------------------- */

typedef struct Workgroup {
  const Linear *l;
  UOpList all;
  Interp *threads;
  uint32_t n, phase;
} Workgroup;

static Status make_threads(Workgroup *w, Job *job, InterpBuffer *args, size_t nargs) {
  const uint32_t *b = w->l->block;
  w->n = b[0] * b[1] * b[2];
  w->threads = arena_array(&job->arena, w->n, sizeof *w->threads);
  for (uint32_t t = 0; t < w->n; t++) {
    Interp *in = &w->threads[t];
    *in = (Interp){.job = job, .args = args, .nargs = nargs, .me = t};
    if (t) {
      in->closes = w->threads->closes;
      in->cells = w->threads->cells;
      allocate(in, job, &w->all, w->threads);
    } else {
      TRY(prepare(in, job, w->l->list, w->l->len, &w->all));
    }
    in->special[3] = t % b[0], in->special[4] = t / b[0] % b[1], in->special[5] = t / b[0] / b[1];
  }
  return NULL;
}

/* Rows of the tiles, from the places that the threads name. */
static Status load_tiles(Interp *warp, const UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  for (unsigned t = 0; t < 32; t++)
    for (unsigned k = 0; k < u->lanes; k++) {
      unsigned row = t / 4, column = t % 4 * 2 + k % 2, swap = row;
      if (u->arg.i) row = column, column = swap;
      const Interp *named = &warp[8 * (k / 2) + row];
      int64_t at = lane(named, u->src[1], 0).i + column;
      TRY(check(&warp[t], u, at));
      TRY(touch(&warp[t], u, buf, at, false));
      warp[t].values[u->place][k] = warp->buffers[buf->place][at];
    }
  return NULL;
}

static void exchange(Interp *warp, const UOp *u) {
  unsigned n = u->nsrc, lanes = u->src[0]->lanes;
  for (unsigned t = 0; t < 32; t++)
    for (unsigned k = 0; k < n * lanes; k++)
      warp[t].values[u->place][k] = lane(&warp[t / n * n + k / lanes], u->src[t % n], k % lanes);
}

static void swap_peers(Interp *warp, const UOp *u) {
  for (unsigned t = 0; t < 32; t++)
    for (unsigned k = 0; k < u->lanes; k++)
      warp[t].values[u->place][k] = lane(&warp[t ^ (unsigned)u->arg.i], u->src[0], k);
}

/* Without one thread's results in the way of another: all of them have come here. */
static Status run_collective(Workgroup *w) {
  const UOp *u = w->l->list[w->threads->pc - 1];
  bool product = u->op == OP_MMA || u->op == OP_TILEMMA;
  uint32_t warp = product ? matrix_info(u->arg.i)->threads : 32;
  if (u->op == OP_BARRIER || u->op == OP_RING) return NULL;
  if (w->n % warp) return FAIL(INTERNAL, "a workgroup of %u threads has a part of a warp", w->n);
  for (uint32_t t = 0; t < w->n; t += warp)
    if (u->op == OP_MMA)
      multiply(&w->threads[t], u);
    else if (u->op == OP_EXCHANGE)
      exchange(&w->threads[t], u);
    else if (u->op == OP_PEER)
      swap_peers(&w->threads[t], u);
    else if (u->op == OP_TILEMMA)
      TRY(multiply_tiles(&w->threads[t], u));
    else
      TRY(load_tiles(&w->threads[t], u));
  return NULL;
}

static Status run_group(Workgroup *w, const int64_t *at) {
  for (uint32_t t = 0; t < w->n; t++) {
    Interp *in = &w->threads[t];
    memcpy(in->special, at, 3 * sizeof *at);
    in->pc = 0;
    in->pending.len = 0;
    in->groups = 0;
    TRY(compute_leaves(in, &w->all, w->l->len));
  }
  bool met = true; /* at a BARRIER */
  do {
    w->phase += met;
    for (uint32_t t = 0; t < w->n; t++) {
      Interp *in = &w->threads[t];
      in->phase = w->phase;
      TRY(run(in, w->l->list, w->l->len));
      if (in->pc != w->threads->pc || in->waits != w->threads->waits)
        return FAIL(INTERNAL, "thread %u waits at another node than thread 0", t);
    }
    const UOp *at_node = w->threads->waits ? w->l->list[w->threads->pc - 1] : NULL;
    met = at_node && (at_node->op == OP_BARRIER || at_node->op == OP_RING);
    if (w->threads->waits) TRY(run_collective(w));
  } while (w->threads->waits);
  return NULL;
}

/* A size and what it is computed from: a few nodes. */
static Status compute_size(Interp *in, const UOp *u) {
  for (uint32_t s = 0; s < u->nsrc; s++) TRY(compute_size(in, u->src[s]));
  return compute(in, u);
}

/* The sizes of the grid, which are constant or computed from what is. */
static Status grid_size(Workgroup *w, int d, int64_t *out) {
  const UOp *n = w->l->grid[d];
  *out = 1;
  if (!n) return NULL;
  if (n->place >= w->all.len || w->all.at[n->place] != n)
    return FAIL(INTERNAL, "the size of the grid is not part of the program");
  TRY(compute_size(w->threads, n));
  *out = lane(w->threads, n, 0).i;
  return NULL;
}

Status interp_launch(Job *job, const Linear *l, InterpBuffer *args, size_t nargs) {
  if (l->threads > 1) {
    for (uint32_t t = 0; t < l->threads; t++)
      TRY(interp_linear(job, l->list, l->len, args, nargs, t));
    return NULL;
  }
  Workgroup w = {.l = l};
  int64_t size[3], at[3];
  TRY(make_threads(&w, job, args, nargs));
  TRY(compute_leaves(w.threads, &w.all, l->len));
  for (int d = 0; d < 3; d++) TRY(grid_size(&w, d, &size[d]));
  for (at[2] = 0; at[2] < size[2]; at[2]++)
    for (at[1] = 0; at[1] < size[1]; at[1]++)
      for (at[0] = 0; at[0] < size[0]; at[0]++) TRY(run_group(&w, at));
  return NULL;
}
