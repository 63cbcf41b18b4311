/* What [shared] says, with the files that it names read. */
#pragma once

#include "daemon/server/resp.h"
#include "daemon/server/shared_trust.h"
#include "proto/node_key.h"

typedef struct SharedSettings {
  RespAddress address;
  TlsContext *tls; /* NULL: plain */
  NodeKey *key;
  TrustedNodes nodes; /* this one too: it believes what it has said itself */
  char address_text[400], node_text[NODE_KEY_TEXT];
} SharedSettings;

/* Makes the node's key when there is none. On failure *out is empty. */
Status shared_settings_load(const Config *c, SharedSettings *out);
void shared_settings_deinit(SharedSettings *s);
/* They mean the same; what TLS shows and believes is not looked at. */
bool shared_settings_same(const SharedSettings *a, const SharedSettings *b);
