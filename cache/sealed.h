/* Bytes that lie on a disk or travel in a file: a head, a SHA-256 of head and payload, the payload.
 * The hash finds accidents; it is no signature, so readers check lengths as if it were not there.
 */
#pragma once

#include "base/str.h"
#include "proto/digest.h"

/* The low n bytes of a number, little-endian. */
void sealed_put(uint8_t *at, uint64_t v, int n);
uint64_t sealed_get(const uint8_t *at, int n);

/* The payload starts DIGEST_BYTES behind the head, which is complete when it is sealed. */
void sealed_close(uint8_t *bytes, size_t head, size_t payload);
bool sealed_holds(const uint8_t *bytes, size_t head, size_t payload);
