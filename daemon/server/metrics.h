/* What the server counts, and how it is shown to Prometheus.
 *
 * metrics.def is the one table. Everything is a plain field of one struct that the loop alone
 * touches: counting is an addition. Nothing is allocated and no label can grow the struct, however
 * many strangers call. */
#pragma once

#include "base/str.h"

typedef enum LabelKind {
#define LABEL(id_, name_, n_) LABEL_##id_,
#include "daemon/server/metrics.def"
  LABEL__COUNT
} LabelKind;

enum {
#define LABEL(id_, name_, n_) LABELS_##id_ = n_,
#include "daemon/server/metrics.def"
};

/* What a call spends its time with. */
typedef enum Phase {
  PHASE_PARSE,   /* reading and checking one message */
  PHASE_UPLOAD,  /* receiving or placing tensors and models */
  PHASE_QUEUE,   /* waiting for a worker */
  PHASE_CACHE,   /* asking the cache */
  PHASE_COMPILE, /* being compiled */
  PHASE_RUN,     /* the device has it */
  PHASE_DOWNLOAD /* making and sending the answer */
} Phase;
const char *phase_name(Phase p);

/* LABEL_RESULT */
enum { RESULT_OK, RESULT_FAILED, RESULT_MERGED };

/* Bucket i holds times of up to 2^(13 + i) ns: 8 us to 34 s, and one more for the rest. */
enum { HISTOGRAM_SHIFT = 13, HISTOGRAM_BUCKETS = 24 };
typedef struct Histogram {
  uint64_t bucket[HISTOGRAM_BUCKETS];
  uint64_t sum_ns;
} Histogram;

typedef struct Metrics {
#define COUNTER(name_, a_, b_, unit_, help_) uint64_t name_[LABELS_##a_][LABELS_##b_];
#define GAUGE(name_, a_, b_, unit_, help_)   uint64_t name_[LABELS_##a_][LABELS_##b_];
#define HISTOGRAM(name_, a_, help_)          Histogram name_[LABELS_##a_];
#include "daemon/server/metrics.def"
} Metrics;

static inline void histogram_add(Histogram *h, int64_t ns) {
  uint64_t over = ns > 1 ? (uint64_t)(ns - 1) >> HISTOGRAM_SHIFT : 0;
  unsigned i = over ? 64 - (unsigned)__builtin_clzll(over) : 0;
  h->bucket[i < HISTOGRAM_BUCKETS ? i : HISTOGRAM_BUCKETS - 1]++;
  h->sum_ns += ns > 0 ? (uint64_t)ns : 0;
}

/* The value of a label that comes as text: its place among the known ones, else the last, "other".
 */
unsigned metrics_cause(const char *cause);     /* LABEL_CAUSE: why a worker ended */
unsigned metrics_outcome(const char *outcome); /* LABEL_OUTCOME: of a candidate of the tuner */
unsigned metrics_role(const char *role);       /* LABEL_ROLE: of a worker */

/* The name of value i of a label whose values the server decides (method, device, tenant); NULL
 * when there is none. */
typedef const char *(*MetricsLabel)(const void *ctx, LabelKind kind, unsigned i);
/* Appends everything in the text exposition format 0.0.4. */
void metrics_text(const Metrics *m, MetricsLabel label, const void *ctx, StrBuf *out);
