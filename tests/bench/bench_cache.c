/* Times what a warm start asks of the cache: one plan and its 100 kernels of 20 KiB, looked up by
 * key, on a file that holds 2,000 others. Prints one JSON line. The page cache is warm: the lookups
 * are repeated and the median is taken. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "cache/cache.h"
#include "proto/digest.h"

enum { KERNELS = 100, OTHERS = 2000, BYTES = 20 << 10, GRAPH_BYTES = 2 << 10, REPEATS = 51 };

static uint8_t graph[GRAPH_BYTES], value[BYTES], target[CACHE_HASH_BYTES];

static void must(Status st) {
  char text[500];
  if (!st) return;
  status_text(st, text, sizeof text);
  fprintf(stderr, "bench_cache: %s\n", text);
  exit(1);
}

/* The key of the i-th record; its canonical bytes stay in `graph` until the next call. */
static CacheKey key_of(int i, uint8_t hash[CACHE_HASH_BYTES]) {
  memcpy(graph, &i, sizeof i);
  digest_sha256(graph, sizeof graph, hash);
  return (CacheKey){hash, target, {graph, sizeof graph}};
}

static void fill(Cache *c) {
  uint8_t hash[CACHE_HASH_BYTES];
  uint32_t x = 1;
  for (int i = 0; i < OTHERS + KERNELS; i++) {
    /* half of the bytes random: machine code compresses to about a half */
    for (size_t k = 0; k < sizeof value; k += 2)
      value[k] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    CacheRecord r = {CACHE_KERNEL, key_of(i, hash), "bench", {value, sizeof value}};
    must(cache_put(c, &r, 1));
  }
  CacheRecord plan = {CACHE_PLAN, key_of(0, hash), "bench", {value, sizeof value}};
  must(cache_put(c, &plan, 1));
}

static double lookups_ms(Cache *c) {
  uint8_t hash[CACHE_HASH_BYTES];
  StrBuf out = {0};
  bool found;
  int64_t t = clock_now_ns();
  CacheKey plan = key_of(0, hash);
  must(cache_find(c, CACHE_PLAN, &plan, &found, &out));
  for (int i = 0; found && i < KERNELS; i++) {
    CacheKey k = key_of(i * (OTHERS / KERNELS), hash);
    out.len = 0;
    must(cache_find(c, CACHE_KERNEL, &k, &found, &out));
  }
  t = clock_now_ns() - t;
  if (!found) must(FAIL(INTERNAL, "a stored record was not found"));
  strbuf_deinit(&out);
  return (double)t / 1e6;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(void) {
  char folder[] = "/tmp/kiln-bench-XXXXXX", path[64], extra[80];
  double ms[REPEATS];
  Cache *c;
  if (!mkdtemp(folder)) must(FAIL(INTERNAL, "no temporary folder"));
  snprintf(path, sizeof path, "%s/cache.db", folder);
  must(cache_open(path, 0, &c));
  fill(c);
  cache_close(c);
  must(cache_open(path, 0, &c));
  for (int i = 0; i < REPEATS; i++) ms[i] = lookups_ms(c);
  cache_close(c);
  qsort(ms, REPEATS, sizeof *ms, compare);
  printf("{\"median_ms\": %.3f, \"kernels\": %d, \"bytes\": %d}\n", ms[REPEATS / 2], KERNELS,
         BYTES);
  static const char *const suffixes[] = {"", "-wal", "-shm"};
  for (size_t i = 0; i < 3; i++) {
    snprintf(extra, sizeof extra, "%s%s", path, suffixes[i]);
    unlink(extra);
  }
  rmdir(folder);
  return 0;
}
