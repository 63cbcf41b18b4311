/* Linear program -> OpenCL C.
 *
 * c_text.c walks over the list. Contraction is off: MULACC says where a product and a sum are one.
 */
#include "compiler/codegen/opencl_emit.h"

#include "compiler/codegen/opencl_memory.h"

static void signature(const CText *c, const char *entry, StrBuf *out) {
  const Linear *l = c->linear;
  const uint32_t *b = l->block;
  if (l->threads <= 1)
    strbuf_addf(out, "__attribute__((reqd_work_group_size(%u, %u, %u)))\n", b[0] ? b[0] : 1,
                b[1] ? b[1] : 1, b[2] ? b[2] : 1);
  strbuf_addf(out, "__kernel void %s(", entry);
  for (uint32_t i = 0; i < l->nargs; i++)
    strbuf_addf(out, "%s__global uchar *a%u, ulong o%u", i ? ", " : "", i, i);
  for (uint32_t i = 0; i < l->nvars; i++)
    strbuf_addf(out, "%slong n%u", i || l->nargs ? ", " : "", i);
  strbuf_adds(out, ") {\n");
}

static bool has_feature(const Target *target, const char *name) {
  size_t n = strlen(name);
  for (const char *p = target->features; p && (p = strstr(p, name)); p += n) {
    bool starts = p == target->features || p[-1] == ' ';
    if (starts && (!p[n] || p[n] == ' ')) return true;
  }
  return false;
}

bool opencl_fuses(const Target *target) { return has_feature(target, "fma"); }

static bool node(CText *c, const UOp *u) {
  if (u->op == OP_LOAD)
    c_define(c, u, opencl_load(c, u));
  else if (u->op == OP_STORE)
    opencl_store(c, u);
  else
    return false;
  return true;
}

Status opencl_emit(const Linear *linear, const char *entry, const Target *target, StrBuf *out) {
  bool fp64 = has_feature(target, "fp64");
  const CDialect dialect = {
      .what = "OpenCL C",
      .function = "",
      .begin = {"#pragma OPENCL FP_CONTRACT OFF\n",
                fp64 ? "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" : NULL},
      .node = node,
      .declare = opencl_declare,
      .signature = signature};
  CText c = {.dialect = &dialect,
             .linear = linear,
             .fp64 = fp64,
             .crdiv = has_feature(target, "crdiv"),
             .fuses = opencl_fuses(target)};
  return c_print(&c, entry, out);
}
