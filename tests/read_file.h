/* All of a file, for programs that are tests or measure. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/str.h"

/* Added to `out`, the caller's. False when it cannot be read, or is empty. */
static inline bool read_file(const char *path, StrBuf *out) {
  FILE *f = fopen(path, "rb");
  char part[65536];
  size_t n;
  while (f && (n = fread(part, 1, sizeof part, f))) strbuf_add(out, part, n);
  bool ok = f && !ferror(f) && !out->failed && out->len;
  if (f) fclose(f);
  return ok;
}
