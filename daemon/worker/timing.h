/* Comparing and timing kernels, for the timing worker.
 *
 * A Timing keeps between jobs what the untuned kernel computed, because it is slow and one kernel
 * is timed many times in a row. Everything else belongs to one job. Kernels reach the device
 * through device.h only, so any device that runs kernels can be timed. */
#pragma once

#include "base/vec.h"
#include "compiler/ir/uop.h"
#include "devices/device.h"
#include "kiln/v1/worker.pb-c.h"

/* -- timing_data.c: what goes in -----------------------------------------------------------------
 */

typedef enum TimingPattern {
  TP_RANDOM,   /* floats in [-1, 1), integers in [0, 64) */
  TP_SPECIALS, /* the same with a few NaN, infinities, extremes, subnormals and zeros in between */
  TP_FLAT,     /* one value in the first half, zeros in the second */
} TimingPattern;

/* The same bytes for the same arguments. */
void timing_fill(DType dtype, TimingPattern pattern, uint64_t seed, void *to, uint64_t n);

/* -- timing_compare.c: whether results are the same ----------------------------------------------
 */

typedef struct TimingCompare {
  DType dtype;   /* of the results */
  DType reduces; /* DT_VOID: bit for bit (all NaN are one, and so are the zeros) */
  uint64_t terms;
  TimingPattern pattern;
} TimingCompare;

/* False with a text for people when they differ by more than another order of a sum explains. */
bool timing_same(const TimingCompare *c, const void *want, const void *got, uint64_t n, char *why,
                 size_t cap);

/* -- timing_args.c: buffers and launches ---------------------------------------------------------
 */

typedef struct TimingProgram {
  Program *program;
  uint32_t grid[3];
  bool sized; /* grid is what the sizes make of it */
} TimingProgram;

/* The buffers of one kernel at one choice of sizes; of constants several copies, which calls take
 * in turn. */
typedef struct TimingArgs {
  Device *dev;
  const Kiln__V1__KernelFacts *facts; /* of the job at hand */
  size_t nbuffers;
  int64_t *vars;
  uint64_t *elements; /* by argument */
  Buffer **buffers;   /* copy after copy; NULL: that of the first copy */
  LaunchArg *args;    /* parallel to buffers */
  uint32_t ncopies, next;
  uint64_t footprint; /* bytes of one copy */
  char *staging;      /* as large as the largest argument */
} TimingArgs;

/* INTERNAL: the facts contradict themselves. */
Status timing_facts_check(const Kiln__V1__KernelFacts *facts);
/* working_set: how many bytes the copies take together, within limits. Undone on failure. */
Status timing_args_init(Device *dev, const Kiln__V1__KernelFacts *facts, const int64_t *vars,
                        uint64_t working_set, TimingArgs *out);
void timing_args_deinit(TimingArgs *a);
/* Fills all copies; what is written only gets other bytes than any result is likely to have. */
Status timing_args_fill(TimingArgs *a, TimingPattern pattern, uint64_t seed);
/* Restores what the kernel writes and reads; nothing for others. */
Status timing_args_restore(TimingArgs *a, TimingPattern pattern, uint64_t seed);
/* What a call on the first copy wrote: valid until the next read or fill. */
Status timing_args_result(TimingArgs *a, const void **out);
uint64_t timing_args_result_bytes(const TimingArgs *a);

/* code: what the device has assembled of the binary; empty: nothing. */
Status timing_program_load(Device *dev, const Kiln__V1__KernelBinary *binary, Bytes code,
                           const int64_t *vars, size_t nvars, TimingProgram *out);
void timing_program_free(Device *dev, TimingProgram *p);
/* Runs it once on the first copy. */
Status timing_run_once(TimingArgs *a, const TimingProgram *p);
/* Runs it `times` (at most 64), each on the next copy; *ns is the mean. When the process was
 * stopped meanwhile it does so again. */
Status timing_run(TimingArgs *a, const TimingProgram *p, uint32_t times, int64_t *ns);
/* From now on being stopped and let go on (SIGCONT) is noticed. */
void timing_notice_stops(void);
/* Nanoseconds of runs that were lost that way. */
int64_t timing_lost_ns(void);

/* -- timing_code.c: machine code that the device has assembled -----------------------------------
 */

typedef struct TimingCode {
  uint8_t key[32]; /* of what it was made of */
  StrBuf code;
} TimingCode;
typedef VEC(TimingCode) TimingCodes;

/* Assembles together what is not known yet; what cannot be stays unknown. NULL among the binaries
 * are left out. */
Status timing_code_prepare(Device *dev, TimingCodes *c, const Kiln__V1__KernelBinary *const *b,
                           size_t n);
/* Empty: none is known, or the device needs none. Valid until the next timing_code_prepare. */
Bytes timing_code(const TimingCodes *c, const Kiln__V1__KernelBinary *b);
void timing_code_deinit(TimingCodes *c);

/* -- timing_check.c: against the untuned kernel --------------------------------------------------
 */

enum { TIMING_CASES_MAX = 8 };

typedef struct TimingCase {
  TimingPattern pattern;
  int64_t *vars;
  void *result; /* of the untuned kernel; NULL: not computed yet */
} TimingCase;

typedef struct Timing {
  Device *dev;
  /* Says what runs next. */
  void (*progress)(void *ctx, Kiln__V1__TimingProgress__What what, uint32_t candidate,
                   uint32_t limit_ms);
  void *ctx;
  TimingCodes codes;
  /* the buffers that kernels are timed on, filled; they serve while jobs are about one kernel */
  TimingArgs args;
  uint8_t args_key[32]; /* of its facts, sizes and working set */
  bool args_kept;
  /* the untuned kernel's results */
  uint8_t key[32]; /* of kernel and sizes */
  bool keyed;
  TimingCase cases[TIMING_CASES_MAX];
  size_t ncases;
} Timing;

void timing_deinit(Timing *t);
/* *same false: why says where. Failure: they could not be compared. candidate is for progress; its
 * first run has been timed, so that a limit is known. */
Status timing_check(Timing *t, const Kiln__V1__TimingJob *job, const int64_t *vars,
                    uint32_t candidate, uint32_t limit_ms, bool *same, char *why, size_t cap);

/* -- timing_measure.c: the whole job -------------------------------------------------------------
 */

/* out and what it points to live in arena. Failure: nothing could be timed. */
Status timing_job(Timing *t, const Kiln__V1__TimingJob *job, Arena *arena,
                  Kiln__V1__TimingDone *out);
