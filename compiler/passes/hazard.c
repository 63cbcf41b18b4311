/* Versions of states share one buffer, so a version is there from the STORE that makes it to the
 * next one that overlaps what is read of it.
 *
 * The updates get a linear order: that of their dependencies, and among those one in which readers
 * of an old version come before the update that ends it, where there is such an order. The k-th
 * update happens at time k. Every value is ready at the time of the last update below it, and what
 * it reads expires at the time of the first update that overwrites some of it. A value whose
 * operand expires before it is ready needs that operand stored: CONTIGUOUS, computed when the
 * operand itself is ready, which is early enough by induction.
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

/* The items that update a state, in version order. */
typedef struct State {
  uint32_t *at;
  size_t len, cap;
} State;

/* A STORE under the SINK or under an AFTER. */
typedef struct Item {
  UOp *store;
  State *state;     /* NULL: an output */
  uint32_t version; /* of the state below its view */
  Span *spans;
  uint32_t time;
  uint32_t after_left, before_left; /* items that must, or should, come first and have not yet */
  struct {
    uint32_t *at;
    size_t len, cap;
  } then, then_if; /* items that wait for this one */
} Item;

typedef struct Hazards {
  Job *job;
  const TensorGraph *graph;
  UOpList list;
  uint32_t *number; /* by node id: place in the list */
  State *states;    /* by slot */
  struct {
    Item *at;
    size_t len, cap;
  } items;
  uint32_t *item;   /* by place: of STOREs */
  uint32_t *end;    /* by place: see ended_by */
  uint32_t *ready;  /* by place */
  uint32_t *expiry; /* by place: of what a kernel that computes the value reads */
  uint32_t *stamp;  /* by place: which walk saw it */
  uint32_t walks;
  UOp **now; /* by place: the rewritten node */
  struct {
    UOp **at;
    size_t len, cap;
  } stack;
} Hazards;

static uint32_t place_of(const Hazards *h, const UOp *u) { return h->number[u->id]; }

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

static uint32_t version_of(const Hazards *h, UOp *view) {
  const UOp *root = view_root(view);
  return root->op == OP_AFTER ? h->items.at[h->item[place_of(h, root->src[1])]].version + 1 : 0;
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
    UOp *n = uop_index(job, view->shape.at[k]);
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
  uint32_t first = version_of(h, read), rank = view_root(read)->shape.n;
  if (first >= state->len || !shape_numel(read->shape)) return NOBODY;
  Span *spans = spans_of(h, read);
  for (uint32_t k = first; k < state->len; k++) {
    if (overlap(spans, h->items.at[state->at[k]].spans, rank + 1)) return state->at[k];
  }
  return NOBODY;
}

/* The item that first overwrites some of what is read; NOBODY. */
static uint32_t ended_by(const Hazards *h, UOp *read) {
  uint32_t *known = &h->end[place_of(h, read)];
  if (*known == UNKNOWN) *known = find_end(h, read);
  return *known;
}

/* -- items ------------------------------------------------------------------------------------- */

static void collect(Hazards *h) {
  Job *job = h->job;
  for (size_t i = 0; i < h->list.len; i++) {
    UOp *u = h->list.at[i];
    if (u->op != OP_STORE) continue;
    Item item = {.store = u, .state = state_of(h, u->src[0])};
    h->item[i] = (uint32_t)h->items.len;
    if (item.state) {
      item.version = (uint32_t)item.state->len;
      item.spans = spans_of(h, u->src[0]);
      avec_push(&job->arena, item.state, h->item[i]);
    }
    avec_push(&job->arena, &h->items, item);
  }
}

/* Calls for what item `i` reads without another update in between. */
static void reads_of(Hazards *h, uint32_t i, void (*fn)(Hazards *, uint32_t, UOp *)) {
  Job *job = h->job;
  h->walks++;
  h->stack.len = 0;
  avec_push(&job->arena, &h->stack, h->items.at[i].store->src[1]);
  while (h->stack.len) {
    UOp *u = h->stack.at[--h->stack.len];
    uint32_t at = place_of(h, u);
    if (h->stamp[at] == h->walks) continue;
    h->stamp[at] = h->walks;
    if (is_read(h, u)) {
      fn(h, i, u);
      continue;
    }
    for (uint32_t s = 0; s < u->nsrc; s++) avec_push(&job->arena, &h->stack, u->src[s]);
  }
}

static void wait_for(Hazards *h, uint32_t i, uint32_t first) {
  avec_push(&h->job->arena, &h->items.at[first].then, i);
  h->items.at[i].after_left++;
}

static void note_version(Hazards *h, uint32_t i, UOp *read) {
  const UOp *root = view_root(read);
  if (root->op == OP_AFTER) wait_for(h, i, h->item[place_of(h, root->src[1])]);
}

/* Item i reads what another ends: better before it. */
static void note_reader(Hazards *h, uint32_t i, UOp *read) {
  uint32_t end = ended_by(h, read);
  if (end == NOBODY || end == i) return;
  avec_push(&h->job->arena, &h->items.at[i].then_if, end);
  h->items.at[end].before_left++;
}

static void emit(Hazards *h, uint32_t i) {
  Item *item = &h->items.at[i];
  for (size_t k = 0; k < item->then.len; k++) h->items.at[item->then.at[k]].after_left--;
  for (size_t k = 0; k < item->then_if.len; k++) h->items.at[item->then_if.at[k]].before_left--;
  item->after_left = NEVER; /* done */
}

/* Of the items that can be next the first that ends nothing that is still to be read; if there is
 * none, one that ends the least. */
static uint32_t choose(const Hazards *h, size_t from) {
  uint32_t best = NOBODY;
  for (size_t i = from; i < h->items.len; i++) {
    const Item *item = &h->items.at[i];
    if (item->after_left) continue;
    if (!item->before_left) return (uint32_t)i;
    if (best == NOBODY || item->before_left < h->items.at[best].before_left) best = (uint32_t)i;
  }
  return best;
}

static void order_items(Hazards *h, Updates *out) {
  size_t from = 0;
  out->at = arena_array(&h->job->arena, h->items.len + 1, sizeof *out->at);
  for (uint32_t i = 0; i < h->items.len; i++) {
    reads_of(h, i, note_version);
    reads_of(h, i, note_reader);
    const Item *item = &h->items.at[i];
    if (item->version) wait_for(h, i, item->state->at[item->version - 1]);
    job_poll(h->job);
  }
  for (size_t n = 0; n < h->items.len; n++) {
    uint32_t i = choose(h, from);
    assert(i != NOBODY); /* the graph has no cycle */
    emit(h, i);
    if (h->items.at[i].state) h->items.at[i].time = ++out->n;
    while (from < h->items.len && h->items.at[from].after_left == NEVER) from++;
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
    if (shape_numel(x->shape) < shape_numel(least->shape)) least = x, n = k + 1;
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
  avec_push(&job->arena, &h->stack, item->store->src[1]);
  while (h->stack.len) {
    UOp *u = h->stack.at[--h->stack.len];
    uint32_t at = place_of(h, u);
    if (h->stamp[at] == h->walks || expiry_of(h, u) > item->time) continue;
    h->stamp[at] = h->walks;
    bool same_shape = shape_eq(u->shape, item->store->src[1]->shape);
    if (is_read(h, u) && view_same(u, item->store->src[0])) continue;
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
  int64_t n = shape_numel(u->shape);
  for (; view_op(u); u = u->src[0])
    if (shape_numel(u->src[0]->shape) < n) n = shape_numel(u->src[0]->shape);
  return n;
}

static UOp *updated_value(Hazards *h, const Item *item) {
  Job *job = h->job;
  UOp *value = item->store->src[1], *now = h->now[place_of(h, value)];
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

static void resolve(Hazards *h, uint32_t i) {
  UOp *u = h->list.at[i], **src = arena_array(&h->job->arena, u->nsrc + 1, sizeof *src);
  uint32_t ready = 0, expiry = NEVER;
  const Item *item = u->op == OP_STORE ? &h->items.at[h->item[i]] : NULL;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    uint32_t r = h->ready[place_of(h, u->src[s])];
    if (r > ready) ready = r;
  }
  if (item && item->state) ready = item->time;
  bool computes = !is_read(h, u) && u->op != OP_STORE && u->op != OP_SINK;
  bool same = true;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    UOp *from = u->src[s];
    src[s] = h->now[place_of(h, from)];
    uint32_t e = computes ? expiry_of(h, from) : NEVER;
    if (e <= ready) {
      src[s] = stored(h->job, src[s]);
    } else if (e < expiry && u->op != OP_CONTIGUOUS) {
      expiry = e;
    }
    if (item && item->state && s == 1) src[s] = updated_value(h, item);
    same &= src[s] == from;
  }
  h->ready[i] = ready;
  h->expiry[i] = expiry;
  h->now[i] = same ? u : uop_with_src(h->job, u, src);
}

static bool has_updates(const TensorGraph *graph, const UOp *sink) {
  for (uint32_t s = 0; s < sink->nsrc; s++) {
    UOp *p = view_param(sink->src[s]->src[0]);
    if (p && graph->slots[p->arg.i].state) return true;
  }
  return false;
}

UOp *hazard_resolve(Job *job, const TensorGraph *graph, UOp *sink, Updates *out) {
  *out = (Updates){0};
  if (!has_updates(graph, sink)) return sink;
  Hazards h = {.job = job, .graph = graph};
  h.list = uop_toposort(job, sink);
  size_t n = h.list.len;
  h.number = arena_array(&job->arena, job->next_id, sizeof *h.number);
  h.states = arena_array(&job->arena, graph->nslots, sizeof *h.states);
  h.item = arena_array(&job->arena, n, sizeof *h.item);
  h.end = arena_array(&job->arena, n, sizeof *h.end);
  h.ready = arena_array(&job->arena, n, sizeof *h.ready);
  h.expiry = arena_array(&job->arena, n, sizeof *h.expiry);
  h.stamp = arena_array(&job->arena, n, sizeof *h.stamp);
  h.now = arena_array(&job->arena, n, sizeof(UOp *));
  for (uint32_t i = 0; i < n; i++) h.number[h.list.at[i]->id] = i, h.end[i] = UNKNOWN;
  collect(&h);
  order_items(&h, out);
  for (uint32_t i = 0; i < n; i++) {
    resolve(&h, i);
    if (i % 256 == 0) job_poll(job);
  }
  for (size_t k = 0; k < h.items.len; k++) {
    const Item *item = &h.items.at[k];
    if (item->state) out->at[item->time - 1] = h.now[place_of(&h, item->store)];
  }
  return h.now[n - 1];
}
