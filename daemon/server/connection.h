/* One accepted socket and its gRPC session. */
#pragma once

#include "daemon/server/request.h"

enum { CONNECTION_READ_BYTES = 256 << 10 };

/* Takes ownership of fd. address: of the other end, 0 for a Unix socket's, whom the system knows.
 * Others speak TLS when the server has a certificate. RESOURCE_EXHAUSTED when too many are open;
 * the oldest that nobody has used as a tenant makes room before that. */
Status connection_open(Server *s, int fd, uint64_t address);
/* The server's certificate is what c says; sessions that there are keep theirs. */
Status connections_load_tls(Server *s, const Config *c);
/* Asks for a graceful end: running calls finish, new ones are refused. */
void connection_drain(Connection *c);
/* Ends it now; calls in flight are cancelled. */
void connection_close(Connection *c);
/* Something was queued on the session: it is written before the loop sleeps. */
void connection_dirty(Connection *c);
/* Writes what the dirty connections have queued. */
void connections_flush(Server *s);
/* Ends connections and calls whose clients are slower than the configured patience, in any of the
 * ways in which one can be; drains connections that have been without a call for too long or
 * are too old. */
void connections_expire(Server *s);
/* Bytes of answers that wait for the client, for answers.c. */
uint64_t *connection_answers(Connection *c);
/* Whose request it is, and whether he may: auth_request. *out is never NULL. */
Status connection_authorize(Connection *c, Str authorization, unsigned needs, Tenant **out);
Server *connection_server(const Connection *c);
/* A descriptor that came beside the bytes: passed_take. */
Status connection_take_passed(Connection *c, uint64_t number, uint64_t bytes, int *out);
/* 1, 2, ... in the order of accepting. */
uint64_t connection_number(const Connection *c);
Connection *connection_next(const Connection *c);
