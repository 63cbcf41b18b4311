/* What the printers of C (OpenCL C, CUDA C) share.
 *
 * Values are C expressions: a literal, the name of a variable that a statement defined, or a
 * special index. Text lives in the printer's arena. A bool is a uchar 0 or 1, a 16-bit float is the
 * ushort of its bits (computed in float), an INDEX is an int where its bounds allow it, else a
 * long. The words are those of OpenCL C (as_int, convert_float, get_group_id); another dialect
 * defines them. In one without vectors a node is printed lane by lane: all functions here give what
 * is lane c->lane of it, a scalar. */
#pragma once

#include "compiler/codegen/unit.h"

typedef struct CText CText;

typedef struct CDialect {
  const char *what;     /* for messages: "OpenCL C" */
  const char *function; /* stands before a function of its own */
  const char *begin[5]; /* ... before everything; up to the first NULL */
  bool lanes_apart;     /* it has no vectors */
  /* Prints loads, stores and what the dialect alone knows; false: the node is none of these. */
  bool (*node)(CText *c, const UOp *u);
  void (*declare)(CText *c); /* parameters and buffers, into c->head */
  void (*signature)(const CText *c, const char *entry, StrBuf *out);
} CDialect;

struct CText {
  Arena arena;
  const CDialect *dialect;
  const Linear *linear;
  Status failure; /* the first one */
  bool fp64, crdiv, fuses;
  unsigned lane; /* of the node that is printed, where lanes are apart */
  uint32_t first_id, nids;
  uint32_t *number; /* by id: of the variable, 0 when it has none yet */
  uint32_t count;
  StrBuf helpers, head, body;
  const char **known; /* names of helpers */
  size_t nknown, known_cap;
  int depth;
  UnitMemo units;
  uint64_t given; /* bytes of the launch's memory that buffers have */
};

/* The whole text, appended to *out. The caller has set dialect, linear, what the device can do, and
 * in known[] the helpers that the dialect's beginning has. */
Status c_print(CText *c, const char *entry, StrBuf *out);

/* Text in the arena; "" and a failure when memory is out. */
const char *c_text(CText *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Remembers the first failure; returns "0". */
const char *c_fail(CText *c, const UOp *u, const char *what);
/* One line of the body. */
void c_line(CText *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The dtype in which a node is computed: I32 or I64 for INDEX. */
DType c_dtype(const UOp *u);
/* "float4" */
const char *c_type(CText *c, DType d, unsigned lanes);
DType c_unsigned(DType d); /* the unsigned integer of the size of d */
DType c_signed(DType d);
/* The node as an expression of its own type. */
const char *c_value(CText *c, const UOp *u);
/* The node as `lanes` lanes of dtype d, of which it is an INDEX of another width or a scalar. */
const char *c_operand(CText *c, const UOp *u, DType d, unsigned lanes);
/* Lanes of the node as they are printed: 1 where they are apart. */
unsigned c_lanes(const CText *c, const UOp *u);
/* Lane k of a node. */
const char *c_node_lane(CText *c, const UOp *u, unsigned k);
/* Defines the node's variable, or that of its lane. */
void c_define(CText *c, const UOp *u, const char *v);
/* A function made from a template of that name for a dtype and lanes; its name. */
const char *c_helper(CText *c, const char *name, DType d, unsigned lanes);

/* op on expressions of dtype d; u is asked for bounds of its sources where it has them. */
const char *c_alu(CText *c, const UOp *u);
const char *c_binary(CText *c, Op op, DType d, unsigned lanes, const char *a, const char *b);
const char *c_cast(CText *c, const UOp *u);
/* A byte as element of d: a bool is 0 or 1, of a 4- or 2-bit dtype only the low bits count. */
const char *c_canonical(CText *c, DType d, unsigned lanes, const char *v);
const char *c_to_f32(CText *c, DType d, unsigned lanes, const char *v);

/* A declaration of every PARAM and BUFFER that is accessed. */
void c_declare(CText *c, void (*param)(CText *c, const UOp *p, bool written),
               void (*buffer)(CText *c, const UOp *b));
const char *c_buffer_name(CText *c, const UOp *buffer);
