/* The host keeps the models and constants of loaded executables, and answers that nobody has read,
 * so these count as host bytes too. */
#include "daemon/server/quota.h"

#include <assert.h>
#include <inttypes.h>

enum { HOUR = 3600 };
/* When a level is full nobody knows when that ends: runs end soon, memory is freed by the client.
 */
#define RUN_RETRY_NS        20000000ll
#define MEMORY_RETRY_NS     1000000000ll
#define CONNECTION_RETRY_NS 1000000000ll

Status quota_request(Tenant *t, int64_t now_ns) {
  double rate = (double)t->quota.request_rate;
  t->used.requests++;
  if (!t->quota.request_rate) return NULL;
  int64_t wait = bucket_take(&t->requests, rate, rate, 1, now_ns);
  if (!wait) return NULL;
  return status_retry(FAIL(RESOURCE_EXHAUSTED,
                           "more than the %" PRIu64 " requests per second of tenant '%s'",
                           t->quota.request_rate, t->name),
                      wait);
}

Status quota_run_allowed(const Tenant *t) {
  if (!t->quota.runs || t->used.runs < t->quota.runs) return NULL;
  return status_retry(FAIL(RESOURCE_EXHAUSTED,
                           "%" PRIu64 " runs of tenant '%s' are under way, which is its quota",
                           t->used.runs, t->name),
                      RUN_RETRY_NS);
}

Status quota_connection(Tenant *t) {
  if (!t->quota.connections || t->used.connections < t->quota.connections) {
    t->used.connections++;
    return NULL;
  }
  return status_retry(FAIL(RESOURCE_EXHAUSTED,
                           "%" PRIu64 " connections of tenant '%s' are open, which is its quota",
                           t->used.connections, t->name),
                      CONNECTION_RETRY_NS);
}

void quota_connection_end(Tenant *t) {
  assert(t->used.connections);
  t->used.connections--;
}

Status quota_run(Tenant *t) {
  TRY(quota_run_allowed(t));
  t->used.runs++;
  return NULL;
}

void quota_run_end(Tenant *t) {
  assert(t->used.runs);
  t->used.runs--;
}

/* times: how many quotas may be used before it is enough. */
static Status seconds(const Tenant *t, Bucket *b, uint64_t quota, unsigned times, const char *what,
                      int64_t now_ns) {
  if (!quota) return NULL;
  int64_t wait = bucket_take(b, (double)quota / HOUR, times * (double)quota, 0, now_ns);
  if (!wait) return NULL;
  return status_retry(FAIL(RESOURCE_EXHAUSTED,
                           "the %" PRIu64 " seconds of %s per hour of tenant '%s' are used up",
                           quota, what, t->name),
                      wait);
}

Status quota_compile(Tenant *t, int64_t now_ns) {
  return seconds(t, &t->compiling, t->quota.compile_seconds, 1, "compiling", now_ns);
}

Status quota_compile_more(Tenant *t, int64_t now_ns) {
  return seconds(t, &t->compiling, t->quota.compile_seconds, 2, "compiling", now_ns);
}

Status quota_tune(Tenant *t, int64_t now_ns) {
  return seconds(t, &t->tuning, t->quota.tune_seconds, 1, "tuning", now_ns);
}

void quota_compiled(Tenant *t, int64_t ns) {
  if (!t || ns < 0) return;
  t->used.compile_ns += (uint64_t)ns;
  bucket_charge(&t->compiling, (double)ns / 1e9);
}

void quota_tuned(Tenant *t, int64_t ns) {
  if (!t || ns < 0) return;
  t->used.tune_ns += (uint64_t)ns;
  bucket_charge(&t->tuning, (double)ns / 1e9);
}

static Status bytes(const Tenant *t, const char *where, uint64_t used, uint64_t more,
                    uint64_t quota) {
  if (!quota || !more || (used <= quota && more <= quota - used)) return NULL;
  return status_retry(FAIL(RESOURCE_EXHAUSTED,
                           "%" PRIu64 " more bytes of %s memory would pass the quota of tenant "
                           "'%s': it uses %" PRIu64 " of %" PRIu64,
                           more, where, t->name, used, quota),
                      MEMORY_RETRY_NS);
}

Status quota_memory(const Tenant *t, uint64_t device_bytes, uint64_t host_bytes) {
  TRY(bytes(t, "device", t->used.device_bytes, device_bytes, t->quota.device_bytes));
  uint64_t host = t->used.host_bytes + t->used.executable_bytes + t->used.answer_bytes;
  return bytes(t, "host", host, host_bytes, t->quota.host_bytes);
}
