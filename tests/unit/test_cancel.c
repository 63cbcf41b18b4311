/* The board of cancelled runs: a post is seen by the other side, which cannot write, and hides no
 * other run that may be under way. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/channel/cancel.h"

static void test_posts(void **state) {
  (void)state;
  CancelBoard *board;
  const CancelBoard *seen;
  int fd;
  assert_null(cancel_board_create(&board, &fd));
  assert_null(cancel_board_open(fd, &seen));
  assert_false(cancel_is_posted(seen, 1));
  for (uint64_t k = 1000; k < 1000 + CANCEL_PLACES; k += 2) cancel_post(board, k);
  for (uint64_t k = 1000; k < 1000 + CANCEL_PLACES; k++)
    assert_int_equal(cancel_is_posted(seen, k), k % 2 == 0);
  assert_false(recall_is_posted(seen, 1000));
  recall_post(board, 1001);
  assert_true(recall_is_posted(seen, 1001));
  assert_false(cancel_is_posted(seen, 1001) || recall_is_posted(NULL, 1001));
  assert_false(cancel_is_posted(seen, 1000 + CANCEL_PLACES));
  assert_false(cancel_is_posted(NULL, 1000));
  cancel_board_close(seen);
  cancel_board_close(board);
}

static void test_the_reader_cannot_write(void **state) {
  (void)state;
  CancelBoard *board;
  int fd;
  assert_null(cancel_board_create(&board, &fd));
  assert_ptr_equal(mmap(NULL, sizeof *board, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  assert_int_equal(errno, EACCES);
  close(fd);
  cancel_board_close(board);
}

static void test_no_descriptor(void **state) {
  (void)state;
  const CancelBoard *seen;
  Status st = cancel_board_open(-1, &seen);
  assert_non_null(st);
  assert_null(seen);
  status_drop(st);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_posts),
                                     cmocka_unit_test(test_the_reader_cannot_write),
                                     cmocka_unit_test(test_no_descriptor)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
