/* The client's side: starting a call, and turning headers, trailers and resets into one Status.
 *
 * The outcome, in order: what we gave the call up with; grpc-status; the HTTP status of somebody
 * who does not speak gRPC; the HTTP/2 error of the reset. */
#include <stdlib.h>

#include "proto/grpc_internal.h"

static nghttp2_nv header(const char *name, const char *value, uint8_t flags) {
  return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                      .value = (uint8_t *)(uintptr_t)value,
                      .namelen = strlen(name),
                      .valuelen = strlen(value),
                      .flags = (uint8_t)(flags | NGHTTP2_NV_FLAG_NO_COPY_NAME)};
}

Status grpc_call_start(GrpcSession *g, const GrpcCall *call, GrpcStream **out) {
  char timeout[GRPC_TIMEOUT_CAP];
  nghttp2_nv nv[9 + GRPC_METADATA_MAX];
  size_t n = 0;
  *out = NULL;
  if (g->releasing || g->draining || !nghttp2_session_check_request_allowed(g->h2))
    return FAIL(UNAVAILABLE, "the connection is closing");
  GrpcStream *s = grpc_stream_create(g, -1);
  if (!s) return FAIL(RESOURCE_EXHAUSTED, "no memory for a call");
  nv[n++] = header(":method", "POST", NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  nv[n++] = header(":scheme", "http", NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  nv[n++] = header(":path", call->path, 0);
  nv[n++] = header(":authority", call->authority ? call->authority : "localhost", 0);
  nv[n++] = header("te", "trailers", NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  nv[n++] = header("content-type", "application/grpc", NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  nv[n++] = header("user-agent", "kiln-c/" KILN_VERSION, NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  if (call->timeout_ns > 0)
    nv[n++] = header("grpc-timeout", grpc_timeout_format(call->timeout_ns, timeout),
                     NGHTTP2_NV_FLAG_NO_INDEX);
  if (call->authorization)
    nv[n++] = header("authorization", call->authorization, NGHTTP2_NV_FLAG_NO_INDEX);
  for (size_t i = 0; i < call->nmetadata && i < GRPC_METADATA_MAX; i++)
    nv[n++] = header(call->metadata[i].name, call->metadata[i].value, 0);
  const nghttp2_data_provider provider = grpc_frame_provider(s);
  s->id = nghttp2_submit_request(g->h2, NULL, nv, n, &provider, s);
  if (s->id < 0) {
    Status st = FAIL(UNAVAILABLE, "starting a call: %s", nghttp2_strerror(s->id));
    grpc_stream_close(s, NULL);
    return st;
  }
  s->accepted = s->submitted = true;
  s->ctx = call->ctx;
  *out = s;
  return NULL;
}

void grpc_half_close(GrpcStream *s) {
  if (s->finished) return;
  s->finished = true;
  if (!s->deferred) return;
  s->deferred = false;
  grpc_session_asked(s->session, nghttp2_session_resume_data(s->session->h2, s->id));
}

void grpc_cancel(GrpcStream *s, Status st) {
  bool first = !s->outcome;
  if (!first)
    status_drop(st);
  else
    s->outcome = st ? st : FAIL(CANCELLED, "cancelled");
  s->finished = true;
  grpc_frame_drop_input(s);
  if (s->closed)
    grpc_stream_resume(s); /* the next output ends it */
  else if (first)
    nghttp2_submit_rst_stream(s->session->h2, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_CANCEL);
}

int grpc_client_header(GrpcStream *s, Str name, Str value) {
  char number[8];
  if (value.len < sizeof number && (str_is(name, ":status") || str_is(name, "grpc-status"))) {
    memcpy(number, value.ptr, value.len);
    number[value.len] = 0;
    *(name.ptr[0] == ':' ? &s->http_status : &s->grpc_status) = atoi(number);
  } else if (str_is(name, "grpc-message")) {
    free(s->grpc_message);
    s->grpc_message = malloc(value.len + 1);
    if (!s->grpc_message) return NGHTTP2_ERR_CALLBACK_FAILURE;
    grpc_message_decode(value, s->grpc_message, value.len + 1);
  } else if (str_is(name, "grpc-status-details-bin")) {
    s->retry_ns = grpc_retry_decode(value);
  } else if (str_is(name, "kiln-retry")) {
    s->retry_ns = str_is(value, "never") ? -1 : s->retry_ns;
  }
  return 0;
}

void grpc_client_headers_done(GrpcStream *s, bool end_stream) {
  /* The server has said everything; what we have not sent yet, nobody wants. */
  if (end_stream && !s->finished) {
    s->finished = true;
    nghttp2_submit_rst_stream(s->session->h2, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
  }
}

static StatusCode code_of_http(int http_status) {
  switch (http_status) {
  case 400: return ST_INTERNAL;
  case 401: return ST_UNAUTHENTICATED;
  case 403: return ST_PERMISSION_DENIED;
  case 404: return ST_UNIMPLEMENTED;
  case 429:
  case 502:
  case 503:
  case 504: return ST_UNAVAILABLE;
  default: return ST_UNKNOWN;
  }
}

static StatusCode code_of_reset(uint32_t h2_error) {
  switch (h2_error) {
  case NGHTTP2_REFUSED_STREAM: return ST_UNAVAILABLE;
  case NGHTTP2_CANCEL: return ST_CANCELLED;
  case NGHTTP2_ENHANCE_YOUR_CALM: return ST_RESOURCE_EXHAUSTED;
  case NGHTTP2_INADEQUATE_SECURITY: return ST_PERMISSION_DENIED;
  default: return ST_INTERNAL;
  }
}

/* The server's own words, or why there are none. NULL = OK. */
static Status verdict(GrpcStream *s, uint32_t h2_error) {
  if (s->grpc_status >= 0) {
    StatusCode code = s->grpc_status < ST__COUNT ? (StatusCode)s->grpc_status : ST_UNKNOWN;
    if (code == ST_OK) return NULL;
    Status st =
        status_new(code, NULL, __FILE__, __LINE__, "%s",
                   s->grpc_message && *s->grpc_message ? s->grpc_message : status_code_name(code));
    return s->retry_ns ? status_retry(st, s->retry_ns) : st;
  }
  if (s->http_status && s->http_status != 200)
    return status_new(code_of_http(s->http_status), NULL, __FILE__, __LINE__,
                      "the server answered HTTP status %d", s->http_status);
  if (h2_error == NGHTTP2_NO_ERROR && s->remote_done)
    return FAIL(UNKNOWN, "the server sent no grpc-status");
  return status_new(code_of_reset(h2_error), NULL, __FILE__, __LINE__,
                    "the server reset the stream: %s", nghttp2_http2_strerror(h2_error));
}

void grpc_client_stream_closed(GrpcStream *s, uint32_t h2_error) {
  if (!s->outcome) s->outcome = verdict(s, h2_error);
  s->closed = true;
  if (s->paused) return; /* the answer waits for grpc_stream_resume */
  grpc_client_stream_finish(s);
}

void grpc_client_stream_finish(GrpcStream *s) {
  if (!s->outcome && s->in.len > s->in_at)
    s->outcome = FAIL(INTERNAL, "the stream ended inside a message");
  grpc_stream_close(s, s->outcome);
}
