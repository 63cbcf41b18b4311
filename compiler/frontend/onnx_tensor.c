/* TensorProto to Val. raw_data is used where it lies in the model; the typed fields, which hold
 * small tensors in practice, are narrowed into the job's arena. Elements of 4 and 2 bits are packed
 * in the model, the first in the lowest bits of a byte (in int32_data: of the low byte of an
 * entry), and get a byte each. */
#include <assert.h>

#include "compiler/frontend/onnx_node.h"

static const struct {
  DType dtype;
  const char *name;
} onnx_types[] = {
    [0] = {DT_VOID, "UNDEFINED"},
    [ONNX_FLOAT] = {DT_F32, "FLOAT"},
    [ONNX_UINT8] = {DT_U8, "UINT8"},
    [ONNX_INT8] = {DT_I8, "INT8"},
    [ONNX_UINT16] = {DT_U16, "UINT16"},
    [ONNX_INT16] = {DT_I16, "INT16"},
    [ONNX_INT32] = {DT_I32, "INT32"},
    [ONNX_INT64] = {DT_I64, "INT64"},
    [ONNX_STRING] = {DT_VOID, "STRING"},
    [ONNX_BOOL] = {DT_BOOL, "BOOL"},
    [ONNX_FLOAT16] = {DT_F16, "FLOAT16"},
    [ONNX_DOUBLE] = {DT_F64, "DOUBLE"},
    [ONNX_UINT32] = {DT_U32, "UINT32"},
    [ONNX_UINT64] = {DT_U64, "UINT64"},
    [14] = {DT_VOID, "COMPLEX64"},
    [15] = {DT_VOID, "COMPLEX128"},
    [ONNX_BFLOAT16] = {DT_BF16, "BFLOAT16"},
    [ONNX_FLOAT8E4M3FN] = {DT_F8E4M3FN, "FLOAT8E4M3FN"},
    [ONNX_FLOAT8E4M3FNUZ] = {DT_F8E4M3FNUZ, "FLOAT8E4M3FNUZ"},
    [ONNX_FLOAT8E5M2] = {DT_F8E5M2, "FLOAT8E5M2"},
    [ONNX_FLOAT8E5M2FNUZ] = {DT_F8E5M2FNUZ, "FLOAT8E5M2FNUZ"},
    [ONNX_UINT4] = {DT_U4, "UINT4"},
    [ONNX_INT4] = {DT_I4, "INT4"},
    [ONNX_FLOAT4E2M1] = {DT_F4E2M1, "FLOAT4E2M1"},
    [ONNX_FLOAT8E8M0] = {DT_F8E8M0, "FLOAT8E8M0"},
    [ONNX_UINT2] = {DT_U2, "UINT2"},
    [ONNX_INT2] = {DT_I2, "INT2"},
    [27] = {DT_VOID, "FLOAT6E2M3"},
    [28] = {DT_VOID, "FLOAT6E3M2"},
};

DType onnx_dtype(Job *job, int64_t data_type) {
  int64_t n = (int64_t)(sizeof onnx_types / sizeof *onnx_types);
  if (data_type <= 0 || data_type >= n)
    job_abort(job, FAIL(INVALID_ARGUMENT, "element type %lld is not one of ONNX's",
                        (long long)data_type));
  if (onnx_types[data_type].dtype == DT_VOID)
    job_abort(job,
              FAIL(UNIMPLEMENTED, "element type %s is not supported", onnx_types[data_type].name));
  return onnx_types[data_type].dtype;
}

DType onnx_dtype_named(Job *job, Str name) {
  for (size_t i = 1; i < sizeof onnx_types / sizeof *onnx_types; i++)
    if (str_is(name, onnx_types[i].name)) return onnx_dtype(job, (int64_t)i);
  job_abort(job, FAIL(INVALID_ARGUMENT, "element type '" STR_FMT "' is not one of ONNX's",
                      STR_ARG(name)));
}

static void bad_length(Job *job, const char *what, Ints shape, DType d, size_t got, size_t want,
                       const char *unit) {
  job_abort(job, FAIL(INVALID_ARGUMENT, "%s: %zu %s of data for %s of shape %s, expected %zu", what,
                      got, unit, dtype_info[d].name, shape_text(job, shape), want));
}

/* The integers of int32_data, int64_data or uint64_data, narrowed to the item size. */
static const void *narrow(Job *job, const int64_t *v, size_t n, size_t item) {
  uint8_t *data = arena_array(&job->arena, n, item);
  for (size_t i = 0; i < n; i++) memcpy(data + i * item, &v[i], item);
  return data;
}

static const void *typed_data(Job *job, const OnnxTensor *t, DType d, size_t *n) {
  size_t item = dtype_info[d].bytes;
  switch (d) {
  case DT_F32: *n = t->float_data.n; return t->float_data.at;
  case DT_F64: *n = t->double_data.n; return t->double_data.at;
  case DT_I64: *n = t->int64_data.n; return t->int64_data.at;
  case DT_U32:
  case DT_U64: *n = t->uint64_data.n; return narrow(job, t->uint64_data.at, *n, item);
  default: *n = t->int32_data.n; return narrow(job, t->int32_data.at, *n, item);
  }
}

/* A bool is one byte, 0 or 1; other bytes would be compared as numbers later. */
static const void *clean_bools(Job *job, const uint8_t *data, size_t n) {
  uint8_t *out = arena_alloc(&job->arena, n);
  for (size_t i = 0; i < n; i++) out[i] = data[i] != 0;
  return out;
}

/* Bits of an element as ONNX packs it; 0: not packed. */
static unsigned packed_bits(DType d) {
  unsigned bits = dtype_info[d].bits;
  return dtype_is_storage(d) && bits < 8 ? bits : 0;
}

/* n elements out of their packed bytes, each of them in canonical form. */
static const void *unpacked(Job *job, DType d, const uint8_t *packed, size_t n) {
  unsigned bits = packed_bits(d);
  assert(bits);
  unsigned per = 8 / bits;
  uint8_t *out = arena_alloc(&job->arena, n);
  for (size_t i = 0; i < n; i++) {
    uint8_t v = (uint8_t)(packed[i / per] >> (bits * (i % per)));
    scalar_store(d, scalar_load(d, &v), &out[i]);
  }
  return out;
}

Val *onnx_tensor(Front *f, const OnnxTensor *t, const char *what) {
  Job *job = f->job;
  Ints shape = {t->dims.at, 0};
  if (t->dims.n > MAX_RANK)
    job_abort(job, FAIL(INVALID_ARGUMENT, "%s: rank %zu, at most %d", what, t->dims.n, MAX_RANK));
  shape.n = (uint32_t)t->dims.n;
  if (t->data_location == 1 || t->external_data.n)
    job_abort(job, FAIL(INVALID_ARGUMENT,
                        "%s: its data is in an external file (external_data), which the server "
                        "cannot read: save the model with the data inside and upload that",
                        what));
  DType d = onnx_dtype(job, t->data_type);
  size_t item = dtype_info[d].bytes;
  size_t n = (size_t)shape_check(job, shape, MAX_TENSOR / (int64_t)item, what), got;
  unsigned bits = packed_bits(d);
  size_t stored = bits ? n / (8 / bits) + (n % (8 / bits) != 0) : n; /* elements in the model */
  const void *data = t->raw_data.ptr;
  if (onnx_has_raw(t)) {
    if (t->raw_data.len != stored * item)
      bad_length(job, what, shape, d, t->raw_data.len, stored * item, "bytes");
  } else {
    data = typed_data(job, t, d, &got);
    if (got != stored) bad_length(job, what, shape, d, got, stored, "elements");
  }
  if (bits) data = unpacked(job, d, data, n);
  if (dtype_is_bool(d)) data = clean_bools(job, data, n);
  static const char empty[8] = {0};
  Val *v = val_from_data(f, d, shape, n ? data : empty);
  v->name = t->name;
  return v;
}
