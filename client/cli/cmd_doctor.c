/* kiln doctor: looks at this machine (doctor_local.c), then walks from the address to a computed
 * answer and says at each step what was found and, where it is not good, what to do. Every step of
 * the walk needs the one before. */
#include <poll.h>
#include <stdlib.h>

#include "client/cli/doctor.h"
#include "client/cli/textgraph.h"
#include "kiln/v1/graph.pb-c.h"

/* The checks as text or, with --json, as a list. */
void doctor_say(Doctor *d, Verdict v, const char *check, const char *found, const char *advice) {
  static const char *const names[] = {"ok", "warn", "FAIL"};
  d->warnings += v == V_WARN;
  d->failures += v == V_FAIL;
  if (d->checks) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "check", check);
    cJSON_AddStringToObject(j, "verdict", names[v]);
    cJSON_AddStringToObject(j, "found", found);
    if (advice) cJSON_AddStringToObject(j, "advice", advice);
    cJSON_AddItemToArray(d->checks, j);
    return;
  }
  printf("%-5s %-10s %s\n", names[v], check, found);
  if (advice) printf("%17s-> %s\n", "", advice);
}

static const char *connect_advice(const Cli *cli, KilnCode code) {
  if (code == KILN_PERMISSION_DENIED)
    return "remove that folder, or make it yours with mode 0700, then try again";
  if (cli->server || getenv("KILN_SERVER"))
    return "a named server is never started: start kilnd there, or leave --server and KILN_SERVER "
           "away";
  if (cli->no_spawn) return "start kilnd, or leave --no-spawn away";
  return "see kilnd.log beside the socket; `kilnd --check-config` checks the configuration";
}

/* The path of the Unix socket that is asked for by name; NULL for anything else. */
static const char *unix_path(const Cli *cli) {
  const char *address = cli->server ? cli->server : getenv("KILN_SERVER");
  if (!address || strncmp(address, "unix:", 5) != 0) return NULL;
  address += 5;
  return strncmp(address, "//", 2) ? address : address + 2;
}

static bool check_connection(Doctor *d) {
  Cli *cli = d->cli;
  KilnConnectOptions options = {.no_spawn = 1, .timeout_ms = 5000};
  const char *how = "connected to";
  if (cli_who(cli, &options)) return false;
  KilnCode code = kiln_connect(cli->server, &options, &cli->client, &cli->err);
  if (code == KILN_UNAVAILABLE && !cli->no_spawn) {
    options.no_spawn = 0;
    options.timeout_ms = 0;
    how = "started a server on";
    code = kiln_connect(cli->server, &options, &cli->client, &cli->err);
  }
  if (code) {
    doctor_say(d, V_FAIL, "server", cli->err.message, connect_advice(cli, code));
    const char *path = unix_path(cli);
    if (path && code == KILN_UNAVAILABLE) doctor_socket(d, path);
    return false;
  }
  char text[400];
  snprintf(text, sizeof text, "%s %s", how, kiln_client_address(cli->client));
  doctor_say(d, V_OK, "server", text, NULL);
  kiln_client_set_timeout(cli->client, 30000);
  return true;
}

static void check_cache(Doctor *d, const KilnServerInfo *info) {
  char text[1100];
  if (*info->cache_error) {
    snprintf(text, sizeof text, "none: %s", info->cache_error);
    doctor_say(d, V_WARN, "cache", text,
               "everything works, but compiles are not remembered; free disk space, make the file "
               "writable, or name another with kilnd --cache FILE");
  } else {
    doctor_say(d, V_OK, "cache", *info->cache_path ? info->cache_path : "for admins to see", NULL);
    if (*info->cache_path) doctor_disk(d, info->cache_path);
  }
}

/* A server that was started a moment ago opens its cache and its devices while it already answers.
 */
static void let_it_start(Cli *cli) {
  enum { TRIES = 100, STEP_MS = 50 };
  for (int i = 0; i < TRIES; i++) {
    KilnDevices *list;
    bool starting = false;
    if (kiln_list_devices(cli->client, &list, &cli->err)) return;
    for (size_t k = 0; k < list->count; k++)
      starting |= !list->devices[k].available && !strcmp(list->devices[k].reason, "starting");
    kiln_free(list);
    if (!starting) return;
    poll(NULL, 0, STEP_MS);
  }
}

static bool check_server(Doctor *d) {
  Cli *cli = d->cli;
  let_it_start(cli);
  KilnServerInfo *info;
  char text[200], memory[CLI_NUMBER], uptime[CLI_NUMBER];
  if (kiln_server_info(cli->client, &info, &cli->err)) {
    doctor_say(d, V_FAIL, "version", cli->err.message,
               "is something else listening on this address?");
    return false;
  }
  snprintf(text, sizeof text, "kilnd %s (pid %u), up %s, %s resident; this is kiln %s",
           info->version, info->pid, cli_ns(info->uptime_ns, uptime),
           cli_bytes(info->resident_bytes, memory), kiln_version());
  bool same = !strcmp(info->version, kiln_version());
  doctor_say(d, same ? V_OK : V_WARN, "version", text,
             same ? NULL
                  : "client and server are of different versions; restart the older one's daemon");
  check_cache(d, info);
  kiln_free(info);
  return true;
}

static void check_devices(Doctor *d) {
  Cli *cli = d->cli;
  KilnDevices *list;
  char text[1100];
  size_t available = 0;
  if (kiln_list_devices(cli->client, &list, &cli->err)) {
    doctor_say(d, V_FAIL, "device", cli->err.message, NULL);
    return;
  }
  for (size_t i = 0; i < list->count; i++) {
    const KilnDevice *dev = &list->devices[i];
    available += dev->available != 0;
    if (!dev->available) {
      snprintf(text, sizeof text, "%s is unavailable: %s", dev->name, dev->reason);
      doctor_say(d, V_WARN, "device", text, "other devices are not affected; see the server's log");
      continue;
    }
    snprintf(text, sizeof text, "%s: %s", dev->name, dev->description);
    doctor_say(d, V_OK, "device", text, NULL);
    if (!dev->restarts) continue;
    snprintf(text, sizeof text, "%s was restarted %u times, last: %s", dev->name, dev->restarts,
             dev->last_failure);
    doctor_say(d, V_WARN, "device", text, "see the server's log for what it was running");
  }
  if (!available) doctor_say(d, V_FAIL, "device", "none is available", "see the server's log");
  kiln_free(list);
}

/* Where the server meets other nodes, when it does. */
static void check_shared(Doctor *d, const cJSON *shared) {
  char text[700];
  const char *state = cli_json_text(shared, "state"), *why = cli_json_text(shared, "reason");
  bool up = !strcmp(state, "up");
  if (!cJSON_IsObject(shared)) return;
  snprintf(text, sizeof text, "%s is %s%s%s, %lld nodes trusted, %lld kernels queued",
           cli_json_text(shared, "server"), state, *why ? ": " : "", why,
           (long long)cli_json_number(shared, "trusted"),
           (long long)cli_json_number(shared, "queued"));
  doctor_say(d, up ? V_OK : V_WARN, "shared", text,
             up ? NULL : "everything works; nodes tune for themselves until it answers");
  if (cli_json_number(shared, "refused"))
    doctor_say(
        d, V_WARN, "shared", "rows of it are not what they claim to be",
        "see kiln_shared_offers_total: who else can write there, and do all nodes trust each "
        "other's keys?");
}

/* Models that were to be there by name and are not; why calls should go elsewhere. */
static void check_models(Doctor *d) {
  KilnText *answer;
  KilnError ignored; /* a server that is older than the question */
  char text[700];
  if (kiln_status_json(d->cli->client, &answer, &ignored)) return;
  cJSON *status = cJSON_Parse(answer->text), *model;
  kiln_free(answer);
  const char *why = cli_json_text(status, "not_ready");
  if (*why) doctor_say(d, V_WARN, "ready", why, "see the server's log");
  check_shared(d, cJSON_GetObjectItemCaseSensitive(status, "shared"));
  cJSON_ArrayForEach(model, cJSON_GetObjectItemCaseSensitive(status, "models")) {
    if (strcmp(cli_json_text(model, "state"), "UNAVAILABLE") != 0) continue;
    snprintf(text, sizeof text, "%s is not loaded: %s", cli_json_text(model, "name"),
             cli_json_text(model, "reason"));
    doctor_say(d, V_WARN, "model", text, "load it again when its file is right");
  }
  cJSON_Delete(status);
}

/* y = x * x for four numbers. */
static bool compute(Cli *cli, const StrBuf *graph, bool *right) {
  const float x[] = {1, 2, 3, 4};
  const uint64_t dims[] = {4};
  const KilnTensor in = {
      .name = "x", .dtype = KILN_F32, .rank = 1, .dims = dims, .data = x, .bytes = sizeof x};
  const KilnModel model = {
      .bytes = graph->ptr, .size = graph->len, .name = "doctor", .format = KILN_FORMAT_KGRAPH};
  KilnExecutable *e;
  KilnResult *r;
  if (kiln_compile(cli->client, &model, NULL, &e, &cli->err)) return false;
  KilnCode code = kiln_run(cli->client, e->id, &in, 1, NULL, &r, &cli->err);
  if (!code) {
    const KilnTensor *y = r->tensors;
    *right = r->count == 1 && y->dtype == KILN_F32 && y->bytes == sizeof x;
    for (int i = 0; *right && i < 4; i++) *right = ((const float *)y->data)[i] == x[i] * x[i];
    kiln_free(r);
  }
  kiln_release(cli->client, e->id, NULL);
  kiln_free(e);
  return !code;
}

static void check_answer(Doctor *d) {
  static const char text[] = "params { name: 'x' dtype: DTYPE_F32 dims { size: 4 } }"
                             "nodes { op: PARAM ints: 0 } nodes { op: MUL src: [0, 0] }"
                             "outputs { name: 'y' node: 1 }";
  StrBuf graph = {0};
  bool right = false;
  Status st = textgraph_encode(str_from(text), &kiln__v1__graph__descriptor, &graph);
  if (st) status_text(st, d->cli->err.message, sizeof d->cli->err.message);
  if (st || !compute(d->cli, &graph, &right))
    doctor_say(d, V_FAIL, "answer", d->cli->err.message,
               "the server is up but cannot compile and run a "
               "multiplication; see its log");
  else if (!right)
    doctor_say(
        d, V_FAIL, "answer", "1, 2, 3, 4 squared came out wrong",
        "do not trust this machine's answers; report it with the output of `kiln devices --json`");
  else
    doctor_say(d, V_OK, "answer", "compiled and ran a small graph, and the answer is right", NULL);
  status_drop(st);
  strbuf_deinit(&graph);
}

/* The server is, or would be, on this machine. */
static bool is_local(const Cli *cli) {
  const char *address = cli->server ? cli->server : getenv("KILN_SERVER");
  return !address || !*address || !strncmp(address, "unix:", 5);
}

int cmd_doctor(Cli *cli, int argc, char **argv) {
  const ArgSpec spec = {
      .usage = "doctor",
      .about = "Checks the programs, drivers and limits of this machine, then server,\n"
               "version, cache, devices and models, and compiles and runs a small graph.\n"
               "Says what to do about what is wrong. Exit code 0: all is well\n"
               "(warnings allowed), 69: something failed."};
  TextList pos = {0};
  int rc;
  if (!cli_args(&spec, argc, argv, &pos, &rc)) return rc;
  Doctor d = {.cli = cli, .checks = cli->json ? cJSON_CreateArray() : NULL};
  if (is_local(cli)) {
    doctor_programs(&d);
    doctor_devices(&d);
    doctor_limits(&d);
  }
  if (check_connection(&d) && check_server(&d)) {
    check_devices(&d);
    check_models(&d);
    check_answer(&d);
  }
  if (d.checks) {
    cJSON *j = cJSON_CreateObject();
    cJSON_AddBoolToObject(j, "ok", !d.failures);
    cJSON_AddItemToObject(j, "checks", d.checks);
    cli_print_json(j);
  } else {
    printf("%s\n", d.failures ? "something is wrong" : d.warnings ? "it works" : "all is well");
  }
  return d.failures ? EX_UNAVAILABLE : EX_OK;
}
