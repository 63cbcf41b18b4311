/* ONNX messages as the frontend sees them: the subset that inference models need, decoded in place
 * (proto/view.h). Field numbers are those of ONNX; proto/onnx/onnx.proto is the same subset as a
 * schema, and a test holds the two equal. */
#pragma once

#include "proto/view.h"

enum OnnxDataType {
  ONNX_FLOAT = 1,
  ONNX_UINT8 = 2,
  ONNX_INT8 = 3,
  ONNX_UINT16 = 4,
  ONNX_INT16 = 5,
  ONNX_INT32 = 6,
  ONNX_INT64 = 7,
  ONNX_STRING = 8,
  ONNX_BOOL = 9,
  ONNX_FLOAT16 = 10,
  ONNX_DOUBLE = 11,
  ONNX_UINT32 = 12,
  ONNX_UINT64 = 13,
  ONNX_BFLOAT16 = 16,
  ONNX_FLOAT8E4M3FN = 17,
  ONNX_FLOAT8E4M3FNUZ = 18,
  ONNX_FLOAT8E5M2 = 19,
  ONNX_FLOAT8E5M2FNUZ = 20,
  ONNX_UINT4 = 21,
  ONNX_INT4 = 22,
  ONNX_FLOAT4E2M1 = 23,
  ONNX_FLOAT8E8M0 = 24,
  ONNX_UINT2 = 25,
  ONNX_INT2 = 26
};

enum OnnxAttributeType {
  ONNX_ATTR_FLOAT = 1,
  ONNX_ATTR_INT = 2,
  ONNX_ATTR_STRING = 3,
  ONNX_ATTR_TENSOR = 4,
  ONNX_ATTR_GRAPH = 5,
  ONNX_ATTR_FLOATS = 6,
  ONNX_ATTR_INTS = 7,
  ONNX_ATTR_STRINGS = 8
};

typedef struct OnnxEntry {
  uint64_t seen;
  Str key, value;
} OnnxEntry;

typedef struct OnnxTensor {
  uint64_t seen;
  VIEW_LIST(int64_t) dims;
  int64_t data_type;
  VIEW_LIST(float) float_data;
  VIEW_LIST(int64_t) int32_data;
  VIEW_LIST(Str) string_data;
  VIEW_LIST(int64_t) int64_data;
  Str name;
  Str raw_data;
  VIEW_LIST(double) double_data;
  VIEW_LIST(int64_t) uint64_data;
  VIEW_LIST(OnnxEntry) external_data;
  int64_t data_location; /* 1: external */
} OnnxTensor;

typedef struct OnnxGraph OnnxGraph;

typedef struct OnnxAttribute {
  uint64_t seen;
  Str name;
  float f;
  int64_t i;
  Str s;
  OnnxTensor *t;
  OnnxGraph *g;
  VIEW_LIST(float) floats;
  VIEW_LIST(int64_t) ints;
  VIEW_LIST(Str) strings;
  int64_t type;
  Str ref_attr_name;
} OnnxAttribute;

typedef struct OnnxNode {
  uint64_t seen;
  VIEW_LIST(Str) input;
  VIEW_LIST(Str) output;
  Str name;
  Str op_type;
  VIEW_LIST(OnnxAttribute) attribute;
  Str domain;
} OnnxNode;

typedef struct OnnxDim {
  uint64_t seen; /* ONNX_DIM_VALUE, ONNX_DIM_PARAM */
  int64_t dim_value;
  Str dim_param;
} OnnxDim;
enum { ONNX_DIM_VALUE = 1, ONNX_DIM_PARAM = 2 };

typedef struct OnnxShape {
  uint64_t seen;
  VIEW_LIST(OnnxDim) dim;
} OnnxShape;

typedef struct OnnxTensorType {
  uint64_t seen;
  int64_t elem_type;
  OnnxShape *shape;
} OnnxTensorType;

typedef struct OnnxType OnnxType;
/* TypeProto.Sequence and TypeProto.Optional: what it holds. */
typedef struct OnnxHolderType {
  uint64_t seen;
  OnnxType *elem_type;
} OnnxHolderType;

struct OnnxType { /* all NULL: a map or sparse type */
  uint64_t seen;
  OnnxTensorType *tensor_type;
  OnnxHolderType *sequence_type;
  OnnxHolderType *optional_type;
};

typedef struct OnnxValueInfo {
  uint64_t seen;
  Str name;
  OnnxType *type;
} OnnxValueInfo;

struct OnnxGraph {
  uint64_t seen; /* ONNX_GRAPH_SPARSE */
  VIEW_LIST(OnnxNode) node;
  Str name;
  VIEW_LIST(OnnxTensor) initializer;
  VIEW_LIST(OnnxValueInfo) input;
  VIEW_LIST(OnnxValueInfo) output;
  VIEW_LIST(Str) sparse_initializer; /* undecoded: refused by the frontend */
};

typedef struct OnnxOpset {
  uint64_t seen;
  Str domain;
  int64_t version;
} OnnxOpset;

typedef struct OnnxFunction {
  uint64_t seen;
  Str name;
  VIEW_LIST(Str) input;
  VIEW_LIST(Str) output;
  VIEW_LIST(Str) attribute;
  VIEW_LIST(OnnxNode) node;
  VIEW_LIST(OnnxOpset) opset_import;
  Str domain;
  VIEW_LIST(OnnxAttribute) attribute_proto;
} OnnxFunction;

typedef struct OnnxModel {
  uint64_t seen;
  int64_t ir_version;
  Str producer_name;
  OnnxGraph *graph;
  VIEW_LIST(OnnxOpset) opset_import;
  VIEW_LIST(OnnxFunction) functions;
} OnnxModel;

extern const ViewMessage onnx_model_message;

/* Strings and raw_data of *out point into `bytes`. */
Status onnx_decode(Arena *arena, Bytes bytes, OnnxModel *out);
/* True when raw_data occurred in the message, even empty. */
bool onnx_has_raw(const OnnxTensor *t);
