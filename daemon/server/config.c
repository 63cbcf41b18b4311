/* Every setting is a row of one table: section, key, how its value is read, where it goes. inih
 * does the lines; it reports the number of the first line whose handler said no. */
#include "daemon/server/config.h"

#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/machine.h"
#include "daemon/server/auth.h"
#include "daemon/server/resp.h"
#include "daemon/server/shared_trust.h"
#include "daemon/server/trace_push.h"

typedef enum SettingKind {
  SK_TEXT,
  SK_LIST,
  SK_BOOL,
  SK_SIZE,
  SK_COUNT,
  SK_SECONDS,
  SK_MODE,
  SK_ROLES,
  SK_ISOLATION
} SettingKind;

typedef struct Setting {
  const char *section, *key;
  SettingKind kind;
  size_t offset;
} Setting;

#define AT(field) offsetof(Config, field)
static const Setting settings[] = {
    {"server", "listen", SK_LIST, AT(listen)},
    {"server", "socket_mode", SK_MODE, AT(socket_mode)},
    {"server", "insecure_tcp", SK_BOOL, AT(insecure_tcp)},
    {"server", "log_level", SK_TEXT, AT(log_level)},
    {"server", "isolation", SK_ISOLATION, AT(strict_isolation)},
    {"server", "metrics", SK_TEXT, AT(metrics)},
    {"server", "trace_all", SK_BOOL, AT(trace_all)},
    {"server", "trace_push", SK_TEXT, AT(trace_push)},
    {"server", "trace_push_ca", SK_TEXT, AT(push_ca)},
    {"server", "models", SK_TEXT, AT(models)},
    {"server", "idle_exit", SK_SECONDS, AT(idle_exit)},
    {"server", "grace", SK_SECONDS, AT(grace)},
    {"server", "max_connections", SK_COUNT, AT(max_connections)},
    {"server", "idle_connection", SK_SECONDS, AT(idle_connection)},
    {"server", "connections_per_address", SK_COUNT, AT(connections_per_address)},
    {"patience", "handshake", SK_SECONDS, AT(patience.handshake)},
    {"patience", "first_call", SK_SECONDS, AT(patience.first_call)},
    {"patience", "headers", SK_SECONDS, AT(patience.headers)},
    {"patience", "message", SK_SECONDS, AT(patience.message)},
    {"patience", "reader", SK_SECONDS, AT(patience.reader)},
    {"server", "connection_age", SK_SECONDS, AT(connection_age)},
    {"server", "node", SK_TEXT, AT(node)},
    {"tls", "certificate", SK_TEXT, AT(tls_certificate)},
    {"tls", "key", SK_TEXT, AT(tls_key)},
    {"tls", "client_ca", SK_TEXT, AT(tls_client_ca)},
    {"cache", "path", SK_TEXT, AT(cache_path)},
    {"cache", "max_bytes", SK_SIZE, AT(cache_max_bytes)},
    {"cache", "enabled", SK_BOOL, AT(cache_enabled)},
    {"shared", "server", SK_TEXT, AT(shared_server)},
    {"shared", "key", SK_TEXT, AT(shared_key)},
    {"shared", "ca", SK_TEXT, AT(shared_ca)},
    {"shared", "tls_certificate", SK_TEXT, AT(shared_certificate)},
    {"shared", "tls_key", SK_TEXT, AT(shared_tls_key)},
    {"shared", "trust", SK_LIST, AT(shared_trust)},
    {"shared", "timeout_ms", SK_COUNT, AT(shared_timeout_ms)},
    {"tuning", "background", SK_BOOL, AT(tuning)},
    {"batching", "delay_ms", SK_COUNT, AT(batch_delay_ms)},
    {"batching", "rows", SK_COUNT, AT(batch_rows)},
    {"tuning", "share", SK_COUNT, AT(tuning_share)},
    {"tuning", "per_hour", SK_SECONDS, AT(tuning_seconds)},
    {"tuning", "after", SK_SECONDS, AT(tuning_after)},
    {"tuning", "memory", SK_SIZE, AT(timing_memory)},
    {"limits", "model", SK_SIZE, AT(max_model_bytes)},
    {"limits", "tensor", SK_SIZE, AT(max_tensor_bytes)},
    {"limits", "message", SK_SIZE, AT(max_message_bytes)},
    {"limits", "answers", SK_SIZE, AT(max_answer_bytes)},
    {"limits", "executables", SK_COUNT, AT(max_executables)},
    {"limits", "executable_bytes", SK_SIZE, AT(max_executable_bytes)},
    {"limits", "buffers", SK_SIZE, AT(max_buffer_bytes)},
    {"limits", "queue", SK_COUNT, AT(max_queue)},
    {"workers", "program", SK_TEXT, AT(worker)},
    {"workers", "compile", SK_COUNT, AT(compile_workers)},
    {"workers", "compile_memory", SK_SIZE, AT(compile_memory)},
    {"workers", "compile_seconds", SK_SECONDS, AT(compile_seconds)},
    {"workers", "compile_total", SK_SECONDS, AT(compile_total)},
    {"workers", "device_memory", SK_SIZE, AT(device_memory)},
    {"workers", "run_seconds", SK_SECONDS, AT(run_seconds)},
    {"workers", "device", SK_LIST, AT(devices)},
};
#undef AT

/* Of a section [tenant NAME]. */
#define AT(field) offsetof(TenantSpec, field)
static const Setting tenant_settings[] = {
    {"tenant", "weight", SK_COUNT, AT(weight)},
    {"tenant", "roles", SK_ROLES, AT(roles)},
    {"tenant", "shared_cache", SK_BOOL, AT(shares_cache)},
    {"tenant", "token", SK_LIST, AT(tokens)},
    {"tenant", "certificate", SK_LIST, AT(certificates)},
    {"tenant", "uid", SK_LIST, AT(uids)},
    {"tenant", "device_bytes", SK_SIZE, AT(quota.device_bytes)},
    {"tenant", "host_bytes", SK_SIZE, AT(quota.host_bytes)},
    {"tenant", "runs", SK_COUNT, AT(quota.runs)},
    {"tenant", "compile_seconds", SK_SECONDS, AT(quota.compile_seconds)},
    {"tenant", "tune_seconds", SK_SECONDS, AT(quota.tune_seconds)},
    {"tenant", "request_rate", SK_COUNT, AT(quota.request_rate)},
    {"tenant", "connections", SK_COUNT, AT(quota.connections)},
};
#undef AT

enum {
  NSETTINGS = sizeof settings / sizeof *settings,
  NTENANT_SETTINGS = sizeof tenant_settings / sizeof *tenant_settings,
  COMPILE_WORKERS_MAX = 256,
  TENANTS_MAX = 4096,
  NAME_MAX_BYTES = 32,
  WEIGHT_MAX = 1000
};

/* Where the user's own socket lies: $XDG_RUNTIME_DIR/kiln or /tmp/kiln-UID. */
static void runtime_dir(char *buf, size_t cap) {
  const char *run = getenv("XDG_RUNTIME_DIR");
  if (run && *run == '/')
    snprintf(buf, cap, "%s/kiln", run);
  else
    snprintf(buf, cap, "/tmp/kiln-%u", (unsigned)getuid());
}

static void default_cache(char *buf, size_t cap) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (cache && *cache == '/')
    snprintf(buf, cap, "%s/kiln/cache.db", cache);
  else if (home && *home == '/')
    snprintf(buf, cap, "%s/.cache/kiln/cache.db", home);
  else
    snprintf(buf, cap, "/var/tmp/kiln-%u/cache.db", (unsigned)getuid());
}

/* Limits of memory by default: what is good for 16 GiB, and with less in proportion. */
static uint64_t part_of_memory(uint64_t bytes, uint64_t least) {
  const uint64_t whole = 16ull << 30;
  uint64_t memory = machine_memory();
  if (!memory || memory >= whole) return bytes;
  uint64_t part = (uint64_t)((double)bytes * (double)memory / (double)whole);
  return part < least ? least : part;
}

static void bound_memory(Config *c) {
  const uint64_t mib = 1 << 20;
  c->max_model_bytes = part_of_memory(2048 * mib, 64 * mib);
  c->max_tensor_bytes = part_of_memory(1024 * mib, 64 * mib);
  c->max_answer_bytes = part_of_memory(4096 * mib, 64 * mib);
  c->max_buffer_bytes = part_of_memory(8192 * mib, 64 * mib);
  c->max_executable_bytes = part_of_memory(16384 * mib, 128 * mib);
  c->compile_memory = part_of_memory(4096 * mib, 512 * mib);
  c->timing_memory = part_of_memory(8192 * mib, 512 * mib);
}

Status config_init(Config *c) {
  char dir[256], listen[512], cache[512];
  runtime_dir(dir, sizeof dir);
  snprintf(listen, sizeof listen, "unix:%s/kiln.sock", dir);
  default_cache(cache, sizeof cache);
  *c = (Config){
      .cache_path = strdup(cache),
      .worker = strdup(""),
      .log_level = strdup("info"),
      .metrics = strdup(""),
      .models = strdup(""),
      .trace_push = strdup(""),
      .push_ca = strdup(""),
      .node = strdup(""),
      .tls_certificate = strdup(""),
      .tls_key = strdup(""),
      .tls_client_ca = strdup(""),
      .shared_server = strdup(""),
      .shared_key = strdup(""),
      .shared_ca = strdup(""),
      .shared_certificate = strdup(""),
      .shared_tls_key = strdup(""),
      .shared_timeout_ms = 500,
      .cache_enabled = true,
      .cache_max_bytes = 4ull << 30,
      .max_message_bytes = 256ull << 20,
      .max_executables = 64,
      .max_queue = 256,
      .max_connections = 1024,
      .batch_rows = 64,
      .tuning = true,
      .tuning_share = 50,
      .tuning_seconds = 600,
      .tuning_after = 30,
      .patience = {.handshake = 10, .first_call = 60, .headers = 10, .message = 120, .reader = 60},
      .socket_mode = 0600,
      .grace = 10,
      .idle_connection = 1800,
      .compile_seconds = 300,
      .compile_total = 3600,
      .run_seconds = 300,
  };
  bound_memory(c);
  TRY(config_set(c, "server", "listen", listen));
  TRY(config_set(c, "workers", "device", "auto"));
  c->listen.from_default = c->devices.from_default = true;
  bool texts = c->cache_path && c->worker && c->log_level && c->metrics && c->models && c->node &&
               c->trace_push && c->push_ca && c->tls_certificate && c->tls_key &&
               c->tls_client_ca && c->shared_server && c->shared_key && c->shared_ca &&
               c->shared_certificate && c->shared_tls_key;
  return texts ? NULL : FAIL(RESOURCE_EXHAUSTED, "settings");
}

static void list_clear(ConfigList *l) {
  for (size_t i = 0; i < l->len; i++) free(l->at[i]);
  *l = (ConfigList){.len = 0};
}

static void tenant_deinit(TenantSpec *t) {
  free(t->name);
  list_clear(&t->tokens);
  list_clear(&t->certificates);
  list_clear(&t->uids);
}

void config_deinit(Config *c) {
  for (size_t i = 0; i < c->ntenants; i++) tenant_deinit(&c->tenants[i]);
  free(c->tenants);
  list_clear(&c->listen);
  list_clear(&c->devices);
  free(c->cache_path);
  free(c->worker);
  free(c->log_level);
  free(c->metrics);
  free(c->models);
  free(c->trace_push);
  free(c->push_ca);
  free(c->node);
  free(c->tls_certificate);
  free(c->tls_key);
  free(c->tls_client_ca);
  free(c->shared_server);
  free(c->shared_key);
  free(c->shared_ca);
  free(c->shared_certificate);
  free(c->shared_tls_key);
  list_clear(&c->shared_trust);
  *c = (Config){.cache_path = NULL};
}

/* -- values -------------------------------------------------------------------------------------
 */

static Status read_number(const char *value, const char *units, const uint64_t *scale,
                          uint64_t *out) {
  char *end;
  errno = 0;
  unsigned long long n = strtoull(value, &end, 10);
  if (end == value || *value == '-' || *value == '+' || errno)
    return FAIL(INVALID_ARGUMENT, "expected a number, got '%s'", value);
  const char *unit = *end ? strchr(units, *end) : NULL;
  uint64_t factor = unit ? scale[unit - units] : 1;
  if (unit) end++;
  if (*end)
    return FAIL(INVALID_ARGUMENT, "expected a number with at most one of %s, got '%s'",
                *units ? units : "no unit", value);
  if (__builtin_mul_overflow((uint64_t)n, factor, out))
    return FAIL(INVALID_ARGUMENT, "'%s' is too large", value);
  return NULL;
}

static Status read_bool(const char *value, bool *out) {
  static const char *const yes[] = {"true", "yes", "on", "1"};
  static const char *const no[] = {"false", "no", "off", "0"};
  for (size_t i = 0; i < 4; i++) {
    if (!strcmp(value, yes[i])) return *out = true, NULL;
    if (!strcmp(value, no[i])) return *out = false, NULL;
  }
  return FAIL(INVALID_ARGUMENT, "expected true or false, got '%s'", value);
}

static Status read_isolation(const char *value, bool *strict) {
  *strict = !strcmp(value, "strict");
  if (*strict || !strcmp(value, "shared")) return NULL;
  return FAIL(INVALID_ARGUMENT, "expected shared or strict, got '%s'", value);
}

static Status read_mode(const char *value, uint64_t *out) {
  char *end;
  unsigned long mode = strtoul(value, &end, 8);
  if (end == value || *end || mode > 0777)
    return FAIL(INVALID_ARGUMENT, "expected permissions like 0660, got '%s'", value);
  *out = mode;
  return NULL;
}

static Status read_text(const char *value, char **out) {
  char *copy = strdup(value);
  if (!copy) return FAIL(RESOURCE_EXHAUSTED, "settings");
  free(*out);
  *out = copy;
  return NULL;
}

static Status read_list(const char *value, ConfigList *out) {
  if (out->from_default) list_clear(out);
  if (!*value) return FAIL(INVALID_ARGUMENT, "expected a value");
  if (out->len == CONFIG_LIST_MAX)
    return FAIL(INVALID_ARGUMENT, "stands more than %d times", CONFIG_LIST_MAX);
  TRY(read_text(value, &out->at[out->len]));
  out->len++;
  return NULL;
}

/* base is what the setting's offset counts from. */
static Status read_value(void *base, const Setting *s, const char *value) {
  static const uint64_t sizes[] = {1ull << 10, 1ull << 20, 1ull << 30, 1ull << 40};
  static const uint64_t times[] = {1, 60, 3600};
  void *at = (char *)base + s->offset;
  switch (s->kind) {
  case SK_TEXT: return read_text(value, at);
  case SK_LIST: return read_list(value, at);
  case SK_BOOL: return read_bool(value, at);
  case SK_SIZE: return read_number(value, "KMGT", sizes, at);
  case SK_COUNT: return read_number(value, "", NULL, at);
  case SK_MODE: return read_mode(value, at);
  case SK_SECONDS: return read_number(value, "smh", times, at);
  case SK_ROLES: return roles_parse(value, at);
  case SK_ISOLATION: return read_isolation(value, at);
  }
  return FAIL(INTERNAL, "setting kind");
}

/* Names become parts of file names, metric labels and ids. */
static bool good_name(const char *name) {
  size_t n = strlen(name);
  return n && n <= NAME_MAX_BYTES && *name != '-' && strcmp(name, "nobody") != 0 &&
         n == strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
}

/* The tenant of this name, made when the configuration has none yet. */
static Status tenant_section(Config *c, const char *name, TenantSpec **out) {
  *out = NULL;
  for (size_t i = 0; i < c->ntenants; i++)
    if (!strcmp(c->tenants[i].name, name)) return *out = &c->tenants[i], NULL;
  if (!good_name(name))
    return FAIL(INVALID_ARGUMENT,
                "expected a tenant's name of at most %d letters, digits, '-' and '_' that is not "
                "'nobody', got '%s'",
                NAME_MAX_BYTES, name);
  if (c->ntenants == TENANTS_MAX)
    return FAIL(INVALID_ARGUMENT, "more than %d tenants", TENANTS_MAX);
  TenantSpec *grown = realloc(c->tenants, (c->ntenants + 1) * sizeof *grown);
  if (!grown) return FAIL(RESOURCE_EXHAUSTED, "tenants");
  c->tenants = grown;
  grown[c->ntenants] = (TenantSpec){.name = strdup(name), .weight = 1, .roles = ROLE_RUN};
  if (!grown[c->ntenants].name) return FAIL(RESOURCE_EXHAUSTED, "tenants");
  *out = &grown[c->ntenants++];
  return NULL;
}

/* Reads a value into the setting of that name. */
static Status set_in(const Setting *table, size_t n, void *base, const char *section,
                     const char *key, const char *value) {
  bool known = false;
  for (size_t i = 0; i < n; i++) {
    if (strcmp(table[i].section, section)) continue;
    known = true;
    if (strcmp(table[i].key, key)) continue;
    Status st = read_value(base, &table[i], value);
    return st ? WRAP(st, "[%s] %s", section, key) : NULL;
  }
  if (!known) return FAIL(INVALID_ARGUMENT, "unknown section [%s]", section);
  return FAIL(INVALID_ARGUMENT, "unknown key '%s' in section [%s]", key, section);
}

Status config_set(Config *c, const char *section, const char *key, const char *value) {
  TenantSpec *tenant;
  if (strncmp(section, "tenant ", 7)) return set_in(settings, NSETTINGS, c, section, key, value);
  TRY(tenant_section(c, section + 7, &tenant));
  Status st = set_in(tenant_settings, NTENANT_SETTINGS, tenant, "tenant", key, value);
  return st ? WRAP(st, "[%s]", section) : NULL;
}

/* -- files --------------------------------------------------------------------------------------
 */

typedef struct Reading {
  Config *config;
  Status first;
} Reading;

static int on_setting(void *ctx, const char *section, const char *key, const char *value) {
  Reading *r = ctx;
  if (r->first) return 0;
  r->first = config_set(r->config, section, key, value);
  return r->first == NULL;
}

static Status read_result(Reading *r, int line, const char *name) {
  if (r->first) return WRAP(r->first, "%s:%d", name, line);
  if (line > 0)
    return FAIL(INVALID_ARGUMENT, "%s:%d: expected 'key = value' or '[section]'", name, line);
  return line < 0 ? FAIL(INVALID_ARGUMENT, "%s cannot be read", name) : NULL;
}

Status config_read_file(Config *c, const char *path) {
  Reading r = {.config = c};
  FILE *f = fopen(path, "re");
  if (!f) return FAIL(INVALID_ARGUMENT, "%s: %s", path, strerror(errno));
  int line = ini_parse_file(f, on_setting, &r);
  fclose(f);
  return read_result(&r, line, path);
}

Status config_read_text(Config *c, const char *text, const char *name) {
  Reading r = {.config = c};
  return read_result(&r, ini_parse_string(text, on_setting, &r), name);
}

/* -- checks -------------------------------------------------------------------------------------
 */

/* HOST of "HOST:PORT" names this machine only. */
static bool is_loopback(const char *addr) {
  return !strncmp(addr, "127.", 4) || !strncmp(addr, "localhost:", 10) ||
         !strncmp(addr, "[::1]:", 6);
}

static Status check_address(const char *addr) {
  if (!strncmp(addr, "unix:", 5)) {
    if (!addr[5]) return FAIL(INVALID_ARGUMENT, "listen: unix: without a path");
    if (strlen(addr + 5) > 107)
      return FAIL(INVALID_ARGUMENT, "listen: '%s' is longer than a socket's path may be (107)",
                  addr);
    return NULL;
  }
  if (!strrchr(addr, ':'))
    return FAIL(INVALID_ARGUMENT, "listen: expected unix:PATH or HOST:PORT, got '%s'", addr);
  return NULL;
}

static Status check_listen(const Config *c, const char *addr) {
  TRY(check_address(addr));
  if (strncmp(addr, "unix:", 5) && !is_loopback(addr) && !c->insecure_tcp && !*c->tls_certificate)
    return FAIL(INVALID_ARGUMENT,
                "listen: '%s' would be reachable from outside in plain text; set certificate and "
                "key in [tls], or insecure_tcp = true if that is meant",
                addr);
  return NULL;
}

static Status check_tenants(const Config *c) {
  for (size_t i = 0; i < c->ntenants; i++) {
    const TenantSpec *t = &c->tenants[i];
    if (!t->weight || t->weight > WEIGHT_MAX)
      return FAIL(INVALID_ARGUMENT, "[tenant %s] weight: expected 1 to %d, got %" PRIu64, t->name,
                  WEIGHT_MAX, t->weight);
  }
  /* and the rows by which they are recognised */
  TenantTable tenants = {.first = NULL};
  AuthTable *auth = NULL;
  Status st = tenants_load(&tenants, c);
  if (!st) st = auth_load(c, &tenants, &auth);
  auth_release(auth);
  tenants_deinit(&tenants);
  return st;
}

/* The address and the rows of trusted nodes; files that rows name are read when they are used. */
static Status check_shared(const Config *c) {
  RespAddress address;
  TrustedNode node;
  if (!*c->shared_server) return NULL;
  Status st = resp_address_parse(c->shared_server, &address);
  if (st) return WRAP(st, "[shared] server");
  if (!address.tls && (*c->shared_ca || *c->shared_certificate || *c->shared_tls_key))
    return FAIL(INVALID_ARGUMENT, "[shared] ca, tls_certificate and tls_key need rediss://");
  if (!*c->shared_certificate != !*c->shared_tls_key)
    return FAIL(INVALID_ARGUMENT, "[shared] tls_certificate and tls_key belong together");
  if (!c->cache_enabled || !*c->cache_path)
    return FAIL(INVALID_ARGUMENT, "[shared] needs a cache: what others know is kept there");
  if (c->shared_timeout_ms < 10 || c->shared_timeout_ms > 60000)
    return FAIL(INVALID_ARGUMENT, "[shared] timeout_ms: expected 10 to 60000, got %" PRIu64,
                c->shared_timeout_ms);
  for (size_t i = 0; i < c->shared_trust.len; i++) {
    if (strncmp(c->shared_trust.at[i], "ed25519:", 8)) continue;
    st = shared_trust_row(str_from(c->shared_trust.at[i]), &node);
    if (st) return WRAP(st, "[shared] trust");
  }
  return NULL;
}

Status config_check(const Config *c) {
  LogLevel level;
  TRY(check_tenants(c));
  TRY(check_shared(c));
  if (!*c->tls_certificate != !*c->tls_key || (*c->tls_client_ca && !*c->tls_certificate))
    return FAIL(INVALID_ARGUMENT,
                "[tls]: certificate and key belong together, and client_ca needs them");
  for (size_t i = 0; i < c->listen.len; i++) TRY(check_listen(c, c->listen.at[i]));
  if (*c->metrics) TRY(check_address(c->metrics));
  TRY(push_check(c));
  if (*c->node && !good_name(c->node))
    return FAIL(INVALID_ARGUMENT,
                "node: expected at most %d letters, digits, '-' and '_', got '%s'", NAME_MAX_BYTES,
                c->node);
  if (!log_level_parse(c->log_level, &level))
    return FAIL(INVALID_ARGUMENT, "log_level: expected debug, info, warn, error or off, got '%s'",
                c->log_level);
  if (c->max_message_bytes < (64u << 10) || c->max_message_bytes > (2ull << 30) - 1)
    return FAIL(INVALID_ARGUMENT, "message: expected 64K to 2G, got %" PRIu64,
                c->max_message_bytes);
  if (c->max_answer_bytes < (1u << 20) || c->max_answer_bytes > 1ull << 50)
    return FAIL(INVALID_ARGUMENT, "answers: expected at least 1M, got %" PRIu64,
                c->max_answer_bytes);
  if (!c->max_executables || !c->max_queue || !c->max_connections)
    return FAIL(INVALID_ARGUMENT, "executables, queue and max_connections must be at least 1");
  if (c->compile_workers > COMPILE_WORKERS_MAX)
    return FAIL(INVALID_ARGUMENT, "compile: at most %d workers, got %" PRIu64, COMPILE_WORKERS_MAX,
                c->compile_workers);
  if (!c->batch_rows || c->batch_rows > BATCH_ROWS_MAX || c->batch_delay_ms > BATCH_DELAY_MAX)
    return FAIL(INVALID_ARGUMENT, "batching: expected 1 to %d rows and at most %d ms",
                BATCH_ROWS_MAX, BATCH_DELAY_MAX);
  if (!c->tuning_share || c->tuning_share > 100)
    return FAIL(INVALID_ARGUMENT, "share: expected 1 to 100 percent, got %" PRIu64,
                c->tuning_share);
  if (c->tuning_seconds > 3600)
    return FAIL(INVALID_ARGUMENT, "per_hour: expected at most an hour, got %" PRIu64 " seconds",
                c->tuning_seconds);
  if (!c->compile_seconds || !c->run_seconds)
    return FAIL(INVALID_ARGUMENT, "compile_seconds and run_seconds must be at least 1");
  return NULL;
}
