/* gRPC over HTTP/2, sans I/O: bytes in, bytes out, callbacks in between. No socket, no loop.
 *
 * A GrpcSession is one connection, a GrpcStream one call on it. The owner of the socket feeds what
 * it read to grpc_session_input, and after that (and after any call that may have queued something)
 * writes what grpc_session_output offers until it offers nothing. When grpc_session_done says so,
 * or input fails, the last output is flushed and the connection closed.
 *
 * Callbacks run inside grpc_session_input, grpc_session_output and grpc_session_release, never
 * inside the functions that send. They may call everything here but those three. A GrpcStream
 * belongs to its session and is valid from on_request (or grpc_call_start) until on_close returns,
 * which is called exactly once.
 *
 * Backpressure, in: a message is delivered when it is complete. The peer's window is given back as
 * messages are delivered, so a stream that was paused (grpc_stream_pause) holds at most one stream
 * window of undelivered bytes and then the peer has to wait. Bytes of a message that is still
 * incomplete are bounded by its size limit and, over all streams, by GrpcConfig.max_buffered.
 * Backpressure, out: sends queue without limit; who streams looks at grpc_stream_queued and goes on
 * in on_drain.
 *
 * Ownership: a session and everything in it belong to one thread. */
#pragma once

#include <sys/uio.h>

#include "base/pool.h"
#include "base/status.h"
#include "base/str.h"

typedef struct GrpcSession GrpcSession;
typedef struct GrpcStream GrpcStream;

/* Of a request; views valid during on_request only. */
typedef struct GrpcHead {
  Str path; /* "/kiln.v1.Kiln/Run" */
  Str authority, authorization, user_agent;
  Str traceparent;    /* W3C trace context, as it was sent */
  int64_t timeout_ns; /* -1: none was sent */
} GrpcHead;

typedef struct GrpcHandler {
  /* Server only. Set the stream's context and message limit here. False: there is no such method;
   * the session answers UNIMPLEMENTED and no other callback follows. To refuse for another reason
   * call grpc_finish and return true. */
  bool (*on_request)(void *ctx, GrpcStream *s, const GrpcHead *head);
  /* One whole message without its prefix; the view is valid during the call. */
  void (*on_message)(void *ctx, GrpcStream *s, Bytes msg);
  /* Optional: what has come of a large message, of which `left` bytes are still to come. True: the
   * handler has taken it, gets the others in the same way as they come, the last ones with left 0,
   * and on_message is not called. What it says to those does not matter. */
  bool (*on_part)(void *ctx, GrpcStream *s, Bytes part, size_t left);
  /* Server only: the client will send no more messages. */
  void (*on_half_close)(void *ctx, GrpcStream *s);
  /* Optional: what was queued has left for the output buffer, and is below 64 KiB again. */
  void (*on_drain)(void *ctx, GrpcStream *s);
  /* The call is over; drop every pointer to s. Client: st is the call's outcome, NULL = OK.
   * Server: NULL when the whole answer was sent, else why not (CANCELLED when the client gave up,
   * UNAVAILABLE when the connection went, or what the session refused the client's bytes with).
   * st belongs to the session. */
  void (*on_close)(void *ctx, GrpcStream *s, const StatusNote *st);
} GrpcHandler;

typedef struct GrpcConfig {
  uint32_t max_streams;      /* concurrent; server: announced and enforced */
  uint32_t stream_window;    /* bytes that a peer may send on a stream without our consent */
  uint32_t session_window;   /* the same over all streams */
  uint32_t max_frame;        /* HTTP/2 frame payload that we accept, 16 KiB to 16 MiB */
  uint32_t max_header_bytes; /* of one request's metadata, as HTTP/2 counts them */
  size_t max_message;        /* default limit of one message */
  size_t max_buffered;       /* bytes of incomplete messages over all streams */
  Pool *pool;                /* where small memory comes from; NULL: the heap */
} GrpcConfig;

/* 100 streams; windows 1 MiB and 2 MiB; frames 256 KiB; metadata 16 KiB; messages 4 MiB; 256 MiB
 * buffered. */
extern const GrpcConfig grpc_config_default;

/* -- sessions ---------------------------------------------------------------------------------- */

/* NULL when memory is out. handler and what it points to outlive the session; config is copied. */
GrpcSession *grpc_server_create(const GrpcConfig *config, const GrpcHandler *handler, void *ctx);
GrpcSession *grpc_client_create(const GrpcConfig *config, const GrpcHandler *handler, void *ctx);
/* The connection is gone: calls on_close for every open stream and frees everything. NULL is
 * allowed. */
void grpc_session_release(GrpcSession *g);

/* Bytes from the peer. A failure is final for the connection: flush the output (it holds the
 * GOAWAY) and close. */
Status grpc_session_input(GrpcSession *g, const void *bytes, size_t n);
/* Up to cap pieces of pending output, oldest first; 0 when there is nothing to write. The views
 * stay valid until the next call that takes the session or one of its streams. */
int grpc_session_output(GrpcSession *g, struct iovec *iov, int cap);
/* The first n bytes offered by the last grpc_session_output were written. */
void grpc_session_wrote(GrpcSession *g, size_t n);
/* Gives back memory that only traffic needs, when there is none. */
void grpc_session_rest(GrpcSession *g);
/* Nothing more will be read or written: close the connection. */
bool grpc_session_done(const GrpcSession *g);
/* Open streams. */
size_t grpc_session_streams(const GrpcSession *g);
/* Server: the number of the call whose metadata has begun to come and is not complete; 0: none. */
uint32_t grpc_session_reading_head(const GrpcSession *g);
/* There is something that the peer could have taken. */
bool grpc_session_owes(const GrpcSession *g);
/* Server: end with ENHANCE_YOUR_CALM, and why. done becomes true when the peer has been told. */
void grpc_session_calm(GrpcSession *g, const char *why);
/* It was the session's own verdict. */
bool grpc_session_flooded(const GrpcSession *g);
/* Server: take no new calls, finish those that run. done becomes true after the last one. */
void grpc_session_drain(GrpcSession *g);
/* Client: true once the server said that it takes no new calls; open another connection. */
bool grpc_session_draining(const GrpcSession *g);

/* -- streams ----------------------------------------------------------------------------------- */

typedef struct GrpcMetadata {
  const char *name, *value; /* name: lower case; both copied */
} GrpcMetadata;
enum { GRPC_METADATA_MAX = 4 };

typedef struct GrpcCall {
  const char *path;          /* "/kiln.v1.Kiln/Run" */
  const char *authority;     /* NULL: "localhost" */
  const char *authorization; /* NULL: not sent */
  int64_t timeout_ns;        /* <= 0: not sent */
  const GrpcMetadata *metadata;
  size_t nmetadata; /* at most GRPC_METADATA_MAX */
  void *ctx;
} GrpcCall;

/* Client: begins a call. Failure: RESOURCE_EXHAUSTED or UNAVAILABLE (the session is closing); then
 * *out is NULL and no callback follows. */
Status grpc_call_start(GrpcSession *g, const GrpcCall *call, GrpcStream **out);

void grpc_stream_set_ctx(GrpcStream *s, void *ctx);
void *grpc_stream_ctx(const GrpcStream *s);
void grpc_stream_set_max_message(GrpcStream *s, size_t n);

/* Queues a message of n bytes and returns where to write them, before any other call on the
 * session. NULL when memory is out or n does not fit 32 bits; a server call then fails with
 * RESOURCE_EXHAUSTED by itself, a client call is cancelled. */
uint8_t *grpc_send_begin(GrpcStream *s, size_t n);
/* The same from a copy of msg. */
void grpc_send(GrpcStream *s, Bytes msg);
/* Without a copy of the payload: head and body together are one message; body stays valid until
 * done(done_ctx) is called, once, at the latest right before on_close. */
void grpc_send_body(GrpcStream *s, Bytes head, Bytes body, void (*done)(void *ctx), void *done_ctx);
/* Client: no more messages from us. */
void grpc_half_close(GrpcStream *s);
/* Server: ends the call with a status (NULL = OK), after what is queued. Takes st. Sends and
 * further finishes of a finished call do nothing. */
void grpc_finish(GrpcStream *s, Status st);
/* Client: gives the call up (RST_STREAM); on_close follows with st as the outcome. Takes st. */
void grpc_cancel(GrpcStream *s, Status st);

/* Bytes of a message that has not come whole. */
size_t grpc_stream_incomplete(const GrpcStream *s);
/* Bytes queued and not yet taken into the session's output. */
size_t grpc_stream_queued(const GrpcStream *s);
/* While paused no message is delivered and no window is given back. Resuming delivers from the next
 * grpc_session_output on. */
void grpc_stream_pause(GrpcStream *s);
void grpc_stream_resume(GrpcStream *s);

/* -- text forms of the protocol ------------------------------------------------------------------
 */

/* "100m" to nanoseconds, saturating; false when malformed. */
bool grpc_timeout_parse(Str text, int64_t *out_ns);
enum { GRPC_TIMEOUT_CAP = 16 };
/* Rounded up, never zero; returns buf. */
const char *grpc_timeout_format(int64_t ns, char buf[GRPC_TIMEOUT_CAP]);
/* grpc-message: percent-encoding of text, cut to what fits cap, terminated; returns the length. */
size_t grpc_message_encode(const char *text, char *buf, size_t cap);
/* The reverse, tolerant of bad escapes. */
size_t grpc_message_decode(Str text, char *buf, size_t cap);
/* grpc-status-details-bin: a google.rpc.Status of this code and text with a google.rpc.RetryInfo,
 * in base64, terminated. The text is cut to what fits. Returns buf. */
enum { GRPC_DETAILS_CAP = 1024 };
const char *grpc_retry_encode(StatusCode code, const char *text, int64_t retry_ns,
                              char buf[GRPC_DETAILS_CAP]);
/* The retry delay in such a header; 0 when there is none, or it cannot be read. */
int64_t grpc_retry_decode(Str header);
