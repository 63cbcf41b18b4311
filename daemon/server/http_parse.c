/* Ours rather than a library's: what is served are three paths by GET, so everything that makes
 * HTTP/1 hard to parse (bodies, chunks, trailers, upgrades, folded lines) is refused rather than
 * understood. A line ends with CR LF; a lone CR or LF, a NUL or a control character anywhere is an
 * error. Nothing is copied and nothing allocated. */
#include "daemon/server/http_parse.h"

#include <strings.h>

enum {
  OK = 200,
  MORE = 0,
  BAD = 400,
  NOT_ALLOWED = 405,
  TOO_LARGE = 413,
  HEADERS = 431,
  VERSION = 505
};

static bool token_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
         (c && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

/* Takes a line without its end off the front of *rest; false when it is not complete or ends
 * wrongly, which *bad tells apart. */
static bool take_line(Str *rest, Str *line, bool *bad) {
  for (size_t i = 0; i < rest->len; i++) {
    char c = rest->ptr[i];
    bool end = c == '\r' && i + 1 < rest->len;
    if (end && rest->ptr[i + 1] == '\n') {
      *line = (Str){rest->ptr, i};
      *rest = (Str){rest->ptr + i + 2, rest->len - i - 2};
      return true;
    }
    if (c == '\r' && !end) return false; /* its LF may be on the way */
    if ((c < ' ' && c != '\t') || c == 127) {
      *bad = true;
      return false;
    }
  }
  return false;
}

/* "GET /path?query HTTP/1.1" */
static int request_line(Str line, HttpHead *out) {
  const char *end = line.ptr + line.len, *method = line.ptr;
  const char *target = memchr(method, ' ', line.len);
  if (!target || target == method) return BAD;
  Str name = {method, (size_t)(target - method)};
  for (size_t i = 0; i < name.len; i++)
    if (!token_char(name.ptr[i])) return BAD;
  target++;
  const char *version = memchr(target, ' ', (size_t)(end - target));
  if (!version || *target != '/') return BAD;
  Str v = {version + 1, (size_t)(end - version - 1)};
  if (v.len != 8 || memcmp(v.ptr, "HTTP/", 5) != 0) return BAD;
  if (!str_is(v, "HTTP/1.1") && !str_is(v, "HTTP/1.0")) return VERSION;
  out->keep = str_is(v, "HTTP/1.1");
  out->head = str_is(name, "HEAD");
  const char *query = memchr(target, '?', (size_t)(version - target));
  out->path = (Str){target, (size_t)((query ? query : version) - target)};
  return out->head || str_is(name, "GET") ? OK : NOT_ALLOWED;
}

static bool named(Str line, size_t colon, const char *name) {
  return colon == strlen(name) && !strncasecmp(line.ptr, name, colon);
}

/* "Name: value". What announces a body is refused. */
static int header_line(Str line, HttpHead *out) {
  size_t colon = 0, at;
  while (colon < line.len && token_char(line.ptr[colon])) colon++;
  if (!colon || colon == line.len || line.ptr[colon] != ':') return BAD;
  for (at = colon + 1; at < line.len && (line.ptr[at] == ' ' || line.ptr[at] == '\t');) at++;
  Str value = {line.ptr + at, line.len - at};
  while (value.len && (value.ptr[value.len - 1] == ' ' || value.ptr[value.len - 1] == '\t'))
    value.len--;
  if (named(line, colon, "transfer-encoding")) return TOO_LARGE;
  if (named(line, colon, "content-length") && !str_is(value, "0")) return TOO_LARGE;
  if (named(line, colon, "connection") && value.len == 5 && !strncasecmp(value.ptr, "close", 5))
    out->keep = false;
  return OK;
}

int http_parse(const char *bytes, size_t n, HttpHead *out) {
  Str rest = {bytes, n}, line;
  bool bad = false;
  *out = (HttpHead){.keep = false};
  int status = MORE;
  for (bool first = true; take_line(&rest, &line, &bad); first = false) {
    if (!first && !line.len) {
      out->bytes = n - rest.len;
      return out->bytes > HTTP_HEAD_MAX ? HEADERS : OK;
    }
    status = first ? request_line(line, out) : header_line(line, out);
    if (status != OK) return status;
  }
  if (bad) return BAD;
  return n > HTTP_HEAD_MAX ? HEADERS : MORE;
}
