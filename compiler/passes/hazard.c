/* What changes between steps of a run happens as events in one linear order: updates of states,
 * BINDs of sizes, the beginning and the end of a LOOP, whose body's events stand in between. The
 * k-th event happens at time k. The order is that of dependencies, and among those one in which
 * readers of an old version of a state come before the update that ends it, where there is such an
 * order.
 *
 * Versions of a state share one buffer, so a version is there from the STORE that makes it to the
 * next one that overlaps what is read of it. Every value is ready at the time of the last event
 * below it, and what it reads expires at the time of the first event that overwrites some of it. A
 * value whose operand expires before it is ready needs that operand stored: CONTIGUOUS, computed
 * when the operand itself is ready, which is early enough by induction. So is what a loop's body
 * needs of what is computed before the loop.
 *
 * An update's own kernel reads and writes at the same time. That is right where it reads exactly
 * the element that it writes: the same view, under elementwise ops only. Otherwise its value, or
 * what it reads of the state if that is smaller, is stored first.
 *
 * Two views overlap unless on some axis of the state their intervals or their residues differ;
 * where that is not exact the answer is yes, which costs a copy and nothing else. */
#include "compiler/passes/hazard.h"

#include <assert.h>

#include "base/vec.h"
#include "compiler/ir/loops.h"
#include "compiler/ir/view.h"
#include "compiler/passes/indexing.h"
#include "compiler/passes/ix.h"

#define NEVER   UINT32_MAX
#define NOBODY  UINT32_MAX
#define UNKNOWN (UINT32_MAX - 1)

/* Where a view's elements are, per axis of the state: in [lo, hi], all equal to `rest` modulo
 * `step`; step 0: one place. */
typedef struct Span {
  int64_t lo, hi, step, rest;
} Span;

/* Something that an item does to a state. Of one state and region they are in version order. */
typedef struct Touch {
  uint32_t item, region;
  Span *spans; /* NULL: everywhere */
} Touch;

typedef struct State {
  Touch *at;
  size_t len, cap;
} State;

typedef struct Numbers {
  uint32_t *at;
  size_t len, cap;
} Numbers;

/* A STORE into a state or an output, a BIND or a LOOP. */
typedef struct Item {
  UOp *node;
  uint32_t region, body;            /* where it stands; of a LOOP, what it repeats */
  bool is_event;                    /* all but outputs */
  uint32_t time, end;               /* end: of a LOOP */
  uint32_t seen;                    /* by which walk */
  uint32_t after_left, before_left; /* items that must, or should, come first and have not yet */
  Numbers then, then_if;            /* items that wait for this one */
} Item;

typedef struct Hazards {
  Job *job;
  const TensorGraph *graph;
  Events *events;
  UOpList list;
  uint32_t *number; /* by node id: place in the list */
  Loops loops;
  State *states; /* by slot */
  struct {
    Item *at;
    size_t len, cap;
  } items;
  Numbers *regions; /* by region: its items */
  uint32_t *item;   /* by place: of STOREs, BINDs and LOOPs */
  uint32_t *end;    /* by place: see ended_by */
  uint32_t *ready;  /* by place */
  uint32_t *expiry; /* by place: of what a kernel that computes the value reads */
  uint32_t *stamp;  /* by place: which walk saw it */
  bool *has_data;   /* by place: not only constants below */
  uint32_t walks, walker;
  UOp **now; /* by place: the rewritten node */
  struct {
    UOp **at;
    size_t len, cap;
  } stack;
} Hazards;

static uint32_t place_of(const Hazards *h, const UOp *u) { return h->number[u->id]; }

static Item *item_of(const Hazards *h, const UOp *u) {
  return &h->items.at[h->item[place_of(h, u)]];
}

static uint32_t depth_of(const Hazards *h, uint32_t region) {
  return region ? h->loops.at[region - 1].depth : 0;
}

/* -- views ------------------------------------------------------------------------------------- */

static State *state_of(const Hazards *h, UOp *view) {
  const UOp *p = view_param(view);
  if (!p || (size_t)p->arg.i >= h->graph->nslots || !h->graph->slots[p->arg.i].state) return NULL;
  return &h->states[p->arg.i];
}

/* A view of a state, or a version itself. */
static bool is_read(const Hazards *h, UOp *u) {
  return (view_op(u) || u->op == OP_PARAM || u->op == OP_AFTER) && state_of(h, u);
}

/* Where the version below a view is: its region, and behind how many touches of the state. */
static uint32_t version_of(const Hazards *h, UOp *view, size_t *from) {
  const UOp *root = view_root(view);
  const State *state = state_of(h, view);
  *from = 0;
  if (root->op != OP_AFTER) return 0;
  if (root->src[1]->op == OP_VAR) return h->loops.var_loop[root->src[1]->arg.i];
  uint32_t item = h->item[place_of(h, root->src[1])];
  while (state->at[*from].item != item) ++*from;
  return state->at[(*from)++].region;
}

static int64_t gcd(int64_t a, int64_t b) {
  while (b) {
    int64_t r = a % b;
    a = b, b = r;
  }
  return a < 0 ? -a : a;
}

static Span span_of(UOp *index) {
  IxSum sum = ix_sum_of(index);
  Span s = {.lo = index->vmin, .hi = index->vmax, .rest = sum.constant};
  for (uint32_t k = 0; k < sum.n; k++) s.step = gcd(s.step, sum.coef[k]);
  return s;
}

static Span *spans_of(const Hazards *h, UOp *view) {
  Job *job = h->job;
  UOp **index = arena_array(&job->arena, view->shape.n + 1, sizeof *index);
  for (uint32_t k = 0; k < view->shape.n; k++) {
    UOp *n = dim_uop(job, view->shape.at[k]);
    index[k] = view->shape.at[k] == 1 ? uop_index(job, 0) : uop_range(job, k, AX_LOOP, n);
  }
  for (; view_op(view); view = view->src[0]) index = index_pull(job, view, 0, index).index;
  Span *spans = arena_array(&job->arena, view->shape.n + 2, sizeof *spans);
  for (uint32_t k = 0; k < view->shape.n; k++) spans[k] = span_of(index[k]);
  spans[view->shape.n] = span_of(ix_flat(job, view->shape, index));
  return spans;
}

static bool overlap(const Span *a, const Span *b, uint32_t n) {
  for (uint32_t k = 0; k < n; k++) {
    int64_t step = gcd(a[k].step, b[k].step), apart = a[k].rest - b[k].rest;
    if (a[k].hi < b[k].lo || b[k].hi < a[k].lo) return false;
    if (step ? apart % step != 0 : apart != 0) return false;
  }
  return true;
}

static uint32_t find_end(const Hazards *h, UOp *read) {
  const State *state = state_of(h, read);
  uint32_t rank = view_root(read)->shape.n;
  size_t k;
  uint32_t region = version_of(h, read, &k);
  Span *spans = NULL;
  for (; k < state->len; k++) {
    const Touch *t = &state->at[k];
    if (t->region != region) continue;
    if (!t->spans) return t->item;
    if (!spans) spans = spans_of(h, read);
    if (overlap(spans, t->spans, rank + 1)) return t->item;
  }
  return NOBODY;
}

/* The item that first overwrites some of what is read; NOBODY. */
static uint32_t ended_by(const Hazards *h, UOp *read) {
  uint32_t *known = &h->end[place_of(h, read)];
  if (*known == UNKNOWN) *known = dims_typical(read->shape) ? find_end(h, read) : NOBODY;
  return *known;
}

/* -- items ------------------------------------------------------------------------------------- */

static void touch(Hazards *h, UOp *view, uint32_t item, uint32_t region, Span *spans) {
  State *state = state_of(h, view);
  Touch t = {.item = item, .region = region, .spans = spans};
  if (state->len && state->at[state->len - 1].item == item) return;
  avec_push(&h->job->arena, state, t);
}

static void touch_all(Hazards *h, const UOp *loop, uint32_t item) {
  for (uint32_t s = 3; s < loop->nsrc; s++) {
    UOp *effect = loop->src[s];
    if (effect->op == OP_BIND) continue;
    UOp *view = effect->op == OP_STORE ? effect->src[0] : effect;
    touch(h, view, item, h->items.at[item].region, NULL);
  }
}

static void collect(Hazards *h) {
  Job *job = h->job;
  assert(h->loops.region); /* loops_find came before */
  for (size_t i = 0; i < h->list.len; i++) {
    UOp *u = h->list.at[i];
    if (u->op != OP_STORE && u->op != OP_BIND && u->op != OP_LOOP) continue;
    uint32_t number = h->item[i] = (uint32_t)h->items.len;
    bool update = u->op == OP_STORE && state_of(h, u->src[0]);
    Item item = {.node = u, .region = h->loops.region[i], .is_event = update || u->op != OP_STORE};
    if (u->op == OP_LOOP) item.body = h->loops.var_loop[u->src[0]->arg.i];
    avec_push(&job->arena, &h->items, item);
    avec_push(&job->arena, &h->regions[item.region], number);
    if (update) touch(h, u->src[0], number, item.region, spans_of(h, u->src[0]));
    if (u->op == OP_LOOP) touch_all(h, u, number);
  }
}

static void push(Hazards *h, UOp *u) { avec_push(&h->job->arena, &h->stack, u); }

/* What an item depends on: the effects of a LOOP are items of their own. */
static void push_sources(Hazards *h, const UOp *u);

/* The item that is being walked depends on another: it waits for one of its own region, and looks
 * through one inside of the loop that it is. */
static void depend(Hazards *h, const UOp *on) {
  Item *self = &h->items.at[h->walker], *other = item_of(h, on);
  if (self == other || other->seen == h->walks) return;
  other->seen = h->walks;
  if (other->region == self->region) {
    avec_push(&h->job->arena, &other->then, h->walker);
    self->after_left++;
  } else if (depth_of(h, other->region) > depth_of(h, self->region)) {
    push_sources(h, on);
  }
}

static void depend_on_var(void *ctx, const UOp *var) {
  Hazards *h = ctx;
  uint32_t bind = h->loops.var_bind[var->arg.i];
  if (bind) depend(h, h->list.at[bind - 1]);
}

static void push_sources(Hazards *h, const UOp *u) {
  if (u->op == OP_STORE) {
    push(h, u->src[0]);
    push(h, u->src[1]);
  } else if (u->op == OP_BIND) {
    push(h, u->src[1]);
  } else {
    push(h, u->src[1]);
    push(h, u->src[2]);
    for (uint32_t s = 3; s < u->nsrc; s++) {
      if (u->src[s]->op == OP_AFTER) push(h, u->src[s]);
      if (u->src[s]->op != OP_AFTER) depend(h, u->src[s]);
    }
  }
}

/* The item reads what another of its region ends: better before that. */
static void walk_read(Hazards *h, UOp *read) {
  size_t from;
  uint32_t region = version_of(h, read, &from), end = ended_by(h, read);
  const UOp *root = view_root(read);
  for (const UOp *u = read; view_op(u); u = u->src[0]) loops_vars(u, depend_on_var, h);
  if (root->op == OP_AFTER && root->src[1]->op != OP_VAR) depend(h, root->src[1]);
  bool own = region == h->items.at[h->walker].region;
  if (!own || end == NOBODY || end == h->walker) return;
  avec_push(&h->job->arena, &h->items.at[h->walker].then_if, end);
  h->items.at[end].before_left++;
}

static void walk_item(Hazards *h, uint32_t i) {
  h->walks++;
  h->walker = i;
  h->stack.len = 0;
  push_sources(h, h->items.at[i].node);
  while (h->stack.len) {
    UOp *u = h->stack.at[--h->stack.len];
    uint32_t at = place_of(h, u);
    if (h->stamp[at] == h->walks) continue;
    h->stamp[at] = h->walks;
    if (is_read(h, u)) {
      walk_read(h, u);
      continue;
    }
    loops_vars(u, depend_on_var, h);
    for (uint32_t s = 0; s < u->nsrc; s++) push(h, u->src[s]);
  }
}

/* -- order ------------------------------------------------------------------------------------- */

/* Of the items that can be next the first that ends nothing that is still to be read; if there is
 * none, one that ends the least. */
static uint32_t choose(const Hazards *h, const Numbers *items, size_t from) {
  uint32_t best = NOBODY;
  assert(h->items.at); /* there are items in the list */
  for (size_t k = from; k < items->len; k++) {
    const Item *item = &h->items.at[items->at[k]];
    if (item->after_left) continue;
    if (!item->before_left) return items->at[k];
    if (best == NOBODY || item->before_left < h->items.at[best].before_left) best = items->at[k];
  }
  return best;
}

static uint32_t happens(Hazards *h, EventKind kind, UOp *node) {
  Event e = {.kind = kind, .node = node};
  h->events->at[h->events->n++] = e;
  return h->events->n;
}

static void order_region(Hazards *h, uint32_t region) {
  const Numbers *items = &h->regions[region];
  size_t from = 0;
  for (size_t n = 0; n < items->len; n++) {
    uint32_t i = choose(h, items, from);
    assert(i != NOBODY); /* the graph has no cycle */
    Item *item = &h->items.at[i];
    for (size_t k = 0; k < item->then.len; k++) h->items.at[item->then.at[k]].after_left--;
    for (size_t k = 0; k < item->then_if.len; k++) h->items.at[item->then_if.at[k]].before_left--;
    item->after_left = NEVER; /* done */
    while (from < items->len && h->items.at[items->at[from]].after_left == NEVER) from++;
    bool loop = item->node->op == OP_LOOP;
    EventKind kind = loop ? EVENT_LOOP : item->node->op == OP_BIND ? EVENT_BIND : EVENT_UPDATE;
    if (item->is_event) item->time = item->end = happens(h, kind, item->node);
    if (loop) {
      order_region(h, item->body); /* as deep as loops are nested */
      item->end = happens(h, EVENT_END, item->node);
    }
    job_poll(h->job);
  }
}

/* -- copies ------------------------------------------------------------------------------------ */

static uint32_t expiry_of(const Hazards *h, UOp *u) {
  if (!is_read(h, u)) return h->expiry[place_of(h, u)];
  uint32_t end = ended_by(h, u);
  return end == NOBODY ? NEVER : h->items.at[end].time;
}

/* u stored: where a view below it is smaller, that. */
static UOp *stored(Job *job, UOp *u) {
  enum { LOOKED_AT = 64 };
  UOp *chain[LOOKED_AT], *least = u, *x = u;
  uint32_t n = 0;
  for (uint32_t k = 0; k < LOOKED_AT && view_op(x); k++) {
    chain[k] = x;
    x = x->src[0];
    if (dims_typical(x->shape) < dims_typical(least->shape)) least = x, n = k + 1;
  }
  UOp *y = uop1(job, OP_CONTIGUOUS, least);
  while (n--) y = uop_with_src(job, chain[n], &y);
  return y;
}

/* What u reads of `from` is overwritten before u can be computed. */
static bool is_kept(const Hazards *h, UOp *from, const UOp *u) {
  return expiry_of(h, from) <= h->ready[place_of(h, u)];
}

typedef struct Unaligned {
  UOp **at;
  size_t len, cap;
} Unaligned;

/* What the kernel of an update reads elsewhere than it writes, and the update overwrites. */
static Unaligned unaligned(Hazards *h, const Item *item) {
  Job *job = h->job;
  Unaligned out = {0};
  h->walks++;
  h->stack.len = 0;
  avec_push(&job->arena, &h->stack, item->node->src[1]);
  while (h->stack.len) {
    UOp *u = h->stack.at[--h->stack.len];
    uint32_t at = place_of(h, u);
    if (h->stamp[at] == h->walks || expiry_of(h, u) > item->time) continue;
    h->stamp[at] = h->walks;
    bool same_shape = shape_eq(u->shape, item->node->src[1]->shape);
    if (is_read(h, u) && view_same(u, item->node->src[0])) continue;
    if (op_info[u->op].flags & OPF_ALU && same_shape) {
      for (uint32_t s = 0; s < u->nsrc; s++)
        if (!is_kept(h, u->src[s], u)) avec_push(&job->arena, &h->stack, u->src[s]);
    } else {
      avec_push(&job->arena, &out, u);
    }
  }
  return out;
}

static int64_t stored_numel(const UOp *u) {
  int64_t n = dims_typical(u->shape);
  for (; view_op(u); u = u->src[0])
    if (dims_typical(u->src[0]->shape) < n) n = dims_typical(u->src[0]->shape);
  return n;
}

static UOp *updated_value(Hazards *h, const Item *item) {
  Job *job = h->job;
  UOp *value = item->node->src[1], *now = h->now[place_of(h, value)];
  uint32_t expiry = expiry_of(h, value);
  if (expiry > item->time) return now;
  if (expiry < item->time) return stored(job, now);
  Unaligned u = unaligned(h, item);
  int64_t total = 0;
  for (size_t k = 0; k < u.len; k++) total += stored_numel(u.at[k]);
  if (!u.len) return now;
  if (total >= stored_numel(value)) return stored(job, now);
  UOp **from = arena_array(&job->arena, u.len, sizeof *from);
  UOp **to = arena_array(&job->arena, u.len, sizeof *to);
  for (size_t k = 0; k < u.len; k++) {
    from[k] = h->now[place_of(h, u.at[k])];
    to[k] = stored(job, from[k]);
  }
  return uop_substitute(job, now, from, to, u.len);
}

/* When what the node mentions itself is known. */
typedef struct Mentions {
  const Hazards *h;
  uint32_t ready;
} Mentions;

static void mention(void *ctx, const UOp *var) {
  Mentions *m = ctx;
  uint32_t ready = m->h->events->var_ready[var->arg.i];
  if (ready > m->ready) m->ready = ready;
}

static uint32_t ready_of(const Hazards *h, UOp *u) {
  Mentions m = {.h = h};
  for (uint32_t s = 0; s < u->nsrc; s++) {
    uint32_t r = h->ready[place_of(h, u->src[s])];
    if (r > m.ready) m.ready = r;
  }
  if (u->op == OP_VAR) mention(&m, u);
  loops_vars(u, mention, &m);
  bool event = u->op == OP_STORE || u->op == OP_BIND || u->op == OP_LOOP;
  return event && item_of(h, u)->is_event ? item_of(h, u)->end : m.ready;
}

/* A value from outside of the loop that would be computed again in every iteration. */
static bool is_invariant(const Hazards *h, UOp *from, uint32_t reader) {
  uint32_t at = place_of(h, from);
  bool outside = depth_of(h, h->loops.region[at]) < depth_of(h, h->loops.region[reader]);
  bool kept = from->op == OP_CONST || from->op == OP_PARAM || from->op == OP_CONTIGUOUS ||
              from->op == OP_VAR || from->dtype == DT_VOID || from->dtype == DT_INDEX;
  UOp *root = view_root(from);
  return outside && !kept && root->op != OP_PARAM && root->op != OP_AFTER && h->has_data[at];
}

/* What BIND and LOOP look at has to be in a buffer of its own. */
static bool is_looked_at(const Hazards *h, const UOp *u, uint32_t s) {
  return (u->op == OP_BIND || u->op == OP_LOOP) && s == 1 && is_read(h, u->src[s]);
}

static void resolve(Hazards *h, uint32_t i) {
  UOp *u = h->list.at[i], **src = arena_array(&h->job->arena, u->nsrc + 1, sizeof *src);
  uint32_t ready = ready_of(h, u), expiry = NEVER;
  const Item *item = u->op == OP_STORE ? item_of(h, u) : NULL;
  bool computes = !is_read(h, u) && u->dtype != DT_VOID, same = true;
  bool data = u->op == OP_PARAM || u->op == OP_AFTER || u->op == OP_VAR;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    UOp *from = u->src[s];
    data |= h->has_data[place_of(h, from)];
    src[s] = h->now[place_of(h, from)];
    uint32_t e = computes ? expiry_of(h, from) : NEVER;
    bool update = item && item->is_event && s == 1;
    if (update) src[s] = updated_value(h, item);
    bool again = (computes || u->op == OP_STORE) && is_invariant(h, from, i);
    if (e <= ready || again || is_looked_at(h, u, s)) {
      if (src[s]->op != OP_CONTIGUOUS) src[s] = stored(h->job, src[s]);
    } else if (e < expiry && u->op != OP_CONTIGUOUS) {
      expiry = e;
    }
    same &= src[s] == from;
  }
  h->has_data[i] = data;
  h->ready[i] = ready;
  h->expiry[i] = expiry;
  h->now[i] = same ? u : uop_with_src(h->job, u, src);
}

/* -- driver ------------------------------------------------------------------------------------ */

static bool has_events(const TensorGraph *graph, const UOp *sink) {
  for (uint32_t s = 0; s < sink->nsrc; s++) {
    if (sink->src[s]->op == OP_BIND) return true;
    UOp *p = view_param(sink->src[s]->src[0]);
    if (graph->slots[p->arg.i].state) return true;
  }
  return graph->nlocals > 0;
}

static void allocate(Hazards *h, size_t n) {
  Arena *arena = &h->job->arena;
  h->states = arena_array(arena, h->graph->nslots, sizeof *h->states);
  h->item = arena_array(arena, n, sizeof *h->item);
  h->end = arena_array(arena, n, sizeof *h->end);
  h->ready = arena_array(arena, n, sizeof *h->ready);
  h->expiry = arena_array(arena, n, sizeof *h->expiry);
  h->stamp = arena_array(arena, n, sizeof *h->stamp);
  h->has_data = arena_array(arena, n, sizeof *h->has_data);
  h->now = arena_array(arena, n, sizeof(UOp *));
  for (size_t i = 0; i < n; i++) h->end[i] = UNKNOWN;
}

static void find_events(Hazards *h) {
  Arena *arena = &h->job->arena;
  h->regions = arena_array(arena, h->loops.n + 1, sizeof *h->regions);
  collect(h);
  h->events->at = arena_array(arena, 2 * h->items.len + 1, sizeof *h->events->at);
  for (uint32_t i = 0; i < h->items.len; i++) {
    walk_item(h, i);
    job_poll(h->job);
  }
  order_region(h, 0);
  for (size_t i = 0; i < h->items.len; i++) {
    const Item *item = &h->items.at[i];
    bool gives = item->node->op == OP_BIND || item->node->op == OP_LOOP;
    if (gives) h->events->var_ready[item->node->src[0]->arg.i] = item->time;
  }
}

UOp *hazard_resolve(Job *job, const TensorGraph *graph, UOp *sink, Events *out) {
  *out = (Events){0};
  out->var_ready = arena_array(&job->arena, graph->nvars + 1, sizeof *out->var_ready);
  if (!has_events(graph, sink)) return sink;
  Hazards h = {.job = job, .graph = graph, .events = out};
  h.list = loops_order(job, sink, graph->nvars);
  size_t n = h.list.len;
  h.number = arena_array(&job->arena, job->next_id, sizeof *h.number);
  for (uint32_t i = 0; i < n; i++) h.number[h.list.at[i]->id] = i;
  loops_find(job, &h.list, h.number, graph->nvars, &h.loops);
  allocate(&h, n);
  find_events(&h);
  for (uint32_t i = 0; i < n; i++) {
    resolve(&h, i);
    if (i % 256 == 0) job_poll(job);
  }
  for (uint32_t k = 0; k < out->n; k++) out->at[k].node = h.now[place_of(&h, out->at[k].node)];
  return h.now[n - 1];
}
