/* Linear program -> CUDA C++.
 *
 * c_text.c walks over the list; CUDA C++ has no arithmetic on vectors, so every lane is a variable
 * of its own. What it prints are words of OpenCL C, which the beginning of the text defines: first
 * what any C++ compiler understands, then the instructions of a GPU. */
#include "compiler/codegen/cuda_emit.h"

#include <stdlib.h>

#include "base/ptx.h"
#include "compiler/codegen/cuda_memory.h"

/* -- the beginning ----------------------------------------------------------------------------- */

#define CONVERT(t) "#define convert_" t "(x) ((" t ")(x))\n"
#define AS(t)      "#define as_" t "(x) as_bits<" t ">(x)\n"
#define WORDS_OF(MAKE)                                                                             \
  MAKE("char")                                                                                     \
  MAKE("short")                                                                                    \
  MAKE("int")                                                                                      \
  MAKE("long")                                                                                     \
  MAKE("uchar")                                                                                    \
  MAKE("ushort") MAKE("uint") MAKE("ulong") MAKE("float") MAKE("double")

/* saturated: NaN is 0, and the ends of the range are exact as powers of two, of which the upper one
 * is no element of it. */
static const char words[] = CUDA_C_MARK
    "#define INFINITY as_float(0x7f800000)\n"
    "#define CLK_LOCAL_MEM_FENCE\n"
    "#define barrier(which) __syncthreads()\n" WORDS_OF(CONVERT) WORDS_OF(
        AS) "typedef unsigned char uchar;\n"
            "typedef unsigned short ushort;\n"
            "typedef unsigned int uint;\n"
            "typedef unsigned long ulong;\n"
            "#define char signed char\n"
            "template <class T, int N> struct alignas(sizeof(T) * N) Lanes { T v[N]; };\n"
            "template <class T, class F> static __device__ inline T as_bits(F from) {\n"
            "  static_assert(sizeof(T) == sizeof(F), \"as_bits\");\n"
            "  union { F f; T t; } u;\n"
            "  u.f = from;\n"
            "  return u.t;\n}\n"
            "template <class T, class F> static __device__ inline T saturated(F v) {\n"
            "  constexpr bool is_signed = T(-1) < T(0);\n"
            "  constexpr int bits = 8 * sizeof(T) - is_signed;\n"
            "  constexpr F above = F(1ul << (bits - 1)) * 2, least = is_signed ? -above : F(0);\n"
            "  constexpr T lowest = is_signed ? T(1ul << (8 * sizeof(T) - 1)) : T(0), highest = "
            "~lowest;\n"
            "  T inside = v >= least && v < above ? T(v) : T(0);\n"
            "  return v >= above ? highest : v < least ? lowest : inside;\n}\n"
            "static __device__ inline uint get_group_id(int d) {\n"
            "  return d == 0 ? blockIdx.x : d == 1 ? blockIdx.y : blockIdx.z;\n}\n"
            "static __device__ inline uint get_local_id(int d) {\n"
            "  return d == 0 ? threadIdx.x : d == 1 ? threadIdx.y : threadIdx.z;\n}\n";

/* What a GPU does in one instruction. k_*: in the place of a helper of that name. */
#define FUNCTION "static __device__ inline "
static const char instructions[] =
    "static_assert(sizeof(long) == 8, \"as everywhere but on Windows\");\n" FUNCTION
    "uchar *workgroup_memory() {\n"
    "  extern __shared__ __align__(1024) uchar given[];\n"
    "  return given;\n}\n" FUNCTION "float quick_exp2(float x) {\n"
    "  float r;\n"
    "  asm(\"ex2.approx.ftz.f32 %0, %1;\" : \"=f\"(r) : \"f\"(x));\n"
    "  return r;\n}\n" FUNCTION "float quick_recip(float x) {\n"
    "  float r;\n"
    "  asm(\"rcp.approx.ftz.f32 %0, %1;\" : \"=f\"(r) : \"f\"(x));\n"
    "  return r;\n}\n" FUNCTION "uint peer_word(uint x, int mask) {\n"
    "  return __shfl_xor_sync(0xffffffffu, x, mask);\n}\n" FUNCTION
    "float k_from_half_ushort(ushort h) {\n"
    "  float r;\n"
    "  asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(r) : \"h\"(h));\n"
    "  return r;\n}\n" FUNCTION "ushort k_to_half_ushort(float x) {\n"
    "  ushort r;\n"
    "  asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(r) : \"f\"(x));\n"
    "  return r;\n}\n";

static const char since_80[] =
    FUNCTION "float k_fmax_float(float x, float y) {\n"
             "  float r;\n"
             "  asm(\"max.NaN.f32 %0, %1, %2;\" : \"=f\"(r) : \"f\"(x), \"f\"(y));\n"
             "  return r;\n}\n" FUNCTION "float k_fmin_float(float x, float y) {\n"
             "  float r;\n"
             "  asm(\"min.NaN.f32 %0, %1, %2;\" : \"=f\"(r) : \"f\"(x), \"f\"(y));\n"
             "  return r;\n}\n" FUNCTION "ushort k_to_bf16_ushort(float x) {\n"
             "  ushort r;\n"
             "  asm(\"cvt.rn.bf16.f32 %0, %1;\" : \"=h\"(r) : \"f\"(x));\n"
             "  return r;\n}\n";

/* A kernel may start while the one before it ends, and lets the next one do so (llvm_gpu.c). */
static const char since_90[] =
    FUNCTION "void wait_for_the_kernel_before() {\n"
             "  asm volatile(\"griddepcontrol.launch_dependents;\" ::: \"memory\");\n"
             "  asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");\n}\n";

/* Those of the least compute capability come first. */
static const char *const has[] = {"k_from_half_ushort", "k_to_half_ushort", "k_fmax_float",
                                  "k_fmin_float", "k_to_bf16_ushort"};
enum { HAS_ALWAYS = 2, HAS_SINCE_80 = sizeof has / sizeof *has };

/* -- nodes ------------------------------------------------------------------------------------- */

static void refuse(CText *c, const UOp *u) {
  if (!c->failure) c->failure = FAIL(UNIMPLEMENTED, "CUDA C++: no %s", op_info[u->op].name);
}

/* Words of 32 bits are exchanged: wider values go in halves. */
static void peer(CText *c, const UOp *u) {
  DType d = c_dtype(u);
  const char *t = c_type(c, d, 1), *bits = c_type(c, c_unsigned(d), 1);
  for (unsigned k = 0; k < u->lanes; k++) {
    c->lane = k;
    const char *v = c_text(c, "as_%s(%s)", bits, c_operand(c, u->src[0], d, 1));
    long long mask = (long long)u->arg.i;
    if (dtype_info[d].bytes < 8)
      v = c_text(c, "(%s)peer_word(%s, %lld)", bits, v, mask);
    else
      v = c_text(
          c, "(ulong)peer_word((uint)%s, %lld) | (ulong)peer_word((uint)(%s >> 32), %lld) << 32", v,
          mask, v, mask);
    c_define(c, u, c_text(c, "as_%s((%s)(%s))", t, bits, v));
  }
  c->lane = 0;
}

static void shuffle(CText *c, const UOp *u) {
  for (unsigned k = 0; k < u->lanes; k++) {
    unsigned from = (unsigned)u->arg.ints.at[k];
    uint32_t s = 0;
    while (s + 1 < u->nsrc && from >= u->src[s]->lanes) from -= u->src[s++]->lanes;
    const char *v = c_node_lane(c, u->src[s], from);
    c->lane = k;
    c_define(c, u, v);
  }
  c->lane = 0;
}

static bool node(CText *c, const UOp *u) {
  switch (u->op) {
  case OP_LOAD: cuda_load(c, u); return true;
  case OP_STORE: cuda_store(c, u); return true;
  case OP_PEER: peer(c, u); return true;
  case OP_SHUFFLE: shuffle(c, u); return true;
  case OP_PREFETCH: return true; /* a hint */
  case OP_MMA:
  case OP_TILEMMA:
  case OP_SETTLE:
  case OP_LDMATRIX:
  case OP_EXCHANGE:
  case OP_COPY:
  case OP_COMMIT:
  case OP_WAIT:
  case OP_TILECOPY:
  case OP_RING: refuse(c, u); return true;
  default: return false;
  }
}

/* -- the kernel -------------------------------------------------------------------------------- */

static void signature(const CText *c, const char *entry, StrBuf *out) {
  const Linear *l = c->linear;
  strbuf_addf(out, "extern \"C\" __global__ void __launch_bounds__(%u) %s(",
              l->block[0] * l->block[1] * l->block[2], entry);
  for (uint32_t i = 0; i < l->nargs; i++) strbuf_addf(out, "%suchar *a%u", i ? ", " : "", i);
  for (uint32_t i = 0; i < l->nvars; i++)
    strbuf_addf(out, "%slong n%u", i || l->nargs ? ", " : "", i);
  strbuf_adds(out, ") {\n");
}

static void declare_apart(CText *c) { cuda_declare(c, true); }

/* What the kernel before this one writes is no constant, and other pointers may have written it. */
static void declare_waiting(CText *c) {
  strbuf_adds(&c->head, "  wait_for_the_kernel_before();\n");
  cuda_declare(c, false);
}

Status cuda_print(const Linear *linear, const char *entry, int sm, StrBuf *out) {
  const CDialect dialect = {.what = "CUDA C++",
                            .function = "static __device__ ",
                            .begin = {words, sm ? instructions : NULL, sm >= 80 ? since_80 : NULL,
                                      sm >= 90 ? since_90 : NULL},
                            .lanes_apart = true,
                            .node = node,
                            .declare = sm >= 90 ? declare_waiting : declare_apart,
                            .signature = signature};
  size_t nhas = sm >= 80 ? HAS_SINCE_80 : sm ? HAS_ALWAYS : 0;
  const char *known[HAS_SINCE_80];
  memcpy(known, has, sizeof known);
  CText c = {.dialect = &dialect,
             .linear = linear,
             .fp64 = true,
             .crdiv = true,
             .fuses = true,
             .known = known,
             .nknown = nhas,
             .known_cap = nhas};
  return c_print(&c, entry, out);
}

Status cuda_emit(const Linear *linear, const char *entry, const Target *target, StrBuf *out) {
  int sm = !strncmp(target->cpu, "sm_", 3) ? atoi(target->cpu + 3) : 0;
  if (!sm) return FAIL(INVALID_ARGUMENT, "target GPU '%s' is unknown", target->cpu);
  return cuda_print(linear, entry, sm, out);
}
