/* Descriptors that a local client passes over its Unix socket, beside the bytes of its calls
 * (SCM_RIGHTS). They are numbered in the order of arrival, 1, 2, ..., and wait for the call that
 * says which one it means. */
#pragma once

#include <sys/types.h>

#include "base/status.h"

enum { PASSED_MAX = 4 };

/* Embedded; zeroed is empty. */
typedef struct Passed {
  uint64_t arrived; /* how many, those included that there was no room for */
  uint64_t number[PASSED_MAX];
  int fd[PASSED_MAX];
  size_t n;
} Passed;

void passed_deinit(Passed *p);
/* recv(2) that keeps what comes with the bytes. What there is no room for is closed. */
ssize_t passed_recv(Passed *p, int socket, void *buf, size_t n);
/* Hands a descriptor over: a memfd of `bytes` bytes that nobody can write or resize any more.
 * INVALID_ARGUMENT says what is wrong with it. */
Status passed_take(Passed *p, uint64_t number, uint64_t bytes, int *out);
