/* The head of a probe's request: what is accepted, what is refused with which status, and that no
 * prefix of a good request is taken for a whole one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/server/http_parse.h"

static int parse(const char *text, HttpHead *out) { return http_parse(text, strlen(text), out); }

static void test_a_request(void **state) {
  (void)state;
  HttpHead h;
  const char *text = "GET /metrics?a=b HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\nGET /";
  assert_int_equal(parse(text, &h), 200);
  assert_true(str_is(h.path, "/metrics") && h.keep && !h.head);
  assert_int_equal(h.bytes, strlen(text) - 5);
  assert_int_equal(parse("HEAD / HTTP/1.1\r\nconnection:  Close \r\n\r\n", &h), 200);
  assert_true(str_is(h.path, "/") && !h.keep && h.head);
  assert_int_equal(parse("GET / HTTP/1.0\r\n\r\n", &h), 200);
  assert_false(h.keep);
  assert_int_equal(parse("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", &h), 200);
}

static void test_no_prefix_is_whole(void **state) {
  (void)state;
  const char *text = "GET /healthz HTTP/1.1\r\nHost: x\r\nA-b: c d\t e\r\n\r\n";
  HttpHead h;
  for (size_t n = 0; n < strlen(text); n++) {
    char *copy = malloc(n + 1); /* exactly n bytes, so that reading on shows under a sanitizer */
    memcpy(copy, text, n);
    assert_int_equal(http_parse(copy, n, &h), 0);
    free(copy);
  }
}

static void test_refusals(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int status;
  } cases[] = {
      {"POST / HTTP/1.1\r\n", 405},
      {"GET / HTTP/3.0\r\n", 505},
      {"GET / HTTP/1.1x\r\n", 400},
      {"GET /\r\n", 400},
      {"GET  / HTTP/1.1\r\n", 400},
      {"GET * HTTP/1.1\r\n", 400},
      {"G(T / HTTP/1.1\r\n", 400},
      {" / HTTP/1.1\r\n", 400},
      {"\r\n", 400},
      {"GET / HTTP/1.1\n", 400},
      {"GET / HTTP/1.1\r\n folded: x\r\n", 400},
      {"GET / HTTP/1.1\r\n: x\r\n", 400},
      {"GET / HTTP/1.1\r\na b: x\r\n", 400},
      {"GET / HTTP/1.1\r\nTransfer-Encoding: identity\r\n", 413},
      {"GET / HTTP/1.1\r\ncontent-length: 00\r\n", 413},
      {"GET /\x7f HTTP/1.1\r\n", 400},
  };
  HttpHead h;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (parse(cases[i].text, &h) != cases[i].status)
      fail_msg("%s: expected %d, got %d", cases[i].text, cases[i].status, parse(cases[i].text, &h));
}

static void test_size(void **state) {
  (void)state;
  HttpHead h;
  static char text[HTTP_HEAD_MAX + 64];
  int n = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nA: ");
  memset(text + n, 'x', sizeof text - (size_t)n);
  assert_int_equal(http_parse(text, HTTP_HEAD_MAX, &h), 0);
  assert_int_equal(http_parse(text, HTTP_HEAD_MAX + 1, &h), 431);
  memcpy(text + HTTP_HEAD_MAX - 3, "\r\n\r\n", 4);
  assert_int_equal(http_parse(text, HTTP_HEAD_MAX + 1, &h), 431);
  memcpy(text + HTTP_HEAD_MAX - 4, "\r\n\r\n", 4);
  assert_int_equal(http_parse(text, HTTP_HEAD_MAX + 1, &h), 200);
  assert_int_equal(h.bytes, HTTP_HEAD_MAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_request),
      cmocka_unit_test(test_no_prefix_is_whole),
      cmocka_unit_test(test_refusals),
      cmocka_unit_test(test_size),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
