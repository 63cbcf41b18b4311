/* The three interpreters: against plain C loops, and against each other on one computation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/map.h"
#include "compiler/ir/interp.h"
#include "compiler/ir/text.h"
#include "tests/unit/status_check.h"

#define BUF(array) ((InterpBuffer){(array), sizeof(array)})

static void fill(float *at, size_t n, uint64_t seed) {
  for (size_t k = 0; k < n; k++) at[k] = (float)(int)(hash_u64(seed * 1000 + k) % 17) - 8;
}

static UOp *parse(Job *job, const char *text) {
  UOp *u;
  check(uop_parse(job, str_from(text), &u));
  return u;
}

static void run_tensor(Job *job, const char *text, InterpBuffer *slots, size_t n) {
  check(interp_tensor(job, parse(job, text), slots, n));
}

/* A convolution written as windows: 2 channels in, 3 out, 5x6 image padded by 1, kernel 3x3. */
static void test_convolution(void **state) {
  (void)state;
  enum { C = 2, O = 3, H = 5, W = 6, K = 3 };
  static float x[C][H][W], w[O][C][K][K], y[O][H][W];
  Job job;
  job_init(&job, 0);
  fill(&x[0][0][0], C * H * W, 1);
  fill(&w[0][0][0][0], O * C * K * K, 2);
  run_tensor(&job,
             "%0 = PARAM f32 [0; 3, 5, 6]\n"
             "%1 = PARAM f32 [1; 2, 5, 6]\n"
             "%2 = PARAM f32 [2; 3, 2, 3, 3]\n"
             "%3 = CONST f32 [0x0p+0]\n"
             "%4 = PAD f32 [; 0, 0, 1, 1, 1, 1] (%1, %3)\n"
             "%5 = WINDOW f32 [; 1, 3, 1, 1] (%4)\n"
             "%6 = WINDOW f32 [; 3, 3, 1, 1] (%5)\n" /* c h kh w kw */
             "%7 = PERMUTE f32 [; 1, 3, 0, 2, 4] (%6)\n"
             "%8 = RESHAPE f32 [; 1, 5, 6, 2, 3, 3] (%7)\n"
             "%9 = EXPAND f32 [; 3, 5, 6, 2, 3, 3] (%8)\n"
             "%10 = RESHAPE f32 [; 3, 1, 1, 2, 3, 3] (%2)\n"
             "%11 = EXPAND f32 [; 3, 5, 6, 2, 3, 3] (%10)\n"
             "%12 = MUL f32 (%9, %11)\n"
             "%13 = REDUCE f32 [ADD; 3, 4, 5] (%12)\n"
             "%14 = RESHAPE f32 [; 3, 5, 6] (%13)\n"
             "%15 = STORE void [0] (%0, %14)\n"
             "%16 = SINK void (%15)\n",
             (InterpBuffer[]){BUF(y), BUF(x), BUF(w)}, 3);
  for (int o = 0; o < O; o++) {
    for (int h = 0; h < H; h++) {
      for (int v = 0; v < W; v++) {
        float sum = 0;
        for (int c = 0; c < C; c++) {
          for (int a = 0; a < K; a++) {
            for (int b = 0; b < K; b++) {
              int p = h + a - 1, q = v + b - 1;
              if (p >= 0 && p < H && q >= 0 && q < W) sum += x[c][p][q] * w[o][c][a][b];
            }
          }
        }
        assert_true(sum == y[o][h][v]);
      }
    }
  }
  job_deinit(&job);
}

static void test_movement(void **state) {
  (void)state;
  static float x[4][5], y[6][7], z[3][8];
  static int64_t index[3] = {2, -1, 4};
  static float g[4][3];
  Job job;
  job_init(&job, 0);
  fill(&x[0][0], 20, 3);
  run_tensor(&job,
             "%0 = PARAM f32 [0; 6, 7]\n"
             "%1 = PARAM f32 [1; 4, 5]\n"
             "%2 = FLIP f32 [; 1] (%1)\n"
             "%3 = CONST f32 [0x1.cp+2]\n"
             "%4 = PAD f32 [; 2, 0, 0, 2] (%2, %3)\n"
             "%5 = STORE void [0] (%0, %4)\n"
             "%6 = PARAM f32 [2; 3, 8]\n"
             "%7 = SHRINK f32 [; 1, 4, 1, 5] (%2)\n"
             "%8 = NEG f32 (%7)\n"
             "%9 = CAT f32 [1] (%7, %8)\n"
             "%10 = STORE void [0] (%6, %9)\n"
             "%11 = PARAM i64 [3; 3]\n"
             "%12 = GATHER f32 [1] (%2, %11)\n"
             "%13 = PARAM f32 [4; 4, 3]\n"
             "%14 = STORE void [0] (%13, %12)\n"
             "%15 = SINK void (%5, %10, %14)\n",
             (InterpBuffer[]){BUF(y), BUF(x), BUF(z), BUF(index), BUF(g)}, 5);
  for (int a = 0; a < 6; a++) {
    for (int b = 0; b < 7; b++) assert_true(y[a][b] == (a < 2 || b > 4 ? 7 : x[a - 2][4 - b]));
  }
  for (int a = 0; a < 3; a++) {
    for (int b = 0; b < 8; b++) {
      assert_true(z[a][b] == (b < 4 ? x[a + 1][3 - b] : -x[a + 1][3 - (b - 4)]));
    }
  }
  for (int a = 0; a < 4; a++) {
    assert_true(g[a][0] == x[a][2] && g[a][1] == 0 && g[a][2] == x[a][0]);
  }
  job_deinit(&job);
}

/* Larger than a chunk, with values used twice, rank-0 operands, and an empty reduction. */
static void test_chunks(void **state) {
  (void)state;
  enum { N = 5000 };
  static float x[N], y[N], e[1] = {1};
  static int32_t pos[N];
  Job job;
  job_init(&job, 0);
  fill(x, N, 9);
  run_tensor(&job,
             "%0 = PARAM f32 [0; 5000]\n"
             "%1 = PARAM f32 [1; 5000]\n"
             "%2 = CONST f32 [0x1p+1]\n"
             "%3 = MUL f32 (%2, %1)\n"
             "%4 = ADD f32 (%3, %3)\n"
             "%5 = REDUCE f32 [MAX; 0] (%4)\n"
             "%6 = EXPAND f32 [; 5000] (%5)\n"
             "%7 = SUB f32 (%4, %6)\n"
             "%8 = STORE void [0] (%0, %7)\n"
             "%9 = IOTA i32 [0; 5000]\n"
             "%10 = PARAM i32 [2; 5000]\n"
             "%11 = STORE void [0] (%10, %9)\n"
             "%12 = SHRINK f32 [; 3, 3] (%1)\n"
             "%13 = REDUCE f32 [MIN; 0] (%12)\n"
             "%14 = PARAM f32 [3; 1]\n"
             "%15 = STORE void [0] (%14, %13)\n"
             "%16 = SINK void (%8, %11, %15)\n",
             (InterpBuffer[]){BUF(y), BUF(x), BUF(pos), BUF(e)}, 4);
  for (int k = 0; k < N; k++) assert_true(y[k] == 4 * x[k] - 32 && pos[k] == k);
  assert_true(isinf(e[0]) && e[0] > 0);
  job_deinit(&job);
}

/* out[m][n] = sum over k of a[m][k] b[k][n], as a ranged kernel and as a linear program with
 * vectors of 4 columns and a register accumulator. */
static const char matmul_ranged[] = "%0 = PARAM f32 [0; 24]\n"
                                    "%1 = PARAM f32 [1; 15]\n"
                                    "%2 = PARAM f32 [2; 40]\n"
                                    "%3 = CONST index [3]\n"
                                    "%4 = CONST index [5]\n"
                                    "%5 = CONST index [8]\n"
                                    "%6 = RANGE index [0; LOOP] (%3)\n"
                                    "%7 = RANGE index [1; LOOP] (%5)\n"
                                    "%8 = RANGE index [2; REDUCE] (%4)\n"
                                    "%9 = MUL index (%6, %4)\n"
                                    "%10 = ADD index (%9, %8)\n"
                                    "%11 = INDEX f32 (%1, %10)\n"
                                    "%12 = MUL index (%8, %5)\n"
                                    "%13 = ADD index (%12, %7)\n"
                                    "%14 = INDEX f32 (%2, %13)\n"
                                    "%15 = MUL f32 (%11, %14)\n"
                                    "%16 = REDUCE f32 [ADD] (%15, %8)\n"
                                    "%17 = MUL index (%6, %5)\n"
                                    "%18 = ADD index (%17, %7)\n"
                                    "%19 = STORE void [0] (%0, %18, %16)\n"
                                    "%20 = END void (%19, %6, %7)\n"
                                    "%21 = SINK void (%20)\n";

static UOp *make(Job *job, Op op, unsigned lanes, Arg arg, UOp *const *src, size_t n) {
  return uop_make_lanes(job, op, DT_VOID, lanes, arg, src, n);
}

static size_t matmul_linear(Job *job, UOp **list) {
  UOp *out = uop_param(job, 0, DT_F32, (int64_t[]){24}, 1);
  UOp *a = uop_param(job, 1, DT_F32, (int64_t[]){15}, 1);
  UOp *b = uop_param(job, 2, DT_F32, (int64_t[]){40}, 1);
  UOp *acc = uop_make_lanes(job, OP_BUFFER, DT_F32, 4, arg_both(0, (int64_t[]){1, 1}, 2), NULL, 0);
  UOp *zero = uop_index(job, 0), *eight = uop_index(job, 8), *splat0 = uop_float(job, DT_F32, 0);
  UOp *m = uop_range(job, 0, AX_LOOP, uop_index(job, 3));
  UOp *n = uop_range(job, 1, AX_LOOP, uop_index(job, 2));
  UOp *k = uop_range(job, 2, AX_REDUCE, uop_index(job, 5));
  UOp *zeros = make(job, OP_BROADCAST, 4, arg_none(), &splat0, 1);
  UOp *column = uop2(job, OP_MUL, n, uop_index(job, 4));
  UOp *init = make(job, OP_STORE, 4, arg_i(1), (UOp *[]){acc, zero, zeros}, 3);
  UOp *started = make(job, OP_AFTER, 0, arg_none(), (UOp *[]){acc, init, m, n}, 4);
  UOp *ai = uop2(job, OP_ADD, uop2(job, OP_MUL, m, uop_index(job, 5)), k);
  UOp *x = make(job, OP_LOAD, 1, arg_i(1), (UOp *[]){a, ai}, 2);
  UOp *xs = make(job, OP_BROADCAST, 4, arg_none(), &x, 1);
  UOp *bi = uop2(job, OP_ADD, uop2(job, OP_MUL, k, eight), column);
  UOp *y = make(job, OP_LOAD, 4, arg_i(1), (UOp *[]){b, bi}, 2);
  UOp *old = make(job, OP_LOAD, 4, arg_i(1), (UOp *[]){started, zero}, 2);
  UOp *next = uop3(job, OP_MULACC, xs, y, old);
  UOp *update = make(job, OP_STORE, 4, arg_i(1), (UOp *[]){started, zero, next}, 3);
  UOp *endk = uop2(job, OP_END, update, k);
  UOp *done = uop2(job, OP_AFTER, acc, endk);
  UOp *sum = make(job, OP_LOAD, 4, arg_i(1), (UOp *[]){done, zero}, 2);
  UOp *oi = uop2(job, OP_ADD, uop2(job, OP_MUL, m, eight), column);
  UOp *store = make(job, OP_STORE, 4, arg_i(1), (UOp *[]){out, oi, sum}, 3);
  UOp *endn = uop2(job, OP_END, store, n), *endm = uop2(job, OP_END, endn, m);
  UOp *all[] = {m,    n,   zeros,      column, init,  started, k,    ai->src[0], ai,
                x,    xs,  bi->src[0], bi,     y,     old,     next, update,     endk,
                done, sum, oi->src[0], oi,     store, endn,    endm};
  memcpy(list, all, sizeof all);
  return sizeof all / sizeof *all;
}

static void test_matmul_three_ways(void **state) {
  (void)state;
  static float a[3][5], b[5][8], ranged[3][8], linear[3][8];
  Job job;
  UOp *list[64];
  job_init(&job, 0);
  fill(&a[0][0], 15, 4);
  fill(&b[0][0], 40, 5);
  UOp *kernel = parse(&job, matmul_ranged);
  assert_null(interp_kernel(&job, kernel, (InterpBuffer[]){BUF(ranged), BUF(a), BUF(b)}, 3));
  size_t n = matmul_linear(&job, list);
  check(interp_linear(&job, list, n, (InterpBuffer[]){BUF(linear), BUF(a), BUF(b)}, 3, 0));
  for (int i = 0; i < 3; i++) {
    for (int j = 0; j < 8; j++) {
      float sum = 0;
      for (int k = 0; k < 5; k++) sum += a[i][k] * b[k][j];
      assert_true(ranged[i][j] == sum);
      assert_true(linear[i][j] == sum);
    }
  }
  job_deinit(&job);
}

static void test_bad_accesses(void **state) {
  (void)state;
  static float a[3][5], b[5][8], out[3][8];
  Job job;
  UOp *list[64];
  job_init(&job, 0);
  UOp *kernel = parse(&job, matmul_ranged);
  InterpBuffer shorter[] = {BUF(out), {a, 14 * sizeof(float)}, BUF(b)};
  Status st = interp_kernel(&job, kernel, shorter, 3);
  char why[256];
  status_text(st, why, sizeof why);
  assert_int_equal(status_code(st), ST_INTERNAL);
  assert_non_null(strstr(why, "PARAM 1: element 14 of 14"));
  status_drop(st);
  size_t n = matmul_linear(&job, list);
  st = interp_linear(&job, list, n, shorter, 3, 0);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  st = interp_linear(&job, list, n - 1, shorter, 3, 0); /* a loop stays open */
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  st = interp_kernel(&job, kernel, shorter, 2);
  assert_int_equal(status_code(st), ST_INTERNAL);
  status_drop(st);
  job_deinit(&job);
}

/* Gates, alternatives, strides, vector indices, masks per lane, horizontal sums. */
static void test_vectors(void **state) {
  (void)state;
  static float x[16], y[4];
  Job job;
  job_init(&job, 0);
  for (int k = 0; k < 16; k++) x[k] = (float)(1 << k);
  UOp *root = parse(&job, "%0 = PARAM f32 [0; 4]\n"
                          "%1 = PARAM f32 [1; 16]\n"
                          "%2 = RAMP indexx4 [0]\n"
                          "%3 = CONST indexx4 [3]\n"
                          "%4 = MUL indexx4 (%2, %3)\n"
                          "%5 = LOAD f32x4 [0] (%1, %4)\n" /* 0 3 6 9 */
                          "%6 = CONST index [14]\n"
                          "%7 = CONST indexx4 [2]\n"
                          "%8 = CMPLT boolx4 (%2, %7)\n"
                          "%9 = CONST f32x4 [0x1p-1]\n"
                          "%10 = LOAD f32x4 [1] (%1, %6, %8, %9)\n" /* 14 15 alt alt */
                          "%11 = ADD f32x4 (%5, %10)\n"
                          "%12 = CONST index [1]\n"
                          "%13 = LOAD f32x4 [4] (%1, %12)\n" /* 1 5 9 13 */
                          "%14 = HREDUCE f32 [ADD] (%13)\n"
                          "%15 = BROADCAST f32x4 (%14)\n"
                          "%16 = ADD f32x4 (%11, %15)\n"
                          "%17 = CONST index [0]\n"
                          "%18 = CMPNE boolx4 (%2, %7)\n"
                          "%19 = STORE voidx4 [1] (%0, %17, %16, %18)\n"
                          "%20 = SINK void (%19)\n");
  UOpList list = uop_toposort(&job, root);
  check(interp_linear(&job, list.at, list.len, (InterpBuffer[]){BUF(y), BUF(x)}, 2, 0));
  float h = x[1] + x[5] + x[9] + x[13];
  assert_true(y[0] == x[0] + x[14] + h && y[1] == x[3] + x[15] + h);
  assert_true(y[2] == 0 && y[3] == x[9] + 0.5f + h);
  job_deinit(&job);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_convolution),  cmocka_unit_test(test_movement),
      cmocka_unit_test(test_chunks),       cmocka_unit_test(test_matmul_three_ways),
      cmocka_unit_test(test_bad_accesses), cmocka_unit_test(test_vectors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
