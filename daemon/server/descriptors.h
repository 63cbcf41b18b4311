/* The process's table of descriptors: what clients want stops before it is full, so that what the
 * server needs to go on (workers that are started again, answers that bring memory, the cache's
 * files) still finds room. */
#pragma once

#include <stdbool.h>

#include "base/status.h"

/* RESOURCE_EXHAUSTED unless one more may be taken for a client. any is some open descriptor. */
Status descriptors_check(int any);
/* fd, which is open, is of those that clients do not get. */
bool descriptor_reserved(int fd);
