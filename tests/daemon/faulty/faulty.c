/* kiln-worker with a compiler that is wrong: tests/daemon/test_wrong.py has a search meet it.
 *
 * KILN_FAULTS names faults, with commas between. A candidate (any opts but the untuned kernel's)
 * gets one of them, by a hash of its opts: the same one in every process. What the heuristic makes
 * becomes `slow`, so that candidates are worth timing; the untuned kernel is what the compiler made
 * of it. Faults of the code are entries of tests/unit/candidates, which compute a + b over 4096
 * floats; the others happen while it is compiled:
 *
 *   absent    the code has no such entry
 *   refused   the compiler gives up
 *   scratch   asks for more memory of a thread than there is
 *   abort     ends the compile worker
 *   endless   never comes back
 *   greedy    has the job allocate until it is refused
 *   bloated   allocates behind the job's back, and aborts when there is no more, as LLVM does */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/compile.h"

static char *object;
static size_t object_len;
static char faults[256];

Status __real_compile_kernel(Job *job, UOp *kernel, const char *name, const Target *target,
                             const char *opts, KernelObject *out);
Status __wrap_compile_kernel(Job *job, UOp *kernel, const char *name, const Target *target,
                             const char *opts, KernelObject *out);

/* Before the sandbox, in the process that the workers are forked from. */
__attribute__((constructor)) static void start(void) {
  const char *given = getenv("KILN_FAULTS");
  FILE *f = fopen(CANDIDATES, "rb");
  if (!given || !f || strlen(given) >= sizeof faults) exit(1);
  strcpy(faults, given);
  object = malloc(1 << 16);
  if (object) object_len = fread(object, 1, 1 << 16, f);
  fclose(f);
  if (!object_len) exit(1);
}

/* The fault of these opts; "" for one that is to be right. */
static const char *fault_of(const char *opts, char *buf, size_t cap) {
  size_t n = 1, hash = 5381;
  for (const char *p = opts; *p; p++) hash = hash * 33 + (unsigned char)*p;
  for (const char *p = faults; *p; p++) n += *p == ',';
  const char *p = faults;
  for (size_t at = hash % n; at; at--) p = strchr(p, ',') + 1;
  size_t len = strcspn(p, ",");
  if (len >= cap) len = cap - 1;
  memcpy(buf, p, len);
  buf[len] = 0;
  return buf;
}

static void greedy(Job *job, void *arg) {
  (void)arg;
  for (;;) memset(arena_alloc(&job->arena, 1 << 20), 1, 1 << 20);
}

static _Noreturn void bloated(void) {
  for (char *more; (more = malloc(1 << 20));) memset(more, 1, 1 << 20);
  abort();
}

/* The opts behind the object's end keep apart what has one code and several entries. */
static Status replace(Job *job, const char *entry, const char *opts, KernelObject *out) {
  char *name = arena_strdup(&job->arena, str_from(entry));
  strbuf_deinit(&out->object);
  out->object = (StrBuf){0};
  strbuf_add(&out->object, object, object_len);
  strbuf_adds(&out->object, opts);
  out->entry = name;
  out->threads = 1;
  return name && !out->object.failed ? NULL : FAIL(RESOURCE_EXHAUSTED, "code");
}

Status __wrap_compile_kernel(Job *job, UOp *kernel, const char *name, const Target *target,
                             const char *opts, KernelObject *out) {
  char buf[32];
  bool heuristic = !opts || !*opts;
  TRY(__real_compile_kernel(job, kernel, name, target, opts, out));
  if (opts && (!strcmp(opts, " ") || (!strncmp(opts, "THREAD(", 7) && !strchr(opts, ' '))))
    return NULL; /* the untuned kernel, on one thread or all */
  const char *fault = heuristic ? "slow" : fault_of(opts, buf, sizeof buf);
  if (!strcmp(fault, "abort")) abort();
  if (!strcmp(fault, "refused")) return FAIL(INTERNAL, "no code for this");
  if (!strcmp(fault, "greedy")) return job_run(job, greedy, NULL);
  if (!strcmp(fault, "bloated")) bloated();
  for (volatile bool on = !strcmp(fault, "endless"); on;)
    ;
  if (strcmp(fault, "scratch")) return replace(job, fault, opts ? opts : "", out);
  out->scratch_bytes = 1ull << 36;
  return NULL;
}
