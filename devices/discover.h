/* The devices of this machine, without opening any. Loads drivers, which leave threads behind and
 * may hang: for a process that does nothing else. */
#pragma once

/* name is a device's, and why_not NULL or the reason why a server that picks its devices by itself
 * leaves it out; or it is that of a kind ("cuda") none of whose further devices can be found. */
typedef void (*DiscoverFn)(void *ctx, const char *name, const char *why_not);
void discover_devices(DiscoverFn found, void *ctx);
