/* Memory that is asked for while something else is computed.
 *
 * Rows: a loop over a row either moves much or computes much.
 *
 *   for row:
 *     for i: m = max(m, x[row, i])
 *     for i: b[i] = exp(x[row, i] - m)         <- asks for y[row, i] and x[row + 1, i]
 *     for i: y[row, i] = b[i] / sum
 *
 * What is moved comes from memory in the order of rows, where no processor sees a stream: pages
 * end. So the loop that computes most asks for the lines that a sibling of as many steps will
 * write, and for those of its own loads one iteration of the loop around it ahead. Small buffers
 * are in a cache already, and loops that compute little would only wait elsewhere.
 *
 * Panels: a loop that copies a panel of an operand does nothing but wait, and the loop behind it
 * computes from what is close.
 *
 *   for panel:
 *     for k: b[k] = w[k, panel]
 *     for tile:                                <- asks for a part of w[.., panel + 1]
 *       for k: sums += x[tile, k] * b[k]
 *
 * So each tile asks for its share of the lines that the next copy reads: few enough at a time for
 * the processor to have places for them, and spread over all of the computation. A panel that is
 * read where it lies is waited for by the first tile that reads it; there the shares are those of
 * the loops over blocks of steps in each tile.
 *
 * All of them are hints: an address may be anywhere, and behind the last panel lies something else
 * or nothing. */
#include "compiler/passes/prefetch.h"

#include "base/vec.h"
#include "compiler/passes/ix.h"

enum {
  MOST = 16,
  MOST_SLOTS = 64,
  WORK_PER_LINE = 6,
  FUNCTION_WORK = 14,
  MOST_PANELS = 8,
  LINE = 64,
  MOST_SHARE = 32,        /* lines of a tile's share: more would have to wait for each other */
  PRODUCTS_PER_LINE = 24, /* that hide one */
  LARGE_PANELS = 1 << 20  /* bytes of an operand that is not close already */
};

typedef struct Rows {
  Job *job;
  UOpList list;
  UOpList ends;
  bool *outer;    /* by END: there is another in the loop */
  uint32_t *work; /* by END: operations in the loop */
  uint64_t slots; /* bit set of PARAMs that are stored to */
  uint64_t least; /* bytes of a buffer that is worth it */
} Rows;

static bool same_steps(const UOp *a, const UOp *b) {
  return a->src[1]->src[0] == b->src[1]->src[0];
}

static Rows find_loops(Job *job, UOp *root, uint64_t least) {
  Rows r = {.job = job, .list = uop_toposort(job, root), .least = least};
  for (size_t i = 0; i < r.list.len; i++)
    if (uop_is_loop(r.list.at[i])) avec_push(&job->arena, &r.ends, r.list.at[i]);
  return r;
}

/* What is computed in the loops. */
static void look(Rows *r) {
  Arena *arena = &r->job->arena;
  r->outer = arena_array(arena, r->ends.len + 1, sizeof *r->outer);
  r->work = arena_array(arena, r->ends.len + 1, sizeof *r->work);
  for (size_t i = 0; i < r->list.len; i++) {
    const UOp *u = r->list.at[i];
    bool param = u->op == OP_STORE && u->src[0]->op == OP_PARAM && u->src[0]->arg.i < MOST_SLOTS;
    if (param) r->slots |= (uint64_t)1 << u->src[0]->arg.i;
    bool alu = op_info[u->op].flags & OPF_ALU && u->dtype != DT_INDEX;
    for (size_t k = 0; (alu || uop_is_loop(u)) && k < r->ends.len; k++) {
      if (!uop_is_open(u, r->ends.at[k]->src[1])) continue;
      if (alu)
        r->work[k] += u->op >= OP_EXP && u->op <= OP_ATAN ? FUNCTION_WORK : 1;
      else
        r->outer[k] = true;
    }
  }
}

static bool is_large(const Rows *r, const UOp *param) {
  int64_t n = param->op == OP_PARAM && param->arg.ints.n == 1 ? param->arg.ints.at[0] : 0;
  return n > 0 && (uint64_t)n >= r->least / dtype_info[param->dtype].bytes;
}

/* Numbers and loops only: nothing that would have to be read first. */
static bool is_plain(Job *job, UOp *index) {
  UOpList list = uop_toposort(job, index);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    bool leaf = u->op == OP_RANGE || u->op == OP_CONST || u->op == OP_THREAD || u->op == OP_VAR;
    if (!leaf && (!(op_info[u->op].flags & OPF_ALU) || u->lanes > 1)) return false;
  }
  return true;
}

/* A whole vector of a large buffer that walks with the loop. */
static bool is_row(Rows *r, const UOp *u, const UOp *range) {
  return is_large(r, u->src[0]) && uop_is_open(u->src[1], range) && u->src[1]->lanes == 1 &&
         u->arg.i == 1 && is_plain(r->job, u->src[1]);
}

typedef struct Hints {
  UOp *at[MOST + 1];
  uint32_t n;
} Hints;

static void hint(Rows *r, Hints *h, UOp *param, UOp *index, bool read) {
  if (h->n == MOST) return;
  UOp *src[2] = {param, index};
  UOp *p = uop_make(r->job, OP_PREFETCH, DT_VOID, arg_i(read), src, 2);
  for (uint32_t k = 0; k < h->n; k++)
    if (h->at[k] == p) return;
  h->at[h->n++] = p;
}

/* What a sibling of `end` writes, by the steps of `end`. */
static void find_writes(Rows *r, const UOp *end, const UOp *sibling, Hints *h) {
  UOpList list = uop_toposort(r->job, sibling->src[0]);
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    if (u->op != OP_STORE || u->nsrc > 3 || u->src[2]->lanes < 2) continue;
    if (!uop_is_open(u, sibling->src[1]) || !is_row(r, u, sibling->src[1])) continue;
    UOp *old = sibling->src[1], *now = end->src[1];
    hint(r, h, u->src[0], uop_substitute(r->job, u->src[1], &old, &now, 1), false);
  }
}

/* What the loop itself reads, one iteration of the loop around it ahead. */
static void find_reads(Rows *r, const UOp *end, UOp *around, Hints *h) {
  UOpList list = uop_toposort(r->job, end->src[0]);
  UOp *next = uop2(r->job, OP_ADD, around, uop_index(r->job, 1));
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    if (u->op != OP_LOAD || u->nsrc > 2 || u->lanes < 2 || !uop_is_open(u->src[1], around))
      continue;
    int64_t slot = u->src[0]->op == OP_PARAM ? u->src[0]->arg.i : MOST_SLOTS;
    if (slot >= MOST_SLOTS || r->slots >> slot & 1 || !is_row(r, u, end->src[1])) continue;
    hint(r, h, u->src[0], uop_substitute(r->job, u->src[1], &around, &next, 1), true);
  }
}

/* The innermost of the loops around: the one whose END is in the most others. NULL: none. */
static UOp *end_around(const Rows *r, const UOp *end) {
  UOp *best = NULL;
  uint32_t most = 0;
  for (size_t i = 0; i < r->ends.len; i++) {
    UOp *u = r->ends.at[i];
    uint32_t n = u->open ? u->open->n : 0;
    if (!uop_is_open(end, u->src[1]) || (best && n <= most)) continue;
    best = u, most = n;
  }
  return best;
}

/* Side by side with loop `at`, and innermost. */
static bool is_beside(const Rows *r, size_t at, size_t other) {
  return other != at && !r->outer[other] && r->ends.at[other]->open == r->ends.at[at]->open;
}

static bool is_heaviest(const Rows *r, size_t at) {
  for (size_t i = 0; i < r->ends.len; i++)
    if (is_beside(r, at, i) && (r->work[i] > r->work[at] || (r->work[i] == r->work[at] && i < at)))
      return false;
  return true;
}

static Hints find_hints(Rows *r, size_t at) {
  const UOp *end = r->ends.at[at];
  UOp *outer = end_around(r, end), *around = outer ? outer->src[1] : NULL;
  Hints h = {0};
  for (size_t i = 0; around && i < r->ends.len; i++)
    if (is_beside(r, at, i) && same_steps(r->ends.at[i], end))
      find_writes(r, end, r->ends.at[i], &h);
  if (h.n) find_reads(r, end, around, &h);
  if (r->work[at] < h.n * WORK_PER_LINE) h.n = 0;
  return h;
}

UOp *prefetch_rows(Job *job, UOp *root, const Target *target) {
  if (target->max_group || !target->l2_bytes) return root;
  Rows r = find_loops(job, root, target->l2_bytes);
  UOp *from[MOST], *to[MOST];
  size_t n = 0;
  look(&r);
  for (size_t i = 0; i < r.ends.len && n < MOST; i++) {
    UOp *end = r.ends.at[i];
    if (r.outer[i] || !is_heaviest(&r, i)) continue;
    Hints h = find_hints(&r, i);
    if (!h.n) continue;
    h.at[h.n++] = end->src[0];
    UOp *body = uop_make(job, OP_SINK, DT_VOID, arg_none(), h.at, h.n);
    from[n] = end, to[n++] = uop2(job, OP_END, body, end->src[1]);
  }
  return n ? uop_substitute(job, root, from, to, n) : root;
}

/* -- panels ------------------------------------------------------------------------------------ */

static int64_t trips(const UOp *range) {
  return uop_is_const(range->src[0]) ? range->src[0]->arg.i : 0;
}

/* The loads of a loop that copies rows of large operands and does nothing else; else 0. */
static uint32_t find_copied(Rows *r, const UOp *end, const UOp **out) {
  UOpList list = uop_toposort(r->job, end->src[0]);
  uint32_t n = 0;
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    bool more = u->op == OP_MULACC || u->op == OP_END || n == MOST_SHARE;
    if (more || (u->op == OP_STORE && u->src[0]->op == OP_PARAM)) return 0;
    if (u->op != OP_LOAD || !uop_is_open(u->src[1], end->src[1])) continue;
    if (u->nsrc > 2 || u->lanes < 2 || !is_row(r, u, end->src[1])) return 0;
    out[n++] = u;
  }
  return n;
}

/* Products of one iteration of a loop. */
static int64_t products_of(Rows *r, const UOp *end) {
  UOpList list = uop_toposort(r->job, end->src[0]);
  int64_t products = 0;
  for (size_t i = 0; i < list.len; i++) {
    const UOp *u = list.at[i];
    int64_t times = u->op == OP_MULACC && uop_is_open(u, end->src[1]);
    for (uint32_t k = 0; times && k < u->open->n; k++) {
      const UOp *range = u->open->at[k];
      if (range != end->src[1] && !uop_is_open(end, range)) times *= trips(range);
    }
    products += times;
  }
  return products;
}

static bool is_used_in(Rows *r, const UOp *copy, const UOp *end) {
  UOpList list = uop_toposort(r->job, end->src[0]);
  for (size_t i = 0; i < list.len; i++)
    if (list.at[i] == copy) return true;
  return false;
}

/* The loop beside a copy that computes most with what was copied. */
static UOp *find_user(Rows *r, const UOp *copy, int64_t *products) {
  UOp *best = NULL;
  *products = 0;
  for (size_t i = 0; i < r->ends.len; i++) {
    UOp *u = r->ends.at[i];
    if (u == copy || u->open != copy->open || !is_used_in(r, copy, u)) continue;
    int64_t n = products_of(r, u);
    if (n > *products) best = u, *products = n;
  }
  return best;
}

/* How the ranges around a copy go on: the panel after the last is the first of the next outer one.
 */
typedef struct Next {
  UOp *from[3], *to[3];
  uint32_t n;
} Next;

static bool find_next(Rows *r, const UOp *copy, const UOp *load, Next *out) {
  Job *job = r->job;
  const UOp *end = end_around(r, copy), *outer = end ? end_around(r, end) : NULL;
  if (!end || !uop_is_open(load->src[1], end->src[1])) return false;
  UOp *range = end->src[1], *next = uop2(job, OP_ADD, range, uop_index(job, 1));
  *out = (Next){.from = {NULL, range}, .to = {NULL, next}, .n = 2};
  if (!outer || !uop_is_open(load->src[1], outer->src[1]) || !trips(range)) return true;
  UOp *last = uop_index(job, trips(range));
  out->to[1] = uop2(job, OP_FLOORMOD, next, last);
  out->from[2] = outer->src[1];
  out->to[2] = uop2(job, OP_ADD, outer->src[1], uop2(job, OP_FLOORDIV, next, last));
  out->n = 3;
  return true;
}

/* The user of a copy with its share of the next one; NULL: there is nothing to gain. */
static UOp *with_share(Rows *r, const UOp *copy, UOp **user) {
  Job *job = r->job;
  const UOp *loads[MOST_SHARE];
  UOp *body[MOST_SHARE + 1];
  Next next[MOST_SHARE];
  uint32_t n = find_copied(r, copy, loads), len = 0;
  int64_t products, steps = trips(copy->src[1]);
  for (uint32_t i = 0; i < n; i++)
    if (!find_next(r, copy, loads[i], &next[i])) return NULL;
  if (!n || !steps || !(*user = find_user(r, copy, &products))) return NULL;
  UOp *tile = (*user)->src[1];
  if (trips(tile) < 2) return NULL;
  int64_t share = (steps + trips(tile) - 1) / trips(tile);
  if (share > MOST_SHARE / n || products < share * n * PRODUCTS_PER_LINE) return NULL;
  UOp *first = uop2(job, OP_MUL, tile, uop_index(job, share));
  for (uint32_t k = 0; k < share * n; k++) {
    const UOp *load = loads[k % n];
    Next *to = &next[k % n];
    to->from[0] = copy->src[1];
    to->to[0] = uop2(job, OP_ADD, first, uop_index(job, k / n));
    UOp *src[2] = {load->src[0], uop_substitute(job, load->src[1], to->from, to->to, to->n)};
    body[len++] = uop_make(job, OP_PREFETCH, DT_VOID, arg_i(1), src, 2);
  }
  body[len++] = (*user)->src[0];
  return uop2(job, OP_END, uop_make(job, OP_SINK, DT_VOID, arg_none(), body, len), tile);
}

/* -- panels that lie as they are used ---------------------------------------------------------- */

/* The nest of a panel that is read where it lies: its steps in two loops, the tiles that use it,
 * and the panels. */
typedef struct Nest {
  const UOp *step, *steps, *tile;
  UOp *panel;
  UOp *load;     /* one of the panel's */
  int64_t lines; /* of a panel */
} Nest;

/* Does the panel lie in the order of its steps, one behind the other? */
static bool is_whole(const Nest *n) {
  IxSum index = ix_sum_of(n->load->src[1]);
  int64_t step = ix_coef(&index, n->step->src[1]), all = ix_coef(&index, n->steps->src[1]);
  int64_t panel = ix_coef(&index, n->panel);
  if (!dim_is_static(step) || !dim_is_static(all) || !dim_is_static(panel)) return false;
  return step > 0 && step * trips(n->step->src[1]) <= all && all * trips(n->steps->src[1]) == panel;
}

static bool find_nest(Rows *r, const UOp *end, Nest *out) {
  UOpList list = uop_toposort(r->job, end->src[0]);
  Nest n = {.step = end, .steps = end_around(r, end)};
  n.tile = n.steps ? end_around(r, n.steps) : NULL;
  UOp *outer = n.tile ? end_around(r, n.tile) : NULL;
  if (!outer) return false;
  n.panel = outer->src[1];
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = list.at[i];
    if (u->op == OP_END) return false; /* its loop is closed where the next panel is asked for */
    bool row = u->op == OP_LOAD && u->nsrc == 2 && u->lanes > 1 && is_row(r, u, end->src[1]);
    if (row && !n.load && uop_is_open(u->src[1], n.panel) &&
        !uop_is_open(u->src[1], n.tile->src[1]))
      n.load = u;
  }
  if (!n.load || !is_whole(&n)) return false;
  IxSum index = ix_sum_of(n.load->src[1]);
  n.lines = ix_coef(&index, n.panel) * dtype_info[n.load->dtype].bytes / LINE;
  *out = n;
  return true;
}

/* The loop over steps with its share of the next panel; NULL: there is nothing to gain. */
static UOp *with_part(Rows *r, const UOp *end, UOp **steps) {
  Job *job = r->job;
  Nest n;
  if (!find_nest(r, end, &n)) return NULL;
  UOp *tile = n.tile->src[1], *around = n.steps->src[1], *body[MOST_SHARE + 1];
  int64_t slots = trips(tile) * trips(around), share = slots ? (n.lines + slots - 1) / slots : 0;
  if (!share || trips(tile) < 2 || share > MOST_SHARE) return NULL;
  if (products_of(r, n.steps) < share * PRODUCTS_PER_LINE) return NULL;
  UOp *from[3] = {end->src[1], around, n.panel}, *zero = uop_index(job, 0);
  UOp *to[3] = {zero, zero, uop2(job, OP_ADD, n.panel, uop_index(job, 1))};
  UOp *first = uop_substitute(job, n.load->src[1], from, to, 3);
  UOp *slot = uop2(job, OP_ADD, uop2(job, OP_MUL, tile, uop_index(job, trips(around))), around);
  int64_t line = LINE / dtype_info[n.load->dtype].bytes;
  first = uop2(job, OP_ADD, first, uop2(job, OP_MUL, slot, uop_index(job, share * line)));
  for (int64_t k = 0; k < share; k++) {
    UOp *src[2] = {n.load->src[0], uop2(job, OP_ADD, first, uop_index(job, k * line))};
    body[k] = uop_make(job, OP_PREFETCH, DT_VOID, arg_i(1), src, 2);
  }
  body[share] = n.steps->src[0];
  UOp *all = uop_make(job, OP_SINK, DT_VOID, arg_none(), body, (uint32_t)share + 1);
  *steps = (UOp *)(uintptr_t)n.steps;
  return uop2(job, OP_END, all, around);
}

UOp *prefetch_panels(Job *job, UOp *root, const Target *target) {
  if (target->max_group || !target->l2_bytes) return root;
  Rows r = find_loops(job, root, LARGE_PANELS);
  UOp *from[MOST_PANELS], *to[MOST_PANELS];
  size_t n = 0;
  for (size_t i = 0; i < r.ends.len && n < MOST_PANELS; i++) {
    UOp *user, *hinted = with_share(&r, r.ends.at[i], &user);
    if (!hinted) hinted = with_part(&r, r.ends.at[i], &user);
    for (size_t k = 0; hinted && k < n; k++)
      if (from[k] == user) hinted = NULL; /* two operands: the first one's */
    if (hinted) from[n] = user, to[n++] = hinted;
  }
  return n ? uop_substitute(job, root, from, to, n) : root;
}
