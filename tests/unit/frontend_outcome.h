/* What a frontend made of a message that a test built: the tensor graph, or the refusal. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <protobuf-c/protobuf-c.h>

#include "compiler/frontend/frontend.h"

typedef struct Outcome {
  uint8_t *bytes;
  Job job;
  TensorGraph graph;
  Status st;
} Outcome;

/* Fields of messages are char *, never written through. */
static inline char *text(const char *s) { return (char *)(uintptr_t)s; }

/* Packs the message and starts the job to convert it in; the bytes live as long as the outcome,
 * since weights lead into them. */
static inline Bytes outcome_begin(Outcome *o, const ProtobufCMessage *msg) {
  size_t n = protobuf_c_message_get_packed_size(msg);
  *o = (Outcome){.bytes = malloc(n + 1)};
  assert_non_null(o->bytes);
  protobuf_c_message_pack(msg, o->bytes);
  job_init(&o->job, 64 << 20);
  return (Bytes){o->bytes, n};
}

static inline void outcome_deinit(Outcome *o) {
  status_drop(o->st);
  strbuf_deinit(&o->graph.constants);
  job_deinit(&o->job);
  free(o->bytes);
}

/* The model was refused with that code, and the message holds every part (separated by |). Ends
 * the outcome. */
static inline void outcome_refused(Outcome *o, StatusCode code, const char *parts) {
  char got[1024], want[256];
  assert_int_equal(status_code(o->st), code);
  status_text(o->st, got, sizeof got);
  snprintf(want, sizeof want, "%s", parts);
  for (char *p = strtok(want, "|"); p; p = strtok(NULL, "|"))
    if (!strstr(got, p)) fail_msg("\"%s\" does not say \"%s\"", got, p);
  outcome_deinit(o);
}
