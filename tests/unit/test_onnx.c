/* proto/onnx.c: its tables say what onnx.proto says, and malformed bytes are errors. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "onnx/onnx.pb-c.h"
#include "proto/onnx.h"

static const ProtobufCFieldDescriptor *schema_field(const ProtobufCMessageDescriptor *d,
                                                    const char *name) {
  return protobuf_c_message_descriptor_get_field_by_name(d, name);
}

static bool kind_matches(ViewKind kind, ProtobufCType type) {
  switch (kind) {
  case VIEW_INT:
    return type == PROTOBUF_C_TYPE_INT32 || type == PROTOBUF_C_TYPE_INT64 ||
           type == PROTOBUF_C_TYPE_UINT64;
  case VIEW_FLOAT: return type == PROTOBUF_C_TYPE_FLOAT;
  case VIEW_DOUBLE: return type == PROTOBUF_C_TYPE_DOUBLE;
  case VIEW_STR: return type == PROTOBUF_C_TYPE_STRING || type == PROTOBUF_C_TYPE_BYTES;
  case VIEW_MSG: return type == PROTOBUF_C_TYPE_MESSAGE;
  default: return false;
  }
}

static void compare(const ViewMessage *m, const ProtobufCMessageDescriptor *d, int depth) {
  if (depth > 8) return; /* graphs contain graphs */
  assert_int_equal(m->nfields, d->n_fields);
  for (size_t i = 0; i < m->nfields; i++) {
    const ViewField *f = &m->fields[i];
    const ProtobufCFieldDescriptor *s = schema_field(d, f->name);
    if (!s) fail_msg("%s.%s is not in the schema", m->name, f->name);
    if (f->number != s->id || !kind_matches(f->kind, s->type) ||
        f->repeated != (s->label == PROTOBUF_C_LABEL_REPEATED))
      fail_msg("%s.%s differs from the schema", m->name, f->name);
    if (f->kind == VIEW_MSG) compare(f->msg, s->descriptor, depth + 1);
  }
}

static void test_tables(void **state) {
  (void)state;
  compare(&onnx_model_message, &kiln__onnx__model_proto__descriptor, 0);
}

/* A model with one node, packed by protobuf-c. */
static size_t pack_sample(uint8_t *out) {
  Kiln__Onnx__ModelProto m = KILN__ONNX__MODEL_PROTO__INIT;
  Kiln__Onnx__GraphProto g = KILN__ONNX__GRAPH_PROTO__INIT;
  Kiln__Onnx__NodeProto n = KILN__ONNX__NODE_PROTO__INIT, *nodes[] = {&n};
  Kiln__Onnx__AttributeProto a = KILN__ONNX__ATTRIBUTE_PROTO__INIT, *attrs[] = {&a};
  Kiln__Onnx__TensorProto t = KILN__ONNX__TENSOR_PROTO__INIT, *tensors[] = {&t};
  char *in[] = {(char *)(uintptr_t) "x", (char *)(uintptr_t) ""};
  int64_t ints[] = {-1, 2, INT64_MIN}, dims[] = {2};
  float floats[] = {0.5f, -1};
  m.ir_version = 8, m.has_ir_version = 1, m.graph = &g;
  g.node = nodes, g.n_node = 1, g.initializer = tensors, g.n_initializer = 1;
  n.input = in, n.n_input = 2, n.op_type = (char *)(uintptr_t) "Foo";
  n.attribute = attrs, n.n_attribute = 1;
  a.name = (char *)(uintptr_t) "k", a.ints = ints, a.n_ints = 3;
  a.floats = floats, a.n_floats = 2;
  t.dims = dims, t.n_dims = 1, t.has_raw_data = 1;
  t.raw_data = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "abc"};
  return kiln__onnx__model_proto__pack(&m, out);
}

static void test_decode(void **state) {
  (void)state;
  uint8_t bytes[512];
  size_t n = pack_sample(bytes);
  Arena arena;
  OnnxModel m;
  arena_init(&arena, 0);
  assert_null(onnx_decode(&arena, (Bytes){bytes, n}, &m));
  assert_int_equal(m.ir_version, 8);
  assert_int_equal(m.graph->node.n, 1);
  const OnnxNode *node = &m.graph->node.at[0];
  assert_true(str_is(node->op_type, "Foo"));
  assert_int_equal(node->input.n, 2);
  assert_int_equal(node->input.at[1].len, 0);
  const OnnxAttribute *a = &node->attribute.at[0];
  assert_int_equal(a->ints.n, 3);
  assert_true(a->ints.at[0] == -1 && a->ints.at[2] == INT64_MIN);
  assert_true(a->floats.n == 2 && a->floats.at[0] == 0.5f);
  const OnnxTensor *t = &m.graph->initializer.at[0];
  assert_true(onnx_has_raw(t) && str_is(t->raw_data, "abc"));
  /* in place */
  assert_true((const uint8_t *)t->raw_data.ptr > bytes &&
              (const uint8_t *)t->raw_data.ptr < bytes + n);
  arena_deinit(&arena);
}

/* Every truncation is an error or a shorter valid message; none reads past the end (asan). */
static void test_truncation(void **state) {
  (void)state;
  uint8_t bytes[512];
  size_t n = pack_sample(bytes);
  int failures = 0;
  for (size_t len = 0; len < n; len++) {
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, bytes, len);
    Arena arena;
    OnnxModel m;
    arena_init(&arena, 1 << 20);
    Status st = onnx_decode(&arena, (Bytes){copy, len}, &m);
    failures += st != NULL;
    if (st) assert_int_equal(st->code, ST_INVALID_ARGUMENT);
    status_drop(st);
    arena_deinit(&arena);
    free(copy);
  }
  assert_true(failures > (int)n / 2);
}

static void expect(const uint8_t *bytes, size_t n, StatusCode code, const char *text) {
  Arena arena;
  OnnxModel m;
  char got[256];
  arena_init(&arena, 1 << 20);
  Status st = onnx_decode(&arena, (Bytes){bytes, n}, &m);
  assert_int_equal(status_code(st), code);
  status_text(st, got, sizeof got);
  if (!strstr(got, text)) fail_msg("'%s' does not hold '%s'", got, text);
  status_drop(st);
  arena_deinit(&arena);
}

static void test_malformed(void **state) {
  (void)state;
  const uint8_t wrong_type[] = {7 << 3 | 0, 1};      /* graph as a varint */
  const uint8_t group[] = {1 << 3 | 3};              /* start of a group */
  const uint8_t length[] = {7 << 3 | 2, 0x7f, 0, 0}; /* 127 bytes that are not there */
  const uint8_t field0[] = {0, 0};
  expect(wrong_type, sizeof wrong_type, ST_INVALID_ARGUMENT, "ModelProto.graph");
  expect(group, sizeof group, ST_INVALID_ARGUMENT, "ModelProto");
  expect(length, sizeof length, ST_INVALID_ARGUMENT, "byte 0");
  expect(field0, sizeof field0, ST_INVALID_ARGUMENT, "field number");
}

/* One field around `inner`, which is freed. */
static uint8_t *wrap(uint8_t tag, uint8_t *inner, size_t *len) {
  uint8_t *outer = malloc(*len + 12);
  size_t at = 0;
  outer[at++] = tag;
  for (size_t v = *len;; v >>= 7) {
    outer[at++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
    if (v <= 0x7f) break;
  }
  if (*len) memcpy(outer + at, inner, *len);
  free(inner);
  *len += at;
  return outer;
}

/* Graph in attribute in node in graph ... */
static void nest(int levels, StatusCode code, const char *text) {
  const uint8_t path[] = {6 << 3 | 2, 5 << 3 | 2, 1 << 3 | 2}; /* g, attribute, node */
  uint8_t *bytes = NULL;
  size_t len = 0;
  for (int i = 0; i < levels; i++) bytes = wrap(path[i % 3], bytes, &len);
  bytes = wrap(7 << 3 | 2, bytes, &len);
  expect(bytes, len, code, text);
  free(bytes);
}

static void test_depth(void **state) {
  (void)state;
  nest(60, ST_OK, "");
  nest(90, ST_RESOURCE_EXHAUSTED, "nested deeper than 64");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_tables),     cmocka_unit_test(test_decode),
      cmocka_unit_test(test_truncation), cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_depth),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
