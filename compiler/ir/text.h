/* Graphs as text and as canonical bytes.
 *
 * Text is for people, golden tests and bug reports, one node per line, sources first:
 *
 *   %0 = PARAM f32 [0; 4, 8]
 *   %1 = CONST f32 [0x1p+0]
 *   %2 = ADD f32 (%0, %1)
 *
 * A size that is an expression (dim.h) is the name of its node: %1 = PARAM f32 [0; %0, 8].
 * `lanes` appears as f32x16; arg.i stands before `;`, arg.ints after it. Float CONSTs are C hex
 * floats, nan or inf. Canonical bytes are the same information in a compact binary form with ids
 * renumbered in topological order: equal graphs give equal bytes, in every process and on every
 * machine. Both decoders accept anything and never read outside their input; a graph that breaks an
 * arity, dtype or shape rule is an error, not an assert. */
#pragma once

#include "compiler/ir/uop.h"

void uop_print(Job *job, UOp *root, StrBuf *out);
/* Kernel stages as C-like text, loops indented and accesses in array syntax; for reading only. */
void uop_print_kernel(Job *job, UOp *root, StrBuf *out);
/* The same for a linear program. */
void uop_print_linear(Job *job, UOp *const *list, size_t n, StrBuf *out);
/* INVALID_ARGUMENT names the line. *out is the last node. */
Status uop_parse(Job *job, Str text, UOp **out);

void uop_serialize(Job *job, UOp *root, StrBuf *out);
Status uop_deserialize(Job *job, Bytes bytes, UOp **out);
