/* The movement rules on random tensor graphs: the interpreter gives the same tensors before and
 * after, a second rewrite changes nothing, and every rule fires. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>

#include "compiler/ir/interp.h"
#include "compiler/ir/text.h"
#include "tests/rules/gen.h"

enum { GRAPHS = 1500, STEPS = 9, MAX_NUMEL = 512, INPUTS = 3 };

static int64_t numel(const UOp *u) { return shape_numel(u->shape); }

static UOp *moved(Gen *g, Op op, UOp *x, const int64_t *v, size_t n) {
  UOp *zero = uop_number(g->job, (DType)x->dtype, gen_random(g, 2) ? 0 : 1);
  return uop_make(g->job, op, DT_VOID, arg_ints(v, n), (UOp *[]){x, zero}, op == OP_PAD ? 2 : 1);
}

static UOp *splat(Gen *g, const UOp *like, DType d) {
  Rewrite rw = {.job = g->job};
  UOp *c = gen_random(g, 3) ? gen_const(g, d) : uop_param(g->job, INPUTS + d, d, NULL, 0);
  return like->shape.n ? rewrite_broadcast(&rw, c, like->shape) : c;
}

static UOp *permuted(Gen *g, UOp *x) {
  int64_t axes[8];
  for (uint32_t k = 0; k < x->shape.n; k++) axes[k] = k;
  for (uint32_t k = x->shape.n; k > 1 && gen_random(g, 4); k--) {
    uint64_t j = gen_random(g, k);
    int64_t t = axes[k - 1];
    axes[k - 1] = axes[j], axes[j] = t;
  }
  return moved(g, OP_PERMUTE, x, axes, x->shape.n);
}

static UOp *reshaped(Gen *g, UOp *x) {
  int64_t dims[8], left = numel(x);
  size_t n = 0;
  for (int64_t f = 2; f <= 5 && n < 3; f++)
    if (left % f == 0 && left && gen_random(g, 2)) dims[n++] = f, left /= f;
  if (gen_random(g, 2)) dims[n++] = 1;
  dims[n++] = left;
  return moved(g, OP_RESHAPE, x, dims, n);
}

static UOp *resized(Gen *g, Op op, UOp *x) {
  int64_t v[16];
  bool idle = !gen_random(g, 4);
  for (uint32_t k = 0; k < x->shape.n; k++) {
    int64_t d = x->shape.at[k], lo = idle ? 0 : (int64_t)gen_random(g, 2),
            hi = idle ? 0 : (int64_t)gen_random(g, 2);
    v[2 * k] = op == OP_SHRINK && lo > d ? d : lo;
    v[2 * k + 1] = op == OP_PAD ? hi : d - hi < v[2 * k] ? v[2 * k] : d - hi;
  }
  return moved(g, op, x, v, 2 * x->shape.n);
}

static UOp *expanded(Gen *g, UOp *x) {
  int64_t dims[8];
  for (uint32_t k = 0; k < x->shape.n; k++) {
    dims[k] = x->shape.at[k];
    if (dims[k] == 1 && gen_random(g, 3)) dims[k] = 1 + (int64_t)gen_random(g, 3);
  }
  return moved(g, OP_EXPAND, x, dims, x->shape.n);
}

static UOp *with_axes(Gen *g, Op op, UOp *x) {
  int64_t axes[8];
  size_t n = 0;
  for (uint32_t k = 0; k < x->shape.n; k++)
    if (!gen_random(g, 3)) axes[n++] = k;
  if (op == OP_FLIP) return moved(g, op, x, axes, n);
  Op how = x->dtype == DT_BOOL ? OP_MAX : (Op[]){OP_ADD, OP_MAX, OP_MIN, OP_MUL}[gen_random(g, 4)];
  return uop_make(g->job, OP_REDUCE, DT_VOID, arg_both(how, axes, n), &x, 1);
}

static UOp *windowed(Gen *g, UOp *x) {
  int64_t axis = (int64_t)gen_random(g, x->shape.n);
  if (x->shape.n > 5 || x->shape.at[axis] < 3) return x;
  return moved(g, OP_WINDOW, x, (int64_t[]){axis, 2, 1, 2}, 4);
}

static bool sums(Gen *g, UOp *x) {
  UOpList list = uop_toposort(g->job, x);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i]->op == OP_REDUCE) return true;
  return false;
}

/* Does the op tell -0 from 0, or one NaN from another, where the rules need not keep them? */
static bool tells_apart(Gen *g, Op op, UOp *x) {
  if (op == OP_BITCAST) return x->dtype == DT_F32 && x->op != OP_PARAM;
  return (op == OP_RECIP || op == OP_FDIV || op == OP_POW) && sums(g, x);
}

/* Any elementwise op that takes x, mostly with splats beside it. */
static UOp *elementwise(Gen *g, UOp *x) {
  Job *job = g->job;
  DType d = (DType)x->dtype;
  if (d == DT_BOOL && gen_random(g, 2)) {
    UOp *z = splat(g, x, DT_I32);
    return uop3(job, OP_WHERE, x, z, splat(g, x, DT_I32));
  }
  if (!gen_random(g, 4)) return uop_cast(job, x, gen_random(g, 2) ? DT_F32 : DT_I32);
  for (;;) {
    Op op = (Op)gen_random(g, OP_MAXNUM); /* what follows is for code generation */
    DType to = op != OP_BITCAST ? DT_F32 : d == DT_F32 ? DT_I32 : DT_F32;
    UOp *src[2] = {x, gen_random(g, 3) ? splat(g, x, d) : x};
    if (!gen_random(g, 3)) src[0] = src[1], src[1] = x;
    if (!(op_info[op].flags & OPF_ALU) || op_info[op].nsrc > 2 || op == OP_CAST) continue;
    if (tells_apart(g, op, x)) continue;
    size_t n = (size_t)op_info[op].nsrc;
    if (!uop_check(job, op, to, 0, arg_none(), src, n))
      return uop_make(job, op, to, arg_none(), src, n);
  }
}

static UOp *grow(Gen *g, UOp *x) {
  if (!x->shape.n) return elementwise(g, x);
  switch (gen_random(g, 13)) {
  case 0: return reshaped(g, x);
  case 1: return permuted(g, x);
  case 2: return expanded(g, x);
  case 3: return resized(g, OP_PAD, x);
  case 4: return resized(g, OP_SHRINK, x);
  case 5: return with_axes(g, OP_FLIP, x);
  case 6: return windowed(g, x);
  case 7: return uop_make(g->job, OP_CAT, DT_VOID, arg_i(0), &x, 1);
  case 8: return uop1(g->job, OP_CONTIGUOUS, x);
  case 9: return with_axes(g, OP_REDUCE, x);
  case 10: return grow(g, splat(g, x, gen_random(g, 2) ? DT_F32 : DT_I32));
  default: return elementwise(g, x);
  }
}

static UOp *random_tensor(Gen *g) {
  static const DType dtypes[INPUTS] = {DT_F32, DT_I32, DT_BOOL};
  size_t slot = gen_random(g, INPUTS);
  UOp *x = uop_param(g->job, (int64_t)slot, dtypes[slot], (int64_t[]){2, 3, 1, 4}, 4);
  for (int k = 0; k < STEPS; k++) {
    UOp *next = grow(g, x);
    if (numel(next) <= MAX_NUMEL && next->shape.n <= 6) x = next;
    if (!gen_random(g, 3)) { /* the same op again: merges */
      next =
          gen_random(g, 2) ? permuted(g, x) : resized(g, gen_random(g, 2) ? OP_PAD : OP_SHRINK, x);
      if (x->shape.n && numel(next) <= MAX_NUMEL) x = next;
    }
  }
  return x;
}

/* Runs STORE(out, x); the values are read from `data`. */
static void run(Gen *g, UOp *x, void *data) {
  enum { OUT = 40 };
  InterpBuffer slots[OUT + 1] = {{0}};
  double pool[] = {1, -2, 0.5, -0.0, NAN, 3, INFINITY, 0};
  float f32[24];
  int32_t i32[24];
  uint8_t bools[24], zeros[64] = {0};
  for (int k = 0; k < 24; k++)
    f32[k] = (float)pool[k % 8], i32[k] = k * 7 % 11 - 5, bools[k] = k % 3 == 0;
  slots[0] = (InterpBuffer){f32, sizeof f32};
  slots[1] = (InterpBuffer){i32, sizeof i32};
  slots[2] = (InterpBuffer){bools, sizeof bools};
  for (size_t s = INPUTS; s < OUT; s++) {
    DType d = s - INPUTS < DT__COUNT ? (DType)(s - INPUTS) : DT_VOID;
    slots[s] = (InterpBuffer){zeros, dtype_info[d].bytes};
  }
  UOp *out =
      uop_make(g->job, OP_PARAM, (DType)x->dtype, (Arg){.i = OUT, .ints = x->shape}, NULL, 0);
  slots[OUT] = (InterpBuffer){data, (size_t)numel(x) * dtype_info[x->dtype].bytes};
  UOp *sink = uop1(g->job, OP_SINK, uop2(g->job, OP_STORE, out, x));
  Status st = interp_tensor(g->job, sink, slots, OUT + 1);
  char text[256] = "";
  if (st) status_text(st, text, sizeof text);
  assert_string_equal(text, "");
}

static bool same_tensors(const UOp *u, const char *a, const char *b) {
  Gen g = {.lenient = true};
  for (int64_t k = 0; k < numel(u); k++) {
    size_t at = (size_t)k * dtype_info[u->dtype].bytes;
    DType d = (DType)u->dtype;
    if (!gen_same(&g, d, scalar_load(d, a + at), scalar_load(d, b + at))) return false;
  }
  return true;
}

static void check_graph(Gen *g) {
  static char before[MAX_NUMEL * 8], after[MAX_NUMEL * 8];
  gen_sizes(g);
  Rewrite rw = {.job = g->job};
  UOp *x = random_tensor(g);
  if (!numel(x)) return;
  UOp *to = rewrite_graph(&rw, x, rules_movement);
  assert_true(shape_eq(x->shape, to->shape));
  run(g, x, before);
  run(g, to, after);
  StrBuf b = {0};
  if (!same_tensors(x, before, after)) {
    uop_print(g->job, x, &b);
    strbuf_adds(&b, "became\n");
    uop_print(g->job, to, &b);
    fail_msg("%s", b.ptr);
  }
  UOp *again = rewrite_graph(&rw, to, rules_movement);
  if (again != to) {
    uop_print(g->job, to, &b);
    strbuf_adds(&b, "became\n");
    uop_print(g->job, again, &b);
    fail_msg("not idempotent\n%s", b.ptr);
  }
}

static void test_random_graphs(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= GRAPHS; seed++) {
    Job job;
    job_init(&job, (size_t)1 << 30);
    Gen g = {.job = &job, .rng = seed};
    check_graph(&g);
    job_deinit(&job);
  }
}

static void test_every_rule_fires(void **state) {
  (void)state;
  int silent = 0;
  for (const RuleInfo *r = rules_movement_info; r->file; r++) {
    if (*r->hits) continue;
    silent++;
    print_error("never fired: %s:%d %s\n", r->file, r->line, r->text);
  }
  assert_int_equal(silent, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random_graphs),
      cmocka_unit_test(test_every_rule_fires),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
