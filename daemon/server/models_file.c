/* The folder of models, read on the bulk lane: NAME.onnx, NAME.kgraph, NAME/model.onnx and, of
 * NAME/NUMBER/model.onnx, the highest number. A name comes from a request, so it was checked to be
 * one component, and nothing is followed that is a link: no request opens a file outside. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/channel/shm.h"
#include "daemon/server/models.h"

enum { READ_BYTES = 1 << 20, MODELS_MAX = 256, VERSION_MAX = 1 << 30 };

static const char *const endings[] = {".onnx", ".kgraph"};

Kiln__V1__ModelFormat model_format(const char *file) {
  static const Kiln__V1__ModelFormat formats[] = {KILN__V1__MODEL_FORMAT__MODEL_FORMAT_ONNX,
                                                  KILN__V1__MODEL_FORMAT__MODEL_FORMAT_KGRAPH};
  size_t n = strlen(file);
  for (size_t i = 0; i < 2; i++) {
    size_t len = strlen(endings[i]);
    if (n > len && !strcmp(file + n - len, endings[i])) return formats[i];
  }
  return KILN__V1__MODEL_FORMAT__MODEL_FORMAT_UNSPECIFIED;
}

bool model_name_ok(const char *name) {
  size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.");
  return n && n < MODEL_NAME_MAX && !name[n] && *name != '.';
}

/* -- one model ----------------------------------------------------------------------------------
 */

/* Opens BASE.onnx or BASE.kgraph in a folder; -1 when there is neither. */
static int open_either(int dir, const char *base, Kiln__V1__ModelFormat *format) {
  char file[MODEL_NAME_MAX + 16];
  for (size_t i = 0; i < 2; i++) {
    snprintf(file, sizeof file, "%s%s", base, endings[i]);
    int fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    *format = model_format(file);
    return fd;
  }
  return -1;
}

static int open_folder(int dir, const char *name) {
  return openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

/* The folder inside dir whose name is the highest number; 0 when there is none. */
static long newest_version(int dir) {
  long newest = 0;
  int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
  for (struct dirent *e; d && (e = readdir(d));) {
    char *end;
    long n = strtol(e->d_name, &end, 10);
    if (!*end && n > newest && n < VERSION_MAX) newest = n;
  }
  if (d)
    closedir(d);
  else if (copy >= 0)
    close(copy);
  return newest;
}

static int open_model(ModelFile *f, int root) {
  const char *name = f->model->name;
  char text[sizeof f->version];
  snprintf(f->version, sizeof f->version, "1");
  int fd = open_either(root, name, &f->format);
  int dir = fd < 0 ? open_folder(root, name) : -1;
  if (dir < 0) return fd;
  fd = open_either(dir, "model", &f->format);
  long version = fd < 0 ? newest_version(dir) : 0;
  if (version) {
    snprintf(text, sizeof text, "%ld", version);
    int inner = open_folder(dir, text);
    if (inner >= 0) fd = open_either(inner, "model", &f->format);
    if (inner >= 0) close(inner);
    snprintf(f->version, sizeof f->version, "%s", text);
  }
  close(dir);
  return fd;
}

static Status copy_in(ModelFile *f, int fd) {
  struct stat st;
  if (fstat(fd, &st) || !S_ISREG(st.st_mode))
    return FAIL(FAILED_PRECONDITION, "model '%s': its file is no regular file", f->model->name);
  if (!st.st_size || (uint64_t)st.st_size > f->max_bytes)
    return FAIL(RESOURCE_EXHAUSTED, "model '%s' has %lld bytes, this server takes 1 to %llu",
                f->model->name, (long long)st.st_size, (unsigned long long)f->max_bytes);
  f->size = (uint64_t)st.st_size;
  TRY(shm_create("model", f->size, &f->fd));
  uint8_t *buf = malloc(READ_BYTES);
  if (!buf) return FAIL(RESOURCE_EXHAUSTED, "model '%s'", f->model->name);
  Status failed = NULL;
  for (uint64_t at = 0; at < f->size && !failed;) {
    ssize_t n = read(fd, buf, READ_BYTES);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 || (uint64_t)n > f->size - at)
      failed = FAIL(UNAVAILABLE, "model '%s' changed while it was read", f->model->name);
    else
      failed = shm_write(f->fd, at, (Bytes){buf, (size_t)n});
    if (!failed) at += (uint64_t)n;
  }
  free(buf);
  return failed;
}

static Status read_model(ModelFile *f) {
  int root = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (root < 0)
    return FAIL(FAILED_PRECONDITION, "the folder of models cannot be opened: %s", strerror(errno));
  int fd = open_model(f, root);
  close(root);
  if (fd < 0)
    return FAIL(NOT_FOUND, "there is no model '%s' in the folder of models", f->model->name);
  Status st = copy_in(f, fd);
  close(fd);
  return st;
}

void model_file_read(LaneJob *job, void *state) {
  ModelFile *f = (ModelFile *)job;
  (void)state;
  f->st = read_model(f);
}

/* -- the folder ---------------------------------------------------------------------------------
 */

void model_folder_list(LaneJob *job, void *state) {
  ModelFile *f = (ModelFile *)job;
  (void)state;
  DIR *d = opendir(f->folder);
  f->names = calloc(MODELS_MAX, sizeof *f->names);
  if (!d || !f->names) {
    f->st = FAIL(FAILED_PRECONDITION, "the folder of models '%s' cannot be read: %s", f->folder,
                 strerror(errno));
    if (d) closedir(d);
    return;
  }
  for (struct dirent *e; (e = readdir(d)) && f->nnames < MODELS_MAX;) {
    bool file = model_format(e->d_name) != KILN__V1__MODEL_FORMAT__MODEL_FORMAT_UNSPECIFIED;
    size_t len = file ? (size_t)(strrchr(e->d_name, '.') - e->d_name) : strlen(e->d_name);
    if ((!file && e->d_type != DT_DIR) || len >= MODEL_NAME_MAX) continue;
    snprintf(f->names[f->nnames], MODEL_NAME_MAX, "%.*s", (int)len, e->d_name);
    f->nnames += model_name_ok(f->names[f->nnames]);
  }
  closedir(d);
}
