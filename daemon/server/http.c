/* One connection is read into a fixed buffer and answered into a StrBuf; while an answer is being
 * written nothing is read, so a client that does not read its answers gets no more of them. The
 * numbers of the cache are asked of the cache's thread before /metrics is answered.
 *
 * Time: a connection has HTTP_SECONDS for each request, from its first byte or from the end of the
 * last answer to the end of the next, whatever it sends in between. */
#include "daemon/server/http.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/server/http_parse.h"
#include "daemon/server/metrics_sample.h"

enum { HTTP_MAX = 32, HTTP_SECONDS = 10, WRITE_ROUNDS = 64, CACHES_MAX = 256 };

struct HttpClient {
  Server *server;
  HttpClient *next, **link; /* of server->http, the newest first */
  uv_poll_t poll;
  int fd;
  uint64_t deadline_ms;
  char in[HTTP_HEAD_MAX + 1];
  size_t nin;
  StrBuf out;
  size_t written;
  bool keep, head, closed;
  /* for /metrics: the caches, one after the other, and what they have said */
  StoreJob *asked;
  const Tenant *asked_of; /* whose own it is; NULL: the shared one */
  unsigned ncaches;
  Kiln__V1__CacheStatsResponse caches;
};

static void on_poll(uv_poll_t *poll, int status, int events);
static void go_on(HttpClient *c);

/* -- life ---------------------------------------------------------------------------------------
 */

static void on_closed(uv_handle_t *handle) { free(handle->data); }

static void http_close(HttpClient *c) {
  if (c->closed) return;
  c->closed = true;
  if (c->asked) store_forget(c->asked);
  if ((*c->link = c->next)) c->next->link = c->link;
  c->server->nhttp--;
  strbuf_deinit(&c->out);
  uv_close((uv_handle_t *)&c->poll, on_closed);
  close(c->fd);
}

void http_close_all(Server *s) {
  while (s->http) http_close(s->http);
}

void http_expire(Server *s) {
  uint64_t now = uv_now(&s->loop);
  for (HttpClient *c = s->http, *next; c; c = next) {
    next = c->next;
    if (now >= c->deadline_ms) http_close(c);
  }
}

static void close_oldest(Server *s) {
  HttpClient *c = s->http;
  while (c && c->next) c = c->next;
  if (c) http_close(c);
}

static void set_deadline(HttpClient *c) {
  c->deadline_ms = uv_now(&c->server->loop) + HTTP_SECONDS * 1000;
}

void http_open(Server *s, int fd) {
  HttpClient *c = calloc(1, sizeof *c);
  if (!c || uv_poll_init(&s->loop, &c->poll, fd)) {
    free(c);
    close(fd);
    return;
  }
  if (s->nhttp >= HTTP_MAX) close_oldest(s);
  c->server = s;
  c->fd = fd;
  c->poll.data = c;
  if ((c->next = s->http)) c->next->link = &c->next;
  c->link = &s->http;
  s->http = c;
  s->nhttp++;
  set_deadline(c);
  uv_poll_start(&c->poll, UV_READABLE, on_poll);
}

/* -- answers ------------------------------------------------------------------------------------
 */

static const char *reason(int status) {
  switch (status) {
  case 200: return "OK";
  case 404: return "Not Found";
  case 405: return "Method Not Allowed";
  case 413: return "Content Too Large";
  case 431: return "Request Header Fields Too Large";
  case 503: return "Service Unavailable";
  case 505: return "HTTP Version Not Supported";
  default: return "Bad Request";
  }
}

static void answer(HttpClient *c, int status, const char *type, Str body) {
  c->out.len = c->written = 0;
  strbuf_addf(&c->out,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
              "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%s%s\r\n",
              status, reason(status), type, body.len, status == 405 ? "Allow: GET, HEAD\r\n" : "",
              c->keep ? "" : "Connection: close\r\n");
  if (!c->head) strbuf_add(&c->out, body.ptr, body.len);
}

static void answer_text(HttpClient *c, int status, const char *text) {
  answer(c, status, "text/plain; charset=utf-8", str_from(text));
}

static void add_stats(Kiln__V1__CacheStatsResponse *sum, const Kiln__V1__CacheStatsResponse *m) {
  sum->hits += m->hits;
  sum->misses += m->misses;
  sum->evictions += m->evictions;
  sum->corrupt += m->corrupt;
  sum->bytes += m->bytes;
  sum->plans += m->plans;
  sum->kernels += m->kernels;
  sum->schedules += m->schedules;
}

static void on_stats(void *ctx, const ProtobufCMessage *m, Status st);

/* Asks the next of the caches: that which tenants share, then those of their own. False when there
 * is none, or it cannot be asked. */
static bool ask_next(HttpClient *c) {
  Server *s = c->server;
  const Tenant *t = c->asked_of ? c->asked_of->next : s->tenants.first;
  bool first = !c->ncaches++;
  while (!first && t && !t->own) t = t->next;
  if (!first && (!t || c->ncaches > CACHES_MAX)) return false;
  c->asked_of = first ? NULL : t;
  c->asked = store_stats(first ? s->store : t->own, 0, on_stats, c);
  return c->asked != NULL;
}

static void on_stats(void *ctx, const ProtobufCMessage *m, Status st) {
  HttpClient *c = ctx;
  StrBuf text = {0};
  c->asked = NULL;
  if (!st) add_stats(&c->caches, (const Kiln__V1__CacheStatsResponse *)(const void *)m);
  status_drop(st);
  if (ask_next(c)) return;
  metrics_sample(c->server, &c->caches);
  metrics_write(c->server, &text);
  if (text.failed)
    answer_text(c, 503, "no memory\n");
  else
    answer(c, 200, "text/plain; version=0.0.4; charset=utf-8", (Str){text.ptr, text.len});
  strbuf_deinit(&text);
  go_on(c);
}

static void serve(HttpClient *c, Str path) {
  Server *s = c->server;
  s->metrics.http_requests_total[0][0]++;
  if (str_is(path, "/healthz")) {
    answer_text(c, 200, "ok\n");
  } else if (str_is(path, "/readyz")) {
    const char *why = server_not_ready(s);
    char text[300];
    snprintf(text, sizeof text, "%s\n", why ? why : "ok");
    answer_text(c, why ? 503 : 200, text);
  } else if (str_is(path, "/metrics")) {
    kiln__v1__cache_stats_response__init(&c->caches);
    c->asked_of = NULL;
    c->ncaches = 0;
    if (!ask_next(c)) answer_text(c, 503, "no memory\n");
  } else {
    answer_text(c, 404, "there are /metrics, /healthz and /readyz\n");
  }
}

/* -- bytes --------------------------------------------------------------------------------------
 */

/* Writes what is there; false when the connection is over. */
static bool write_out(HttpClient *c) {
  while (c->written < c->out.len) {
    ssize_t n =
        send(c->fd, c->out.ptr + c->written, c->out.len - c->written, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      uv_poll_start(&c->poll, UV_WRITABLE, on_poll);
      return true;
    }
    if (n < 0) return false;
    c->written += (size_t)n;
  }
  if (c->out.len) set_deadline(c);
  strbuf_deinit(&c->out);
  c->written = 0;
  return true;
}

/* Answers the request at the front of what was read. False when it is not complete. */
static bool take_request(HttpClient *c) {
  HttpHead head;
  int status = http_parse(c->in, c->nin, &head);
  if (!status) return false;
  c->keep = status == 200 && head.keep;
  c->head = status == 200 && head.head;
  if (status == 200) {
    serve(c, head.path);
    c->nin -= head.bytes;
    memmove(c->in, c->in + head.bytes, c->nin);
  } else {
    answer_text(c, status, "only GET and HEAD without a body are understood here\n");
    c->nin = 0;
  }
  return true;
}

/* Answers and writes until something has to be waited for. */
static void go_on(HttpClient *c) {
  for (int i = 0; i < WRITE_ROUNDS; i++) {
    bool answering = c->out.len > 0;
    if (!write_out(c) || (answering && !c->out.len && !c->keep)) {
      shutdown(c->fd, SHUT_WR);
      http_close(c);
      return;
    }
    if (c->asked || c->out.len) return; /* until the cache, or the socket, says so */
    if (!take_request(c)) {
      uv_poll_start(&c->poll, UV_READABLE, on_poll);
      return;
    }
    if (c->asked) {
      uv_poll_stop(&c->poll);
      return;
    }
  }
  http_close(c); /* a flood in one packet */
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  HttpClient *c = poll->data;
  if (events & UV_READABLE || status) {
    ssize_t n = recv(c->fd, c->in + c->nin, sizeof c->in - c->nin, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (n <= 0) {
      http_close(c);
      return;
    }
    c->nin += (size_t)n;
  }
  go_on(c);
}
