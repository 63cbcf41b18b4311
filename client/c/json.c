/* GetStatus and GetTrace, as JSON in protobuf's own mapping: these answers grow with the server,
 * and whoever shows them to people wants names and numbers rather than a struct per message. 64-bit
 * numbers are strings, bytes are hexadecimal, and every field is there, set or not. */
#include <inttypes.h>

#include "client/c/internal.h"

enum { DEPTH_MAX = 8 };

static void put_text(StrBuf *out, const char *text) {
  strbuf_adds(out, "\"");
  for (const char *c = text ? text : ""; *c; c++) {
    if (*c == '"' || *c == '\\')
      strbuf_addf(out, "\\%c", *c);
    else if ((unsigned char)*c < ' ')
      strbuf_addf(out, "\\u%04x", (unsigned)(unsigned char)*c);
    else
      strbuf_add(out, c, 1);
  }
  strbuf_adds(out, "\"");
}

static void put_bytes(StrBuf *out, const ProtobufCBinaryData *b) {
  strbuf_adds(out, "\"");
  for (size_t i = 0; i < b->len; i++) strbuf_addf(out, "%02x", b->data[i]);
  strbuf_adds(out, "\"");
}

static void put_message(StrBuf *out, const ProtobufCMessage *m, int depth);

/* The size of a value in a repeated field. */
static size_t value_bytes(ProtobufCType type) {
  switch (type) {
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_UINT32:
  case PROTOBUF_C_TYPE_ENUM: return 4;
  case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
  case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
  default: return 8;
  }
}

static void put_value(StrBuf *out, ProtobufCType type, const void *at, int depth) {
  switch (type) {
  case PROTOBUF_C_TYPE_BOOL:
    strbuf_adds(out, *(const protobuf_c_boolean *)at ? "true" : "false");
    break;
  case PROTOBUF_C_TYPE_INT32:
  case PROTOBUF_C_TYPE_ENUM: strbuf_addf(out, "%" PRId32, *(const int32_t *)at); break;
  case PROTOBUF_C_TYPE_UINT32: strbuf_addf(out, "%" PRIu32, *(const uint32_t *)at); break;
  case PROTOBUF_C_TYPE_INT64: strbuf_addf(out, "\"%" PRId64 "\"", *(const int64_t *)at); break;
  case PROTOBUF_C_TYPE_UINT64: strbuf_addf(out, "\"%" PRIu64 "\"", *(const uint64_t *)at); break;
  case PROTOBUF_C_TYPE_DOUBLE: strbuf_addf(out, "%.17g", *(const double *)at); break;
  case PROTOBUF_C_TYPE_STRING: put_text(out, *(char *const *)at); break;
  case PROTOBUF_C_TYPE_BYTES: put_bytes(out, at); break;
  case PROTOBUF_C_TYPE_MESSAGE: put_message(out, *(ProtobufCMessage *const *)at, depth + 1); break;
  default: strbuf_adds(out, "null"); break;
  }
}

static void put_message(StrBuf *out, const ProtobufCMessage *m, int depth) {
  if (!m || depth > DEPTH_MAX) {
    strbuf_adds(out, "null");
    return;
  }
  strbuf_adds(out, "{");
  for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
    const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
    const char *base = (const char *)m;
    const void *at = base + f->offset;
    strbuf_addf(out, "%s\"%s\":", i ? "," : "", f->name);
    if (f->label != PROTOBUF_C_LABEL_REPEATED) {
      put_value(out, f->type, at, depth);
      continue;
    }
    size_t n = *(const size_t *)(const void *)(base + f->quantifier_offset);
    const char *list = *(char *const *)at;
    strbuf_adds(out, "[");
    for (size_t k = 0; k < n; k++) {
      strbuf_adds(out, k ? "," : "");
      put_value(out, f->type, list + k * value_bytes(f->type), depth);
    }
    strbuf_adds(out, "]");
  }
  strbuf_adds(out, "}");
}

static Status decode(KilnCall *call, const ProtobufCMessageDescriptor *desc, Bytes msg) {
  ProtobufCMessage *m;
  StrBuf text = {0};
  TRY(answer_unpack(call, desc, msg, sizeof(KilnText), &m));
  put_message(&text, m, 0);
  char *copy =
      text.failed ? NULL : arena_strdup(owned_arena(call->answer), (Str){text.ptr, text.len});
  strbuf_deinit(&text);
  if (!copy) return answer_no_memory();
  *(KilnText *)call->answer = (KilnText){.text = copy};
  return NULL;
}

static Status decode_status(KilnCall *call, Bytes msg) {
  return decode(call, &kiln__v1__get_status_response__descriptor, msg);
}

static Status decode_trace(KilnCall *call, Bytes msg) {
  return decode(call, &kiln__v1__get_trace_response__descriptor, msg);
}

KilnCode kiln_status_json(KilnClient *c, KilnText **out, KilnError *err) {
  Kiln__V1__GetStatusRequest q = KILN__V1__GET_STATUS_REQUEST__INIT;
  void *answer;
  KilnCode code = call_unary(c, "/kiln.v1.Kiln/GetStatus", &q.base, decode_status, &answer, err);
  *out = answer;
  return code;
}

KilnCode kiln_trace_json(KilnClient *c, uint64_t after, KilnText **out, KilnError *err) {
  Kiln__V1__GetTraceRequest q = KILN__V1__GET_TRACE_REQUEST__INIT;
  void *answer;
  q.after = after;
  KilnCode code = call_unary(c, "/kiln.v1.Kiln/GetTrace", &q.base, decode_trace, &answer, err);
  *out = answer;
  return code;
}
