/* The choice between the emitters, which for GPUs of NVIDIA is the schedule's. Targets of other
 * kinds (tests describe devices that nobody generates code for) are the CPU's. */
#include "compiler/codegen/codegen.h"

#include "compiler/codegen/cuda_emit.h"
#include "compiler/codegen/llvm_emit.h"
#include "compiler/codegen/opencl_emit.h"

static bool is_opencl(const Target *t) { return t->kind && !strcmp(t->kind, "opencl"); }

typedef Status (*PrintFn)(const Linear *linear, const char *entry, const Target *target,
                          StrBuf *out);

static Status emit_source(const Linear *linear, const char *entry, const Target *target,
                          PrintFn print, CodegenOutput *out) {
  TRY(print(linear, entry, target, &out->object));
  if (out->want_text) strbuf_add(&out->text, out->object.ptr, out->object.len);
  return NULL;
}

static Status emit_llvm(const Linear *linear, const char *entry, const Target *target,
                        CodegenOutput *out) {
  LlvmOutput code = {.want_text = out->want_text};
  Status st = llvm_emit(linear, entry, target, &code);
  if (!st) {
    out->object = code.object;
    code.object = (StrBuf){0};
  }
  if (!st && out->want_text) {
    strbuf_add(&out->text, code.ir.ptr, code.ir.len);
    strbuf_adds(&out->text, "\n");
    strbuf_add(&out->text, code.assembly.ptr, code.assembly.len);
  }
  llvm_output_deinit(&code);
  return st;
}

Status codegen_emit(const Linear *linear, const char *entry, const Target *target,
                    CodegenOutput *out) {
  if (linear->cuda_c) return emit_source(linear, entry, target, cuda_emit, out);
  if (is_opencl(target)) return emit_source(linear, entry, target, opencl_emit, out);
  return emit_llvm(linear, entry, target, out);
}

void codegen_deinit(CodegenOutput *out) {
  strbuf_deinit(&out->object);
  strbuf_deinit(&out->text);
}

bool codegen_fuses(const Target *target) {
  return is_opencl(target) ? opencl_fuses(target) : llvm_fuses(target);
}
