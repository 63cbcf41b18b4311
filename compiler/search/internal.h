/* What the files of the search share: a kernel seen as accesses and work (search_model.c), the
 * machine (search_cost.c), lists of opts (search_space.c, search_seeds.c), and the ranking
 * (search_rank.c). */
#pragma once

#include "compiler/search/opts.h"
#include "compiler/search/search.h"

/* Axes are bits of a word. A kernel with more of them, or with more accesses, is left to the
 * heuristic. */
enum { MODEL_AXES = 64, MODEL_ACCESSES = 96, MODEL_GROUPS = 256 };
#define STEP_FAR INT64_MAX /* the access jumps about along that axis */

/* -- a kernel as the cost model sees it -------------------------------------------------------- */

/* A load of an operand, or the store. */
typedef struct Access {
  const UOp *node;
  uint32_t bytes; /* of an element */
  uint32_t param; /* which buffer */
  double numel;   /* of the buffer */
  bool store, gated;
  uint64_t mask;   /* axes it depends on */
  uint32_t group;  /* the group its node is in */
  uint32_t nsteps; /* axes that move it, the smallest step first, irregular ones last */
  struct {
    uint8_t axis;
    int64_t step; /* in elements */
  } steps[MODEL_AXES];
} Access;

/* Values that are computed equally often. */
typedef struct Group {
  uint64_t open;  /* axes they depend on */
  uint64_t nest;  /* axes of the loops around them: theirs, and of the reductions they are in */
  uint64_t under; /* the stageable values that all their uses are in */
  uint64_t kept;  /* the same of what may be kept */
  int phase;      /* 0: outside of reductions, else 1 + the number of the reduction */
  uint32_t bytes;
  double work; /* instructions of one evaluation of all of them */
} Group;

typedef struct Reduction {
  uint64_t out; /* axes that its results depend on */
  uint64_t red; /* axes it runs over */
  uint32_t bytes;
} Reduction;

/* One kernel, after the head of a list. */
typedef struct Model {
  const Target *target;
  UOp *kernel;
  KernelInfo *info;
  Access *access;
  uint32_t naccess;
  Group *groups;
  uint32_t ngroups;
  Reduction *reductions;
  uint32_t nreductions;
  double size[MODEL_AXES]; /* expected */
  uint64_t reduce;         /* axes that are reduced */
  bool f64;
  uint32_t least_bytes; /* of an element that is loaded or stored */
} Model;

/* NULL when the kernel is beyond what the model takes. */
Model *search_model(Job *job, UOp *kernel, const Target *target);

/* -- machine and prediction -------------------------------------------------------------------- */

typedef struct Machine {
  double ghz, flops_ns, f64_flops_ns;    /* of one core or multiprocessor; flops: f32 */
  double l1, l2, l3;                     /* bytes, of one core; 0: none */
  double l2_cycle, l3_cycle, dram_cycle; /* bytes per cycle of one core */
  double dram_ns;                        /* bytes per ns of the whole device */
  double cores;
  double launch_ns;
} Machine;

Machine search_machine(const Target *target);
void search_bounds(const Model *m, SearchCost *out); /* all but predicted_ns */
/* Instructions of the body that a plan expands. */
double search_body(const Model *m, const OptPlan *plan);
/* Nanoseconds that a legal plan is expected to take. */
double search_predict(const Model *m, const OptPlan *plan);
double search_predict_gpu(const Model *m, const OptPlan *plan);
/* The same of one with matrix instructions, of so many workgroups, whose data takes `memory` ns. */
double search_predict_matrix(const Model *m, const OptPlan *plan, double groups, double memory);
/* Elements, cache lines and how unevenly they fill a cache (1: evenly) that an access touches when
 * every axis takes `extent` steps. */
typedef struct Footprint {
  double elements, lines, pressure;
} Footprint;
Footprint search_footprint(const Access *a, const double *extent);

/* -- lists of opts ----------------------------------------------------------------------------- */

enum { LIST_MAX = 40, HEAD_MAX = 8, VARIANTS = 64 };

/* A list in its normal form, with what is known of it. */
typedef struct Point {
  Opt at[LIST_MAX];
  uint32_t len;
  uint64_t key;     /* of the normal form */
  double predicted; /* ns */
} Point;

typedef struct Space {
  Job *job;
  UOp *kernel;
  const Target *target;
  struct SpaceVariant {
    Opt head[HEAD_MAX];
    uint32_t nhead;
    Model *model;    /* NULL: the head is not legal, or the kernel too large */
    uint32_t *loops; /* output axes, then reduce axes, in the order that they have without ORDER */
  } variants[VARIANTS];
  uint32_t nvariants;
  size_t nodes;              /* of the kernel */
  uint64_t work, work_limit; /* nodes visited by legality checks */
} Space;

void search_space_init(Space *s, Job *job, UOp *kernel, const Target *target);
/* Whether the list is legal; then *out is its normal form with the prediction. */
bool search_space_point(Space *s, const Opt *at, size_t len, Point *out);
/* The same of a list that was made for other sizes: factors are rounded, what cannot be had is
 * dropped. */
bool search_space_repair(Space *s, const Opt *at, size_t len, Point *out);
bool search_space_spent(const Space *s);
/* Calls fn for each legal list one step away, and for pairs of steps that belong together. */
typedef void (*SpaceFn)(void *ctx, const Point *p);
void search_space_near(Space *s, const Point *p, SpaceFn fn, void *ctx);
/* Lists to start from. */
void search_seeds(Space *s, SpaceFn fn, void *ctx);
const Model *search_space_model(Space *s, const Point *p);

/* -- ranking ----------------------------------------------------------------------------------- */

enum { RANK_FEATURES = 64, RANK_ROWS = 160 };

typedef struct Features {
  float at[RANK_FEATURES];
  float predicted; /* ln of the predicted ns */
} Features;

void search_features(const Point *p, Features *out);

typedef struct Rank Rank;
/* What the measurements say: ln ns of n schedules. */
Rank *search_rank_fit(Job *job, const Features *x, const float *ln_ns, size_t n);
/* Chooses `want` of the pool, one after the other, each as if the ones before had come out as
 * expected. picked: indices into the pool; ln_ns: what each is expected to take. */
size_t search_rank_pick(Job *job, const Rank *r, const Features *pool, size_t n, size_t want,
                        uint32_t *picked, double *ln_ns);
