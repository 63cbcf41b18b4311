/* Tiles of tensors: where their elements come from.
 *
 * A TILECOPY sees a flat PARAM as a tensor whose axes have sizes and steps of their own, as the
 * hardware that copies tiles does. The numbers come from index expressions, so they are checked
 * once, when the node is made; all others read them as they are. */
#include "compiler/ir/tilecopy.h"

TileCopy tilecopy_of(const UOp *u) {
  const int64_t *ints = u->arg.ints.at;
  uint32_t n = (uint32_t)ints[0];
  TileCopy t = {n, ints + 1, ints + 1 + n, ints + 1 + 2 * n, 1};
  for (uint32_t d = 0; d < n; d++) t.elements *= t.box[d];
  return t;
}

bool tilecopy_source(const TileCopy *t, const int64_t *at, int64_t k, int64_t *from) {
  *from = 0;
  for (uint32_t d = 0; d < t->axes; d++) {
    int64_t x = at[d] + k % t->box[d];
    k /= t->box[d];
    if (x < 0 || x >= t->size[d]) return false;
    *from += x * t->step[d];
  }
  return true;
}

const char *tilecopy_check(const int64_t *ints, size_t n) {
  const int64_t most = (int64_t)1 << 40;
  if (!n || ints[0] < 1 || ints[0] > TILE_AXES || n != 1 + 3 * (size_t)ints[0])
    return "a tile has one to five axes and three numbers for each";
  size_t axes = (size_t)ints[0];
  for (size_t d = 0; d < axes; d++) {
    if (ints[1 + d] < 1 || ints[1 + d] > 256) return "a tile has 1 to 256 elements along an axis";
    if (ints[1 + axes + d] < 1 || ints[1 + axes + d] > INT32_MAX) return "a bad size of a tensor";
    if (ints[1 + 2 * axes + d] < 1 || ints[1 + 2 * axes + d] > most) return "a bad step";
  }
  return ints[1 + 2 * axes] == 1 ? NULL : "steps along the first axis are 1";
}
