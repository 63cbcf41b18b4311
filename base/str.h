/* Views of bytes and a growable text buffer.
 *
 * A Str points into memory that somebody else owns; who keeps one copies it. A StrBuf owns its
 * memory. Growth failure is sticky: `failed` is set, later appends do nothing, and the caller
 * checks once at the end. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct Str {
  const char *ptr;
  size_t len;
} Str;

typedef struct Bytes {
  const uint8_t *ptr;
  size_t len;
} Bytes;

typedef struct StrBuf {
  char *ptr; /* NUL-terminated once anything was appended */
  size_t len, cap;
  bool failed;
} StrBuf;

#define STR(literal) ((Str){(literal), sizeof(literal) - 1})
#define STR_FMT      "%.*s"
#define STR_ARG(s)   (int)((s).len > 1000 ? 1000 : (s).len), (s).ptr

static inline Str str_from(const char *c) { return (Str){c, c ? strlen(c) : 0}; }
static inline bool str_eq(Str a, Str b) {
  return a.len == b.len && (!a.len || !memcmp(a.ptr, b.ptr, a.len));
}
static inline bool str_is(Str a, const char *b) { return str_eq(a, str_from(b)); }

/* The value of a hexadecimal digit; -1 when c is none. */
int str_hex_digit(char c);

void strbuf_deinit(StrBuf *b);
/* Makes room for n more bytes; false when memory is out (and b->failed is set). */
bool strbuf_reserve(StrBuf *b, size_t n);
void strbuf_add(StrBuf *b, const void *bytes, size_t n);
void strbuf_addf(StrBuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline void strbuf_adds(StrBuf *b, const char *s) { strbuf_add(b, s, strlen(s)); }

/* Checked size arithmetic for lengths that come from outside: false on overflow, *out untouched. */
static inline bool size_add(size_t a, size_t b, size_t *out) {
  return !__builtin_add_overflow(a, b, out);
}
static inline bool size_mul(size_t a, size_t b, size_t *out) {
  return !__builtin_mul_overflow(a, b, out);
}
