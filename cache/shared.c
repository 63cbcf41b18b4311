/* Offers and the outbox.
 *
 * An offer is checked from the outside in, and what fails is counted by its verdict and otherwise
 * forgotten. The newest statement that was taken of each node about a kernel is remembered by its
 * time: an older one of the same node is a replay. What is taken is stored as an import is, so it
 * serves nobody before this machine has compiled it, compared its results and raced it.
 *
 * The outbox is a set of kernels, not of messages: what is said about one is put together when it
 * is sent, so it is never stale, and a kernel that improves ten times while the tier is down is
 * sent once. An entry has a new id each time it is queued, by which cache_outbox_done knows whether
 * it still stands for what was sent. */
#include "cache/shared.h"

#include "base/clock.h"
#include "base/log.h"
#include "cache/internal.h"

#define TOO_OLD_NS (180ll * 24 * 3600 * 1000000000) /* as old as no tier keeps a row */
#define SKEW_NS    (3600ll * 1000000000)            /* how far clocks of nodes may be apart */

const char *const offer_verdict_name[OV__COUNT] = {[OV_NONE] = "none",
                                                   [OV_TAKEN] = "taken",
                                                   [OV_MALFORMED] = "malformed",
                                                   [OV_WRONG_KEY] = "wrong_key",
                                                   [OV_UNKNOWN_NODE] = "unknown_node",
                                                   [OV_BAD_SIGNATURE] = "bad_signature",
                                                   [OV_REPLAYED] = "replayed"};

const TrustedNode *trusted_find(const TrustedNode *nodes, size_t n, const uint8_t *node) {
  for (size_t i = 0; i < n; i++)
    if (!memcmp(nodes[i].node, node, NODE_KEY_BYTES)) return &nodes[i];
  return NULL;
}

/* -- taking ------------------------------------------------------------------------------------ */

OfferVerdict offer_check(const Offer *offer, const TrustedNode *nodes, size_t nnodes,
                         Envelope *out) {
  if (!offer->statement.len) return OV_NONE;
  Status st = envelope_read(offer->statement, out);
  bool whole = !st;
  status_drop(st);
  if (!whole) return OV_MALFORMED;
  if (!trusted_find(nodes, nnodes, out->node)) return OV_UNKNOWN_NODE;
  if (!envelope_signed(offer->statement, out)) return OV_BAD_SIGNATURE;
  if (memcmp(out->subject, offer->kernel, CACHE_HASH_BYTES) != 0 ||
      memcmp(out->target, offer->target, CACHE_HASH_BYTES) != 0)
    return OV_WRONG_KEY;
  int64_t age = clock_wall_ns() - out->issued_ns;
  return age > TOO_OLD_NS || age < -SKEW_NS ? OV_REPLAYED : OV_TAKEN;
}

static void bind_said(sqlite3_stmt *q, const Envelope *e) {
  sqlite3_bind_blob(q, 1, e->subject, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_blob(q, 2, e->target, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_blob(q, 3, e->node, NODE_KEY_BYTES, SQLITE_STATIC);
}

/* When the node last said something about this; 0 = never. */
static Status last_said(Cache *c, const Envelope *e, int64_t *out) {
  sqlite3_stmt *q = cache_query(c, Q_SAID_FIND);
  bind_said(q, e);
  int rc = sqlite3_step(q);
  *out = rc == SQLITE_ROW ? sqlite3_column_int64(q, 0) : 0;
  Status st = sqlite_status(c->db, rc, "looking up a node's statement");
  sqlite3_reset(q);
  return st;
}

static Status remember_said(Cache *c, const Envelope *e) {
  sqlite3_stmt *q = cache_query(c, Q_SAID_PUT);
  bind_said(q, e);
  sqlite3_bind_int64(q, 4, e->issued_ns);
  TRY(cache_run(c, Q_SAID_PUT, "remembering a node's statement"));
  cache_query(c, Q_SAID_TRIM);
  return cache_run(c, Q_SAID_TRIM, "forgetting old statements");
}

/* Within a transaction. */
static Status take_one(Cache *c, Offer *o, const Envelope *e, const char *origin) {
  Schedule records[ENVELOPE_RECORDS];
  int64_t before = 0;
  Arena arena;
  arena_init(&arena, 0);
  Status st = envelope_records(e, &arena, records);
  if (status_code(st) == ST_DATA_LOSS) {
    status_drop(st);
    st = NULL;
    o->verdict = OV_MALFORMED;
    goto done;
  }
  if (st || (st = last_said(c, e, &before))) goto done;
  if (before > e->issued_ns) o->verdict = OV_REPLAYED;
  if (before >= e->issued_ns) goto done; /* the same once more: it is known */
  for (uint64_t i = 0; i < e->count; i++) records[i].origin = origin;
  if (!(st = schedules_put(c, records, (size_t)e->count))) st = remember_said(c, e);
done:
  arena_deinit(&arena);
  return st;
}

static Status is_open(Cache *c, Offer *o) {
  sqlite3_stmt *q = cache_query(c, Q_SCHEDULE_OPEN);
  sqlite3_bind_blob(q, 1, o->kernel, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_blob(q, 2, o->target, CACHE_HASH_BYTES, SQLITE_STATIC);
  int rc = sqlite3_step(q);
  o->open = rc == SQLITE_ROW;
  Status st = sqlite_status(c->db, rc, "looking for records to check");
  sqlite3_reset(q);
  return st;
}

static Status take_all(Cache *c, Offer *offers, size_t n, const TrustedNode *nodes, size_t nnodes) {
  for (size_t i = 0; i < n; i++) {
    Offer *o = &offers[i];
    Envelope e;
    o->verdict = offer_check(o, nodes, nnodes, &e);
    if (o->verdict == OV_TAKEN && e.kind != EK_RECORDS) o->verdict = OV_WRONG_KEY;
    if (o->verdict == OV_TAKEN) TRY(take_one(c, o, &e, trusted_find(nodes, nnodes, e.node)->name));
    TRY(is_open(c, o));
  }
  return NULL;
}

Status cache_take_offers(Cache *c, Offer *offers, size_t n, const TrustedNode *nodes,
                         size_t nnodes) {
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  return cache_finish(c, take_all(c, offers, n, nodes, nnodes), &before);
}

/* -- giving ------------------------------------------------------------------------------------ */

static Status open_steps(Cache *c) {
  cache_query(c, Q_OUTBOX_ALL);
  TRY(cache_run(c, Q_OUTBOX_ALL, "queueing what others may have"));
  cache_query(c, Q_OUTBOX_TRIM);
  return cache_run(c, Q_OUTBOX_TRIM, "queueing what others may have");
}

Status cache_outbox_open(Cache *c) {
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  TRY(cache_finish(c, open_steps(c), &before));
  c->outbox = true;
  return NULL;
}

Status outbox_add(Cache *c, const Schedule *s) {
  if (!c->outbox || !schedule_serves(s) || s->imported || (s->origin && *s->origin)) return NULL;
  sqlite3_stmt *q = cache_query(c, Q_OUTBOX_ADD);
  sqlite3_bind_blob(q, 1, s->kernel, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_blob(q, 2, s->target, CACHE_HASH_BYTES, SQLITE_STATIC);
  TRY(cache_run(c, Q_OUTBOX_ADD, "queueing what others may have"));
  cache_query(c, Q_OUTBOX_TRIM);
  return cache_run(c, Q_OUTBOX_TRIM, "queueing what others may have");
}

/* The record that serves, then what failed here, so that it need not fail elsewhere. */
typedef struct Giving {
  Arena arena;
  Schedule records[ENVELOPE_RECORDS];
  size_t n;
  bool no_memory;
} Giving;

static bool give(void *ctx, const Schedule *s) {
  Giving *g = ctx;
  if (!g->n && (!schedule_serves(s) || *s->origin)) return false; /* it is another's, or nothing */
  if (s->imported || *s->origin || (g->n && s->cause == SC_MEASURED)) return true;
  if (!schedule_copy(&g->arena, s, &g->records[g->n])) return g->no_memory = true, false;
  return ++g->n < ENVELOPE_RECORDS;
}

/* out->statement stays empty when there is nothing to say. */
static Status compose(Cache *c, const NodeKey *key, OutboxItem *out) {
  Giving g = {.n = 0};
  Envelope e = {.kind = EK_RECORDS, .issued_ns = clock_wall_ns()};
  arena_init(&g.arena, 0);
  memcpy(e.subject, out->kernel, CACHE_HASH_BYTES);
  memcpy(e.target, out->target, CACHE_HASH_BYTES);
  Status st = cache_schedules(c, out->kernel, out->target, give, &g);
  if (!st && g.no_memory) st = FAIL(RESOURCE_EXHAUSTED, "records for others");
  if (!st && g.n) {
    out->median_ns = g.records[0].median_ns;
    st = envelope_write(&e, g.records, g.n, key, &out->statement);
  }
  arena_deinit(&g.arena);
  return st;
}

static Status next_row(Cache *c, int64_t after, OutboxItem *out, uint64_t *queued) {
  sqlite3_stmt *q = cache_query(c, Q_OUTBOX_NEXT);
  sqlite3_bind_int64(q, 1, after);
  int rc = sqlite3_step(q);
  out->id = 0;
  *queued = 0;
  if (rc == SQLITE_ROW && sqlite3_column_bytes(q, 1) == CACHE_HASH_BYTES &&
      sqlite3_column_bytes(q, 2) == CACHE_HASH_BYTES) {
    out->id = sqlite3_column_int64(q, 0);
    memcpy(out->kernel, sqlite3_column_blob(q, 1), CACHE_HASH_BYTES);
    memcpy(out->target, sqlite3_column_blob(q, 2), CACHE_HASH_BYTES);
    *queued = (uint64_t)sqlite3_column_int64(q, 3);
  }
  Status st = sqlite_status(c->db, rc, "reading what others may have");
  sqlite3_reset(q);
  return st;
}

Status cache_outbox_next(Cache *c, int64_t after, const NodeKey *key, OutboxItem *out,
                         uint64_t *queued) {
  *out = (OutboxItem){.id = 0};
  for (;;) {
    TRY(next_row(c, after, out, queued));
    if (!out->id) return NULL;
    TRY(compose(c, key, out));
    if (out->statement.len) return NULL;
    TRY(cache_outbox_done(c, out->id));
  }
}

Status cache_outbox_done(Cache *c, int64_t id) {
  TRY(cache_begin(c));
  CacheStats before = c->stats;
  sqlite3_bind_int64(cache_query(c, Q_OUTBOX_DONE), 1, id);
  return cache_finish(c, cache_run(c, Q_OUTBOX_DONE, "removing what others have"), &before);
}
