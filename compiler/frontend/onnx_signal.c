/* Signals: window functions, Mel filters, Fourier transforms. A transform is a product with a
 * matrix of cosines and one of sines, made here in f64; exact, and as fast as a matrix product,
 * which bounds the length that is accepted. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

static const double PI = 3.14159265358979323846;
enum { MAX_WINDOW = 1 << 24, MAX_DFT = 4096 };

/* c0 + c1 cos(2 pi k / m) + c2 cos(4 pi k / m) */
static void window(Node *n, double c0, double c1, double c2) {
  int64_t size = node_int(n, 0, "size");
  DType d = onnx_dtype(n->job, attr_int(n, "output_datatype", ONNX_FLOAT));
  if (size < 0 || size > MAX_WINDOW)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "size %lld", (long long)size));
  double m = (double)(attr_int(n, "periodic", 1) ? size : size - 1);
  double *w = arena_array(&n->job->arena, (size_t)size + 1, sizeof *w);
  for (int64_t k = 0; k < size; k++) {
    double a = 2 * PI * (double)k / m;
    w[k] = c0 + c1 * cos(a) + c2 * cos(2 * a);
  }
  UOp *u = val_uop(n->f, val_from_data(n->f, DT_F64, shape_make(&size, 1), w));
  node_out(n, 0, build_cast(n->job, u, d));
}
static void op_hann(Node *n) { window(n, 0.5, -0.5, 0); }
static void op_hamming(Node *n) { window(n, 25.0 / 46, -21.0 / 46, 0); }
static void op_blackman(Node *n) { window(n, 0.42, -0.5, 0.08); }

/* Triangles between neighbouring centres that are equidistant on the mel scale. */
static void op_mel(Node *n) {
  int64_t bins = node_int(n, 0, "num_mel_bins"), length = node_int(n, 1, "dft_length");
  double rate = node_float(n, 2, "sample_rate"), low = node_float(n, 3, "lower_edge_hertz");
  double high = node_float(n, 4, "upper_edge_hertz");
  if (bins < 1 || bins > 1 << 12 || length < 1 || length > 1 << 20 || !(rate > 0) || !(low >= 0))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%lld bins, DFT length %lld", (long long)bins,
                           (long long)length));
  int64_t rows = length / 2 + 1;
  int64_t *centre = arena_array(&n->job->arena, (size_t)bins + 2, sizeof *centre);
  double from = 2595 * log10(1 + low / 700), to = 2595 * log10(1 + high / 700);
  for (int64_t i = 0; i < bins + 2; i++) {
    double mel = from + (double)i * (to - from) / (double)(bins + 2);
    double at = floor((double)(length + 1) * 700 * (pow(10, mel / 2595) - 1) / rate);
    centre[i] = at >= 0 && at < (double)rows ? (int64_t)at : rows - 1;
  }
  double *w = arena_array(&n->job->arena, (size_t)(rows * bins), sizeof *w);
  for (int64_t i = 0; i < bins; i++) {
    int64_t a = centre[i], b = centre[i + 1], c = centre[i + 2];
    for (int64_t j = a; j <= b; j++)
      w[j * bins + i] = b == a ? 1 : (double)(j - a) / (double)(b - a);
    for (int64_t j = b; j < c; j++) w[j * bins + i] = (double)(c - j) / (double)(c - b);
  }
  Ints shape = {(int64_t[]){rows, bins}, 2};
  UOp *u = val_uop(n->f, val_from_data(n->f, DT_F64, shape, w));
  DType d = onnx_dtype(n->job, attr_int(n, "output_datatype", ONNX_FLOAT));
  node_out(n, 0, build_cast(n->job, u, d));
}

/* -- Fourier --------------------------------------------------------------------------------- */

/* in x out matrix of weight(k) * f(2 pi i k / length). */
static UOp *basis(Node *n, int64_t in, int64_t out, int64_t length, bool sine, bool half) {
  double *m = arena_array(&n->job->arena, (size_t)(in * out) + 1, sizeof *m);
  for (int64_t i = 0; i < in; i++) {
    double w = half && i > 0 && 2 * i != length ? 2 : 1;
    for (int64_t k = 0; k < out; k++) {
      double a = 2 * PI * (double)(i * k % length) / (double)length;
      m[i * out + k] = w * (sine ? sin(a) : cos(a));
    }
  }
  Ints shape = {(int64_t[]){in, out}, 2};
  return val_uop(n->f, val_from_data(n->f, DT_F64, shape, m));
}

typedef struct Dft {
  int64_t length;
  bool inverse, onesided;
} Dft;

/* x [..., time, 1 or 2] along its last but one axis. Sums of many terms of both signs: in f64. */
static UOp *transform(Node *n, UOp *x, const Dft *t) {
  Job *job = n->job;
  uint32_t r = x->shape.n;
  DType d = uop_dtype(x);
  bool complex = x->shape.at[r - 1] == 2, real_out = t->inverse && t->onesided;
  int64_t have = x->shape.at[r - 2], bins = t->length / 2 + 1;
  int64_t in = real_out ? bins : t->length;
  int64_t out = t->onesided && !t->inverse ? bins : t->length;
  if (t->length < 1 || t->length > MAX_DFT || !dtype_is_float(d) ||
      (x->shape.at[r - 1] != 1 && !complex))
    job_abort(job,
              FAIL(INVALID_ARGUMENT, "DFT of length %lld (at most %d) over %s of shape %s",
                   (long long)t->length, MAX_DFT, dtype_info[d].name, shape_text(job, x->shape)));
  if (in > have) in = have;
  x = build_cast(job, build_slice(job, x, r - 2, 0, in, 1), DT_F64);
  UOp *re = build_squeeze(job, build_slice(job, x, r - 1, 0, 1, 1), r - 1);
  UOp *im = complex ? build_squeeze(job, build_slice(job, x, r - 1, 1, 1, 1), r - 1) : NULL;
  UOp *c = basis(n, in, out, t->length, false, real_out);
  UOp *s = basis(n, in, out, t->length, true, real_out);
  if (!t->inverse) s = build1(job, OP_NEG, s);
  /* (re + i im)(c + i s) */
  UOp *yr = build_matmul(job, re, c), *yi = build_matmul(job, re, s);
  if (im) {
    yr = build2(job, OP_SUB, yr, build_matmul(job, im, s));
    yi = build2(job, OP_ADD, yi, build_matmul(job, im, c));
  }
  UOp *parts[2] = {build_unsqueeze(job, yr, r - 1), build_unsqueeze(job, yi, r - 1)};
  UOp *y = real_out ? parts[0] : build_cat(job, parts, 2, r - 1);
  if (t->inverse) y = build2(job, OP_MUL, y, build_num(job, y, 1 / (double)t->length));
  return build_cast(job, y, d);
}

static void op_dft(Node *n) {
  UOp *x = node_u(n, 0);
  uint32_t r = x->shape.n;
  int64_t at = n->opset < 20    ? attr_int(n, "axis", 1)
               : node_has(n, 2) ? node_int(n, 2, "axis")
                                : -2;
  size_t axis = axis_check(n->job, at, r);
  Dft t = {.inverse = attr_int(n, "inverse", 0) != 0, .onesided = attr_int(n, "onesided", 0) != 0};
  if (r < 2 || axis == r - 1)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "axis %zu of shape %s", axis, shape_text(n->job, x->shape)));
  int64_t d = x->shape.at[axis];
  t.length = node_has(n, 1)            ? node_int(n, 1, "dft_length")
             : t.inverse && t.onesided ? 2 * (d - 1)
                                       : d;
  x = build_transpose(n->job, x, axis, r - 2);
  node_out(n, 0, build_transpose(n->job, transform(n, x, &t), axis, r - 2));
}

static void op_stft(Node *n) {
  UOp *x = node_u(n, 0), *w = node_opt(n, 2);
  if (x->shape.n == 2) x = build_unsqueeze(n->job, x, 2);
  if (x->shape.n != 3 || (w && w->shape.n != 1))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "signal of shape %s", shape_text(n->job, x->shape)));
  int64_t step = node_int(n, 1, "frame_step"), length = w ? w->shape.at[0] : x->shape.at[1];
  if (node_has(n, 3)) length = node_int(n, 3, "frame_length");
  Dft t = {.length = length, .onesided = attr_int(n, "onesided", 1) != 0};
  UOp *frames = build_window(n->job, x, 1, length, step, 1);
  if (w) frames = build2(n->job, OP_MUL, frames, build_along(n->job, w, 2, 4));
  node_out(n, 0, transform(n, frames, &t));
}

const OnnxOp onnx_signal_ops[] = {
    {"", "HannWindow", 17, 1, 1, op_hann},
    {"", "HammingWindow", 17, 1, 1, op_hamming},
    {"", "BlackmanWindow", 17, 1, 1, op_blackman},
    {"", "MelWeightMatrix", 17, 5, 5, op_mel},
    {"", "DFT", 17, 1, 3, op_dft},
    {"", "STFT", 17, 2, 4, op_stft},
    {0},
};
