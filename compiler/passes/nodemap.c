/* Open addressing, linear probing, load at most 1/2. Keys are spread by their ids, which are
 * consecutive. */
#include "compiler/passes/nodemap.h"

static void place(NodeMap *m, const UOp *u, uint32_t value) {
  uint32_t i = (u->id * 0x9E3779B1u) & (m->cap - 1);
  while (m->keys[i] && m->keys[i] != u) i = (i + 1) & (m->cap - 1);
  if (!m->keys[i]) m->len++;
  m->keys[i] = u;
  m->values[i] = value;
}

void nodemap_init(Job *job, NodeMap *m, size_t expect) {
  uint32_t cap = 16;
  while (cap < 2 * expect) cap *= 2;
  *m = (NodeMap){.cap = cap};
  m->keys = arena_array(&job->arena, cap, sizeof *m->keys);
  m->values = arena_array(&job->arena, cap, sizeof *m->values);
}

void nodemap_number(Job *job, NodeMap *m, const UOpList *list) {
  nodemap_init(job, m, list->len);
  for (size_t i = 0; i < list->len; i++) nodemap_put(job, m, list->at[i], (uint32_t)i);
}

uint32_t nodemap_get(const NodeMap *m, const UOp *u) {
  uint32_t i = (u->id * 0x9E3779B1u) & (m->cap - 1);
  while (m->keys[i] && m->keys[i] != u) i = (i + 1) & (m->cap - 1);
  return m->keys[i] ? m->values[i] : NODE_ABSENT;
}

void nodemap_put(Job *job, NodeMap *m, const UOp *u, uint32_t value) {
  if (2 * (m->len + 1) > m->cap) {
    NodeMap bigger;
    nodemap_init(job, &bigger, m->cap);
    for (uint32_t i = 0; i < m->cap; i++)
      if (m->keys[i]) place(&bigger, m->keys[i], m->values[i]);
    *m = bigger;
  }
  place(m, u, value);
}
