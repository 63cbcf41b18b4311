/* The CUDA device over a driver that is none (tests/fakes): what a machine with a GPU shows only
 * when something is wrong with it. Which devices are taken and why not, memory that changes hands,
 * launches that become graphs and are changed in place, what the driver's compiler says, and a
 * context that fails. */
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/ptx.h"
#include "devices/cuda_api.h"
#include "devices/device.h"
#include "devices/discover.h"
#include "tests/fakes/fake_cuda.h"
#include "tests/unit/status_check.h"

enum { N = 5 };
static FakeCuda *fake;
static FakeCuda as_new;
static FakeCompiler *compiler; /* the same */
static FakeLinker *linker; /* newer than the driver, so that it is left alone, but in its test */

static int open_device(void **state) {
  *fake = as_new;
  return device_cuda_create(0, (Device **)state) ? -1 : 0;
}
static int close_device(void **state) {
  device_destroy(*state);
  return fake->in_use ? -1 : 0;
}

static Program *load(Device *d, const char *text, uint32_t block) {
  Program *p;
  ProgramSpec spec = {.image = {(const uint8_t *)text, strlen(text)},
                      .entry = "entry",
                      .threads = 1,
                      .grid = {1, 1, 1},
                      .block = {block, 1, 1}};
  check(device_program_load(d, &spec, &p));
  return p;
}

/* -- devices ---------------------------------------------------------------------------------- */

static void found(void *ctx, const char *name, const char *why_not) {
  size_t n = strlen(ctx);
  snprintf((char *)ctx + n, 2000 - n, "%s=%s;", name, why_not ? why_not : "");
}

static void test_capabilities(void **state) {
  (void)state;
  static const struct {
    int cc;
    const char *cpu;
  } gpus[] = {{75, "sm_75"}, {80, "sm_80"},  {86, "sm_86"},  {87, "sm_87"},  {88, "sm_87"},
              {89, "sm_89"}, {90, "sm_90a"}, {100, "sm_90"}, {110, "sm_90"}, {120, "sm_90"}};
  Device *d;
  for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
    *fake = as_new;
    fake->cc = gpus[i].cc;
    check(device_cuda_create(0, &d));
    assert_string_equal(d->caps.cpu, gpus[i].cpu);
    char model[40]; /* machine code is for it alone, though it was made of the same PTX */
    snprintf(model, sizeof model, "Fake, sm_%d%s", gpus[i].cc, gpus[i].cc == 90 ? "a" : "");
    assert_string_equal(d->caps.model, model);
    device_destroy(d);
  }
  fake->cc = 70;
  check_refused(device_open("cuda:0", &d), ST_UNAVAILABLE,
                "compute capability 7.0; 7.5 is the least");
  char text[2000] = "";
  discover_devices(found, text);
  assert_non_null(strstr(text, "cpu:0=;cuda:0=its compute capability is less than 7.5;"));
  *fake = as_new;
  check_refused(device_open("cuda:1", &d), ST_UNAVAILABLE, "this machine has 1 CUDA devices");
}

/* In a process of its own: a driver is started once. */
static void test_no_start(void **state) {
  (void)state;
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    Device *d;
    fake->init = 803;
    Status st = device_open("cuda:0", &d);
    char text[500];
    status_text(st, text, sizeof text);
    _exit(st && status_code(st) == ST_UNAVAILABLE && strstr(text, "starting the CUDA driver") ? 0
                                                                                              : 1);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* -- memory ----------------------------------------------------------------------------------- */

static void test_memory(void **state) {
  Device *d = *state;
  char secret[3000], got[3000];
  memset(secret, 0x77, sizeof secret);
  Buffer *b;
  check(device_buffer_alloc(d, sizeof secret, -1, &b));
  check(device_read(d, b, 0, got, sizeof got));
  for (size_t i = 0; i < sizeof got; i++) assert_int_equal(got[i], 0);
  check(device_write(d, b, 0, secret, sizeof secret));
  unsigned allocations = fake->allocations;
  device_buffer_free(d, b);
  check(device_buffer_alloc(d, sizeof secret - 100, -1, &b)); /* the same memory, in other hands */
  assert_int_equal(fake->allocations, allocations);
  Buffer all = *b;
  check(device_read(d, b, 0, got, all.size));
  for (size_t i = 0; i < all.size; i++) assert_int_equal(got[i], 0);
  device_buffer_free(d, b);
}

/* What was kept is given back before memory runs out. */
static void test_out_of_memory(void **state) {
  Device *d = *state;
  Buffer *b[2];
  size_t most = (size_t)64 << 20;
  fake->memory = fake->in_use + most;
  check(device_buffer_alloc(d, most / 4, -1, &b[0]));
  check(device_buffer_alloc(d, most / 2, -1, &b[1]));
  for (int k = 0; k < 2; k++) device_buffer_free(d, b[k]);
  check(device_buffer_alloc(d, most, -1, &b[0]));
  check_refused(device_buffer_alloc(d, 1, -1, &b[1]), ST_RESOURCE_EXHAUSTED,
                "a buffer of 512 bytes");
  check_refused(device_buffer_alloc(d, SIZE_MAX, -1, &b[1]), ST_RESOURCE_EXHAUSTED,
                "address space");
  device_buffer_free(d, b[0]);
  check(device_buffer_alloc(d, 1, -1, &b[0]));
  device_buffer_free(d, b[0]);
}

/* -- graphs ----------------------------------------------------------------------------------- */

typedef struct Round {
  Buffer *to;
  uint32_t grid;
  int64_t value; /* of the third launch */
} Round;

/* N launches; each leaves its workgroups and its value. */
static void run_round(Device *d, Program *p, const Round *r) {
  Launch launches[N];
  LaunchArg args[N];
  int64_t values[N];
  uint32_t grids[N][3];
  Fence fence;
  static Launch key[N]; /* as the steps of a plan: always at the same place */
  for (int i = 0; i < N; i++) {
    args[i] = (LaunchArg){r->to, (uint64_t)i * 16};
    values[i] = i == 2 ? r->value : i;
    grids[i][0] = r->grid + (uint32_t)i, grids[i][1] = grids[i][2] = 1;
    launches[i] = (Launch){p, &args[i], 1, 1, &values[i], grids[i]};
  }
  memcpy(key, launches, sizeof key);
  check(device_submit(d, key, N, &fence));
  check(device_wait(d, fence, -1));
  int64_t got[2 * N];
  check(device_read(d, r->to, 0, got, sizeof got));
  for (int i = 0; i < N; i++) {
    assert_int_equal(got[2 * i], r->grid + (uint32_t)i);
    assert_int_equal(got[2 * i + 1], values[i]);
  }
}

/* Other sizes, values and buffers change the graph that there is. */
static void test_updates(void **state) {
  Device *d = *state;
  Buffer *b[2];
  for (int k = 0; k < 2; k++) check(device_buffer_alloc(d, N * 16, -1, &b[k]));
  Program *p = load(d, "ptx griddepcontrol.wait", 32);
  const struct {
    Round round;
    unsigned recordings, graphs, changes; /* in all, after it */
  } rounds[] = {{{b[0], 7, 1}, 0, 0, 0},         {{b[0], 7, 1}, 1, 1, 0},
                {{b[0], 7, 1}, 1, 2, 0},         {{b[0], 7, 9}, 1, 3, 1},
                {{b[0], 300, 9}, 1, 4, 1 + N},   {{b[1], 300, 9}, 1, 5, 1 + 2 * N},
                {{b[0], 7, 1}, 1, 6, 1 + 3 * N}, {{b[0], 7, 1}, 1, 7, 1 + 3 * N}};
  for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++) {
    run_round(d, p, &rounds[i].round);
    assert_int_equal(fake->recordings, rounds[i].recordings);
    assert_int_equal(fake->graphs, rounds[i].graphs);
    assert_int_equal(fake->changes, rounds[i].changes);
  }
  assert_int_equal(fake->early, 2 * (N - 1)); /* queued, then recorded: all but the first */
  Program *other = load(d, "ptx griddepcontrol.wait", 32);
  run_round(d, other, &(Round){b[0], 7, 1}); /* other kernels: another graph */
  run_round(d, other, &(Round){b[0], 7, 1});
  assert_int_equal(fake->recordings, 2);
  device_program_free(d, p);
  device_program_free(d, other);
  for (int k = 0; k < 2; k++) device_buffer_free(d, b[k]);
}

/* A size of 0: a launch of nothing, which a graph cannot have. */
static void test_empty(void **state) {
  Device *d = *state;
  Buffer *b;
  Fence fence;
  int64_t value = 3, got[2] = {0};
  uint32_t none[3] = {0, 1, 1}, one[3] = {1, 1, 1};
  check(device_buffer_alloc(d, 16, -1, &b));
  Program *p = load(d, "ptx", 1);
  LaunchArg arg = {b, 0};
  Launch l[2] = {{p, &arg, 1, 1, &value, one}, {p, &arg, 1, 1, &value, none}};
  for (int i = 0; i < 4; i++) {
    l[1].grid = i < 2 ? none : one;
    check(device_submit(d, l, 2, &fence));
  }
  check(device_read(d, b, 0, got, sizeof got));
  assert_int_equal(got[0], 1);
  assert_int_equal(fake->launches, 1 + 1 + 2 + 2);
  assert_int_equal(fake->early, 0); /* the code does not wait by itself */
  device_program_free(d, p);
  device_buffer_free(d, b);
}

/* -- maps of tensors -------------------------------------------------------------------------- */

/* A map is made of the argument's address, anew where that is another one, and follows the other
 * arguments of a launch, of a graph too. */
static void test_maps(void **state) {
  Device *d = *state;
  static const int64_t says[18] = {0, 2, 2, 64, 8, 0, 0, 0, 64, 32, 0, 0, 0, 1, 128, 0, 0, 0};
  Buffer *b[2];
  Fence fence;
  int64_t value = 5, got[12];
  uint32_t one[3] = {1, 1, 1};
  for (int k = 0; k < 2; k++) check(device_buffer_alloc(d, 96, -1, &b[k]));
  fake->maps = says, fake->maps_bytes = sizeof says;
  Program *p = load(d, "ptx", 32);
  for (int round = 0; round < 4; round++) {
    Buffer *to = b[round / 3];
    LaunchArg args[2] = {{to, 0}, {to, 48}};
    Launch l[2] = {{p, &args[0], 1, 1, &value, one}, {p, &args[1], 1, 1, &value, one}};
    static Launch key[2];
    memcpy(key, l, sizeof key);
    check(device_submit(d, key, 2, &fence));
    check(device_read(d, to, 0, got, sizeof got));
    for (int k = 0; k < 2; k++) {
      const int64_t *of = got + 6 * k;
      assert_int_equal(of[1], 5);
      assert_int_equal(of[2] - got[2], 48 * k); /* the address */
      assert_int_equal(of[3], 32);
      assert_int_equal(of[4], 256);
      assert_int_equal(of[5], 64);
    }
  }
  assert_int_equal(fake->encoded, 8); /* the program is at two addresses in turn */
  assert_int_equal(fake->graphs, 3);
  device_program_free(d, p);
  for (int k = 0; k < 2; k++) device_buffer_free(d, b[k]);
}

static void test_wrong_maps(void **state) {
  Device *d = *state;
  static const struct {
    int at;
    int64_t number;
  } wrong[] = {{0, -1}, {1, 3}, {2, 6}, {2, 0}, {3, 257}, {4, 0}, {9, 0}, {14, (int64_t)1 << 40}};
  ProgramSpec spec = {.image = {(const uint8_t *)"ptx", 3},
                      .entry = "entry",
                      .threads = 1,
                      .grid = {1, 1, 1},
                      .block = {1, 1, 1}};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    int64_t says[18] = {0, 2, 2, 64, 8, 0, 0, 0, 64, 32, 0, 0, 0, 1, 128, 0, 0, 0};
    Program *p;
    says[wrong[i].at] = wrong[i].number;
    fake->maps = says, fake->maps_bytes = sizeof says;
    check_refused(device_program_load(d, &spec, &p), ST_INVALID_ARGUMENT,
                  "map 0 of a kernel's tensors");
    fake->maps_bytes = 100;
    check_refused(device_program_load(d, &spec, &p), ST_INVALID_ARGUMENT, "100 bytes are no maps");
  }
  fake->maps = NULL;
}

/* -- programs --------------------------------------------------------------------------------- */

static void test_check(void **state) {
  Device *d = *state;
  Program *p = load(d, "ptx", 1);
  check(device_program_check(d, p));
  fake->local_bytes = 24;
  check_refused(device_program_check(d, p), ST_INVALID_ARGUMENT,
                "24 bytes of each thread are not in registers");
  fake->local_bytes = 0;
  device_program_free(d, p);
  fake->said = "ptxas info: (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
               "serialized";
  p = load(d, "ptx", 1);
  check_refused(device_program_check(d, p), ST_INVALID_ARGUMENT, "makes matrix instructions wait");
  device_program_free(d, p);
  fake->said = "ptxas info: 32 registers";
  p = load(d, "ptx", 1);
  check(device_program_check(d, p));
  device_program_free(d, p);
}

/* Linked where that loses nothing; what it would spoil stays PTX, and what the driver says of that
 * when it is loaded is known. */
static void test_assembled(void **state) {
  Device *d = *state;
  enum { IMAGES = 40 };
  static const char *const texts[3] = {"ptx one", "ptx two griddepcontrol.wait", "ptx three"};
  Bytes images[IMAGES];
  StrBuf code[IMAGES] = {{0}};
  for (int i = 0; i < IMAGES; i++)
    images[i] = (Bytes){(const uint8_t *)texts[i % 3], strlen(texts[i % 3])};
  check(device_assemble(d, images, IMAGES, code));
  assert_int_equal(fake->linked, IMAGES);
  for (int i = 0; i < IMAGES; i++) assert_memory_equal(code[i].ptr, "\177ELF", 4);
  images[0] = (Bytes){(const uint8_t *)"ptx setmaxnreg", 14};
  StrBuf gives = {0};
  check(device_assemble(d, images, 1, &gives));
  assert_int_equal(fake->linked, IMAGES);
  assert_int_equal(gives.len, 0);
  assert_int_equal(fake->compiled, 1);
  check(device_assemble(d, images, 1, &gives)); /* nobody took the first */
  assert_int_equal(fake->libraries, 1);
  strbuf_deinit(&gives);
  unsigned loaded = fake->loaded;
  for (int again = 0; again < 2; again++) {
    Program *p;
    ProgramSpec spec = {
        .image = images[0], .entry = "entry", .threads = 1, .grid = {1, 1, 1}, .block = {1, 1, 1}};
    check(device_program_load(d, &spec, &p));
    assert_int_equal(fake->loaded, loaded + (unsigned)again); /* taken, then compiled anew */
    check(device_program_check(d, p));
    device_program_free(d, p);
    assert_int_equal(fake->libraries, 0);
  }
  for (int warned = 0; warned < 2; warned++) {
    StrBuf one = {0};
    Program *p;
    fake->said = warned ? "(C7514) Potential Performance Loss" : NULL;
    check(device_assemble(d, images + 1, 1, &one));
    assert_int_equal(!one.len, warned);
    ProgramSpec spec = {.image = warned ? images[1] : (Bytes){(const uint8_t *)one.ptr, one.len},
                        .entry = "entry",
                        .threads = 1,
                        .grid = {1, 1, 1},
                        .block = {1, 1, 1}};
    check(device_program_load(d, &spec, &p));
    fake->said = NULL;
    if (warned)
      check_refused(device_program_check(d, p), ST_INVALID_ARGUMENT,
                    "makes matrix instructions wait");
    else
      check(device_program_check(d, p));
    device_program_free(d, p);
    strbuf_deinit(&one);
  }
  for (int i = 0; i < IMAGES; i++) strbuf_deinit(&code[i]);
}

/* Where linked code has more registers than leave room for half of the threads, it is not kept. */
static void test_registers(void **state) {
  Device *d = *state;
  static const struct {
    const char *ptx;
    int registers;
    bool kept;
  } cases[] = {{"ptx .visible .entry k(\n", 64, true},
               {"ptx .visible .entry k(\n", 65, false},
               {"ptx .visible .entry k(\n mma.sync", 128, true},
               {"ptx without a name", 128, true}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    StrBuf code = {0};
    Bytes image = {(const uint8_t *)cases[i].ptx, strlen(cases[i].ptx)};
    fake->registers = cases[i].registers;
    check(device_assemble(d, &image, 1, &code));
    assert_int_equal(code.len > 0, cases[i].kept);
    strbuf_deinit(&code);
  }
}

/* A library that the driver can follow is asked first, and the driver about what it does not take.
 */
static void test_linker(void **state) {
  (void)state;
  static const struct {
    int version, driver; /* of the library; whether the driver is asked all the same */
    int fails;
    const char *said, *compiler;
  } cases[] = {{13000, 0, 0, NULL, "CUDA driver 13000, nvJitLink 13000"},
               {13000, 0, 0, "(C7510) Potential Performance Loss", "nvJitLink 13000"},
               {13000, 1, 1, NULL, "nvJitLink 13000"},
               {13010, 1, 0, NULL, "CUDA driver 13000"},
               {12080, 1, 0, NULL, "CUDA driver 13000"}}; /* under the name of another */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Device *d;
    StrBuf code = {0};
    Bytes image = {(const uint8_t *)"ptx", 3};
    *fake = as_new;
    *linker = (FakeLinker){.version = cases[i].version, .fails = cases[i].fails};
    check(device_cuda_create(0, &d));
    assert_non_null(strstr(d->caps.compiler, cases[i].compiler));
    assert_true(cases[i].version == 13000 || !strstr(d->caps.compiler, "nvJitLink"));
    linker->said = cases[i].said;
    check(device_assemble(d, &image, 1, &code));
    assert_int_equal(fake->linked, cases[i].driver);
    assert_int_equal(linker->linked, !cases[i].driver);
    if (!cases[i].driver) assert_string_equal(linker->arch, "-arch=sm_90a");
    assert_int_equal(!code.len, cases[i].said != NULL); /* it is loaded whole */
    strbuf_deinit(&code);
    device_destroy(d);
  }
  linker->version = 99000;
}

/* CUDA C++ goes through NVRTC, ahead and when it is loaded; PTX does not. */
static void test_compiler(void **state) {
  (void)state;
  static const char text[] = CUDA_C_MARK "extern \"C\" __global__ void k() {}\n";
  static const struct {
    int version, fails;
    const char *image;
    StatusCode code;
    unsigned compiled; /* when it is assembled, and again when it is loaded */
  } cases[] = {{13000, 0, text, ST_OK, 1},
               {13000, 0, "ptx", ST_OK, 0},
               {13000, 1, text, ST_INVALID_ARGUMENT, 1},
               {13010, 0, text, ST_UNAVAILABLE, 0},
               {13010, 0, "ptx", ST_OK, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Device *d;
    Program *p = NULL;
    StrBuf code = {0};
    Bytes image = {(const uint8_t *)cases[i].image, strlen(cases[i].image)};
    *fake = as_new;
    *compiler = (FakeCompiler){.version = cases[i].version, .fails = cases[i].fails};
    check(device_cuda_create(0, &d));
    bool has = cases[i].version == 13000;
    assert_int_equal(has, strstr(d->caps.compiler, "NVRTC 13000") != NULL);
    assert_non_null(strstr(d->caps.description, has ? ", NVRTC 13.0" : ", no NVRTC"));
    Status st = device_assemble(d, &image, 1, &code);
    assert_int_equal(status_code(st), cases[i].code);
    status_drop(st);
    assert_int_equal(compiler->compiled, cases[i].compiled);
    ProgramSpec spec = {
        .image = image, .entry = "k", .threads = 1, .grid = {1, 1, 1}, .block = {1, 1, 1}};
    st = device_program_load(d, &spec, &p);
    assert_int_equal(status_code(st), cases[i].code);
    status_drop(st);
    assert_int_equal(compiler->compiled, 2 * cases[i].compiled);
    if (compiler->compiled)
      assert_string_equal(compiler->options,
                          "--gpu-architecture=compute_90a --fmad=false --std=c++17 "
                          "--disable-warnings ");
    if (p) device_program_free(d, p);
    strbuf_deinit(&code);
    device_destroy(d);
  }
  compiler->version = 99000;
}

/* -- a context that fails --------------------------------------------------------------------- */

static void test_broken(void **state) {
  Device *d = *state;
  enum { ILLEGAL_ADDRESS = 700 };
  Buffer *b, *more;
  Fence fence;
  int64_t value = 3, got[2];
  check(device_buffer_alloc(d, 16, -1, &b));
  Program *p = load(d, "ptx", 1);
  LaunchArg arg = {b, 0};
  Launch l = {p, &arg, 1, 1, &value, NULL};
  check(device_submit(d, &l, 1, &fence));
  check(device_wait(d, fence, -1));
  fake->broken = ILLEGAL_ADDRESS;
  for (int i = 0; i < 2; i++) {
    check_refused(device_submit(d, &l, 1, &fence), ST_UNAVAILABLE, "FAKE_ERROR, 700");
    check_refused(device_wait(d, 1, -1), ST_UNAVAILABLE, "running kernels");
    check_refused(device_read(d, b, 0, got, sizeof got), ST_UNAVAILABLE, "700");
    check_refused(device_buffer_alloc(d, 1 << 20, -1, &more), ST_UNAVAILABLE, "700");
  }
  assert_true(d->lost);
  device_program_free(d, p);
  device_buffer_free(d, b);
  fake->broken = 0;
}

/* A launch that the driver does not take is one program's matter. */
static void test_refused(void **state) {
  Device *d = *state;
  Buffer *b;
  Fence fence;
  int64_t value = 3;
  check(device_buffer_alloc(d, 16, -1, &b));
  Program *p = load(d, "ptx", 1);
  LaunchArg arg = {b, 0};
  Launch l = {p, &arg, 1, 1, &value, NULL};
  fake->broken = CU_LAUNCH_RESOURCES;
  check_refused(device_submit(d, &l, 1, &fence), ST_INVALID_ARGUMENT, "launching a kernel");
  fake->broken = CU_INVALID_VALUE;
  check_refused(device_submit(d, &l, 1, &fence), ST_INTERNAL, "launching a kernel");
  fake->broken = 0;
  assert_false(d->lost);
  check(device_submit(d, &l, 1, &fence));
  check(device_wait(d, fence, -1));
  device_program_free(d, p);
  device_buffer_free(d, b);
}

int main(void) {
  void *library = dlopen(FAKE_CUDA, RTLD_NOW | RTLD_LOCAL); /* found again by its name */
  fake = library ? dlsym(library, "fake_cuda") : NULL;
  library = dlopen(FAKE_LINKER, RTLD_NOW | RTLD_LOCAL);
  linker = library ? dlsym(library, "fake_linker") : NULL;
  library = dlopen(FAKE_COMPILER, RTLD_NOW | RTLD_LOCAL);
  compiler = library ? dlsym(library, "fake_compiler") : NULL;
  if (!fake || !linker || !compiler) return fprintf(stderr, "%s\n", dlerror()), 1;
  as_new = *fake;
  linker->version = 99000;
#define ON(name) cmocka_unit_test_setup_teardown(name, open_device, close_device)
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_start),
      cmocka_unit_test(test_capabilities),
      ON(test_memory),
      ON(test_out_of_memory),
      ON(test_updates),
      ON(test_empty),
      ON(test_maps),
      ON(test_wrong_maps),
      ON(test_check),
      ON(test_assembled),
      ON(test_registers),
      ON(test_broken),
      ON(test_refused),
      cmocka_unit_test(test_linker),
      cmocka_unit_test(test_compiler),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
