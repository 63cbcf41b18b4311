/* Prints the op and dtype tables as Markdown, and compares the print with a file: docs/ops.md
 * cannot fall behind ops.def. --update writes the file. */
#include <stdio.h>
#include <string.h>

#include "compiler/ir/uop.h"

static const struct {
  uint32_t flag;
  const char *name;
} flags[] = {
    {OPF_COMM, "commutes"},   {OPF_ASSOC, "associates"}, {OPF_IDEMP, "idempotent"},
    {OPF_ALU, "elementwise"}, {OPF_MOVE, "movement"},    {OPF_EFFECT, "effect"},
    {OPF_ARITH, "not bool"},  {OPF_FLT, "float only"},   {OPF_INT, "integer or bool"},
};
static const char *const type_rules[] = {
    [TR_LEAF] = "given",    [TR_SAME] = "that of all sources",
    [TR_BOOL] = "bool",     [TR_SELECT] = "that of sources 1 and 2; source 0 is bool",
    [TR_GIVEN] = "given",   [TR_SRC0] = "that of source 0",
    [TR_VOID] = "no value",
};
static const char *const args[] = {
    [ARG_NONE] = "", [ARG_I] = "i", [ARG_INTS] = "ints", [ARG_BOTH] = "i, ints"};

static void print_op(StrBuf *out, const OpInfo *op) {
  bool first = true;
  strbuf_addf(out, "| %s | ", op->name);
  if (op->nsrc < 0) {
    strbuf_adds(out, "any");
  } else {
    strbuf_addf(out, "%d", op->nsrc);
  }
  strbuf_addf(out, " | %s | %s | ", type_rules[op->type], args[op->arg]);
  for (const char *s = op->stages; *s; s++) {
    const char *name = *s == 'T' ? "tensor" : *s == 'R' ? "ranged" : "lowered";
    strbuf_addf(out, "%s%s", s == op->stages ? "" : ", ", name);
  }
  strbuf_adds(out, " | ");
  for (size_t k = 0; k < sizeof flags / sizeof *flags; k++) {
    if (!(op->flags & flags[k].flag)) continue;
    strbuf_addf(out, "%s%s", first ? "" : ", ", flags[k].name);
    first = false;
  }
  strbuf_addf(out, " | %s |\n", op->doc);
}

static void print_tables(StrBuf *out) {
  static const char *const classes[] = {[DC_NONE] = "no value",
                                        [DC_BOOL] = "bool",
                                        [DC_SINT] = "signed integer",
                                        [DC_UINT] = "unsigned integer",
                                        [DC_FLOAT] = "float"};
  strbuf_adds(out, "# Ops and dtypes\n\nGenerated from `compiler/ir/ops.def` and "
                   "`compiler/ir/dtype.def`; a test compares. The values of the elementwise ops, "
                   "with every corner, are the value columns of `ops.def`.\n\n"
                   "| op | sources | dtype | argument | stages | properties | meaning |\n"
                   "|---|---|---|---|---|---|---|\n");
  for (int op = 0; op < OP__COUNT; op++) print_op(out, &op_info[op]);
  strbuf_adds(out, "\n| dtype | bytes | bits | class |\n|---|---|---|---|\n");
  for (int d = 0; d < DT__COUNT; d++) {
    const DTypeInfo *t = &dtype_info[d];
    strbuf_addf(out, "| %s | %u | %u | %s |\n", t->name, t->bytes, t->bits, classes[t->cls]);
  }
}

static int compare(const char *path, const StrBuf *want) {
  StrBuf have = {0};
  char buf[4096];
  size_t n;
  FILE *f = fopen(path, "rb");
  if (!f) {
    perror(path);
    return 1;
  }
  while ((n = fread(buf, 1, sizeof buf, f)) > 0) strbuf_add(&have, buf, n);
  fclose(f);
  bool same = have.len == want->len && !memcmp(have.ptr, want->ptr, have.len);
  if (!same) fprintf(stderr, "%s is not what ops.def says: run ops_table --update on it\n", path);
  strbuf_deinit(&have);
  return !same;
}

int main(int argc, char **argv) {
  StrBuf text = {0};
  int failed = 1;
  print_tables(&text);
  if (argc == 2) {
    failed = compare(argv[1], &text);
  } else if (argc == 3 && !strcmp(argv[1], "--update")) {
    FILE *f = fopen(argv[2], "wb");
    failed = !f || fwrite(text.ptr, 1, text.len, f) != text.len;
    if (f && fclose(f)) failed = 1;
    if (failed) perror(argv[2]);
  } else {
    fprintf(stderr, "usage: ops_table [--update] FILE\n");
  }
  strbuf_deinit(&text);
  return failed;
}
