/* rulegen: the host tool that compiles a .rules file to C.
 *
 *   file     ::= "ruleset" NAME ["includes" NAME+] rule*
 *   rule     ::= {"for" NAME "in" WORD+ ":"} pattern ["if" C] "=>" result
 *   result   ::= template | "{" C "}"
 *   pattern  ::= [NAME "@"] OP ["!"] "(" pattern {"," pattern} ["," "..."] ")"
 *   pattern  ::= ["#"] NAME [":" class] | "_" [":" class] | literal
 *   template ::= OP ["[" C "]" | "[=" NAME "]"] "(" template {"," template} ["," "..."] ")"
 *   template ::= NAME | literal
 *   literal  ::= NUMBER | "true" | "false"
 *
 * An indented line continues the rule above it. #name is a CONST, OP! does not commute, [C] is the
 * dtype of the result, for ops that need one.
 * "# text" is a comment. A repeated name is the same node; commutative ops match both ways; `...`
 * stands for the remaining sources; [=r] keeps the argument and the remaining sources of r; an
 * integer literal is a number of any dtype, one with a point (or inf) a float. Guards and { results
 * } are C over the bound names, n (the root), rw and job; a { result } of NULL means "not matched,
 * go on". Included rule sets come first.
 *
 * Checked here, before any C compiler runs: op names, arities, unbound names, dtypes of both sides
 * (union-find over the op table's type rules, each class with the set of dtypes it may have) and
 * rules that no node can reach because an earlier one always matches first.
 *
 * Output: one function per root op that tries its rules in file order, rules_NAME that dispatches,
 * a RuleInfo table with hit counters; under RULE_SELF_TEST, instead, builders of random instances
 * of every left-hand side. Rules stay until exit: the process lives for one file. */
#include "compiler/rules/tool/rulegen.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const OpRow ops[] = {
#define OP(name_, n_, type_, arg_, stages_, flags_, iv_, fv_, doc_)                                \
  {#name_, n_, TR_##type_, flags_},
#include "compiler/ir/ops.def"
#undef OP
};
const int n_ops = sizeof ops / sizeof ops[0];

static const struct ClassRow {
  const char *name;
  unsigned mask;
} classes[] = {{"bool", RC_BOOL},
               {"int", RC_SINT | RC_UINT | RC_INDEX},
               {"fixed", RC_SINT | RC_UINT},
               {"uint", RC_UINT},
               {"sint", RC_SINT},
               {"index", RC_INDEX},
               {"float", RC_FLOAT},
               {"num", RC_NUM},
               {"logic", RC_BOOL | RC_SINT | RC_UINT | RC_INDEX}};

Rule *rules[MAX_RULES];
int n_rules;
char ruleset[MAX_NAME];
char includes[MAX_SRC][MAX_NAME];
int n_includes;

/* -- errors, text ---------------------------------------------------------------------------------
 */

static const char *file;    /* the file being read */
static const char *rule_at; /* start of the current rule's text */
static int rule_line;       /* and its line */
static const char *p;       /* cursor in it */

static int line_here(void) {
  int line = rule_line;
  for (const char *q = rule_at; q && q < p && *q; q++) line += *q == '\n';
  return line;
}

void rulegen_die(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fprintf(stderr, "%s:%d: ", file, line_here());
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
  exit(1);
}

void rulegen_at(const char *path, int line) {
  file = path;
  rule_line = line;
  rule_at = NULL;
}

static void *must(void *memory) {
  if (!memory) rulegen_die("out of memory");
  return memory;
}

static char *copy_text(const char *s, size_t n) {
  char *c = must(malloc(n + 1));
  memcpy(c, s, n);
  c[n] = 0;
  return c;
}

/* -- reading --------------------------------------------------------------------------------------
 */

static bool is_word(char c) { return isalnum((unsigned char)c) || c == '_'; }
static void skip(void) {
  while (isspace((unsigned char)*p)) p++;
}

static bool accept(const char *s) {
  skip();
  size_t k = strlen(s);
  if (strncmp(p, s, k) != 0) return false;
  if (is_word(s[0]) && is_word(p[k])) return false;
  p += k;
  return true;
}

static void expect(const char *s) {
  if (!accept(s)) rulegen_die("expected '%s' before '%.20s'", s, p);
}

static void word(char dst[MAX_NAME]) {
  skip();
  size_t k = 0;
  while (is_word(*p)) {
    if (k + 1 == MAX_NAME) rulegen_die("name too long");
    dst[k++] = *p++;
  }
  dst[k] = 0;
  if (!k) rulegen_die("expected a name before '%.20s'", p);
}

/* C text up to (not including) the first `stop` outside brackets. */
static char *c_text(const char *stop) {
  skip();
  const char *begin = p;
  int depth = 0;
  for (; *p; p++) {
    if (!depth && !strncmp(p, stop, strlen(stop))) break;
    if (strchr("([{", *p)) depth++;
    if (strchr(")]}", *p) && --depth < 0) break;
  }
  const char *end = p;
  while (end > begin && isspace((unsigned char)end[-1])) end--;
  if (end == begin) rulegen_die("expected C text before '%s'", stop);
  return copy_text(begin, (size_t)(end - begin));
}

static int find_op(const char *name) {
  for (int i = 0; i < n_ops; i++)
    if (!strcmp(ops[i].name, name)) return i;
  return -1;
}

static unsigned find_class(const char *name) {
  for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
    if (!strcmp(classes[i].name, name)) return classes[i].mask;
  rulegen_die("'%s' is not a dtype class", name);
}

static int new_node(Rule *r, Kind kind) {
  if (r->n_nodes == MAX_NODES) rulegen_die("rule too large");
  r->n[r->n_nodes] = (Node){.kind = kind, .op = -1, .mask = RC_ALL};
  return r->n_nodes++;
}

static bool parse_number(Rule *r, int *out) {
  skip();
  bool truth = accept("true");
  if (truth || accept("false")) {
    *out = new_node(r, K_NUMBER);
    r->n[*out].value = truth;
    r->n[*out].is_bool = true;
    return true;
  }
  const char *q = p + (*p == '-');
  bool inf = !strncmp(q, "inf", 3) && !is_word(q[3]);
  if (!isdigit((unsigned char)*q) && !inf) return false;
  char *end;
  double v = strtod(p, &end);
  *out = new_node(r, K_NUMBER);
  r->n[*out].value = v;
  r->n[*out].is_float = inf || memchr(p, '.', (size_t)(end - p)) != NULL;
  p = end;
  return true;
}

static int parse_tree(Rule *r, bool is_pattern);

static void parse_sources(Rule *r, int i) {
  int k = 0;
  expect("(");
  do {
    if (accept("...")) {
      r->n[i].tail = true;
      break;
    }
    if (k == MAX_SRC) rulegen_die("too many sources");
    int s = parse_tree(r, r->n_lhs == 0);
    r->n[i].src[k++] = s;
  } while (accept(","));
  expect(")");
  r->n[i].nsrc = k;
  const struct OpRow *op = &ops[r->n[i].op];
  if (op->nsrc >= 0 && k != op->nsrc)
    rulegen_die("%s has %d sources, got %d", op->name, op->nsrc, k);
  if (!k) rulegen_die("%s needs at least one source here", op->name);
  if (r->n[i].tail && op->nsrc >= 0) rulegen_die("%s has a fixed number of sources", op->name);
}

static int parse_leaf(Rule *r, const char *id, bool is_const, bool is_pattern) {
  bool any = is_pattern && !strcmp(id, "_");
  if (!strcmp(id, "rw") || !strcmp(id, "job")) rulegen_die("'%s' is a reserved name", id);
  if (isupper((unsigned char)id[0])) rulegen_die("'%s' is not an op", id);
  int i = new_node(r, any ? K_ANY : is_const ? K_CONST : K_VAR);
  if (!any) snprintf(r->n[i].name, MAX_NAME, "%s", id);
  if (is_pattern && accept(":")) {
    char cls[MAX_NAME];
    word(cls);
    r->n[i].mask = find_class(cls);
  }
  return i;
}

static int parse_tree(Rule *r, bool is_pattern) {
  int i;
  if (parse_number(r, &i)) return i;
  bool is_const = accept("#");
  if (is_const && !is_pattern) rulegen_die("'#' belongs to the left side");
  char id[MAX_NAME], bind[MAX_NAME] = "";
  word(id);
  if (is_pattern && accept("@")) {
    memcpy(bind, id, MAX_NAME);
    word(id);
  }
  int op = find_op(id);
  if (op < 0 && bind[0]) rulegen_die("'%s' is not an op", id);
  if (op < 0) return parse_leaf(r, id, is_const, is_pattern);
  i = new_node(r, K_OP);
  r->n[i].op = op;
  memcpy(r->n[i].name, bind, MAX_NAME);
  r->n[i].ordered = accept("!");
  if (!is_pattern && accept("[")) {
    char *attr = c_text("]");
    if (snprintf(r->n[i].attr, sizeof r->n[i].attr, "%s", attr) >= (int)sizeof r->n[i].attr)
      rulegen_die("dtype text too long");
    free(attr);
    expect("]");
  }
  parse_sources(r, i);
  return i;
}

static Node *find_name(Rule *r, const char *name) {
  for (int i = 0; i < r->n_lhs; i++)
    if (r->n[i].name[0] && !strcmp(r->n[i].name, name)) return &r->n[i];
  return NULL;
}

/* A name of a template must be bound on the left; n always is. */
static void check_bound(Rule *r) {
  for (int i = r->n_lhs; i < r->n_nodes; i++) {
    Node *t = &r->n[i];
    const char *name = t->kind == K_VAR ? t->name : t->attr[0] == '=' ? t->attr + 1 : NULL;
    if (name && strcmp(name, "n") != 0 && !find_name(r, name))
      rulegen_die("'%s' is not bound", name);
    if (t->kind == K_OP && t->tail && t->attr[0] != '=') rulegen_die("`...` needs [=name]");
    if (t->kind == K_OP && !t->attr[0] &&
        (ops[t->op].type == TR_GIVEN || ops[t->op].type == TR_LEAF))
      rulegen_die("%s needs [dtype]", ops[t->op].name);
  }
}

static void parse_rule(const char *text, bool foreign) {
  if (n_rules == MAX_RULES) rulegen_die("too many rules");
  Rule *r = must(calloc(1, sizeof *r));
  r->file = file;
  r->line = rule_line;
  r->foreign = foreign;
  p = rule_at = text;
  r->lhs = parse_tree(r, true);
  if (r->n[r->lhs].kind != K_OP) rulegen_die("a pattern must start with an op");
  r->n_lhs = r->n_nodes;
  if (accept("if")) {
    skip();
    r->guard_line = line_here();
    r->guard = c_text("=>");
  }
  expect("=>");
  if (accept("{")) {
    r->rhs = -1;
    skip();
    r->code_line = line_here();
    r->code = c_text("}");
    expect("}");
  } else {
    r->rhs = parse_tree(r, false);
    check_bound(r);
  }
  skip();
  if (*p) rulegen_die("trailing text '%.20s'", p);
  r->text = copy_text(text, strlen(text));
  rulegen_check(r);
  rules[n_rules++] = r;
}

/* "for OP in A B: rest": reads `rest` once per word, with the whole word OP replaced. */
static void parse_line(const char *text, bool foreign) {
  p = rule_at = text;
  if (!accept("for")) {
    parse_rule(text, foreign);
    return;
  }
  char var[MAX_NAME], value[MAX_NAME];
  word(var);
  expect("in");
  const char *colon = strchr(p, ':'), *list = p;
  if (!colon) rulegen_die("expected ':' after the words of `for`");
  for (p = list; skip(), p < colon; p = list) {
    word(value);
    list = p;
    char body[MAX_TEXT];
    size_t k = 0, len = strlen(var);
    for (const char *q = colon + 1; *q; q++) {
      if (k + MAX_NAME + 2 > sizeof body) rulegen_die("rule too long");
      bool hit = !strncmp(q, var, len) && !is_word(q[len]) && !is_word(q[-1]);
      k += (size_t)snprintf(body + k, sizeof body - k, "%s", hit ? value : (char[]){*q, 0});
      if (hit) q += len - 1;
    }
    parse_line(body, foreign);
    rule_at = text;
  }
}

static void read_file(const char *path, bool foreign);

static void parse_header(const char *text, bool foreign) {
  p = rule_at = text;
  char name[MAX_NAME], dir[MAX_TEXT];
  expect("ruleset");
  word(name);
  if (!foreign) memcpy(ruleset, name, MAX_NAME);
  if (!accept("includes")) return;
  const char *slash = strrchr(file, '/');
  int dir_len = slash ? (int)(slash - file) + 1 : 0;
  while (skip(), *p) {
    word(name);
    if (n_includes == MAX_SRC) rulegen_die("too many included rule sets");
    if (!foreign) memcpy(includes[n_includes++], name, MAX_NAME);
    if (snprintf(dir, sizeof dir, "%.*s%s.rules", dir_len, file, name) >= (int)sizeof dir)
      rulegen_die("path too long");
    const char *here = p, *my_file = file;
    int my_line = rule_line;
    read_file(dir, true);
    p = here, rule_at = text, file = my_file, rule_line = my_line;
  }
}

/* Cuts "# text" off; "#name" is a pattern. */
static void strip_comment(char *s) {
  for (; *s; s++)
    if (*s == '#' && (!s[1] || isspace((unsigned char)s[1]))) {
      *s = 0;
      return;
    }
}

static void read_file(const char *path, bool foreign) {
  FILE *in = fopen(path, "r");
  if (!in) rulegen_die("cannot open %s", path);
  file = copy_text(path, strlen(path));
  char rule[MAX_TEXT] = "", buf[MAX_TEXT];
  int lines = 0, start = 0;
  bool header = true, more = true;
  while (more) {
    more = fgets(buf, sizeof buf, in) != NULL;
    lines++;
    buf[strcspn(buf, "\n")] = 0;
    bool begins = !more || (buf[0] && !isspace((unsigned char)buf[0]) && buf[0] != '#');
    if (begins && rule[0]) {
      rule_line = start;
      if (header)
        parse_header(rule, foreign);
      else
        parse_line(rule, foreign);
      header = false;
      rule[0] = 0;
    }
    if (!more) break;
    if (begins) start = lines;
    strip_comment(buf);
    rule_line = lines;
    rule_at = NULL;
    if (strlen(rule) + strlen(buf) + 2 > sizeof rule) rulegen_die("rule too long");
    if (begins || rule[0]) strcat(strcat(rule, begins ? "" : "\n"), buf);
  }
  fclose(in);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: rulegen in.rules out.inc\n");
    return 2;
  }
  file = argv[1];
  read_file(argv[1], false);
  rulegen_at(argv[1], 0);
  rulegen_emit(argv[1], argv[2]);
  return 0;
}
