/* Who must know of a new configuration has a row here. `prepare` says whether it could be taken and
 * leaves the server alone; when all have agreed each `apply` runs, and those cannot fail but for
 * memory. What a row took from *next it has emptied there. */
#include "daemon/server/reload.h"

#include "base/log.h"
#include "daemon/server/caches.h"
#include "daemon/server/connection.h"

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

static const struct {
  const char *what;
  Status (*prepare)(Server *s, const Config *next); /* optional */
  Status (*apply)(Server *s, Config *next);
} rows[] = {
    {.what = "certificate", .prepare = check_certificate, .apply = apply_certificate},
    {.what = "tenants", .apply = apply_tenants},
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
  Status st = reload(s);
  char text[512], quoted[600];
  status_text(st, text, sizeof text);
  if (st)
    LOG_ERROR("the configuration was not reloaded", "error=%s",
              log_quote(quoted, sizeof quoted, text));
  else
    LOG_INFO("configuration reloaded", "tenants=%u generation=%llu", s->tenants.len,
             (unsigned long long)s->tenants.generation);
  status_drop(st);
}
