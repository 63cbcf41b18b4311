/* The backend's memory accesses, loops, registers and horizontal reductions: strides, gates and
 * gathers next to unreadable pages, tiles, index vectors, accumulators. */
#include <sys/mman.h>

#include "tests/unit/linear_code.h"

/* -- memory
 * ---------------------------------------------------------------------------------------------- */

static const DType memory_dtypes[] = {DT_F32, DT_F64, DT_I8, DT_BOOL, DT_F16, DT_BF16, DT_I32};
enum { NMEMORY = sizeof memory_dtypes / sizeof *memory_dtypes, PAGE = 4096 };

/* n elements that end at an unreadable page (after) or begin behind one. */
typedef struct Guarded {
  uint8_t *map, *at;
} Guarded;

static Guarded guarded(DType d, size_t n, bool after) {
  size_t bytes = n * dtype_info[d].bytes;
  Guarded g = {
      .map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
  assert_true(g.map != MAP_FAILED && bytes <= 2 * PAGE);
  mprotect(g.map, PAGE, PROT_NONE);
  mprotect(g.map + 3 * PAGE, PAGE, PROT_NONE);
  g.at = after ? g.map + 3 * PAGE - bytes : g.map + PAGE;
  for (size_t i = 0; i < n; i++) scalar_store(d, any_value(d), g.at + i * dtype_info[d].bytes);
  return g;
}
static void unguard(Guarded g) { munmap(g.map, 4 * PAGE); }

static Scalar element(DType d, const void *base, int64_t i) {
  return scalar_load(d, (const uint8_t *)base + i * dtype_info[d].bytes);
}

enum { NONE, SCALAR_GATE, VECTOR_GATE };

/* out[l] = buf[first + l * stride], gated or not, as a load and as a store. A false gate stands at
 * every third lane, or is the scalar gate's value for odd `variant`. */
static void run_access(DType d, unsigned lanes, int64_t stride, int gate, int variant) {
  char what[96];
  int64_t span = (int64_t)(lanes - 1) * (stride < 0 ? -stride : stride) + 1;
  int64_t first = stride < 0 ? span - 1 : 0;
  bool off = gate == SCALAR_GATE && variant % 2;
  snprintf(what, sizeof what, "%s x%u stride %lld gate %d.%d on %s", dtype_info[d].name, lanes,
           (long long)stride, gate, variant, target.cpu);
  begin();
  Guarded buf = guarded(d, (size_t)span, variant / 2 % 2), out = guarded(d, lanes, true);
  Guarded mask = guarded(DT_BOOL, lanes, true);
  for (unsigned i = 0; i < lanes; i++) mask.at[i] = i % 3 != 1;
  if (gate == SCALAR_GATE) mask.at[0] = !off;
  Code c = {.nargs = 5};
  UOp *src = param(1, d, span), *dst = param(0, d, lanes), *sdst = param(3, d, span);
  /* An access that is gated off must not use its index. */
  UOp *at = push(&c, uop_index(&job, off ? first + ((int64_t)1 << 40) : first)), *g = NULL, *v;
  if (gate) {
    g = load(&c, param(2, DT_BOOL, lanes), uop_index(&job, 0), gate == VECTOR_GATE ? lanes : 1, 1);
    UOp *alt = splat(&c, push(&c, uop_number(&job, d, 1)), lanes);
    v = load_if(&c, src, at, lanes, stride, g, variant >= 4 ? alt : NULL);
  } else {
    v = load(&c, src, at, lanes, stride);
  }
  store(&c, dst, uop_index(&job, 0), v, 1);
  UOp *x = load(&c, param(4, d, lanes), uop_index(&job, 0), lanes, 1);
  if (g) {
    store_if(&c, sdst, at, x, stride, g);
  } else {
    store(&c, sdst, at, x, stride);
  }
  Guarded sout = guarded(d, (size_t)span, variant / 2 % 2), sin = guarded(d, lanes, true);
  uint8_t before[2 * PAGE];
  size_t item = dtype_info[d].bytes;
  memcpy(before, sout.at, (size_t)span * item);
  run(&c, (void *[]){out.at, buf.at, mask.at, sout.at, sin.at});
  for (unsigned l = 0; l < lanes; l++) {
    bool on = gate == NONE || (gate == SCALAR_GATE ? !off : mask.at[l]);
    Scalar want = scalar_wrap(d, (Scalar){0});
    if (on) {
      want = element(d, buf.at, first + l * stride);
    } else if (variant >= 4) {
      want = uop_const_value(uop_number(&job, d, 1));
    }
    expect(d, out.at, l, want, 0, what);
    if (stride == 0) continue; /* lanes overwrite each other */
    int64_t place = first + l * stride;
    Scalar stored = on ? element(d, sin.at, l) : element(d, before, place);
    expect(d, sout.at, (size_t)place, stored, 0, what);
  }
  unguard(buf), unguard(out), unguard(mask), unguard(sout), unguard(sin);
  finish();
}

static void run_accesses(DType d, unsigned lanes, int64_t stride) {
  run_access(d, lanes, stride, NONE, 0);
  run_access(d, lanes, stride, NONE, 2);
  for (int variant = 0; variant < 8; variant++) {
    run_access(d, lanes, stride, SCALAR_GATE, variant);
    if (lanes > 1) run_access(d, lanes, stride, VECTOR_GATE, variant);
  }
}

static void test_access(void **state) {
  (void)state;
  static const int64_t strides[] = {1, 2, 3, 4, 5, -1, -2, 0};
  for (size_t t = 0; t < NMEMORY; t++) {
    run_accesses(memory_dtypes[t], 1, 1);
    for (size_t s = 0; s < 8; s++) {
      if (thorough) run_accesses(memory_dtypes[t], 4, strides[s]);
      run_accesses(memory_dtypes[t], thorough ? 16 : 8, strides[s]);
    }
  }
}

/* A tile read by columns, in an order that is not theirs. */
static void run_tile(DType d, unsigned lanes, int64_t stride, unsigned columns) {
  begin();
  int64_t reach = (int64_t)(lanes - 1) * (stride < 0 ? -stride : stride);
  int64_t span = reach + columns, first = stride < 0 ? reach : 0;
  Guarded buf = guarded(d, (size_t)span, true), out = guarded(d, (size_t)lanes * columns, true);
  Code c = {.nargs = 2};
  UOp *r = range(&c, 0, 1), *column[64], *effect = NULL;
  UOp *base = alu2(&c, OP_ADD, r, alu2(&c, OP_MUL, r, uop_index(&job, 3)));
  for (unsigned k = 0; k < columns; k++) {
    unsigned which = k * 3 % columns;
    UOp *at = alu2(&c, OP_ADD, base, uop_index(&job, first + which));
    if (first + which == 0) at = base;
    column[which] = load(&c, param(1, d, span), at, lanes, stride);
  }
  for (unsigned k = 0; k < columns; k++) {
    UOp *place = alu2(&c, OP_ADD, base, uop_index(&job, k * lanes));
    effect = store(&c, param(0, d, lanes * columns), k ? place : base, column[k], 1);
  }
  end(&c, effect, r);
  run(&c, (void *[]){out.at, buf.at});
  for (unsigned k = 0; k < columns; k++) {
    for (unsigned l = 0; l < lanes; l++) {
      Scalar want = element(d, buf.at, first + k + l * stride);
      expect(d, out.at, k * lanes + l, want, 0, "tile");
    }
  }
  unguard(buf), unguard(out);
  finish();
}

/* A tile written by columns, in an order that is not theirs; what lies between is left alone. With
 * `reads` the body also looks at the memory, and nothing may move. */
static void run_stored_tile(DType d, unsigned lanes, int64_t stride, unsigned columns, bool reads) {
  begin();
  int64_t reach = (int64_t)(lanes - 1) * (stride < 0 ? -stride : stride);
  int64_t span = reach + columns, first = stride < 0 ? reach : 0;
  Guarded out = guarded(d, (size_t)span, true), buf = guarded(d, (size_t)lanes * columns, true);
  size_t item = dtype_info[d].bytes;
  char before[1024 * 8];
  assert_true((size_t)span * item <= sizeof before);
  memcpy(before, out.at, (size_t)span * item);
  Code c = {.nargs = 2};
  UOp *r = range(&c, 0, 1), *effect = NULL;
  UOp *base = alu2(&c, OP_ADD, r, alu2(&c, OP_MUL, r, uop_index(&job, 3)));
  for (unsigned k = 0; k < columns; k++) {
    unsigned which = k * 3 % columns;
    UOp *from = alu2(&c, OP_ADD, base, uop_index(&job, which * lanes));
    UOp *v = load(&c, param(1, d, lanes * columns), which ? from : base, lanes, 1);
    UOp *at = alu2(&c, OP_ADD, base, uop_index(&job, first + which));
    if (reads && k == 1) load(&c, param(0, d, span), base, 1, 1);
    effect = store(&c, param(0, d, span), first + which ? at : base, v, stride);
  }
  end(&c, effect, r);
  run(&c, (void *[]){out.at, buf.at});
  for (int64_t i = 0; i < span; i++) {
    Scalar want = element(d, before, i);
    for (unsigned n = 0; n < lanes * columns; n++)
      if (first + n / lanes + (n % lanes) * stride == i) want = element(d, buf.at, n);
    expect(d, out.at, (size_t)i, want, 0, "stored tile");
  }
  unguard(buf), unguard(out);
  finish();
}

static void test_stored_tiles(void **state) {
  (void)state;
  static const DType dtypes[] = {DT_F32, DT_F64, DT_I8, DT_F16};
  for (size_t t = 0; t < 4; t++) {
    for (unsigned lanes = 4; lanes <= 16; lanes *= 2) {
      run_stored_tile(dtypes[t], lanes, 22, lanes, false);
      run_stored_tile(dtypes[t], lanes, -20, lanes, false);
      run_stored_tile(dtypes[t], lanes, 23, 13, false); /* 8 and 4 and one */
      run_stored_tile(dtypes[t], lanes, 5, 5, false);   /* rows that are shorter than the lanes */
      run_stored_tile(dtypes[t], lanes, 22, lanes, true);
    }
  }
}

static void test_tiles(void **state) {
  (void)state;
  static const DType dtypes[] = {DT_F32, DT_F64, DT_I8, DT_F16};
  for (size_t t = 0; t < 4; t++) {
    for (unsigned lanes = 4; lanes <= 16; lanes *= 2) {
      run_tile(dtypes[t], lanes, 21, lanes);
      run_tile(dtypes[t], lanes, -6, lanes + 3); /* overlapping columns, some left over */
      run_tile(dtypes[t], lanes, 19, 2 * lanes);
      run_tile(dtypes[t], lanes, 23, 4);
      run_tile(dtypes[t], lanes, 23, 13); /* 8 and 4 and one */
    }
  }
}

/* out[l] = gate[l] ? buf[idx[l]] : 0 and out2[idx2[l]] = x[l] where the gate is true. */
static void run_scattered(DType d, unsigned lanes, bool gated) {
  enum { SIZE = 40 };
  begin();
  Guarded buf = guarded(d, SIZE, true), out = guarded(d, lanes, true), dst = guarded(d, SIZE, true);
  int64_t idx[16];
  uint8_t mask[16], before[SIZE * 8];
  size_t item = dtype_info[d].bytes;
  for (unsigned l = 0; l < lanes; l++) {
    mask[l] = !gated || l % 3 != 2;
    idx[l] = mask[l] ? (l * 17 + 5) % SIZE : l % 2 ? -((int64_t)1 << 45) : (int64_t)1 << 45;
  }
  memcpy(before, dst.at, SIZE * item);
  Code c = {.nargs = 5};
  UOp *zero = uop_index(&job, 0);
  UOp *at = load(&c, param(2, DT_INDEX, lanes), zero, lanes, 1), *v, *g = NULL;
  if (gated) g = load(&c, param(3, DT_BOOL, lanes), zero, lanes, 1);
  v = gated ? load_if(&c, param(1, d, SIZE), at, lanes, 1, g, NULL)
            : load(&c, param(1, d, SIZE), at, lanes, 1);
  store(&c, param(0, d, lanes), zero, v, 1);
  if (gated) {
    store_if(&c, param(4, d, SIZE), at, v, 1, g);
  } else {
    store(&c, param(4, d, SIZE), at, v, 1);
  }
  run(&c, (void *[]){out.at, buf.at, idx, mask, dst.at});
  for (unsigned l = 0; l < lanes; l++) {
    Scalar want = mask[l] ? element(d, buf.at, idx[l]) : scalar_wrap(d, (Scalar){0});
    expect(d, out.at, l, want, 0, "gather");
    if (mask[l]) scalar_store(d, want, before + (size_t)idx[l] * item);
  }
  for (size_t i = 0; i < SIZE; i++)
    expect(d, dst.at, i, element(d, before, (int64_t)i), 0, "scatter");
  unguard(buf), unguard(out), unguard(dst);
  finish();
}

static void test_scattered(void **state) {
  (void)state;
  for (size_t t = 0; t < NMEMORY; t++) {
    for (unsigned lanes = 4; lanes <= 16; lanes *= 2) {
      run_scattered(memory_dtypes[t], lanes, false);
      run_scattered(memory_dtypes[t], lanes, true);
    }
  }
}

/* Index vectors, against the interpreter: with scale 1 all of them fit 32 bits and are computed
 * there, with a large scale some do not. */
static void run_index_math(int64_t scale) {
  enum { W = 16, ROWS = 9, SIZE = 200 };
  static float got[ROWS * W], want[ROWS * W], data[SIZE];
  static int64_t seen[ROWS * W], expected[ROWS * W];
  begin();
  for (int i = 0; i < SIZE; i++) data[i] = (float)i;
  Code c = {.nargs = 3};
  UOp *ramp = push(&c, uop_make_lanes(&job, OP_RAMP, DT_INDEX, W, arg_none(), NULL, 0));
  UOp *r = range(&c, 0, ROWS), *at = alu2(&c, OP_MUL, r, uop_index(&job, W));
#define K(v) splat(&c, uop_index(&job, v), W)
  UOp *v = alu2(&c, OP_ADD, splat(&c, at, W), ramp);
  UOp *big = alu2(&c, OP_MUL, v, K(scale));
  UOp *back = alu2(&c, OP_FLOORDIV, alu2(&c, OP_SUB, big, K(5 * scale)), K(scale));
  UOp *q = alu2(&c, OP_FLOORDIV, back, K(7)), *m = alu2(&c, OP_FLOORMOD, back, K(7));
  UOp *x = alu2(&c, OP_ADD, alu2(&c, OP_MUL, q, K(5)), m);
  UOp *low = alu2(&c, OP_CMPLT, x, K(3));
  x = op(&c, OP_WHERE, DT_VOID, 0, arg_none(), (UOp *[]){low, alu2(&c, OP_SUB, K(9), x), x}, 3);
  x = alu2(&c, OP_MAX, alu2(&c, OP_MIN, x, K(SIZE - 1)), K(0));
  UOp *y = op(&c, OP_CAST, DT_I64, W, arg_none(), &big, 1);
  UOp *z = op(&c, OP_CAST, DT_I64, W, arg_none(), (UOp *[]){alu2(&c, OP_SHR, v, K(40))}, 1);
  UOp *ok = alu2(&c, OP_CMPNE, m, K(3));
  UOp *f = load_if(&c, param(1, DT_F32, SIZE), x, W, 1, ok, NULL);
  UOp *s1 = store(&c, param(0, DT_F32, ROWS * W), at, f, 1);
  UOp *s2 = store(&c, param(2, DT_I64, ROWS * W), at, alu2(&c, OP_ADD, y, z), 1);
  end(&c, op(&c, OP_SINK, DT_VOID, 1, arg_none(), (UOp *[]){s1, s2}, 2), r);
#undef K
  run(&c, (void *[]){got, data, seen});
  InterpBuffer bufs[3] = {{want, sizeof want}, {data, sizeof data}, {expected, sizeof expected}};
  check(interp_linear(&job, c.list.at, c.list.len, bufs, 3, 0));
  assert_memory_equal(got, want, sizeof got);
  assert_memory_equal(seen, expected, sizeof seen);
  finish();
}

static void test_index_math(void **state) {
  (void)state;
  run_index_math(1);
  run_index_math((int64_t)1 << 30);
}

/* -- loops and registers
 * ----------------------------------------------------------------------------------- */

static UOp *buffer(int64_t id, DType d, unsigned lanes, int64_t elements, int64_t space) {
  int64_t v[2] = {elements, space};
  return uop_make_lanes(&job, OP_BUFFER, d, lanes, arg_both(id, v, 2), NULL, 0);
}

/* C[i] = sum over k < n of A[k] * B[k * 16 + lane] with n read from memory; n may be zero. */
static void run_accumulate(int64_t n, bool fused) {
  enum { K = 9, W = 16 };
  float a[K], b[K * W], got[W], want[W] = {0};
  begin();
  for (int i = 0; i < K; i++) a[i] = (float)i - 3;
  for (int i = 0; i < K * W; i++) b[i] = (float)(i % 7);
  for (int k = 0; k < n; k++) {
    for (int l = 0; l < W; l++) want[l] += a[k] * b[k * W + l];
  }
  Code c = {.nargs = 4};
  UOp *zero = uop_index(&job, 0), *acc = buffer(0, DT_F32, W, 1, 1);
  UOp *count = load(&c, param(3, DT_INDEX, 1), zero, 1, 1);
  UOp *init = store(&c, acc, zero, splat(&c, uop_float(&job, DT_F32, 0), W), 1);
  UOp *r = push(&c, uop_range(&job, 0, AX_REDUCE, count));
  UOp *after = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, init, r}, 3);
  UOp *old = load(&c, after, zero, W, 1);
  UOp *x = splat(&c, load(&c, param(1, DT_F32, K), r, 1, 1), W);
  UOp *y = load(&c, param(2, DT_F32, K * W), alu2(&c, OP_MUL, r, uop_index(&job, W)), W, 1);
  UOp *sum = fused ? op(&c, OP_MULACC, DT_VOID, W, arg_none(), (UOp *[]){x, y, old}, 3)
                   : alu2(&c, OP_ADD, old, alu2(&c, OP_MUL, x, y));
  UOp *update = store(&c, after, zero, sum, 1);
  UOp *done = op(&c, OP_END, DT_VOID, 1, arg_none(), (UOp *[]){update, r}, 2);
  UOp *final = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, done}, 2);
  store(&c, param(0, DT_F32, W), zero, load(&c, final, zero, W, 1), 1);
  run(&c, (void *[]){got, a, b, &n});
  for (size_t l = 0; l < W; l++) assert_true(got[l] == want[l]);
  finish();
}

static void test_accumulators(void **state) {
  (void)state;
  for (int64_t n = 0; n <= 9; n += 3) {
    run_accumulate(n, false);
    run_accumulate(n, true);
  }
}

/* Two nested loops with counters in registers: rows counts outer rounds, all counts inner ones, odd
 * counts inner rounds with an odd index through a gated store. */
static void test_nested_registers(void **state) {
  (void)state;
  int64_t got[3] = {0};
  begin();
  Code c = {.nargs = 1};
  UOp *acc = buffer(0, DT_I64, 1, 3, 1), *zero = uop_int(&job, DT_I64, 0);
  UOp *one = uop_int(&job, DT_I64, 1), *at[3];
  for (int k = 0; k < 3; k++) store(&c, acc, at[k] = uop_index(&job, k), zero, 1);
  UOp *i = range(&c, 0, 5);
  UOp *first = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, i}, 2);
  UOp *rows = store(&c, first, at[0], alu2(&c, OP_ADD, load(&c, first, at[0], 1, 1), one), 1);
  UOp *j = range(&c, 1, 7);
  UOp *inner = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, rows, j}, 3);
  UOp *all = store(&c, inner, at[1], alu2(&c, OP_ADD, load(&c, inner, at[1], 1, 1), one), 1);
  UOp *odd = alu2(&c, OP_CMPEQ, alu2(&c, OP_FLOORMOD, j, uop_index(&job, 2)), uop_index(&job, 1));
  UOp *more = alu2(&c, OP_ADD, load(&c, inner, at[2], 1, 1), one);
  UOp *gated = store_if(&c, inner, at[2], more, 1, odd);
  end(&c, gated, j);
  UOp *last = uop_make(&job, OP_AFTER, DT_VOID, arg_none(), (UOp *[]){acc, all, gated}, 3);
  end(&c, all, i);
  for (int k = 0; k < 3; k++) {
    store(&c, param(0, DT_I64, 3), at[k], load(&c, last, at[k], 1, 1), 1);
  }
  run(&c, (void *[]){got});
  assert_int_equal(got[0], 5);
  assert_int_equal(got[1], 35);
  assert_int_equal(got[2], 15);
  finish();
}

/* Thread t writes squares into scratch and reads them back reversed. */
static void test_local_and_threads(void **state) {
  (void)state;
  enum { T = 6, M = 32 };
  int32_t got[T * M];
  begin();
  Code c = {.nargs = 1, .threads = T};
  UOp *pad = buffer(0, DT_I8, 1, 3, 0), *tmp = buffer(1, DT_I32, 1, M, 0);
  UOp *thread = uop_make(&job, OP_THREAD, DT_INDEX, arg_i(T), NULL, 0);
  UOp *ramp = uop_make_lanes(&job, OP_RAMP, DT_INDEX, 8, arg_none(), NULL, 0);
  store(&c, pad, uop_index(&job, 2), uop_int(&job, DT_I8, 1), 1);
  UOp *i = range(&c, 0, M / 8);
  UOp *base = alu2(&c, OP_MUL, i, uop_index(&job, 8));
  UOp *lane = alu2(&c, OP_ADD, splat(&c, base, 8), push(&c, ramp));
  UOp *x = op(&c, OP_CAST, DT_I32, 8, arg_none(), &lane, 1);
  end(&c, store(&c, tmp, base, alu2(&c, OP_MUL, x, x), 1), i);
  UOp *j = range(&c, 1, M);
  UOp *back = alu2(&c, OP_SUB, uop_index(&job, M - 1), j);
  UOp *v = load(&c, tmp, back, 1, 1);
  UOp *at = alu2(&c, OP_ADD, alu2(&c, OP_MUL, push(&c, thread), uop_index(&job, M)), j);
  end(&c, store(&c, param(0, DT_I32, T * M), at, v, 1), j);
  Linear l = {.list = c.list.at, .len = c.list.len};
  assert_int_equal(llvm_scratch_bytes(&l), 64 + M * 4);
  run(&c, (void *[]){got});
  for (int k = 0; k < T * M; k++) {
    int want = M - 1 - k % M;
    assert_int_equal(got[k], want * want);
  }
  finish();
}

/* -- horizontal reductions
 * ------------------------------------------------------------------------------------ */

static uint8_t result[8];

static void run_hreduce(Op o, DType d, unsigned lanes) {
  char what[64];
  begin();
  Code c = {.nargs = 2};
  UOp *zero = uop_index(&job, 0);
  for (unsigned i = 0; i < lanes; i++) { /* small integers: exact in any order */
    scalar_store(d,
                 scalar_wrap(d, dtype_is_float(d) ? (Scalar){.f = 1 + (i * 5) % 3}
                                                  : (Scalar){.i = 1 + (i * 5) % 3}),
                 in[0] + i * dtype_info[d].bytes);
  }
  UOp *v = load(&c, param(1, d, lanes), zero, lanes, 1);
  v = op(&c, OP_HREDUCE, DT_VOID, 1, arg_i(o), &v, 1);
  store(&c, param(0, d, 1), zero, v, 1);
  run(&c, (void *[]){result, in[0]});
  Scalar want = element(d, in[0], 0);
  for (unsigned i = 1; i < lanes; i++) {
    want = op_eval(o, d, d, (Scalar[]){want, element(d, in[0], i)});
  }
  snprintf(what, sizeof what, "HREDUCE %s %s x%u", op_info[o].name, dtype_info[d].name, lanes);
  expect(d, result, 0, want, 0, what);
  finish();
}

static void test_hreduce(void **state) {
  (void)state;
  static const Op ops[] = {OP_ADD, OP_MUL, OP_MAX, OP_MIN};
  static const unsigned lanes[] = {2, 3, 4, 6, 7, 8, 16};
  for (size_t o = 0; o < 4; o++) {
    for (DType d = DT_BOOL; !dtype_is_storage(d); d++) {
      if (d == DT_BOOL && o < 2) continue;
      for (size_t n = 0; n < 7; n++) {
        if (ops[o] == OP_MUL && d == DT_BF16 && lanes[n] > 8) continue; /* rounds */
        run_hreduce(ops[o], d, lanes[n]);
      }
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      ON(host, test_access),
      ON(host, test_tiles),
      ON(host, test_stored_tiles),
      ON(host, test_scattered),
      ON(host, test_index_math),
      ON(host, test_accumulators),
      ON(host, test_nested_registers),
      ON(host, test_local_and_threads),
      ON(host, test_hreduce),
      ON(avx2, test_access),
      ON(avx2, test_tiles),
      ON(avx2, test_stored_tiles),
      ON(avx2, test_scattered),
      ON(avx2, test_index_math),
      ON(avx2, test_accumulators),
      ON(avx2, test_nested_registers),
      ON(avx2, test_local_and_threads),
      ON(avx2, test_hreduce),
      ON(sse2, test_access),
      ON(sse2, test_tiles),
      ON(sse2, test_stored_tiles),
      ON(sse2, test_scattered),
      ON(sse2, test_index_math),
      ON(sse2, test_accumulators),
      ON(sse2, test_nested_registers),
      ON(sse2, test_local_and_threads),
      ON(sse2, test_hreduce),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
