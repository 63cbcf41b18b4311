/* One walk, sources before users: a node is rebuilt when a source changed, then replaced if the
 * pass asks for it. Most graphs have no such node, and for those nothing is built. */
#include "compiler/passes/replace.h"

UOp *replace_sources(Job *job, UOp *u, UOp *const *now) {
  UOp **src = arena_array(&job->arena, u->nsrc + 1u, sizeof *src);
  bool same = true;
  for (uint32_t s = 0; s < u->nsrc; s++) {
    src[s] = now[u->src[s]->place];
    same &= src[s] == u->src[s];
  }
  return same ? u : uop_with_src(job, u, src);
}

Replace replace_begin(Job *job, UOp *root) {
  Replace r = {.job = job, .list = uop_toposort(job, root)};
  r.now = arena_array(&job->arena, r.list.len, sizeof *r.now);
  nodemap_number(job, &r.pos, &r.list);
  return r;
}

UOp **replace_renewed(const Replace *r, const UOp *u) {
  UOp **src = arena_array(&r->job->arena, u->nsrc + 2u, sizeof *src);
  for (uint32_t s = 0; s < u->nsrc; s++) src[s] = r->now[nodemap_get(&r->pos, u->src[s])];
  return src;
}

UOp *replace_with(const Replace *r, UOp *u, UOp **src) {
  return u->nsrc ? uop_with_src(r->job, u, src) : u;
}

UOp *replace_end(const Replace *r) { return r->now[r->list.len - 1]; }

UOp *replace_each(Job *job, const Target *target, UOp *sink,
                  bool (*asks)(const UOp *u, const Target *target),
                  UOp *(*made)(Job *job, UOp *u, const Target *target)) {
  UOpList list = uop_toposort(job, sink);
  bool any = false;
  for (size_t i = 0; i < list.len; i++) any |= asks(list.at[i], target);
  if (!any) return sink;
  UOp **now = arena_array(&job->arena, list.len, sizeof *now);
  for (size_t i = 0; i < list.len; i++) {
    UOp *u = replace_sources(job, list.at[i], now);
    now[i] = asks(u, target) ? made(job, u, target) : u;
  }
  return now[list.len - 1];
}
