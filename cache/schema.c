/* The file: who may open it, and what is in it.
 *
 *   entries   one row per record: the key's hashes, size, use; small, so that lookups and touches
 *             stay in few pages
 *   blobs     the records (record.c), by entry id
 *   targets   what fingerprints stand for, for people
 *   schedules what was learned about schedules (schedule.c): the sealed record, and the columns
 * that it is found and ordered by, which must agree with it
 *   outbox    kernels of which other nodes are to hear (shared.c)
 *   said      when nodes last said something about a kernel
 *
 * WAL with synchronous NORMAL: a crash may lose the last commits but tears nothing. Automatic
 * checkpoints are off (checkpoint.c does them), and nothing is mapped. user_version counts
 * migrations; application_id says that the file is ours. The file is looked at before SQLite may
 * write to it, and left alone unless it is ours. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/internal.h"

enum { APPLICATION_ID = 0x4b696c6e, HEADER_BYTES = 100 };

static const char *const migrations[CACHE_SCHEMA] = {
    "CREATE TABLE entries(id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, hash BLOB NOT NULL,"
    "  target BLOB NOT NULL, bytes INTEGER NOT NULL, created INTEGER NOT NULL,"
    "  used INTEGER NOT NULL, uses INTEGER NOT NULL, note TEXT NOT NULL);"
    "CREATE UNIQUE INDEX entries_key ON entries(hash, target, kind);"
    "CREATE INDEX entries_used ON entries(used);"
    "CREATE TABLE blobs(id INTEGER PRIMARY KEY, record BLOB NOT NULL);"
    "CREATE TABLE targets(target BLOB PRIMARY KEY, text TEXT NOT NULL);",

    "CREATE TABLE schedules(id INTEGER PRIMARY KEY, kernel BLOB NOT NULL, target BLOB NOT NULL,"
    "  class BLOB, opts TEXT NOT NULL, cause INTEGER NOT NULL, verified INTEGER NOT NULL,"
    "  imported INTEGER NOT NULL, median INTEGER NOT NULL, measured INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL, record BLOB NOT NULL);"
    "CREATE UNIQUE INDEX schedules_key ON schedules(kernel, target, opts);"
    "CREATE INDEX schedules_best ON schedules(kernel, target, measured) WHERE cause=0 AND "
    "verified=1;"
    "CREATE INDEX schedules_class ON schedules(class, cause, kernel, target, verified, median,"
    "  measured);"
    "CREATE INDEX schedules_age ON schedules(verified, imported DESC, measured);",

    "CREATE TABLE outbox(id INTEGER PRIMARY KEY AUTOINCREMENT, kernel BLOB NOT NULL,"
    "  target BLOB NOT NULL, UNIQUE(kernel, target));"
    "CREATE TABLE said(id INTEGER PRIMARY KEY AUTOINCREMENT, kernel BLOB NOT NULL,"
    "  target BLOB NOT NULL, node BLOB NOT NULL, issued INTEGER NOT NULL,"
    "  UNIQUE(kernel, target, node));",
};

Status sqlite_status(sqlite3 *db, int rc, const char *doing) {
  const char *text = db ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
  switch (rc & 0xff) {
  case SQLITE_OK:
  case SQLITE_ROW:
  case SQLITE_DONE: return NULL;
  case SQLITE_NOTADB: return FAIL(FAILED_PRECONDITION, "%s: %s", doing, text);
  case SQLITE_CORRUPT: return FAIL(DATA_LOSS, "%s: %s", doing, text);
  case SQLITE_READONLY:
  case SQLITE_PERM:
  case SQLITE_AUTH:
  case SQLITE_CANTOPEN: return FAIL(PERMISSION_DENIED, "%s: %s", doing, text);
  case SQLITE_NOMEM:
  case SQLITE_TOOBIG:
  case SQLITE_FULL: return FAIL(RESOURCE_EXHAUSTED, "%s: %s", doing, text);
  case SQLITE_IOERR:
  case SQLITE_BUSY:
  case SQLITE_LOCKED: return FAIL(UNAVAILABLE, "%s: %s", doing, text);
  default: return FAIL(UNKNOWN, "%s: %s", doing, text);
  }
}

/* -- before SQLite ----------------------------------------------------------------------------- */

static Status make_folders(const char *path) {
  char dir[4096];
  size_t n = strlen(path);
  if (n >= sizeof dir) return FAIL(INVALID_ARGUMENT, "the cache path has %zu bytes", n);
  memcpy(dir, path, n + 1);
  for (size_t k = 1; k < n; k++) {
    if (dir[k] != '/') continue;
    dir[k] = 0;
    if (mkdir(dir, 0700) && errno != EEXIST) {
      return FAIL(PERMISSION_DENIED, "creating folder '%s': %s", dir, strerror(errno));
    }
    dir[k] = '/';
  }
  return NULL;
}

static uint32_t get_u32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* A whole file is at least as long as its header says, once there is no log to complete it. */
static Status check_header(const char *path, const uint8_t *head, ssize_t n, off_t size) {
  struct stat st;
  char wal[4096];
  static const char magic[16] = "SQLite format 3";
  if (n < HEADER_BYTES || memcmp(head, magic, sizeof magic) != 0) {
    return FAIL(FAILED_PRECONDITION, "'%s' is not a database: remove it or name another file",
                path);
  }
  uint32_t page = (uint32_t)head[16] << 8 | head[17], pages = get_u32(head + 28);
  if (page == 1) page = 65536;
  snprintf(wal, sizeof wal, "%s-wal", path);
  bool logged = !stat(wal, &st) && st.st_size > 0;
  if (!logged && (uint64_t)size < (uint64_t)page * pages) {
    return FAIL(DATA_LOSS, "'%s' is torn: %lld bytes, expected %llu; remove it", path,
                (long long)size, (unsigned long long)page * pages);
  }
  return NULL;
}

static Status check_file(const char *path) {
  struct stat st;
  uint8_t head[HEADER_BYTES];
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
  if (fd < 0) {
    int e = errno;
    if (e == EISDIR) return FAIL(FAILED_PRECONDITION, "'%s' is a folder", path);
    if (e == ENOSPC || e == EDQUOT) return FAIL(RESOURCE_EXHAUSTED, "'%s': %s", path, strerror(e));
    return FAIL(PERMISSION_DENIED, "opening '%s' for writing: %s", path, strerror(e));
  }
  Status failure = NULL;
  if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
    failure = FAIL(FAILED_PRECONDITION, "'%s' is no regular file", path);
  } else if (st.st_size) {
    failure = check_header(path, head, pread(fd, head, sizeof head, 0), st.st_size);
  }
  close(fd);
  return failure;
}

/* -- with SQLite ------------------------------------------------------------------------------- */

static Status run(sqlite3 *db, const char *sql, const char *doing) {
  return sqlite_status(db, sqlite3_exec(db, sql, NULL, NULL, NULL), doing);
}

static Status number(sqlite3 *db, const char *sql, int64_t *out) {
  sqlite3_stmt *q;
  *out = 0;
  int rc = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
  if (rc == SQLITE_OK) {
    rc = sqlite3_step(q);
    if (rc == SQLITE_ROW) *out = sqlite3_column_int64(q, 0);
  }
  Status st = sqlite_status(db, rc, "reading the cache file");
  sqlite3_finalize(q);
  return st;
}

Status schema_connect(const char *path, sqlite3 **out) {
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
  *out = NULL;
  int rc = sqlite3_open_v2(path, out, flags, NULL);
  TRY(sqlite_status(*out, rc, "opening the cache file"));
  sqlite3_extended_result_codes(*out, 1);
  sqlite3_busy_timeout(*out, 1000);
  return run(*out,
             "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"
             "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-16384;"
             "PRAGMA journal_size_limit=67108864;",
             "configuring the cache file");
}

/* Ours, empty, or somebody else's. */
static Status check_owner(sqlite3 *db, const char *path, int64_t *version) {
  int64_t id, objects;
  TRY(number(db, "PRAGMA application_id", &id));
  TRY(number(db, "PRAGMA user_version", version));
  TRY(number(db, "SELECT count(*) FROM sqlite_schema", &objects));
  if (id != APPLICATION_ID && (id || *version || objects)) {
    return FAIL(FAILED_PRECONDITION, "'%s' belongs to another program", path);
  }
  if (*version > CACHE_SCHEMA) {
    return FAIL(FAILED_PRECONDITION, "'%s' has schema %lld, this server knows %d: it is newer",
                path, (long long)*version, CACHE_SCHEMA);
  }
  return NULL;
}

static Status migrate(sqlite3 *db) {
  char set[96];
  int64_t version;
  TRY(run(db, "BEGIN IMMEDIATE", "migrating the cache"));
  /* another process may have been here between our first look and the lock */
  Status st = number(db, "PRAGMA user_version", &version);
  for (int64_t v = version; v < CACHE_SCHEMA && !st; v++) {
    st = run(db, migrations[v], "migrating the cache");
  }
  snprintf(set, sizeof set, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
           APPLICATION_ID, CACHE_SCHEMA);
  if (!st) st = run(db, set, "migrating the cache");
  if (st) sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
  return st;
}

Status schema_open(const char *path, sqlite3 **out) {
  Status st;
  int64_t version;
  *out = NULL;
  TRY(make_folders(path));
  TRY(check_file(path));
  if ((st = schema_connect(path, out)) || (st = check_owner(*out, path, &version)) ||
      (st = run(*out, "PRAGMA journal_mode=WAL", "configuring the cache file"))) {
    goto fail;
  }
  if (version < CACHE_SCHEMA && (st = migrate(*out))) goto fail;
  return NULL;
fail:
  sqlite3_close(*out);
  *out = NULL;
  return st;
}
