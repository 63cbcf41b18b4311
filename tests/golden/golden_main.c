/* Golden tests of graph passes.
 *
 * A .uop file holds a graph as text, a line "pass: NAME", a line "---", and the text that the pass
 * gives for the graph. Lines that start with # are comments and stay. --update rewrites what stands
 * behind "---". A failing file prints what was expected and what came. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "compiler/ir/text.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/linearize.h"
#include "compiler/passes/lower.h"
#include "compiler/rules/rewrite.h"
#include "tests/read_file.h"

static const Target target = {.kind = "cpu",
                              .triple = "x86_64-unknown-linux-gnu",
                              .cpu = "x86-64-v3",
                              .features = "",
                              .compiler = "",
                              .vector_bytes = 32,
                              .vector_registers = 16,
                              .threads = 2,
                              .l1_bytes = 32 << 10,
                              .l2_bytes = 1 << 20,
                              .l3_bytes = 32 << 20,
                              .memory_bytes = (uint64_t)8 << 30};

/* -- passes ------------------------------------------------------------------------------------ */

static void pass_print(Job *job, UOp *root, StrBuf *out) { uop_print(job, root, out); }
static void pass_kernel(Job *job, UOp *root, StrBuf *out) { uop_print_kernel(job, root, out); }

static void pass_bounds(Job *job, UOp *root, StrBuf *out) {
  UOpList list = uop_toposort(job, root);
  for (size_t k = 0; k < list.len; k++) {
    const UOp *u = list.at[k];
    if (!dtype_is_int((DType)u->dtype)) continue;
    strbuf_addf(out, "%%%zu %s [%lld, %lld]\n", k, op_info[u->op].name, (long long)u->vmin,
                (long long)u->vmax);
  }
}

static void rewritten(Job *job, UOp *root, RuleSet rules, StrBuf *out) {
  Rewrite rw = {.job = job};
  uop_print(job, rewrite_graph(&rw, root, rules), out);
}

static void pass_symbolic(Job *job, UOp *root, StrBuf *out) {
  rewritten(job, root, rules_symbolic, out);
}

static void pass_movement(Job *job, UOp *root, StrBuf *out) {
  rewritten(job, root, rules_movement, out);
}

static void pass_linear(Job *job, UOp *root, StrBuf *out) {
  root = lower_kernel(job, expand_kernel(job, root, &target), &target);
  Linear linear = linearize_kernel(job, root, &target);
  uop_print_linear(job, linear.list, linear.len, out);
}

static const struct {
  const char *name;
  void (*run)(Job *, UOp *, StrBuf *);
} passes[] = {
    {"print", pass_print},       {"kernel", pass_kernel},     {"bounds", pass_bounds},
    {"symbolic", pass_symbolic}, {"movement", pass_movement}, {"linear", pass_linear},
};

/* -- files ------------------------------------------------------------------------------------- */

typedef struct Golden {
  Str graph, expected;
  size_t pass, keep; /* bytes of the file before `expected` */
  StrBuf out;
} Golden;

static bool split(const char *path, const StrBuf *text, Golden *g) {
  const char *pass = strstr(text->ptr, "\npass: ");
  const char *line = pass ? strstr(pass, "\n---\n") : NULL;
  if (!line) {
    fprintf(stderr, "%s: no line 'pass: NAME' followed by '---'\n", path);
    return false;
  }
  const char *name = pass + strlen("\npass: ");
  Str want = {name, strcspn(name, " \n")};
  *g = (Golden){.graph = {text->ptr, (size_t)(pass - text->ptr) + 1}};
  g->keep = (size_t)(line - text->ptr) + strlen("\n---\n");
  g->expected = (Str){text->ptr + g->keep, text->len - g->keep};
  for (g->pass = 0; g->pass < sizeof passes / sizeof *passes; g->pass++) {
    if (str_is(want, passes[g->pass].name)) return true;
  }
  fprintf(stderr, "%s: unknown pass '%.*s'\n", path, (int)want.len, want.ptr);
  return false;
}

static void run(Job *job, void *arg) {
  Golden *g = arg;
  UOp *root;
  Status st = uop_parse(job, g->graph, &root);
  if (st) job_abort(job, st);
  passes[g->pass].run(job, root, &g->out);
}

static bool update(const char *path, const StrBuf *text, const Golden *g) {
  FILE *f = fopen(path, "wb");
  bool ok = f && fwrite(text->ptr, 1, g->keep, f) == g->keep &&
            fwrite(g->out.ptr, 1, g->out.len, f) == g->out.len;
  if (f && fclose(f)) ok = false;
  if (!ok) perror(path);
  return ok;
}

static bool check(const char *path, bool updating) {
  StrBuf text = {0};
  Golden g = {0};
  Job job;
  bool ok = false;
  if (!read_file(path, &text)) {
    fprintf(stderr, "%s: cannot read\n", path);
  } else if (split(path, &text, &g)) {
    job_init(&job, (size_t)1 << 30);
    Status st = job_run(&job, run, &g);
    char why[1024];
    status_text(st, why, sizeof why);
    ok = !st && str_eq(g.expected, (Str){g.out.ptr, g.out.len});
    if (st) {
      fprintf(stderr, "%s: %s\n", path, why);
    } else if (!ok && updating) {
      ok = update(path, &text, &g);
    } else if (!ok) {
      fprintf(stderr, "%s: expected\n%.*sgot\n%s", path, (int)g.expected.len, g.expected.ptr,
              g.out.ptr ? g.out.ptr : "");
    }
    status_drop(st);
    job_deinit(&job);
  }
  strbuf_deinit(&g.out);
  strbuf_deinit(&text);
  return ok;
}

int main(int argc, char **argv) {
  int run_count = 0, failed = 0;
  bool updating = argc > 1 && !strcmp(argv[1], "--update");
  const char *folder = argc > 1 + updating ? argv[1 + updating] : ".";
  DIR *dir = opendir(folder);
  if (!dir) {
    perror(folder);
    return 1;
  }
  for (struct dirent *e; (e = readdir(dir));) {
    char path[4096];
    size_t n = strlen(e->d_name);
    if (n < 5 || strcmp(e->d_name + n - 4, ".uop") != 0) continue;
    snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
    run_count++;
    failed += !check(path, updating);
  }
  closedir(dir);
  printf("%d golden files, %d failed\n", run_count, failed);
  return failed || !run_count;
}
