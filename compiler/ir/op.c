/* The op and dtype tables: expansions of ops.def and dtype.def, and lookup by name.
 *
 * A dtype prints in lower case; the preprocessor cannot do that, so each has a LOWER_ line here and
 * a new dtype without one does not compile. */
#include "compiler/ir/uop.h"

#define LOWER_VOID       "void"
#define LOWER_BOOL       "bool"
#define LOWER_I8         "i8"
#define LOWER_I16        "i16"
#define LOWER_I32        "i32"
#define LOWER_I64        "i64"
#define LOWER_U8         "u8"
#define LOWER_U16        "u16"
#define LOWER_U32        "u32"
#define LOWER_U64        "u64"
#define LOWER_F16        "f16"
#define LOWER_BF16       "bf16"
#define LOWER_F32        "f32"
#define LOWER_F64        "f64"
#define LOWER_INDEX      "index"
#define LOWER_F8E4M3FN   "f8e4m3fn"
#define LOWER_F8E4M3FNUZ "f8e4m3fnuz"
#define LOWER_F8E5M2     "f8e5m2"
#define LOWER_F8E5M2FNUZ "f8e5m2fnuz"
#define LOWER_F8E8M0     "f8e8m0"
#define LOWER_F4E2M1     "f4e2m1"
#define LOWER_I4         "i4"
#define LOWER_U4         "u4"
#define LOWER_I2         "i2"
#define LOWER_U2         "u2"

const DTypeInfo dtype_info[DT__COUNT] = {
#define DTYPE(name_, bytes_, class_, bits_)                                                        \
  [DT_##name_] = {.name = LOWER_##name_, .bytes = (bytes_), .bits = (bits_), .cls = DC_##class_},
#include "compiler/ir/dtype.def"
#undef DTYPE
};

/* The flag names of ops.def. */
enum {
  COMM = OPF_COMM,
  ASSOC = OPF_ASSOC,
  IDEMP = OPF_IDEMP,
  ALU = OPF_ALU,
  MOVE = OPF_MOVE,
  EFFECT = OPF_EFFECT,
  ARITH = OPF_ARITH,
  FLT = OPF_FLT,
  INT = OPF_INT,
};

const OpInfo op_info[OP__COUNT] = {
#define OP(name_, n_, type_, arg_, stages_, flags_, iv_, fv_, doc_)                                \
  [OP_##name_] = {.name = #name_,                                                                  \
                  .nsrc = (n_),                                                                    \
                  .type = TR_##type_,                                                              \
                  .arg = ARG_##arg_,                                                               \
                  .stages = (stages_),                                                             \
                  .flags = (flags_),                                                               \
                  .doc = (doc_)},
#include "compiler/ir/ops.def"
#undef OP
};
_Static_assert(OP__COUNT <= 256 && DT__COUNT <= 256, "op and dtype are stored in one byte each");

const char *const axis_type_name[AX__COUNT] = {
    [AX_SERIAL] = "SERIAL", [AX_LOOP] = "LOOP",     [AX_THREAD] = "THREAD", [AX_UPCAST] = "UPCAST",
    [AX_VECTOR] = "VECTOR", [AX_REDUCE] = "REDUCE", [AX_UNROLL] = "UNROLL", [AX_GLOBAL] = "GLOBAL",
    [AX_LOCAL] = "LOCAL",   [AX_WARP] = "WARP",     [AX_GROUP] = "GROUP",   [AX_DEVICE] = "DEVICE",
};

bool dtype_parse(Str name, DType *out) {
  for (int d = 0; d < DT__COUNT; d++) {
    if (!str_is(name, dtype_info[d].name)) continue;
    *out = (DType)d;
    return true;
  }
  return false;
}

bool op_parse(Str name, Op *out) {
  for (int op = 0; op < OP__COUNT; op++) {
    if (!str_is(name, op_info[op].name)) continue;
    *out = (Op)op;
    return true;
  }
  return false;
}
