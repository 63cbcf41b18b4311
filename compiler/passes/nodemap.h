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
