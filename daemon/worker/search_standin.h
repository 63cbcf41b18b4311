/* A stand-in for compiler/search/search.h: the same interface, a few tiles. */
#pragma once

#include "compiler/ir/plan.h"

typedef struct SearchAxis {
  int64_t size;
  int64_t pow2;
} SearchAxis;
typedef struct SearchClass {
  Bytes bytes;
  SearchAxis *axes;
  size_t naxes;
} SearchClass;
Status search_class(Job *job, UOp *kernel, SearchClass *out);
typedef struct SearchCost {
  int64_t flops;
  int64_t bytes_read, bytes_written;
  int64_t roofline_ns;
  int64_t predicted_ns;
} SearchCost;
Status search_cost(Job *job, UOp *kernel, const Target *target, const char *opts, SearchCost *out);
typedef struct Evidence {
  const char *opts;
  int64_t median_ns, mad_ns;
  uint32_t reps;
  int cause;
} Evidence;
typedef struct SearchInput {
  UOp *kernel;
  const Target *target;
  const Evidence *tried;
  size_t ntried;
  const char *const *hints;
  size_t nhints;
  size_t want;
  uint64_t seed;
} SearchInput;
typedef struct Candidate {
  const char *opts;
  int64_t predicted_ns;
} Candidate;
enum { SEARCH_MAX_WANT = 64 };
Status search_propose(Job *job, const SearchInput *in, Candidate *out, size_t *n);
