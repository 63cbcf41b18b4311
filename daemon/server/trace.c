/* Ids need to be unique, not secret: they come from xorshift128+ (Vigna), seeded once from the
 * kernel, so that a span costs no system call. Memory for the ring is taken with the first span. */
#include "daemon/server/trace.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"
#include "proto/digest.h"

void trace_ring_deinit(TraceRing *t) {
  free(t->at);
  *t = (TraceRing){.at = NULL};
}

/* -- traceparent --------------------------------------------------------------------------------
 */

static bool any(const uint8_t *bytes, size_t n) {
  uint8_t all = 0;
  for (size_t i = 0; i < n; i++) all |= bytes[i];
  return all != 0;
}

/* Lower-case hexadecimal digits only, as the specification has it. */
static bool read_hex(const char *text, uint8_t *out, size_t n) {
  for (size_t i = 0; i < 2 * n; i++)
    if (text[i] >= 'A' && text[i] <= 'F') return false;
  return digest_from_hex((Str){text, 2 * n}, out, n);
}

bool traceparent_parse(Str text, TraceContext *out) {
  enum { TRACE_AT = 3, PARENT_AT = 36, FLAGS_AT = 53, LENGTH = 55 };
  uint8_t version, flags;
  TraceContext c = {.sampled = false};
  if (text.len < LENGTH || text.ptr[2] != '-' || text.ptr[PARENT_AT - 1] != '-' ||
      text.ptr[FLAGS_AT - 1] != '-')
    return false;
  if (!read_hex(text.ptr, &version, 1) || version == 0xff) return false;
  /* later versions may append fields */
  if (text.len > LENGTH && (!version || text.ptr[LENGTH] != '-')) return false;
  if (!read_hex(text.ptr + TRACE_AT, c.trace, TRACE_ID) ||
      !read_hex(text.ptr + PARENT_AT, c.parent, SPAN_ID) ||
      !read_hex(text.ptr + FLAGS_AT, &flags, 1))
    return false;
  if (!any(c.trace, TRACE_ID) || !any(c.parent, SPAN_ID)) return false;
  c.sampled = flags & 1;
  *out = c;
  return true;
}

/* -- ids ----------------------------------------------------------------------------------------
 */

static uint64_t next_random(TraceRing *t) {
  uint64_t *s = t->random;
  while (!s[0] && !s[1])
    if (getrandom(s, sizeof t->random, 0) != sizeof t->random) s[0] = s[1] = 0;
  uint64_t a = s[0], b = s[1], sum = a + b;
  s[0] = b;
  a ^= a << 23;
  s[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
  return sum ? sum : 1;
}

static void make_id(TraceRing *t, uint8_t *id, size_t n) {
  for (size_t at = 0; at < n; at += sizeof(uint64_t)) {
    uint64_t word = next_random(t);
    memcpy(id + at, &word, sizeof word);
  }
}

void trace_begin(TraceRing *t, TraceContext *c, bool root) {
  if (root) {
    make_id(t, c->trace, TRACE_ID);
    memset(c->parent, 0, SPAN_ID);
    c->sampled = true;
  }
  make_id(t, c->span, SPAN_ID);
}

/* -- spans --------------------------------------------------------------------------------------
 */

void trace_record(TraceRing *t, const TraceContext *c, Span span, int64_t begin_ns,
                  int64_t end_ns) {
  if (!t->at) {
    t->at = calloc(TRACE_SPANS, sizeof *t->at);
    if (!t->at) return; /* without memory there are no traces */
    t->wall_offset = clock_wall_ns() - clock_now_ns();
  }
  bool call = span.phase < 0;
  memcpy(span.trace, c->trace, TRACE_ID);
  memcpy(span.parent, call ? c->parent : c->span, SPAN_ID);
  if (call)
    memcpy(span.id, c->span, SPAN_ID);
  else
    make_id(t, span.id, SPAN_ID);
  span.start_ns = begin_ns + t->wall_offset;
  span.duration_ns = end_ns - begin_ns;
  t->at[t->written++ % TRACE_SPANS] = span;
}
