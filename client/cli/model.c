/* Reading models and inputs from the command line. Names and shapes of inputs are known to the
 * server only: what is checked here is what an .npy file says about itself. */
#include "client/cli/model.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/map.h"
#include "client/cli/npy.h"
#include "client/cli/tensor.h"
#include "client/cli/textgraph.h"

/* -- the model --------------------------------------------------------------------------------- */

/* A whole number up to `end`. */
static bool count_to(const char *from, const char *end, uint64_t *out) {
  char text[32];
  size_t n = (size_t)(end - from);
  if (n >= sizeof text) return false;
  memcpy(text, from, n);
  text[n] = 0;
  return args_count(text, out);
}

/* "128", "1..512", "8..512/8" */
static bool parse_dim(const char *value, KilnDim *out) {
  const char *dots = strstr(value, ".."), *slash = strchr(value, '/');
  if (!dots) return args_count(value, &out->size);
  const char *end = slash ? slash : value + strlen(value);
  if (dots + 2 > end || !count_to(value, dots, &out->min) || !count_to(dots + 2, end, &out->max))
    return false;
  return out->max && (!slash || args_count(slash + 1, &out->multiple));
}

static int parse_dims(const ModelArgs *args, Model *out) {
  size_t n = args->dims.len;
  out->dims = calloc(n + 1, sizeof *out->dims);
  out->dim_names = calloc(n + 1, sizeof *out->dim_names);
  if (!out->dims || !out->dim_names) return cli_error(EX_OSERR, "no memory for %zu dimensions", n);
  for (size_t i = 0; i < n; i++) {
    Str name;
    const char *value;
    if (!args_split(args->dims.at[i], &name, &value) || !parse_dim(value, &out->dims[i]))
      return cli_usage("--dim '%s': expected NAME=N, NAME=MIN..MAX or NAME=MIN..MAX/MULTIPLE",
                       args->dims.at[i]);
    out->dims[i].name = out->dim_names[i] = strndup(name.ptr, name.len);
    if (!out->dims[i].name) return cli_error(EX_OSERR, "no memory for a name");
  }
  out->options = (KilnCompileOptions){.dims = out->dims,
                                      .ndims = n,
                                      .device = args->device,
                                      .no_cache = args->no_cache,
                                      .fast_math = args->fast_math};
  return EX_OK;
}

static bool ends_with(const char *s, const char *end) {
  size_t n = strlen(s), k = strlen(end);
  return n >= k && !strcmp(s + n - k, end);
}

int model_open(const Cli *cli, const ModelArgs *args, Model *out) {
  *out = (Model){.model = {.path = args->path}};
  int rc = parse_dims(args, out);
  if (!rc && access(args->path, R_OK))
    rc = cli_fail_status(cli, FAIL(NOT_FOUND, "%s: %s", args->path, strerror(errno)));
  if (rc || !ends_with(args->path, ".kgraph")) return rc;
  bool is_text;
  Status st = textgraph_load(args->path, &out->bytes, &is_text);
  if (st) return cli_fail_status(cli, st);
  if (!is_text) return EX_OK;
  const char *slash = strrchr(args->path, '/');
  out->model = (KilnModel){.bytes = out->bytes.ptr ? out->bytes.ptr : "",
                           .size = out->bytes.len,
                           .name = slash ? slash + 1 : args->path,
                           .format = KILN_FORMAT_KGRAPH};
  return EX_OK;
}

void model_close(Model *m) {
  for (size_t i = 0; m->dim_names && i < m->options.ndims; i++) free(m->dim_names[i]);
  free(m->dim_names);
  free(m->dims);
  strbuf_deinit(&m->bytes);
}

int model_command(Cli *cli, const ArgSpec *spec, int argc, char **argv, ModelArgs *args,
                  ModelRun run) {
  TextList pos = {0};
  int rc;
  if (cli_args(spec, argc, argv, &pos, &rc)) {
    args->path = pos.at[0];
    rc = run(cli, args);
  }
  vec_deinit(&args->inputs);
  vec_deinit(&args->dims);
  vec_deinit(&pos);
  return rc;
}

int model_compiled(Cli *cli, ModelArgs *args, ModelUse use) {
  Model m;
  KilnProgram *p = NULL;
  int rc = model_open(cli, args, &m);
  if (!rc) rc = cli_connect(cli);
  if (!rc) cli_progress(cli, "compiling %s ...", args->path);
  int64_t start = clock_now_ns();
  if (!rc && kiln_program_create(cli->client, &m.model, &m.options, &p, &cli->err))
    rc = cli_fail(cli, &cli->err);
  int64_t compile_ns = clock_now_ns() - start;
  cli_progress_end(cli);
  if (!rc) rc = use(cli, args, p, compile_ns);
  kiln_program_free(p);
  model_close(&m);
  return rc;
}

void model_print_report(const char *path, const KilnExecutable *e, int64_t wall_ns) {
  char a[CLI_NUMBER], b[CLI_NUMBER], c[CLI_NUMBER], d[CLI_NUMBER];
  printf("%s: %u kernels (%u different) on %s, compiled in %s\n", path, e->kernels,
         e->unique_kernels, e->device, cli_ns(wall_ns, a));
  printf("  %s, %u kernels compiled, %u from the cache; weights %s, made of them %s, "
         "temporaries %s\n",
         e->plan_cached ? "plan from the cache" : "new plan", e->kernels_compiled,
         e->unique_kernels -
             (e->kernels_compiled < e->unique_kernels ? e->kernels_compiled : e->unique_kernels),
         cli_bytes(e->weight_bytes, b), cli_bytes(e->kept_bytes, d), cli_bytes(e->temp_bytes, c));
}

cJSON *model_json_report(const char *path, const KilnExecutable *e, int64_t wall_ns) {
  const struct {
    const char *name;
    double value;
  } numbers[] = {
      {"kernels", e->kernels},
      {"unique_kernels", e->unique_kernels},
      {"kernels_compiled", e->kernels_compiled},
      {"weight_bytes", (double)e->weight_bytes},
      {"temp_bytes", (double)e->temp_bytes},
      {"kept_bytes", (double)e->kept_bytes},
      {"frontend_ns", (double)e->frontend_ns},
      {"frontend_cpu_ns", (double)e->frontend_cpu_ns},
      {"kernels_ns", (double)e->kernels_ns},
      {"codegen_ns", (double)e->codegen_ns},
      {"cache_ns", (double)e->cache_ns},
      {"load_ns", (double)e->load_ns},
      {"total_ns", (double)e->total_ns},
      {"wall_ns", (double)wall_ns},
  };
  cJSON *j = cJSON_CreateObject();
  cJSON_AddStringToObject(j, "model", path);
  cJSON_AddStringToObject(j, "executable", e->id);
  cJSON_AddStringToObject(j, "graph_hash", e->graph_hash);
  cJSON_AddStringToObject(j, "device", e->device);
  cJSON_AddBoolToObject(j, "plan_cached", e->plan_cached);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    cJSON_AddNumberToObject(j, numbers[i].name, numbers[i].value);
  return j;
}

/* -- inputs ------------------------------------------------------------------------------------ */

/* The index of an input by name; exe->ninputs when there is none. */
static size_t input_named(const KilnExecutable *exe, Str name) {
  size_t i = 0;
  while (i < exe->ninputs && !str_is(name, exe->inputs[i].name)) i++;
  return i;
}

static int no_such_input(const char *given, const KilnExecutable *exe) {
  StrBuf names = {0};
  for (size_t i = 0; i < exe->ninputs; i++)
    strbuf_addf(&names, "%s%s", i ? ", " : "", exe->inputs[i].name);
  int rc = cli_usage("--input '%s': expected NAME=FILE.npy; the model's inputs are: %s", given,
                     names.ptr ? names.ptr : "none");
  strbuf_deinit(&names);
  return rc;
}

static int read_input(const Cli *cli, const char *given, const KilnExecutable *exe, Inputs *in) {
  Str name;
  const char *path;
  size_t i;
  if (args_split(given, &name, &path))
    i = input_named(exe, name);
  else
    i = exe->ninputs == 1 ? 0 : exe->ninputs, path = given;
  if (i == exe->ninputs) return no_such_input(given, exe);
  if (in->owned[i]) return cli_usage("input '%s' is given twice", exe->inputs[i].name);
  Npy a;
  Status st = npy_read(path, &a);
  if (st) return cli_fail_status(cli, st);
  /* A file has no name for these: its bytes are their elements. */
  bool byte = kiln_dtype_size(a.dtype) == 1 && a.dtype != KILN_BOOL;
  if (byte && exe->inputs[i].dtype >= KILN_F8E4M3FN) a.dtype = exe->inputs[i].dtype;
  if (a.dtype == KILN_BF16 && exe->inputs[i].dtype == KILN_F16) a.dtype = KILN_F16;
  in->owned[i] = a.data;
  memcpy(in->dims[i], a.dims, sizeof a.dims);
  in->tensors[i] = (KilnTensor){.name = exe->inputs[i].name,
                                .dtype = a.dtype,
                                .rank = a.rank,
                                .dims = in->dims[i],
                                .data = a.data,
                                .bytes = a.bytes};
  return EX_OK;
}

/* The size of a named dimension that the run is free to choose: that of an input read from a file,
 * else a small one. */
static uint64_t choose_size(const KilnExecutable *exe, const Inputs *in, const KilnDim *d) {
  enum { SMALL = 8 };
  for (size_t i = 0; i < exe->ninputs; i++)
    for (size_t k = 0; in->owned[i] && exe->inputs[i].shape && k < exe->inputs[i].rank; k++)
      if (!strcmp(exe->inputs[i].shape[k].name, d->name) && k < in->tensors[i].rank)
        return in->tensors[i].dims[k];
  uint64_t n = (SMALL + d->multiple - 1) / d->multiple * d->multiple;
  return n < d->min ? d->min : n > d->max ? d->max : n;
}

static int make_up(const KilnExecutable *exe, uint64_t seed, size_t i, Inputs *in) {
  const KilnTensorSpec *spec = &exe->inputs[i];
  size_t item = kiln_dtype_size(spec->dtype), bytes = item;
  bool fits = spec->rank <= sizeof in->dims[i] / sizeof in->dims[i][0];
  for (size_t k = 0; fits && k < spec->rank; k++) {
    bool named = spec->shape && *spec->shape[k].name;
    in->dims[i][k] = named ? choose_size(exe, in, &spec->shape[k]) : spec->dims[k];
    fits = size_mul(bytes, in->dims[i][k], &bytes);
  }
  void *data = fits && bytes < SIZE_MAX ? malloc(bytes + 1) : NULL;
  if (!data) return cli_error(EX_OSERR, "no memory for input '%s'", spec->name);
  if (item)
    tensor_fill_random(spec->dtype, data, bytes / item,
                       hash_u64(seed) ^ hash_bytes(spec->name, strlen(spec->name)));
  in->owned[i] = data;
  in->tensors[i] = (KilnTensor){.name = spec->name,
                                .dtype = spec->dtype,
                                .rank = spec->rank,
                                .dims = in->dims[i],
                                .data = data,
                                .bytes = bytes};
  return EX_OK;
}

/* A state's tensor becomes a buffer, which all runs update. */
static int upload_states(Cli *cli, const KilnExecutable *exe, Inputs *in) {
  in->client = cli->client;
  for (size_t i = 0; i < in->count; i++) {
    KilnTensor *t = &in->tensors[i];
    if (!exe->inputs[i].state) continue;
    if (kiln_upload_near(cli->client, t, exe->device, exe->id, &in->buffers[i], &cli->err))
      return cli_fail(cli, &cli->err);
    t->buffer = in->buffers[i]->id;
  }
  return EX_OK;
}

int inputs_open(Cli *cli, const ModelArgs *args, const KilnExecutable *exe, Inputs *in) {
  size_t n = exe->ninputs;
  uint64_t seed = 0;
  char dims[128];
  *in = (Inputs){.tensors = calloc(n + 1, sizeof *in->tensors),
                 .owned = calloc(n + 1, sizeof *in->owned),
                 .dims = calloc(n + 1, sizeof *in->dims),
                 .buffers = calloc(n + 1, sizeof(KilnBuffer *))};
  if (!in->tensors || !in->owned || !in->dims || !in->buffers)
    return cli_error(EX_OSERR, "no memory for %zu inputs", n);
  in->count = n;
  if (args->random && !args_count(args->random, &seed))
    return cli_usage("--random '%s': expected a number", args->random);
  in->seeded = args->random != NULL;
  in->seed = seed;
  for (size_t i = 0; i < args->inputs.len; i++) {
    int rc = read_input(cli, args->inputs.at[i], exe, in);
    if (rc) return rc;
  }
  for (size_t i = 0; i < n; i++) {
    const KilnTensorSpec *s = &exe->inputs[i];
    if (in->owned[i]) continue;
    if (!args->random)
      return cli_usage("input '%s' (%s %s) is missing: give --input %s=FILE.npy, or --random SEED",
                       s->name, kiln_dtype_name(s->dtype), cli_shape(s, dims, sizeof dims),
                       s->name);
    int rc = make_up(exe, seed, i, in);
    if (rc) return rc;
  }
  return upload_states(cli, exe, in);
}

void inputs_close(Inputs *in) {
  for (size_t i = 0; in->buffers && i < in->count; i++) {
    if (!in->buffers[i]) continue;
    kiln_free_buffers(in->client, &in->buffers[i]->id, 1, NULL);
    kiln_free(in->buffers[i]);
  }
  free(in->buffers);
  for (size_t i = 0; in->owned && i < in->count; i++) free(in->owned[i]);
  free(in->owned);
  free(in->dims);
  free(in->tensors);
  *in = (Inputs){.count = 0};
}
