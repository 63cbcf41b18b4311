/* A small program on libkiln, in C that is C++ too: a graph, and a server that is not there. */
#include <kiln.h>
#include <stdio.h>

/* y = sum of 2^x over the second axis of x f32[4, n]. */
static KilnCode build(KilnGraph *g, KilnModel *model, KilnError *err) {
  KilnGraphDim dims[2] = {{0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}};
  int64_t axis = 1;
  KilnNode x;
  dims[0].size = 4;
  dims[1].name = "n";
  x = kiln_graph_param(g, "x", KILN_F32, 2, dims, 0);
  x = kiln_graph_op1(g, KILN_OP_EXP2, x);
  kiln_graph_output(g, "y", kiln_graph_reduce(g, KILN_OP_REDUCE_SUM, x, 1, &axis, 0));
  return kiln_graph_finish(g, model, err);
}

int main(void) {
  KilnError err;
  KilnClient *client;
  KilnGraph *g;
  KilnModel model;
  KilnCode code;
  if (kiln_graph_create(&g, &err) || build(g, &model, &err) || !model.size) {
    printf("%s\n", err.message);
    return 1;
  }
  kiln_graph_free(g);
  code = kiln_connect("unix:/nowhere/kiln.sock", NULL, &client, &err);
  printf("%s %s\n", kiln_version(), kiln_code_name(code));
  kiln_close(client);
  return code == KILN_UNAVAILABLE ? 0 : 1;
}
