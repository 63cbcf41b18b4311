/* SHA-256, the one hash of every key and address, and its hex form.
 *
 * All functions are safe on any thread. The algorithm is fetched from OpenSSL once: a process that
 * gives up its file system calls digest_init before it does. Running out of memory inside OpenSSL
 * aborts, so hashing has no error to pass on. */
#pragma once

#include "base/str.h"

enum { DIGEST_BYTES = 32, DIGEST_HEX = 2 * DIGEST_BYTES };

typedef struct Digest Digest; /* a hash being fed */

/* Fetches the algorithm now; otherwise the first use does. */
void digest_init(void);
void digest_sha256(const void *bytes, size_t n, uint8_t out[DIGEST_BYTES]);

Digest *digest_create(void);
void digest_add(Digest *d, const void *bytes, size_t n);
/* Writes the hash and releases d. */
void digest_finish(Digest *d, uint8_t out[DIGEST_BYTES]);
/* Gives up a hash; NULL is allowed. */
void digest_release(Digest *d);

/* Lower-case hex, terminated: out holds 2 * n + 1 bytes. Returns out. */
char *digest_to_hex(const uint8_t *bytes, size_t n, char *out);
/* Either case. False, and out unspecified, unless hex is exactly 2 * n hex digits. */
bool digest_from_hex(Str hex, uint8_t *out, size_t n);
