/* Models with names, for the protocols that call a model by its name: an executable, and what is
 * known of it. They come from the configured folder, and are everybody's then, or out of a request,
 * and belong to its tenant then. A name is looked up among the tenant's own first.
 *
 * A model that is loaded again serves with what it had until the new one is ready. All on the loop;
 * the folder is read on the bulk lane. */
#pragma once

#include "daemon/server/compile.h"

struct Model {
  int refs; /* the table, requests, the compile under way */
  Server *server;
  struct Model *next;
  bool listed; /* in the table */
  Tenant *tenant;
  bool shared; /* from the folder */
  char *name;
  char version[16];
  Kiln__V1__ModelFormat format;
  Executable *exe; /* NULL until it was loaded once */
  bool loading;
  bool first;       /* the load at the start, which readiness waits for */
  char reason[300]; /* why the last load failed, or "" */
  CompileWaiter waiter;
  Request *asked; /* the call that waits for the load, or NULL */
  /* runs */
  uint64_t answered, failed;
  int64_t answered_ns, failed_ns, queue_ns, device_ns, last_wall_ns;
};

enum { MODEL_NAME_MAX = 128 };

/* Begins to load what is in the folder, when one is configured. */
void models_start(Server *s);
/* Before compiles and executables go. */
void models_close(Server *s);
/* The configured models are still being looked for or loaded for the first time. */
bool models_starting(const Server *s);
/* What the tenant sees under a name; NULL when there is none. version "" is any. Borrowed. */
Model *models_find(const Server *s, const Tenant *tenant, const char *name, const char *version);
bool models_visible(const Model *m, const Tenant *tenant);
/* "READY", "LOADING" or "UNAVAILABLE". */
const char *model_state(const Model *m);
void model_release(Model *m); /* NULL allowed */

/* Begin a load whose end finishes r. From bytes it becomes the tenant's own model, from the folder
 * everybody's. Failure: nothing was begun. */
Status models_load_bytes(Request *r, const char *name, const char *file, Bytes bytes);
Status models_load_file(Request *r, const char *name);
/* Ends the call that asked for a load. Takes st. */
void models_answer(Request *r, Status st);
/* r is gone; the load goes on. */
void models_leave(Request *r);
Status models_unload(const Request *r, const char *name);

/* -- for models.c and models_file.c -------------------------------------------------------------
 */

/* "NAME.onnx" and "NAME.kgraph"; UNSPECIFIED for another ending. */
Kiln__V1__ModelFormat model_format(const char *file);
/* Letters, digits and "_-.", not beginning with a dot. */
bool model_name_ok(const char *name);
Status model_check_name(const char *name);

typedef struct ModelFile {
  LaneJob job;
  Server *server;
  Model *model; /* retained; NULL: list the folder */
  const char *folder;
  uint64_t max_bytes;
  char (*names)[MODEL_NAME_MAX]; /* what the folder has; malloc'd */
  size_t nnames;
  int fd; /* the model in a memfd; -1 = none */
  uint64_t size;
  Kiln__V1__ModelFormat format;
  char version[16];
  Status st;
} ModelFile;

/* On the bulk lane. */
void model_file_read(LaneJob *job, void *state);
void model_folder_list(LaneJob *job, void *state);
