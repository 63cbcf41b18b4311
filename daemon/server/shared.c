/* The connection to the tier, its breaker, and giving away what was found here.
 *
 * The breaker opens when the connection ends, for whatever reason: an answer that is late, wrong or
 * too large ends it. While it is open every question is answered with "nothing" at once. After a
 * pause that doubles one connection is tried (half open); only when its greeting has been answered
 * is anything else sent.
 *
 * Giving: the outbox is emptied one kernel at a time. What the tier has under the kernel's key is
 * read and checked first; a trusted node's record with a better median stays, anything else is
 * replaced, if it is still what was read (the swap is one script, so two nodes that give at once do
 * not undo each other). A kernel leaves the outbox when the tier has something as good. */
#include "daemon/server/shared_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

enum { TICK_MS = 250, NEWS_PER_TICK = 50, SWAPS_MAX = 3 };
#define SECOND_NS      1000000000ll
#define BACKOFF_NS     (SECOND_NS / 2)
#define BACKOFF_MAX_NS (30 * SECOND_NS)
#define STEADY_NS      (10 * SECOND_NS) /* up for so long: the next failure is a new one */
#define REFUSED_NS     (5 * SECOND_NS)  /* before a row that the tier refused is offered again */
#define ROW_TTL_MS     (30ull * 24 * 3600 * 1000)

static const char swap_script[] =
    "if (redis.call('GET',KEYS[1]) or '')~=ARGV[1] then return 0 end "
    "if ARGV[2]=='' then redis.call('DEL',KEYS[1]) "
    "else redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) end "
    "if ARGV[4]~='' then redis.call('PUBLISH',ARGV[5],ARGV[4]) end return 1";

/* -- questions ----------------------------------------------------------------------------------
 */

bool shared_command(Shared *sh, const Str *args, size_t n, RespDone done, void *ctx) {
  bool sent = sh->state == LINK_UP && resp_command(sh->link, args, n, done, ctx);
  sh->server->metrics.shared_commands_total[sent ? RESULT_OK : RESULT_FAILED][0]++;
  return sent;
}

Str shared_key(char buf[SHARED_KEY], const char *what, const uint8_t *a, const uint8_t *b) {
  char x[DIGEST_HEX + 1], y[DIGEST_HEX + 1];
  int n = snprintf(buf, SHARED_KEY, "kiln:1:%s:%s:%s", what, digest_to_hex(a, DIGEST_BYTES, x),
                   digest_to_hex(b, DIGEST_BYTES, y));
  return (Str){buf, (size_t)n};
}

static Str as_str(Bytes b) { return (Str){(const char *)b.ptr, b.len}; }

bool shared_swap(Shared *sh, Str key, Bytes was, Bytes now, uint64_t ttl_ms, Bytes news,
                 RespDone done, void *ctx) {
  char ttl[24];
  snprintf(ttl, sizeof ttl, "%llu", (unsigned long long)ttl_ms);
  const Str args[] = {STR("EVAL"),   str_from(swap_script), STR("1"),
                      key,           as_str(was),           as_str(now),
                      str_from(ttl), as_str(news),          STR(SHARED_CHANNEL)};
  return shared_command(sh, args, sizeof args / sizeof *args, done, ctx);
}

bool shared_swapped(const redisReply *reply) {
  return reply && reply->type == REDIS_REPLY_INTEGER && reply->integer == 1;
}

Bytes shared_bytes(const redisReply *reply) {
  bool text = reply && reply->type == REDIS_REPLY_STRING;
  return (Bytes){text ? (const uint8_t *)reply->str : NULL, text ? reply->len : 0};
}

void shared_news(const Shared *sh, const uint8_t *a, const uint8_t *b, uint8_t out[SHARED_NEWS]) {
  memcpy(out, a, DIGEST_BYTES);
  memcpy(out + DIGEST_BYTES, b, DIGEST_BYTES);
  memcpy(out + 2 * DIGEST_BYTES, node_key_public(sh->set.key), NODE_KEY_BYTES);
}

void shared_count_offer(Shared *sh, OfferVerdict verdict) {
  sh->server->metrics.shared_offers_total[verdict][0]++;
}

/* -- giving -------------------------------------------------------------------------------------
 */

static void give_next(Shared *sh, int64_t given);

static void give_over(Shared *sh) {
  strbuf_deinit(&sh->item.statement);
  sh->item = (OutboxItem){.id = 0};
  sh->giving = false;
}

/* The tier went away, or does not want it: another time. */
static void give_failed(Shared *sh) {
  sh->server->metrics.shared_given_total[RESULT_FAILED][0]++;
  sh->dirty = true;
  sh->give_ns = clock_now_ns() + REFUSED_NS;
  give_over(sh);
  shared_lease_given(sh);
}

static void given(Shared *sh, unsigned result) {
  int64_t id = sh->item.id;
  sh->server->metrics.shared_given_total[result][0]++;
  strbuf_deinit(&sh->item.statement);
  sh->item = (OutboxItem){.id = 0};
  sh->outbox_after = id;
  give_next(sh, id);
}

static void ask_current(Shared *sh);

static void on_swapped(void *ctx, const redisReply *reply) {
  Shared *sh = ctx;
  if (shared_swapped(reply))
    given(sh, RESULT_OK);
  else if (!reply || reply->type != REDIS_REPLY_INTEGER || ++sh->cas_tries >= SWAPS_MAX)
    give_failed(sh);
  else
    ask_current(sh); /* somebody was quicker */
}

/* Whether what is there is at least as good as what we have. */
static bool keeps(Shared *sh, const Offer *there) {
  Envelope e;
  Arena arena;
  Schedule theirs[ENVELOPE_RECORDS];
  OfferVerdict verdict = offer_check(there, sh->set.nodes.at, sh->set.nodes.len, &e);
  if (verdict != OV_NONE) shared_count_offer(sh, verdict);
  if (verdict != OV_TAKEN || e.kind != EK_RECORDS || !e.count) return false;
  bool mine = !memcmp(e.node, node_key_public(sh->set.key), NODE_KEY_BYTES);
  arena_init(&arena, 0);
  Status st = envelope_records(&e, &arena, theirs);
  int64_t median = st || theirs[0].cause != SC_MEASURED ? INT64_MAX : theirs[0].median_ns;
  status_drop(st);
  arena_deinit(&arena);
  return mine ? median == sh->item.median_ns : median <= sh->item.median_ns;
}

static void on_current(void *ctx, const redisReply *reply) {
  Shared *sh = ctx;
  char key[SHARED_KEY];
  uint8_t news[SHARED_NEWS];
  if (!reply || reply->type == REDIS_REPLY_ERROR) {
    give_failed(sh);
    return;
  }
  Offer there = {
      .kernel = sh->item.kernel, .target = sh->item.target, .statement = shared_bytes(reply)};
  if (keeps(sh, &there)) {
    given(sh, RESULT_MERGED);
    return;
  }
  shared_news(sh, sh->item.kernel, sh->item.target, news);
  Bytes ours = {(const uint8_t *)sh->item.statement.ptr, sh->item.statement.len};
  if (!shared_swap(sh, shared_key(key, "s", sh->item.kernel, sh->item.target), there.statement,
                   ours, ROW_TTL_MS, (Bytes){news, sizeof news}, on_swapped, sh))
    give_failed(sh);
}

static void ask_current(Shared *sh) {
  char key[SHARED_KEY];
  const Str args[] = {STR("GET"), shared_key(key, "s", sh->item.kernel, sh->item.target)};
  if (!shared_command(sh, args, 2, on_current, sh)) give_failed(sh);
}

static void on_outbox(void *ctx, OutboxItem *item, uint64_t queued) {
  Shared *sh = ctx;
  sh->outbox = NULL;
  sh->queued = queued;
  if (item->id && sh->state == LINK_UP) {
    sh->item = *item;
    item->statement = (StrBuf){0};
    sh->cas_tries = 0;
    ask_current(sh);
    return;
  }
  give_over(sh);
  shared_lease_given(sh);
}

static void give_next(Shared *sh, int64_t done) {
  bool open = !sh->outbox_opened;
  sh->outbox_opened = true;
  sh->outbox =
      store_outbox(sh->server->store, open, done, sh->outbox_after, sh->set.key, on_outbox, sh);
  if (!sh->outbox) give_over(sh);
}

static void give_tick(Shared *sh) {
  if (sh->giving || !sh->dirty || clock_now_ns() < sh->give_ns) return;
  sh->dirty = false;
  sh->giving = true;
  sh->outbox_after = 0;
  give_next(sh, 0);
}

void shared_stored(Shared *sh, const Store *where) {
  if (sh && where == sh->server->store) sh->dirty = true;
}

/* -- the link -----------------------------------------------------------------------------------
 */

static void on_up(void *ctx) {
  Shared *sh = ctx;
  sh->state = LINK_UP;
  sh->up_ns = clock_now_ns();
  sh->reason[0] = 0;
  sh->dirty = true;
  sh->give_ns = 0;
  LOG_INFO("the shared tier is up", "server=%s", sh->set.address_text);
  shared_adopt_all(sh);
}

static bool is_own_news(const Shared *sh, Bytes payload) {
  return payload.len == SHARED_NEWS &&
         !memcmp(payload.ptr + 2 * DIGEST_BYTES, node_key_public(sh->set.key), NODE_KEY_BYTES);
}

static void on_news(void *ctx, Bytes payload) {
  Shared *sh = ctx;
  if (is_own_news(sh, payload)) return;
  sh->server->metrics.shared_news_total[0][0]++;
  if (!sh->news_left) {
    sh->news_missed = true;
    return;
  }
  sh->news_left--;
  shared_adopt_news(sh, payload);
}

/* From here on nothing is missed; what was announced before, to nobody, is looked up. */
static void on_news_up(void *ctx) {
  Shared *sh = ctx;
  sh->news_up = true;
  shared_adopt_all(sh);
}

static void on_news_down(void *ctx, const char *why) {
  Shared *sh = ctx;
  (void)why; /* the other connection says it, if it is more than that */
  sh->news = NULL;
  sh->news_up = false;
  sh->news_retry_ns = clock_now_ns() + REFUSED_NS;
}

static void link_lost(Shared *sh, const char *why) {
  char quoted[300];
  int64_t now = clock_now_ns();
  bool was_up = sh->state == LINK_UP, steady = was_up && now - sh->up_ns > STEADY_NS;
  bool first = was_up || !*sh->reason;
  sh->backoff_ns = steady || !sh->backoff_ns ? BACKOFF_NS : 2 * sh->backoff_ns;
  if (sh->backoff_ns > BACKOFF_MAX_NS) sh->backoff_ns = BACKOFF_MAX_NS;
  sh->retry_ns = now + sh->backoff_ns + now % (sh->backoff_ns / 4); /* not all nodes at once */
  sh->state = LINK_DOWN;
  sh->link = NULL;
  sh->server->metrics.shared_breaks_total[0][0]++;
  snprintf(sh->reason, sizeof sh->reason, "%s", why);
  if (first)
    LOG_WARN("the shared tier is gone; going on without it", "server=%s why=%s",
             sh->set.address_text, log_quote(quoted, sizeof quoted, why));
  if (sh->news) resp_close(sh->news);
  sh->news = NULL;
  sh->news_up = false;
}

static void on_down(void *ctx, const char *why) { link_lost(ctx, why); }

static Status open_link(Shared *sh, bool news, Resp **out) {
  RespSpec spec = {.loop = &sh->server->loop,
                   .address = &sh->set.address,
                   .tls = sh->set.tls,
                   .timeout_ms = sh->server->config.shared_timeout_ms,
                   .channel = news ? SHARED_CHANNEL : NULL,
                   .up = news ? on_news_up : on_up,
                   .down = news ? on_news_down : on_down,
                   .push = on_news,
                   .ctx = sh};
  return resp_open(&spec, out);
}

static void link_tick(Shared *sh) {
  int64_t now = clock_now_ns();
  if (sh->off || sh->next) return;
  if (sh->state == LINK_DOWN && now >= sh->retry_ns) {
    char text[160];
    sh->state = LINK_TRYING;
    Status st = open_link(sh, false, &sh->link);
    status_text(st, text, sizeof text);
    if (st) link_lost(sh, text);
    status_drop(st);
  }
  if (sh->state == LINK_UP && !sh->news && now >= sh->news_retry_ns) {
    Status st = open_link(sh, true, &sh->news);
    if (st) sh->news_retry_ns = now + REFUSED_NS;
    status_drop(st);
  }
}

/* -- other settings -----------------------------------------------------------------------------
 */

static void say_settings(const Shared *sh) {
  LOG_INFO("sharing schedules", "server=%s node=%s trusted=%zu", sh->set.address_text,
           sh->set.node_text, sh->set.nodes.len);
}

/* Closes what there is, which is nobody's failure; everybody who waits is told. */
static void link_close(Shared *sh) {
  Resp *link = sh->link, *news = sh->news;
  sh->state = LINK_DOWN;
  sh->link = sh->news = NULL;
  sh->news_up = false;
  if (news) resp_close(news);
  if (link) resp_close(link);
}

static void drop_next(Shared *sh) {
  if (sh->next) shared_settings_deinit(sh->next);
  free(sh->next);
}

/* The cache lane may be reading the settings that there are. */
static void settings_tick(Shared *sh) {
  if (!sh->next || sh->outbox || sh->find || sh->giving) return;
  shared_settings_deinit(&sh->set);
  sh->set = *sh->next;
  free(sh->next);
  sh->next = NULL;
  sh->reason[0] = 0;
  sh->retry_ns = sh->backoff_ns = sh->news_retry_ns = 0;
  sh->outbox_opened = false; /* another tier may have nothing of ours */
  sh->dirty = true;
  say_settings(sh);
}

Status shared_reload_check(Server *s, const Config *next) {
  SharedSettings set;
  if (!*next->shared_server) return NULL;
  if (!s->config.cache_enabled)
    return FAIL(FAILED_PRECONDITION, "[shared] needs the cache, which needs a restart");
  TRY(shared_settings_load(next, &set));
  shared_settings_deinit(&set);
  return NULL;
}

static Status set_next(Shared *sh, const Config *c) {
  SharedSettings *next = malloc(sizeof *next);
  Status st = next ? shared_settings_load(c, next) : FAIL(RESOURCE_EXHAUSTED, "[shared]");
  if (st) {
    free(next);
    return st;
  }
  if (!sh->next && !sh->off && shared_settings_same(&sh->set, next)) {
    TlsContext *old = sh->set.tls; /* connections keep what they have */
    sh->set.tls = next->tls;
    next->tls = old;
    shared_settings_deinit(next);
    free(next);
    return NULL;
  }
  drop_next(sh);
  sh->next = next;
  sh->off = false;
  link_close(sh);
  return NULL;
}

Status shared_reload(Server *s) {
  Shared *sh = s->shared;
  if (!sh) return shared_create(s, &s->shared);
  if (*s->config.shared_server) return set_next(sh, &s->config);
  if (!sh->off) LOG_INFO("sharing nothing any more", "server=%s", sh->set.address_text);
  sh->off = true;
  link_close(sh);
  return NULL;
}

static void on_tick(uv_timer_t *timer) {
  Shared *sh = timer->data;
  settings_tick(sh);
  sh->news_left = NEWS_PER_TICK;
  if (sh->news_missed) shared_adopt_all(sh); /* not listened to: any kernel may have been meant */
  sh->news_missed = false;
  link_tick(sh);
  give_tick(sh);
  shared_adopt_tick(sh);
  shared_lease_tick(sh);
}

/* -- life ---------------------------------------------------------------------------------------
 */

Status shared_create(Server *s, Shared **out) {
  const Config *c = &s->config;
  *out = NULL;
  if (!*c->shared_server) return NULL;
  Shared *sh = calloc(1, sizeof *sh);
  if (!sh) return FAIL(RESOURCE_EXHAUSTED, "shared tier");
  sh->server = s;
  sh->dirty = true;
  Status st = shared_settings_load(c, &sh->set);
  if (st) {
    shared_free(sh);
    return st;
  }
  say_settings(sh);
  uv_timer_init(&s->loop, &sh->tick);
  sh->tick.data = sh;
  uv_timer_start(&sh->tick, on_tick, 0, TICK_MS);
  *out = sh;
  return NULL;
}

void shared_close(Shared *sh) {
  if (!sh || sh->closed) return;
  sh->closed = true;
  shared_lease_close(sh);
  if (sh->outbox) store_forget(sh->outbox);
  sh->outbox = NULL;
  link_close(sh);
  uv_close((uv_handle_t *)&sh->tick, NULL);
}

void shared_free(Shared *sh) {
  if (!sh) return;
  strbuf_deinit(&sh->item.statement);
  shared_settings_deinit(&sh->set);
  drop_next(sh);
  free(sh);
}

bool shared_status(const Shared *sh, SharedStatus *out) {
  static const char *const states[] = {
      [LINK_DOWN] = "down", [LINK_TRYING] = "connecting", [LINK_UP] = "up"};
  if (!sh || sh->off) return false;
  *out = (SharedStatus){.server = sh->set.address_text,
                        .state = states[sh->state],
                        .hears = sh->news_up,
                        .reason = sh->reason,
                        .node = sh->set.node_text,
                        .trusted = sh->set.nodes.len,
                        .queued = sh->queued};
  return true;
}
