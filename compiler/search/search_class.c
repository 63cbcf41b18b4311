/* A kernel without its sizes.
 *
 * Constants, ends of loops and numbers of elements are left out: every constant of a dtype looks
 * the same, because sizes are also in strides, in gates and in the 1/n of a mean. What is equal
 * then is one node here, whether or not it was one node in the kernel: two axes of one size share
 * constants, and of different sizes they do not, which must not show. Sources that commute are
 * put in the order of a hash over what is below them, and sums of index arithmetic are flattened
 * before that, because rules order them by the order in which nodes were made.
 *
 * The bytes list the nodes in the order of their height, then of their hash, the root last: op,
 * dtype, argument, sources by their place. */
#include <math.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/vec.h"
#include "compiler/ir/dim.h"
#include "compiler/passes/nodemap.h"
#include "compiler/search/opts.h"
#include "compiler/search/search.h"

enum { MAX_TERMS = 32 };

typedef struct Classifier {
  Job *job;
  UOpList list;
  NodeMap pos;
  uint64_t *hash;   /* by position */
  uint32_t *level;  /* by position: steps to the farthest leaf */
  uint32_t *number; /* by position: place in the bytes */
  bool *reached;    /* by position: not only inside of a flattened sum */
  UOp **src;        /* room for the sources of one node */
} Classifier;

/* The argument as far as it is no size. */
static uint64_t kept_arg(const UOp *u) {
  switch (u->op) {
  case OP_CONST: return 0;
  case OP_RANGE:
    return ((uint64_t)u->arg.i << 16) | (uint64_t)uop_axis(u) << 1 | !uop_is_const(u->src[0]);
  default: return (uint64_t)u->arg.i;
  }
}

/* Ends of loops are sizes. */
static uint32_t kept_sources(const UOp *u) { return u->op == OP_RANGE ? 0 : u->nsrc; }

static bool is_sum(const UOp *u) { return u->op == OP_ADD && u->dtype == DT_INDEX; }

/* The sources, sums of sums flattened as far as there is room. */
static uint32_t sources_of(const UOp *u, UOp **out) {
  uint32_t n = 0, top = 0;
  if (!is_sum(u)) {
    for (uint32_t s = 0; s < kept_sources(u); s++) out[n++] = u->src[s];
    return n;
  }
  UOp *stack[MAX_TERMS];
  stack[top++] = u->src[1], stack[top++] = u->src[0];
  while (top) {
    UOp *t = stack[--top];
    if (is_sum(t) && top + 2 <= MAX_TERMS - n - 1)
      stack[top++] = t->src[1], stack[top++] = t->src[0];
    else
      out[n++] = t;
  }
  return n;
}

static uint64_t hash_at(const Classifier *c, const UOp *u) {
  return c->hash[nodemap_get(&c->pos, u)];
}

/* In the order of their hashes when they commute. */
static uint32_t ordered_sources(const Classifier *c, const UOp *u, UOp **out) {
  uint32_t n = sources_of(u, out);
  if (!(op_info[u->op].flags & OPF_COMM)) return n;
  for (uint32_t i = 1; i < n; i++)
    for (uint32_t k = i; k > 0 && hash_at(c, out[k]) < hash_at(c, out[k - 1]); k--) {
      UOp *t = out[k];
      out[k] = out[k - 1], out[k - 1] = t;
    }
  return n;
}

static void hash_node(Classifier *c, size_t i) {
  const UOp *u = c->list.at[i];
  UOp **src = c->src;
  uint32_t n = ordered_sources(c, u, src);
  uint64_t h = hash_u64(kept_arg(u) + ((uint64_t)u->op << 40) + ((uint64_t)u->dtype << 48));
  for (uint32_t s = 0; s < n; s++) h = hash_u64(h * 31 + hash_at(c, src[s]));
  c->hash[i] = h;
  for (uint32_t s = 0; s < n; s++) {
    uint32_t below = c->level[nodemap_get(&c->pos, src[s])];
    if (below >= c->level[i]) c->level[i] = below + 1;
  }
}

typedef struct Out {
  uint8_t *at;
  size_t len, cap;
} Out;

static void put_u32(Classifier *c, Out *b, uint32_t v) {
  avec_reserve(&c->job->arena, b, b->len + 4);
  for (int i = 0; i < 4; i++) b->at[b->len++] = (uint8_t)(v >> (8 * i));
}

static void write_node(Classifier *c, size_t i, Out *out) {
  const UOp *u = c->list.at[i];
  uint32_t n = ordered_sources(c, u, c->src);
  uint64_t arg = kept_arg(u);
  put_u32(c, out, (uint32_t)u->op | (uint32_t)u->dtype << 8);
  put_u32(c, out, (uint32_t)arg), put_u32(c, out, (uint32_t)(arg >> 32)), put_u32(c, out, n);
  for (uint32_t s = 0; s < n; s++) put_u32(c, out, c->number[nodemap_get(&c->pos, c->src[s])]);
}

typedef struct Placed {
  uint64_t hash;
  uint32_t level, at;
} Placed;

static int by_place(const void *x, const void *y) {
  const Placed *a = x, *b = y;
  if (a->level != b->level) return a->level < b->level ? -1 : 1;
  return a->hash < b->hash ? -1 : a->hash > b->hash;
}

static void write_nodes(Classifier *c, Out *out) {
  size_t len = c->list.len, n = 0;
  Placed *placed = arena_array(&c->job->arena, len, sizeof *placed);
  c->reached[len - 1] = true;
  for (size_t i = len; i-- > 0;) {
    if (!c->reached[i]) continue;
    uint32_t nsrc = sources_of(c->list.at[i], c->src);
    for (uint32_t s = 0; s < nsrc; s++) c->reached[nodemap_get(&c->pos, c->src[s])] = true;
    placed[n++] = (Placed){c->hash[i], c->level[i], (uint32_t)i};
  }
  qsort(placed, n, sizeof *placed, by_place);
  uint32_t number = 0;
  for (size_t k = 0; k < n; k++) {
    bool again = k && !by_place(&placed[k], &placed[k - 1]);
    if (!again) write_node(c, placed[k].at, out), number++;
    c->number[placed[k].at] = number - 1;
  }
}

static void list_axes(Job *job, UOp *kernel, SearchClass *out) {
  const KernelInfo *k = kernel_info(job, kernel);
  out->axes = arena_array(&job->arena, k->naxes + 1u, sizeof *out->axes);
  out->naxes = k->naxes;
  for (uint32_t i = 0; i < k->naxes; i++) {
    const KernelAxis *a = &k->axes[i];
    if (!a->range) continue;
    int64_t d = a->divisor ? a->divisor : 1;
    out->axes[i] = (SearchAxis){dim_typical_of(a->range->src[0]), d & -d};
  }
}

typedef struct ClassArgs {
  UOp *kernel;
  SearchClass *out;
} ClassArgs;

static void class_steps(Job *job, void *arg) {
  ClassArgs *a = arg;
  Classifier c = {.job = job, .list = uop_toposort(job, a->kernel)};
  uint32_t most = MAX_TERMS;
  for (size_t i = 0; i < c.list.len; i++)
    if (c.list.at[i]->nsrc > most) most = c.list.at[i]->nsrc;
  nodemap_number(job, &c.pos, &c.list);
  c.hash = arena_array(&job->arena, c.list.len, sizeof *c.hash);
  c.level = arena_array(&job->arena, c.list.len, sizeof *c.level);
  c.number = arena_array(&job->arena, c.list.len, sizeof *c.number);
  c.reached = arena_array(&job->arena, c.list.len, sizeof *c.reached);
  c.src = arena_array(&job->arena, most, sizeof *c.src);
  for (size_t i = 0; i < c.list.len; i++) {
    hash_node(&c, i);
    job_poll(job);
  }
  Out text = {0};
  write_nodes(&c, &text);
  a->out->bytes = (Bytes){text.at, text.len};
  list_axes(job, a->kernel, a->out);
}

Status search_class(Job *job, UOp *kernel, SearchClass *out) {
  ClassArgs a = {kernel, out};
  *out = (SearchClass){0};
  return job_run(job, class_steps, &a);
}

/* Sizes count by their ratio; how well they divide counts a little. */
double search_distance(const SearchAxis *a, const SearchAxis *b, size_t naxes) {
  double d = 0;
  for (size_t i = 0; i < naxes; i++) {
    double x = log2((double)(a[i].size > 0 ? a[i].size : 1)),
           y = log2((double)(b[i].size > 0 ? b[i].size : 1));
    double p = log2((double)(a[i].pow2 > 64  ? 64
                             : a[i].pow2 > 0 ? a[i].pow2
                                             : 1)),
           q = log2((double)(b[i].pow2 > 64  ? 64
                             : b[i].pow2 > 0 ? b[i].pow2
                                             : 1));
    d += fabs(x - y) + 0.1 * fabs(p - q);
  }
  return d;
}
