/* rulegen: what a rule set must satisfy before any C compiler sees it.
 *
 * Dtypes: every node of a rule is in a class of nodes of one dtype (union-find, joined by the op
 * table's type rules), and every class has the set of dtypes it may have. The result may neither
 * leave that set nor join classes that the pattern keeps apart. Reachability: rule b is dead when
 * an earlier rule without guard and without C covers its pattern node by node; conservative, so a
 * refusal is always right. */
#include "compiler/rules/tool/rulegen.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* -- checking: dtypes
 * ------------------------------------------------------------------------------ */

int types_find(Types *t, int i) {
  while (t->parent[i] != i) i = t->parent[i] = t->parent[t->parent[i]];
  return i;
}

unsigned literal_class(const Node *n) {
  return n->is_bool ? RC_BOOL : n->is_float ? RC_FLOAT : RC_NUM;
}

static void narrow(Rule *r, Types *t, int i, unsigned mask) {
  int root = types_find(t, i);
  t->mask[root] &= mask;
  if (!t->mask[root]) {
    const Node *n = i < MAX_NODES ? &r->n[i] : NULL;
    rulegen_die("no dtype fits '%s'", n && n->name[0]   ? n->name
                                      : n && n->op >= 0 ? ops[n->op].name
                                                        : "a literal");
  }
}

void types_join(Rule *r, Types *t, int a, int b) {
  int x = types_find(t, a), y = types_find(t, b);
  if (x == y) return;
  t->parent[x] = y;
  narrow(r, t, b, t->mask[x]);
}

static void join_op(Rule *r, Types *t, int i) {
  const Node *n = &r->n[i];
  const struct OpRow *op = &ops[n->op];
  switch (op->type) {
  case TR_SAME:
    for (int k = 0; k < n->nsrc; k++) types_join(r, t, i, n->src[k]);
    break;
  case TR_BOOL:
    types_join(r, t, n->src[0], n->src[1]);
    types_join(r, t, i, TY_BOOL);
    break;
  case TR_SELECT:
    types_join(r, t, n->src[0], TY_BOOL);
    types_join(r, t, n->src[1], n->src[2]);
    types_join(r, t, i, n->src[1]);
    break;
  case TR_SRC0: types_join(r, t, i, n->src[0]); break;
  case TR_LEAF:
  case TR_GIVEN:
  case TR_VOID: break;
  }
  if (!(op->flags & ALU) || op->type == TR_GIVEN) return;
  int x = op->type == TR_SELECT ? n->src[1] : n->src[0];
  if (op->flags & FLT) narrow(r, t, x, RC_FLOAT);
  if (op->flags & INT) narrow(r, t, x, RC_ALL & ~(unsigned)RC_FLOAT);
  if (op->flags & ARITH) narrow(r, t, x, RC_NUM);
}

int rule_index(Rule *r, const char *name, int before) {
  for (int j = 0; j < before; j++)
    if (!strcmp(r->n[j].name, name)) return j;
  return !strcmp(name, "n") ? r->lhs : -1;
}

void types_tree(Rule *r, Types *t, int i) {
  Node *n = &r->n[i];
  narrow(r, t, i, n->mask);
  if (n->kind == K_NUMBER && n->is_bool) types_join(r, t, i, TY_BOOL);
  if (n->kind == K_NUMBER) narrow(r, t, i, literal_class(n));
  int first = n->name[0] ? rule_index(r, n->name, i < r->n_lhs ? i : r->n_lhs) : -1;
  if (first >= 0 && first != i) types_join(r, t, i, first);
  for (int k = 0; k < n->nsrc; k++) types_tree(r, t, n->src[k]);
  if (n->kind != K_OP) return;
  join_op(r, t, i);
  /* [name->dtype] says which; any other C text is trusted and checked when it runs */
  char *arrow = strstr(n->attr, "->dtype");
  if (!arrow || arrow[strlen("->dtype")]) return;
  char name[MAX_NAME];
  snprintf(name, sizeof name, "%.*s", (int)(arrow - n->attr), n->attr);
  int like = rule_index(r, name, r->n_lhs);
  if (like < 0) rulegen_die("'%s' is not bound", name);
  types_join(r, t, i, like);
}

/* bool and index are one dtype each, so classes of them agree without having been joined. */
static bool same_dtype(Types *t, int i, int j) {
  int a = types_find(t, i), b = types_find(t, j);
  return a == b || (t->mask[a] == t->mask[b] && (t->mask[a] == RC_BOOL || t->mask[a] == RC_INDEX));
}

static const char *label(const Node *n) {
  return n->name[0] ? n->name : n->op >= 0 ? ops[n->op].name : "_";
}

static void check_types(Rule *r) {
  Types t;
  for (int i = 0; i < TY_N; i++) t.parent[i] = i, t.mask[i] = RC_ALL;
  t.mask[TY_BOOL] = RC_BOOL;
  types_tree(r, &t, r->lhs);
  r->types = t;
  if (r->rhs < 0) return;
  types_tree(r, &t, r->rhs);
  const Node *to = &r->n[r->rhs];
  bool trusted = to->attr[0] && types_find(&t, r->rhs) == r->rhs && to->attr[0] != '=';
  if (to->kind == K_NUMBER) types_join(r, &t, r->rhs, r->lhs);
  if (!trusted && !same_dtype(&t, r->rhs, r->lhs) && ops[r->n[r->lhs].op].type != TR_VOID)
    rulegen_die("the two sides may differ in dtype");
  for (int i = 0; i < r->n_lhs;
       i++) { /* the template must take whatever the pattern lets through */
    if (t.mask[types_find(&t, i)] != r->types.mask[types_find(&r->types, i)])
      rulegen_die("the result does not exist for every dtype of '%s'", label(&r->n[i]));
    for (int j = 0; j < i; j++)
      if (types_find(&t, i) == types_find(&t, j) && !same_dtype(&r->types, i, j))
        rulegen_die("the result forces '%s' and '%s' to one dtype", label(&r->n[i]),
                    label(&r->n[j]));
  }
}

/* -- checking: reachability
 * ------------------------------------------------------------------------- */

typedef struct Cover {
  Rule *a, *b;
  int binds[MAX_NODES]; /* node of a -> the node of b it stands for, or -1 */
} Cover;

static bool same_tree(Rule *r, int x, int y) {
  const Node *m = &r->n[x], *n = &r->n[y];
  if (x == y) return true;
  if (m->kind == K_ANY || m->kind != n->kind) return false;
  if (m->name[0] && !strcmp(m->name, n->name)) return true;
  if (m->kind == K_NUMBER) return m->value == n->value && m->is_float == n->is_float;
  if (m->kind != K_OP || m->op != n->op || m->nsrc != n->nsrc || m->tail || n->tail) return false;
  for (int k = 0; k < m->nsrc; k++)
    if (!same_tree(r, m->src[k], n->src[k])) return false;
  return true;
}

/* True if whatever matches node y of b certainly matches node x of a. */
static bool covers(Cover *c, int x, int y) {
  const Node *m = &c->a->n[x], *n = &c->b->n[y];
  unsigned lets = m->kind == K_NUMBER ? literal_class(m) : m->mask;
  if (c->b->types.mask[types_find(&c->b->types, y)] & ~lets) return false;
  if (m->name[0] && m->kind != K_OP) {
    int first = rule_index(c->a, m->name, x);
    if (first >= 0) return c->binds[first] >= 0 && same_tree(c->b, c->binds[first], y);
  }
  c->binds[x] = y;
  switch (m->kind) {
  case K_ANY:
  case K_VAR: return true;
  case K_CONST: return n->kind == K_CONST || n->kind == K_NUMBER;
  case K_NUMBER:
    return n->kind == K_NUMBER && m->value == n->value && signbit(m->value) == signbit(n->value);
  case K_OP: break;
  }
  if (n->kind != K_OP || m->op != n->op) return false;
  if (m->tail ? n->nsrc < m->nsrc : n->tail || n->nsrc != m->nsrc) return false;
  Cover save = *c;
  bool all = true;
  for (int k = 0; k < m->nsrc && all; k++) all = covers(c, m->src[k], n->src[k]);
  if (all || !(ops[m->op].flags & COMM) || m->ordered) return all;
  *c = save;
  return covers(c, m->src[0], n->src[1]) && covers(c, m->src[1], n->src[0]);
}

void rulegen_check(Rule *r) {
  check_types(r);
  for (int i = 0; i < n_rules; i++) {
    if (rules[i]->guard || rules[i]->code) continue;
    Cover c = {.a = rules[i], .b = r};
    memset(c.binds, -1, sizeof c.binds);
    if (covers(&c, rules[i]->lhs, r->lhs))
      rulegen_die("never reached: %s:%d always matches first", rules[i]->file, rules[i]->line);
  }
}
