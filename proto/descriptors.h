/* The FileDescriptorSet of the public services, as protoc wrote it at build time. */
#pragma once

#include "base/str.h"

Bytes descriptors_set(void);
