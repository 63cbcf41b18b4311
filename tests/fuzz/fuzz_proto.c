/* Every message that a client may send us, from bytes: what pb_unpack accepts must pack again, to
 * something that unpacks to the same bytes. The first byte chooses the message. */
#include <stdlib.h>

#include "grpc/health/v1/health.pb-c.h"
#include "kiln/v1/kiln.pb-c.h"
#include "proto/limits.h"
#include "proto/reflection.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const messages[] = {
    &kiln__v1__get_server_info_request__descriptor,
    &kiln__v1__compile_request__descriptor,
    &kiln__v1__run_request__descriptor,
    &kiln__v1__release_executable_request__descriptor,
    &kiln__v1__inspect_request__descriptor,
    &kiln__v1__upload_request__descriptor,
    &kiln__v1__download_request__descriptor,
    &kiln__v1__free_buffers_request__descriptor,
    &kiln__v1__list_buffers_request__descriptor,
    &kiln__v1__list_devices_request__descriptor,
    &kiln__v1__cache_stats_request__descriptor,
    &kiln__v1__cache_list_request__descriptor,
    &kiln__v1__cache_why_request__descriptor,
    &kiln__v1__graph__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    NULL, /* what reflection is asked */
    &kiln__v1__explain_request__descriptor,
    &kiln__v1__cache_export_request__descriptor,
    &kiln__v1__cache_import_request__descriptor,
    &kiln__v1__cache_verify_request__descriptor,
    &kiln__v1__cache_prune_request__descriptor,
    &kiln__v1__cache_remove_request__descriptor,
    &kiln__v1__tune_request__descriptor,
    &kiln__v1__events_request__descriptor,
};
enum { NMESSAGES = sizeof messages / sizeof *messages };

static Bytes repack(const ProtobufCMessage *msg, Arena *a) {
  size_t n = protobuf_c_message_get_packed_size(msg);
  uint8_t *out = arena_alloc(a, n + 1);
  if (!out) abort();
  return (Bytes){out, protobuf_c_message_pack(msg, out)};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const PbLimits limits = {
      .max_bytes = 1 << 16, .max_depth = 8, .max_elements = 10000, .max_memory = 1 << 20};
  static const PbLimits again = {
      .max_bytes = 1 << 24, .max_depth = 9, .max_elements = 1u << 20, .max_memory = 1 << 25};
  if (!size) return 0;
  Arena a;
  arena_init(&a, 64 << 20);
  Bytes in = {data + 1, size - 1}, out;
  const ProtobufCMessageDescriptor *d = messages[data[0] % NMESSAGES];
  if (!d) {
    status_drop(reflection_answer(in, &a, &out));
  } else {
    ProtobufCMessage *msg, *back;
    Status st = pb_unpack(d, in, &limits, &a, &msg);
    if (!st) {
      Bytes once = repack(msg, &a);
      st = pb_unpack(d, once, &again, &a, &back);
      if (st) abort();
      Bytes twice = repack(back, &a);
      if (once.len != twice.len || memcmp(once.ptr, twice.ptr, once.len)) abort();
    }
    status_drop(st);
  }
  arena_deinit(&a);
  return 0;
}
