/* Spans of calls, for people who follow one call through several programs.
 *
 * A call that carries a sampled W3C traceparent is recorded: one span for the call, whose parent is
 * the caller's, and one for each phase. With `[trace] all` every call is. Spans go into a ring of
 * fixed size, the oldest making room; the Trace RPC reads it. Tensors and models never do. */
#pragma once

#include "base/status.h"
#include "base/str.h"
#include "daemon/server/metrics.h"

enum { TRACE_ID = 16, SPAN_ID = 8, TRACE_SPANS = 8192 };

typedef struct TraceContext {
  uint8_t trace[TRACE_ID], parent[SPAN_ID]; /* the caller's */
  uint8_t span[SPAN_ID];                    /* of the call here */
  bool sampled;
} TraceContext;

typedef struct Span {
  uint8_t trace[TRACE_ID], id[SPAN_ID], parent[SPAN_ID]; /* parent zeros: none */
  int64_t start_ns, duration_ns;                         /* wall clock */
  uint32_t request, tenant;
  int8_t phase;   /* -1: the call */
  uint8_t method; /* its place in the table of methods */
  uint8_t code;   /* of the call */
} Span;

typedef struct TraceRing {
  Span *at;            /* NULL until the first span */
  uint64_t written;    /* spans ever; number n lies at n % TRACE_SPANS */
  uint64_t random[2];  /* state of the generator of ids */
  int64_t wall_offset; /* wall clock less monotonic clock, when the ring was made */
} TraceRing;

void trace_ring_deinit(TraceRing *t);
/* "00-TRACE-PARENT-FLAGS"; false for what the specification calls invalid. */
bool traceparent_parse(Str text, TraceContext *out);
/* Makes up the ids of a context: its span, and with `root` the trace too. */
void trace_begin(TraceRing *t, TraceContext *c, bool root);
/* Records a span of [begin_ns, end_ns) on the monotonic clock; ids, start and duration are filled
 * in. A phase becomes a child of the call's span. */
void trace_record(TraceRing *t, const TraceContext *c, Span span, int64_t begin_ns, int64_t end_ns);
