/* Tensors built in memory that the server takes as it is: a memfd, sealed when it is given away and
 * passed over the Unix socket with the bytes of the call that names it by its number on the
 * connection. Over TCP the same bytes are streamed. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/c/internal.h"

enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL };

struct KilnMemory {
  int fd;
  void *data;
  size_t bytes;
  bool sealed;
};

KilnCode kiln_memory_create(size_t bytes, KilnMemory **out, KilnError *err) {
  Status st = NULL;
  KilnMemory *m = *out = calloc(1, sizeof *m);
  if (!m) return error_take(FAIL(RESOURCE_EXHAUSTED, "memory"), err);
  m->bytes = bytes;
  m->fd = memfd_create("kiln-tensor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (m->fd < 0 || ftruncate(m->fd, (off_t)(bytes ? bytes : 1)))
    st = FAIL(RESOURCE_EXHAUSTED, "memory of %zu bytes: %s", bytes, strerror(errno));
  if (!st) {
    void *at = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (at == MAP_FAILED)
      st = FAIL(RESOURCE_EXHAUSTED, "mapping %zu bytes: %s", bytes, strerror(errno));
    else
      m->data = at;
  }
  if (st) {
    kiln_memory_free(m);
    *out = NULL;
  }
  return error_take(st, err);
}

void *kiln_memory_data(const KilnMemory *m) { return m->data; }

static void unmap(KilnMemory *m) {
  if (m->data) munmap(m->data, m->bytes ? m->bytes : 1);
  m->data = NULL;
}

void kiln_memory_free(KilnMemory *m) {
  if (!m) return;
  unmap(m);
  if (m->fd >= 0) close(m->fd);
  free(m);
}

/* From here on the memory cannot be changed, by anybody. */
static Status seal(KilnMemory *m) {
  if (m->sealed) return NULL;
  unmap(m);
  if (fcntl(m->fd, F_ADD_SEALS, SEALS))
    return FAIL(FAILED_PRECONDITION, "sealing the memory: %s; is it mapped elsewhere?",
                strerror(errno));
  m->sealed = true;
  void *at = mmap(NULL, m->bytes ? m->bytes : 1, PROT_READ, MAP_SHARED, m->fd, 0);
  m->data = at == MAP_FAILED ? NULL : at;
  return NULL;
}

/* Queues a duplicate of fd to go with the next bytes; its number on this connection. */
static Status pass(KilnClient *c, int fd, uint64_t *number) {
  if (c->npass == CLIENT_PASS_MAX)
    return FAIL(RESOURCE_EXHAUSTED, "%d descriptors wait to be sent already", CLIENT_PASS_MAX);
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return FAIL(RESOURCE_EXHAUSTED, "duplicating a descriptor: %s", strerror(errno));
  c->pass[c->npass++] = copy;
  *number = ++c->passed;
  return NULL;
}

void client_pass_reset(KilnClient *c) {
  for (size_t i = 0; i < c->npass; i++) close(c->pass[i]);
  c->npass = 0;
  c->passed = 0;
}

ssize_t client_sendmsg(KilnClient *c, struct msghdr *m) {
  _Alignas(struct cmsghdr) char room[CMSG_SPACE(CLIENT_PASS_MAX * sizeof(int))] = {0};
  if (!c->npass) return sendmsg(c->fd, m, MSG_NOSIGNAL);
  m->msg_control = room;
  m->msg_controllen = CMSG_SPACE(c->npass * sizeof(int));
  struct cmsghdr *h = CMSG_FIRSTHDR(m);
  *h = (struct cmsghdr){.cmsg_len = CMSG_LEN(c->npass * sizeof(int)),
                        .cmsg_level = SOL_SOCKET,
                        .cmsg_type = SCM_RIGHTS};
  memcpy(CMSG_DATA(h), c->pass, c->npass * sizeof(int));
  ssize_t sent = sendmsg(c->fd, m, MSG_NOSIGNAL);
  if (sent < 0) return sent;
  for (size_t i = 0; i < c->npass; i++) close(c->pass[i]);
  c->npass = 0;
  return sent;
}

KilnCode kiln_upload_memory(KilnClient *c, const KilnTensor *tensor, KilnMemory *memory,
                            const char *device, KilnBuffer **out, KilnError *err) {
  KilnTensor t = *tensor;
  *out = NULL;
  if (t.bytes > memory->bytes)
    return error_take(
        FAIL(INVALID_ARGUMENT, "the tensor has %zu bytes, the memory %zu", t.bytes, memory->bytes),
        err);
  t.data = memory->data;
  if (!c->address.is_unix) return kiln_upload(c, &t, device, out, err);
  CallWait w = {.err = err};
  KilnCall *call;
  uint64_t number = 0;
  void *answer;
  Status st = seal(memory);
  if (!st) st = upload_start(c, NULL, &w, &call);
  if (!st && (st = pass(c, memory->fd, &number))) {
    /* the call is given up; its end is not waited for by anybody else */
    char text[256];
    status_text(st, text, sizeof text);
    grpc_cancel(call->stream, FAIL(RESOURCE_EXHAUSTED, "%s", text));
    status_drop(st);
    st = NULL;
  } else if (!st) {
    upload_send_header(call, &t, device, number);
    call_end(call);
  }
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}
