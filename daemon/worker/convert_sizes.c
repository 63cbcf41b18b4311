/* Dims of the compiler become postfix programs, and, for people, texts over the names that the
 * model gives its dimensions. Recursion is bounded: dim.h bounds the depth of a size. */
#include <inttypes.h>
#include <string.h>

#include "daemon/worker/convert.h"

enum { CODE_MAX = 4096 };

static Status no_memory(void) { return FAIL(RESOURCE_EXHAUSTED, "no memory for sizes"); }

/* -- programs -----------------------------------------------------------------------------------
 */

typedef struct Code {
  int64_t at[CODE_MAX];
  size_t n;
  bool failed;
} Code;

static void emit(Code *c, int64_t word) {
  if (c->n < CODE_MAX)
    c->at[c->n++] = word;
  else
    c->failed = true;
}

static int64_t word_of(Op op) {
  switch (op) {
  case OP_ADD: return 2;
  case OP_SUB: return 3;
  case OP_MUL: return 4;
  case OP_FLOORDIV: return 5;
  case OP_FLOORMOD: return 6;
  case OP_MIN: return 7;
  case OP_MAX: return 8;
  default: return -1;
  }
}

/* (n / d) * d with a d that divides n is how dims write a VAR with a divisor. */
static const UOp *plain_var(const UOp *u) {
  if (u->op != OP_MUL) return u;
  const UOp *q = u->src[0], *d = u->src[1];
  if (q->op == OP_CONST) q = u->src[1], d = u->src[0];
  bool unit = q->op == OP_FLOORDIV && q->src[0]->op == OP_VAR && d->op == OP_CONST &&
              q->src[1]->op == OP_CONST && q->src[1]->arg.i == d->arg.i &&
              q->src[0]->arg.ints.at[2] % d->arg.i == 0;
  return unit ? q->src[0] : u;
}

static void emit_node(Code *c, const UOp *u) {
  u = plain_var(u);
  if (c->failed) return;
  if (u->op == OP_CONST || u->op == OP_VAR) {
    emit(c, u->op == OP_VAR);
    emit(c, u->arg.i);
    return;
  }
  if (u->op == OP_NEG) {
    emit(c, 0);
    emit(c, 0);
    emit_node(c, u->src[0]);
    emit(c, word_of(OP_SUB));
    return;
  }
  int64_t word = word_of((Op)u->op);
  if (word < 0) {
    c->failed = true;
    return;
  }
  emit_node(c, u->src[0]);
  emit_node(c, u->src[1]);
  emit(c, word);
}

Status convert_size(Arena *arena, int64_t dim, uint64_t times, Kiln__V1__SizeProgram **out) {
  Kiln__V1__SizeProgram *p = *out = arena_alloc(arena, sizeof *p);
  Code code;
  code.n = 0;
  code.failed = false;
  if (!p) return no_memory();
  kiln__v1__size_program__init(p);
  if (dim_is_static(dim)) {
    emit(&code, 0);
    emit(&code, dim);
  } else {
    emit_node(&code, dim_node(dim));
  }
  if (times > 1) {
    emit(&code, 0);
    emit(&code, (int64_t)times);
    emit(&code, word_of(OP_MUL));
  }
  if (code.failed) return FAIL(RESOURCE_EXHAUSTED, "a size of the model is too long an expression");
  p->n_code = code.n;
  p->code = arena_copy(arena, code.at, code.n * sizeof *code.at);
  return p->code ? NULL : no_memory();
}

/* -- texts --------------------------------------------------------------------------------------
 */

static bool computed(const TensorGraph *g, const UOp *u) {
  if (u->op == OP_VAR) return g->vars[u->arg.i].source != VAR_INPUT;
  for (uint32_t s = 0; s < u->nsrc; s++)
    if (computed(g, u->src[s])) return true;
  return false;
}

/* Operators that bind less than their surroundings stand in parentheses. */
static void print(StrBuf *b, const TensorGraph *g, const UOp *u, bool inner) {
  static const char *const sign[OP__COUNT] = {
      [OP_ADD] = " + ", [OP_SUB] = " - ", [OP_MUL] = "*", [OP_FLOORDIV] = "/", [OP_FLOORMOD] = "%"};
  u = plain_var(u);
  if (u->op == OP_CONST) {
    strbuf_addf(b, "%" PRId64, u->arg.i);
  } else if (u->op == OP_VAR) {
    Str name = g->vars[u->arg.i].name;
    strbuf_add(b, name.ptr, name.len);
  } else if (u->nsrc == 1) {
    strbuf_adds(b, "-");
    print(b, g, u->src[0], true);
  } else {
    bool loose = u->op == OP_ADD || u->op == OP_SUB, call = !sign[u->op];
    bool wrap = !call && inner && u->op != OP_MUL;
    strbuf_adds(b, call ? (u->op == OP_MIN ? "min(" : "max(") : wrap ? "(" : "");
    print(b, g, u->src[0], !loose && !call);
    strbuf_adds(b, call ? ", " : sign[u->op]);
    print(b, g, u->src[1], !call && u->op != OP_ADD);
    strbuf_adds(b, call || wrap ? ")" : "");
  }
}

static Status convert_dim(Arena *arena, const TensorGraph *g, int64_t dim, Kiln__V1__Dim **out) {
  Kiln__V1__Dim *d = *out = arena_alloc(arena, sizeof *d);
  if (!d) return no_memory();
  kiln__v1__dim__init(d);
  if (dim_is_static(dim)) {
    d->size = (uint64_t)dim;
    return NULL;
  }
  const UOp *u = plain_var(dim_node(dim));
  StrBuf text = {0};
  if (computed(g, u))
    strbuf_adds(&text, "?");
  else
    print(&text, g, u, false);
  d->name = text.failed ? NULL : arena_strdup(arena, (Str){text.ptr, text.len});
  strbuf_deinit(&text);
  d->min = u->vmin < 0 ? 0 : (uint64_t)u->vmin;
  d->max = (uint64_t)u->vmax;
  if (u->op == OP_VAR) d->multiple = (uint64_t)u->arg.ints.at[2];
  return d->name ? NULL : no_memory();
}

/* -- interfaces ---------------------------------------------------------------------------------
 */

Status convert_shape(Arena *arena, const TensorGraph *g, Ints shape, Kiln__V1__TensorSpec *spec) {
  spec->n_dims = shape.n;
  spec->dims = arena_array(arena, shape.n + 1, sizeof *spec->dims);
  if (!spec->dims) return no_memory();
  for (uint32_t k = 0; k < shape.n; k++) spec->dims[k] = (uint64_t)dim_high(shape.at[k]);
  if (shape_is_static(shape)) return NULL;
  spec->shape = arena_array(arena, shape.n + 1, sizeof *spec->shape);
  if (!spec->shape) return no_memory();
  spec->n_shape = shape.n;
  for (uint32_t k = 0; k < shape.n; k++) TRY(convert_dim(arena, g, shape.at[k], &spec->shape[k]));
  return NULL;
}

Status convert_vars(Arena *arena, const GraphVar *vars, size_t n, Kiln__V1__PlanVar ***out) {
  static const Kiln__V1__PlanVar__Source sources[] = {
      [VAR_INPUT] = KILN__V1__PLAN_VAR__SOURCE__INPUT,
      [VAR_BOUND] = KILN__V1__PLAN_VAR__SOURCE__BOUND,
      [VAR_LOOP] = KILN__V1__PLAN_VAR__SOURCE__LOOP,
  };
  *out = arena_array(arena, n + 1, sizeof **out);
  if (!*out) return no_memory();
  for (size_t i = 0; i < n; i++) {
    Kiln__V1__PlanVar *v = (*out)[i] = arena_alloc(arena, sizeof *v);
    if (!v) return no_memory();
    kiln__v1__plan_var__init(v);
    v->name = arena_strdup(arena, vars[i].name);
    v->min = vars[i].min;
    v->max = vars[i].max;
    v->multiple = (uint64_t)vars[i].divisor;
    v->source = sources[vars[i].source];
    v->slot = vars[i].slot;
    v->axis = vars[i].axis;
    if (!v->name) return no_memory();
  }
  return NULL;
}

static Status convert_slot(Arena *arena, const GraphSlot *slot, Kiln__V1__SlotShape **out) {
  Kiln__V1__SlotShape *s = *out = arena_alloc(arena, sizeof *s);
  if (!s) return no_memory();
  kiln__v1__slot_shape__init(s);
  s->item_bytes = dtype_info[slot->dtype].bytes;
  s->n_dims = slot->shape.n;
  s->dims = arena_array(arena, s->n_dims + 1, sizeof *s->dims);
  if (!s->dims) return no_memory();
  for (uint32_t k = 0; k < slot->shape.n; k++)
    TRY(convert_size(arena, slot->shape.at[k], 1, &s->dims[k]));
  return NULL;
}

Status convert_slots(Arena *arena, const TensorGraph *g, Kiln__V1__FrontendDone *out) {
  size_t n = g->ninputs + g->noutputs;
  if (!g->nvars) return NULL;
  out->n_vars = g->nvars;
  TRY(convert_vars(arena, g->vars, g->nvars, &out->vars));
  out->shapes = arena_array(arena, n + 1, sizeof *out->shapes);
  if (!out->shapes) return no_memory();
  out->n_shapes = n;
  for (size_t i = 0; i < n; i++) TRY(convert_slot(arena, &g->slots[i], &out->shapes[i]));
  return NULL;
}
