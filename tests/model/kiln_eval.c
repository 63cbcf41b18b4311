/* Frontend and reference interpreter as one program, for tests and for looking at models.
 *
 *   kiln-eval MODEL [--dim NAME=N]...          the interface of the graph, its size, the time taken
 *   kiln-eval --text MODEL [--dim NAME=N]...   the tensor graph as text
 *   kiln-eval --serve [--compiled [SET]]       models from stdin until it ends
 *   kiln-eval --serve --stages [SET]           the same, every model by every means
 *   kiln-eval --ops                            the ONNX ops: family, domain, name, first version
 *
 * --compiled runs the whole compiler and the CPU device instead of the interpreter; SET is an
 * instruction set to compile for in place of the host's, "sse2" or "avx2", or "opencl" or "cuda"
 * for the first device of that kind; with --stages also "gpu" and "nvidia", devices with workgroups
 * that exist only as a target: its code is not run; "cuda-c" is "nvidia" with kernels as CUDA C++,
 * run on this processor. "buffers8" is the CPU with at most 8 buffers
 * per kernel.
 * --stages runs the interpreter, then the plan with its kernels interpreted after each stage of the
 * compiler, then the CPU device; the answer has all their outputs, named STAGE:OUTPUT.
 *
 * MODEL is ONNX unless its name ends in .kgraph. Each request of --serve is a list of blobs, a blob
 * being a u64 length and bytes: the model; "NAME=N" lines of dimensions, and "@INPUT=N N..." lines
 * with the shapes of inputs that the graph leaves open; then a count as decimal text; then per
 * input its name and data. The answer is "ok", a count, and per output name, dtype, dims as decimal
 * text and data, then a count, and per output that is no tensor its name and its length or "none";
 * or the name of a status code and a message. Lengths are little-endian. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "compiler/frontend/frontend.h"
#include "compiler/frontend/onnx_graph.h"
#include "compiler/ir/interp.h"
#include "compiler/ir/text.h"
#include "compiler/ir/verify.h"
#include "proto/random.h"
#include "tests/model/local_run.h"
#include "tests/model/local_target.h"
#include "tests/unit/zoo_targets.h"

enum { MAX_DIM_ARGS = 64 };
static const size_t JOB_LIMIT = (size_t)8 << 30;
static Device *device; /* --compiled, --stages */
static Device *memory; /* --stages: where stages are interpreted */
static Target target;  /* of device */
static int stages = RUN__COUNT;
static bool with_cuda_c; /* also RUN_CUDA_C */

static bool every_stage;

/* The shape of an input in this run: "@NAME=2 3". */
typedef struct ShapeArg {
  Str name;
  Ints shape;
  int64_t dims[16];
} ShapeArg;

typedef struct Dims {
  DimBinding at[MAX_DIM_ARGS];
  size_t n;
  ShapeArg shapes[MAX_DIM_ARGS];
  size_t nshapes;
} Dims;

static bool add_shape(Dims *d, Str name, const char *text) {
  ShapeArg *a = &d->shapes[d->nshapes];
  if (d->nshapes == MAX_DIM_ARGS) return false;
  *a = (ShapeArg){.name = name, .shape = {a->dims, 0}};
  for (char *end; a->shape.n < 16; text = end) {
    int64_t v = strtoll(text, &end, 10);
    if (end == text) break;
    a->dims[a->shape.n++] = v;
  }
  d->nshapes++;
  return true;
}

static bool add_dim(Dims *d, Str text) {
  const char *eq = memchr(text.ptr, '=', text.len);
  if (!eq || d->n == MAX_DIM_ARGS) return false;
  if (text.ptr[0] == '@')
    return add_shape(d, (Str){text.ptr + 1, (size_t)(eq - text.ptr) - 1}, eq + 1);
  char number[24] = {0};
  size_t len = text.len - (size_t)(eq + 1 - text.ptr);
  if (len >= sizeof number) return false;
  memcpy(number, eq + 1, len);
  d->at[d->n++] =
      (DimBinding){.name = {text.ptr, (size_t)(eq - text.ptr)}, .size = strtoll(number, NULL, 10)};
  return true;
}

static Status frontend(Job *job, Bytes model, const FrontendOptions *o, TensorGraph *g) {
  return o->kind == MODEL_KGRAPH ? frontend_kgraph(job, model, o, g)
                                 : frontend_onnx(job, model, o, g);
}

/* -- serving --------------------------------------------------------------------------------- */

typedef struct Blob {
  char *ptr;
  size_t len;
} Blob;

static bool read_blob(Blob *b) {
  uint64_t len;
  *b = (Blob){0};
  if (fread(&len, sizeof len, 1, stdin) != 1 || len > SIZE_MAX - 1) return false;
  b->len = len;
  b->ptr = malloc(b->len + 1);
  if (!b->ptr || fread(b->ptr, 1, b->len, stdin) != b->len) exit(1);
  b->ptr[b->len] = 0;
  return true;
}

static void write_blob(const void *p, size_t n) {
  uint64_t len = n;
  fwrite(&len, sizeof len, 1, stdout);
  if (n) fwrite(p, 1, n, stdout);
}
static void write_text(const char *s) { write_blob(s, strlen(s)); }

typedef struct Input {
  Blob name, data;
} Input;

static size_t slot_bytes(const GraphSlot *s) {
  return (size_t)shape_numel(s->shape) * dtype_info[s->dtype].bytes;
}

/* Sets the buffer of every slot; outputs are allocated in the job. */
static Status bind_slots(Job *job, const TensorGraph *g, Bytes model, const Input *in, size_t nin,
                         InterpBuffer *slots) {
  for (size_t i = 0; i < g->nslots; i++) {
    const GraphSlot *s = &g->slots[i];
    const void *data = NULL;
    if (s->kind == SLOT_LOCAL || (s->kind == SLOT_OUTPUT && !g->noutputs)) continue;
    size_t bytes = slot_bytes(s);
    if (s->kind == SLOT_WEIGHT)
      data =
          s->in_constants ? (const uint8_t *)g->constants.ptr + s->offset : model.ptr + s->offset;
    for (size_t k = 0; s->kind == SLOT_INPUT && k < nin; k++) {
      if (!str_eq(s->name, (Str){in[k].name.ptr, in[k].name.len})) continue;
      if (in[k].data.len != bytes)
        return FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' has %zu bytes, expected %zu",
                    STR_ARG(s->name), in[k].data.len, bytes);
      data = in[k].data.ptr;
    }
    uint32_t key[2];
    if (s->kind == SLOT_INPUT && !data && str_is(s->name, RANDOM_INPUT)) {
      random_run_key(0, 0, key);
      data = key;
    }
    if (s->kind == SLOT_INPUT && !data)
      return FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' is missing", STR_ARG(s->name));
    void *copy = arena_alloc(&job->arena, bytes + 1);
    if (!copy) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
    if (data && bytes) memcpy(copy, data, bytes);
    slots[i] = (InterpBuffer){copy, bytes};
  }
  return NULL;
}

/* -- sizes that the run decides --------------------------------------------------------------- */

static Status read_vars(TensorGraph *g, const Dims *d, int64_t *values) {
  for (size_t k = 0; k < g->nvars; k++) {
    const GraphVar *v = &g->vars[k];
    values[k] = v->source == VAR_INPUT ? -1 : INTERP_UNBOUND;
    if (v->source != VAR_INPUT) continue;
    for (size_t i = 0; i < d->nshapes; i++)
      if (str_eq(d->shapes[i].name, g->slots[v->slot].name) && v->axis < d->shapes[i].shape.n)
        values[k] = d->shapes[i].dims[v->axis];
    if (values[k] < 0)
      return FAIL(INVALID_ARGUMENT, "no shape for input '" STR_FMT "'",
                  STR_ARG(g->slots[v->slot].name));
    if (values[k] < v->min || values[k] > v->max || values[k] % v->divisor)
      return FAIL(OUT_OF_RANGE, STR_FMT " is %lld, expected a multiple of %lld in [%lld, %lld]",
                  STR_ARG(v->name), (long long)values[k], (long long)v->divisor, (long long)v->min,
                  (long long)v->max);
  }
  return NULL;
}

static void resolve_shape(Job *job, GraphSlot *s, const int64_t *values, size_t n) {
  int64_t *dims = arena_array(&job->arena, s->shape.n + 1u, sizeof *dims);
  for (uint32_t i = 0; i < s->shape.n; i++) {
    int64_t v = s->shape.at[i];
    dims[i] = dim_is_static(v) ? v : dim_eval(dim_node(v), values, n);
  }
  s->shape.at = dims;
}

static bool has_loops(const TensorGraph *g) {
  for (size_t k = 0; k < g->nvars; k++)
    if (g->vars[k].source == VAR_LOOP) return true;
  return false;
}

/* Room for an output whose size is not known yet. */
static InterpBuffer output_room(Job *job, const GraphSlot *s) {
  const size_t most = (size_t)16 << 20;
  size_t bytes = dtype_info[s->dtype].bytes;
  for (uint32_t k = 0; k < s->shape.n; k++) {
    int64_t d = dim_high(s->shape.at[k]);
    if (__builtin_mul_overflow(bytes, (size_t)d, &bytes) || bytes > most) bytes = most;
  }
  return (InterpBuffer){arena_alloc(&job->arena, bytes + 1), bytes};
}

/* A graph with loops: sizes become known on the way. */
static Status interpret_loops(Job *job, TensorGraph *g, int64_t *values, InterpBuffer *slots) {
  for (size_t i = 0; i < g->noutputs; i++)
    slots[g->ninputs + i] = output_room(job, &g->slots[g->ninputs + i]);
  TRY(interp_symbolic(job, g->sink, slots, g->nslots, values, g->nvars));
  for (size_t i = 0; i < g->noutputs; i++) {
    resolve_shape(job, &g->slots[g->ninputs + i], values, g->nvars);
    slots[g->ninputs + i].bytes = slot_bytes(&g->slots[g->ninputs + i]);
  }
  return NULL;
}

typedef struct Resolve {
  TensorGraph *g;
  InterpBuffer *results; /* the slots, after interpret_loops */
  Bytes model;
  const Input *in;
  size_t nin;
  const Dims *dims;
  Status st;
} Resolve;

static Status resolve_steps(Job *job, Resolve *r) {
  TensorGraph *g = r->g, interface = *g;
  int64_t *values = arena_array(&job->arena, g->nvars, sizeof *values);
  InterpBuffer *slots = arena_array(&job->arena, g->nslots + 1, sizeof *slots);
  TRY(read_vars(g, r->dims, values));
  for (size_t i = 0; i < g->ninputs; i++) resolve_shape(job, &g->slots[i], values, g->nvars);
  for (size_t i = 0; i < r->dims->nshapes; i++)
    for (size_t k = 0; k < g->ninputs; k++)
      if (str_eq(g->slots[k].name, r->dims->shapes[i].name) &&
          !shape_eq(g->slots[k].shape, r->dims->shapes[i].shape))
        return FAIL(INVALID_ARGUMENT, "input '" STR_FMT "' has another shape than the model allows",
                    STR_ARG(g->slots[k].name));
  interface.noutputs = 0; /* outputs have no size yet */
  TRY(bind_slots(job, &interface, r->model, r->in, r->nin, slots));
  if (has_loops(g)) {
    if (device) return FAIL(UNIMPLEMENTED, "loops are run by the interpreter and the daemon alone");
    TRY(interpret_loops(job, g, values, slots));
    r->results = slots;
    return NULL;
  }
  UOp *sink;
  TRY(interp_settle(job, g->sink, slots, g->nslots, values, g->nvars, &sink));
  g->sink = sink;
  for (size_t i = 0; i < g->noutputs; i++)
    resolve_shape(job, &g->slots[g->ninputs + i], values, g->nvars);
  g->nvars = 0;
  return NULL;
}

static void resolve_job(Job *job, void *arg) {
  Resolve *r = arg;
  r->st = verify_graph(job, r->g->sink, STAGE_TENSOR, "frontend");
  if (!r->st) r->st = resolve_steps(job, r);
}

/* Gives VARs the values of this run: the graph becomes static. One with loops is run: *results are
 * the buffers then, else NULL. */
static Status resolve(Job *job, TensorGraph *g, Bytes model, const Input *in, size_t nin,
                      const Dims *dims, InterpBuffer **results) {
  Resolve r = {g, NULL, model, in, nin, dims, NULL};
  *results = NULL;
  if (!g->nvars) return NULL;
  TRY(job_run(job, resolve_job, &r));
  *results = r.results;
  return r.st;
}

/* -- answering -------------------------------------------------------------------------------- */

typedef struct Run {
  const TensorGraph *g;
  InterpBuffer *slots;
  Status st;
} Run;

static void interpret(Job *job, void *arg) {
  Run *r = arg;
  r->st = verify_graph(job, r->g->sink, STAGE_TENSOR, "frontend");
  if (!r->st) r->st = interp_tensor(job, r->g->sink, r->slots, r->g->nslots);
}

static void answer_count(size_t n) {
  char text[32];
  write_text("ok");
  snprintf(text, sizeof text, "%zu", n);
  write_text(text);
}

/* prefix: "" or "STAGE:", before the names. */
static void answer(const TensorGraph *g, const InterpBuffer *slots, const char *prefix) {
  for (size_t i = g->ninputs; i < g->ninputs + g->noutputs; i++) {
    const GraphSlot *s = &g->slots[i];
    StrBuf dims = {0}, name = {0};
    for (uint32_t k = 0; k < s->shape.n; k++)
      strbuf_addf(&dims, "%lld ", (long long)s->shape.at[k]);
    strbuf_addf(&name, "%s" STR_FMT, prefix, STR_ARG(s->name));
    write_blob(name.ptr, name.len);
    write_text(dtype_info[s->dtype].name);
    write_blob(dims.ptr, dims.len);
    write_blob(slots[i].data, slots[i].bytes);
    strbuf_deinit(&dims);
    strbuf_deinit(&name);
  }
}

/* Outputs that are no tensors. */
static void answer_values(const TensorGraph *g) {
  char text[32];
  size_t n = 0;
  for (size_t i = 0; i < g->nvalues; i++) n += g->values[i].output;
  snprintf(text, sizeof text, "%zu", n);
  write_text(text);
  for (size_t i = 0; i < g->nvalues; i++) {
    const GraphValue *v = &g->values[i];
    if (!v->output) continue;
    snprintf(text, sizeof text, "%zu", v->length);
    write_blob(v->name.ptr, v->name.len);
    write_text(v->none ? "none" : text);
  }
}

static Status run_interpreter(Job *job, const TensorGraph *g, InterpBuffer *slots) {
  Run run = {.g = g, .slots = slots};
  TRY(job_run(job, interpret, &run));
  return run.st;
}

static Status serve_stages(Job *job, Bytes model, const Input *in, size_t nin,
                           const TensorGraph *g) {
  InterpBuffer *slots[RUN__COUNT + 1];
  int n = 0;
  for (int s = 0; s <= stages; s++) {
    if (s == RUN_CUDA_C && !with_cuda_c) continue;
    n++;
    Device *dev = s == RUN_CODE ? device : memory;
    slots[s] = arena_array(&job->arena, g->nslots + 1, sizeof **slots);
    if (!slots[s]) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
    TRY(bind_slots(job, g, model, in, nin, slots[s]));
    Status st = s == stages ? run_interpreter(job, g, slots[s])
                            : local_run(job, g, dev, &target, (RunStage)s, slots[s]);
    if (st) return WRAP(st, "%s", s == stages ? "interpreter" : run_stage_names[s]);
  }
  answer_count(g->noutputs * (size_t)n);
  answer(g, slots[stages], "tensor:");
  for (int s = 0; s < stages; s++) {
    char prefix[32];
    if (s == RUN_CUDA_C && !with_cuda_c) continue;
    snprintf(prefix, sizeof prefix, "%s:", run_stage_names[s]);
    answer(g, slots[s], prefix);
  }
  answer_values(g);
  return NULL;
}

static Status serve_one(Job *job, Bytes model, const FrontendOptions *o, const Input *in,
                        size_t nin, const Dims *dims, TensorGraph *g) {
  InterpBuffer *slots;
  TRY(frontend(job, model, o, g));
  TRY(resolve(job, g, model, in, nin, dims, &slots));
  if (every_stage) return serve_stages(job, model, in, nin, g);
  if (!slots) {
    slots = arena_array(&job->arena, g->nslots + 1, sizeof *slots);
    if (!slots) return FAIL(RESOURCE_EXHAUSTED, "out of memory");
    TRY(bind_slots(job, g, model, in, nin, slots));
    TRY(device ? local_run(job, g, device, &target, RUN_CODE, slots)
               : run_interpreter(job, g, slots));
  }
  answer_count(g->noutputs);
  answer(g, slots, "");
  answer_values(g);
  return NULL;
}

static void fail_answer(Status st) {
  char text[4096];
  status_text(st, text, sizeof text);
  write_text(status_code_name(st->code));
  write_text(text);
  status_drop(st);
}

static bool serve(void) {
  Blob model, dims, count;
  Dims d = {0};
  if (!read_blob(&model)) return false;
  if (!read_blob(&dims) || !read_blob(&count)) exit(1);
  for (char *line = strtok(dims.ptr, "\n"); line; line = strtok(NULL, "\n"))
    add_dim(&d, str_from(line));
  size_t nin = strtoull(count.ptr, NULL, 10);
  Input *in = calloc(nin + 1, sizeof *in);
  for (size_t i = 0; in && i < nin; i++)
    if (!read_blob(&in[i].name) || !read_blob(&in[i].data)) exit(1);
  bool kgraph = model.len > 4 && !memcmp(model.ptr, "KGR1", 4);
  FrontendOptions o = {.kind = kgraph ? MODEL_KGRAPH : MODEL_ONNX, .dims = d.at, .ndims = d.n};
  Bytes bytes = {(const uint8_t *)model.ptr + (kgraph ? 4 : 0), model.len - (kgraph ? 4 : 0)};
  TensorGraph g = {0};
  Job job;
  job_init(&job, JOB_LIMIT);
  Status st = serve_one(&job, bytes, &o, in, nin, &d, &g);
  if (st) fail_answer(st);
  fflush(stdout);
  strbuf_deinit(&g.constants);
  job_deinit(&job);
  for (size_t i = 0; in && i < nin; i++) free(in[i].name.ptr), free(in[i].data.ptr);
  free(in);
  free(model.ptr), free(dims.ptr), free(count.ptr);
  return true;
}

/* -- looking --------------------------------------------------------------------------------- */

static Blob read_file(const char *path) {
  Blob b = {0};
  FILE *f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END)) return b;
  long n = ftell(f);
  rewind(f);
  if (n >= 0 && (b.ptr = malloc((size_t)n + 1))) b.len = fread(b.ptr, 1, (size_t)n, f);
  fclose(f);
  return b;
}

static void print_interface(Job *job, const TensorGraph *g) {
  static const char *const kinds[] = {"input", "output", "weight"};
  for (size_t i = 0; i < g->nslots; i++) {
    const GraphSlot *s = &g->slots[i];
    printf("%s " STR_FMT " %s [", kinds[s->kind], STR_ARG(s->name), dtype_info[s->dtype].name);
    for (uint32_t k = 0; k < s->shape.n; k++)
      printf("%s%s", k ? ", " : "", dim_text(job, s->shape.at[k]));
    printf("]\n");
  }
}

static void count_nodes(Job *job, void *arg) {
  TensorGraph *g = arg;
  printf("%zu nodes\n", uop_toposort(job, g->sink).len);
}

static void print_text(Job *job, void *arg) {
  TensorGraph *g = arg;
  StrBuf text = {0};
  uop_print(job, g->sink, &text);
  fwrite(text.ptr, 1, text.len, stdout);
  strbuf_deinit(&text);
}

static int look(const char *path, const Dims *d, bool text) {
  size_t len = strlen(path);
  bool kgraph = len > 7 && !strcmp(path + len - 7, ".kgraph");
  FrontendOptions o = {.kind = kgraph ? MODEL_KGRAPH : MODEL_ONNX, .dims = d->at, .ndims = d->n};
  Blob b = read_file(path);
  TensorGraph g = {0};
  Job job;
  if (!b.ptr) return fprintf(stderr, "cannot read %s\n", path), 1;
  job_init(&job, JOB_LIMIT);
  int64_t start = clock_now_ns();
  Status st = frontend(&job, (Bytes){(const uint8_t *)b.ptr, b.len}, &o, &g);
  double ms = (double)(clock_now_ns() - start) / 1e6;
  int rc = st != NULL;
  if (!st) {
    if (!text) print_interface(&job, &g);
    st = job_run(&job, text ? print_text : count_nodes, &g);
  }
  if (!st && !text) printf("%.3f ms, %zu bytes of arena\n", ms, job.arena.used);
  if (st) {
    char msg[4096];
    status_text(st, msg, sizeof msg);
    fprintf(stderr, "%s: %s\n", status_code_name(st->code), msg);
    status_drop(st);
  }
  strbuf_deinit(&g.constants);
  job_deinit(&job);
  free(b.ptr);
  return rc;
}

static int list_ops(void) {
  for (size_t i = 0; onnx_families[i]; i++)
    for (const OnnxOp *op = onnx_families[i]; op->name; op++)
      printf("%zu %s %s %d\n", i, op->domain[0] ? op->domain : "ai.onnx", op->name, op->since);
  return 0;
}

static int usage(void) {
  fprintf(
      stderr,
      "usage: kiln-eval [--text] MODEL [--dim NAME=N]...\n"
      "       kiln-eval --serve [--compiled|--stages [sse2|avx2|opencl|cuda|gpu|cuda-c|buffers8]]\n"
      "       kiln-eval --ops\n");
  return 64;
}

/* argv[at]: what follows --serve. */
static int serve_all(int argc, char **argv, int at) {
  every_stage = at < argc && !strcmp(argv[at], "--stages");
  if (every_stage || (at < argc && !strcmp(argv[at], "--compiled"))) {
    const char *set = at + 1 < argc ? argv[at + 1] : "";
    Status st = device_null_create(&memory);
    bool driver = !strcmp(set, "opencl") || !strcmp(set, "cuda");
    char name[16];
    snprintf(name, sizeof name, "%s:0", driver ? set : "cpu");
    if (!st) st = device_open(name, &device);
    if (st) return fprintf(stderr, "%s\n", st->text), 1;
    target = local_target(device);
    if (!strcmp(set, "buffers8"))
      target.max_buffers = 8;
    else if (every_stage && !strcmp(set, "gpu"))
      target = zoo_opencl, stages = RUN_CODE;
    else if (every_stage && !strcmp(set, "nvidia"))
      target = zoo_cuda, stages = RUN_CODE;
    else if (every_stage && !strcmp(set, "cuda-c"))
      target = zoo_cuda, stages = RUN_CODE, with_cuda_c = true;
    else if (*set && !driver && !local_older(&target, set))
      return usage();
  }
  while (serve()) {
  }
  return 0;
}

int main(int argc, char **argv) {
  Dims d = {0};
  const char *path = NULL;
  bool text = false;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--serve")) return serve_all(argc, argv, i + 1);
    if (!strcmp(argv[i], "--ops")) return list_ops();
    if (!strcmp(argv[i], "--text"))
      text = true;
    else if (!strcmp(argv[i], "--dim") && i + 1 < argc)
      add_dim(&d, str_from(argv[++i]));
    else
      path = argv[i];
  }
  if (path) return look(path, &d, text);
  return usage();
}
