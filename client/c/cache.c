/* Upkeep of the server's cache: verify, prune, remove, and files of schedule records both ways. */
#include <stdlib.h>

#include "client/c/internal.h"
#include "proto/wire.h"

static Status lay_out_check(const void *message, Arena *a, void *out) {
  const Kiln__V1__CacheVerifyResponse *m = message;
  (void)a;
  *(KilnCacheCheck *)out = (KilnCacheCheck){.entries = m->entries,
                                            .schedules = m->schedules,
                                            .corrupt = m->corrupt,
                                            .newer = m->newer,
                                            .problems = m->problems};
  return NULL;
}

KilnCode kiln_cache_verify(KilnClient *c, KilnCacheCheck **out, KilnError *err) {
  Kiln__V1__CacheVerifyRequest q = KILN__V1__CACHE_VERIFY_REQUEST__INIT;
  static const Method method = {.path = "/kiln.v1.Kiln/CacheVerify",
                                .message = &kiln__v1__cache_verify_response__descriptor,
                                .size = sizeof(KilnCacheCheck),
                                .lay_out = lay_out_check};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

static Status lay_out_removed(const void *message, Arena *a, void *out) {
  const Kiln__V1__CacheRemovedResponse *m = message;
  (void)a;
  *(KilnCacheRemoved *)out =
      (KilnCacheRemoved){.entries = m->entries, .schedules = m->schedules, .bytes = m->bytes};
  return NULL;
}

KilnCode kiln_cache_prune(KilnClient *c, const KilnCachePrune *what, KilnCacheRemoved **out,
                          KilnError *err) {
  Kiln__V1__CachePruneRequest q = KILN__V1__CACHE_PRUNE_REQUEST__INIT;
  q.older_ns = what->older_ns;
  q.bytes = what->bytes;
  if (what->target) q.target = message_text(what->target);
  static const Method method = {.path = "/kiln.v1.Kiln/CachePrune",
                                .message = &kiln__v1__cache_removed_response__descriptor,
                                .size = sizeof(KilnCacheRemoved),
                                .lay_out = lay_out_removed,
                                .once = true};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

KilnCode kiln_cache_remove(KilnClient *c, const char *hash, KilnCacheRemoved **out,
                           KilnError *err) {
  Kiln__V1__CacheRemoveRequest q = KILN__V1__CACHE_REMOVE_REQUEST__INIT;
  q.hash = message_text(hash);
  static const Method method = {.path = "/kiln.v1.Kiln/CacheRemove",
                                .message = &kiln__v1__cache_removed_response__descriptor,
                                .size = sizeof(KilnCacheRemoved),
                                .lay_out = lay_out_removed,
                                .once = true};
  KilnCode code;
  *out = call_method(c, &method, &q.base, &code, err);
  return code;
}

/* -- export ------------------------------------------------------------------------------------ */

enum { FILE_MAX = 64 << 20 /* what a server sends at most */ };

/* The answer grows with each chunk: it moves in its arena, twice as large each time. */
static Status add_chunk(KilnCall *call, Bytes chunk) {
  KilnCacheFile *file = call->answer;
  if (!file) return FAIL(INTERNAL, "the server sent data before the header");
  if (chunk.len > FILE_MAX - file->bytes)
    return FAIL(RESOURCE_EXHAUSTED, "the server sends more than %d bytes", FILE_MAX);
  size_t need = file->bytes + chunk.len;
  if (need > call->filled) {
    size_t cap = need * 2;
    uint8_t *more = arena_alloc(owned_arena(file), cap);
    if (!more) return answer_no_memory();
    if (file->bytes) memcpy(more, file->data, file->bytes);
    file->data = more;
    call->filled = cap;
  }
  if (chunk.len) memcpy((uint8_t *)(uintptr_t)file->data + file->bytes, chunk.ptr, chunk.len);
  file->bytes = need;
  return NULL;
}

static Status decode_file(KilnCall *call, Bytes msg) {
  enum { RECORDS = 1, CHUNK = 2 };
  WireReader r = wire_reader(msg);
  WireField f;
  if (!call->answer && !(call->answer = owned_create(sizeof(KilnCacheFile))))
    return answer_no_memory();
  while (wire_next(&r, &f)) {
    if (f.id == RECORDS && f.type == WIRE_VARINT)
      ((KilnCacheFile *)call->answer)->records = f.value;
    if (f.id == CHUNK && f.type == WIRE_LEN) TRY(add_chunk(call, f.bytes));
  }
  return r.error ? FAIL(INTERNAL, "the server's answer: %s", r.error) : NULL;
}

KilnCode kiln_cache_export(KilnClient *c, const char *kernel, KilnCacheFile **out, KilnError *err) {
  Kiln__V1__CacheExportRequest q = KILN__V1__CACHE_EXPORT_REQUEST__INIT;
  if (kernel) q.kernel = message_text(kernel);
  void *answer;
  KilnCode code = call_unary(c, "/kiln.v1.Kiln/CacheExport", &q.base, decode_file, &answer, err);
  *out = answer;
  return code;
}

/* -- import ------------------------------------------------------------------------------------ */

static Status decode_import(KilnCall *call, Bytes msg) {
  ProtobufCMessage *base;
  TRY(answer_unpack(call, &kiln__v1__cache_import_response__descriptor, msg,
                    sizeof(KilnCacheImport), &base));
  const Kiln__V1__CacheImportResponse *m = (const Kiln__V1__CacheImportResponse *)base;
  *(KilnCacheImport *)call->answer = (KilnCacheImport){.records = m->records, .stored = m->stored};
  return NULL;
}

KilnCode kiln_cache_import(KilnClient *c, const void *data, size_t bytes, KilnCacheImport **out,
                           KilnError *err) {
  CallWait w = {.err = err};
  const CallSpec spec = {.path = "/kiln.v1.Kiln/CacheImport",
                         .decode = decode_import,
                         .done = call_wait_done,
                         .ctx = &w};
  Kiln__V1__CacheImportHeader header = KILN__V1__CACHE_IMPORT_HEADER__INIT;
  Kiln__V1__CacheImportRequest first = KILN__V1__CACHE_IMPORT_REQUEST__INIT;
  header.size = bytes;
  first.part_case = KILN__V1__CACHE_IMPORT_REQUEST__PART_HEADER;
  first.header = &header;
  KilnCall *call;
  void *answer;
  Status st = call_start(c, &spec, &call);
  if (!st) {
    call_send(call, &first.base);
    call_stream(call, (ChunkSource){.data = data, .fd = -1, .left = bytes});
  }
  KilnCode code = call_wait(c, &w, st, &answer);
  *out = answer;
  return code;
}
