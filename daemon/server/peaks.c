/* The numbers travel as doubles in a message and stay in the cache as lines of a text that is for
 * people too. Lines that are not ours are somebody else's; a number that is none is not known, and
 * what is not known is 0, for which the search has an assumption. */
#include "daemon/server/peaks.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  size_t offset;
} fields[PEAKS] = {
#define FIELD(name_)                                                                               \
  { "peak_" #name_, offsetof(Kiln__V1__MachinePeaks, name_) }
    FIELD(flops_f32), FIELD(flops_f64),    FIELD(l2_bytes),
    FIELD(l3_bytes),  FIELD(memory_bytes), FIELD(all_memory_bytes),
#undef FIELD
};

double *peaks_field(Kiln__V1__MachinePeaks *m, size_t i) {
  return (double *)(void *)((char *)m + fields[i].offset);
}

void peaks_print(const DevicePeaks *p, StrBuf *out) {
  Kiln__V1__MachinePeaks m = p->at;
  for (size_t i = 0; p->known && i < PEAKS; i++)
    strbuf_addf(out, "%s=%.3f\n", fields[i].name, *peaks_field(&m, i));
}

/* The text is of a file that anybody may have written. */
static void parse_line(Str line, Kiln__V1__MachinePeaks *out, bool *any) {
  for (size_t i = 0; i < PEAKS; i++) {
    char number[32];
    size_t n = strlen(fields[i].name);
    if (line.len <= n + 1 || memcmp(line.ptr, fields[i].name, n) || line.ptr[n] != '=') continue;
    if (line.len - n - 1 >= sizeof number) continue;
    memcpy(number, line.ptr + n + 1, line.len - n - 1);
    number[line.len - n - 1] = 0;
    double v = strtod(number, NULL);
    if (!isfinite(v) || v < 0 || v > 1e9) continue;
    *peaks_field(out, i) = v;
    *any |= v > 0;
  }
}

bool peaks_parse(Str text, Kiln__V1__MachinePeaks *out) {
  bool any = false;
  kiln__v1__machine_peaks__init(out);
  while (text.len) {
    const char *end = memchr(text.ptr, '\n', text.len);
    size_t n = end ? (size_t)(end - text.ptr) : text.len;
    parse_line((Str){text.ptr, n}, out, &any);
    text.ptr += n + (end != NULL);
    text.len -= n + (end != NULL);
  }
  return any;
}
