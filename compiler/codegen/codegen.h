/* Code for a linear program, by the target's kind: machine code through LLVM for "cpu", OpenCL C
 * for "opencl", for "cuda" PTX through LLVM or, where the program says so, CUDA C++ for NVRTC. */
#pragma once

#include "compiler/ir/plan.h"

typedef struct CodegenOutput {
  bool want_text; /* set by the caller: fill text too */
  StrBuf object;  /* what the device loads */
  StrBuf text;    /* the object as a person reads it */
} CodegenOutput;

/* The strings of *out are heap-owned; free them with codegen_deinit, also after a failure. */
Status codegen_emit(const Linear *linear, const char *entry, const Target *target,
                    CodegenOutput *out);
void codegen_deinit(CodegenOutput *out);
/* True when MULACC of floats rounds once on the target. */
bool codegen_fuses(const Target *target);
