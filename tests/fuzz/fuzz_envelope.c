/* What other nodes say, through a tier that nobody trusts: envelope_read, the signature and the
 * records behind it take any bytes, and so do addresses of tiers and collectors and rows of trusted
 * nodes. The first byte says which; with records it also says whether the seals of the records are
 * made right first, without which nothing behind their check would be reached. Signatures are not
 * made right: that nothing unsigned is taken is what offer_check is for, and is asserted. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache/shared.h"
#include "daemon/server/resp.h"
#include "daemon/server/shared_trust.h"
#include "daemon/server/trace_push.h"
#include "proto/digest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD = 128, RECORD_HEAD = 16 };

/* Seals the first record, if its length is right. */
static void seal(uint8_t *bytes, size_t n) {
  uint64_t payload = 0;
  if (n < HEAD + RECORD_HEAD + DIGEST_BYTES + NODE_SIGNATURE_BYTES) return;
  uint8_t *at = bytes + HEAD;
  for (int i = 7; i >= 0; i--) payload = payload << 8 | at[8 + i];
  if (payload > n - HEAD - RECORD_HEAD - DIGEST_BYTES) return;
  Digest *d = digest_create();
  digest_add(d, at, RECORD_HEAD);
  digest_add(d, at + RECORD_HEAD + DIGEST_BYTES, (size_t)payload);
  digest_finish(d, at + RECORD_HEAD);
}

static void fuzz_statement(const uint8_t *bytes, size_t n) {
  Bytes b = {bytes, n};
  Envelope e;
  Schedule records[ENVELOPE_RECORDS];
  Arena arena;
  Status st = envelope_read(b, &e);
  arena_init(&arena, 0);
  if (!st) {
    TrustedNode node = {.name = "n"};
    Offer offer = {.kernel = e.subject, .target = e.target, .statement = b};
    memcpy(node.node, e.node, NODE_KEY_BYTES);
    if (offer_check(&offer, &node, 1, &e) == OV_TAKEN && !envelope_signed(b, &e)) abort();
    if (offer_check(&offer, NULL, 0, &e) == OV_TAKEN) abort();
    st = envelope_records(&e, &arena, records);
    for (uint64_t i = 0; i < e.count && !st; i++)
      if (records[i].verified || !records[i].imported) abort();
  }
  status_drop(st);
  arena_deinit(&arena);
}

static void fuzz_collector(const char *text) {
  PushAddress a;
  Status st = push_address_parse(text, &a);
  if (!st && (!*a.at.host == !*a.at.path || *a.path != '/')) abort();
  status_drop(st);
}

static void fuzz_text(const char *text, bool address) {
  RespAddress a;
  TrustedNode node;
  char shown[600];
  Status st = address ? resp_address_parse(text, &a) : shared_trust_row(str_from(text), &node);
  if (!st && address) resp_address_text(&a, shown, sizeof shown);
  if (!st && !address && strlen(node.name) >= sizeof node.name) abort();
  status_drop(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!size) return 0;
  size_t n = size - 1;
  uint8_t *bytes = malloc(n + 1);
  if (!bytes) return 0;
  memcpy(bytes, data + 1, n);
  bytes[n] = 0;
  if (data[0] & 4) {
    if (data[0] & 8)
      fuzz_collector((const char *)bytes);
    else
      fuzz_text((const char *)bytes, data[0] & 1);
  } else {
    uint8_t *exact = malloc(n ? n : 1); /* so that a read behind the end is seen */
    if (exact) {
      memcpy(exact, bytes, n);
      if (data[0] & 2) seal(exact, n);
      fuzz_statement(exact, n);
    }
    free(exact);
  }
  free(bytes);
  return 0;
}
