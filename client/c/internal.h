/* Shared by the files of libkiln and by nobody else.
 *
 * owned.c: the memory of answers. address.c: where to connect, and starting a daemon. client.c: the
 * connection as a state machine. call.c: one call from its first byte to its callback. The other
 * files are the API's calls, each an encoder and a decoder. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/status.h"
#include "client/c/kiln.h"
#include "kiln/v1/kiln.pb-c.h"
#include "proto/grpc.h"
#include "proto/tls.h"

/* -- owned.c -------------------------------------------------------------------------------------
 */

/* What kiln_free frees: a struct of `size` zeroed bytes whose pointers lead into its arena. NULL
 * when memory is out. */
void *owned_create(size_t size);
Arena *owned_arena(void *answer);
/* Moves a status into *err (may be NULL) and returns its code. Takes st. */
KilnCode error_take(Status st, KilnError *err);

/* -- address.c -----------------------------------------------------------------------------------
 */

typedef struct Address {
  char text[256];
  bool is_unix;
  bool own; /* the user's own daemon: may be started, must be ours */
  char host[200], port[16];
} Address;

const char *address_path(const Address *a);
/* text NULL: $KILN_SERVER or the user's own. */
Status address_resolve(const char *text, Address *out);
/* The folder of the user's own socket: NULL when it is missing or safe to use. */
Status address_check_folder(const Address *a);
/* Starts kilnd for the user, listening on a; it may take a while to do so. */
Status address_spawn(const Address *a);

/* -- client.c ------------------------------------------------------------------------------------
 */

typedef enum ClientState {
  CS_CLOSED,     /* no descriptor; the next call connects */
  CS_CONNECTING, /* connect(2) is under way */
  CS_WAITING,    /* a daemon was started, or its backlog is full: try again at retry_at */
  CS_HANDSHAKE,  /* TLS is being agreed on */
  CS_READY
} ClientState;

enum { CLIENT_PASS_MAX = 4 };

struct KilnClient {
  Address address;
  bool no_spawn, spawned, want_write, processing, closing;
  ClientState state;
  int fd;
  struct addrinfo *names, *next_name; /* TCP: addresses still to try */
  int64_t connect_timeout_ns, connect_deadline, retry_at;
  int64_t timeout_ns;                /* of calls; 0 = none */
  int64_t call_deadline;             /* of the call that is being repeated; 0 = none */
  int64_t retry_ns;                  /* for how long calls are repeated; 0 = not at all */
  bool answered;                     /* the server has said something, once */
  int64_t used_ns;                   /* when the last call began */
  char *authorization, *server_name; /* owned; NULL = none */
  TlsContext *tls;                   /* NULL: plain */
  TlsSession *tls_session;           /* of the connection */
  GrpcSession *session;
  KilnCall *calls;
  uint8_t *inbuf;
  Status lost;               /* why the last connection ended */
  int pass[CLIENT_PASS_MAX]; /* descriptors that go with the next bytes */
  size_t npass;
  uint64_t passed; /* on this connection, those included */
};

/* Connects if there is no connection. */
Status client_ensure(KilnClient *c);
/* Writes what can be written; errors show up in the next kiln_client_process. */
void client_flush(KilnClient *c);
/* Processes until *done. */
void client_wait(KilnClient *c, const bool *done);
extern const GrpcHandler client_handler;

/* -- secure.c ------------------------------------------------------------------------------------
 */

/* Takes the token and TLS from the options and the environment; c->address is known. */
Status secure_setup(KilnClient *c, const KilnConnectOptions *o);
void secure_deinit(KilnClient *c);
/* The socket is connected: begins the handshake, if there is to be one. */
Status secure_begin(KilnClient *c);
bool secure_ready(const KilnClient *c);
/* Bytes from the socket, for the session. */
Status secure_input(KilnClient *c, const void *bytes, size_t n);
/* As grpc_session_output and grpc_session_wrote, with the bytes for the socket. */
int secure_output(KilnClient *c, struct iovec *iov, int cap);
void secure_wrote(KilnClient *c, size_t n);

/* -- call.c ---------------------------------------------------------------------------------------
 */

typedef Status (*CallDecode)(KilnCall *call, Bytes msg);
/* err NULL = success; the receiver owns answer. */
typedef void (*CallDone)(KilnCall *call, const KilnError *err, void *answer);

/* The bytes of a streamed upload: memory, or a file when fd >= 0. */
typedef struct ChunkSource {
  const uint8_t *data;
  int fd;
  uint64_t left;
} ChunkSource;

/* A method with one request and one answer of one message. */
typedef struct Method {
  const char *path;
  const ProtobufCMessageDescriptor *message;
  size_t size; /* of the public struct, which is zero when it is laid out */
  /* Lays the message out as that; both live in a. NULL: the message says nothing. */
  Status (*lay_out)(const void *message, Arena *a, void *out);
  bool once; /* never made again: it changes something, or asks how things are now */
} Method;

struct KilnCall {
  KilnClient *client;
  GrpcStream *stream;
  KilnCall *prev, *next;
  int64_t deadline; /* 0 = none */
  CallDecode decode;
  const Method *method; /* of call_method, else NULL */
  CallDone done;
  KilnCompileDone compile_done;
  KilnRunDone run_done;
  void *ctx;
  void *answer;    /* owned; made by decode */
  Status failed;   /* what decode or the upload failed with */
  uint64_t filled; /* download: bytes of the tensor so far */
  bool streaming;
  ChunkSource source;
};

typedef struct CallSpec {
  const char *path;
  CallDecode decode;
  const Method *method; /* for decode; NULL otherwise */
  CallDone done;
  void *ctx;
  const char *handle; /* whose server is to have the call; NULL: any */
  const char *graph;  /* where compiles of one graph meet; NULL: anywhere */
  bool once;          /* as Method.once, for call_unary */
} CallSpec;

/* Begins a call on a connected (or connecting) client; nothing is sent yet. */
Status call_start(KilnClient *c, const CallSpec *spec, KilnCall **out);
/* Queues the only (or first) message. */
void call_send(KilnCall *call, const ProtobufCMessage *msg);
/* All messages are queued. */
void call_end(KilnCall *call);
/* Streams a source as chunk messages (field 2 of a request) after what was sent. Takes the fd. */
void call_stream(KilnCall *call, ChunkSource source);

/* The answer, for kiln_free; NULL when *code is not KILN_OK. */
void *call_method(KilnClient *c, const Method *method, const ProtobufCMessage *request,
                  KilnCode *code, KilnError *err);
/* The same, at the server that the handle belongs to. */
void *call_method_at(KilnClient *c, const Method *method, const char *handle,
                     const ProtobufCMessage *request, KilnCode *code, KilnError *err);
/* A unary call from request message to answer, by a decoder of its own. */
KilnCode call_unary(KilnClient *c, const char *path, const ProtobufCMessage *request,
                    CallDecode decode, void **out, KilnError *err);

/* The blocking end of any call: what CallDone writes and client_wait waits for. */
typedef struct CallWait {
  bool done;
  KilnCode code;
  KilnError *err;
  void *answer;
} CallWait;
void call_wait_done(KilnCall *call, const KilnError *err, void *answer);
/* Waits for a call that was started with call_wait_done and ctx = w; or takes the failure to start.
 */
KilnCode call_wait(KilnClient *c, CallWait *w, Status started, void **out);

/* -- repeat.c ------------------------------------------------------------------------------------
 */

typedef struct Repeat {
  KilnClient *client;
  bool once;
  int64_t began_ns, pause_ns, outer_deadline;
} Repeat;
/* Around the attempts of one call: begin; do code = attempt; while (repeat_again(...)). */
void repeat_begin(Repeat *r, KilnClient *c, bool once);
/* True after a pause when the call is to be made again. */
bool repeat_again(Repeat *r, KilnCode code, const KilnError *err);

/* The server that a handle belongs to: what follows its @, "" = it is alone. */
static inline const char *handle_node(const char *handle) {
  const char *at = strchr(handle, '@');
  return at ? at + 1 : "";
}

/* -- compile.c, run.c -----------------------------------------------------------------------------
 */

/* kiln_compile at the server of a handle; NULL: where the model belongs. */
KilnCode compile_near(KilnClient *c, const KilnModel *model, const KilnCompileOptions *options,
                      const char *near, KilnExecutable **out, KilnError *err);
/* kiln_run, once. */
KilnCode run_attempt(KilnClient *c, const char *executable, const KilnTensor *inputs,
                     size_t ninputs, const KilnRunOptions *options, KilnResult **out,
                     KilnError *err);

/* -- buffers.c, memory.c --------------------------------------------------------------------------
 */

/* near: a handle of the server that is to have it, or NULL. */
Status upload_start(KilnClient *c, const char *near, CallWait *w, KilnCall **out);
/* memory: the number of a passed descriptor, or 0. */
void upload_send_header(KilnCall *call, const KilnTensor *t, const char *device, uint64_t memory);
struct msghdr;
/* sendmsg(2) with the descriptors that wait. */
ssize_t client_sendmsg(KilnClient *c, struct msghdr *m);
void client_pass_reset(KilnClient *c);

/* A text as a field of a request: char *, never written through. */
static inline char *message_text(const char *s) { return (char *)(uintptr_t)s; }

static inline Status answer_no_memory(void) {
  return FAIL(RESOURCE_EXHAUSTED, "no memory for the answer");
}
/* Makes call->answer, a struct of `size` bytes, and unpacks msg into its arena. */
Status answer_unpack(KilnCall *call, const ProtobufCMessageDescriptor *desc, Bytes msg, size_t size,
                     ProtobufCMessage **out);
/* dims as uint64_t; NULL only when memory is out. */
const uint64_t *answer_dims(Arena *a, size_t n, const uint64_t *dims);
