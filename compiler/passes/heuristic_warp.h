/* Default schedules with matrix instructions. */
#pragma once

#include "compiler/search/opts.h"

/* A schedule with instructions that several warps do together and that read their factors in the
 * workgroup's memory; false, and nothing in *opts, when the target has none for the kernel, or it
 * is too small. */
bool heuristic_warp_groups(Job *job, UOp *kernel, const Target *target, OptList *opts);
/* A schedule for a kernel whose main work is a sum of products that a matrix instruction of the
 * target can do; false, and nothing in *opts, when there is none or it is too small. */
bool heuristic_warp_matrix(Job *job, const KernelInfo *k, const Target *target, OptList *opts);
/* The same for a sum over several axes (the taps and channels of a convolution), as one over all of
 * them. */
bool heuristic_warp_taps(Job *job, UOp *kernel, const Target *target, OptList *opts);
/* Up to `most` other schedules with such instructions, of other tiles, for a search to time, the
 * most promising first; how many. */
uint32_t heuristic_warp_others(Job *job, UOp *kernel, const Target *target, OptList *out,
                               uint32_t most);
/* What a tile of groups of warps, each with `up` instructions below each other, takes on an H100:
 * in cycles, for 128 bytes along the sum, and before and after them; false: that is not known. */
bool heuristic_wide_cycles(int64_t groups, int64_t up, int64_t columns, int64_t *step,
                           int64_t *other);
/* The same with the processor's own multiply-adds: large tiles in registers, factors staged ahead.
 */
bool heuristic_warp_tile(Job *job, const KernelInfo *k, const Target *target, OptList *opts);
