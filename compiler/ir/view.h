/* Views of state: chains of movement ops over a parameter that a run updates in place.
 *
 * A version of a state is its PARAM (the contents before the run) or AFTER(PARAM, STORE): what a
 * STORE into a view of the version before it left, or AFTER(PARAM, LOOP). AFTER(PARAM, VAR) is what
 * a local of a loop holds when an iteration begins. Versions are values: the graph stays a pure
 * expression, and its meaning does not depend on where the bytes are. */
#pragma once

#include "compiler/ir/uop.h"

/* True for RESHAPE, PERMUTE, EXPAND, SHRINK, FLIP and WINDOW: every element is one of src0. */
bool view_op(const UOp *u);
/* What a chain of those ops is over; u itself when it is no such op. */
UOp *view_root(UOp *u);
/* The PARAM whose version the root of u is; NULL when it is something else. */
UOp *view_param(UOp *u);
/* True when no element of the root is an element of u twice, so that a STORE has one meaning. */
bool view_is_injective(const UOp *u);
/* The same ops on the same shapes, over any two roots. */
bool view_same(const UOp *a, const UOp *b);
/* A STORE of part of a version, as against that of an output. */
bool view_is_update(const UOp *store);
/* Whether the LOOP does something to the PARAM. */
bool view_loop_updates(const UOp *loop, const UOp *param);
/* Whether effect s of a LOOP (3 or more) belongs to every iteration, not to what is done before. */
bool view_in_body(const UOp *loop, uint32_t s);
