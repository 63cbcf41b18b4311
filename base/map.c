/* Removal shifts the following cluster back, so there are no tombstones and probes stay short. */
#include "base/map.h"

#include <stdlib.h>

uint64_t hash_u64(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

uint64_t hash_bytes(const void *bytes, size_t n) {
  const uint8_t *p = bytes;
  uint64_t h = 0xcbf29ce484222325ULL;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3ULL;
  return hash_u64(h);
}

/* -- 64-bit keys ------------------------------------------------------------------------------- */

void map_deinit(Map *m) {
  free(m->slots);
  *m = (Map){0};
}

static size_t map_slot(const Map *m, uint64_t key) {
  size_t i = hash_u64(key) & (m->cap - 1);
  while (m->slots[i].value && m->slots[i].key != key) i = (i + 1) & (m->cap - 1);
  return i;
}

void *map_find(const Map *m, uint64_t key) {
  return m->cap ? m->slots[map_slot(m, key)].value : NULL;
}

static bool map_grow(Map *m) {
  Map big = {.cap = m->cap ? m->cap * 2 : 16, .len = m->len};
  big.slots = calloc(big.cap, sizeof *big.slots);
  if (!big.slots) return false;
  for (size_t i = 0; i < m->cap; i++)
    if (m->slots[i].value) big.slots[map_slot(&big, m->slots[i].key)] = m->slots[i];
  free(m->slots);
  *m = big;
  return true;
}

bool map_put(Map *m, uint64_t key, void *value) {
  if ((m->len + 1) * 2 > m->cap && !map_grow(m)) return false;
  MapSlot *s = &m->slots[map_slot(m, key)];
  if (!s->value) m->len++;
  *s = (MapSlot){key, value};
  return true;
}

void *map_remove(Map *m, uint64_t key) {
  if (!m->cap) return NULL;
  size_t mask = m->cap - 1, hole = map_slot(m, key);
  void *value = m->slots[hole].value;
  if (!value) return NULL;
  for (size_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
    size_t home = hash_u64(m->slots[i].key) & mask;
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    m->slots[hole] = m->slots[i];
    hole = i;
  }
  m->slots[hole] = (MapSlot){0};
  m->len--;
  return value;
}

bool map_next(const Map *m, size_t *i, MapSlot **slot) {
  while (*i < m->cap) {
    MapSlot *s = &m->slots[(*i)++];
    if (s->value) return *slot = s, true;
  }
  return false;
}

/* -- string keys ------------------------------------------------------------------------------- */

void strmap_deinit(StrMap *m) {
  for (size_t i = 0; i < m->cap; i++) free(m->slots[i].key);
  free(m->slots);
  *m = (StrMap){0};
}

static size_t strmap_slot(const StrMap *m, Str key, uint64_t hash) {
  size_t i = hash & (m->cap - 1);
  for (; m->slots[i].key; i = (i + 1) & (m->cap - 1)) {
    const StrMapSlot *s = &m->slots[i];
    if (s->hash == hash && str_eq((Str){s->key, s->len}, key)) break;
  }
  return i;
}

void *strmap_find(const StrMap *m, Str key) {
  return m->cap ? m->slots[strmap_slot(m, key, hash_bytes(key.ptr, key.len))].value : NULL;
}

static bool strmap_grow(StrMap *m) {
  StrMap big = {.cap = m->cap ? m->cap * 2 : 16, .len = m->len};
  big.slots = calloc(big.cap, sizeof *big.slots);
  if (!big.slots) return false;
  for (size_t i = 0; i < m->cap; i++) {
    StrMapSlot *s = &m->slots[i];
    if (s->key) big.slots[strmap_slot(&big, (Str){s->key, s->len}, s->hash)] = *s;
  }
  free(m->slots);
  *m = big;
  return true;
}

bool strmap_put(StrMap *m, Str key, void *value) {
  if ((m->len + 1) * 2 > m->cap && !strmap_grow(m)) return false;
  uint64_t hash = hash_bytes(key.ptr, key.len);
  StrMapSlot *s = &m->slots[strmap_slot(m, key, hash)];
  if (!s->key) {
    char *copy = malloc(key.len + 1);
    if (!copy) return false;
    if (key.len) memcpy(copy, key.ptr, key.len);
    copy[key.len] = 0;
    *s = (StrMapSlot){.key = copy, .len = key.len, .hash = hash};
    m->len++;
  }
  s->value = value;
  return true;
}
