/* The rewrite driver.
 *
 * An explicit stack of frames, one per node in work. A frame first sees its sources done, then
 * rebuilds its node over their results, then asks the rules; when they answer, the answer gets a
 * frame of its own and the first one waits for it. The memo maps a node to its result: NULL for
 * "never seen", itself for a normal form, BUSY while its frame is open. Asking for a BUSY node
 * means that the rules lead back to where they came from: a bug of the rules, reported with the
 * rule.
 *
 * Every node is visited once, so the time is the size of the graph plus the number of hits. Memo
 * and stack live in the job's arena, because job_abort may leave at any point. */
#include "compiler/rules/rewrite.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/vec.h"

/* -- the memo: by id, in pages made when first written ----------------------------------------- */

enum { PAGE = 128 }; /* ids of one graph lie close together */
typedef struct Memo {
  UOp ***pages;
  size_t npages;
} Memo;

static UOp busy;
#define BUSY (&busy)

static UOp *memo_get(const Memo *m, const UOp *key) {
  size_t p = key->id / PAGE;
  return p < m->npages && m->pages[p] ? m->pages[p][key->id % PAGE] : NULL;
}

static void memo_put(Job *job, Memo *m, const UOp *key, UOp *value) {
  size_t p = key->id / PAGE;
  if (p >= m->npages) {
    size_t n = p + p / 2 + 8;
    UOp ***next = arena_array(&job->arena, n, sizeof *next);
    if (m->npages) memcpy(next, m->pages, m->npages * sizeof *next);
    m->pages = next;
    m->npages = n;
  }
  if (!m->pages[p]) m->pages[p] = arena_array(&job->arena, PAGE, sizeof *m->pages[p]);
  m->pages[p][key->id % PAGE] = value;
}

/* -- the driver -------------------------------------------------------------------------------- */

typedef struct Frame {
  UOp *node;
  UOp *wait; /* whose result is this frame's; NULL while sources are visited */
  uint32_t next;
} Frame;
typedef struct Driver {
  Rewrite *rw;
  Memo memo;
  Frame *at;
  size_t len, cap;
} Driver;

_Noreturn static void endless(const Rewrite *rw, const UOp *u) {
  const RuleInfo *r = rw->last;
  job_abort(rw->job, FAIL(INTERNAL, "rewriting does not end at %s, after rule %s:%d",
                          op_info[u->op].name, r ? r->file : "?", r ? r->line : 0));
}

static void push(Driver *d, UOp *u) {
  memo_put(d->rw->job, &d->memo, u, BUSY);
  avec_push(&d->rw->job->arena, d, ((Frame){.node = u}));
}

/* The result of u, or NULL after opening a frame for it. */
static UOp *result_of(Driver *d, UOp *u) {
  UOp *r = memo_get(&d->memo, u);
  if (r == BUSY) endless(d->rw, u);
  if (!r) push(d, u);
  return r;
}

/* u over the results of its sources. A RANGE that became a value is no longer a loop. */
static UOp *rebuild(Driver *d, UOp *u) {
  UOp *few[8], **src = few;
  Job *job = d->rw->job;
  bool same = true;
  if (u->nsrc > 8) src = arena_array(&job->arena, u->nsrc, sizeof *src);
  uint32_t n = 0;
  for (uint32_t k = 0; k < u->nsrc; k++) {
    UOp *s = memo_get(&d->memo, u->src[k]);
    same = same && s == u->src[k];
    if (k && s->op != OP_RANGE && (u->op == OP_REDUCE || u->op == OP_END)) continue;
    src[n++] = s;
  }
  if (same) return u;
  if (n == 1 && u->nsrc > 1 && (u->op == OP_REDUCE || u->op == OP_END)) return src[0];
  return uop_make_lanes(job, (Op)u->op, (DType)u->dtype, u->lanes, u->arg, src, n);
}

static bool sources_done(Driver *d) {
  Frame *f = &d->at[d->len - 1];
  while (f->next < f->node->nsrc) {
    if (!result_of(d, f->node->src[f->next])) return false;
    f->next++;
  }
  return true;
}

static void step(Driver *d, RuleSet rules) {
  Frame *f = &d->at[d->len - 1];
  if (!f->wait) {
    if (!sources_done(d)) return;
    UOp *to = rebuild(d, f->node);
    if (to == f->node) {
      to = rules(d->rw, f->node);
      if (to) d->rw->job->steps++;
    }
    if (!to) {
      memo_put(d->rw->job, &d->memo, f->node, f->node);
      d->len--;
      return;
    }
    f->wait = to;
  }
  UOp *node = f->node, *r = result_of(d, f->wait);
  if (!r) return;
  memo_put(d->rw->job, &d->memo, node, r);
  d->len--;
}

UOp *rewrite_graph(Rewrite *rw, UOp *root, RuleSet rules) {
  enum { POLL_EVERY = 1024 };
  Driver d = {.rw = rw};
  push(&d, root);
  for (unsigned polls = 1; d.len; polls++) {
    if (polls % POLL_EVERY == 0) job_poll(rw->job);
    step(&d, rules);
  }
  return memo_get(&d.memo, root);
}

/* -- what rules are made of -------------------------------------------------------------------- */

static UOp *with_lanes(Rewrite *rw, const UOp *like, UOp *c) {
  if (like->lanes == 1) return c;
  return uop_make_lanes(rw->job, OP_CONST, (DType)c->dtype, like->lanes, c->arg, NULL, 0);
}

UOp *rewrite_number(Rewrite *rw, const UOp *like, double v) {
  return with_lanes(rw, like, uop_number(rw->job, (DType)like->dtype, v));
}

UOp *rewrite_int(Rewrite *rw, const UOp *like, int64_t v) {
  return with_lanes(rw, like, uop_int(rw->job, (DType)like->dtype, v));
}

UOp *rewrite_bool(Rewrite *rw, const UOp *like, bool v) {
  return with_lanes(rw, like, uop_int(rw->job, DT_BOOL, v));
}

UOp *rewrite_like(Rewrite *rw, UOp *r, bool tail, UOp *const *src, size_t n) {
  size_t all = tail && r->nsrc > n ? r->nsrc : n;
  UOp **list = arena_array(&rw->job->arena, all, sizeof *list);
  for (size_t k = 0; k < all; k++) list[k] = k < n ? src[k] : r->src[k];
  return uop_make(rw->job, (Op)r->op, (DType)r->dtype, r->arg, list, all);
}

UOp *rewrite_broadcast(Rewrite *rw, UOp *x, Ints shape) {
  assert(!x->shape.n);
  if (!shape.n) return x;
  int64_t *ones = arena_array(&rw->job->arena, shape.n, sizeof *ones);
  for (uint32_t k = 0; k < shape.n; k++) ones[k] = 1;
  UOp *r = uop_make(rw->job, OP_RESHAPE, DT_VOID, arg_ints(ones, shape.n), &x, 1);
  bool same = true;
  for (uint32_t k = 0; k < shape.n; k++) same = same && shape.at[k] == 1;
  return same ? r : uop_make(rw->job, OP_EXPAND, DT_VOID, (Arg){.ints = shape}, &r, 1);
}

UOp *rewrite_fit(Rewrite *rw, UOp *n, UOp *to) {
  if (n->lanes > 1 && to->lanes == 1 && to->dtype != DT_VOID) {
    if (to->op == OP_CONST) return with_lanes(rw, n, to);
    to = uop_make_lanes(rw->job, OP_BROADCAST, DT_VOID, n->lanes, arg_none(), &to, 1);
  }
  return n->shape.n && !to->shape.n ? rewrite_broadcast(rw, to, n->shape) : to;
}

UOp *rewrite_done(Rewrite *rw, const RuleInfo *rule, UOp *n, UOp *to) {
  to = rewrite_fit(rw, n, to);
  assert(to != n && "a rule changes its node");
  assert(to->dtype == n->dtype && (to->dtype == DT_VOID || to->lanes == n->lanes) &&
         "a rule keeps dtype and lanes");
  ++*rule->hits;
  rw->last = rule;
  if (rw->trace) {
    RewriteStep s = {.rule = rule, .from = n, .to = to, .ns = clock_now_ns()};
    avec_push(&rw->job->arena, rw->trace, s);
  }
  return to;
}
