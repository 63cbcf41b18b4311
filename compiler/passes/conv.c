/* A sum of products is a convolution because of where its factors are read, not because of how the
 * graph spells it. Every axis of the product becomes a RANGE; the ranges are moved through the
 * movement ops below each factor, and what arrives at a tensor of rank 4 are index expressions.
 * They are compared with those in conv.h.
 *
 * A factor may be matched at several places of its chain (before and after a PAD, say). The one
 * taken is right below the first PAD by zeros, or the first when there is none. */
#include "compiler/passes/conv.h"

#include "compiler/passes/indexing.h"
#include "compiler/passes/ix.h"

enum { MOST_AXES = 12, NONE = -1 };

/* The axes of the product that play a role; NONE where the extent is 1. */
typedef struct Roles {
  int n, group, filter, out[2], channel, kernel[2];
} Roles;

typedef struct Match {
  Job *job;
  UOp *u;
  Ints space; /* of the product */
  bool reduced[MOST_AXES];
} Match;

/* The axis that a term stands for. */
static int axis_of(const UOp *term) { return term->op == OP_RANGE ? (int)term->arg.i : NONE; }

/* An index that is one axis, or 0. */
static bool single(const UOp *index, int *axis) {
  *axis = NONE;
  if (uop_is_const(index)) return index->arg.i == 0;
  *axis = axis_of(index);
  return *axis != NONE;
}

/* outer * a + inner * b + constant, with a summed over and b not, or the other way round. */
typedef struct Pair {
  int kept, summed;
  int64_t kept_step, summed_step, constant;
} Pair;

static bool pair(const Match *m, UOp *index, Pair *out) {
  *out = (Pair){.kept = NONE, .summed = NONE, .kept_step = 1, .summed_step = 1};
  IxSum sum = ix_sum_of(index);
  out->constant = sum.constant;
  for (uint32_t t = 0; t < sum.n; t++) {
    int axis = axis_of(sum.term[t]);
    if (axis == NONE || sum.coef[t] < 1) return false;
    if (*(m->reduced[axis] ? &out->summed : &out->kept) != NONE) return false;
    if (m->reduced[axis])
      out->summed = axis, out->summed_step = sum.coef[t];
    else
      out->kept = axis, out->kept_step = sum.coef[t];
  }
  return true;
}

static bool match_weights(const Match *m, UOp *w, UOp *const *index, Roles *r) {
  IxSum filters = ix_sum_of(index[0]);
  r->group = r->filter = NONE;
  if (w->shape.n != 4 || filters.constant || filters.n > 2) return false;
  for (uint32_t t = 0; t < filters.n; t++) {
    int axis = axis_of(filters.term[t]);
    if (axis == NONE || m->reduced[axis]) return false;
    *(filters.coef[t] == 1 && r->filter == NONE ? &r->filter : &r->group) = axis;
  }
  if (!single(index[1], &r->channel)) return false;
  for (int d = 0; d < 2; d++)
    if (!single(index[2 + d], &r->kernel[d])) return false;
  for (int k = 0; k < 3; k++) {
    int axis = k ? r->kernel[k - 1] : r->channel;
    if (axis != NONE && !m->reduced[axis]) return false;
    if (axis == NONE && w->shape.at[1 + k] != 1) return false;
  }
  return true;
}

static int64_t extent(const Match *m, int axis) { return axis == NONE ? 1 : m->space.at[axis]; }

static bool match_spatial(const Match *m, const Roles *r, int d, const UOp *x, UOp *index, int *out,
                          Conv *c) {
  Pair p;
  if (!pair(m, index, &p) || p.summed != r->kernel[d]) return false;
  *out = p.kept;
  c->in[d] = x->shape.at[2 + d];
  c->out[d] = extent(m, p.kept);
  c->kernel[d] = extent(m, p.summed);
  c->stride[d] = p.kept_step, c->dilation[d] = p.summed_step;
  c->lo[d] = -p.constant;
  c->hi[d] = (c->out[d] - 1) * c->stride[d] + (c->kernel[d] - 1) * c->dilation[d] + 1 - c->in[d] -
             c->lo[d];
  if (c->hi[d] < 0) c->hi[d] = 0;
  return c->lo[d] >= 0;
}

/* Fills in c and the roles that the weights leave open. */
static bool match_source(const Match *m, UOp *x, UOp *const *index, Roles *r, Conv *c) {
  Pair channels;
  if (x->shape.n != 4 || !single(index[0], &r->n) || !pair(m, index[1], &channels)) return false;
  if ((r->n != NONE && m->reduced[r->n]) || channels.summed != r->channel || channels.constant)
    return false;
  int64_t each = extent(m, r->channel);
  if (channels.kept != NONE) {
    if (r->group == NONE && r->filter == channels.kept) r->group = r->filter, r->filter = NONE;
    if (channels.kept != r->group || channels.kept_step != each) return false;
  } else if (r->group != NONE) {
    return false;
  }
  *c = (Conv){.x = x, .batch = x->shape.at[0], .channels = x->shape.at[1]};
  c->groups = extent(m, r->group);
  c->filters = c->groups * extent(m, r->filter);
  if (extent(m, r->n) != c->batch || c->groups * each != c->channels) return false;
  return match_spatial(m, r, 0, x, index[2], &r->out[0], c) &&
         match_spatial(m, r, 1, x, index[3], &r->out[1], c);
}

/* Every axis of the product plays one role, and those that are kept are in the order of y. */
static bool complete(const Match *m, const Roles *r) {
  const int roles[] = {r->n,      r->group,   r->filter,    r->out[0],
                       r->out[1], r->channel, r->kernel[0], r->kernel[1]};
  int last = NONE;
  uint32_t used = 0, all = 0;
  for (size_t k = 0; k < sizeof roles / sizeof *roles; k++) {
    if (roles[k] == NONE) continue;
    if (used >> roles[k] & 1) return false;
    used |= 1u << roles[k];
    if (k < 5 && roles[k] < last) return false;
    if (k < 5) last = roles[k];
  }
  for (uint32_t k = 0; k < m->space.n; k++)
    if (m->space.at[k] != 1) all |= 1u << k;
  return used == all;
}

static UOp **all_axes(const Match *m) {
  UOp **index = arena_array(&m->job->arena, m->space.n + 1, sizeof *index);
  for (uint32_t k = 0; k < m->space.n; k++) {
    UOp *size = uop_index(m->job, m->space.at[k]);
    index[k] = m->space.at[k] == 1 ? uop_index(m->job, 0) : uop_range(m->job, k, AX_LOOP, size);
  }
  return index;
}

/* The next tensor below x in its chain; NULL at its end. */
static UOp *step_down(Job *job, UOp *x, UOp ***index, bool *padded) {
  if (!(op_info[x->op].flags & OPF_MOVE) || x->op == OP_CAT || x->op == OP_GATHER || *padded)
    return NULL;
  if (x->op == OP_PAD && !uop_is_number(x->src[1], 0)) return NULL;
  *padded = x->op == OP_PAD;
  *index = index_pull(job, x, 0, *index).index;
  return x->src[0];
}

static bool find_weights(const Match *m, UOp *w, Roles *r, UOp **out) {
  UOp **index = all_axes(m);
  bool padded = false;
  for (; w; w = step_down(m->job, w, &index, &padded)) {
    *out = w;
    if (!padded && w->shape.n == 4 && match_weights(m, w, index, r)) return true;
  }
  return false;
}

static bool find_source(const Match *m, UOp *x, Roles *r, Conv *c) {
  UOp **index = all_axes(m);
  bool padded = false, found = false;
  Roles with = *r;
  for (; x; x = step_down(m->job, x, &index, &padded)) {
    Roles now = with;
    Conv is;
    if (found && !padded) continue;
    if (!match_source(m, x, index, &now, &is) || !complete(m, &now)) continue;
    *r = now, *c = is, found = true;
  }
  return found;
}

bool conv_match(Job *job, UOp *u, Conv *out) {
  UOp *product = u->src[0];
  Match m = {.job = job, .u = u, .space = product->shape};
  if (u->op != OP_REDUCE || u->arg.i != OP_ADD || product->op != OP_MUL || u->symbolic)
    return false;
  if (m.space.n > MOST_AXES || m.space.n < 4 || product->symbolic || !shape_numel(m.space))
    return false;
  for (uint32_t k = 0; k < u->arg.ints.n; k++) m.reduced[u->arg.ints.at[k]] = true;
  for (int s = 0; s < 2; s++) {
    Roles r = {0};
    UOp *w;
    if (!find_weights(&m, product->src[!s], &r, &w)) continue;
    if (!find_source(&m, product->src[s], &r, out)) continue;
    out->w = w;
    return w->shape.at[0] == out->filters;
  }
  return false;
}
