/* Shapes of tensor-stage nodes.
 *
 * One function per movement op; each answers NULL and the shape, or the sentence that says what is
 * wrong. Sizes come from models, so every sum and product is checked: the product of a shape's
 * static sizes, counting empty axes as 1, stays below MAX_NUMEL, which is what lets later passes
 * multiply strides without checks.
 *
 * Sizes are dims (dim.h). A rule about symbolic ones holds when it is proven for all values of the
 * VARs: what might be wrong for some is refused. Static sizes are compared and added as numbers,
 * without the detour. */
#include <assert.h>

#include "compiler/ir/dim.h"
#include "compiler/ir/infer.h"

enum { MAX_RANK = 32 };
static const int64_t MAX_NUMEL = (int64_t)1 << 48;

int64_t shape_numel(Ints shape) {
  int64_t n = 1;
  assert(shape_is_static(shape));
  for (uint32_t i = 0; i < shape.n; i++) n *= shape.at[i];
  return n;
}

bool shape_eq(Ints a, Ints b) {
  if (a.n != b.n) return false;
  return a.at == b.at || !a.n || !memcmp(a.at, b.at, a.n * sizeof *a.at);
}

static const char *describe(Job *job, Ints s) {
  const char *text = "";
  for (uint32_t i = 0; i < s.n; i++) {
    text = arena_printf(&job->arena, "%s%s%s", text, i ? ", " : "", dim_text(job, s.at[i]));
  }
  return arena_printf(&job->arena, "[%s]", text);
}

/* A symbolic size that is written into a graph is proven not to be negative; one that is read back,
 * as that of a parameter, was. A run refuses a negative one in any case. */
static const char *checked_as(Job *job, Ints s, bool trusted) {
  if (s.n > MAX_RANK) return arena_printf(&job->arena, "rank %u is above %d", s.n, MAX_RANK);
  int64_t n = 1;
  for (uint32_t i = 0; i < s.n; i++) {
    int64_t d = s.at[i];
    if (!dim_is_static(d)) {
      if (trusted ? dim_high(d) >= 0 : dim_le(job, 0, d)) continue;
      return arena_printf(&job->arena, "a size of %s may be negative", describe(job, s));
    }
    if (d < 0 || d > MAX_NUMEL || __builtin_mul_overflow(n, d ? d : 1, &n) || n > MAX_NUMEL) {
      return arena_printf(&job->arena, "shape %s is not allowed", describe(job, s));
    }
  }
  return NULL;
}

static const char *checked(Job *job, Ints s) { return checked_as(job, s, false); }

static bool both_static(int64_t a, int64_t b) { return dim_is_static(a) && dim_is_static(b); }

static int64_t plus(Job *job, int64_t a, int64_t b) {
  return both_static(a, b) ? a + b : dim_add(job, a, b);
}

static int64_t minus(Job *job, int64_t a, int64_t b) {
  return both_static(a, b) ? a - b : dim_sub(job, a, b);
}

static bool le(Job *job, int64_t a, int64_t b) {
  return both_static(a, b) ? a <= b : dim_le(job, a, b);
}

static int64_t *new_shape(Job *job, Ints *out, uint32_t rank) {
  int64_t *d = arena_array(&job->arena, rank, sizeof *d);
  *out = (Ints){d, rank};
  return d;
}

static const char *reshape(Job *job, Ints in, Ints arg, Ints *out) {
  const char *why = checked(job, arg);
  if (why) return why;
  *out = arg;
  if (dims_numel(job, in) == dims_numel(job, arg)) return NULL;
  return arena_printf(&job->arena, "%s has not as many elements as %s", describe(job, arg),
                      describe(job, in));
}

static const char *permute(Job *job, Ints in, Ints arg, Ints *out) {
  uint64_t seen = 0;
  if (arg.n != in.n) return "a permutation lists every axis once";
  int64_t *d = new_shape(job, out, in.n);
  for (uint32_t k = 0; k < in.n; k++) {
    int64_t axis = arg.at[k];
    if (axis < 0 || axis >= in.n || seen >> axis & 1) return "a permutation lists every axis once";
    seen |= (uint64_t)1 << axis;
    d[k] = in.at[axis];
  }
  return NULL;
}

static const char *expand(Job *job, Ints in, Ints arg, Ints *out) {
  const char *why = checked(job, arg);
  if (why) return why;
  *out = arg;
  bool ok = arg.n == in.n;
  for (uint32_t k = 0; ok && k < in.n; k++) ok = in.at[k] == arg.at[k] || in.at[k] == 1;
  if (ok) return NULL;
  return arena_printf(&job->arena, "%s does not expand to %s", describe(job, in),
                      describe(job, arg));
}

static const char *pad(Job *job, Ints in, Ints arg, Ints *out) {
  if (arg.n != 2 * in.n) return "padding has two numbers per axis";
  int64_t *d = new_shape(job, out, in.n);
  for (uint32_t k = 0; k < in.n; k++) {
    int64_t lo = arg.at[2 * k], hi = arg.at[2 * k + 1];
    if (!le(job, 0, lo) || !le(job, 0, hi) || (dim_is_static(lo) && lo > MAX_NUMEL) ||
        (dim_is_static(hi) && hi > MAX_NUMEL)) {
      return "padding is out of range";
    }
    d[k] = plus(job, plus(job, in.at[k], lo), hi);
  }
  return checked(job, *out);
}

static const char *shrink(Job *job, Ints in, Ints arg, Ints *out) {
  if (arg.n != 2 * in.n) return "shrinking has two numbers per axis";
  int64_t *d = new_shape(job, out, in.n);
  for (uint32_t k = 0; k < in.n; k++) {
    int64_t begin = arg.at[2 * k], end = arg.at[2 * k + 1];
    if (!le(job, 0, begin) || !le(job, begin, end) || !le(job, end, in.at[k])) {
      return arena_printf(&job->arena, "[%s, %s) is not inside axis %u of size %s",
                          dim_text(job, begin), dim_text(job, end), k, dim_text(job, in.at[k]));
    }
    d[k] = minus(job, end, begin);
    dim_mark_size(d[k]);
  }
  return NULL;
}

static const char *axes(Ints in, Ints arg) {
  uint64_t seen = 0;
  for (uint32_t k = 0; k < arg.n; k++) {
    int64_t axis = arg.at[k];
    if (axis < 0 || axis >= in.n || seen >> axis & 1) return "an axis is out of range or repeated";
    seen |= (uint64_t)1 << axis;
  }
  return NULL;
}

/* How many times a window that covers `reach` elements after its first fits into n. */
static int64_t positions(Job *job, int64_t n, int64_t reach, int64_t stride) {
  if (dim_is_static(n)) return (n - reach - 1) / stride + 1;
  return dim_add(job, dim_floordiv(job, dim_sub(job, n, reach + 1), stride), 1);
}

static const char *window(Job *job, Ints in, Ints arg, Ints *out) {
  if (arg.n != 4) return "a window has axis, size, stride, dilation";
  int64_t axis = arg.at[0], size = arg.at[1], stride = arg.at[2], dilation = arg.at[3];
  if (axis < 0 || axis >= in.n) return "the window's axis is out of range";
  if (size < 1 || stride < 1 || dilation < 1) {
    return "a window's size, stride and dilation are at least 1";
  }
  int64_t reach;
  if (__builtin_mul_overflow(size - 1, dilation, &reach) || !le(job, reach, MAX_NUMEL) ||
      !le(job, reach + 1, in.at[axis])) {
    return "the window is larger than its axis";
  }
  int64_t *d = new_shape(job, out, in.n + 1);
  for (uint32_t k = 0, o = 0; k < in.n; k++) {
    int64_t n = in.at[k];
    d[o++] = k == axis ? positions(job, n, reach, stride) : n;
    if (k == axis) d[o++] = size;
  }
  return checked(job, *out);
}

static const char *cat(Job *job, int64_t axis, UOp *const *src, size_t nsrc, Ints *out) {
  Ints first = src[0]->shape;
  if (axis < 0 || axis >= first.n) return "the axis is out of range";
  int64_t *d = new_shape(job, out, first.n);
  memcpy(d, first.at, first.n * sizeof *d);
  for (size_t s = 1; s < nsrc; s++) {
    Ints in = src[s]->shape;
    bool ok = in.n == first.n;
    for (uint32_t k = 0; ok && k < in.n; k++) ok = k == axis || in.at[k] == first.at[k];
    if (!ok) {
      return arena_printf(&job->arena, "%s does not join %s along axis %lld", describe(job, in),
                          describe(job, first), (long long)axis);
    }
    if (!both_static(d[axis], in.at[axis])) {
      d[axis] = dim_add(job, d[axis], in.at[axis]);
    } else if (__builtin_add_overflow(d[axis], in.at[axis], &d[axis])) {
      return "the result is too large";
    }
  }
  return checked(job, *out);
}

static const char *gather(Job *job, int64_t axis, Ints in, Ints index, Ints *out) {
  if (axis < 0 || axis >= in.n) return "the axis is out of range";
  int64_t *d = new_shape(job, out, in.n - 1 + index.n);
  uint32_t o = 0;
  for (uint32_t k = 0; k < (uint32_t)axis; k++) d[o++] = in.at[k];
  for (uint32_t k = 0; k < index.n; k++) d[o++] = index.at[k];
  for (uint32_t k = (uint32_t)axis + 1; k < in.n; k++) d[o++] = in.at[k];
  return checked(job, *out);
}

/* Updates may be fewer than the data along the other axes; what proves it is that they are equal or
 * their bounds. */
static const char *scatter(Job *job, int64_t axis, Ints in, Ints index, Ints update, Ints *out) {
  *out = in;
  bool ok = axis >= 0 && axis < in.n && index.n == in.n && update.n == in.n;
  for (uint32_t k = 0; ok && k < in.n; k++) {
    bool one = k != axis && index.at[k] == 1;
    ok = (one || index.at[k] == update.at[k]) &&
         (k == axis || update.at[k] == in.at[k] || le(job, update.at[k], in.at[k]));
  }
  if (ok) return NULL;
  return arena_printf(&job->arena, "indices %s and updates %s do not fit %s along axis %lld",
                      describe(job, index), describe(job, update), describe(job, in),
                      (long long)axis);
}

static const char *reduce(Job *job, Ints in, Ints arg, Ints *out) {
  const char *why = axes(in, arg);
  if (why) return why;
  int64_t *d = new_shape(job, out, in.n);
  if (in.n) memcpy(d, in.at, in.n * sizeof *d);
  for (uint32_t k = 0; k < arg.n; k++) d[arg.at[k]] = 1;
  return NULL;
}

static const char *alu(Job *job, UOp *const *src, size_t nsrc, Ints *out) {
  for (size_t s = 0; s < nsrc; s++) {
    Ints in = src[s]->shape;
    if (!in.n) continue;
    if (out->n && !shape_eq(*out, in)) {
      return arena_printf(&job->arena, "shapes %s and %s differ", describe(job, *out),
                          describe(job, in));
    }
    *out = in;
  }
  return NULL;
}

const char *shape_infer(Job *job, Op op, Arg arg, UOp *const *src, size_t nsrc, Ints *out) {
  *out = (Ints){0};
  if (op_info[op].flags & OPF_ALU) return alu(job, src, nsrc, out);
  Ints in = nsrc ? src[0]->shape : (Ints){0};
  switch (op) {
  case OP_PARAM: *out = arg.ints; return checked_as(job, arg.ints, true);
  case OP_IOTA:
    *out = arg.ints;
    if (arg.i < 0 || arg.i >= arg.ints.n) return "the axis is out of range";
    return checked(job, arg.ints);
  case OP_RESHAPE: return reshape(job, in, arg.ints, out);
  case OP_PERMUTE: return permute(job, in, arg.ints, out);
  case OP_EXPAND: return expand(job, in, arg.ints, out);
  case OP_PAD: return src[1]->shape.n ? "the fill value has a rank" : pad(job, in, arg.ints, out);
  case OP_SHRINK: return shrink(job, in, arg.ints, out);
  case OP_FLIP: *out = in; return axes(in, arg.ints);
  case OP_WINDOW: return window(job, in, arg.ints, out);
  case OP_CAT: return cat(job, arg.i, src, nsrc, out);
  case OP_GATHER: return gather(job, arg.i, in, src[1]->shape, out);
  case OP_SCATTER: return scatter(job, arg.ints.at[0], in, src[1]->shape, src[2]->shape, out);
  case OP_SCAN: *out = in; return axes(in, arg.ints);
  case OP_REDUCE: return nsrc == 1 ? reduce(job, in, arg.ints, out) : NULL;
  case OP_CONTIGUOUS:
  case OP_AFTER: *out = in; return NULL;
  case OP_STORE:
    return nsrc == 2 && !shape_eq(in, src[1]->shape) ? "the value's shape is not the parameter's"
                                                     : NULL;
  case OP_LOOP:
    return src[1]->shape.n || src[2]->shape.n ? "the count or condition has a rank" : NULL;
  case OP_BIND: return src[1]->shape.n ? "the value has a rank" : NULL;
  default: return NULL;
  }
}
