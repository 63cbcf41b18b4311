/* The programs of loaded executables: linking them, and putting another one in the place of one
 * while the executable is loaded. Launches point to programs and to nothing of their messages, so a
 * replacement between two runs is a matter of pointers. */
#include <stdlib.h>
#include <string.h>

#include "daemon/worker/loaded.h"

/* Up to three numbers; 1 where there are fewer. */
static Status set_dims(const uint32_t *from, size_t n, uint32_t least, uint32_t *to) {
  if (n > 3) return BROKEN("%zu dimensions of a launch", n);
  for (size_t i = 0; i < 3; i++) {
    to[i] = i < n ? from[i] : 1;
    if (to[i] < least) return BROKEN("a workgroup of size 0");
  }
  return NULL;
}

static Status load(Executor *x, const Kiln__V1__KernelBinary *b, Program **out) {
  *out = NULL;
  if (!*b->entry || !b->threads || b->threads > THREADS_MAX)
    return BROKEN("kernel '%s': %u threads", b->entry, b->threads);
  ProgramSpec spec = {.image = {b->object.data, b->object.len},
                      .entry = b->entry,
                      .threads = b->threads,
                      .scratch_bytes = b->scratch_bytes};
  TRY(set_dims(b->grid, b->n_grid, 0, spec.grid));
  TRY(set_dims(b->block, b->n_block, 1, spec.block));
  return device_program_load(x->dev, &spec, out);
}

Status programs_load(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m) {
  if (m->n_binaries != m->plan->n_kernels)
    return BROKEN("%zu binaries for %zu kernels", m->n_binaries, m->plan->n_kernels);
  l->programs = calloc(m->n_binaries + 1, sizeof *l->programs);
  if (!l->programs) return FAIL(RESOURCE_EXHAUSTED, "programs");
  for (; l->nprograms < m->n_binaries; l->nprograms++) {
    Status st = load(x, m->binaries[l->nprograms], &l->programs[l->nprograms]);
    if (st) return WRAP(st, "kernel '%s'", m->plan->kernels[l->nprograms]->name);
  }
  return NULL;
}

Status executor_replace(Executor *x, const Kiln__V1__ReplaceKernel *m) {
  Loaded *l = map_find(&x->loaded, m->executable);
  Program *program;
  if (!l || m->kernel >= l->nprograms || !m->binary)
    return BROKEN("kernel %u of an executable that has none", m->kernel);
  TRY(load(x, m->binary, &program));
  Status st = launch_grids_replace(l, m->kernel, m->binary);
  if (st) {
    device_program_free(x->dev, program);
    return st;
  }
  Program *old = l->programs[m->kernel];
  for (size_t i = 0; i < l->nlaunches; i++)
    if (l->launches[i].program == old) l->launches[i].program = program;
  l->programs[m->kernel] = program;
  device_program_free(x->dev, old);
  return NULL;
}
