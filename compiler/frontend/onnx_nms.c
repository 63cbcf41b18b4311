/* NonMaxSuppression. Per batch and class, as often as boxes may be selected: the alive box with the
 * highest score is taken, and it and what overlaps it too much die. Scores are compared as i64
 * keys, of which the lowest number is death. The result is as long as the run says: the number of
 * boxes taken is bound to a VAR, and each row of the result searches the prefix sums for its box.
 */
#include "compiler/frontend/build_sort.h"
#include "compiler/frontend/onnx_math.h"

enum { MAX_TAKEN = 1 << 12 };

typedef struct Nms {
  Node *n;
  int64_t batches, classes, boxes, taken;
  UOp *low[2], *high[2], *area; /* [B, 1, boxes] */
  UOp *iou;                     /* threshold */
} Nms;

static UOp *scalar_source(Node *n, size_t k) {
  UOp *u = node_opt(n, k);
  if (u && shape_numel(u->shape) != 1) bad_shape(n, "threshold", u);
  return u ? build_reshape(n->job, u, (Ints){0}) : NULL;
}

/* Corners from [y1, x1, y2, x2] in any order, or from centres and sizes [x, y, w, h]. */
static void corners(Nms *m, UOp *boxes) {
  Node *n = m->n;
  int64_t centre = attr_int(n, "center_point_box", 0);
  for (int64_t i = 0; i < 2; i++) { /* 0: y, 1: x */
    UOp *a = column(n, boxes, centre ? 1 - i : i), *b = column(n, boxes, centre ? 3 - i : 2 + i);
    UOp *half = centre ? scaled(n, b, 0.5) : NULL;
    m->low[i] = build_unsqueeze(n->job, half ? sub(n, a, half) : smaller(n, a, b), 1);
    m->high[i] = build_unsqueeze(n->job, half ? add(n, a, half) : larger(n, a, b), 1);
  }
  m->area = mul(n, sub(n, m->high[0], m->low[0]), sub(n, m->high[1], m->low[1]));
}

/* The value of every (batch, class)'s box `at` [B, C, 1]. */
static UOp *of_box(Nms *m, UOp *list, UOp *at) {
  Node *n = m->n;
  UOp *flat = build_reshape_v(n->job, list, 1, m->batches * m->boxes);
  UOp *image = build_iota(n->job, DT_I64, 0, at->shape);
  return build_gather(n->job, flat, add(n, mul(n, image, i64(n, m->boxes)), at), 0);
}

/* Whether each box overlaps box `at` of its batch and class too much: [B, C, boxes]. */
static UOp *overlaps(Nms *m, UOp *at) {
  Node *n = m->n;
  UOp *inter = NULL, *zero = num(n, m->area, 0), *any = NULL;
  for (int i = 0; i < 2; i++) {
    UOp *lo = larger(n, m->low[i], of_box(m, m->low[i], at));
    UOp *hi = smaller(n, m->high[i], of_box(m, m->high[i], at)), *side = sub(n, hi, lo);
    UOp *positive = less(n, zero, side);
    any = any ? both(n, any, positive) : positive;
    inter = inter ? mul(n, inter, side) : side;
  }
  UOp *mine = of_box(m, m->area, at), *all = sub(n, add(n, m->area, mine), inter);
  any = both(n, any, both(n, less(n, zero, inter), less(n, zero, all)));
  any = both(n, any, both(n, less(n, zero, m->area), less(n, zero, mine)));
  return both(n, any, less(n, m->iou, quot(n, inter, all)));
}

/* Boxes taken and whether there was one, both [B, C, taken] and i64. */
static void take_boxes(Nms *m, UOp *key, UOp *limit, UOp **box, UOp **on) {
  Node *n = m->n;
  Job *job = n->job;
  UOp *dead = i64(n, INT64_MIN);
  UOp **boxes = arena_array(&job->arena, (size_t)m->taken, sizeof *boxes);
  UOp **found = arena_array(&job->arena, (size_t)m->taken, sizeof *found);
  UOp *index = build_iota(job, DT_I64, 2, key->shape);
  for (int64_t k = 0; k < m->taken; k++) {
    UOp *best = build_argmax(job, key, 2, OP_MAX, false);
    best = uop1(job, OP_CONTIGUOUS, best);
    UOp *ok = less(n, dead, build_reduce(job, OP_MAX, key, axis_bit(2), true));
    if (limit) ok = both(n, ok, less(n, i64(n, k), limit));
    boxes[k] = best;
    found[k] = cast(n, ok, DT_I64);
    UOp *gone = either(n, equal(n, index, best), overlaps(m, best));
    key = uop1(job, OP_CONTIGUOUS, choose(n, gone, dead, key));
  }
  *box = build_cat(job, boxes, (size_t)m->taken, 2);
  *on = build_cat(job, found, (size_t)m->taken, 2);
}

/* The number of ones: known when nothing depends on an input, else what the run says. */
static int64_t count_of(Node *n, UOp *on, int64_t max) {
  UOp *sum = build_reduce(n->job, OP_ADD, on, axis_bit(0), false);
  bool dynamic = false;
  for (size_t i = 0; i < n->nin; i++) dynamic |= n->in[i] && n->in[i]->dynamic;
  const uint8_t *known = dynamic ? NULL : val_data(n->f, val_from_uop(n->f, sum, false));
  if (known) return data_int(DT_I64, known, 0);
  return front_bind(n->f, sum, 0, max, node_label(n, "number of boxes"));
}

static void op_nms(Node *n) {
  Job *job = n->job;
  Nms m = {.n = n};
  UOp *boxes = node_u(n, 0), *scores = node_u(n, 1), *limit = NULL, *box, *on;
  if (boxes->shape.n != 3 || scores->shape.n != 3) bad_shape(n, "boxes", boxes);
  m.batches = front_static(job, boxes->shape.at[0], "number of batches");
  m.boxes = front_static(job, boxes->shape.at[1], "number of boxes");
  m.classes = front_static(job, scores->shape.at[1], "number of classes");
  if (boxes->shape.at[2] != 4 || scores->shape.at[0] != m.batches || scores->shape.at[2] != m.boxes)
    bad_shape(n, "scores", scores);
  m.taken = m.boxes;
  if (!node_has(n, 2)) {
    m.taken = 0;
  } else if (val_data(n->f, node_in(n, 2))) {
    int64_t most = node_int(n, 2, "max_output_boxes_per_class");
    m.taken = most < 0 ? 0 : most < m.boxes ? most : m.boxes;
  } else {
    limit = cast(n, scalar_source(n, 2), DT_I64);
  }
  int64_t total = m.batches * m.classes * m.taken;
  if (m.taken > MAX_TAKEN)
    job_abort(job, FAIL(UNIMPLEMENTED, "up to %lld boxes of a class, at most %d",
                        (long long)m.taken, MAX_TAKEN));
  if (!total || total > MAX_NUMEL) {
    Ints none = {(int64_t[]){0, 3}, 2};
    node_out(n, 0, build_splat(job, i64(n, 0), none));
    return;
  }
  corners(&m, boxes);
  m.iou = node_has(n, 3) ? cast(n, scalar_source(n, 3), uop_dtype(boxes)) : num(n, boxes, 0);
  UOp *key = build_sort_key(job, scores), *least = scalar_source(n, 4);
  if (least) key = choose(n, less(n, least, scores), key, i64(n, INT64_MIN));
  take_boxes(&m, uop1(job, OP_CONTIGUOUS, key), limit, &box, &on);
  on = uop1(job, OP_CONTIGUOUS, build_reshape_v(job, on, 1, total));
  int64_t count = count_of(n, on, total);
  UOp *at = build_positions(job, build_prefix(job, OP_ADD, on), count), *rows[3];
  rows[0] = two(n, OP_FLOORDIV, at, i64(n, m.classes * m.taken));
  rows[1] = two(n, OP_FLOORMOD, two(n, OP_FLOORDIV, at, i64(n, m.taken)), i64(n, m.classes));
  rows[2] = build_gather(job, build_reshape_v(job, box, 1, total), at, 0);
  for (int i = 0; i < 3; i++) rows[i] = build_unsqueeze(job, rows[i], 1);
  node_out(n, 0, build_cat(job, rows, 3, 1));
}

const OnnxOp onnx_nms_ops[] = {
    {"", "NonMaxSuppression", 10, 2, 5, op_nms},
    {0},
};
