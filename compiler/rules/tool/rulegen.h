/* The host rule compiler's three parts: rulegen.c reads rules, rulegen_check.c types them and looks
 * for rules that nothing can reach, rulegen_emit.c writes C. */
#pragma once

#include <stdbool.h>

enum {
  COMM = 1,
  ASSOC = 2,
  IDEMP = 4,
  ALU = 8,
  MOVE = 16,
  EFFECT = 32,
  ARITH = 64,
  FLT = 128,
  INT = 256
};
enum { MAX_NODES = 64, MAX_RULES = 2048, MAX_SRC = 8, MAX_NAME = 32, MAX_TEXT = 4096 };

typedef enum TypeRule { TR_LEAF, TR_SAME, TR_BOOL, TR_SELECT, TR_GIVEN, TR_SRC0, TR_VOID } TypeRule;
typedef struct OpRow {
  const char *name;
  int nsrc;
  TypeRule type;
  int flags;
} OpRow;
extern const OpRow ops[];
extern const int n_ops;

/* Sets of dtypes, as bits; rewrite.h has the same. */
enum {
  RC_BOOL = 1,
  RC_SINT = 2,
  RC_UINT = 4,
  RC_FLOAT = 8,
  RC_INDEX = 16,
  RC_NUM = 30,
  RC_ALL = 31
};
typedef enum Kind { K_OP, K_VAR, K_CONST, K_NUMBER, K_ANY } Kind;

typedef struct Node {
  Kind kind;
  int op;
  bool ordered, tail;     /* K_OP: written OP!(..); sources end in `...` */
  bool is_float, is_bool; /* K_NUMBER */
  double value;
  unsigned mask;       /* class constraint, or RC_ALL */
  char name[MAX_NAME]; /* variable, or binding of an op */
  char cname[MAX_NAME];
  char attr[96]; /* template: C for the dtype, or =NAME */
  int src[MAX_SRC], nsrc;
} Node;

enum { TY_BOOL = MAX_NODES, TY_N };
typedef struct Types {
  int parent[TY_N];
  unsigned mask[TY_N];
} Types;

typedef struct Rule {
  const char *file;
  int line;
  bool foreign; /* from an included set: checked against, not written */
  char *text;
  Node n[MAX_NODES];
  int n_nodes, n_lhs, lhs, rhs; /* rhs < 0: code is the result */
  char *guard, *code;
  int guard_line, code_line;
  Types types; /* of the left side */
} Rule;

extern Rule *rules[MAX_RULES];
extern int n_rules;
extern char ruleset[MAX_NAME];
extern char includes[MAX_SRC][MAX_NAME];
extern int n_includes;

/* Where rulegen_die says it happened: a file, and a line when no rule is being read. */
void rulegen_at(const char *path, int line);
_Noreturn void rulegen_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Dies when the two sides do not type, or when an earlier rule takes every node of this one. */
void rulegen_check(Rule *r);
int types_find(Types *t, int i);
void types_join(Rule *r, Types *t, int a, int b);
/* Types node i and what is under it. */
void types_tree(Rule *r, Types *t, int i);
/* The dtypes a literal may have. */
unsigned literal_class(const Node *n);
/* The first node before `before` with that name; the root for "n"; or -1. */
int rule_index(Rule *r, const char *name, int before);

void rulegen_emit(const char *in_path, const char *path);
