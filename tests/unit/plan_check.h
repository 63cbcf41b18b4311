/* What the plan tests share: graphs by hand, and a plan run kernel by kernel against the
 * interpreter. */
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/vec.h"
#include "compiler/ir/interp.h"
#include "compiler/ir/text.h"
#include "compiler/passes/plan_build.h"
#include "tests/unit/status_check.h"

/* What runs one kernel of a plan; a test may define another way before it includes this. */
#ifndef RUN_KERNEL
#define RUN_KERNEL interp_kernel
#endif

enum { MAX_SLOTS = 64 };

typedef struct Graph {
  Job *job;
  TensorGraph tg;
  GraphSlot slots[MAX_SLOTS];
  UOp *stores[MAX_SLOTS];
  Plan plan;
  uint32_t seed;
} Graph;

/* The target; a test may define another one before it includes this. */
#ifndef PLAN_TARGET
#define PLAN_TARGET test_target
static const Target test_target = {
    .kind = "cpu", .threads = 2, .l2_bytes = 2 << 20, .memory_bytes = (uint64_t)1 << 40};
#endif

#define DIMS(...) (int64_t[]){__VA_ARGS__}, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static inline UOp *t_int(Graph *g, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(g->job, op, DT_VOID, arg_ints(v, n), &x, 1);
}
static inline UOp *t_reshape(Graph *g, UOp *x, const int64_t *v, size_t n) {
  return t_int(g, OP_RESHAPE, x, v, n);
}
static inline UOp *t_expand(Graph *g, UOp *x, const int64_t *v, size_t n) {
  return t_int(g, OP_EXPAND, x, v, n);
}
static inline UOp *t_permute(Graph *g, UOp *x, const int64_t *v, size_t n) {
  return t_int(g, OP_PERMUTE, x, v, n);
}
static inline UOp *t_reduce(Graph *g, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(g->job, OP_REDUCE, DT_VOID, arg_both(op, v, n), &x, 1);
}
static inline UOp *t_f32(Graph *g, double v) { return uop_float(g->job, DT_F32, v); }

static inline void graph_init(Graph *g, Job *job) {
  *g = (Graph){.job = job, .seed = 1};
  g->tg.slots = g->slots;
}

/* All inputs first, then outputs, then weights. */
static inline UOp *graph_param(Graph *g, SlotKind kind, DType dtype, const int64_t *dims,
                               size_t n) {
  size_t slot = g->tg.nslots++;
  int64_t *copy = n ? arena_copy(&g->job->arena, dims, n * sizeof *dims) : NULL;
  g->slots[slot] = (GraphSlot){.dtype = dtype, .shape = {copy, (uint32_t)n}, .name = STR("p")};
  g->slots[slot].kind = kind;
  g->tg.ninputs += kind == SLOT_INPUT;
  g->tg.noutputs += kind == SLOT_OUTPUT;
  return uop_param(g->job, (int64_t)slot, dtype, dims, n);
}
static inline UOp *graph_input(Graph *g, const int64_t *dims, size_t n) {
  return graph_param(g, SLOT_INPUT, DT_F32, dims, n);
}

static inline void graph_output(Graph *g, UOp *value) {
  size_t n = g->tg.noutputs;
  UOp *p = graph_param(g, SLOT_OUTPUT, (DType)value->dtype, value->shape.at, value->shape.n);
  g->stores[n] = uop2(g->job, OP_STORE, p, value);
  g->tg.sink = uop_make(g->job, OP_SINK, DT_VOID, arg_none(), g->stores, n + 1);
}

static void build_in_job(Job *job, void *arg) {
  Graph *g = arg;
  plan_build(job, &g->tg, &PLAN_TARGET, &g->plan);
}

static inline void graph_plan(Graph *g) { check(job_run(g->job, build_in_job, g)); }

static inline void show_plan(Graph *g) {
  for (size_t c = 0; c < g->plan.ncalls; c++) {
    const Kernel *k = &g->plan.kernels[g->plan.calls[c].kernel];
    StrBuf b = {0};
    uop_print_kernel(g->job, k->sink, &b);
    printf("-- %s\n%s\n", k->name, b.ptr);
    strbuf_deinit(&b);
  }
}

static inline size_t count_reduces(Graph *g) {
  size_t n = 0;
  for (size_t c = 0; c < g->plan.ncalls; c++) {
    UOpList list = uop_toposort(g->job, g->plan.kernels[g->plan.calls[c].kernel].sink);
    for (size_t i = 0; i < list.len; i++) n += list.at[i]->op == OP_REDUCE;
  }
  return n;
}

/* -- running ----------------------------------------------------------------------------------- */

static inline uint32_t next_random(uint32_t *seed) {
  *seed = *seed * 1664525u + 1013904223u;
  return *seed >> 8;
}

static inline InterpBuffer new_data(DType dtype, int64_t numel) {
  size_t bytes = (size_t)numel * dtype_info[dtype].bytes;
  void *data = calloc(bytes + 1, 1);
  assert_non_null(data);
  return (InterpBuffer){data, bytes};
}

static inline void randomise(InterpBuffer b, DType dtype, uint32_t *seed) {
  size_t item = dtype_info[dtype].bytes;
  for (size_t k = 0; k < b.bytes / item; k++) {
    Scalar v = {0};
    int64_t r = (int64_t)(next_random(seed) % 17) - 8;
    if (dtype_is_float(dtype)) {
      v.f = (double)r / 4;
    } else {
      v.i = dtype_is_bool(dtype) ? r & 1 : r;
    }
    scalar_store(dtype, scalar_wrap(dtype, v), (char *)b.data + k * item);
  }
}

/* Nothing that differs from run to run. */
static inline void check_once(const PlanBuffer *b) {
  assert_true(b->kind == PB_WEIGHT || b->kind == PB_CONST || b->once);
}

static inline void run_plan(Graph *g, InterpBuffer *slots) {
  const Plan *p = &g->plan;
  InterpBuffer *buffers = calloc(p->nbuffers + 1, sizeof *buffers), *args;
  char *temp = malloc((size_t)p->temp_bytes + 1);
  char *kept = malloc((size_t)p->kept_bytes + 1);
  memset(temp, 0x55, (size_t)p->temp_bytes);
  memset(kept, 0x55, (size_t)p->kept_bytes);
  for (size_t b = 0; b < p->nbuffers; b++) {
    const PlanBuffer *pb = &p->buffers[b];
    buffers[b].bytes = (size_t)pb->numel * dtype_info[pb->dtype].bytes;
    if (pb->kind == PB_TEMP || pb->kind == PB_KEPT) {
      buffers[b].data = (pb->kind == PB_TEMP ? temp : kept) + pb->offset;
    } else if (pb->kind == PB_CONST) {
      buffers[b].data = (char *)(uintptr_t)pb->constant.ptr;
    } else {
      buffers[b].data = (char *)slots[pb->slot].data + pb->offset;
      for (size_t k = 0; pb->constant.len && k < buffers[b].bytes; k++) {
        ((char *)buffers[b].data)[k] = (char)pb->constant.ptr[k % pb->constant.len];
      }
    }
  }
  for (size_t c = 0; c < p->ncalls; c++) {
    const PlanCall *call = &p->calls[c];
    assert_int_equal(call->once, c < p->nonce);
    for (uint32_t a = 0; call->once && a < call->nargs; a++) check_once(&p->buffers[call->args[a]]);
    if (!call->once) assert_int_not_equal(p->buffers[call->args[0]].kind, PB_KEPT);
    args = calloc(call->nargs, sizeof *args);
    for (uint32_t a = 0; a < call->nargs; a++) args[a] = buffers[call->args[a]];
    assert_int_equal(call->nargs, p->kernels[call->kernel].nargs);
    check(RUN_KERNEL(g->job, p->kernels[call->kernel].sink, args, call->nargs));
    free(args);
  }
  free(buffers);
  free(temp);
  free(kept);
}

static inline bool near_enough(double a, double b, double tolerance) {
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  if (a == b) return true;
  return fabs(a - b) <= tolerance * (1 + fmax(fabs(a), fabs(b)));
}

/* False, with the place printed, when the plan's outputs are not the tensor graph's. */
static inline bool plan_equals_graph(Graph *g, double tolerance) {
  InterpBuffer want[MAX_SLOTS], got[MAX_SLOTS];
  bool ok = true;
  size_t n = g->tg.nslots;
  for (size_t s = 0; s < n; s++) {
    int64_t numel = shape_numel(g->slots[s].shape);
    want[s] = new_data(g->slots[s].dtype, numel);
    if (g->slots[s].kind == SLOT_OUTPUT) {
      got[s] = new_data(g->slots[s].dtype, numel);
      memset(got[s].data, 0x77, got[s].bytes);
    } else {
      randomise(want[s], g->slots[s].dtype, &g->seed);
      got[s] = want[s];
    }
  }
  check(interp_tensor(g->job, g->tg.sink, want, n));
  run_plan(g, got);
  for (size_t s = 0; s < n; s++) {
    DType dtype = g->slots[s].dtype;
    size_t item = dtype_info[dtype].bytes;
    for (size_t k = 0; ok && g->slots[s].kind == SLOT_OUTPUT && k < want[s].bytes / item; k++) {
      Scalar a = scalar_load(dtype, (char *)want[s].data + k * item);
      Scalar b = scalar_load(dtype, (char *)got[s].data + k * item);
      /* Large integers come from floats, whose products may be reassociated. */
      bool rounded = dtype_is_float(dtype) || a.i > 1000 || a.i < -1000;
      if (!dtype_is_float(dtype)) a.f = (double)a.i, b.f = (double)b.i;
      ok = near_enough(a.f, b.f, rounded ? tolerance : 0);
      if (!ok) printf("slot %zu element %zu: expected %.9g, got %.9g\n", s, k, a.f, b.f);
    }
    if (g->slots[s].kind == SLOT_OUTPUT) free(got[s].data);
    free(want[s].data);
  }
  return ok;
}
