/* Machine code from PTX, by nvJitLink where that is installed and by the driver's compiler, and PTX
 * from CUDA C++ by NVRTC, on as many threads as there are processors. */
#pragma once

#include "base/str.h"
#include "devices/cuda_whole.h"
#include "devices/nvjitlink.h"
#include "devices/nvrtc.h"

typedef struct CudaAssembler {
  const CudaApi *api;
  CuContext context;
  const NvJitLink *linker; /* NULL: not installed */
  const Nvrtc *compiler;   /* ... */
  char arch[16];           /* of the device, for it: "sm_90a" */
} CudaAssembler;

/* The image as the driver takes it, with a zero behind it: CUDA C++ as PTX, everything else as it
 * is. *out is empty before. */
Status cuda_make_ptx(const CudaAssembler *a, Bytes image, StrBuf *out);
/* code[i] is a cubin for the context's device. It stays empty where images[i] is one already, or is
 * better compiled as a whole: then whole[i], the caller's, is that where the driver can do it
 * ahead. On failure the first kernel that failed is named by its place, and the others are made. */
Status cuda_assemble(const CudaAssembler *a, const Bytes *images, size_t n, StrBuf *code,
                     CudaWhole *whole);
