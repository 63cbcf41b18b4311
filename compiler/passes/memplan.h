/* Memory of temporaries. */
#pragma once

#include "compiler/ir/plan.h"

/* Sets the offsets of the TEMP buffers and temp_bytes. A buffer lives from the first call that
 * writes it or a part of it to the last that reads it, both included. Offsets of parts are relative
 * to their whole before, absolute after. */
void memplan(Job *job, Plan *plan);
