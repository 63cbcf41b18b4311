/* Whose cache is where. A tenant has a cache file of its own beside the shared one, so that nothing
 * of another tenant is in what it looks up, lists, verifies or waits for; one with `shared_cache`
 * uses the shared file instead, together with all others that do. */
#pragma once

#include "daemon/server/server.h"

/* Gives every tenant its cache. One that it has had stays open until the server ends: what is in
 * flight may write to it. */
Status caches_open(Server *s, const Config *c);
/* Every cache learns what the fingerprint of a device stands for. */
void caches_put_target(Server *s, const DeviceLane *l);
