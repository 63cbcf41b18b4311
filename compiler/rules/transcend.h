/* Elementary functions as arithmetic the target has.
 *
 * Branch-free graphs of +, *, MULACC, FDIV, integer ops and WHERE for f32 and f64; f16 and bf16 are
 * computed in f32. Every special value is the one of C's functions. Accuracy against the exact
 * value, measured by test_transcend: f32 within 2 ulp on its whole range, f64 within 4. */
#pragma once

#include "compiler/rules/rewrite.h"

/* n: EXP EXP2 LOG LOG2 SIN COS TANH ERF ATAN POW, or FMOD below f64; NULL for FMOD of f64. */
UOp *transcend(Rewrite *rw, UOp *n);
