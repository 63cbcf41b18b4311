/* kiln run: compile, run, summarise the outputs, write them as .npy files. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "client/cli/model.h"
#include "client/cli/npy.h"
#include "client/cli/tensor.h"

enum { REPEAT_MAX = 10000000 };

typedef struct RunArgs {
  ModelArgs model;
  const char *out;
  uint64_t repeat;
} RunArgs;

typedef struct Times {
  int64_t *wall, *device; /* sorted after time_runs */
  size_t n;
} Times;

/* -- output files ------------------------------------------------------------------------------ */

/* DIR/NAME.npy, with what cannot be in a file name replaced; `taken` tells equal names apart. */
static void output_path(const char *dir, const char *name, size_t taken, char *out, size_t cap) {
  size_t n = (size_t)snprintf(out, cap, "%s/", dir);
  for (const char *c = name; *c && n + 32 < cap; c++, n++)
    out[n] = (unsigned char)*c < ' ' || *c == '/' || (*c == '.' && c == name) ? '_' : *c;
  if (taken)
    snprintf(out + n, cap - n, "_%zu.npy", taken);
  else
    snprintf(out + n, cap - n, ".npy");
}

static int write_outputs(const Cli *cli, const char *dir, const KilnResult *r,
                         char (*paths)[4096]) {
  if (mkdir(dir, 0777) && errno != EEXIST)
    return cli_error(EX_CANTCREAT, "%s: %s", dir, strerror(errno));
  for (size_t i = 0; i < r->count; i++) {
    size_t taken = 0;
    output_path(dir, r->tensors[i].name, 0, paths[i], sizeof *paths);
    for (size_t k = 0; k < i; k++) {
      if (strcmp(paths[k], paths[i])) continue;
      output_path(dir, r->tensors[i].name, ++taken, paths[i], sizeof *paths);
      k = (size_t)-1; /* a new name: compare with all again */
    }
    Status st = npy_write(paths[i], &r->tensors[i]);
    if (st) {
      cli_fail_status(cli, st);
      return EX_CANTCREAT;
    }
  }
  return EX_OK;
}

/* -- summary ----------------------------------------------------------------------------------- */

static void print_values(const KilnTensor *t) {
  enum { SHOWN = 6 };
  TensorStats s = tensor_stats(t);
  char dims[128];
  printf("%s: %s %s", t->name, kiln_dtype_name(t->dtype),
         cli_dims(t->dims, t->rank, dims, sizeof dims));
  if (s.count > 1) printf(", min %g, max %g, mean %g", s.min, s.max, s.mean);
  if (s.nans) printf(", %zu NaN", s.nans);
  if (s.infs) printf(", %zu infinite", s.infs);
  printf("\n  [");
  for (size_t i = 0; i < s.count && i < SHOWN; i++)
    printf("%s%.6g", i ? ", " : "", tensor_get(t->dtype, t->data, i));
  printf("%s]\n", s.count > SHOWN ? ", ..." : "");
}

static void print_text(const Times *t, const KilnResult *r, const char *dir, char (*paths)[4096]) {
  char a[CLI_NUMBER], b[CLI_NUMBER], c[CLI_NUMBER];
  if (t->n == 1)
    printf("run: %s, of which the device %s\n", cli_ns(t->wall[0], a), cli_ns(t->device[0], b));
  else
    printf("%zu runs: p50 %s, p99 %s, device p50 %s\n", t->n, cli_ns(t->wall[t->n / 2], a),
           cli_ns(t->wall[t->n * 99 / 100], b), cli_ns(t->device[t->n / 2], c));
  for (size_t i = 0; i < r->count; i++) {
    print_values(&r->tensors[i]);
    if (dir) printf("  -> %s\n", paths[i]);
  }
}

static cJSON *json_output(const KilnTensor *t, const char *path) {
  TensorStats s = tensor_stats(t);
  cJSON *o = cJSON_CreateObject();
  cJSON_AddStringToObject(o, "name", t->name);
  cJSON_AddStringToObject(o, "dtype", kiln_dtype_name(t->dtype));
  cJSON_AddItemToObject(o, "shape", cli_json_dims(t->dims, t->rank));
  cJSON_AddNumberToObject(o, "min", s.min);
  cJSON_AddNumberToObject(o, "max", s.max);
  cJSON_AddNumberToObject(o, "mean", s.mean);
  cJSON_AddNumberToObject(o, "nans", (double)s.nans);
  cJSON_AddNumberToObject(o, "infs", (double)s.infs);
  if (path) cJSON_AddStringToObject(o, "file", path);
  return o;
}

static void print_json(cJSON *compile, const Times *t, const KilnResult *r, const char *dir,
                       char (*paths)[4096]) {
  size_t p50 = t->n / 2, p99 = t->n * 99 / 100;
  cJSON *j = cJSON_CreateObject(), *run = cJSON_CreateObject();
  cJSON_AddItemToObject(j, "compile", compile);
  cJSON_AddItemToObject(j, "run", run);
  cJSON_AddNumberToObject(run, "runs", (double)t->n);
  cJSON_AddNumberToObject(run, "wall_p50_ns", (double)t->wall[p50]);
  cJSON_AddNumberToObject(run, "wall_p99_ns", (double)t->wall[p99]);
  cJSON_AddNumberToObject(run, "device_p50_ns", (double)t->device[p50]);
  cJSON *list = cJSON_AddArrayToObject(j, "outputs");
  for (size_t i = 0; i < r->count; i++)
    cJSON_AddItemToArray(list, json_output(&r->tensors[i], dir ? paths[i] : NULL));
  cli_print_json(j);
}

/* -- the command ------------------------------------------------------------------------------- */

/* Runs n times; *out is the last result. */
static int time_runs(Cli *cli, KilnProgram *p, const Inputs *in, Times *t, KilnResult **out) {
  KilnRunOptions options = {.seeded = in->seeded, .seed = in->seed};
  *out = NULL;
  for (size_t i = 0; i < t->n; i++) {
    kiln_free(*out);
    if (t->n > 1) cli_progress(cli, "run %zu of %zu", i + 1, t->n);
    int64_t start = clock_now_ns();
    if (kiln_program_run(p, in->tensors, in->count, &options, out, &cli->err))
      return cli_fail(cli, &cli->err);
    t->wall[i] = clock_now_ns() - start;
    options.run++;
    t->device[i] = (*out)->device_ns;
  }
  cli_progress_end(cli);
  cli_sort(t->wall, t->n);
  cli_sort(t->device, t->n);
  return EX_OK;
}

static int show(Cli *cli, const RunArgs *args, const KilnExecutable *e, int64_t compile_ns,
                const Times *t, const KilnResult *r) {
  char(*paths)[4096] = calloc(r->count + 1, sizeof *paths);
  if (!paths) return cli_error(EX_OSERR, "no memory for %zu outputs", r->count);
  int rc = args->out ? write_outputs(cli, args->out, r, paths) : EX_OK;
  if (!rc && cli->json) {
    print_json(model_json_report(args->model.path, e, compile_ns), t, r, args->out, paths);
  } else if (!rc) {
    model_print_report(args->model.path, e, compile_ns);
    print_text(t, r, args->out, paths);
  }
  free(paths);
  return rc;
}

static int run_compiled(Cli *cli, ModelArgs *model, KilnProgram *p, int64_t compile_ns) {
  const KilnExecutable *e = kiln_program_executable(p);
  const RunArgs *args = (const RunArgs *)model;
  Inputs in;
  KilnResult *r = NULL;
  Times t = {.n = (size_t)args->repeat};
  int rc = inputs_open(cli, model, e, &in);
  t.wall = calloc(t.n, sizeof *t.wall);
  t.device = calloc(t.n, sizeof *t.device);
  if (!rc && (!t.wall || !t.device)) cli_error(rc = EX_OSERR, "no memory for %zu runs", t.n);
  if (!rc) rc = time_runs(cli, p, &in, &t, &r);
  if (!rc) rc = show(cli, args, e, compile_ns, &t, r);
  kiln_free(r);
  free(t.wall);
  free(t.device);
  inputs_close(&in);
  return rc;
}

static int run(Cli *cli, ModelArgs *model) {
  const RunArgs *args = (const RunArgs *)model;
  if (!args->repeat || args->repeat > REPEAT_MAX)
    return cli_usage("--repeat must be from 1 to %d", REPEAT_MAX);
  return model_compiled(cli, model, run_compiled);
}

int cmd_run(Cli *cli, int argc, char **argv) {
  RunArgs args = {.repeat = 1};
  const Opt opts[] = {
      INPUT_OPTS(args.model),
      MODEL_OPTS(args.model),
      {"--out", "DIR", OPT_TEXT, &args.out, "write every output to DIR/OUTPUT.npy"},
      {"--repeat", "N", OPT_COUNT, &args.repeat, "run N times and print percentiles"},
  };
  const ArgSpec spec = {
      .usage = "run MODEL [--input NAME=FILE.npy]... [--random SEED] [options]",
      .about =
          "Compiles MODEL (.onnx, or .kgraph: a binary or text graph proto), or takes it from the\n"
          "server's cache, runs it and prints a summary of its outputs.",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts,
      .min = 1,
      .max = 1};
  return model_command(cli, &spec, argc, argv, &args.model, run);
}
