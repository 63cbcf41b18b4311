/* Latency of a cached run: a graph of one kernel (y = x * 2 + 1 on f32[1024]) over a Unix socket,
 * one call at a time, through libkiln.
 *
 *   bench_run ADDRESS [CALLS]      prints one JSON line: p50_us, p99_us, mean_us */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "client/c/kiln.h"
#include "kiln/v1/graph.pb-c.h"

enum { ELEMENTS = 1024, WARMUP = 200 };

static KilnError err;

static void must(KilnCode code) {
  if (!code) return;
  fprintf(stderr, "bench_run: %s: %s\n", kiln_code_name(code), err.message);
  exit(1);
}

/* Packs the graph into buf; returns its size. */
static size_t pack_graph(uint8_t *buf) {
  Kiln__V1__Graph g = KILN__V1__GRAPH__INIT;
  Kiln__V1__Param x = KILN__V1__PARAM__INIT, *params[] = {&x};
  Kiln__V1__Dim dim = KILN__V1__DIM__INIT, *dims[] = {&dim};
  Kiln__V1__GraphOutput y = KILN__V1__GRAPH_OUTPUT__INIT, *outputs[] = {&y};
  Kiln__V1__Node nodes[5], *list[5];
  int64_t zero = 0;
  uint32_t mul[] = {0, 1}, add[] = {3, 2};
  for (int i = 0; i < 5; i++) {
    kiln__v1__node__init(&nodes[i]);
    list[i] = &nodes[i];
  }
  dim.size = ELEMENTS;
  x.name = (char *)"x", x.dtype = KILN__V1__DTYPE__DTYPE_F32, x.dims = dims, x.n_dims = 1;
  nodes[0].op = KILN__V1__GRAPH_OP__PARAM, nodes[0].ints = &zero, nodes[0].n_ints = 1;
  for (int i = 1; i < 3; i++) {
    nodes[i].op = KILN__V1__GRAPH_OP__CONST, nodes[i].dtype = KILN__V1__DTYPE__DTYPE_F32;
    nodes[i].f = 3 - i;
  }
  nodes[3].op = KILN__V1__GRAPH_OP__MUL, nodes[3].src = mul, nodes[3].n_src = 2;
  nodes[4].op = KILN__V1__GRAPH_OP__ADD, nodes[4].src = add, nodes[4].n_src = 2;
  y.name = (char *)"y", y.node = 4;
  g.nodes = list, g.n_nodes = 5, g.params = params, g.n_params = 1, g.outputs = outputs,
  g.n_outputs = 1;
  return kiln__v1__graph__pack(&g, buf);
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static int64_t one_run(KilnClient *client, const KilnExecutable *exe, const KilnTensor *input) {
  KilnResult *result;
  int64_t t = clock_now_ns();
  must(kiln_run(client, exe->id, input, 1, NULL, &result, &err));
  t = clock_now_ns() - t;
  const float *in = input->data, *out = result->tensors[0].data;
  for (int i = 0; i < ELEMENTS; i++)
    if (out[i] != in[i] * 2 + 1)
      must((snprintf(err.message, sizeof err.message, "wrong answer at %d", i), KILN_INTERNAL));
  kiln_free(result);
  return t;
}

int main(int argc, char **argv) {
  static float data[ELEMENTS];
  uint8_t graph[512];
  uint64_t dims[] = {ELEMENTS};
  KilnClient *client;
  KilnExecutable *exe;
  if (argc < 2) return fprintf(stderr, "usage: bench_run ADDRESS [CALLS]\n"), 64;
  int calls = argc > 2 ? atoi(argv[2]) : 10000;
  int64_t *times = calls > 0 ? calloc((size_t)calls, sizeof *times) : NULL, sum = 0;
  if (!times) return fprintf(stderr, "bench_run: '%s' is no number of calls\n", argv[2]), 64;
  for (int i = 0; i < ELEMENTS; i++) data[i] = (float)i;
  KilnModel model = {.bytes = graph,
                     .size = pack_graph(graph),
                     .name = "one kernel",
                     .format = KILN_FORMAT_KGRAPH};
  KilnTensor input = {
      .name = "x", .dtype = KILN_F32, .rank = 1, .dims = dims, .data = data, .bytes = sizeof data};
  must(kiln_connect(argv[1], NULL, &client, &err));
  must(kiln_compile(client, &model, NULL, &exe, &err));
  for (int i = 0; i < WARMUP; i++) one_run(client, exe, &input);
  for (int i = 0; i < calls; i++) sum += times[i] = one_run(client, exe, &input);
  qsort(times, (size_t)calls, sizeof *times, compare);
  printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"mean_us\": %.1f}\n",
         (double)times[calls / 2] / 1e3, (double)times[calls * 99 / 100] / 1e3,
         (double)sum / calls / 1e3);
  kiln_free(exe);
  kiln_close(client);
  free(times);
  return 0;
}
