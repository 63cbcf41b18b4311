/* The body is converted once. What it carries are locals of a LOOP, whose contents when an
 * iteration begins the body reads, and which it updates in the end; what it collects are rows of a
 * local that has room for all iterations, of which the result shows those that there were.
 *
 * A size that depends on the number of an iteration is bounded, so a row is written at the number
 * of the iteration or, where the bound is not proven to be inside, at the last row, which is the
 * same for every iteration that happens. */
#include "compiler/frontend/onnx_loop.h"

#include "compiler/frontend/build_nn.h"

enum { MAX_EFFECTS = 1 << 12 };

typedef struct Build {
  Repeat *r;
  Front *f;
  Job *job;
  FrontMark mark;
  UOp *var;
  int64_t rows; /* room for what is collected */
  UOp **effects;
  size_t n;
  UOp **now;      /* carried, at the beginning of an iteration */
  UOp **rest;     /* what it collects: AFTER(local, VAR) */
  UOp *go, *done; /* the condition, how many iterations there were: likewise, or NULL */
  Val **results;
} Build;

static UOp *i64(Build *b, int64_t v) { return uop_int(b->job, DT_I64, v); }

static void effect(Build *b, UOp *u) {
  if (b->n == MAX_EFFECTS)
    job_abort(b->job, FAIL(RESOURCE_EXHAUSTED, "a loop of more than %d effects", MAX_EFFECTS));
  b->effects[b->n++] = u;
}

/* A local with `before` in it, as the body sees it. */
static UOp *carry(Build *b, UOp *before) {
  UOp *local = front_local(b->f, uop_dtype(before), before->shape);
  effect(b, uop2(b->job, OP_STORE, local, before));
  return uop2(b->job, OP_AFTER, local, b->var);
}

static void update(Build *b, UOp *view, UOp *value) {
  effect(b, uop2(b->job, OP_STORE, view, value));
}

/* -- before the body ------------------------------------------------------------------------- */

static int64_t room(const Build *b) {
  const Repeat *r = b->r;
  int64_t most = FRONT_DIM_MAX;
  if (r->trips >= 0 && (r->trips < most || !r->count)) most = r->trips;
  if (r->trips >= 0) return most < 1 ? 1 : most;
  return r->count ? dim_max(b->job, r->length, 1) : most;
}

static void begin(Build *b) {
  Repeat *r = b->r;
  int64_t most = r->trips >= 0 ? r->trips : INT32_MAX;
  b->rows = room(b);
  if (r->ncollected) most = dim_high(b->rows);
  if (r->nscanned && r->trips < 0) most = dim_high(r->length);
  b->var = front_loop_var(b->f, most < 1 ? 1 : most);
  for (size_t i = 0; i < r->ncarried; i++) {
    if (r->carried[i]->kind != VAL_TENSOR)
      job_abort(b->job, FAIL(FAILED_PRECONDITION,
                             "the number of iterations has to be known at compile time: carried "
                             "value %zu is a sequence",
                             i));
    b->now[i] = carry(b, val_uop(b->f, r->carried[i]));
  }
}

static Val *truth(Build *b) {
  uint8_t *yes = arena_alloc(&b->job->arena, 1);
  *yes = 1;
  return val_from_data(b->f, DT_BOOL, (Ints){0}, yes);
}

int64_t loop_place(Job *job, UOp *var, int64_t n, bool back) {
  int64_t k = dim_of(job, var), last = dim_sub(job, n, 1);
  if (!dim_le(job, k, last)) k = dim_min(job, k, last);
  return back ? dim_sub(job, last, k) : k;
}

UOp *loop_element(Job *job, UOp *x, size_t axis, int64_t at) {
  int64_t arg[2 * MAX_DIMS];
  for (uint32_t k = 0; k < x->shape.n; k++) arg[2 * k] = 0, arg[2 * k + 1] = x->shape.at[k];
  arg[2 * axis] = at;
  arg[2 * axis + 1] = dim_add(job, at, 1);
  return uop_make(job, OP_SHRINK, DT_VOID, arg_ints(arg, 2 * x->shape.n), &x, 1);
}

/* What this iteration sees of scanned input i. The body of a scan of nothing is converted too, for
 * the shapes of its results: an axis that may be empty gets one zero behind its elements, or before
 * them when it is scanned backwards, where no iteration that happens looks. */
static UOp *scanned_element(const Build *b, size_t i) {
  const Repeat *r = b->r;
  UOp *x = r->scanned[i];
  size_t axis = r->axes[i];
  if (!dim_le(b->job, 1, x->shape.at[axis]))
    x = build_pad_axis(b->job, x, axis, r->back[i], !r->back[i], build_num(b->job, x, 0));
  int64_t at = loop_place(b->job, b->var, x->shape.at[axis], r->back[i]);
  return build_squeeze(b->job, loop_element(b->job, x, axis, at), axis);
}

static void convert(Build *b) {
  Repeat *r = b->r;
  size_t n = 0, total = 2 + r->ncarried + r->nscanned;
  Val **args = arena_array(&b->job->arena, total, sizeof *args);
  if (!r->is_scan) {
    args[n++] = val_from_uop(b->f, uop_cast(b->job, b->var, DT_I64), true);
    args[n++] = truth(b);
  }
  for (size_t i = 0; i < r->ncarried; i++) args[n++] = val_from_uop(b->f, b->now[i], true);
  for (size_t i = 0; i < r->nscanned; i++)
    args[n++] = val_from_uop(b->f, scanned_element(b, i), true);
  size_t results = r->ncarried + r->ncollected + !r->is_scan;
  b->results = arena_array(&b->job->arena, results + 1, sizeof *b->results);
  avec_push(&b->job->arena, &b->f->iterations, b->var);
  onnx_subgraph(r->n, r->body, args, n, b->results);
  b->f->iterations.len--;
  for (size_t i = 0; i < results; i++)
    if (b->results[i]->kind != VAL_TENSOR)
      job_abort(b->job, FAIL(FAILED_PRECONDITION,
                             "result %zu of the body is no tensor: the number of trips has to be "
                             "known at compile time",
                             i));
}

/* -- after it -------------------------------------------------------------------------------- */

static Val *carried_result(const Build *b, size_t i) { return b->results[!b->r->is_scan + i]; }

static void check_carried(Build *b, size_t i, const UOp *before, const UOp *after) {
  bool same = shape_eq(before->shape, after->shape) && before->dtype == after->dtype;
  if (same) return;
  job_abort(b->job, FAIL(FAILED_PRECONDITION,
                         "the number of iterations has to be known at compile time: carried value "
                         "%zu is %s %s before an iteration and %s %s after it",
                         i, dtype_info[before->dtype].name, shape_text(b->job, before->shape),
                         dtype_info[after->dtype].name, shape_text(b->job, after->shape)));
}

static void update_carried(Build *b) {
  for (size_t i = 0; i < b->r->ncarried; i++) {
    UOp *after = val_uop(b->f, carried_result(b, i));
    check_carried(b, i, b->now[i], after);
    if (after != b->now[i]) update(b, b->now[i], after);
  }
}

static void update_collected(Build *b) {
  const Repeat *r = b->r;
  for (size_t i = 0; i < r->ncollected; i++) {
    UOp *x = val_uop(b->f, carried_result(b, r->ncarried + i));
    int64_t dims[MAX_DIMS];
    if (front_shape_since(b->f, b->mark, x->shape))
      job_abort(b->job, FAIL(UNIMPLEMENTED, "result %zu has another shape in every iteration",
                             r->ncarried + i));
    if (x->shape.n + 1 >= MAX_RANK)
      job_abort(b->job, FAIL(INVALID_ARGUMENT, "a result of rank %u", x->shape.n + 1));
    dims[0] = b->rows;
    if (x->shape.n) memcpy(dims + 1, x->shape.at, x->shape.n * sizeof *dims);
    UOp *all = front_local(b->f, uop_dtype(x), shape_make(dims, x->shape.n + 1));
    b->rest[i] = uop2(b->job, OP_AFTER, all, b->var);
    int64_t at = loop_place(b->job, b->var, b->rows, r->out_back[i]);
    update(b, loop_element(b->job, b->rest[i], 0, at), build_unsqueeze(b->job, x, 0));
  }
}

/* Iterations end by their condition unless it is known to stay true. */
static void update_condition(Build *b) {
  const Repeat *r = b->r;
  if (r->is_scan) return;
  Val *result = b->results[0];
  if (result->dtype != DT_BOOL)
    job_abort(b->job, FAIL(INVALID_ARGUMENT, "the condition of the body is %s, expected a bool",
                           dtype_info[result->dtype].name));
  const uint8_t *first = r->start ? val_data(b->f, r->start) : NULL;
  const uint8_t *again = val_data(b->f, result);
  if ((!r->start || (first && *first)) && again && *again) return;
  UOp *before = r->start ? val_uop(b->f, r->start) : uop_int(b->job, DT_BOOL, 1);
  b->go = carry(b, build_reshape(b->job, before, (Ints){0}));
  update(b, b->go, build_reshape(b->job, val_uop(b->f, result), (Ints){0}));
  if (!r->ncollected) return;
  b->done = carry(b, i64(b, 0));
  update(b, b->done, build2(b->job, OP_ADD, uop_cast(b->job, b->var, DT_I64), i64(b, 1)));
}

static UOp *make_loop(Build *b) {
  Arena *arena = &b->job->arena;
  size_t nbinds = b->f->binds.len - b->mark.binds;
  UOp **src = arena_array(arena, 3 + b->n + nbinds, sizeof *src);
  src[0] = b->var;
  src[1] = b->r->count ? b->r->count : i64(b, INT32_MAX);
  if (b->f->guard) src[1] = build_where(b->job, b->f->guard, src[1], i64(b, 0)); /* not taken */
  src[2] = b->go ? b->go : uop_int(b->job, DT_BOOL, 1);
  memcpy(src + 3, b->effects, b->n * sizeof *src);
  size_t n = 3 + b->n + front_take_binds(b->f, b->mark, b->var, src + 3 + b->n);
  return uop_make(b->job, OP_LOOP, DT_VOID, arg_none(), src, n);
}

/* What the local of AFTER(local, VAR) holds when the loop is done. */
static UOp *left_by(Build *b, const UOp *now, UOp *loop) {
  return uop2(b->job, OP_AFTER, now->src[0], loop);
}

static UOp *collected(Build *b, size_t i, UOp *loop, int64_t length) {
  UOp *x = left_by(b, b->rest[i], loop);
  int64_t arg[2 * MAX_DIMS], order[MAX_DIMS];
  size_t rank = x->shape.n, axis = axis_check(b->job, b->r->out_axes[i], rank);
  for (size_t k = 0; k < rank; k++) arg[2 * k] = 0, arg[2 * k + 1] = x->shape.at[k];
  arg[1] = length;
  x = uop_make(b->job, OP_SHRINK, DT_VOID, arg_ints(arg, 2 * rank), &x, 1);
  for (size_t k = 0; k < rank; k++) order[k] = (int64_t)(k < axis ? k + 1 : k);
  order[axis] = 0;
  return build_permute(b->job, x, order, rank);
}

static void finish(Build *b) {
  Repeat *r = b->r;
  int64_t length = r->trips >= 0 ? r->trips : r->length;
  UOp *loop = make_loop(b);
  for (size_t i = 0; i < r->ncarried; i++) {
    bool same = val_uop(b->f, carried_result(b, i)) == b->now[i];
    r->out[i] = same ? r->carried[i] : val_from_uop(b->f, left_by(b, b->now[i], loop), true);
  }
  if (b->done)
    length = front_bind(b->f, left_by(b, b->done, loop), 0, dim_high(b->rows),
                        node_label(r->n, "number of iterations"));
  if (r->ncollected && !dim_le(b->job, length, b->rows)) length = dim_min(b->job, length, b->rows);
  for (size_t i = 0; i < r->ncollected; i++)
    r->out[r->ncarried + i] = val_from_uop(b->f, collected(b, i, loop, length), true);
}

static void build(Job *job, void *arg) {
  Build *b = arg;
  (void)job;
  begin(b);
  convert(b);
  update_carried(b);
  update_collected(b);
  update_condition(b);
  finish(b);
}

Status onnx_repeat(Repeat *r) {
  Arena *arena = &r->n->job->arena;
  Build b = {.r = r, .f = r->n->f, .job = r->n->job, .mark = front_mark(r->n->f)};
  OnnxPlace start = onnx_place(r->n);
  b.effects = arena_array(arena, MAX_EFFECTS, sizeof *b.effects);
  b.now = arena_array(arena, r->ncarried + 1, sizeof *b.now);
  b.rest = arena_array(arena, r->ncollected + 1, sizeof *b.rest);
  Status st = job_try(b.job, build, &b);
  if (st) onnx_return(r->n, start);
  return st;
}
