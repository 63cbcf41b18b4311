/* Arrays in numpy's .npy format: versions 1 to 3, every dtype of Kiln that numpy has (bfloat16
 * travels as the two-byte void type, as ml_dtypes writes it). */
#pragma once

#include "base/status.h"
#include "base/str.h"
#include "client/c/kiln.h"

enum { NPY_RANK_MAX = 32 };

typedef struct Npy {
  KilnDType dtype;
  size_t rank;
  uint64_t dims[NPY_RANK_MAX];
  void *data; /* malloc; little-endian, row-major */
  size_t bytes;
} Npy;

/* Reads a whole file in memory; big-endian and column-major arrays are converted. Whatever the file
 * says is checked against its size. */
Status npy_parse(Bytes file, Npy *out);
Status npy_read(const char *path, Npy *out);
void npy_deinit(Npy *a);

/* Writes version 1 (2 when the header is long), replacing the file. */
Status npy_write(const char *path, const KilnTensor *t);
