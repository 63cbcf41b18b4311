/* The digits of matrix.def, read once into weights.
 *
 * A coordinate is the sum of its digits times their weights, the number of a thread
 * q + size(q) * (p + size(p) * r) and that of its element a + size(a) * (b + size(b) * c). Both
 * directions are a few divisions. */
#include "compiler/ir/matrix.h"

#include <assert.h>
#include <stdlib.h>

const char matrix_lanes[] = "qpr";

typedef struct Row {
  const char *name, *feature, *code;
  unsigned threads, m, n, k;
  DType dtype[3];
  const char *coord[3][2];
} Row;

static const Row rows[MX__COUNT] = {
#define MATRIX(name_, feature_, code_, threads_, m_, n_, k_, a_, b_, c_, am_, ak_, bn_, bk_, cm_,  \
               cn_)                                                                                \
  [MX_##name_] = {#name_,                                                                          \
                  feature_,                                                                        \
                  code_,                                                                           \
                  threads_,                                                                        \
                  m_,                                                                              \
                  n_,                                                                              \
                  k_,                                                                              \
                  {DT_##a_, DT_##b_, DT_##c_},                                                     \
                  {{am_, ak_}, {bn_, bk_}, {cm_, cn_}}},
#include "compiler/codegen/matrix.def"
#undef MATRIX
};

static void read_coord(MatrixLayout *l, const char *text, bool second) {
  unsigned weight = 1;
  while (*text) {
    char *end;
    MatrixDigit d = {.of = *text, .weight = (uint16_t)weight, .second = second};
    d.size = (uint16_t)strtoul(text + 1, &end, 10);
    assert(d.size > 1 && l->n < MATRIX_DIGITS && strchr("qprabc", d.of));
    weight *= d.size;
    l->digit[l->n++] = d;
    if (d.of <= 'c') l->registers *= d.size;
    text = end;
  }
}

static bool has_lanes(const MatrixLayout *l) {
  for (unsigned i = 0; i < l->n; i++)
    if (l->digit[i].of > 'c') return true;
  return false;
}

const MatrixInfo *matrix_info(int64_t id) {
  static MatrixInfo known[MX__COUNT];
  if (id < 0 || id >= MX__COUNT) return NULL;
  MatrixInfo *info = &known[id];
  const Row *r = &rows[id];
  if (info->name) return info;
  MatrixInfo fresh = {.feature = r->feature,
                      .code = r->code,
                      .threads = r->threads,
                      .m = r->m,
                      .n = r->n,
                      .k = r->k};
  for (int o = 0; o < 3; o++) {
    fresh.dtype[o] = r->dtype[o];
    fresh.layout[o].registers = 1;
    for (int c = 0; c < 2; c++) read_coord(&fresh.layout[o], r->coord[o][c], c);
  }
  fresh.cut = strstr(r->code, ".tf32") != NULL;
  fresh.shared = r->threads > 1 && !has_lanes(&fresh.layout[MATRIX_B]);
  fresh.held = fresh.shared && has_lanes(&fresh.layout[MATRIX_A]);
  fresh.name = r->name;
  *info = fresh;
  return info;
}

bool matrix_in_memory(const MatrixInfo *info, int factor) {
  return info->shared && !(info->held && factor == MATRIX_A);
}

uint32_t matrix_source(const MatrixInfo *info, MatrixOperand o) {
  uint32_t at = 0;
  for (int f = 0; f < (int)o; f++) at += matrix_in_memory(info, f) ? 2 : 1;
  return at;
}

/* "sm_90a" is 90. */
static long gpu_number(const char *cpu) {
  return cpu && !strncmp(cpu, "sm_", 3) ? strtol(cpu + 3, NULL, 10) : 0;
}

static long number_after(const char *text, const char *name) {
  const char *at = text ? strstr(text, name) : NULL;
  return at ? strtol(at + strlen(name), NULL, 10) : 0;
}

static bool has_feature(const char *list, const char *name) {
  size_t n = strlen(name);
  for (const char *at = list; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
    if (*at == '+' && !strncmp(at + 1, name, n) && (at[n + 1] == ',' || !at[n + 1])) return true;
  return false;
}

bool matrix_on(const MatrixInfo *info, const Target *target) {
  long need = gpu_number(info->feature);
  if (!need) return !target->max_group && has_feature(target->features, info->feature);
  if (number_after(target->features, "+ptx") < number_after(info->feature, "+ptx")) return false;
  size_t len = strcspn(info->feature, "+"); /* "sm_90a": of that architecture alone */
  if (info->feature[len - 1] == 'a')
    return target->cpu && !strncmp(target->cpu, info->feature, len) && !target->cpu[len];
  return target->warp == info->threads && gpu_number(target->cpu) >= need;
}

bool matrix_takes(const Target *target, DType from, DType to) {
  for (int64_t id = 0; id < MX__COUNT; id++) {
    const MatrixInfo *m = matrix_info(id);
    bool factors = m->dtype[MATRIX_A] == from && m->dtype[MATRIX_B] == from;
    if (factors && m->dtype[MATRIX_C] == to && !m->cut && matrix_on(m, target)) return true;
  }
  return false;
}

UOp *matrix_cut(Job *job, UOp *x) {
  UOp *bits = uop_make(job, OP_BITCAST, DT_U32, arg_none(), &x, 1);
  UOp *mask = uop_scalar(job, DT_U32, (Scalar){.i = MATRIX_CUT_BITS});
  if (x->shape.n) {
    int64_t *ones = arena_array(&job->arena, x->shape.n, sizeof *ones);
    for (uint32_t d = 0; d < x->shape.n; d++) ones[d] = 1;
    mask = uop_make(job, OP_RESHAPE, DT_VOID, arg_ints(ones, x->shape.n), &mask, 1);
    mask = uop_make(job, OP_EXPAND, DT_VOID, arg_ints(x->shape.at, x->shape.n), &mask, 1);
  }
  bits = uop2(job, OP_AND, bits, mask);
  return uop_make(job, OP_BITCAST, DT_F32, arg_none(), &bits, 1);
}

bool matrix_is_mask(const UOp *u) {
  if (u->op != OP_AND || u->dtype != DT_U32) return false;
  const UOp *mask = u->src[1];
  while (mask->op == OP_EXPAND || mask->op == OP_RESHAPE) mask = mask->src[0];
  bool bits = u->src[0]->op == OP_BITCAST && u->src[0]->src[0]->dtype == DT_F32;
  return bits && uop_is_const(mask) && (uint32_t)mask->arg.i == MATRIX_CUT_BITS;
}

UOp *matrix_uncut(const UOp *u) {
  bool cut = u->op == OP_BITCAST && u->dtype == DT_F32 && matrix_is_mask(u->src[0]);
  return cut ? u->src[0]->src[0]->src[0] : NULL;
}

Scalar matrix_seen(const MatrixInfo *info, Scalar v) {
  if (!info->cut) return v;
  float x = (float)v.f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= MATRIX_CUT_BITS;
  memcpy(&x, &bits, sizeof x);
  return (Scalar){.f = x};
}

static unsigned digit_size(const MatrixLayout *l, char digit) {
  for (unsigned i = 0; i < l->n; i++)
    if (l->digit[i].of == digit) return l->digit[i].size;
  return 1;
}

unsigned matrix_registers_given(unsigned groups) {
  enum { MOST = 240 };
  unsigned each = (QUARTER_REGISTERS - COPIER_REGISTERS) / groups / REGISTERS_UNIT * REGISTERS_UNIT;
  return each < MOST ? each : MOST;
}

unsigned matrix_lane_size(const MatrixInfo *info, char digit) {
  unsigned size = 1;
  for (int o = 0; o < 3 && size == 1; o++) size = digit_size(&info->layout[o], digit);
  return size;
}

unsigned matrix_lane_step(const MatrixInfo *info, char digit) {
  unsigned step = 1;
  for (const char *c = matrix_lanes; *c != digit; c++) step *= matrix_lane_size(info, *c);
  return step;
}

unsigned matrix_digit(const MatrixLayout *l, const MatrixInfo *info, char digit, unsigned thread,
                      unsigned reg) {
  if (digit > 'c') return thread / matrix_lane_step(info, digit) % matrix_lane_size(info, digit);
  for (char c = 'a'; c < digit; c++) reg /= digit_size(l, c);
  return reg % digit_size(l, digit);
}

void matrix_element(const MatrixLayout *l, const MatrixInfo *info, unsigned thread, unsigned reg,
                    unsigned coord[2]) {
  coord[0] = coord[1] = 0;
  for (unsigned i = 0; i < l->n; i++) {
    const MatrixDigit *d = &l->digit[i];
    coord[d->second] += d->weight * matrix_digit(l, info, d->of, thread, reg);
  }
}

void matrix_find(const MatrixLayout *l, const MatrixInfo *info, unsigned x, unsigned y,
                 unsigned *thread, unsigned *reg) {
  *thread = *reg = 0;
  for (unsigned i = 0; i < l->n; i++) {
    const MatrixDigit *d = &l->digit[i];
    unsigned value = (d->second ? y : x) / d->weight % d->size, weight = 1;
    if (d->of > 'c') {
      *thread += value * matrix_lane_step(info, d->of);
      continue;
    }
    for (char c = 'a'; c < d->of; c++) weight *= digit_size(l, c);
    *reg += value * weight;
  }
}

/* -- the RANGEs of an MMA --------------------------------------------------------------------- */

static const MatrixOperand range_order[3] = {MATRIX_C, MATRIX_A, MATRIX_B};

static bool has_digit(const MatrixLayout *l, char digit) {
  for (unsigned i = 0; i < l->n; i++)
    if (l->digit[i].of == digit) return true;
  return false;
}

static unsigned lane_ranges(const MatrixInfo *info) {
  unsigned n = 0;
  for (const char *c = matrix_lanes; *c; c++) n += matrix_lane_size(info, *c) > 1;
  return n;
}

static unsigned own_ranges(const MatrixLayout *l) {
  unsigned n = 0;
  for (const char *c = "abc"; *c; c++) n += has_digit(l, *c) ? 1u : 0u;
  return n;
}

unsigned matrix_shared_ranges(const MatrixInfo *info) {
  return lane_ranges(info) + own_ranges(&info->layout[MATRIX_C]);
}

unsigned matrix_range_count(const MatrixInfo *info) {
  return matrix_shared_ranges(info) + own_ranges(&info->layout[MATRIX_A]) +
         own_ranges(&info->layout[MATRIX_B]);
}

int matrix_range_at(const MatrixInfo *info, MatrixOperand o, char digit) {
  unsigned at = 0;
  if (digit > 'c') {
    if (matrix_lane_size(info, digit) == 1) return -1;
    for (const char *c = matrix_lanes; *c != digit; c++) at += matrix_lane_size(info, *c) > 1;
    return (int)at;
  }
  at = lane_ranges(info);
  for (unsigned k = 0; range_order[k] != o; k++) at += own_ranges(&info->layout[range_order[k]]);
  for (char c = 'a'; c < digit; c++) at += has_digit(&info->layout[o], c) ? 1u : 0u;
  return has_digit(&info->layout[o], digit) ? (int)at : -1;
}

unsigned matrix_range_size(const MatrixInfo *info, unsigned at) {
  for (const char *c = matrix_lanes; *c; c++)
    if (matrix_range_at(info, MATRIX_C, *c) == (int)at) return matrix_lane_size(info, *c);
  for (int o = 0; o < 3; o++)
    for (const char *c = "abc"; *c; c++)
      if (matrix_range_at(info, (MatrixOperand)o, *c) == (int)at)
        return digit_size(&info->layout[o], *c);
  return 0;
}
