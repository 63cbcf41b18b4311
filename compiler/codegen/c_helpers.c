/* Functions that a kernel's text needs, made for a dtype and a number of lanes when first used.
 *
 * In a template $T is the type, $U and $S the unsigned and signed integers of its size, $B its
 * bits, $F, $I, $J and $H float, int, uint and ushort of as many lanes, $D double; $N is the
 * function's name and $name another helper of the same type. Templates are written so that the same
 * text is right for scalars and for vectors: conditions stand only in ?:, whose operands have the
 * size of what is compared, and results of arithmetic on narrow scalars, which C widens, are cast
 * back. */
#include "compiler/codegen/c_text.h"

typedef struct Template {
  const char *name, *text;
} Template;

static const Template templates[] = {
    {"iabs", "$T $N($T x) { return (x < ($T)(0)) ? as_$T(($U)(($U)(0) - as_$U(x))) : x; }\n"},
    {"idiv", "$T $N($T x, $T y) {\n"
             "  $T d = (y == ($T)(0)) ? ($T)(1) : y;\n"
             "  d = (d == ($T)(-1)) ? ($T)(1) : d;\n"
             "  $T q = x / d;\n"
             "  q = (y == ($T)(-1)) ? as_$T(($U)(($U)(0) - as_$U(x))) : q;\n"
             "  return (y == ($T)(0)) ? ($T)(0) : q;\n}\n"},
    {"irem", "$T $N($T x, $T y) {\n"
             "  $T d = (y == ($T)(0)) ? ($T)(1) : y;\n"
             "  d = (d == ($T)(-1)) ? ($T)(1) : d;\n"
             "  return x % d;\n}\n"},
    {"udiv", "$T $N($T x, $T y) {\n"
             "  $T q = x / ((y == ($T)(0)) ? ($T)(1) : y);\n"
             "  return (y == ($T)(0)) ? ($T)(0) : q;\n}\n"},
    {"urem", "$T $N($T x, $T y) {\n"
             "  $T r = x % ((y == ($T)(0)) ? ($T)(1) : y);\n"
             "  return (y == ($T)(0)) ? ($T)(0) : r;\n}\n"},
    /* 1 where truncation and flooring differ: a remainder with the sign that the divisor has not */
    {"inexact", "$T $N($T r, $T y) {\n"
                "  $T some = (($T)(r ^ y) < ($T)(0)) ? ($T)(1) : ($T)(0);\n"
                "  return (r == ($T)(0)) ? ($T)(0) : some;\n}\n"},
    {"floordiv", "$T $N($T x, $T y) { return $idiv(x, y) - $inexact($irem(x, y), y); }\n"},
    {"floormod", "$T $N($T x, $T y) {\n"
                 "  $T r = $irem(x, y);\n"
                 "  return r + (($inexact(r, y) == ($T)(0)) ? ($T)(0) : y);\n}\n"},
    {"shl", "$T $N($T x, $T y) {\n"
            "  $U n = as_$U(y);\n"
            "  $U r = ($U)(as_$U(x) << (n & ($U)($B - 1)));\n"
            "  return as_$T(($U)((n < ($U)($B)) ? r : ($U)(0)));\n}\n"},
    {"shr", "$T $N($T x, $T y) {\n"
            "  $U n = as_$U(y);\n"
            "  $U most = (n < ($U)($B)) ? n : ($U)($B - 1);\n"
            "  return x >> as_$T(most);\n}\n"},
    {"ushr", "$T $N($T x, $T y) {\n"
             "  $T r = x >> (y & ($T)($B - 1));\n"
             "  return (y < ($T)($B)) ? r : ($T)(0);\n}\n"},
    /* NaN if either is NaN, and -0 < +0 */
    {"fmax", "$T $N($T x, $T y) {\n"
             "  $T r = (x > y) ? x : y;\n"
             "  r = (x == y) ? as_$T(as_$S(x) & as_$S(y)) : r;\n"
             "  r = (x != x) ? x : r;\n"
             "  return (y != y) ? y : r;\n}\n"},
    {"fmin", "$T $N($T x, $T y) {\n"
             "  $T r = (x < y) ? x : y;\n"
             "  r = (x == y) ? as_$T(as_$S(x) | as_$S(y)) : r;\n"
             "  r = (x != x) ? x : r;\n"
             "  return (y != y) ? y : r;\n}\n"},
    {"fdiv", "$F $N($F x, $F y) { return convert_$F(convert_$D(x) / convert_$D(y)); }\n"},
    {"fsqrt", "$F $N($F x) { return convert_$F(sqrt(convert_$D(x))); }\n"},
    {"from_half", "$F $N($H h) {\n"
                  "  $J w = convert_$J(h);\n"
                  "  $J rest = w & ($J)(0x7fffu);\n"
                  "  $J bits = (rest << 13) + ($J)(112u << 23);\n"
                  "  bits = (rest >= ($J)(0x7c00u)) ? (rest << 13) | ($J)(0x7f800000u) : bits;\n"
                  "  $J tiny = as_$J(convert_$F(rest) * ($F)(0x1p-24f));\n"
                  "  bits = (rest < ($J)(0x400u)) ? tiny : bits;\n"
                  "  return as_$F(bits | ((w & ($J)(0x8000u)) << 16));\n}\n"},
    /* Normal results: half of the last kept place is added, less one if it is even. Subnormal ones:
     * adding 0.5 shifts the bits into place and rounds them. */
    {"to_half", "$H $N($F x) {\n"
                "  $J w = as_$J(x);\n"
                "  $J sign = (w >> 16) & ($J)(0x8000u);\n"
                "  $J mag = w & ($J)(0x7fffffffu);\n"
                "  $J r = mag + ($J)(0xfffu) - ($J)(112u << 23) + ((mag >> 13) & ($J)(1u));\n"
                "  r = r >> 13;\n"
                "  $J tiny = as_$J(as_$F(mag) + ($F)(0.5f)) - ($J)(0x3f000000u);\n"
                "  r = (mag < ($J)(113u << 23)) ? tiny : r;\n"
                "  r = (mag >= ($J)(143u << 23)) ? ($J)(0x7c00u) : r;\n"
                "  r = (mag > ($J)(0x7f800000u)) ? ($J)(0x7e00u) : r;\n"
                "  return convert_$H(r | sign);\n}\n"},
    {"from_bf16", "$F $N($H h) { return as_$F(convert_$J(h) << 16); }\n"},
    {"to_bf16", "$H $N($F x) {\n"
                "  $J w = as_$J(x);\n"
                "  $J r = (w + ($J)(0x7fffu) + ((w >> 16) & ($J)(1u))) >> 16;\n"
                "  r = ((w & ($J)(0x7fffffffu)) > ($J)(0x7f800000u))\n"
                "          ? (w >> 16) | ($J)(0x40u) : r;\n"
                "  return convert_$H(r);\n}\n"},
    /* truncated, and the last bit set when that lost anything */
    {"round_odd", "$F $N($D x) {\n"
                  "  $F near = convert_$F(x);\n"
                  "  $D back = convert_$D(near);\n"
                  "  $J bits = as_$J(near);\n"
                  "  $J over = convert_$J((fabs(back) > fabs(x)) & 1);\n"
                  "  $J lossy = convert_$J(((back < x) | (back > x)) & 1);\n"
                  "  return as_$F((bits - over) | lossy);\n}\n"},
};

static const char *expand(CText *c, const char *text, const char *self, DType d, unsigned lanes);

static const Template *find_template(const char *name, size_t len) {
  for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
    if (strlen(templates[i].name) == len && !memcmp(templates[i].name, name, len))
      return &templates[i];
  return NULL;
}

const char *c_helper(CText *c, const char *name, DType d, unsigned lanes) {
  const Template *t = find_template(name, strlen(name));
  const char *self = c_text(c, "k_%s_%s", name, c_type(c, d, lanes));
  for (size_t i = 0; i < c->nknown; i++)
    if (!strcmp(c->known[i], self)) return self;
  const char *text = expand(c, t->text, self, d, lanes);
  if (c->nknown == c->known_cap) {
    size_t cap = c->known_cap ? 2 * c->known_cap : 16;
    const char **more = arena_array(&c->arena, cap, sizeof *more);
    if (!more) return c_fail(c, NULL, "ran out of memory");
    if (c->nknown) memcpy(more, c->known, c->nknown * sizeof *more);
    c->known = more, c->known_cap = cap;
  }
  c->known[c->nknown++] = self;
  strbuf_adds(&c->helpers, c->dialect->function);
  strbuf_adds(&c->helpers, text);
  return self;
}

static const char *placeholder(CText *c, char which, const char *self, DType d, unsigned lanes) {
  switch (which) {
  case 'T': return c_type(c, d, lanes);
  case 'U': return c_type(c, c_unsigned(d), lanes);
  case 'S': return c_type(c, c_signed(d), lanes);
  case 'B': return c_text(c, "%u", 8u * dtype_info[d].bytes);
  case 'F': return c_type(c, DT_F32, lanes);
  case 'J': return c_type(c, DT_U32, lanes);
  case 'H': return c_type(c, DT_U16, lanes);
  case 'D': return c_type(c, DT_F64, lanes);
  default: return self; /* N */
  }
}

static const char *expand(CText *c, const char *text, const char *self, DType d, unsigned lanes) {
  StrBuf b = {0};
  for (const char *p = text; *p;) {
    size_t n = strcspn(p, "$");
    strbuf_add(&b, p, n);
    if (!*(p += n)) break;
    size_t len = strspn(++p, "abcdefghijklmnopqrstuvwxyz_0123456789");
    if (len) {
      const Template *t = find_template(p, len);
      strbuf_adds(&b, c_helper(c, t->name, d, lanes));
      p += len;
    } else {
      strbuf_adds(&b, placeholder(c, *p++, self, d, lanes));
    }
  }
  const char *out = b.failed ? NULL : arena_strdup(&c->arena, (Str){b.ptr, b.len});
  strbuf_deinit(&b);
  return out ? out : c_fail(c, NULL, "ran out of memory");
}
