/* Matrix instructions: the table of codegen/matrix.def, and where its elements lie. */
#pragma once

#include "compiler/ir/plan.h"

typedef enum MatrixId {
#define MATRIX(name_, feature_, code_, threads_, m_, n_, k_, a_, b_, c_, am_, ak_, bn_, bk_, cm_,  \
               cn_)                                                                                \
  MX_##name_,
#include "compiler/codegen/matrix.def"
#undef MATRIX
  MX__COUNT
} MatrixId;

enum { MATRIX_DIGITS = 6 };

/* The letters of a thread's number, the fastest first. */
extern const char matrix_lanes[];

/* One digit of a coordinate: q, p, r of the thread's number or a, b, c of the element's. */
typedef struct MatrixDigit {
  char of;
  uint16_t size;
  uint16_t weight; /* in the coordinate */
  bool second;     /* the coordinate is the operand's second one */
} MatrixDigit;

/* How an operand lies in the registers of the threads. Its coordinates are (m, k), (n, k), (m, n).
 */
typedef struct MatrixLayout {
  MatrixDigit digit[MATRIX_DIGITS];
  unsigned n;
  unsigned registers; /* elements of a thread */
} MatrixLayout;

typedef enum MatrixOperand { MATRIX_A, MATRIX_B, MATRIX_C } MatrixOperand;

typedef struct MatrixInfo {
  const char *name, *feature, *code;
  unsigned threads;
  bool cut;    /* of factors of f32 it looks at the upper bits alone */
  bool shared; /* factors lie in the workgroup's memory, their digits say nothing of threads: B, */
  bool held;   /* and A unless this is set: it lies in the threads' registers */
  unsigned m, n, k;
  DType dtype[3];
  MatrixLayout layout[3]; /* by MatrixOperand */
} MatrixInfo;

/* NULL when there is none of that number. */
const MatrixInfo *matrix_info(int64_t id);
/* Whether the factor lies in the workgroup's memory. */
bool matrix_in_memory(const MatrixInfo *info, int factor);
/* Where a TILEMMA has an operand among its sources: a buffer and an index, if it is in memory. */
uint32_t matrix_source(const MatrixInfo *info, MatrixOperand o);
bool matrix_on(const MatrixInfo *info, const Target *target);
/* The bits of an f32 that an instruction of tf32 looks at. */
#define MATRIX_CUT_BITS 0xffffe000u
/* x of f32 without its lower bits, as ops, and x again; NULL: u is no such value. */
UOp *matrix_cut(Job *job, UOp *x);
UOp *matrix_uncut(const UOp *u);
bool matrix_is_mask(const UOp *u); /* the op in between */
/* An element of a factor as the instruction sees it. */
Scalar matrix_seen(const MatrixInfo *info, Scalar v);
/* Whether an instruction of the target multiplies factors of `from` and adds them up in `to`. */
bool matrix_takes(const Target *target, DType from, DType to);
/* Registers of a quarter of NVIDIA's processors, for the threads that its warps have in one place,
 * what a thread that copies needs of them, and in what steps they are given away. */
enum { QUARTER_REGISTERS = 512, COPIER_REGISTERS = 24, REGISTERS_UNIT = 8 };
/* Of each thread of `groups` groups of four warps to which another one that copies leaves its own.
 */
unsigned matrix_registers_given(unsigned groups);
/* The size of a digit of the thread's number; 1 when it has none. */
unsigned matrix_lane_size(const MatrixInfo *info, char digit);
/* What it counts in: threads. */
unsigned matrix_lane_step(const MatrixInfo *info, char digit);
/* The RANGEs behind an MMA's factors in the scheduled stage: one per digit, in the order q, p, r,
 * then a, b, c of C, of A and of B. How many; of them the threads' and C's; the size of each. */
unsigned matrix_range_count(const MatrixInfo *info);
unsigned matrix_shared_ranges(const MatrixInfo *info);
unsigned matrix_range_size(const MatrixInfo *info, unsigned at);
/* Which of them is a digit of an operand; -1 when it has no such digit. */
int matrix_range_at(const MatrixInfo *info, MatrixOperand o, char digit);
/* The coordinates of a thread's element. */
void matrix_element(const MatrixLayout *l, const MatrixInfo *info, unsigned thread, unsigned reg,
                    unsigned coord[2]);
/* The first thread and element that hold (x, y). */
void matrix_find(const MatrixLayout *l, const MatrixInfo *info, unsigned x, unsigned y,
                 unsigned *thread, unsigned *reg);
/* Value of a digit ("q", "p", "a"...) in the number of a thread or of an element. */
unsigned matrix_digit(const MatrixLayout *l, const MatrixInfo *info, char digit, unsigned thread,
                      unsigned reg);
