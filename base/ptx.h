/* Programs for NVIDIA's GPUs as text: PTX as their assembler is given it, whoever made it. */
#pragma once

#include "base/str.h"

/* By this a program says that it is CUDA C++ and not PTX. */
#define CUDA_C_MARK "// CUDA C++\n"

/* Appends the text, changed where ptxas would make wrong code of it. */
void ptx_add(StrBuf *out, Str ptx);
