/* What an ONNX op handler works with: one node, its sources as values, its attributes.
 *
 * A handler reads sources with node_in/node_u, attributes with attr_*, and leaves its results with
 * node_out*. Everything aborts the job on bad input; the walker adds which node it was. */
#pragma once

#include "compiler/frontend/front.h"
#include "proto/onnx.h"

typedef struct OnnxWalk OnnxWalk;

typedef struct Node {
  Front *f;
  Job *job;
  const OnnxNode *proto;
  int64_t opset; /* version of the node's domain that the model imports */
  Val **in;      /* NULL: absent */
  size_t nin;
  Val **out; /* as many as proto->output.n, NULL until set */
  size_t nout;
  OnnxWalk *walk;
} Node;

typedef void (*OnnxHandler)(Node *n);

/* One op: since is the first opset version it handles. */
typedef struct OnnxOp {
  const char *domain, *name;
  int16_t since;
  uint8_t min_in, max_in; /* 255: any number */
  OnnxHandler fn;
} OnnxOp;

/* The families, each ended by an entry without a name. */
#define FAMILY(name) extern const OnnxOp onnx_##name##_ops[];
#include "compiler/frontend/onnx_families.def"
#undef FAMILY

/* -- sources --------------------------------------------------------------------------------- */

static inline bool node_has(const Node *n, size_t k) { return k < n->nin && n->in[k]; }
/* The k-th source, which has to be a tensor; aborts when it is absent. */
Val *node_in(Node *n, size_t k);
/* The k-th source, of any kind. */
Val *node_val(Node *n, size_t k);
UOp *node_u(Node *n, size_t k);
/* The node of the k-th source, or NULL. */
UOp *node_opt(Node *n, size_t k);
/* A source that has to be known at compile time, as integers. `what` is for the message. */
Ints node_ints(Node *n, size_t k, const char *what);
int64_t node_int(Node *n, size_t k, const char *what);
double node_float(Node *n, size_t k, const char *what);

/* A list of integers that describe sizes. Element i is the dim or (possibly negative) number at[i],
 * or when value[i] is not NULL a rank-0 i64 that only the run knows. */
typedef struct NodeSizes {
  uint32_t n;
  int64_t *at;
  UOp **value;
} NodeSizes;
NodeSizes node_sizes(Node *n, size_t k, const char *what);
NodeSizes node_size_list(Node *n, Ints list);
/* Element i as a rank-0 i64. */
UOp *node_size_value(Node *n, const NodeSizes *s, uint32_t i);
/* Element i as a dim: what only the run knows becomes a VAR in [0, max]. */
int64_t node_size_bound(Node *n, const NodeSizes *s, uint32_t i, int64_t max, const char *what);
/* Makes dims of the sizes of an axis's parts; they add up to d in every run that goes on. */
void node_part_sizes(Node *n, const NodeSizes *sizes, int64_t d);
/* "node 'y' (Reshape): what", for what a run reports. */
const char *node_label(Node *n, const char *what);

/* -- attributes ------------------------------------------------------------------------------ */

/* NULL when absent; aborts when it has another type. */
const OnnxAttribute *attr_find(Node *n, const char *name, int type);
int64_t attr_int(Node *n, const char *name, int64_t absent);
double attr_float(Node *n, const char *name, double absent);
Str attr_str(Node *n, const char *name, const char *absent);
/* n == 0 and at == NULL when absent. */
Ints attr_ints(Node *n, const char *name);
bool attr_has(Node *n, const char *name);
/* Aborts when absent. */
int64_t attr_need_int(Node *n, const char *name);
/* Axis list as bits, from the k-th source (opset >= since) or the attribute `axes`. `*given` is
 * false when there is none. */
uint32_t node_axes(Node *n, size_t k, int64_t since, size_t rank, bool *given);

/* When only the run knows some of the axes: a rank-0 bool per axis of a tensor of that rank, and
 * how many are listed; NULL when node_axes says which they are. */
UOp **node_late_axes(Node *n, size_t k, int64_t since, size_t rank, uint32_t *count);
/* The sizes, in order, of the axes of x that are not among `count` late ones, as bound VARs. */
void node_sizes_of_others(Node *n, const UOp *x, UOp *const *on, uint32_t count, int64_t *dims);

/* -- results --------------------------------------------------------------------------------- */

void node_out(Node *n, size_t k, UOp *u);
void node_out_val(Node *n, size_t k, Val *v);
/* True when the model wants the k-th result. */
static inline bool node_wants(const Node *n, size_t k) {
  return k < n->nout && n->proto->output.at[k].len;
}

/* The result of a node with the sources and attributes of Gemm. */
UOp *linear_gemm(Node *n);
/* x - zero in i32; zero NULL: x. */
UOp *node_centred(Node *n, UOp *x, UOp *zero);

/* -- types ----------------------------------------------------------------------------------- */

/* ONNX's number for an element type; aborts for what Kiln does not have. */
DType onnx_dtype(Job *job, int64_t data_type);
/* The same by its name in upper case. */
DType onnx_dtype_named(Job *job, Str name);
/* x as dtype d, as ONNX's Cast with the node's attributes says. */
UOp *onnx_cast(Node *n, UOp *x, DType d);
/* Decodes a TensorProto; `what` names it in errors. */
Val *onnx_tensor(Front *f, const OnnxTensor *t, const char *what);
