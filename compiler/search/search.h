/* The search for a better schedule of one kernel, without a state of its own: what was measured so
 * far is handed in, what is worth measuring next comes out. A search that was interrupted goes on
 * from the records, in another process or on another day.
 *
 *   search_class     what the kernel is when its sizes are forgotten, and its sizes: winners of one
 *                    size are hints for the others
 *   search_cost      what the kernel has to do, how fast the target could be, and what a schedule
 *                    is expected to take
 *   search_propose   the next candidates
 *
 * Each is a job of its own (they call job_run); results live in the job's arena. Texts of schedules
 * come from caches and other machines and may be anything. */
#pragma once

#include "compiler/ir/plan.h"

/* -- class ------------------------------------------------------------------------------------- */

typedef struct SearchAxis {
  int64_t size; /* what it is expected to be, when only a run knows */
  int64_t pow2; /* the largest power of two that divides every size it may have */
} SearchAxis;

/* Kernels of one class have the same bytes, in every process, and the same number of axes: opts
 * mean the same for them. */
typedef struct SearchClass {
  Bytes bytes;
  SearchAxis *axes; /* by range id; size 0: no range has that id */
  size_t naxes;
} SearchClass;

Status search_class(Job *job, UOp *kernel, SearchClass *out);
/* How far apart the sizes of two kernels of a class are; 0: equal. */
double search_distance(const SearchAxis *a, const SearchAxis *b, size_t naxes);

/* -- cost -------------------------------------------------------------------------------------- */

typedef struct SearchCost {
  int64_t flops;
  int64_t bytes_read, bytes_written; /* each element counted once per operand */
  int64_t roofline_ns;               /* no schedule is faster, as far as the target is known */
  int64_t predicted_ns;              /* of the schedule */
} SearchCost;

/* opts: text of a schedule; NULL: what the heuristic would choose. INVALID_ARGUMENT when it is not
 * legal for the kernel. */
Status search_cost(Job *job, UOp *kernel, const Target *target, const char *opts, SearchCost *out);

/* -- probes ------------------------------------------------------------------------------------ */

/* Kernels whose time says what a machine can do. Threads are the target's. */
typedef enum SearchProbe {
  SP_FLOPS_F32, /* products of small matrices, in registers and L1 */
  SP_FLOPS_F64,
  SP_L2, /* sums of rows of what fits L2, L3, neither */
  SP_L3,
  SP_MEMORY,
  SP__COUNT
} SearchProbe;

/* opts "": the heuristic's; work: flops or bytes of one call, 0: the target has no such thing. */
typedef struct SearchProbeKernel {
  UOp *kernel;
  const char *opts;
  double work;
} SearchProbeKernel;
Status search_probe(Job *job, const Target *target, SearchProbe which, SearchProbeKernel *out);

/* -- candidates -------------------------------------------------------------------------------- */

typedef enum EvidenceCause {
  EV_MEASURED,
  EV_COMPILE_ERROR,
  EV_TIMEOUT,
  EV_OOM,
  EV_CRASH,
  EV_WRONG_RESULT,
} EvidenceCause;

/* What is known of one schedule. */
typedef struct Evidence {
  const char *opts;
  int64_t median_ns, mad_ns;
  uint32_t reps;
  int cause; /* EvidenceCause; the times count only for EV_MEASURED */
} Evidence;

typedef struct SearchInput {
  UOp *kernel;
  const Target *target;
  const Evidence *tried; /* in the order in which they were measured */
  size_t ntried;
  const char *const *hints; /* schedules of other sizes of the class, the nearest first */
  size_t nhints;
  size_t want; /* at most SEARCH_MAX_WANT */
  uint64_t seed;
} SearchInput;

typedef struct Candidate {
  const char *opts; /* "" is the kernel as it is: loops only */
  int64_t predicted_ns;
} Candidate;

enum { SEARCH_MAX_WANT = 64 };

/* Up to `want` candidates, the most promising first; all legal, none tried before under any
 * spelling. *n == 0: nothing is left that is worth trying. Equal inputs give equal outputs. */
Status search_propose(Job *job, const SearchInput *in, Candidate *out, size_t *n);
