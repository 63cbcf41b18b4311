/* rulegen: the C text.
 *
 * A rule becomes nested tests inside do { } while (0); a commutative op becomes a loop over its two
 * orders, and a failed test continues the nearest loop: that is the backtracking. Guards and
 * results written in C carry #line, so compilers and debuggers show the .rules file. */
#include "compiler/rules/tool/rulegen.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* -- writing
 * ---------------------------------------------------------------------------------------- */

static FILE *out;
static const char *out_path;
static int out_line = 1, depth;

static void put(const char *fmt, ...) {
  char text[4 * MAX_TEXT];
  va_list ap;
  va_start(ap, fmt);
  int len = vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (len < 0 || len >= (int)sizeof text) rulegen_die("line too long");
  for (const char *q = text; *q; q++) out_line += *q == '\n';
  fputs(text, out);
}

static void put_indent(void) { put("%*s", depth * 2, ""); }
#define emit(...) (put_indent(), put(__VA_ARGS__), put("\n"))

/* C text of the rule file, with debuggers and compilers pointed at it. */
static void put_c(const Rule *r, int line, const char *before, const char *text,
                  const char *after) {
  put("#line %d \"%s\"\n", line, r->file);
  emit("%s%s%s", before, text, after);
  put("#line %d \"%s\"\n", out_line + 1, out_path);
}

static void put_quoted(const char *s) {
  put("\"");
  for (bool space = false; *s; s++) {
    bool blank = isspace((unsigned char)*s);
    if (!(blank && space)) put(strchr("\"\\", *s) ? "\\%c" : "%c", blank ? ' ' : *s);
    space = blank;
  }
  put("\"");
}

static char bound[MAX_NODES][MAX_NAME]; /* a second use of a name becomes a comparison */
static int n_bound, n_temps, n_loops;

static bool is_bound(const char *s) {
  for (int i = 0; i < n_bound; i++)
    if (!strcmp(bound[i], s)) return true;
  return false;
}
static void bind_name(const char *s) { snprintf(bound[n_bound++], MAX_NAME, "%s", s); }

static bool needs_swap(const Rule *r, const Node *n) {
  if (!(ops[n->op].flags & COMM) || n->ordered) return false;
  const Node *a = &r->n[n->src[0]], *b = &r->n[n->src[1]];
  bool plain = a->kind == K_VAR && b->kind == K_VAR && a->mask == RC_ALL && b->mask == RC_ALL &&
               !is_bound(a->name) && !is_bound(b->name);
  if (plain && !strcmp(a->name, b->name)) return false;
  return !plain || r->guard || r->code ||
         n != &r->n[r->lhs]; /* OP(x, y): order matters to C text */
}

static const char *c_number(double v) {
  static char text[40];
  if (isinf(v)) return v < 0 ? "-INFINITY" : "INFINITY";
  snprintf(text, sizeof text, "%.17g", v);
  if (!strpbrk(text, ".e")) strcat(text, ".0"); /* -0 would lose its sign */
  return text;
}

static void emit_leaf(Node *n, const char *e) {
  switch (n->kind) {
  case K_NUMBER:
    emit("if (!rewrite_is(%s, %s) || !(rewrite_class(%s) & %uu)) continue;", e, c_number(n->value),
         e, literal_class(n));
    return;
  case K_ANY:
    if (n->mask != RC_ALL) emit("if (!(rewrite_class(%s) & %uu)) continue;", e, n->mask);
    return;
  case K_VAR:
  case K_CONST:
  case K_OP: break;
  }
  if (is_bound(n->name)) {
    emit("if (%s != %s) continue;", e, n->name);
    return;
  }
  bind_name(n->name);
  memcpy(n->cname, n->name, MAX_NAME);
  if (strcmp(n->name, e) != 0) emit("UOp *%s = %s;", n->name, e);
  if (n->kind == K_CONST) emit("if (%s->op != OP_CONST) continue;", n->name);
  if (n->mask != RC_ALL) emit("if (!(rewrite_class(%s) & %uu)) continue;", n->name, n->mask);
  emit("(void)%s;", n->name);
}

static void emit_match(Rule *r, int i, const char *e);

static void emit_sources(Rule *r, const Node *n, bool swap, int loop) {
  for (int pass = 0; pass < 2; pass++) /* what tells most first */
    for (int k = 0; k < n->nsrc; k++) {
      Kind kind = r->n[n->src[k]].kind;
      if ((kind == K_VAR || kind == K_ANY) != (pass == 1)) continue;
      char e[96];
      if (swap)
        snprintf(e, sizeof e, "%s->src[%ss%d]", n->cname, k ? "!" : "", loop);
      else
        snprintf(e, sizeof e, "%s->src[%d]", n->cname, k);
      emit_match(r, n->src[k], e);
    }
}

/* Emits the tests for node i held in C expression e. A failed test continues the nearest swap loop:
 * that is the backtracking. */
static void emit_match(Rule *r, int i, const char *e) {
  Node *n = &r->n[i];
  if (n->kind != K_OP) {
    emit_leaf(n, e);
    return;
  }
  if (i == r->lhs) {
    snprintf(n->cname, MAX_NAME, "n");
    if (n->name[0] && strcmp(n->name, "n") != 0) emit("UOp *%s = n;", n->name);
  } else {
    if (n->name[0])
      memcpy(n->cname, n->name, MAX_NAME);
    else
      snprintf(n->cname, MAX_NAME, "t%d", ++n_temps);
    emit("UOp *%s = %s;", n->cname, e);
    emit("if (%s->op != OP_%s) continue;", n->cname, ops[n->op].name);
  }
  if (n->name[0]) {
    bind_name(n->name);
    emit("(void)%s;", n->name);
  }
  if (ops[n->op].nsrc < 0)
    emit("if (%s->nsrc %s %d) continue;", n->cname, n->tail ? "<" : "!=", n->nsrc);
  bool swap = needs_swap(r, n);
  int loop = n_loops;
  if (swap) {
    n_loops++;
    emit("for (int s%d = 0; s%d < 2; s%d++) {", loop, loop, loop);
    depth++;
  }
  emit_sources(r, n, swap, loop);
}

/* A C name on the left whose dtype is that of node i. */
static const char *same_dtype(Rule *r, Types *t, int i) {
  for (int j = 0; j < r->n_lhs; j++)
    if (r->n[j].cname[0] && types_find(t, j) == types_find(t, i)) return r->n[j].cname;
  rulegen_die("the dtype of a literal is unknown");
}

static void emit_template(Rule *r, Types *t, int i) {
  const Node *n = &r->n[i];
  if (n->kind == K_NUMBER) {
    const char *like = n->is_bool ? "n" : same_dtype(r, t, i);
    put("rewrite_%s(rw, %s, %s)", n->is_bool ? "bool" : "number", like, c_number(n->value));
    return;
  }
  if (n->kind != K_OP) {
    put("%s", n->name);
    return;
  }
  if (n->attr[0] == '=')
    put("rewrite_like(rw, %s, %s, (UOp *[]){", n->attr + 1, n->tail ? "true" : "false");
  else
    put("uop_make(job, OP_%s, (DType)(%s), arg_none(), (UOp *[]){", ops[n->op].name,
        n->attr[0] ? n->attr : "DT_VOID");
  for (int k = 0; k < n->nsrc; k++) {
    put(k ? ", " : "");
    emit_template(r, t, n->src[k]);
  }
  put("}, %d)", n->nsrc);
}

static void emit_rule(Rule *r, int id) {
  n_bound = n_temps = n_loops = 0;
  rulegen_at(r->file, r->line);
  emit("do { /* %s:%d */", r->file, r->line);
  depth++;
  emit_match(r, r->lhs, "n");
  if (r->guard) put_c(r, r->guard_line, "if (!(", r->guard, ")) continue;");
  if (r->code) {
    put_c(r, r->code_line, "UOp *to = ", r->code, ";");
    emit("if (to) return rewrite_done(rw, &rules_%s_info[%d], n, to);", ruleset, id);
  } else {
    Types t = r->types;
    types_tree(r, &t, r->rhs);
    if (r->n[r->rhs].kind == K_NUMBER) types_join(r, &t, r->rhs, r->lhs);
    put_indent();
    put("return rewrite_done(rw, &rules_%s_info[%d], n, ", ruleset, id);
    emit_template(r, &t, r->rhs);
    put(");\n");
  }
  for (; n_loops; n_loops--) {
    depth--;
    emit("}");
  }
  depth--;
  emit("} while (0);");
}

static int count_root(int op) {
  int count = 0;
  for (int i = 0; i < n_rules; i++)
    count += !rules[i]->foreign && rules[i]->n[rules[i]->lhs].op == op;
  return count;
}

static void emit_matchers(void) {
  for (int op = 0; op < n_ops; op++) {
    if (!count_root(op)) continue;
    put("\nstatic UOp *%s_%s(Rewrite *rw, UOp *n) {\n  Job *job = rw->job;\n  (void)job;\n",
        ruleset, ops[op].name);
    depth = 1;
    for (int i = 0, id = 0; i < n_rules; i++) {
      if (rules[i]->foreign) continue;
      if (rules[i]->n[rules[i]->lhs].op == op) emit_rule(rules[i], id);
      id++;
    }
    put("  return NULL;\n}\n");
  }
  put("\nUOp *rules_%s(Rewrite *rw, UOp *n) {\n", ruleset);
  if (n_includes) put("  UOp *to;\n");
  for (int i = 0; i < n_includes; i++)
    put("  if ((to = rules_%s(rw, n))) return to;\n", includes[i]);
  put("  switch (n->op) {\n");
  for (int op = 0; op < n_ops; op++)
    if (count_root(op))
      put("  case OP_%s: return %s_%s(rw, n);\n", ops[op].name, ruleset, ops[op].name);
  put("  default: return NULL;\n  }\n}\n");
}

static void emit_table(void) {
  int count = 0;
  for (int i = 0; i < n_rules; i++) count += !rules[i]->foreign;
  put("static uint64_t %s_hits[%d];\n", ruleset, count + 1);
  put("const RuleInfo rules_%s_info[] = {\n", ruleset);
  for (int i = 0, id = 0; i < n_rules; i++) {
    if (rules[i]->foreign) continue;
    put("  {\"%s\", %d, ", rules[i]->file, rules[i]->line);
    put_quoted(rules[i]->text);
    put(", &%s_hits[%d]},\n", ruleset, id++);
  }
  put("  {NULL, 0, NULL, NULL},\n};\n");
}

/* Statements that build a random node for pattern node i, sources first. */
static void emit_instance(Rule *r, int i) {
  Node *n = &r->n[i];
  int first = n->name[0] ? rule_index(r, n->name, i) : -1;
  snprintf(n->cname, MAX_NAME, "v%d", first >= 0 && first != i ? first : i);
  if (first >= 0 && first != i && r->n[first].cname[0]) return;
  for (int k = 0; k < n->nsrc; k++) emit_instance(r, n->src[k]);
  int type = types_find(&r->types, i);
  put("  UOp *v%d = ", i);
  switch (n->kind) {
  case K_ANY:
  case K_VAR: put("gen_value(g, d%d);\n", type); return;
  case K_CONST: put("gen_const(g, d%d);\n", type); return;
  case K_NUMBER: put("gen_number(g, d%d, %s);\n", type, c_number(n->value)); return;
  case K_OP: break;
  }
  put("gen_op(g, OP_%s, d%d, (UOp *[]){", ops[n->op].name, type);
  for (int k = 0; k < n->nsrc; k++) put("%s%s", k ? ", " : "", r->n[n->src[k]].cname);
  put("}, %d, %s);\n", n->nsrc, n->tail ? "true" : "false");
}

static void emit_instances(void) {
  for (int i = 0, id = 0; i < n_rules; i++) {
    Rule *r = rules[i];
    if (r->foreign) continue;
    put("static UOp *%s_instance_%d(Gen *g) { /* %s:%d */\n", ruleset, id++, r->file, r->line);
    for (int j = 0; j < r->n_lhs; j++) r->n[j].cname[0] = 0;
    for (int j = 0; j < TY_N; j++) {
      if (types_find(&r->types, j) != j || (j >= r->n_lhs && j != TY_BOOL)) continue;
      put("  DType d%d = gen_dtype(g, %uu);\n  (void)d%d;\n", j, r->types.mask[j], j);
    }
    emit_instance(r, r->lhs);
    put("  return v%d;\n}\n", r->lhs);
  }
  put("static UOp *(*const %s_instances[])(Gen *) = {\n", ruleset);
  for (int i = 0, id = 0; i < n_rules; i++)
    if (!rules[i]->foreign) put("  %s_instance_%d,\n", ruleset, id++);
  put("};\n");
}

void rulegen_emit(const char *in_path, const char *path) {
  out_path = path;
  out = fopen(path, "w");
  if (!out) rulegen_die("cannot write %s", path);
  put("/* generated from %s by rulegen; do not edit */\n#include <math.h>\n\n#ifndef "
      "RULE_SELF_TEST\n",
      in_path);
  emit_table();
  emit_matchers();
  put("#else\n");
  emit_instances();
  put("#endif\n");
  if (fclose(out)) rulegen_die("cannot write %s", path);
}
