/* Kernels as C-like text, for people.
 *
 * A graph has no statements, so the printer makes them: an effect is a statement, a REDUCE is an
 * accumulator and a loop, a value used twice gets a name, and everything else is an expression. A
 * statement stands in the innermost open loop that its value depends on; loops are frames with
 * lines of their own, appended to the enclosing frame's when they close. Names live in the frame
 * that holds them. The walk recurses: expressions deeper than MAX_DEPTH are cut with a name. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/vec.h"
#include "compiler/ir/text.h"

enum { MAX_DEPTH = 500, MAX_FRAMES = 64 };

typedef struct Line {
  const char *text;
  size_t depth;
} Line;

/* All of it in the arena. */
typedef struct Frame {
  VEC(Line) lines;
  UOp *range;        /* NULL for the outermost */
  VEC(uint32_t) set; /* places named in this frame */
} Frame;

typedef struct Printer {
  Job *job;
  Frame frames[MAX_FRAMES];
  size_t nframes;
  uint32_t *uses; /* by place in the toposort */
  const char **names;
  size_t temps;
  bool linear; /* sources are already named: no expression nesting */
} Printer;

static const char *const infix[OP__COUNT] = {
    [OP_ADD] = "+",    [OP_SUB] = "-",      [OP_MUL] = "*",      [OP_FDIV] = "/",
    [OP_IDIV] = "/t",  [OP_IMOD] = "%t",    [OP_AND] = "&",      [OP_OR] = "|",
    [OP_XOR] = "^",    [OP_SHL] = "<<",     [OP_SHR] = ">>",     [OP_CMPLT] = "<",
    [OP_CMPLE] = "<=", [OP_FLOORDIV] = "/", [OP_FLOORMOD] = "%", [OP_CMPEQ] = "==",
    [OP_CMPNE] = "!=",
};

static const char *value(Printer *p, UOp *u, int depth);

static const char *constant(Printer *p, const UOp *u) {
  Arena *a = &p->job->arena;
  if (u->dtype == DT_BOOL) return u->arg.i ? "true" : "false";
  if (!dtype_is_float((DType)u->dtype)) return arena_printf(a, "%" PRId64, u->arg.i);
  double v = uop_float_value(u);
  bool whole = v == nearbyint(v) && fabs(v) < 1e6;
  return whole ? arena_printf(a, "%.1f", v) : arena_printf(a, "%.9g", v);
}

static const char *leaf(Printer *p, const UOp *u) {
  Arena *a = &p->job->arena;
  switch (u->op) {
  case OP_CONST:
    if (u->lanes == 1) return constant(p, u);
    return arena_printf(a, "splat%u(%s)", u->lanes, constant(p, u));
  case OP_PARAM: return arena_printf(a, "p%" PRId64, u->arg.i);
  case OP_BUFFER: return arena_printf(a, "b%" PRId64, u->arg.i);
  case OP_RANGE: return arena_printf(a, "i%" PRId64, u->arg.i);
  case OP_VAR: return arena_printf(a, "n%" PRId64, u->arg.i);
  case OP_THREAD: return "thread";
  case OP_SPECIAL:
    return arena_printf(a, "%s.%c", u->arg.i < 3 ? "group" : "local", "xyz"[u->arg.i % 3]);
  case OP_RAMP: return arena_printf(a, "ramp%u", u->lanes);
  default: return NULL;
  }
}

/* buffer[index], with the access's width and stride when it is a vector. */
static const char *access(Printer *p, const UOp *u, int depth) {
  Arena *a = &p->job->arena;
  const char *buf = value(p, u->src[0], depth);
  if (u->op == OP_STORE && u->nsrc == 2) return buf; /* tensor stage */
  const char *idx = value(p, u->src[1], depth);
  if (u->lanes == 1 || u->src[1]->lanes > 1 || u->op == OP_INDEX || u->src[0]->lanes > 1) {
    return arena_printf(a, "%s[%s]", buf, idx);
  }
  if (u->arg.i == 1) return arena_printf(a, "%s[%s :%u]", buf, idx, u->lanes);
  return arena_printf(a, "%s[%s :%u by %" PRId64 "]", buf, idx, u->lanes, u->arg.i);
}

static const char *call(Printer *p, const char *name, const UOp *u, int depth) {
  Arena *a = &p->job->arena;
  const char *args = "";
  for (uint32_t s = 0; s < u->nsrc; s++) {
    args = arena_printf(a, "%s%s%s", args, s ? ", " : "", value(p, u->src[s], depth));
  }
  return arena_printf(a, "%s(%s)", name, args);
}

static const char *lower(Printer *p, const char *name) {
  char *text = arena_strdup(&p->job->arena, str_from(name));
  for (char *c = text; *c; c++) *c = (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c);
  return text;
}

static const char *expression(Printer *p, UOp *u, int depth) {
  Arena *a = &p->job->arena;
  switch (u->op) {
  case OP_INDEX:
  case OP_LOAD: {
    const char *at = access(p, u, depth);
    if (u->nsrc < 3) return at;
    const char *gate = value(p, u->src[2], depth);
    const char *alt = u->op == OP_LOAD && u->nsrc > 3 ? value(p, u->src[3], depth) : "0";
    return arena_printf(a, "(%s ? %s : %s)", gate, at, alt);
  }
  case OP_AFTER: return value(p, u->src[0], depth);
  case OP_CAST: return call(p, dtype_info[u->dtype].name, u, depth);
  case OP_BITCAST: return call(p, arena_printf(a, "bits_%s", dtype_info[u->dtype].name), u, depth);
  case OP_BROADCAST: return call(p, arena_printf(a, "splat%u", u->lanes), u, depth);
  case OP_HREDUCE:
    return call(p, arena_printf(a, "lanes_%s", lower(p, op_info[u->arg.i].name)), u, depth);
  case OP_WHERE: {
    const char *c = value(p, u->src[0], depth), *x = value(p, u->src[1], depth);
    return arena_printf(a, "(%s ? %s : %s)", c, x, value(p, u->src[2], depth));
  }
  default: break;
  }
  if (!infix[u->op]) return call(p, lower(p, op_info[u->op].name), u, depth);
  const char *x = value(p, u->src[0], depth);
  return arena_printf(a, "(%s %s %s)", x, infix[u->op], value(p, u->src[1], depth));
}

/* -- frames ------------------------------------------------------------------------------------ */

/* The innermost frame whose loop u depends on. */
static size_t home(const Printer *p, const UOp *u) {
  for (size_t f = p->nframes; f-- > 1;) {
    if (uop_is_open(u, p->frames[f].range)) return f;
  }
  return 0;
}

static void line(Printer *p, size_t frame, const char *text) {
  Line l = {text, frame};
  avec_push(&p->job->arena, &p->frames[frame].lines, l);
}

/* Lines may be added to an outer frame while inner ones are open: they precede those loops. */
static void bind(Printer *p, size_t frame, UOp *u, const char *name) {
  p->names[u->place] = name;
  avec_push(&p->job->arena, &p->frames[frame].set, u->place);
}

static bool open_loop(Printer *p, UOp *range) {
  if (p->nframes == MAX_FRAMES) return false;
  p->frames[p->nframes++] = (Frame){.range = range};
  return true;
}

static void close_loop(Printer *p) {
  Frame *f = &p->frames[--p->nframes];
  size_t outer = p->nframes - 1;
  for (size_t k = 0; k < f->set.len; k++) p->names[f->set.at[k]] = NULL;
  const char *end = value(p, f->range->src[0], MAX_DEPTH - 8);
  line(p, outer,
       arena_printf(&p->job->arena, "for i%" PRId64 " < %s  // %s", f->range->arg.i, end,
                    axis_type_name[uop_axis(f->range)]));
  for (size_t k = 0; k < f->lines.len; k++) {
    avec_push(&p->job->arena, &p->frames[outer].lines, f->lines.at[k]);
  }
}

/* -- statements -------------------------------------------------------------------------------- */

static const char *combine(Printer *p, const UOp *u, const char *acc, const char *x) {
  Arena *a = &p->job->arena;
  if (infix[u->arg.i]) return arena_printf(a, "%s %s= %s", acc, infix[u->arg.i], x);
  const char *name = lower(p, op_info[u->arg.i].name);
  return arena_printf(a, "%s = %s(%s, %s)", acc, name, acc, x);
}

static const char *reduction(Printer *p, UOp *u, int depth) {
  Arena *a = &p->job->arena;
  size_t frame = home(p, u), opened = 0;
  const char *acc = arena_printf(a, "acc%zu", p->temps++);
  UOp *identity =
      uop_scalar(p->job, (DType)u->dtype, reduce_identity((Op)u->arg.i, (DType)u->dtype));
  line(p, frame,
       arena_printf(a, "%s %s = %s", dtype_info[u->dtype].name, acc, constant(p, identity)));
  for (uint32_t s = 1; s < u->nsrc; s++) opened += open_loop(p, u->src[s]);
  const char *x = value(p, u->src[0], depth);
  line(p, p->nframes - 1, combine(p, u, acc, x));
  for (size_t k = 0; k < opened; k++) close_loop(p);
  bind(p, frame, u, acc);
  return acc;
}

static void effect(Printer *p, UOp *u, int depth) {
  if (p->names[u->place] || depth > MAX_DEPTH) return;
  size_t opened = 0, frame = home(p, u);
  switch (u->op) {
  case OP_PREFETCH: break;
  case OP_BARRIER:
  case OP_SINK:
    for (uint32_t s = 0; s < u->nsrc; s++) effect(p, u->src[s], depth + 1);
    break;
  case OP_END:
    for (uint32_t s = 1; s < u->nsrc; s++) opened += open_loop(p, u->src[s]);
    effect(p, u->src[0], depth + 1);
    for (size_t k = 0; k < opened; k++) close_loop(p);
    break;
  case OP_STORE: {
    const char *to = access(p, u, depth), *x = value(p, u->src[u->nsrc > 2 ? 2 : 1], depth);
    const char *gate = u->nsrc > 3 ? value(p, u->src[3], depth) : NULL;
    Arena *a = &p->job->arena;
    line(p, frame,
         gate ? arena_printf(a, "if (%s) %s = %s", gate, to, x)
              : arena_printf(a, "%s = %s", to, x));
    break;
  }
  default: value(p, u, depth + 1);
  }
  bind(p, frame, u, "done");
}

static const char *value(Printer *p, UOp *u, int depth) {
  Arena *a = &p->job->arena;
  const char *text = leaf(p, u);
  if (text) return text;
  if (p->names[u->place]) return p->names[u->place];
  if (p->linear || depth > MAX_DEPTH) return arena_printf(a, "v%u", u->place);
  if (u->op == OP_AFTER) {
    for (uint32_t s = 1; s < u->nsrc; s++) effect(p, u->src[s], depth + 1);
  }
  if (u->op == OP_REDUCE) return reduction(p, u, depth + 1);
  text = expression(p, u, depth + 1);
  if (u->op == OP_AFTER || p->uses[u->place] < 2) return text;
  const char *name = arena_printf(a, "t%zu", p->temps++);
  size_t frame = home(p, u);
  char lanes[16] = "";
  if (u->lanes > 1) snprintf(lanes, sizeof lanes, "x%u", u->lanes);
  line(p, frame, arena_printf(a, "%s%s %s = %s", dtype_info[u->dtype].name, lanes, name, text));
  bind(p, frame, u, name);
  return name;
}

void uop_print_kernel(Job *job, UOp *root, StrBuf *out) {
  UOpList list = uop_toposort(job, root);
  Printer *p = arena_alloc(&job->arena, sizeof *p);
  *p = (Printer){.job = job, .nframes = 1};
  p->uses = arena_array(&job->arena, list.len, sizeof *p->uses);
  p->names = arena_array(&job->arena, list.len, sizeof *p->names);
  for (size_t k = 0; k < list.len; k++) {
    UOp *u = list.at[k];
    for (uint32_t s = 0; s < u->nsrc; s++) p->uses[u->src[s]->place]++;
  }
  effect(p, root, 0);
  for (size_t k = 0; k < p->frames[0].lines.len; k++) {
    const Line *l = &p->frames[0].lines.at[k];
    for (size_t d = 0; d < l->depth; d++) strbuf_adds(out, "  ");
    strbuf_addf(out, "%s\n", l->text);
  }
}

/* -- linear programs --------------------------------------------------------------------------- */

static const char *linear_line(Printer *p, UOp *u) {
  Arena *a = &p->job->arena;
  if (u->op == OP_STORE) {
    const char *to = access(p, u, 0), *x = value(p, u->src[u->nsrc > 2 ? 2 : 1], 0);
    if (u->nsrc < 4) return arena_printf(a, "%s = %s", to, x);
    return arena_printf(a, "if (%s) %s = %s", value(p, u->src[3], 0), to, x);
  }
  const char *x = expression(p, u, 0);
  if (u->lanes == 1) return arena_printf(a, "%s v%u = %s", dtype_info[u->dtype].name, u->place, x);
  return arena_printf(a, "%sx%u v%u = %s", dtype_info[u->dtype].name, u->lanes, u->place, x);
}

void uop_print_linear(Job *job, UOp *const *list, size_t n, StrBuf *out) {
  Printer *p = arena_alloc(&job->arena, sizeof *p);
  *p = (Printer){.job = job, .nframes = 1, .linear = true};
  p->names = arena_array(&job->arena, n, sizeof *p->names);
  size_t depth = 0;
  for (size_t k = 0; k < n; k++) list[k]->place = (uint32_t)k;
  for (size_t k = 0; k < n; k++) {
    UOp *u = list[k];
    if (u->op == OP_AFTER) p->names[k] = value(p, u->src[0], 0);
    if (u->op == OP_END && depth) depth--;
    if (u->op == OP_END || u->op == OP_SINK || u->op == OP_AFTER ||
        (u->op != OP_RANGE && leaf(p, u))) {
      continue;
    }
    for (size_t d = 0; d < depth; d++) strbuf_adds(out, "  ");
    if (u->op == OP_RANGE) {
      strbuf_addf(out, "for i%" PRId64 " < %s  // %s\n", u->arg.i, value(p, u->src[0], 0),
                  axis_type_name[uop_axis(u)]);
      depth++;
    } else {
      strbuf_addf(out, "%s\n", linear_line(p, u));
    }
  }
}
