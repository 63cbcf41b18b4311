/* What a peer may make us do for nothing, and when that is enough.
 *
 * HTTP/2 has frames that cost their sender nine bytes and their receiver work, an answer, or
 * memory: resets of calls that have just begun (CVE-2023-44487) or that we are made to reset
 * ourselves (CVE-2025-8671), PING, SETTINGS, PRIORITY, empty DATA, windows opened by single bytes,
 * header blocks in endless pieces. Each kind is charged to a token bucket; answers of some
 * substance pay window updates back, for a client sends those in proportion to what it reads. An
 * empty bucket, or a header block of no reasonable size, ends the connection with
 * ENHANCE_YOUR_CALM.
 *
 * nghttp2 has limits of its own for some of these. They are set where the session is made and lie
 * above ours: they bound what it queues for a peer that does not read, but end a session without a
 * word or with INTERNAL_ERROR, and two versions do not have the same ones.
 *
 * The clock is asked only when a bucket seems empty, so a well-behaved peer costs two additions. */
#include "base/clock.h"
#include "proto/grpc_internal.h"

enum {
  CONTINUATIONS_MAX = 8,
  BLOCK_FACTOR = 4,     /* a header block as it is sent, in units of the metadata limit */
  DECODED_FACTOR = 16,  /* and decoded: a byte may stand for a field of 4 KiB */
  SUBSTANCE_BYTES = 64, /* a DATA frame of less pays nothing back */
  PAID_BACK = 4
};

static const struct {
  const char *what;
  uint32_t burst, per_second;
} kinds[CALM__COUNT] = {
    [CALM_RESET] = {"too many streams were reset", 2000, 200},
    [CALM_FRAME] = {"too many frames that carry nothing", 5000, 500},
};

/* The first verdict stands. */
static int end(GrpcSession *g, uint32_t error, const char *why) {
  if (g->calm.verdict) return NGHTTP2_ERR_CALLBACK_FAILURE;
  g->calm.verdict = why;
  g->calm.flooded = error == NGHTTP2_ENHANCE_YOUR_CALM;
  nghttp2_session_terminate_session(g->h2, error);
  return NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int flood(GrpcSession *g, const char *why) { return end(g, NGHTTP2_ENHANCE_YOUR_CALM, why); }

int grpc_calm_charge(GrpcSession *g, CalmKind k) {
  CalmBucket *b = &g->calm.buckets[k];
  if (++b->spent <= kinds[k].burst) return 0;
  int64_t now = clock_now_ns(), refilled = (now - b->at_ns) / (1000000000 / kinds[k].per_second);
  if (!refilled) return flood(g, kinds[k].what);
  b->at_ns = now;
  b->spent = refilled < b->spent ? b->spent - (uint32_t)refilled : 0;
  return 0;
}

void grpc_calm_init(GrpcSession *g) {
  int64_t now = clock_now_ns();
  for (int k = 0; k < CALM__COUNT; k++) g->calm.buckets[k].at_ns = now;
}

/* A stream's first frame. nghttp2 drops one whose number was passed over, in case it is the end of
 * a call that we have reset; the RFC wants such a connection closed. What was skipped last is
 * known. */
static int opens(GrpcSession *g, int32_t id) {
  Calm *c = &g->calm;
  if (id > c->last_id) {
    if (id > c->last_id + 2) {
      c->skipped_from = c->last_id + 1;
      c->skipped_to = id;
    }
    c->last_id = id;
    return 0;
  }
  if (id <= c->skipped_from || id >= c->skipped_to) return 0;
  return end(g, NGHTTP2_PROTOCOL_ERROR, "HEADERS of a stream that was passed over");
}

static int header_block(GrpcSession *g, const nghttp2_frame_hd *hd) {
  Calm *c = &g->calm;
  if (hd->type == NGHTTP2_HEADERS) {
    c->continuations = 0;
    c->block_bytes = c->decoded_bytes = 0;
    int rv = opens(g, hd->stream_id);
    if (rv) return rv;
  } else if (hd->length > g->config.max_frame) { /* nghttp2 does not look */
    return end(g, NGHTTP2_FRAME_SIZE_ERROR, "CONTINUATION over the frame size");
  } else if (++c->continuations > CONTINUATIONS_MAX) {
    return flood(g, "too many CONTINUATION frames");
  }
  c->block_bytes += hd->length;
  if (c->block_bytes > (size_t)BLOCK_FACTOR * g->config.max_header_bytes)
    return flood(g, "too large a header block");
  return 0;
}

int grpc_calm_frame(GrpcSession *g, const nghttp2_frame_hd *hd) {
  switch (hd->type) {
  case NGHTTP2_DATA:
    return hd->length || hd->flags & NGHTTP2_FLAG_END_STREAM ? 0 : grpc_calm_charge(g, CALM_FRAME);
  case NGHTTP2_HEADERS:
  case NGHTTP2_CONTINUATION: return header_block(g, hd);
  case NGHTTP2_RST_STREAM: return grpc_calm_charge(g, CALM_RESET);
  default: return grpc_calm_charge(g, CALM_FRAME);
  }
}

int grpc_calm_field(GrpcSession *g, size_t bytes) {
  g->calm.decoded_bytes += bytes;
  if (g->calm.decoded_bytes <= (size_t)DECODED_FACTOR * g->config.max_header_bytes) return 0;
  return flood(g, "too large a header list");
}

void grpc_calm_sent(GrpcSession *g, const nghttp2_frame *f) {
  CalmBucket *frames = &g->calm.buckets[CALM_FRAME];
  switch (f->hd.type) {
  case NGHTTP2_DATA:
    if (f->hd.length < SUBSTANCE_BYTES) return;
    /* fallthrough */
  case NGHTTP2_HEADERS:
    frames->spent -= frames->spent < PAID_BACK ? frames->spent : PAID_BACK;
    return;
  case NGHTTP2_RST_STREAM:
    if (f->rst_stream.error_code == NGHTTP2_FLOW_CONTROL_ERROR) {
      /* of the stream; where a change of SETTINGS was the cause it must be of the connection */
      (void)end(g, NGHTTP2_FLOW_CONTROL_ERROR, "a window over 2^31 - 1");
    } else if (f->rst_stream.error_code != NGHTTP2_NO_ERROR &&
               f->rst_stream.error_code != NGHTTP2_REFUSED_STREAM) {
      (void)grpc_calm_charge(g, CALM_RESET);
    }
    return;
  default: return;
  }
}

Status grpc_calm_verdict(GrpcSession *g, int error) {
  if (error == NGHTTP2_ERR_FLOODED) (void)flood(g, "too many frames that want an answer");
  if (error == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS) (void)flood(g, "too many CONTINUATION frames");
  if (!g->calm.verdict) return NULL;
  return g->calm.flooded ? FAIL(RESOURCE_EXHAUSTED, "flooded: %s", g->calm.verdict)
                         : FAIL(INVALID_ARGUMENT, "not HTTP/2: %s", g->calm.verdict);
}

void grpc_session_calm(GrpcSession *g, const char *why) { (void)flood(g, why); }

bool grpc_session_flooded(const GrpcSession *g) { return g->calm.flooded; }

uint32_t grpc_session_reading_head(const GrpcSession *g) {
  return g->incoming && !g->incoming->head_done ? (uint32_t)g->incoming->id : 0;
}

bool grpc_session_owes(const GrpcSession *g) {
  if (g->pending) return true;
  for (const GrpcStream *s = g->streams; s; s = s->next)
    if (s->queued) return true;
  return false;
}
