/* Pointer-to-index maps over nodes, for passes that number the nodes of one graph. Lives in the
 * job's arena. */
#pragma once

#include "compiler/ir/uop.h"

#define NODE_ABSENT UINT32_MAX

typedef struct NodeMap {
  const UOp **keys;
  uint32_t *values;
  uint32_t cap, len;
} NodeMap;

void nodemap_init(Job *job, NodeMap *m, size_t expect);
/* Numbers the nodes of a list by position. */
void nodemap_number(Job *job, NodeMap *m, const UOpList *list);
/* NODE_ABSENT when u is not in the map. */
uint32_t nodemap_get(const NodeMap *m, const UOp *u);
void nodemap_put(Job *job, NodeMap *m, const UOp *u, uint32_t value);

/* Small sets of ranges, as bits. */
#define RANGESET_MAX 256
typedef struct RangeSet {
  uint64_t w[RANGESET_MAX / 64];
} RangeSet;

static inline void rangeset_add(RangeSet *s, uint32_t i) { s->w[i / 64] |= 1ull << (i % 64); }
static inline void rangeset_remove(RangeSet *s, uint32_t i) { s->w[i / 64] &= ~(1ull << (i % 64)); }
static inline bool rangeset_has(const RangeSet *s, uint32_t i) {
  return (s->w[i / 64] >> (i % 64)) & 1;
}
static inline void rangeset_union(RangeSet *s, const RangeSet *o) {
  for (size_t k = 0; k < RANGESET_MAX / 64; k++) s->w[k] |= o->w[k];
}
static inline bool rangeset_equal(const RangeSet *a, const RangeSet *b) {
  return !memcmp(a, b, sizeof *a);
}
static inline bool rangeset_empty(const RangeSet *s) {
  return rangeset_equal(s, &(RangeSet){0});
}
