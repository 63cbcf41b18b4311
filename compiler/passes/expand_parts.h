/* What the parts of expand.c share. */
#pragma once

#include "compiler/ir/matrix.h"
#include "compiler/passes/expand.h"
#include "compiler/passes/expand_groups.h"
#include "compiler/passes/linsum.h"

enum { MAX_EXPANDED = 64 };

typedef struct ExpandedAxis {
  UOp *range;
  uint32_t size;
} ExpandedAxis;

typedef struct Node {
  uint64_t deps;  /* bits of expanded axes */
  uint32_t n;     /* instances */
  uint32_t depth; /* of the innermost loop it depends on */
  bool needed;
  bool indexes; /* some index is computed from it */
  UOp **at;
  UOp **product; /* of a REDUCE of an MMA: all elements that the thread has */
} Node;

typedef struct Expand {
  Job *job;
  UOpList list;
  NodeMap pos;
  Node *nodes;
  ExpandedAxis axes[MAX_EXPANDED];
  uint32_t naxes;
  uint64_t vectors; /* bits of VECTOR axes */
  uint32_t coord[MAX_EXPANDED];
  LinSumMap sums;
  Groups groups;
} Expand;

typedef struct SumTerm {
  LinTerm term;
  uint32_t depth, id;
} SumTerm;

/* An index at the current coordinates: base + stride * lane + the sum of vectors. */
typedef struct IndexAt {
  UOp *base; /* scalar */
  int64_t stride;
  unsigned lanes;
  const LinTerm *vectors; /* nonlinear vector atoms (instances) */
  uint32_t nvectors;
} IndexAt;

IndexAt expand_index_at(Expand *e, UOp *u);
int expand_by_depth(const void *x, const void *y);
Node *expand_node(Expand *e, const UOp *u);
/* The number of an expanded range; -1 for others. */
int expand_axis(const Expand *e, const UOp *range);
/* An MMA whose factors stay in the workgroup's memory. */
bool expand_of_tiles(const UOp *u);
bool expand_is_expanded(AxisType t);
/* Position of the current coordinates among a node's instances. */
uint32_t expand_slot(const Expand *e, uint64_t deps);
/* Steps the coordinates of `deps` like an odometer; false after the last. */
bool expand_next(Expand *e, uint64_t deps);
/* Bits of the expanded axes that u closes. */
uint64_t expand_closed(Expand *e, UOp *u);
UOp *expand_instance(Expand *e, UOp *u);
/* A source as an operand of an op with so many lanes. */
UOp *expand_operand(Expand *e, UOp *s, unsigned lanes, DType index_dtype);

/* expand_matrix.c */
UOp *expand_shuffle(Expand *e, UOp *const *src, size_t n, const int64_t *lanes, unsigned count);
/* An index without its constant. */
UOp *expand_index_base(UOp *index, int64_t *konst);
/* Sets the coordinates of an operand's digits to those of its element `reg`. */
void expand_go_to(Expand *e, UOp *mma, MatrixOperand o, unsigned reg);
bool expand_is_product(const UOp *u);
UOp *expand_product(Expand *e, UOp *mma);
/* Of all elements of the product those of this instance. */
UOp *expand_product_part(Expand *e, UOp *mma, UOp *product);
/* A value and a sum of products all of whose steps are written out: the sum begins with the value.
 */
bool expand_begins_sum(const UOp *u);
UOp *expand_begun_sum(Expand *e, UOp *u);
