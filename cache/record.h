/* One stored blob: the key's canonical bytes and the value, compressed and sealed with a hash. */
#pragma once

#include "base/status.h"
#include "base/str.h"

/* Appends the record to out. */
Status record_encode(Bytes canonical, Bytes value, StrBuf *out);
/* Takes any bytes. Appends the two parts, one after the other, to out; *canonical_len says where
 * the value begins. DATA_LOSS when the bytes are not a whole record. */
Status record_decode(Bytes record, StrBuf *out, size_t *canonical_len);
