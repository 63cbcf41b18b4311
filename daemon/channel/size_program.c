/* One machine with a small stack of intervals serves for values too: a value is an interval whose
 * ends are equal. All arithmetic is on 128 bits and every result must fit 62, so nothing wraps. */
#include "daemon/channel/size_program.h"

#include <inttypes.h>

enum { STACK = 128, CODE_MAX = 8192 };

enum { SP_CONST, SP_VAR, SP_ADD, SP_SUB, SP_MUL, SP_FLOORDIV, SP_FLOORMOD, SP_MIN, SP_MAX };

__extension__ typedef __int128 Wide;

typedef struct WideRange {
  Wide low, high;
} WideRange;

Status size_program_check(const Kiln__V1__SizeProgram *p, size_t nvars) {
  size_t depth = 0;
  if (p->n_code > CODE_MAX) return FAIL(INTERNAL, "a size of %zu words", p->n_code);
  for (size_t i = 0; i < p->n_code; i++) {
    int64_t op = p->code[i];
    if (op == SP_CONST || op == SP_VAR) {
      if (++i == p->n_code || ++depth > STACK) return FAIL(INTERNAL, "a size is cut off or deep");
      if (op == SP_VAR && (p->code[i] < 0 || (uint64_t)p->code[i] >= nvars))
        return FAIL(INTERNAL, "a size names VAR %" PRId64 " of %zu", p->code[i], nvars);
      continue;
    }
    if (op < SP_ADD || op > SP_MAX || depth < 2)
      return FAIL(INTERNAL, "word %zu of a size is %" PRId64, i, op);
    depth--;
  }
  return depth == 1 ? NULL : FAIL(INTERNAL, "a size leaves %zu values", depth);
}

bool size_program_uses(const Kiln__V1__SizeProgram *p, size_t var) {
  for (size_t i = 0; i < p->n_code; i++) {
    if (p->code[i] != SP_CONST && p->code[i] != SP_VAR) continue;
    if (p->code[i] == SP_VAR && (uint64_t)p->code[i + 1] == var) return true;
    i++;
  }
  return false;
}

int64_t size_program_var(const Kiln__V1__SizeProgram *p) {
  return p->n_code == 2 && p->code[0] == SP_VAR ? p->code[1] : -1;
}

/* -- intervals ----------------------------------------------------------------------------------
 */

static Wide least(Wide a, Wide b) { return a < b ? a : b; }
static Wide most(Wide a, Wide b) { return a > b ? a : b; }

/* Division by zero gives 0, as the op table has it. */
static Wide floordiv(Wide a, Wide b) {
  if (!b) return 0;
  Wide q = a / b;
  return q * b != a && (a < 0) != (b < 0) ? q - 1 : q;
}

static WideRange corners(WideRange a, WideRange b, bool divide) {
  Wide at[4] = {divide ? floordiv(a.low, b.low) : a.low * b.low,
                divide ? floordiv(a.low, b.high) : a.low * b.high,
                divide ? floordiv(a.high, b.low) : a.high * b.low,
                divide ? floordiv(a.high, b.high) : a.high * b.high};
  WideRange r = {at[0], at[0]};
  for (int k = 1; k < 4; k++) r.low = least(r.low, at[k]), r.high = most(r.high, at[k]);
  return r;
}

static bool quotient(WideRange a, WideRange b, WideRange *out) {
  if (b.low == 0 && b.high == 0) return *out = (WideRange){0, 0}, true;
  if (b.low <= 0) return false; /* sizes are divided by what is above zero */
  *out = corners(a, b, true);
  return true;
}

static bool remainder_of(WideRange a, WideRange b, WideRange *out) {
  if (a.low == a.high && b.low == b.high) {
    Wide r = b.low ? a.low - floordiv(a.low, b.low) * b.low : 0;
    *out = (WideRange){r, r};
    return true;
  }
  if (b.low <= 0) return false;
  *out = (WideRange){0, b.high - 1};
  return true;
}

static bool combine(int64_t op, WideRange a, WideRange b, WideRange *out) {
  switch (op) {
  case SP_ADD: *out = (WideRange){a.low + b.low, a.high + b.high}; return true;
  case SP_SUB: *out = (WideRange){a.low - b.high, a.high - b.low}; return true;
  case SP_MUL: *out = corners(a, b, false); return true;
  case SP_FLOORDIV: return quotient(a, b, out);
  case SP_FLOORMOD: return remainder_of(a, b, out);
  case SP_MIN: *out = (WideRange){least(a.low, b.low), least(a.high, b.high)}; return true;
  default: *out = (WideRange){most(a.low, b.low), most(a.high, b.high)}; return true;
  }
}

static bool run(const Kiln__V1__SizeProgram *p, const int64_t *values, const SizeRange *ranges,
                WideRange *out) {
  const Wide limit = (Wide)1 << 62;
  WideRange stack[STACK];
  size_t n = 0;
  for (size_t i = 0; i < p->n_code; i++) {
    int64_t op = p->code[i];
    if (op == SP_CONST || op == SP_VAR) {
      int64_t v = p->code[++i];
      WideRange r = {v, v};
      if (op == SP_VAR && values) r = (WideRange){values[v], values[v]};
      if (op == SP_VAR && ranges) r = (WideRange){ranges[v].low, ranges[v].high};
      stack[n++] = r;
    } else {
      if (n < 2) return false;
      n--;
      if (!combine(op, stack[n - 1], stack[n], &stack[n - 1])) return false;
    }
    if (stack[n - 1].low < -limit || stack[n - 1].high > limit) return false;
  }
  if (!n) return false;
  *out = stack[0];
  return true;
}

bool size_program_eval(const Kiln__V1__SizeProgram *p, const int64_t *vars, int64_t *out) {
  WideRange r;
  *out = 0;
  if (!run(p, vars, NULL, &r) || r.low < 0) return false;
  *out = (int64_t)r.low;
  return true;
}

bool size_program_range(const Kiln__V1__SizeProgram *p, const SizeRange *vars, SizeRange *out) {
  WideRange r;
  *out = (SizeRange){0, 0};
  if (!run(p, NULL, vars, &r) || r.high < 0) return false;
  *out = (SizeRange){(int64_t)most(r.low, 0), (int64_t)r.high};
  return true;
}
