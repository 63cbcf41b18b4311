/* Private to cache/. */
#pragma once

#include <sqlite3.h>

#include "cache/cache.h"
#include "cache/record.h"
#include "cache/schedule.h"

enum { ROW_BYTES = 256 /* of index and table pages per record */ };

/* The statements, prepared once; texts in cache.c. */
typedef enum Query {
  Q_FIND,
  Q_BLOB,
  Q_TOUCH,
  Q_ADD_ENTRY,
  Q_ADD_BLOB,
  Q_DROP_ENTRY,
  Q_DROP_BLOB,
  Q_OLDEST,
  Q_COUNT,
  Q_LIST,
  Q_PREFIX,
  Q_ADD_TARGET,
  Q_TARGET,
  Q_VERSION,
  Q_SCHEDULE_SUM,
  Q_SCHEDULE_FIND,
  Q_SCHEDULE_ADD,
  Q_SCHEDULE_DROP,
  Q_SCHEDULE_TRIM_BEST,
  Q_SCHEDULE_TRIM_FAILED,
  Q_SCHEDULE_OLDEST,
  Q_SCHEDULES,
  Q_SCHEDULE_BEST,
  Q_SCHEDULE_OTHERS,
  Q_SCHEDULE_CLASS,
  Q_SCHEDULE_PREFIX,
  Q_HASHES,
  Q_ENTRY_IDS,
  Q_ENTRIES_OF,
  Q_ENTRIES_UNUSED,
  Q_ENTRIES_OF_TARGET,
  Q_SCHEDULES_DROP_OF,
  Q_SCHEDULES_DROP_OLD,
  Q_SCHEDULES_DROP_TARGET,
  Q_SCHEDULE_OPEN,
  Q_SAID_FIND,
  Q_SAID_PUT,
  Q_SAID_TRIM,
  Q_OUTBOX_ALL,
  Q_OUTBOX_ADD,
  Q_OUTBOX_TRIM,
  Q_OUTBOX_NEXT,
  Q_OUTBOX_DONE,
  Q_BEGIN,
  Q_COMMIT,
  Q_ROLLBACK,
  Q__COUNT
} Query;

typedef struct Checkpointer Checkpointer;

typedef struct Touch {
  int64_t id, at_ns;
} Touch;

enum { MAX_TOUCHES = 1024 };

struct Cache {
  sqlite3 *db;
  sqlite3_stmt *queries[Q__COUNT];
  Checkpointer *checkpointer;
  RecordCodec codec;
  CacheStats stats;           /* bytes is kept current; plans and kernels are counted on request */
  int64_t data_version;       /* of the file, when stats were last counted */
  Touch touches[MAX_TOUCHES]; /* uses not written yet */
  size_t ntouches;
  bool outbox; /* what is found is queued for other nodes */
};

/* The Status of an SQLite result; `doing` begins its text. */
Status sqlite_status(sqlite3 *db, int rc, const char *doing);

/* Opens the file, checks whose it is, and brings its schema up to date. */
Status schema_open(const char *path, sqlite3 **out);
/* A second connection to the same file for the checkpoint thread, and pragmas common to both. */
Status schema_connect(const char *path, sqlite3 **out);

/* A thread that moves the log into the database file, so that no commit has to. */
Status checkpointer_create(const char *path, Checkpointer **out);
/* After a commit. */
void checkpointer_poke(Checkpointer *c);
void checkpointer_release(Checkpointer *c); /* NULL allowed */

/* The statement, reset. */
sqlite3_stmt *cache_query(Cache *c, Query q);
/* Runs a statement that returns no row. */
Status cache_run(Cache *c, Query q, const char *doing);
/* Begins a write; counts anew when another process has written meanwhile. */
Status cache_begin(Cache *c);
/* Ends the transaction: commits, or with an error rolls back and passes it on (takes st). `before`
 * are the numbers to go back to. */
Status cache_finish(Cache *c, Status st, const CacheStats *before);
/* Writes the uses that were remembered, in a transaction of their own. */
Status cache_flush(Cache *c);
/* Within a transaction: removes an entry of that size. */
Status cache_drop(Cache *c, int64_t id, uint64_t bytes);
/* Within a transaction: removes the least recently used until the limit holds (0: none). */
Status cache_evict(Cache *c, uint64_t limit, uint64_t incoming, uint64_t *evicted);
/* Reads and checks a record. DATA_LOSS: the entry is no good. */
Status cache_read_blob(Cache *c, int64_t id, StrBuf *out, size_t *canonical_len);
/* The smallest and largest hash that begin with these hex digits; fewer than `least` are
 * INVALID_ARGUMENT. */
Status cache_prefix(Str prefix, size_t least, uint8_t *lo, uint8_t *hi);
/* Binds ?1 and ?2. */
void cache_bind_range(sqlite3_stmt *q, const uint8_t *lo, const uint8_t *hi);

/* Within a transaction: stores schedules and keeps their bounds. */
Status schedules_put(Cache *c, const Schedule *schedules, size_t n);
/* Steps a DELETE of schedules that returns the bytes of each; counts them into *rows. */
Status schedules_delete(Cache *c, sqlite3_stmt *q, uint64_t *rows);
/* Within a transaction: removes those of least use until all take at most `limit`. */
Status schedules_trim(Cache *c, uint64_t limit, uint64_t *rows);
/* Shows the rows of a SCHEDULE_ROW query whose values are bound; drops those that are no good. */
Status schedules_visit(Cache *c, Query which, ScheduleVisit visit, void *ctx);
/* Adds them to c->stats, whose bytes hold those of the entries. */
Status schedules_count(Cache *c);

/* Within a transaction: queues the kernel of s for other nodes, if it is anything to them. */
Status outbox_add(Cache *c, const Schedule *s);

/* The records of an exported file, as candidates; views of the file and of the arena. */
Status transfer_read(Bytes file, Arena *arena, Schedule **out, uint64_t *count);
