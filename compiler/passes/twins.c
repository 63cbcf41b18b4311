/* A device of many processors does not fill them with the product of a few rows and one matrix: the
 * queries, keys and values of a layer of attention are three kernels that each leave most of it
 * idle. Twins are sums of products of one tensor x with different weights of equal shape; what is
 * done to each of them alike, with numbers and weights of its own (a bias, a cast), goes along.
 * They become one of a rank more,
 *
 *   t_i = f(sum(x * w_i), b_i)   ->   T = f(sum(x * W), B),  t_i = T[i]
 *
 * where W and B are the weights side by side, stored once, when the executable is loaded. Movement
 * ops and casts of the weights are done after they have been put side by side, as they would have
 * been before. Twins that meet again right behind (a gate and what it is for) are one kernel
 * already and are left alone. */
#include "compiler/passes/twins.h"

#include <assert.h>

#include "compiler/passes/replace.h"
#include "compiler/rules/rewrite.h"

enum {
  MOST = 8,         /* twins of one group */
  MOST_RANK = 12,   /* of what they become */
  MOST_STEPS = 8,   /* nodes above the sum that go along */
  NEAR = 16,        /* nodes behind a twin that are looked at */
  TILE = 64 * 64,   /* results that keep a processor busy */
  MEMORY_PART = 32, /* of the device's memory, for weights that are stored again */
};

typedef struct Group {
  UOp *x;        /* the shared factor */
  uint32_t side; /* which factor it is */
  uint32_t n, nsteps;
  UOp *sum[MOST];
  UOp *step[MOST_STEPS][MOST]; /* above the sums, the top last */
  uint32_t from[MOST_STEPS];   /* which source the step before is */
  UOp *value;                  /* T, once made */
  struct Group *next;          /* of the same x */
} Group;

typedef enum Fixed { NOT_FIXED, NUMBER, WEIGHT } Fixed;

typedef struct Twins {
  Job *job;
  const TensorGraph *graph;
  const Target *target;
  UOpList list;
  uint8_t *fixed;  /* by place: Fixed */
  uint32_t *first; /* by place: where its users are; one more at the end */
  UOp **users;
  Group **of;  /* by place of x */
  Group **top; /* by place: the group whose value it is a part of */
  UOp **now;   /* by place: the node in the new graph */
} Twins;

/* -- the graph -------------------------------------------------------------------------------- */

static Fixed fixed_of(const Twins *t, const UOp *u) {
  if (u->op == OP_CONST) return NUMBER;
  if (u->op == OP_PARAM) {
    size_t slot = (size_t)u->arg.i;
    bool weight = slot >= t->graph->nslots || t->graph->slots[slot].kind == SLOT_WEIGHT;
    return weight ? WEIGHT : NOT_FIXED;
  }
  Fixed all = u->nsrc && u->dtype != DT_VOID && !u->symbolic ? NUMBER : NOT_FIXED;
  for (uint32_t s = 0; s < u->nsrc && all; s++) {
    Fixed f = (Fixed)t->fixed[u->src[s]->place];
    all = !f ? NOT_FIXED : f > all ? f : all;
  }
  return all;
}

static void find_users(Twins *t) {
  size_t n = t->list.len;
  t->first = arena_array(&t->job->arena, n + 2, sizeof *t->first);
  for (size_t i = 0; i < n; i++)
    for (uint32_t s = 0; s < t->list.at[i]->nsrc; s++) t->first[t->list.at[i]->src[s]->place + 2]++;
  for (size_t i = 2; i < n + 2; i++) t->first[i] += t->first[i - 1];
  t->users = arena_array(&t->job->arena, t->first[n + 1] + 1u, sizeof *t->users);
  for (size_t i = 0; i < n; i++)
    for (uint32_t s = 0; s < t->list.at[i]->nsrc; s++)
      t->users[t->first[t->list.at[i]->src[s]->place + 1]++] = t->list.at[i];
}

static uint32_t users_of(const Twins *t, const UOp *u, UOp ***out) {
  *out = t->users + t->first[u->place];
  return t->first[u->place + 1] - t->first[u->place];
}

static bool same_arg(const UOp *a, const UOp *b) {
  return a->arg.i == b->arg.i && shape_eq(a->arg.ints, b->arg.ints);
}

static bool alike(const UOp *a, const UOp *b) {
  return a->op == b->op && a->dtype == b->dtype && a->nsrc == b->nsrc && same_arg(a, b) &&
         shape_eq(a->shape, b->shape);
}

/* -- which are twins -------------------------------------------------------------------------- */

/* The weight's factor of a sum of products; -1: it is none. */
static int weight_side(const Twins *t, const UOp *u) {
  if (u->op != OP_REDUCE || u->arg.i != OP_ADD || u->src[0]->op != OP_MUL || u->symbolic) return -1;
  const UOp *product = u->src[0];
  if (product->shape.n + 1 > MOST_RANK) return -1;
  for (int s = 0; s < 2; s++)
    if (t->fixed[product->src[s]->place] == WEIGHT && !t->fixed[product->src[!s]->place] &&
        product->src[!s]->shape.n)
      return s;
  return -1;
}

static void note_sum(Twins *t, UOp *u) {
  int side = weight_side(t, u);
  if (side < 0 || shape_numel(u->shape) > (int64_t)t->target->threads * TILE) return;
  UOp *x = u->src[0]->src[!side];
  Group *g = t->of[x->place];
  for (; g; g = g->next) {
    const UOp *other = g->sum[0];
    if (g->n < MOST && g->side == (uint32_t)!side && alike(u, other) &&
        shape_eq(u->src[0]->src[side]->shape, other->src[0]->src[side]->shape))
      break;
  }
  if (!g) {
    g = arena_alloc(&t->job->arena, sizeof *g);
    *g = (Group){.x = x, .side = (uint32_t)!side, .next = t->of[x->place]};
    t->of[x->place] = g;
  }
  g->sum[g->n++] = u;
}

static UOp *top_of(const Group *g, uint32_t i) {
  return g->nsteps ? g->step[g->nsteps - 1][i] : g->sum[i];
}

/* The only user of the twin's value so far, where that is a step that can go along. */
static UOp *next_step(const Twins *t, const UOp *at, uint32_t *from) {
  UOp **user;
  if (users_of(t, at, &user) != 1) return NULL;
  UOp *u = user[0];
  bool step = u->op == OP_CAST || u->op == OP_RESHAPE || op_info[u->op].flags & OPF_ALU;
  for (*from = 0; *from < u->nsrc && u->src[*from] != at;) ++*from;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    const UOp *other = u->src[s];
    bool number = t->fixed[other->place] == NUMBER && !other->shape.n;
    if (s != *from) step &= number || t->fixed[other->place] == WEIGHT;
  }
  return step && !u->symbolic && u->shape.n + 1 <= MOST_RANK ? u : NULL;
}

/* One more node of each twin. */
static bool climb(Twins *t, Group *g) {
  if (g->nsteps == MOST_STEPS) return false;
  UOp **step = g->step[g->nsteps];
  for (uint32_t i = 0; i < g->n; i++) {
    uint32_t from;
    step[i] = next_step(t, top_of(g, i), &from);
    if (!step[i] || (i && (!alike(step[i], step[0]) || from != g->from[g->nsteps]))) return false;
    if (i && step[i] == step[0]) return false;
    g->from[g->nsteps] = from;
    for (uint32_t s = 0; s < step[i]->nsrc; s++) {
      const UOp *a = step[i]->src[s], *b = step[0]->src[s];
      if (s == from || a == b) continue;
      if (t->fixed[a->place] != WEIGHT || !shape_eq(a->shape, b->shape)) return false;
    }
  }
  g->nsteps++;
  return true;
}

/* The nodes behind a twin that compute with it element by element. */
static uint32_t behind(const Twins *t, UOp *top, UOp **out) {
  uint32_t n = 0;
  out[n++] = top;
  for (uint32_t k = 0; k < n; k++) {
    UOp **user;
    uint32_t users = users_of(t, out[k], &user);
    for (uint32_t i = 0; i < users && n < NEAR; i++)
      if (op_info[user[i]->op].flags & OPF_ALU || user[i]->op == OP_CAST ||
          user[i]->op == OP_RESHAPE)
        out[n++] = user[i];
  }
  return n;
}

static bool meet(const Twins *t, const Group *g) {
  UOp *near[MOST][NEAR];
  uint32_t n[MOST];
  for (uint32_t i = 0; i < g->n; i++) n[i] = behind(t, top_of(g, i), near[i]);
  for (uint32_t i = 0; i < g->n; i++)
    for (uint32_t j = 0; j < i; j++)
      for (uint32_t k = 0; k < n[i]; k++)
        for (uint32_t l = 0; l < n[j]; l++)
          if (near[i][k] == near[j][l]) return true;
  return false;
}

/* -- weights side by side --------------------------------------------------------------------- */

static UOp *moved(Job *job, Op op, UOp *x, const int64_t *v, size_t n) {
  return uop_make(job, op, DT_VOID, arg_ints(v, n), &x, 1);
}

static bool is_moved(const UOp *u) {
  return u->op == OP_RESHAPE || u->op == OP_EXPAND || u->op == OP_PERMUTE;
}

/* What u does to its source, done to n of them side by side. */
static UOp *lifted_move(Job *job, const UOp *u, UOp *x, int64_t n) {
  int64_t v[MOST_RANK] = {u->op == OP_PERMUTE ? 0 : n};
  for (uint32_t d = 0; d < u->arg.ints.n; d++) v[d + 1] = u->arg.ints.at[d] + (u->op == OP_PERMUTE);
  return moved(job, (Op)u->op, x, v, u->arg.ints.n + 1u);
}

static UOp *in_front(Job *job, UOp *x) {
  int64_t v[MOST_RANK] = {1};
  for (uint32_t d = 0; d < x->shape.n; d++) v[d + 1] = x->shape.at[d];
  return moved(job, OP_RESHAPE, x, v, x->shape.n + 1u);
}

/* One tensor n times. */
static UOp *repeated(Job *job, UOp *x, int64_t n) {
  int64_t v[MOST_RANK] = {n};
  for (uint32_t d = 0; d < x->shape.n; d++) v[d + 1] = x->shape.at[d];
  return moved(job, OP_EXPAND, in_front(job, x), v, x->shape.n + 1u);
}

static UOp *side_by_side(Twins *t, UOp **x, uint32_t n) {
  Job *job = t->job;
  UOp *part[MOST];
  assert(n > 1);
  bool same = true, like = is_moved(x[0]) || x[0]->op == OP_CAST;
  for (uint32_t i = 1; i < n; i++) {
    same &= x[i] == x[0];
    like = like && alike(x[i], x[0]) && shape_eq(x[i]->src[0]->shape, x[0]->src[0]->shape) &&
           x[i]->src[0]->dtype == x[0]->src[0]->dtype;
  }
  if (same) return repeated(job, x[0], n);
  if (like && x[0]->src[0]->shape.n + 1 <= MOST_RANK) {
    for (uint32_t i = 0; i < n; i++) part[i] = x[i]->src[0];
    UOp *inner = side_by_side(t, part, n);
    if (x[0]->op == OP_CAST) return uop_cast(job, inner, (DType)x[0]->dtype);
    return lifted_move(job, x[0], inner, n);
  }
  for (uint32_t i = 0; i < n; i++) part[i] = in_front(job, x[i]);
  UOp *all = uop_make(job, OP_CAT, DT_VOID, arg_i(0), part, n);
  return uop1(job, OP_CONTIGUOUS, all);
}

/* -- the new graph ---------------------------------------------------------------------------- */

static UOp *lifted_sum(Twins *t, const Group *g) {
  Job *job = t->job;
  UOp *factor[2], *weight[MOST];
  const UOp *sum = g->sum[0];
  int64_t axes[MOST_RANK];
  for (uint32_t i = 0; i < g->n; i++) weight[i] = g->sum[i]->src[0]->src[!g->side];
  factor[g->side] = repeated(job, t->now[g->x->place], g->n);
  factor[!g->side] = side_by_side(t, weight, g->n);
  UOp *product = uop2(job, OP_MUL, factor[0], factor[1]);
  for (uint32_t d = 0; d < sum->arg.ints.n; d++) axes[d] = sum->arg.ints.at[d] + 1;
  return uop_make(job, OP_REDUCE, DT_VOID, arg_both(OP_ADD, axes, sum->arg.ints.n), &product, 1);
}

static UOp *lifted_step(Twins *t, const Group *g, uint32_t k, UOp *value) {
  Job *job = t->job;
  const UOp *u = g->step[k][0];
  if (u->op == OP_CAST) return uop_cast(job, value, (DType)u->dtype);
  if (u->op == OP_RESHAPE) return lifted_move(job, u, value, g->n);
  UOp **src = arena_array(&job->arena, u->nsrc, sizeof *src), *other[MOST];
  for (uint32_t s = 0; s < u->nsrc; s++) {
    for (uint32_t i = 0; i < g->n; i++) other[i] = g->step[k][i]->src[s];
    bool number = s != g->from[k] && !other[0]->shape.n && other[0] == other[g->n - 1];
    src[s] = s == g->from[k] ? value : number ? other[0] : side_by_side(t, other, g->n);
  }
  return uop_make(job, (Op)u->op, (DType)u->dtype, u->arg, src, u->nsrc);
}

/* The part of the group's value that u was. */
static UOp *part_of(Twins *t, Group *g, const UOp *u) {
  Job *job = t->job;
  int64_t bounds[2 * MOST_RANK];
  uint32_t i = 0;
  if (!g->value) {
    g->value = lifted_sum(t, g);
    for (uint32_t k = 0; k < g->nsteps; k++) g->value = lifted_step(t, g, k, g->value);
  }
  while (top_of(g, i) != u) i++;
  for (uint32_t d = 0; d <= u->shape.n; d++)
    bounds[2 * d] = d ? 0 : i, bounds[2 * d + 1] = d ? u->shape.at[d - 1] : i + 1;
  UOp *part = moved(job, OP_SHRINK, g->value, bounds, 2 * (u->shape.n + 1u));
  return moved(job, OP_RESHAPE, part, u->shape.at, u->shape.n);
}

/* Twins of one x become a group; how many there are. */
static size_t choose_groups(Twins *t) {
  uint64_t most = t->target->memory_bytes / MEMORY_PART, bytes = 0;
  size_t count = 0;
  for (size_t i = 0; i < t->list.len; i++)
    for (Group *g = t->of[i]; g; g = g->next) {
      if (g->n < 2) continue;
      while (climb(t, g)) continue;
      const UOp *w = g->sum[0]->src[0]->src[!g->side];
      while (is_moved(w) || w->op == OP_CAST) w = w->src[0];
      bytes += (uint64_t)shape_numel(w->shape) * dtype_info[w->dtype].bytes * g->n;
      if (meet(t, g) || bytes > most) continue;
      for (uint32_t k = 0; k < g->n; k++) t->top[top_of(g, k)->place] = g;
      count++;
    }
  return count;
}

UOp *join_twins(Job *job, const TensorGraph *graph, const Target *target, UOp *sink) {
  Twins t = {.job = job, .graph = graph, .target = target, .list = uop_toposort(job, sink)};
  size_t n = t.list.len;
  if (!target->max_group) return sink;
  t.fixed = arena_alloc(&job->arena, n);
  t.of = arena_array(&job->arena, n, sizeof(Group *));
  t.top = arena_array(&job->arena, n, sizeof(Group *));
  find_users(&t);
  for (size_t i = 0; i < n; i++) {
    t.fixed[i] = (uint8_t)fixed_of(&t, t.list.at[i]);
    note_sum(&t, t.list.at[i]);
  }
  if (!choose_groups(&t)) return sink;
  t.now = arena_array(&job->arena, n, sizeof *t.now);
  for (size_t i = 0; i < n; i++) {
    UOp *u = t.list.at[i];
    t.now[i] = t.top[i] ? part_of(&t, t.top[i], u) : replace_sources(job, u, t.now);
    if (i % 64 == 0) job_poll(job);
  }
  Rewrite rw = {.job = job};
  return rewrite_graph(&rw, t.now[n - 1], rules_movement);
}
