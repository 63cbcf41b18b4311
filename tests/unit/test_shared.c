/* What nodes tell each other: keys, statements damaged in every byte, what a cache takes of what is
 * offered, and the queue of what it gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache/shared.h"
#include "daemon/server/resp.h"
#include "daemon/server/shared_trust.h"
#include "proto/digest.h"
#include "tests/unit/temp_folder.h"

typedef struct Fixture {
  char dir[TEMP_FOLDER_CAP], path[96], key_path[96];
  NodeKey *key;
  TrustedNode node;
} Fixture;

static int setup(void **state) {
  static Fixture f;
  if (!temp_folder_make(f.dir)) return -1;
  snprintf(f.path, sizeof f.path, "%s/cache.db", f.dir);
  snprintf(f.key_path, sizeof f.key_path, "%s/node.key", f.dir);
  log_init("test", LOG_LEVEL_OFF);
  Status st = node_key_load(f.key_path, &f.key);
  if (st) return -1;
  memcpy(f.node.node, node_key_public(f.key), NODE_KEY_BYTES);
  strcpy(f.node.name, "other");
  *state = &f;
  return 0;
}

static int teardown(void **state) {
  const Fixture *f = *state;
  node_key_release(f->key);
  return temp_folder_remove(f->dir);
}

static uint8_t kernel[32] = {1}, other_kernel[32] = {2}, target[32] = {3};

static Schedule record(const char *opts, ScheduleCause cause) {
  return (Schedule){.kernel = kernel,
                    .target = target,
                    .opts = opts,
                    .host = "there",
                    .cause = cause,
                    .median_ns = cause == SC_MEASURED ? 100 : 0,
                    .reps = 5,
                    .measured_at = 1000,
                    .verified = cause == SC_MEASURED};
}

/* A statement with a winner and a failure, made at that time. */
static StrBuf statement(const Fixture *f, int64_t issued_ns) {
  const Schedule records[] = {record("A(1)", SC_MEASURED), record("B(2)", SC_WRONG_RESULT)};
  Envelope e = {.kind = EK_RECORDS, .issued_ns = issued_ns};
  StrBuf out = {0};
  memcpy(e.subject, kernel, sizeof kernel);
  memcpy(e.target, target, sizeof target);
  assert_null(envelope_write(&e, records, 2, f->key, &out));
  return out;
}

static Bytes view(const StrBuf *b) { return (Bytes){(const uint8_t *)b->ptr, b->len}; }

/* -- keys ---------------------------------------------------------------------------------------
 */

static void test_key_file(void **state) {
  const Fixture *f = *state;
  NodeKey *again;
  struct stat s;
  assert_int_equal(stat(f->key_path, &s), 0);
  assert_int_equal(s.st_mode & 0777, 0600);
  assert_null(node_key_load(f->key_path, &again));
  assert_memory_equal(node_key_public(again), f->node.node, NODE_KEY_BYTES);
  node_key_release(again);
  assert_int_equal(chmod(f->key_path, 0640), 0);
  Status st = node_key_load(f->key_path, &again);
  assert_int_equal(status_code(st), ST_PERMISSION_DENIED);
  status_drop(st);
  FILE *file = fopen(f->key_path, "w");
  assert_non_null(file);
  fputs("no key\n", file);
  fclose(file);
  assert_int_equal(chmod(f->key_path, 0600), 0);
  st = node_key_load(f->key_path, &again);
  assert_int_equal(status_code(st), ST_FAILED_PRECONDITION);
  status_drop(st);
}

static void test_signature(void **state) {
  const Fixture *f = *state;
  uint8_t signature[NODE_SIGNATURE_BYTES], text[] = "what was said", other[NODE_KEY_BYTES] = {9};
  Bytes b = {text, sizeof text};
  char name[NODE_KEY_TEXT];
  uint8_t parsed[NODE_KEY_BYTES];
  assert_null(node_key_sign(f->key, b, signature));
  assert_true(node_key_verify(f->node.node, b, signature));
  assert_false(node_key_verify(other, b, signature));
  text[3] ^= 1;
  assert_false(node_key_verify(f->node.node, b, signature));
  text[3] ^= 1;
  signature[63] ^= 1;
  assert_false(node_key_verify(f->node.node, b, signature));
  node_key_text(f->node.node, name);
  assert_true(node_key_parse(str_from(name), parsed));
  assert_memory_equal(parsed, f->node.node, NODE_KEY_BYTES);
  assert_false(node_key_parse(STR("ed25519:12"), parsed));
  assert_false(node_key_parse(STR("rsa:12"), parsed));
}

static void test_trust_rows(void **state) {
  const Fixture *f = *state;
  char row[300], name[NODE_KEY_TEXT];
  TrustedNode node;
  node_key_text(f->node.node, name);
  snprintf(row, sizeof row, "  %s   rack-7 ", name);
  assert_null(shared_trust_row(str_from(row), &node));
  assert_string_equal(node.name, "rack-7");
  assert_memory_equal(node.node, f->node.node, NODE_KEY_BYTES);
  assert_null(shared_trust_row(str_from(name), &node));
  assert_int_equal(strlen(node.name), 8);
  static const char *const bad[] = {"%s two words", "%s quote\"", "%s\x01", "x%s", "%sff n"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    snprintf(row, sizeof row, bad[i][0] == '%' ? "%s%s" : "x%s%s", name, strchr(bad[i], 's') + 1);
    Status st = shared_trust_row(str_from(row), &node);
    assert_int_equal(status_code(st), ST_INVALID_ARGUMENT);
    status_drop(st);
  }
}

static void test_addresses(void **state) {
  (void)state;
  static const struct {
    const char *text, *host, *port, *user, *password, *db, *path;
  } good[] = {
      {"redis://tier", "tier", "6379", "", "", "", ""},
      {"redis://10.0.0.1:7000/3", "10.0.0.1", "7000", "", "", "3", ""},
      {"redis://:pw@tier:1", "tier", "1", "", "pw", "", ""},
      {"redis://me:p@w/x@tier/2", "tier", "6379", "me", "p@w/x", "2", ""},
      {"redis://[::1]:6380", "::1", "6380", "", "", "", ""},
      {"redis://[::1]", "::1", "6379", "", "", "", ""},
      {"unix:/run/valkey.sock", "", "", "", "", "", "/run/valkey.sock"},
  };
  static const char *const bad[] = {
      "",      "tier:6379", "redis://",     "redis://:6379", "redis://a:port", "redis://a/one",
      "unix:", "http://a",  "redis://[::1", "redis://a:1:2", "redis://a b",    "redis://[::1]6379"};
  RespAddress a;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    assert_null(resp_address_parse(good[i].text, &a));
    assert_string_equal(a.at.host, good[i].host);
    assert_string_equal(a.at.port, good[i].port);
    assert_string_equal(a.user, good[i].user);
    assert_string_equal(a.password, good[i].password);
    assert_string_equal(a.db, good[i].db);
    assert_string_equal(a.at.path, good[i].path);
  }
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    Status st = resp_address_parse(bad[i], &a);
    if (status_code(st) != ST_INVALID_ARGUMENT) fail_msg("%s", bad[i]);
    status_drop(st);
  }
}

/* -- statements ---------------------------------------------------------------------------------
 */

static void test_statement(void **state) {
  const Fixture *f = *state;
  StrBuf s = statement(f, 77);
  Envelope e;
  Schedule records[ENVELOPE_RECORDS];
  Arena arena;
  arena_init(&arena, 0);
  assert_null(envelope_read(view(&s), &e));
  assert_true(envelope_signed(view(&s), &e));
  assert_int_equal(e.issued_ns, 77);
  assert_int_equal(e.count, 2);
  assert_null(envelope_records(&e, &arena, records));
  assert_string_equal(records[0].opts, "A(1)");
  assert_true(records[0].imported && !records[0].verified);
  assert_int_equal(records[1].cause, SC_WRONG_RESULT);
  arena_deinit(&arena);
  strbuf_deinit(&s);
}

/* No byte can be changed, and nothing cut off or added, without being noticed. */
static void test_damage(void **state) {
  const Fixture *f = *state;
  StrBuf s = statement(f, clock_wall_ns());
  Envelope e;
  Offer offer = {.kernel = kernel, .target = target, .statement = view(&s)};
  assert_int_equal(offer_check(&offer, &f->node, 1, &e), OV_TAKEN);
  for (size_t i = 0; i < s.len; i++) {
    s.ptr[i] = (char)(s.ptr[i] ^ 0x20);
    OfferVerdict v = offer_check(&offer, &f->node, 1, &e);
    if (v != OV_MALFORMED && v != OV_BAD_SIGNATURE && v != OV_UNKNOWN_NODE)
      fail_msg("byte %zu: %s", i, offer_verdict_name[v]);
    s.ptr[i] = (char)(s.ptr[i] ^ 0x20);
  }
  for (size_t n = 1; n < s.len; n++) {
    offer.statement.len = n;
    OfferVerdict v = offer_check(&offer, &f->node, 1, &e);
    assert_true(v == OV_MALFORMED);
  }
  strbuf_add(&s, "x", 1);
  offer.statement = view(&s);
  assert_int_equal(offer_check(&offer, &f->node, 1, &e), OV_MALFORMED);
  strbuf_deinit(&s);
}

static void test_verdicts(void **state) {
  const Fixture *f = *state;
  StrBuf s = statement(f, clock_wall_ns()), old = statement(f, 5),
         early = statement(f, clock_wall_ns() + (int64_t)2 * 3600 * 1000000000);
  Envelope e;
  Offer o = {.kernel = kernel, .target = target, .statement = view(&s)};
  assert_int_equal(offer_check(&o, NULL, 0, &e), OV_UNKNOWN_NODE);
  o.kernel = other_kernel;
  assert_int_equal(offer_check(&o, &f->node, 1, &e), OV_WRONG_KEY);
  o.kernel = kernel;
  o.target = kernel;
  assert_int_equal(offer_check(&o, &f->node, 1, &e), OV_WRONG_KEY);
  o.target = target;
  o.statement = view(&old);
  assert_int_equal(offer_check(&o, &f->node, 1, &e), OV_REPLAYED);
  o.statement = view(&early);
  assert_int_equal(offer_check(&o, &f->node, 1, &e), OV_REPLAYED);
  o.statement.len = 0;
  assert_int_equal(offer_check(&o, &f->node, 1, &e), OV_NONE);
  strbuf_deinit(&s);
  strbuf_deinit(&old);
  strbuf_deinit(&early);
}

/* As many records as fit. */
static void test_large_statement(void **state) {
  const Fixture *f = *state;
  char opts[SCHEDULE_MAX_OPTS + 1];
  int64_t sizes[SCHEDULE_MAX_SIZES] = {0};
  Schedule records[2 * ENVELOPE_RECORDS];
  memset(opts, 'x', SCHEDULE_MAX_OPTS);
  opts[SCHEDULE_MAX_OPTS] = 0;
  for (size_t i = 0; i < 2 * ENVELOPE_RECORDS; i++) {
    records[i] = record(opts, SC_MEASURED);
    records[i].sizes = sizes;
    records[i].nsizes = SCHEDULE_MAX_SIZES;
  }
  Envelope e = {.kind = EK_RECORDS};
  StrBuf out = {0};
  memcpy(e.subject, kernel, sizeof kernel);
  memcpy(e.target, target, sizeof target);
  assert_null(envelope_write(&e, records, 2 * ENVELOPE_RECORDS, f->key, &out));
  assert_true(out.len <= ENVELOPE_MAX);
  assert_null(envelope_read(view(&out), &e));
  assert_int_equal(e.count, ENVELOPE_RECORDS);
  strbuf_deinit(&out);
}

/* -- a cache ------------------------------------------------------------------------------------
 */

static Cache *opened(const Fixture *f) {
  Cache *c;
  assert_null(cache_open(f->path, 0, &c));
  return c;
}

static bool note(void *ctx, const Schedule *s) {
  strbuf_addf(ctx, "%s:%s:%d%d:%s ", s->opts, schedule_cause_name[s->cause], s->verified,
              s->imported, s->origin);
  return true;
}

static void expect(Cache *c, const char *wanted) {
  StrBuf out = {0};
  strbuf_adds(&out, "");
  assert_null(cache_schedules(c, kernel, target, note, &out));
  assert_string_equal(out.ptr, wanted);
  strbuf_deinit(&out);
}

static OfferVerdict take(Cache *c, const Fixture *f, const StrBuf *s, bool *open) {
  Offer o = {.kernel = kernel, .target = target, .statement = s ? view(s) : (Bytes){NULL, 0}};
  assert_null(cache_take_offers(c, &o, 1, &f->node, 1));
  *open = o.open;
  return o.verdict;
}

static void test_take(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f);
  int64_t now = clock_wall_ns();
  StrBuf s = statement(f, now), older = statement(f, now - 1);
  bool open;
  assert_int_equal(take(c, f, NULL, &open), OV_NONE);
  assert_false(open);
  assert_int_equal(take(c, f, &s, &open), OV_TAKEN);
  assert_true(open);
  expect(c, "A(1):measured:01:other B(2):wrong_result:01:other ");
  assert_int_equal(take(c, f, &s, &open), OV_TAKEN); /* once more: known */
  assert_int_equal(take(c, f, &older, &open), OV_REPLAYED);
  assert_null(cache_best_schedule(c, kernel, target, note, &(StrBuf){0}));
  /* what was found here stays, and what was checked is not open any more */
  Schedule here = record("A(1)", SC_MEASURED);
  here.origin = "other";
  assert_null(cache_put_tuned(c, NULL, 0, &here, 1));
  StrBuf newer = statement(f, now + 1);
  assert_int_equal(take(c, f, &newer, &open), OV_TAKEN);
  assert_false(open);
  expect(c, "A(1):measured:10:other B(2):wrong_result:01:other ");
  cache_close(c);
  c = opened(f); /* what a node has said is remembered */
  assert_int_equal(take(c, f, &s, &open), OV_REPLAYED);
  cache_close(c);
  strbuf_deinit(&s);
  strbuf_deinit(&older);
  strbuf_deinit(&newer);
}

static int64_t next(Cache *c, const Fixture *f, int64_t after, uint64_t *queued, int64_t *median) {
  OutboxItem item;
  assert_null(cache_outbox_next(c, after, f->key, &item, queued));
  *median = item.median_ns;
  if (item.id) {
    Envelope e;
    Offer o = {.kernel = kernel, .target = target, .statement = view(&item.statement)};
    assert_int_equal(offer_check(&o, &f->node, 1, &e), OV_TAKEN);
  }
  strbuf_deinit(&item.statement);
  return item.id;
}

static void put(Cache *c, const char *opts, int64_t median, int64_t at, const char *origin) {
  Schedule s = record(opts, SC_MEASURED);
  s.median_ns = median;
  s.measured_at = at;
  s.origin = origin;
  assert_null(cache_put_tuned(c, NULL, 0, &s, 1));
}

static void test_outbox(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f);
  uint64_t queued;
  int64_t median;
  put(c, "A(1)", 100, 1000, "");
  assert_int_equal(next(c, f, 0, &queued, &median), 0); /* nobody asked for a queue */
  assert_null(cache_outbox_open(c));
  int64_t first = next(c, f, 0, &queued, &median);
  assert_true(first > 0 && queued == 1 && median == 100);
  put(c, "B(2)", 90, 2000, ""); /* while the first is being given */
  assert_null(cache_outbox_done(c, first));
  int64_t second = next(c, f, 0, &queued, &median);
  assert_true(second > first && queued == 1 && median == 90);
  cache_close(c);
  c = opened(f);
  assert_int_equal(next(c, f, 0, &queued, &median), second);
  assert_int_equal(next(c, f, second, &queued, &median), 0);
  assert_null(cache_outbox_done(c, second));
  assert_int_equal(next(c, f, 0, &queued, &median), 0);
  /* what another node found is not given on */
  assert_null(cache_outbox_open(c));
  put(c, "C(3)", 80, 3000, "other");
  assert_int_equal(next(c, f, 0, &queued, &median), 0);
  cache_close(c);
}

static void test_outbox_is_bounded(void **state) {
  const Fixture *f = *state;
  Cache *c = opened(f);
  uint8_t kernels[64][32] = {{0}};
  Schedule s[64];
  uint64_t queued;
  OutboxItem item;
  assert_null(cache_outbox_open(c));
  for (unsigned k = 0; k < OUTBOX_MAX / 64 + 2; k++) {
    for (unsigned i = 0; i < 64; i++) {
      unsigned n = k * 64 + i;
      memcpy(kernels[i], &n, sizeof n);
      s[i] = record("A(1)", SC_MEASURED);
      s[i].kernel = kernels[i];
    }
    assert_null(cache_put_tuned(c, NULL, 0, s, 64));
  }
  assert_null(cache_outbox_next(c, 0, f->key, &item, &queued));
  assert_int_equal(queued, OUTBOX_MAX);
  assert_int_equal(item.kernel[0], 128); /* the oldest are forgotten */
  strbuf_deinit(&item.statement);
  cache_close(c);
}

int main(void) {
#define TEST(name_) cmocka_unit_test_setup_teardown(name_, setup, teardown)
  const struct CMUnitTest tests[] = {
      TEST(test_key_file),  TEST(test_signature),         TEST(test_trust_rows),
      TEST(test_addresses), TEST(test_statement),         TEST(test_damage),
      TEST(test_verdicts),  TEST(test_large_statement),   TEST(test_take),
      TEST(test_outbox),    TEST(test_outbox_is_bounded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
