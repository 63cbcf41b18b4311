/* Memory of temporaries. */
#pragma once

#include "compiler/ir/plan.h"

/* Sets the lifetimes and offsets of the TEMP buffers and temp_bytes. A buffer lives from the first
 * step that writes it or a part of it to the last that reads it, both included. Offsets of parts
 * are relative to their whole before, absolute after. With a TEMP buffer of symbolic size all
 * offsets stay as they are. */
void memplan(Job *job, Plan *plan);
