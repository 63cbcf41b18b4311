/* hiredis reads and formats the protocol; the connection is ours (dial.h). Its asynchronous half
 * (and with it the adapter for libuv) asserts that a server only sends what was asked for, in the
 * shape that was asked for, so a hostile one could end kilnd by a single unasked reply (0.14,
 * __redisGetSubscribe- Callback). Here an answer is made by the reader under limits (the object
 * functions refuse large arrays and strings, and what waits undecoded is counted before more is
 * fed), and is either the oldest command's or the end of the connection. */
#include "daemon/server/resp.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"

enum {
  UNREAD_MAX = RESP_STRING_MAX + 4096, /* one string that is not complete yet */
  ARRAY_MAX = 8
};

typedef struct Pending {
  RespDone done;
  void *ctx;
  int64_t deadline_ns;
} Pending;

struct Resp {
  RespSpec spec;
  RespAddress address;
  char channel[64];
  Dial *dial;
  bool up, ended;
  unsigned handshake; /* answers that are still to come before it is up */
  redisReader *reader;
  Pending pending[RESP_PENDING]; /* a ring */
  size_t first, npending;
};

/* -- addresses ----------------------------------------------------------------------------------
 */

static bool take(Str from, char *to, size_t cap) {
  if (from.len >= cap) return false;
  if (from.len) memcpy(to, from.ptr, from.len);
  to[from.len] = 0;
  return true;
}

/* Cuts s at the first (or last) c: what is before it; s becomes what is behind. */
static bool cut(Str *s, char c, bool last, Str *before) {
  for (size_t i = 0; i < s->len; i++) {
    size_t k = last ? s->len - 1 - i : i;
    if (s->ptr[k] != c) continue;
    *before = (Str){s->ptr, k};
    *s = (Str){s->ptr + k + 1, s->len - k - 1};
    return true;
  }
  return false;
}

static bool digits(const char *s) { return *s && strspn(s, "0123456789") == strlen(s); }

static bool parse_url(Str rest, RespAddress *out) {
  Str who, host, part;
  bool ok = true;
  if (cut(&rest, '@', true, &who)) {
    if (cut(&who, ':', false, &part)) ok = take(part, out->user, sizeof out->user);
    ok = ok && take(who, out->password, sizeof out->password);
  }
  if (cut(&rest, '/', true, &host)) {
    ok = ok && take(rest, out->db, sizeof out->db) && (!rest.len || digits(out->db));
    rest = host;
  }
  return ok && dial_parse(rest, "6379", &out->at);
}

Status resp_address_parse(const char *text, RespAddress *out) {
  static const char url[] = "redis://", secure[] = "rediss://", local[] = "unix:";
  *out = (RespAddress){.tls = false};
  if (!strncmp(text, local, sizeof local - 1)) {
    if (dial_parse_socket(str_from(text + sizeof local - 1), &out->at)) return NULL;
  } else if (!strncmp(text, url, sizeof url - 1)) {
    if (parse_url(str_from(text + sizeof url - 1), out)) return NULL;
  } else if (!strncmp(text, secure, sizeof secure - 1)) {
    out->tls = true;
    if (parse_url(str_from(text + sizeof secure - 1), out)) return NULL;
  }
  return FAIL(
      INVALID_ARGUMENT,
      "expected redis://[[USER:]PASSWORD@]HOST[:PORT][/DB], rediss:// for TLS, or unix:PATH; "
      "got %zu characters",
      strlen(text));
}

const char *resp_address_text(const RespAddress *a, char *buf, size_t cap) {
  char at[300];
  dial_text(&a->at, at, sizeof at);
  if (*a->at.host)
    snprintf(buf, cap, "redis%s://%s%s%s", a->tls ? "s" : "", at, *a->db ? "/" : "", a->db);
  else
    snprintf(buf, cap, "%s", at);
  return buf;
}

/* -- the end ------------------------------------------------------------------------------------
 */

static void on_gone(void *ctx) {
  Resp *r = ctx;
  redisReaderFree(r->reader);
  free(r);
}

/* Tells who waits and closes; nothing of the caller's is called after this. */
static void end(Resp *r) {
  r->ended = true;
  r->up = false;
  while (r->npending) {
    Pending p = r->pending[r->first];
    r->first = (r->first + 1) % RESP_PENDING;
    r->npending--;
    p.done(p.ctx, NULL);
  }
  dial_close(r->dial);
}

void resp_close(Resp *r) {
  if (!r->ended) end(r);
}

static void fail(Resp *r, const char *why) {
  if (r->ended) return;
  void (*down)(void *, const char *) = r->spec.down;
  void *ctx = r->spec.ctx;
  end(r);
  down(ctx, why);
}

/* The oldest command has the earliest deadline. */
static void arm(Resp *r) {
  int64_t left = 0;
  if (r->npending) {
    left = (r->pending[r->first].deadline_ns - clock_now_ns()) / 1000000;
    if (left < 1) left = 1;
  }
  dial_expect(r->dial, (uint64_t)left);
}

/* -- answers ------------------------------------------------------------------------------------
 */

#if HIREDIS_MAJOR >= 1
typedef size_t Elements;
#else
typedef int Elements;
#endif

static redisReplyObjectFunctions usual, limited;

static void *limited_array(const redisReadTask *task, Elements n) {
  return n <= ARRAY_MAX ? usual.createArray(task, n) : NULL;
}

static void *limited_string(const redisReadTask *task, char *text, size_t n) {
  return n <= RESP_STRING_MAX ? usual.createString(task, text, n) : NULL;
}

static redisReader *make_reader(void) {
  redisReader *reader = redisReaderCreate();
  if (!reader) return NULL;
  if (!limited.createArray) {
    usual = limited = *reader->fn;
    limited.createArray = limited_array;
    limited.createString = limited_string;
  }
  reader->fn = &limited;
  return reader;
}

static void came_up(Resp *r) {
  r->up = true;
  r->spec.up(r->spec.ctx);
}

static void on_handshake(void *ctx, const redisReply *reply) {
  Resp *r = ctx;
  char why[160];
  if (!reply || r->ended) return;
  if (reply->type == REDIS_REPLY_ERROR) {
    snprintf(why, sizeof why, "it refuses: %.100s", reply->str);
    for (char *c = why; *c; c++)
      if ((unsigned char)*c < ' ' || *c == '"') *c = '?';
    fail(r, why);
    return;
  }
  if (!--r->handshake) came_up(r);
}

static bool is_text(const redisReply *reply, const char *text) {
  return (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS) &&
         reply->len == strlen(text) && !memcmp(reply->str, text, reply->len);
}

/* What comes without a command: messages of the channel. */
static bool take_push(Resp *r, const redisReply *reply) {
  if (!*r->channel || reply->type != REDIS_REPLY_ARRAY || reply->elements != 3) return false;
  const redisReply *payload = reply->element[2];
  if (!is_text(reply->element[0], "message") || !is_text(reply->element[1], r->channel) ||
      payload->type != REDIS_REPLY_STRING)
    return false;
  r->spec.push(r->spec.ctx, (Bytes){(const uint8_t *)payload->str, payload->len});
  return true;
}

static void take_reply(Resp *r, const redisReply *reply) {
  if (!r->npending) {
    if (!take_push(r, reply)) fail(r, "it sends what nobody asked for");
    return;
  }
  Pending p = r->pending[r->first];
  r->first = (r->first + 1) % RESP_PENDING;
  r->npending--;
  arm(r);
  p.done(p.ctx, reply);
}

static void take_bytes(Resp *r, const char *bytes, size_t n) {
  void *reply = NULL;
  if (redisReaderFeed(r->reader, bytes, n) != REDIS_OK) {
    fail(r, "no memory for its answer");
    return;
  }
  while (!r->ended) {
    if (redisReaderGetReply(r->reader, &reply) != REDIS_OK) {
      fail(r, "its answer is no RESP, or too large");
      return;
    }
    if (!reply) break;
    take_reply(r, reply);
    freeReplyObject(reply);
  }
  if (!r->ended && r->reader->len - r->reader->pos > UNREAD_MAX) fail(r, "its answer is too large");
}

/* -- commands -----------------------------------------------------------------------------------
 */

static bool write_command(Resp *r, const Str *args, size_t n) {
  const char *at[RESP_ARGS];
  size_t len[RESP_ARGS];
  char *text = NULL;
  assert(n <= RESP_ARGS);
  for (size_t i = 0; i < n; i++) {
    at[i] = args[i].len ? args[i].ptr : "";
    len[i] = args[i].len;
  }
  int bytes = redisFormatCommandArgv(&text, (int)n, at, len);
  bool ok = bytes >= 0 && dial_write(r->dial, text, (size_t)bytes);
  if (bytes >= 0) redisFreeCommand(text);
  return ok;
}

static bool command(Resp *r, const Str *args, size_t n, RespDone done, void *ctx) {
  if (r->ended || r->npending == RESP_PENDING || !write_command(r, args, n)) return false;
  int64_t deadline = clock_now_ns() + (int64_t)r->spec.timeout_ms * 1000000;
  r->pending[(r->first + r->npending++) % RESP_PENDING] = (Pending){done, ctx, deadline};
  if (r->npending == 1) arm(r);
  return true;
}

bool resp_command(Resp *r, const Str *args, size_t n, RespDone done, void *ctx) {
  return r->up && !*r->channel && command(r, args, n, done, ctx);
}

/* -- coming up ----------------------------------------------------------------------------------
 */

static bool say(Resp *r, const char *a, const char *b, const char *c) {
  Str args[] = {str_from(a), str_from(b), str_from(c)};
  r->handshake++;
  return command(r, args, 1u + (b != NULL) + (c != NULL), on_handshake, r);
}

static void on_up(void *ctx) {
  Resp *r = ctx;
  const RespAddress *a = &r->address;
  bool ok = true;
  if (*a->password)
    ok = *a->user ? say(r, "AUTH", a->user, a->password) : say(r, "AUTH", a->password, NULL);
  if (ok && *a->db) ok = say(r, "SELECT", a->db, NULL);
  if (ok) ok = *r->channel ? say(r, "SUBSCRIBE", r->channel, NULL) : say(r, "PING", NULL, NULL);
  if (!ok) fail(r, "no memory");
}

static void on_input(void *ctx, const char *bytes, size_t n) { take_bytes(ctx, bytes, n); }

static void on_down(void *ctx, const char *why) { fail(ctx, why); }

Status resp_open(const RespSpec *spec, Resp **out) {
  Resp *r = *out = calloc(1, sizeof *r);
  Status st = r && (r->reader = make_reader()) ? NULL : FAIL(RESOURCE_EXHAUSTED, "connection");
  assert(!spec->address->tls || spec->tls);
  const DialSpec dial = {.loop = spec->loop,
                         .to = &spec->address->at,
                         .tls = spec->address->tls ? spec->tls : NULL,
                         .timeout_ms = 2 * spec->timeout_ms,
                         .up = on_up,
                         .input = on_input,
                         .down = on_down,
                         .gone = on_gone,
                         .ctx = r};
  if (!st) st = dial_open(&dial, &r->dial);
  if (st) {
    if (r && r->reader) redisReaderFree(r->reader);
    free(r);
    *out = NULL;
    return st;
  }
  r->spec = *spec;
  r->address = *spec->address;
  if (spec->channel) snprintf(r->channel, sizeof r->channel, "%s", spec->channel);
  return NULL;
}
