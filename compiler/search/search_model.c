/* A kernel as the cost model sees it: how each access walks memory along each axis, and what is
 * computed how often.
 *
 * Nodes are put into groups of equal open ranges, because everything that a schedule does to a
 * value (how often it is computed, in how many lanes) follows from the axes that it depends on.
 * Which loops stand around a value also follows from the reductions it is part of: a load that
 * depends on the reduce axis alone still runs in the loops around the reduction. That is the nest
 * of a group. */
#include "compiler/ir/dim.h"
#include "compiler/passes/linsum.h"
#include "compiler/search/internal.h"

typedef struct Builder {
  Job *job;
  Model *m;
  LinSumMap sums;
  NodeMap pos;
  uint64_t *under;              /* by position: the stageable values above, as bits */
  uint64_t *kept;               /* the same of what may be kept */
  uint32_t *phase;              /* by position: the innermost reduction around, + 1 */
  uint64_t closers[MODEL_AXES]; /* by axis: axes of the reductions over it, and what they are in */
} Builder;

static uint64_t bit(int64_t axis) { return (uint64_t)1 << axis; }

static uint64_t mask_of(const UOp *u) {
  uint64_t m = 0;
  for (uint32_t i = 0; u->open && i < u->open->n; i++) m |= bit(u->open->at[i]->arg.i);
  return m;
}

/* step + inner * coeff; STEP_FAR when a factor is, or when it overflows. */
static int64_t step_plus(int64_t step, int64_t inner, int64_t coeff) {
  int64_t r;
  if (step == STEP_FAR || inner == STEP_FAR || __builtin_mul_overflow(inner, coeff, &r) ||
      __builtin_add_overflow(step, r, &r))
    return STEP_FAR;
  return r;
}

static int64_t step_of(Builder *b, const LinSum *sum, uint32_t axis);

/* x mod c walks like x until it wraps; x / c hardly moves; a product with something that is known
 * only at run time moves far. */
static int64_t step_of_atom(Builder *b, const UOp *atom, uint32_t axis) {
  if (atom == b->m->info->axes[axis].range) return 1;
  bool mod = atom->op == OP_FLOORMOD, div = atom->op == OP_FLOORDIV;
  if ((mod || div) && uop_is_const(atom->src[1])) {
    int64_t inner = step_of(b, linsum_of(&b->sums, atom->src[0]), axis);
    if (inner == STEP_FAR) return STEP_FAR;
    return mod && inner < atom->src[1]->arg.i ? inner : 0;
  }
  if (atom->op != OP_MUL) return STEP_FAR;
  bool first = kernel_depends(atom->src[0], axis);
  if (kernel_depends(atom->src[first], axis)) return STEP_FAR;
  return step_plus(0, step_of(b, linsum_of(&b->sums, atom->src[!first]), axis), 1024);
}

/* Elements that the index moves per step of the axis. */
static int64_t step_of(Builder *b, const LinSum *sum, uint32_t axis) {
  int64_t step = 0;
  for (uint32_t i = 0; i < sum->n && step != STEP_FAR; i++)
    if (kernel_depends(sum->at[i].atom, axis))
      step = step_plus(step, step_of_atom(b, sum->at[i].atom, axis), sum->at[i].coeff);
  return step;
}

static uint64_t magnitude(int64_t v) { return v < 0 ? 0 - (uint64_t)v : (uint64_t)v; }

static void find_steps(Builder *b, Access *a) {
  const LinSum *sum = linsum_of(&b->sums, a->node->src[1]);
  for (uint32_t axis = 0; axis < b->m->info->naxes; axis++) {
    if (!(a->mask & bit(axis)) || !kernel_depends(a->node->src[1], axis)) continue;
    int64_t step = step_of(b, sum, axis);
    uint32_t at = a->nsteps++;
    for (; at > 0 && magnitude(a->steps[at - 1].step) > magnitude(step); at--)
      a->steps[at] = a->steps[at - 1];
    a->steps[at].axis = (uint8_t)axis;
    a->steps[at].step = step;
  }
}

static double instructions(const UOp *u) {
  static const uint8_t weight[OP__COUNT] = {
      [OP_EXP] = 16,  [OP_EXP2] = 14, [OP_LOG] = 16,      [OP_LOG2] = 16,     [OP_TANH] = 30,
      [OP_ERF] = 30,  [OP_ATAN] = 30, [OP_SIN] = 50,      [OP_COS] = 50,      [OP_POW] = 60,
      [OP_FMOD] = 60, [OP_SQRT] = 8,  [OP_FDIV] = 8,      [OP_RECIP] = 8,     [OP_IDIV] = 30,
      [OP_IMOD] = 30, [OP_MAX] = 2,   [OP_FLOORDIV] = 12, [OP_FLOORMOD] = 12, [OP_MIN] = 2};
  if (u->nsrc == 0 || !(op_info[u->op].flags & OPF_ALU)) return 0;
  bool index = u->dtype == DT_INDEX;
  if (index && u->op != OP_FLOORDIV && u->op != OP_FLOORMOD) return 0; /* part of an address */
  if (index && uop_is_const(u->src[1])) return (u->src[1]->arg.i & (u->src[1]->arg.i - 1)) ? 4 : 1;
  return weight[u->op] ? weight[u->op] : 1;
}

static Group *group_of(Builder *b, uint64_t open, size_t node, int phase, uint32_t bytes) {
  uint64_t under = b->under[node], kept = b->kept[node];
  Model *m = b->m;
  for (uint32_t i = 0; i < m->ngroups; i++) {
    Group *g = &m->groups[i];
    if (g->open == open && g->under == under && g->kept == kept && g->phase == phase &&
        g->bytes == bytes)
      return g;
  }
  if (m->ngroups == MODEL_GROUPS) return &m->groups[MODEL_GROUPS - 1];
  Group *g = &m->groups[m->ngroups++];
  *g = (Group){
      .open = open, .nest = open, .under = under, .kept = kept, .phase = phase, .bytes = bytes};
  if (phase) g->nest |= m->reductions[phase - 1].out | m->reductions[phase - 1].red;
  for (uint32_t axis = 0; axis < m->info->naxes; axis++)
    if (g->nest & m->reduce & bit(axis)) g->nest |= b->closers[axis];
  return g;
}

static bool is_product(const UOp *reduce) {
  const UOp *u = reduce->src[0];
  while (u->op == OP_CAST) u = u->src[0];
  return reduce->arg.i == OP_ADD && u->op == OP_MUL;
}

static void find_reductions(Builder *b) {
  Model *m = b->m;
  for (size_t i = 0; i < m->info->list.len; i++) {
    const UOp *u = m->info->list.at[i];
    if (u->op != OP_REDUCE || u->nsrc < 2) continue;
    Reduction *r = &m->reductions[m->nreductions++];
    *r = (Reduction){.out = mask_of(u), .bytes = dtype_info[u->dtype].bytes};
    for (uint32_t s = 1; s < u->nsrc; s++) r->red |= bit(u->src[s]->arg.i);
  }
  /* Outer reductions come later in the list. */
  for (uint32_t i = m->nreductions; i-- > 0;)
    for (uint32_t axis = 0; axis < m->info->naxes; axis++) {
      const Reduction *r = &m->reductions[i];
      if (r->red & bit(axis)) b->closers[axis] |= r->out | r->red;
    }
}

/* From the root down: what each node is part of. */
static void find_places(Builder *b) {
  const KernelInfo *k = b->m->info;
  uint32_t reduction = b->m->nreductions;
  memset(b->under, 0xff, k->list.len * sizeof *b->under);
  memset(b->kept, 0xff, k->list.len * sizeof *b->kept);
  b->under[k->list.len - 1] = b->kept[k->list.len - 1] = 0;
  for (size_t i = k->list.len; i-- > 0;) {
    const UOp *u = k->list.at[i];
    uint32_t phase = b->phase[i];
    if (u->op == OP_REDUCE && u->nsrc > 1) phase = reduction--;
    for (uint32_t s = 0; s < k->nstageable && s < 64; s++)
      if (k->stageable[s] == u) b->under[i] |= (uint64_t)1 << s;
    for (uint32_t v = 0; v < k->nkept && v < 64; v++)
      if (kept_member(&k->kept[v], u) != NODE_ABSENT) b->kept[i] |= (uint64_t)1 << v;
    for (uint32_t s = 0; s < u->nsrc; s++) {
      uint32_t at = nodemap_get(&b->pos, u->src[s]);
      b->under[at] &= b->under[i];
      b->kept[at] &= b->kept[i];
      if (mask_of(u->src[s]) & b->m->reduce && !b->phase[at]) b->phase[at] = phase;
    }
  }
}

static bool is_access(const UOp *u) {
  return (u->op == OP_INDEX || u->op == OP_STORE) && u->src[0]->op == OP_PARAM;
}

static void add_access(Builder *b, size_t i, Group *g) {
  Model *m = b->m;
  const UOp *u = m->info->list.at[i];
  Access *a = &m->access[m->naccess++];
  *a = (Access){.node = u,
                .bytes = dtype_info[u->src[0]->dtype].bytes,
                .param = (uint32_t)u->src[0]->arg.i,
                .numel = (double)dim_typical(u->src[0]->arg.ints.at[0]),
                .store = u->op == OP_STORE,
                .gated = u->nsrc > (u->op == OP_STORE ? 3u : 2u),
                .group = (uint32_t)(g - m->groups)};
  a->mask = mask_of(u->src[1]);
  if (a->gated) a->mask |= mask_of(u->src[u->nsrc - 1]);
  find_steps(b, a);
}

static void add_node(Builder *b, size_t i) {
  Model *m = b->m;
  const UOp *u = m->info->list.at[i];
  bool reduces = u->op == OP_REDUCE && u->nsrc > 1;
  uint64_t open = mask_of(reduces ? u->src[0] : u);
  for (uint32_t s = 0; u->op == OP_STORE && s < u->nsrc; s++) open |= mask_of(u->src[s]);
  uint32_t phase = b->phase[i];
  if (reduces) phase = b->phase[nodemap_get(&b->pos, u->src[0])];
  uint32_t bytes = dtype_info[u->dtype].bytes;
  if (u->dtype == DT_BOOL || !bytes || bytes > 8) bytes = 4;
  double work = instructions(u);
  if (reduces) work = is_product(u) ? 0 : u->arg.i == OP_ADD || u->arg.i == OP_MUL ? 1 : 2;
  if (!is_access(u) && work == 0) return;
  Group *g = group_of(b, open, i, (int)phase, bytes);
  g->work += work;
  m->f64 |= u->dtype == DT_F64 && work > 0;
  if (is_access(u) && bytes < m->least_bytes) m->least_bytes = bytes;
  if (is_access(u)) add_access(b, i, g);
}

static bool fits(const KernelInfo *k, uint32_t *all) {
  uint32_t accesses = 0, reductions = 0;
  if (!k->store || k->naxes > MODEL_AXES) return false;
  for (size_t i = 0; i < k->list.len; i++) {
    accesses += is_access(k->list.at[i]);
    reductions += k->list.at[i]->op == OP_REDUCE;
  }
  *all = accesses;
  return accesses <= MODEL_ACCESSES && reductions <= MODEL_GROUPS;
}

Model *search_model(Job *job, UOp *kernel, const Target *target) {
  KernelInfo *k = kernel_info(job, kernel);
  uint32_t accesses;
  if (!fits(k, &accesses)) return NULL;
  Model *m = arena_alloc(&job->arena, sizeof *m);
  *m = (Model){.target = target, .kernel = kernel, .info = k, .least_bytes = 8};
  m->access = arena_array(&job->arena, accesses, sizeof *m->access);
  m->groups = arena_array(&job->arena, k->list.len < MODEL_GROUPS ? k->list.len : MODEL_GROUPS,
                          sizeof *m->groups);
  m->reductions = arena_array(&job->arena, k->list.len < MODEL_GROUPS ? k->list.len : MODEL_GROUPS,
                              sizeof *m->reductions);
  Builder *b = arena_alloc(&job->arena, sizeof *b);
  *b = (Builder){.job = job, .m = m};
  b->under = arena_array(&job->arena, k->list.len, sizeof *b->under);
  b->kept = arena_array(&job->arena, k->list.len, sizeof *b->kept);
  b->phase = arena_array(&job->arena, k->list.len, sizeof *b->phase);
  nodemap_number(job, &b->pos, &k->list);
  linsum_init(job, &b->sums);
  for (uint32_t i = 0; i < k->naxes; i++) {
    if (!k->axes[i].range) continue;
    m->size[i] = (double)dim_typical_of(k->axes[i].range->src[0]);
    if (k->axes[i].reduce) m->reduce |= bit(i);
  }
  for (size_t i = 0; i < k->list.len; i++)
    if (k->list.at[i]->dtype == DT_INDEX) linsum_of(&b->sums, k->list.at[i]);
  find_reductions(b);
  find_places(b);
  for (size_t i = 0; i < k->list.len; i++) {
    add_node(b, i);
    job_poll(job);
  }
  return m;
}
