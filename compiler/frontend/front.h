/* What the two frontends share: values, some of them known at compile time, and the interface of
 * the graph under construction.
 *
 * A Val is a tensor of the model. It has a node, or data (its elements, little-endian, row-major),
 * or both; the node of a Val with data is made when first asked for, as a CONST if one number says
 * it all, else as a weight. So initializers that only describe shapes never become weights.
 *
 * A sequence is a Val too: a list of tensors that exists only here, so that its ops cost nothing at
 * run time; an optional is the value that it holds, or a Val that says it holds none. */
#pragma once

#include "base/map.h"
#include "base/vec.h"
#include "compiler/frontend/build.h"
#include "compiler/frontend/frontend.h"

typedef enum ValKind { VAL_TENSOR, VAL_SEQUENCE, VAL_NONE } ValKind;

typedef struct Val {
  ValKind kind;
  DType dtype; /* VAL_SEQUENCE: of its elements; VAL_NONE: DT_VOID */
  Ints shape;
  UOp *u;              /* NULL until val_uop */
  const uint8_t *data; /* NULL: not known at compile time (or not yet computed) */
  bool dynamic;        /* depends on an input */
  bool state;          /* an input that is updated in place */
  Str name;
  struct Val **items; /* VAL_SEQUENCE */
  size_t nitems;
} Val;

typedef struct FrontOutput {
  Str name;
  UOp *u;
} FrontOutput;

/* A named dimension whose bounds leave one size. */
typedef struct FrontDim {
  Str name;
  int64_t size;
} FrontDim;

/* A VAR that the run computes. */
typedef struct FrontBind {
  UOp *var, *value;
} FrontBind;

typedef struct Front {
  Job *job;
  Bytes model;
  const FrontendOptions *options;
  bool *dim_used;  /* per options->dims */
  Val *random;     /* the input of random ops; NULL until one is met */
  int64_t nrandom; /* uses of it so far */
  struct {
    UOp **at;
    size_t len, cap;
  } iterations; /* the VARs of the loops whose bodies are being made */
  struct {
    GraphVar *at;
    size_t len, cap;
  } vars;
  struct {
    FrontDim *at;
    size_t len, cap;
  } fixed;
  struct {
    FrontBind *at;
    size_t len, cap;
  } binds;
  UOp *guard; /* what is being built counts only where this rank-0 bool is true; NULL: always */
  struct {
    Val **at;
    size_t len, cap;
  } inputs, weights;
  struct {
    FrontOutput *at;
    size_t len, cap;
  } outputs;
  struct {
    UOp **at;
    size_t len, cap;
  } locals; /* PARAMs */
  struct {
    UOp **at;
    size_t len, cap;
  } updates; /* the last STORE into each state, in the order of the model */
  struct {
    GraphValue *at;
    size_t len, cap;
  } values; /* inputs and outputs that are not one tensor */
} Front;

/* Weights, and locals of loops, have slot numbers from here on until front_finish renumbers them.
 */
enum { FRONT_WEIGHTS = 1 << 24, FRONT_LOCALS = 1 << 25 };
/* Values of up to this many elements are computed at compile time when all sources are known. */
enum { FRONT_FOLD = 1 << 16 };

Val *val_from_uop(Front *f, UOp *u, bool dynamic);
/* data is numel * item size bytes that live as long as the job. */
Val *val_from_data(Front *f, DType dtype, Ints shape, const void *data);
Val *val_from_i64(Front *f, const int64_t *v, size_t n);
/* A sequence of the n tensors; the list is copied. */
Val *val_sequence(Front *f, DType dtype, Val *const *items, size_t n);
/* The optional that holds nothing. */
Val *val_none(Front *f);
/* Adds an input; aborts on a name that is taken. */
Val *front_input(Front *f, Str name, DType dtype, Ints shape);
/* An input that no client sees; its name is none that front_input takes. */
Val *front_implicit(Front *f, Str name, DType dtype, Ints shape);
void front_output(Front *f, Str name, UOp *u);

UOp *val_uop(Front *f, Val *v);
/* The weight that a PARAM stands for; NULL for other nodes. */
const Val *front_weight(const Front *f, const UOp *u);
/* The elements, computing them if that is possible and cheap; NULL when they depend on an input. */
const uint8_t *val_data(Front *f, Val *v);
/* A small value none of whose sources is dynamic becomes data now. */
void val_fold(Front *f, Val *v);
/* Element k of an integer or bool array as int64. */
int64_t data_int(DType dtype, const uint8_t *data, int64_t k);
double data_float(DType dtype, const uint8_t *data, int64_t k);

/* Sizes that a model may leave open; a run with more fails, and has to be compiled with bounds. */
enum { FRONT_DIM_MAX = 65536 };

/* The bounds that the model itself gives a dimension; max 0: none. */
typedef struct DimRange {
  int64_t min, max, multiple;
} DimRange;
/* The size of axis `axis` of the input that front_input adds next, called name or, when that is
 * empty, "INPUT.AXIS": a number if the options bind it to one, else a VAR, one per name. */
int64_t front_dim(Front *f, Str input, size_t axis, Str name, DimRange own);
/* The dim that a name stands for; false when no input so far has it. */
bool front_find_dim(Front *f, Str name, int64_t *dim);
/* A dim that has the value of a rank-0 integer, computed by the run: a VAR in [min, max] with a
 * BIND. A run whose value is outside fails, naming `what`. */
int64_t front_bind(Front *f, UOp *value, int64_t min, int64_t max, const char *what);
/* What a loop carries: a PARAM that nobody else has. Its shape says how much room it has. */
UOp *front_local(Front *f, DType dtype, Ints shape);
/* The VAR of a loop of at most that many iterations. */
UOp *front_loop_var(Front *f, int64_t most);
/* A loop's body begins; front_loop_end says that it is built. The BINDs in between that depend on
 * the iteration are appended to the LOOP's effects. */
typedef struct FrontMark {
  size_t vars, binds, locals, updates;
  size_t iterations;
  int64_t nrandom;
} FrontMark;
FrontMark front_mark(const Front *f);
/* As if nothing had been made since. */
void front_rewind(Front *f, FrontMark m);
/* Takes the BINDs made since that depend on var; returns how many are in out (room for all). */
size_t front_take_binds(Front *f, FrontMark m, const UOp *var, UOp **out);
/* Whether a dim of the shape is one of a VAR made since. */
bool front_shape_since(Front *f, FrontMark m, Ints shape);

/* The number that the options bind a name to; `absent` when they do not. */
int64_t front_binding(Front *f, Str name, int64_t absent);
/* Aborts when a binding of the options names no dimension of the inputs. */
void front_dims_used(Front *f);

/* Fills *out; the constants' bytes are copied to out->constants. */
void front_finish(Front *f, TensorGraph *out);
