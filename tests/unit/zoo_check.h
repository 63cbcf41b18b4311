/* Saying which kernel and opts a test failed with. Include cmocka.h before this. */
#pragma once

#include "tests/unit/zoo_run.h"

static inline void zoo_explain(const ZooRun *r, const char *what) {
  StrBuf b = {0};
  opts_print(&r->opts, &b);
  print_message("%s with [%s]: %s\n", r->k.name, b.ptr ? b.ptr : "", what);
  strbuf_deinit(&b);
}

static inline void zoo_must(const ZooRun *r, Status st) {
  char text[4000];
  if (!st) return;
  status_text(st, text, sizeof text);
  status_drop(st);
  zoo_explain(r, text);
  fail();
}

/* One more opt, if that is legal. */
static inline bool zoo_try(Job *job, ZooRun *r, OptKind kind, int axis, int64_t arg) {
  opts_push(job, &r->opts, kind, axis, arg);
  Status st = opts_check(job, r->k.sink, r->target, &r->opts);
  bool legal = !st;
  if (!legal) r->opts.len--;
  status_drop(st);
  return legal;
}
