/* kiln graph: the text of one stage of the compiler's pipeline. */
#include "client/cli/model.h"

typedef struct GraphArgs {
  ModelArgs model;
  const char *stage;
  int64_t kernel;
} GraphArgs;

static bool is_stage(const char *s) {
  static const char *const stages[] = {"tensor",  "ranged", "kernels", "scheduled",
                                       "lowered", "linear", "code"};
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
    if (!strcmp(stages[i], s)) return true;
  return false;
}

static int inspect(Cli *cli, ModelArgs *model) {
  const GraphArgs *args = (const GraphArgs *)model;
  Model m;
  KilnText *text;
  if (!is_stage(args->stage))
    return cli_usage("--stage '%s': expected tensor, ranged, kernels, scheduled, lowered, linear "
                     "or code",
                     args->stage);
  if (args->kernel < -1 || args->kernel > INT32_MAX)
    return cli_usage("--kernel must not be negative");
  int rc = model_open(cli, model, &m);
  if (!rc) rc = cli_connect(cli);
  if (!rc) cli_progress(cli, "compiling %s ...", args->model.path);
  if (!rc && kiln_inspect(cli->client, &m.model, &m.options, args->stage, (int32_t)args->kernel,
                          &text, &cli->err)) {
    rc = cli_fail(cli, &cli->err);
  } else if (!rc) {
    cli_progress_end(cli);
    if (cli->json) {
      cJSON *j = cJSON_CreateObject();
      cJSON_AddStringToObject(j, "stage", args->stage);
      cJSON_AddStringToObject(j, "text", text->text);
      cli_print_json(j);
    } else {
      size_t n = strlen(text->text);
      fputs(text->text, stdout);
      if (!n || text->text[n - 1] != '\n') putchar('\n');
    }
    kiln_free(text);
  }
  model_close(&m);
  return rc;
}

int cmd_graph(Cli *cli, int argc, char **argv) {
  GraphArgs args = {.stage = "tensor", .kernel = -1};
  const Opt opts[] = {
      {"--stage", "STAGE", OPT_TEXT, &args.stage,
       "tensor ranged kernels scheduled lowered linear code"},
      {"--kernel", "N", OPT_INT, &args.kernel, "one kernel only, by its place in --stage kernels"},
      MODEL_OPTS(args.model),
  };
  const ArgSpec spec = {.usage = "graph MODEL [--stage STAGE] [--kernel N] [options]",
                        .about =
                            "Prints MODEL as the compiler sees it after a stage (default: tensor).",
                        .opts = opts,
                        .nopts = sizeof opts / sizeof *opts,
                        .min = 1,
                        .max = 1};
  return model_command(cli, &spec, argc, argv, &args.model, inspect);
}
