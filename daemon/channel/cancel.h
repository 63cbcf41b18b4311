/* Runs that nobody waits for any more, and runs that are to come back when they have not begun, for
 * somebody else goes first: on a page that kilnd writes and a device worker reads, which is busy
 * with a run and does not look at its socket.
 *
 * A run's number is posted in the place number % CANCEL_PLACES. The numbers of the jobs that a
 * worker has at one time are within CANCEL_PLACES of each other, so none hides another. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { CANCEL_PLACES = 64 };

typedef struct CancelBoard {
  _Atomic uint64_t number[CANCEL_PLACES];
  _Atomic uint64_t recalled[CANCEL_PLACES];
} CancelBoard;

/* A new board, and a descriptor of it that can only be read, for the worker. */
Status cancel_board_create(CancelBoard **out, int *fd);
/* The worker's view; takes ownership of fd. */
Status cancel_board_open(int fd, const CancelBoard **out);
void cancel_board_close(const CancelBoard *b); /* NULL allowed */

static inline void cancel_post(CancelBoard *b, uint64_t number) {
  atomic_store_explicit(&b->number[number % CANCEL_PLACES], number, memory_order_relaxed);
}

static inline void recall_post(CancelBoard *b, uint64_t number) {
  atomic_store_explicit(&b->recalled[number % CANCEL_PLACES], number, memory_order_relaxed);
}

static inline bool recall_is_posted(const CancelBoard *b, uint64_t number) {
  return b &&
         atomic_load_explicit(&b->recalled[number % CANCEL_PLACES], memory_order_relaxed) == number;
}

/* A board of NULL has no posts. */
static inline bool cancel_is_posted(const CancelBoard *b, uint64_t number) {
  return b &&
         atomic_load_explicit(&b->number[number % CANCEL_PLACES], memory_order_relaxed) == number;
}
