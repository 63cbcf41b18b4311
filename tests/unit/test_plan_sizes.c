/* Sizes of a plan with VARs: layouts that do not overlap, phases, and messages that are wrong. */
#include "daemon/worker/plan_sizes.h"
#include "tests/unit/status_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* -- layouts ------------------------------------------------------------------------------------
 */

static uint64_t state = 1;
static uint32_t below(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % n;
}

static void test_layout(void **unused) {
  (void)unused;
  enum { N = 60 };
  for (int round = 0; round < 300; round++) {
    ArenaItem items[N], *list[N];
    uint64_t bytes, most = 0;
    size_t n = 1 + below(N);
    for (size_t i = 0; i < n; i++) {
      uint32_t first = below(40);
      items[i] = (ArenaItem){.first = first, .last = first + below(10), .bytes = below(2000)};
      list[i] = &items[i];
    }
    assert_null(arena_layout(list, n, &bytes));
    for (size_t i = 0; i < n; i++) {
      assert_int_equal(items[i].offset % 64, 0);
      assert_true(items[i].offset + items[i].bytes <= bytes);
      for (size_t k = 0; k < i; k++) {
        bool meet = items[i].first <= items[k].last && items[k].first <= items[i].last;
        bool apart = items[i].offset + items[i].bytes <= items[k].offset ||
                     items[k].offset + items[k].bytes <= items[i].offset;
        assert_true(!meet || apart);
      }
      most += (items[i].bytes + 63) / 64 * 64;
    }
    assert_true(bytes <= most);
  }
}

static void test_layout_reuses(void **unused) {
  (void)unused;
  ArenaItem items[3] = {{.first = 0, .last = 1, .bytes = 100},
                        {.first = 2, .last = 3, .bytes = 128},
                        {.first = 1, .last = 2, .bytes = 64}};
  ArenaItem *list[3] = {items, items + 1, items + 2};
  uint64_t bytes;
  assert_null(arena_layout(list, 3, &bytes));
  assert_int_equal(bytes, 192);
  items[0].bytes = UINT64_MAX - 10;
  Status st = arena_layout(list, 3, &bytes);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  status_drop(st);
}

/* -- a plan: x f32[n] -> temp i64[1] (bound to m) and temp f32[n]; out f32[m + n] ----------------
 */

typedef struct Made {
  Kiln__V1__LoadExecutable load;
  Kiln__V1__Plan plan;
  Kiln__V1__PlanVar var[2], *vars[2];
  Kiln__V1__PlanBuffer buffer[5], *buffers[5];
  Kiln__V1__PlanStep step[3], *steps[3];
  Kiln__V1__PlanCall call[2], *calls[2];
  Kiln__V1__SizeProgram four_n, four_m, n, sum, four_sum, *xdims[1], *ydims[1];
  Kiln__V1__SlotShape xshape, yshape, *shapes[2];
  uint64_t in[1], out[1];
  uint32_t args[2][3], call_vars[1];
} Made;

static int64_t code_n[] = {1, 0}, code_4n[] = {1, 0, 0, 4, 4}, code_4m[] = {1, 1, 0, 4, 4};
static int64_t code_sum[] = {1, 0, 1, 1, 2}, code_4sum[] = {1, 0, 1, 1, 2, 0, 4, 4};

static Kiln__V1__SizeProgram program(int64_t *code, size_t n) {
  Kiln__V1__SizeProgram p = KILN__V1__SIZE_PROGRAM__INIT;
  p.n_code = n;
  p.code = code;
  return p;
}

static void make_buffer(Made *m, size_t i, Kiln__V1__PlanBuffer__Kind kind, uint64_t bytes,
                        Kiln__V1__SizeProgram *size, uint32_t first, uint32_t last) {
  kiln__v1__plan_buffer__init(&m->buffer[i]);
  m->buffer[i].kind = kind;
  m->buffer[i].bytes = bytes;
  m->buffer[i].size = size;
  m->buffer[i].whole = (uint32_t)i;
  m->buffer[i].first = first;
  m->buffer[i].last = last;
  m->buffers[i] = &m->buffer[i];
}

static void make_var(Made *m, size_t i, const char *name, Kiln__V1__PlanVar__Source source) {
  kiln__v1__plan_var__init(&m->var[i]);
  m->var[i].name = (char *)(uintptr_t)name;
  m->var[i].min = 1;
  m->var[i].max = 100;
  m->var[i].multiple = 1;
  m->var[i].source = source;
  m->vars[i] = &m->var[i];
}

static void make_calls(Made *m) {
  static const uint32_t args[2][3] = {{1, 0, 0}, {4, 2, 3}};
  static const uint32_t nargs[2] = {2, 3};
  memcpy(m->args, args, sizeof args);
  for (size_t i = 0; i < 2; i++) {
    kiln__v1__plan_call__init(&m->call[i]);
    m->call[i].n_args = nargs[i];
    m->call[i].args = m->args[i];
    m->calls[i] = &m->call[i];
  }
  for (size_t i = 0; i < 3; i++) {
    kiln__v1__plan_step__init(&m->step[i]);
    m->steps[i] = &m->step[i];
  }
  m->step[1].kind = KILN__V1__PLAN_STEP__KIND__BIND;
  m->step[1].var = 1;
  m->step[1].buffer = 1;
  m->step[2].call = 1;
}

static void make(Made *m) {
  memset(m, 0, sizeof *m);
  kiln__v1__load_executable__init(&m->load);
  kiln__v1__plan__init(&m->plan);
  m->n = program(code_n, 2);
  m->four_n = program(code_4n, 5);
  m->four_m = program(code_4m, 5);
  m->sum = program(code_sum, 5);
  m->four_sum = program(code_4sum, 8);
  make_var(m, 0, "n", KILN__V1__PLAN_VAR__SOURCE__INPUT);
  make_var(m, 1, "m", KILN__V1__PLAN_VAR__SOURCE__BOUND);
  make_buffer(m, 0, KILN__V1__PLAN_BUFFER__KIND__INPUT, 400, &m->four_n, 0, 0);
  make_buffer(m, 1, KILN__V1__PLAN_BUFFER__KIND__TEMP, 8, NULL, 0, 1);
  make_buffer(m, 2, KILN__V1__PLAN_BUFFER__KIND__TEMP, 400, &m->four_n, 0, 2);
  make_buffer(m, 3, KILN__V1__PLAN_BUFFER__KIND__TEMP, 400, &m->four_m, 2, 2);
  make_buffer(m, 4, KILN__V1__PLAN_BUFFER__KIND__OUTPUT, 800, &m->four_sum, 0, 0);
  m->buffer[4].slot = 1;
  make_calls(m);
  kiln__v1__slot_shape__init(&m->xshape);
  kiln__v1__slot_shape__init(&m->yshape);
  m->xdims[0] = &m->n;
  m->ydims[0] = &m->sum;
  m->xshape.dims = m->xdims;
  m->yshape.dims = m->ydims;
  m->xshape.n_dims = m->yshape.n_dims = 1;
  m->xshape.item_bytes = m->yshape.item_bytes = 4;
  m->shapes[0] = &m->xshape;
  m->shapes[1] = &m->yshape;
  m->in[0] = 400;
  m->out[0] = 800;
  m->plan.n_vars = 2, m->plan.vars = m->vars;
  m->plan.n_buffers = 5, m->plan.buffers = m->buffers;
  m->plan.n_calls = 2, m->plan.calls = m->calls;
  m->plan.n_steps = 3, m->plan.steps = m->steps;
  m->load.plan = &m->plan;
  m->load.n_shapes = 2, m->load.shapes = m->shapes;
  m->load.n_input_bytes = 1, m->load.input_bytes = m->in;
  m->load.n_output_bytes = 1, m->load.output_bytes = m->out;
}

static void test_run(void **unused) {
  (void)unused;
  Made m;
  PlanSizes *s;
  bool changed;
  int64_t vars[2] = {20, 999};
  make(&m);
  assert_null(plan_sizes_create(&m.load, &s));
  assert_int_equal(s->nphases, 2);
  for (int run = 0; run < 3; run++) {
    vars[0] = 20 + run;
    assert_null(plan_sizes_begin(s, vars, 2, &changed));
    assert_true(changed);
    assert_int_equal(s->slot_bytes[0], 4 * vars[0]);
    assert_int_equal(s->slot_bytes[1], 0); /* not known */
    assert_int_equal(s->slot_phase[1], 1);
    assert_int_equal(s->arena_bytes[0], 64 + 128); /* both are alive at step 0 */
    assert_int_equal(s->buffers[3].phase, 1);
    assert_null(plan_sizes_bind(s, 1, 50));
    assert_int_equal(s->arena_bytes[1], 256);
    assert_null(plan_sizes_open(s, 1));
    assert_int_equal(s->slot_bytes[1], 4 * (vars[0] + 50));
    assert_null(plan_sizes_end(s));
    assert_int_equal(s->slot_bytes[1], 4 * (vars[0] + 50));
    assert_int_equal(s->dims[0].dims[0], vars[0] + 50);
  }
  plan_sizes_release(s);
}

static void test_values_outside(void **unused) {
  (void)unused;
  Made m;
  PlanSizes *s;
  bool changed;
  int64_t vars[2] = {20, 0};
  make(&m);
  assert_null(plan_sizes_create(&m.load, &s));
  check_refused(plan_sizes_begin(s, vars, 1, &changed), ST_INTERNAL, "1 values");
  vars[0] = 101;
  check_refused(plan_sizes_begin(s, vars, 2, &changed), ST_INTERNAL, "'n' is 101");
  vars[0] = 20;
  assert_null(plan_sizes_begin(s, vars, 2, &changed));
  assert_true(changed);
  check_refused(plan_sizes_bind(s, 1, 0), ST_OUT_OF_RANGE,
                "'m' is 0, outside of its bounds [1, 100]");
  check_refused(plan_sizes_bind(s, 1, INT64_MIN), ST_OUT_OF_RANGE, "'m'");
  assert_null(plan_sizes_bind(s, 1, 100));
  plan_sizes_release(s);
}

/* A refused plan leaves nothing behind (sanitizers look). */
static void refused(Made *m, const char *word) {
  PlanSizes *s;
  check_refused(plan_sizes_create(&m->load, &s), ST_INTERNAL, word);
  assert_null(s);
}

static void test_wrong_plans(void **unused) {
  (void)unused;
  Made m;
  make(&m), m.var[0].slot = 1, refused(&m, "input 1");
  make(&m), m.var[0].min = 200, refused(&m, "bounds");
  make(&m), m.four_n.n_code = 4, refused(&m, "leaves 2 values");
  make(&m), m.buffer[2].whole = 9, refused(&m, "part of buffer 9");
  make(&m), m.buffer[2].whole = 0, refused(&m, "part of buffer 0");
  make(&m), m.buffer[2].last = 3, refused(&m, "lives from step 0 to 3");
  make(&m), m.buffer[2].first = 3, refused(&m, "lives from");
  make(&m), m.buffer[2].last = 1, refused(&m, "not alive");
  make(&m), m.step[0].call = 2, refused(&m, "call 2 of 2");
  make(&m), m.args[1][2] = 5, refused(&m, "buffer 5 of 5");
  make(&m), m.step[1].buffer = 7, refused(&m, "buffer 7");
  make(&m), m.step[1].var = 0, refused(&m, "never bound");
  make(&m), m.load.n_shapes = 1, refused(&m, "1 shapes");
  make(&m), m.yshape.item_bytes = 0, refused(&m, "no bytes");
  make(&m), m.buffer[0].kind = KILN__V1__PLAN_BUFFER__KIND__WEIGHT, refused(&m, "a constant");
  /* A part whose size is known later than its whole's. */
  make(&m), m.buffer[3].whole = 2, refused(&m, "sized after its whole");
}

static void test_slots_too_small(void **unused) {
  (void)unused;
  static int64_t code_5n[] = {1, 0, 0, 5, 4};
  Made m;
  PlanSizes *s;
  bool changed;
  const int64_t vars[2] = {20, 0};
  make(&m);
  m.four_n = program(code_5n, 5); /* of the buffers; the slot has 4 n bytes */
  assert_null(plan_sizes_create(&m.load, &s));
  check_refused(plan_sizes_begin(s, vars, 2, &changed), ST_INTERNAL, "100 bytes at 0 of 80");
  plan_sizes_release(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_layout),      cmocka_unit_test(test_layout_reuses),
      cmocka_unit_test(test_run),         cmocka_unit_test(test_values_outside),
      cmocka_unit_test(test_wrong_plans), cmocka_unit_test(test_slots_too_small)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
