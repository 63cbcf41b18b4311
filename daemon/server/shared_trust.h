/* Whose statements are read: the rows of `trust` in [shared]. */
#pragma once

#include "base/vec.h"
#include "cache/shared.h"
#include "daemon/server/config.h"

typedef VEC(TrustedNode) TrustedNodes;

/* "ed25519:HEX NAME"; without a name it is the first digits of the key. */
Status shared_trust_row(Str row, TrustedNode *out);
/* All rows of the configuration and of the files that it names. */
Status shared_trust_load(const Config *c, TrustedNodes *out);
