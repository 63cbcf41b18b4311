/* The pool of slabs: what fits is used again, nothing of another tenant's is in it, and what is
 * kept without being used is bounded in bytes and in number, what was used longest ago going first.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "daemon/server/slab.h"

enum { KIB = 1 << 10, MIB = 1 << 20, MANY = 100, KEPT = 64 };

typedef struct Dropped {
  uint64_t ids[2 * MANY];
  size_t n;
} Dropped;

static void on_dropped(void *ctx, const Slab *s) {
  Dropped *d = ctx;
  d->ids[d->n++] = s->id;
}

static Slab *take(SlabPool *p, uint32_t owner, size_t size) {
  Slab *s;
  assert_null(slab_take(p, owner, size, &s));
  return s;
}

static void test_used_again(void **state) {
  (void)state;
  SlabPool p = {.max_bytes = 64 * MIB};
  Slab *small = take(&p, 1, 100), *large = take(&p, 1, 3 * MIB);
  assert_int_equal(small->size, 64 * KIB);
  assert_int_equal(large->size, 4 * MIB);
  slab_put(&p, small);
  slab_put(&p, large);
  assert_ptr_equal(take(&p, 1, 64 * KIB), small); /* the smallest that fits */
  assert_ptr_equal(take(&p, 1, 64 * KIB), large);
  assert_int_equal(p.idle, 0);
  assert_int_equal(p.idle_bytes, 0);
  slab_put(&p, small);
  slab_put(&p, large);
  slab_trim(&p, 0);
  assert_int_equal(p.bytes, 0);
}

static void test_nothing_of_anothers(void **state) {
  (void)state;
  SlabPool p = {.max_bytes = 64 * MIB};
  Slab *s = take(&p, 1, 100);
  memset(s->at, 'x', 100);
  slab_put(&p, s);
  assert_ptr_equal(take(&p, 2, 64 * KIB), s);
  for (size_t i = 0; i < s->size; i++) assert_int_equal(s->at[i], 0);
  Slab *much = take(&p, 1, 2 * MIB);
  uint64_t id = much->id;
  slab_put(&p, much);
  Slab *other = take(&p, 2, 2 * MIB); /* zeroing that would take the loop too long */
  assert_int_not_equal(other->id, id);
  slab_put(&p, s);
  slab_put(&p, other);
  slab_trim(&p, 0);
}

static void test_idle_ones_are_few(void **state) {
  (void)state;
  Dropped dropped = {.n = 0};
  SlabPool p = {.max_bytes = 1024 * MIB, .dropped = on_dropped, .ctx = &dropped};
  Slab *s[MANY];
  for (size_t i = 0; i < MANY; i++) s[i] = take(&p, 1, 1);
  for (size_t i = 0; i < MANY; i++) slab_put(&p, s[i]);
  assert_int_equal(p.idle, KEPT);
  assert_int_equal(p.bytes, KEPT * 64 * KIB);
  assert_int_equal(dropped.n, MANY - KEPT);
  for (size_t i = 0; i < dropped.n; i++) assert_int_equal(dropped.ids[i], i + 1);
  Slab *large = take(&p, 1, 256 * MIB);
  slab_put(&p, large); /* with it there are too many bytes: all others go before it */
  assert_int_equal(p.idle, 1);
  assert_ptr_equal(p.free, large);
  slab_trim(&p, 0);
  assert_int_equal(p.bytes, 0);
}

static void test_the_limit(void **state) {
  (void)state;
  SlabPool p = {.max_bytes = MIB};
  Slab *s = take(&p, 1, 512 * KIB), *more;
  Status st = slab_take(&p, 1, MIB, &more);
  assert_int_equal(status_code(st), ST_RESOURCE_EXHAUSTED);
  assert_null(more);
  status_drop(st);
  slab_put(&p, s);
  more = take(&p, 1, MIB); /* what is idle makes room */
  assert_int_equal(p.bytes, MIB);
  slab_put(&p, more);
  slab_trim(&p, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_used_again),
      cmocka_unit_test(test_nothing_of_anothers),
      cmocka_unit_test(test_idle_ones_are_few),
      cmocka_unit_test(test_the_limit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
