/* temp */
#include "compiler/passes/schedule.h"
UOp *schedule_heuristic(Job *job, UOp *kernel, const Target *target, OptList *applied) {
  *applied = (OptList){0};
  return schedule_apply(job, kernel, target, applied);
}
