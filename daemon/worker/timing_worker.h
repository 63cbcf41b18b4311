/* A process that runs code that may be wrong: candidates of the search. It has a device of its own
 * and touches nothing that outlives it. */
#pragma once

#include "daemon/worker/compile_worker.h"

/* Serves kilnd on the socket until it closes. The exit code. */
int timing_worker_main(int socket, const char *device, WorkerLimits limits);
