/* Arity, argument and dtype rules, from the op table and its doc column.
 *
 * uop_make asserts that uop_check is silent; decoders of text and bytes report what it says. */
#include "compiler/ir/infer.h"
#include "compiler/ir/matrix.h"
#include "compiler/ir/tilecopy.h"

enum { MAX_LANES = 1024, MAX_SOURCES = 1 << 20 };

DType dtype_infer(Op op, DType given, UOp *const *src, size_t nsrc) {
  switch (op_info[op].type) {
  case TR_SAME:
  case TR_SRC0: return nsrc ? (DType)src[0]->dtype : DT_VOID;
  case TR_BOOL: return DT_BOOL;
  case TR_SELECT: return nsrc > 1 ? (DType)src[1]->dtype : DT_VOID;
  case TR_VOID: return DT_VOID;
  default: return given;
  }
}

unsigned lanes_infer(Op op, UOp *const *src, size_t nsrc) {
  unsigned lanes = 1;
  switch (op) {
  case OP_HREDUCE:
  case OP_RANGE:
  case OP_END:
  case OP_BARRIER:
  case OP_COPY:
  case OP_COMMIT:
  case OP_WAIT:
  case OP_TILECOPY:
  case OP_RING:
  case OP_PREFETCH:
  case OP_SINK: return 1;
  case OP_REDUCE:
  case OP_SETTLE:
  case OP_AFTER: return nsrc ? src[0]->lanes : 1;
  default:
    for (size_t s = 0; s < nsrc; s++) lanes = src[s]->lanes > lanes ? src[s]->lanes : lanes;
    return lanes;
  }
}

static const struct {
  uint8_t op, min, max; /* max 0: any number */
} variadic[] = {{OP_CAT, 1, 0},     {OP_REDUCE, 1, 0},  {OP_INDEX, 2, 4},    {OP_LOAD, 2, 4},
                {OP_STORE, 2, 4},   {OP_END, 1, 0},     {OP_AFTER, 1, 0},    {OP_LOOP, 3, 0},
                {OP_SINK, 0, 0},    {OP_BARRIER, 1, 0}, {OP_MMA, 2, 0},      {OP_SHUFFLE, 1, 0},
                {OP_TILEMMA, 3, 5}, {OP_SETTLE, 1, 0},  {OP_EXCHANGE, 2, 4}, {OP_COPY, 4, 5},
                {OP_COMMIT, 1, 0},  {OP_WAIT, 0, 0},    {OP_TILECOPY, 4, 8}, {OP_RING, 2, 0}};

static const char *check_arity(Job *job, Op op, size_t n) {
  int want = op_info[op].nsrc;
  if (n > MAX_SOURCES) return "too many sources";
  if (want >= 0) {
    if ((size_t)want == n) return NULL;
    return arena_printf(&job->arena, "expected %d sources, got %zu", want, n);
  }
  for (size_t k = 0; k < sizeof variadic / sizeof *variadic; k++) {
    if (variadic[k].op != op) continue;
    if (n >= variadic[k].min && (!variadic[k].max || n <= variadic[k].max)) return NULL;
    return arena_printf(&job->arena, "%zu sources are not allowed", n);
  }
  return NULL;
}

static bool is_combiner(int64_t op) {
  return op == OP_ADD || op == OP_MUL || op == OP_MAX || op == OP_MIN;
}

static const char *check_var(Arg arg) {
  const int64_t limit = (int64_t)1 << 40;
  if (arg.i < 0 || arg.i > UINT16_MAX) return "the number of the VAR is out of bounds";
  if (arg.ints.n != 3) return "a VAR has a least and a greatest value and a divisor";
  int64_t min = arg.ints.at[0], max = arg.ints.at[1], divisor = arg.ints.at[2];
  if (min < 0 || max < min || max > limit) return "the bounds of the VAR are out of range";
  if (divisor < 1 || divisor > limit) return "the divisor of the VAR is out of range";
  if (max / divisor * divisor < min) return "no value of the VAR is a multiple of its divisor";
  return NULL;
}

static const char *check_buffer(Arg arg) {
  if (arg.ints.n < 2 || arg.ints.n > 5) return "a buffer has elements and space";
  if (arg.ints.n > 2 && (arg.ints.at[1] != 2 || arg.ints.at[2] < 5 - arg.ints.n))
    return "bad slots";
  if (arg.ints.n > 3 && arg.ints.at[3] != 1) return "the order is not 1";
  if (arg.ints.n > 4 && (arg.ints.at[4] < 1 || arg.ints.at[4] > arg.ints.at[2] - 2))
    return "too many iterations may be under way";
  if (arg.ints.at[0] < 1 || arg.ints.at[0] > (int64_t)1 << 40) return "bad number of elements";
  return arg.ints.at[1] >= 0 && arg.ints.at[1] <= 3 ? NULL : "the space is not 0 to 3";
}

static const char *check_range(Arg arg) {
  if (arg.ints.n < 1 || arg.ints.at[0] < 0 || arg.ints.at[0] >= AX__COUNT)
    return "a range has one axis type";
  /* along which dimension of the workgroup threads are counted */
  bool warp = arg.ints.at[0] == AX_WARP;
  bool thread = warp || arg.ints.at[0] == AX_LOCAL || arg.ints.at[0] == AX_GROUP;
  if (arg.ints.n != (warp ? 3u : thread ? 2u : 1u))
    return "a range has no or one dimension of threads, in a warp a step too";
  if (warp && (arg.ints.at[2] < 1 || arg.ints.at[2] > 1024)) return "bad step of threads";
  if (thread && (arg.ints.at[1] < 0 || arg.ints.at[1] > 2)) return "there are three dimensions";
  return arg.i < 0 || arg.i > UINT32_MAX ? "the range id is out of bounds" : NULL;
}

/* The number arguments of ops that have no more to say about theirs. */
static const struct {
  int64_t least, most;
  const char *why; /* NULL: any number */
} numbers[OP__COUNT] = {
    [OP_PARAM] = {0, INT64_MAX, "the slot is negative"},
    [OP_SPECIAL] = {0, 5, "there are six special indices"},
    [OP_THREAD] = {1, INT64_MAX, "the number of threads is below 1"},
    [OP_LDMATRIX] = {0, 1, "the argument is not 0 or 1"},
    [OP_PEER] = {1, 31, "a warp has 32 threads"},
    [OP_COPY] = {1, MAX_LANES, "bad number of elements"},
    [OP_WAIT] = {0, INT64_MAX, "a negative number of groups"},
    [OP_SETTLE] = {0, 7, "a bad number of groups"},
};

/* One axis; 1 as a second number: stores in no order. */
static const char *check_scatter_arg(Arg arg) {
  if (arg.ints.n < 1 || arg.ints.n > 2) return "a scatter has one axis";
  if (arg.ints.n == 2 && (arg.ints.at[1] != 1 || arg.i != OP_STORE)) return "bad order of updates";
  return arg.i == OP_STORE || is_combiner(arg.i) ? NULL : "a scatter stores or combines";
}

static const char *check_tiles_arg(Arg arg) {
  const MatrixInfo *info = matrix_info(arg.i);
  if (!info || !info->shared) return "there is no such matrix instruction of tiles";
  if (arg.ints.n != (info->held ? 3 : 6)) return "factors in memory have three steps each";
  for (uint32_t k = 0; k < arg.ints.n; k++)
    if (arg.ints.at[k] < 1 || arg.ints.at[k] > INT32_MAX) return "a bad step between elements";
  return NULL;
}

static const char *check_ring_arg(Arg arg) {
  if (arg.i < RING_FREE || arg.i > RING_LEFT) return "a ring is free, filled or left";
  if (arg.ints.n != 2 || arg.ints.at[0] < 2 || arg.ints.at[0] > 16) return "bad places";
  return arg.ints.at[1] < 0 || arg.ints.at[1] >= 1 << 20 ? "bad number of bytes" : NULL;
}

static const char *check_arg(Op op, unsigned lanes, Arg arg) {
  ArgKind kind = op_info[op].arg;
  if (arg.i && (kind == ARG_NONE || kind == ARG_INTS)) return "the op takes no number argument";
  if (arg.ints.n && (kind == ARG_NONE || kind == ARG_I)) return "the op takes no list argument";
  if (numbers[op].why && (arg.i < numbers[op].least || arg.i > numbers[op].most))
    return numbers[op].why;
  switch (op) {
  case OP_VAR: return check_var(arg);
  case OP_BUFFER: return check_buffer(arg);
  case OP_RANGE: return check_range(arg);
  case OP_TILEMMA: return check_tiles_arg(arg);
  case OP_TILECOPY: return tilecopy_check(arg.ints.at, arg.ints.n);
  case OP_RING: return check_ring_arg(arg);
  case OP_MMA: return matrix_info(arg.i) ? NULL : "there is no such matrix instruction";
  case OP_LDMATRIX:
    return lanes == 2 || lanes == 4 || lanes == 8 ? NULL : "1, 2 or 4 tiles are read";
  case OP_SHUFFLE: return arg.ints.n == lanes ? NULL : "a SHUFFLE names the source of each lane";
  case OP_SCAN:
    if (arg.ints.n != 1) return "a scan has one axis";
    return is_combiner(arg.i) ? NULL : "the op argument is not ADD, MUL, MAX or MIN";
  case OP_SCATTER: return check_scatter_arg(arg);
  case OP_RAMP: return lanes < 1 ? "a ramp has lanes" : NULL;
  case OP_REDUCE:
  case OP_HREDUCE: return is_combiner(arg.i) ? NULL : "the op argument is not ADD, MUL, MAX or MIN";
  default: return NULL;
  }
}

/* ARITH, FLT and INT of `op` against dtype d. */
static const char *check_class(Op op, DType d) {
  uint32_t flags = op_info[op].flags;
  if (dtype_is_storage(d) && op != OP_WHERE) return "not defined for a storage dtype";
  if (flags & OPF_ARITH && d == DT_BOOL) return "not defined for bool";
  if (flags & OPF_FLT && !dtype_is_float(d)) return "defined for float dtypes only";
  if (flags & OPF_INT && dtype_is_float(d)) return "not defined for float dtypes";
  return NULL;
}

static const char *check_alu(Op op, DType dtype, UOp *const *src, size_t n) {
  DType last = (DType)src[n - 1]->dtype;
  if (op == OP_CAST) return dtype == DT_VOID ? "no dtype given" : NULL;
  if (op == OP_BITCAST) {
    bool ok = dtype_info[dtype].bytes == dtype_info[last].bytes && dtype != DT_BOOL &&
              last != DT_BOOL && dtype != DT_VOID;
    return ok ? NULL : "the dtypes differ in size or are bool";
  }
  if (op == OP_WHERE && src[0]->dtype != DT_BOOL) return "the condition is not bool";
  for (size_t s = op == OP_WHERE; s < n; s++) {
    if (src[s]->dtype != last) return "the sources differ in dtype";
  }
  return check_class(op, last);
}

static const char *check_leaf(Op op, DType dtype) {
  switch (op) {
  case OP_VAR:
  case OP_RANGE:
  case OP_SPECIAL:
  case OP_THREAD:
  case OP_RAMP: return dtype == DT_INDEX ? NULL : "the dtype is not index";
  case OP_IOTA:
    if (dtype_is_storage(dtype)) return "not defined for a storage dtype";
    return dtype == DT_BOOL ? "a coordinate is not bool" : NULL;
  default: return NULL;
  }
}

static const char *check_access(Op op, UOp *const *src, size_t n) {
  size_t gate = op == OP_STORE ? 3 : 2;
  if (op == OP_STORE && src[2]->dtype != src[0]->dtype)
    return "the value's dtype is not the buffer's";
  if (src[1]->dtype != DT_INDEX) return "the index's dtype is not index";
  if (n > gate && src[gate]->dtype != DT_BOOL) return "the gate is not bool";
  if (op == OP_INDEX && n > 3 && src[3]->dtype != DT_INDEX) return "what it waits for is no index";
  if (op == OP_LOAD && n > 3 && src[3]->dtype != src[0]->dtype) {
    return "the alternative's dtype is not the buffer's";
  }
  return NULL;
}

static const char *check_matrix(DType dtype, unsigned lanes, Arg arg, UOp *const *src, size_t n) {
  const MatrixInfo *info = matrix_info(arg.i);
  if (n <= 3 && info->shared) return "its factors lie in memory";
  unsigned wide = n <= 3, digits = matrix_range_count(info);
  if (dtype != info->dtype[MATRIX_C]) return "the dtype is not that of the matrix instruction";
  if (n > 3 && n != 2 + digits) return "a matrix instruction has other digits";
  for (size_t s = 0; s < n && (s < 2 || wide); s++) {
    if (src[s]->dtype != info->dtype[s]) return "a source has another dtype than the instruction";
    if (src[s]->lanes != (wide ? info->layout[s].registers : 1)) return "a source has other lanes";
  }
  if (lanes != (wide ? info->layout[MATRIX_C].registers : 1)) return "the lanes are not those of C";
  for (size_t s = 2; s < n && !wide; s++) {
    bool fits = src[s]->op == OP_RANGE &&
                uop_is_int(src[s]->src[0], matrix_range_size(info, (unsigned)s - 2));
    if (!fits) return "a source is not the RANGE of a digit";
  }
  return NULL;
}

/* Buffers and indices; the sum has the instruction's layout. */
static const char *check_tiles(DType dtype, unsigned lanes, Arg arg, UOp *const *src, size_t n) {
  const MatrixInfo *info = matrix_info(arg.i);
  unsigned elements = info->layout[MATRIX_C].registers;
  if (dtype != info->dtype[MATRIX_C]) return "the dtype is not that of the matrix instruction";
  if (lanes != elements) return "the lanes are not those of C";
  uint32_t last = matrix_source(info, MATRIX_C);
  if (n < last || n > last + 1) return "it has other sources";
  for (int f = 0; f < 2; f++) {
    uint32_t at = matrix_source(info, (MatrixOperand)f);
    if (src[at]->dtype != info->dtype[f]) return "a factor has another dtype";
    if (!matrix_in_memory(info, f)) {
      if (src[at]->lanes != info->layout[f].registers) return "a factor has other lanes";
    } else if (src[at + 1]->dtype != DT_INDEX || src[at + 1]->lanes != 1) {
      return "an index is no scalar INDEX";
    }
  }
  bool sum = n == last || (src[last]->dtype == dtype && src[last]->lanes == lanes);
  return sum ? NULL : "the sum is another one";
}

static bool same_dtype(UOp *const *src, size_t n) {
  for (size_t s = 1; s < n; s++)
    if (src[s]->dtype != src[0]->dtype) return false;
  return true;
}

/* All sources but the first. */
static bool are_ranges(UOp *const *src, size_t n) {
  for (size_t s = 1; s < n; s++)
    if (src[s]->op != OP_RANGE) return false;
  return true;
}

static const char *check_shuffle(Arg arg, UOp *const *src, size_t n) {
  int64_t lanes = 0;
  if (!same_dtype(src, n)) return "the sources differ in dtype";
  for (size_t s = 0; s < n; s++) lanes += src[s]->lanes;
  for (uint32_t k = 0; k < arg.ints.n; k++)
    if (arg.ints.at[k] < 0 || arg.ints.at[k] >= lanes) return "there is no such lane";
  return NULL;
}

static const char *check_reduce(Arg arg, UOp *const *src, size_t n) {
  if (n > 1 && arg.ints.n) return "axes and ranges exclude each other";
  if (!are_ranges(src, n)) return "a reduce source is not a RANGE";
  return check_class((Op)arg.i, (DType)src[0]->dtype);
}

static const char *check_scatter(Arg arg, UOp *const *src) {
  if (!dtype_is_int((DType)src[1]->dtype)) return "the indices are no integers";
  if (src[2]->dtype != src[0]->dtype) return "the updates have another dtype";
  return arg.i == OP_STORE ? NULL : check_class((Op)arg.i, (DType)src[0]->dtype);
}

static const char *check_copy(UOp *const *src, size_t n) {
  if (src[0]->dtype != src[2]->dtype) return "the buffers differ in dtype";
  if (src[1]->dtype != DT_INDEX || src[3]->dtype != DT_INDEX) return "an index is not INDEX";
  for (size_t s = 1; s < n; s++)
    if (src[s]->lanes != 1) return "a source is no scalar";
  return n < 5 || src[4]->dtype == DT_BOOL ? NULL : "the gate is not bool";
}

static const char *check_tilecopy(Arg arg, UOp *const *src, size_t n) {
  if (src[2]->op != OP_PARAM || src[0]->dtype != src[2]->dtype)
    return "a tile is one of a PARAM of the buffer's dtype";
  if (n != 3 + (size_t)arg.ints.at[0]) return "a tile has one place for each axis";
  for (size_t s = 1; s < n; s++)
    if (s != 2 && (src[s]->dtype != DT_INDEX || src[s]->lanes != 1)) return "a place is no INDEX";
  return NULL;
}

static const char *check_ring(Arg arg, UOp *const *src) {
  if (src[0]->dtype != DT_INDEX || src[0]->lanes != 1) return "the place is no INDEX";
  bool left = arg.i == RING_LEFT;
  if (src[1]->dtype != (left ? DT_BOOL : DT_INDEX) || src[1]->lanes != 1)
    return "the second source is no turn, or no condition";
  return NULL;
}

static const char *check_ldmatrix(UOp *const *src) {
  if (src[1]->dtype != DT_INDEX || src[1]->lanes != 1) return "the index is no scalar INDEX";
  return dtype_info[src[0]->dtype].bytes == 2 ? NULL : "the elements do not have 16 bits";
}

static const char *check_exchange(UOp *const *src, size_t n) {
  if (n == 3 || !same_dtype(src, n)) return "two or four vectors of one dtype are exchanged";
  for (size_t s = 1; s < n; s++)
    if (src[s]->lanes != src[0]->lanes) return "the vectors differ in lanes";
  return NULL;
}

/* BIND and LOOP give a VAR its values. */
static const char *check_event(Op op, UOp *const *src) {
  if (src[0]->op != OP_VAR) return "the first source is no VAR";
  if (src[1]->dtype != DT_I64)
    return op == OP_LOOP ? "the count's dtype is not i64" : "the value's dtype is not i64";
  return op == OP_BIND || src[2]->dtype == DT_BOOL ? NULL : "the condition is not bool";
}

static const char *check_rest(Op op, Arg arg, UOp *const *src, size_t n) {
  switch (op) {
  case OP_PAD: return src[1]->dtype == src[0]->dtype ? NULL : "the fill value has another dtype";
  case OP_CAT: return same_dtype(src, n) ? NULL : "the sources differ in dtype";
  case OP_GATHER: return dtype_is_int((DType)src[1]->dtype) ? NULL : "the indices are no integers";
  case OP_SCATTER: return check_scatter(arg, src);
  case OP_REDUCE: return check_reduce(arg, src, n);
  case OP_COPY: return check_copy(src, n);
  case OP_TILECOPY: return check_tilecopy(arg, src, n);
  case OP_RING: return check_ring(arg, src);
  case OP_SHUFFLE: return check_shuffle(arg, src, n);
  case OP_LDMATRIX: return check_ldmatrix(src);
  case OP_EXCHANGE: return check_exchange(src, n);
  case OP_SCAN:
  case OP_HREDUCE: return check_class((Op)arg.i, (DType)src[0]->dtype);
  case OP_SPECIAL:
  case OP_RANGE: return src[0]->dtype == DT_INDEX ? NULL : "the end's dtype is not index";
  case OP_STORE:
    if (n == 2) return same_dtype(src, n) ? NULL : "the value has another dtype";
    return check_access(op, src, n);
  case OP_PREFETCH:
  case OP_INDEX:
  case OP_LOAD: return check_access(op, src, n);
  case OP_BIND:
  case OP_LOOP: return check_event(op, src);
  case OP_END: return are_ranges(src, n) ? NULL : "an END source is not a RANGE";
  default: return NULL;
  }
}

/* Which sources may have no value. */
static const char *check_void(Op op, UOp *const *src, size_t n) {
  size_t first = n; /* that many have one */
  if (op == OP_END || op == OP_SINK || op == OP_BARRIER || op == OP_COMMIT || op == OP_WAIT)
    first = 0;
  if (op == OP_AFTER || op == OP_SETTLE) first = 1;
  if (op == OP_RING) first = 2;
  if (op == OP_LOOP) first = 3;
  for (size_t s = 0; s < n; s++) {
    if (src[s]->dtype == DT_VOID && s < first) {
      return "a source has no value";
    }
  }
  return NULL;
}

static const char *check_lanes(Op op, unsigned lanes, UOp *const *src, size_t n) {
  if (lanes < 1 || lanes > MAX_LANES) return "the number of lanes is out of range";
  if (op == OP_BROADCAST) return src[0]->lanes == 1 ? NULL : "the source is a vector already";
  if (op_info[op].flags & OPF_ALU) {
    for (size_t s = 0; s < n; s++) {
      if (src[s]->lanes != 1 && src[s]->lanes != lanes) return "the sources differ in lanes";
    }
  }
  return NULL;
}

const char *check_rules(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                        size_t n) {
  const char *why = check_arity(job, op, n);
  if (why) return why;
  dtype = dtype_infer(op, dtype, src, n);
  if (!lanes) lanes = lanes_infer(op, src, n);
  if ((why = check_void(op, src, n)) || (why = check_arg(op, lanes, arg)) ||
      (why = check_lanes(op, lanes, src, n))) {
    return why;
  }
  if (dtype == DT_VOID && op_info[op].type != TR_VOID) return "no dtype given";
  if (op_info[op].flags & OPF_ALU) return check_alu(op, dtype, src, n);
  if (op == OP_MMA) return check_matrix(dtype, lanes, arg, src, n);
  if (op == OP_TILEMMA) return check_tiles(dtype, lanes, arg, src, n);
  why = op_info[op].type == TR_LEAF ? check_leaf(op, dtype) : NULL;
  return why ? why : check_rest(op, arg, src, n);
}

const char *uop_check(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                      size_t n) {
  Ints shape;
  const char *why = check_rules(job, op, dtype, lanes, arg, src, n);
  return why ? why : shape_infer(job, op, arg, src, n, &shape);
}
