/* The process that owns a device. */
#pragma once

#include "daemon/worker/compile_worker.h"

/* Opens the device, then serves kilnd on the socket until it closes; returns the exit code. */
int device_worker_main(int socket, const char *device, WorkerLimits limits);
