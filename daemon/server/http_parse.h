/* The little of HTTP/1.x that a port for probes and scrapers needs: the head of a request without a
 * body. */
#pragma once

#include "base/str.h"

enum { HTTP_HEAD_MAX = 8192 }; /* bytes of a request's head */

typedef struct HttpHead {
  Str path;     /* without the query */
  bool head;    /* HEAD, not GET */
  bool keep;    /* the client may send another request after this one */
  size_t bytes; /* of the head; what follows is the next request */
} HttpHead;

/* 0: the head is not complete; 200: it is, and out is filled with views into bytes; else the status
 * to refuse the client with, after which nothing more is to be read from it. */
int http_parse(const char *bytes, size_t n, HttpHead *out);
