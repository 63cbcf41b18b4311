/* Ops that few targets have: the table of codegen/native.def. */
#pragma once

#include "compiler/ir/plan.h"

typedef struct NativeOp {
  Op op;
  DType dtype;
  unsigned lanes;
  const char *feature, *code;
  int control; /* -1: the instruction has none */
} NativeOp;

/* The instruction for op on elements of dtype; NULL when the target, which may be NULL, has none.
 */
const NativeOp *native_find(const Target *target, Op op, DType dtype);
/* True when the target's feature string enables `name`. */
bool native_feature(const Target *target, const char *name);
