/* libkiln: the C client of Kiln, a compiler-as-a-service daemon.
 *
 *   KilnError err;
 *   KilnClient *client;
 *   KilnExecutable *exe;
 *   KilnResult *out;
 *   KilnModel model = {0};
 *   model.path = "model.onnx";
 *   if (kiln_connect(NULL, NULL, &client, &err)) return fail(err.message);
 *   if (kiln_compile(client, &model, NULL, &exe, &err)) ...
 *   uint64_t dims[2] = {1, 4};
 *   KilnTensor x = {0};
 *   x.name = "x"; x.dtype = KILN_F32; x.rank = 2; x.dims = dims; x.data = floats; x.bytes = 16;
 *   if (kiln_run(client, exe->id, &x, 1, NULL, &out, &err)) ...
 *   use(out->tensors[0].data);
 *   kiln_free(out); kiln_free(exe); kiln_close(client);
 *
 * Errors. Functions return a KilnCode, 0 = OK; err may be NULL. On failure every out pointer is
 * NULL. Texts say what was wrong, what was expected and what was got.
 *
 * Memory. Structs are zero-initialised by the caller and read by the library during the call only,
 * unless a function says otherwise. What an out parameter returns is one block, owned by the
 * caller, freed by kiln_free together with everything it points to; its fields are read-only.
 *
 * Threads. A client and its calls belong to one thread at a time; different clients are
 * independent. The library installs no signal handler and starts no thread.
 *
 * Two forms. Blocking functions wait with poll(2). Functions that end in _start return at once and
 * call back from kiln_client_process (never from within themselves); see "In an event loop". Do
 * not call a blocking function from a callback. */
#ifndef KILN_H
#define KILN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KILN_API __attribute__((visibility("default")))
#else
#define KILN_API
#endif

#define KILN_VERSION_MAJOR 0
#define KILN_VERSION_MINOR 1
#define KILN_VERSION_PATCH 0

/* "0.1.0": of the library that runs, not of this header. */
KILN_API const char *kiln_version(void);

/* -- errors --------------------------------------------------------------------------------------
 */

/* The gRPC status codes. */
typedef enum KilnCode {
  KILN_OK = 0,
  KILN_CANCELLED = 1,
  KILN_UNKNOWN = 2,
  KILN_INVALID_ARGUMENT = 3,
  KILN_DEADLINE_EXCEEDED = 4,
  KILN_NOT_FOUND = 5,
  KILN_ALREADY_EXISTS = 6,
  KILN_PERMISSION_DENIED = 7,
  KILN_RESOURCE_EXHAUSTED = 8,
  KILN_FAILED_PRECONDITION = 9,
  KILN_ABORTED = 10,
  KILN_OUT_OF_RANGE = 11,
  KILN_UNIMPLEMENTED = 12,
  KILN_INTERNAL = 13,
  KILN_UNAVAILABLE = 14,
  KILN_DATA_LOSS = 15,
  KILN_UNAUTHENTICATED = 16
} KilnCode;

typedef struct KilnError {
  KilnCode code;
  char message[1024]; /* cut when longer */
} KilnError;

/* "INVALID_ARGUMENT" for KILN_INVALID_ARGUMENT. */
KILN_API const char *kiln_code_name(KilnCode code);

/* Frees what an out parameter returned. NULL is allowed. */
KILN_API void kiln_free(const void *answer);

/* -- connecting ----------------------------------------------------------------------------------
 */

typedef struct KilnClient KilnClient;

typedef struct KilnConnectOptions {
  int no_spawn;       /* do not start the user's own daemon */
  int64_t timeout_ms; /* for connecting, including the start of a daemon; 0 = 10 s */
} KilnConnectOptions;

/* address: "unix:PATH" or "HOST:PORT". NULL: $KILN_SERVER, else the user's own daemon on
 * $XDG_RUNTIME_DIR/kiln/kiln.sock (or /tmp/kiln-UID/kiln.sock), which is started when nobody
 * listens there: kilnd is looked for in $KILN_BIN, beside this program, and in PATH. A server that
 * was named is never started.
 *
 * A client whose connection was lost connects again with its next call. */
KILN_API KilnCode kiln_connect(const char *address, const KilnConnectOptions *options,
                               KilnClient **out, KilnError *err);
/* Cancels open calls (their callbacks run) and frees the client. NULL is allowed. */
KILN_API void kiln_close(KilnClient *client);
/* "unix:/run/user/1000/kiln/kiln.sock": where the client is, or will be, connected to. */
KILN_API const char *kiln_client_address(const KilnClient *client);
/* The deadline of calls made from now on, sent to the server as well. 0 = none (the default). */
KILN_API void kiln_client_set_timeout(KilnClient *client, int64_t timeout_ms);
/* The address that kiln_connect(NULL) would use, into buf; returns its length, like snprintf. */
KILN_API size_t kiln_default_address(char *buf, size_t cap);

/* -- tensors -------------------------------------------------------------------------------------
 */

typedef enum KilnDType {
  KILN_DTYPE_NONE = 0,
  KILN_BOOL = 1,
  KILN_I8 = 2,
  KILN_I16 = 3,
  KILN_I32 = 4,
  KILN_I64 = 5,
  KILN_U8 = 6,
  KILN_U16 = 7,
  KILN_U32 = 8,
  KILN_U64 = 9,
  KILN_F16 = 10,
  KILN_BF16 = 11,
  KILN_F32 = 12,
  KILN_F64 = 13,
  /* One element per byte, in its low bits. */
  KILN_F8E4M3FN = 14,
  KILN_F8E4M3FNUZ = 15,
  KILN_F8E5M2 = 16,
  KILN_F8E5M2FNUZ = 17,
  KILN_F8E8M0 = 18,
  KILN_F4E2M1 = 19,
  KILN_I4 = 20,
  KILN_U4 = 21,
  KILN_I2 = 22,
  KILN_U2 = 23
} KilnDType;

/* Bytes per element; 0 for what is not a dtype. */
KILN_API size_t kiln_dtype_size(KilnDType dtype);
/* "float32", as numpy and ml_dtypes say it; "?" for what is not a dtype. */
KILN_API const char *kiln_dtype_name(KilnDType dtype);

/* A tensor in the caller's memory, or one that the server holds. */
typedef struct KilnTensor {
  const char *name; /* of the model's input or output */
  KilnDType dtype;
  size_t rank;
  const uint64_t *dims;
  const void *data;   /* little-endian, row-major, densely packed */
  size_t bytes;       /* exactly product(dims) * kiln_dtype_size(dtype) */
  const char *buffer; /* when set: the id of a server-side buffer; the fields above but name are
                         then ignored (as input) or zero (as output) */
} KilnTensor;

typedef struct KilnTensorSpec {
  const char *name;
  KilnDType dtype;
  size_t rank;
  const uint64_t *dims;
  size_t bytes;
} KilnTensorSpec;

/* -- compiling -----------------------------------------------------------------------------------
 */

typedef enum KilnFormat {
  KILN_FORMAT_GUESS = 0, /* by the file's name; ONNX when there is none */
  KILN_FORMAT_ONNX = 1,
  KILN_FORMAT_KGRAPH = 2 /* a serialized kiln.v1.Graph */
} KilnFormat;

typedef struct KilnModel {
  const char *path;  /* read in pieces while it is sent, or: */
  const void *bytes; /* valid until the call ends */
  size_t size;
  const char *name; /* for messages and logs; NULL = the path's last part */
  KilnFormat format;
} KilnModel;

typedef struct KilnDim {
  const char *name; /* of a symbolic dimension; "x.0" for an unnamed one: input x, axis 0 */
  uint64_t size;
} KilnDim;

typedef struct KilnCompileOptions {
  const KilnDim *dims;
  size_t ndims;
  const char *device; /* NULL = the server's choice */
  int no_cache;       /* neither read nor write the server's cache */
} KilnCompileOptions;

typedef struct KilnExecutable {
  const char *id;
  size_t ninputs, noutputs;
  const KilnTensorSpec *inputs, *outputs;
  /* How it was made. */
  const char *graph_hash; /* hex SHA-256 */
  const char *device;
  int plan_cached;
  uint32_t kernels; /* calls per run */
  uint32_t unique_kernels;
  uint32_t kernels_compiled; /* the rest came from the cache */
  uint64_t weight_bytes;
  uint64_t temp_bytes; /* peak of the planned intermediate memory */
  int64_t frontend_ns, kernels_ns, codegen_ns, cache_ns, load_ns, total_ns, frontend_cpu_ns;
} KilnExecutable;

KILN_API KilnCode kiln_compile(KilnClient *client, const KilnModel *model,
                               const KilnCompileOptions *options, KilnExecutable **out,
                               KilnError *err);
KILN_API KilnCode kiln_release(KilnClient *client, const char *executable, KilnError *err);

typedef struct KilnText {
  const char *text;
} KilnText;

/* The text of one stage of the compiler's pipeline for a model: tensor ranged kernels scheduled
 * lowered linear code. kernel: -1 = all. */
KILN_API KilnCode kiln_inspect(KilnClient *client, const KilnModel *model,
                               const KilnCompileOptions *options, const char *stage, int32_t kernel,
                               KilnText **out, KilnError *err);

/* -- running -------------------------------------------------------------------------------------
 */

typedef struct KilnRunOptions {
  const char *const *outputs; /* names of the wanted ones; none = all, in the model's order */
  size_t noutputs;
  int outputs_as_buffers; /* leave the outputs on the server */
} KilnRunOptions;

typedef struct KilnResult {
  size_t count;
  const KilnTensor *tensors; /* data is aligned to 64 bytes */
  int64_t device_ns;         /* first kernel start to last kernel end */
  int64_t queue_ns;          /* received to handed to the device */
} KilnResult;

KILN_API KilnCode kiln_run(KilnClient *client, const char *executable, const KilnTensor *inputs,
                           size_t ninputs, const KilnRunOptions *options, KilnResult **out,
                           KilnError *err);

/* -- server-side buffers -------------------------------------------------------------------------
 */

typedef struct KilnBuffer {
  const char *id;
  KilnDType dtype;
  size_t rank;
  const uint64_t *dims;
  const char *device;
  uint64_t bytes;
} KilnBuffer;

typedef struct KilnBuffers {
  size_t count;
  const KilnBuffer *buffers;
} KilnBuffers;

/* device: NULL = the server's choice. Of *out only id is filled in. */
KILN_API KilnCode kiln_upload(KilnClient *client, const KilnTensor *tensor, const char *device,
                              KilnBuffer **out, KilnError *err);
/* One tensor, without a name. */
KILN_API KilnCode kiln_download(KilnClient *client, const char *buffer, KilnResult **out,
                                KilnError *err);
KILN_API KilnCode kiln_free_buffers(KilnClient *client, const char *const *buffers, size_t n,
                                    KilnError *err);
KILN_API KilnCode kiln_list_buffers(KilnClient *client, KilnBuffers **out, KilnError *err);

/* -- the server ----------------------------------------------------------------------------------
 */

typedef struct KilnServerInfo {
  const char *version;
  uint32_t api_min, api_max;
  uint64_t max_message_bytes, max_model_bytes, max_tensor_bytes;
  int64_t uptime_ns;
  uint32_t pid;
  const char *cache_path;  /* empty when serving without a cache */
  const char *cache_error; /* why there is no cache */
  uint64_t resident_bytes; /* of kilnd itself */
} KilnServerInfo;

KILN_API KilnCode kiln_server_info(KilnClient *client, KilnServerInfo **out, KilnError *err);

typedef struct KilnDevice {
  const char *name, *kind, *description;
  int available;
  const char *reason; /* why not */
  uint32_t restarts;
  const char *last_failure;
  uint64_t buffers, buffer_bytes;
  const char *fingerprint; /* hex SHA-256 */
} KilnDevice;

typedef struct KilnDevices {
  size_t count;
  const KilnDevice *devices;
} KilnDevices;

KILN_API KilnCode kiln_list_devices(KilnClient *client, KilnDevices **out, KilnError *err);

typedef enum KilnServing {
  KILN_SERVING_UNKNOWN = 0,
  KILN_SERVING = 1,
  KILN_NOT_SERVING = 2
} KilnServing;

/* service: NULL or "" = the whole server; NOT_FOUND for a service it does not know. */
KILN_API KilnCode kiln_health(KilnClient *client, const char *service, KilnServing *out,
                              KilnError *err);

/* -- the cache -----------------------------------------------------------------------------------
 */

typedef struct KilnCacheStats {
  const char *path, *error;
  uint64_t plans, kernels, bytes, max_bytes;
  uint64_t hits, misses, evictions, corrupt; /* since the server started */
  uint64_t merged;                           /* identical compiles that joined one in flight */
  uint32_t schema;
} KilnCacheStats;

typedef struct KilnCacheEntry {
  const char *kind; /* "plan" or "kernel" */
  const char *hash;
  uint64_t bytes, uses;
  int64_t created_unix_ns, used_unix_ns;
  const char *target; /* fingerprint, hex */
  const char *note;   /* kernel name, or the first model name seen */
} KilnCacheEntry;

typedef struct KilnCacheEntries {
  size_t count;
  const KilnCacheEntry *entries;
} KilnCacheEntries;

KILN_API KilnCode kiln_cache_stats(KilnClient *client, KilnCacheStats **out, KilnError *err);
/* limit: 0 = the server's choice. */
KILN_API KilnCode kiln_cache_list(KilnClient *client, uint32_t limit, KilnCacheEntries **out,
                                  KilnError *err);
/* hash: of a graph or a kernel, or a unique prefix of one. */
KILN_API KilnCode kiln_cache_why(KilnClient *client, const char *hash, KilnText **out,
                                 KilnError *err);

/* -- in an event loop ----------------------------------------------------------------------------
 */

/* Begins connecting and returns a client at once; calls may be started on it immediately and fail
 * with UNAVAILABLE if the connection does. Fails itself for a malformed address, a socket folder
 * that others can write, and when memory is out. Names are resolved before it returns. */
KILN_API KilnCode kiln_connect_start(const char *address, const KilnConnectOptions *options,
                                     KilnClient **out, KilnError *err);
/* What to wait for: the descriptor (-1: only the time; it may change after kiln_client_process),
 * the poll(2) events, and the longest wait in milliseconds (-1 = no limit). */
KILN_API int kiln_client_fd(const KilnClient *client);
KILN_API short kiln_client_events(const KilnClient *client);
KILN_API int kiln_client_wait_ms(const KilnClient *client);
/* Reads, writes, expires deadlines and runs callbacks; never blocks. Call it when the descriptor
 * is ready or the time is over. A failure means that the connection was lost: open calls were
 * called back with it. */
KILN_API KilnCode kiln_client_process(KilnClient *client, KilnError *err);

typedef struct KilnCall KilnCall; /* valid until its callback was called */

/* err: NULL = success. The receiver owns the executable or result (NULL on failure). */
typedef void (*KilnCompileDone)(void *ctx, const KilnError *err, KilnExecutable *executable);
typedef void (*KilnRunDone)(void *ctx, const KilnError *err, KilnResult *result);

/* These fail themselves, without a callback, when the call cannot be started. call may be NULL. */
KILN_API KilnCode kiln_compile_start(KilnClient *client, const KilnModel *model,
                                     const KilnCompileOptions *options, KilnCompileDone done,
                                     void *ctx, KilnCall **call, KilnError *err);
KILN_API KilnCode kiln_run_start(KilnClient *client, const char *executable,
                                 const KilnTensor *inputs, size_t ninputs,
                                 const KilnRunOptions *options, KilnRunDone done, void *ctx,
                                 KilnCall **call, KilnError *err);
/* The callback follows, with CANCELLED. */
KILN_API void kiln_call_cancel(KilnCall *call);

#ifdef __cplusplus
}
#endif

#endif
