/* The opt table, its text form, and legality: a list is turned into one OptPlan, and whatever
 * cannot be planned is refused with the reason. Nothing here builds nodes. */
#include "compiler/search/opts.h"

#include "base/vec.h"
#include "compiler/ir/dim.h"
#include "compiler/passes/collapse.h"
#include "compiler/passes/nodemap.h"

#include <ctype.h>
#include <limits.h>

/* MAX_NODES: instances that an expanded kernel may have; MAX_CHAIN_NODES: the same where a row's
 * elements are looked at in several places. */
enum { MAX_NODES = 20000, MAX_CHAIN_NODES = 80000 };
enum { MAX_LANES = 64, MAX_THREADS = 256, MAX_SLOTS = 8 };

static const char *const opt_name[OPT__COUNT] = {
#define OPT(name_, doc_) [OPT_##name_] = #name_,
#include "compiler/search/opts.def"
#undef OPT
};

void opts_push(Job *job, OptList *list, OptKind kind, int axis, int64_t arg) {
  Opt o = {.kind = (uint8_t)kind, .axis = (int8_t)axis, .arg = (int32_t)arg};
  avec_push(&job->arena, list, o);
}

void opts_append(Job *job, OptList *to, const OptList *more) {
  for (size_t i = 0; i < more->len; i++) avec_push(&job->arena, to, more->at[i]);
}

void opts_print(const OptList *list, StrBuf *out) {
  for (size_t i = 0; i < list->len; i++) {
    const Opt *o = &list->at[i];
    strbuf_addf(out, "%s%s(%d,%d)", i ? " " : "", opt_name[o->kind], o->axis, (int)o->arg);
  }
}

static bool parse_int(const char **p, const char *end, long lo, long hi, long *out) {
  const char *s = *p;
  bool neg = s < end && *s == '-';
  if (neg) s++;
  if (s == end || !isdigit((unsigned char)*s)) return false;
  long v = 0;
  for (; s < end && isdigit((unsigned char)*s); s++) {
    v = v * 10 + (*s - '0');
    if (v > INT_MAX) return false;
  }
  *out = neg ? -v : v;
  *p = s;
  return *out >= lo && *out <= hi;
}

static bool parse_kind(const char **p, const char *end, OptKind *kind) {
  const char *s = *p;
  while (s < end && isupper((unsigned char)*s)) s++;
  Str name = {*p, (size_t)(s - *p)};
  for (int k = 0; k < OPT__COUNT; k++)
    if (str_is(name, opt_name[k])) return *kind = (OptKind)k, *p = s, true;
  return false;
}

static bool expect(const char **p, const char *end, char c) {
  if (*p == end || **p != c) return false;
  ++*p;
  return true;
}

Status opts_parse(Job *job, Str text, OptList *out) {
  *out = (OptList){0};
  const char *p = text.ptr, *end = text.ptr + text.len;
  for (;;) {
    while (p < end && isspace((unsigned char)*p)) p++;
    if (p == end) return NULL;
    OptKind kind;
    long axis, arg;
    const char *at = p;
    if (!parse_kind(&p, end, &kind) || !expect(&p, end, '(') ||
        !parse_int(&p, end, -1, INT8_MAX, &axis) || !expect(&p, end, ',') ||
        !parse_int(&p, end, 0, INT_MAX, &arg) || !expect(&p, end, ')'))
      return FAIL(INVALID_ARGUMENT, "opts: expected KIND(axis,arg) at byte %zu, got '%.20s'",
                  (size_t)(at - text.ptr), end - at < 20 ? "end of text" : at);
    opts_push(job, out, kind, (int)axis, arg);
  }
}

/* -- kernel info
 * ------------------------------------------------------------------------------------------- */

static void find_axes(Job *job, KernelInfo *k) {
  for (size_t i = 0; i < k->list.len; i++) {
    const UOp *u = k->list.at[i];
    if (u->op != OP_RANGE) continue;
    if (u->arg.i >= KERNEL_MAX_AXES)
      job_abort(job, FAIL(RESOURCE_EXHAUSTED, "kernel with a range id of %lld; the limit is %d",
                          (long long)u->arg.i, KERNEL_MAX_AXES));
    if (u->arg.i >= k->naxes) k->naxes = (uint32_t)u->arg.i + 1;
  }
  k->axes = arena_array(&job->arena, k->naxes + 1u, sizeof *k->axes);
  for (size_t i = 0; i < k->list.len; i++) {
    UOp *u = k->list.at[i];
    if (u->op != OP_RANGE) continue;
    bool reduce = uop_axis(u) == AX_REDUCE;
    int64_t end = dim_of(job, u->src[0]);
    k->axes[u->arg.i] = (KernelAxis){.range = u,
                                     .size = dim_high(end),
                                     .least = dim_low(end),
                                     .divisor = dim_divisor(job, end),
                                     .reduce = reduce,
                                     .serial = uop_axis(u) == AX_SERIAL};
    k->in_place |= uop_axis(u) == AX_SERIAL;
  }
}

static bool is_load(const UOp *u) {
  return u->op == OP_INDEX && u->src[0]->op == OP_PARAM && u->nsrc < 4;
}

/* Marks what can be copied into a buffer: loads, and factors of products that are summed when they
 * are computed from loads without reductions. */
static void find_stageable(Job *job, KernelInfo *k) {
  NodeMap pos;
  enum { LOAD = 1, REDUCTION = 2, FACTOR = 4 };
  uint8_t *has = arena_array(&job->arena, k->list.len, 1);
  nodemap_number(job, &pos, &k->list);
  for (size_t i = 0; i < k->list.len; i++) {
    UOp *u = k->list.at[i];
    for (uint32_t s = 0; s < u->nsrc; s++)
      has[i] |= has[nodemap_get(&pos, u->src[s])] & (LOAD | REDUCTION);
    if (is_load(u)) has[i] = LOAD;
    if (u->op == OP_REDUCE) has[i] |= REDUCTION;
    const UOp *product = u->op == OP_REDUCE && u->arg.i == OP_ADD ? u->src[0] : NULL;
    while (product && product->op == OP_CAST) product = product->src[0];
    for (uint32_t s = 0; product && product->op == OP_MUL && s < 2; s++) {
      const UOp *f = product->src[s];
      has[nodemap_get(&pos, f)] |= FACTOR;
      if (f->op == OP_CAST) has[nodemap_get(&pos, f->src[0])] |= FACTOR;
      if (matrix_uncut(f)) has[nodemap_get(&pos, matrix_uncut(f))] |= FACTOR;
    }
  }
  k->stageable = arena_array(&job->arena, k->list.len, sizeof *k->stageable);
  for (size_t i = 0; i < k->list.len; i++)
    if (is_load(k->list.at[i]) || (has[i] & FACTOR && has[i] & LOAD && !(has[i] & REDUCTION)))
      k->stageable[k->nstageable++] = k->list.at[i];
}

KernelInfo *kernel_info(Job *job, UOp *sink) {
  KernelInfo *k = arena_alloc(&job->arena, sizeof *k);
  k->list = uop_toposort(job, sink);
  find_axes(job, k);
  k->operands = arena_array(&job->arena, k->list.len, sizeof *k->operands);
  for (size_t i = 0; i < k->list.len; i++) {
    UOp *u = k->list.at[i];
    if (is_load(u)) k->operands[k->noperands++] = u;
    k->in_place |= u->op == OP_INDEX && u->src[0]->op == OP_PARAM && u->src[0]->arg.i == 0;
  }
  find_stageable(job, k);
  k->kept = kept_find(job, &k->list, &k->nkept);
  if (sink->nsrc != 1) return k;
  UOp *u = sink->src[0];
  if (u->op == OP_END) {
    k->loops = u->src + 1, k->nloops = u->nsrc - 1;
    u = u->src[0];
  }
  if (u->op == OP_STORE) k->store = u;
  return k;
}

bool kernel_depends(const UOp *u, uint32_t axis) {
  for (uint32_t i = 0; u->open && i < u->open->n; i++)
    if (u->open->at[i]->arg.i == axis) return true;
  return false;
}

/* -- planning
 * ---------------------------------------------------------------------------------------------- */

typedef struct Planner {
  const KernelInfo *k;
  const Target *target;
  OptPlan *plan;
  const Opt *opt;
} Planner;

static Status refuse(const Planner *p, const char *why) {
  return FAIL(INVALID_ARGUMENT, "%s(%d,%d) is not legal: %s", opt_name[p->opt->kind], p->opt->axis,
              (int)p->opt->arg, why);
}

static Status plan_tile(Planner *p, AxisPlan *a, bool reduce) {
  int32_t n = p->opt->arg;
  if (n < 2) return refuse(p, "the factor must be at least 2");
  if (a->tile > INT32_MAX / n) return refuse(p, "the tile is too large");
  if (p->opt->kind == OPT_VECTOR) {
    if (a->vector > 1) return refuse(p, "the axis already has a VECTOR");
    if (n > MAX_LANES || (n & (n - 1))) return refuse(p, "lanes must be a power of two up to 64");
    a->vector = n;
  } else {
    if ((p->opt->kind == OPT_UNROLL) != reduce)
      return refuse(p, reduce ? "a reduce axis is unrolled, not upcast"
                              : "an output axis is upcast, not unrolled");
    if (a->ninner == OPT_MAX_INNER) return refuse(p, "too many tiles on one axis");
    a->inner[a->ninner++] = n;
  }
  a->tile *= n;
  return NULL;
}

static Status plan_pad(Planner *p, AxisPlan *a) {
  if (p->opt->arg < 2) return refuse(p, "the factor must be at least 2");
  if (a->tile > 1 || a->padded || a->pad) return refuse(p, "PADTO must come before tiles, once");
  int64_t rest = a->size % p->opt->arg;
  bool known = axis_is_static(&p->k->axes[p->opt->axis]);
  a->padded = known && rest != 0;
  if (!known) a->pad = p->opt->arg;
  if (rest) a->size += p->opt->arg - rest;
  return NULL;
}

static Status plan_order(Planner *p, bool reduce) {
  uint32_t *order = p->plan->order + (reduce ? p->plan->nout : 0);
  uint32_t n = reduce ? p->plan->nred : p->plan->nout, at = 0, to = (uint32_t)p->opt->arg;
  if (to >= n) return refuse(p, "there are fewer loops of that kind");
  while (order[at] != (uint32_t)p->opt->axis) at++;
  for (; at < to; at++) order[at] = order[at + 1];
  for (; at > to; at--) order[at] = order[at - 1];
  order[to] = (uint32_t)p->opt->axis;
  return NULL;
}

static Status plan_carry(Planner *p, bool reduce) {
  OptPlan *plan = p->plan;
  if (plan->groups) return refuse(p, "the device runs workgroups");
  if (!reduce) return refuse(p, "the axis must be a reduce axis");
  if (plan->carry >= 0) return refuse(p, "an axis is carried already");
  if ((uint32_t)p->opt->arg >= plan->nout) return refuse(p, "there are fewer output loops");
  if (!axis_is_static(&p->k->axes[p->opt->axis])) return refuse(p, "a run decides its size");
  plan->carry = p->opt->axis;
  plan->carry_at = (uint32_t)p->opt->arg;
  return NULL;
}

static Status plan_stage(Planner *p) {
  if (p->opt->arg < 0 || (uint32_t)p->opt->arg >= p->k->nstageable)
    return refuse(p, "the kernel has fewer operands");
  for (uint32_t i = 0; i < p->plan->nstages; i++)
    if (p->plan->stages[i].operand == (uint32_t)p->opt->arg)
      return refuse(p, "the operand is already staged");
  StagePlan s = {.operand = (uint32_t)p->opt->arg, .level = p->opt->axis};
  p->plan->stages[p->plan->nstages++] = s;
  return NULL;
}

static Status plan_keep(Planner *p) {
  OptPlan *plan = p->plan;
  if (p->opt->arg < 0 || (uint32_t)p->opt->arg >= p->k->nkept)
    return refuse(p, "the kernel has fewer values worth keeping");
  for (uint32_t i = 0; i < plan->nkeeps; i++)
    if (plan->keeps[i].value == (uint32_t)p->opt->arg)
      return refuse(p, "the value is kept already");
  plan->keeps[plan->nkeeps++] = (KeepPlan){(uint32_t)p->opt->arg, p->opt->axis};
  return NULL;
}

static Status plan_repair(Job *job, Planner *p, bool reduce) {
  const KernelInfo *k = p->k;
  RepairChain *chain = &p->plan->repair;
  if (!reduce) return refuse(p, "the row must run along a reduce axis");
  if (chain->n) return refuse(p, "a row is repaired already");
  if (p->opt->arg < 1) return refuse(p, "a block has at least one step");
  Status st = repair_find(job, &k->list, k->kept, k->nkept, (uint32_t)p->opt->axis, chain);
  if (st) return WRAP(st, "REPAIR(%d,%d) is not legal", p->opt->axis, (int)p->opt->arg);
  for (uint32_t l = 0; l < chain->n; l++) p->plan->axes[chain->at[l].axis].block = p->opt->arg;
  return NULL;
}

static Status plan_thread(Planner *p, AxisPlan *a, bool reduce) {
  if (reduce) return refuse(p, "only output axes can be threaded");
  if (p->plan->groups) return refuse(p, "the device runs workgroups, not threads");
  if (p->opt->arg < 2 || p->opt->arg > MAX_THREADS) return refuse(p, "threads must be 2 to 256");
  for (uint32_t i = 0; i < p->k->naxes; i++)
    if (p->plan->axes[i].threads) return refuse(p, "an axis is already threaded");
  a->threads = p->opt->arg;
  return NULL;
}

/* A reduction inside both axes: their threads cannot be the same ones. */
static bool both_open(const KernelInfo *k, uint32_t a, uint32_t b) {
  for (size_t i = 0; i < k->list.len; i++) {
    const UOp *u = k->list.at[i];
    if (u->op == OP_REDUCE && kernel_depends(u->src[0], a) && kernel_depends(u->src[0], b))
      return true;
  }
  return false;
}

static bool can_share(const Planner *p, uint32_t axis, int dim) {
  if (p->plan->matrix.info && !dim) return false; /* the warps of a matrix instruction */
  if (p->plan->block[dim] != p->opt->arg) return false;
  for (uint32_t i = 0; i < p->k->naxes; i++) {
    const AxisPlan *a = &p->plan->axes[i];
    if (!a->lanes || a->dim != dim) continue;
    if (!p->k->axes[i].reduce && !p->k->axes[axis].reduce) return false;
    if (both_open(p->k, i, axis)) return false;
  }
  return true;
}

/* LOCAL, GROUP, GROUPTOP: which dimension of the workgroup they use. */
static Status plan_lanes(Planner *p, AxisPlan *a, bool reduce) {
  OptPlan *plan = p->plan;
  if (!plan->groups) return refuse(p, "the device has no workgroups");
  if (plan->nolocals) return refuse(p, "NOLOCALS forbids it");
  if ((p->opt->kind == OPT_LOCAL) == reduce)
    return refuse(p, reduce ? "a reduce axis is grouped, not local"
                            : "an output axis is local, not grouped");
  if (a->lanes) return refuse(p, "the axis is shared by threads already");
  if (p->opt->arg < 2) return refuse(p, "the number of threads must be at least 2");
  int dim = 0;
  while (dim < plan->ndims && !can_share(p, (uint32_t)p->opt->axis, dim)) dim++;
  if (dim == 3) return refuse(p, "a workgroup has three dimensions");
  int64_t threads = (int64_t)plan->block[0] * plan->block[1] * plan->block[2];
  if (dim == plan->ndims && threads * p->opt->arg > p->target->max_group)
    return refuse(p, "the workgroup would have more threads than the device allows");
  if (dim == plan->ndims) plan->block[plan->ndims++] = p->opt->arg;
  a->lanes = p->opt->arg;
  a->dim = dim;
  a->top = p->opt->kind == OPT_GROUPTOP;
  return NULL;
}

static Status plan_spread(Planner *p, AxisPlan *a) {
  if (!a->lanes) return refuse(p, "threads of the workgroup must share the axis first");
  if (p->opt->arg < 2) return refuse(p, "the factor must be at least 2");
  if (a->spread > 1) return refuse(p, "the axis already has a SPREAD");
  if (!axis_is_static(&p->k->axes[p->opt->axis]))
    return refuse(p, "the size of the axis is known only at run time");
  a->spread = p->opt->arg;
  return NULL;
}

static Status plan_nolocals(Planner *p) {
  if (p->opt->axis || p->opt->arg) return refuse(p, "it has no axis and no argument");
  if (!p->plan->groups) return refuse(p, "the device has no workgroups");
  if (p->plan->ndims) return refuse(p, "the list has threads of a workgroup already");
  p->plan->nolocals = true;
  return NULL;
}

static Status plan_persist(Planner *p) {
  if (p->opt->axis || p->opt->arg < 1) return refuse(p, "its axis is 0, workgroups are at least 1");
  if (p->plan->persist) return refuse(p, "the list has a PERSIST already");
  p->plan->persist = p->opt->arg;
  return NULL;
}

static Status plan_compiler(Planner *p) {
  if (p->opt->axis || p->opt->arg != COMPILER_NVRTC)
    return refuse(p, "its axis is 0, and its argument 1");
  if (!target_has_nvrtc(p->target)) return refuse(p, "the target has no NVRTC");
  if (p->plan->cuda_c) return refuse(p, "the list has a COMPILER already");
  p->plan->cuda_c = true;
  return NULL;
}

bool opts_cuda_c(const OptList *list) {
  bool any = false;
  for (size_t i = 0; i < list->len; i++) any |= list->at[i].kind == OPT_COMPILER;
  return any;
}

/* What is not printed as CUDA C++ (codegen/cuda_emit.c), as far as opts say it. */
static Status check_compiler(const OptPlan *plan) {
  if (plan->cuda_c && (plan->matrix.info || plan->slots))
    return FAIL(INVALID_ARGUMENT, "COMPILER: matrix instructions and copies ahead are LLVM's");
  return NULL;
}

/* A product along a reduce axis comes first; the one that sums over that axis has the same rows. */
static Status plan_chained(const Planner *p, const MatrixPlan *t, bool inner) {
  const OptPlan *plan = p->plan;
  if ((inner ? plan->inner : plan->matrix).info) return refuse(p, "the list has a TC already");
  if (inner && plan->matrix.info) return refuse(p, "a product along a row comes before others");
  if (inner && !(plan->groups && opts_chain_begins(t->info)))
    return refuse(p, "the result of the instruction does not lie as a factor of it");
  bool second = !inner && plan->inner.info;
  if (second && (plan->inner.m != t->m || !opts_chain_fits(plan->inner.info, t->info)))
    return refuse(p, "the product along the row has other rows, or threads hold it otherwise");
  return NULL;
}

static Status matrix_axes(const Planner *p, const MatrixPlan *t, bool inner) {
  const uint32_t axis[3] = {t->m, t->n, t->k};
  for (int i = t->info->m == 1; i < 3; i++) {
    if (axis[i] >= p->k->naxes || !p->k->axes[axis[i]].range ||
        (t->info->m > 1 && axis[i] == axis[(i + 1) % 3]))
      return refuse(p, "the kernel has no such axes");
    if (p->k->axes[axis[i]].reduce != (i == 2 || (inner && i == 1)))
      return refuse(p, "two output and a reduce axis");
    bool rows = !inner && p->plan->inner.info && i == 0;
    if (p->plan->axes[axis[i]].tile > (rows ? p->plan->axes[axis[i]].matrix : 1))
      return refuse(p, "it must come before other tiles");
  }
  return NULL;
}

/* The tiles of the axes of a product, and its warp. */
static void give_matrix(OptPlan *plan, const MatrixPlan *t, bool inner) {
  const uint32_t axis[3] = {t->m, t->n, t->k};
  const unsigned size[3] = {t->info->m, t->info->n, t->info->k};
  bool chained = inner || plan->inner.info;
  for (int i = t->info->m == 1; i < 3; i++) {
    AxisPlan *a = &plan->axes[axis[i]];
    if (a->matrix > 1) continue; /* rows of the other product */
    a->matrix = (int32_t)size[i];
    a->tile *= a->matrix;
    if (chained && i < 2) a->digits = i ? PLACE_N : PLACE_M;
  }
  if (plan->groups && !plan->ndims) plan->block[plan->ndims++] = (int32_t)t->info->threads;
  *(inner ? &plan->inner : &plan->matrix) = *t;
}

static Status plan_matrix(Job *job, Planner *p) {
  OptPlan *plan = p->plan;
  MatrixPlan t = {.id = opt_tc_id(p->opt->arg),
                  .m = (uint32_t)p->opt->axis,
                  .n = opt_tc_n(p->opt->arg),
                  .k = opt_tc_k(p->opt->arg)};
  t.info = matrix_info(t.id);
  bool inner = t.n < p->k->naxes && p->k->axes[t.n].range && p->k->axes[t.n].reduce;
  if (!t.info || !matrix_on(t.info, p->target))
    return refuse(p, "the target lacks the instruction");
  if (plan->groups != (t.info->threads > 1))
    return refuse(p, "it is an instruction of another kind of device");
  TRY(plan_chained(p, &t, inner));
  bool chained = !inner && plan->inner.info;
  if (plan->nolocals || plan->ndims > chained)
    return refuse(p, "it must come before LOCAL and GROUP");
  TRY(matrix_axes(p, &t, inner));
  if (!opts_matrix_find(job, p->k, &t, chained))
    return refuse(p, "the reduce axis does not sum products of the instruction's dtypes, one "
                     "factor over each output axis");
  give_matrix(plan, &t, inner);
  return NULL;
}

static Status plan_pipeline(Planner *p, bool reduce) {
  if (!p->plan->groups || !reduce)
    return refuse(p, "the loop must be one over a reduce axis on a "
                     "device with workgroups");
  if (p->plan->slots) return refuse(p, "the list has a PIPELINE already");
  if (opts_is_inner_sum(p->k, p->opt->axis))
    return refuse(p, "the reduction is inside of another one");
  int32_t slots = opt_pipe_places(p->opt->arg), under = p->opt->arg & PIPE_GO_ON ? 1 : 0;
  const MatrixInfo *info = p->plan->matrix.info;
  if (slots < 2 || slots > MAX_SLOTS) return refuse(p, "there are 2 to 8 places");
  if (p->opt->arg - slots > PIPE_WAYS) return refuse(p, "there is no such way to copy");
  if (under && (slots < 3 || !info || !info->shared))
    return refuse(p, "one iteration's instructions may go on, with 3 places or more, after a TC "
                     "that reads them there");
  p->plan->pipeline = p->opt->axis;
  p->plan->slots = slots;
  p->plan->under = under;
  p->plan->bulk = p->opt->arg & PIPE_WHOLE;
  return NULL;
}

static Status plan_one(Job *job, Planner *p) {
  int axis = p->opt->axis;
  if (p->opt->kind >= OPT__COUNT) return FAIL(INVALID_ARGUMENT, "unknown opt kind");
  if (p->opt->kind == OPT_STAGE && axis == -1) return plan_stage(p);
  if (p->opt->kind == OPT_KEEP && axis == -1) return plan_keep(p);
  if (p->opt->kind == OPT_NOLOCALS) return plan_nolocals(p);
  if (p->opt->kind == OPT_PERSIST) return plan_persist(p);
  if (p->opt->kind == OPT_COMPILER) return plan_compiler(p);
  if (axis < 0 || (uint32_t)axis >= p->k->naxes || !p->k->axes[axis].range)
    return refuse(p, "the kernel has no such axis");
  AxisPlan *a = &p->plan->axes[axis];
  bool reduce = p->k->axes[axis].reduce;
  if (p->k->axes[axis].serial && p->opt->kind != OPT_ORDER)
    return refuse(p, "its iterations come one after the other");
  switch ((OptKind)p->opt->kind) {
  case OPT_VECTOR:
  case OPT_UPCAST:
  case OPT_UNROLL: return plan_tile(p, a, reduce);
  case OPT_THREAD: return plan_thread(p, a, reduce);
  case OPT_LOCAL:
  case OPT_GROUP:
  case OPT_GROUPTOP: return plan_lanes(p, a, reduce);
  case OPT_SPREAD: return plan_spread(p, a);
  case OPT_NOLOCALS:
  case OPT_PERSIST:
  case OPT_COMPILER:
  case OPT_ORDER: return plan_order(p, reduce);
  case OPT_PADTO: return plan_pad(p, a);
  case OPT_TC: return plan_matrix(job, p);
  case OPT_PIPELINE: return plan_pipeline(p, reduce);
  case OPT_CARRY: return plan_carry(p, reduce);
  case OPT_MERGE:
  case OPT_SPLIT: return refuse(p, "it must come first");
  case OPT_STAGE:
    if (reduce || !p->plan->groups) return plan_stage(p); /* check_stages: that of a CARRY? */
    return refuse(p, "the loop must be a reduce axis");
  case OPT_REPAIR: return plan_repair(job, p, reduce);
  case OPT_KEEP: return reduce ? refuse(p, "the loop must be an output axis") : plan_keep(p);
  case OPT__COUNT: break;
  }
  return refuse(p, "unknown kind");
}

/* How a tile fits an axis whose size is known only at run time. */
static Status finish_symbolic(const KernelAxis *axis, AxisPlan *a, uint32_t i, bool in_place) {
  int64_t all = a->tile * (a->lanes ? a->lanes : 1), unit = axis->reduce ? all : a->tile;
  if (a->block) unit = a->block;
  if (a->pad && a->pad % unit)
    return FAIL(INVALID_ARGUMENT, "axis %u is padded to a multiple of %d, its tile is %lld", i,
                (int)a->pad, (long long)unit);
  bool divides = axis->divisor % unit == 0, once = a->pad || axis->reduce || in_place;
  a->padded = !divides && (a->pad || (in_place && !axis->reduce));
  a->overlaps = !divides && !once && axis->least >= a->tile;
  a->clamped = !divides && !once && !a->overlaps && a->vector == 1;
  a->outer = (a->size + a->tile - 1) / a->tile;
  if (!axis->reduce && axis->divisor % all) { /* threads beyond the end; there may be no last one */
    bool gate = in_place || axis->least < 1;
    a->padded |= gate;
    a->lanes_clamp = a->lanes && !gate;
  }
  if (divides || a->padded || a->overlaps || a->clamped) return NULL;
  return FAIL(
      INVALID_ARGUMENT,
      "axis %u has a size in [%lld, %lld] that need not be a multiple of its tile %lld; use "
      "PADTO first",
      i, (long long)axis->least, (long long)axis->size, (long long)a->tile);
}

/* Threads, of the device or of a workgroup, have iterations to do. */
static Status check_lanes(const KernelInfo *k, const OptPlan *plan, uint32_t i) {
  const AxisPlan *a = &plan->axes[i];
  if (a->threads > a->outer || a->lanes > a->outer)
    return FAIL(INVALID_ARGUMENT, "axis %u has %lld iterations for %d threads", i,
                (long long)a->outer, a->threads > a->outer ? a->threads : a->lanes);
  bool known = axis_is_static(&k->axes[i]);
  if (known && a->lanes && k->axes[i].reduce && a->outer % a->lanes)
    return FAIL(INVALID_ARGUMENT,
                "axis %u has %lld iterations, no multiple of %d threads; use PADTO first", i,
                (long long)a->outer, a->lanes);
  if (a->lanes && a->spread > 1 && a->outer % ((int64_t)a->lanes * a->spread))
    return FAIL(INVALID_ARGUMENT,
                "axis %u has %lld iterations, no multiple of %d threads that do %d each; use PADTO "
                "first",
                i, (long long)a->outer, a->lanes, a->spread);
  return NULL;
}

/* A kernel that reads what it writes computes no element twice: tiles and the shares of threads do
 * not overlap, but are cut off at the end. */
static void pad_axis(AxisPlan *a) {
  int64_t outer = (a->size + a->tile - 1) / a->tile, threads = a->threads ? a->threads : 1;
  if (a->lanes) threads = (int64_t)a->lanes * a->spread;
  if (a->tile > a->size || threads > outer) return; /* refused below */
  int64_t unit = a->tile * threads, rest = a->size % unit;
  if (rest) a->size += unit - rest, a->padded = true;
  a->outer = a->size / a->tile;
}

static Status finish_axes(const KernelInfo *k, OptPlan *plan) {
  for (uint32_t i = 0; i < k->naxes; i++) {
    AxisPlan *a = &plan->axes[i];
    if (!k->axes[i].range) continue;
    if (!axis_is_static(&k->axes[i])) {
      if (a->tile > 1 || a->lanes || a->block) TRY(finish_symbolic(&k->axes[i], a, i, k->in_place));
      continue;
    }
    if (k->in_place && !k->axes[i].reduce) pad_axis(a);
    if (a->tile == 1) continue;
    if (a->tile > a->size)
      return FAIL(INVALID_ARGUMENT, "axis %u of size %lld has a tile of %lld", i,
                  (long long)a->size, (long long)a->tile);
    bool divides = a->size % a->tile == 0;
    if (!divides && (k->axes[i].reduce || a->padded))
      return FAIL(INVALID_ARGUMENT,
                  "axis %u of size %lld is no multiple of its tile %lld; use PADTO first", i,
                  (long long)a->size, (long long)a->tile);
    a->outer = (a->size + a->tile - 1) / a->tile;
  }
  for (uint32_t i = 0; i < k->naxes; i++) TRY(check_lanes(k, plan, i));
  return NULL;
}

/* At most one vector axis per value, and a bounded number of instances. */
static Status check_nodes(const KernelInfo *k, const OptPlan *plan) {
  const int64_t most = plan->inner.info ? MAX_CHAIN_NODES : MAX_NODES;
  int64_t nodes = 0;
  for (size_t i = 0; i < k->list.len; i++) {
    int64_t copies = 1;
    int vectors = 0;
    const RangeSet *open = k->list.at[i]->open;
    for (uint32_t j = 0; open && j < open->n && copies <= most; j++) {
      const AxisPlan *a = &plan->axes[open->at[j]->arg.i];
      vectors += a->vector > 1;
      copies *= a->tile / a->vector * a->spread / (a->matrix > 1 ? a->matrix / 2 : 1);
    }
    if (vectors > 1) return FAIL(INVALID_ARGUMENT, "a value would depend on two VECTOR axes");
    nodes += copies;
    if (nodes > most)
      return FAIL(INVALID_ARGUMENT, "the expanded kernel would have more than %lld nodes",
                  (long long)most);
  }
  return NULL;
}

const UOp *opts_reduce_over(const KernelInfo *k, uint32_t axis, uint32_t *n) {
  const UOp *found = NULL;
  *n = 0;
  for (size_t i = 0; i < k->list.len; i++) {
    const UOp *u = k->list.at[i];
    for (uint32_t s = 1; u->op == OP_REDUCE && s < u->nsrc; s++)
      if (u->src[s]->arg.i == axis) found = u, ++*n;
  }
  return found;
}

/* One sum, of the whole kernel, is carried: of all that lies inside of the loop. */
static Status check_carry(const KernelInfo *k, const OptPlan *plan) {
  if (plan->carry < 0) return NULL;
  uint32_t n, axis = (uint32_t)plan->carry;
  const UOp *u = opts_reduce_over(k, axis, &n);
  int64_t size = 1;
  if (n != 1 || u->dtype == DT_INDEX)
    return FAIL(INVALID_ARGUMENT,
                "CARRY: axis %u belongs to %u reductions, expected one of numbers", axis, n);
  if (k->in_place) return FAIL(INVALID_ARGUMENT, "CARRY: the kernel reads what it writes");
  if (plan->axes[axis].outer < 2) return FAIL(INVALID_ARGUMENT, "CARRY: axis %u has no loop", axis);
  for (uint32_t j = 0; u->open && j < u->open->n; j++) {
    uint32_t a = (uint32_t)u->open->at[j]->arg.i;
    const AxisPlan *p = &plan->axes[a];
    if (k->axes[a].reduce)
      return FAIL(INVALID_ARGUMENT, "CARRY: the reduction over axis %u lies in another", axis);
    size *= opts_inside(plan, a, (int)axis) ? p->outer * p->tile : p->tile;
    if (size > OPT_MAX_STAGE)
      return FAIL(INVALID_ARGUMENT, "CARRY(%u,%u) would keep more than %lld sums", axis,
                  plan->carry_at, (long long)OPT_MAX_STAGE);
  }
  return NULL;
}

static void add_reduction(const UOp *reduce, OptPlan *out) {
  for (uint32_t s = 1; s < reduce->nsrc; s++) {
    uint32_t at = 0, axis = (uint32_t)reduce->src[s]->arg.i;
    while (at < out->nred && out->order[out->nout + at] != axis) at++;
    if (at == out->nred) out->order[out->nout + out->nred++] = axis;
  }
}

/* Reduce axes as the REDUCEs list them, those of a REDUCE inside of another one after its. */
static void order_reductions(const KernelInfo *k, OptPlan *out) {
  bool deeper = true;
  for (uint32_t depth = 0; deeper; depth++) {
    deeper = false;
    for (size_t i = 0; i < k->list.len; i++) {
      const UOp *u = k->list.at[i];
      uint32_t around = 0;
      for (uint32_t x = 0; u->op == OP_REDUCE && x < k->naxes; x++)
        around += k->axes[x].reduce && kernel_depends(u, x);
      deeper |= around > depth;
      if (u->op == OP_REDUCE && around == depth) add_reduction(u, out);
    }
  }
}

Status opts_plan(Job *job, const KernelInfo *k, const Target *target, const OptList *list,
                 OptPlan *out) {
  *out =
      (OptPlan){.groups = target->max_group > 0, .block = {1, 1, 1}, .carry = -1, .pipeline = -1};
  out->axes = arena_array(&job->arena, k->naxes + 1u, sizeof *out->axes);
  out->order = arena_array(&job->arena, k->naxes + 1u, sizeof *out->order);
  out->stages = arena_array(&job->arena, list->len + 5, sizeof *out->stages);
  out->keeps = arena_array(&job->arena, list->len + 1, sizeof *out->keeps);
  if (!k->store && list->len)
    return FAIL(INVALID_ARGUMENT, "a kernel with several stores takes no opts");
  for (uint32_t i = 0; i < k->naxes; i++) {
    int64_t n = k->axes[i].size;
    out->axes[i] =
        (AxisPlan){.size = n, .tile = 1, .outer = n, .vector = 1, .spread = 1, .matrix = 1};
  }
  if (!k->store) return NULL;
  for (uint32_t i = 0; i < k->nloops; i++) out->order[out->nout++] = (uint32_t)k->loops[i]->arg.i;
  order_reductions(k, out);
  for (size_t i = 0; i < list->len; i++) {
    Planner p = {.k = k, .target = target, .plan = out, .opt = &list->at[i]};
    TRY(plan_one(job, &p));
    /* PADTO changes the size that later opts see. */
    AxisPlan *a = p.opt->axis >= 0 ? &out->axes[p.opt->axis] : NULL;
    if (a && a->tile == 1) a->outer = a->size;
  }
  TRY(opts_chain_rows(k, out));
  TRY(finish_axes(k, out));
  TRY(opts_matrix_check(k, out));
  TRY(opts_bulk_check(job, k, target, out));
  TRY(check_nodes(k, out));
  TRY(opts_rows_check(k, out));
  TRY(check_carry(k, out));
  TRY(check_compiler(out));
  return opts_stages_check(job, k, target, out);
}

static Status merge_one(Job *job, const Opt *o, UOp **kernel) {
  UOp *next = merge_axes(job, *kernel, o->axis, o->arg);
  if (!next)
    return FAIL(INVALID_ARGUMENT,
                "MERGE(%d,%d) is not legal: no loop over axis %d has one over "
                "axis %d right inside",
                o->axis, (int)o->arg, o->axis, (int)o->arg);
  *kernel = next;
  return NULL;
}

static Status split_one(Job *job, const Opt *o, UOp **kernel) {
  const KernelInfo *k = kernel_info(job, *kernel);
  Planner p = {.k = k, .opt = o};
  if (o->axis < 0 || (uint32_t)o->axis >= k->naxes || !k->axes[o->axis].range)
    return refuse(&p, "the kernel has no such axis");
  const KernelAxis *a = &k->axes[o->axis];
  if (k->naxes > INT8_MAX) return refuse(&p, "the kernel has too many axes");
  if (!axis_is_static(a)) return refuse(&p, "a run decides the size of the axis");
  if (a->serial) return refuse(&p, "its iterations come one after the other");
  if (o->arg < 1 || o->arg >= a->size) return refuse(&p, "a block is smaller than the axis");
  if (a->size % o->arg && (a->reduce || k->in_place))
    return refuse(&p, "the size must be a multiple of the block");
  *kernel = split_axis(job, *kernel, o->axis, o->arg, k->naxes);
  return NULL;
}

Status opts_merge(Job *job, UOp *kernel, const OptList *list, UOp **merged, OptList *rest) {
  *merged = kernel;
  *rest = *list;
  while (rest->len && opt_is_head(rest->at)) {
    if (rest->at->kind == OPT_MERGE)
      TRY(merge_one(job, rest->at, merged));
    else
      TRY(split_one(job, rest->at, merged));
    rest->at++, rest->len--, rest->cap--;
  }
  return NULL;
}

Status opts_check(Job *job, UOp *kernel, const Target *target, const OptList *list) {
  OptPlan plan;
  OptList rest;
  TRY(opts_merge(job, kernel, list, &kernel, &rest));
  return opts_plan(job, kernel_info(job, kernel), target, &rest, &plan);
}
