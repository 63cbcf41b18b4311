/* kiln trace: the spans that the server keeps, as a file. Chrome's format shows each call as a
 * track of its own with its phases below; OTLP-JSON is what OpenTelemetry collectors take. */
#include <stdlib.h>

#include "client/cli/cli.h"

typedef struct Spans {
  cJSON *list; /* array of TraceSpan */
  int64_t lost;
} Spans;

/* Everything that the server has, page by page. */
static int fetch(Cli *cli, Spans *out) {
  uint64_t after = 0;
  bool more = true;
  while (more) {
    KilnText *text;
    if (kiln_trace_json(cli->client, after, &text, &cli->err)) return cli_fail(cli, &cli->err);
    cJSON *page = cJSON_Parse(text->text), *at;
    kiln_free(text);
    if (!page) return cli_error(EX_SOFTWARE, "the server's answer is no JSON");
    if (after) out->lost += cli_json_number(page, "lost");
    after = (uint64_t)cli_json_number(page, "next");
    more = cli_json_number(page, "more") != 0;
    cJSON *spans = cJSON_GetObjectItemCaseSensitive(page, "spans");
    while ((at = cJSON_DetachItemFromArray(spans, 0))) cJSON_AddItemToArray(out->list, at);
    cJSON_Delete(page);
  }
  return EX_OK;
}

static cJSON *chrome_event(const cJSON *span) {
  cJSON *e = cJSON_CreateObject(), *args = cJSON_CreateObject();
  bool call = cli_json_number(span, "call") != 0;
  cJSON_AddStringToObject(e, "name", cli_json_text(span, "name"));
  cJSON_AddStringToObject(e, "cat", call ? "call" : "phase");
  cJSON_AddStringToObject(e, "ph", "X");
  cJSON_AddNumberToObject(e, "ts", (double)cli_json_number(span, "start_unix_ns") / 1e3);
  cJSON_AddNumberToObject(e, "dur", (double)cli_json_number(span, "duration_ns") / 1e3);
  cJSON_AddNumberToObject(e, "pid", 1);
  cJSON_AddNumberToObject(e, "tid", (double)cli_json_number(span, "request"));
  cJSON_AddStringToObject(args, "trace_id", cli_json_text(span, "trace_id"));
  cJSON_AddStringToObject(args, "tenant", cli_json_text(span, "tenant"));
  if (call) cJSON_AddStringToObject(args, "code", cli_json_text(span, "code"));
  cJSON_AddItemToObject(e, "args", args);
  return e;
}

static cJSON *chrome(const cJSON *list) {
  cJSON *j = cJSON_CreateObject(), *events = cJSON_AddArrayToObject(j, "traceEvents");
  const cJSON *span;
  cJSON_ArrayForEach(span, list) cJSON_AddItemToArray(events, chrome_event(span));
  cJSON_AddStringToObject(j, "displayTimeUnit", "ms");
  return j;
}

/* {"key": k, "value": {"stringValue": v}} */
static void otlp_attribute(cJSON *list, const char *key, const char *value) {
  cJSON *a = cJSON_CreateObject(), *v = cJSON_CreateObject();
  if (!*value) {
    cJSON_Delete(a);
    cJSON_Delete(v);
    return;
  }
  cJSON_AddStringToObject(a, "key", key);
  cJSON_AddStringToObject(v, "stringValue", value);
  cJSON_AddItemToObject(a, "value", v);
  cJSON_AddItemToArray(list, a);
}

static cJSON *otlp_span(const cJSON *span) {
  enum { KIND_INTERNAL = 1, KIND_SERVER = 2, STATUS_OK = 1, STATUS_ERROR = 2 };
  cJSON *s = cJSON_CreateObject();
  bool call = cli_json_number(span, "call") != 0;
  int64_t start = cli_json_number(span, "start_unix_ns");
  char begin[24], end[24];
  snprintf(begin, sizeof begin, "%lld", (long long)start);
  snprintf(end, sizeof end, "%lld", (long long)(start + cli_json_number(span, "duration_ns")));
  cJSON_AddStringToObject(s, "traceId", cli_json_text(span, "trace_id"));
  cJSON_AddStringToObject(s, "spanId", cli_json_text(span, "span_id"));
  if (*cli_json_text(span, "parent_id"))
    cJSON_AddStringToObject(s, "parentSpanId", cli_json_text(span, "parent_id"));
  cJSON_AddStringToObject(s, "name", cli_json_text(span, "name"));
  cJSON_AddNumberToObject(s, "kind", call ? KIND_SERVER : KIND_INTERNAL);
  cJSON_AddStringToObject(s, "startTimeUnixNano", begin);
  cJSON_AddStringToObject(s, "endTimeUnixNano", end);
  cJSON *attributes = cJSON_AddArrayToObject(s, "attributes");
  otlp_attribute(attributes, "kiln.tenant", cli_json_text(span, "tenant"));
  otlp_attribute(attributes, "rpc.method", cli_json_text(span, "method"));
  otlp_attribute(attributes, "rpc.grpc.status", cli_json_text(span, "code"));
  if (call) {
    bool ok = !strcmp(cli_json_text(span, "code"), "OK");
    cJSON *status = cJSON_AddObjectToObject(s, "status");
    cJSON_AddNumberToObject(status, "code", ok ? STATUS_OK : STATUS_ERROR);
  }
  return s;
}

static cJSON *otlp(const cJSON *list) {
  cJSON *j = cJSON_CreateObject(), *resources = cJSON_AddArrayToObject(j, "resourceSpans");
  cJSON *one = cJSON_CreateObject(), *resource = cJSON_AddObjectToObject(one, "resource");
  otlp_attribute(cJSON_AddArrayToObject(resource, "attributes"), "service.name", "kilnd");
  cJSON *scopes = cJSON_AddArrayToObject(one, "scopeSpans"), *scope = cJSON_CreateObject();
  cJSON *name = cJSON_AddObjectToObject(scope, "scope");
  cJSON_AddStringToObject(name, "name", "kiln");
  cJSON *spans = cJSON_AddArrayToObject(scope, "spans");
  const cJSON *span;
  cJSON_ArrayForEach(span, list) cJSON_AddItemToArray(spans, otlp_span(span));
  cJSON_AddItemToArray(scopes, scope);
  cJSON_AddItemToArray(resources, one);
  return j;
}

static int write_out(const char *path, cJSON *j) {
  char *text = cJSON_PrintUnformatted(j);
  cJSON_Delete(j);
  FILE *f = *path ? fopen(path, "we") : stdout;
  bool ok = text && f && fputs(text, f) >= 0 && fputc('\n', f) >= 0;
  if (f && f != stdout) ok = !fclose(f) && ok;
  cJSON_free(text);
  return ok ? EX_OK : cli_error(EX_CANTCREAT, "%s cannot be written", *path ? path : "the output");
}

int cmd_trace(Cli *cli, int argc, char **argv) {
  const char *format = "chrome", *path = "";
  const Opt opts[] = {
      {"--format", "NAME", OPT_TEXT, &format, "chrome (Perfetto reads it too) or otlp"},
      {"--out", "FILE", OPT_TEXT, &path, "write there instead of on stdout"},
  };
  const ArgSpec spec = {
      .usage = "trace [options]",
      .about = "Writes the spans of recent calls: each call, and each phase of it (parse,\n"
               "upload, queue, cache, compile, run, download). The server records calls that\n"
               "carry a sampled W3C traceparent, and all with trace_all = true. It keeps the\n"
               "last 8,192 spans.",
      .opts = opts,
      .nopts = sizeof opts / sizeof *opts};
  TextList pos = {0};
  Spans spans = {.list = NULL};
  int rc;
  if (!cli_args(&spec, argc, argv, &pos, &rc)) return rc;
  bool chromes = !strcmp(format, "chrome");
  if (!chromes && strcmp(format, "otlp") != 0)
    return cli_usage("--format: expected chrome or otlp, got '%s'", format);
  if ((rc = cli_connect(cli))) return rc;
  spans.list = cJSON_CreateArray();
  rc = fetch(cli, &spans);
  if (!rc && spans.lost)
    fprintf(stderr, "kiln: %lld spans were lost while reading\n", (long long)spans.lost);
  if (!rc) rc = write_out(path, chromes ? chrome(spans.list) : otlp(spans.list));
  cJSON_Delete(spans.list);
  return rc;
}
