/* Which tensors are stored, and what every kernel asks of the others.
 *
 * A Tensor is a node of the tensor graph. It is a leaf (PARAM, CONST, a version of a
 * state), stored (a buffer of its own
 * or a slice of a stored CAT, computed by a kernel), or inlined. A Demand is a place where a kernel
 * needs elements of a tensor: the index tuple, in terms of the kernel's ranges, under a gate. The
 * same tensor asked twice with the same tuple is one Demand. A demand of an inlined tensor points
 * to the demands of its sources; a demand of a leaf or a stored tensor is a load. */
#pragma once

#include "compiler/passes/hazard.h"
#include "compiler/passes/nodemap.h"
#include "compiler/passes/simplify.h"

enum { FUSED_RANGES = 60, FUSED_REDUCES = 8, FIRST_HOLE = 64 };
#define NO_TENSOR UINT32_MAX

typedef struct Demand Demand;
struct Demand {
  uint32_t tensor, kernel;
  UOp **index;
  UOp *gate;      /* NULL: always */
  uint64_t loops; /* the ranges around the evaluation */
  Demand **src;   /* per source of the tensor; NULL for loads, NULL entries for empty sources */
  UOp **inside;   /* PAD, CAT, GATHER: where that source is defined; NULL entries: everywhere */
  UOp **ranges;   /* REDUCE: what it runs over */
  uint32_t nranges;
  UOp *value; /* filled in by rangeify */
  Demand *next;
};

/* Where a value is written: a plan buffer, or part `part` of the CAT tensor `cat`. */
typedef struct Place {
  uint32_t buffer, cat, part; /* cat == NO_TENSOR: buffer */
  uint32_t dead;              /* bits by axis: those that the buffer does not have */
} Place;

typedef struct Slice {
  uint32_t cat, part;
  struct Slice *next;
} Slice;

/* What a tensor costs, per element and with all below it inlined. */
typedef struct Cost {
  double flops;
  double bytes;      /* read by a kernel that computes it */
  double inputs;     /* elements of the operands below, in all */
  uint32_t operands; /* how many */
  bool has_reduce;   /* a REDUCE is below, with nothing stored for certain in between */
  bool contracts;    /* it ends in a contraction, which its consumer may be fused with */
  bool contraction;  /* a REDUCE that uses its operands' elements several times */
  bool multiplies;   /* twice at least: a product of matrices */
} Cost;

typedef struct Tensor {
  UOp *u;
  uint32_t *src; /* tensor numbers */
  int64_t numel; /* expected, when symbolic; 0 only for what is empty for certain */
  Cost cost;
  uint32_t ready; /* how many events have to happen before; of an event, with itself */
  bool is_update; /* a STORE into a state */
  bool fixed;     /* depends on weights and constants alone: the same in every run */
  bool weighs;    /* fixed, and on a weight */
  uint32_t dead;  /* bits by axis: those along which it does not vary */
  bool leaf, stored;
  bool row;           /* of a chain of contractions that one kernel computes; fusion_rows.c */
  uint8_t nconsumers; /* 2: more */
  Place place;        /* stored, and PARAM */
  bool is_output;     /* place was fixed by the graph's outputs */
  Slice *slices;      /* parts of stored CATs that it is to fill */
  uint32_t scatter;   /* 1 + the SCATTER that may take its place for its own; 0: none */
  Demand *demands;
  uint32_t ndemands;
} Tensor;

/* What a kernel touches of a plan buffer. */
typedef struct Access {
  uint32_t buffer;
  bool gated; /* some access is; first and last then mean nothing */
  int64_t first, last;
} Access;

typedef struct FusedKernel {
  uint32_t tensor; /* whose value it stores */
  UOp *update;     /* a STORE into a state, whose value that is; NULL: into the place */
  UOp *at;         /* of an update: the flat index that is written; filled in by rangeify */
  bool once;       /* of a fixed tensor, into a place that no run writes */
  uint32_t ready;  /* as of the tensor, or of the update */
  uint32_t after;  /* kernels run in the order of this tensor number, then of creation, backwards */
  Place place;
  UOp **index; /* of the element that is written: its output ranges; CONST 0 for axes of size 1 */
  UOp **loops; /* its output ranges: the same, or of a SCATTER those over its updates */
  uint32_t nloops;
  UOp *gate;   /* of a SCATTER: whether the element is inside */
  UOp *serial; /* of a SCATTER: the range over updates that may meet; of a SCAN: along its axis */
  Demand *value;
  uint64_t out, reduce; /* ranges, as bits by arg.i */
  uint64_t selects;     /* those by which few values are chosen among: schedules write them out */
  struct {
    int64_t *at;
    size_t len, cap;
  } size;      /* of each range */
  double work; /* of what is inlined so far */
  uint32_t nops, nreduces;
  uint32_t loads; /* tensors that it may have to load, at most; fusion_limit.c */
  uint32_t holes; /* the first: 1 + its number */
  struct {
    Access *at;
    size_t len, cap;
  } reads;           /* filled in by rangeify: PARAM k + 1 is reads.at[k] */
  uint32_t *buffers; /* by PARAM; filled in by rangeify_kernel */
  bool contraction;
  bool multiplies;
  uint64_t hoist[FUSED_REDUCES]; /* output ranges that each fused reduction depends on */
} FusedKernel;

/* A loaded index, standing for itself until its value is built: a RANGE with id FIRST_HOLE + k as
 * index, a PARAM as gate. */
typedef struct Hole {
  UOp *index, *gate;
  uint64_t ranges; /* that the loaded index depends on */
  Demand *owner;
  uint32_t next; /* of the same kernel: 1 + its number, 0 ends */
} Hole;

typedef struct Fusion {
  Job *job;
  const Target *target;
  Tensor *tensors; /* topological order */
  uint32_t ntensors;
  struct {
    FusedKernel *at;
    size_t len, cap;
  } kernels;
  struct {
    Hole *at;
    size_t len, cap;
  } holes;
  struct {
    PlanBuffer *at;
    size_t len, cap;
  } buffers;
  FoldedConstants constants;
  NodeMap parts; /* of buffers: narrow.c */
  Events events;
  bool symbolic;       /* the graph has VARs */
  uint32_t *looked_at; /* by event: the buffer of a BIND's or LOOP's scalar, else NO_BUFFER */
  uint32_t *condition; /* by event: of a LOOP, or NO_BUFFER */
} Fusion;

/* Decides everything. buffers holds the inputs and outputs before; weights that are read, constants
 * and temporaries are added. Outputs whose PlanBuffer has constant bytes are left alone. */
void fuse(Fusion *f, const TensorGraph *graph, UOp *sink);
/* Whether kernel a runs before b, for qsort of pointers: once, by what has to happen before, then
 * everything is written before it is read. */
int fusion_order(const void *a, const void *b);

/* dead_axes.c: of u, given those of its sources. */
uint32_t dead_axes(Job *job, const UOp *u, const uint32_t *below);
/* The shape of what is stored of u. */
Ints fusion_stored_shape(const Fusion *f, const UOp *u, uint32_t dead);

/* fusion_cost.c: the facts and the choices. */
void fusion_costs(Fusion *f);
/* Of one op, for all evaluations of a demand that was passed on. */
double fusion_work(const Fusion *f, const Demand *d);
/* Why a tensor is stored; NULL when it is not. */
const char *fusion_stores(const Fusion *f, const Tensor *t);
/* fusion_rows.c: which tensors are rows of a chain, given the costs. */
void fusion_rows(Fusion *f);
/* fusion_limit.c: kernel k asks for elements of a tensor, before the demand is added. */
void fusion_count(Fusion *f, const Tensor *t, uint32_t kernel);
/* Whether every kernel that asks for the tensor may ask for its sources instead. */
bool fusion_fits(const Fusion *f, const Tensor *t);
/* The tensor is inlined: nobody loads it. */
void fusion_uncount(Fusion *f, const Tensor *t);
uint64_t fusion_ranges(const Fusion *f, UOp *const *index, size_t n);
