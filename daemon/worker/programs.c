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

/* code: what the device made of the binary's; empty: nothing. */
static Status load(Executor *x, const Kiln__V1__KernelBinary *b, const StrBuf *code,
                   Program **out) {
  *out = NULL;
  if (!*b->entry || !b->threads || b->threads > THREADS_MAX)
    return BROKEN("kernel '%s': %u threads", b->entry, b->threads);
  bool made = code && code->len;
  ProgramSpec spec = {.image = {made ? (const uint8_t *)code->ptr : b->object.data,
                                made ? code->len : b->object.len},
                      .entry = b->entry,
                      .threads = b->threads,
                      .scratch_bytes = b->scratch_bytes};
  TRY(set_dims(b->grid, b->n_grid, 0, spec.grid));
  TRY(set_dims(b->block, b->n_block, 1, spec.block));
  return device_program_load(x->dev, &spec, out);
}

static Status assemble(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m) {
  Bytes *images = calloc(m->n_binaries + 1, sizeof *images);
  l->code = calloc(m->n_binaries + 1, sizeof *l->code);
  l->ncode = l->code ? m->n_binaries : 0;
  Status st = images && l->code ? NULL : FAIL(RESOURCE_EXHAUSTED, "programs");
  for (size_t i = 0; !st && i < m->n_binaries; i++)
    images[i] = (Bytes){m->binaries[i]->object.data, m->binaries[i]->object.len};
  if (!st) st = device_assemble(x->dev, images, m->n_binaries, l->code);
  free(images);
  return st;
}

Status programs_load(Executor *x, Loaded *l, const Kiln__V1__LoadExecutable *m) {
  if (m->n_binaries != m->plan->n_kernels)
    return BROKEN("%zu binaries for %zu kernels", m->n_binaries, m->plan->n_kernels);
  l->programs = calloc(m->n_binaries + 1, sizeof *l->programs);
  if (!l->programs) return FAIL(RESOURCE_EXHAUSTED, "programs");
  TRY(assemble(x, l, m));
  for (; l->nprograms < m->n_binaries; l->nprograms++) {
    size_t i = l->nprograms;
    Status st = load(x, m->binaries[i], &l->code[i], &l->programs[i]);
    if (st) return WRAP(st, "kernel '%s'", m->plan->kernels[i]->name);
  }
  return NULL;
}

void programs_drop_code(Loaded *l) {
  for (size_t i = 0; i < l->ncode; i++) strbuf_deinit(&l->code[i]);
  free(l->code);
  l->code = NULL;
  l->ncode = 0;
}

Status executor_assembled(Executor *x, const Kiln__V1__LoadExecutable *m, Arena *arena,
                          Kiln__V1__LoadDone *out) {
  Loaded *l = map_find(&x->loaded, m->executable);
  out->assembled = arena_array(arena, m->n_binaries + 1, sizeof *out->assembled);
  if (!l || !out->assembled) return FAIL(RESOURCE_EXHAUSTED, "programs");
  for (size_t i = 0; i < l->ncode; i++) {
    if (!l->code[i].len) continue;
    Kiln__V1__AssembledKernel *a = arena_alloc(arena, sizeof *a);
    Kiln__V1__KernelBinary *b = arena_copy(arena, m->binaries[i], sizeof *b);
    if (!a || !b) return FAIL(RESOURCE_EXHAUSTED, "programs");
    kiln__v1__assembled_kernel__init(a);
    b->object = (ProtobufCBinaryData){l->code[i].len, (uint8_t *)l->code[i].ptr};
    a->kernel = (uint32_t)i;
    a->binary = b;
    out->assembled[out->n_assembled++] = a;
  }
  return NULL;
}

Status executor_replace(Executor *x, const Kiln__V1__ReplaceKernel *m) {
  Loaded *l = map_find(&x->loaded, m->executable);
  Program *program;
  if (!l || m->kernel >= l->nprograms || !m->binary)
    return BROKEN("kernel %u of an executable that has none", m->kernel);
  TRY(load(x, m->binary, NULL, &program));
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
