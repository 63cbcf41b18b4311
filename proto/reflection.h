/* Server reflection (v1 and v1alpha, which are the same bytes): request message in, response
 * message out, nothing kept in between. */
#pragma once

#include "base/arena.h"
#include "base/status.h"

/* Answers one ServerReflectionRequest; *out lies in the arena. What the client asked for in vain is
 * an error_response inside a successful answer; a failure here means malformed bytes or no memory.
 */
Status reflection_answer(Bytes request, Arena *arena, Bytes *out);
