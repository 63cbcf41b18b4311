/* What a worker gives up before it sees a user's graph. */
#pragma once

#include "base/status.h"

/* A seccomp filter, for the rest of the process's life and all its threads: memory, time, signals
 * to itself, and the descriptors it already has. Nothing that names a file, opens a socket or
 * starts a program; such calls fail with EPERM, the worst of them kill the process. Threads must
 * exist already. */
Status sandbox_enter(void);
/* For a process that drives a device through a vendor's library, which opens files and may start a
 * compiler: no network, and what kills above (but for starting programs) kills here. */
Status sandbox_enter_driver(void);
/* What a process ends with that aborts for want of memory. */
enum { SANDBOX_OOM = 77 };
/* Caps the address space at its present size plus `bytes`. 0 = no cap. */
Status sandbox_limit_memory(unsigned long long bytes);
/* From now on `seconds` more of CPU time, then SIGXCPU ends the process. 0 = no cap. */
Status sandbox_limit_cpu(unsigned seconds);
