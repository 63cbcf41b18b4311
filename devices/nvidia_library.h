/* Libraries of NVIDIA that are used where they are installed. */
#pragma once

/* Takes the functions of an opened library. Its version as CUDA numbers them, 12040 for 12.4; 0: it
 * lacks something. */
typedef int NvidiaResolve(void *library, int major);

/* Opens the newest libNAME.so.MAJOR that resolves and that a driver of that version can follow, for
 * good; its version, 0 when there is none. */
int nvidia_library_open(const char *name, int driver, NvidiaResolve *resolve);
