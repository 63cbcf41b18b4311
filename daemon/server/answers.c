/* Three levels, each bounded by what is free above it: all answers by [limits] answers, a tenant's
 * by what is still free of that, a connection's by what is then left for its tenant (and by
 * CONNECTION_MAX). This is the dynamic threshold of shared-memory switches (Choudhury and Hahne):
 * who does not read fills a part, and however many do not, something is left for the next one.
 * They are host bytes of the tenant, too (quota.c).
 *
 * Answers of up to SMALL bytes are counted and never refused here: 100 streams of them are little,
 * and the connection's own bound ends that. */
#include "daemon/server/answers.h"

#include <inttypes.h>

#include "daemon/server/connection.h"
#include "daemon/server/quota.h"

enum { CONNECTION_MAX = 512 << 20, SMALL = 64 << 10 };
#define RETRY_NS 1000000000ll

/* Moves r's part in all three sums. */
static void set(Request *r, uint64_t bytes) {
  uint64_t *c = connection_answers(r->conn), was = r->answer_bytes;
  *c += bytes - was;
  r->tenant->used.answer_bytes += bytes - was;
  r->server->answer_bytes += bytes - was;
  r->answer_bytes = bytes;
}

/* a + b <= limit without overflow. */
static bool fits(uint64_t a, uint64_t b, uint64_t limit) { return a <= limit && b <= limit - a; }

static Status check(const Request *r, uint64_t more) {
  TRY(quota_memory(r->tenant, 0, more));
  uint64_t connection = *connection_answers(r->conn), tenant = r->tenant->used.answer_bytes;
  uint64_t all = r->server->answer_bytes, limit = r->server->config.max_answer_bytes;
  if (connection && !fits(connection, more, CONNECTION_MAX))
    return status_retry(FAIL(RESOURCE_EXHAUSTED,
                             "%" PRIu64 " bytes of answers on this connection are unread",
                             connection),
                        RETRY_NS);
  if (fits(all, more, limit) && fits(tenant, more, limit - all - more) &&
      fits(connection, more, limit - all - more - tenant - more))
    return NULL;
  return status_retry(
      FAIL(RESOURCE_EXHAUSTED,
           "an answer of %" PRIu64 " bytes has no room: of the %" PRIu64
           " for all answers that wait to be read, a connection may have as many as are left "
           "for its tenant; read what waits, or keep outputs as buffers",
           more, limit),
      RETRY_NS);
}

Status answers_claim(Request *r, uint64_t bytes) {
  if (bytes <= r->answer_bytes) return NULL;
  uint64_t more = bytes - r->answer_bytes;
  if (more > SMALL) TRY(check(r, more));
  set(r, bytes);
  return NULL;
}

void answers_hold(Request *r, uint64_t bytes) {
  if (bytes > r->answer_bytes) set(r, bytes);
}

void answers_keep(Request *r, uint64_t bytes) { set(r, bytes); }

bool answers_clogged(Connection *c) { return *connection_answers(c) > CONNECTION_MAX; }
