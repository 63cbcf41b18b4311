/* The method table, made of rpc.def. It is short and paths differ in length, so a linear search
 * does. */
#include "daemon/server/rpc.h"

#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "grpc/reflection/v1alpha/reflection.pb-c.h"
#include "inference/inference.pb-c.h"
#include "kiln/v1/kiln.pb-c.h"

/* One struct per service with a member per row: as large as what protobuf-c made of the .proto only
 * when every RPC has its row, and none two. */
#define SERVICE(service_)                      struct service_##_rows {
#define RPC(service_, field_, method_, needs_) void (*(field_))(void);
#define END(service_)                                                                              \
  }                                                                                                \
  ;                                                                                                \
  _Static_assert(sizeof(ProtobufCService) + sizeof(struct service_##_rows) ==                      \
                     sizeof(service_##_Service),                                                   \
                 "an RPC without a row in rpc.def");
#include "daemon/server/rpc.def"
#undef SERVICE
#undef RPC
#undef END

static const Rpc rpcs[] = {
#define SERVICE(service_)
#define RPC(service_, field_, method_, needs_)                                                     \
  {.method = &(method_), .needs = (needs_) + 0 * offsetof(service_##_Service, field_)},
#define END(service_)
#include "daemon/server/rpc.def"
#undef SERVICE
#undef RPC
#undef END
};

enum { NRPCS = sizeof rpcs / sizeof *rpcs };
_Static_assert((int)NRPCS <= (int)LABELS_METHOD, "every method has room in the metrics");

const Rpc *rpc_find(Str path) {
  for (size_t i = 0; i < NRPCS; i++)
    if (str_is(path, rpcs[i].method->path)) return &rpcs[i];
  return NULL;
}

const Rpc *rpc_at(size_t i) { return i < NRPCS ? &rpcs[i] : NULL; }

unsigned rpc_index(const Rpc *rpc) { return (unsigned)(rpc - rpcs); }

const char *rpc_name(unsigned i) { return i < NRPCS ? rpcs[i].method->path + 1 : NULL; }
