/* The growable buffer behind StrBuf: doubling growth, one spare byte for the terminator. */
#include "base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int str_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void strbuf_deinit(StrBuf *b) {
  free(b->ptr);
  *b = (StrBuf){0};
}

bool strbuf_reserve(StrBuf *b, size_t n) {
  size_t need;
  if (b->failed) return false;
  if (!size_add(b->len, n, &need) || !size_add(need, 1, &need)) return b->failed = true, false;
  if (need <= b->cap) return true;
  size_t cap = b->cap ? b->cap : 64;
  while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
  char *p = realloc(b->ptr, cap);
  if (!p) return b->failed = true, false;
  b->ptr = p;
  b->cap = cap;
  return true;
}

void strbuf_add(StrBuf *b, const void *bytes, size_t n) {
  if (!strbuf_reserve(b, n)) return;
  if (n) memcpy(b->ptr + b->len, bytes, n);
  b->len += n;
  b->ptr[b->len] = 0;
}

void strbuf_addf(StrBuf *b, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  if (n < 0 || !strbuf_reserve(b, (size_t)n)) return;
  va_start(ap, fmt);
  vsnprintf(b->ptr + b->len, (size_t)n + 1, fmt, ap);
  va_end(ap);
  b->len += (size_t)n;
}
