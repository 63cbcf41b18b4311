/* Convolutions. Attribute checking is here; the arithmetic is in build_nn.c. */
#include "compiler/frontend/onnx_spatial.h"

#include <assert.h>

void spatial_ints(Node *n, const char *name, size_t count, int64_t lo, int64_t absent,
                  int64_t *out) {
  Ints v = attr_ints(n, name);
  assert(v.at || !v.n);
  if (v.at && v.n && v.n != count)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' has %u elements, expected %zu", name,
                           v.n, count));
  for (size_t i = 0; i < count; i++) {
    out[i] = v.n ? v.at[i] : absent;
    if (out[i] < lo || out[i] > INT32_MAX)
      job_abort(n->job,
                FAIL(INVALID_ARGUMENT, "attribute '%s' holds %lld", name, (long long)out[i]));
  }
}

static void same_pads(Job *job, Spatial *s, size_t i, int64_t d, bool upper) {
  ConvSpec *c = &s->conv;
  int64_t reach = c->dilation[i] * (s->kernel[i] - 1) + 1;
  int64_t out = dim_ceildiv(job, d, c->stride[i]);
  int64_t span = dim_add(job, dim_mul(job, dim_sub(job, out, 1), c->stride[i]), reach);
  int64_t total = dim_max(job, dim_sub(job, span, d), 0);
  int64_t half = dim_floordiv(job, total, 2);
  c->lo[i] = upper ? half : dim_sub(job, total, half);
  c->hi[i] = dim_sub(job, total, c->lo[i]);
}

/* With ceil, one more window that starts inside the input or its low padding, when there is one: hi
 * grows to make it whole. extra: how much, 0 in the runs that have no such window. */
static void ceil_window(Job *job, Spatial *s, size_t i, int64_t d, int64_t span) {
  ConvSpec *c = &s->conv;
  int64_t stride = c->stride[i],
          rest = dim_sub(job, span, dim_mul(job, dim_floordiv(job, span, stride), stride));
  int64_t start = dim_mul(job, s->out[i], stride), room = dim_add(job, d, c->lo[i]);
  if (dim_high(rest) <= 0 || dim_le(job, room, start)) return;
  int64_t more = dim_min(job, rest, 1);
  if (!dim_le(job, dim_add(job, start, 1), room)) /* 1 where start < room */
    more = dim_mul(job, more, dim_max(job, dim_min(job, dim_sub(job, room, start), 1), 0));
  c->hi[i] = dim_add(job, c->hi[i], dim_mul(job, more, dim_sub(job, stride, rest)));
  s->out[i] = dim_add(job, s->out[i], more);
}

/* Whole windows. An axis that is too short in some runs makes those fail. */
static void output_size(Node *n, Spatial *s, size_t i, int64_t d, bool ceil) {
  Job *job = n->job;
  ConvSpec *c = &s->conv;
  int64_t reach = c->dilation[i] * (s->kernel[i] - 1) + 1;
  int64_t padded = dim_add(job, d, dim_add(job, c->lo[i], c->hi[i]));
  int64_t span = dim_sub(job, padded, reach);
  if (dim_high(span) < 0)
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "window of %lld elements over %s elements of spatial axis %zu, padding "
                        "included",
                        (long long)reach, dim_text(job, padded), i));
  if (dim_low(span) < 0) span = dim_max(job, span, 0);
  s->pad_hi[i] = c->hi[i];
  s->out[i] = dim_add(job, dim_floordiv(job, span, c->stride[i]), 1);
  if (ceil) ceil_window(job, s, i, d, span);
}

Spatial spatial_attrs(Node *n, const UOp *x, Ints kernel) {
  Spatial s = {.conv = {.spatial = kernel.n, .groups = 1}};
  ConvSpec *c = &s.conv;
  int64_t pads[2 * MAX_SPATIAL];
  Str auto_pad = attr_str(n, "auto_pad", "NOTSET");
  bool ceil = attr_int(n, "ceil_mode", 0) != 0;
  if (kernel.n < 1 || kernel.n > MAX_SPATIAL || x->shape.n != kernel.n + 2)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "kernel %s over a source of shape %s",
                           shape_text(n->job, kernel), shape_text(n->job, x->shape)));
  spatial_ints(n, "strides", kernel.n, 1, 1, c->stride);
  spatial_ints(n, "dilations", kernel.n, 1, 1, c->dilation);
  spatial_ints(n, "pads", 2 * (size_t)kernel.n, INT32_MIN, 0, pads);
  bool upper = str_is(auto_pad, "SAME_UPPER"), lower = str_is(auto_pad, "SAME_LOWER");
  if (!upper && !lower && !str_is(auto_pad, "NOTSET") && !str_is(auto_pad, "VALID") && auto_pad.len)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "auto_pad '" STR_FMT "'", STR_ARG(auto_pad)));
  for (size_t i = 0; i < kernel.n; i++) {
    s.kernel[i] = front_static(n->job, kernel.at[i], "the size of the kernel");
    if (kernel.at[i] < 1 || kernel.at[i] > INT32_MAX)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "kernel %s", shape_text(n->job, kernel)));
    bool own = !str_is(auto_pad, "VALID");
    c->lo[i] = own ? pads[i] : 0;
    c->hi[i] = own ? pads[kernel.n + i] : 0;
    if (upper || lower) same_pads(n->job, &s, i, x->shape.at[2 + i], upper);
    output_size(n, &s, i, x->shape.at[2 + i], ceil);
  }
  return s;
}

static Ints conv_kernel(Node *n, const UOp *x, const UOp *w) {
  if (w->shape.n != x->shape.n || w->shape.n < 3)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "weights of shape %s for a source of shape %s",
                           shape_text(n->job, w->shape), shape_text(n->job, x->shape)));
  Ints kernel = {w->shape.at + 2, w->shape.n - 2}, given = attr_ints(n, "kernel_shape");
  for (uint32_t i = 0; i < kernel.n; i++)
    front_static(n->job, kernel.at[i], "the size of the kernel");
  if (given.n && !shape_eq(kernel, given))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "kernel_shape %s, but the weights have %s",
                           shape_text(n->job, given), shape_text(n->job, kernel)));
  return kernel;
}

UOp *spatial_conv(Node *n, UOp *x, UOp *w, UOp *bias) {
  Spatial s = spatial_attrs(n, x, conv_kernel(n, x, w));
  s.conv.groups = attr_int(n, "group", 1);
  return build_conv(n->job, x, w, bias, &s.conv);
}

static void op_conv(Node *n) {
  node_out(n, 0, spatial_conv(n, node_u(n, 0), node_u(n, 1), node_opt(n, 2)));
}

/* Integer convolution: i32 arithmetic on (x - x_zero) and (w - w_zero). */
static void op_conv_integer(Node *n) {
  UOp *x = node_u(n, 0), *w = node_u(n, 1), *wz = node_opt(n, 3);
  Spatial s = spatial_attrs(n, x, conv_kernel(n, x, w));
  s.conv.groups = attr_int(n, "group", 1);
  if (wz && wz->shape.n) wz = build_along(n->job, wz, 0, w->shape.n);
  x = node_centred(n, x, node_opt(n, 2));
  node_out(n, 0, build_conv(n->job, x, node_centred(n, w, wz), NULL, &s.conv));
}

/* Padding of the transposed convolution: what is cut from the full result. output_shape wins over
 * pads; output_padding adds at the high end. */
static void transpose_pads(Node *n, const UOp *x, ConvSpec *c, const int64_t *kernel) {
  Job *job = n->job;
  int64_t pads[2 * MAX_SPATIAL], extra[MAX_SPATIAL], shape[MAX_SPATIAL];
  size_t k = c->spatial;
  Str auto_pad = attr_str(n, "auto_pad", "NOTSET");
  spatial_ints(n, "pads", 2 * k, 0, 0, pads);
  spatial_ints(n, "output_padding", k, 0, 0, extra);
  spatial_ints(n, "output_shape", k, 0, 0, shape);
  bool sized = attr_ints(n, "output_shape").n > 0;
  bool upper = str_is(auto_pad, "SAME_UPPER"), lower = str_is(auto_pad, "SAME_LOWER");
  for (size_t i = 0; i < k; i++) {
    int64_t d = x->shape.at[2 + i];
    int64_t reach =
        c->dilation[i] * (front_static(job, kernel[i], "the size of the kernel") - 1) + 1;
    int64_t full = dim_add(job, dim_mul(job, dim_sub(job, d, 1), c->stride[i]), reach);
    c->lo[i] = pads[i];
    c->hi[i] = pads[k + i] - extra[i];
    if (!sized && !upper && !lower) continue;
    int64_t want = sized ? shape[i] : dim_mul(job, d, c->stride[i]);
    int64_t total = dim_sub(job, dim_add(job, full, extra[i]), want);
    int64_t cut = dim_low(total) < 0 ? dim_max(job, total, 0) : total;
    int64_t half = dim_floordiv(job, cut, 2);
    c->lo[i] = upper ? half : dim_sub(job, cut, half);
    c->hi[i] = dim_sub(job, dim_sub(job, total, c->lo[i]), extra[i]);
  }
}

static void op_conv_transpose(Node *n) {
  UOp *x = node_u(n, 0), *w = node_u(n, 1);
  Ints kernel = conv_kernel(n, x, w);
  if (kernel.n > MAX_SPATIAL)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%u spatial axes", kernel.n));
  ConvSpec c = {.spatial = kernel.n, .groups = attr_int(n, "group", 1)};
  spatial_ints(n, "strides", kernel.n, 1, 1, c.stride);
  spatial_ints(n, "dilations", kernel.n, 1, 1, c.dilation);
  transpose_pads(n, x, &c, kernel.at);
  node_out(n, 0, build_conv_transpose(n->job, x, w, node_opt(n, 2), &c));
}

const OnnxOp onnx_conv_ops[] = {
    {"", "Conv", 1, 2, 3, op_conv},
    {"", "ConvInteger", 10, 2, 4, op_conv_integer},
    {"", "ConvTranspose", 1, 2, 3, op_conv_transpose},
    {0},
};
