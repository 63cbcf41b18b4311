/* What this machine can do: measured once (tune_peaks.c), kept in the cache in the text that says
 * what the target's fingerprint stands for, and known again when the device comes up. */
#pragma once

#include "daemon/server/server.h"

/* Of one device. */
typedef struct DevicePeaks {
  Server *server;
  const DeviceLane *device;
  Kiln__V1__MachinePeaks at;
  uint8_t fingerprint[DIGEST_BYTES]; /* that `at` is of */
  bool looked;                       /* the cache has been asked */
  bool known;                        /* there is something in `at` */
  bool tried;                        /* it has been measured, perhaps in vain */
  StoreJob *lookup;
} DevicePeaks;

enum { PEAKS = 6 }; /* fields of MachinePeaks */
double *peaks_field(Kiln__V1__MachinePeaks *m, size_t i);
/* Lines "name=value"; nothing when nothing is known. */
void peaks_print(const DevicePeaks *p, StrBuf *out);
/* Reads them from among other lines; false when there are none that make sense. */
bool peaks_parse(Str text, Kiln__V1__MachinePeaks *out);
