/* Schedule records: what was learned about one schedule (opts text) of one kernel on one target.
 *
 * Several are kept per kernel and target: winners, slower ones, and failures with their cause, so
 * that a search goes on where it stopped and tries nothing twice. A record is identified by kernel,
 * target and opts; a later measurement replaces an earlier one, and an imported record never
 * replaces a local one.
 *
 * `verified` says that this machine has compared the results of the kernel under this schedule with
 * those of the untuned kernel. Only a verified, measured record of the very target is served;
 * everything else is a hint for the tuner. An import is never verified.
 *
 * Records travel as bytes (schedule_encode), in the cache file and in an exported one; each is
 * sealed with a hash, and every length and number in it is checked. The opts are text to this
 * folder: whether they are legal for a kernel is for the compiler to say. */
#pragma once

#include "base/vec.h"
#include "cache/cache.h"

typedef enum ScheduleCause {
  SC_MEASURED, /* has a median */
  SC_COMPILE_ERROR,
  SC_TIMEOUT,
  SC_OOM,
  SC_CRASH,
  SC_WRONG_RESULT,
  SC__COUNT
} ScheduleCause;
extern const char *const schedule_cause_name[SC__COUNT]; /* "measured", "compile_error", ... */

enum {
  SCHEDULE_MAX_SIZES = 256,
  SCHEDULE_MAX_OPTS = 4096,  /* bytes of opts text */
  SCHEDULE_MAX_TEXT = 256,   /* bytes of compiler, host, origin and name */
  SCHEDULE_KEEP_BEST = 128,  /* measured records per kernel and target, the fastest */
  SCHEDULE_KEEP_FAILED = 128 /* the newest */
};

/* Views. */
typedef struct Schedule {
  const uint8_t *kernel;     /* CACHE_HASH_BYTES: hash of the kernel's canonical graph */
  const uint8_t *class_hash; /* the same with sizes abstracted; NULL = not known */
  const uint8_t *target;     /* fingerprint of the target that it was compiled for */
  const int64_t *sizes;      /* of the class: the kernel's, each at least 0 */
  size_t nsizes;
  const char *opts;     /* "" = no opts at all */
  const char *name;     /* of the kernel, for people */
  const char *compiler; /* TargetSpec.compiler */
  const char *host;     /* who measured */
  const char *origin;   /* the node whose record led to it; "" = it was found here */
  ScheduleCause cause;
  int64_t median_ns, mad_ns; /* measured: median above 0 */
  uint32_t reps;
  int64_t peer_ns;     /* the incumbent's median in the same measurement; 0 = none */
  int64_t measured_at; /* ns since the Unix epoch */
  bool verified, imported;
} Schedule;

/* The bytes of one record. INVALID_ARGUMENT: a field is out of its bounds. */
Status schedule_encode(const Schedule *s, StrBuf *out);
/* Takes any bytes. *used says how many the record takes; the strings and arrays of *out are views
 * of `bytes`, but the sizes, which are in the arena. DATA_LOSS: they are not a whole record;
 * FAILED_PRECONDITION: they are one of a newer version. */
Status schedule_decode(Bytes bytes, Arena *arena, Schedule *out, size_t *used);
/* A copy that lasts as long as the arena; false without memory. Texts that are NULL become "". */
bool schedule_copy(Arena *arena, const Schedule *s, Schedule *out);
/* Whether a build may use it without asking the tuner. */
static inline bool schedule_serves(const Schedule *s) {
  return s->cause == SC_MEASURED && s->verified;
}
/* How far apart two sizes of a class are: the length of the vector of log2 ratios; infinite when
 * the vectors differ in length. */
double schedule_distance(const int64_t *a, size_t na, const int64_t *b, size_t nb);

/* -- in the cache (same rules as cache.h: one thread, errors leave the Cache usable) ------------
 */

/* Stores kernels' binaries and schedules in one transaction, all or none: a tuned kernel replaces
 * the untuned one together with its evidence. Either may be empty. What is beyond the bounds per
 * kernel and beyond a quarter of the cache's size limit is dropped, the least useful first. */
Status cache_put_tuned(Cache *c, const CacheRecord *kernels, size_t n, const Schedule *schedules,
                       size_t m);

/* The Schedule is valid during the call. False ends the visit. */
typedef bool (*ScheduleVisit)(void *ctx, const Schedule *s);
/* All evidence of a kernel: those that serve first, the newest first, then the fastest, then
 * failures, newest first.
 * target NULL: of every target. A record that does not decode is dropped, counted and skipped. */
Status cache_schedules(Cache *c, const uint8_t *kernel, const uint8_t *target, ScheduleVisit visit,
                       void *ctx);
/* What a build uses in place of the heuristic: the newest record that serves, if there is one. A
 * schedule is verified when it has beaten the one in use, in one measurement, so the newest is the
 * best; medians of different days say less. visit is called at most once. */
Status cache_best_schedule(Cache *c, const uint8_t *kernel, const uint8_t *target,
                           ScheduleVisit visit, void *ctx);
/* Hints: of the kernel itself what other targets know, then of each of the `limit` kernels of its
 * class whose sizes are nearest the best record, nearest first, this target's before others'. What
 * cache_schedules says about the kernel on this target is left out. */
typedef struct ScheduleNear {
  const uint8_t *kernel, *target;
  const uint8_t *class_hash; /* NULL: only the kernel itself */
  const int64_t *sizes;
  size_t nsizes, limit;
} ScheduleNear;
Status cache_near_schedules(Cache *c, const ScheduleNear *near, ScheduleVisit visit, void *ctx);
