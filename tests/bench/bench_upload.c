/* How fast tensors get to the server, through libkiln: streamed, and as memory passed over the Unix
 * socket.
 *
 *   bench_upload ADDRESS [MIB [TIMES]]     prints one JSON line per way: GB/s of the median upload
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "client/c/kiln.h"

static KilnError err;

static void must(KilnCode code) {
  if (!code) return;
  fprintf(stderr, "bench_upload: %s: %s\n", kiln_code_name(code), err.message);
  exit(1);
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* Uploads, frees, and says how long the upload took. */
static int64_t once(KilnClient *c, const KilnTensor *t, KilnMemory *m) {
  KilnBuffer *b;
  int64_t start = clock_now_ns();
  must(m ? kiln_upload_memory(c, t, m, NULL, &b, &err) : kiln_upload(c, t, NULL, &b, &err));
  int64_t ns = clock_now_ns() - start;
  const char *id = b->id;
  must(kiln_free_buffers(c, &id, 1, &err));
  kiln_free(b);
  return ns;
}

static void report(const char *way, int64_t *ns, int n, size_t bytes) {
  qsort(ns, (size_t)n, sizeof *ns, compare);
  printf("{\"way\": \"%s\", \"gb_per_s\": %.2f, \"best\": %.2f, \"us\": %.1f}\n", way,
         (double)bytes / (double)ns[n / 2], (double)bytes / (double)ns[0], (double)ns[n / 2] / 1e3);
}

int main(int argc, char **argv) {
  int64_t ns[1000];
  KilnClient *c;
  if (argc < 2) return fprintf(stderr, "usage: bench_upload ADDRESS [MIB [TIMES]]\n"), 64;
  size_t bytes = (size_t)(argc > 2 ? atoi(argv[2]) : 64) << 20;
  int times = argc > 3 ? atoi(argv[3]) : 30;
  if (!bytes || times < 1 || times > 1000)
    return fprintf(stderr, "bench_upload: bad numbers\n"), 64;
  uint64_t dim = bytes;
  char *data = malloc(bytes);
  KilnTensor t = {
      .dtype = KILN_U8, .rank = 1, .dims = &dim, .data = data, .bytes = bytes, .name = "x"};
  if (!data) return 1;
  memset(data, 1, bytes);
  must(kiln_connect(argv[1], NULL, &c, &err));
  for (int i = 0; i < times; i++) ns[i] = once(c, &t, NULL);
  report("streamed", ns, times, bytes);
  KilnMemory *m;
  must(kiln_memory_create(bytes, &m, &err));
  memset(kiln_memory_data(m), 1, bytes);
  for (int i = 0; i < times; i++) ns[i] = once(c, &t, m);
  report("memory, built in place", ns, times, bytes);
  for (int i = 0; i < times; i++) {
    KilnMemory *fresh;
    int64_t start = clock_now_ns();
    must(kiln_memory_create(bytes, &fresh, &err));
    memcpy(kiln_memory_data(fresh), data, bytes);
    start = clock_now_ns() - start;
    ns[i] = start + once(c, &t, fresh);
    kiln_memory_free(fresh);
  }
  report("memory, fresh, copied into", ns, times, bytes);
  kiln_memory_free(m);
  kiln_close(c);
  free(data);
  return 0;
}
