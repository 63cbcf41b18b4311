/* The input that a graph with random ops has besides its own, last: u32 [2], the run's key. Clients
 * neither see nor send it; whoever runs an executable makes it of a seed and the run's number. */
#pragma once

#include <stdint.h>

#define RANDOM_INPUT ".random"

/* One block of Threefry 2x32 with 20 rounds. */
void random_block(const uint32_t key[2], const uint32_t counter[2], uint32_t out[2]);
/* The block of key `seed` and counter `run`, low words first. */
void random_run_key(uint64_t seed, uint64_t run, uint32_t key[2]);
