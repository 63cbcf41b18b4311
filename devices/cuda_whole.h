/* Kernels that the driver compiles as whole programs, ahead of being loaded: as libraries, which
 * takes no lock, so that several threads may do it at a time. */
#pragma once

#include "base/str.h"
#include "base/vec.h"
#include "devices/cuda_api.h"

typedef struct CudaWhole {
  CuLibrary library; /* NULL: none */
  CuModule module;   /* the library's */
  bool waiting;      /* the driver said that matrix instructions wait for each other */
  StrBuf image;      /* what it was made of */
} CudaWhole;
typedef VEC(CudaWhole) CudaWholes;

/* Of PTX that ends with a zero, which was made of the image. False where the driver has no
 * libraries or does not take it: loading it says why. */
bool cuda_whole_compile(const CudaApi *api, const char *text, Bytes image, CudaWhole *out);
/* The one that was made of the image; it is the caller's then. */
bool cuda_whole_take(CudaWholes *w, Bytes image, CudaWhole *out);
/* Frees those that nobody took. */
void cuda_whole_drop(const CudaApi *api, CudaWholes *w);
