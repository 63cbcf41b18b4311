/* Random numbers as arithmetic: Threefry 2x32 with 20 rounds over a key and a counter. */
#pragma once

#include "compiler/frontend/front.h"

/* Two u32 tensors of rank 0, which together say which numbers follow. */
typedef struct RandomKey {
  UOp *w[2];
} RandomKey;

/* The run's own key for the n-th use of it: other numbers in every run of an executable, the same
 * for the same seed and run number. Adds the input RANDOM_INPUT to the graph. */
RandomKey random_run_key(Front *f, uint32_t n);
/* Always the same numbers. */
RandomKey random_fixed_key(Job *job, uint64_t seed);
/* The cipher: one block, of the counter with these words. */
RandomKey random_block(Job *job, RandomKey key, UOp *low, UOp *high);
/* A key that depends on this one and on n. */
RandomKey random_fold(Job *job, RandomKey key, uint32_t n);
/* As and from a u32 tensor of shape [2]; aborts on another. */
UOp *random_key_tensor(Job *job, RandomKey key);
RandomKey random_key_of(Job *job, UOp *tensor);

/* One block of the cipher per element, which the element's row-major position counts: of u32 the
 * first word, of u64 both, the first one low. */
UOp *random_bits(Job *job, RandomKey key, Ints shape, DType dtype);
/* f16, bf16, f32 or f64, aborting on others: multiples of 2^-(digits) in [0, 1); and the standard
 * normal distribution. */
UOp *random_uniform(Job *job, RandomKey key, Ints shape, DType dtype);
UOp *random_normal(Job *job, RandomKey key, Ints shape, DType dtype);
