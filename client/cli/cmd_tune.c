/* kiln tune: has the server search for faster kernels and shows how it goes: one line that changes
 * on a terminal, a line for every improvement elsewhere. What was found stays in the server's
 * cache. */
#include <ctype.h>
#include <stdlib.h>

#include "client/cli/model.h"

enum { DAY_S = 86400, SHOWN = 12 };

typedef struct TuneArgs {
  ModelArgs model;
  const char *budget;
  int64_t budget_ms;
} TuneArgs;

typedef struct Watching {
  Cli *cli;
  double said; /* the speed-up of the last line that was printed */
} Watching;

static double speed_up(int64_t first, int64_t best) {
  return best > 0 ? (double)first / (double)best : 1;
}

static int on_progress(void *ctx, const KilnTuneProgress *p) {
  Watching *w = ctx;
  char model[CLI_NUMBER], kernel[CLI_NUMBER];
  double now = speed_up(p->model_first_ns, p->model_best_ns);
  cli_progress(w->cli, "%s, %.2fx | %.40s %s, %.2fx, %u tried | %lld s left",
               cli_ns(p->model_best_ns, model), now, p->kernel, cli_ns(p->best_ns, kernel),
               speed_up(p->first_ns, p->best_ns), p->tried, (long long)(p->left_ns / 1000000000));
  if (!cli_shows_progress(w->cli) && !w->cli->json && now > w->said * 1.01) {
    fprintf(stderr, "%s %s, the model %.2fx, %u tried, %lld s left\n", p->kernel, kernel, now,
            p->tried_all, (long long)(p->left_ns / 1000000000));
    w->said = now;
  }
  return 1;
}

/* -- the result -------------------------------------------------------------------------------- */

static void print_text(const char *path, const KilnTuneSummary *s) {
  char a[CLI_NUMBER], b[CLI_NUMBER], c[CLI_NUMBER];
  printf("%s: %s to %s, %.2fx faster; %u of %zu kernels replaced\n", path,
         cli_ns(s->model_first_ns, a), cli_ns(s->model_best_ns, b),
         speed_up(s->model_first_ns, s->model_best_ns), s->replaced, s->nkernels);
  printf("  %u schedules tried, %u timed, in %s (%s)\n", s->tried, s->measured,
         cli_ns(s->wall_ns, a),
         strcmp(s->ended, "budget") ? "nothing is left to try" : "the budget is spent");
  for (size_t i = 0; i < s->nfailures; i++)
    printf("  %u schedules failed: %s\n", s->failures[i].count, s->failures[i].cause);
  for (size_t i = 0; i < s->nkernels && i < SHOWN; i++) {
    const KilnTunedKernel *k = &s->kernels[i];
    printf("  %-36s %3ux %9s -> %9s (roofline %s)  %s\n", k->kernel, k->calls,
           cli_ns(k->first_ns, a), cli_ns(k->best_ns, b), cli_ns(k->roofline_ns, c), k->opts);
  }
  if (s->nkernels > SHOWN) printf("  and %zu more\n", s->nkernels - SHOWN);
}

static void print_json(const char *path, const KilnExecutable *e, const KilnTuneSummary *s) {
  cJSON *j = cJSON_CreateObject(), *kernels, *failures;
  cJSON_AddStringToObject(j, "model", path);
  cJSON_AddStringToObject(j, "device", e->device);
  cJSON_AddStringToObject(j, "ended", s->ended);
  cJSON_AddNumberToObject(j, "wall_ns", (double)s->wall_ns);
  cJSON_AddNumberToObject(j, "model_first_ns", (double)s->model_first_ns);
  cJSON_AddNumberToObject(j, "model_best_ns", (double)s->model_best_ns);
  cJSON_AddNumberToObject(j, "tried", s->tried);
  cJSON_AddNumberToObject(j, "measured", s->measured);
  cJSON_AddNumberToObject(j, "replaced", s->replaced);
  failures = cJSON_AddObjectToObject(j, "failures");
  for (size_t i = 0; i < s->nfailures; i++)
    cJSON_AddNumberToObject(failures, s->failures[i].cause, s->failures[i].count);
  kernels = cJSON_AddArrayToObject(j, "kernels");
  for (size_t i = 0; i < s->nkernels; i++) {
    const KilnTunedKernel *k = &s->kernels[i];
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "kernel", k->kernel);
    cJSON_AddNumberToObject(o, "calls", k->calls);
    cJSON_AddNumberToObject(o, "first_ns", (double)k->first_ns);
    cJSON_AddNumberToObject(o, "best_ns", (double)k->best_ns);
    cJSON_AddNumberToObject(o, "roofline_ns", (double)k->roofline_ns);
    cJSON_AddNumberToObject(o, "tried", k->tried);
    cJSON_AddStringToObject(o, "opts", k->opts);
    cJSON_AddItemToArray(kernels, o);
  }
  cli_print_json(j);
}

/* -- the command ------------------------------------------------------------------------------- */

/* "60s", "5m", "1.5h", "90"; false for anything else. */
static bool parse_budget(const char *text, int64_t *ms) {
  char *end;
  if (!isdigit((unsigned char)*text)) return false;
  double s = strtod(text, &end);
  if (*end == 'm') s *= 60;
  if (*end == 'h') s *= 3600;
  if (*end && strchr("smh", *end)) end++;
  if (*end || !(s > 0 && s <= DAY_S)) return false;
  *ms = (int64_t)(s * 1000) + 1;
  return true;
}

static int tune(Cli *cli, ModelArgs *model, KilnProgram *p, int64_t compile_ns) {
  const KilnExecutable *e = kiln_program_executable(p);
  const TuneArgs *args = (const TuneArgs *)model;
  KilnTuneSummary *s;
  Watching w = {.cli = cli, .said = 1};
  (void)compile_ns;
  if (kiln_tune(cli->client, e->id, args->budget_ms, on_progress, &w, &s, &cli->err))
    return cli_fail(cli, &cli->err);
  cli_progress_end(cli);
  if (cli->json)
    print_json(model->path, e, s);
  else
    print_text(model->path, s);
  kiln_free(s);
  return EX_OK;
}

static int check(Cli *cli, ModelArgs *model) {
  TuneArgs *args = (TuneArgs *)model;
  if (!parse_budget(args->budget, &args->budget_ms))
    return cli_usage("--budget: expected a time of up to a day like 60s, 5m or 1h, got '%s'",
                     args->budget);
  return model_compiled(cli, model, tune);
}

int cmd_tune(Cli *cli, int argc, char **argv) {
  TuneArgs args = {.budget = "60s"};
  const Opt opts[] = {
      {"--budget", "TIME", OPT_TEXT, &args.budget, "how long: 60s (the default), 5m, 1h"},
      TARGET_OPTS(args.model)};
  const ArgSpec spec = {
      .usage = "tune MODEL [options]",
      .about = "Searches for faster kernels for MODEL on the server's device. What is found is\n"
               "compared with the plain kernels' results, used at once, and kept in the\n"
               "server's cache. Interrupting it loses nothing; the next search goes on.",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts,
      .min = 1,
      .max = 1};
  return model_command(cli, &spec, argc, argv, &args.model, check);
}
