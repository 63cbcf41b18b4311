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
/* Within a transaction: stores schedules and keeps their bounds. */
Status schedules_put(Cache *c, const Schedule *schedules, size_t n);
/* Shows the rows of a SCHEDULE_ROW query whose values are bound; drops those that are no good. */
Status schedules_visit(Cache *c, Query which, ScheduleVisit visit, void *ctx);
/* Adds them to c->stats, whose bytes hold those of the entries. */
Status schedules_count(Cache *c);
