/* The executor under messages that nobody vouches for: loads and runs on the null device, which
 * takes any program and runs none. The input is a list of Envelopes, each behind a two-byte length.
 */
#include <stdint.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/channel/shm.h"
#include "daemon/worker/executor.h"
#include "proto/limits.h"

enum { MEMORY = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A descriptor for every message that may bring one. */
static int memory(void) {
  int fd;
  Status st = shm_create("fuzz", MEMORY, &fd);
  status_drop(st);
  return fd;
}

static Status apply(Executor *x, Kiln__V1__Envelope *m) {
  Kiln__V1__RunDone done = KILN__V1__RUN_DONE__INIT;
  uint64_t bytes;
  int fd;
  switch (m->body_case) {
  case KILN__V1__ENVELOPE__BODY_LOAD:
    return executor_load(x, m->load, memory(), m->load->const_bytes ? memory() : -1);
  case KILN__V1__ENVELOPE__BODY_RUN:
    if (m->run->n_output_buffers > 100) return NULL; /* memory is real here */
    m->run->deadline_ns = clock_now_ns() + 50000000; /* what ends a loop of 2^40 iterations */
    return executor_run(x, 1, m->run, m->run->slab_bytes ? memory() : -1, &done);
  case KILN__V1__ENVELOPE__BODY_UNLOAD: return executor_unload(x, m->unload->executable), NULL;
  case KILN__V1__ENVELOPE__BODY_BUFFER_CREATE:
    return executor_buffer_create(x, m->buffer_create->buffer, m->buffer_create->bytes, memory());
  case KILN__V1__ENVELOPE__BODY_BUFFER_READ:
    return executor_buffer_read(x, m->buffer_read->buffer, &bytes, &fd);
  case KILN__V1__ENVELOPE__BODY_BUFFER_FREE:
    return executor_buffer_free(x, m->buffer_free->buffer), NULL;
  case KILN__V1__ENVELOPE__BODY_SLAB_FREE: return executor_slab_free(x, m->slab_free->slab), NULL;
  default: return NULL;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const PbLimits limits = {
      .max_bytes = 1 << 16, .max_depth = 16, .max_elements = 10000, .max_memory = 1 << 22};
  Device *device;
  Executor *x;
  Status st = device_null_create(&device);
  if (st) return status_drop(st), 0;
  device->caps.shares_memory = size % 2;   /* else bytes are copied */
  device->caps.max_buffer_bytes = 1 << 20; /* sizes that a message claims are not allocated for */
  st = executor_create(device, &x);
  while (!st && size >= 2) {
    size_t n = (size_t)data[0] << 8 | data[1];
    Arena arena;
    ProtobufCMessage *m;
    if (n > size - 2) n = size - 2;
    arena_init(&arena, 0);
    st = pb_unpack(&kiln__v1__envelope__descriptor, (Bytes){data + 2, n}, &limits, &arena, &m);
    if (!st) st = apply(x, (Kiln__V1__Envelope *)m);
    status_drop(st);
    st = NULL;
    arena_deinit(&arena);
    data += 2 + n;
    size -= 2 + n;
  }
  status_drop(st);
  executor_release(x);
  device_destroy(device);
  return 0;
}
