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
  /* When the server expects to have room, from now; 0 = it did not say, -1 = another try would end
   * in the same way. */
  int64_t retry_after_ns;
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
  /* For so long blocking calls are repeated, with growing pauses: those that change nothing after
   * UNAVAILABLE, all after RESOURCE_EXHAUSTED with a time to try again. Never for a server that has
   * not answered yet, and never beyond the deadline. 0 = 10 s, below 0 = not at all. */
  int64_t retry_ms;
  /* Who the caller is: a bearer token, sent with every call. NULL: $KILN_TOKEN. It is not sent to
   * another machine in plain text. */
  const char *token;
  /* TLS, when a CA is given: PEM file with whom to believe, or "system"; the client's certificate
   * and key; the name that the server's certificate must have, when it is not the host's. NULL:
   * $KILN_TLS_CA, _CERT, _KEY and _SERVER_NAME. */
  const char *tls_ca, *tls_cert, *tls_key, *tls_server_name;
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
                         then ignored (as input), or zero but for rank and dims (as output) */
} KilnTensor;

/* A dimension: a number, or (max above 0) a name whose size each run decides, in [min, max] and a
 * multiple of `multiple`. All fields but those that matter are 0. */
typedef struct KilnDim {
  const char *name; /* "x.0" for an unnamed one: input x, axis 0 */
  uint64_t size;
  uint64_t min, max, multiple; /* multiple: 0 is 1 */
} KilnDim;

typedef struct KilnTensorSpec {
  const char *name;
  KilnDType dtype;
  size_t rank;
  const uint64_t *dims; /* the largest, where a run decides */
  size_t bytes;         /* at most, then */
  /* Per dimension; NULL when all are numbers. The name of an output's may be an expression, "2*n +
   * 1", or "?" when the run computes it from data. */
  const KilnDim *shape;
  int state; /* an input that every run updates in place: its value is a buffer */
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

typedef struct KilnCompileOptions {
  const KilnDim *dims; /* what named dimensions may be; others: as the model says, or [1, 65536] */
  size_t ndims;
  const char *device; /* NULL = the server's choice */
  int no_cache;       /* neither read nor write the server's cache */
  int fast_math;      /* also algorithms that round otherwise than the graph does */
  /* Runs that wait for a busy device may run together where rows are independent: for so long at
   * most (below 0: each alone; 0: as the server is configured), and so many rows (0: the same). */
  int batch_delay_ms;
  uint32_t batch_rows;
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
  uint64_t kept_bytes; /* made of the weights when loading, and resident beside them */
  int64_t frontend_ns, kernels_ns, codegen_ns, cache_ns, load_ns, total_ns, frontend_cpu_ns;
} KilnExecutable;

KILN_API KilnCode kiln_compile(KilnClient *client, const KilnModel *model,
                               const KilnCompileOptions *options, KilnExecutable **out,
                               KilnError *err);
KILN_API KilnCode kiln_release(KilnClient *client, const char *executable, KilnError *err);

/* A model that stays runnable: it is compiled again when its server does not know the executable
 * any more, after an upgrade or where there are several servers behind a proxy. The client outlives
 * it. What the model points to may go after the call; a file has to stay as it is. */
typedef struct KilnProgram KilnProgram;
KILN_API KilnCode kiln_program_create(KilnClient *client, const KilnModel *model,
                                      const KilnCompileOptions *options, KilnProgram **out,
                                      KilnError *err);
/* As it was compiled first; valid as long as the program. */
KILN_API const KilnExecutable *kiln_program_executable(const KilnProgram *program);
/* The executable's id now; valid until the next run. */
KILN_API const char *kiln_program_id(const KilnProgram *program);
/* Releases the executable as well. NULL is allowed. */
KILN_API void kiln_program_free(KilnProgram *program);

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

/* Among the runs of one user that wait for a device. */
typedef enum KilnPriority {
  KILN_PRIORITY_DEFAULT = 0, /* normal */
  KILN_PRIORITY_HIGH = 1,
  KILN_PRIORITY_NORMAL = 2,
  KILN_PRIORITY_LOW = 3
} KilnPriority;

typedef struct KilnRunOptions {
  const char *const *outputs; /* names of the wanted ones; none = all, in the model's order */
  size_t noutputs;
  int outputs_as_buffers; /* leave the outputs on the server */
  int seeded;             /* random ops draw the numbers of seed and run, not fresh ones */
  uint64_t seed, run;     /* any; equal pairs give equal numbers on every device */
  int profile;            /* time every call of a kernel; each is waited for */
  KilnPriority priority;
} KilnRunOptions;

typedef struct KilnResult {
  size_t count;
  const KilnTensor *tensors; /* data is aligned to 64 bytes */
  int64_t device_ns;         /* first kernel start to last kernel end */
  int64_t queue_ns;          /* received to handed to the device */
  /* With KilnRunOptions.profile, by call (KilnKernel.calls): what all its executions took, and how
   * many these were. */
  size_t ncalls;
  const int64_t *call_ns;
  const uint32_t *call_runs;
} KilnResult;

KILN_API KilnCode kiln_run(KilnClient *client, const char *executable, const KilnTensor *inputs,
                           size_t ninputs, const KilnRunOptions *options, KilnResult **out,
                           KilnError *err);

/* Where the buffers among the inputs are. Repeated like other calls unless the program has states
 * or outputs stay on the server. DATA_LOSS: the server that had a buffer has gone. */
KILN_API KilnCode kiln_program_run(KilnProgram *program, const KilnTensor *inputs, size_t ninputs,
                                   const KilnRunOptions *options, KilnResult **out, KilnError *err);

/* -- explaining ----------------------------------------------------------------------------------
 */

/* A schedule that was tried for a kernel. */
typedef struct KilnTried {
  const char *opts, *cause; /* "measured" "compile_error" "timeout" "oom" "crash" "wrong_result" */
  int64_t median_ns, mad_ns;
  uint32_t reps;
  int64_t peer_ns; /* what was in use then, in the same measurement; 0 = none */
  int64_t measured_unix_ns;
  const char *host;
  int verified, imported;
  const char *origin; /* the node whose record led to it; "" = found here */
} KilnTried;

typedef struct KilnKernel {
  const char *name, *hash, *shape;
  size_t ncalls;
  const uint32_t *calls; /* positions in KilnResult.call_ns */
  uint32_t once;         /* how many of them are done once, when the executable is loaded */
  uint64_t flops, bytes_read, bytes_written; /* of one call */
  int64_t roofline_ns;                       /* no schedule is faster; 0 = not known */
  int64_t predicted_ns; /* by the analytic model, for the schedule in use; 0 = it cannot say */
  const char *opts;     /* the schedule in use */
  const char *source;   /* "heuristic", "class", "tuned", "shared" */
  size_t ntried;
  const KilnTried *tried;    /* the best first */
  uint32_t measured, failed; /* records in all */
  const char *origin;        /* of a shared schedule: the node that found it; else "" */
} KilnKernel;

/* What a run would cost if it were asked for now. */
typedef struct KilnEstimate {
  int64_t device_ns;   /* of the device's time; 0 = not known */
  int measured;        /* it is what runs took lately; else a sum of predictions */
  int64_t wait_ns;     /* behind what waits for the device; rough */
  uint64_t waiting;    /* runs of the caller's tenant that do */
  uint64_t host_bytes; /* of its tensors, at most, when they are sent with it and back */
  const char *refused; /* why it would be refused; "" = it would not */
} KilnEstimate;

typedef struct KilnExplanation {
  const char *device;
  uint32_t calls;
  size_t count;
  const KilnKernel *kernels;
  KilnEstimate run;
} KilnExplanation;
/* What the kernels of an executable do, how they are scheduled, and at most `tried` records of each
 * of what was tried. How long they take says a run with KilnRunOptions.profile. */
KILN_API KilnCode kiln_explain(KilnClient *client, const char *executable, uint32_t tried,
                               KilnExplanation **out, KilnError *err);

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

/* The same on the server that has `near`, the id of an executable or a buffer; where there is one
 * server there is no difference. */
KILN_API KilnCode kiln_upload_near(KilnClient *client, const KilnTensor *tensor, const char *device,
                                   const char *near, KilnBuffer **out, KilnError *err);

/* Memory that a server on the same machine takes as it is, without a copy: build the tensor in it,
 * then upload it. What was uploaded cannot be changed any more, by anybody, and not be a state that
 * runs update; the memory may be freed at once or uploaded again. */
typedef struct KilnMemory KilnMemory;
KILN_API KilnCode kiln_memory_create(size_t bytes, KilnMemory **out, KilnError *err);
/* `bytes` zero bytes; after the upload only to be read, at another address, NULL when it could not
 * be mapped again. */
KILN_API void *kiln_memory_data(const KilnMemory *memory);
KILN_API void kiln_memory_free(KilnMemory *memory);
/* tensor->data is not looked at; the tensor is the first tensor->bytes bytes of the memory. Over
 * TCP they are sent. */
KILN_API KilnCode kiln_upload_memory(KilnClient *client, const KilnTensor *tensor,
                                     KilnMemory *memory, const char *device, KilnBuffer **out,
                                     KilnError *err);
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
  const char *node;        /* its name among others, "" = none */
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

/* The answers of GetStatus and GetTrace (kiln.proto says what is in them) as JSON in protobuf's own
 * mapping: 64-bit numbers are strings, bytes hexadecimal. What concerns others is left out for who
 * is no admin. `after`: 0, or `next` of the answer before. */
KILN_API KilnCode kiln_status_json(KilnClient *client, KilnText **out, KilnError *err);
KILN_API KilnCode kiln_trace_json(KilnClient *client, uint64_t after, KilnText **out,
                                  KilnError *err);

typedef enum KilnServing {
  KILN_SERVING_UNKNOWN = 0,
  KILN_SERVING = 1,
  KILN_NOT_SERVING = 2
} KilnServing;

/* service: NULL or "" = the whole server; NOT_FOUND for a service it does not know. */
KILN_API KilnCode kiln_health(KilnClient *client, const char *service, KilnServing *out,
                              KilnError *err);

/* -- tuning --------------------------------------------------------------------------------------
 */

/* How a search for faster kernels is going. */
typedef struct KilnTuneProgress {
  const char *kernel; /* that it works on; "" at first */
  const char *step;   /* "look", "compile", "time" */
  const char *opts;   /* of the best schedule of this kernel */
  uint32_t kernels;   /* of the executable */
  uint32_t replaced;  /* of them are faster than at the beginning */
  uint32_t tried;     /* schedules of this kernel */
  uint32_t tried_all; /* of all kernels */
  int64_t first_ns;   /* this kernel, at the beginning and now; 0: not measured yet */
  int64_t best_ns;
  int64_t model_first_ns; /* all calls of a run, as far as they are measured */
  int64_t model_best_ns;
  int64_t left_ns; /* of the budget */
} KilnTuneProgress;

typedef struct KilnTunedKernel {
  const char *kernel, *opts; /* opts: in use now */
  uint32_t calls, tried;
  int64_t first_ns, best_ns, roofline_ns; /* of one call */
} KilnTunedKernel;

typedef struct KilnTuneFailures {
  const char *cause; /* compile_error timeout oom crash wrong_result */
  uint32_t count;
} KilnTuneFailures;

typedef struct KilnTuneSummary {
  const char *ended; /* "budget", "exhausted", "shared": another node has searched */
  int64_t wall_ns, model_first_ns, model_best_ns;
  uint32_t tried, measured, replaced;
  size_t nkernels, nfailures;
  const KilnTunedKernel *kernels; /* those that take most time first */
  const KilnTuneFailures *failures;
} KilnTuneSummary;

/* 0 ends the search: KILN_CANCELLED. p is valid during the call. */
typedef int (*KilnTuneWatch)(void *ctx, const KilnTuneProgress *p);
/* Searches for faster kernels for at most budget_ms (0 = a minute) and waits for the end. Runs in
 * between are served, with what has been found so far. watch may be NULL. */
KILN_API KilnCode kiln_tune(KilnClient *client, const char *executable, int64_t budget_ms,
                            KilnTuneWatch watch, void *ctx, KilnTuneSummary **out, KilnError *err);

/* -- the cache -----------------------------------------------------------------------------------
 */

typedef struct KilnCacheStats {
  const char *path, *error;
  uint64_t plans, kernels, bytes, max_bytes;
  uint64_t hits, misses, evictions, corrupt; /* since the server started */
  uint64_t merged;                           /* identical compiles that joined one in flight */
  uint32_t schema;
  uint64_t schedules, schedule_bytes; /* records of schedules that were tried; part of bytes */
} KilnCacheStats;

typedef struct KilnCacheEntry {
  const char *kind; /* "plan" or "kernel" */
  const char *hash;
  uint64_t bytes, uses;
  int64_t created_unix_ns, used_unix_ns;
  const char *target; /* fingerprint, hex */
  const char *note;   /* kernel name, or the first model name seen */
  uint64_t schedules; /* of a kernel: records of schedules that were tried on the target */
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

typedef struct KilnCacheFile {
  const void *data;
  size_t bytes;
  uint64_t records;
} KilnCacheFile;
/* The server's schedule records as a file for another server. kernel: the start of a kernel's hash;
 * NULL = all. */
KILN_API KilnCode kiln_cache_export(KilnClient *client, const char *kernel, KilnCacheFile **out,
                                    KilnError *err);

typedef struct KilnCacheImport {
  uint64_t records; /* in the file */
  uint64_t stored;  /* the others were known, or are beyond what is kept per kernel */
} KilnCacheImport;
/* Takes all of a file or none. The server verifies what it brings before using it. */
KILN_API KilnCode kiln_cache_import(KilnClient *client, const void *data, size_t bytes,
                                    KilnCacheImport **out, KilnError *err);

typedef struct KilnCacheCheck {
  uint64_t entries, schedules; /* whole ones */
  uint64_t corrupt;            /* damaged ones, which were removed */
  uint64_t newer;              /* records of a newer version, left alone */
  const char *problems;        /* of the file itself, a line each; "" = none */
} KilnCacheCheck;
/* Reads everything that is stored. */
KILN_API KilnCode kiln_cache_verify(KilnClient *client, KilnCacheCheck **out, KilnError *err);

typedef struct KilnCachePrune {
  const char *target; /* first, all whose target fingerprint begins so; NULL = nothing */
  int64_t older_ns;   /* then what was not used or measured for so long; 0 = nothing */
  uint64_t bytes;     /* then the least useful until at most this much is left; 0 = nothing */
} KilnCachePrune;
typedef struct KilnCacheRemoved {
  uint64_t entries, schedules, bytes;
} KilnCacheRemoved;
KILN_API KilnCode kiln_cache_prune(KilnClient *client, const KilnCachePrune *what,
                                   KilnCacheRemoved **out, KilnError *err);
/* All that is stored under one hash, of a graph or a kernel, or a unique prefix of one. */
KILN_API KilnCode kiln_cache_remove(KilnClient *client, const char *hash, KilnCacheRemoved **out,
                                    KilnError *err);

/* -- building a graph ----------------------------------------------------------------------------
 *
 *   KilnGraph *g;
 *   KilnGraphDim dims[2] = {{0}, {0}};
 *   int64_t axis = 1;
 *   dims[0].size = 4, dims[1].name = "n";
 *   if (kiln_graph_create(&g, &err)) ...
 *   KilnNode x = kiln_graph_param(g, "x", KILN_F32, 2, dims, 0);
 *   kiln_graph_output(g, "y", kiln_graph_reduce(g, KILN_OP_REDUCE_SUM,
 *                     kiln_graph_op1(g, KILN_OP_EXP2, x), 1, &axis, 0));
 *   if (kiln_graph_finish(g, &model, &err)) ...
 *   kiln_compile(client, &model, NULL, &exe, &err);
 *   kiln_graph_free(g);
 *
 * What each op computes is in docs/graph-ops.md, how a graph is put together in docs/graph.md.
 * Functions that make a node give its number, or KILN_NO_NODE after a mistake. The graph remembers
 * the first mistake, everything after it does nothing, and kiln_graph_finish reports it, so calls
 * can be nested. Numbers of sources and integers are checked here, shapes and dtypes by the server.
 */

typedef struct KilnGraph KilnGraph;
typedef int64_t KilnNode;
typedef int64_t KilnSize; /* of kiln_graph_size_*; 0 = none */
#define KILN_NO_NODE         ((KilnNode)-1)
#define KILN_GRAPH_MAX_NODES 4194304
#define KILN_GRAPH_MAX_INTS  64 /* of one node */

typedef enum KilnOp {
  KILN_OP_PARAM = 1,
  KILN_OP_CONST = 2,
  KILN_OP_IOTA = 3,
  KILN_OP_SIZE = 4,
  KILN_OP_RESHAPE = 10,
  KILN_OP_PERMUTE = 11,
  KILN_OP_EXPAND = 12,
  KILN_OP_PAD = 13,
  KILN_OP_SHRINK = 14,
  KILN_OP_FLIP = 15,
  KILN_OP_WINDOW = 16,
  KILN_OP_CAT = 17,
  KILN_OP_GATHER = 18,
  KILN_OP_REDUCE_SUM = 20,
  KILN_OP_REDUCE_PROD = 21,
  KILN_OP_REDUCE_MAX = 22,
  KILN_OP_REDUCE_MIN = 23,
  KILN_OP_CAST = 30,
  KILN_OP_BITCAST = 31,
  KILN_OP_CONTIGUOUS = 32,
  KILN_OP_NEG = 40,
  KILN_OP_ABS = 41,
  KILN_OP_RECIP = 42,
  KILN_OP_SQRT = 43,
  KILN_OP_EXP = 44,
  KILN_OP_EXP2 = 45,
  KILN_OP_LOG = 46,
  KILN_OP_LOG2 = 47,
  KILN_OP_SIN = 48,
  KILN_OP_COS = 49,
  KILN_OP_TANH = 50,
  KILN_OP_ERF = 51,
  KILN_OP_ATAN = 52,
  KILN_OP_TRUNC = 53,
  KILN_OP_FLOOR = 54,
  KILN_OP_CEIL = 55,
  KILN_OP_ROUND = 56,
  KILN_OP_NOT = 57,
  KILN_OP_ADD = 70,
  KILN_OP_SUB = 71,
  KILN_OP_MUL = 72,
  KILN_OP_DIV = 73,
  KILN_OP_MOD = 74,
  KILN_OP_FLOORDIV = 75,
  KILN_OP_FLOORMOD = 76,
  KILN_OP_MAX = 77,
  KILN_OP_MIN = 78,
  KILN_OP_POW = 79,
  KILN_OP_AND = 80,
  KILN_OP_OR = 81,
  KILN_OP_XOR = 82,
  KILN_OP_SHL = 83,
  KILN_OP_SHR = 84,
  KILN_OP_CMPLT = 85,
  KILN_OP_CMPLE = 86,
  KILN_OP_CMPEQ = 87,
  KILN_OP_CMPNE = 88,
  KILN_OP_WHERE = 90,
  KILN_OP_MATMUL = 91,
  KILN_OP_ASSIGN = 92,
  KILN_OP_RANDOM_KEY = 93,
  KILN_OP_RANDOM_FOLD = 94,
  KILN_OP_RANDOM_BITS = 95,
  KILN_OP_RANDOM_UNIFORM = 96,
  KILN_OP_RANDOM_NORMAL = 97,
  KILN_OP_ARGSORT = 110,
  KILN_OP_SCATTER_ALONG = 111
} KilnOp;

typedef enum KilnSizeOp {
  KILN_SIZE_ADD = 4,
  KILN_SIZE_SUB = 5,
  KILN_SIZE_MUL = 6,
  KILN_SIZE_FLOORDIV = 7, /* rounded down */
  KILN_SIZE_MOD = 8,      /* what FLOORDIV leaves */
  KILN_SIZE_MIN = 9,
  KILN_SIZE_MAX = 10
} KilnSizeOp;

/* A dimension of a parameter. */
typedef struct KilnGraphDim {
  uint64_t size;     /* when name is NULL */
  const char *name;  /* a dimension whose size each run decides; one name is one size */
  uint64_t min, max; /* with name; both 0 = [1, 65536] */
  uint64_t multiple; /* with name: of which the size is a multiple; 0 = 1 */
} KilnGraphDim;

/* Any node. */
typedef struct KilnNodeSpec {
  KilnOp op;
  KilnDType dtype; /* CONST, IOTA, CAST, BITCAST */
  const KilnNode *src;
  size_t nsrc;
  const int64_t *ints;
  const KilnSize *sizes; /* NULL, or nints of them: one that is not 0 stands for the int */
  size_t nints;
  double f;  /* CONST of a float dtype */
  int64_t i; /* CONST of another; REDUCE_*: 0 = keep the axes, 1 = drop them */
} KilnNodeSpec;

KILN_API KilnCode kiln_graph_create(KilnGraph **out, KilnError *err);
/* NULL is allowed. */
KILN_API void kiln_graph_free(KilnGraph *g);
KILN_API KilnNode kiln_graph_node(KilnGraph *g, const KilnNodeSpec *spec);
/* state: KILN_OP_ASSIGN may write to it, and a run is given a buffer for it. */
KILN_API KilnNode kiln_graph_param(KilnGraph *g, const char *name, KilnDType dtype, size_t rank,
                                   const KilnGraphDim *dims, int state);
/* A copy of the tensor's data; its name and buffer are not looked at. */
KILN_API KilnNode kiln_graph_constant(KilnGraph *g, const KilnTensor *tensor);
KILN_API KilnNode kiln_graph_float(KilnGraph *g, KilnDType dtype, double value);
KILN_API KilnNode kiln_graph_int(KilnGraph *g, KilnDType dtype, int64_t value);
KILN_API KilnNode kiln_graph_iota(KilnGraph *g, KilnDType dtype, size_t axis, size_t rank,
                                  const int64_t *dims);
/* Elementwise, and CONTIGUOUS; with two sources also MATMUL and ASSIGN. */
KILN_API KilnNode kiln_graph_op1(KilnGraph *g, KilnOp op, KilnNode x);
KILN_API KilnNode kiln_graph_op2(KilnGraph *g, KilnOp op, KilnNode a, KilnNode b);
KILN_API KilnNode kiln_graph_where(KilnGraph *g, KilnNode condition, KilnNode a, KilnNode b);
KILN_API KilnNode kiln_graph_cast(KilnGraph *g, KilnNode x, KilnDType dtype);
KILN_API KilnNode kiln_graph_bitcast(KilnGraph *g, KilnNode x, KilnDType dtype);
KILN_API KilnNode kiln_graph_reshape(KilnGraph *g, KilnNode x, size_t n, const int64_t *dims);
KILN_API KilnNode kiln_graph_expand(KilnGraph *g, KilnNode x, size_t n, const int64_t *dims);
KILN_API KilnNode kiln_graph_permute(KilnGraph *g, KilnNode x, size_t n, const int64_t *order);
KILN_API KilnNode kiln_graph_flip(KilnGraph *g, KilnNode x, size_t n, const int64_t *axes);
/* Two numbers per axis: before and after; begin and end. */
KILN_API KilnNode kiln_graph_pad(KilnGraph *g, KilnNode x, size_t rank, const int64_t *amounts,
                                 KilnNode fill);
KILN_API KilnNode kiln_graph_shrink(KilnGraph *g, KilnNode x, size_t rank, const int64_t *bounds);
KILN_API KilnNode kiln_graph_window(KilnGraph *g, KilnNode x, int64_t axis, int64_t size,
                                    int64_t stride, int64_t dilation);
KILN_API KilnNode kiln_graph_cat(KilnGraph *g, size_t n, const KilnNode *src, int64_t axis);
KILN_API KilnNode kiln_graph_gather(KilnGraph *g, KilnNode x, KilnNode indices, int64_t axis);
/* updates into x at the indices along the axis: stored, added, multiplied, the larger, the smaller
 * kept; the gradient of a gather is an ADD into zeros. See SCATTER_ALONG for shapes. */
typedef enum KilnScatter {
  KILN_SCATTER_SET = 0,
  KILN_SCATTER_ADD = 1,
  KILN_SCATTER_MUL = 2,
  KILN_SCATTER_MAX = 3,
  KILN_SCATTER_MIN = 4
} KilnScatter;
KILN_API KilnNode kiln_graph_scatter(KilnGraph *g, KilnNode x, KilnNode indices, KilnNode updates,
                                     int64_t axis, KilnScatter how);
/* op: KILN_OP_REDUCE_... */
KILN_API KilnNode kiln_graph_reduce(KilnGraph *g, KilnOp op, KilnNode x, size_t n,
                                    const int64_t *axes, int keep);
/* Sizes that a run decides, for KilnNodeSpec.sizes: a named dimension of a parameter, a number, two
 * sizes combined, and the value of an integer scalar (outside [min, max] the run fails). */
KILN_API KilnSize kiln_graph_size_dim(KilnGraph *g, const char *name);
KILN_API KilnSize kiln_graph_size_const(KilnGraph *g, int64_t value);
KILN_API KilnSize kiln_graph_size_op(KilnGraph *g, KilnSizeOp op, KilnSize a, KilnSize b);
KILN_API KilnSize kiln_graph_size_node(KilnGraph *g, KilnNode node, uint64_t min, uint64_t max);
KILN_API void kiln_graph_output(KilnGraph *g, const char *name, KilnNode node);
/* The graph as a model to compile; its bytes are the graph's, until it grows or is freed. */
KILN_API KilnCode kiln_graph_finish(KilnGraph *g, KilnModel *out, KilnError *err);

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
