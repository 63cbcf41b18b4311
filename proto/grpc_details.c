/* What a status says beyond code and message: google.rpc.Status in the trailer
 * grpc-status-details-bin, of which Kiln uses one detail, google.rpc.RetryInfo.
 *
 *   Status    { int32 code = 1; string message = 2; repeated Any details = 3; }
 *   Any       { string type_url = 1; bytes value = 2; }
 *   RetryInfo { Duration retry_delay = 1; }     Duration { int64 seconds = 1; int32 nanos = 2; }
 *
 * Binary headers travel in base64, with padding or without (RFC 4648). */
#include <stdio.h>

#include "proto/grpc.h"
#include "proto/wire.h"

static const char type_url[] = "type.googleapis.com/google.rpc.RetryInfo";
enum { BINARY_CAP = 700, TEXT_MAX = 512, SMALL_CAP = 32, SECOND = 1000000000 };
_Static_assert((BINARY_CAP + 2) / 3 * 4 < GRPC_DETAILS_CAP, "base64 of it fits");

/* -- base64 ------------------------------------------------------------------------------------ */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void base64_encode(const uint8_t *in, size_t n, char *out) {
  for (size_t i = 0; i < n; i += 3) {
    size_t left = n - i;
    uint32_t v = (uint32_t)in[i] << 16;
    if (left > 1) v |= (uint32_t)in[i + 1] << 8;
    if (left > 2) v |= in[i + 2];
    *out++ = digits[v >> 18];
    *out++ = digits[v >> 12 & 63];
    if (left > 1) *out++ = digits[v >> 6 & 63];
    if (left > 2) *out++ = digits[v & 63];
  }
  *out = 0;
}

/* False on a strange character, or when it does not fit. */
static bool base64_decode(Str text, uint8_t *out, size_t cap, size_t *n) {
  uint32_t bits = 0, have = 0;
  *n = 0;
  while (text.len && text.ptr[text.len - 1] == '=') text.len--;
  for (size_t i = 0; i < text.len; i++) {
    const char *at = text.ptr[i] ? strchr(digits, text.ptr[i]) : NULL;
    if (!at) return false;
    bits = bits << 6 | (uint32_t)(at - digits);
    if ((have += 6) < 8) continue;
    have -= 8;
    if (*n == cap) return false;
    out[(*n)++] = (uint8_t)(bits >> have);
  }
  return true;
}

/* -- writing ----------------------------------------------------------------------------------- */

static uint8_t *put_varint(uint8_t *p, uint64_t v) {
  for (; v > 127; v >>= 7) *p++ = (uint8_t)(v | 128);
  *p++ = (uint8_t)v;
  return p;
}

static uint8_t *put_number(uint8_t *p, uint32_t field, uint64_t v) {
  return put_varint(put_varint(p, field << 3 | WIRE_VARINT), v);
}

static uint8_t *put_bytes(uint8_t *p, uint32_t field, const void *bytes, size_t n) {
  p = put_varint(put_varint(p, field << 3 | WIRE_LEN), n);
  memcpy(p, bytes, n);
  return p + n;
}

/* The length of text, cut at TEXT_MAX between two characters. */
static size_t cut(const char *text) {
  size_t n = strlen(text);
  if (n <= TEXT_MAX) return n;
  n = TEXT_MAX;
  while (n && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
  return n;
}

const char *grpc_retry_encode(StatusCode code, const char *text, int64_t retry_ns,
                              char buf[GRPC_DETAILS_CAP]) {
  uint8_t duration[SMALL_CAP], info[SMALL_CAP + 8], any[SMALL_CAP + 64], status[BINARY_CAP];
  uint8_t *d = put_number(duration, 1, (uint64_t)(retry_ns / SECOND));
  d = put_number(d, 2, (uint64_t)(retry_ns % SECOND));
  const uint8_t *i = put_bytes(info, 1, duration, (size_t)(d - duration));
  uint8_t *a = put_bytes(any, 1, type_url, sizeof type_url - 1);
  a = put_bytes(a, 2, info, (size_t)(i - info));
  uint8_t *s = put_number(status, 1, (uint64_t)code);
  s = put_bytes(s, 2, text, cut(text));
  s = put_bytes(s, 3, any, (size_t)(a - any));
  base64_encode(status, (size_t)(s - status), buf);
  return buf;
}

/* -- reading ----------------------------------------------------------------------------------- */

/* The last field of this number and type; false when there is none or the bytes are malformed. */
static bool find(Bytes msg, uint32_t id, WireType type, WireField *out) {
  WireReader r = wire_reader(msg);
  bool found = false;
  for (WireField f; wire_next(&r, &f);)
    if (f.id == id && f.type == type) *out = f, found = true;
  return found && !r.error;
}

static int64_t read_info(Bytes info) {
  WireField delay, seconds, nanos;
  if (!find(info, 1, WIRE_LEN, &delay)) return 0;
  uint64_t s = find(delay.bytes, 1, WIRE_VARINT, &seconds) ? seconds.value : 0;
  uint64_t ns = find(delay.bytes, 2, WIRE_VARINT, &nanos) ? nanos.value : 0;
  if (s > INT64_MAX / SECOND - 1 || ns >= SECOND) return 0;
  return (int64_t)(s * SECOND + ns);
}

int64_t grpc_retry_decode(Str header) {
  uint8_t bytes[4 * GRPC_DETAILS_CAP];
  size_t n;
  if (!base64_decode(header, bytes, sizeof bytes, &n)) return 0;
  WireReader r = wire_reader((Bytes){bytes, n});
  int64_t ns = 0;
  for (WireField f, url, value; wire_next(&r, &f);) {
    if (f.id != 3 || f.type != WIRE_LEN || !find(f.bytes, 1, WIRE_LEN, &url) ||
        !str_is((Str){(const char *)url.bytes.ptr, url.bytes.len}, type_url))
      continue;
    if (find(f.bytes, 2, WIRE_LEN, &value)) ns = read_info(value.bytes);
  }
  return r.error ? 0 : ns;
}
