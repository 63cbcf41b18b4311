/* kiln top: GetStatus and CacheStats every second; rates are differences between two answers. On a
 * terminal the screen is redrawn, elsewhere the pictures follow each other. */
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli/cli.h"

typedef struct Sample {
  cJSON *status; /* NULL: none yet */
  int64_t at_ns;
} Sample;

typedef struct Top {
  Cli *cli;
  Sample now, before;
  KilnCacheStats *cache; /* NULL: not for us */
} Top;

static int sample(Top *t) {
  KilnText *text;
  cJSON_Delete(t->before.status);
  t->before = t->now;
  t->now.status = NULL;
  if (kiln_status_json(t->cli->client, &text, &t->cli->err)) return cli_fail(t->cli, &t->cli->err);
  t->now = (Sample){.status = cJSON_Parse(text->text), .at_ns = clock_now_ns()};
  kiln_free(text);
  if (!t->now.status) return cli_error(EX_SOFTWARE, "the server's answer is no JSON");
  kiln_free(t->cache);
  KilnError ignored; /* of a tenant that may not ask */
  if (kiln_cache_stats(t->cli->client, &t->cache, &ignored)) t->cache = NULL;
  return EX_OK;
}

/* -- rates --------------------------------------------------------------------------------------
 */

static const cJSON *list_of(const cJSON *status, const char *list) {
  return status ? cJSON_GetObjectItemCaseSensitive(status, list) : NULL;
}

/* The row of a list that has this name. */
static const cJSON *row_of(const cJSON *status, const char *list, const char *name) {
  const cJSON *row;
  cJSON_ArrayForEach(
      row, list_of(status, list)) if (!strcmp(cli_json_text(row, "name"), name)) return row;
  return NULL;
}

/* Growth per second of a counter between two answers; since the start when there is only one. */
static double rate(const Top *t, const cJSON *now, const cJSON *before, const char *field) {
  int64_t ns =
      before ? t->now.at_ns - t->before.at_ns : cli_json_number(t->now.status, "uptime_ns");
  int64_t grown = cli_json_number(now, field) - (before ? cli_json_number(before, field) : 0);
  return ns > 0 ? (double)grown * 1e9 / (double)ns : 0;
}

static double row_rate(const Top *t, const cJSON *row, const char *list, const char *field) {
  return rate(t, row, row_of(t->before.status, list, cli_json_text(row, "name")), field);
}

/* -- text ---------------------------------------------------------------------------------------
 */

static const char *bytes_of(const cJSON *row, const char *field, char buf[CLI_NUMBER]) {
  return cli_bytes((uint64_t)cli_json_number(row, field), buf);
}

static void print_head(const Top *t) {
  const cJSON *s = t->now.status;
  char uptime[CLI_NUMBER], memory[CLI_NUMBER], in[CLI_NUMBER], out[CLI_NUMBER];
  const char *why = cli_json_text(s, "not_ready");
  printf("kilnd %s, up %s, %s%s; %lld connections, %lld calls, %s resident\n",
         cli_json_text(s, "version"), cli_ns(cli_json_number(s, "uptime_ns"), uptime),
         *why ? "NOT READY: " : "ready", why, (long long)cli_json_number(s, "connections"),
         (long long)cli_json_number(s, "requests"), bytes_of(s, "resident_bytes", memory));
  printf("calls      %.0f/s, %lld since the start, %lld failed; in %s/s, out %s/s\n",
         rate(t, s, t->before.status, "answered"), (long long)cli_json_number(s, "answered"),
         (long long)cli_json_number(s, "failed"),
         cli_bytes((uint64_t)rate(t, s, t->before.status, "received_bytes"), in),
         cli_bytes((uint64_t)rate(t, s, t->before.status, "sent_bytes"), out));
  printf("compile    %lld of %lld workers busy, %lld jobs wait; %lld models, %lld kernels\n",
         (long long)cli_json_number(s, "compile_busy"),
         (long long)cli_json_number(s, "compile_workers"),
         (long long)cli_json_number(s, "compile_waiting"),
         (long long)cli_json_number(s, "compiles"),
         (long long)cli_json_number(s, "kernels_compiled"));
}

static void print_cache(const Top *t) {
  char size[CLI_NUMBER], max[CLI_NUMBER];
  const KilnCacheStats *c = t->cache;
  if (!c) return;
  uint64_t asked = c->hits + c->misses;
  printf("cache      %s of %s, %llu plans, %llu kernels, %llu schedules; %.1f %% of %llu hit\n",
         cli_bytes(c->bytes, size), cli_bytes(c->max_bytes, max), (unsigned long long)c->plans,
         (unsigned long long)c->kernels, (unsigned long long)c->schedules,
         asked ? 100.0 * (double)c->hits / (double)asked : 0, (unsigned long long)asked);
}

static void print_devices(const Top *t) {
  const cJSON *row;
  char size[CLI_NUMBER];
  printf("\n%-16s %-5s %6s %9s %8s %8s %8s %12s\n", "DEVICE", "STATE", "BUSY", "RUNS/S", "QUEUE",
         "RUNNING", "BUFFERS", "BYTES");
  cJSON_ArrayForEach(row, list_of(t->now.status, "devices")) printf(
      "%-16s %-5s %5.1f%% %9.0f %8lld %8lld %8lld %12s\n", cli_json_text(row, "name"),
      cli_json_number(row, "available") ? "up" : "DOWN",
      row_rate(t, row, "devices", "busy_ns") / 1e7, row_rate(t, row, "devices", "runs"),
      (long long)cli_json_number(row, "waiting"), (long long)cli_json_number(row, "in_flight"),
      (long long)cli_json_number(row, "buffers"), bytes_of(row, "buffer_bytes", size));
}

static void print_tenants(const Top *t) {
  const cJSON *row;
  char device[CLI_NUMBER], host[CLI_NUMBER];
  printf("\n%-16s %6s %9s %9s %6s %6s %7s %12s %12s\n", "TENANT", "WEIGHT", "CALLS/S", "FAILED",
         "RUNS", "EXES", "DEVICE", "DEVICE BYTES", "HOST BYTES");
  cJSON_ArrayForEach(row, list_of(t->now.status, "tenants"))
      printf("%-16s %6lld %9.0f %9lld %6lld %6lld %6.1f%% %12s %12s\n", cli_json_text(row, "name"),
             (long long)cli_json_number(row, "weight"), row_rate(t, row, "tenants", "requests"),
             (long long)cli_json_number(row, "failed"), (long long)cli_json_number(row, "runs"),
             (long long)cli_json_number(row, "executables"),
             row_rate(t, row, "tenants", "device_ns") / 1e7, bytes_of(row, "device_bytes", device),
             bytes_of(row, "host_bytes", host));
}

static void print_work(const Top *t) {
  const cJSON *row, *searches = list_of(t->now.status, "searches");
  const cJSON *models = list_of(t->now.status, "models");
  char left[CLI_NUMBER];
  if (cJSON_GetArraySize(searches))
    printf("\n%-24s %-28s %-8s %6s %9s %10s\n", "TUNING", "KERNEL", "STEP", "TRIED", "REPLACED",
           "LEFT");
  cJSON_ArrayForEach(row, searches)
      printf("%-24.24s %-28.28s %-8s %6lld %9lld %10s%s\n", cli_json_text(row, "model"),
             cli_json_text(row, "kernel"), cli_json_text(row, "step"),
             (long long)cli_json_number(row, "tried"), (long long)cli_json_number(row, "replaced"),
             cli_ns(cli_json_number(row, "left_ns"), left),
             cli_json_number(row, "background") ? " (background)" : "");
  if (cJSON_GetArraySize(models))
    printf("\n%-32s %-8s %-12s %9s %10s %8s\n", "MODEL", "VERSION", "STATE", "CALLS/S", "ANSWERED",
           "FAILED");
  cJSON_ArrayForEach(row, models)
      printf("%-32.32s %-8s %-12s %9.0f %10lld %8lld %s\n", cli_json_text(row, "name"),
             cli_json_text(row, "version"), cli_json_text(row, "state"),
             row_rate(t, row, "models", "answered"), (long long)cli_json_number(row, "answered"),
             (long long)cli_json_number(row, "failed"), cli_json_text(row, "reason"));
}

static void print_json(const Top *t) {
  cJSON *j = cJSON_Duplicate(t->now.status, true), *c = cJSON_AddObjectToObject(j, "cache");
  if (t->cache) {
    cJSON_AddStringToObject(c, "path", t->cache->path);
    cJSON_AddNumberToObject(c, "bytes", (double)t->cache->bytes);
    cJSON_AddNumberToObject(c, "hits", (double)t->cache->hits);
    cJSON_AddNumberToObject(c, "misses", (double)t->cache->misses);
    cJSON_AddNumberToObject(c, "plans", (double)t->cache->plans);
    cJSON_AddNumberToObject(c, "kernels", (double)t->cache->kernels);
    cJSON_AddNumberToObject(c, "schedules", (double)t->cache->schedules);
  }
  cli_print_json(j);
}

static void show(const Top *t, bool clear) {
  if (t->cli->json) {
    print_json(t);
    return;
  }
  if (clear) fputs("\033[H\033[2J", stdout);
  print_head(t);
  print_cache(t);
  print_devices(t);
  print_tenants(t);
  print_work(t);
  fflush(stdout);
}

static int run(Top *t, bool once, uint64_t count, uint64_t seconds) {
  bool clear = isatty(STDOUT_FILENO) && !once;
  int rc = sample(t);
  for (uint64_t i = 0; !rc; i++) {
    show(t, clear);
    if (once || (count && i + 1 >= count)) break;
    poll(NULL, 0, (int)(seconds < 3600 ? seconds * 1000 : 3600000));
    rc = sample(t);
  }
  cJSON_Delete(t->now.status);
  cJSON_Delete(t->before.status);
  kiln_free(t->cache);
  return rc;
}

int cmd_top(Cli *cli, int argc, char **argv) {
  bool once = false;
  uint64_t seconds = 1, count = 0;
  const Opt opts[] = {
      {"--once", NULL, OPT_FLAG, &once, "one picture, with rates since the server started"},
      {"--every", "SECONDS", OPT_COUNT, &seconds, "between two pictures"},
      {"--count", "N", OPT_COUNT, &count, "end after so many pictures"},
  };
  const ArgSpec spec = {
      .usage = "top [options]",
      .about = "Shows how busy the server is: devices, tenants, queues, the tuner, the cache\n"
               "and models with names. A tenant that is no admin sees what is its own.",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts};
  TextList pos = {0};
  int rc;
  if (!cli_args(&spec, argc, argv, &pos, &rc)) return rc;
  if (!seconds) return cli_usage("--every: expected at least 1 second");
  if ((rc = cli_connect(cli))) return rc;
  Top t = {.cli = cli};
  return run(&t, once, count, seconds);
}
