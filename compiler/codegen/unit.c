/* Arguments, and buffers of a thread or a workgroup, are aligned (BUFFER_ALIGN), so the factors of
 * two of an index say how a vector lies. */
#include "compiler/codegen/unit.h"

#include "base/arena.h"

enum { MOST_TWOS = 6, LEAST_ALIGN = 16 };

static unsigned smaller(unsigned a, unsigned b) { return a < b ? a : b; }

static unsigned twos_of(int64_t n) {
  unsigned k = 0;
  while (k < MOST_TWOS && !(n >> k & 1)) k++;
  return k;
}

static unsigned find_twos(const UnitMemo *m, const UOp *u);

/* How many times 2 divides the value, as far as its sources tell. */
static unsigned look_twos(const UnitMemo *m, const UOp *u) {
  switch (u->op) {
  case OP_VAR: return twos_of(u->arg.ints.at[2]);
  case OP_CAST:
  case OP_BROADCAST: return find_twos(m, u->src[0]);
  case OP_MUL: return smaller(find_twos(m, u->src[0]) + find_twos(m, u->src[1]), MOST_TWOS);
  case OP_AND:
    return find_twos(m, u->src[0]) > find_twos(m, u->src[1]) ? find_twos(m, u->src[0])
                                                             : find_twos(m, u->src[1]);
  case OP_ADD:
  case OP_SUB:
  case OP_FLOORMOD:
  case OP_MIN:
  case OP_MAX: return smaller(find_twos(m, u->src[0]), find_twos(m, u->src[1]));
  case OP_WHERE: return smaller(find_twos(m, u->src[1]), find_twos(m, u->src[2]));
  default: return 0;
  }
}

static unsigned find_twos(const UnitMemo *m, const UOp *u) {
  if (uop_is_const(u)) return twos_of(u->arg.i);
  if (u->lanes > 1 || u->id < m->first_id || u->id - m->first_id >= m->nids) return 0;
  uint8_t *known = &m->twos[u->id - m->first_id];
  if (!*known) *known = (uint8_t)(1 + look_twos(m, u));
  return *known - 1u;
}

void unit_init(UnitMemo *m, Arena *arena, uint32_t first_id, uint32_t nids) {
  *m = (UnitMemo){arena_array(arena, (size_t)nids + 1, 1), first_id, nids};
}

unsigned unit_of(const UnitMemo *m, const UOp *index, const UOp *buffer) {
  unsigned most = buffer->op == OP_PARAM ? BUFFER_ALIGN : LEAST_ALIGN;
  if (!m->twos) return 1;
  most = most / dtype_info[buffer->dtype].bytes / buffer->lanes;
  return smaller(most ? most : 1, 1u << find_twos(m, index));
}
