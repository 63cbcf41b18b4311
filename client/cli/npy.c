/* A .npy file is: "\x93NUMPY", version (2 bytes), header length (2 bytes, or 4 from version 2 on),
 * a Python dict literal, the data. The dict always holds exactly descr, fortran_order and shape, so
 * its parser knows three kinds of value and refuses everything else. */
#include "client/cli/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAGIC_BYTES = 6, HEADER_MAX = 64 << 10, ALIGN = 64 };
static const char magic[] = "\x93NUMPY";

static const struct {
  const char *descr; /* without byte order */
  KilnDType dtype;
} kinds[] = {{"b1", KILN_BOOL}, {"i1", KILN_I8},  {"i2", KILN_I16}, {"i4", KILN_I32},
             {"i8", KILN_I64},  {"u1", KILN_U8},  {"u2", KILN_U16}, {"u4", KILN_U32},
             {"u8", KILN_U64},  {"f2", KILN_F16}, {"f4", KILN_F32}, {"f8", KILN_F64},
             {"V2", KILN_BF16}};
/* numpy stores the dtypes of ml_dtypes as bytes without a name; who reads them knows which. */
static const struct {
  const char *descr;
  KilnDType dtype;
} unnamed[] = {{"V1", KILN_U8}, {"f1", KILN_F8E5M2}};
enum { NKINDS = sizeof kinds / sizeof *kinds };

/* -- the header's dict
 * ------------------------------------------------------------------------------- */

typedef struct Header {
  Str descr;
  bool fortran, seen_descr, seen_order, seen_shape;
  size_t rank;
  uint64_t dims[NPY_RANK_MAX];
} Header;

typedef struct Scanner {
  const char *at, *end;
} Scanner;

static void skip_space(Scanner *s) {
  while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\t')) s->at++;
}

static bool eat(Scanner *s, char c) {
  skip_space(s);
  if (s->at == s->end || *s->at != c) return false;
  s->at++;
  return true;
}

static bool eat_word(Scanner *s, const char *word) {
  size_t n = strlen(word);
  skip_space(s);
  if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n) != 0) return false;
  s->at += n;
  return true;
}

static bool eat_string(Scanner *s, Str *out) {
  skip_space(s);
  if (s->at == s->end || (*s->at != '\'' && *s->at != '"')) return false;
  char quote = *s->at++;
  const char *close = memchr(s->at, quote, (size_t)(s->end - s->at));
  if (!close) return false;
  *out = (Str){s->at, (size_t)(close - s->at)};
  s->at = close + 1;
  return true;
}

static bool eat_number(Scanner *s, uint64_t *out) {
  uint64_t n = 0;
  skip_space(s);
  const char *start = s->at;
  for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++)
    if (__builtin_mul_overflow(n, 10, &n) ||
        __builtin_add_overflow(n, (uint64_t)(*s->at - '0'), &n))
      return false;
  if (s->at < s->end && *s->at == 'L') s->at++; /* Python 2 wrote 3L */
  *out = n;
  return s->at > start;
}

static bool eat_shape(Scanner *s, Header *h) {
  if (!eat(s, '(')) return false;
  while (!eat(s, ')')) {
    if (h->rank == NPY_RANK_MAX || !eat_number(s, &h->dims[h->rank])) return false;
    h->rank++;
    if (eat(s, ',')) continue;
    return eat(s, ')');
  }
  return true;
}

static bool eat_item(Scanner *s, Header *h) {
  Str key;
  if (!eat_string(s, &key) || !eat(s, ':')) return false;
  if (str_is(key, "descr") && !h->seen_descr) return h->seen_descr = true, eat_string(s, &h->descr);
  if (str_is(key, "shape") && !h->seen_shape) return h->seen_shape = true, eat_shape(s, h);
  if (!str_is(key, "fortran_order") || h->seen_order) return false;
  h->seen_order = true;
  h->fortran = eat_word(s, "True");
  return h->fortran || eat_word(s, "False");
}

static Status parse_header(Str text, Header *h) {
  Scanner s = {text.ptr, text.ptr + text.len};
  *h = (Header){.rank = 0};
  bool ok = eat(&s, '{');
  while (ok && !eat(&s, '}')) {
    ok = eat_item(&s, h);
    if (ok && !eat(&s, ',')) {
      ok = eat(&s, '}');
      break;
    }
  }
  skip_space(&s);
  if (ok && s.at == s.end && h->seen_descr && h->seen_order && h->seen_shape) return NULL;
  return FAIL(INVALID_ARGUMENT, "malformed .npy header (structured dtypes are not supported)");
}

static Status parse_descr(Str d, KilnDType *dtype, bool *swap) {
  char order = d.len == 3 ? d.ptr[0] : 0;
  for (int i = 0; order && strchr("<>|=", order) && i < NKINDS; i++) {
    if (memcmp(d.ptr + 1, kinds[i].descr, 2) != 0) continue;
    *dtype = kinds[i].dtype;
    *swap = order == '>' && kiln_dtype_size(*dtype) > 1;
    return NULL;
  }
  for (int i = 0; order && i < (int)(sizeof unnamed / sizeof *unnamed); i++) {
    if (memcmp(d.ptr + 1, unnamed[i].descr, 2) != 0) continue;
    *dtype = unnamed[i].dtype;
    *swap = false;
    return NULL;
  }
  return FAIL(INVALID_ARGUMENT, "dtype '" STR_FMT "' is not supported", STR_ARG(d));
}

/* -- data
 * ------------------------------------------------------------------------------------------- */

static void swap_bytes(uint8_t *p, size_t count, size_t item) {
  for (size_t i = 0; i < count; i++, p += item)
    for (size_t k = 0; k < item / 2; k++) {
      uint8_t t = p[k];
      p[k] = p[item - 1 - k];
      p[item - 1 - k] = t;
    }
}

/* Column-major src to row-major dst: walks dst in order, counting the coordinates up. */
static void to_row_major(uint8_t *dst, const uint8_t *src, const Npy *a) {
  size_t item = kiln_dtype_size(a->dtype), at = 0, stride[NPY_RANK_MAX];
  uint64_t coord[NPY_RANK_MAX] = {0};
  for (size_t i = 0, step = item; i < a->rank; step *= (size_t)a->dims[i++]) stride[i] = step;
  for (size_t done = 0; done < a->bytes; done += item) {
    memcpy(dst + done, src + at, item);
    for (size_t i = a->rank; i--;) {
      at += stride[i];
      if (++coord[i] < a->dims[i]) break;
      at -= stride[i] * (size_t)a->dims[i];
      coord[i] = 0;
    }
  }
}

static Status size_of(const Header *h, KilnDType dtype, size_t *out) {
  size_t n = kiln_dtype_size(dtype);
  bool empty = false, fits = true;
  for (size_t i = 0; i < h->rank; i++) {
    empty |= !h->dims[i];
    fits = fits && size_mul(n, h->dims[i] ? h->dims[i] : 1, &n);
  }
  if (!fits) return FAIL(INVALID_ARGUMENT, "the array's size overflows");
  *out = empty ? 0 : n;
  return NULL;
}

static Status split(Bytes file, Str *header, Bytes *data) {
  const uint8_t *p = file.ptr;
  if (file.len < MAGIC_BYTES + 4 || memcmp(p, magic, MAGIC_BYTES) != 0)
    return FAIL(INVALID_ARGUMENT, "not a .npy file");
  int version = p[MAGIC_BYTES];
  if (version < 1 || version > 3)
    return FAIL(INVALID_ARGUMENT, ".npy version %d is not supported", version);
  size_t at = version == 1 ? MAGIC_BYTES + 4 : MAGIC_BYTES + 6;
  if (file.len < at) return FAIL(INVALID_ARGUMENT, "truncated .npy header");
  size_t n = p[8] | (size_t)p[9] << 8;
  if (version > 1) n |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
  if (n > HEADER_MAX || n > file.len - at)
    return FAIL(INVALID_ARGUMENT, "malformed .npy header: %zu bytes long", n);
  *header = (Str){(const char *)p + at, n};
  *data = (Bytes){p + at + n, file.len - at - n};
  return NULL;
}

Status npy_parse(Bytes file, Npy *out) {
  Str text;
  Bytes data;
  Header h;
  bool swap;
  *out = (Npy){.rank = 0};
  TRY(split(file, &text, &data));
  TRY(parse_header(text, &h));
  TRY(parse_descr(h.descr, &out->dtype, &swap));
  TRY(size_of(&h, out->dtype, &out->bytes));
  if (data.len != out->bytes)
    return FAIL(INVALID_ARGUMENT, "the header asks for %zu bytes of data, the file has %zu",
                out->bytes, data.len);
  out->rank = h.rank;
  memcpy(out->dims, h.dims, sizeof out->dims);
  out->data = malloc(out->bytes + 1);
  if (!out->data) return FAIL(RESOURCE_EXHAUSTED, "no memory for %zu bytes", out->bytes);
  if (h.fortran && h.rank > 1)
    to_row_major(out->data, data.ptr, out);
  else if (out->bytes)
    memcpy(out->data, data.ptr, out->bytes);
  size_t item = kiln_dtype_size(out->dtype);
  if (swap) swap_bytes(out->data, out->bytes / item, item);
  return NULL;
}

void npy_deinit(Npy *a) {
  free(a->data);
  *a = (Npy){.rank = 0};
}

/* -- files
 * ------------------------------------------------------------------------------------------- */

static Status read_file(const char *path, uint8_t **out, size_t *size) {
  struct stat st;
  *out = NULL;
  FILE *f = fopen(path, "rb");
  if (!f) return FAIL(NOT_FOUND, "%s: %s", path, strerror(errno));
  bool ok = !fstat(fileno(f), &st) && S_ISREG(st.st_mode);
  *size = ok ? (size_t)st.st_size : 0;
  *out = ok ? malloc(*size + 1) : NULL;
  ok = *out && fread(*out, 1, *size, f) == *size;
  fclose(f);
  if (ok) return NULL;
  free(*out);
  *out = NULL;
  return FAIL(INVALID_ARGUMENT, "%s: cannot be read as a regular file", path);
}

Status npy_read(const char *path, Npy *out) {
  uint8_t *bytes;
  size_t n;
  *out = (Npy){.rank = 0};
  TRY(read_file(path, &bytes, &n));
  Status st = npy_parse((Bytes){bytes, n}, out);
  free(bytes);
  return st ? WRAP(st, "%s", path) : NULL;
}

/* NULL: not a dtype that can be written. */
static const char *descr_of(KilnDType dtype) {
  for (int i = 0; i < NKINDS; i++)
    if (kinds[i].dtype == dtype) return kinds[i].descr;
  if (dtype == KILN_I4 || dtype == KILN_I2) return "i1";
  if (dtype == KILN_U4 || dtype == KILN_U2) return "u1";
  return kiln_dtype_size(dtype) == 1 ? "V1" : NULL;
}

/* The dict, padded so that the data is aligned; the last byte is a newline. True when its length
 * needs the four bytes of version 2. */
static bool make_header(StrBuf *b, const KilnTensor *t) {
  char order = kiln_dtype_size(t->dtype) > 1 ? '<' : '|';
  strbuf_addf(b, "{'descr': '%c%s', 'fortran_order': False, 'shape': (", order, descr_of(t->dtype));
  for (size_t i = 0; i < t->rank; i++)
    strbuf_addf(b, "%llu%s", (unsigned long long)t->dims[i],
                t->rank == 1      ? ","
                : i + 1 < t->rank ? ", "
                                  : "");
  strbuf_adds(b, "), }");
  bool wide = b->len > UINT16_MAX - ALIGN;
  size_t prefix = MAGIC_BYTES + (wide ? 6 : 4);
  while ((prefix + b->len + 1) % ALIGN) strbuf_adds(b, " ");
  strbuf_adds(b, "\n");
  return wide;
}

static bool write_parts(FILE *f, const StrBuf *header, bool wide, const KilnTensor *t) {
  size_t n = header->len;
  const uint8_t head[] = {wide ? 2 : 1, 0, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), 0};
  size_t nhead = wide ? sizeof head : sizeof head - 2;
  return fwrite(magic, 1, MAGIC_BYTES, f) == MAGIC_BYTES && fwrite(head, 1, nhead, f) == nhead &&
         fwrite(header->ptr, 1, n, f) == n && fwrite(t->data, 1, t->bytes, f) == t->bytes;
}

Status npy_write(const char *path, const KilnTensor *t) {
  if (!descr_of(t->dtype))
    return FAIL(INVALID_ARGUMENT, "dtype %s has no .npy form", kiln_dtype_name(t->dtype));
  FILE *f = fopen(path, "wb");
  if (!f) return FAIL(UNAVAILABLE, "%s: %s", path, strerror(errno));
  StrBuf header = {0};
  bool wide = make_header(&header, t);
  bool ok = !header.failed && write_parts(f, &header, wide, t);
  ok = !fclose(f) && ok;
  strbuf_deinit(&header);
  return ok ? NULL : FAIL(UNAVAILABLE, "%s: writing failed: %s", path, strerror(errno));
}
