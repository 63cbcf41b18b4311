/* schedule_decode and the reader of exported files take any bytes. The first byte says which of the
 * two, and whether the hash is made right first, without which nothing behind its check would ever
 * be reached. What was read can be written, and reads the same. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache/internal.h"
#include "proto/digest.h"

enum { FILE_HEAD = 32, RECORD_HEAD = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void seal(uint8_t *bytes, size_t n, size_t head) {
  if (n < head + DIGEST_BYTES) return;
  Digest *d = digest_create();
  digest_add(d, bytes, head);
  digest_add(d, bytes + head + DIGEST_BYTES, n - head - DIGEST_BYTES);
  digest_finish(d, bytes + head);
}

static void round_trip(const Schedule *s) {
  StrBuf bytes = {0}, again = {0};
  Arena arena;
  Schedule copy;
  size_t used;
  arena_init(&arena, 0);
  Status st = schedule_encode(s, &bytes);
  if (!st) st = schedule_decode((Bytes){(uint8_t *)bytes.ptr, bytes.len}, &arena, &copy, &used);
  if (!st) st = schedule_encode(&copy, &again);
  if (st || used != bytes.len || again.len != bytes.len ||
      memcmp(again.ptr, bytes.ptr, bytes.len) != 0) {
    fprintf(stderr, "a schedule record does not round-trip\n");
    abort();
  }
  arena_deinit(&arena);
  strbuf_deinit(&bytes);
  strbuf_deinit(&again);
}

static void fuzz_record(const uint8_t *bytes, size_t n, Arena *arena) {
  Schedule s;
  size_t used;
  Status st = schedule_decode((Bytes){bytes, n}, arena, &s, &used);
  if (!st) round_trip(&s);
  status_drop(st);
}

static void fuzz_file(const uint8_t *bytes, size_t n, Arena *arena) {
  Schedule *all;
  uint64_t count;
  Status st = transfer_read((Bytes){bytes, n}, arena, &all, &count);
  for (uint64_t i = 0; i < count && !st; i++) {
    if (all[i].verified || !all[i].imported) abort();
    round_trip(&all[i]);
  }
  status_drop(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Arena arena;
  if (!size) return 0;
  size_t n = size - 1;
  uint8_t *bytes = malloc(n ? n : 1);
  if (!bytes) return 0;
  memcpy(bytes, data + 1, n);
  arena_init(&arena, 0);
  if (data[0] & 1) {
    size_t first = FILE_HEAD + DIGEST_BYTES;
    if (data[0] & 2 && n > first) seal(bytes + first, n - first, RECORD_HEAD); /* its one record */
    if (data[0] & 2) seal(bytes, n, FILE_HEAD);
    fuzz_file(bytes, n, &arena);
  } else {
    if (data[0] & 2) seal(bytes, n, RECORD_HEAD);
    fuzz_record(bytes, n, &arena);
  }
  arena_deinit(&arena);
  free(bytes);
  return 0;
}
