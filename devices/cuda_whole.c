/* A library is compiled when it is loaded, or, where the driver loads late, when its module is
 * asked for; both are done here, by whichever thread. The image is kept beside it: that is how the
 * program that is loaded next is told from others. */
#include "devices/cuda_whole.h"

#include <string.h>

enum { LOG_BYTES = 4096 };

bool cuda_whole_compile(const CudaApi *api, const char *text, Bytes image, CudaWhole *out) {
  char said[LOG_BYTES] = "";
  int options[2] = {CU_JIT_INFO_LOG, CU_JIT_INFO_LOG_BYTES};
  void *values[2] = {said, (void *)(uintptr_t)sizeof said};
  *out = (CudaWhole){0};
  if (!api->library_load || !api->library_module || !api->library_unload) return false;
  if (api->library_load(&out->library, text, options, values, 2, NULL, NULL, 0)) return false;
  said[sizeof said - 1] = 0;
  out->waiting = strstr(said, CUDA_WARNING_WAITING) != NULL;
  strbuf_add(&out->image, image.ptr, image.len);
  /* A driver that loads late compiles here. */
  if (!api->library_module(&out->module, out->library) && !out->image.failed) return true;
  api->library_unload(out->library);
  strbuf_deinit(&out->image);
  *out = (CudaWhole){0};
  return false;
}

bool cuda_whole_take(CudaWholes *w, Bytes image, CudaWhole *out) {
  for (size_t i = 0; i < w->len; i++) {
    const StrBuf *have = &w->at[i].image;
    if (have->len != image.len || memcmp(have->ptr, image.ptr, image.len) != 0) continue;
    *out = w->at[i];
    w->at[i] = w->at[--w->len];
    strbuf_deinit(&out->image);
    return true;
  }
  return false;
}

void cuda_whole_drop(const CudaApi *api, CudaWholes *w) {
  for (size_t i = 0; i < w->len; i++) {
    api->library_unload(w->at[i].library);
    strbuf_deinit(&w->at[i].image);
  }
  w->len = 0;
}
