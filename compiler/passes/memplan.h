/* Memory of temporaries. */
#pragma once

#include "compiler/ir/plan.h"

/* Sets the offsets of the TEMP buffers and temp_bytes. A buffer lives from the first call that
 * writes it to the last that reads it, both included. */
void memplan(Job *job, Plan *plan);
