/* Launches whose number of workgroups is known only when they run. The programs that say it are
 * copied out of the message that loads an executable; each launch has room for its three numbers,
 * which are computed when its turn comes: by then its VARs have their values. */
#include <stdlib.h>
#include <string.h>

#include "daemon/channel/size_program.h"
#include "daemon/worker/loaded.h"

typedef struct GridSize {
  Kiln__V1__SizeProgram programs[3];
  int64_t *code; /* of all three; NULL: the program's own grid is used */
} GridSize;

struct LaunchGrids {
  GridSize *kernels;
  size_t nkernels;
  uint32_t *kernel; /* by launch */
  uint32_t *grid;   /* by launch: three numbers */
};

void launch_grids_release(LaunchGrids *g) {
  if (!g) return;
  for (size_t k = 0; g->kernels && k < g->nkernels; k++) free(g->kernels[k].code);
  free(g->kernels);
  free(g->kernel);
  free(g->grid);
  free(g);
}

static Status copy_programs(const Kiln__V1__KernelBinary *b, GridSize *out) {
  size_t total = 0;
  if (b->n_grid_size != 3) return BROKEN("%zu sizes of a grid", b->n_grid_size);
  for (size_t d = 0; d < 3; d++) total += b->grid_size[d]->n_code;
  out->code = calloc(total + 1, sizeof *out->code);
  if (!out->code) return FAIL(RESOURCE_EXHAUSTED, "sizes of a grid");
  total = 0;
  for (size_t d = 0; d < 3; d++) {
    const Kiln__V1__SizeProgram *from = b->grid_size[d];
    kiln__v1__size_program__init(&out->programs[d]);
    out->programs[d].n_code = from->n_code;
    out->programs[d].code = out->code + total;
    if (from->n_code) memcpy(out->programs[d].code, from->code, from->n_code * sizeof *from->code);
    total += from->n_code;
  }
  return NULL;
}

/* Every launch gives its kernel the VARs that the programs name. */
static Status check_call(const LaunchGrids *g, const Kiln__V1__PlanCall *call) {
  const GridSize *k = &g->kernels[call->kernel];
  for (size_t d = 0; k->code && d < 3; d++) TRY(size_program_check(&k->programs[d], call->n_vars));
  return NULL;
}

Status launch_grids_create(const Kiln__V1__LoadExecutable *m, LaunchGrids **out) {
  bool any =
      m->plan->n_vars != 0; /* a kernel that comes later may have sizes that depend on them */
  *out = NULL;
  for (size_t k = 0; k < m->n_binaries; k++) any |= m->binaries[k]->n_grid_size != 0;
  if (!any) return NULL;
  LaunchGrids *g = calloc(1, sizeof *g);
  Status st = NULL;
  if (!g) return FAIL(RESOURCE_EXHAUSTED, "sizes of grids");
  g->nkernels = m->n_binaries;
  g->kernels = calloc(m->n_binaries + 1, sizeof *g->kernels);
  g->kernel = calloc(m->plan->n_calls + 1, sizeof *g->kernel);
  g->grid = calloc(3 * m->plan->n_calls + 1, sizeof *g->grid);
  if (!g->kernels || !g->kernel || !g->grid) st = FAIL(RESOURCE_EXHAUSTED, "sizes of grids");
  for (size_t k = 0; !st && k < m->n_binaries; k++)
    if (m->binaries[k]->n_grid_size) st = copy_programs(m->binaries[k], &g->kernels[k]);
  for (size_t i = 0; !st && i < m->plan->n_calls; i++) {
    g->kernel[i] = m->plan->calls[i]->kernel; /* known to exist: the calls are resolved */
    st = check_call(g, m->plan->calls[i]);
  }
  if (st) {
    launch_grids_release(g);
    return st;
  }
  *out = g;
  return NULL;
}

Status launch_grids_replace(Loaded *l, uint32_t kernel, const Kiln__V1__KernelBinary *b) {
  GridSize made = {.code = NULL};
  LaunchGrids *g = l->grids;
  if (!g) return b->n_grid_size ? BROKEN("a kernel with a grid that depends on nothing") : NULL;
  Status st = b->n_grid_size ? copy_programs(b, &made) : NULL;
  for (size_t i = 0; !st && made.code && i < l->nlaunches; i++)
    for (size_t d = 0; !st && d < 3 && g->kernel[i] == kernel; d++)
      st = size_program_check(&made.programs[d], l->launches[i].nvars);
  if (st) {
    free(made.code);
    return st;
  }
  free(g->kernels[kernel].code);
  g->kernels[kernel] = made;
  return NULL;
}

Status launch_grids_set(LaunchGrids *g, Launch *launches, uint32_t call) {
  if (!g) return NULL;
  const GridSize *k = &g->kernels[g->kernel[call]];
  uint32_t *grid = g->grid + 3 * (size_t)call;
  for (size_t d = 0; k->code && d < 3; d++) {
    int64_t n;
    if (!size_program_eval(&k->programs[d], launches[call].vars, &n) || n > UINT32_MAX)
      return FAIL(RESOURCE_EXHAUSTED, "a launch has more workgroups than can be counted");
    grid[d] = (uint32_t)n;
  }
  launches[call].grid = k->code ? grid : NULL;
  return NULL;
}
