/* The rows of native.def, looked up.
 *
 * A pass asks before it makes such an op, since code generation has no other form for it: what a
 * target without the instruction does instead is the pass's affair. */
#include "compiler/ir/native.h"

static const NativeOp rows[] = {
#define NATIVE(op_, dtype_, lanes_, feature_, code_, control_)                                     \
  {OP_##op_, DT_##dtype_, lanes_, feature_, code_, control_},
#include "compiler/codegen/native.def"
#undef NATIVE
};

bool native_feature(const Target *target, const char *name) {
  size_t n = strlen(name);
  for (const char *at = target->features; at && *at;) {
    const char *end = strchr(at, ',');
    size_t len = end ? (size_t)(end - at) : strlen(at);
    if (len == n + 1 && at[0] == '+' && !memcmp(at + 1, name, n)) return true;
    at = end ? end + 1 : NULL;
  }
  return false;
}

const NativeOp *native_find(const Target *target, Op op, DType dtype) {
  for (size_t k = 0; target && k < sizeof rows / sizeof *rows; k++)
    if (rows[k].op == op && rows[k].dtype == dtype && native_feature(target, rows[k].feature))
      return &rows[k];
  return NULL;
}
