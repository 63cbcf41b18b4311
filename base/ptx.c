/* PTX as ptxas is given it.
 *
 * ptxas 13.0, which is also the compiler in NVIDIA's driver 580, makes one instruction of two that
 * follow each other for integers of 32 and of 16 bits, and forgets to negate an operand: of
 * min(min(a, -b), -c) comes min(a, b, -c). Every integer minimum or maximum of these widths becomes
 * a comparison and a choice, which it does not join. LLVM makes them of comparisons and choices,
 * too, so nothing before the text is the place for it. */
#include "base/ptx.h"

#include <string.h>

static const struct Joined {
  const char *op, *type, *bits;
} joined[] = {
    {"min", "s32", "b32"}, {"min", "u32", "b32"}, {"min", "s16", "b16"}, {"min", "u16", "b16"},
    {"max", "s32", "b32"}, {"max", "u32", "b32"}, {"max", "s16", "b16"}, {"max", "u16", "b16"},
};

/* The operands of one of those, "d, a, b" in text; NULL: it is none. */
static const struct Joined *find(const char *line, size_t n, const char **operands) {
  for (size_t i = 0; i < sizeof joined / sizeof *joined; i++) {
    size_t op = strlen(joined[i].op), type = strlen(joined[i].type), all = op + 1 + type;
    if (n <= all || memcmp(line, joined[i].op, op) != 0 || line[op] != '.') continue;
    if (memcmp(line + op + 1, joined[i].type, type) != 0) continue;
    if (line[all] != ' ' && line[all] != '\t') continue;
    *operands = line + all;
    return &joined[i];
  }
  return NULL;
}

/* Where the operand that begins at s ends: at a comma, a semicolon, or the end. */
static const char *operand(const char *s, const char *end, Str *out) {
  while (s < end && (*s == ' ' || *s == '\t' || *s == ',')) s++;
  const char *from = s;
  while (s < end && *s != ',' && *s != ';') s++;
  *out = (Str){from, (size_t)(s - from)};
  return s;
}

static void add_choice(StrBuf *out, const struct Joined *j, const char *s, const char *end) {
  Str at[3];
  for (int k = 0; k < 3; k++) s = operand(s, end, &at[k]);
  const char *than = *j->op == 'm' && j->op[1] == 'i' ? "lt" : "gt";
  strbuf_addf(out, "\t{ .reg .pred q; setp.%s.%s q, %.*s, %.*s; selp.%s %.*s, %.*s, %.*s, q; }",
              than, j->type, (int)at[1].len, at[1].ptr, (int)at[2].len, at[2].ptr, j->bits,
              (int)at[0].len, at[0].ptr, (int)at[1].len, at[1].ptr, (int)at[2].len, at[2].ptr);
}

void ptx_add(StrBuf *out, Str ptx) {
  for (const char *s = ptx.ptr, *end = ptx.ptr + ptx.len; s < end;) {
    const char *stop = memchr(s, '\n', (size_t)(end - s)), *begin = s, *operands;
    const char *line_end = stop ? stop : end;
    while (begin < line_end && (*begin == ' ' || *begin == '\t')) begin++;
    const struct Joined *j = find(begin, (size_t)(line_end - begin), &operands);
    if (j)
      add_choice(out, j, operands, line_end);
    else
      strbuf_add(out, s, (size_t)(line_end - s));
    if (stop) strbuf_add(out, "\n", 1);
    s = stop ? stop + 1 : end;
  }
}
