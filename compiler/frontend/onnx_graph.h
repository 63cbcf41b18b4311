/* The walk over an ONNX model's nodes, for handlers that have graphs of their own (If, Loop). */
#pragma once

#include "compiler/frontend/onnx_node.h"

/* Converts a subgraph of node n. Its formal inputs take the values of args (ninputs must match);
 * other names come from the graphs around it. results: one Val per output of the subgraph. */
void onnx_subgraph(Node *n, const OnnxGraph *g, Val **args, size_t nargs, Val **results);

/* The same for a subgraph that may not be needed: what is wrong with it, or NULL. What it requires
 * of a run is required where `guard` is true. */
Status onnx_try_subgraph(Node *n, const OnnxGraph *g, UOp *guard, Val **results);

/* Where the walk is and what it has made, for a handler that goes on after a subgraph was given up
 * half-way. */
typedef struct OnnxPlace {
  FrontMark made;
  void *scope;
  const OnnxNode *current;
  const OnnxOpset *opsets;
  size_t nopsets;
  unsigned depth;
} OnnxPlace;
OnnxPlace onnx_place(const Node *n);
void onnx_return(Node *n, OnnxPlace place);

/* Every family; NULL ends the list. */
extern const OnnxOp *const onnx_families[];

/* An input or output of the model of any type; an output's name for errors is `name`. */
Val *onnx_input(Front *f, Str name, const OnnxType *type);
void onnx_output(Front *f, Str name, Val *v);
