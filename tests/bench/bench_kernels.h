/* Kernels for the benchmarks of the search, by name. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "tests/unit/zoo.h"

/* A kernel by its name and sizes (bench_search.c lists them); NULL: there is none. */
static UOp *bench_kernel(Job *job, const char *what) {
  int64_t v[6] = {0};
  int n = 0;
  const char *p = strchr(what, ':');
  while (p && n < 6) {
    v[n++] = strtoll(p + 1, NULL, 10);
    p = strpbrk(p + 1, "x,");
  }
  Str name = {what, strcspn(what, ":")};
  if (str_is(name, "mm")) return zoo_matmul(job, DT_F32, v[0], v[1], v[2], false).sink;
  if (str_is(name, "mmt")) return zoo_matmul(job, DT_F32, v[0], v[1], v[2], true).sink;
  ZooConv c = {.n = 1,
               .c = v[0],
               .h = v[1],
               .w = v[1],
               .oc = v[2],
               .kh = v[3],
               .kw = v[3],
               .stride = v[4],
               .pad = v[5]};
  if (str_is(name, "conv")) return zoo_conv(job, c).sink;
  c = (ZooConv){.n = 1,
                .c = v[0],
                .h = v[1],
                .w = v[1],
                .oc = v[0],
                .kh = v[2],
                .kw = v[2],
                .stride = v[3],
                .pad = v[4],
                .depthwise = true};
  if (str_is(name, "dw")) return zoo_conv(job, c).sink;
  if (str_is(name, "softmax")) return zoo_softmax(job, v[0], v[1], false).sink;
  if (str_is(name, "layernorm")) return zoo_layernorm(job, v[0], v[1], false).sink;
  if (str_is(name, "sum")) return zoo_sum(job, DT_F32, OP_ADD, v[0], v[1], (int)v[2]).sink;
  if (str_is(name, "transpose")) return zoo_transpose(job, v[0], v[1]).sink;
  if (str_is(name, "add")) return zoo_elementwise(job, v[0]).sink;
  return NULL;
}

/* Kernel i of an endless list of small ones of ten families. */
static void bench_suite(int i, char *out, size_t cap) {
  static const int sides[] = {8, 16, 24, 32, 48, 64, 96, 128}, maps[] = {7, 14, 28};
  uint64_t h = hash_u64((uint64_t)i / 10 + 1);
  int a = sides[h % 8], b = sides[h / 8 % 8], c = sides[h / 64 % 8], map = maps[h / 512 % 3];
  int stride = 1 + (int)(h / 2048 % 2);
  switch (i % 10) {
  case 0: snprintf(out, cap, "mm:%dx%dx%d", a, b, c); break;
  case 1: snprintf(out, cap, "mmt:%dx%dx%d", a, b, c); break;
  case 2: snprintf(out, cap, "conv:%d,%d,%d,3,%d,1", a / 2, map, b / 2, stride); break;
  case 3: snprintf(out, cap, "conv:%d,%d,%d,1,%d,0", a, map, b, stride); break;
  case 4: snprintf(out, cap, "dw:%d,%d,3,%d,1", a, map, stride); break;
  case 5: snprintf(out, cap, "softmax:%dx%d", a, 4 * b); break;
  case 6: snprintf(out, cap, "layernorm:%dx%d", a, 4 * b); break;
  case 7: snprintf(out, cap, "sum:%dx%dx%d", 2 * a, 4 * b, (int)(h / 4096 % 2)); break;
  case 8: snprintf(out, cap, "transpose:%dx%d", 4 * a, 2 * b); break;
  default: snprintf(out, cap, "add:%d", 64 * a * b);
  }
}
