/* The `kiln` command: finds the command, runs it, and says what went wrong in one line on stderr.
 */
#include "client/cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

static const struct {
  const char *name, *about;
  CommandRun run;
} commands[] = {
    {"run", "run a model once or many times", cmd_run},
    {"compile", "compile a model and say what became of it", cmd_compile},
    {"bench", "measure compile times, latency and throughput", cmd_bench},
    {"tune", "search for faster kernels for a model", cmd_tune},
    {"explain", "what each kernel of a model does, takes, and how it is scheduled", cmd_explain},
    {"graph", "print a model at a stage of the compiler", cmd_graph},
    {"cache", "the server's cache: what it holds, upkeep, export and import of schedules",
     cmd_cache},
    {"devices", "list the server's devices", cmd_devices},
    {"health", "is the server (or one of its services) serving?", cmd_health},
    {"top", "how busy the server is, live", cmd_top},
    {"trace", "spans of recent calls, for Chrome's trace viewer or OpenTelemetry", cmd_trace},
    {"doctor", "check the whole way from here to an answer", cmd_doctor},
    {"token", "make a bearer token and the line with which a server knows it", cmd_token},
    {"node-key", "make the key of a node of a cluster, or show its public half", cmd_node_key},
    {"version", "versions of this command and of the server", cmd_version},
};
enum { NCOMMANDS = sizeof commands / sizeof *commands };

static void print_help(const Opt *common, size_t n) {
  printf("usage: kiln COMMAND [options]\n\nA thin client of kilnd. With no server named and none "
         "listening on the user's own\nsocket, a kilnd is started for this user.\n\ncommands:\n");
  for (int i = 0; i < NCOMMANDS; i++) printf("  %-22s %s\n", commands[i].name, commands[i].about);
  printf("\noptions of every command:\n");
  args_print_options(common, n);
  printf("  %-22s %s\n", "--help", "this text; after a command, about that command");
  printf("\nenvironment:\n  %-22s %s\n  %-22s %s\n  %-22s %s\n  %-22s %s\n", "KILN_SERVER",
         "the default of --server", "KILN_BIN", "folder of the kilnd to start", "KILN_TOKEN",
         "the token itself", "KILN_TLS_CA",
         "the default of --tls-ca; _CERT, _KEY, _SERVER_NAME too");
  printf("\nExit codes are those of sysexits.h: 64 bad command line, 65 bad model or data, 66 no "
         "such\n"
         "file, 69 no server or not serving, 70 internal error, 75 try again, 77 not allowed.\n");
}

int cli_main(int argc, char **argv) {
  Cli cli = {.server = NULL};
  const Opt common[] = {
      {"--server", "ADDRESS", OPT_TEXT, &cli.server, "unix:PATH or HOST:PORT"},
      {"--json", NULL, OPT_FLAG, &cli.json, "print one JSON object instead of text"},
      {"--no-spawn", NULL, OPT_FLAG, &cli.no_spawn, "do not start a kilnd"},
      {"--token-file", "FILE", OPT_TEXT, &cli.token_file, "who you are, for servers that ask"},
      {"--tls-ca", "FILE", OPT_TEXT, &cli.tls_ca, "speak TLS; whom to believe, or `system`"},
      {"--tls-cert", "FILE", OPT_TEXT, &cli.tls_cert, "your certificate"},
      {"--tls-key", "FILE", OPT_TEXT, &cli.tls_key, "its key"},
      {"--tls-server-name", "NAME", OPT_TEXT, &cli.tls_server_name,
       "the name in the server's certificate"},
      {"--timeout", "SECONDS", OPT_COUNT, &cli.timeout_s, "deadline of every call (0 = none)"},
  };
  size_t ncommon = sizeof common / sizeof *common;
  args_set_common(common, ncommon);
  int at = 1 + args_find_command(argc - 1, argv + 1);
  if (at >= argc) {
    bool asked = argc > 1 && (!strcmp(argv[argc - 1], "--help") || !strcmp(argv[argc - 1], "-h"));
    if (!asked) return cli_usage("no command; `kiln --help` lists them");
    print_help(common, ncommon);
    return EX_OK;
  }
  const char *name = argv[at];
  /* What stood before the command takes its place, so that one parser sees all options. */
  for (int i = at; i > 1; i--) argv[i] = argv[i - 1];
  for (int i = 0; i < NCOMMANDS; i++) {
    if (strcmp(commands[i].name, name)) continue;
    int rc = commands[i].run(&cli, argc - 2, argv + 2);
    kiln_close(cli.client);
    if (fflush(stdout) || ferror(stdout)) return EX_IOERR;
    return rc;
  }
  return cli_usage("no command '%s'; `kiln --help` lists them", name);
}

bool cli_args(const ArgSpec *spec, int argc, char **argv, TextList *positionals, int *exit_code) {
  ArgResult r = args_parse(spec, argc, argv, positionals);
  *exit_code = r == ARGS_BAD ? EX_USAGE : EX_OK;
  return r == ARGS_OK;
}

int cli_token(Cli *cli) {
  if (!cli->token_file) return EX_OK;
  FILE *f = fopen(cli->token_file, "re");
  if (!f) return cli_error(EX_NOINPUT, "%s: %s", cli->token_file, strerror(errno));
  size_t n = fread(cli->token, 1, sizeof cli->token - 1, f);
  bool whole = feof(f);
  fclose(f);
  while (n && strchr(" \t\r\n", cli->token[n - 1])) n--;
  cli->token[n] = 0;
  if (!n || !whole || strlen(cli->token) != n)
    return cli_error(EX_DATAERR, "%s: expected a token, one line of at most 256 characters",
                     cli->token_file);
  return EX_OK;
}

int cli_who(Cli *cli, KilnConnectOptions *o) {
  int rc = cli_token(cli);
  if (*cli->token) o->token = cli->token;
  o->tls_ca = cli->tls_ca;
  o->tls_cert = cli->tls_cert;
  o->tls_key = cli->tls_key;
  o->tls_server_name = cli->tls_server_name;
  return rc;
}

int cli_connect(Cli *cli) {
  KilnConnectOptions options = {.no_spawn = cli->no_spawn};
  int rc = cli_who(cli, &options);
  if (rc) return rc;
  if (kiln_connect(cli->server, &options, &cli->client, &cli->err)) return cli_fail(cli, &cli->err);
  uint64_t most = INT64_MAX / 1000;
  kiln_client_set_timeout(cli->client,
                          (int64_t)(cli->timeout_s < most ? cli->timeout_s : most) * 1000);
  return EX_OK;
}

/* -- errors
 * ------------------------------------------------------------------------------------------ */

/* The sysexits code for a gRPC code. */
static int exit_code(KilnCode code) {
  switch (code) {
  case KILN_OK: return EX_OK;
  case KILN_INVALID_ARGUMENT:
  case KILN_NOT_FOUND:
  case KILN_ALREADY_EXISTS:
  case KILN_FAILED_PRECONDITION:
  case KILN_OUT_OF_RANGE:
  case KILN_UNIMPLEMENTED: return EX_DATAERR;
  case KILN_UNAVAILABLE: return EX_UNAVAILABLE;
  case KILN_PERMISSION_DENIED:
  case KILN_UNAUTHENTICATED: return EX_NOPERM;
  case KILN_CANCELLED:
  case KILN_DEADLINE_EXCEEDED:
  case KILN_RESOURCE_EXHAUSTED:
  case KILN_ABORTED: return EX_TEMPFAIL;
  default: return EX_SOFTWARE;
  }
}

int cli_fail(const Cli *cli, const KilnError *err) {
  cli_progress_end(cli);
  fprintf(stderr, "kiln: %s: %s\n", kiln_code_name(err->code), err->message);
  if (cli->json) {
    cJSON *j = cJSON_CreateObject(), *e = cJSON_AddObjectToObject(j, "error");
    cJSON_AddStringToObject(e, "code", kiln_code_name(err->code));
    cJSON_AddStringToObject(e, "message", err->message);
    cli_print_json(j);
  }
  return exit_code(err->code);
}

int cli_fail_status(const Cli *cli, Status st) {
  KilnError err = {.code = (KilnCode)status_code(st)};
  status_text(st, err.message, sizeof err.message);
  status_drop(st);
  int rc = cli_fail(cli, &err);
  return err.code == KILN_NOT_FOUND ? EX_NOINPUT : rc;
}

__attribute__((format(printf, 2, 0))) static int complain(int code, const char *fmt, va_list ap) {
  fputs("kiln: ", stderr);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  return code;
}

int cli_error(int code, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  (void)complain(code, fmt, ap);
  va_end(ap);
  return code;
}

int cli_usage(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int rc = complain(EX_USAGE, fmt, ap);
  va_end(ap);
  return rc;
}

/* -- output
 * ------------------------------------------------------------------------------------------ */

void cli_print_json(cJSON *j) {
  char *text = cJSON_Print(j);
  if (text) puts(text);
  cJSON_free(text);
  cJSON_Delete(j);
}

bool cli_shows_progress(const Cli *cli) { return !cli->json && isatty(STDERR_FILENO); }

void cli_progress(const Cli *cli, const char *fmt, ...) {
  va_list ap;
  if (!cli_shows_progress(cli)) return;
  fputs("\r\033[K", stderr);
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fflush(stderr);
}

void cli_progress_end(const Cli *cli) {
  if (!cli_shows_progress(cli)) return;
  fputs("\r\033[K", stderr);
  fflush(stderr);
}

const char *cli_ns(int64_t ns, char buf[CLI_NUMBER]) {
  static const struct {
    double at;
    const char *unit;
  } units[] = {{1e9, "s"}, {1e6, "ms"}, {1e3, "us"}, {1, "ns"}};
  size_t i = 0;
  while (i < 3 && (double)ns < units[i].at) i++;
  snprintf(buf, CLI_NUMBER, "%.*f %s", i == 3 ? 0 : 2, (double)ns / units[i].at, units[i].unit);
  return buf;
}

const char *cli_bytes(uint64_t n, char buf[CLI_NUMBER]) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t i = 0;
  double v = (double)n;
  for (; v >= 1024 && i < 4; i++) v /= 1024;
  snprintf(buf, CLI_NUMBER, "%.*f %s", i ? 1 : 0, v, units[i]);
  return buf;
}

const char *cli_dims(const uint64_t *dims, size_t rank, char *buf, size_t cap) {
  size_t n = (size_t)snprintf(buf, cap, "%s", rank ? "" : "scalar");
  for (size_t i = 0; i < rank && n < cap; i++)
    n += (size_t)snprintf(buf + n, cap - n, "%s%llu", i ? "x" : "", (unsigned long long)dims[i]);
  return buf;
}

const char *cli_shape(const KilnTensorSpec *s, char *buf, size_t cap) {
  if (!s->shape) return cli_dims(s->dims, s->rank, buf, cap);
  size_t n = 0;
  for (size_t i = 0; i < s->rank && n < cap; i++) {
    const KilnDim *d = &s->shape[i];
    const char *sep = i ? "x" : "";
    if (!*d->name)
      n += (size_t)snprintf(buf + n, cap - n, "%s%llu", sep, (unsigned long long)d->size);
    else
      n += (size_t)snprintf(buf + n, cap - n, "%s%s[%llu..%llu]", sep, d->name,
                            (unsigned long long)d->min, (unsigned long long)d->max);
  }
  return buf;
}

cJSON *cli_json_shape(const KilnTensorSpec *s) {
  if (!s->shape) return cli_json_dims(s->dims, s->rank);
  cJSON *j = cJSON_CreateArray();
  for (size_t i = 0; i < s->rank; i++) {
    const KilnDim *d = &s->shape[i];
    cJSON_AddItemToArray(j, *d->name ? cJSON_CreateString(d->name)
                                     : cJSON_CreateNumber((double)d->size));
  }
  return j;
}

int64_t cli_json_number(const cJSON *object, const char *name) {
  const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, name);
  if (cJSON_IsString(j)) return strtoll(j->valuestring, NULL, 10);
  if (cJSON_IsBool(j)) return cJSON_IsTrue(j);
  return cJSON_IsNumber(j) ? (int64_t)j->valuedouble : 0;
}

const char *cli_json_text(const cJSON *object, const char *name) {
  const cJSON *j = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsString(j) ? j->valuestring : "";
}

cJSON *cli_json_dims(const uint64_t *dims, size_t rank) {
  cJSON *j = cJSON_CreateArray();
  for (size_t i = 0; i < rank; i++) cJSON_AddItemToArray(j, cJSON_CreateNumber((double)dims[i]));
  return j;
}

static int by_size(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

void cli_sort(int64_t *at, size_t n) { qsort(at, n, sizeof *at, by_size); }
