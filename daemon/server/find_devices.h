/* What `device = auto` means on this machine. */
#pragma once

#include "daemon/server/config.h"

/* Puts the devices that `program devices` names in the place of each "auto", each device once.
 * Waits for that process, a few seconds at most; whatever it does, cpu:0 is found. */
Status find_devices(const char *program, ConfigList *devices);
