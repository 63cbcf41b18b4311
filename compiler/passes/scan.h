/* Long SCANs of few rows, cut into pieces that are scanned side by side. */
#pragma once

#include "compiler/ir/plan.h"

/* The graph with every such SCAN in two steps. */
UOp *scan_split(Job *job, const Target *target, UOp *sink);
