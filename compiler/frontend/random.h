/* Random numbers as arithmetic: Threefry 2x32 with 20 rounds over a key and a counter. */
#pragma once

#include "compiler/frontend/front.h"

/* Two u32 tensors of rank 0 and a number below RANDOM_STREAMS, which together say which numbers
 * follow. */
typedef struct RandomKey {
  UOp *w[2];
  uint32_t stream;
} RandomKey;
enum { RANDOM_STREAMS = 1 << 20 };

/* The run's own key: other numbers in every run of an executable, the same for the same seed and
 * run number. Adds the input RANDOM_INPUT to the graph. As a tensor, u32 [2], and its next stream,
 * which nobody else has. */
UOp *random_run_tensor(Front *f);
RandomKey random_next(Front *f);
/* Always the same numbers. */
RandomKey random_fixed_key(Job *job, uint64_t seed);
/* Of a u32 tensor of shape [2]; aborts on another, and on a stream out of range. */
RandomKey random_key_of(Job *job, UOp *tensor, int64_t stream);
/* A key, u32 [2], that depends on this one and on n: the cipher's block of counter (n, stream). */
UOp *random_fold(Job *job, RandomKey key, uint32_t n);

/* One block of the cipher per element: of u32 the first word, of u64 both, the first one low. The
 * counter is the element's row-major position and, from bit 32 on, the stream; positions of 2^32
 * and more have their upper part above the stream's 20 bits. */
UOp *random_bits(Job *job, RandomKey key, Ints shape, DType dtype);
/* f16, bf16, f32 or f64, aborting on others: multiples of 2^-(digits) in [0, 1); and the standard
 * normal distribution. */
UOp *random_uniform(Job *job, RandomKey key, Ints shape, DType dtype);
UOp *random_normal(Job *job, RandomKey key, Ints shape, DType dtype);
