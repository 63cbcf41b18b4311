/* The input that a graph with random ops has besides its own, last: u32 [4], the seed and the run
 * number, low words first. Clients neither see nor send it; whoever runs an executable supplies it.
 */
#pragma once

#define RANDOM_INPUT ".random"
