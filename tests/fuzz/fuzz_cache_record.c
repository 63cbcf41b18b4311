/* record_decode takes any bytes. The first byte says whether the rest is sealed with a right hash,
 * without which nothing behind the hash check would ever be reached. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache/record.h"
#include "proto/digest.h"

enum { HEAD = 24, PAYLOAD_AT = HEAD + DIGEST_BYTES };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(uint8_t *record, size_t n) {
  Digest *d = digest_create();
  digest_add(d, record, HEAD);
  digest_add(d, record + PAYLOAD_AT, n - PAYLOAD_AT);
  digest_finish(d, record + HEAD);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  RecordCodec codec = {0};
  StrBuf out = {0}, again = {0}, parts = {0};
  size_t split, split2;
  if (!size) return 0;
  size_t n = size - 1;
  uint8_t *record = malloc(n ? n : 1);
  if (!record) return 0;
  memcpy(record, data + 1, n);
  if (data[0] & 1 && n >= PAYLOAD_AT) seal(record, n);
  Status st = record_decode(&codec, (Bytes){record, n}, &out, &split);
  if (!st) { /* what was read can be written, and reads the same */
    Bytes whole = {(uint8_t *)out.ptr, out.len};
    st = record_encode(&codec, (Bytes){whole.ptr, split},
                       (Bytes){whole.ptr + split, whole.len - split}, &again);
    if (!st) st = record_decode(&codec, (Bytes){(uint8_t *)again.ptr, again.len}, &parts, &split2);
    if (st || split != split2 || out.len != parts.len || memcmp(out.ptr, parts.ptr, out.len) != 0) {
      fprintf(stderr, "a record of %zu bytes does not round-trip\n", n);
      abort();
    }
  }
  status_drop(st);
  free(record);
  strbuf_deinit(&out);
  strbuf_deinit(&again);
  strbuf_deinit(&parts);
  record_codec_deinit(&codec);
  return 0;
}
