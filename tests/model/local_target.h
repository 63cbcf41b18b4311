/* The CPU device of this process as the compiler wants it; what the worker process does by message
 * in daemon/worker. */
#pragma once

#include "compiler/compile.h"
#include "devices/device.h"

/* The strings live as long as dev. */
static inline Target local_target(const Device *dev) {
  const DeviceCaps *c = &dev->caps;
  return (Target){.kind = c->kind,
                  .triple = c->triple,
                  .cpu = c->cpu,
                  .features = c->features,
                  .compiler = c->compiler,
                  .vector_bytes = c->vector_bytes,
                  .vector_registers = c->vector_registers,
                  .threads = c->threads,
                  .l1_bytes = c->l1_bytes,
                  .l2_bytes = c->l2_bytes,
                  .l3_bytes = c->l3_bytes,
                  .memory_bytes = c->memory_bytes,
                  .max_group = c->max_group,
                  .warp = c->warp,
                  .local_bytes = c->local_bytes,
                  .max_buffers = c->max_buffers};
}
