/* Loads, stores and declarations of CUDA C++. */
#pragma once

#include "compiler/codegen/c_text.h"

void cuda_load(CText *c, const UOp *u);
void cuda_store(CText *c, const UOp *u);
/* apart: what is read is not what others write, and never was (not so where kernels start early) */
void cuda_declare(CText *c, bool apart);
