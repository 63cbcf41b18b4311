/* Answers are one block: an arena, then the public struct, then, inside the arena, everything it
 * points to. kiln_free finds the arena in front of the struct. */
#include <stdlib.h>

#include "client/c/internal.h"

typedef struct Owned {
  Arena arena;
  _Alignas(16) char payload[];
} Owned;

static Owned *owned_of(const void *answer) {
  return (Owned *)((uintptr_t)answer - offsetof(Owned, payload));
}

void *owned_create(size_t size) {
  Owned *o = calloc(1, sizeof *o + size);
  if (!o) return NULL;
  arena_init(&o->arena, 0);
  return o->payload;
}

Arena *owned_arena(void *answer) { return &owned_of(answer)->arena; }

void kiln_free(const void *answer) {
  if (!answer) return;
  Owned *o = owned_of(answer);
  arena_deinit(&o->arena);
  free(o);
}

KilnCode error_take(Status st, KilnError *err) {
  KilnCode code = (KilnCode)status_code(st);
  if (err) {
    err->code = code;
    status_text(st, err->message, sizeof err->message);
    err->retry_after_ns = status_retry_ns(st);
  }
  status_drop(st);
  return code;
}

const char *kiln_code_name(KilnCode code) { return status_code_name((StatusCode)code); }
const char *kiln_version(void) { return KILN_VERSION; }

static const struct {
  const char *name;
  size_t size;
} dtypes[] = {
    [KILN_DTYPE_NONE] = {"?", 0},
    [KILN_BOOL] = {"bool", 1},
    [KILN_I8] = {"int8", 1},
    [KILN_I16] = {"int16", 2},
    [KILN_I32] = {"int32", 4},
    [KILN_I64] = {"int64", 8},
    [KILN_U8] = {"uint8", 1},
    [KILN_U16] = {"uint16", 2},
    [KILN_U32] = {"uint32", 4},
    [KILN_U64] = {"uint64", 8},
    [KILN_F16] = {"float16", 2},
    [KILN_BF16] = {"bfloat16", 2},
    [KILN_F32] = {"float32", 4},
    [KILN_F64] = {"float64", 8},
    [KILN_F8E4M3FN] = {"float8_e4m3fn", 1},
    [KILN_F8E4M3FNUZ] = {"float8_e4m3fnuz", 1},
    [KILN_F8E5M2] = {"float8_e5m2", 1},
    [KILN_F8E5M2FNUZ] = {"float8_e5m2fnuz", 1},
    [KILN_F8E8M0] = {"float8_e8m0fnu", 1},
    [KILN_F4E2M1] = {"float4_e2m1fn", 1},
    [KILN_I4] = {"int4", 1},
    [KILN_U4] = {"uint4", 1},
    [KILN_I2] = {"int2", 1},
    [KILN_U2] = {"uint2", 1},
};
enum { NDTYPES = sizeof dtypes / sizeof *dtypes };

size_t kiln_dtype_size(KilnDType dtype) {
  return (unsigned)dtype < NDTYPES ? dtypes[dtype].size : 0;
}
const char *kiln_dtype_name(KilnDType dtype) {
  return (unsigned)dtype < NDTYPES ? dtypes[dtype].name : "?";
}
