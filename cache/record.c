/*   "KREC" version 1 byte, 3 zero bytes, canonical length, value length (8 bytes each,
 *   little-endian), SHA-256 (32 bytes) of the 24 bytes before it and the payload, payload
 *
 * The payload is a zstd frame of canonical bytes and value. The hash covers what is on the disk, so
 * a flipped bit is found before the decompressor sees it; lengths are still bounded, since a hash
 * is no signature. */
#include "cache/record.h"

#include <zstd.h>

#include "cache/sealed.h"

enum { HEAD = 24, PAYLOAD_AT = HEAD + DIGEST_BYTES, LEVEL = 1 };
static const uint64_t MAX_BYTES = (uint64_t)1 << 30;
static const uint8_t start[8] = {'K', 'R', 'E', 'C', 1};

void record_codec_deinit(RecordCodec *codec) {
  ZSTD_freeCCtx(codec->encoder);
  ZSTD_freeDCtx(codec->decoder);
  *codec = (RecordCodec){0};
}

static Status compress(RecordCodec *codec, Bytes canonical, Bytes value, uint8_t *to, size_t room,
                       size_t *out) {
  size_t left = 1;
  if (!codec->encoder && !(codec->encoder = ZSTD_createCCtx())) {
    return FAIL(RESOURCE_EXHAUSTED, "no memory for a compressor");
  }
  ZSTD_CCtx_reset(codec->encoder, ZSTD_reset_session_and_parameters);
  ZSTD_CCtx_setParameter(codec->encoder, ZSTD_c_compressionLevel, LEVEL);
  ZSTD_CCtx_setPledgedSrcSize(codec->encoder, canonical.len + value.len);
  ZSTD_inBuffer first = {canonical.ptr, canonical.len, 0}, second = {value.ptr, value.len, 0};
  ZSTD_outBuffer dst = {to, room, 0};
  while (first.pos < first.size && !ZSTD_isError(left)) {
    left = ZSTD_compressStream2(codec->encoder, &dst, &first, ZSTD_e_continue);
  }
  while (!ZSTD_isError(left)) { /* there is room for the worst case, so this ends */
    left = ZSTD_compressStream2(codec->encoder, &dst, &second, ZSTD_e_end);
    if (!left) break;
  }
  *out = dst.pos;
  return left ? FAIL(INTERNAL, "compressing: %s", ZSTD_getErrorName(left)) : NULL;
}

Status record_encode(RecordCodec *codec, Bytes canonical, Bytes value, StrBuf *out) {
  if (canonical.len > MAX_BYTES || value.len > MAX_BYTES - canonical.len) {
    return FAIL(RESOURCE_EXHAUSTED, "a record of %zu + %zu bytes is too large", canonical.len,
                value.len);
  }
  size_t room = ZSTD_compressBound(canonical.len + value.len) + 64, n;
  if (!strbuf_reserve(out, PAYLOAD_AT + room)) return FAIL(RESOURCE_EXHAUSTED, "a cache record");
  uint8_t *record = (uint8_t *)out->ptr + out->len;
  memcpy(record, start, sizeof start);
  sealed_put(record + 8, canonical.len, 8);
  sealed_put(record + 16, value.len, 8);
  TRY(compress(codec, canonical, value, record + PAYLOAD_AT, room, &n));
  sealed_close(record, HEAD, n);
  out->len += PAYLOAD_AT + n;
  out->ptr[out->len] = 0;
  return NULL;
}

Status record_decode(RecordCodec *codec, Bytes record, StrBuf *out, size_t *canonical_len) {
  if (record.len < PAYLOAD_AT || memcmp(record.ptr, start, sizeof start) != 0) {
    return FAIL(DATA_LOSS, "%zu bytes are not a cache record", record.len);
  }
  uint64_t canonical = sealed_get(record.ptr + 8, 8), value = sealed_get(record.ptr + 16, 8);
  if (canonical > MAX_BYTES || value > MAX_BYTES - canonical) {
    return FAIL(DATA_LOSS, "the record's lengths are out of range");
  }
  if (!sealed_holds(record.ptr, HEAD, record.len - PAYLOAD_AT)) {
    return FAIL(DATA_LOSS, "the record does not match its hash");
  }
  size_t total = (size_t)(canonical + value), payload = record.len - PAYLOAD_AT;
  if (ZSTD_getFrameContentSize(record.ptr + PAYLOAD_AT, payload) != total) {
    return FAIL(DATA_LOSS, "the record does not hold %zu bytes", total);
  }
  if (!strbuf_reserve(out, total)) return FAIL(RESOURCE_EXHAUSTED, "a record of %zu bytes", total);
  if (!codec->decoder && !(codec->decoder = ZSTD_createDCtx())) {
    return FAIL(RESOURCE_EXHAUSTED, "no memory for a decompressor");
  }
  size_t n = ZSTD_decompressDCtx(codec->decoder, out->ptr + out->len, total,
                                 record.ptr + PAYLOAD_AT, payload);
  if (n != total) return FAIL(DATA_LOSS, "the record does not decompress");
  out->len += total;
  out->ptr[out->len] = 0;
  *canonical_len = (size_t)canonical;
  return NULL;
}
