/* NVIDIA's compiler of CUDA C++, where it is installed. It needs neither the driver nor a GPU, and
 * any thread may call it. */
#pragma once

#include <stdbool.h>

#include "base/status.h"
#include "base/str.h"

typedef struct Nvrtc Nvrtc;

/* driver: as the driver says it (13000 is 13.0). NULL where there is no such library, or only one
 * that is newer than the driver, which might not take the PTX that it makes. */
const Nvrtc *nvrtc_open(int driver);
int nvrtc_version(const Nvrtc *l); /* 13000 is 13.0 */
/* Whether a program is CUDA C++ (CUDA_C_MARK). */
bool nvrtc_is_source(Bytes image);
/* PTX for arch ("sm_90a"), appended to *ptx with nothing behind it. The source ends with a zero
 * that it does not count. */
Status nvrtc_compile(const Nvrtc *l, const char *arch, Bytes source, StrBuf *ptx);
