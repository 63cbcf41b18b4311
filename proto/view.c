/* Two passes over each message: the first checks the framing and counts the elements of every
 * repeated field, the second fills exactly sized arrays. The passes use the same reader, so the
 * second cannot meet anything that the first has not checked; each byte is read twice per level of
 * nesting, and bytes of skipped or string fields are never touched.
 *
 * Scalars of repeated fields may come packed or one by one, as the protobuf encoding allows. The
 * last occurrence of a singular field wins. */
#include "proto/view.h"

#include <assert.h>

#include "proto/wire.h"

enum { MAX_FIELDS = 32 };

typedef struct Ctx {
  Arena *arena;
  const uint8_t *base;
  const ViewLimits *limits;
  uint64_t elements;
} Ctx;

typedef struct Item {
  const ViewField *field; /* NULL: not in the table */
  WireField wire;
} Item;

static const ViewField *find_field(const ViewMessage *m, uint32_t number) {
  for (size_t i = 0; i < m->nfields; i++)
    if (m->fields[i].number == number) return &m->fields[i];
  return NULL;
}

static WireType wire_type(ViewKind kind) {
  switch (kind) {
  case VIEW_FLOAT: return WIRE_FIXED32;
  case VIEW_DOUBLE: return WIRE_FIXED64;
  case VIEW_STR:
  case VIEW_MSG: return WIRE_LEN;
  default: return WIRE_VARINT;
  }
}

/* *more is false at the end of the message. */
static Status read_item(Ctx *c, const ViewMessage *m, WireReader *r, Item *it, bool *more) {
  size_t where = (size_t)(r->at - c->base);
  *it = (Item){0};
  *more = wire_next(r, &it->wire);
  if (r->error) return FAIL(INVALID_ARGUMENT, "%s: %s at byte %zu", m->name, r->error, where);
  if (!*more) return NULL;
  it->field = find_field(m, it->wire.id);
  if (!it->field || it->wire.type == wire_type(it->field->kind)) return NULL;
  if (it->field->repeated && it->wire.type == WIRE_LEN) return NULL; /* packed scalars */
  return FAIL(INVALID_ARGUMENT, "%s.%s: wire type %u at byte %zu, expected %u", m->name,
              it->field->name, (unsigned)it->wire.type, where,
              (unsigned)wire_type(it->field->kind));
}

static bool is_packed(const Item *it) {
  return it->wire.type == WIRE_LEN && wire_type(it->field->kind) != WIRE_LEN;
}

/* Elements in a packed payload; false when it is not a whole number of well-formed ones. */
static bool packed_count(const Item *it, size_t *out) {
  size_t n = it->wire.bytes.len, width = it->field->kind == VIEW_FLOAT ? 4 : 8;
  if (it->field->kind == VIEW_FLOAT || it->field->kind == VIEW_DOUBLE) {
    *out = n / width;
    return n % width == 0;
  }
  WireReader r = wire_reader(it->wire.bytes);
  uint64_t v;
  for (*out = 0; r.at < r.end; ++*out)
    if (!wire_varint(&r, &v)) return false;
  return true;
}

static size_t element_size(const ViewField *f) {
  switch (f->kind) {
  case VIEW_FLOAT: return sizeof(float);
  case VIEW_DOUBLE: return sizeof(double);
  case VIEW_STR: return sizeof(Str);
  case VIEW_MSG: return f->msg->size;
  default: return sizeof(int64_t);
  }
}

static Status count_fields(Ctx *c, const ViewMessage *m, Bytes bytes, size_t *counts) {
  WireReader r = wire_reader(bytes);
  bool more;
  for (;;) {
    Item it;
    size_t n = 1;
    TRY(read_item(c, m, &r, &it, &more));
    if (!more) return NULL;
    if (!it.field || (!it.field->repeated && it.field->kind != VIEW_MSG)) continue;
    if (it.field->repeated && is_packed(&it) && !packed_count(&it, &n))
      return FAIL(INVALID_ARGUMENT, "%s.%s: malformed packed values at byte %zu", m->name,
                  it.field->name, (size_t)(it.wire.bytes.ptr - c->base));
    counts[it.field - m->fields] += n;
    c->elements += n;
    if (c->elements > c->limits->elements)
      return FAIL(RESOURCE_EXHAUSTED, "%s.%s: more than %llu elements in the message", m->name,
                  it.field->name, (unsigned long long)c->limits->elements);
  }
}

typedef struct List {
  char *at;
  size_t n;
} List;

static Status alloc_lists(Ctx *c, const ViewMessage *m, const size_t *counts, char *out) {
  for (size_t i = 0; i < m->nfields; i++) {
    const ViewField *f = &m->fields[i];
    if (!f->repeated || !counts[i]) continue;
    List list = {.at = arena_array(c->arena, counts[i], element_size(f))};
    if (!list.at)
      return FAIL(RESOURCE_EXHAUSTED, "%s.%s: out of memory for %zu elements", m->name, f->name,
                  counts[i]);
    memcpy(out + f->offset, &list, sizeof list);
  }
  return NULL;
}

static void store_scalar(const ViewField *f, uint64_t v, char *to) {
  if (f->kind == VIEW_FLOAT) {
    uint32_t bits = (uint32_t)v;
    memcpy(to, &bits, sizeof bits);
    return;
  }
  if (f->kind == VIEW_SINT) v = (v >> 1) ^ (~(v & 1) + 1);
  memcpy(to, &v, sizeof v);
}

static void store_packed(const Item *it, List *list) {
  WireReader r = wire_reader(it->wire.bytes);
  size_t size = element_size(it->field);
  if (it->field->kind == VIEW_FLOAT || it->field->kind == VIEW_DOUBLE) {
    if (it->wire.bytes.len)
      memcpy(list->at + list->n * size, it->wire.bytes.ptr, it->wire.bytes.len);
    list->n += it->wire.bytes.len / size;
    return;
  }
  uint64_t v = 0;
  while (r.at < r.end && wire_varint(&r, &v))
    store_scalar(it->field, v, list->at + size * list->n++);
}

static Status decode(Ctx *c, const ViewMessage *m, Bytes bytes, uint32_t depth, char *out);

static Status store_one(Ctx *c, const ViewMessage *m, const Item *it, uint32_t depth, char *to) {
  if (it->field->kind == VIEW_STR) {
    Str s = {(const char *)it->wire.bytes.ptr, it->wire.bytes.len};
    memcpy(to, &s, sizeof s);
    return NULL;
  }
  if (it->field->kind != VIEW_MSG) {
    store_scalar(it->field, it->wire.value, to);
    return NULL;
  }
  if (it->field->repeated) return decode(c, it->field->msg, it->wire.bytes, depth + 1, to);
  char *sub = arena_alloc(c->arena, it->field->msg->size);
  if (!sub) return FAIL(RESOURCE_EXHAUSTED, "%s.%s: out of memory", m->name, it->field->name);
  memcpy(to, &sub, sizeof sub);
  return decode(c, it->field->msg, it->wire.bytes, depth + 1, sub);
}

/* Appends one occurrence, which may be a packed array, to a repeated field. */
static Status append(Ctx *c, const ViewMessage *m, const Item *it, uint32_t depth, char *to) {
  List list;
  Status st = NULL;
  memcpy(&list, to, sizeof list);
  if (is_packed(it))
    store_packed(it, &list);
  else
    st = store_one(c, m, it, depth, list.at + element_size(it->field) * list.n++);
  memcpy(to, &list, sizeof list);
  return st;
}

static Status decode(Ctx *c, const ViewMessage *m, Bytes bytes, uint32_t depth, char *out) {
  size_t counts[MAX_FIELDS] = {0};
  assert(m->nfields <= MAX_FIELDS);
  if (depth > c->limits->depth)
    return FAIL(RESOURCE_EXHAUSTED, "%s: nested deeper than %u messages", m->name,
                c->limits->depth);
  TRY(count_fields(c, m, bytes, counts));
  TRY(alloc_lists(c, m, counts, out));
  uint64_t seen = 0;
  WireReader r = wire_reader(bytes);
  bool more;
  for (;;) {
    Item it;
    TRY(read_item(c, m, &r, &it, &more));
    if (!more) break;
    if (!it.field) continue;
    seen |= 1ull << (it.field - m->fields);
    char *to = out + it.field->offset;
    Status st = it.field->repeated ? append(c, m, &it, depth, to) : store_one(c, m, &it, depth, to);
    if (st) return st;
  }
  memcpy(out, &seen, sizeof seen);
  return NULL;
}

Status view_decode(Arena *arena, Bytes bytes, const ViewMessage *type, const ViewLimits *limits,
                   void *out) {
  Ctx c = {.arena = arena, .base = bytes.ptr, .limits = limits};
  return decode(&c, type, bytes, 1, out);
}
