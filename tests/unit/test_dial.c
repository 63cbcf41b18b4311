/* daemon/server/dial.c: addresses; who is told what, and that `gone` comes exactly once, however a
 * connection ends. TLS is tried by tests/daemon (test_trace_push.py, test_shared_settings.py). */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "daemon/server/dial.h"
#include "tests/unit/temp_folder.h"

/* The resolver of this program: "two" has two addresses, 127.0.0.2 first; others have 127.0.0.1. */
__attribute__((visibility("default"))) int getaddrinfo(const char *host, const char *port,
                                                       const struct addrinfo *hints,
                                                       struct addrinfo **out) {
  int n = strcmp(host, "two") ? 1 : 2;
  (void)hints;
  if (!strcmp(host, "nowhere")) return EAI_NONAME;
  struct addrinfo *all = calloc(2, sizeof *all);
  struct sockaddr_in *at = calloc(2, sizeof *at);
  for (int i = 0; i < n; i++) {
    at[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    at[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(n - 1 - i));
    all[i] = (struct addrinfo){.ai_family = AF_INET,
                               .ai_socktype = SOCK_STREAM,
                               .ai_addrlen = sizeof *at,
                               .ai_addr = (struct sockaddr *)(at + i),
                               .ai_next = i + 1 < n ? all + i + 1 : NULL};
  }
  *out = all;
  return 0;
}

__attribute__((visibility("default"))) void freeaddrinfo(struct addrinfo *all) {
  free(all->ai_addr);
  free(all);
}

typedef struct Caller {
  uv_loop_t loop;
  union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } listener, peer; /* the peer echoes */
  bool listening, accepted;
  Dial *dial;
  char folder[TEMP_FOLDER_CAP], got[64], why[160];
  size_t ngot;
  int ups, downs, gones;
  bool says, waits, closes; /* what `up` does */
} Caller;

static void on_gone(void *ctx) { ((Caller *)ctx)->gones++; }

static void stop_listening(Caller *c) {
  if (c->accepted) uv_close(&c->peer.handle, NULL);
  if (c->listening) uv_close(&c->listener.handle, NULL);
  c->accepted = c->listening = false;
}

static void on_down(void *ctx, const char *why) {
  Caller *c = ctx;
  c->downs++;
  snprintf(c->why, sizeof c->why, "%s", why);
  stop_listening(c);
}

static void on_up(void *ctx) {
  Caller *c = ctx;
  c->ups++;
  if (c->says) assert_true(dial_write(c->dial, "hello", 5));
  if (c->waits) dial_expect(c->dial, 20);
  if (!c->closes) return;
  dial_close(c->dial);
  dial_close(c->dial);
  assert_false(dial_write(c->dial, "x", 1));
  stop_listening(c);
}

static void on_input(void *ctx, const char *bytes, size_t n) {
  Caller *c = ctx;
  assert_true(c->ngot + n < sizeof c->got);
  memcpy(c->got + c->ngot, bytes, n);
  c->ngot += n;
  if (c->ngot < 5) return;
  dial_close(c->dial);
  stop_listening(c);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  static char room[64];
  (void)handle, (void)suggested;
  *out = uv_buf_init(room, sizeof room);
}

static void on_heard(uv_stream_t *peer, ssize_t n, const uv_buf_t *buf) {
  uv_buf_t back = uv_buf_init(buf->base, n > 0 ? (unsigned)n : 0);
  if (n > 0) assert_int_equal(uv_try_write(peer, &back, 1), n);
}

static void on_caller(uv_stream_t *listener, int rc) {
  Caller *c = listener->data;
  assert_int_equal(rc, 0);
  bool local = listener->type == UV_NAMED_PIPE;
  assert_int_equal(
      local ? uv_pipe_init(&c->loop, &c->peer.pipe, 0) : uv_tcp_init(&c->loop, &c->peer.tcp), 0);
  assert_int_equal(uv_accept(listener, &c->peer.stream), 0);
  assert_int_equal(uv_read_start(&c->peer.stream, on_alloc, on_heard), 0);
  c->accepted = true;
}

static Status dial(Caller *c, const DialAddress *to) {
  const DialSpec spec = {.loop = &c->loop,
                         .to = to,
                         .timeout_ms = 5000,
                         .up = on_up,
                         .input = on_input,
                         .down = on_down,
                         .gone = on_gone,
                         .ctx = c};
  return dial_open(&spec, &c->dial);
}

static void listen_on(Caller *c) {
  assert_int_equal(uv_listen(&c->listener.stream, 4, on_caller), 0);
  c->listener.handle.data = c;
  c->listening = true;
}

static void begin(Caller *c, bool listen, DialAddress *to) {
  char path[TEMP_FOLDER_CAP + 10];
  *c = (Caller){.ups = 0};
  assert_int_equal(uv_loop_init(&c->loop), 0);
  assert_true(temp_folder_make(c->folder));
  snprintf(path, sizeof path, "%s/sock", c->folder);
  assert_true(dial_parse_socket(str_from(path), to));
  if (!listen) return;
  assert_int_equal(uv_pipe_init(&c->loop, &c->listener.pipe, 0), 0);
  assert_int_equal(uv_pipe_bind(&c->listener.pipe, path), 0);
  listen_on(c);
}

/* Nothing is left in the loop, and `gone` came once for what was opened. */
static void finish(Caller *c, int ups, int downs) {
  assert_int_equal(uv_run(&c->loop, UV_RUN_DEFAULT), 0);
  assert_int_equal(uv_loop_close(&c->loop), 0);
  assert_int_equal(c->ups, ups);
  assert_int_equal(c->downs, downs);
  assert_int_equal(c->gones, 1);
  temp_folder_remove(c->folder);
}

/* Dialled, and once no address is left told why. */
static void refused(Caller *c, const DialAddress *to, int why) {
  assert_null(dial(c, to));
  finish(c, 0, 1);
  assert_string_equal(c->why, uv_strerror(why));
}

/* The peer answers what it is told. */
static void echoed(Caller *c, const DialAddress *to) {
  c->says = true;
  assert_null(dial(c, to));
  finish(c, 1, 0);
  assert_memory_equal(c->got, "hello", 5);
}

static void test_bytes(void **state) {
  Caller c;
  DialAddress to;
  (void)state;
  begin(&c, true, &to);
  echoed(&c, &to);
}

/* The first address refuses, the second takes it. */
static void test_next_address(void **state) {
  Caller c;
  DialAddress to;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int len = sizeof at;
  (void)state;
  begin(&c, false, &to);
  assert_int_equal(uv_tcp_init(&c.loop, &c.listener.tcp), 0);
  assert_int_equal(uv_tcp_bind(&c.listener.tcp, (struct sockaddr *)&at, 0), 0);
  assert_int_equal(uv_tcp_getsockname(&c.listener.tcp, (struct sockaddr *)&at, &len), 0);
  listen_on(&c);
  assert_true(dial_parse(STR("two"), "1", &to));
  snprintf(to.port, sizeof to.port, "%d", ntohs(at.sin_port));
  echoed(&c, &to);
}

static void test_no_address(void **state) {
  Caller c;
  DialAddress to;
  (void)state;
  begin(&c, false, &to);
  assert_true(dial_parse(STR("nowhere"), "1", &to));
  refused(&c, &to, UV_EAI_NONAME);
  begin(&c, false, &to); /* two, and neither listens */
  assert_true(dial_parse(STR("two"), "1", &to));
  refused(&c, &to, UV_ECONNREFUSED);
}

static void test_nobody_listens(void **state) {
  Caller c;
  DialAddress to;
  (void)state;
  begin(&c, false, &to);
  refused(&c, &to, UV_ENOENT);
  begin(&c, false, &to);
  assert_true(dial_parse(STR("127.0.0.1:1"), "1", &to)); /* one address */
  refused(&c, &to, UV_ECONNREFUSED);
}

static void test_no_answer(void **state) {
  Caller c;
  DialAddress to;
  (void)state;
  begin(&c, true, &to);
  c.waits = true;
  assert_null(dial(&c, &to));
  finish(&c, 1, 1);
  assert_string_equal(c.why, "no answer in time");
}

static void test_closed_early(void **state) {
  Caller c;
  DialAddress to;
  (void)state;
  begin(&c, true, &to);
  c.closes = true;
  assert_null(dial(&c, &to));
  finish(&c, 1, 0);
  begin(&c, true, &to); /* while it connects */
  assert_null(dial(&c, &to));
  assert_false(dial_write(c.dial, "x", 1));
  dial_close(c.dial);
  stop_listening(&c);
  finish(&c, 0, 0);
  begin(&c, false, &to); /* while it looks up */
  assert_true(dial_parse(STR("localhost"), "1", &to));
  assert_null(dial(&c, &to));
  dial_close(c.dial);
  dial_expect(c.dial, 1);
  finish(&c, 0, 0);
}

/* No lookup is even begun: nobody is called. */
static void test_impossible(void **state) {
  Caller c;
  DialAddress to;
  (void)state;
  begin(&c, false, &to);
  assert_true(dial_parse(STR("\xff\xff"), "1", &to)); /* no name in any language */
  Status st = dial(&c, &to);
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  assert_null(c.dial);
  status_drop(st);
  assert_int_equal(c.gones, 0);
  c.gones++; /* none comes */
  finish(&c, 0, 0);
}

static void test_addresses(void **state) {
  static const struct {
    const char *text, *host, *port, *shown;
  } good[] = {{"a", "a", "7", "a:7"},
              {"a:1", "a", "1", "a:1"},
              {"10.0.0.1:9", "10.0.0.1", "9", "10.0.0.1:9"},
              {"[::1]", "::1", "7", "[::1]:7"},
              {"[fe80::2]:80", "fe80::2", "80", "[fe80::2]:80"}};
  static const char *const bad[] = {
      "",     ":1",      "a:",     "a:b", "a:1:2", "[::1", "[]",
      "[]:1", "[::1]80", "[::1]:", "a b", "a\n:1", "a:-",  "a:123456789"};
  DialAddress a, b;
  char text[300];
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    assert_true(dial_parse(str_from(good[i].text), "7", &a));
    assert_string_equal(a.host, good[i].host);
    assert_string_equal(a.port, good[i].port);
    assert_string_equal(dial_text(&a, text, sizeof text), good[i].shown);
    assert_true(dial_parse(str_from(text), "8", &b) && dial_same(&a, &b));
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (dial_parse(str_from(bad[i]), "7", &a)) fail_msg("'%s' was taken", bad[i]);
  assert_true(dial_parse_socket(STR("/run/x"), &a));
  assert_string_equal(dial_text(&a, text, sizeof text), "unix:/run/x");
  assert_false(dial_same(&a, &b));
  assert_false(dial_parse_socket(STR(""), &a) || dial_parse_socket(STR("/a b"), &a));
  memset(text, 'p', sizeof text);
  assert_false(dial_parse_socket((Str){text, sizeof((struct sockaddr_un *)0)->sun_path}, &a));
  assert_false(dial_parse((Str){text, sizeof a.host}, "7", &a));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes),      cmocka_unit_test(test_next_address),
      cmocka_unit_test(test_no_address), cmocka_unit_test(test_nobody_listens),
      cmocka_unit_test(test_no_answer),  cmocka_unit_test(test_closed_early),
      cmocka_unit_test(test_impossible), cmocka_unit_test(test_addresses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
