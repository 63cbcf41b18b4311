/* The shape of what expand, lower and linearize make: which loops there are, what stands in them,
 * and what was shared, fused or moved out. That it computes the right thing is test_schedule's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/linsum.h"
#include "compiler/passes/lower.h"
#include "compiler/passes/schedule.h"
#include "tests/unit/zoo.h"

static const Target target = {.kind = "cpu",
                              .vector_bytes = 64,
                              .vector_registers = 32,
                              .threads = 2,
                              .l1_bytes = 48 << 10,
                              .l2_bytes = 2 << 20};

typedef struct Made {
  Job job;
  Linear linear;
} Made;

static void made(Made *m, ZooKernel k, const char *opts) {
  OptList list;
  assert_null(opts_parse(&m->job, str_from(opts), &list));
  UOp *u = schedule_apply(&m->job, k.sink, &target, &list);
  u = lower_kernel(&m->job, expand_kernel(&m->job, u, &target), &target);
  m->linear = linearize_kernel(&m->job, u, &target);
}

/* Nodes of that op (and lanes, unless 0) at that loop depth (-1: any). */
static int count(const Made *m, Op op, unsigned lanes, int depth) {
  int n = 0, at = 0;
  for (size_t i = 0; i < m->linear.len; i++) {
    const UOp *u = m->linear.list[i];
    if (u->op == OP_END) at--;
    n += u->op == op && (!lanes || u->lanes == lanes) && (depth < 0 || depth == at);
    if (u->op == OP_RANGE) at++;
  }
  return n;
}

static void register_tile(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  made(&m, zoo_matmul(&m.job, DT_F32, 16, 64, 32, false),
       "VECTOR(1,16) UPCAST(1,2) UPCAST(0,8) ORDER(1,0) STAGE(1,1)");
  assert_int_equal(count(&m, OP_MULACC, 16, 3), 16);     /* 8 rows of 2 vectors, in the k loop */
  assert_int_equal(count(&m, OP_MULACC, 0, -1), 16);     /* nothing else multiplies */
  assert_int_equal(count(&m, OP_RANGE, 0, -1), 4);       /* panels, copy, rows, k */
  assert_int_equal(count(&m, OP_BROADCAST, 16, 3), 8);   /* one per row, for both vectors */
  assert_int_equal(m.linear.scratch_bytes, 32 * 32 * 4); /* K by the panel's width */
  assert_int_equal(m.linear.threads, 1);
  job_deinit(&m.job);
}

/* The most vectors computed in loops and still to be used, at any place; accumulators apart. */
static int most_alive(const Made *m) {
  int most = 0;
  for (size_t at = 0; at < m->linear.len; at++) {
    int alive = 0;
    for (size_t i = 0; i <= at; i++) {
      UOp *u = m->linear.list[i];
      bool used = false;
      for (size_t k = at + 1; k < m->linear.len; k++)
        for (uint32_t s = 0; s < m->linear.list[k]->nsrc; s++)
          used |= m->linear.list[k]->src[s] == u;
      alive += used && u->lanes == 16 && (u->op == OP_BROADCAST || u->op == OP_LOAD) &&
               u->src[0]->op != OP_BUFFER && u->src[0]->op != OP_AFTER;
    }
    if (alive > most) most = alive;
  }
  return most;
}

/* All accumulators take a step together: with four steps written out, only the columns of one step
 * and an element of its rows are alive beside them. */
static void tiles_go_step_by_step(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  made(&m, zoo_matmul(&m.job, DT_F32, 14, 32, 32, false),
       "VECTOR(1,16) UPCAST(1,2) UPCAST(0,14) UNROLL(2,4)");
  assert_int_equal(count(&m, OP_MULACC, 16, -1), 14 * 2 * 4);
  assert_true(most_alive(&m) <= 5);
  job_deinit(&m.job);
}

static void shared_loops(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  /* Mean and mean of squares: one loop over the row, then the loop of the output. */
  made(&m, zoo_layernorm(&m.job, 4, 40, true), "");
  assert_int_equal(count(&m, OP_RANGE, 0, -1), 3);
  job_deinit(&m.job);
  m = (Made){0};
  job_init(&m.job, 0);
  /* Squared differences need the mean first. */
  made(&m, zoo_layernorm(&m.job, 4, 40, false), "");
  assert_int_equal(count(&m, OP_RANGE, 0, -1), 4);
  job_deinit(&m.job);
}

static void invariants_move_out(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  ZooConv v = {.n = 1, .c = 8, .h = 16, .w = 16, .oc = 4, .kh = 3, .kw = 3, .stride = 1, .pad = 1};
  made(&m, zoo_conv(&m.job, v), "VECTOR(2,16) UNROLL(4,3) UNROLL(5,3)");
  /* Loops: channel out, row, channel in; no comparison is left in the innermost. */
  assert_int_equal(count(&m, OP_RANGE, 0, -1), 3);
  assert_int_equal(count(&m, OP_CMPLT, 0, 3) + count(&m, OP_CMPLE, 0, 3), 0);
  assert_true(count(&m, OP_CMPLT, 0, -1) + count(&m, OP_CMPLE, 0, -1) > 0);
  /* The middle column needs no gate along the row: 3 of 9 loads have none or a scalar one. */
  int ungated = 0;
  for (size_t i = 0; i < m.linear.len; i++) {
    const UOp *u = m.linear.list[i];
    ungated += u->op == OP_LOAD && u->lanes == 16 && u->src[0]->op == OP_PARAM &&
               (u->nsrc < 3 || u->src[2]->lanes == 1);
  }
  assert_int_equal(ungated, 3);
  job_deinit(&m.job);
}

static void packed_window_is_one_loop(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  ZooConv v = {.n = 1, .c = 8, .h = 16, .w = 16, .oc = 8, .kh = 3, .kw = 3, .stride = 1, .pad = 1};
  made(&m, zoo_conv(&m.job, v), "MERGE(1,2) VECTOR(1,16) UPCAST(0,4) ORDER(0,1) STAGE(1,0)");
  /* Panels; channel, row and column of the copy; output channels; one loop over all three. */
  assert_int_equal(count(&m, OP_RANGE, 0, -1), 6);
  assert_int_equal(count(&m, OP_RANGE, 0, 2), 2); /* the copy's rows, and that loop */
  job_deinit(&m.job);
}

static void accumulator_chains(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  made(&m, zoo_sum(&m.job, DT_F32, OP_ADD, 4, 256, 0), "VECTOR(1,16) UNROLL(1,8)");
  assert_int_equal(count(&m, OP_BUFFER, 16, -1), 8);
  assert_int_equal(count(&m, OP_HREDUCE, 0, -1), 1);
  job_deinit(&m.job);
}

static void threads_take_chunks(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  made(&m, zoo_elementwise(&m.job, 640), "VECTOR(0,16) UPCAST(0,4) THREAD(0,4)");
  assert_int_equal(m.linear.threads, 4);
  /* Ten tiles over four threads: chunks of three. */
  for (size_t i = 0; i < m.linear.len; i++)
    if (m.linear.list[i]->op == OP_RANGE) assert_true(uop_is_int(m.linear.list[i]->src[0], 3));
  job_deinit(&m.job);
}

static void quotients_split(void **state) {
  (void)state;
  Job job;
  job_init(&job, 0);
  UOp *a = uop_range(&job, 0, AX_LOOP, uop_index(&job, 10));
  UOp *v = uop_range(&job, 1, AX_VECTOR, uop_index(&job, 16));
  UOp *x = uop2(&job, OP_ADD, uop2(&job, OP_MUL, a, uop_index(&job, 16)), v);
  UOp *c = uop_index(&job, 32), *two = uop_index(&job, 2);
  UOp *q = linsum_simplify(&job, uop2(&job, OP_FLOORDIV, x, c));
  assert_ptr_equal(q, uop2(&job, OP_FLOORDIV, a, two));
  UOp *r = linsum_simplify(&job, uop2(&job, OP_FLOORMOD, x, c));
  assert_false(uop_is_open(r->src[0], v) && uop_is_open(r->src[1], v));
  assert_true(uop_is_open(r, v));
  /* c * (x / c) + x mod c is x again. */
  UOp *both =
      uop2(&job, OP_ADD,
           uop2(&job, OP_MUL, uop2(&job, OP_FLOORDIV, v, uop_index(&job, 5)), uop_index(&job, 5)),
           uop2(&job, OP_FLOORMOD, v, uop_index(&job, 5)));
  assert_ptr_equal(linsum_simplify(&job, both), v);
  job_deinit(&job);
}

/* What the least feature set of native.def adds to the target above. */
static void made_natively(Made *m, ZooKernel k, const char *opts) {
  Target native = target;
  OptList list;
  native.features = "+avx512f,+avx512dq";
  assert_null(opts_parse(&m->job, str_from(opts), &list));
  UOp *u = schedule_apply(&m->job, k.sink, &native, &list);
  u = lower_kernel(&m->job, expand_kernel(&m->job, u, &native), &native);
  m->linear = linearize_kernel(&m->job, u, &native);
}

/* The larger of two numbers, and beside it whether they are numbers: of two vectors at once. */
static void maximum_of_numbers(void **state) {
  (void)state;
  for (int wide = 0; wide < 2; wide++) {
    Made m = {0};
    job_init(&m.job, 0);
    ZooKernel k = zoo_sum(&m.job, wide ? DT_F64 : DT_F32, OP_MAX, 4, 128, 0);
    made_natively(&m, k, wide ? "VECTOR(1,8) UNROLL(1,4)" : "VECTOR(1,16) UNROLL(1,4)");
    assert_int_equal(count(&m, OP_MAXNUM, 0, 2), 4);
    assert_int_equal(count(&m, OP_CMPEQ, 0, 2), 4);
    assert_int_equal(count(&m, OP_AND, 0, 2), 4); /* two pairs, and each into the flag */
    assert_int_equal(count(&m, OP_MAX, 0, 2), 0);
    assert_int_equal(count(&m, OP_WHERE, 0, 1), 1); /* once per row */
    job_deinit(&m.job);
  }
}

/* A target without the instruction, and integers, have no use for it. */
static void maximum_of_others(void **state) {
  (void)state;
  Made m = {0};
  job_init(&m.job, 0);
  made(&m, zoo_sum(&m.job, DT_F32, OP_MAX, 4, 128, 0), "VECTOR(1,16) UNROLL(1,4)");
  assert_int_equal(count(&m, OP_MAXNUM, 0, -1), 0);
  made_natively(&m, zoo_sum(&m.job, DT_I32, OP_MAX, 4, 128, 0), "VECTOR(1,16) UNROLL(1,4)");
  assert_int_equal(count(&m, OP_MAXNUM, 0, -1), 0);
  job_deinit(&m.job);
}

/* The loop that takes exponentials asks for the lines of the result and of the next row; where all
 * of it is in a cache nothing is asked for. */
static void rows_ahead(void **state) {
  (void)state;
  for (int large = 0; large < 2; large++) {
    Made m = {0};
    job_init(&m.job, 0);
    made(&m, zoo_softmax(&m.job, large ? 4096 : 64, 1024, false),
         "VECTOR(1,16) UPCAST(1,4) VECTOR(2,16) UNROLL(2,4) KEEP(0,1)");
    assert_int_equal(count(&m, OP_PREFETCH, 0, 2), large ? 8 : 0);
    assert_int_equal(count(&m, OP_PREFETCH, 0, -1), large ? 8 : 0);
    job_deinit(&m.job);
  }
}

/* Reads that are asked for, at that loop depth (-1: any). */
static int asked(const Made *m, int depth) {
  int n = 0, at = 0;
  for (size_t i = 0; i < m->linear.len; i++) {
    const UOp *u = m->linear.list[i];
    if (u->op == OP_END) at--;
    n += u->op == OP_PREFETCH && u->arg.i == 1 && (depth < 0 || depth == at);
    if (u->op == OP_RANGE) at++;
  }
  return n;
}

/* Each tile asks for its share of the next panel: of 64 rows of 6 lines two, when 32 tiles use a
 * panel. Not where all of the operand is close, nor for so much at once that it would be waited
 * for, nor where what is computed hides nothing. */
static void panels_ahead(void **state) {
  (void)state;
  static const struct {
    int64_t rows, columns, depth;
    const char *opts;
    int asked;
  } cases[] = {
      {128, 768, 768,
       "SPLIT(2,64) VECTOR(1,16) UPCAST(1,6) UPCAST(0,4) ORDER(0,1) STAGE(1,1) CARRY(3,0)", 12},
      {128, 768, 64,
       "SPLIT(2,32) VECTOR(1,16) UPCAST(1,6) UPCAST(0,4) ORDER(0,1) STAGE(1,1) CARRY(3,0)", 0},
      {128, 768, 768, "VECTOR(1,16) UPCAST(1,6) UPCAST(0,4) ORDER(0,1) STAGE(1,1)", 0},
      {8, 768, 768,
       "SPLIT(2,64) VECTOR(1,16) UPCAST(1,2) UPCAST(0,4) ORDER(0,1) STAGE(1,1) CARRY(3,0)", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Made m = {0};
    job_init(&m.job, 0);
    made(&m, zoo_matmul(&m.job, DT_F32, cases[i].rows, cases[i].columns, cases[i].depth, false),
         cases[i].opts);
    assert_int_equal(asked(&m, 3), cases[i].asked);
    assert_int_equal(asked(&m, -1), cases[i].asked);
    job_deinit(&m.job);
  }
}

/* y[p, m, l] = the sum over a and b of x[a, m, b] w[p, a, b, l] */
static ZooKernel laid_out(Job *job, int64_t panels) {
  enum { ROWS = 49, A = 16, B = 32, LANES = 32 };
  Zoo z = {.job = job};
  UOp *y = zoo_param(&z, DT_F32, panels * ROWS * LANES),
      *x = zoo_param(&z, DT_F32, (int64_t)ROWS * A * B),
      *w = zoo_param(&z, DT_F32, panels * A * B * LANES);
  (void)y;
  UOp *p = zoo_range(&z, AX_LOOP, panels), *m = zoo_range(&z, AX_LOOP, ROWS),
      *l = zoo_range(&z, AX_LOOP, LANES), *k[2];
  k[0] = zoo_range(&z, AX_REDUCE, A);
  k[1] = zoo_range(&z, AX_REDUCE, B);
  UOp *step = zoo_add(&z, zoo_mul(&z, k[0], B), k[1]);
  UOp *xi = zoo_add(&z, zoo_mul(&z, zoo_add(&z, zoo_mul(&z, k[0], ROWS), m), B), k[1]);
  UOp *wi = zoo_add(&z, zoo_mul(&z, zoo_add(&z, zoo_mul(&z, p, A * B), step), LANES), l);
  UOp *v = uop2(job, OP_MUL, zoo_load(&z, x, xi, NULL), zoo_load(&z, w, wi, NULL));
  UOp *yi = zoo_add(&z, zoo_mul(&z, zoo_add(&z, zoo_mul(&z, p, ROWS), m), LANES), l);
  return zoo_done(&z, "laid_out", yi, uop_reduce(job, OP_ADD, v, k, 2));
}

/* A panel of 1024 lines that nobody copies, used by 7 tiles in 16 loops each: 10 in each of them,
 * where all panels are a MiB. */
static void panels_in_place(void **state) {
  (void)state;
  for (int64_t panels = 8; panels <= 16; panels += 8) {
    Made m = {0};
    job_init(&m.job, 0);
    made(&m, laid_out(&m.job, panels), "VECTOR(2,16) UPCAST(2,2) UPCAST(1,7) ORDER(1,2)");
    assert_int_equal(asked(&m, 3), panels == 16 ? 10 : 0);
    job_deinit(&m.job);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(register_tile),
      cmocka_unit_test(tiles_go_step_by_step),
      cmocka_unit_test(shared_loops),
      cmocka_unit_test(invariants_move_out),
      cmocka_unit_test(packed_window_is_one_loop),
      cmocka_unit_test(accumulator_chains),
      cmocka_unit_test(threads_take_chunks),
      cmocka_unit_test(quotients_split),
      cmocka_unit_test(maximum_of_numbers),
      cmocka_unit_test(maximum_of_others),
      cmocka_unit_test(rows_ahead),
      cmocka_unit_test(panels_ahead),
      cmocka_unit_test(panels_in_place),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
