/* daemon/channel: messages of all sizes with descriptors, both ways, with a full socket, with a
 * peer that is gone or sends nonsense; the memory they travel in. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/channel/channel.h"

typedef struct Pair {
  Channel a, b;
} Pair;

static void open_pair(Pair *p) {
  int fds[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
  assert_null(channel_init(&p->a, fds[0]));
  assert_null(channel_init(&p->b, fds[1]));
}

static void close_pair(Pair *p) {
  channel_deinit(&p->a);
  channel_deinit(&p->b);
}

static Status send_text(Channel *c, uint64_t id, const char *text, const int *fds, size_t nfds) {
  Kiln__V1__InspectDone done = KILN__V1__INSPECT_DONE__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  done.text = (char *)(uintptr_t)text;
  env.id = id;
  env.body_case = KILN__V1__ENVELOPE__BODY_INSPECT_DONE;
  env.inspect_done = &done;
  return channel_send(c, &env, fds, nfds);
}

static void expect_text(Channel *c, uint64_t id, size_t len, char fill) {
  Message m;
  assert_null(channel_recv(c, &m));
  assert_non_null(m.env);
  assert_int_equal(m.env->id, id);
  assert_int_equal(m.env->body_case, KILN__V1__ENVELOPE__BODY_INSPECT_DONE);
  const char *text = m.env->inspect_done->text;
  assert_int_equal(strlen(text), len);
  for (size_t i = 0; i < len; i++) assert_int_equal(text[i], fill);
  message_close(&m);
}

static void test_sizes(void **state) {
  (void)state;
  static const size_t sizes[] = {0, 1, 1000, 65000, 65530, 65536, 70000, 1 << 20, 9 << 20};
  Pair p;
  open_pair(&p);
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    char *text = calloc(1, sizes[i] + 1);
    memset(text, 'a' + (int)i, sizes[i]);
    assert_null(send_text(&p.a, i + 1, text, NULL, 0));
    expect_text(&p.b, i + 1, sizes[i], (char)('a' + i));
    assert_null(send_text(&p.b, i + 1, text, NULL, 0));
    expect_text(&p.a, i + 1, sizes[i], (char)('a' + i));
    free(text);
  }
  Message m;
  assert_null(channel_recv(&p.a, &m));
  assert_null(m.env);
  close_pair(&p);
}

/* Descriptors arrive in order, beside small and bulk messages alike. */
static void test_descriptors(void **state) {
  (void)state;
  Pair p;
  char *big = calloc(1, 100001), got[4];
  memset(big, 'x', 100000);
  open_pair(&p);
  for (int bulk = 0; bulk < 2; bulk++) {
    int fds[2];
    assert_null(shm_from_bytes("one", (Bytes){(const uint8_t *)"one", 3}, &fds[0]));
    assert_null(shm_from_bytes("two", (Bytes){(const uint8_t *)"two", 3}, &fds[1]));
    assert_null(send_text(&p.a, 7, bulk ? big : "small", fds, 2));
    close(fds[0]);
    close(fds[1]);
    Message m;
    assert_null(channel_recv(&p.b, &m));
    assert_int_equal(m.nfds, 2);
    for (size_t i = 0; i < 2; i++) {
      int fd = message_take_fd(&m, i);
      assert_null(shm_check(fd, 3));
      assert_null(shm_read(fd, 0, got, 3));
      assert_memory_equal(got, i ? "two" : "one", 3);
      close(fd);
    }
    assert_int_equal(message_take_fd(&m, 0), -1);
    assert_int_equal(message_take_fd(&m, 2), -1);
    message_close(&m);
  }
  free(big);
  close_pair(&p);
}

/* More than the socket holds: the rest waits, keeps its order and its descriptors. */
static void test_full_socket(void **state) {
  (void)state;
  enum { N = 400 };
  Pair p;
  int fd;
  char text[4001] = {0}, got[2];
  memset(text, 'q', 4000);
  open_pair(&p);
  assert_null(shm_from_bytes("fd", (Bytes){(const uint8_t *)"fd", 2}, &fd));
  for (uint64_t i = 1; i <= N; i++) assert_null(send_text(&p.a, i, text, &fd, i == N));
  close(fd); /* the queued packet has a duplicate */
  assert_true(channel_waiting(&p.a));
  for (uint64_t i = 1; i <= N; i++) {
    Message m;
    assert_null(channel_flush(&p.a));
    assert_null(channel_recv(&p.b, &m));
    assert_non_null(m.env);
    assert_int_equal(m.env->id, i);
    if (i == N) {
      fd = message_take_fd(&m, 0);
      assert_null(shm_read(fd, 0, got, 2));
      close(fd);
    }
    message_close(&m);
  }
  assert_false(channel_waiting(&p.a));
  close_pair(&p);
}

static void test_peer_gone(void **state) {
  (void)state;
  Pair p;
  Message m;
  open_pair(&p);
  assert_null(send_text(&p.b, 1, "llll", NULL, 0)); /* last words are still read */
  channel_deinit(&p.b);
  expect_text(&p.a, 1, 4, 'l');
  Status st = channel_recv(&p.a, &m);
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  status_drop(st);
  st = send_text(&p.a, 2, "nobody", NULL, 0);
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  status_drop(st);
  channel_deinit(&p.a);
  st = send_text(&p.a, 2, "nobody", NULL, 0);
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  status_drop(st);
}

/* Bytes that are no Envelope, and announcements that do not hold. */
/* What the peer said before it went counts, also when it did not read all. */
static void test_last_words(void **state) {
  (void)state;
  Pair p;
  open_pair(&p);
  assert_null(send_text(&p.b, 1, "aa", NULL, 0));
  assert_null(send_text(&p.b, 2, "bbb", NULL, 0));
  assert_null(send_text(&p.a, 3, "unread", NULL, 0));
  channel_deinit(&p.b);
  expect_text(&p.a, 1, 2, 'a');
  expect_text(&p.a, 2, 3, 'b');
  Message m;
  Status st = channel_recv(&p.a, &m);
  assert_int_equal(status_code(st), ST_UNAVAILABLE);
  status_drop(st);
  close_pair(&p);
}

/* What is held goes in few packets; messages and descriptors stay together and in order. */
static void test_held_messages_share_packets(void **state) {
  (void)state;
  enum { N = 300, WITH_FD = 150 };
  static const size_t sizes[] = {1, 40, 300, 5000, 9000, 20, 0};
  Pair p;
  int fd;
  char text[9001];
  open_pair(&p);
  p.a.hold = true;
  assert_null(shm_from_bytes("fd", (Bytes){(const uint8_t *)"fd", 2}, &fd));
  for (uint64_t i = 1; i <= N; i++) {
    memset(text, 'a' + (int)(i % 26), sizeof text);
    text[sizes[i % 7]] = 0;
    assert_null(send_text(&p.a, i, text, &fd, i == WITH_FD));
  }
  close(fd);
  assert_int_equal(p.a.waiting, N);
  for (uint64_t i = 1; i <= N; i++) {
    Message m;
    if (!channel_pending(&p.b)) assert_null(channel_flush(&p.a));
    assert_null(channel_recv(&p.b, &m));
    assert_non_null(m.env);
    assert_int_equal(m.env->id, i);
    const char *got = m.env->inspect_done->text;
    assert_int_equal(strlen(got), sizes[i % 7]);
    if (*got) assert_int_equal(got[strlen(got) - 1], 'a' + (int)(i % 26));
    assert_int_equal(m.nfds, i == WITH_FD);
    message_close(&m);
  }
  assert_int_equal(p.a.waiting, 0);
  assert_false(channel_waiting(&p.a) || channel_pending(&p.b));
  close_pair(&p);
}

static void test_nonsense(void **state) {
  (void)state;
  static const struct {
    size_t len;
    uint8_t at[16];
  } packets[] = {
      {12, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
      {12, {8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
      {9, {5, 0, 0, 0, 0x52, 0x7f, 1, 2, 3}},    /* a sub-message that is cut off */
      {8, {4, 0, 0, 0, 0x08, 0x01, 0x10, 0x20}}, /* bulk without its memory */
      {3, {0, 0, 0}},                            /* not even a length */
      {6, {3, 0, 0, 0, 0x08, 0x01}},             /* a message that passes the packet's end */
  };
  for (size_t i = 0; i < sizeof packets / sizeof *packets; i++) {
    Pair p;
    Message m;
    open_pair(&p);
    size_t len = packets[i].len;
    assert_int_equal(send(p.a.fd, packets[i].at, len, 0), len);
    Status st = channel_recv(&p.b, &m);
    assert_non_null(st);
    assert_int_not_equal(status_code(st), ST_UNAVAILABLE);
    assert_null(m.env);
    status_drop(st);
    close_pair(&p);
  }
}

static Status announce(Pair *p, uint64_t bytes, int fd, Message *m) {
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  env.id = 5;
  env.body_case = KILN__V1__ENVELOPE__BODY_BULK;
  env.bulk = bytes;
  assert_null(channel_send(&p->a, &env, &fd, 1));
  return channel_recv(&p->b, m);
}

/* Memory that could shrink under the reader, or is shorter than announced, is refused. */
static void test_untrusted_bulk(void **state) {
  (void)state;
  Pair p;
  Message m;
  open_pair(&p);
  int unsealed = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING), sealed;
  assert_int_equal(ftruncate(unsealed, 4096), 0);
  assert_null(shm_create("sealed", 4096, &sealed));
  int fds[] = {unsealed, sealed, STDERR_FILENO, sealed};
  uint64_t sizes[] = {4096, 4097, 10, UINT64_MAX};
  for (size_t i = 0; i < 4; i++) {
    Status st = announce(&p, sizes[i], fds[i], &m);
    assert_non_null(st);
    assert_int_equal(m.nfds, 0);
    status_drop(st);
  }
  close(unsealed);
  close(sealed);
  close_pair(&p);
}

static void test_error_reply(void **state) {
  (void)state;
  Pair p;
  Message m;
  open_pair(&p);
  Status st = FAIL(INVALID_ARGUMENT, "node 'x' is wrong");
  assert_null(channel_send_error(&p.a, 9, st, "compile_error"));
  status_drop(st);
  assert_null(channel_recv(&p.b, &m));
  assert_int_equal(m.env->body_case, KILN__V1__ENVELOPE__BODY_ERROR);
  assert_int_equal(m.env->error->code, ST_INVALID_ARGUMENT);
  assert_string_equal(m.env->error->message, "node 'x' is wrong");
  assert_string_equal(m.env->error->cause, "compile_error");
  message_close(&m);
  close_pair(&p);
}

/* -- shm ----------------------------------------------------------------------------------------
 */

static void test_seals(void **state) {
  (void)state;
  int fd, ro;
  void *at;
  assert_null(shm_create("sealed", 100, &fd));
  assert_int_equal(ftruncate(fd, 50), -1);
  assert_int_equal(ftruncate(fd, 200), -1);
  assert_null(shm_map(fd, 100, true, &at));
  memset(at, 7, 100);
  munmap(at, 100);
  assert_null(shm_readonly(fd, &ro));
  Status st = shm_map(ro, 100, true, &at);
  assert_non_null(st);
  status_drop(st);
  assert_null(shm_map(ro, 100, false, &at));
  assert_int_equal(((char *)at)[99], 7);
  munmap(at, 100);
  st = shm_write(ro, 0, (Bytes){(const uint8_t *)"x", 1});
  assert_non_null(st);
  status_drop(st);
  st = shm_read(fd, 90, (char[20]){0}, 20);
  assert_non_null(st);
  status_drop(st);
  close(fd);
  close(ro);
}

static void test_pool(void **state) {
  (void)state;
  ShmPool pool;
  int a, b, c;
  shm_pool_init(&pool, 3000);
  assert_null(shm_pool_take(&pool, 1, 1000, &a));
  assert_null(shm_pool_take(&pool, 1, 2000, &b));
  assert_null(shm_pool_take(&pool, 1, 500, &c));
  shm_pool_put(&pool, 1, c, 500);
  shm_pool_put(&pool, 1, a, 1000);
  shm_pool_put(&pool, 1, b, 2000); /* over the limit: the oldest is closed */
  assert_int_equal(pool.bytes, 3000);
  assert_int_equal(fcntl(c, F_GETFD), -1);
  int first, second, third, foreign;
  assert_null(shm_pool_take(&pool, 2, 900, &foreign)); /* another owner's are not for this one */
  assert_true(foreign != a && foreign != b);
  assert_int_equal(pool.bytes, 3000);
  assert_null(shm_pool_take(&pool, 1, 900, &first)); /* the smallest that fits */
  assert_int_equal(first, a);
  assert_int_equal(lseek(first, 0, SEEK_END), 900);
  assert_null(shm_pool_take(&pool, 1, 5000, &second)); /* the largest, grown */
  assert_int_equal(second, b);
  assert_int_equal(lseek(second, 0, SEEK_END), 5000);
  assert_int_equal(pool.bytes, 0);
  assert_null(shm_pool_take(&pool, 1, 10, &third));
  shm_pool_put(&pool, 1, first, 900);
  shm_pool_put(&pool, 1, third, 3001); /* larger than all may be */
  assert_int_equal(fcntl(third, F_GETFD), -1);
  shm_pool_deinit(&pool);
  assert_int_equal(fcntl(first, F_GETFD), -1);
  close(second);
  close(foreign);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_sizes),       cmocka_unit_test(test_descriptors),
      cmocka_unit_test(test_full_socket), cmocka_unit_test(test_peer_gone),
      cmocka_unit_test(test_last_words),  cmocka_unit_test(test_held_messages_share_packets),
      cmocka_unit_test(test_nonsense),    cmocka_unit_test(test_untrusted_bulk),
      cmocka_unit_test(test_error_reply), cmocka_unit_test(test_seals),
      cmocka_unit_test(test_pool),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
