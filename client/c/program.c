/* A model that stays runnable.
 *
 * A handle is worth something only to the server that gave it, and a server may be upgraded, die or
 * be one of several. What is needed to compile again is kept: the options, and the model's bytes or
 * the name of its file, which must be the file that it was. A run goes where its buffers are, and
 * the model is compiled there. What only the lost server had, buffers, cannot be made again here:
 * the run fails with DATA_LOSS. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "client/c/internal.h"

enum { HANDLES_TRIED = 5 };

struct KilnProgram {
  KilnClient *client;
  Arena arena; /* of the model and the options */
  KilnModel model;
  KilnCompileOptions options;
  struct stat file; /* of model.path */
  KilnExecutable *first, *now;
  bool updates; /* has states */
};

/* -- what is kept -------------------------------------------------------------------------------
 */

static const char *keep_text(Arena *a, const char *text, bool *ok) {
  const char *copy = text ? arena_strdup(a, str_from(text)) : NULL;
  *ok = *ok && (!text || copy);
  return copy;
}

static Status keep(KilnProgram *p, const KilnModel *m, const KilnCompileOptions *o) {
  static const KilnCompileOptions none;
  bool ok = true;
  if (!o) o = &none;
  p->model = *m;
  p->options = *o;
  p->model.path = keep_text(&p->arena, m->path, &ok);
  p->model.name = keep_text(&p->arena, m->name, &ok);
  if (!m->path && m->bytes) {
    p->model.bytes = arena_copy(&p->arena, m->bytes, m->size ? m->size : 1);
    ok = ok && p->model.bytes;
  }
  p->options.device = keep_text(&p->arena, o->device, &ok);
  KilnDim *dims = arena_array(&p->arena, o->ndims + 1, sizeof *dims);
  for (size_t i = 0; dims && i < o->ndims; i++) {
    dims[i] = o->dims[i];
    dims[i].name = keep_text(&p->arena, o->dims[i].name, &ok);
  }
  p->options.dims = dims;
  if (!ok || !dims) return FAIL(RESOURCE_EXHAUSTED, "no memory for the model");
  if (p->model.path && stat(p->model.path, &p->file))
    return FAIL(NOT_FOUND, "%s: %s", p->model.path, strerror(errno));
  return NULL;
}

static Status check_file(const KilnProgram *p) {
  struct stat now;
  const struct stat *then = &p->file;
  if (!p->model.path) return NULL;
  if (!stat(p->model.path, &now) && now.st_dev == then->st_dev && now.st_ino == then->st_ino &&
      now.st_size == then->st_size && now.st_mtim.tv_sec == then->st_mtim.tv_sec &&
      now.st_mtim.tv_nsec == then->st_mtim.tv_nsec)
    return NULL;
  return FAIL(FAILED_PRECONDITION,
              "the server has to be sent the model again, and %s is not what it was",
              p->model.path);
}

/* -- handles ------------------------------------------------------------------------------------
 */

static void forget(KilnProgram *p, bool release) {
  if (p->now && release) kiln_release(p->client, p->now->id, NULL);
  if (p->now != p->first) kiln_free(p->now);
  p->now = NULL;
}

/* near: a buffer whose server is to have it; NULL: any. */
static KilnCode compile_again(KilnProgram *p, const char *near, KilnError *err) {
  Status st = check_file(p);
  if (st) return error_take(st, err);
  KilnCode code = compile_near(p->client, &p->model, &p->options, near, &p->now, err);
  if (code || !strcmp(p->now->graph_hash, p->first->graph_hash)) return code;
  forget(p, true);
  return error_take(FAIL(FAILED_PRECONDITION,
                         "the servers do not make the same graph of the model; do they have the "
                         "same version?"),
                    err);
}

static Status lost(const char *buffer) {
  return FAIL(DATA_LOSS,
              "buffer '%.80s': its server cannot be reached or does not know it any more; upload "
              "or compute it again",
              buffer);
}

/* Sees to it that the model is where the inputs are. */
static KilnCode meet(KilnProgram *p, const KilnTensor *inputs, size_t n, KilnError *err) {
  const char *near = NULL;
  for (size_t i = 0; i < n; i++) {
    if (!inputs[i].buffer) continue;
    if (near && strcmp(handle_node(near), handle_node(inputs[i].buffer)) != 0)
      return error_take(FAIL(FAILED_PRECONDITION,
                             "buffer '%.80s' and buffer '%.80s' are on different servers; "
                             "kiln_upload_near puts a tensor where another, or a program, is",
                             near, inputs[i].buffer),
                        err);
    near = inputs[i].buffer;
  }
  bool away = p->now && near && strcmp(handle_node(near), handle_node(p->now->id)) != 0;
  if (p->now && !away) return KILN_OK;
  if (away) forget(p, true);
  KilnCode code = compile_again(p, near, err);
  if (!code && near && strcmp(handle_node(near), handle_node(p->now->id)) != 0)
    return error_take(lost(near), err);
  return code;
}

/* -- calls --------------------------------------------------------------------------------------
 */

static KilnCode run_once(KilnProgram *p, const KilnTensor *inputs, size_t n,
                         const KilnRunOptions *o, KilnResult **out, KilnError *err) {
  KilnCode code = KILN_OK;
  for (int left = HANDLES_TRIED; left > 0; left--) {
    code = meet(p, inputs, n, err);
    if (code) return code;
    code = run_attempt(p->client, p->now->id, inputs, n, o, out, err);
    if (code != KILN_NOT_FOUND) return code;
    if (!strstr(err->message, p->now->id)) break;
    forget(p, false);
  }
  for (size_t i = 0; i < n; i++)
    if (inputs[i].buffer && strstr(err->message, inputs[i].buffer))
      return error_take(lost(inputs[i].buffer), err);
  return code;
}

KilnCode kiln_program_run(KilnProgram *p, const KilnTensor *inputs, size_t ninputs,
                          const KilnRunOptions *options, KilnResult **out, KilnError *err) {
  KilnError own;
  Repeat r;
  KilnCode code;
  if (!err) err = &own;
  *out = NULL;
  repeat_begin(&r, p->client, p->updates || (options && options->outputs_as_buffers));
  do code = run_once(p, inputs, ninputs, options, out, err);
  while (repeat_again(&r, code, err));
  return code;
}

const KilnExecutable *kiln_program_executable(const KilnProgram *p) { return p->first; }
const char *kiln_program_id(const KilnProgram *p) { return (p->now ? p->now : p->first)->id; }

KilnCode kiln_program_create(KilnClient *c, const KilnModel *model,
                             const KilnCompileOptions *options, KilnProgram **out, KilnError *err) {
  KilnProgram *p = *out = calloc(1, sizeof *p);
  if (!p) return error_take(answer_no_memory(), err);
  arena_init(&p->arena, 0);
  p->client = c;
  KilnCode code = error_take(keep(p, model, options), err);
  if (!code) code = kiln_compile(c, &p->model, &p->options, &p->first, err);
  if (code) {
    kiln_program_free(p);
    *out = NULL;
    return code;
  }
  p->now = p->first;
  for (size_t i = 0; i < p->first->ninputs; i++) p->updates |= p->first->inputs[i].state;
  return KILN_OK;
}

void kiln_program_free(KilnProgram *p) {
  if (!p) return;
  forget(p, true);
  kiln_free(p->first);
  arena_deinit(&p->arena);
  free(p);
}
