/* The two text encodings of gRPC over HTTP/2: grpc-timeout ("100m": at most 8 digits and a unit)
 * and grpc-message (percent-encoded: everything outside space..tilde, and the percent sign). */
#include <stdio.h>

#include "proto/grpc.h"

static const struct {
  char unit;
  int64_t ns;
} units[] = {{'n', 1},
             {'u', 1000},
             {'m', 1000000},
             {'S', 1000000000},
             {'M', 60 * (int64_t)1000000000},
             {'H', 3600 * (int64_t)1000000000}};
enum { NUNITS = sizeof units / sizeof *units, TIMEOUT_DIGITS = 8 };

bool grpc_timeout_parse(Str text, int64_t *out_ns) {
  if (text.len < 2 || text.len > TIMEOUT_DIGITS + 1) return false;
  int64_t n = 0;
  for (size_t i = 0; i + 1 < text.len; i++) {
    if (text.ptr[i] < '0' || text.ptr[i] > '9') return false;
    n = n * 10 + (text.ptr[i] - '0');
  }
  for (int i = 0; i < NUNITS; i++) {
    if (units[i].unit != text.ptr[text.len - 1]) continue;
    if (__builtin_mul_overflow(n, units[i].ns, out_ns)) *out_ns = INT64_MAX;
    return true;
  }
  return false;
}

const char *grpc_timeout_format(int64_t ns, char buf[GRPC_TIMEOUT_CAP]) {
  const int64_t max = 99999999;
  if (ns < 1) ns = 1;
  for (int i = 0; i < NUNITS; i++) {
    int64_t n = ns / units[i].ns + (ns % units[i].ns != 0);
    if (n > max && i + 1 < NUNITS) continue;
    snprintf(buf, GRPC_TIMEOUT_CAP, "%d%c", (int)(n > max ? max : n), units[i].unit);
    break;
  }
  return buf;
}

/* The length of the character at p: cutting inside one would send half of it. */
static size_t character(const char *p) {
  size_t n = 1;
  while (((unsigned char)p[n] & 0xc0) == 0x80) n++;
  return n;
}

static bool plain(char c) { return c >= ' ' && c <= '~' && c != '%'; }

size_t grpc_message_encode(const char *text, char *buf, size_t cap) {
  static const char digits[] = "0123456789ABCDEF";
  size_t out = 0;
  while (*text && cap) {
    size_t n = character(text), need = 0;
    for (size_t i = 0; i < n; i++) need += plain(text[i]) ? 1 : 3;
    if (need >= cap - out) break;
    for (size_t i = 0; i < n; i++) {
      unsigned char c = (unsigned char)text[i];
      if (plain(text[i])) {
        buf[out++] = text[i];
        continue;
      }
      buf[out++] = '%';
      buf[out++] = digits[c >> 4];
      buf[out++] = digits[c & 15];
    }
    text += n;
  }
  if (cap) buf[out] = 0;
  return out;
}

size_t grpc_message_decode(Str text, char *buf, size_t cap) {
  size_t out = 0;
  for (size_t i = 0; i < text.len && out + 1 < cap; i++) {
    char c = text.ptr[i];
    int hi = c == '%' && i + 2 < text.len ? str_hex_digit(text.ptr[i + 1]) : -1;
    int lo = hi >= 0 ? str_hex_digit(text.ptr[i + 2]) : -1;
    if (lo >= 0) {
      c = (char)(hi << 4 | lo);
      i += 2;
    }
    buf[out++] = c ? c : '?';
  }
  if (cap) buf[out] = 0;
  return out;
}
