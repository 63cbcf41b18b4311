/* Buffers in this process's memory, for the devices that compute there. */
#pragma once

#include "devices/device.h"

/* Shared memory behind a memfd, zeroed and page-aligned. fd >= 0: maps that one, which must be at
 * least `size` bytes long and becomes the buffer's on success. BUFFER_PRIVATE: nothing is behind
 * it. RESOURCE_EXHAUSTED beyond the device's max_buffer_bytes. */
Status host_memory_alloc(Device *d, size_t size, int fd, Buffer **out);
void host_memory_free(Buffer *b);
/* The vtable's write, read and copy, for devices whose launches are done when submit returns. */
Status host_memory_write(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes);
Status host_memory_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes);
Status host_memory_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                        uint64_t from_offset, uint64_t bytes);
