/* Devices that let a kernel have only so many buffers.
 *
 * Every kernel counts the tensors that it has asked for and that may end as buffers: each one it
 * loads, and each one nobody has decided about yet, which becomes at most one load when it is
 * stored. To inline a tensor is to ask for its sources instead; where that would be too many for
 * one of the kernels, the tensor is stored. So the count never passes the limit, whatever is
 * decided later. What a kernel computes first is one op, with few sources; a CAT of many has no
 * kernel.
 *
 * Counting looks at the last few demands of a tensor only, and may count one twice: the limit then
 * bites early. */
#include "compiler/passes/fusion.h"

static bool needs_buffer(const Tensor *t) {
  return t->u->op != OP_CONST && t->u->op != OP_IOTA && t->u->op != OP_VAR;
}

static bool asked(const Tensor *t, uint32_t kernel) {
  enum { LOOKED_AT = 16 };
  uint32_t seen = 0;
  for (const Demand *d = t->demands; d && seen++ < LOOKED_AT; d = d->next)
    if (d->kernel == kernel) return true;
  return false;
}

void fusion_count(Fusion *f, const Tensor *t, uint32_t kernel) {
  if (!f->target->max_buffers || !needs_buffer(t) || asked(t, kernel)) return;
  f->kernels.at[kernel].loads++;
}

/* The first demand of its kernel in the list. */
static bool is_first(const Tensor *t, const Demand *d) {
  const Demand *x = t->demands;
  while (x->kernel != d->kernel) x = x->next;
  return x == d;
}

bool fusion_fits(const Fusion *f, const Tensor *t) {
  uint32_t limit = f->target->max_buffers;
  if (!limit) return true;
  for (const Demand *d = t->demands; d; d = d->next) {
    if (!is_first(t, d)) continue;
    uint32_t n = 1 + f->kernels.at[d->kernel].loads - needs_buffer(t); /* with the one it writes */
    for (uint32_t s = 0; s < t->u->nsrc; s++) {
      const Tensor *from = &f->tensors[t->src[s]];
      n += needs_buffer(from) && !asked(from, d->kernel);
    }
    if (n > limit) return false;
  }
  return true;
}

void fusion_uncount(Fusion *f, const Tensor *t) {
  if (!f->target->max_buffers || !needs_buffer(t)) return;
  for (const Demand *d = t->demands; d; d = d->next)
    if (is_first(t, d)) f->kernels.at[d->kernel].loads--;
}
