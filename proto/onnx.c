/* The tables that drive view_decode for ONNX. A row names the C member, so name and offset cannot
 * drift apart; the numbers are ONNX's. */
#include "proto/onnx.h"

#define ONE(T, n_, kind_, member_)  VIEW_ROW(T, n_, kind_, false, member_, NULL)
#define MANY(T, n_, kind_, member_) VIEW_ROW(T, n_, kind_, true, member_, NULL)

static const ViewMessage graph_message;

static const ViewField entry_fields[] = {
    ONE(OnnxEntry, 1, VIEW_STR, key),
    ONE(OnnxEntry, 2, VIEW_STR, value),
};
static const ViewMessage entry_message =
    VIEW_TABLE(entry_fields, OnnxEntry, "StringStringEntryProto");

enum { TENSOR_RAW_ROW = 7 };
static const ViewField tensor_fields[] = {
    MANY(OnnxTensor, 1, VIEW_INT, dims),
    ONE(OnnxTensor, 2, VIEW_INT, data_type),
    MANY(OnnxTensor, 4, VIEW_FLOAT, float_data),
    MANY(OnnxTensor, 5, VIEW_INT, int32_data),
    MANY(OnnxTensor, 6, VIEW_STR, string_data),
    MANY(OnnxTensor, 7, VIEW_INT, int64_data),
    ONE(OnnxTensor, 8, VIEW_STR, name),
    [TENSOR_RAW_ROW] = ONE(OnnxTensor, 9, VIEW_STR, raw_data),
    MANY(OnnxTensor, 10, VIEW_DOUBLE, double_data),
    MANY(OnnxTensor, 11, VIEW_INT, uint64_data),
    VIEW_ROW(OnnxTensor, 13, VIEW_MSG, true, external_data, &entry_message),
    ONE(OnnxTensor, 14, VIEW_INT, data_location),
};
static const ViewMessage tensor_message = VIEW_TABLE(tensor_fields, OnnxTensor, "TensorProto");

static const ViewField attribute_fields[] = {
    ONE(OnnxAttribute, 1, VIEW_STR, name),
    ONE(OnnxAttribute, 2, VIEW_FLOAT, f),
    ONE(OnnxAttribute, 3, VIEW_INT, i),
    ONE(OnnxAttribute, 4, VIEW_STR, s),
    VIEW_ROW(OnnxAttribute, 5, VIEW_MSG, false, t, &tensor_message),
    VIEW_ROW(OnnxAttribute, 6, VIEW_MSG, false, g, &graph_message),
    MANY(OnnxAttribute, 7, VIEW_FLOAT, floats),
    MANY(OnnxAttribute, 8, VIEW_INT, ints),
    MANY(OnnxAttribute, 9, VIEW_STR, strings),
    ONE(OnnxAttribute, 20, VIEW_INT, type),
    ONE(OnnxAttribute, 21, VIEW_STR, ref_attr_name),
};
static const ViewMessage attribute_message =
    VIEW_TABLE(attribute_fields, OnnxAttribute, "AttributeProto");

static const ViewField node_fields[] = {
    MANY(OnnxNode, 1, VIEW_STR, input),
    MANY(OnnxNode, 2, VIEW_STR, output),
    ONE(OnnxNode, 3, VIEW_STR, name),
    ONE(OnnxNode, 4, VIEW_STR, op_type),
    VIEW_ROW(OnnxNode, 5, VIEW_MSG, true, attribute, &attribute_message),
    ONE(OnnxNode, 7, VIEW_STR, domain),
};
static const ViewMessage node_message = VIEW_TABLE(node_fields, OnnxNode, "NodeProto");

static const ViewField dim_fields[] = {
    ONE(OnnxDim, 1, VIEW_INT, dim_value),
    ONE(OnnxDim, 2, VIEW_STR, dim_param),
};
static const ViewMessage dim_message =
    VIEW_TABLE(dim_fields, OnnxDim, "TensorShapeProto.Dimension");

static const ViewField shape_fields[] = {
    VIEW_ROW(OnnxShape, 1, VIEW_MSG, true, dim, &dim_message),
};
static const ViewMessage shape_message = VIEW_TABLE(shape_fields, OnnxShape, "TensorShapeProto");

static const ViewField tensor_type_fields[] = {
    ONE(OnnxTensorType, 1, VIEW_INT, elem_type),
    VIEW_ROW(OnnxTensorType, 2, VIEW_MSG, false, shape, &shape_message),
};
static const ViewMessage tensor_type_message =
    VIEW_TABLE(tensor_type_fields, OnnxTensorType, "TypeProto.Tensor");

static const ViewMessage type_message;

static const ViewField sequence_type_fields[] = {
    VIEW_ROW(OnnxHolderType, 1, VIEW_MSG, false, elem_type, &type_message),
};
static const ViewMessage sequence_type_message =
    VIEW_TABLE(sequence_type_fields, OnnxHolderType, "TypeProto.Sequence");

static const ViewField optional_type_fields[] = {
    VIEW_ROW(OnnxHolderType, 1, VIEW_MSG, false, elem_type, &type_message),
};
static const ViewMessage optional_type_message =
    VIEW_TABLE(optional_type_fields, OnnxHolderType, "TypeProto.Optional");

static const ViewField type_fields[] = {
    VIEW_ROW(OnnxType, 1, VIEW_MSG, false, tensor_type, &tensor_type_message),
    VIEW_ROW(OnnxType, 4, VIEW_MSG, false, sequence_type, &sequence_type_message),
    VIEW_ROW(OnnxType, 9, VIEW_MSG, false, optional_type, &optional_type_message),
};
static const ViewMessage type_message = VIEW_TABLE(type_fields, OnnxType, "TypeProto");

static const ViewField value_info_fields[] = {
    ONE(OnnxValueInfo, 1, VIEW_STR, name),
    VIEW_ROW(OnnxValueInfo, 2, VIEW_MSG, false, type, &type_message),
};
static const ViewMessage value_info_message =
    VIEW_TABLE(value_info_fields, OnnxValueInfo, "ValueInfoProto");

static const ViewField graph_fields[] = {
    VIEW_ROW(OnnxGraph, 1, VIEW_MSG, true, node, &node_message),
    ONE(OnnxGraph, 2, VIEW_STR, name),
    VIEW_ROW(OnnxGraph, 5, VIEW_MSG, true, initializer, &tensor_message),
    VIEW_ROW(OnnxGraph, 11, VIEW_MSG, true, input, &value_info_message),
    VIEW_ROW(OnnxGraph, 12, VIEW_MSG, true, output, &value_info_message),
    MANY(OnnxGraph, 15, VIEW_STR, sparse_initializer),
};
static const ViewMessage graph_message = VIEW_TABLE(graph_fields, OnnxGraph, "GraphProto");

static const ViewField opset_fields[] = {
    ONE(OnnxOpset, 1, VIEW_STR, domain),
    ONE(OnnxOpset, 2, VIEW_INT, version),
};
static const ViewMessage opset_message = VIEW_TABLE(opset_fields, OnnxOpset, "OperatorSetIdProto");

static const ViewField function_fields[] = {
    ONE(OnnxFunction, 1, VIEW_STR, name),
    MANY(OnnxFunction, 4, VIEW_STR, input),
    MANY(OnnxFunction, 5, VIEW_STR, output),
    MANY(OnnxFunction, 6, VIEW_STR, attribute),
    VIEW_ROW(OnnxFunction, 7, VIEW_MSG, true, node, &node_message),
    VIEW_ROW(OnnxFunction, 9, VIEW_MSG, true, opset_import, &opset_message),
    ONE(OnnxFunction, 10, VIEW_STR, domain),
    VIEW_ROW(OnnxFunction, 11, VIEW_MSG, true, attribute_proto, &attribute_message),
};
static const ViewMessage function_message =
    VIEW_TABLE(function_fields, OnnxFunction, "FunctionProto");

static const ViewField model_fields[] = {
    ONE(OnnxModel, 1, VIEW_INT, ir_version),
    ONE(OnnxModel, 2, VIEW_STR, producer_name),
    VIEW_ROW(OnnxModel, 7, VIEW_MSG, false, graph, &graph_message),
    VIEW_ROW(OnnxModel, 8, VIEW_MSG, true, opset_import, &opset_message),
    VIEW_ROW(OnnxModel, 25, VIEW_MSG, true, functions, &function_message),
};
const ViewMessage onnx_model_message = VIEW_TABLE(model_fields, OnnxModel, "ModelProto");

/* Enough for any real model: depth 3 per nested graph, and 64 M elements of typed data. */
static const ViewLimits limits = {.depth = 64, .elements = 64u << 20};

Status onnx_decode(Arena *arena, Bytes bytes, OnnxModel *out) {
  *out = (OnnxModel){0};
  return view_decode(arena, bytes, &onnx_model_message, &limits, out);
}

bool onnx_has_raw(const OnnxTensor *t) { return t->seen >> TENSOR_RAW_ROW & 1; }
