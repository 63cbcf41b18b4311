/* What a test expects of a Status: nothing, or a failure that says something. The Status is
 * consumed. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

static inline void check(Status st) {
  if (!st) return;
  char text[4000];
  status_text(st, text, sizeof text);
  status_drop(st);
  fail_msg("%s", text);
}

static inline void check_refused(Status st, StatusCode code, const char *part) {
  char text[4000] = "success";
  if (st) status_text(st, text, sizeof text);
  if (status_code(st) != code || !strstr(text, part))
    fail_msg("got %s '%s', expected %s with '%s'", status_code_name(status_code(st)), text,
             status_code_name(code), part);
  status_drop(st);
}
