/* Shared by the files behind grpc.h and by nobody else.
 *
 * grpc_session.c owns the nghttp2 session, the output buffer and the list of streams; grpc_frame.c
 * cuts messages out of DATA and queues messages into DATA; grpc_server.c and grpc_client.c say what
 * headers mean on their side. */
#pragma once

#include <nghttp2/nghttp2.h>

#include "base/vec.h"
#include "proto/grpc.h"

enum { PREFIX_BYTES = 5 };

/* Bytes waiting to be sent. References: one from the stream's queue while bytes are left in it, one
 * from every piece of output that points into it. */
typedef struct Segment Segment;
struct Segment {
  Segment *next;
  size_t len, at; /* at: the first byte not yet taken */
  uint32_t refs;
  const uint8_t *data; /* payload, or somebody else's memory */
  void (*done)(void *ctx);
  void *done_ctx;
  uint8_t payload[];
};

/* With n bytes of its own and one reference; NULL when memory is out. */
Segment *grpc_segment_create(GrpcSession *g, size_t n);
void grpc_segment_unref(Segment *seg);

typedef enum HeadField {
  HEAD_PATH,
  HEAD_AUTHORITY,
  HEAD_AUTHORIZATION,
  HEAD_USER_AGENT,
  HEAD_TRACEPARENT,
  HEAD__COUNT
} HeadField;

/* The request's metadata while it is coming in (server). */
typedef struct HeadParse {
  StrBuf text;
  struct {
    size_t at, len;
  } field[HEAD__COUNT];
  size_t bytes; /* as HTTP/2 counts header lists */
  int64_t timeout_ns;
  bool post, content_ok, bad_timeout, compressed, too_large;
} HeadParse;

struct GrpcStream {
  GrpcSession *session;
  GrpcStream *prev, *next; /* all streams of the session */
  GrpcStream *work_next;   /* streams that owe a callback */
  int32_t id;
  void *ctx;
  bool on_work_list, resumed, drained;

  /* receiving */
  size_t max_message;
  StrBuf in; /* undelivered bytes begin at in_at */
  size_t in_at;
  size_t part_left;  /* bytes to come of a message that is delivered in parts */
  size_t unconsumed; /* received while paused: window not given back */
  bool head_done;    /* server: the request's metadata has come, whole */
  bool accepted;     /* the handler knows the stream */
  bool paused;
  bool delivering;  /* a message in `in` is in the handler's hands */
  bool discard;     /* what still comes in is dropped */
  bool remote_done; /* the peer will send no more */
  bool told_half_close;
  bool closed; /* client: HTTP/2 is done with it, undelivered messages remain */

  /* sending */
  Segment *first, *last;
  size_t queued;
  bool submitted; /* headers were handed to nghttp2 */
  bool deferred;  /* the data provider waits for grpc_send */
  bool finished;  /* nothing more may be queued */
  bool answered;  /* server: the end of our answer was sent */
  bool refused;   /* server: outcome is the session's verdict on the client's bytes */

  Status outcome; /* server: the status to send, or sent; client: why we gave up */

  HeadParse head; /* server */
  /* client */
  int http_status, grpc_status; /* 0 and -1: not seen */
  char *grpc_message;
  int64_t retry_ns;
};

typedef struct Piece {
  Segment *seg; /* NULL: bytes are in GrpcSession.copy */
  size_t at, len;
} Piece;

typedef enum CalmKind {
  CALM_RESET, /* a stream was reset, by the peer or for what it sent */
  CALM_FRAME, /* a frame that carries nothing */
  CALM__COUNT
} CalmKind;

typedef struct CalmBucket {
  int64_t at_ns; /* when it was last filled up */
  uint32_t spent;
} CalmBucket;

typedef struct Calm {
  CalmBucket buckets[CALM__COUNT];
  const char *verdict; /* why the session ends; NULL: it does not */
  bool flooded;        /* the verdict is ENHANCE_YOUR_CALM */
  /* the header block that is coming in */
  uint32_t continuations;
  size_t block_bytes, decoded_bytes;
  /* the highest stream, and those passed over last */
  int32_t last_id, skipped_from, skipped_to;
} Calm;

struct GrpcSession {
  nghttp2_session *h2;
  const GrpcHandler *handler;
  void *ctx;
  GrpcConfig config;
  bool server, draining, releasing;
  bool broken; /* memory ran out where output would have been lost */
  GrpcStream *streams;
  size_t nstreams;
  GrpcStream *incoming; /* whose headers are being read; NULL: none of ours */
  GrpcStream *work;
  size_t buffered; /* undelivered bytes over all streams */
  Calm calm;       /* server */

  /* output that the socket has not taken */
  StrBuf copy;
  VEC(Piece) pieces;
  size_t piece_at; /* first live piece */
  size_t pending;  /* bytes in live pieces */
};

/* grpc_session.c */
GrpcStream *grpc_stream_create(GrpcSession *g, int32_t id);
/* What the library was asked to do: when it had no memory for that the peer would wait for ever, so
 * the connection ends. */
static inline void grpc_session_asked(GrpcSession *g, int rv) {
  if (rv == NGHTTP2_ERR_NOMEM) g->broken = true;
}
/* Calls on_close and frees. */
void grpc_stream_close(GrpcStream *s, const StatusNote *st);
/* Puts s on the list of streams that run at the next output. */
void grpc_stream_wake(GrpcStream *s);

/* grpc_frame.c */
/* Bytes of a DATA frame. */
void grpc_frame_receive(GrpcStream *s, const uint8_t *bytes, size_t n);
/* Delivers what is complete, unless paused, then the half-close when it is due. */
void grpc_frame_deliver(GrpcStream *s);
void grpc_frame_drop_queue(GrpcStream *s);
void grpc_frame_drop_input(GrpcStream *s);
nghttp2_data_provider grpc_frame_provider(GrpcStream *s);
/* nghttp2's callback that moves n bytes of the queue into the output. */
int grpc_frame_send_data(nghttp2_session *h2, nghttp2_frame *frame, const uint8_t *head, size_t n,
                         nghttp2_data_source *source, void *user);

/* Output, for grpc_frame.c: false when memory is out. */
bool grpc_output_copy(GrpcSession *g, const uint8_t *bytes, size_t n);
bool grpc_output_refer(GrpcSession *g, Segment *seg, size_t at, size_t n);
/* The output buffer holds enough for one write. */
bool grpc_output_full(const GrpcSession *g);

/* Ends the stream because of what the peer sent, or because memory is out. Takes st. */
void grpc_stream_fail(GrpcStream *s, Status st);

/* grpc_calm.c: of servers. What returns int is an error for nghttp2, which ends the session. */
void grpc_calm_init(GrpcSession *g);
int grpc_calm_charge(GrpcSession *g, CalmKind k);
/* A frame begins. */
int grpc_calm_frame(GrpcSession *g, const nghttp2_frame_hd *hd);
/* A field of a header block was decoded; its bytes as HTTP/2 counts them. */
int grpc_calm_field(GrpcSession *g, size_t bytes);
/* A frame of ours has gone. */
void grpc_calm_sent(GrpcSession *g, const nghttp2_frame *f);
/* Why input failed with this error of nghttp2, when it is one of ours. */
Status grpc_calm_verdict(GrpcSession *g, int error);

/* grpc_server.c */
int grpc_server_header(GrpcStream *s, Str name, Str value);
void grpc_server_headers_done(GrpcStream *s);
/* Makes sure that queued bytes or the end of the answer get sent. */
void grpc_server_flush(GrpcStream *s);
/* The data provider reached the end of the queue of a finished stream. */
bool grpc_server_submit_trailers(GrpcStream *s);
void grpc_server_stream_closed(GrpcStream *s, uint32_t h2_error);

/* grpc_client.c */
int grpc_client_header(GrpcStream *s, Str name, Str value);
void grpc_client_headers_done(GrpcStream *s, bool end_stream);
void grpc_client_stream_closed(GrpcStream *s, uint32_t h2_error);
/* Called when a closed stream has delivered everything. */
void grpc_client_stream_finish(GrpcStream *s);
