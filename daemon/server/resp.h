/* One connection to a server that speaks RESP (Redis, Valkey) and is not trusted.
 *
 * Commands are answered in their order, each within the timeout; a server that is late, sends what
 * nobody asked for, or more than an answer may hold, loses the connection. Memory is bounded: of
 * commands that wait for their answer, of what is written, and of an answer.
 *
 * Everything is on the loop. `down` is the last call of a connection, also when it never came up;
 * after it, or after resp_close, the Resp is gone. */
#pragma once

#include <hiredis/hiredis.h>
#include <uv.h>

#include "base/status.h"
#include "base/str.h"
#include "daemon/server/dial.h"

enum { RESP_ARGS = 10, RESP_PENDING = 256, RESP_STRING_MAX = 64 << 10 };

/* redis://[[USER:]PASSWORD@]HOST[:PORT][/DB], the same with rediss:// for TLS, or unix:PATH */
typedef struct RespAddress {
  bool tls;
  DialAddress at;
  char user[128], password[256], db[8]; /* "" = none */
} RespAddress;
Status resp_address_parse(const char *text, RespAddress *out);
/* Without the password. */
const char *resp_address_text(const RespAddress *a, char *buf, size_t cap);

typedef struct Resp Resp;
typedef struct RespSpec {
  uv_loop_t *loop;
  const RespAddress *address; /* copied */
  uint64_t timeout_ms;        /* of an answer; twice that for coming up */
  TlsContext *tls;            /* of an address with TLS; used in resp_open alone */
  const char *channel;        /* subscribed to, and then no command may be sent; NULL = none */
  void (*up)(void *ctx);
  void (*down)(void *ctx, const char *why);
  void (*push)(void *ctx, Bytes payload); /* of the channel */
  void *ctx;
} RespSpec;

Status resp_open(const RespSpec *spec, Resp **out);
/* Commands that wait are told; `down` is not called. */
void resp_close(Resp *r);

/* reply NULL: the connection ended first. Valid during the call. */
typedef void (*RespDone)(void *ctx, const redisReply *reply);
/* False, and no call follows, when too much waits already or the connection is not up. */
bool resp_command(Resp *r, const Str *args, size_t n, RespDone done, void *ctx);
