/* The calls about the cache: a question to the cache lane each, its answer sent on. Export sends
 * the file that the lane made in chunks, as fast as the client reads; import gathers one, whose
 * size is bounded, and hands it over whole. */
#include <inttypes.h>

#include "cache/cache.h"
#include "daemon/server/answers.h"
#include "daemon/server/connection.h"
#include "daemon/server/rpc.h"
#include "daemon/server/upload.h"

static void on_answer(void *ctx, const ProtobufCMessage *m, Status st) {
  Request *r = ctx;
  r->work = NULL; /* the job is over */
  if (m)
    request_reply(r, m);
  else
    request_finish(r, st);
}

/* job is what the store gave for the request. */
static void await(Request *r, StoreJob *job) {
  r->work = job;
  if (job)
    request_move(r, RS_CACHE);
  else
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "asking the cache"));
}

static void cache_release(Request *r) {
  if (r->work) store_forget(r->work);
}

/* Where the file lies is for admins. */
static void on_stats(void *ctx, const ProtobufCMessage *m, Status st) {
  Request *r = ctx;
  if (!m || (r->tenant->roles & ROLE_ADMIN)) {
    on_answer(ctx, m, st);
    return;
  }
  Kiln__V1__CacheStatsResponse stats = *(const Kiln__V1__CacheStatsResponse *)m;
  stats.path = stats.error = (char *)(uintptr_t) "";
  on_answer(ctx, &stats.base, st);
}

static void stats_message(Request *r, Bytes msg) {
  if (!request_decode(r, msg)) return;
  await(r, store_stats(r->tenant->store, r->tenant->used.merged, on_stats, r));
}

/* Records have the names of models: those of a cache that others write too are for admins. */
static bool may_list(Request *r) {
  if (!r->tenant->shares_cache || (r->tenant->roles & ROLE_ADMIN)) return true;
  request_finish(r, FAIL(PERMISSION_DENIED,
                         "the records of the shared cache are shown to those with the role admin"));
  return false;
}

static void list_message(Request *r, Bytes msg) {
  const Kiln__V1__CacheListRequest *m = request_decode(r, msg);
  if (m && may_list(r)) await(r, store_list(r->tenant->store, m->limit, on_answer, r));
}

static void why_message(Request *r, Bytes msg) {
  const Kiln__V1__CacheWhyRequest *m = request_decode(r, msg);
  if (!m || !may_list(r)) return;
  const DeviceLane *device = r->server->devices[0];
  await(r, store_why(r->tenant->store, m->hash, device_lane_fingerprint(device), on_answer, r));
}

const Method rpc_cache_stats = {.path = "/kiln.v1.Kiln/CacheStats",
                                .request = &kiln__v1__cache_stats_request__descriptor,
                                .message = stats_message,
                                .release = cache_release};
const Method rpc_cache_list = {.path = "/kiln.v1.Kiln/CacheList",
                               .request = &kiln__v1__cache_list_request__descriptor,
                               .message = list_message,
                               .release = cache_release};
const Method rpc_cache_why = {.path = "/kiln.v1.Kiln/CacheWhy",
                              .request = &kiln__v1__cache_why_request__descriptor,
                              .message = why_message,
                              .release = cache_release};

/* -- upkeep -------------------------------------------------------------------------------------
 */

static void verify_message(Request *r, Bytes msg) {
  if (request_decode(r, msg)) await(r, store_verify(r->tenant->store, on_answer, r));
}

static void prune_message(Request *r, Bytes msg) {
  const Kiln__V1__CachePruneRequest *m = request_decode(r, msg);
  if (!m) return;
  request_subject(r, "older_ns=%" PRId64 " bytes=%" PRIu64 " target=%s", m->older_ns, m->bytes,
                  m->target);
  if (m->older_ns < 0 || (!m->older_ns && !m->bytes && !*m->target))
    request_finish(r, FAIL(INVALID_ARGUMENT,
                           "nothing to prune by: expected an age of at least 1 ns, a size or a "
                           "target"));
  else
    await(r, store_prune(r->tenant->store, m, on_answer, r));
}

static void remove_message(Request *r, Bytes msg) {
  const Kiln__V1__CacheRemoveRequest *m = request_decode(r, msg);
  if (!m) return;
  request_subject(r, "hash=%s", m->hash);
  await(r, store_remove(r->tenant->store, m->hash, on_answer, r));
}

const Method rpc_cache_verify = {.path = "/kiln.v1.Kiln/CacheVerify",
                                 .audit = "cache.verify",
                                 .request = &kiln__v1__cache_verify_request__descriptor,
                                 .message = verify_message,
                                 .release = cache_release};
const Method rpc_cache_prune = {.path = "/kiln.v1.Kiln/CachePrune",
                                .audit = "cache.prune",
                                .request = &kiln__v1__cache_prune_request__descriptor,
                                .message = prune_message,
                                .release = cache_release};
const Method rpc_cache_remove = {.path = "/kiln.v1.Kiln/CacheRemove",
                                 .audit = "cache.remove",
                                 .request = &kiln__v1__cache_remove_request__descriptor,
                                 .message = remove_message,
                                 .release = cache_release};

/* -- export and import --------------------------------------------------------------------------
 */

/* A file on its way out or in. In the request's arena; the bytes are on the heap. */
typedef struct Transfer {
  StoreJob *job; /* NULL when none is outstanding */
  StrBuf file;
  uint64_t announced; /* import */
  bool header;
  size_t at; /* export: what has been sent */
} Transfer;

static void transfer_release(Request *r) {
  Transfer *t = r->work;
  if (!t) return;
  if (t->job) store_forget(t->job);
  strbuf_deinit(&t->file);
}

static void export_pump(Request *r) {
  Transfer *t = r->work;
  if (t->job) return;
  while (t->at < t->file.len) {
    if (grpc_stream_queued(r->stream) > ANSWERS_QUEUED) return; /* on_drain goes on */
    size_t left = t->file.len - t->at, n = left < ANSWERS_PART ? left : ANSWERS_PART;
    Kiln__V1__CacheExportResponse m = KILN__V1__CACHE_EXPORT_RESPONSE__INIT;
    m.part_case = KILN__V1__CACHE_EXPORT_RESPONSE__PART_CHUNK;
    m.chunk = (ProtobufCBinaryData){n, (uint8_t *)t->file.ptr + t->at};
    request_send(r, &m.base);
    t->at += n;
  }
  request_finish(r, NULL);
}

static void on_file(void *ctx, StrBuf *file, uint64_t records, Status st) {
  Request *r = ctx;
  Transfer *t = r->work;
  t->job = NULL;
  if (!st) st = answers_claim(r, file->len + ANSWERS_STREAM);
  if (st) {
    request_finish(r, st);
    return;
  }
  t->file = *file;
  *file = (StrBuf){0};
  Kiln__V1__CacheExportResponse m = KILN__V1__CACHE_EXPORT_RESPONSE__INIT;
  m.part_case = KILN__V1__CACHE_EXPORT_RESPONSE__PART_RECORDS;
  m.records = records;
  request_move(r, RS_STREAMING);
  request_send(r, &m.base);
  export_pump(r);
}

static void transfer_await(Request *r, Transfer *t, StoreJob *job) {
  t->job = job;
  if (job)
    request_move(r, RS_CACHE);
  else
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "asking the cache"));
}

static void export_message(Request *r, Bytes msg) {
  const Kiln__V1__CacheExportRequest *m = request_decode(r, msg);
  if (!m || !may_list(r)) return;
  request_subject(r, "kernel=%s", m->kernel);
  Transfer *t = r->work = arena_alloc(&r->arena, sizeof *t);
  if (t)
    transfer_await(r, t, store_export(r->tenant->store, m->kernel, on_file, r));
  else
    request_finish(r, FAIL(RESOURCE_EXHAUSTED, "export"));
}

const Method rpc_cache_export = {.path = "/kiln.v1.Kiln/CacheExport",
                                 .audit = "cache.export",
                                 .request = &kiln__v1__cache_export_request__descriptor,
                                 .message = export_message,
                                 .drain = export_pump,
                                 .release = transfer_release};

static Status import_header(Transfer *t, const Kiln__V1__CacheImportRequest *m) {
  if (m->part_case != KILN__V1__CACHE_IMPORT_REQUEST__PART_HEADER)
    return FAIL(INVALID_ARGUMENT, "a message with neither header nor chunk");
  if (t->header) return FAIL(INVALID_ARGUMENT, "a second header");
  if (m->header->size > CACHE_EXPORT_MAX)
    return FAIL(RESOURCE_EXHAUSTED, "the file has %" PRIu64 " bytes, at most %d are taken",
                m->header->size, CACHE_EXPORT_MAX);
  t->header = true;
  t->announced = m->header->size;
  return NULL;
}

static Status import_chunk(Transfer *t, Bytes chunk) {
  if (!t->header) return FAIL(INVALID_ARGUMENT, "a chunk came before the header");
  if (chunk.len > t->announced - t->file.len)
    return FAIL(INVALID_ARGUMENT, "the header announced %" PRIu64 " bytes, got at least %zu",
                t->announced, t->file.len + chunk.len);
  strbuf_add(&t->file, chunk.ptr, chunk.len);
  return t->file.failed ? FAIL(RESOURCE_EXHAUSTED, "import") : NULL;
}

static void import_message(Request *r, Bytes msg) {
  Transfer *t = r->work;
  Bytes chunk;
  Status st = NULL;
  if (!t) t = r->work = arena_alloc(&r->arena, sizeof *t);
  if (!t) {
    st = FAIL(RESOURCE_EXHAUSTED, "import");
  } else if (upload_chunk(msg, &chunk)) {
    st = import_chunk(t, chunk);
  } else {
    const Kiln__V1__CacheImportRequest *m = request_decode(r, msg);
    if (!m) return; /* failed already */
    st = import_header(t, m);
  }
  if (st) request_finish(r, st);
}

static void on_imported(void *ctx, const ProtobufCMessage *m, Status st) {
  Request *r = ctx;
  Transfer *t = r->work;
  t->job = NULL;
  if (m)
    request_reply(r, m);
  else
    request_finish(r, st);
}

static void import_end(Request *r) {
  Transfer *t = r->work;
  request_subject(r, "bytes=%zu", t ? t->file.len : 0);
  if (!t || !t->header)
    request_finish(r, FAIL(INVALID_ARGUMENT, "the call ended without a header"));
  else if (t->file.len != t->announced)
    request_finish(r, FAIL(INVALID_ARGUMENT, "the header announced %" PRIu64 " bytes, got %zu",
                           t->announced, t->file.len));
  else
    transfer_await(r, t, store_import(r->tenant->store, &t->file, on_imported, r));
}

const Method rpc_cache_import = {.path = "/kiln.v1.Kiln/CacheImport",
                                 .audit = "cache.import",
                                 .request = &kiln__v1__cache_import_request__descriptor,
                                 .many = true,
                                 .message = import_message,
                                 .end = import_end,
                                 .release = transfer_release};
