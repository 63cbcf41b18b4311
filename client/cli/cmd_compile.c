/* kiln compile: sends a model, prints what the compiler made of it. */
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

static int show(Cli *cli, ModelArgs *args, KilnProgram *p, int64_t compile_ns) {
  const KilnExecutable *e = kiln_program_executable(p);
  (cli->json ? print_json : print_text)(args->path, e, compile_ns);
  return EX_OK;
}

static int compile(Cli *cli, ModelArgs *args) { return model_compiled(cli, args, show); }

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
  return model_command(cli, &spec, argc, argv, &args, compile);
}
