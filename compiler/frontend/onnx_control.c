/* Ops with graphs inside. If: the branch that a known condition chooses, or both and a select.
 * Loop and Scan: a loop of the run, or when there are few iterations, sequences or carried values
 * whose shapes change, one copy of the body per iteration. FlexAttention: attention with the
 * model's own functions of scores and probabilities. */
#include <math.h>

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/elem.h"
#include "compiler/frontend/onnx_graph.h"
#include "compiler/frontend/onnx_loop.h"

enum { MAX_TRIPS = 1 << 12, FEW_TRIPS = 8, MAX_CARRIED = 64 };

static const OnnxGraph *graph_attr(Node *n, const char *name) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_GRAPH);
  if (!a) job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' is missing", name));
  return a->g;
}

/* 1, 0, or -1 when it depends on an input. */
static int known_bool(Node *n, Val *v) {
  if (v->dtype != DT_BOOL || dims_numel(n->job, v->shape) != 1)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "condition is %s of shape %s, expected a bool",
                           dtype_info[v->dtype].name, shape_text(n->job, v->shape)));
  const uint8_t *data = val_data(n->f, v);
  if (data) return data[0] != 0;
  static const int64_t origin[MAX_DIMS];
  UOp *sizes = front_elem(n->f, val_uop(n->f, v), origin);
  return sizes && uop_is_const(sizes) ? sizes->arg.i != 0 : -1;
}

/* Whether a value depends on nothing but sizes of inputs. */
static bool of_sizes(Node *n, UOp *u) {
  UOpList list = uop_toposort(n->job, u);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_PARAM && list.at[i]->arg.i < FRONT_WEIGHTS) return false;
  return true;
}

/* x with size d along an axis, whatever it had: cut, or filled up with zeros. */
static UOp *resized(Node *n, UOp *x, size_t axis, int64_t d) {
  if (x->shape.at[axis] == d) return x;
  return build_gather(n->job, x, build_arange(n->job, DT_I64, d), axis);
}

/* a where cond, else b, of one rank: the run decides the sizes too. */
static UOp *choose_sizes(Node *n, UOp *cond, UOp *a, UOp *b) {
  Job *job = n->job;
  for (uint32_t i = 0; i < a->shape.n; i++) {
    int64_t da = a->shape.at[i], db = b->shape.at[i];
    if (da == db) continue;
    int64_t low = dim_low(da) < dim_low(db) ? dim_low(da) : dim_low(db);
    int64_t high = dim_high(da) > dim_high(db) ? dim_high(da) : dim_high(db);
    UOp *size = build_where(job, cond, build_size(job, da), build_size(job, db));
    int64_t d = front_bind(n->f, size, low < 0 ? 0 : low, high, node_label(n, "size"));
    a = resized(n, a, i, d);
    b = resized(n, b, i, d);
  }
  return build_where(job, cond, a, b);
}

/* a where cond, else b: tensors of one shape, or sequences of such. */
static Val *choose(Node *n, UOp *cond, Val *a, Val *b) {
  if (a == b) return a;
  if (a->kind != b->kind || a->nitems != b->nitems || a->kind == VAL_NONE)
    job_abort(n->job, FAIL(FAILED_PRECONDITION,
                           "the condition has to be known at compile time: the branches give a "
                           "different number of values"));
  if (a->kind == VAL_SEQUENCE) {
    Val **items = arena_array(&n->job->arena, a->nitems, sizeof *items);
    for (size_t i = 0; i < a->nitems; i++) items[i] = choose(n, cond, a->items[i], b->items[i]);
    return val_sequence(n->f, a->dtype, items, a->nitems);
  }
  UOp *x = val_uop(n->f, a), *y = val_uop(n->f, b);
  if (x->dtype != y->dtype)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "the branches give %s and %s",
                           dtype_info[x->dtype].name, dtype_info[y->dtype].name));
  if (x->shape.n == y->shape.n) return val_from_uop(n->f, choose_sizes(n, cond, x, y), true);
  /* A tensor has one rank: a condition about sizes, which is how exporters write "squeeze if the
   * axis is 1", is taken to hold, and the run checks it. */
  if (!of_sizes(n, cond))
    job_abort(n->job, FAIL(FAILED_PRECONDITION,
                           "the condition has to be known at compile time: the branches have "
                           "shapes %s and %s",
                           shape_text(n->job, x->shape), shape_text(n->job, y->shape)));
  front_require(n->job, cond, node_label(n, "the sizes choose the branch of another rank"));
  return a;
}

/* Both branches of a condition that the run decides; bool c. A branch that cannot be compiled, say
 * because it is meant for other sizes, may not be taken: the result is the other one's, or -1. */
static int convert_both(Node *n, const OnnxGraph *const *branch, UOp *c, Val ***out) {
  Status st[2];
  UOp *taken[2] = {build_not(n->job, c), c};
  FrontMark made[2];
  uint32_t mark = n->job->next_id;
  for (int k = 0; k < 2; k++) {
    made[k] = front_mark(n->f);
    st[k] = onnx_try_subgraph(n, branch[k], taken[k], out[k]);
    if (!st[k]) onnx_branch_skip(n, made[k], mark, taken[k], out[k]);
  }
  if (!st[0] && !st[1]) return -1;
  if (st[0] && st[1]) {
    status_drop(st[0]);
    job_abort(n->job, st[1]);
  }
  int good = st[0] ? 1 : 0;
  char why[512];
  status_text(st[!good], why, sizeof why);
  const char *label = node_label(n, good ? "the condition is false" : "the condition is true");
  label = arena_printf(&n->job->arena, "%s, but that branch cannot run: %s", label, why);
  status_drop(st[!good]);
  front_require(n->job, good ? c : build_not(n->job, c), label);
  return good;
}

static void op_if(Node *n) {
  const OnnxGraph *branch[2] = {graph_attr(n, "else_branch"), graph_attr(n, "then_branch")};
  Val **out[2], *cond = node_in(n, 0);
  int known = known_bool(n, cond);
  UOp *c = NULL;
  for (int k = 0; k < 2; k++) {
    if (branch[k]->output.n != n->nout)
      job_abort(n->job, FAIL(INVALID_ARGUMENT, "a branch has %zu outputs, expected %zu",
                             branch[k]->output.n, n->nout));
    out[k] = arena_array(&n->job->arena, n->nout, sizeof(Val *));
    if (known == k) onnx_subgraph(n, branch[k], NULL, 0, out[k]);
  }
  if (known < 0) {
    c = build_reshape(n->job, val_uop(n->f, cond), (Ints){0});
    known = convert_both(n, branch, c, out);
  }
  for (size_t i = 0; i < n->nout; i++) {
    if (known >= 0) {
      node_out_val(n, i, out[known][i]);
      continue;
    }
    node_out_val(n, i, choose(n, c, out[1][i], out[0][i]));
  }
}

/* Results of all trips, joined along `axis` of a new or an existing axis. */
typedef struct Collected {
  UOp **at;
  size_t n;
} Collected;

static UOp *join(Node *n, Collected *c, int64_t axis_, bool reverse) {
  if (!c->n) job_abort(n->job, FAIL(UNIMPLEMENTED, "a loop without trips has scan outputs"));
  size_t axis = axis_check(n->job, axis_, (size_t)c->at[0]->shape.n + 1);
  for (size_t i = 0; i < c->n; i++) c->at[i] = build_unsqueeze(n->job, c->at[i], axis);
  for (size_t i = 0; reverse && i < c->n / 2; i++) {
    UOp *u = c->at[i];
    c->at[i] = c->at[c->n - 1 - i];
    c->at[c->n - 1 - i] = u;
  }
  return build_cat(n->job, c->at, c->n, axis);
}

static Val *scalar_i64(Node *n, int64_t v) {
  return val_from_data(n->f, DT_I64, (Ints){0}, arena_copy(&n->job->arena, &v, sizeof v));
}

static void check_carried(Node *n, const OnnxGraph *g, size_t in, size_t out, size_t results) {
  if (g->input.n != in || g->output.n < out || g->output.n != results || in > MAX_CARRIED ||
      results > MAX_CARRIED)
    job_abort(n->job, FAIL(INVALID_ARGUMENT,
                           "body '" STR_FMT "' has %zu inputs and %zu outputs, "
                           "expected %zu and %zu",
                           STR_ARG(g->name), g->input.n, g->output.n, in, results));
}

static void keep(Node *n, Collected *c, UOp *u, int64_t trips) {
  if (!c->at) c->at = arena_array(&n->job->arena, (size_t)trips, sizeof(UOp *));
  c->at[c->n++] = u;
}

/* What Loop and Scan are made of when every iteration is a copy of the body. */
typedef struct Unrolled {
  Val *args[MAX_CARRIED], *results[MAX_CARRIED];
  Collected all[MAX_CARRIED];
} Unrolled;

/* The iterations of a Loop one after the other; false when a condition in between depends on an
 * input, and nothing is defined then. */
static bool unroll_loop(Node *n, const OnnxGraph *body, int64_t trips, size_t carried,
                        size_t scans) {
  Unrolled *u = arena_alloc(&n->job->arena, sizeof *u);
  int go = node_has(n, 1) ? known_bool(n, node_in(n, 1)) : 1;
  FrontMark mark = front_mark(n->f);
  for (size_t i = 0; i < carried; i++) u->args[2 + i] = node_val(n, 2 + i);
  uint8_t *yes = arena_alloc(&n->job->arena, 1);
  *yes = 1;
  int64_t most = trips < MAX_TRIPS ? trips : MAX_TRIPS;
  for (int64_t k = 0; k < trips && go; k++) {
    if (k == MAX_TRIPS)
      job_abort(n->job, FAIL(UNIMPLEMENTED, "a loop of more than %d trips", MAX_TRIPS));
    if (go < 0) return front_rewind(n->f, mark), false;
    u->args[0] = scalar_i64(n, k);
    u->args[1] = val_from_data(n->f, DT_BOOL, (Ints){0}, yes);
    onnx_subgraph(n, body, u->args, carried + 2, u->results);
    for (size_t i = 0; i < carried; i++) u->args[2 + i] = u->results[1 + i];
    for (size_t i = 0; i < scans; i++)
      keep(n, &u->all[i], val_uop(n->f, u->results[1 + carried + i]), most);
    go = known_bool(n, u->results[0]);
  }
  for (size_t i = 0; i < scans; i++)
    if (!u->all[i].n && node_wants(n, carried + i)) return front_rewind(n->f, mark), false;
  for (size_t i = 0; i < carried && i < n->nout; i++) node_out_val(n, i, u->args[2 + i]);
  for (size_t i = 0; i < scans; i++)
    if (node_wants(n, carried + i)) node_out(n, carried + i, join(n, &u->all[i], 0, false));
  return true;
}

static bool any_sequence(Node *n, size_t first) {
  for (size_t i = first; i < n->nin; i++)
    if (n->in[i] && n->in[i]->kind != VAL_TENSOR) return true;
  return false;
}

static void leave_results(Node *n, const Repeat *r) {
  for (size_t i = 0; i < n->nout; i++)
    if (node_wants(n, i)) node_out_val(n, i, r->out[i]);
}

/* Room for the lists of a Repeat. */
static void repeat_lists(Node *n, Repeat *r) {
  Arena *arena = &n->job->arena;
  r->carried = arena_array(arena, r->ncarried + 1, sizeof *r->carried);
  r->scanned = arena_array(arena, r->nscanned + 1, sizeof *r->scanned);
  r->axes = arena_array(arena, r->nscanned + 1, sizeof *r->axes);
  r->back = arena_array(arena, r->nscanned + 1, sizeof *r->back);
  r->out_axes = arena_array(arena, r->ncollected + 1, sizeof *r->out_axes);
  r->out_back = arena_array(arena, r->ncollected + 1, sizeof *r->out_back);
  r->out = arena_array(arena, r->ncarried + r->ncollected + 1, sizeof *r->out);
}

/* How often at most: known, or counted by the run. */
static void loop_count(Node *n, Repeat *r) {
  r->trips = -1;
  if (!node_has(n, 0)) return;
  Val *m = node_in(n, 0);
  if (shape_numel(m->shape) != 1 || !dtype_is_int(m->dtype))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "trip count is %s of shape %s, expected one integer",
                           dtype_info[m->dtype].name, shape_text(n->job, m->shape)));
  const uint8_t *data = val_data(n->f, m);
  r->count = build_cast(n->job, build_reshape(n->job, val_uop(n->f, m), (Ints){0}), DT_I64);
  if (data) {
    r->trips = data_int(m->dtype, data, 0);
    if (r->trips < 0) r->trips = 0;
  } else if (r->ncollected) {
    UOp *least = uop_int(n->job, DT_I64, 0);
    r->length = front_bind(n->f, build2(n->job, OP_MAX, r->count, least), 0, FRONT_DIM_MAX,
                           node_label(n, "trip count"));
  }
}

/* A failure in the job's memory: what is tried instead may end the job, and nobody would free it.
 */
typedef struct Setback {
  StatusCode code;
  const char *text;
} Setback;

/* Takes st. */
static Setback set_back(Job *job, Status st) {
  enum { TEXT_MAX = 1000 };
  Setback s = {.code = status_code(st), .text = "the loop"};
  char *text = arena_alloc(&job->arena, TEXT_MAX);
  if (text) {
    status_text(st, text, TEXT_MAX);
    s.text = text;
  }
  status_drop(st);
  return s;
}

static _Noreturn void give_up(Job *job, const Setback *s) {
  job_abort(job, status_made(status_new(s->code, NULL, __FILE__, __LINE__, "%s", s->text)));
}

static void op_loop(Node *n) {
  const OnnxGraph *body = graph_attr(n, "body");
  size_t carried = n->nin > 2 ? n->nin - 2 : 0,
         scans = n->nout - (carried < n->nout ? carried : n->nout);
  Repeat r = {.n = n, .body = body, .ncarried = carried, .ncollected = scans};
  check_carried(n, body, carried + 2, carried + 1, 1 + carried + scans);
  int go = node_has(n, 1) ? known_bool(n, node_in(n, 1)) : 1;
  loop_count(n, &r);
  if (go == 0) r.trips = 0;
  bool known = r.trips >= 0 || (!node_has(n, 0) && go >= 0), sequences = any_sequence(n, 2);
  int64_t most = r.trips >= 0 ? r.trips : MAX_TRIPS;
  bool few = r.trips >= 0 && r.trips <= FEW_TRIPS && go >= 0;
  if ((few || (sequences && known)) && unroll_loop(n, body, most, carried, scans)) return;
  repeat_lists(n, &r);
  for (size_t i = 0; i < carried; i++) r.carried[i] = node_val(n, 2 + i);
  r.start = node_has(n, 1) ? node_in(n, 1) : NULL;
  Status st = onnx_repeat(&r);
  if (st) {
    Setback why = set_back(n->job, st);
    if (known && !few && !sequences && unroll_loop(n, body, most, carried, scans)) return;
    give_up(n->job, &why);
  }
  leave_results(n, &r);
}

/* -- Scan ------------------------------------------------------------------------------------ */

static int64_t nth(Ints list, size_t i) { return i < list.n ? list.at[i] : 0; }

static void unroll_scan(const Repeat *r) {
  Node *n = r->n;
  Unrolled *u = arena_alloc(&n->job->arena, sizeof *u);
  for (size_t i = 0; i < r->ncarried; i++) u->args[i] = r->carried[i];
  for (int64_t k = 0; k < r->trips; k++) {
    for (size_t i = 0; i < r->nscanned; i++) {
      UOp *x =
          build_slice(n->job, r->scanned[i], r->axes[i], r->back[i] ? r->trips - 1 - k : k, 1, 1);
      u->args[r->ncarried + i] = val_from_uop(n->f, build_squeeze(n->job, x, r->axes[i]), true);
    }
    onnx_subgraph(n, r->body, u->args, r->ncarried + r->nscanned, u->results);
    for (size_t i = 0; i < r->ncarried; i++) u->args[i] = u->results[i];
    for (size_t i = 0; i < r->ncollected; i++)
      keep(n, &u->all[i], val_uop(n->f, u->results[r->ncarried + i]), r->trips);
  }
  for (size_t i = 0; i < r->ncarried; i++) r->out[i] = u->args[i];
  for (size_t i = 0; i < r->ncollected; i++)
    r->out[r->ncarried + i] =
        val_from_uop(n->f, join(n, &u->all[i], r->out_axes[i], r->out_back[i]), true);
}

/* The number of iterations is the length of what is scanned. */
static void scan_length(Repeat *r) {
  Job *job = r->n->job;
  for (size_t i = 0; i < r->nscanned; i++) {
    int64_t d = r->scanned[i]->shape.at[r->axes[i]];
    if (i && d != r->length)
      job_abort(job, FAIL(INVALID_ARGUMENT, "scan inputs of lengths %s and %s",
                          dim_text(job, r->length), dim_text(job, d)));
    r->length = d;
  }
  r->trips = dim_is_static(r->length) ? r->length : -1;
  r->count = uop_cast(job, dim_uop(job, r->length), DT_I64);
}

static void scan(Repeat *r) {
  Job *job = r->n->job;
  check_carried(r->n, r->body, r->ncarried + r->nscanned, r->ncarried, r->ncarried + r->ncollected);
  scan_length(r);
  if (r->trips > 0 && r->trips <= FEW_TRIPS) {
    unroll_scan(r);
    return;
  }
  Status st = onnx_repeat(r);
  if (st && r->trips > 0 && r->trips <= MAX_TRIPS) {
    status_drop(st);
    unroll_scan(r);
  } else if (st) {
    job_abort(job, st);
  }
}

static void scan_counts(Node *n, size_t sources, Repeat *r) {
  int64_t m = attr_need_int(n, "num_scan_inputs");
  if (m < 1 || m > (int64_t)sources || sources > MAX_CARRIED)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "%lld scan inputs of %zu", (long long)m, sources));
  *r = (Repeat){.n = n, .body = graph_attr(n, "body"), .is_scan = true, .nscanned = (size_t)m};
  r->ncarried = sources - (size_t)m;
  r->ncollected = n->nout - (r->ncarried < n->nout ? r->ncarried : n->nout);
  repeat_lists(n, r);
}

static void op_scan(Node *n) {
  Repeat r;
  Ints in_axes = attr_ints(n, "scan_input_axes"), in_back = attr_ints(n, "scan_input_directions");
  Ints out_axes = attr_ints(n, "scan_output_axes"),
       out_back = attr_ints(n, "scan_output_directions");
  scan_counts(n, n->nin, &r);
  for (size_t i = 0; i < r.ncarried; i++) r.carried[i] = node_in(n, i);
  for (size_t i = 0; i < r.nscanned; i++) {
    r.scanned[i] = node_u(n, r.ncarried + i);
    r.axes[i] = axis_check(n->job, nth(in_axes, i), r.scanned[i]->shape.n);
    r.back[i] = nth(in_back, i) != 0;
  }
  for (size_t i = 0; i < r.ncollected; i++) {
    r.out_axes[i] = nth(out_axes, i);
    r.out_back[i] = nth(out_back, i) != 0;
  }
  scan(&r);
  leave_results(n, &r);
}

/* Element b of the batch axis. */
static UOp *batch_element(Node *n, UOp *x, int64_t b) {
  return build_squeeze(n->job, build_slice(n->job, x, 0, b, 1, 1), 0);
}

/* Of opset 8: a batch axis in front of everything, one scan per element of it. */
static void op_scan_8(Node *n) {
  Repeat r;
  Ints back = attr_ints(n, "directions");
  if (node_has(n, 0))
    job_abort(n->job, FAIL(UNIMPLEMENTED, "sequence_lens of Scan before opset 9"));
  scan_counts(n, n->nin - 1, &r);
  UOp *first = node_u(n, 1);
  if (!first->shape.n || !dim_is_static(first->shape.at[0]) || !first->shape.at[0])
    job_abort(n->job, FAIL(UNIMPLEMENTED, "the batch of Scan has shape %s",
                           shape_text(n->job, first->shape)));
  int64_t batch = first->shape.at[0];
  Collected *all = arena_array(&n->job->arena, n->nout + 1, sizeof *all);
  for (int64_t b = 0; b < batch; b++) {
    for (size_t i = 1; i < n->nin; i++) {
      UOp *x = node_u(n, i);
      if (!x->shape.n || x->shape.at[0] != batch)
        job_abort(n->job,
                  FAIL(INVALID_ARGUMENT, "source %zu has shape %s, expected a batch of %lld", i,
                       shape_text(n->job, x->shape), (long long)batch));
      x = batch_element(n, x, b);
      size_t k = i - 1 - r.ncarried;
      if (i <= r.ncarried) r.carried[i - 1] = val_from_uop(n->f, x, true);
      if (i <= r.ncarried) continue;
      r.scanned[k] = x;
      r.axes[k] = axis_check(n->job, 0, x->shape.n);
      r.back[k] = nth(back, k) != 0;
    }
    scan(&r);
    for (size_t i = 0; i < n->nout; i++) keep(n, &all[i], val_uop(n->f, r.out[i]), batch);
  }
  for (size_t i = 0; i < n->nout; i++)
    if (node_wants(n, i)) node_out(n, i, join(n, &all[i], 0, false));
}

/* -- FlexAttention --------------------------------------------------------------------------- */

static UOp *modified(Node *n, const char *attr, UOp *x) {
  const OnnxAttribute *a = attr_find(n, attr, ONNX_ATTR_GRAPH);
  if (!a) return x;
  Val *arg = val_from_uop(n->f, x, true), *result;
  if (a->g->output.n != 1)
    job_abort(n->job,
              FAIL(INVALID_ARGUMENT, "%s has %zu outputs, expected 1", attr, a->g->output.n));
  onnx_subgraph(n, a->g, &arg, 1, &result);
  return build_cast(n->job, val_uop(n->f, result), uop_dtype(x));
}

static UOp *repeat_heads(Node *n, UOp *x, int64_t times) {
  int64_t d[5] = {x->shape.at[0], x->shape.at[1], times, x->shape.at[2], x->shape.at[3]};
  x = build_expand(n->job, build_unsqueeze(n->job, x, 2), shape_make(d, 5));
  return build_reshape_v(n->job, x, 4, d[0], d[1] * times, d[3], d[4]);
}

static void op_flex_attention(Node *n) {
  UOp *q = node_u(n, 0), *k = node_u(n, 1), *v = node_u(n, 2);
  bool ok = q->shape.n == 4 && k->shape.n == 4 && v->shape.n == 4 && k->shape.at[1] > 0 &&
            q->shape.at[1] % k->shape.at[1] == 0 && v->shape.at[1] == k->shape.at[1];
  if (!ok)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "Q, K and V have shapes %s, %s and %s",
                           shape_text(n->job, q->shape), shape_text(n->job, k->shape),
                           shape_text(n->job, v->shape)));
  DType d = uop_dtype(v), work = uop_dtype(q) == DT_F64 ? DT_F64 : DT_F32;
  int64_t precision = attr_int(n, "softmax_precision", 0);
  if (precision) work = onnx_dtype(n->job, precision);
  double scale = attr_float(n, "scale", 1 / sqrt((double)q->shape.at[3]));
  int64_t times = q->shape.at[1] / k->shape.at[1];
  k = repeat_heads(n, k, times);
  v = repeat_heads(n, v, times);
  UOp *root = build_num(n->job, q, sqrt(scale));
  UOp *kt = build_transpose(n->job, build2(n->job, OP_MUL, k, root), 2, 3);
  UOp *s = build_matmul(n->job, build2(n->job, OP_MUL, q, root), kt);
  s = modified(n, "score_mod", build_cast(n->job, s, work));
  UOp *p = modified(n, "prob_mod", build_softmax(n->job, s, axis_bit(3)));
  UOp *y = build_matmul(n->job, p, build_cast(n->job, v, work));
  node_out(n, 0, build_cast(n->job, y, d));
}

const OnnxOp onnx_control_ops[] = {
    {"", "If", 1, 1, 1, op_if},
    {"", "Loop", 1, 2, 255, op_loop},
    {"", "Scan", 8, 2, 255, op_scan_8},
    {"", "Scan", 9, 1, 255, op_scan},
    {"ai.onnx.preview", "FlexAttention", 1, 3, 3, op_flex_attention},
    {0},
};
