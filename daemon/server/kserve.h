/* What the files of the KServe v2 facade share. */
#pragma once

#include "daemon/server/models.h"
#include "inference/inference.pb-c.h"

/* "FP32" for f32; NULL for a dtype that the protocol has no name for. */
const char *kserve_datatype(Kiln__V1__DType dtype);
/* The other way; DTYPE_UNSPECIFIED for what is unknown. */
Kiln__V1__DType kserve_dtype(Str datatype);
/* The number of a dtype in ModelConfig. */
Inference__DataType kserve_config_type(Kiln__V1__DType dtype);
/* The model that a call names. NOT_FOUND, or UNAVAILABLE while it is not loaded. Borrowed. */
Status kserve_model(const Request *r, const char *name, const char *version, Model **out);
