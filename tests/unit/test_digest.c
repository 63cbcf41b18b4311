/* SHA-256 against the published vectors of FIPS 180-4, in one piece and in many; hex both ways. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "proto/digest.h"

static void expect_hash(Str input, const char *hex) {
  uint8_t out[DIGEST_BYTES];
  char text[DIGEST_HEX + 1];
  digest_sha256(input.ptr, input.len, out);
  assert_string_equal(digest_to_hex(out, sizeof out, text), hex);
}

static void test_vectors(void **state) {
  (void)state;
  expect_hash(STR("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  expect_hash((Str){0}, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  expect_hash(STR("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_pieces(void **state) {
  (void)state;
  uint8_t whole[DIGEST_BYTES], pieces[DIGEST_BYTES], data[1000];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7);
  digest_sha256(data, sizeof data, whole);
  for (size_t cut = 0; cut <= sizeof data; cut += 37) {
    Digest *d = digest_create();
    digest_add(d, data, cut);
    digest_add(d, data + cut, sizeof data - cut);
    digest_finish(d, pieces);
    assert_memory_equal(whole, pieces, sizeof whole);
  }
  digest_release(digest_create());
  digest_release(NULL);
}

static void test_hex(void **state) {
  (void)state;
  uint8_t two[2];
  assert_true(digest_from_hex(STR("00fF"), two, 2));
  assert_int_equal(two[0], 0);
  assert_int_equal(two[1], 255);
  assert_false(digest_from_hex(STR("00f"), two, 2));
  assert_false(digest_from_hex(STR("00fg"), two, 2));
  assert_false(digest_from_hex(STR("00ffff"), two, 2));
  assert_false(digest_from_hex((Str){0}, two, 2));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_vectors),
      cmocka_unit_test(test_pieces),
      cmocka_unit_test(test_hex),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
