/* One stored blob: the key's canonical bytes and the value, compressed and sealed with a hash. */
#pragma once

#include "base/status.h"
#include "base/str.h"

/* The compressor's and decompressor's memory, kept between records: making it anew costs more than
 * decoding a kernel. Zeroed is empty; owned by one thread. */
typedef struct RecordCodec {
  struct ZSTD_CCtx_s *encoder;
  struct ZSTD_DCtx_s *decoder;
} RecordCodec;
void record_codec_deinit(RecordCodec *codec);

/* Appends the record to out. */
Status record_encode(RecordCodec *codec, Bytes canonical, Bytes value, StrBuf *out);
/* Takes any bytes. Appends the two parts, one after the other, to out; *canonical_len says where
 * the value begins. DATA_LOSS when the bytes are not a whole record. */
Status record_decode(RecordCodec *codec, Bytes record, StrBuf *out, size_t *canonical_len);
