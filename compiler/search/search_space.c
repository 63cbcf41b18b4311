/* The space of schedules: lists of opts, one step from each other.
 *
 * What a step may be is a table: for each kind of opt, the axes that it goes with and the arguments
 * that are worth trying. A new kind of opt is a row. Whether a list is legal is asked of opts.c,
 * and no graph is built. Every list is brought into a normal form, in which equal schedules mostly
 * have equal lists: opts of one axis stand together, in their order, which matters; those of
 * different axes are sorted; moves of loops are replayed in one order; threads of a workgroup
 * stay in theirs, which decides their dimensions.
 *
 * The work is bounded by counting the nodes that legality checks walk over: a kernel built to make
 * the search explode is searched less. */
#include "base/map.h"
#include "compiler/passes/schedule.h"
#include "compiler/search/internal.h"

enum {
  BODY_MAX = 1000,     /* instructions of an expanded body: compiling more takes too long */
  WORK_LIMIT = 400000, /* nodes that legality checks may look at */
  LANES_MAX = 64,
  REPAIRS = 40, /* attempts to save one opt of a hint */
};

/* -- the table --------------------------------------------------------------------------------- */

typedef enum Where { ON_OUT = 1, ON_REDUCE = 2, ON_ANY = 3, ON_NONE = 4 } Where;
typedef enum Device { CPU = 1, GPU = 2, BOTH = 3 } Device;
typedef enum Choice {
  LANES,    /* powers of two up to a few vectors */
  FACTORS,  /* small numbers, and divisors of the size */
  THREADS,  /* as many as the device has, or half */
  PLACES,   /* positions among the loops */
  OPERANDS, /* what can be copied */
  BLOCKS,   /* a loop over blocks; of a reduce axis it is carried */
  MATRIX,   /* matrix instructions of the target, over any axes that they take */
  SLOTS,    /* places of a pipeline */
  KEPT,     /* values that are needed more than once */
  STEPS,    /* powers of two, smaller than the axis */
  PADS,     /* powers of two that do not divide the size */
  GROUPS,   /* threads of a workgroup */
  WORKERS,  /* workgroups, as many as the device has processors */
  NOTHING,
} Choice;

typedef struct SpaceRow {
  uint8_t kind, where, device, choice;
} SpaceRow;

/* MERGE is not here: with it the search starts anew, see search_seeds.c; nor COMPILER, which is
 * tried at the end (search_propose.c). */
static const SpaceRow rows[] = {
    {OPT_VECTOR, ON_ANY, BOTH, LANES},      {OPT_UPCAST, ON_OUT, BOTH, FACTORS},
    {OPT_UNROLL, ON_REDUCE, BOTH, FACTORS}, {OPT_THREAD, ON_OUT, CPU, THREADS},
    {OPT_LOCAL, ON_OUT, GPU, GROUPS},       {OPT_GROUP, ON_REDUCE, GPU, GROUPS},
    {OPT_GROUPTOP, ON_REDUCE, GPU, GROUPS}, {OPT_NOLOCALS, ON_NONE, GPU, NOTHING},
    {OPT_ORDER, ON_ANY, CPU, PLACES},       {OPT_STAGE, ON_OUT, CPU, OPERANDS},
    {OPT_STAGE, ON_REDUCE, BOTH, OPERANDS}, {OPT_PADTO, ON_ANY, BOTH, PADS},
    {OPT_SPLIT, ON_ANY, CPU, BLOCKS},       {OPT_CARRY, ON_REDUCE, CPU, PLACES},
    {OPT_TC, ON_OUT, BOTH, MATRIX},         {OPT_PIPELINE, ON_REDUCE, GPU, SLOTS},
    {OPT_SPREAD, ON_ANY, GPU, FACTORS},     {OPT_KEEP, ON_OUT, CPU, KEPT},
    {OPT_REPAIR, ON_REDUCE, BOTH, STEPS},   {OPT_PERSIST, ON_NONE, GPU, WORKERS},
};
enum { ROWS = sizeof rows / sizeof *rows };

/* -- normal form ------------------------------------------------------------------------------- */

static bool is_tile(const Opt *o) {
  return o->kind == OPT_VECTOR || o->kind == OPT_UPCAST || o->kind == OPT_UNROLL;
}
static bool is_lanes(const Opt *o) {
  return o->kind == OPT_LOCAL || o->kind == OPT_GROUP || o->kind == OPT_GROUPTOP;
}

/* The head, padding, what else comes before tiles, the axes, what is said once, threads of
 * workgroups, then, after the ORDERs, which are made anew, STAGE. */
enum { C_HEAD, C_PADS, C_FIRST, C_AXES, C_ONCE, C_LANES, C_SPREAD, C_STAGE };
static int class_of(const Opt *o) {
  switch ((OptKind)o->kind) {
  case OPT_MERGE:
  case OPT_SPLIT: return C_HEAD;
  case OPT_PADTO: return C_PADS;
  case OPT_NOLOCALS:
  case OPT_TC: return C_FIRST;
  case OPT_THREAD:
  case OPT_CARRY:
  case OPT_REPAIR:
  case OPT_PERSIST:
  case OPT_COMPILER:
  case OPT_PIPELINE: return C_ONCE;
  case OPT_SPREAD: return C_SPREAD;
  case OPT_KEEP:
  case OPT_STAGE: return C_STAGE;
  default: return is_lanes(o) ? C_LANES : C_AXES;
  }
}

/* On one axis the vector is innermost wherever it stands. */
static int on_axis(const Opt *o) { return o->kind == OPT_VECTOR ? 1 : 2; }

static bool goes_before(const Opt *a, const Opt *b) {
  int x = class_of(a), y = class_of(b);
  if (x != y) return x < y;
  if (x == C_AXES) return a->axis != b->axis ? a->axis < b->axis : on_axis(a) < on_axis(b);
  if (x == C_ONCE) return a->kind < b->kind;
  if (x == C_SPREAD || x == C_PADS) return a->axis < b->axis;
  if (x == C_STAGE && a->kind != b->kind) return a->kind < b->kind;
  if (x == C_STAGE) return a->arg != b->arg ? a->arg < b->arg : a->axis < b->axis;
  return false;
}

static bool push(Opt *out, uint32_t *n, Opt o) {
  if (*n == LIST_MAX) return false;
  out[(*n)++] = o;
  return true;
}

/* Moves that bring the loops into the order of the plan; fewest by going from the inside. */
static bool push_orders(const OptPlan *plan, const uint32_t *loops, Opt *out, uint32_t *n) {
  uint32_t now[MODEL_AXES];
  memcpy(now, loops, (plan->nout + plan->nred) * sizeof *now);
  for (int reduce = 0; reduce < 2; reduce++) {
    uint32_t first = reduce ? plan->nout : 0, len = reduce ? plan->nred : plan->nout;
    for (uint32_t to = len; to-- > 0;) {
      uint32_t axis = plan->order[first + to], at = to;
      while (now[first + at] != axis) at--;
      if (at == to) continue;
      for (; at < to; at++) now[first + at] = now[first + at + 1];
      now[first + to] = axis;
      if (!push(out, n, (Opt){OPT_ORDER, (int8_t)axis, (int32_t)to})) return false;
    }
  }
  return true;
}

/* Two tiles that are one. */
static bool joins(const Opt *a, const Opt *b) {
  return a->kind == b->kind && a->axis == b->axis && a->arg < 4096 && b->arg < 4096 &&
         (a->kind == OPT_UPCAST || a->kind == OPT_UNROLL);
}

/* Kinds that may be sorted as class_of says. A list with others is asked for its legality again. */
static bool is_sortable(const Opt *o) {
  if (is_tile(o) || is_lanes(o)) return true;
  return o->kind == OPT_ORDER || class_of(o) != C_AXES;
}

/* Without the head. */
static bool normal_form(const OptPlan *plan, const uint32_t *loops, const Opt *at, size_t len,
                        Opt *out, uint32_t *n) {
  Opt sorted[LIST_MAX];
  uint32_t count = 0, i = 0;
  for (size_t x = 0; x < len; x++) {
    if (at[x].kind == OPT_ORDER) continue;
    if (!push(sorted, &count, at[x])) return false;
    for (uint32_t p = count - 1; p > 0 && goes_before(&sorted[p], &sorted[p - 1]); p--) {
      Opt t = sorted[p];
      sorted[p] = sorted[p - 1], sorted[p - 1] = t;
    }
  }
  for (; i < count && class_of(&sorted[i]) < C_STAGE; i++) {
    if (*n && joins(&out[*n - 1], &sorted[i]))
      out[*n - 1].arg *= sorted[i].arg;
    else if (!push(out, n, sorted[i]))
      return false;
  }
  if (!push_orders(plan, loops, out, n)) return false;
  for (; i < count; i++)
    if (!push(out, n, sorted[i])) return false;
  return true;
}

static uint64_t key_of(const Point *p) {
  uint64_t h = p->len;
  for (uint32_t i = 0; i < p->len; i++)
    h = hash_u64(h * 31 + ((uint64_t)p->at[i].kind << 48) +
                 ((uint64_t)(uint8_t)p->at[i].axis << 32) + (uint32_t)p->at[i].arg);
  return h;
}

/* -- points ------------------------------------------------------------------------------------ */

static size_t head_of(const Opt *at, size_t len) {
  size_t n = 0;
  while (n < len && opt_is_head(&at[n])) n++;
  return n;
}

static struct SpaceVariant *find_variant(Space *s, const Opt *at, size_t nhead) {
  for (uint32_t i = 0; i < s->nvariants; i++) {
    struct SpaceVariant *v = &s->variants[i];
    bool same = v->nhead == nhead;
    for (size_t k = 0; same && k < nhead; k++)
      same = v->head[k].kind == at[k].kind && v->head[k].axis == at[k].axis &&
             v->head[k].arg == at[k].arg;
    if (same) return v;
  }
  return NULL;
}

static bool plan_of(Space *s, const Model *m, Opt *at, size_t len, OptPlan *plan) {
  OptList list = {at, len, len};
  s->work += m->info->list.len + 10 * len + 40;
  Status st = opts_plan(s->job, m->info, s->target, &list, plan);
  if (!st) return true;
  status_drop(st);
  return false;
}

static void model_variant(Space *s, struct SpaceVariant *v) {
  OptList list = {v->head, v->nhead, v->nhead}, rest;
  OptPlan plan;
  UOp *kernel;
  Status st = opts_merge(s->job, s->kernel, &list, &kernel, &rest);
  s->work += 4 * s->nodes;
  status_drop(st);
  Model *m = st ? NULL : search_model(s->job, kernel, s->target);
  if (!m || !plan_of(s, m, NULL, 0, &plan)) return;
  v->loops = plan.order;
  v->model = m;
}

/* NULL when the head is not legal, or there are too many variants. */
static struct SpaceVariant *variant_of(Space *s, const Opt *at, size_t nhead) {
  struct SpaceVariant *v = find_variant(s, at, nhead);
  if (v) return v->model ? v : NULL;
  if (s->nvariants == VARIANTS || nhead > HEAD_MAX) return NULL;
  v = &s->variants[s->nvariants++];
  *v = (struct SpaceVariant){.nhead = (uint32_t)nhead};
  if (nhead) memcpy(v->head, at, nhead * sizeof *at);
  model_variant(s, v);
  return v->model ? v : NULL;
}

bool search_space_point(Space *s, const Opt *at, size_t len, Point *out) {
  size_t nhead = head_of(at, len);
  struct SpaceVariant *v = len <= LIST_MAX ? variant_of(s, at, nhead) : NULL;
  OptPlan plan;
  Opt copy[LIST_MAX];
  if (!v) return false;
  if (len > nhead) memcpy(copy, at + nhead, (len - nhead) * sizeof *at);
  if (!plan_of(s, v->model, copy, len - nhead, &plan)) return false;
  if (len > nhead && search_body(v->model, &plan) > BODY_MAX) return false;
  *out = (Point){.len = 0};
  for (uint32_t i = 0; i < nhead; i++) out->at[out->len++] = v->head[i];
  uint32_t n = 0;
  Opt rest[LIST_MAX];
  if (!normal_form(&plan, v->loops, copy, len - nhead, rest, &n)) return false;
  bool trusted = true;
  for (uint32_t i = 0; i < n; i++) trusted &= is_sortable(&rest[i]);
  OptPlan again;
  if (!trusted && !plan_of(s, v->model, rest, n, &again)) /* as it was given, then */
    memcpy(rest, copy, (len - nhead) * sizeof *copy), n = (uint32_t)(len - nhead);
  if (out->len + n > LIST_MAX) return false;
  memcpy(out->at + out->len, rest, n * sizeof *rest);
  out->len += n;
  out->key = key_of(out);
  /* Of schedules that are alike the shorter one. */
  out->predicted = search_predict(v->model, &plan) * (1 + 0.003 * out->len);
  return true;
}

const Model *search_space_model(Space *s, const Point *p) {
  struct SpaceVariant *v = variant_of(s, p->at, head_of(p->at, p->len));
  return v ? v->model : NULL;
}

bool search_space_spent(const Space *s) { return s->work > s->work_limit; }

void search_space_init(Space *s, Job *job, UOp *kernel, const Target *target) {
  *s = (Space){.job = job, .kernel = kernel, .target = target, .work_limit = WORK_LIMIT};
  s->nodes = uop_toposort(job, kernel).len;
}

/* -- lists of other sizes ---------------------------------------------------------------------- */

static bool legal(Space *s, const Opt *at, size_t len) {
  Point p;
  return len <= LIST_MAX && !search_space_spent(s) && search_space_point(s, at, len, &p);
}

/* A smaller argument of the kind; 0: there is none. */
static int32_t less(const Opt *o) {
  if (o->kind == OPT_VECTOR || is_lanes(o)) return o->arg / 2;
  bool names = o->kind == OPT_STAGE || o->kind == OPT_KEEP || o->kind == OPT_MERGE;
  if (o->kind == OPT_PADTO || o->kind == OPT_TC || names) return 0;
  return o->arg > 48 ? o->arg - o->arg / 4 : o->arg - 1;
}

/* Puts o at place `at`, with everything behind it kept. */
static void insert(Opt *list, size_t *len, size_t at, Opt o) {
  memmove(list + at + 1, list + at, (*len - at) * sizeof *list);
  list[at] = o;
  ++*len;
}

/* The tile that the opts of the whole hint make of an axis: what it has to be padded to. */
static int32_t tile_in(const Opt *at, size_t len, int axis) {
  int64_t tile = 1;
  for (size_t i = 0; i < len; i++)
    if (at[i].axis == axis && (is_tile(&at[i]) || is_lanes(&at[i])) && tile < 4096)
      tile *= at[i].arg;
  return (int32_t)tile;
}

static size_t first_on_axis(const Opt *list, size_t len, int axis) {
  for (size_t i = 0; i < len; i++)
    if (list[i].axis == axis && (class_of(&list[i]) == C_PADS || class_of(&list[i]) == C_AXES))
      return i;
  return len;
}

/* The largest block of the axis that is not larger; 0: none. */
static int32_t block_below(Space *s, const Opt *head, size_t n, const Opt *o) {
  struct SpaceVariant *v = variant_of(s, head, n);
  if (!v || o->axis < 0 || (uint32_t)o->axis >= v->model->info->naxes) return 0;
  int64_t size = v->model->info->axes[o->axis].size;
  int64_t most = o->arg < size ? o->arg : size - 1, tries = 4096;
  for (int64_t b = most; b > most / 4 && b > 1 && tries-- > 0; b--)
    if (size % b == 0) return (int32_t)b;
  return 0;
}

/* Adds o to the list as it is, with the axis padded, or with a smaller argument. */
static void add_repaired(Space *s, Opt *list, size_t *len, Opt o, int32_t tile) {
  for (int tries = 0; tries < REPAIRS && *len + 2 < LIST_MAX; tries++) {
    list[*len] = o;
    if (legal(s, list, *len + 1)) {
      ++*len;
      return;
    }
    if (is_tile(&o) && o.kind != OPT_UPCAST && tries == 0) {
      Opt padded[LIST_MAX];
      size_t n = *len + 1;
      memcpy(padded, list, n * sizeof *list);
      size_t at = first_on_axis(padded, n, o.axis);
      if (padded[at].kind != OPT_PADTO) {
        insert(padded, &n, at, (Opt){OPT_PADTO, o.axis, tile});
        if (legal(s, padded, n)) {
          memcpy(list, padded, n * sizeof *list);
          *len = n;
          return;
        }
      }
    }
    if (o.kind == OPT_PADTO) return;
    o.arg = less(&o);
    bool place = o.kind == OPT_ORDER || o.kind == OPT_CARRY;
    if (o.arg < (place ? 0 : 2)) return;
  }
}

bool search_space_repair(Space *s, const Opt *at, size_t len, Point *out) {
  Opt list[LIST_MAX + 2];
  size_t n = 0;
  if (search_space_point(s, at, len < LIST_MAX ? len : LIST_MAX, out) && len <= LIST_MAX)
    return true;
  for (size_t i = 0; i < len && i < LIST_MAX; i++) {
    Opt o = at[i];
    if (o.kind == OPT_THREAD && o.arg > (int32_t)s->target->threads)
      o.arg = (int32_t)s->target->threads;
    if (o.kind == OPT_SPLIT && !(o.arg = block_below(s, list, head_of(list, n), &o))) continue;
    add_repaired(s, list, &n, o, tile_in(at, len < LIST_MAX ? len : LIST_MAX, o.axis));
  }
  return search_space_point(s, list, n, out);
}

/* -- steps ------------------------------------------------------------------------------------- */

typedef struct Steps {
  Space *s;
  const Point *from;
  const Model *m;
  SpaceFn fn;
  void *ctx;
} Steps;

static void offer(Steps *t, const Opt *at, size_t len) {
  Point p;
  if (!search_space_spent(t->s) && search_space_point(t->s, at, len, &p) && p.key != t->from->key)
    t->fn(t->ctx, &p);
}

/* The list without its first opt of that kind and axis (and operand). *at: where it stood. */
static size_t without(const Point *p, const SpaceRow *row, int axis, int32_t arg, Opt *out,
                      size_t *at) {
  size_t n = 0;
  bool found = false;
  *at = SIZE_MAX;
  for (uint32_t i = 0; i < p->len; i++) {
    const Opt *o = &p->at[i];
    bool same = o->kind == row->kind && o->axis == axis;
    if (class_of(o) == C_ONCE || o->kind == OPT_TC) same = o->kind == row->kind;
    if (row->choice == OPERANDS || row->choice == KEPT)
      same = o->kind == row->kind && o->arg == arg;
    if (same && !found) {
      found = true, *at = n;
      continue;
    }
    out[n++] = *o;
  }
  if (*at == SIZE_MAX) *at = row->kind == OPT_PADTO || row->kind == OPT_TC ? head_of(out, n) : n;
  return n;
}

/* The list with (kind, axis, arg) in place of what it has of that kind there; without when arg is
 * negative. */
static void step_to(Steps *t, const SpaceRow *row, int axis, int32_t arg, bool drop) {
  Opt list[LIST_MAX + 1];
  size_t at, n = without(t->from, row, axis, arg, list, &at);
  if (drop && n == t->from->len) return;
  if (!drop) insert(list, &n, at, (Opt){row->kind, (int8_t)axis, arg});
  if (n <= LIST_MAX) offer(t, list, n);
}

static int64_t size_of(const Steps *t, int axis) {
  const KernelAxis *a = &t->m->info->axes[axis];
  return axis_is_static(a) ? a->size : a->divisor;
}

static void factors(Steps *t, const SpaceRow *row, int axis) {
  static const int32_t small[] = {2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 24, 32};
  for (size_t i = 0; i < sizeof small / sizeof *small; i++)
    if (small[i] <= t->m->info->axes[axis].size) step_to(t, row, axis, small[i], false);
  int64_t size = size_of(t, axis);
  if (size > 32 && size <= 49) step_to(t, row, axis, (int32_t)size, false);
}

static void powers(Steps *t, const SpaceRow *row, int axis, int32_t from, int32_t to) {
  for (int32_t n = from; n <= to; n *= 2) {
    bool divides = size_of(t, axis) % n == 0;
    if (row->choice == PADS && divides) continue;
    if (n / 2 >= t->m->info->axes[axis].size) break;
    step_to(t, row, axis, n, false);
  }
}

static void threads(Steps *t, const SpaceRow *row, int axis) {
  int32_t all = (int32_t)t->s->target->threads;
  if (all < 2) return;
  step_to(t, row, axis, all, false);
  if (all > 3) step_to(t, row, axis, all / 2, false);
}

/* What may be copied or kept, inside of the loop over the axis or before all loops. */
static void operands(Steps *t, const SpaceRow *row, int axis, uint32_t n) {
  for (uint32_t i = 0; i < n && i < 16; i++) {
    step_to(t, row, axis, (int32_t)i, false);
    if (axis == 0 && row->device == CPU) step_to(t, row, -1, (int32_t)i, false);
  }
}

static void places(Steps *t, const SpaceRow *row, int axis) {
  bool reduce = t->m->info->axes[axis].reduce && row->kind == OPT_ORDER;
  uint32_t loops = t->m->info->nloops;
  if (row->kind != OPT_ORDER) {
    for (uint32_t to = 0; to < loops && to < 8; to++) step_to(t, row, axis, (int32_t)to, false);
    return;
  }
  if (reduce)
    for (uint32_t i = loops = 0; i < t->m->info->naxes; i++)
      loops += t->m->info->axes[i].range && t->m->info->axes[i].reduce;
  /* A move is made after those that the list has. */
  for (uint32_t to = 0; to < loops && to < 8; to++) {
    Opt list[LIST_MAX + 1];
    size_t n = t->from->len;
    memcpy(list, t->from->at, n * sizeof *list);
    if (n < LIST_MAX) list[n++] = (Opt){row->kind, (int8_t)axis, (int32_t)to}, offer(t, list, n);
  }
}

static uint32_t count_loops(const Steps *t) { return t->m->info->nloops; }

/* The list over one more axis, the blocks of `axis`: it is a loop around all, or, of a reduce axis,
 * carried around the output loops from a place on, with the copies made inside of it or not. */
static void blocked(Steps *t, int axis, int32_t block, int32_t place, bool stages) {
  Opt list[LIST_MAX + 3];
  size_t n = t->from->len, head = head_of(t->from->at, n);
  int8_t fresh = (int8_t)t->m->info->naxes;
  bool reduce = t->m->info->axes[axis].reduce, any = false;
  memcpy(list, t->from->at, n * sizeof *list);
  insert(list, &n, head, (Opt){OPT_SPLIT, (int8_t)axis, block});
  for (size_t i = 0; i < n && stages; i++)
    if (list[i].kind == OPT_STAGE) list[i].axis = fresh, any = true;
  if (stages && !any) return;
  list[n++] = (Opt){reduce ? OPT_CARRY : OPT_ORDER, fresh, place};
  if (n <= LIST_MAX) offer(t, list, n);
}

static void blocks(Steps *t, int axis) {
  static const int32_t sizes[] = {48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
  const KernelAxis *a = &t->m->info->axes[axis];
  if (!axis_is_static(a) || a->size < 96 || t->m->info->naxes >= MODEL_AXES - 1) return;
  for (size_t i = 0; i < t->from->len; i++) {
    const Opt *o = &t->from->at[i];
    if (o->kind == OPT_CARRY && a->reduce) return;
    if (o->kind == OPT_SPLIT && (o->axis == axis || (int)t->m->info->naxes - 1 == axis)) return;
  }
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    int32_t b = sizes[i];
    if (b * 2 > a->size || a->size % b) continue;
    if (!a->reduce) blocked(t, axis, b, 0, false);
    for (uint32_t p = 0; a->reduce && p < count_loops(t) && p < 3; p++) {
      blocked(t, axis, b, (int32_t)p, false);
      blocked(t, axis, b, (int32_t)p, true);
    }
  }
}

/* Axis as the rows of an instruction's tile. */
static void matrices(Steps *t, const SpaceRow *row, int axis) {
  const KernelInfo *k = t->m->info;
  for (uint32_t n = 0; n < k->naxes && n < 16; n++)
    for (uint32_t r = 0; r < k->naxes && r < 16; r++)
      for (int64_t id = 0; id < MX__COUNT; id++) {
        if (!k->axes[n].range || k->axes[n].reduce || !k->axes[r].range || !k->axes[r].reduce)
          break;
        if (n == (uint32_t)axis || !matrix_on(matrix_info(id), t->s->target)) continue;
        step_to(t, row, axis, (int32_t)opt_tc_arg(id, n, r), false);
      }
}

/* One register of the smallest elements. */
static int32_t most_lanes(const Steps *t) {
  uint32_t lanes = t->s->target->vector_bytes / t->m->least_bytes;
  if (t->s->target->max_group) lanes = 16 / t->m->least_bytes;
  return lanes > LANES_MAX ? LANES_MAX : (int32_t)lanes;
}

static void choices(Steps *t, const SpaceRow *row, int axis) {
  switch ((Choice)row->choice) {
  case LANES: powers(t, row, axis, 2, most_lanes(t)); break;
  case FACTORS: factors(t, row, axis); break;
  case THREADS: threads(t, row, axis); break;
  case PLACES: places(t, row, axis); break;
  case OPERANDS: operands(t, row, axis, t->m->info->nstageable); break;
  case KEPT: operands(t, row, axis, t->m->info->nkept); break;
  case STEPS: powers(t, row, axis, 8, 512); break;
  case PADS: powers(t, row, axis, 4, 64); break;
  case GROUPS: powers(t, row, axis, 2, (int32_t)t->s->target->max_group); break;
  case NOTHING: step_to(t, row, 0, 0, false); break;
  case BLOCKS: blocks(t, axis); break;
  case MATRIX: matrices(t, row, axis); break;
  case SLOTS:
    for (int32_t n = 2; n <= 4; n++) step_to(t, row, axis, n, false);
    for (int32_t n = 3; n <= 4; n++) step_to(t, row, axis, n + PIPE_GO_ON, false);
    for (int32_t n = 3; n <= 8; n++) {
      step_to(t, row, axis, n + PIPE_WHOLE, false);
      step_to(t, row, axis, n + PIPE_WHOLE + PIPE_GO_ON, false);
    }
    break;
  case WORKERS: step_to(t, row, 0, (int32_t)t->s->target->threads, false); break;
  }
}

static void row_steps(Steps *t, const SpaceRow *row) {
  if (!(row->device & (t->s->target->max_group ? GPU : CPU))) return;
  if (row->where == ON_NONE) {
    choices(t, row, 0);
    return;
  }
  for (uint32_t axis = 0; axis < t->m->info->naxes && axis <= INT8_MAX; axis++) {
    const KernelAxis *a = &t->m->info->axes[axis];
    if (!a->range || a->size < 2) continue;
    if (row->where & (a->reduce ? ON_REDUCE : ON_OUT)) choices(t, row, (int)axis);
  }
}

/* Pairs of factors: what one gives up the other takes. */
static void pair_steps(Steps *t) {
  for (uint32_t i = 0; i < t->from->len; i++)
    for (uint32_t k = 0; k < t->from->len; k++) {
      const Opt *a = &t->from->at[i], *b = &t->from->at[k];
      bool tiles = is_tile(a) && is_tile(b), lanes = is_lanes(a) && is_lanes(b);
      if (i == k || !(tiles || lanes) || a->kind == OPT_VECTOR || b->kind == OPT_VECTOR) continue;
      Opt list[LIST_MAX];
      memcpy(list, t->from->at, t->from->len * sizeof *list);
      list[i].arg *= 2, list[k].arg /= 2;
      if (list[k].arg >= 2) offer(t, list, t->from->len);
      list[i].arg = a->arg + 1, list[k].arg = b->arg - 1;
      if (list[k].arg >= 2 && tiles) offer(t, list, t->from->len);
    }
}

/* Without the last SPLIT, if the head ends with one, and what was said of its axis. */
static void drop_split(Steps *t) {
  Opt list[LIST_MAX];
  size_t n = 0, head = head_of(t->from->at, t->from->len);
  int axis = (int)t->m->info->naxes - 1;
  if (!head || t->from->at[head - 1].kind != OPT_SPLIT) return;
  for (uint32_t i = 0; i < t->from->len; i++)
    if (i != head - 1 && t->from->at[i].axis != axis) list[n++] = t->from->at[i];
  offer(t, list, n);
}

static void drop_steps(Steps *t) {
  drop_split(t);
  for (uint32_t i = 0; i < t->from->len; i++) {
    Opt list[LIST_MAX];
    if (opt_is_head(&t->from->at[i])) continue;
    memcpy(list, t->from->at, i * sizeof *list);
    memcpy(list + i, t->from->at + i + 1, (t->from->len - i - 1) * sizeof *list);
    offer(t, list, t->from->len - 1);
  }
}

void search_space_near(Space *s, const Point *p, SpaceFn fn, void *ctx) {
  Steps t = {s, p, search_space_model(s, p), fn, ctx};
  if (!t.m) return;
  for (uint32_t r = 0; r < ROWS; r++) row_steps(&t, &rows[r]);
  pair_steps(&t);
  drop_steps(&t);
}
