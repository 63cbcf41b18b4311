/* Tiles of the innermost output axis, threads on the outermost. */
#include "daemon/worker/search_standin.h"

#include "compiler/search/opts.h"

Status search_class(Job *job, UOp *kernel, SearchClass *out) {
  (void)job, (void)kernel;
  *out = (SearchClass){.naxes = 0};
  return NULL;
}

Status search_cost(Job *job, UOp *kernel, const Target *target, const char *opts, SearchCost *out) {
  (void)job, (void)kernel, (void)target, (void)opts;
  *out = (SearchCost){.roofline_ns = 1};
  return NULL;
}

typedef struct Propose {
  const SearchInput *in;
  Candidate *out;
  size_t *n;
} Propose;

static void steps(Job *job, void *arg) {
  Propose *p = arg;
  const KernelInfo *k = kernel_info(job, p->in->kernel);
  static const int vectors[] = {1, 4, 8, 16}, tiles[] = {1, 2, 4, 8};
  if (!k->store || !k->nloops) return;
  int last = (int)k->loops[k->nloops - 1]->arg.i, first = (int)k->loops[0]->arg.i;
  for (int i = 0; i < 32 && *p->n < p->in->want; i++) {
    OptList list = {0};
    StrBuf text = {0};
    bool tried = false;
    if (vectors[i % 4] > 1) opts_push(job, &list, OPT_VECTOR, last, vectors[i % 4]);
    if (tiles[i / 4 % 4] > 1) opts_push(job, &list, OPT_UPCAST, first, tiles[i / 4 % 4]);
    if (i / 16) opts_push(job, &list, OPT_THREAD, first, p->in->target->threads);
    Status st = opts_check(job, p->in->kernel, p->in->target, &list);
    opts_print(&list, &text);
    Str s = {text.ptr ? text.ptr : "", text.len};
    for (size_t e = 0; e < p->in->ntried; e++) tried |= str_is(s, p->in->tried[e].opts);
    if (!st && !tried && !text.failed) p->out[(*p->n)++].opts = arena_strdup(&job->arena, s);
    status_drop(st);
    strbuf_deinit(&text);
  }
}

Status search_propose(Job *job, const SearchInput *in, Candidate *out, size_t *n) {
  Propose p = {in, out, n};
  *n = 0;
  return job_run(job, steps, &p);
}
