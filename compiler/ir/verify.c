/* The spec of each stage.
 *
 * Arity, dtypes and shapes hold by construction (uop_make asserts them). What remains is which ops
 * a stage may hold, lanes, that loops are closed and unambiguous, and the proof obligation of every
 * memory access: the interval of its index lies inside the buffer, or it carries a gate. A gate is
 * trusted to guard the index that it comes with. */
#include "compiler/ir/verify.h"

#include <inttypes.h>

#include "base/vec.h"
#include "compiler/ir/dim.h"
#include "compiler/ir/matrix.h"
#include "compiler/ir/poly.h"
#include "compiler/ir/text.h"
#include "compiler/ir/tilecopy.h"
#include "compiler/ir/view.h"

typedef struct Verifier {
  Job *job;
  Stage stage;
  VEC(UOp *) ranges; /* seen; in the arena */
} Verifier;

static const char stage_letter[] = {
    [STAGE_TENSOR] = 'T', [STAGE_RANGED] = 'R', [STAGE_SCHEDULED] = 'R', [STAGE_LOWERED] = 'L'};
static const char *const stage_name[] = {[STAGE_TENSOR] = "tensor",
                                         [STAGE_RANGED] = "ranged",
                                         [STAGE_SCHEDULED] = "scheduled",
                                         [STAGE_LOWERED] = "lowered"};

/* -- accesses ---------------------------------------------------------------------------------- */

/* Any lane of a vector of index arithmetic as a scalar, with a RANGE for the lane's number; NULL
 * for what is computed otherwise. The arithmetic does not wrap: expand.c chose its width by bounds.
 */
static UOp *any_lane(Job *job, UOp *u, int depth) {
  enum { LANE_ID = 1 << 20 };
  if (!depth) return NULL;
  if (u->op == OP_RAMP) return uop_range(job, LANE_ID, AX_LOOP, uop_index(job, u->lanes));
  if (u->op == OP_CONST && u->dtype != DT_BOOL) return uop_index(job, u->arg.i);
  if (u->op == OP_BROADCAST || (u->op == OP_CAST && dtype_is_int((DType)u->src[0]->dtype)))
    return any_lane(job, u->src[0], depth - 1);
  if (u->dtype == DT_INDEX && u->lanes == 1) return u;
  bool known = u->op == OP_ADD || u->op == OP_SUB || u->op == OP_MUL || u->op == OP_MIN ||
               u->op == OP_MAX || u->op == OP_FLOORDIV || u->op == OP_FLOORMOD;
  UOp *a = known ? any_lane(job, u->src[0], depth - 1) : NULL;
  UOp *b = known ? any_lane(job, u->src[1], depth - 1) : NULL;
  return a && b ? uop2(job, (Op)u->op, a, b) : NULL;
}

/* Of a size or an index that is an expression over VARs: 0 <= index + reach < n in all lanes. */
static bool proven_inside(Job *job, UOp *index, int64_t reach, int64_t n) {
  enum { MAX_DEPTH = 24 };
  if (index->lanes > 1 && index->vmin >= 0 && index->vmax < dim_low(n)) return true;
  if (index->lanes > 1) index = any_lane(job, index, MAX_DEPTH);
  if (!index) return false;
  Poly i = poly_of(job, index);
  Poly first = poly_add(job, i, poly_const(job, reach < 0 ? reach : 0), 1);
  Poly last = poly_add(job, i, poly_const(job, reach > 0 ? reach : 0), 1);
  Poly room = poly_add(job, poly_of(job, dim_uop(job, n)), poly_const(job, 1), -1);
  return poly_proves(job, first) && poly_proves(job, poly_add(job, room, last, -1));
}

/* From the first to the last lane. */
static int64_t reach_of(const UOp *buf, const UOp *index, unsigned lanes, int64_t step) {
  return buf->lanes == 1 && index->lanes == 1 ? (int64_t)(lanes - 1) * step : 0;
}

bool verify_inside(Job *job, const UOp *buf, UOp *index, unsigned lanes, int64_t step) {
  int64_t n = buf->arg.ints.at[0], reach = reach_of(buf, index, lanes, step);
  int64_t lo = index->vmin, hi = index->vmax;
  bool ok =
      lo >= 0 && hi < n && lo + (reach < 0 ? reach : 0) >= 0 && hi < n - (reach > 0 ? reach : 0);
  return (ok && dim_is_static(n)) || proven_inside(job, index, reach, n);
}

static const char *check_bounds(Verifier *v, const UOp *u, const UOp *buf) {
  UOp *index = u->src[1];
  int64_t n = buf->arg.ints.at[0], step = u->lanes > 1 ? u->arg.i : 0;
  bool far = step > INT32_MAX || step < INT32_MIN;
  if (far && buf->lanes == 1 && index->lanes == 1) return "the distance of lanes is too large";
  if (u->nsrc > (u->op == OP_STORE ? 3 : 2)) return NULL;
  if (verify_inside(v->job, buf, index, u->lanes, step)) return NULL;
  const char *lanes = reach_of(buf, index, u->lanes, step) ? " plus the lanes' reach" : "";
  if (!dim_is_static(n))
    return arena_printf(&v->job->arena,
                        "the index in [%" PRId64 ", %" PRId64 "]%s is not proven to lie inside of "
                        "the buffer of %s elements, and there is no gate",
                        index->vmin, index->vmax, lanes, dim_text(v->job, n));
  return arena_printf(&v->job->arena,
                      "the index is in [%" PRId64 ", %" PRId64 "]%s, the buffer has %" PRId64
                      " elements, and there is no gate",
                      index->vmin, index->vmax, lanes, n);
}

static const char *check_access(Verifier *v, const UOp *u) {
  const UOp *buf = uop_storage(u->src[0]);
  if (buf->op != OP_PARAM && buf->op != OP_BUFFER) return "the first source is no buffer";
  if (buf->op == OP_PARAM && buf->arg.ints.n != 1) return "the buffer's PARAM is not flat";
  if (buf->op == OP_BUFFER && buf->arg.ints.at[1] == 1 && v->stage == STAGE_LOWERED &&
      u->src[1]->op != OP_CONST) {
    return "a register buffer is accessed at an index that is not constant";
  }
  return check_bounds(v, u, buf);
}

/* n elements from src[at + 1] of buffer src[at] on. */
static const char *check_part(Verifier *v, const UOp *u, uint32_t at, int64_t n, bool gate) {
  const UOp *buf = uop_storage(u->src[at]);
  if (buf->op != OP_PARAM && buf->op != OP_BUFFER) return "a source is no buffer";
  if (buf->op == OP_PARAM && buf->arg.ints.n != 1) return "the buffer's PARAM is not flat";
  if (gate || proven_inside(v->job, u->src[at + 1], n - 1, buf->arg.ints.at[0])) return NULL;
  int64_t lo = u->src[at + 1]->vmin, hi = u->src[at + 1]->vmax;
  if (dim_is_static(buf->arg.ints.at[0]) && lo >= 0 && hi <= buf->arg.ints.at[0] - n) return NULL;
  return "elements are not proven to lie inside of the buffer";
}

/* How far the last of so many rows, which are in blocks of 64, is from the first. */
static int64_t last_row(int64_t rows, const int64_t *step) {
  int64_t last = (rows - 1) % 64 * step[1] + (rows - 1) / 64 * step[2];
  int64_t full = rows < 64 ? 0 : 63 * step[1] + (rows / 64 - 1) * step[2];
  return last > full ? last : full;
}

/* The factors of a TILEMMA. */
static const char *check_tiles(Verifier *v, const UOp *u) {
  const MatrixInfo *info = matrix_info(u->arg.i);
  const char *bad = NULL;
  const int64_t *step = u->arg.ints.at;
  for (int f = 0; f < 2 && !bad; f++) {
    if (!matrix_in_memory(info, f)) continue;
    int64_t last = (info->k - 1) * step[0] + last_row(f ? info->n : info->m, step);
    bad = check_part(v, u, matrix_source(info, (MatrixOperand)f), last + 1, false);
    step += 3;
  }
  return bad;
}

/* What is inside of the tensor is inside of the PARAM. */
static const char *check_tilecopy(Verifier *v, const UOp *u) {
  TileCopy t = tilecopy_of(u);
  const UOp *from = u->src[2];
  int64_t last = 0;
  if (from->arg.ints.n != 1) return "the buffer's PARAM is not flat";
  for (uint32_t d = 0; d < t.axes; d++) last += (t.size[d] - 1) * t.step[d];
  if (last >= dim_low(from->arg.ints.at[0])) return "the tensor is larger than the PARAM";
  return check_part(v, u, 0, t.elements, false);
}

/* -- nodes ------------------------------------------------------------------------------------- */

static const char *check_range(Verifier *v, UOp *u) {
  AxisType axis = uop_axis(u);
  if (v->stage == STAGE_RANGED && axis != AX_LOOP && axis != AX_REDUCE && axis != AX_SERIAL) {
    return "the axis type belongs to a later stage";
  }
  if (v->stage == STAGE_LOWERED) {
    bool expanded = axis == AX_UPCAST || axis == AX_UNROLL || axis == AX_VECTOR;
    return expanded ? "the axis should have been expanded" : NULL;
  }
  for (size_t k = 0; k < v->ranges.len; k++) {
    if (v->ranges.at[k]->arg.i == u->arg.i) return "two RANGEs share an id";
  }
  avec_push(&v->job->arena, &v->ranges, u);
  return NULL;
}

static const char *check_lanes(const Verifier *v, const UOp *u) {
  if (v->stage != STAGE_LOWERED)
    return u->lanes == 1 ? NULL : "vectors belong to the lowered stage";
  if (op_info[u->op].flags & OPF_ALU) {
    for (uint32_t s = 0; s < u->nsrc; s++) {
      if (u->src[s]->lanes != u->lanes) return "the sources have other lanes";
    }
  }
  if (u->op == OP_STORE && u->nsrc > 2 && u->src[2]->lanes != u->lanes) {
    return "the value has other lanes";
  }
  if (u->op == OP_LOAD || u->op == OP_STORE) {
    for (uint32_t s = 1; s < u->nsrc; s++) {
      if (u->src[s]->lanes != 1 && u->src[s]->lanes != u->lanes) return "a source has other lanes";
    }
  }
  return NULL;
}

static bool after_fits(const UOp *u) {
  UOp *effect = u->src[1];
  if (effect->op == OP_VAR) return true;
  if (u->src[0]->op != OP_PARAM) return false;
  if (effect->op == OP_STORE) return view_param(effect->src[0]) == u->src[0];
  return effect->op == OP_LOOP && view_loop_updates(effect, u->src[0]);
}

static const char *check_tensor(const UOp *u) {
  if (u->op == OP_STORE && (u->nsrc != 2 || !view_param(u->src[0]))) {
    return "a tensor STORE has a PARAM or a view of one, and a value";
  }
  if (u->op == OP_STORE && !view_is_injective(u->src[0])) return "a STORE writes an element twice";
  if (u->op == OP_AFTER && u->nsrc != 2) return "a tensor AFTER has a value and an effect";
  if (u->op == OP_AFTER && !after_fits(u)) return "a tensor AFTER's effect is not on its PARAM";
  for (uint32_t s = 3; u->op == OP_LOOP && s < u->nsrc; s++) {
    Op op = (Op)u->src[s]->op;
    if (op != OP_STORE && op != OP_BIND && op != OP_AFTER) return "a LOOP holds STOREs and BINDs";
  }
  if (u->op == OP_REDUCE && u->nsrc != 1) return "a tensor REDUCE has no RANGEs";
  for (uint32_t s = 0; u->op == OP_SINK && s < u->nsrc; s++) {
    if (u->src[s]->op != OP_STORE && u->src[s]->op != OP_BIND) {
      return "a tensor SINK holds STOREs and BINDs";
    }
  }
  return NULL;
}

static const char *check_node(Verifier *v, UOp *u) {
  if (!strchr(op_info[u->op].stages, stage_letter[v->stage])) return "the op is not of this stage";
  const char *why = check_lanes(v, u);
  if (why) return why;
  if (v->stage == STAGE_TENSOR) return check_tensor(u);
  switch (u->op) {
  case OP_RANGE: return check_range(v, u);
  case OP_STORE:
    if (u->nsrc < 3) return "a STORE has no index";
    return check_access(v, u);
  case OP_INDEX:
  case OP_LOAD: return check_access(v, u);
  case OP_LDMATRIX: return check_part(v, u, 0, 8, false);
  case OP_TILEMMA: return check_tiles(v, u);
  case OP_TILECOPY: return check_tilecopy(v, u);
  case OP_COPY: {
    const char *bad = check_part(v, u, 0, u->arg.i, false);
    return bad ? bad : check_part(v, u, 2, u->arg.i, u->nsrc > 4);
  }
  case OP_REDUCE: return u->nsrc < 2 ? "a REDUCE has no RANGEs" : NULL;
  default: return NULL;
  }
}

/* With the last lines of the graph under u: the node and what it is made of. */
static Status report(Job *job, UOp *u, Stage stage, const char *after_pass, const char *why) {
  StrBuf text = {0};
  uop_print(job, u, &text);
  size_t from = text.len, lines = 0;
  while (from > 0 && lines < 12) lines += --from > 0 && text.ptr[from - 1] == '\n';
  Status st = FAIL(INTERNAL, "the %s graph after %s is wrong: %s, at\n%s%s", stage_name[stage],
                   after_pass, why, from ? "...\n" : "", text.ptr ? text.ptr + from : "");
  strbuf_deinit(&text);
  return st;
}

Status verify_graph(Job *job, UOp *root, Stage stage, const char *after_pass) {
  Verifier v = {.job = job, .stage = stage};
  UOpList list = uop_toposort(job, root);
  const char *why = NULL;
  UOp *bad = root;
  for (size_t k = 0; k < list.len && !why; k++) {
    bad = list.at[k];
    why = check_node(&v, bad);
  }
  if (!why && root->op != OP_SINK) why = "the root is not a SINK";
  if (!why && root->open) {
    why = arena_printf(&job->arena, "RANGE %" PRId64 " is not closed", root->open->at[0]->arg.i);
  }
  if (!why) return NULL;
  return report(job, bad, stage, after_pass, why);
}
