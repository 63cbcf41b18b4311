/* Who somebody is: from the peer of a Unix socket, a client certificate, or a bearer token.
 *
 * The token of a request counts before what its connection is; a wrong one is refused rather than
 * ignored. Tokens are in the configuration as "sha256:SALT:HASH", where HASH is the SHA-256 of the
 * salt's bytes followed by the token (auth_token_row makes one). Every row is hashed and compared
 * in constant time whatever the rows before it said.
 *
 * What was found out for a connection is kept with the generation of the tenants, and found out
 * again after a reload: a token or a tenant that is gone is gone for the next request. */
#pragma once

#include <sys/types.h>

#include "base/str.h"
#include "daemon/server/tenant.h"

typedef struct AuthTable AuthTable;

/* Takes what c says of c->tenants; tenants holds them. On failure *out is left alone. */
Status auth_load(const struct Config *c, const TenantTable *tenants, AuthTable **out);
void auth_release(AuthTable *a); /* NULL allowed */

enum { AUTH_NAMES_MAX = 16, AUTH_TOKEN_MAX = 256 };

/* What a connection knows of its peer. Embedded; zeroed is nothing. */
typedef struct Peer {
  bool has_uid;
  uid_t uid;
  char *names[AUTH_NAMES_MAX]; /* of a verified certificate: "cn:x", "dns:x", "uri:x"; owned */
  size_t nnames;
  /* found out in `generation`: */
  uint64_t generation;
  Tenant *tenant; /* by uid or certificate; nobody when there is none */
  char *token;    /* the last one that was right; owned */
  size_t token_len;
  Tenant *bearer; /* whose it is */
  bool complained;
} Peer;

void peer_deinit(Peer *p);
/* Reads the credentials of a Unix socket's other end. */
void peer_from_socket(Peer *p, int fd);

/* Whose request this is: UNAUTHENTICATED, or PERMISSION_DENIED when he may not. `needs` is a row's
 * of rpc.def. */
Status auth_request(const AuthTable *a, TenantTable *tenants, Peer *p, Str authorization,
                    unsigned needs, Tenant **out);
