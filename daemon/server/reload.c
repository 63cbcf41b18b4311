/* Who must know of a new configuration has a row here. `prepare` says whether it could be taken and
 * leaves the server alone; when all have agreed each `apply` runs, and those cannot fail but for
 * memory. What a row took from *next it has emptied there. */
#include "daemon/server/reload.h"

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/caches.h"
#include "daemon/server/connection.h"
#include "daemon/server/shared.h"
#include "daemon/server/trace_push.h"

void reload_housekeeping(Server *s) {
  for (Tenant *t = s->tenants.first; t; t = t->next) {
    if (!t->retired) continue;
    registry_drop_tenant(&s->executables, t);
    buffer_table_drop_tenant(&s->buffers, t);
  }
}

static Status apply_tenants(Server *s, Config *next) {
  AuthTable *auth = NULL;
  TRY(tenants_load(&s->tenants, next));
  TRY(caches_open(s, next));
  TRY(auth_load(next, &s->tenants, &auth));
  auth_release(s->auth);
  s->auth = auth;
  reload_housekeeping(s);
  return NULL;
}

/* Listeners that are plain stay so: a certificate may be exchanged, not come or go. */
static Status check_certificate(Server *s, const Config *next) {
  if (!*next->tls_certificate == !s->tls) return NULL;
  return FAIL(FAILED_PRECONDITION, "switching TLS on or off needs a restart");
}

static Status apply_certificate(Server *s, Config *next) { return connections_load_tls(s, next); }

#define SWAP(field)                                                                                \
  do {                                                                                             \
    __typeof__(now->field) kept_ = now->field;                                                     \
    now->field = next->field;                                                                      \
    next->field = kept_;                                                                           \
  } while (0)

/* What is read from the configuration as it is needed, and pointed into by nobody. */
static Status apply_settings(Server *s, Config *next) {
  Config *now = &s->config;
  LogLevel level;
  SWAP(log_level);
  SWAP(trace_all);
  SWAP(tuning);
  SWAP(tuning_share);
  SWAP(tuning_seconds);
  SWAP(tuning_after);
  SWAP(max_model_bytes);
  SWAP(max_tensor_bytes);
  SWAP(max_message_bytes);
  SWAP(max_answer_bytes);
  SWAP(compile_total);
  SWAP(max_connections);
  SWAP(connections_per_address);
  SWAP(patience);
  SWAP(grace);
  SWAP(idle_connection);
  SWAP(connection_age);
  SWAP(idle_exit);
  if (log_level_parse(now->log_level, &level)) log_set_level(level);
  return NULL;
}

static Status apply_trace_push(Server *s, Config *next) {
  Config *now = &s->config;
  bool elsewhere = strcmp(now->trace_push, next->trace_push) != 0;
  SWAP(trace_push);
  SWAP(push_ca);
  return trace_push_reload(s, elsewhere);
}

static Status apply_shared(Server *s, Config *next) {
  Config *now = &s->config;
  SWAP(shared_server);
  SWAP(shared_key);
  SWAP(shared_ca);
  SWAP(shared_certificate);
  SWAP(shared_tls_key);
  SWAP(shared_trust);
  SWAP(shared_timeout_ms);
  return shared_reload(s);
}

static const struct {
  const char *what;
  Status (*prepare)(Server *s, const Config *next); /* optional */
  Status (*apply)(Server *s, Config *next);
} rows[] = {
    {.what = "certificate", .prepare = check_certificate, .apply = apply_certificate},
    {.what = "tenants", .apply = apply_tenants},
    {.what = "trace_push", .prepare = trace_push_reload_check, .apply = apply_trace_push},
    {.what = "shared", .prepare = shared_reload_check, .apply = apply_shared},
    {.what = "settings", .apply = apply_settings},
};
enum { NROWS = sizeof rows / sizeof *rows };

static Status reload(Server *s) {
  Config next;
  Status st = config_init(&next);
  if (!st) st = s->read_config(s->read_config_ctx, &next);
  if (!st) st = config_check(&next);
  for (size_t i = 0; !st && i < NROWS; i++)
    if (rows[i].prepare) st = rows[i].prepare(s, &next);
  for (size_t i = 0; !st && i < NROWS; i++) {
    st = rows[i].apply(s, &next);
    if (st) st = WRAP(st, "%s", rows[i].what);
  }
  config_deinit(&next);
  return st;
}

void config_reload(Server *s) {
  if (!s->read_config || s->stopping) return;
  notify_send(&s->notify, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=reading the configuration",
              (long long)(clock_now_ns() / 1000));
  Status st = reload(s);
  char text[512], quoted[600];
  status_text(st, text, sizeof text);
  s->metrics.reloads_total[st ? RESULT_FAILED : RESULT_OK][0]++;
  s->metrics.audited_total[0][0]++;
  log_audit("config.reload", "code=%s error=%s", status_code_name(status_code(st)),
            log_quote(quoted, sizeof quoted, text));
  if (st)
    LOG_ERROR("the configuration was not reloaded", "error=%s", quoted);
  else
    LOG_INFO("configuration reloaded", "tenants=%u generation=%llu", s->tenants.len,
             (unsigned long long)s->tenants.generation);
  status_drop(st);
  s->notify.status[0] = 0; /* it is said again */
  notify_send(&s->notify, "READY=1");
}
