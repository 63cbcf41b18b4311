/* The bytes of a schedule record:
 *
 *   "KSCH" version 1 byte, 3 zero bytes, length of the payload (8 bytes, little-endian), SHA-256
 *   (32 bytes) of the 16 bytes before it and the payload, payload
 *
 * Version 2 has one text more, the origin; without an origin a record is of version 1.
 *
 * The payload is kernel, target and class (32 bytes each, the class zero when it is not known),
 * nine numbers of 8 bytes (cause, flags, median, MAD, repetitions, the peer's median, when, how
 * many sizes, and the sum of the lengths of the texts), the sizes, and the texts, each ended by a
 * zero byte. A record is decoded where it lies: the texts are views. The hash finds accidents; it
 * is no signature, so lengths and numbers are checked as if it were not there. */
#include "cache/schedule.h"

#include <inttypes.h>
#include <math.h>

#include "cache/sealed.h"

enum {
  VERSION = 2,
  HEAD = 16,
  PAYLOAD_AT = HEAD + DIGEST_BYTES,
  NUMBERS_AT = 3 * CACHE_HASH_BYTES,
  NUMBERS = 9,
  SIZES_AT = NUMBERS_AT + 8 * NUMBERS,
  TEXTS = 5, /* in version 1 one less */
  MAX_PAYLOAD =
      SIZES_AT + 8 * SCHEDULE_MAX_SIZES + SCHEDULE_MAX_OPTS + 4 * SCHEDULE_MAX_TEXT + TEXTS
};
enum { FLAG_VERIFIED = 1, FLAG_IMPORTED = 2, FLAG_CLASS = 4, FLAGS = 7 };
static const char magic[4] = {'K', 'S', 'C', 'H'};

const char *const schedule_cause_name[SC__COUNT] = {
    [SC_MEASURED] = "measured", [SC_COMPILE_ERROR] = "compile_error",
    [SC_TIMEOUT] = "timeout",   [SC_OOM] = "oom",
    [SC_CRASH] = "crash",       [SC_WRONG_RESULT] = "wrong_result"};

double schedule_distance(const int64_t *a, size_t na, const int64_t *b, size_t nb) {
  double sum = 0;
  if (na != nb) return INFINITY;
  for (size_t i = 0; i < na; i++) {
    double d = log2((double)(a[i] > 0 ? a[i] : 1)) - log2((double)(b[i] > 0 ? b[i] : 1));
    sum += d * d;
  }
  return sqrt(sum);
}

static const uint8_t *copy_hash(Arena *a, const uint8_t *hash, bool *ok) {
  const uint8_t *copy = hash ? arena_copy(a, hash, CACHE_HASH_BYTES) : NULL;
  *ok = *ok && (copy || !hash);
  return copy;
}

static const char *copy_text(Arena *a, const char *text, bool *ok) {
  const char *copy = arena_strdup(a, str_from(text));
  *ok = *ok && copy;
  return copy;
}

bool schedule_copy(Arena *a, const Schedule *s, Schedule *out) {
  bool ok = true;
  *out = *s;
  out->kernel = copy_hash(a, s->kernel, &ok);
  out->target = copy_hash(a, s->target, &ok);
  out->class_hash = copy_hash(a, s->class_hash, &ok);
  out->opts = copy_text(a, s->opts, &ok);
  out->name = copy_text(a, s->name, &ok);
  out->compiler = copy_text(a, s->compiler, &ok);
  out->host = copy_text(a, s->host, &ok);
  out->origin = copy_text(a, s->origin, &ok);
  out->sizes = arena_copy(a, s->sizes, s->nsizes * sizeof *s->sizes);
  return ok && out->sizes;
}

/* -- what a record may say, written or read ---------------------------------------------------- */

static const struct {
  const char *name;
  size_t max;
} texts[TEXTS] = {{"opts", SCHEDULE_MAX_OPTS},
                  {"name", SCHEDULE_MAX_TEXT},
                  {"compiler", SCHEDULE_MAX_TEXT},
                  {"host", SCHEDULE_MAX_TEXT},
                  {"origin", SCHEDULE_MAX_TEXT}};

/* Printable, so that a record can neither forge lines of a log nor of a table. */
static Status check_text(int which, const char *text) {
  size_t n = strnlen(text, texts[which].max + 1);
  if (n > texts[which].max)
    return FAIL(INVALID_ARGUMENT, "a schedule's %s of more than %zu bytes", texts[which].name,
                texts[which].max);
  for (size_t i = 0; i < n; i++)
    if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
      return FAIL(INVALID_ARGUMENT, "a schedule's %s has a control character at byte %zu",
                  texts[which].name, i);
  return NULL;
}

static Status check(const Schedule *s) {
  const char *const all[TEXTS] = {s->opts, s->name, s->compiler, s->host, s->origin};
  for (int i = 0; i < TEXTS; i++) TRY(check_text(i, all[i]));
  if ((unsigned)s->cause >= SC__COUNT)
    return FAIL(INVALID_ARGUMENT, "a schedule's cause is %d, expected 0 to %d", (int)s->cause,
                SC__COUNT - 1);
  if (s->nsizes > SCHEDULE_MAX_SIZES)
    return FAIL(INVALID_ARGUMENT, "a schedule with %zu sizes, at most %d are allowed", s->nsizes,
                SCHEDULE_MAX_SIZES);
  for (size_t i = 0; i < s->nsizes; i++)
    if (s->sizes[i] < 0)
      return FAIL(INVALID_ARGUMENT, "size %zu of a schedule is %" PRId64, i, s->sizes[i]);
  if (s->median_ns < 0 || s->mad_ns < 0 || s->peer_ns < 0 || s->measured_at < 0)
    return FAIL(INVALID_ARGUMENT, "a schedule with a negative time");
  if (s->cause == SC_MEASURED && !s->median_ns)
    return FAIL(INVALID_ARGUMENT, "a measured schedule without a median");
  if (s->verified && s->cause != SC_MEASURED)
    return FAIL(INVALID_ARGUMENT, "a schedule that is verified and failed");
  return NULL;
}

/* -- writing ----------------------------------------------------------------------------------- */

static const uint8_t no_class[CACHE_HASH_BYTES];

static int version_of(const Schedule *s) { return *s->origin ? 2 : 1; }
static int texts_of(int version) { return version > 1 ? TEXTS : TEXTS - 1; }

static size_t write_payload(const Schedule *s, uint8_t *at) {
  int ntexts = texts_of(version_of(s));
  const char *const all[TEXTS] = {s->opts, s->name, s->compiler, s->host, s->origin};
  uint64_t flags = (s->verified ? FLAG_VERIFIED : 0u) | (s->imported ? FLAG_IMPORTED : 0u) |
                   (s->class_hash ? FLAG_CLASS : 0u);
  size_t text = 0, pos = SIZES_AT;
  for (int i = 0; i < ntexts; i++) text += strlen(all[i]) + 1;
  const uint64_t numbers[NUMBERS] = {(uint64_t)s->cause,       flags,     (uint64_t)s->median_ns,
                                     (uint64_t)s->mad_ns,      s->reps,   (uint64_t)s->peer_ns,
                                     (uint64_t)s->measured_at, s->nsizes, text};
  memcpy(at, s->kernel, CACHE_HASH_BYTES);
  memcpy(at + CACHE_HASH_BYTES, s->target, CACHE_HASH_BYTES);
  memcpy(at + 2 * CACHE_HASH_BYTES, s->class_hash ? s->class_hash : no_class, CACHE_HASH_BYTES);
  for (int i = 0; i < NUMBERS; i++) sealed_put(at + NUMBERS_AT + 8 * i, numbers[i], 8);
  for (size_t i = 0; i < s->nsizes; i++, pos += 8) sealed_put(at + pos, (uint64_t)s->sizes[i], 8);
  for (int i = 0; i < ntexts; i++) {
    size_t n = strlen(all[i]) + 1;
    memcpy(at + pos, all[i], n);
    pos += n;
  }
  return pos;
}

Status schedule_encode(const Schedule *given, StrBuf *out) {
  Schedule s = *given;
  if (!s.opts) s.opts = "";
  if (!s.name) s.name = "";
  if (!s.compiler) s.compiler = "";
  if (!s.host) s.host = "";
  if (!s.origin) s.origin = "";
  TRY(check(&s));
  if (!strbuf_reserve(out, PAYLOAD_AT + MAX_PAYLOAD)) return FAIL(RESOURCE_EXHAUSTED, "a schedule");
  uint8_t *at = (uint8_t *)out->ptr + out->len;
  size_t n = write_payload(&s, at + PAYLOAD_AT);
  memset(at, 0, HEAD);
  memcpy(at, magic, sizeof magic);
  at[4] = (uint8_t)version_of(&s);
  sealed_put(at + 8, n, 8);
  sealed_close(at, HEAD, n);
  out->len += PAYLOAD_AT + n;
  out->ptr[out->len] = 0;
  return NULL;
}

/* -- reading ----------------------------------------------------------------------------------- */

static Status open_record(Bytes bytes, Bytes *payload) {
  static const uint8_t zero[3];
  if (bytes.len < PAYLOAD_AT || memcmp(bytes.ptr, magic, sizeof magic) != 0)
    return FAIL(DATA_LOSS, "%zu bytes are not a schedule record", bytes.len);
  uint64_t n = sealed_get(bytes.ptr + 8, 8);
  if (n > bytes.len - PAYLOAD_AT)
    return FAIL(DATA_LOSS, "a schedule record of %" PRIu64 " bytes, there are %zu", n,
                bytes.len - PAYLOAD_AT);
  if (!sealed_holds(bytes.ptr, HEAD, (size_t)n))
    return FAIL(DATA_LOSS, "a schedule record does not match its hash");
  if (!bytes.ptr[4] || bytes.ptr[4] > VERSION || memcmp(bytes.ptr + 5, zero, sizeof zero) != 0)
    return FAIL(FAILED_PRECONDITION, "a schedule record of version %u, this server knows %d",
                bytes.ptr[4], VERSION);
  *payload = (Bytes){bytes.ptr + PAYLOAD_AT, (size_t)n};
  if (n < SIZES_AT || n > MAX_PAYLOAD)
    return FAIL(DATA_LOSS, "a schedule record of %" PRIu64 " bytes", n);
  return NULL;
}

static Status read_numbers(const uint8_t *at, Schedule *out, uint64_t *flags, uint64_t *text) {
  uint64_t v[NUMBERS];
  for (int i = 0; i < NUMBERS; i++) v[i] = sealed_get(at + 8 * i, 8);
  for (int i = 0; i < NUMBERS; i++)
    if (v[i] > INT64_MAX) return FAIL(DATA_LOSS, "number %d of a schedule record is negative", i);
  if (v[0] >= SC__COUNT || v[1] > FLAGS || v[4] > UINT32_MAX || v[7] > SCHEDULE_MAX_SIZES)
    return FAIL(DATA_LOSS, "a number of a schedule record is out of range");
  out->cause = (ScheduleCause)v[0];
  *flags = v[1];
  out->median_ns = (int64_t)v[2];
  out->mad_ns = (int64_t)v[3];
  out->reps = (uint32_t)v[4];
  out->peer_ns = (int64_t)v[5];
  out->measured_at = (int64_t)v[6];
  out->nsizes = (size_t)v[7];
  *text = v[8];
  return NULL;
}

static Status read_texts(Bytes rest, int ntexts, Schedule *out) {
  const char **const to[TEXTS] = {&out->opts, &out->name, &out->compiler, &out->host, &out->origin};
  out->origin = "";
  for (int i = 0; i < ntexts; i++) {
    const uint8_t *end = rest.len ? memchr(rest.ptr, 0, rest.len) : NULL;
    if (!end) return FAIL(DATA_LOSS, "a schedule record ends within its %s", texts[i].name);
    *to[i] = (const char *)rest.ptr;
    size_t n = (size_t)(end - rest.ptr) + 1;
    rest = (Bytes){rest.ptr + n, rest.len - n};
  }
  return rest.len ? FAIL(DATA_LOSS, "%zu bytes too many in a schedule record", rest.len) : NULL;
}

Status schedule_decode(Bytes bytes, Arena *arena, Schedule *out, size_t *used) {
  Bytes p;
  uint64_t flags, text;
  *out = (Schedule){0};
  *used = 0;
  TRY(open_record(bytes, &p));
  TRY(read_numbers(p.ptr + NUMBERS_AT, out, &flags, &text));
  size_t sizes = 8 * out->nsizes;
  if (sizes > p.len - SIZES_AT || text != p.len - SIZES_AT - sizes)
    return FAIL(DATA_LOSS, "the lengths of a schedule record disagree");
  int64_t *copy = arena_array(arena, out->nsizes + 1, sizeof *copy);
  if (!copy) return FAIL(RESOURCE_EXHAUSTED, "a schedule");
  for (size_t i = 0; i < out->nsizes; i++)
    copy[i] = (int64_t)sealed_get(p.ptr + SIZES_AT + 8 * i, 8);
  out->sizes = copy;
  out->kernel = p.ptr;
  out->target = p.ptr + CACHE_HASH_BYTES;
  if (flags & FLAG_CLASS) out->class_hash = p.ptr + 2 * CACHE_HASH_BYTES;
  out->verified = flags & FLAG_VERIFIED;
  out->imported = flags & FLAG_IMPORTED;
  TRY(read_texts((Bytes){p.ptr + SIZES_AT + sizes, (size_t)text}, texts_of(bytes.ptr[4]), out));
  Status st = check(out);
  if (st) {
    Status wrapped = FAIL(DATA_LOSS, "%s", st->text);
    status_drop(st);
    return wrapped;
  }
  *used = PAYLOAD_AT + p.len;
  return NULL;
}
