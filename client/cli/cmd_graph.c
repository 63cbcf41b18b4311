/* kiln graph: the text of one stage of the compiler's pipeline. */
#include "client/cli/model.h"

typedef struct GraphArgs {
  ModelArgs model;
  const char *stage;
  int64_t kernel;
} GraphArgs;

static int inspect(Cli *cli, const GraphArgs *args) {
  Model m;
  KilnText *text;
  int rc = model_open(cli, &args->model, &m);
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

static bool is_stage(const char *s) {
  static const char *const stages[] = {"tensor",  "ranged", "kernels", "scheduled",
                                       "lowered", "linear", "code"};
  for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
    if (!strcmp(stages[i], s)) return true;
  return false;
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
  TextList pos = {0};
  int rc;
  if (cli_args(&spec, argc, argv, &pos, &rc)) {
    args.model.path = pos.at[0];
    if (!is_stage(args.stage))
      rc = cli_usage("--stage '%s': expected tensor, ranged, kernels, scheduled, lowered, linear "
                     "or code",
                     args.stage);
    else if (args.kernel < -1 || args.kernel > INT32_MAX)
      rc = cli_usage("--kernel must not be negative");
    else
      rc = inspect(cli, &args);
  }
  model_args_deinit(&args.model);
  vec_deinit(&pos);
  return rc;
}
