/* The fresh configuration is made like the first one, by whoever made that (file, then command
 * line), and checked as a whole before anything is taken from it. What is taken is named here one
 * by one: everything else may be pointed into by what runs. */
#include "daemon/server/reload.h"

#include "base/clock.h"
#include "daemon/server/auth.h"

#define SWAP(field)                                                                                \
  do {                                                                                             \
    __typeof__(now->field) kept_ = now->field;                                                     \
    now->field = fresh->field;                                                                     \
    fresh->field = kept_;                                                                          \
  } while (0)

/* What was there before stays in fresh, to be freed with it. */
static void take(Config *now, Config *fresh) {
  SWAP(log_level);
  SWAP(trace_all);
  SWAP(tenants);
  SWAP(ntenants);
  SWAP(tuning);
  SWAP(tuning_share);
  SWAP(tuning_seconds);
  SWAP(tuning_after);
  SWAP(max_model_bytes);
  SWAP(max_tensor_bytes);
  SWAP(max_message_bytes);
  SWAP(max_connections);
  SWAP(grace);
  SWAP(idle_connection);
  SWAP(idle_exit);
}

static Status reload(Server *s, Config *fresh) {
  LogLevel level = LOG_LEVEL_INFO;
  AuthTable *auth = NULL;
  TRY(s->reread(s->reread_ctx, fresh));
  TRY(config_check(fresh));
  TRY(tenants_load(&s->tenants, fresh));
  TRY(auth_load(fresh, &s->tenants, &auth));
  auth_release(s->auth);
  s->auth = auth;
  TRY(server_open_caches(s, fresh));
  take(&s->config, fresh);
  log_level_parse(s->config.log_level, &level);
  log_set_level(level);
  return NULL;
}

void server_reload(Server *s) {
  Config fresh = {.cache_path = NULL};
  if (!s->reread || s->stopping) return;
  notify_send(&s->notify, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=reading the configuration",
              (long long)(clock_now_ns() / 1000));
  Status st = reload(s, &fresh);
  config_deinit(&fresh);
  s->metrics.reloads_total[st ? RESULT_FAILED : RESULT_OK][0]++;
  char text[600], quoted[700];
  status_text(st, text, sizeof text);
  log_audit("config.reload", "code=%s error=%s", status_code_name(status_code(st)),
            log_quote(quoted, sizeof quoted, text));
  s->metrics.audited_total[0][0]++;
  status_drop(st);
  s->notify.status[0] = 0; /* it is said again */
  notify_send(&s->notify, "READY=1");
}
