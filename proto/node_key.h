/* Who a node of a cluster is: an Ed25519 key pair. The private half is a PEM file that only its
 * owner can read; the public half is the node's name to all others, "ed25519:HEX".
 *
 * Safe on any thread once loaded. */
#pragma once

#include "base/status.h"
#include "base/str.h"

enum {
  NODE_KEY_BYTES = 32,
  NODE_SIGNATURE_BYTES = 64,
  NODE_KEY_TEXT = sizeof "ed25519:" + 2 * NODE_KEY_BYTES
};

typedef struct NodeKey NodeKey;

/* Makes the file when there is none (and the folder is there). PERMISSION_DENIED: it cannot be
 * read, or others can; FAILED_PRECONDITION: it holds no Ed25519 key. */
Status node_key_load(const char *path, NodeKey **out);
void node_key_release(NodeKey *k); /* NULL allowed */

const uint8_t *node_key_public(const NodeKey *k); /* NODE_KEY_BYTES */
Status node_key_sign(const NodeKey *k, Bytes text, uint8_t signature[NODE_SIGNATURE_BYTES]);
/* Takes any bytes. */
bool node_key_verify(const uint8_t node[NODE_KEY_BYTES], Bytes text,
                     const uint8_t signature[NODE_SIGNATURE_BYTES]);

/* "ed25519:HEX" */
const char *node_key_text(const uint8_t node[NODE_KEY_BYTES], char buf[NODE_KEY_TEXT]);
bool node_key_parse(Str text, uint8_t node[NODE_KEY_BYTES]);
