/* Chains of contractions that share a row: attention.
 *
 * A contraction whose operand is computed row by row from another contraction - scores, their
 * maximum, exponentials, sum - would read that operand from memory after three kernels have written
 * it. Where a row of it fits a cache many times, the schedule can keep it there (KEEP): the whole
 * chain is one kernel, and nothing of the size of the scores is ever stored.
 *
 * Such a chain is found from its last contraction: what its operand computes from other
 * contractions, by elementwise work, reductions along rows and movement. Nobody else may read any
 * of it. Two contractions with nothing but elementwise work in between stay two: a row of the first
 * is then not needed as a whole, and tiles of both are worth more. So do deep ones: every block of
 * rows reads the other operands again. */
#include "compiler/passes/fusion.h"

#include "base/vec.h"

#include "compiler/ir/matrix.h"

enum {
  ROW_BLOCK = 32,  /* rows that a kernel has in its cache at a time */
  MOST_WIDE = 512, /* depth of the first and width of the last contraction, together */
  CHEAP = 4        /* operations on an element that may be done again for every copy of it */
};

typedef struct Chain {
  Fusion *f;
  const uint32_t *nreaders; /* by tensor */
  uint32_t *reads;          /* by tensor: readers that are in the chain */
  uint8_t *state;           /* by tensor: 0 not seen, 1 apart, 2 in the chain */
  VEC(uint32_t) seen;
  double depth; /* of its contractions */
  bool reduces; /* a reduction along rows is in it */
} Chain;

static bool moves_along(Op op) { return op == OP_EXPAND || op == OP_RESHAPE || op == OP_PERMUTE; }

static bool may_join(const Tensor *t) {
  if (t->leaf || t->is_update || t->slices || t->is_output) return false;
  return op_info[t->u->op].flags & OPF_ALU || t->u->op == OP_REDUCE || moves_along((Op)t->u->op);
}

static double depth_of(const Fusion *f, const Tensor *t) {
  return t->numel ? (double)f->tensors[t->src[0]].numel / (double)t->numel : 0;
}

/* Marks what tensor `at` and those below it are; true when it is computed from a contraction.
 * `depth` bounds the recursion. */
static bool join(Chain *c, uint32_t at, int depth) {
  const Tensor *t = &c->f->tensors[at];
  if (c->state[at]) return c->state[at] == 2;
  c->state[at] = 1;
  avec_push(&c->f->job->arena, &c->seen, at);
  if (!depth || !may_join(t)) return false;
  bool in = false;
  if (t->u->op == OP_REDUCE && t->cost.contraction) {
    in = true;
    if (depth_of(c->f, t) > c->depth) c->depth = depth_of(c->f, t);
  } else {
    for (uint32_t s = 0; s < t->u->nsrc; s++) in |= join(c, t->src[s], depth - 1);
    for (uint32_t s = 0; s < t->u->nsrc; s++) c->reads[t->src[s]]++;
    c->reduces |= in && t->u->op == OP_REDUCE;
  }
  if (in) c->state[at] = 2;
  return in;
}

/* Readers that are apart count nothing: a chain has none. */
static void recount(Chain *c) {
  for (size_t k = 0; k < c->seen.len; k++) c->reads[c->seen.at[k]] = 0;
  for (size_t k = 0; k < c->seen.len; k++) {
    const Tensor *t = &c->f->tensors[c->seen.at[k]];
    bool last = t->u->op == OP_REDUCE && t->cost.contraction;
    if (c->state[c->seen.at[k]] != 2 || last) continue;
    for (uint32_t s = 0; s < t->u->nsrc; s++) c->reads[t->src[s]]++;
  }
}

/* Nobody reads a part of the chain but the chain itself and what is on top of it. */
static bool is_closed(const Chain *c, uint32_t top) {
  for (size_t k = 0; k < c->seen.len; k++) {
    uint32_t at = c->seen.at[k];
    if (c->state[at] == 2 && c->nreaders[at] != c->reads[at] + (at == top)) return false;
  }
  return true;
}

/* Elements of a row, at most. */
static double row_length(const Fusion *f, const Tensor *contraction) {
  const Ints axes = contraction->u->arg.ints, shape = f->tensors[contraction->src[0]].u->shape;
  double n = 1;
  for (uint32_t a = 0; a < axes.n; a++) n *= (double)dim_high(shape.at[axes.at[a]]);
  return n;
}

/* With a contraction goes the product that it sums, which is larger than anything that is worth
 * storing. */
static void take(Chain *c, uint32_t at) {
  Tensor *t = &c->f->tensors[at];
  t->row = true;
  if (t->u->op == OP_REDUCE && t->cost.contraction && c->nreaders[t->src[0]] == 1)
    c->f->tensors[t->src[0]].row = true;
}

/* What a contraction of the chain reads is scaled or converted on the way: the schedule copies it,
 * once for all rows, where that fits a cache, and need not be told where it is stored. */
static void take_operand(Chain *c, uint32_t at, int depth) {
  Tensor *t = &c->f->tensors[at];
  bool moves = moves_along((Op)t->u->op);
  if (!depth || !may_join(t) || c->nreaders[at] != 1 || t->u->op == OP_REDUCE || t->cost.has_reduce)
    return;
  if (!moves && t->cost.flops > CHEAP) return;
  t->row = true;
  for (uint32_t s = 0; s < t->u->nsrc; s++) take_operand(c, t->src[s], depth - 1);
}

/* Both factors of the product that contraction `at` sums, if all of them fits a cache. */
static void take_operands(Chain *c, uint32_t at, const Tensor *last) {
  enum { DEPTH = 16 };
  const Fusion *f = c->f;
  const Tensor *product = &f->tensors[f->tensors[at].src[0]];
  double bytes = row_length(f, last) * c->depth * sizeof(float);
  if (bytes > (double)f->target->l2_bytes / 2) return;
  while (product->u->op == OP_CAST) product = &f->tensors[product->src[0]];
  for (uint32_t s = 0; product->u->op == OP_MUL && s < 2; s++)
    if (c->state[product->src[s]] != 2) take_operand(c, product->src[s], DEPTH);
}

/* The chain on one side of the product that contraction `last` sums. */
static void find_chain(Chain *c, const Tensor *last, uint32_t top, double width) {
  enum { DEPTH = 64 };
  Fusion *f = c->f;
  double row = row_length(f, last) * ROW_BLOCK * sizeof(double);
  c->seen.len = 0, c->depth = 0, c->reduces = false;
  bool in = join(c, top, DEPTH);
  recount(c);
  bool fits = row <= (double)f->target->l2_bytes && c->depth + width <= MOST_WIDE;
  bool keep = in && c->reduces && fits && is_closed(c, top);
  for (size_t k = 0; k < c->seen.len; k++) {
    uint32_t at = c->seen.at[k];
    if (keep && c->state[at] == 2) take(c, at);
    if (keep && c->state[at] == 2 && f->tensors[at].cost.contraction) take_operands(c, at, last);
  }
  for (size_t k = 0; k < c->seen.len; k++) c->state[c->seen.at[k]] = 0, c->reads[c->seen.at[k]] = 0;
}

static uint32_t *count_readers(const Fusion *f) {
  uint32_t *n = arena_array(&f->job->arena, f->ntensors + 1, sizeof *n);
  for (uint32_t i = 0; i < f->ntensors; i++) {
    const Tensor *t = &f->tensors[i];
    for (uint32_t s = 0; s < t->u->nsrc; s++) n[t->src[s]]++;
  }
  return n;
}

/* Whether sums of 256 columns have room in the registers of several warps. */
static bool has_wide_sums(const Target *target) {
  for (int64_t id = 0; id < MX__COUNT; id++)
    if (matrix_info(id)->held && matrix_on(matrix_info(id), target)) return true;
  return false;
}

/* On a device with workgroups both products are matrix instructions': 16-bit factors, whole tiles,
 * rows enough for one. `value` is the factor that every row reads. */
static bool suits_warps(const Fusion *f, const Tensor *value, double width) {
  enum { LEAST_ROWS = 16, TILE = 16, MOST_WIDTH = 128, WARP = 32 };
  double rows = 1, most = has_wide_sums(f->target) ? 2 * MOST_WIDTH : MOST_WIDTH;
  bool half = false;
  if (f->target->warp != WARP || width > most || (int64_t)width % TILE) return false;
  for (;;) {
    const UOp *u = value->u;
    half |= dtype_info[u->dtype].bytes == 2;
    if (u->op != OP_CAST && u->op != OP_EXPAND && !moves_along((Op)u->op)) break;
    const Tensor *from = &f->tensors[value->src[0]];
    if (u->op == OP_EXPAND && from->numel) rows *= (double)value->numel / (double)from->numel;
    value = from;
  }
  return half && rows >= LEAST_ROWS;
}

void fusion_rows(Fusion *f) {
  Chain c = {.f = f, .nreaders = count_readers(f)};
  if (!f->target->l2_bytes) return;
  c.reads = arena_array(&f->job->arena, f->ntensors + 1, sizeof *c.reads);
  c.state = arena_array(&f->job->arena, f->ntensors + 1, sizeof *c.state);
  for (uint32_t i = 0; i < f->ntensors; i++) {
    const Tensor *t = &f->tensors[i], *product = t;
    if (t->u->op != OP_REDUCE || !t->cost.contraction || t->u->arg.i != OP_ADD) continue;
    do product = &f->tensors[product->src[0]];
    while (product->u->op == OP_CAST);
    for (uint32_t s = 0; product->u->op == OP_MUL && s < 2; s++) {
      double n = (double)f->tensors[product->src[!s]].numel, width = 0;
      const Tensor *other = &f->tensors[product->src[s]];
      while (other->u->op == OP_RESHAPE || other->u->op == OP_PERMUTE)
        other = &f->tensors[other->src[0]];
      if (other->u->op == OP_EXPAND && other->numel)
        width = n / (double)f->tensors[other->src[0]].numel;
      if (width > 1 &&
          (!f->target->max_group || suits_warps(f, &f->tensors[product->src[!s]], width)))
        find_chain(&c, t, product->src[s], width);
    }
  }
}
