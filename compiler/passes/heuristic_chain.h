/* Attention and its like on devices with workgroups. */
#pragma once

#include "compiler/search/opts.h"

/* Chooses opts for two products with reductions along a row in between; false, and none, where the
 * kernel is no such chain or the target lacks what it takes. */
bool heuristic_chain_gpu(Job *job, const KernelInfo *k, const Target *target, OptList *opts);
