/* Plans with symbolic sizes against the interpreter, at given values of the VARs: what test_plan
 * _symbolic and the random graphs share. */
#pragma once

#include "compiler/ir/dim.h"
#include "plan_check.h"

enum { MAX_VARS = 8 };

typedef struct Sized {
  Graph g;
  GraphVar vars[MAX_VARS];
  UOp *var[MAX_VARS]; /* the nodes */
  int64_t dim[MAX_VARS];
  UOp *binds[MAX_VARS];
  size_t nbinds;
} Sized;

static inline void sized_init(Sized *s, Job *job) {
  *s = (Sized){.vars = {{.min = 0}}};
  graph_init(&s->g, job);
  s->g.tg.vars = s->vars;
}

static inline int64_t sized_var(Sized *s, VarSource source, int64_t min, int64_t max,
                                int64_t divisor) {
  size_t k = s->g.tg.nvars++;
  assert_true(k < MAX_VARS);
  s->vars[k] =
      (GraphVar){.name = STR("n"), .min = min, .max = max, .divisor = divisor, .source = source};
  s->var[k] = uop_var(s->g.job, (int64_t)k, min, max, divisor);
  return s->dim[k] = dim_of(s->g.job, s->var[k]);
}

static inline void sized_bind(Sized *s, size_t var, UOp *value) {
  s->binds[s->nbinds++] = uop2(s->g.job, OP_BIND, s->var[var], value);
}

/* After the last output. */
static inline void sized_finish(Sized *s) {
  UOp *src[MAX_SLOTS + MAX_VARS];
  size_t n = s->g.tg.noutputs;
  memcpy(src, s->g.stores, n * sizeof *src);
  memcpy(src + n, s->binds, s->nbinds * sizeof *src);
  s->g.tg.sink = uop_make(s->g.job, OP_SINK, DT_VOID, arg_none(), src, n + s->nbinds);
}

static inline int64_t at_values(int64_t d, const int64_t *vars) {
  return dim_is_static(d) ? d : dim_eval(dim_node(d), vars, MAX_VARS);
}

static inline int64_t numel_at(Ints shape, const int64_t *vars) {
  int64_t n = 1;
  for (uint32_t k = 0; k < shape.n; k++) n *= at_values(shape.at[k], vars);
  return n;
}

/* -- running ----------------------------------------------------------------------------------- */

typedef struct SizedRun {
  Sized *s;
  int64_t vars[MAX_VARS];
  void **own; /* by buffer: the whole temporaries */
  InterpBuffer *slots;
} SizedRun;

/* The bytes of a buffer; temporaries are made when they are first asked for. */
static inline InterpBuffer sized_buffer(SizedRun *r, uint32_t b) {
  const Plan *p = &r->s->g.plan;
  const PlanBuffer *pb = &p->buffers[b];
  size_t item = dtype_info[pb->dtype].bytes;
  InterpBuffer out = {.bytes = (size_t)at_values(pb->numel, r->vars) * item};
  if (pb->kind == PB_CONST) {
    out.data = (char *)(uintptr_t)pb->constant.ptr;
  } else if (pb->kind == PB_TEMP || pb->kind == PB_KEPT) {
    const PlanBuffer *whole = &p->buffers[pb->base];
    size_t bytes = (size_t)at_values(whole->numel, r->vars) * item;
    if (!r->own[pb->base]) {
      r->own[pb->base] = malloc(bytes + 1);
      memset(r->own[pb->base], 0x77, bytes);
    }
    out.data = (char *)r->own[pb->base] + (pb->base == b ? 0 : pb->offset - whole->offset);
  } else {
    InterpBuffer slot = r->slots[pb->slot];
    assert_true(slot.bytes >= out.bytes + (size_t)pb->offset);
    out.data = (char *)slot.data + pb->offset;
  }
  return out;
}

static inline void sized_call(SizedRun *r, const PlanCall *call) {
  const Kernel *k = &r->s->g.plan.kernels[call->kernel];
  InterpBuffer *args = calloc(call->nargs + call->nvars + 1, sizeof *args);
  assert_int_equal(call->nargs, k->nargs);
  assert_int_equal(call->nvars, k->nvars);
  for (uint32_t a = 0; a < call->nargs; a++) args[a] = sized_buffer(r, call->args[a]);
  for (uint32_t v = 0; v < call->nvars; v++) {
    args[call->nargs + v] = (InterpBuffer){&r->vars[call->vars[v]], sizeof(int64_t)};
  }
  check(RUN_KERNEL(r->s->g.job, k->sink, args, call->nargs));
  free(args);
}

static inline uint32_t matching_end(const Plan *p, uint32_t loop) {
  uint32_t depth = 0;
  for (uint32_t n = loop;; n++) {
    depth += p->steps[n].kind == STEP_LOOP;
    if (p->steps[n].kind == STEP_END && !--depth) return n;
  }
}

static inline bool goes_on(SizedRun *r, const PlanStep *loop, int64_t iteration) {
  int64_t count = at_values(loop->count, r->vars);
  if (loop->buffer != NO_BUFFER) memcpy(&count, sized_buffer(r, loop->buffer).data, sizeof count);
  if (iteration >= count) return false;
  return loop->condition == NO_BUFFER || *(uint8_t *)sized_buffer(r, loop->condition).data;
}

/* The step that comes after step n. */
static inline uint32_t sized_step(SizedRun *r, uint32_t n) {
  enum { DEEPEST = 8 };
  static uint32_t loops[DEEPEST];
  static uint32_t depth;
  const Plan *p = &r->s->g.plan;
  const PlanStep *step = &p->steps[n];
  if (n == 0) depth = 0;
  if (step->kind == STEP_CALL) sized_call(r, &p->calls[step->call]);
  if (step->kind == STEP_BIND)
    memcpy(&r->vars[step->var], sized_buffer(r, step->buffer).data, sizeof(int64_t));
  if (step->kind == STEP_LOOP) {
    r->vars[step->var] = 0;
    assert_true(depth < DEEPEST);
    if (!goes_on(r, step, 0)) return matching_end(p, n) + 1;
    loops[depth++] = n;
  }
  if (step->kind == STEP_END) {
    const PlanStep *loop = &p->steps[loops[depth - 1]];
    if (goes_on(r, loop, ++r->vars[loop->var])) return loops[depth - 1] + 1;
    depth--;
  }
  return n + 1;
}

/* Temporaries are gone after the step that uses them last. */
static inline void sized_steps(SizedRun *r) {
  const Plan *p = &r->s->g.plan;
  r->own = calloc(p->nbuffers + 1, sizeof *r->own);
  for (uint32_t b = 0; b < p->nbuffers; b++) {
    Bytes known = p->buffers[b].constant;
    if (p->buffers[b].kind != PB_OUTPUT || !known.len) continue;
    InterpBuffer out = sized_buffer(r, b);
    for (size_t k = 0; k < out.bytes; k++) ((char *)out.data)[k] = (char)known.ptr[k % known.len];
  }
  for (uint32_t n = 0, next; n < p->nsteps; n = next) {
    next = sized_step(r, n);
    if (next > n + 1) n = next - 1; /* a loop without iterations */
    for (size_t b = 0; b < p->nbuffers; b++) {
      const PlanBuffer *pb = &p->buffers[b];
      if (pb->kind != PB_TEMP || pb->base != b || !r->own[b]) continue;
      assert_true(pb->first <= n);
      if (pb->last > n || next <= n) continue;
      free(r->own[b]);
      r->own[b] = NULL;
    }
  }
  for (size_t b = 0; b < p->nbuffers; b++) free(r->own[b]);
  free(r->own);
}

static inline InterpBuffer with_room(InterpBuffer b) {
  enum { MOST = 1 << 20 };
  void *data = realloc(b.data, MOST);
  assert_non_null(data);
  return (InterpBuffer){data, MOST};
}

/* False, with the place printed, when the plan's outputs are not the graph's. `given`: the values
 * of the VARs of inputs. */
static inline bool sized_equals(Sized *s, const int64_t *given, double tolerance) {
  Graph *g = &s->g;
  InterpBuffer want[MAX_SLOTS], got[MAX_SLOTS];
  SizedRun run = {.s = s, .slots = got};
  int64_t vars[MAX_VARS];
  bool ok = true;
  size_t n = g->tg.nslots;
  for (size_t k = 0; k < MAX_VARS; k++) {
    bool bound = k < g->tg.nvars && s->vars[k].source != VAR_INPUT;
    vars[k] = bound ? INTERP_UNBOUND : given[k];
    run.vars[k] = bound ? 0 : given[k];
  }
  for (size_t k = 0; k < n; k++) {
    bool output = g->slots[k].kind == SLOT_OUTPUT;
    if (g->slots[k].kind == SLOT_LOCAL) want[k] = got[k] = (InterpBuffer){NULL, 0};
    if (g->slots[k].kind == SLOT_LOCAL) continue;
    want[k] = new_data(g->slots[k].dtype, output ? 1 : numel_at(g->slots[k].shape, given));
    if (!output) randomise(want[k], g->slots[k].dtype, &g->seed);
    if (output) want[k] = with_room(want[k]);
    got[k] = output ? with_room(new_data(g->slots[k].dtype, 1)) : want[k];
  }
  check(interp_symbolic(g->job, g->tg.sink, want, n, vars, g->tg.nvars));
  sized_steps(&run);
  for (size_t k = 0; k < g->tg.nvars; k++)
    if (s->vars[k].source != VAR_LOOP) assert_int_equal(vars[k], run.vars[k]);
  for (size_t k = 0; k < n; k++) {
    DType dtype = g->slots[k].dtype;
    int64_t numel = g->slots[k].kind == SLOT_OUTPUT ? numel_at(g->slots[k].shape, vars) : 0;
    for (int64_t e = 0; ok && e < numel; e++) {
      Scalar a = scalar_load(dtype, (char *)want[k].data + e * dtype_info[dtype].bytes);
      Scalar b = scalar_load(dtype, (char *)got[k].data + e * dtype_info[dtype].bytes);
      bool rounded = dtype_is_float(dtype) || a.i > 1000 || a.i < -1000;
      if (!dtype_is_float(dtype)) a.f = (double)a.i, b.f = (double)b.i;
      ok = near_enough(a.f, b.f, rounded ? tolerance : 0);
      if (!ok) printf("slot %zu element %d: expected %.9g, got %.9g\n", k, (int)e, a.f, b.f);
    }
    if (g->slots[k].kind == SLOT_OUTPUT) free(got[k].data);
    free(want[k].data);
  }
  return ok;
}

static inline void expect_equal_at(Sized *s, const int64_t *given) {
  if (sized_equals(s, given, 1e-4)) return;
  show_plan(&s->g);
  fail();
}
