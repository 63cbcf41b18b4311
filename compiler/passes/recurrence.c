/* A loop that reads in each iteration what it stored in the one before:
 *
 *   for i: y[i] = 0 < i ? y[max(i - 1, 0)] + x[i] : x[i]
 *
 * Through memory that is about nine cycles, a store and a load that waits for it; in a register it
 * is an addition. So the value that is stored is kept beside, and the load becomes the register:
 *
 *   r = -0
 *   for i: y[i] = r = r + x[i]
 *
 * Only an innermost SERIAL loop is taken, whose stores are all without a gate, and only a load
 * that names the place of one of them with max(i - 1, 0) for i. In the first iteration such a load
 * gives what nobody uses (rangeify.c), so that the register may begin with what changes no x, and
 * the question goes; where the value has another form, the question stays. Rows side by side never
 * store to each other's places. */
#include "compiler/passes/recurrence.h"

#include "base/vec.h"

#include "compiler/passes/ix.h"
#include "compiler/passes/registers.h"

typedef struct Recurrence {
  Job *job;
  UOpList list; /* the kernel */
  UOp *range;
  UOp *last;             /* max(range - 1, 0) */
  UOpList stores, loads; /* by place */
  int64_t next_buffer;
} Recurrence;

static bool is_innermost(const UOpList *list, const UOp *end) {
  for (size_t i = 0; i < list->len; i++)
    if (uop_is_loop(list->at[i]) && uop_is_open(list->at[i], end->src[1])) return false;
  return true;
}

/* The stores of a loop's body; false when it has another effect or one that may not happen. */
static bool find_stores(Recurrence *r, UOp *body) {
  if (body->op == OP_SINK) {
    for (uint32_t s = 0; s < body->nsrc; s++)
      if (!find_stores(r, body->src[s])) return false;
    return true;
  }
  if (body->op != OP_STORE || body->nsrc != 3 || body->src[0]->op != OP_PARAM) return false;
  if (body->src[1]->lanes > 1) return false;
  avec_push(&r->job->arena, &r->stores, body);
  return true;
}

static bool is_read_of(const Recurrence *r, const UOp *load, const UOp *store) {
  if (load->op != OP_LOAD || uop_storage(load->src[0]) != store->src[0]) return false;
  if (load->src[1]->lanes > 1 || !uop_is_open(load, r->range)) return false;
  if (load->lanes != store->src[2]->lanes || load->arg.i != store->arg.i) return false;
  IxSum at = ix_sum_of(store->src[1]);
  int64_t step = ix_coef(&at, r->range);
  if (!step || !dim_is_static(step)) return false;
  UOp *moved = ix_add(r->job, store->src[1], ix_scale(r->job, r->range, -step, 0));
  moved = ix_add(r->job, moved, ix_scale(r->job, r->last, step, 0));
  return moved == ix_add(r->job, load->src[1], uop_index(r->job, 0));
}

/* The load for each store; how many there are. */
static size_t find_loads(Recurrence *r) {
  size_t found = 0;
  for (size_t s = 0; s < r->stores.len; s++) {
    UOp *load = NULL;
    for (size_t i = 0; i < r->list.len && !load; i++)
      if (is_read_of(r, r->list.at[i], r->stores.at[s])) load = r->list.at[i];
    avec_push(&r->job->arena, &r->loads, load);
    found += load != NULL;
  }
  return found;
}

/* What gives x back: -0 for a sum of floats, where 0 would not keep -0. */
static UOp *neutral(Job *job, Op op, const UOp *like) {
  DType d = (DType)like->dtype;
  bool minus = op == OP_ADD && dtype_is_float(d);
  UOp *none = minus ? uop_float(job, d, -0.0) : uop_scalar(job, d, reduce_identity(op, d));
  if (like->lanes == 1) return none;
  return uop_make_lanes(job, OP_BROADCAST, DT_VOID, like->lanes, arg_none(), &none, 1);
}

/* The op that combines load with x in 0 < range ? op(load, x) : x; OP_ADD where it is none. */
static Op combined_by(const Recurrence *r, const UOp *value, const UOp *load, bool *asked) {
  *asked = false;
  if (value->op != OP_WHERE || value->src[0]->op != OP_CMPLT) return OP_ADD;
  const UOp *first = value->src[0], *both = value->src[1];
  bool is_first =
      uop_is_const(first->src[0]) && first->src[0]->vmax == 0 && first->src[1] == r->range;
  bool combines =
      both->op == OP_ADD || both->op == OP_MUL || both->op == OP_MAX || both->op == OP_MIN;
  *asked = is_first && combines && both->src[0] == load && both->src[1] == value->src[2];
  return *asked ? (Op)both->op : OP_ADD;
}

/* The register of one load in the loop, whose outer loops are open. */
static UOp *open_register(Recurrence *r, const UOp *load, UOp *none, const RangeSet *open) {
  Job *job = r->job;
  UOp *buffer = register_new(job, r->next_buffer++, (DType)load->dtype, load->lanes);
  buffer = register_after(job, buffer, open ? open->at : NULL, open ? open->n : 0);
  UOp *before[2] = {register_store(job, buffer, none), r->range};
  return register_after(job, buffer, before, 2);
}

static UOp *rebuilt(Recurrence *r, const UOp *end, size_t found) {
  Job *job = r->job;
  UOp **from = arena_array(&job->arena, 2 * found, sizeof *from);
  UOp **to = arena_array(&job->arena, 2 * found, sizeof *to);
  UOp **effects = arena_array(&job->arena, found + 1, sizeof *effects);
  size_t n = 0, stored = 1;
  effects[0] = end->src[0];
  for (size_t s = 0; s < r->stores.len; s++) {
    UOp *load = r->loads.at[s], *value = r->stores.at[s]->src[2];
    bool asked;
    if (!load) continue;
    Op op = combined_by(r, value, load, &asked);
    UOp *inside = open_register(r, load, neutral(job, op, load), end->open);
    from[n] = load;
    to[n++] = register_load(job, inside, load->lanes);
    effects[stored++] = register_store(job, inside, value);
    if (!asked) continue;
    from[n] = value;
    to[n] = uop2(job, op, to[n - 1], value->src[2]);
    n++;
  }
  UOp *body = uop_make(job, OP_SINK, DT_VOID, arg_none(), effects, stored);
  return uop2(job, OP_END, uop_substitute(job, body, from, to, n), end->src[1]);
}

/* The loop without its loads; NULL when it has none. */
static UOp *in_registers(Job *job, const UOpList *list, UOp *end) {
  if (!uop_is_loop(end) || uop_axis(end->src[1]) != AX_SERIAL || !is_innermost(list, end))
    return NULL;
  Recurrence r = {.job = job, .list = *list, .range = end->src[1]};
  r.last = uop2(job, OP_MAX, ix_scale(job, r.range, 1, -1), uop_index(job, 0));
  size_t found = find_stores(&r, end->src[0]) ? find_loads(&r) : 0;
  if (!found) return NULL;
  for (size_t i = 0; i < list->len; i++) {
    const UOp *u = list->at[i];
    if (u->op == OP_BUFFER && u->arg.i >= r.next_buffer) r.next_buffer = u->arg.i + 1;
  }
  return rebuilt(&r, end, found);
}

UOp *recurrence_in_registers(Job *job, UOp *root) {
  for (bool more = true; more;) {
    UOpList list = uop_toposort(job, root);
    more = false;
    for (size_t i = 0; i < list.len && !more; i++) {
      UOp *end = list.at[i], *to = in_registers(job, &list, end);
      more = to != NULL;
      if (more) root = uop_substitute(job, root, &end, &to, 1);
    }
  }
  return root;
}
