/* Walks over graphs: topological order, substitution, open ranges.
 *
 * Every walk takes a fresh stamp; a node is marked by writing the stamp and its place in the walk's
 * list into the node, so a walk costs time and memory linear in what it visits, however many nodes
 * the job holds. Walks do not call back, so they never overlap.
 *
 * Sets of open ranges are interned: neighbours mostly have equal sets, which are then one pointer,
 * and a union is computed only where two different sets meet. */
#include <stdlib.h>

#include "base/map.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/infer.h"
#include "compiler/ir/matrix.h"

/* -- topological order ------------------------------------------------------------------------- */

static const uint32_t OPENED = UINT32_MAX;

static uint32_t new_stamp(Job *job) {
  if (++job->stamp == 0) { /* wrapped: forget all marks */
    for (size_t k = 0; k < job->table_cap; k++) {
      if (job->table[k].node) job->table[k].node->stamp = 0;
    }
    job->stamp = 1;
  }
  return job->stamp;
}

/* Depth first with an explicit stack. A node is popped twice: first it is opened and its sources go
 * on top, then, when they are done, it is listed. Pushing sources last to first keeps the order of
 * the recursive definition. The list is in the job's scratch. */
static size_t sort(Job *job, UOp *root, bool with_dims) {
  uint32_t stamp = new_stamp(job);
  size_t depth = 1, len = 0;
  UOp **stack = (UOp **)job_scratch(job, JOB_SCRATCH_STACK, 1);
  stack[0] = root;
  while (depth) {
    UOp *u = stack[--depth];
    if (u->stamp != stamp) {
      u->stamp = stamp;
      u->place = OPENED;
      stack = (UOp **)job_scratch(job, JOB_SCRATCH_STACK, depth + 1 + u->nsrc);
      stack[depth++] = u;
      bool dims = with_dims && u->symbolic && dim_in_ints((Op)u->op);
      if (dims) {
        stack = (UOp **)job_scratch(job, JOB_SCRATCH_STACK, depth + u->nsrc + u->arg.ints.n);
      }
      for (uint32_t k = dims ? u->arg.ints.n : 0; k-- > 0;) {
        int64_t d = u->arg.ints.at[k];
        if (!dim_is_static(d) && dim_node(d)->stamp != stamp) stack[depth++] = dim_node(d);
      }
      for (uint32_t s = u->nsrc; s-- > 0;) {
        if (u->src[s]->stamp != stamp) stack[depth++] = u->src[s];
      }
    } else if (u->place == OPENED) {
      UOp **list = (UOp **)job_scratch(job, JOB_SCRATCH_LIST, len + 1);
      u->place = (uint32_t)len;
      list[len++] = u;
    }
  }
  return len;
}

static UOpList kept(Job *job, size_t n) {
  UOpList list = {.len = n, .cap = n};
  list.at = arena_copy(&job->arena, job->scratch[JOB_SCRATCH_LIST].at, n * sizeof *list.at);
  return list;
}

UOpList uop_toposort(Job *job, UOp *root) { return kept(job, sort(job, root, false)); }

UOpList uop_toposort_dims(Job *job, UOp *root) { return kept(job, sort(job, root, true)); }

/* -- substitution ------------------------------------------------------------------------------ */

UOp *uop_substitute(Job *job, UOp *root, UOp *const *from, UOp *const *to, size_t n) {
  size_t len = sort(job, root, false);
  uint32_t stamp = job->stamp;
  UOp **list = job->scratch[JOB_SCRATCH_LIST].at;
  UOp **result = (UOp **)job_scratch(job, JOB_SCRATCH_RESULT, len);
  memset(result, 0, len * sizeof *result);
  for (size_t k = 0; k < n; k++) {
    if (from[k]->stamp == stamp) result[from[k]->place] = to[k];
  }
  for (size_t k = 0; k < len; k++) {
    UOp *u = list[k];
    if (result[k]) continue;
    bool same = true;
    for (uint32_t s = 0; same && s < u->nsrc; s++) same = result[u->src[s]->place] == u->src[s];
    if (same) {
      result[k] = u;
      continue;
    }
    UOp **src = (UOp **)job_scratch(job, JOB_SCRATCH_STACK, u->nsrc);
    for (uint32_t s = 0; s < u->nsrc; s++) src[s] = result[u->src[s]->place];
    result[k] = uop_with_src(job, u, src);
  }
  return result[len - 1];
}

/* -- open ranges ------------------------------------------------------------------------------- */

enum { FIRST_SETS = 256 };

static int compare(const UOp *a, const UOp *b) {
  if (a->arg.i != b->arg.i) return a->arg.i < b->arg.i ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

static void sets_grow(Job *job) {
  size_t cap = job->sets_cap ? job->sets_cap * 2 : FIRST_SETS;
  RangeSet **next = calloc(cap, sizeof *next);
  if (!next) job_abort(job, FAIL(RESOURCE_EXHAUSTED, "no memory for %zu range sets", cap));
  for (size_t k = 0; k < job->sets_cap; k++) {
    RangeSet *s = job->sets[k];
    if (!s) continue;
    size_t at = s->hash & (cap - 1);
    while (next[at]) at = (at + 1) & (cap - 1);
    next[at] = s;
  }
  free(job->sets);
  job->sets = next;
  job->sets_cap = cap;
}

static const RangeSet *intern(Job *job, UOp *const *at, size_t n) {
  if (!n) return NULL;
  if ((job->sets_len + 1) * 2 > job->sets_cap) sets_grow(job);
  uint64_t h = n;
  for (size_t k = 0; k < n; k++) h = hash_u64(h ^ at[k]->id) + 1;
  uint32_t hash = (uint32_t)(h ^ h >> 32);
  size_t mask = job->sets_cap - 1, slot = hash & mask;
  for (RangeSet *s; (s = job->sets[slot]); slot = (slot + 1) & mask) {
    if (s->hash == hash && s->n == n && !memcmp(s->at, at, n * sizeof *at)) return s;
  }
  RangeSet *s = arena_alloc(&job->arena, sizeof *s + n * sizeof *at);
  s->n = (uint32_t)n;
  s->hash = hash;
  memcpy(s->at, at, n * sizeof *at);
  job->sets[slot] = s;
  job->sets_len++;
  return s;
}

static const RangeSet *set_union(Job *job, const RangeSet *a, const RangeSet *b) {
  if (!b || a == b) return a;
  if (!a) return b;
  UOp **out = (UOp **)job_scratch(job, JOB_SCRATCH_SET, (size_t)a->n + b->n);
  size_t n = 0;
  for (uint32_t i = 0, j = 0; i < a->n || j < b->n;) {
    int c = i == a->n ? 1 : j == b->n ? -1 : compare(a->at[i], b->at[j]);
    out[n++] = c <= 0 ? a->at[i] : b->at[j];
    i += c <= 0;
    j += c >= 0;
  }
  if (n == a->n) return a;
  return n == b->n ? b : intern(job, out, n);
}

static const RangeSet *set_minus(Job *job, const RangeSet *a, UOp *const *drop, size_t ndrop) {
  if (!a || !ndrop) return a;
  UOp **out = (UOp **)job_scratch(job, JOB_SCRATCH_SET, a->n);
  size_t n = 0;
  for (uint32_t k = 0; k < a->n; k++) {
    bool keep = true;
    for (size_t d = 0; keep && d < ndrop; d++) keep = drop[d] != a->at[k];
    if (keep) out[n++] = a->at[k];
  }
  return n == a->n ? a : intern(job, out, n);
}

const RangeSet *ranges_infer(Job *job, UOp *u) {
  const RangeSet *open = NULL;
  for (uint32_t s = 0; s < u->nsrc; s++) open = set_union(job, open, u->src[s]->open);
  if (u->op == OP_RANGE) return set_union(job, open, intern(job, &u, 1));
  if (u->op == OP_REDUCE || u->op == OP_END) return set_minus(job, open, u->src + 1, u->nsrc - 1);
  if (u->op == OP_MMA && u->nsrc > 3) {
    unsigned shared = 2 + matrix_shared_ranges(matrix_info(u->arg.i));
    return set_minus(job, open, u->src + shared, u->nsrc - shared);
  }
  return open;
}

bool uop_is_open(const UOp *u, const UOp *range) {
  for (uint32_t k = 0; u->open && k < u->open->n; k++) {
    if (u->open->at[k] == range) return true;
  }
  return false;
}
