/* What an OpenCL device can do. */
#pragma once

#include "devices/device.h"
#include "devices/opencl_api.h"

typedef struct OpenclStrings {
  char description[256], name[128], features[64], compiler[256];
} OpenclStrings;

/* Fills caps, whose strings point into *strings. */
Status opencl_caps(const OpenclApi *cl, ClDevice d, OpenclStrings *strings, DeviceCaps *caps);
