/* A load is: the file (bulk lane) unless the bytes came with the request, then a Compile like any
 * other, whose executable takes the place of the old one. The executable is held by the model and
 * not by a client's handle, so it stays when the registry makes room. */
#include "daemon/server/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

/* -- the table ----------------------------------------------------------------------------------
 */

bool models_visible(const Model *m, const Tenant *tenant) {
  return m->shared || m->tenant == tenant;
}

const char *model_state(const Model *m) {
  return m->exe ? "READY" : m->loading ? "LOADING" : "UNAVAILABLE";
}

static Model *find(const Server *s, const Tenant *owner, bool shared, const char *name) {
  for (Model *m = s->models; m; m = m->next)
    if (m->shared == shared && (shared || m->tenant == owner) && !strcmp(m->name, name)) return m;
  return NULL;
}

Model *models_find(const Server *s, const Tenant *tenant, const char *name, const char *version) {
  Model *m = find(s, tenant, false, name);
  if (!m) m = find(s, NULL, true, name);
  return m && (!*version || !strcmp(version, m->version)) ? m : NULL;
}

/* n references are no more. */
static void release(Model *m, int n) {
  if (!m || (m->refs -= n)) return;
  executable_release(m->exe);
  free(m->name);
  free(m);
}

void model_release(Model *m) { release(m, 1); }

/* Off the list, whose reference is one of n that are no more. */
static void unlist(Model *m, int n) {
  Model **at = &m->server->models;
  while (*at != m) at = &(*at)->next;
  *at = m->next;
  m->listed = false;
  m->server->nmodels--;
  release(m, n);
}

Status model_check_name(const char *name) {
  if (model_name_ok(name)) return NULL;
  return FAIL(INVALID_ARGUMENT,
              "'%.64s' is no name for a model: expected letters, digits, '_', '-' and '.'", name);
}

static Status add(Server *s, Tenant *owner, bool shared, const char *name, Model **out) {
  TRY(model_check_name(name));
  if ((*out = find(s, owner, shared, name))) return NULL;
  if (s->nmodels >= s->config.max_executables)
    return FAIL(RESOURCE_EXHAUSTED, "%zu models are loaded, and this server takes no more",
                s->nmodels);
  Model *m = calloc(1, sizeof *m);
  char *copy = strdup(name);
  if (!m || !copy) {
    free(m);
    free(copy);
    return FAIL(RESOURCE_EXHAUSTED, "model");
  }
  *m = (Model){.refs = 1, .server = s, .tenant = owner, .shared = shared, .name = copy};
  snprintf(m->version, sizeof m->version, "1");
  m->next = s->models;
  m->listed = true;
  s->models = m;
  s->nmodels++;
  *out = m;
  return NULL;
}

/* -- loading ------------------------------------------------------------------------------------
 */

/* The load is over; takes st. */
static void loaded(Model *m, Executable *e, Status st) {
  Request *r = m->asked;
  char text[sizeof m->reason], quoted[2 * sizeof m->reason];
  m->loading = false;
  m->asked = NULL;
  status_text(st, text, sizeof text);
  snprintf(m->reason, sizeof m->reason, "%s", text);
  if (e) {
    executable_retain(e);
    executable_release(m->exe);
    m->exe = e;
  }
  if (m->first) {
    m->first = false;
    m->server->models_pending--;
  }
  if (st)
    LOG_WARN("a model cannot be loaded", "model=%s error=%s", m->name,
             log_quote(quoted, sizeof quoted, text));
  else
    LOG_INFO("model loaded", "model=%s version=%s shared=%d", m->name, m->version, m->shared);
  bool none = !m->exe && (!m->shared || status_code(st) == ST_NOT_FOUND); /* never was one */
  if (r)
    models_answer(r, st);
  else
    status_drop(st);
  if (none && m->listed) unlist(m, 1);
  model_release(m);
}

static void on_compiled(CompileWaiter *w, Executable *e, Kiln__V1__CompileReport *report,
                        Status st) {
  (void)report;
  loaded((Model *)(void *)((char *)w - offsetof(Model, waiter)), e, st);
}

/* Takes over fd. */
static Status compile(Model *m, int fd, uint64_t size, bool pooled) {
  Server *s = m->server;
  ModelData *data;
  CompileSpec spec = {.tenant = m->tenant, .format = m->format, .name = m->name};
  Status st = server_device(s, m->shared ? NULL : m->tenant, "", &spec.device);
  if (st) {
    close(fd);
    return st;
  }
  TRY(model_data_create(&s->uploads, m->tenant->id, fd, size, &data));
  data->seen = !pooled;
  m->waiter = (CompileWaiter){.request = m->asked, .done = on_compiled};
  return compile_start(s, &spec, data, &m->waiter);
}

/* Marks it as being loaded, for r. */
static Status begin(Model *m, Request *r) {
  if (m->loading) return FAIL(ABORTED, "model '%s' is being loaded already", m->name);
  m->loading = true;
  m->asked = r;
  m->refs++;
  if (r) r->work = m;
  return NULL;
}

Status models_load_bytes(Request *r, const char *name, const char *file, Bytes bytes) {
  Server *s = r->server;
  Model *m;
  int fd;
  Kiln__V1__ModelFormat format = model_format(file);
  if (format == KILN__V1__MODEL_FORMAT__MODEL_FORMAT_UNSPECIFIED || !bytes.len)
    return FAIL(INVALID_ARGUMENT, "'%.64s': expected a file .onnx or .kgraph that is not empty",
                file);
  if (bytes.len > s->config.max_model_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "the model has %zu bytes, this server takes at most %llu",
                bytes.len, (unsigned long long)s->config.max_model_bytes);
  TRY(add(s, r->tenant, false, name, &m));
  TRY(begin(m, r));
  m->format = format;
  Status st = shm_pool_take(&s->uploads, m->tenant->id, bytes.len, &fd);
  if (!st) {
    st = shm_write(fd, 0, bytes);
    if (st) close(fd);
  }
  if (!st) st = compile(m, fd, bytes.len, true);
  if (st) loaded(m, NULL, st); /* finishes r */
  return NULL;
}

static void on_file(LaneJob *job) {
  ModelFile *f = (ModelFile *)job;
  Model *m = f->model;
  Status st = f->st;
  if (f->server->closing) { /* the table is gone */
    status_drop(st);
    if (f->fd >= 0) close(f->fd);
    model_release(m);
  } else {
    if (!st) {
      m->format = f->format;
      snprintf(m->version, sizeof m->version, "%s", f->version);
      st = compile(m, f->fd, f->size, false);
    } else if (f->fd >= 0) {
      close(f->fd);
    }
    if (st) loaded(m, NULL, st);
  }
  free(f);
}

static ModelFile *file_job(Server *s, Model *m) {
  ModelFile *f = calloc(1, sizeof *f);
  if (!f) return NULL;
  f->server = s;
  f->model = m;
  f->folder = s->config.models;
  f->max_bytes = s->config.max_model_bytes;
  f->fd = -1;
  return f;
}

static Status load_file(Server *s, Request *r, const char *name, bool first) {
  Model *m;
  Tenant *owner = s->tenants.local ? s->tenants.local : s->tenants.first;
  if (!*s->config.models)
    return FAIL(FAILED_PRECONDITION, "no folder of models is configured; send the model with the "
                                     "request, as parameter \"file:1/model.onnx\"");
  TRY(add(s, owner, true, name, &m));
  ModelFile *f = file_job(s, m);
  if (!f) return FAIL(RESOURCE_EXHAUSTED, "model");
  Status st = begin(m, r);
  if (st) {
    free(f);
    return st;
  }
  m->first = first;
  s->models_pending += first;
  f->job.run = model_file_read;
  f->job.done = on_file;
  lane_submit(s->bulk, &f->job);
  return NULL;
}

Status models_load_file(Request *r, const char *name) {
  return load_file(r->server, r, name, false);
}

void models_leave(Request *r) {
  Model *m = r->work;
  if (!m || m->asked != r) return;
  m->asked = NULL;
  m->waiter.request = NULL;
}

Status models_unload(const Request *r, const char *name) {
  Model *m = models_find(r->server, r->tenant, name, "");
  if (!m) return FAIL(NOT_FOUND, "there is no model '%.64s'", name);
  if (m->shared && !(r->tenant->roles & ROLE_ADMIN))
    return FAIL(PERMISSION_DENIED, "model '%s' is everybody's: unloading it takes the role admin",
                name);
  if (m->loading) return FAIL(ABORTED, "model '%s' is being loaded", name);
  unlist(m, 1);
  return NULL;
}

/* -- start and end ------------------------------------------------------------------------------
 */

bool models_starting(const Server *s) { return s->models_pending > 0; }

static void on_listed(LaneJob *job) {
  ModelFile *f = (ModelFile *)job;
  Server *s = f->server;
  char text[300];
  for (size_t i = 0; i < f->nnames && !s->closing && !f->st; i++) {
    Status st = load_file(s, NULL, f->names[i], true);
    if (!st) continue;
    status_text(st, text, sizeof text);
    if (status_code(st) != ST_ABORTED) /* NAME.onnx beside NAME.kgraph */
      LOG_WARN("a model is left out", "model=%s error=\"%s\"", f->names[i], text);
    status_drop(st);
  }
  if (f->st) {
    status_text(f->st, text, sizeof text);
    LOG_ERROR("no models", "error=\"%s\"", text);
    status_drop(f->st);
  }
  s->models_pending--;
  free(f->names);
  free(f);
}

void models_start(Server *s) {
  if (!*s->config.models) return;
  ModelFile *f = file_job(s, NULL);
  if (!f) return;
  f->job.run = model_folder_list;
  f->job.done = on_listed;
  s->models_pending = 1;
  lane_submit(s->bulk, &f->job);
}

void models_close(Server *s) {
  for (Model *m = s->models, *next; m; m = next) {
    next = m->next;
    bool compiling = m->waiter.compile != NULL;
    m->asked = NULL;
    compile_leave(&m->waiter);
    executable_release(m->exe);
    m->exe = NULL;
    unlist(m, compiling ? 2 : 1); /* the load's as well */
  }
}
