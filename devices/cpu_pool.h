/* A team of threads that runs numbered pieces of work. Private to the CPU device.
 *
 * One thread drives it; that thread takes part in the work. */
#pragma once

#include "devices/device.h"

typedef struct CpuPool CpuPool;
/* worker: which member of the team this is, in [0, members); index: the piece. */
typedef void (*CpuTask)(void *ctx, uint32_t worker, uint32_t index);

/* members includes the calling thread; 1 makes no thread at all. spin: there is a core for each
 * member, so that one may watch for work instead of sleeping at once. Of all signals the threads
 * take one. */
Status cpu_pool_create(uint32_t members, bool spin, int signal, CpuPool **out);
void cpu_pool_destroy(CpuPool *pool); /* NULL allowed */
/* Calls task for every index in [0, n), each exactly once, on any member; returns when all have
 * returned, and their writes are visible then. */
void cpu_pool_run(CpuPool *pool, CpuTask task, void *ctx, uint32_t n);
/* Sends every thread but the driver's a signal; a signal handler may call it. */
void cpu_pool_signal(const CpuPool *pool, int signal);
