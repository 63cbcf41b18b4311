/* Hash maps: open addressing, linear probing, power-of-two capacity, load at most 1/2.
 *
 * Map maps 64-bit keys to pointers; StrMap maps byte strings to pointers and keeps its own copies
 * of the keys. Neither owns the values. */
#pragma once

#include "base/str.h"

typedef struct MapSlot {
  uint64_t key;
  void *value; /* NULL marks an empty slot */
} MapSlot;

typedef struct Map {
  MapSlot *slots;
  size_t cap, len;
} Map;

/* Embedded; a zeroed Map is empty. */
void map_deinit(Map *m);
/* NULL when absent. */
void *map_find(const Map *m, uint64_t key);
/* value must not be NULL; replaces. False when memory is out. */
bool map_put(Map *m, uint64_t key, void *value);
/* Returns the removed value, or NULL. */
void *map_remove(Map *m, uint64_t key);

typedef struct StrMapSlot {
  char *key; /* owned copy; NULL marks an empty slot */
  size_t len;
  uint64_t hash;
  void *value;
} StrMapSlot;

typedef struct StrMap {
  StrMapSlot *slots;
  size_t cap, len;
} StrMap;

void strmap_deinit(StrMap *m);
void *strmap_find(const StrMap *m, Str key);
bool strmap_put(StrMap *m, Str key, void *value);

/* Iteration: for (size_t i = 0; map_next(&m, &i, &slot);) with slot set to each filled slot. Do not
 * change the map. */
bool map_next(const Map *m, size_t *i, MapSlot **slot);

/* 64-bit mixing (the finaliser of MurmurHash3) and FNV-1a over bytes. */
uint64_t hash_u64(uint64_t x);
uint64_t hash_bytes(const void *bytes, size_t n);
