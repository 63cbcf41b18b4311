/* Runs that wait together run together.
 *
 * Where each row of an executable's outputs depends on the same row of its inputs alone (the
 * compile worker says so: FrontendDone.rowwise), requests of one tenant and priority that want the
 * same outputs are put behind each other while the device is busy with something else, and become
 * one job when it is free, when the configured time has passed, or when there are rows enough. The
 * device worker sees one run with more rows; every request gets its own rows of the answer. */
#pragma once

#include "daemon/server/request.h"

typedef struct Batch Batch;

/* Part of a run. Its owner fills the first part and leaves when the run ends by itself. */
typedef struct BatchMember {
  Request *request;
  Executable *exe;
  const Kiln__V1__RunJob
      *message;         /* all inputs inline, in the request's arena; one VAR: the rows */
  const uint64_t *room; /* bytes of the outputs */
  uint64_t *offsets;    /* of the outputs in the job's slab: filled in */
  uint8_t level;
  /* job has the slab, m the sizes of this member's outputs; else NULL and st (takes st) */
  void (*done)(void *ctx, DeviceJob *job, Message *m, Status st);
  /* the batch's */
  Batch *batch;
  struct BatchMember *next;
} BatchMember;

/* Waits for others. Failure: it has not joined. */
Status batch_join(BatchMember *m);
/* No `done` follows; nothing happens when it was called already. */
void batch_leave(BatchMember *m);
/* Sends what need not wait; the loop calls it before it sleeps. */
void batches_flush(Server *s);
