/* Server reflection, v1 and v1alpha: the same bytes under two names. */
#include "daemon/server/connection.h"
#include "daemon/server/rpc.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/reflection.h"

static void reflection_message(Request *r, Bytes msg) {
  Arena arena;
  Bytes answer;
  arena_init(&arena, 0);
  Status st = reflection_answer(msg, &arena, &answer);
  if (!st) {
    grpc_send(r->stream, answer);
    connection_dirty(r->conn);
  }
  arena_deinit(&arena);
  if (st) request_finish(r, st);
}

static void reflection_end(Request *r) { request_finish(r, NULL); }

const Method rpc_reflection_v1 = {
    .path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    .request = &grpc__reflection__v1__server_reflection_request__descriptor,
    .many = true,
    .message = reflection_message,
    .end = reflection_end};

const Method rpc_reflection_v1alpha = {
    .path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    .request = &grpc__reflection__v1__server_reflection_request__descriptor,
    .many = true,
    .message = reflection_message,
    .end = reflection_end};
