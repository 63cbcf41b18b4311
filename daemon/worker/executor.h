/* Runs loaded executables on one device.
 *
 * The executor owns everything that lives on the device on kilnd's behalf: programs, weights,
 * buffers, slabs, the arena of temporaries. Ids are chosen by kilnd. Runs are serial, so all
 * executables share one arena of temporaries and one staging area, which grow to the largest need.
 * Every index and size of a message is checked before it is used: a wrong one is INTERNAL, because
 * kilnd has already checked what came from its clients. */
#pragma once

#include "base/arena.h"
#include "devices/device.h"
#include "kiln/v1/worker.pb-c.h"

typedef struct Executor Executor;

/* Borrows dev, which must outlive it. */
Status executor_create(Device *dev, Executor **out);
void executor_release(Executor *x); /* NULL allowed */

/* Takes ownership of the descriptors; const_fd is -1 when there are no constants. */
Status executor_load(Executor *x, const Kiln__V1__LoadExecutable *m, int model_fd, int const_fd);
/* What the device made of the code of an executable that has just been loaded by m; out's bytes are
 * the executor's, until executor_forget_code. */
Status executor_assembled(Executor *x, const Kiln__V1__LoadExecutable *m, Arena *arena,
                          Kiln__V1__LoadDone *out);
void executor_forget_code(Executor *x, uint64_t executable);
/* Other code for one kernel. On failure it keeps what it has. */
Status executor_replace(Executor *x, const Kiln__V1__ReplaceKernel *m);
void executor_unload(Executor *x, uint64_t executable);

/* Runs posted on the board of this descriptor, which the executor owns from now on, end as soon as
 * they can, with CANCELLED. */
Status executor_watch(Executor *x, int board_fd);
/* For a signal handler on the executor's thread: the run that goes on ends if it is posted, also
 * in the middle of a kernel where the device can do that. May not return: see device_interrupt. */
void executor_interrupt(const Executor *x);

/* slab_fd is -1 when the job brings no slab; owned by the executor. out's outputs point into the
 * executor's memory and stay valid until its next call. number: of the job, for the board. */
Status executor_run(Executor *x, uint64_t number, const Kiln__V1__RunJob *m, int slab_fd,
                    Kiln__V1__RunDone *out);
/* The memory that comes with out, or -1; the executor's, until its next call. */
int executor_output_fd(const Executor *x);
void executor_slab_free(Executor *x, uint64_t slab);

/* Takes ownership of fd. */
Status executor_buffer_create(Executor *x, uint64_t id, uint64_t bytes, int fd);
/* *fd belongs to the executor. */
Status executor_buffer_read(Executor *x, uint64_t id, uint64_t *bytes, int *fd);
void executor_buffer_free(Executor *x, uint64_t id);
