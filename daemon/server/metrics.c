/* The table is expanded a second time into rows that say where a metric lies, so that printing is
 * one loop. Of labelled counters only what has happened is shown: a series appears with its first
 * event. Gauges show all values that their label has. */
#include "daemon/server/metrics.h"

#include <inttypes.h>
#include <stddef.h>

#include "base/status.h"
#include "cache/shared.h"

enum { UNIT_ONE, UNIT_NS };
typedef enum MetricKind { MK_COUNTER, MK_GAUGE, MK_HISTOGRAM } MetricKind;

typedef struct MetricRow {
  const char *name, *help;
  MetricKind kind;
  LabelKind a, b;
  int unit;
  size_t offset;
} MetricRow;

#define ROW(kind_, name_, a_, b_, unit_, help_)                                                    \
  {#name_, help_, MK_##kind_, LABEL_##a_, LABEL_##b_, unit_, offsetof(Metrics, name_)},
static const MetricRow rows[] = {
#define COUNTER(name_, a_, b_, unit_, help_) ROW(COUNTER, name_, a_, b_, unit_, help_)
#define GAUGE(name_, a_, b_, unit_, help_)   ROW(GAUGE, name_, a_, b_, unit_, help_)
#define HISTOGRAM(name_, a_, help_)          ROW(HISTOGRAM, name_, a_, NONE, UNIT_NS, help_)
#include "daemon/server/metrics.def"
};
#undef ROW

static const struct {
  const char *name;
  unsigned n;
} labels[LABEL__COUNT] = {
#define LABEL(id_, name_, n_) {name_, n_},
#include "daemon/server/metrics.def"
};

static const char *const phases[LABELS_PHASE] = {
    [PHASE_PARSE] = "parse",      [PHASE_UPLOAD] = "upload",   [PHASE_QUEUE] = "queue",
    [PHASE_CACHE] = "cache",      [PHASE_COMPILE] = "compile", [PHASE_RUN] = "run",
    [PHASE_DOWNLOAD] = "download"};
static const char *const roles[LABELS_ROLE] = {"compile", "device", "timing", "other"};
static const char *const causes[LABELS_CAUSE] = {"crash", "oom", "timeout", "device_lost", "other"};
static const char *const outcomes[LABELS_OUTCOME] = {"measured", "compile_error", "timeout", "oom",
                                                     "crash",    "wrong_result",  "other"};
static const char *const results[LABELS_RESULT] = {"ok", "failed", "merged"};

_Static_assert(LABELS_OFFER == (int)OV__COUNT, "a verdict is a label");

const char *phase_name(Phase p) { return phases[p]; }

static unsigned place(const char *const *names, unsigned n, const char *name) {
  unsigned i = 0;
  while (i + 1 < n && strcmp(names[i], name) != 0) i++;
  return i;
}
unsigned metrics_cause(const char *cause) { return place(causes, LABELS_CAUSE, cause); }
unsigned metrics_outcome(const char *o) { return place(outcomes, LABELS_OUTCOME, o); }
unsigned metrics_role(const char *role) { return place(roles, LABELS_ROLE, role); }

/* -- text ---------------------------------------------------------------------------------------
 */

typedef struct Printer {
  const Metrics *m;
  MetricsLabel label;
  const void *ctx;
  StrBuf *out;
} Printer;

/* The text of value i of a label; NULL when there is no such value. */
static const char *value_name(const Printer *p, LabelKind kind, unsigned i) {
  switch (kind) {
  case LABEL_NONE: return "";
  case LABEL_CODE: return status_code_name((StatusCode)i);
  case LABEL_PHASE: return phases[i];
  case LABEL_ROLE: return roles[i];
  case LABEL_CAUSE: return causes[i];
  case LABEL_OUTCOME: return outcomes[i];
  case LABEL_RESULT: return results[i];
  case LABEL_OFFER: return offer_verdict_name[i];
  default: return p->label(p->ctx, kind, i);
  }
}

/* name="value", the value escaped as the format asks. */
static void put_label(StrBuf *out, LabelKind kind, const char *value, bool *first) {
  if (kind == LABEL_NONE) return;
  strbuf_addf(out, "%s%s=\"", *first ? "" : ",", labels[kind].name);
  for (const char *c = value; *c; c++) {
    if (*c == '\\' || *c == '"') strbuf_adds(out, "\\");
    if (*c == '\n')
      strbuf_adds(out, "\\n");
    else
      strbuf_add(out, c, 1);
  }
  strbuf_adds(out, "\"");
  *first = false;
}

static void put_number(StrBuf *out, uint64_t v, int unit) {
  if (unit == UNIT_NS)
    strbuf_addf(out, "%" PRIu64 ".%09" PRIu64 "\n", v / 1000000000, v % 1000000000);
  else
    strbuf_addf(out, "%" PRIu64 "\n", v);
}

static void put_series(const Printer *p, const MetricRow *row, unsigned i, unsigned k) {
  const uint64_t *cells = (const uint64_t *)(const void *)((const char *)p->m + row->offset);
  uint64_t v = cells[i * labels[row->b].n + k];
  const char *a = value_name(p, row->a, i), *b = a ? value_name(p, row->b, k) : NULL;
  bool first = true;
  if (!a || !b || (!v && row->kind == MK_COUNTER && row->a != LABEL_NONE)) return;
  strbuf_addf(p->out, "kiln_%s", row->name);
  if (row->a != LABEL_NONE) {
    strbuf_adds(p->out, "{");
    put_label(p->out, row->a, a, &first);
    put_label(p->out, row->b, b, &first);
    strbuf_adds(p->out, "}");
  }
  strbuf_adds(p->out, " ");
  put_number(p->out, v, row->unit);
}

/* The labels of one line of a histogram, "{phase=\"run\",le=\"0.000008192\"}". */
static void put_place(const Printer *p, const MetricRow *row, const char *a, const char *le) {
  bool first = true;
  strbuf_adds(p->out, "{");
  put_label(p->out, row->a, a, &first);
  if (le) strbuf_addf(p->out, "%sle=\"%s\"", first ? "" : ",", le);
  strbuf_adds(p->out, "} ");
}

static void put_histogram(const Printer *p, const MetricRow *row, unsigned i) {
  const Histogram *h = &((const Histogram *)(const void *)((const char *)p->m + row->offset))[i];
  const char *a = value_name(p, row->a, i);
  uint64_t count = 0;
  for (int k = 0; k < HISTOGRAM_BUCKETS; k++) count += h->bucket[k];
  if (!a || !count) return;
  count = 0;
  for (int k = 0; k < HISTOGRAM_BUCKETS; k++) {
    StrBuf le = {0};
    uint64_t ns = 1ull << (HISTOGRAM_SHIFT + k);
    count += h->bucket[k];
    if (k + 1 < HISTOGRAM_BUCKETS)
      strbuf_addf(&le, "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
    else
      strbuf_adds(&le, "+Inf");
    strbuf_addf(p->out, "kiln_%s_bucket", row->name);
    put_place(p, row, a, le.ptr ? le.ptr : "");
    put_number(p->out, count, UNIT_ONE);
    strbuf_deinit(&le);
  }
  strbuf_addf(p->out, "kiln_%s_sum", row->name);
  put_place(p, row, a, NULL);
  put_number(p->out, h->sum_ns, UNIT_NS);
  strbuf_addf(p->out, "kiln_%s_count", row->name);
  put_place(p, row, a, NULL);
  put_number(p->out, count, UNIT_ONE);
}

void metrics_text(const Metrics *m, MetricsLabel label, const void *ctx, StrBuf *out) {
  static const char *const kinds[] = {"counter", "gauge", "histogram"};
  const Printer p = {.m = m, .label = label, .ctx = ctx, .out = out};
  for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
    const MetricRow *row = &rows[r];
    strbuf_addf(out, "# HELP kiln_%s %s\n# TYPE kiln_%s %s\n", row->name, row->help, row->name,
                kinds[row->kind]);
    for (unsigned i = 0; i < labels[row->a].n; i++) {
      if (row->kind == MK_HISTOGRAM)
        put_histogram(&p, row, i);
      else
        for (unsigned k = 0; k < labels[row->b].n; k++) put_series(&p, row, i, k);
    }
  }
}
