/* Kernels as the compiler might get them wrong: out = a + b over 4096 floats, one entry each. Built
 * as an object that the timing worker links like any other; never called by the program. */
#include <stdint.h>

enum { N = 4096 };

void plain(void *const *args, int64_t thread, void *scratch);
void slow(void *const *args, int64_t thread, void *scratch);
void small_only(void *const *args, int64_t thread, void *scratch);
void wrong(void *const *args, int64_t thread, void *scratch);
void wrong_nan(void *const *args, int64_t thread, void *scratch);
void nothing(void *const *args, int64_t thread, void *scratch);
void crash(void *const *args, int64_t thread, void *scratch);
void hang(void *const *args, int64_t thread, void *scratch);

#define KERNEL(name_, body_)                                                                       \
  void name_(void *const *args, int64_t thread, void *scratch) {                                   \
    volatile float *out = args[0];                                                                 \
    const volatile float *a = args[1], *b = args[2];                                               \
    (void)thread, (void)scratch, (void)out, (void)a, (void)b;                                      \
    body_                                                                                          \
  }

KERNEL(plain, for (int i = 0; i < N; i++) out[i] = a[i] + b[i];)
KERNEL(slow, for (int k = 0; k < 40; k++) for (int i = 0; i < N; i++) out[i] = a[i] + b[i];)
/* As plain when its size, which follows the arguments, is small; else slower than slow. */
KERNEL(small_only, int times = *(const int64_t *)args[3] < 64 ? 1 : 120;
       for (int k = 0; k < times; k++) for (int i = 0; i < N; i++) out[i] = a[i] + b[i];)
KERNEL(wrong, for (int i = 0; i < N - 1; i++) out[i] = a[i] + b[i]; out[N - 1] = 7;)
KERNEL(
    wrong_nan, for (int i = 0; i < N; i++) {
      float x = a[i] + b[i];
      out[i] = x == x ? x : 0;
    })
KERNEL(nothing, )
KERNEL(crash, *(volatile int *)8 = 1;)
KERNEL(hang, for (volatile int go = 1; go;);)
