/* Loads, stores and declarations of OpenCL C. */
#pragma once

#include "compiler/codegen/c_text.h"

const char *opencl_load(CText *c, const UOp *u);
void opencl_store(CText *c, const UOp *u);
void opencl_declare(CText *c);
