/* The server's side: what request headers mean, and how an answer ends.
 *
 * An answer is "200, messages, trailers with grpc-status"; without messages the status travels in
 * the only HEADERS frame (trailers-only). What is not a gRPC request at all is answered in HTTP's
 * terms (405, 415), everything else in gRPC's. */
#include <stdio.h>

#include "proto/grpc_internal.h"

enum { MESSAGE_MAX = 2048 }; /* of grpc-message: clients limit all metadata to 8 KiB by default */

static nghttp2_nv header(const char *name, const char *value) {
  return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                      .value = (uint8_t *)(uintptr_t)value,
                      .namelen = strlen(name),
                      .valuelen = strlen(value),
                      .flags = NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

/* Both are literals. */
#define FIXED_HEADER(name_, value_)                                                                \
  {                                                                                                \
    (uint8_t *)(uintptr_t)(name_), (uint8_t *)(uintptr_t)(value_), sizeof(name_) - 1,              \
        sizeof(value_) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE           \
  }

/* -- the request ------------------------------------------------------------------------------- */

static bool keep_field(HeadParse *h, HeadField field, Str value) {
  h->field[field].at = h->text.len;
  h->field[field].len = value.len;
  strbuf_add(&h->text, value.ptr, value.len);
  return !h->text.failed;
}

/* "application/grpc", alone or with "+proto", and parameters. */
static bool content_type_ok(Str v) {
  static const char *const kinds[] = {"application/grpc+proto", "application/grpc"};
  for (int i = 0; i < 2; i++) {
    size_t n = strlen(kinds[i]);
    if (v.len >= n && !memcmp(v.ptr, kinds[i], n)) return v.len == n || v.ptr[n] == ';';
  }
  return false;
}

int grpc_server_header(GrpcStream *s, Str name, Str value) {
  enum { ENTRY_OVERHEAD = 32 };
  HeadParse *h = &s->head;
  h->bytes += name.len + value.len + ENTRY_OVERHEAD;
  if (h->bytes > s->session->config.max_header_bytes) {
    h->too_large = true;
    return 0;
  }
  bool ok = true;
  if (str_is(name, ":path"))
    ok = keep_field(h, HEAD_PATH, value);
  else if (str_is(name, ":authority"))
    ok = keep_field(h, HEAD_AUTHORITY, value);
  else if (str_is(name, "authorization"))
    ok = keep_field(h, HEAD_AUTHORIZATION, value);
  else if (str_is(name, "user-agent"))
    ok = keep_field(h, HEAD_USER_AGENT, value);
  else if (str_is(name, "traceparent"))
    ok = keep_field(h, HEAD_TRACEPARENT, value);
  else if (str_is(name, ":method"))
    h->post = str_is(value, "POST");
  else if (str_is(name, "content-type"))
    h->content_ok = content_type_ok(value);
  else if (str_is(name, "grpc-encoding"))
    h->compressed = !str_is(value, "identity");
  else if (str_is(name, "grpc-timeout"))
    h->bad_timeout = !grpc_timeout_parse(value, &h->timeout_ns);
  return ok ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static void refuse_http(GrpcStream *s, const char *http_status) {
  const nghttp2_nv nv[] = {header(":status", http_status)};
  s->submitted = s->finished = true;
  grpc_frame_drop_input(s);
  grpc_session_asked(s->session, nghttp2_submit_response(s->session->h2, s->id, nv, 1, NULL));
}

static Str field_text(const HeadParse *h, HeadField f) {
  return h->field[f].len ? (Str){h->text.ptr + h->field[f].at, h->field[f].len} : (Str){0};
}

static Status check_head(const HeadParse *h, uint32_t max_header_bytes) {
  if (h->too_large)
    return FAIL(RESOURCE_EXHAUSTED, "request metadata is larger than %u bytes", max_header_bytes);
  if (h->bad_timeout)
    return FAIL(INVALID_ARGUMENT, "malformed grpc-timeout; expected digits and one of H M S m u n");
  if (h->compressed) return FAIL(UNIMPLEMENTED, "grpc-encoding is not supported; only identity is");
  return NULL;
}

void grpc_server_headers_done(GrpcStream *s) {
  GrpcSession *g = s->session;
  HeadParse *h = &s->head;
  s->head_done = true;
  if (!h->too_large && !h->post) {
    refuse_http(s, "405");
    return;
  }
  if (!h->too_large && !h->content_ok) {
    refuse_http(s, "415");
    return;
  }
  Status st = check_head(h, g->config.max_header_bytes);
  if (st) {
    grpc_finish(s, st);
    return;
  }
  const GrpcHead head = {
      .path = field_text(h, HEAD_PATH),
      .authority = field_text(h, HEAD_AUTHORITY),
      .authorization = field_text(h, HEAD_AUTHORIZATION),
      .user_agent = field_text(h, HEAD_USER_AGENT),
      .traceparent = field_text(h, HEAD_TRACEPARENT),
      .timeout_ns = h->timeout_ns,
  };
  s->accepted = true; /* a handler that refuses by grpc_finish needs its on_close */
  if (!g->handler->on_request(g->ctx, s, &head)) {
    s->accepted = false;
    grpc_finish(s, FAIL(UNIMPLEMENTED, "no method '" STR_FMT "'", STR_ARG(head.path)));
  }
  strbuf_deinit(&h->text);
}

/* -- the answer ----------------------------------------------------------------------------------
 */

typedef struct StatusHeaders {
  char code[4], message[MESSAGE_MAX], details[GRPC_DETAILS_CAP];
  nghttp2_nv nv[8]; /* the first two are for trailers-only answers */
  size_t n;
} StatusHeaders;

static void make_status(const StatusNote *st, StatusHeaders *out) {
  char text[MESSAGE_MAX];
  status_text(st, text, sizeof text);
  size_t len = grpc_message_encode(text, out->message, sizeof out->message);
  snprintf(out->code, sizeof out->code, "%d", (int)status_code(st));
  out->n = 0;
  out->nv[out->n++] = header(":status", "200");
  out->nv[out->n++] = header("content-type", "application/grpc");
  out->nv[out->n++] = header("grpc-status", out->code);
  if (st && len) out->nv[out->n++] = header("grpc-message", out->message);
  if (status_retry_ns(st) < 0) {
    /* the first is for gRPC's own retries, which do not show it to the program */
    out->nv[out->n++] = header("grpc-retry-pushback-ms", "-1");
    out->nv[out->n++] = header("kiln-retry", "never");
  }
  if (status_retry_ns(st) > 0)
    out->nv[out->n++] =
        header("grpc-status-details-bin",
               grpc_retry_encode(status_code(st), text, status_retry_ns(st), out->details));
  if (status_code(st) == ST_UNIMPLEMENTED)
    out->nv[out->n++] = header("grpc-accept-encoding", "identity");
}

bool grpc_server_submit_trailers(GrpcStream *s) {
  static const nghttp2_nv ok[] = {FIXED_HEADER("grpc-status", "0")};
  StatusHeaders h;
  if (!s->outcome) return !nghttp2_submit_trailer(s->session->h2, s->id, ok, 1);
  make_status(s->outcome, &h);
  return !nghttp2_submit_trailer(s->session->h2, s->id, h.nv + 2, h.n - 2);
}

void grpc_server_flush(GrpcStream *s) {
  if (s->submitted) return;
  s->submitted = true;
  nghttp2_session *h2 = s->session->h2;
  if (s->finished && !s->queued) {
    StatusHeaders h;
    make_status(s->outcome, &h);
    grpc_session_asked(s->session, nghttp2_submit_response(h2, s->id, h.nv, h.n, NULL));
    return;
  }
  static const nghttp2_nv nv[] = {FIXED_HEADER(":status", "200"),
                                  FIXED_HEADER("content-type", "application/grpc")};
  const nghttp2_data_provider provider = grpc_frame_provider(s);
  grpc_session_asked(s->session, nghttp2_submit_response(h2, s->id, nv, 2, &provider));
}

void grpc_finish(GrpcStream *s, Status st) {
  if (s->finished) {
    status_drop(st);
    return;
  }
  s->finished = true;
  s->outcome = st;
  grpc_frame_drop_input(s);
  grpc_server_flush(s);
  if (!s->deferred) return;
  s->deferred = false;
  grpc_session_asked(s->session, nghttp2_session_resume_data(s->session->h2, s->id));
}

void grpc_server_stream_closed(GrpcStream *s, uint32_t h2_error) {
  if (s->answered) {
    /* What the handler said is no news to it; what the session refused the client with is. */
    grpc_stream_close(s, s->refused ? s->outcome : NULL);
    return;
  }
  Status st = h2_error == NGHTTP2_CANCEL || h2_error == NGHTTP2_NO_ERROR
                  ? FAIL(CANCELLED, "the client cancelled the call")
                  : FAIL(CANCELLED, "the stream was reset: %s", nghttp2_http2_strerror(h2_error));
  grpc_stream_close(s, st);
  status_drop(st);
}
