/* What uop_make works out about a node; private to compiler/ir. */
#pragma once

#include "compiler/ir/uop.h"

/* uop_check without the shape rules. */
const char *check_rules(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                        size_t nsrc);
/* NULL and *out, or what is wrong. The node's sources have passed uop_check's dtype rules. */
const char *shape_infer(Job *job, Op op, Arg arg, UOp *const *src, size_t nsrc, Ints *out);
/* Interval of the values of a node whose other fields are set. */
void bounds_infer(const UOp *u, int64_t *vmin, int64_t *vmax);
/* The dtype that the op's type rule gives; `given` for LEAF and GIVEN. */
DType dtype_infer(Op op, DType given, UOp *const *src, size_t nsrc);
unsigned lanes_infer(Op op, UOp *const *src, size_t nsrc);
/* The open ranges of a node whose op and sources are set. */
const RangeSet *ranges_infer(Job *job, UOp *u);
