/* RNN, GRU and LSTM, unrolled over time or, when the steps are many or only the run knows how many,
 * as a loop whose locals are the states and the results of all steps. The products with W of all
 * steps are one matrix product; what remains in each step is the product with R and the gates. With
 * sequence_lens a step beyond a row's length leaves that row's state and gives 0. */
#include <assert.h>
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_loop.h"
#include "compiler/frontend/onnx_quant.h"

enum { UNROLLED = 64, MAX_ACTS = 3 };

typedef struct Rnn Rnn;
typedef UOp *(*ActFn)(Rnn *r, UOp *x, double alpha, double beta);

/* What a model's list calls it, and how many numbers it takes from the lists beside. */
typedef struct ActInfo {
  const char *name;
  ActFn fn;
  bool has_alpha, has_beta;
  double alpha, beta; /* where those lists are too short */
} ActInfo;

typedef struct Act {
  const ActInfo *info;
  double alpha, beta;
} Act;

/* One step: xw [B, gates * H] is X W' + Wb; reads and writes h and c. */
typedef void (*Step)(Rnn *r, UOp *xw);

/* [inputs, gates * hidden]; of quantised ones scale and zero, one number or one per column. */
typedef struct Weights {
  UOp *m, *scale, *zero;
} Weights;

struct Rnn {
  Node *n;
  Job *job;
  int64_t gates, nacts, hidden, dirs;
  int64_t steps, batch; /* dims */
  UOp *x, *lens;
  Step step;
  /* of the direction at hand: */
  Weights w, rt;    /* of inputs, of states: R transposed */
  UOp *wb, *rb, *p; /* may be NULL */
  UOp *h, *c;
  Act acts[MAX_ACTS];
};

static UOp *add(Rnn *r, UOp *a, UOp *b) { return b ? build2(r->job, OP_ADD, a, b) : a; }
static UOp *mul(Rnn *r, UOp *a, UOp *b) { return build2(r->job, OP_MUL, a, b); }

/* -- activations ------------------------------------------------------------------------------- */

static UOp *scaled(Rnn *r, UOp *x, double by, double plus) {
  if (by != 1) x = mul(r, x, build_num(r->job, x, by));
  return plus != 0 ? add(r, x, build_num(r->job, x, plus)) : x;
}
static UOp *above(Rnn *r, UOp *x, double least) {
  return build2(r->job, OP_MAX, x, build_num(r->job, x, least));
}
static UOp *is_less(Rnn *r, UOp *x, double than) {
  return build2(r->job, OP_CMPLT, x, build_num(r->job, x, than));
}
static UOp *less_one(Rnn *r, UOp *x) { /* e^x - 1, for x <= 0 */
  return scaled(r, build1(r->job, OP_EXP, x), 1, -1);
}

static UOp *act_sigmoid(Rnn *r, UOp *x, double a, double b) {
  return (void)a, (void)b, build_sigmoid(r->job, x);
}
static UOp *act_tanh(Rnn *r, UOp *x, double a, double b) {
  return (void)a, (void)b, build1(r->job, OP_TANH, x);
}
static UOp *act_relu(Rnn *r, UOp *x, double a, double b) {
  return (void)a, (void)b, above(r, x, 0);
}
static UOp *act_affine(Rnn *r, UOp *x, double a, double b) { return scaled(r, x, a, b); }
static UOp *act_scaled_tanh(Rnn *r, UOp *x, double a, double b) {
  return scaled(r, build1(r->job, OP_TANH, scaled(r, x, b, 0)), a, 0);
}
static UOp *act_hard_sigmoid(Rnn *r, UOp *x, double a, double b) {
  x = above(r, scaled(r, x, a, b), 0);
  return build2(r->job, OP_MIN, x, build_num(r->job, x, 1));
}
static UOp *act_leaky_relu(Rnn *r, UOp *x, double a, double b) {
  (void)b;
  return build_where(r->job, is_less(r, x, 0), scaled(r, x, a, 0), x);
}
static UOp *act_thresholded_relu(Rnn *r, UOp *x, double a, double b) {
  (void)b;
  UOp *beyond = build2(r->job, OP_CMPLT, build_num(r->job, x, a), x);
  return build_where(r->job, beyond, x, build_num(r->job, x, 0));
}
static UOp *act_elu(Rnn *r, UOp *x, double a, double b) {
  (void)b;
  UOp *low = build2(r->job, OP_MIN, x, build_num(r->job, x, 0));
  return build_where(r->job, is_less(r, x, 0), scaled(r, less_one(r, low), a, 0), x);
}
static UOp *act_softsign(Rnn *r, UOp *x, double a, double b) {
  (void)a, (void)b;
  return build2(r->job, OP_FDIV, x, scaled(r, build1(r->job, OP_ABS, x), 1, 1));
}
static UOp *act_softplus(Rnn *r, UOp *x, double a, double b) { /* max(x, 0) + log(1 + e^-|x|) */
  (void)a, (void)b;
  UOp *e = build1(r->job, OP_EXP, scaled(r, build1(r->job, OP_ABS, x), -1, 0));
  return add(r, above(r, x, 0), build1(r->job, OP_LOG, scaled(r, e, 1, 1)));
}

static const ActInfo activations[] = {
    {"Sigmoid", act_sigmoid, false, false, 0, 0},
    {"Tanh", act_tanh, false, false, 0, 0},
    {"Relu", act_relu, false, false, 0, 0},
    {"Softsign", act_softsign, false, false, 0, 0},
    {"Softplus", act_softplus, false, false, 0, 0},
    {"Affine", act_affine, true, true, 1, 0},
    {"ScaledTanh", act_scaled_tanh, true, true, 1, 1},
    {"HardSigmoid", act_hard_sigmoid, true, true, 0.2, 0.5},
    {"LeakyRelu", act_leaky_relu, true, false, 0.01, 0},
    {"ThresholdedRelu", act_thresholded_relu, true, false, 1, 0},
    {"Elu", act_elu, true, false, 1, 0},
};

static const ActInfo *find_activation(Rnn *r, Str name) {
  for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
    if (str_is(name, activations[i].name)) return &activations[i];
  job_abort(r->job, FAIL(INVALID_ARGUMENT, "there is no activation '" STR_FMT "'", STR_ARG(name)));
}

static UOp *activate(Rnn *r, int k, UOp *x) {
  const Act *a = &r->acts[k];
  double clip = attr_float(r->n, "clip", 0);
  if (clip > 0) {
    x = build2(r->job, OP_MIN, x, build_num(r->job, x, clip));
    x = build2(r->job, OP_MAX, x, build_num(r->job, x, -clip));
  }
  return a->info->fn(r, x, a->alpha, a->beta);
}

/* -- steps ------------------------------------------------------------------------------------- */

/* What is multiplied with quantised weights is quantised itself, by its own range, as a whole. */
static UOp *times(Rnn *r, UOp *x, const Weights *w) {
  UOp *scale, *point;
  if (!w->scale) return build_matmul(r->job, x, w->m);
  UOp *a = quant_dynamic(r->n, x, &scale, &point);
  a = node_centred(r->n, a, point);
  UOp *y = build_matmul(r->job, a, node_centred(r->n, w->m, w->zero));
  return mul(r, mul(r, build_cast(r->job, y, DT_F32), scale), w->scale);
}

/* Columns of gate k. */
static UOp *gate(Rnn *r, UOp *x, int64_t k) {
  return build_slice(r->job, x, x->shape.n - 1, k * r->hidden, r->hidden, 1);
}

static void rnn_step(Rnn *r, UOp *xw) {
  r->h = activate(r, 0, add(r, add(r, xw, times(r, r->h, &r->rt)), r->rb));
}

/* Gates z, r, h. */
static void gru_step(Rnn *r, UOp *xw) {
  UOp *hr = times(r, r->h, &r->rt), *one = build_num(r->job, xw, 1);
  UOp *hb = add(r, hr, r->rb);
  UOp *z = activate(r, 0, add(r, gate(r, xw, 0), gate(r, hb, 0)));
  UOp *s = activate(r, 0, add(r, gate(r, xw, 1), gate(r, hb, 1)));
  UOp *inner;
  if (attr_int(r->n, "linear_before_reset", 0)) {
    inner = mul(r, s, gate(r, hb, 2));
  } else {
    inner = build_matmul(r->job, mul(r, s, r->h), gate(r, r->rt.m, 2));
    if (r->rb) inner = add(r, inner, gate(r, r->rb, 2));
  }
  UOp *g = activate(r, 1, add(r, gate(r, xw, 2), inner));
  r->h = add(r, mul(r, build2(r->job, OP_SUB, one, z), g), mul(r, z, r->h));
}

/* Gates i, o, f, c; peepholes P in the order i, o, f. */
static void lstm_step(Rnn *r, UOp *xw) {
  UOp *g = add(r, add(r, xw, times(r, r->h, &r->rt)), r->rb);
  UOp *gi = gate(r, g, 0), *go = gate(r, g, 1), *gf = gate(r, g, 2), *one = build_num(r->job, g, 1);
  if (r->p) {
    gi = add(r, gi, mul(r, gate(r, r->p, 0), r->c));
    gf = add(r, gf, mul(r, gate(r, r->p, 2), r->c));
  }
  UOp *i = activate(r, 0, gi), *f = activate(r, 0, gf);
  if (attr_int(r->n, "input_forget", 0)) f = build2(r->job, OP_SUB, one, i);
  r->c = add(r, mul(r, f, r->c), mul(r, i, activate(r, 1, gate(r, g, 3))));
  if (r->p) go = add(r, go, mul(r, gate(r, r->p, 1), r->c));
  r->h = mul(r, activate(r, 0, go), activate(r, 2, r->c));
}

static void read_activations(Rnn *r, int64_t dir) {
  static const char *const usual[] = {"Sigmoid", "Tanh", "Tanh"};
  const OnnxAttribute *names = attr_find(r->n, "activations", ONNX_ATTR_STRINGS);
  const OnnxAttribute *alpha = attr_find(r->n, "activation_alpha", ONNX_ATTR_FLOATS);
  const OnnxAttribute *beta = attr_find(r->n, "activation_beta", ONNX_ATTR_FLOATS);
  size_t nalpha = 0, nbeta = 0;
  assert(r->nacts <= MAX_ACTS);
  /* An activation takes what it needs from where the ones before it, of all directions, ended. */
  for (int64_t at = 0; at < (dir + 1) * r->nacts; at++) {
    int64_t k = at % r->nacts;
    Str name = str_from(usual[r->nacts == 1 ? 1 : k]);
    if (names && (size_t)at < names->strings.n) name = names->strings.at[at];
    const ActInfo *info = find_activation(r, name);
    Act *act = &r->acts[k];
    *act = (Act){info, info->alpha, info->beta};
    if (info->has_alpha && alpha && nalpha < alpha->floats.n)
      act->alpha = (double)alpha->floats.at[nalpha++];
    if (info->has_beta && beta && nbeta < beta->floats.n)
      act->beta = (double)beta->floats.at[nbeta++];
  }
}

/* -- sources ----------------------------------------------------------------------------------- */

/* Part `dir` of a source whose first axis is the direction. */
static UOp *of_dir(Rnn *r, UOp *x, int64_t dir) {
  if (!x) return NULL;
  return build_squeeze(r->job, build_slice(r->job, x, 0, dir, 1, 1), 0);
}

/* x, which may be NULL, with that shape. */
static UOp *need_shape(Rnn *r, const char *what, UOp *x, const int64_t *dims, size_t n) {
  Ints want = shape_make(dims, n);
  bool ok = !x || x->shape.n == n;
  for (size_t i = 0; x && ok && i < n; i++) ok = build_may_equal(x->shape.at[i], dims[i]);
  if (!ok)
    job_abort(r->job, FAIL(INVALID_ARGUMENT, "%s of shape %s, expected %s", what,
                           shape_text(r->job, x->shape), shape_text(r->job, want)));
  for (size_t i = 0; x && i < n; i++) x = build_fit(r->job, x, i, dims[i]);
  return x;
}

/* The state of `axis0` rows, or zeros: [dirs, batch, hidden] in the model's layout. */
static UOp *initial(Rnn *r, size_t k, bool batch_first) {
  UOp *s = node_opt(r->n, k);
  const int64_t dims[3] = {r->dirs, r->batch, r->hidden};
  if (s && batch_first && s->shape.n == 3) s = build_transpose(r->job, s, 0, 1);
  s = need_shape(r, "initial state", s, dims, 3);
  return s ? s : build_splat(r->job, build_num(r->job, r->x, 0), shape_make(dims, 3));
}

/* After a step: a row beyond its length keeps its state and gives 0. */
static UOp *masked(Rnn *r, UOp *t, UOp *h, UOp *c) {
  if (!r->lens) return r->h;
  UOp *on = build2(r->job, OP_CMPLT, t, r->lens);
  UOp *y = build_where(r->job, on, r->h, build_num(r->job, r->h, 0));
  r->h = build_where(r->job, on, r->h, h);
  if (c) r->c = build_where(r->job, on, r->c, c);
  return y;
}

static UOp *stack(Rnn *r, UOp **xs, int64_t n, size_t axis) {
  for (int64_t i = 0; i < n; i++) xs[i] = build_unsqueeze(r->job, xs[i], axis);
  return build_cat(r->job, xs, (size_t)n, axis);
}

/* Both run one direction: xw [steps, batch, gates * hidden] to [steps, batch, hidden]. */
static UOp *run_unrolled(Rnn *r, UOp *xw, bool reverse) {
  Job *job = r->job;
  UOp **ys = arena_array(&job->arena, (size_t)r->steps, sizeof *ys);
  for (int64_t k = 0; k < r->steps; k++) {
    int64_t t = reverse ? r->steps - 1 - k : k;
    UOp *h = r->h, *c = r->c;
    job_poll(job);
    r->step(r, build_squeeze(job, build_slice(job, xw, 0, t, 1, 1), 0));
    ys[t] = masked(r, uop_int(job, DT_I64, t), h, c);
  }
  return stack(r, ys, r->steps, 0);
}

static UOp *run_looped(Rnn *r, UOp *xw, bool reverse) {
  Job *job = r->job;
  Front *f = r->n->f;
  UOp *src[8], *before[2] = {r->h, r->c}, *now[2] = {NULL, NULL};
  size_t n = 0;
  assert(r->h); /* given, or zeros */
  src[n++] = front_loop_var(f, dim_high(r->steps));
  src[n++] = build_size(job, r->steps);
  src[n++] = uop_int(job, DT_BOOL, 1);
  for (int k = 0; k < 2 && before[k]; k++) {
    UOp *local = front_local(f, uop_dtype(before[k]), before[k]->shape);
    src[n++] = uop2(job, OP_STORE, local, before[k]);
    now[k] = uop2(job, OP_AFTER, local, src[0]);
  }
  r->h = now[0], r->c = now[1];
  int64_t t = loop_place(job, src[0], r->steps, reverse);
  r->step(r, build_squeeze(job, loop_element(job, xw, 0, t), 0));
  UOp *y = masked(r, build_size(job, t), now[0], now[1]);
  const int64_t dims[3] = {r->steps, r->batch, r->hidden};
  UOp *all = front_local(f, uop_dtype(y), shape_make(dims, 3));
  UOp *row = loop_element(job, uop2(job, OP_AFTER, all, src[0]), 0, t);
  src[n++] = uop2(job, OP_STORE, row, build_unsqueeze(job, y, 0));
  src[n++] = uop2(job, OP_STORE, now[0], r->h);
  if (now[1]) src[n++] = uop2(job, OP_STORE, now[1], r->c);
  UOp *loop = uop_make(job, OP_LOOP, DT_VOID, arg_none(), src, n);
  r->h = uop2(job, OP_AFTER, now[0]->src[0], loop);
  if (now[1]) r->c = uop2(job, OP_AFTER, now[1]->src[0], loop);
  return uop2(job, OP_AFTER, all, loop);
}

static UOp *run_direction(Rnn *r, bool reverse) {
  UOp *xw = add(r, times(r, r->x, &r->w), r->wb);
  bool few = dim_is_static(r->steps) && r->steps <= UNROLLED;
  return few ? run_unrolled(r, xw, reverse) : run_looped(r, xw, reverse);
}

static void check_sources(Rnn *r, UOp **w, UOp **rec, UOp **b) {
  int64_t gh = r->gates * r->hidden;
  *w = need_shape(r, "W", *w, (const int64_t[]){r->dirs, gh, r->x->shape.at[2]}, 3);
  *rec = need_shape(r, "R", *rec, (const int64_t[]){r->dirs, gh, r->hidden}, 3);
  *b = need_shape(r, "B", *b, (const int64_t[]){r->dirs, 2 * gh}, 2);
  if (dim_low(r->steps) < 1)
    job_abort(r->job, FAIL(UNIMPLEMENTED, "%s time steps, expected at least 1",
                           dim_text(r->job, r->steps)));
}

/* scale: the source that is that of quantised weights, and its zero point the next one; or 0 */
static Weights read_weights(Rnn *r, UOp *from, int64_t dir, size_t scale) {
  Weights w = {.m = build_transpose(r->job, of_dir(r, from, dir), 0, 1)};
  if (!scale) return w;
  w.scale = of_dir(r, node_u(r->n, scale), dir);
  w.zero = of_dir(r, node_opt(r->n, scale + 1), dir);
  int64_t n = r->gates * r->hidden;
  if (w.scale->shape.n) w.scale = need_shape(r, "scale", w.scale, &n, 1);
  if (w.zero && w.zero->shape.n) w.zero = need_shape(r, "zero point", w.zero, &n, 1);
  return w;
}

static void recurrent(Node *n, int64_t gates, int64_t nacts, Step step, bool cell, bool quantised) {
  Job *job = n->job;
  UOp *w = node_u(n, 1), *rec = node_u(n, 2), *b = node_opt(n, 3), *x = node_u(n, 0);
  Str direction = attr_str(n, "direction", "forward");
  bool first = attr_int(n, "layout", 0) != 0, both = str_is(direction, "bidirectional");
  bool back = str_is(direction, "reverse");
  if (x->shape.n != 3 || w->shape.n != 3 || rec->shape.n != 3)
    job_abort(job, FAIL(INVALID_ARGUMENT, "X, W and R have shapes %s, %s and %s",
                        shape_text(job, x->shape), shape_text(job, w->shape),
                        shape_text(job, rec->shape)));
  if (!both && !back && !str_is(direction, "forward"))
    job_abort(job, FAIL(INVALID_ARGUMENT, "direction '" STR_FMT "'", STR_ARG(direction)));
  if (first) x = build_transpose(job, x, 0, 1);
  if (quantised) w = build_transpose(job, w, 1, 2), rec = build_transpose(job, rec, 1, 2);
  Rnn r = {.n = n, .job = job, .gates = gates, .nacts = nacts, .step = step, .x = x};
  r.hidden = front_static(job, rec->shape.at[2], "the size of the state");
  r.steps = x->shape.at[0];
  r.batch = x->shape.at[1];
  r.dirs = both ? 2 : 1;
  check_sources(&r, &w, &rec, &b);
  UOp *h0 = initial(&r, 5, first), *c0 = cell ? initial(&r, 6, first) : NULL;
  UOp *p = cell ? node_opt(n, 7) : NULL, *lens = node_opt(n, 4);
  p = need_shape(&r, "P", p, (const int64_t[]){r.dirs, 3 * r.hidden}, 2);
  lens = need_shape(&r, "sequence_lens", lens, &r.batch, 1);
  if (lens) r.lens = build_unsqueeze(job, build_cast(job, lens, DT_I64), 1);
  UOp *ys[2], *hs[2], *cs[2];
  for (int64_t d = 0; d < r.dirs; d++) {
    int64_t gh = gates * r.hidden;
    UOp *bias = of_dir(&r, b, d);
    r.w = read_weights(&r, w, d, quantised ? 8 : 0);
    r.rt = read_weights(&r, rec, d, quantised ? 10 : 0);
    r.wb = bias ? build_slice(job, bias, 0, 0, gh, 1) : NULL;
    r.rb = bias ? build_slice(job, bias, 0, gh, gh, 1) : NULL;
    r.p = of_dir(&r, p, d);
    r.h = of_dir(&r, h0, d), r.c = of_dir(&r, c0, d);
    read_activations(&r, d);
    ys[d] = run_direction(&r, back || d == 1);
    hs[d] = r.h, cs[d] = r.c;
  }
  UOp *y = stack(&r, ys, r.dirs, 1), *h = stack(&r, hs, r.dirs, 0);
  UOp *c = cell ? stack(&r, cs, r.dirs, 0) : NULL;
  if (first) {
    y = build_permute(job, y, (const int64_t[]){2, 0, 1, 3}, 4);
    h = build_transpose(job, h, 0, 1);
    if (c) c = build_transpose(job, c, 0, 1);
  }
  node_out(n, 0, y);
  node_out(n, 1, h);
  if (c) node_out(n, 2, c);
}

static void op_rnn(Node *n) { recurrent(n, 1, 1, rnn_step, false, false); }
static void op_gru(Node *n) { recurrent(n, 3, 2, gru_step, false, false); }
static void op_lstm(Node *n) { recurrent(n, 4, 3, lstm_step, true, false); }
static void op_quantised_lstm(Node *n) { recurrent(n, 4, 3, lstm_step, true, true); }

const OnnxOp onnx_recurrent_ops[] = {
    {"", "RNN", 1, 3, 6, op_rnn},
    {"", "GRU", 1, 3, 6, op_gru},
    {"", "LSTM", 1, 3, 8, op_lstm},
    {"com.microsoft", "DynamicQuantizeLSTM", 1, 11, 12, op_quantised_lstm},
    {0},
};
