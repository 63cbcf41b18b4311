/* kiln bench: compile cold (cache neither read nor written) and warm, then latency with one run
 * outstanding and throughput with several, all from this client's point of view. */
#include <poll.h>
#include <stdlib.h>

#include "base/clock.h"
#include "client/cli/model.h"

enum { WARM_UP = 3, RUNS_DEFAULT = 200, RUNS_MAX = 1000000, OUTSTANDING = 4 };
static const int64_t latency_budget_ns = 5000000000, throughput_ns = 1000000000;

typedef struct BenchArgs {
  ModelArgs model;
  uint64_t most; /* runs */
} BenchArgs;

typedef struct Report {
  int64_t cold_ns, warm_ns;
  size_t runs;
  int64_t p50_ns, p99_ns, device_p50_ns;
  double per_second;
} Report;

/* -- compile ----------------------------------------------------------------------------------- */

static int timed_compile(Cli *cli, const Model *m, bool no_cache, int64_t *ns,
                         KilnExecutable **out) {
  KilnCompileOptions options = m->options;
  options.no_cache = no_cache;
  int64_t start = clock_now_ns();
  if (kiln_compile(cli->client, &m->model, &options, out, &cli->err))
    return cli_fail(cli, &cli->err);
  *ns = clock_now_ns() - start;
  return EX_OK;
}

static int discard(Cli *cli, KilnExecutable *e) {
  KilnCode code = kiln_release(cli->client, e->id, &cli->err);
  kiln_free(e);
  return code ? cli_fail(cli, &cli->err) : EX_OK;
}

/* Cold, once to fill the cache, warm; *out is the warm one. */
static int compiles(Cli *cli, const Model *m, Report *r, KilnExecutable **out) {
  KilnExecutable *e;
  int64_t unused;
  cli_progress(cli, "compiling without the cache ...");
  int rc = timed_compile(cli, m, true, &r->cold_ns, &e);
  if (rc || (rc = discard(cli, e))) return rc;
  if ((rc = timed_compile(cli, m, false, &unused, &e)) || (rc = discard(cli, e))) return rc;
  return timed_compile(cli, m, false, &r->warm_ns, out);
}

/* -- latency ----------------------------------------------------------------------------------- */

static int latency(Cli *cli, const KilnExecutable *e, const Inputs *in, size_t most, Report *r) {
  int64_t *wall = calloc(most, sizeof *wall), *device = calloc(most, sizeof *device);
  int rc = EX_OK;
  if (!wall || !device) cli_error(rc = EX_OSERR, "no memory for %zu runs", most);
  int64_t begin = clock_now_ns();
  size_t n = 0;
  for (size_t i = 0; !rc && n < most; i++) {
    KilnResult *out;
    int64_t start = clock_now_ns();
    if (n && start - begin > latency_budget_ns) break;
    if (kiln_run(cli->client, e->id, in->tensors, in->count, NULL, &out, &cli->err)) {
      rc = cli_fail(cli, &cli->err);
      break;
    }
    if (i >= WARM_UP) wall[n] = clock_now_ns() - start, device[n++] = out->device_ns;
    kiln_free(out);
  }
  if (!rc) {
    cli_sort(wall, n);
    cli_sort(device, n);
    r->runs = n;
    r->p50_ns = wall[n / 2];
    r->p99_ns = wall[n * 99 / 100];
    r->device_p50_ns = device[n / 2];
  }
  free(wall);
  free(device);
  return rc;
}

/* -- throughput -------------------------------------------------------------------------------- */

typedef struct Load {
  Cli *cli;
  const KilnExecutable *exe;
  const Inputs *in;
  int64_t end;
  size_t outstanding, done;
  bool failed;
} Load;

static void start_run(Load *l);

static void run_done(void *ctx, const KilnError *err, KilnResult *result) {
  Load *l = ctx;
  kiln_free(result);
  l->outstanding--;
  if (err && !l->failed) {
    l->failed = true;
    l->cli->err = *err;
  }
  if (!err) l->done++;
  if (!l->failed && clock_now_ns() < l->end) start_run(l);
}

static void start_run(Load *l) {
  if (kiln_run_start(l->cli->client, l->exe->id, l->in->tensors, l->in->count, NULL, run_done, l,
                     NULL, &l->cli->err))
    l->failed = true;
  else
    l->outstanding++;
}

static int throughput(Cli *cli, const KilnExecutable *e, const Inputs *in, Report *r) {
  int64_t start = clock_now_ns();
  Load l = {.cli = cli, .exe = e, .in = in, .end = start + throughput_ns};
  for (int i = 0; i < OUTSTANDING; i++) start_run(&l);
  while (l.outstanding) {
    struct pollfd p = {.fd = kiln_client_fd(cli->client),
                       .events = kiln_client_events(cli->client)};
    poll(&p, 1, kiln_client_wait_ms(cli->client));
    kiln_client_process(cli->client, NULL);
  }
  if (l.failed) return cli_fail(cli, &cli->err);
  r->per_second = (double)l.done * 1e9 / (double)(clock_now_ns() - start);
  return EX_OK;
}

/* -- the command ------------------------------------------------------------------------------- */

static void print_report(const Cli *cli, const char *path, const KilnExecutable *e,
                         const Report *r) {
  char a[CLI_NUMBER], b[CLI_NUMBER], c[CLI_NUMBER];
  if (cli->json) {
    cJSON *j = model_json_report(path, e, r->warm_ns);
    cJSON_AddNumberToObject(j, "cold_compile_ns", (double)r->cold_ns);
    cJSON_AddNumberToObject(j, "warm_compile_ns", (double)r->warm_ns);
    cJSON_AddNumberToObject(j, "runs", (double)r->runs);
    cJSON_AddNumberToObject(j, "run_p50_ns", (double)r->p50_ns);
    cJSON_AddNumberToObject(j, "run_p99_ns", (double)r->p99_ns);
    cJSON_AddNumberToObject(j, "device_p50_ns", (double)r->device_p50_ns);
    cJSON_AddNumberToObject(j, "runs_per_second", r->per_second);
    cli_print_json(j);
    return;
  }
  printf("%s: %u kernels on %s\n", path, e->kernels, e->device);
  printf("  compile     cold %s, warm %s\n", cli_ns(r->cold_ns, a), cli_ns(r->warm_ns, b));
  printf("  run         p50 %s, p99 %s over %zu runs; device p50 %s\n", cli_ns(r->p50_ns, a),
         cli_ns(r->p99_ns, b), r->runs, cli_ns(r->device_p50_ns, c));
  printf("  throughput  %.1f runs/s with %d outstanding\n", r->per_second, OUTSTANDING);
}

static int measure(Cli *cli, const ModelArgs *args, const Model *m, size_t most) {
  Report r = {.runs = 0};
  KilnExecutable *e = NULL;
  Inputs in = {.count = 0};
  int rc = cli_connect(cli);
  if (!rc) rc = compiles(cli, m, &r, &e);
  if (!rc) rc = inputs_open(cli, args, e, &in);
  if (!rc) cli_progress(cli, "running ...");
  if (!rc) rc = latency(cli, e, &in, most, &r);
  if (!rc) rc = throughput(cli, e, &in, &r);
  cli_progress_end(cli);
  if (!rc) print_report(cli, args->path, e, &r);
  if (e) kiln_release(cli->client, e->id, NULL);
  kiln_free(e);
  inputs_close(&in);
  return rc;
}

static int bench(Cli *cli, ModelArgs *model) {
  const BenchArgs *args = (const BenchArgs *)model;
  Model m;
  if (!args->most || args->most > RUNS_MAX)
    return cli_usage("--repeat must be from 1 to %d", RUNS_MAX);
  int rc = model_open(cli, model, &m);
  if (!rc) rc = measure(cli, model, &m, (size_t)args->most);
  model_close(&m);
  return rc;
}

int cmd_bench(Cli *cli, int argc, char **argv) {
  BenchArgs args = {.model = {.random = "0"}, .most = RUNS_DEFAULT};
  const Opt opts[] = {
      INPUT_OPTS(args.model),
      MODEL_OPTS(args.model),
      {"--repeat", "N", OPT_COUNT, &args.most, "at most N timed runs (default 200, or 5 seconds)"}};
  const ArgSpec spec = {
      .usage = "bench MODEL [options]",
      .about = "Measures MODEL on the server: compile time without and with the cache, latency "
               "with one\n"
               "run outstanding, throughput with four. Inputs not given are random (seed 0).",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts,
      .min = 1,
      .max = 1};
  return model_command(cli, &spec, argc, argv, &args.model, bench);
}
