/* Prints the table of graph ops, proto/graph_ops.def, as the reference page (docs/graph-ops.md) and
 * as the Python client's copy (client/python/kiln/_ops.py), and compares: neither can fall behind.
 * --update writes them.
 *
 *   graph_table [--update] docs/graph-ops.md client/python/kiln/_ops.py */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "kiln/v1/graph.pb-c.h"
#include "proto/graph_ops.h"

typedef struct Row {
  const char *name, *group;
  int number, nsrc, nints;
  const char *dtypes, *result, *ints_doc, *doc;
} Row;

static const Row rows[] = {
#define GRAPH_OP(name_, group_, nsrc_, nints_, dtypes_, result_, ir_, handler_, ints_doc_, doc_)   \
  {#name_,    #group_, KILN__V1__GRAPH_OP__##name_, nsrc_, nints_, #dtypes_, #result_,             \
   ints_doc_, doc_},
#include "proto/graph_ops.def"
#undef GRAPH_OP
};
enum { NROWS = sizeof rows / sizeof *rows };

static const char *const groups[][3] = {
    {"LEAF", "Leaves", ""},
    {"MOVE", "Movement",
     "Negative axes count from the end. Wherever ints are sizes, some of them may be computed: see "
     "\"Sizes\" in graph.md."},
    {"REDUCE", "Reductions",
     "`i` = 0 keeps the axes with size 1, `i` = 1 drops them. f16 and bf16 are accumulated in f32 "
     "and "
     "rounded once. Sums and products may be taken in any order."},
    {"CONVERT", "Conversion", ""},
    {"UNARY", "Elementwise, one source", "The result has the source's shape."},
    {"BINARY", "Elementwise, two sources", "Both have one dtype; shapes broadcast as in numpy."},
    {"COMPARE", "Comparisons",
     "Both have one dtype; shapes broadcast as in numpy; the result is bool."},
    {"OTHER", "Others", ""},
    {"RANDOM", "Random numbers", ""},
};
static const char *const dtypes[][2] = {
    {"ALL", "all"},
    {"NUMERIC", "all but bool"},
    {"FLOAT", "floats"},
    {"BITS", "bool, integers"},
    {"INTEGER", "integers"},
    {"INDEX", "all; integers"},
    {"UPDATES", "all; integers; source 0's"},
    {"COND", "bool; all; all"},
    {"NONE", ""},
};
static const char *const results[][2] = {
    {"SAME", "the source's"},
    {"BOOL", "bool"},
    {"I64", "i64"},
    {"BRANCH", "source 1's"},
    {"GIVEN", "the node's `dtype`"},
    {"PARAM", "the parameter's"},
};

/* The second of the pair whose first is key; a key that the table should not have ends the program,
 * by way of a comparison that fails. */
static const char *named(const char *const (*pairs)[2], size_t n, const char *key) {
  for (size_t k = 0; k < n; k++)
    if (!strcmp(pairs[k][0], key)) return pairs[k][1];
  fprintf(stderr, "graph_ops.def: '%s' is not explained here\n", key);
  return "?";
}
#define NAMED(pairs, key) named(pairs, sizeof pairs / sizeof *pairs, key)

/* -- Markdown ---------------------------------------------------------------------------------- */

static void print_row(StrBuf *out, const Row *r) {
  char lower[32] = {0};
  for (size_t k = 0; r->name[k] && k + 1 < sizeof lower; k++)
    lower[k] = (char)tolower((unsigned char)r->name[k]);
  bool keyword = !strcmp(lower, "and") || !strcmp(lower, "or") || !strcmp(lower, "not");
  strbuf_addf(out, "| `%s` | %d | `g.%s%s` | ", r->name, r->number, lower, keyword ? "_" : "");
  if (r->nsrc < 0)
    strbuf_adds(out, "1 or more");
  else
    strbuf_addf(out, "%d", r->nsrc);
  strbuf_addf(out, " | %s | %s | %s | %s |\n", strcmp(r->ints_doc, "none") ? r->ints_doc : "",
              NAMED(dtypes, r->dtypes), NAMED(results, r->result), r->doc);
}

static void print_markdown(StrBuf *out) {
  strbuf_adds(
      out, "# Ops of the native graph\n\nGenerated from `proto/graph_ops.def`; a test compares. "
           "`docs/graph.md` says how "
           "a graph is put together, how shapes broadcast and what sizes that a run computes are; "
           "`docs/graph-python.md` has what Python composes of these.\n\n"
           "In C: `kiln_graph_node(g, KILN_OP_<op>, ...)`, and functions by group in `kiln.h`.\n");
  for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
    strbuf_addf(out, "\n## %s\n\n%s%s", groups[g][1], groups[g][2], *groups[g][2] ? "\n\n" : "");
    strbuf_adds(out,
                "| op | number | Python | sources | ints | dtypes | result | value and errors |\n"
                "|---|---|---|---|---|---|---|---|\n");
    for (int k = 0; k < NROWS; k++)
      if (!strcmp(rows[k].group, groups[g][0])) print_row(out, &rows[k]);
  }
}

/* -- Python ------------------------------------------------------------------------------------ */

static void print_string(StrBuf *out, const char *s) {
  strbuf_adds(out, "\"");
  for (; *s; s++) strbuf_addf(out, *s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
  strbuf_adds(out, "\"");
}

static void print_python(StrBuf *out) {
  strbuf_adds(out, "\"\"\"The ops of the graph format. Generated from proto/graph_ops.def; a test "
                   "compares.\"\"\"\n"
                   "from __future__ import annotations\n\nfrom typing import NamedTuple\n\n\n"
                   "class Op(NamedTuple):\n    \"\"\"One op: sources -1 is any number from 1; "
                   "dtypes and result as in proto/graph_ops.def.\"\"\"\n\n"
                   "    group: str\n    sources: int\n    dtypes: str\n    result: str\n    ints: "
                   "str\n    doc: str\n\n\n"
                   "OPS = {\n");
  for (int k = 0; k < NROWS; k++) {
    const Row *r = &rows[k];
    strbuf_addf(out, "    \"%s\": Op(\"%s\", %d, \"%s\", \"%s\", ", r->name, r->group, r->nsrc,
                r->dtypes, r->result);
    print_string(out, r->ints_doc);
    strbuf_adds(out, ", ");
    print_string(out, r->doc);
    strbuf_adds(out, "),\n");
  }
  strbuf_adds(out, "}\n");
}

/* -- files ------------------------------------------------------------------------------------- */

/* Every op of graph.proto has a row, and there is no other. */
static int check_numbers(void) {
  int bad = 0;
  for (unsigned v = 0; v < kiln__v1__graph_op__descriptor.n_values; v++) {
    const ProtobufCEnumValue *e = &kiln__v1__graph_op__descriptor.values[v];
    int found = !e->value;
    for (int k = 0; k < NROWS; k++) found |= rows[k].number == e->value;
    if (!found) fprintf(stderr, "graph_ops.def has no row for %s\n", e->name);
    bad |= !found;
  }
  return bad;
}

static int compare(const char *path, const StrBuf *want) {
  StrBuf have = {0};
  char buf[4096];
  FILE *f = fopen(path, "rb");
  if (!f) return perror(path), 1;
  for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;) strbuf_add(&have, buf, n);
  fclose(f);
  bool same = have.len == want->len && !memcmp(have.ptr, want->ptr, have.len);
  if (!same) fprintf(stderr, "%s is not what graph_ops.def says: run graph_table --update\n", path);
  strbuf_deinit(&have);
  return !same;
}

static int update(const char *path, const StrBuf *text) {
  FILE *f = fopen(path, "wb");
  int failed = !f || fwrite(text->ptr, 1, text->len, f) != text->len;
  if (f && fclose(f)) failed = 1;
  if (failed) perror(path);
  return failed;
}

int main(int argc, char **argv) {
  StrBuf text[2] = {{0}, {0}};
  bool write = argc == 4 && !strcmp(argv[1], "--update");
  if (argc != 3 && !write)
    return fprintf(stderr, "usage: graph_table [--update] GRAPH-OPS.md _ops.py\n"), 64;
  int failed = check_numbers();
  print_markdown(&text[0]);
  print_python(&text[1]);
  for (int k = 0; k < 2; k++) {
    const char *path = argv[argc - 2 + k];
    failed |= write ? update(path, &text[k]) : compare(path, &text[k]);
    strbuf_deinit(&text[k]);
  }
  return failed;
}
