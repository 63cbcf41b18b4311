/* NVIDIA's library that makes machine code of PTX, where it is installed. It needs neither the
 * driver nor its locks, and any thread may call it. */
#pragma once

#include "base/status.h"
#include "base/str.h"

typedef struct NvJitLink NvJitLink;

/* driver: as the driver says it (13000 is 13.0). NULL where there is no such library, or only one
 * that is newer than the driver, which might not load what it makes. */
const NvJitLink *nvjitlink_open(int driver);
int nvjitlink_version(const NvJitLink *l); /* 13000 is 13.0 */
/* arch: "sm_90a". ptx ends with a zero that it does not count. said: what the compiler had to say,
 * on success too; "" or the beginning of it. */
Status nvjitlink_assemble(const NvJitLink *l, const char *arch, Bytes ptx, StrBuf *code, char *said,
                          size_t room);
