/* Buffers that take each other's place: programs of nests, each of which makes a buffer of those
 * before it, compute the same with fewer of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/vec.h"
#include "compiler/ir/interp.h"
#include "compiler/passes/reuse.h"
#include "tests/unit/status_check.h"

enum { SIDE = 4, N = SIDE * SIDE, ROUNDS = 3, NESTS = 6 };

/* How a nest of two loops walks a buffer. All of the first two, 13 and 10 elements of the others,
 * of which several iterations share some. */
typedef enum Walk { ROWS, COLUMNS, CLOSE, CLOSER, WALKS } Walk;
static const int64_t strides[WALKS][2] = {{SIDE, 1}, {1, SIDE}, {3, 1}, {2, 1}};

typedef struct Program {
  Job job;
  UOpList list;
  UOp *round, *buffer[NESTS], *filled[NESTS];
  Walk walk[NESTS];
  int64_t ids;
} Program;

static UOp *push(Program *p, UOp *u) {
  for (size_t i = 0; i < p->list.len; i++)
    if (p->list.at[i] == u) return u;
  avec_push(&p->job.arena, &p->list, u);
  return u;
}

static UOp *loop(Program *p, int64_t n) {
  return push(p, uop_range(&p->job, p->ids++, AX_LOOP, uop_index(&p->job, n)));
}

static UOp *two(Program *p, Op op, UOp *a, UOp *b) { return push(p, uop2(&p->job, op, a, b)); }

static UOp *at(Program *p, UOp *const *loops, Walk w) {
  UOp *terms[2];
  for (int k = 0; k < 2; k++)
    terms[k] = two(p, OP_MUL, loops[k], uop_index(&p->job, strides[w][k]));
  return two(p, OP_ADD, terms[0], terms[1]);
}

static UOp *load(Program *p, UOp *from, UOp *index) {
  UOp *src[2] = {from, index};
  return push(p, uop_make_lanes(&p->job, OP_LOAD, DT_VOID, 1, arg_i(1), src, 2));
}

static UOp *store(Program *p, UOp *to, UOp *index, UOp *value) {
  UOp *src[3] = {to, index, value};
  return push(p, uop_make_lanes(&p->job, OP_STORE, DT_VOID, 1, arg_i(1), src, 3));
}

static UOp *end(Program *p, UOp *effect, UOp *range) { return two(p, OP_END, effect, range); }

static UOp *param(Program *p, int64_t slot) {
  int64_t n = ROUNDS * N;
  return push(p, uop_param(&p->job, slot, DT_I32, &n, 1));
}

static void start(Program *p) {
  *p = (Program){.ids = 0};
  job_init(&p->job, 0);
  p->round = loop(p, ROUNDS);
}

/* Nest `k` makes its buffer of what the input holds and of earlier ones, `of` of them. */
static void nest(Program *p, int k, Walk w, const int *from, const Walk *by, int of) {
  UOp *loops[2], *round = two(p, OP_MUL, p->round, uop_index(&p->job, N));
  int64_t ints[2] = {N, 0};
  p->buffer[k] = push(p, uop_make(&p->job, OP_BUFFER, DT_I32, arg_both(k, ints, 2), NULL, 0));
  for (int i = 0; i < 2; i++) loops[i] = loop(p, SIDE);
  UOp *index = at(p, loops, w);
  UOp *value = load(p, param(p, 0), two(p, OP_ADD, round, index));
  for (int i = 0; i < of; i++) {
    UOp *old = load(p, p->filled[from[i]], at(p, loops, by[i]));
    UOp *thrice = two(p, OP_MUL, value, uop_int(&p->job, DT_I32, 3));
    value = two(p, OP_ADD, thrice, old);
  }
  UOp *done = store(p, p->buffer[k], index, value);
  for (int i = 2; i-- > 0;) done = end(p, done, loops[i]);
  UOp *src[2] = {p->buffer[k], done};
  p->filled[k] = push(p, uop_make(&p->job, OP_AFTER, DT_VOID, arg_none(), src, 2));
  p->walk[k] = w;
}

static void finish(Program *p, int last) {
  UOp *loops[2], *round = two(p, OP_MUL, p->round, uop_index(&p->job, N));
  for (int i = 0; i < 2; i++) loops[i] = loop(p, SIDE);
  UOp *index = at(p, loops, p->walk[last]);
  UOp *done = store(p, param(p, 1), two(p, OP_ADD, round, index), load(p, p->filled[last], index));
  for (int i = 2; i-- > 0;) done = end(p, done, loops[i]);
  end(p, done, p->round);
}

static size_t buffers(const UOpList *list) {
  size_t n = 0;
  for (size_t i = 0; i < list->len; i++) n += list->at[i]->op == OP_BUFFER;
  return n;
}

static void interpret(Program *p, const UOpList *list, int32_t *out) {
  int32_t in[ROUNDS * N];
  for (int i = 0; i < ROUNDS * N; i++) in[i] = i * i % 101;
  memset(out, 0, sizeof in);
  InterpBuffer args[2] = {{in, sizeof in}, {out, sizeof in}};
  check(interp_linear(&p->job, list->at, list->len, args, 2, 0));
}

/* The program's buffers afterwards, which must compute the same. */
static size_t left(Program *p) {
  int32_t want[ROUNDS * N], got[ROUNDS * N];
  UOpList list = reuse_buffers(&p->job, &p->list);
  interpret(p, &p->list, want);
  interpret(p, &list, got);
  assert_memory_equal(want, got, sizeof want);
  return buffers(&list);
}

/* -- by hand ----------------------------------------------------------------------------------- */

/* Two buffers, the second made of the first. */
static size_t left_of_two(Walk filled, Walk made, Walk loaded) {
  Program p;
  start(&p);
  nest(&p, 0, filled, NULL, NULL, 0);
  nest(&p, 1, made, (int[]){0}, &loaded, 1);
  finish(&p, 1);
  size_t n = left(&p);
  job_deinit(&p.job);
  return n;
}

static void test_element_by_element(void **s) {
  (void)s;
  assert_int_equal(left_of_two(ROWS, ROWS, ROWS), 1);
  assert_int_equal(left_of_two(ROWS, COLUMNS, COLUMNS), 1);
}

static void test_other_order(void **s) {
  (void)s;
  assert_int_equal(left_of_two(ROWS, ROWS, COLUMNS), 2);
  assert_int_equal(left_of_two(ROWS, CLOSE, ROWS), 2);
}

static void test_elements_made_twice(void **s) {
  (void)s;
  assert_int_equal(left_of_two(ROWS, CLOSE, CLOSE), 2);
  assert_int_equal(left_of_two(CLOSE, CLOSER, CLOSER), 2);
}

/* The first buffer is dead when the third is made; the second is not. */
static void test_lives_apart(void **s) {
  (void)s;
  Program p;
  Walk by[2] = {COLUMNS, COLUMNS};
  start(&p);
  nest(&p, 0, ROWS, NULL, NULL, 0);
  nest(&p, 1, ROWS, (int[]){0}, by, 1);
  nest(&p, 2, ROWS, (int[]){1}, by, 1);
  finish(&p, 2);
  assert_int_equal(left(&p), 2);
  job_deinit(&p.job);
}

/* What is loaded before it is stored holds what the round before has left. */
static void test_carried(void **s) {
  (void)s;
  Program p;
  Walk by = ROWS;
  start(&p);
  int64_t ints[2] = {1, 0};
  UOp *kept = push(&p, uop_make(&p.job, OP_BUFFER, DT_I32, arg_both(9, ints, 2), NULL, 0));
  UOp *old = load(&p, kept, uop_index(&p.job, 0));
  UOp *more = two(&p, OP_ADD, old, uop_int(&p.job, DT_I32, 5));
  store(&p, kept, uop_index(&p.job, 0), more);
  nest(&p, 0, ROWS, NULL, NULL, 0);
  nest(&p, 1, ROWS, (int[]){0}, &by, 1);
  finish(&p, 1);
  assert_int_equal(left(&p), 2);
  job_deinit(&p.job);
}

/* -- random ------------------------------------------------------------------------------------ */

static uint64_t state = 7;
static int below(int n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (int)((state >> 33) % (uint64_t)n);
}

/* Loads name elements that were stored: of a buffer filled in part, its own or fewer. */
static void random_program(Program *p, int nests) {
  start(p);
  for (int k = 0; k < nests; k++) {
    int from[2], of = k ? below(3) : 0;
    Walk by[2];
    for (int i = 0; i < of; i++) {
      from[i] = below(3) ? k - 1 : below(k);
      Walk w = p->walk[from[i]];
      by[i] = w < CLOSE ? (Walk)below(WALKS) : (Walk)((int)w + below(WALKS - (int)w));
    }
    nest(p, k, (Walk)below(WALKS), from, by, of);
  }
  finish(p, nests - 1);
}

static void test_random(void **s) {
  (void)s;
  size_t before = 0, after = 0;
  for (int i = 0; i < 3000; i++) {
    Program p;
    random_program(&p, 2 + below(NESTS - 1));
    before += buffers(&p.list);
    after += left(&p);
    job_deinit(&p.job);
  }
  assert_true(after < before * 3 / 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_element_by_element),
      cmocka_unit_test(test_other_order),
      cmocka_unit_test(test_elements_made_twice),
      cmocka_unit_test(test_lives_apart),
      cmocka_unit_test(test_carried),
      cmocka_unit_test(test_random),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
