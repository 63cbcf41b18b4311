/* PTX of CUDA C++ files, as the device does it, without one.
 *
 *   nvrtc_ptx DRIVER ARCH FILE.cu...
 *   nvrtc_ptx 13000 sm_90a build/cu/a.cu       writes build/cu/a.ptx
 *
 * Needs libnvrtc where the linker looks (LD_LIBRARY_PATH); without it the exit status is 2. A file
 * that is not taken is named and makes it 1. Prints what all of them took. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "devices/nvrtc.h"
#include "tests/read_file.h"

static Status write_file(const char *path, const StrBuf *text) {
  FILE *f = fopen(path, "wb");
  bool ok = f && fwrite(text->ptr, 1, text->len, f) == text->len;
  if (f) ok &= !fclose(f);
  return ok ? NULL : FAIL(UNAVAILABLE, "%s cannot be written", path);
}

static Status compile_file(const Nvrtc *l, const char *arch, const char *path) {
  StrBuf source = {0}, ptx = {0};
  char to[4096];
  int n = (int)strlen(path) - 3;
  if (n < 1 || strcmp(path + n, ".cu") != 0) return FAIL(INVALID_ARGUMENT, "no .cu file");
  snprintf(to, sizeof to, "%.*s.ptx", n, path);
  Status st = read_file(path, &source) ? NULL : FAIL(NOT_FOUND, "cannot be read");
  if (!st) strbuf_add(&source, "", 1);
  if (!st) st = nvrtc_compile(l, arch, (Bytes){(uint8_t *)source.ptr, source.len - 1}, &ptx);
  if (!st) st = write_file(to, &ptx);
  strbuf_deinit(&source);
  strbuf_deinit(&ptx);
  return st;
}

int main(int argc, char **argv) {
  int failures = 0;
  if (argc < 4) return fprintf(stderr, "usage: %s DRIVER ARCH FILE.cu...\n", argv[0]), 64;
  const Nvrtc *l = nvrtc_open(atoi(argv[1]));
  if (!l) return fprintf(stderr, "no libnvrtc for driver %s\n", argv[1]), 2;
  int64_t start = clock_now_ns();
  for (int i = 3; i < argc; i++) {
    Status st = compile_file(l, argv[2], argv[i]);
    char text[4096];
    status_text(st, text, sizeof text);
    if (st) fprintf(stderr, "%s: %s\n", argv[i], text);
    failures += st != NULL;
    status_drop(st);
  }
  printf("NVRTC %d: %d files, %.1f ms\n", nvrtc_version(l), argc - 3,
         (double)(clock_now_ns() - start) / 1e6);
  return failures > 0;
}
