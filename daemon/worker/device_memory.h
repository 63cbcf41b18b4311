/* The same bytes for this process and for the device.
 *
 * Where the device shares the host's memory (caps.shares_memory) that is one mapping; elsewhere the
 * bytes are copied, and what says "host" here is the process's own mapping. */
#pragma once

#include "devices/device.h"

/* A buffer of `bytes` with the content of fd (-1: zero), whose ownership is taken in any case. */
Status device_memory_adopt(Device *d, uint64_t bytes, int fd, Buffer **out);

/* Shared memory of kilnd that a device may be able to use itself. */
typedef struct SharedMemory {
  Buffer *buffer; /* NULL where the device cannot use it */
  void *host;
  size_t size;
} SharedMemory;
/* Takes ownership of fd in any case. */
Status device_memory_share(Device *d, uint64_t bytes, int fd, SharedMemory *out);
void device_memory_unshare(Device *d, SharedMemory *m); /* of all zeros: nothing */

/* Weights on the device. */
typedef struct WeightPart {
  uint64_t offset, bytes; /* in the source */
  LaunchArg at;           /* out; offset is a multiple of 256 where bytes are copied */
} WeightPart;
/* What is mapped stops counting as this process's until it is read again; the bytes stay. */
void device_memory_forget(const Buffer *b); /* NULL allowed */
/* Puts parts of fd's first `bytes` bytes (checked by the caller) into *out: the whole of it where
 * memory is shared, only the parts elsewhere. Takes ownership of fd in any case. */
Status device_memory_weights(Device *d, uint64_t bytes, int fd, WeightPart *parts, size_t n,
                             Buffer **out);
