/* One call of one client: its state, its deadline, and the method that works on it.
 *
 *   reading -> admitted -> cache <-> compiling -> running -> replying -> done
 *
 * request_move is the only writer of the state. A Request lives from request_open until its stream
 * is closed. Whatever a method starts for it must have stopped calling back when the method's
 * `release` returns: release runs once, when the answer is given or the client is gone, whichever
 * comes first. */
#pragma once

#include "daemon/server/server.h"
#include "proto/grpc.h"
#include "proto/limits.h"

typedef enum RequestState {
  RS_READING,   /* messages are coming in */
  RS_ADMITTED,  /* waits for a worker */
  RS_CACHE,     /* waits for the cache */
  RS_COMPILING, /* a compile worker has it, or another request's compile that it joined */
  RS_RUNNING,   /* the device has it */
  RS_STREAMING, /* messages are going out */
  RS_REPLYING,  /* the answer is queued */
  RS_DONE,
  RS__COUNT
} RequestState;

typedef struct Method {
  const char *path;
  const ProtobufCMessageDescriptor *request;
  bool many;    /* the client streams messages; else exactly one is expected */
  bool endless; /* the answer lasts as long as the client wants */
  void (*message)(Request *r, Bytes msg);
  /* Optional: see GrpcHandler.on_part. */
  bool (*part)(Request *r, Bytes part, size_t left);
  void (*end)(Request *r);     /* many: the client sends no more */
  void (*drain)(Request *r);   /* optional: goes on sending */
  void (*release)(Request *r); /* optional: stops and frees r->work */
  const char *audit;           /* what an operator does with it; NULL: nothing to be audited */
} Method;

struct Request {
  uint32_t id;
  RequestState state;
  Server *server;
  Connection *conn;
  Tenant *tenant; /* whose request it is */
  GrpcStream *stream;
  const Method *method;
  Arena arena;
  void *work;                       /* the method's */
  void *call_ctx;                   /* the same, of methods whose work is a run */
  int64_t received_ns, deadline_ns; /* 0 = none */
  int64_t message_ns;               /* when the last message of a stream came; 0 = none did */
  uint64_t message_bytes;           /* of all messages of a stream */
  uint64_t answer_bytes;            /* counted as unread: answers.h */
  bool got_message;
  uint8_t method_index; /* in the table of methods */
  Phase phase;
  int64_t phase_ns; /* when it began */
  TraceContext trace;
  char subject[96];                      /* of an audited call: what it is about */
  Request *next, **link;                 /* of server->requests */
  Request *next_watcher, **watcher_link; /* of server->watchers */
};

/* The table that the moves are checked against, for the unit test. */
bool request_may_move(RequestState from, RequestState to);
const char *request_state_name(RequestState s);

/* Callbacks of the connection's session. head is valid during the call. */
bool request_open(Connection *c, GrpcStream *s, const GrpcHead *head);
void request_message(Request *r, Bytes msg);
bool request_part(Request *r, Bytes part, size_t left);
void request_half_close(Request *r);
void request_drain(Request *r);
void request_close(Request *r);

void request_move(Request *r, RequestState to);
/* Unpacks msg as the method's request type into r->arena; NULL after having failed the request. */
const void *request_decode(Request *r, Bytes msg);
/* Whose jobs on a device are this request's. */
FairSource request_source(const Request *r);
/* Sends one message. */
void request_send(Request *r, const ProtobufCMessage *m);
/* Sends it and ends the call; r->work is released. Nothing of r may be touched afterwards but by
 * its stream's callbacks. */
void request_reply(Request *r, const ProtobufCMessage *m);
/* Ends the call with a status (NULL = OK). Takes st. */
void request_finish(Request *r, Status st);

/* The time since the last change belonged to the present phase; from at_ns on it is `next`. */
void request_phase(Request *r, Phase next, int64_t at_ns);
/* What an audited call is about, for its line in the log. */
void request_subject(Request *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Frees all but so many of those kept for use again. */
void requests_trim(Server *s, size_t keep);
