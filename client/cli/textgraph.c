/* A recursive-descent parser that writes wire bytes as it reads: what a name means comes from the
 * message's descriptor, so nothing here knows what a graph is. Nested messages are encoded into a
 * buffer of their own, because their length comes first. */
#include "client/cli/textgraph.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "kiln/v1/graph.pb-c.h"

enum { DEPTH_MAX = 16, TOKEN_MAX = 64 };

typedef struct Parser {
  const char *at, *end;
  int line, depth;
} Parser;

static void skip(Parser *p) {
  for (; p->at < p->end; p->at++) {
    if (*p->at == '#') {
      while (p->at < p->end && *p->at != '\n') p->at++;
      if (p->at == p->end) return;
    }
    if (*p->at == '\n')
      p->line++;
    else if (*p->at != ' ' && *p->at != '\t' && *p->at != '\r')
      return;
  }
}

static bool eat(Parser *p, char c) {
  skip(p);
  if (p->at == p->end || *p->at != c) return false;
  p->at++;
  return true;
}

static bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == '+' || c == '.';
}

/* A name or a number, as a terminated string. */
static Status word(Parser *p, const char *expected, char out[TOKEN_MAX]) {
  size_t n = 0;
  skip(p);
  while (p->at + n < p->end && is_word(p->at[n])) n++;
  if (!n || n >= TOKEN_MAX)
    return FAIL(INVALID_ARGUMENT, "line %d: expected %s", p->line, expected);
  memcpy(out, p->at, n);
  out[n] = 0;
  p->at += n;
  return NULL;
}

/* -- writing
 * ----------------------------------------------------------------------------------------- */

static void put_varint(StrBuf *b, uint64_t v) {
  for (; v >= 0x80; v >>= 7) strbuf_add(b, (char[]){(char)(v | 0x80)}, 1);
  strbuf_add(b, (char[]){(char)v}, 1);
}

static void put_tag(StrBuf *b, const ProtobufCFieldDescriptor *f, int wire) {
  put_varint(b, (uint64_t)f->id << 3 | (unsigned)wire);
}

static void put_fixed(StrBuf *b, uint64_t v, size_t n) {
  for (size_t i = 0; i < n; i++) strbuf_add(b, (char[]){(char)(v >> (8 * i))}, 1);
}

static void put_string(StrBuf *b, const ProtobufCFieldDescriptor *f, const StrBuf *s) {
  put_tag(b, f, 2);
  put_varint(b, s->len);
  strbuf_add(b, s->ptr, s->len);
}

/* -- values
 * ------------------------------------------------------------------------------------------ */

static bool octal(char c) { return c >= '0' && c <= '7'; }

/* The character after a backslash. */
static Status escape(Parser *p, StrBuf *out) {
  static const char from[] = "nrt\\\"'", to[] = "\n\r\t\\\"'";
  char c = p->at < p->end ? *p->at++ : 0;
  const char *k = c ? strchr(from, c) : NULL;
  if (k) {
    strbuf_add(out, &to[k - from], 1);
  } else if (octal(c)) {
    int v = c - '0';
    for (int i = 0; i < 2 && p->at < p->end && octal(*p->at); i++) v = v * 8 + (*p->at++ - '0');
    strbuf_add(out, (char[]){(char)v}, 1);
  } else if (c == 'x' && p->end - p->at >= 2) {
    char hex[3] = {p->at[0], p->at[1], 0}, *stop;
    unsigned long v = strtoul(hex, &stop, 16);
    if (*stop) return FAIL(INVALID_ARGUMENT, "line %d: bad escape '\\x%s'", p->line, hex);
    strbuf_add(out, (char[]){(char)v}, 1);
    p->at += 2;
  } else {
    return FAIL(INVALID_ARGUMENT, "line %d: unknown escape in a string", p->line);
  }
  return NULL;
}

static Status string_value(Parser *p, StrBuf *out) {
  skip(p);
  char quote = p->at < p->end ? *p->at : 0;
  if (quote != '"' && quote != '\'')
    return FAIL(INVALID_ARGUMENT, "line %d: expected a string in quotes", p->line);
  for (p->at++; p->at < p->end && *p->at != quote;) {
    if (*p->at == '\n') break;
    char c = *p->at++;
    if (c != '\\')
      strbuf_add(out, &c, 1);
    else
      TRY(escape(p, out));
  }
  if (eat(p, quote)) return NULL;
  return FAIL(INVALID_ARGUMENT, "line %d: the string does not end", p->line);
}

static Status integer(const Parser *p, const char *text, bool is_signed, uint64_t *out) {
  char *end;
  errno = 0;
  *out = is_signed ? (uint64_t)strtoll(text, &end, 0) : strtoull(text, &end, 0);
  if (*end || errno || (!is_signed && *text == '-'))
    return FAIL(INVALID_ARGUMENT, "line %d: '%s' is not %s integer of 64 bits", p->line, text,
                is_signed ? "an" : "an unsigned");
  return NULL;
}

static Status enum_value(const Parser *p, const ProtobufCFieldDescriptor *f, const char *text,
                         uint64_t *out) {
  const ProtobufCEnumDescriptor *d = f->descriptor;
  for (unsigned i = 0; i < d->n_values; i++)
    if (!strcmp(d->values[i].name, text)) return *out = (uint64_t)d->values[i].value, NULL;
  if ((*text >= '0' && *text <= '9')) return integer(p, text, false, out);
  return FAIL(INVALID_ARGUMENT, "line %d: %s has no value '%s'", p->line, d->short_name, text);
}

static Status real_value(const Parser *p, const char *text, bool is_double, uint64_t *bits) {
  char *end;
  double d = strtod(text, &end);
  float f = (float)d;
  uint32_t narrow;
  if (*end) return FAIL(INVALID_ARGUMENT, "line %d: '%s' is not a number", p->line, text);
  memcpy(bits, &d, sizeof d);
  memcpy(&narrow, &f, sizeof f);
  if (!is_double) *bits = narrow;
  return NULL;
}

static Status bool_value(const Parser *p, const char *text, uint64_t *out) {
  *out = !strcmp(text, "true") || !strcmp(text, "1");
  if (*out || !strcmp(text, "false") || !strcmp(text, "0")) return NULL;
  return FAIL(INVALID_ARGUMENT, "line %d: '%s' is not true or false", p->line, text);
}

/* What a varint field holds for this text. */
static Status varint_value(const Parser *p, const ProtobufCFieldDescriptor *f, const char *text,
                           uint64_t *out) {
  switch (f->type) {
  case PROTOBUF_C_TYPE_ENUM: return enum_value(p, f, text, out);
  case PROTOBUF_C_TYPE_BOOL: return bool_value(p, text, out);
  case PROTOBUF_C_TYPE_SINT32:
  case PROTOBUF_C_TYPE_SINT64:
    TRY(integer(p, text, true, out));
    *out = *out << 1 ^ (*out >> 63 ? UINT64_MAX : 0);
    return NULL;
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_INT64: return integer(p, text, true, out);
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_UINT64: return integer(p, text, false, out);
  default:
    return FAIL(UNIMPLEMENTED, "line %d: the type of field '%s' is not supported", p->line,
                f->name);
  }
}

static Status scalar(Parser *p, const ProtobufCFieldDescriptor *f, StrBuf *out) {
  char text[TOKEN_MAX];
  uint64_t v = 0;
  bool is_double = f->type == PROTOBUF_C_TYPE_DOUBLE;
  TRY(word(p, "a value", text));
  if (is_double || f->type == PROTOBUF_C_TYPE_FLOAT) {
    TRY(real_value(p, text, is_double, &v));
    put_tag(out, f, is_double ? 1 : 5);
    put_fixed(out, v, is_double ? 8 : 4);
    return NULL;
  }
  TRY(varint_value(p, f, text, &v));
  put_tag(out, f, 0);
  put_varint(out, v);
  return NULL;
}

/* -- messages
 * ---------------------------------------------------------------------------------------- */

static Status fields(Parser *p, const ProtobufCMessageDescriptor *desc, bool top, StrBuf *out);

static Status nested(Parser *p, const ProtobufCFieldDescriptor *f, StrBuf *out) {
  StrBuf inner = {0};
  if (!eat(p, '{'))
    return FAIL(INVALID_ARGUMENT, "line %d: expected '{' after '%s'", p->line, f->name);
  if (++p->depth > DEPTH_MAX)
    return FAIL(INVALID_ARGUMENT, "line %d: nested deeper than %d", p->line, DEPTH_MAX);
  Status st = fields(p, f->descriptor, false, &inner);
  p->depth--;
  if (!st) put_string(out, f, &inner);
  strbuf_deinit(&inner);
  return st;
}

static Status value(Parser *p, const ProtobufCFieldDescriptor *f, StrBuf *out) {
  if (f->type == PROTOBUF_C_TYPE_MESSAGE) return nested(p, f, out);
  if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_BYTES)
    return scalar(p, f, out);
  StrBuf s = {0};
  Status st = string_value(p, &s);
  if (!st) put_string(out, f, &s);
  strbuf_deinit(&s);
  return st;
}

static Status list(Parser *p, const ProtobufCFieldDescriptor *f, StrBuf *out) {
  if (f->label != PROTOBUF_C_LABEL_REPEATED)
    return FAIL(INVALID_ARGUMENT, "line %d: '%s' is not a list", p->line, f->name);
  if (eat(p, ']')) return NULL;
  do TRY(value(p, f, out));
  while (eat(p, ','));
  if (eat(p, ']')) return NULL;
  return FAIL(INVALID_ARGUMENT, "line %d: expected ',' or ']' in '%s'", p->line, f->name);
}

static Status field(Parser *p, const ProtobufCMessageDescriptor *desc, const char *expected,
                    StrBuf *out) {
  char name[TOKEN_MAX];
  TRY(word(p, expected, name));
  const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(desc, name);
  if (!f)
    return FAIL(INVALID_ARGUMENT, "line %d: %s has no field '%s'", p->line, desc->short_name, name);
  bool colon = eat(p, ':');
  if (!colon && f->type != PROTOBUF_C_TYPE_MESSAGE)
    return FAIL(INVALID_ARGUMENT, "line %d: expected ':' after '%s'", p->line, name);
  Status st = eat(p, '[') ? list(p, f, out) : value(p, f, out);
  if (!st && !eat(p, ',')) (void)eat(p, ';');
  return st;
}

static Status fields(Parser *p, const ProtobufCMessageDescriptor *desc, bool top, StrBuf *out) {
  for (;;) {
    skip(p);
    if (top ? p->at == p->end : eat(p, '}')) return NULL;
    TRY(field(p, desc, top ? "a field's name" : "a field's name or '}'", out));
  }
}

Status textgraph_encode(Str text, const ProtobufCMessageDescriptor *desc, StrBuf *out) {
  Parser p = {.at = text.ptr, .end = text.ptr + text.len, .line = 1};
  TRY(fields(&p, desc, true, out));
  return out->failed ? FAIL(RESOURCE_EXHAUSTED, "no memory for the graph") : NULL;
}

/* -- files
 * ------------------------------------------------------------------------------------------- */

/* An encoded graph has control characters: the tag of a node's op is one. */
static bool looks_like_text(const StrBuf *b) {
  for (size_t i = 0; i < b->len; i++) {
    unsigned char c = (unsigned char)b->ptr[i];
    if (c < ' ' && c != '\n' && c != '\t' && c != '\r') return false;
  }
  return true;
}

static Status read_all(const char *path, StrBuf *out) {
  char piece[16 << 10];
  FILE *f = fopen(path, "rb");
  if (!f) return FAIL(NOT_FOUND, "%s: %s", path, strerror(errno));
  for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) strbuf_add(out, piece, n);
  bool ok = !ferror(f) && !out->failed;
  fclose(f);
  return ok ? NULL : FAIL(INVALID_ARGUMENT, "%s: cannot be read", path);
}

Status textgraph_load(const char *path, StrBuf *out, bool *is_text) {
  StrBuf file = {0};
  *is_text = false;
  Status st = read_all(path, &file);
  if (!st && looks_like_text(&file)) {
    *is_text = true;
    st = textgraph_encode((Str){file.ptr, file.len}, &kiln__v1__graph__descriptor, out);
    if (st) st = WRAP(st, "%s", path);
  }
  strbuf_deinit(&file);
  return st;
}
