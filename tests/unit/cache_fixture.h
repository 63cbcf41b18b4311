/* A folder for the caches of a test, and what tests do to them. */
#pragma once

#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/log.h"
#include "cache/cache.h"
#include "proto/digest.h"
#include "tests/unit/status_check.h"
#include "tests/unit/temp_folder.h"

typedef struct Fixture {
  char dir[TEMP_FOLDER_CAP], path[96],
      other[96]; /* path, other: of caches that are not yet there */
} Fixture;

static inline int setup(void **state) {
  static Fixture f;
  if (!temp_folder_make(f.dir)) return -1;
  snprintf(f.path, sizeof f.path, "%s/a/b/cache.db", f.dir);
  snprintf(f.other, sizeof f.other, "%s/other.db", f.dir);
  *state = &f;
  log_init("test", LOG_LEVEL_OFF);
  return 0;
}

static inline int teardown(void **state) { return temp_folder_remove(((Fixture *)*state)->dir); }

/* max: bytes that it may have; 0 = no limit. */
static inline Cache *opened(const char *path, uint64_t max) {
  Cache *c;
  check(cache_open(path, max, &c));
  return c;
}

static inline void sql(const char *path, const char *text) {
  sqlite3 *db;
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
}

/* Hashes by number; static, so that views of them last. */
static inline const uint8_t *hash(uint64_t n) {
  static uint8_t all[4096][32];
  assert_true(n < 4096);
  digest_sha256(&n, sizeof n, all[n]);
  return all[n];
}
