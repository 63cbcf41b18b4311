/* The descriptor set is searched on its wire bytes for every request: reflection is asked a few
 * times per debugging session, so an index would cost every daemon more than it saves.
 *
 * Field numbers of descriptor.proto used here:
 *   FileDescriptorSet    file 1
 *   FileDescriptorProto  name 1, package 2, dependency 3, message 4, enum 5, service 6, extension 7
 *   DescriptorProto      name 1, field 2, nested 3, enum 4, extension 6, oneof 8
 *   Enum, Service        name 1, value or method 2 */
#include "proto/reflection.h"

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "proto/descriptors.h"
#include "proto/limits.h"
#include "proto/wire.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

enum { FILE_NAME = 1, FILE_PACKAGE = 2, FILE_DEPENDENCY = 3, FILE_SERVICE = 6 };
enum { SYMBOL_NAME = 1, SYMBOL_DEPTH = 16 };

/* Which fields of a symbol hold symbols, by the field that holds it, as bit masks. */
static uint32_t children_of(uint32_t holder, bool top) {
  enum { IN_FILE = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 };
  enum { IN_MESSAGE = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 };
  if (!holder) return IN_FILE;
  bool message = top ? holder == 4 : holder == 3;
  bool list = top ? holder == 5 || holder == 6 : holder == 4;
  return message ? IN_MESSAGE : list ? 1 << 2 : 0;
}

static Str text_field(Bytes msg, uint32_t id) {
  WireReader r = wire_reader(msg);
  for (WireField f; wire_next(&r, &f);)
    if (f.id == id && f.type == WIRE_LEN) return (Str){(const char *)f.bytes.ptr, f.bytes.len};
  return (Str){0};
}

/* Takes "name" or "name." off the front of *path. */
static bool strip(Str *path, Str name) {
  if (path->len < name.len || memcmp(path->ptr, name.ptr, name.len) != 0) return false;
  if (path->len > name.len && path->ptr[name.len] != '.') return false;
  size_t n = name.len + (path->len > name.len ? 1 : 0);
  *path = (Str){path->ptr + n, path->len - n};
  return true;
}

/* Descends from a file into the symbol that path names; names of siblings are unique, so there is
 * nothing to come back for. */
static bool has_symbol(Bytes file, Str path) {
  Str package = text_field(file, FILE_PACKAGE);
  if (package.len && !strip(&path, package)) return false;
  Bytes at = file;
  uint32_t holder = 0;
  for (int depth = 0; path.len && depth < SYMBOL_DEPTH; depth++) {
    uint32_t kinds = children_of(holder, depth == 1);
    WireReader r = wire_reader(at);
    WireField f;
    bool found = false;
    while (!found && wire_next(&r, &f))
      found = f.type == WIRE_LEN && f.id < 32 && (kinds >> f.id & 1) &&
              strip(&path, text_field(f.bytes, SYMBOL_NAME));
    if (!found) return false;
    at = f.bytes;
    holder = f.id;
  }
  return !path.len && holder;
}

static bool next_file(WireReader *r, Bytes *out) {
  WireField f;
  while (wire_next(r, &f))
    if (f.id == 1 && f.type == WIRE_LEN) return *out = f.bytes, true;
  return false;
}

static bool file_named(Str name, Bytes *out) {
  WireReader r = wire_reader(descriptors_set());
  while (next_file(&r, out))
    if (str_eq(text_field(*out, FILE_NAME), name)) return true;
  return false;
}

static bool file_of_symbol(Str symbol, Bytes *out) {
  WireReader r = wire_reader(descriptors_set());
  while (next_file(&r, out))
    if (has_symbol(*out, symbol)) return true;
  return false;
}

/* -- answers ------------------------------------------------------------------------------------
 */

typedef struct Answer {
  Arena *arena;
  Response msg;
  Grpc__Reflection__V1__FileDescriptorResponse files;
  Grpc__Reflection__V1__ListServiceResponse services;
  Grpc__Reflection__V1__ExtensionNumberResponse extensions;
  Grpc__Reflection__V1__ErrorResponse error;
} Answer;

enum { FILES_MAX = 64, SERVICES_MAX = 64 };

static void answer_error(Answer *a, StatusCode code, const char *what, const char *name) {
  a->error = (Grpc__Reflection__V1__ErrorResponse)GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
  a->error.error_code = (int32_t)code;
  a->error.error_message = arena_printf(a->arena, "%s '%.200s'", what, name);
  a->msg.message_response_case =
      GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
  a->msg.error_response = &a->error;
}

static bool listed(const Grpc__Reflection__V1__FileDescriptorResponse *list, Bytes file) {
  for (size_t i = 0; i < list->n_file_descriptor_proto; i++)
    if (list->file_descriptor_proto[i].data == file.ptr) return true;
  return false;
}

static void list_file(Grpc__Reflection__V1__FileDescriptorResponse *list, Bytes file) {
  if (list->n_file_descriptor_proto == FILES_MAX || listed(list, file)) return;
  list->file_descriptor_proto[list->n_file_descriptor_proto++] =
      (ProtobufCBinaryData){.len = file.len, .data = (uint8_t *)(uintptr_t)file.ptr};
}

/* The file and, transitively, what it imports. */
static void answer_file(Answer *a, Bytes file) {
  a->files = (Grpc__Reflection__V1__FileDescriptorResponse)
      GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
  a->files.file_descriptor_proto = arena_array(a->arena, FILES_MAX, sizeof(ProtobufCBinaryData));
  if (!a->files.file_descriptor_proto) return;
  list_file(&a->files, file);
  for (size_t i = 0; i < a->files.n_file_descriptor_proto; i++) {
    const ProtobufCBinaryData *d = &a->files.file_descriptor_proto[i];
    WireReader r = wire_reader((Bytes){d->data, d->len});
    Bytes import;
    for (WireField f; wire_next(&r, &f);)
      if (f.id == FILE_DEPENDENCY && f.type == WIRE_LEN &&
          file_named((Str){(const char *)f.bytes.ptr, f.bytes.len}, &import))
        list_file(&a->files, import);
  }
  a->msg.message_response_case =
      GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
  a->msg.file_descriptor_response = &a->files;
}

static void list_service(Answer *a, Str package, Str name) {
  Grpc__Reflection__V1__ServiceResponse *s = arena_alloc(a->arena, sizeof *s);
  if (!s || a->services.n_service == SERVICES_MAX) return;
  *s = (Grpc__Reflection__V1__ServiceResponse)GRPC__REFLECTION__V1__SERVICE_RESPONSE__INIT;
  s->name = arena_printf(a->arena, STR_FMT "." STR_FMT, STR_ARG(package), STR_ARG(name));
  if (s->name) a->services.service[a->services.n_service++] = s;
}

static void answer_services(Answer *a) {
  a->services =
      (Grpc__Reflection__V1__ListServiceResponse)GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
  a->services.service = arena_array(a->arena, SERVICES_MAX, sizeof *a->services.service);
  if (!a->services.service) return;
  WireReader files = wire_reader(descriptors_set());
  for (Bytes file; next_file(&files, &file);) {
    WireReader r = wire_reader(file);
    for (WireField f; wire_next(&r, &f);)
      if (f.id == FILE_SERVICE && f.type == WIRE_LEN)
        list_service(a, text_field(file, FILE_PACKAGE), text_field(f.bytes, SYMBOL_NAME));
  }
  a->msg.message_response_case =
      GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
  a->msg.list_services_response = &a->services;
}

/* No message of ours has extensions (proto3): a known type has an empty list. */
static void answer_extensions(Answer *a, char *type) {
  Bytes file;
  if (!file_of_symbol(str_from(type), &file)) {
    answer_error(a, ST_NOT_FOUND, "no type", type);
    return;
  }
  a->extensions = (Grpc__Reflection__V1__ExtensionNumberResponse)
      GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
  a->extensions.base_type_name = type;
  a->msg.message_response_case =
      GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
  a->msg.all_extension_numbers_response = &a->extensions;
}

static void answer(Answer *a, Request *q) {
  Bytes file;
  switch (q->message_request_case) {
  case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
    if (file_named(str_from(q->file_by_filename), &file))
      answer_file(a, file);
    else
      answer_error(a, ST_NOT_FOUND, "no file", q->file_by_filename);
    break;
  case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
    if (file_of_symbol(str_from(q->file_containing_symbol), &file))
      answer_file(a, file);
    else
      answer_error(a, ST_NOT_FOUND, "no symbol", q->file_containing_symbol);
    break;
  case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
    answer_error(a, ST_NOT_FOUND, "no extensions of",
                 q->file_containing_extension->containing_type);
    break;
  case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
    answer_extensions(a, q->all_extension_numbers_of_type);
    break;
  case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
    answer_services(a);
    break;
  default: answer_error(a, ST_INVALID_ARGUMENT, "no question in the request for host", q->host);
  }
}

Status reflection_answer(Bytes request, Arena *arena, Bytes *out) {
  static const PbLimits limits = {
      .max_bytes = 64 << 10, .max_depth = 4, .max_elements = 100, .max_memory = 256 << 10};
  ProtobufCMessage *q;
  *out = (Bytes){0};
  TRY(pb_unpack(&grpc__reflection__v1__server_reflection_request__descriptor, request, &limits,
                arena, &q));
  Answer a = {.arena = arena, .msg = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT};
  a.msg.original_request = (Request *)q;
  a.msg.valid_host = a.msg.original_request->host;
  answer(&a, a.msg.original_request);
  size_t n = protobuf_c_message_get_packed_size(&a.msg.base);
  uint8_t *bytes = arena_alloc(arena, n);
  if (!bytes || !a.msg.message_response_case)
    return FAIL(RESOURCE_EXHAUSTED, "no memory for a reflection answer");
  *out = (Bytes){bytes, protobuf_c_message_pack(&a.msg.base, bytes)};
  return NULL;
}
