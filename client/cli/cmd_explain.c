/* kiln explain: what each kernel of a model does, how long it takes beside what is possible and
 * what was predicted, how it is scheduled and since when. The times are those of profiled runs, in
 * which the device waits for each call; a call's time is the median over the runs. */
#include <stdlib.h>

#include "base/clock.h"
#include "client/cli/model.h"

enum { WARM_UP = 2, RUNS_DEFAULT = 20, RUNS_MAX = 100000, TRIED_DEFAULT = 3 };
static const int64_t budget_ns = 5000000000;

typedef struct ExplainArgs {
  ModelArgs model;
  uint64_t repeat, tried;
  bool all;
} ExplainArgs;

/* What the profiled runs said of one kernel. */
typedef struct Timed {
  int64_t ns; /* of all its calls in a run */
  uint64_t runs;
} Timed;

typedef struct Times {
  size_t runs, ncalls;
  int64_t *ns;     /* run after run, by call */
  uint32_t *count; /* by call, in one run */
  int64_t device_ns;
} Times;

/* -- profiled runs ----------------------------------------------------------------------------- */

static bool take_run(Times *t, const KilnResult *r) {
  if (!t->ns) {
    t->ncalls = r->ncalls;
    t->count = calloc(r->ncalls + 1, sizeof *t->count);
  }
  int64_t *more = realloc(t->ns, ((t->runs + 1) * t->ncalls + 1) * sizeof *more);
  if (more) t->ns = more;
  if (!more || !t->count || r->ncalls != t->ncalls) return false;
  for (size_t i = 0; i < t->ncalls; i++) {
    t->ns[t->runs * t->ncalls + i] = r->call_ns[i];
    t->count[i] = r->call_runs[i];
  }
  t->runs++;
  return true;
}

static int profile(Cli *cli, KilnProgram *p, const Inputs *in, size_t most, Times *t) {
  KilnRunOptions options = {.seeded = in->seeded, .seed = in->seed, .profile = 1};
  int64_t begin = clock_now_ns();
  for (size_t i = 0; i < WARM_UP + most; i++) {
    KilnResult *r;
    if (t->runs && clock_now_ns() - begin > budget_ns) break;
    options.profile = i >= WARM_UP;
    if (kiln_program_run(p, in->tensors, in->count, &options, &r, &cli->err))
      return cli_fail(cli, &cli->err);
    bool taken = i < WARM_UP || take_run(t, r);
    if (i < WARM_UP) t->device_ns = r->device_ns;
    kiln_free(r);
    if (!taken) return cli_error(EX_OSERR, "no memory for the times of %zu runs", i);
  }
  return EX_OK;
}

/* The sum of the medians of the kernel's calls. */
static int timed(const Times *t, const KilnKernel *k, Timed *out) {
  int64_t *column = calloc(t->runs + 1, sizeof *column);
  *out = (Timed){0};
  if (!column) return cli_error(EX_OSERR, "no memory for %zu times", t->runs);
  for (size_t c = 0; c < k->ncalls; c++) {
    size_t call = k->calls[c];
    if (call >= t->ncalls || !t->runs) continue;
    for (size_t r = 0; r < t->runs; r++) column[r] = t->ns[r * t->ncalls + call];
    cli_sort(column, t->runs);
    out->ns += column[t->runs / 2];
    out->runs += t->count[call];
  }
  free(column);
  return EX_OK;
}

/* -- the table --------------------------------------------------------------------------------- */

/* 0 when one of them is not known. */
static double ratio(int64_t part, int64_t of) {
  return part > 0 && of > 0 ? (double)part / (double)of : 0;
}

static const char *count_text(double n, char buf[CLI_NUMBER]) {
  static const char units[] = " KMGTP";
  int u = 0;
  while (n >= 999.5 && units[u + 1]) n /= 1000, u++;
  snprintf(buf, CLI_NUMBER, n < 10 && u ? "%.1f%c" : "%.0f%c", n, units[u]);
  return buf;
}

static const char *percent(double part, char buf[CLI_NUMBER]) {
  if (part > 0)
    snprintf(buf, CLI_NUMBER, "%.0f%%", 100 * part);
  else
    snprintf(buf, CLI_NUMBER, "-");
  return buf;
}

static void print_tried(const KilnKernel *k) {
  char time[CLI_NUMBER];
  if (k->measured + k->failed)
    printf("      tried %u schedules, %u of them failed\n", k->measured + k->failed, k->failed);
  for (size_t i = 0; i < k->ntried; i++) {
    const KilnTried *t = &k->tried[i];
    bool measured = !strcmp(t->cause, "measured");
    printf("      %13s %s%s%s%s%s\n", measured ? cli_ns(t->median_ns, time) : t->cause,
           *t->opts ? t->opts : "(no opts)", t->verified ? ", verified" : "",
           t->imported ? ", imported" : "", *t->origin ? ", found by " : "", t->origin);
  }
}

static void print_kernel(const KilnKernel *k, const Timed *t, int64_t total) {
  char time[CLI_NUMBER], share[CLI_NUMBER], flops[CLI_NUMBER], bytes[CLI_NUMBER];
  char roof[CLI_NUMBER], predicted[CLI_NUMBER];
  int64_t each = t->runs ? t->ns / (int64_t)t->runs : 0;
  printf("%10s %5s %5llu %8s %8s %7s %10s %-9s %s  %s\n", t->runs ? cli_ns(t->ns, time) : "once",
         percent(ratio(t->ns, total), share), (unsigned long long)(t->runs ? t->runs : k->once),
         count_text((double)k->flops, flops),
         count_text((double)(k->bytes_read + k->bytes_written), bytes),
         percent(ratio(k->roofline_ns, each), roof),
         k->predicted_ns ? cli_ns(k->predicted_ns * (int64_t)(t->runs ? t->runs : 1), predicted)
                         : "-",
         k->source, k->name, k->shape);
  printf("      %s%s%s\n", *k->opts ? k->opts : "(no opts)", *k->origin ? ", found by " : "",
         k->origin);
  print_tried(k);
}

static void print_estimate(const KilnEstimate *e) {
  char device[CLI_NUMBER], wait[CLI_NUMBER], bytes[CLI_NUMBER];
  printf("one more now: %s of the device (%s) after waiting for %s, %s of memory%s%s\n",
         e->device_ns ? cli_ns(e->device_ns, device) : "-", e->measured ? "measured" : "predicted",
         cli_ns(e->wait_ns, wait), cli_bytes(e->host_bytes, bytes),
         *e->refused ? "; it would be refused: " : "", e->refused);
}

static void print_text(const char *path, const KilnExplanation *x, const Times *t,
                       const Timed *timed_, const size_t *order, size_t shown) {
  char whole[CLI_NUMBER], sum[CLI_NUMBER];
  int64_t total = 0;
  for (size_t i = 0; i < x->count; i++) total += timed_[i].ns;
  printf("%s: %zu kernels, %u calls on %s; a run takes %s, its calls one by one %s (%zu runs)\n",
         path, x->count, x->calls, x->device, cli_ns(t->device_ns, whole), cli_ns(total, sum),
         t->runs);
  print_estimate(&x->run);
  printf("%10s %5s %5s %8s %8s %7s %10s %-9s %s\n", "time", "share", "calls", "flops", "bytes",
         "of roof", "predicted", "schedule", "kernel");
  for (size_t i = 0; i < shown; i++) print_kernel(&x->kernels[order[i]], &timed_[order[i]], total);
  if (shown < x->count) printf("and %zu more kernels: --all shows them\n", x->count - shown);
}

/* -- JSON -------------------------------------------------------------------------------------- */

static cJSON *json_tried(const KilnTried *t) {
  cJSON *j = cJSON_CreateObject();
  cJSON_AddStringToObject(j, "opts", t->opts);
  cJSON_AddStringToObject(j, "cause", t->cause);
  cJSON_AddNumberToObject(j, "median_ns", (double)t->median_ns);
  cJSON_AddNumberToObject(j, "mad_ns", (double)t->mad_ns);
  cJSON_AddNumberToObject(j, "reps", t->reps);
  cJSON_AddNumberToObject(j, "peer_ns", (double)t->peer_ns);
  cJSON_AddNumberToObject(j, "measured_unix_ns", (double)t->measured_unix_ns);
  cJSON_AddStringToObject(j, "host", t->host);
  cJSON_AddBoolToObject(j, "verified", t->verified);
  cJSON_AddBoolToObject(j, "imported", t->imported);
  cJSON_AddStringToObject(j, "origin", t->origin);
  return j;
}

static cJSON *json_kernel(const KilnKernel *k, const Timed *t) {
  cJSON *j = cJSON_CreateObject();
  int64_t each = t->runs ? t->ns / (int64_t)t->runs : 0;
  cJSON_AddStringToObject(j, "name", k->name);
  cJSON_AddStringToObject(j, "hash", k->hash);
  cJSON_AddStringToObject(j, "shape", k->shape);
  cJSON_AddNumberToObject(j, "calls", (double)k->ncalls);
  cJSON_AddNumberToObject(j, "once", k->once);
  cJSON_AddNumberToObject(j, "executions", (double)t->runs);
  cJSON_AddNumberToObject(j, "ns", (double)t->ns);
  cJSON_AddNumberToObject(j, "flops", (double)k->flops);
  cJSON_AddNumberToObject(j, "bytes_read", (double)k->bytes_read);
  cJSON_AddNumberToObject(j, "bytes_written", (double)k->bytes_written);
  cJSON_AddNumberToObject(j, "roofline_ns", (double)k->roofline_ns);
  cJSON_AddNumberToObject(j, "of_roofline", ratio(k->roofline_ns, each));
  cJSON_AddNumberToObject(j, "predicted_ns", (double)k->predicted_ns);
  cJSON_AddStringToObject(j, "opts", k->opts);
  cJSON_AddStringToObject(j, "source", k->source);
  cJSON_AddStringToObject(j, "origin", k->origin);
  cJSON_AddNumberToObject(j, "measured", k->measured);
  cJSON_AddNumberToObject(j, "failed", k->failed);
  cJSON *list = cJSON_AddArrayToObject(j, "tried");
  for (size_t i = 0; i < k->ntried; i++) cJSON_AddItemToArray(list, json_tried(&k->tried[i]));
  return j;
}

static void print_json(const char *path, const KilnExplanation *x, const Times *t,
                       const Timed *timed_, const size_t *order) {
  cJSON *j = cJSON_CreateObject();
  cJSON_AddStringToObject(j, "model", path);
  cJSON_AddStringToObject(j, "device", x->device);
  cJSON_AddNumberToObject(j, "device_ns", (double)t->device_ns);
  cJSON_AddNumberToObject(j, "profiled_runs", (double)t->runs);
  cJSON *run = cJSON_AddObjectToObject(j, "run");
  cJSON_AddNumberToObject(run, "device_ns", (double)x->run.device_ns);
  cJSON_AddBoolToObject(run, "measured", x->run.measured);
  cJSON_AddNumberToObject(run, "wait_ns", (double)x->run.wait_ns);
  cJSON_AddNumberToObject(run, "waiting", (double)x->run.waiting);
  cJSON_AddNumberToObject(run, "host_bytes", (double)x->run.host_bytes);
  cJSON_AddStringToObject(run, "refused", x->run.refused);
  cJSON *list = cJSON_AddArrayToObject(j, "kernels");
  for (size_t i = 0; i < x->count; i++)
    cJSON_AddItemToArray(list, json_kernel(&x->kernels[order[i]], &timed_[order[i]]));
  cli_print_json(j);
}

/* -- the command ------------------------------------------------------------------------------- */

/* Those that take most time first; of equal ones in the order of the plan. */
static void sort_kernels(const Timed *t, size_t *order, size_t n) {
  for (size_t i = 0; i < n; i++) {
    size_t at = i;
    for (; at && t[order[at - 1]].ns < t[i].ns; at--) order[at] = order[at - 1];
    order[at] = i;
  }
}

static int show(Cli *cli, const ExplainArgs *args, const KilnExplanation *x, const Times *t) {
  enum { SHOWN = 20 };
  Timed *all = calloc(x->count + 1, sizeof *all);
  size_t *order = calloc(x->count + 1, sizeof *order);
  int rc = EX_OK;
  if (!all || !order) cli_error(rc = EX_OSERR, "no memory for %zu kernels", x->count);
  for (size_t i = 0; i < x->count && !rc; i++) rc = timed(t, &x->kernels[i], &all[i]);
  if (!rc) sort_kernels(all, order, x->count);
  if (!rc && cli->json)
    print_json(args->model.path, x, t, all, order);
  else if (!rc)
    print_text(args->model.path, x, t, all, order,
               args->all || x->count < SHOWN ? x->count : SHOWN);
  free(all);
  free(order);
  return rc;
}

static int explain(Cli *cli, ModelArgs *model, KilnProgram *p, int64_t compile_ns) {
  const ExplainArgs *args = (const ExplainArgs *)model;
  Inputs in = {.count = 0};
  Times t = {0};
  KilnExplanation *x = NULL;
  int rc = inputs_open(cli, model, kiln_program_executable(p), &in);
  (void)compile_ns;
  cli_progress(cli, "running ...");
  if (!rc) rc = profile(cli, p, &in, (size_t)args->repeat, &t);
  if (!rc && kiln_explain(cli->client, kiln_program_id(p), (uint32_t)args->tried, &x, &cli->err))
    rc = cli_fail(cli, &cli->err);
  cli_progress_end(cli);
  if (!rc) rc = show(cli, args, x, &t);
  kiln_free(x);
  free(t.ns);
  free(t.count);
  inputs_close(&in);
  return rc;
}

static int check(Cli *cli, ModelArgs *model) {
  const ExplainArgs *args = (const ExplainArgs *)model;
  if (!args->repeat || args->repeat > RUNS_MAX)
    return cli_usage("--repeat must be from 1 to %d", RUNS_MAX);
  if (args->tried > UINT32_MAX) return cli_usage("--tried must be at most %u", UINT32_MAX);
  return model_compiled(cli, model, explain);
}

int cmd_explain(Cli *cli, int argc, char **argv) {
  ExplainArgs args = {.model = {.random = "0"}, .repeat = RUNS_DEFAULT, .tried = TRIED_DEFAULT};
  const Opt opts[] = {
      INPUT_OPTS(args.model),
      MODEL_OPTS(args.model),
      {"--repeat", "N", OPT_COUNT, &args.repeat,
       "at most N profiled runs (default 20, or 5 seconds)"},
      {"--tried", "N", OPT_COUNT, &args.tried, "list N records per kernel (default 3)"},
      {"--all", NULL, OPT_FLAG, &args.all, "every kernel, not only the 20 that take most time"}};
  const ArgSpec spec = {
      .usage = "explain MODEL [options]",
      .about = "Says of each kernel of MODEL, those that take most time first: its time in a run "
               "(all\n"
               "calls), the number of calls, operations and bytes of one call, how near it is to "
               "the\n"
               "device's roofline, what the analytic model predicted, where its schedule came from "
               "and\n"
               "what it is, and what was tried. Inputs not given are random (seed 0).",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts,
      .min = 1,
      .max = 1};
  return model_command(cli, &spec, argc, argv, &args.model, check);
}
