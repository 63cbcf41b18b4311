/* kiln compile: sends a model, prints what the compiler made of it. */
#include "base/clock.h"
#include "client/cli/model.h"

static void print_text(const char *path, const KilnExecutable *e, int64_t wall) {
  char n[CLI_NUMBER], dims[128];
  const struct {
    const char *name;
    int64_t ns;
  } parts[] = {{"frontend", e->frontend_ns}, {"kernel list", e->kernels_ns},
               {"code", e->codegen_ns},      {"cache", e->cache_ns},
               {"load", e->load_ns},         {"server in all", e->total_ns}};
  model_print_report(path, e, wall);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    printf("  %-14s %s\n", parts[i].name, cli_ns(parts[i].ns, n));
  for (size_t i = 0; i < e->ninputs + e->noutputs; i++) {
    bool in = i < e->ninputs;
    const KilnTensorSpec *s = in ? &e->inputs[i] : &e->outputs[i - e->ninputs];
    printf("  %-7s %s  %s %s\n", in ? "input" : "output", s->name, kiln_dtype_name(s->dtype),
           cli_shape(s, dims, sizeof dims));
  }
  printf("  graph   %s\n", e->graph_hash);
}

static cJSON *json_specs(const KilnTensorSpec *specs, size_t n) {
  cJSON *list = cJSON_CreateArray();
  for (size_t i = 0; i < n; i++) {
    cJSON *s = cJSON_CreateObject();
    cJSON_AddStringToObject(s, "name", specs[i].name);
    cJSON_AddStringToObject(s, "dtype", kiln_dtype_name(specs[i].dtype));
    cJSON_AddItemToObject(s, "shape", cli_json_shape(&specs[i]));
    cJSON_AddItemToArray(list, s);
  }
  return list;
}

static void print_json(const char *path, const KilnExecutable *e, int64_t wall) {
  cJSON *j = model_json_report(path, e, wall);
  cJSON_AddItemToObject(j, "inputs", json_specs(e->inputs, e->ninputs));
  cJSON_AddItemToObject(j, "outputs", json_specs(e->outputs, e->noutputs));
  cli_print_json(j);
}

static int compile(Cli *cli, const Model *m, const char *path) {
  KilnExecutable *e;
  int rc = cli_connect(cli);
  if (rc) return rc;
  cli_progress(cli, "compiling %s ...", path);
  int64_t start = clock_now_ns();
  if (kiln_compile(cli->client, &m->model, &m->options, &e, &cli->err))
    return cli_fail(cli, &cli->err);
  int64_t wall = clock_now_ns() - start;
  cli_progress_end(cli);
  (cli->json ? print_json : print_text)(path, e, wall);
  kiln_release(cli->client, e->id, NULL);
  kiln_free(e);
  return EX_OK;
}

int cmd_compile(Cli *cli, int argc, char **argv) {
  ModelArgs args = {.path = NULL};
  const Opt opts[] = {MODEL_OPTS(args)};
  const ArgSpec spec = {
      .usage = "compile MODEL [options]",
      .about =
          "Compiles MODEL (.onnx, or .kgraph: a binary or text graph proto) and prints the time "
          "that\n"
          "each part took, the inputs and the outputs. The result stays in the server's cache.",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts,
      .min = 1,
      .max = 1};
  TextList pos = {0};
  Model m = {0};
  int rc;
  if (cli_args(&spec, argc, argv, &pos, &rc)) {
    args.path = pos.at[0];
    rc = model_open(cli, &args, &m);
    if (!rc) rc = compile(cli, &m, args.path);
    model_close(&m);
  }
  model_args_deinit(&args);
  vec_deinit(&pos);
  return rc;
}
