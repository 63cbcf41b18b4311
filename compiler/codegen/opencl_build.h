/* What the OpenCL emitter's files share.
 *
 * Values are C expressions: a literal, the name of a variable that a statement defined, or a
 * special index. Text lives in the emitter's arena. A bool is a uchar 0 or 1, a 16-bit float is the
 * ushort of its bits (computed in float), an INDEX is an int where its bounds allow it, else a
 * long. */
#pragma once

#include "compiler/codegen/opencl_emit.h"

typedef struct Cl {
  Arena arena;
  const Linear *linear;
  const Target *target;
  Status failure; /* the first one */
  bool fp64, crdiv;
  uint32_t first_id, nids;
  uint32_t *number; /* by id: of the variable, 0 when it has none yet */
  uint32_t count;
  StrBuf helpers, head, body;
  const char **known; /* names of helpers */
  size_t nknown, known_cap;
  int depth;
} Cl;

/* Text in the arena; "" and a failure when memory is out. */
const char *cl_text(Cl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Remembers the first failure; returns "0". */
const char *cl_fail(Cl *c, const UOp *u, const char *what);
/* One line of the body. */
void cl_line(Cl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The dtype in which a node is computed: I32 or I64 for INDEX. */
DType cl_dtype(const UOp *u);
/* "float4" */
const char *cl_type(Cl *c, DType d, unsigned lanes);
DType cl_unsigned(DType d); /* the unsigned integer of the size of d */
DType cl_signed(DType d);
/* The node as an expression of its own type. */
const char *cl_value(Cl *c, const UOp *u);
/* The node as `lanes` lanes of dtype d, of which it is an INDEX of another width or a scalar. */
const char *cl_operand(Cl *c, const UOp *u, DType d, unsigned lanes);
/* Lane k of an expression with so many lanes. */
const char *cl_lane(Cl *c, const char *v, unsigned lanes, unsigned k);
/* A function made from a template of that name for a dtype and lanes; its name. */
const char *cl_helper(Cl *c, const char *name, DType d, unsigned lanes);

/* op on expressions of dtype d; u is asked for bounds of its sources where it has them. */
const char *cl_alu(Cl *c, const UOp *u);
const char *cl_binary(Cl *c, Op op, DType d, unsigned lanes, const char *a, const char *b);
const char *cl_cast(Cl *c, const UOp *u);
/* A byte as element of d: a bool is 0 or 1, of a 4- or 2-bit dtype only the low bits count. */
const char *cl_canonical(Cl *c, DType d, unsigned lanes, const char *v);
const char *cl_to_f32(Cl *c, DType d, unsigned lanes, const char *v);

const char *cl_load(Cl *c, const UOp *u);
void cl_store(Cl *c, const UOp *u);
/* Declarations of parameters and buffers, into c->head. */
void cl_declare(Cl *c);
