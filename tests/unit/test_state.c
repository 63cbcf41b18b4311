/* State: kernels and copies of programs that update parameters in place, and random programs of
 * reads and writes on overlapping views against arrays of indices.
 *
 *   test_state [programs [first seed]] */
#include "plan_check.h"

#include "compiler/ir/view.h"

static int programs = 300;
static uint32_t first_seed = 1;

/* -- programs by hand -------------------------------------------------------------------------- */

typedef struct Machine {
  Graph g;
  UOp *version[4], *last[4];
  size_t nstates;
} Machine;

static void machine_init(Machine *m, Job *job) {
  *m = (Machine){0};
  graph_init(&m->g, job);
}

static UOp *add_state(Machine *m, DType dtype, const int64_t *dims, size_t n) {
  UOp *p = graph_param(&m->g, SLOT_INPUT, dtype, dims, n);
  m->g.slots[p->arg.i].state = true;
  m->version[m->nstates++] = p;
  return p;
}

static UOp *shrink(Machine *m, UOp *x, const int64_t *v, size_t n) {
  return t_int(&m->g, OP_SHRINK, x, v, n);
}

static void assign(Machine *m, size_t state, UOp *view, UOp *value) {
  UOp *store = uop2(m->g.job, OP_STORE, view, value);
  m->last[state] = store;
  UOp *p = view_param(view);
  m->version[state] = uop2(m->g.job, OP_AFTER, p, store);
}

static void finish(Machine *m) {
  Graph *g = &m->g;
  size_t n = g->tg.noutputs;
  for (size_t k = 0; k < m->nstates; k++)
    if (m->last[k]) g->stores[n++] = m->last[k];
  g->tg.sink = uop_make(g->job, OP_SINK, DT_VOID, arg_none(), g->stores, n);
  graph_plan(g);
}

/* -- the interpreter, the plan, and kernels run one by one --------------------------------------
 */

static void run_both(Machine *m, InterpBuffer *want, InterpBuffer *got) {
  Graph *g = &m->g;
  check(interp_tensor(g->job, g->tg.sink, want, g->tg.nslots));
  run_plan(g, got);
}

static bool same_slots(Machine *m, const InterpBuffer *want, const InterpBuffer *got) {
  for (size_t s = 0; s < m->g.tg.nslots; s++) {
    size_t at = 0;
    while (at < want[s].bytes && ((char *)want[s].data)[at] == ((char *)got[s].data)[at]) at++;
    if (at == want[s].bytes) continue;
    printf("slot %zu differs at byte %zu of %zu\n", s, at, want[s].bytes);
    return false;
  }
  return true;
}

static void make_slots(Machine *m, InterpBuffer *want, InterpBuffer *got) {
  for (size_t s = 0; s < m->g.tg.nslots; s++) {
    DType dtype = m->g.slots[s].dtype;
    int64_t numel = shape_numel(m->g.slots[s].shape);
    want[s] = new_data(dtype, numel);
    got[s] = new_data(dtype, numel);
    if (m->g.slots[s].kind != SLOT_INPUT) continue;
    randomise(want[s], dtype, &m->g.seed);
    if (want[s].bytes) memcpy(got[s].data, want[s].data, want[s].bytes);
  }
}

static void free_slots(Machine *m, InterpBuffer *slots) {
  for (size_t s = 0; s < m->g.tg.nslots; s++) free(slots[s].data);
}

/* The plan gives what the interpreter does, with that many kernels and bytes of temporaries. */
static void expect(Machine *m, size_t kernels, int64_t temp_bytes) {
  InterpBuffer want[MAX_SLOTS], got[MAX_SLOTS];
  finish(m);
  make_slots(m, want, got);
  run_both(m, want, got);
  if (!same_slots(m, want, got) || m->g.plan.ncalls != kernels ||
      m->g.plan.temp_bytes != temp_bytes) {
    show_plan(&m->g);
    fail_msg("%zu kernels and %lld bytes, expected %zu and %lld", m->g.plan.ncalls,
             (long long)m->g.plan.temp_bytes, kernels, (long long)temp_bytes);
  }
  free_slots(m, want);
  free_slots(m, got);
}

typedef void (*Program)(Machine *m);

static void with_machine(Program fn) {
  Job job;
  Machine m;
  job_init(&job, 0);
  machine_init(&m, &job);
  fn(&m);
  job_deinit(&job);
}

static UOp *plus(Machine *m, UOp *x, double v) {
  return uop2(m->g.job, OP_ADD, x, t_f32(&m->g, v));
}

static void increment(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(100));
  assign(m, 0, x, plus(m, x, 1));
  expect(m, 1, 0);
}

static void write_slice(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(8, 4)), *v = graph_input(&m->g, DIMS(1, 4));
  assign(m, 0, shrink(m, x, DIMS(3, 4, 0, 4)), v);
  expect(m, 1, 0);
}

static void increment_slice(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(8, 4)), *part = shrink(m, x, DIMS(2, 7, 1, 3));
  assign(m, 0, part, plus(m, part, 1));
  expect(m, 1, 0);
}

static void transpose(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(8, 8));
  assign(m, 0, x, t_permute(&m->g, x, DIMS(1, 0)));
  expect(m, 2, 8 * 8 * 4);
}

static void shift(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(17));
  assign(m, 0, shrink(m, x, DIMS(1, 17)), shrink(m, x, DIMS(0, 16)));
  expect(m, 2, 64);
}

static void move_halves(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(16));
  assign(m, 0, shrink(m, x, DIMS(0, 8)), shrink(m, x, DIMS(8, 16)));
  expect(m, 1, 0);
}

static UOp *every_second(Machine *m, UOp *x, int64_t from) {
  x = shrink(m, x, DIMS(from, 15 + from));
  x = t_int(&m->g, OP_WINDOW, x, DIMS(0, 1, 2, 1));
  return t_reshape(&m->g, x, DIMS(8));
}

static void even_from_odd(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(16));
  assign(m, 0, every_second(m, x, 0), every_second(m, x, 1));
  expect(m, 1, 0);
}

static void output_before(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(16));
  graph_output(&m->g, x);
  assign(m, 0, x, plus(m, t_int(&m->g, OP_FLIP, x, DIMS(0)), 1));
  expect(m, 3, 64); /* the output, and the reversal through a copy */
}

static void old_and_new(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(16)), *old = uop2(m->g.job, OP_MUL, x, t_f32(&m->g, 3));
  assign(m, 0, x, plus(m, x, 1));
  graph_output(&m->g, uop2(m->g.job, OP_ADD, old, m->version[0]));
  expect(m, 3, 64);
}

/* Only the part of the old contents that is overwritten is copied; a disjoint part is not. */
static void old_part(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(64));
  UOp *part = shrink(m, x, DIMS(32, 48)), *to = shrink(m, x, DIMS(0, 16));
  assign(m, 0, to, t_expand(&m->g, t_reshape(&m->g, t_f32(&m->g, 2), DIMS(1)), DIMS(16)));
  UOp *now = shrink(m, m->version[0], DIMS(0, 16));
  graph_output(&m->g, uop2(m->g.job, OP_ADD, part, now));
  expect(m, 2, 0);
}

static void swap(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(16)), *y = add_state(m, DT_F32, DIMS(16));
  assign(m, 0, x, y);
  assign(m, 1, y, x);
  expect(m, 3, 64);
}

/* In the order of the states that would need copies; in another it does not. */
static void rotate_without_copy(Machine *m) {
  UOp *s[4];
  for (int k = 0; k < 4; k++) s[k] = add_state(m, DT_F32, DIMS(16));
  for (size_t k = 3; k > 0; k--) assign(m, k - 1, s[k - 1], s[k]);
  expect(m, 3, 0);
}

static void spread_row(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(32, 16)), *row = shrink(m, x, DIMS(5, 6, 0, 16));
  assign(m, 0, x, t_expand(&m->g, row, DIMS(32, 16)));
  expect(m, 2, 64);
}

/* A square whose parts trade places: a shard permuted onto itself. */
static void permuted_shard(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(4, 6, 4)), *shard = shrink(m, x, DIMS(0, 4, 2, 3, 0, 4));
  assign(m, 0, shard, t_permute(&m->g, shard, DIMS(2, 1, 0)));
  expect(m, 2, 64);
}

/* 7777 where 4444 is right, when the second reader sees the first update. */
static void diamond(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(16)), *y = add_state(m, DT_F32, DIMS(16));
  UOp *a = plus(m, x, 1), *b = uop2(m->g.job, OP_MUL, x, t_f32(&m->g, 2));
  assign(m, 0, x, uop2(m->g.job, OP_ADD, a, b));
  assign(m, 1, y, uop2(m->g.job, OP_MUL, a, b));
  expect(m, 2, 0);
}

static void appended(Machine *m) {
  UOp *x = add_state(m, DT_F32, DIMS(8, 16)), *v = graph_input(&m->g, DIMS(1, 16));
  assign(m, 0, shrink(m, x, DIMS(5, 6, 0, 16)), v);
  UOp *all = shrink(m, m->version[0], DIMS(0, 6, 0, 16));
  graph_output(&m->g, t_reduce(&m->g, OP_ADD, all, DIMS(0)));
  expect(m, 2, 0);
}

static void by_hand(void **state) {
  (void)state;
  static const Program all[] = {
      increment,     write_slice,    increment_slice, transpose, shift, move_halves,
      even_from_odd, output_before,  old_and_new,     old_part,  swap,  rotate_without_copy,
      spread_row,    permuted_shard, diamond,         appended};
  for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
    printf("program %zu\n", k);
    with_machine(all[k]);
  }
}

/* -- random programs --------------------------------------------------------------------------- */

enum { MOVES = 5, CELLS = 400, TEMPS = 6 };

/* What a view is, twice: the ops, and where its elements are. */
typedef struct View {
  size_t state;
  Op op[MOVES * 2];
  Arg arg[MOVES * 2];
  size_t n;
  Ints shape;
  int32_t at[CELLS];
} View;

typedef struct Temp {
  UOp *u;
  int32_t value[CELLS];
} Temp;

typedef struct Random {
  Machine m;
  uint32_t seed;
  int32_t cells[4][CELLS]; /* the contents of the states */
  int32_t start[4][CELLS];
  Temp temp[TEMPS];
  size_t ntemps;
  int32_t want[MAX_SLOTS][CELLS];
} Random;

static uint32_t below(Random *r, uint32_t n) { return next_random(&r->seed) % n; }

static int64_t numel_of(Ints s) {
  int64_t n = 1;
  for (uint32_t k = 0; k < s.n; k++) n *= s.at[k];
  return n;
}

static void set_shape(Random *r, View *v, const int64_t *d, uint32_t n) {
  v->shape = (Ints){arena_copy(&r->m.g.job->arena, d, n * sizeof *d), n};
}

/* Element `c` of the old array `from` of shape s. */
static int32_t at_coords(const int32_t *from, Ints s, const int64_t *c) {
  int64_t flat = 0;
  for (uint32_t k = 0; k < s.n; k++) flat = flat * s.at[k] + c[k];
  return from[flat];
}

static void push_op(Random *r, View *v, Op op, const int64_t *arg, size_t n) {
  int32_t old[CELLS];
  Ints from = v->shape;
  int64_t d[8], c[8], to[8];
  memcpy(old, v->at, sizeof old);
  for (uint32_t k = 0; k < from.n; k++) {
    d[k] = from.at[k];
    if (op == OP_PERMUTE) d[k] = from.at[arg[k]];
    if (op == OP_SHRINK) d[k] = arg[2 * k + 1] - arg[2 * k];
  }
  uint32_t rank = op == OP_RESHAPE ? (uint32_t)n : from.n;
  if (op == OP_RESHAPE) memcpy(d, arg, n * sizeof *d);
  if (op == OP_WINDOW) {
    for (uint32_t k = from.n; k > arg[0] + 1; k--) d[k] = d[k - 1];
    d[arg[0]] = (from.at[arg[0]] - 1) / arg[2] + 1;
    d[arg[0] + 1] = 1;
    rank++;
  }
  set_shape(r, v, d, rank);
  for (int64_t e = 0; e < numel_of(v->shape) && op != OP_RESHAPE; e++) {
    int64_t left = e;
    for (uint32_t k = rank; k-- > 0; left /= d[k]) c[k] = left % d[k];
    for (uint32_t k = 0; k < from.n; k++) {
      to[k] = c[k];
      if (op == OP_SHRINK) to[k] = c[k] + arg[2 * k];
      if (op == OP_FLIP && k == arg[0]) to[k] = from.at[k] - 1 - c[k];
      if (op == OP_WINDOW) to[k] = k < arg[0] ? c[k] : k > arg[0] ? c[k + 1] : c[k] * arg[2];
    }
    for (uint32_t k = 0; k < from.n && op == OP_PERMUTE; k++) to[arg[k]] = c[k];
    v->at[e] = at_coords(old, from, to);
  }
  v->op[v->n] = op;
  v->arg[v->n++] =
      (Arg){.ints = {arena_copy(&r->m.g.job->arena, arg, n * sizeof *arg), (uint32_t)n}};
}

static void random_move(Random *r, View *v) {
  int64_t a[16];
  Ints s = v->shape;
  uint32_t axis = s.n ? below(r, s.n) : 0;
  switch (below(r, 5)) {
  case 0:
    for (uint32_t k = 0; k < s.n; k++) {
      uint32_t at = below(r, k + 1);
      a[k] = a[at];
      a[at] = k;
    }
    push_op(r, v, OP_PERMUTE, a, s.n);
    return;
  case 1:
    for (uint32_t k = 0; k < s.n; k++) {
      a[2 * k] = below(r, (uint32_t)s.at[k]);
      a[2 * k + 1] = a[2 * k] + 1 + below(r, (uint32_t)(s.at[k] - a[2 * k]));
      if (below(r, 2)) a[2 * k] = 0, a[2 * k + 1] = s.at[k];
    }
    push_op(r, v, OP_SHRINK, a, 2 * s.n);
    return;
  case 2:
    if (s.n) push_op(r, v, OP_FLIP, (int64_t[]){axis}, 1);
    return;
  case 3:
    if (s.n && s.n < 5) {
      push_op(r, v, OP_WINDOW, (int64_t[]){axis, 1, 1 + below(r, 3), 1}, 4);
    }
    return;
  default: {
    int64_t left = numel_of(s);
    uint32_t n = 0;
    for (uint32_t k = below(r, 3); k > 0; k--) {
      int64_t f = 1 + below(r, 4);
      a[n++] = left % f ? 1 : f;
      left /= a[n - 1];
    }
    a[n++] = left;
    push_op(r, v, OP_RESHAPE, a, n);
  }
  }
}

static View random_view(Random *r) {
  View v = {.state = below(r, (uint32_t)r->m.nstates)};
  const UOp *p = r->m.version[v.state];
  v.shape = p->shape;
  for (int32_t k = 0; k < numel_of(v.shape); k++) v.at[k] = k;
  for (uint32_t k = below(r, MOVES); k > 0; k--) random_move(r, &v);
  return v;
}

static UOp *view_now(Random *r, const View *v) {
  UOp *u = r->m.version[v->state];
  for (size_t k = 0; k < v->n; k++) u = uop_make(r->m.g.job, v->op[k], DT_VOID, v->arg[k], &u, 1);
  return u;
}

/* A view of the wanted number of elements made of another: its first elements, or one repeated. */
static UOp *fitted(Random *r, View *v, Ints shape, int32_t *value) {
  int64_t n = numel_of(shape), have = numel_of(v->shape);
  push_op(r, v, OP_RESHAPE, &have, 1);
  push_op(r, v, OP_SHRINK, (int64_t[]){0, have < n ? 1 : n}, 2);
  UOp *u = view_now(r, v);
  for (int64_t k = 0; k < n; k++) value[k] = r->cells[v->state][v->at[have < n ? 0 : k]];
  if (have < n) u = t_expand(&r->m.g, u, &n, 1);
  return t_reshape(&r->m.g, u, shape.at, shape.n);
}

/* A value of that shape, read at this point of the program. */
static UOp *random_value(Random *r, const View *target, int32_t *value) {
  Ints shape = target->shape;
  int64_t n = numel_of(shape);
  View v = random_view(r);
  if (!below(r, 4)) v = *target;
  UOp *u = fitted(r, &v, shape, value);
  if (r->ntemps && below(r, 2)) {
    const Temp *t = &r->temp[below(r, (uint32_t)r->ntemps)];
    int64_t have = numel_of(t->u->shape), least = have < n ? 1 : n;
    UOp *x = t_reshape(&r->m.g, t->u, &have, 1);
    x = shrink(&r->m, x, DIMS(0, least));
    if (have < n) x = t_expand(&r->m.g, x, &n, 1);
    u = uop2(r->m.g.job, OP_ADD, u, t_reshape(&r->m.g, x, shape.at, shape.n));
    for (int64_t k = 0; k < n; k++) value[k] += t->value[have < n ? 0 : k];
  }
  if (below(r, 3)) {
    int32_t c = (int32_t)below(r, 9);
    u = uop2(r->m.g.job, OP_ADD, u, uop_int(r->m.g.job, DT_I32, c));
    for (int64_t k = 0; k < n; k++) value[k] += c;
  }
  if (target->n && !below(r, 3)) { /* read at the place that is written */
    u = uop2(r->m.g.job, OP_XOR, u, view_now(r, target));
    for (int64_t k = 0; k < n; k++) value[k] ^= r->cells[target->state][target->at[k]];
  }
  return u;
}

static void random_step(Random *r) {
  View v = random_view(r);
  int32_t value[CELLS];
  UOp *u = random_value(r, &v, value);
  int64_t n = numel_of(v.shape);
  if (below(r, 3) == 0) {
    Temp *t = &r->temp[r->ntemps < TEMPS ? r->ntemps++ : below(r, TEMPS)];
    t->u = u;
    memcpy(t->value, value, sizeof value);
    return;
  }
  assign(&r->m, v.state, view_now(r, &v), u);
  for (int64_t k = 0; k < n; k++) r->cells[v.state][v.at[k]] = value[k];
}

static bool random_program(uint32_t seed) {
  static Random r;
  Job job;
  InterpBuffer want[MAX_SLOTS], got[MAX_SLOTS];
  job_init(&job, 0);
  memset(&r, 0, sizeof r);
  r.seed = seed;
  machine_init(&r.m, &job);
  for (uint32_t s = 1 + below(&r, 3); s > 0; s--) {
    int64_t d[3] = {1 + below(&r, 6), 1 + below(&r, 6), 1 + below(&r, 6)};
    add_state(&r.m, DT_I32, d, 1 + below(&r, 3));
  }
  for (size_t s = 0; s < r.m.nstates; s++) {
    for (size_t k = 0; k < CELLS; k++) r.cells[s][k] = (int32_t)(s * 1000 + k);
    memcpy(r.start[s], r.cells[s], sizeof r.cells[s]);
  }
  for (uint32_t n = 1 + below(&r, 8); n > 0; n--) random_step(&r);
  for (size_t t = 0; t < r.ntemps; t++) {
    graph_output(&r.m.g, r.temp[t].u);
    memcpy(r.want[r.m.g.tg.nslots - 1], r.temp[t].value, sizeof r.temp[t].value);
  }
  if (!r.ntemps && !r.m.last[0] && !r.m.last[1] && !r.m.last[2]) return job_deinit(&job), true;
  finish(&r.m);
  make_slots(&r.m, want, got);
  for (size_t s = 0; s < r.m.nstates; s++) {
    if (!want[s].bytes) continue;
    memcpy(want[s].data, r.start[s], want[s].bytes);
    memcpy(got[s].data, r.start[s], got[s].bytes);
    memcpy(r.want[s], r.cells[s], sizeof r.cells[s]);
  }
  run_both(&r.m, want, got);
  bool ok = same_slots(&r.m, want, got);
  if (!ok) printf("the plan differs from the interpreter\n");
  for (size_t s = 0; s < r.m.g.tg.nslots; s++) {
    if (!want[s].bytes || !memcmp(want[s].data, r.want[s], want[s].bytes)) continue;
    printf("slot %zu: the interpreter is wrong\n", s);
    ok = false;
  }
  free_slots(&r.m, want);
  free_slots(&r.m, got);
  job_deinit(&job);
  return ok;
}

static void at_random(void **state) {
  (void)state;
  for (int k = 0; k < programs; k++)
    if (!random_program(first_seed + (uint32_t)k)) fail_msg("seed %u", first_seed + (uint32_t)k);
}

int main(int argc, char **argv) {
  if (argc > 1) programs = atoi(argv[1]);
  if (argc > 2) first_seed = (uint32_t)strtoul(argv[2], NULL, 10);
  const struct CMUnitTest tests[] = {cmocka_unit_test(by_hand), cmocka_unit_test(at_random)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
