/* Kernels that measure a machine: what they do is known, what they take is what is asked for.
 *
 * A product of matrices that lie in L1, in tiles that keep both FMA units busy, for the arithmetic;
 * sums of rows for what each level of memory delivers to a thread, or to all. They are kernels like
 * all others, compiled and timed as those are, so what they reach is what kernels can reach. */
#include "compiler/search/internal.h"

enum {
  M = 48,
  N_VECTORS = 4, /* columns, in vectors */
  K = 64,
  STREAMS = 8, /* rows that are read side by side: one stream does not fill the memory's queues */
};
#define MEMORY_MAX (128ll << 20)

typedef struct Probe {
  Job *job;
  const Target *target;
  SearchProbe which;
  SearchProbeKernel *out;
} Probe;

static UOp *param(Job *job, int64_t i, DType d, int64_t n) { return uop_param(job, i, d, &n, 1); }

static UOp *at(Job *job, UOp *p, UOp *row, int64_t width, UOp *col) {
  UOp *src[2] = {p, uop2(job, OP_ADD, uop2(job, OP_MUL, row, uop_index(job, width)), col)};
  return uop_make(job, OP_INDEX, DT_VOID, arg_none(), src, 2);
}

static UOp *sink(Job *job, UOp *to, UOp *index, UOp *value, UOp **loops, uint32_t n) {
  UOp *store[3] = {to, index, value}, *src[3];
  src[0] = uop_make(job, OP_STORE, DT_VOID, arg_i(0), store, 3);
  for (uint32_t i = 0; i < n; i++) src[i + 1] = loops[i];
  UOp *end = uop_make(job, OP_END, DT_VOID, arg_none(), src, n + 1);
  return uop_make(job, OP_SINK, DT_VOID, arg_none(), &end, 1);
}

/* The heuristic's, where the list is not legal. */
static void take_opts(const Probe *p, const OptList *list) {
  StrBuf text = {0};
  Status st = opts_check(p->job, p->out->kernel, p->target, list);
  opts_print(list, &text);
  if (!st && !text.failed) p->out->opts = arena_strdup(&p->job->arena, (Str){text.ptr, text.len});
  status_drop(st);
  strbuf_deinit(&text);
}

/* c[m, n] = sum of a[m, k] b[k, n]: tiles of 6 rows and 4 vectors with 32 registers, 6 and 2 with
 * 16. */
static void product(const Probe *p, DType d) {
  Job *job = p->job;
  const Target *t = p->target;
  int lanes = (int)(t->vector_bytes / dtype_info[d].bytes), n = N_VECTORS * lanes;
  UOp *c = param(job, 0, d, M * n), *a = param(job, 1, d, M * K), *b = param(job, 2, d, K * n);
  UOp *loops[2] = {uop_range(job, 0, AX_LOOP, uop_index(job, M)),
                   uop_range(job, 1, AX_LOOP, uop_index(job, n))};
  UOp *k = uop_range(job, 2, AX_REDUCE, uop_index(job, K));
  UOp *v = uop2(job, OP_MUL, at(job, a, loops[0], K, k), at(job, b, k, n, loops[1]));
  UOp *to = uop2(job, OP_ADD, uop2(job, OP_MUL, loops[0], uop_index(job, n)), loops[1]);
  p->out->kernel = sink(job, c, to, uop_reduce(job, OP_ADD, v, &k, 1), loops, 2);
  p->out->work = 2.0 * M * n * K;
  OptList list = {0};
  opts_push(job, &list, OPT_UPCAST, 0, 6);
  if (lanes > 1) opts_push(job, &list, OPT_VECTOR, 1, lanes);
  opts_push(job, &list, OPT_UPCAST, 1, t->vector_registers >= 32 ? 4 : 2);
  take_opts(p, &list);
}

/* y[r] = sum of x[r, c] of about so many bytes, in rows that do not fall on the same lines. */
static void sums(const Probe *p, int64_t bytes) {
  Job *job = p->job;
  int threads = (int)p->target->threads;
  int64_t rows = STREAMS * (int64_t)(threads > 1 ? 4 * threads : 4);
  int64_t columns = (bytes / 4 / rows) / 256 * 256 - 64;
  if (columns < 64) return;
  UOp *y = param(job, 0, DT_F32, rows), *x = param(job, 1, DT_F32, rows * columns);
  UOp *row = uop_range(job, 0, AX_LOOP, uop_index(job, rows));
  UOp *c = uop_range(job, 1, AX_REDUCE, uop_index(job, columns));
  UOp *v = uop_reduce(job, OP_ADD, at(job, x, row, columns, c), &c, 1);
  p->out->kernel = sink(job, y, row, v, &row, 1);
  p->out->work = (double)(rows * columns * 4);
  OptList list = {0};
  opts_push(job, &list, OPT_UPCAST, 0, STREAMS);
  opts_push(job, &list, OPT_VECTOR, 1, (int)p->target->vector_bytes / 4);
  if (threads > 1) opts_push(job, &list, OPT_THREAD, 0, threads);
  take_opts(p, &list);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void probe_steps(Job *job, void *arg) {
  const Probe *p = arg;
  const Target *t = p->target;
  int64_t l2 = (int64_t)t->l2_bytes, l3 = (int64_t)t->l3_bytes;
  (void)job; /* p has it */
  p->out->opts = "";
  p->out->work = 0;
  if (t->max_group || !t->vector_bytes) return; /* workgroups: nothing of this is about them */
  switch (p->which) {
  case SP_FLOPS_F32: product(p, DT_F32); break;
  case SP_FLOPS_F64: product(p, DT_F64); break;
  case SP_L2: sums(p, l2 / 2); break;
  case SP_L3: sums(p, l3 >= 4 * l2 ? least(l3 / 4, 8 * l2) : 0); break;
  case SP_MEMORY: sums(p, least(l3 > 0 ? 4 * l3 : 64 << 20, MEMORY_MAX)); break;
  case SP__COUNT: break;
  }
}

Status search_probe(Job *job, const Target *target, SearchProbe which, SearchProbeKernel *out) {
  Probe p = {job, target, which, out};
  *out = (SearchProbeKernel){.opts = ""};
  return job_run(job, probe_steps, &p);
}
