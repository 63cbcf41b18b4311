/* Sizes that may be unknown while compiling.
 *
 * A dim is an int64: a number >= 0, or a handle to an INDEX expression over VARs, which is the
 * address of the hash-consed node above INT64_MIN. Expressions are kept in one canonical form, so
 * equal dims are equal numbers (in one job), and shapes compare as before. Dims stand in UOp.shape,
 * the sizes of PARAM (ranged: its number of elements) and IOTA, and the numbers of RESHAPE, EXPAND,
 * PAD and SHRINK. Hashes, canonical bytes and text go by the expression, never by the address.
 *
 * A number from outside must be checked (0 or more) before it becomes a dim: the reader of text or
 * bytes that let a negative number through would let it name an address. */
#pragma once

#include "compiler/ir/uop.h"

#define DIM_HANDLES (INT64_MIN + ((int64_t)1 << 48)) /* handles are below */

static inline bool dim_is_static(int64_t d) { return d >= DIM_HANDLES; }
bool shape_is_static(Ints shape);

/* The expression; a CONST for a number. */
UOp *dim_uop(Job *job, int64_t d);
/* The expression of a handle. */
UOp *dim_node(int64_t d);
/* The dim of an INDEX expression over VARs. */
int64_t dim_of(Job *job, UOp *u);
/* NULL when dim_of takes it, else what is wrong. For input from outside. */
const char *dim_check(UOp *u);
/* Whether the ints of the op are dims. */
bool dim_in_ints(Op op);

int64_t dim_add(Job *job, int64_t a, int64_t b);
int64_t dim_sub(Job *job, int64_t a, int64_t b);
int64_t dim_mul(Job *job, int64_t a, int64_t b);
/* b is proven to be at least 1. */
int64_t dim_floordiv(Job *job, int64_t a, int64_t b);
int64_t dim_ceildiv(Job *job, int64_t a, int64_t b);
int64_t dim_min(Job *job, int64_t a, int64_t b);
int64_t dim_max(Job *job, int64_t a, int64_t b);
/* Whether a is b times the quotient whatever the VARs are; b is not 0 for certain. */
bool dim_divides(Job *job, int64_t a, int64_t b, int64_t *quotient);

/* It is known that the dim is not negative where code runs: products of what expands to something
 * that is hard to prove are marked by who knows. dim_le(0, d) is then true. */
void dim_mark_size(int64_t d);

/* Bounds, and a number >= 1 that divides it (the number itself when it is static and not 0). */
int64_t dim_low(int64_t d);
int64_t dim_high(int64_t d);
int64_t dim_divisor(Job *job, int64_t d);
/* a <= b for all values of the VARs, proven. */
bool dim_le(Job *job, int64_t a, int64_t b);
/* from <= u and u < to for all values of VARs and RANGEs, proven. u: INDEX, scalar. */
bool dim_contains(Job *job, int64_t from, int64_t to, UOp *u);
/* What the dim is expected to be: a number within its bounds, for costs. */
int64_t dim_typical(int64_t d);
int64_t dim_typical_of(const UOp *u); /* of an expression */

/* Product of the dims; 1 for rank 0. shape_numel (uop.h) is the same for static shapes. */
int64_t dims_numel(Job *job, Ints shape);
int64_t
dims_typical(Ints shape); /* of the product; saturates; 0 only when a size is 0 for certain */
/* For messages: "4", "2*n0 + 1". In the arena. */
const char *dim_text(Job *job, int64_t d);

/* The value of an expression over VARs. */
int64_t dim_eval(const UOp *u, const int64_t *vars, size_t nvars);
/* The graph with VAR k replaced by to[k] (an INDEX expression over VARs) in nodes and in dims. */
UOp *dim_substitute(Job *job, UOp *root, UOp *const *to, size_t nvars);
/* Calls for every VAR of an expression. */
void dim_vars(const UOp *expression, void (*fn)(void *ctx, const UOp *var), void *ctx);
UOp *uop_var(Job *job, int64_t number, int64_t min, int64_t max, int64_t divisor);
