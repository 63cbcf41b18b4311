/* Linear programs to OpenCL C 1.2.
 *
 * The kernel's arguments are, for each buffer, a `global uchar *` and a `ulong` offset in bytes,
 * then one `long` per variable. Workgroups have the size that the program was linearised for; a
 * program of THREADs has one workgroup of one thread per index. */
#pragma once

#include "compiler/ir/plan.h"

/* Source text, appended to *out. UNIMPLEMENTED when the target lacks a dtype or a width of vectors,
 * INTERNAL when the program breaks the contract of the linear stage. target->features lists what
 * the device has, each behind a blank or at the start: fp64, fma (one rounding at full speed),
 * crdiv (correctly rounded float division and square root with the build option for it). */
Status opencl_emit(const Linear *linear, const char *entry, const Target *target, StrBuf *out);

/* True when MULACC of floats rounds once on the target. */
bool opencl_fuses(const Target *target);
