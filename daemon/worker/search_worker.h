/* The search for schedules, as a job of a compile worker. */
#pragma once

#include "compiler/ir/job.h"
#include "kiln/v1/worker.pb-c.h"

/* out and what it points to live in arena. */
Status search_worker_run(const Kiln__V1__SearchJob *m, uint64_t memory_bytes, Arena *arena,
                         Kiln__V1__SearchDone *out);
