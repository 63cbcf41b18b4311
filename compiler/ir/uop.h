/* The one node type of the compiler.
 *
 * A UOp is immutable and hash-consed: two nodes with the same op, dtype, lanes, argument and
 * sources are the same pointer, so equality is ==, sharing is free, and memo tables are keyed by
 * pointer or id. Nodes live in their job's arena. dtypes are scalar; `lanes` is 1 except in the
 * lowered stages, where a node may be a short vector.
 *
 * Tensor-stage nodes have a shape. ALU sources there have equal shapes, save that rank-0 sources
 * broadcast. Integer nodes (INDEX above all) carry exact interval bounds [vmin, vmax]; INT64_MIN /
 * INT64_MAX mean unknown. */
#pragma once

#include "compiler/ir/job.h"

typedef enum DType {
#define DTYPE(name_, bytes_, class_, bits_) DT_##name_,
#include "compiler/ir/dtype.def"
#undef DTYPE
  DT__COUNT
} DType;

typedef enum DTypeClass { DC_NONE, DC_BOOL, DC_SINT, DC_UINT, DC_FLOAT } DTypeClass;

typedef struct DTypeInfo {
  const char *name; /* "f32" */
  uint8_t bytes, bits;
  DTypeClass cls;
} DTypeInfo;
extern const DTypeInfo dtype_info[DT__COUNT];

static inline bool dtype_is_float(DType d) { return dtype_info[d].cls == DC_FLOAT; }
static inline bool dtype_is_uint(DType d) { return dtype_info[d].cls == DC_UINT; }
static inline bool dtype_is_bool(DType d) { return d == DT_BOOL; }
/* Integers and INDEX, without bool. */
static inline bool dtype_is_int(DType d) {
  return dtype_info[d].cls == DC_SINT || dtype_info[d].cls == DC_UINT;
}
/* Moved, selected and cast, never computed with: see dtype.def. */
static inline bool dtype_is_storage(DType d) { return d > DT_INDEX; }

/* How a float dtype below 32 bits is laid out: sign, exponent, `mant` fraction bits. */
typedef enum FloatSpecials {
  FS_IEEE, /* exponent all ones: infinity, NaN */
  FS_FN,   /* all ones: NaN; no infinity */
  FS_FNUZ, /* the pattern of -0 is the only NaN; no infinity, no -0 */
  FS_NONE, /* every pattern is a finite number */
  FS_E8M0, /* powers of two; all ones: NaN; no sign, no zero */
} FloatSpecials;
typedef struct FloatFormat {
  uint8_t bits, mant;
  int16_t emin; /* exponent of the smallest normal number */
  double max;
  FloatSpecials specials;
} FloatFormat;
/* NULL for f32, f64 and what is no float. */
const FloatFormat *float_format(DType d);
/* False for a name that is not in the table. */
bool dtype_parse(Str name, DType *out);

typedef enum Op {
#define OP(name_, n_, type_, arg_, stages_, flags_, iv_, fv_, doc_) OP_##name_,
#include "compiler/ir/ops.def"
#undef OP
  OP__COUNT
} Op;

enum OpFlags {
  OPF_COMM = 1 << 0,
  OPF_ASSOC = 1 << 1,
  OPF_IDEMP = 1 << 2,
  OPF_ALU = 1 << 3,
  OPF_MOVE = 1 << 4,
  OPF_EFFECT = 1 << 5,
  OPF_ARITH = 1 << 6,
  OPF_FLT = 1 << 7,
  OPF_INT = 1 << 8,
};
typedef enum TypeRule { TR_LEAF, TR_SAME, TR_BOOL, TR_SELECT, TR_GIVEN, TR_SRC0, TR_VOID } TypeRule;
typedef enum ArgKind { ARG_NONE, ARG_I, ARG_INTS, ARG_BOTH } ArgKind;
typedef struct OpInfo {
  const char *name;
  int8_t nsrc; /* -1: any number */
  TypeRule type;
  ArgKind arg;
  const char *stages; /* letters T R L */
  uint32_t flags;
  const char *doc;
} OpInfo;
extern const OpInfo op_info[OP__COUNT];
bool op_parse(Str name, Op *out);

typedef enum AxisType {
  AX_LOOP,   /* output axis, sequential unless an opt says otherwise */
  AX_THREAD, /* output axis split over threads of the device */
  AX_UPCAST, /* output axis, fully expanded: a register tile */
  AX_VECTOR, /* axis whose values sit in the lanes of a vector; output or reduce axis */
  AX_REDUCE, /* reduce axis, sequential */
  AX_UNROLL, /* reduce axis, fully expanded */
  AX_GLOBAL, /* output axis split over workgroups; the rest belongs to GPUs too */
  AX_LOCAL,  /* output axis split over the threads of a workgroup */
  AX_WARP,   /* a digit of the number of the thread in its warp, for matrix instructions */
  AX_GROUP,  /* reduce axis split over the threads of a workgroup */
  AX_DEVICE,
  AX_SERIAL, /* output axis whose iterations may touch the same elements: one after the other */
  AX__COUNT
} AxisType;
extern const char *const axis_type_name[AX__COUNT];

typedef struct Ints {
  const int64_t *at;
  uint32_t n;
} Ints;

typedef struct Arg {
  int64_t i;
  Ints ints; /* interned in the arena by uop_make */
} Arg;

typedef struct UOp UOp;

/* An interned set of RANGE nodes, sorted by arg.i, then id. Equal sets are the same pointer; NULL
 * is the empty set. */
typedef struct RangeSet {
  uint32_t n, hash;
  UOp *at[];
} RangeSet;

struct UOp {
  uint8_t op;    /* Op */
  uint8_t dtype; /* DType */
  uint16_t lanes;
  uint32_t nsrc;
  uint32_t id;   /* creation order: sources have smaller ids */
  bool symbolic; /* a VAR is below, or in a dim of the node or of one below */
  bool size;     /* of a dim's expression: known not to be negative (dim.c) */
  Arg arg;
  Ints shape; /* dims (dim.h); tensor stage; n == 0 for rank 0 and for later stages */
  int64_t vmin, vmax;
  const RangeSet *open;  /* RANGEs below that no REDUCE or END at or below this node closes */
  uint32_t stamp, place; /* scratch of walk.c: which walk saw the node last, and where */
  UOp *src[];
};

/* -- building ---------------------------------------------------------------------------------- */

static inline Arg arg_none(void) { return (Arg){0}; }
static inline Arg arg_i(int64_t i) { return (Arg){.i = i}; }
static inline Arg arg_ints(const int64_t *v, size_t n) { return (Arg){.ints = {v, (uint32_t)n}}; }
static inline Arg arg_both(int64_t i, const int64_t *v, size_t n) {
  return (Arg){.i = i, .ints = {v, (uint32_t)n}};
}

/* The node, new or existing. dtype matters for LEAF and GIVEN ops and is derived for the others
 * (pass DT_VOID). Computes shape (tensor stage), lanes (the widest source unless set by
 * uop_make_lanes) and bounds. Folds ALU ops whose sources are all CONST. Breaking an arity, dtype
 * or shape rule is a bug of the caller: assert. Frontends check user input before. */
UOp *uop_make(Job *job, Op op, DType dtype, Arg arg, UOp *const *src, size_t nsrc);
/* The same with an explicit number of lanes (LOAD, BROADCAST, RAMP, CONST, CAST...). */
UOp *uop_make_lanes(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                    size_t nsrc);
/* NULL when uop_make_lanes would accept these arguments, else what is wrong (in the arena). For
 * input from outside. lanes 0: the widest source. */
const char *uop_check(Job *job, Op op, DType dtype, unsigned lanes, Arg arg, UOp *const *src,
                      size_t nsrc);
/* The same node with other sources (same count). */
UOp *uop_with_src(Job *job, UOp *u, UOp *const *src);

UOp *uop_int(Job *job, DType dtype,
             int64_t value); /* CONST of an integer, bool or INDEX dtype; wraps */
UOp *uop_float(Job *job, DType dtype, double value);  /* CONST of a float dtype; rounds */
UOp *uop_number(Job *job, DType dtype, double value); /* CONST of any dtype */
static inline UOp *uop_index(Job *job, int64_t value) { return uop_int(job, DT_INDEX, value); }
UOp *uop1(Job *job, Op op, UOp *a);
UOp *uop2(Job *job, Op op, UOp *a, UOp *b);
UOp *uop3(Job *job, Op op, UOp *a, UOp *b, UOp *c);
UOp *uop_cast(Job *job, UOp *a, DType dtype); /* a itself when the dtype is already right */
UOp *uop_param(Job *job, int64_t slot, DType dtype, const int64_t *dims, size_t ndim);
UOp *uop_range(Job *job, int64_t id, AxisType type, UOp *end);
/* AX_LOCAL or AX_GROUP, along dimension dim (0 to 2) of the workgroup. */
UOp *uop_thread_range(Job *job, int64_t id, AxisType type, int dim, UOp *end);
/* AX_WARP: the digit of the thread's number, along dimension 0, that counts in steps of `step`. */
UOp *uop_warp_range(Job *job, int64_t id, int64_t step, UOp *end);
UOp *uop_reduce(Job *job, Op op, UOp *x, UOp *const *ranges,
                size_t n); /* ranged form; x itself when n == 0 */

static inline AxisType uop_axis(const UOp *range) { return (AxisType)range->arg.ints.at[0]; }
static inline bool uop_is_const(const UOp *u) { return u->op == OP_CONST; }
/* True for an integer/bool CONST of that value. */
static inline bool uop_is_int(const UOp *u, int64_t v) {
  return u->op == OP_CONST && !dtype_is_float((DType)u->dtype) && u->arg.i == v;
}
/* The value of a float CONST. */
double uop_float_value(const UOp *u);
/* True for a CONST, of any dtype, that equals v (0.0 and -0.0 differ). */
bool uop_is_number(const UOp *u, double v);
int64_t shape_numel(Ints shape); /* 1 for rank 0; the shape is static: see dims_numel */
bool shape_eq(Ints a, Ints b);

/* -- scalar semantics: the op table's value columns -------------------------------------------- */

typedef union Scalar {
  int64_t i; /* integer and bool dtypes, wrapped to the dtype */
  double f;  /* float dtypes, rounded to the dtype */
} Scalar;
Scalar scalar_wrap(DType dtype, Scalar v);
/* One element in memory, little-endian and unaligned. BOOL: any non-zero byte is true. */
Scalar scalar_load(DType dtype, const void *at);
void scalar_store(DType dtype, Scalar v, void *at);
/* The value of an ALU op; src_dtype is the dtype of its last source, dtype that of the result. */
Scalar op_eval(Op op, DType dtype, DType src_dtype, const Scalar *v);
/* The same for n elements; src[s][k] is element k of source s. out may be one of the sources. */
void op_eval_many(Op op, DType dtype, DType src_dtype, const Scalar *const *src, Scalar *out,
                  size_t n);
Scalar uop_const_value(const UOp *u);
UOp *uop_scalar(Job *job, DType dtype, Scalar v);
/* The value that leaves x unchanged under a reduce op of that dtype. */
Scalar reduce_identity(Op op, DType dtype);

/* -- walking ----------------------------------------------------------------------------------- */

typedef struct UOpList {
  UOp **at;
  size_t len, cap;
} UOpList;
/* All nodes under root, sources first, each once; order is a function of the graph alone.
 * Iterative. */
UOpList uop_toposort(Job *job, UOp *root);
/* The same with the expressions of dims, before the nodes that hold them. */
UOpList uop_toposort_dims(Job *job, UOp *root);
/* Replaces from[k] by to[k] under root. One pass; the results are not searched again. */
UOp *uop_substitute(Job *job, UOp *root, UOp *const *from, UOp *const *to, size_t n);
/* Whether `u` depends on the RANGE and no REDUCE or END below it closes it: it is in u->open. */
bool uop_is_open(const UOp *u, const UOp *range);
/* The END of a single loop, as lowered kernels have them. */
static inline bool uop_is_loop(const UOp *u) { return u->op == OP_END && u->nsrc == 2; }
/* The PARAM or BUFFER under AFTERs. */
static inline const UOp *uop_storage(const UOp *u) {
  while (u->op == OP_AFTER) u = u->src[0];
  return u;
}
