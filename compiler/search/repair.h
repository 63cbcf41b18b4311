/* Reductions over one row, each needing the results of those before: split and repaired. */
#pragma once

#include "compiler/passes/nodemap.h"

typedef struct Kept Kept;

/* What a sum's body has to do with the results of earlier reductions: a factor exp(a - of),
 * exp2(a - of), or 1 / of. */
typedef enum RepairKind { REPAIR_EXP, REPAIR_EXP2, REPAIR_OVER } RepairKind;
typedef struct RepairPart {
  RepairKind kind;
  UOp *of;   /* the same along the row */
  UOp *from; /* a; NULL of REPAIR_OVER */
} RepairPart;

typedef struct RepairLink {
  UOp *reduce;
  uint32_t axis; /* of its range */
  RepairPart *parts;
  uint32_t nparts; /* 0: it needs no other */
} RepairLink;

typedef struct RepairChain {
  RepairLink *at; /* in topological order */
  uint32_t n;     /* 0: there is none */
} RepairChain;

/* The reductions over the row that axis is one name of. INVALID_ARGUMENT with the reason when some
 * cannot be repaired. */
Status repair_find(Job *job, const UOpList *list, const Kept *kept, uint32_t nkept, uint32_t axis,
                   RepairChain *out);
/* The position of a REDUCE in the chain, or NODE_ABSENT. */
uint32_t repair_link(const RepairChain *c, const UOp *reduce);
