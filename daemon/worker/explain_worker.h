/* The compile worker's part of Explain: what kernels have to do. */
#pragma once

#include "base/arena.h"
#include "base/status.h"
#include "kiln/v1/worker.pb-c.h"

/* out's parts live in arena. A kernel that the cost model cannot follow has what is known. */
Status explain_worker_run(const Kiln__V1__ExplainJob *m, uint64_t memory_bytes, Arena *arena,
                          Kiln__V1__ExplainDone *out);
