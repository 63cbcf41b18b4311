/* Elements of tensors as doubles, for summaries and random inputs. */
#pragma once

#include "client/c/kiln.h"

/* Element i of data; 64-bit integers lose what a double cannot hold. */
double tensor_get(KilnDType dtype, const void *data, size_t i);
/* Stores v, rounded to nearest even for floats and towards zero for integers. */
void tensor_set(KilnDType dtype, void *data, size_t i, double v);

typedef struct TensorStats {
  size_t count, nans, infs;
  double min, max, mean; /* over the finite elements; 0 when there is none */
} TensorStats;
TensorStats tensor_stats(const KilnTensor *t);

/* Numbers that depend on seed only: floats in [-1, 1), integers 0 to 9, booleans. */
void tensor_fill_random(KilnDType dtype, void *data, size_t count, uint64_t seed);
