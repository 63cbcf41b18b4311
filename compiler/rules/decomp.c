/* decomp.rules: its guards in C. The functions are in transcend.c and small.c. */
#include <math.h>

#include "compiler/rules/small.h"
#include "compiler/rules/transcend.h"

/* f16 and bf16 sums round to 16 bits after each operation. */
static bool fuses(const UOp *n) { return n->dtype == DT_F32 || n->dtype == DT_F64; }

#include "compiler/rules/decomp.inc"
