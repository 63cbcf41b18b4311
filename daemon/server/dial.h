/* A connection that kilnd opens: to the shared tier, to a collector of spans.
 *
 * Looks the host up, tries its addresses one after the other, and has TLS verify whom it has
 * reached, all within a time; then bytes go both ways. The peer is not trusted with anything: what
 * is written is bounded here, what is read is whoever uses it to bound.
 *
 * Everything is on the loop, and no function calls back before it returns, but for dial_write,
 * which never does. A Dial is gone after `down` or dial_close; `gone` follows when libuv has let go
 * of all of it, exactly once, and is where ctx may be freed. */
#pragma once

#include <uv.h>

#include "base/status.h"
#include "base/str.h"
#include "proto/tls.h"

typedef struct DialAddress {
  char host[256], port[8]; /* host "": a Unix socket */
  char path[108];
} DialAddress;
/* HOST, HOST:PORT, [IPV6] or [IPV6]:PORT. False: it is none of them. */
bool dial_parse(Str text, const char *default_port, DialAddress *out);
bool dial_parse_socket(Str path, DialAddress *out);
/* HOST:PORT, [IPV6]:PORT or unix:PATH */
const char *dial_text(const DialAddress *a, char *buf, size_t cap);
bool dial_same(const DialAddress *a, const DialAddress *b);

typedef struct Dial Dial;
typedef struct DialSpec {
  uv_loop_t *loop;
  const DialAddress *to; /* used in dial_open alone */
  TlsContext *tls;       /* NULL: plain; the host must be named by its certificate */
  uint64_t timeout_ms;   /* for coming up */
  void (*up)(void *ctx);
  void (*input)(void *ctx, const char *bytes, size_t n);
  void (*down)(void *ctx, const char *why);
  void (*gone)(void *ctx);
  void *ctx;
} DialSpec;

/* On failure nothing of the spec is called. */
Status dial_open(const DialSpec *spec, Dial **out);
/* `gone` alone follows. */
void dial_close(Dial *d);
/* Copies. False: it is not up, too much waits already, or there is no memory. */
enum { DIAL_WRITE_MAX = 8 << 20 };
bool dial_write(Dial *d, const void *bytes, size_t n);
/* It goes down when this is not called again within so long; 0: never. */
void dial_expect(Dial *d, uint64_t ms);
