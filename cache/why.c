/* The cache for people: listing, and why a compile does not find what it looks for. */
#include <inttypes.h>
#include <time.h>

#include "base/clock.h"
#include "cache/internal.h"
#include "proto/digest.h"

enum { MIN_PREFIX = 4, SHORT = 12 };

static bool read_entry(sqlite3_stmt *q, CacheEntry *e) {
  *e = (CacheEntry){.kind = (CacheKind)sqlite3_column_int(q, 0)};
  for (int k = 0; k < 2; k++) {
    const void *blob = sqlite3_column_blob(q, 1 + k);
    if (!blob || sqlite3_column_bytes(q, 1 + k) != CACHE_HASH_BYTES) return false;
    memcpy(k ? e->target : e->hash, blob, CACHE_HASH_BYTES);
  }
  e->bytes = (uint64_t)sqlite3_column_int64(q, 3);
  e->created_ns = sqlite3_column_int64(q, 4);
  e->used_ns = sqlite3_column_int64(q, 5);
  e->uses = (uint64_t)sqlite3_column_int64(q, 6);
  e->schedules = (uint64_t)sqlite3_column_int64(q, 8);
  const unsigned char *note = sqlite3_column_text(q, 7);
  e->note = note ? (const char *)note : "";
  return e->kind < CACHE_KIND__COUNT;
}

Status cache_list(Cache *c, uint32_t limit, CacheVisit visit, void *ctx) {
  CacheEntry e;
  int rc;
  TRY(cache_flush(c));
  sqlite3_stmt *q = cache_query(c, Q_LIST);
  sqlite3_bind_int64(q, 1, limit ? (int64_t)limit : -1);
  while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
    if (read_entry(q, &e)) visit(ctx, &e);
  }
  Status st = sqlite_status(c->db, rc, "listing the cache");
  sqlite3_reset(q);
  return st;
}

/* -- why --------------------------------------------------------------------------------------- */

Status cache_prefix(Str prefix, size_t least, uint8_t *lo, uint8_t *hi) {
  char hex[2 * CACHE_HASH_BYTES];
  if (prefix.len < least || prefix.len > sizeof hex) {
    return FAIL(INVALID_ARGUMENT, "a hash has %zu to %zu hex digits, got %zu", least, sizeof hex,
                prefix.len);
  }
  for (int k = 0; k < 2; k++) {
    memset(hex, k ? 'f' : '0', sizeof hex);
    if (prefix.len) memcpy(hex, prefix.ptr, prefix.len);
    if (!digest_from_hex((Str){hex, sizeof hex}, k ? hi : lo, CACHE_HASH_BYTES)) {
      return FAIL(INVALID_ARGUMENT, "'" STR_FMT "' is not hexadecimal", STR_ARG(prefix));
    }
  }
  return NULL;
}

void cache_bind_range(sqlite3_stmt *q, const uint8_t *lo, const uint8_t *hi) {
  sqlite3_bind_blob(q, 1, lo, CACHE_HASH_BYTES, SQLITE_STATIC);
  sqlite3_bind_blob(q, 2, hi, CACHE_HASH_BYTES, SQLITE_STATIC);
}

static const char *short_hex(const uint8_t *hash, char buf[2 * CACHE_HASH_BYTES + 1]) {
  digest_to_hex(hash, CACHE_HASH_BYTES, buf);
  buf[SHORT] = 0;
  return buf;
}

static void ago(StrBuf *out, int64_t then_ns) {
  int64_t s = (clock_wall_ns() - then_ns) / 1000000000;
  if (s < 0) s = 0;
  if (s < 120) {
    strbuf_addf(out, "%" PRId64 " s ago", s);
  } else if (s < 7200) {
    strbuf_addf(out, "%" PRId64 " min ago", s / 60);
  } else {
    strbuf_addf(out, "%" PRId64 " h ago", s / 3600);
  }
}

static bool next_line(Str *text, Str *line) {
  if (!text->len) return false;
  const char *nl = memchr(text->ptr, '\n', text->len);
  line->ptr = text->ptr;
  line->len = nl ? (size_t)(nl - text->ptr) : text->len;
  size_t skip = line->len + (nl != NULL);
  text->ptr += skip;
  text->len -= skip;
  return true;
}

/* The value of "name=" in text; empty when there is none. */
static Str value_of(Str text, Str name) {
  Str line;
  while (next_line(&text, &line)) {
    if (line.len <= name.len || line.ptr[name.len] != '=') continue;
    if (memcmp(line.ptr, name.ptr, name.len) == 0) {
      return (Str){line.ptr + name.len + 1, line.len - name.len - 1};
    }
  }
  return STR("");
}

/* The lines in which two targets differ. */
static void differences(Str stored, Str today, StrBuf *out) {
  Str rest = today, line;
  bool any = false;
  while (next_line(&rest, &line)) {
    const char *eq = memchr(line.ptr, '=', line.len);
    if (!eq) continue;
    Str name = {line.ptr, (size_t)(eq - line.ptr)}, now = value_of(today, name);
    Str then = value_of(stored, name);
    if (str_eq(then, now)) continue;
    any = true;
    strbuf_addf(out, "      " STR_FMT ": stored for '" STR_FMT "', this server has '" STR_FMT "'\n",
                STR_ARG(name), STR_ARG(then), STR_ARG(now));
  }
  if (!any) strbuf_adds(out, "      the fingerprints differ in a part that was not noted\n");
}

static Status compare_target(Cache *c, const CacheEntry *e, const uint8_t *target, StrBuf *out) {
  StrBuf stored = {0}, today = {0};
  if (!target) return NULL;
  if (memcmp(e->target, target, CACHE_HASH_BYTES) == 0) {
    strbuf_adds(out, "    key matches this server's target: the same graph is a hit\n");
    return NULL;
  }
  strbuf_adds(out, "    not used here: same graph, another target fingerprint\n");
  Status st = cache_get_target(c, e->target, &stored);
  if (!st) st = cache_get_target(c, target, &today);
  if (!st && (!stored.len || !today.len)) {
    strbuf_adds(out, "      what the fingerprint was made of is not known\n");
  } else if (!st) {
    differences((Str){stored.ptr, stored.len}, (Str){today.ptr, today.len}, out);
  }
  strbuf_deinit(&stored);
  strbuf_deinit(&today);
  return st;
}

static Status describe(Cache *c, const CacheEntry *e, const uint8_t *target, StrBuf *out) {
  char hex[2 * CACHE_HASH_BYTES + 1];
  digest_to_hex(e->hash, CACHE_HASH_BYTES, hex);
  strbuf_addf(out, "%s %s\n", cache_kind_name[e->kind], hex);
  strbuf_addf(out, "    target %s, %" PRIu64 " bytes, %" PRIu64 " uses%s%s\n    stored ",
              short_hex(e->target, hex), e->bytes, e->uses, *e->note ? ", " : "", e->note);
  ago(out, e->created_ns);
  strbuf_adds(out, ", last used ");
  ago(out, e->used_ns);
  strbuf_adds(out, "\n");
  return compare_target(c, e, target, out);
}

/* -- schedules of a kernel --------------------------------------------------------------------- */

/* The best and the newest failures in full, the others as a number. */
enum { SHOWN_BEST = 8, SHOWN_FAILED = 4 };

typedef struct Shown {
  StrBuf *out;
  uint8_t kernel[CACHE_HASH_BYTES], target[CACHE_HASH_BYTES];
  uint64_t all, best, failed, hidden;
  const uint8_t *today; /* NULL: none in particular */
} Shown;

static void end_kernel(Shown *w) {
  if (w->hidden) strbuf_addf(w->out, "    and %" PRIu64 " more\n", w->hidden);
  w->best = w->failed = w->hidden = 0;
}

static void begin_kernel(Shown *w, const Schedule *s) {
  char hex[2 * CACHE_HASH_BYTES + 1];
  end_kernel(w);
  memcpy(w->kernel, s->kernel, CACHE_HASH_BYTES);
  memcpy(w->target, s->target, CACHE_HASH_BYTES);
  digest_to_hex(s->kernel, CACHE_HASH_BYTES, hex);
  strbuf_addf(w->out, "schedules of kernel %s %s\n", hex, s->name);
  strbuf_addf(w->out, "    target %s", short_hex(s->target, hex));
  if (w->today && memcmp(w->today, s->target, CACHE_HASH_BYTES) != 0)
    strbuf_adds(w->out, ", not this server's: only hints for the tuner");
  strbuf_adds(w->out, "\n");
}

static bool show_schedule(void *ctx, const Schedule *s) {
  Shown *w = ctx;
  bool same = w->all++ && !memcmp(w->kernel, s->kernel, CACHE_HASH_BYTES) &&
              !memcmp(w->target, s->target, CACHE_HASH_BYTES);
  if (!same) begin_kernel(w, s);
  bool failed = s->cause != SC_MEASURED;
  if (failed ? w->failed++ >= SHOWN_FAILED : w->best++ >= SHOWN_BEST) {
    w->hidden++;
    return true;
  }
  if (failed) {
    strbuf_addf(w->out, "    %-13s ", schedule_cause_name[s->cause]);
  } else {
    strbuf_addf(w->out, "    %10.3f us ", (double)s->median_ns / 1e3);
    strbuf_addf(w->out, "+- %.3f, %" PRIu32 " times, ", (double)s->mad_ns / 1e3, s->reps);
    if (s->peer_ns) strbuf_addf(w->out, "beside %.3f, ", (double)s->peer_ns / 1e3);
    strbuf_adds(w->out, s->verified ? "verified " : "not verified ");
  }
  if (s->imported) strbuf_adds(w->out, "imported ");
  if (*s->origin) strbuf_addf(w->out, "shared, from %s, ", s->origin);
  strbuf_addf(w->out, "by %s ", *s->host ? s->host : "?");
  ago(w->out, s->measured_at);
  strbuf_addf(w->out, ": %s\n", *s->opts ? s->opts : "(no opts)");
  return true;
}

static Status why_schedules(Cache *c, const uint8_t *lo, const uint8_t *hi, const uint8_t *today,
                            StrBuf *out, bool *any) {
  Shown w = {.out = out, .today = today};
  cache_bind_range(cache_query(c, Q_SCHEDULE_PREFIX), lo, hi);
  TRY(schedules_visit(c, Q_SCHEDULE_PREFIX, show_schedule, &w));
  end_kernel(&w);
  *any = w.all > 0;
  return NULL;
}

Status cache_why(Cache *c, Str prefix, const uint8_t *target, StrBuf *out) {
  uint8_t lo[CACHE_HASH_BYTES], hi[CACHE_HASH_BYTES], first[CACHE_HASH_BYTES] = {0};
  size_t n = 0;
  bool several = false, known;
  Status st = NULL;
  int rc = SQLITE_DONE;
  CacheEntry e;
  TRY(cache_prefix(prefix, MIN_PREFIX, lo, hi));
  TRY(cache_flush(c));
  sqlite3_stmt *q = cache_query(c, Q_PREFIX);
  cache_bind_range(q, lo, hi);
  while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
    if (!read_entry(q, &e)) continue;
    if (!n++) memcpy(first, e.hash, sizeof first);
    several |= memcmp(first, e.hash, sizeof first) != 0;
    st = describe(c, &e, target, out);
  }
  if (!st) st = sqlite_status(c->db, rc, "looking up a hash");
  sqlite3_clear_bindings(cache_query(c, Q_PREFIX));
  if (!st) st = why_schedules(c, lo, hi, target, out, &known);
  if (st) return st;
  if (!n && !known) {
    strbuf_addf(out,
                "nothing is stored under " STR_FMT ": it was never compiled with this cache, was "
                "compiled with no_cache, or was evicted (%" PRIu64 " evictions since start). Any "
                "change of the graph, its shapes or the options gives another hash.\n",
                STR_ARG(prefix), c->stats.evictions);
  }
  if (several) strbuf_addf(out, STR_FMT " begins several hashes\n", STR_ARG(prefix));
  return out->failed ? FAIL(RESOURCE_EXHAUSTED, "the answer") : NULL;
}
