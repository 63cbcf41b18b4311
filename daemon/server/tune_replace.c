/* A faster kernel takes the place of another, in all executables of the device that have it and
 * whose tenants share the cache that it was found for. Each tenant is told of its own executables.
 *
 * The artifact has the new code at once, so that a device worker that starts again loads it; one
 * that is running gets it by a message of its own, which stands in the queue between two runs. If
 * the device refuses it, the artifact gets the old code back. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/server/events.h"
#include "daemon/server/tune_internal.h"

typedef struct Replace {
  Executable *exe; /* the job's */
  uint32_t kernel;
  Kiln__V1__KernelBinary *before, *after;
  Kiln__V1__ReplaceKernel message;
} Replace;

static void on_replaced(void *ctx, DeviceJob *job, Message *m, Status st) {
  Replace *r = ctx;
  (void)job, (void)m;
  if (st) {
    char text[300];
    status_text(st, text, sizeof text);
    LOG_ERROR("a device does not take a kernel", "kernel=%s error=\"%s\"",
              r->exe->artifact->plan->kernels[r->kernel]->name, text);
    Kiln__V1__KernelBinary **at = &r->exe->artifact->binaries[r->kernel];
    if (*at == r->after && status_code(st) != ST_UNAVAILABLE) *at = r->before;
  }
  status_drop(st);
  free(r);
}

/* The loaded executable gets what its artifact has. */
static void send_to_device(Executable *e, uint32_t kernel, Kiln__V1__KernelBinary *before) {
  DeviceJob *job = device_job_create();
  Replace *r = calloc(1, sizeof *r);
  if (!job || !r) {
    free(job);
    free(r);
    return; /* it keeps the old code until it is loaded again */
  }
  *r = (Replace){
      .exe = e, .kernel = kernel, .before = before, .after = e->artifact->binaries[kernel]};
  kiln__v1__replace_kernel__init(&r->message);
  r->message.executable = e->id;
  r->message.kernel = kernel;
  r->message.binary = r->after;
  job->exe = executable_retain(e);
  job->env.body_case = KILN__V1__ENVELOPE__BODY_REPLACE;
  job->env.replace = &r->message;
  job->done = on_replaced;
  job->ctx = r;
  Status st = device_lane_submit(e->device, job);
  if (st) free(r);
  status_drop(st);
}

enum { NAMED_MAX = 64 };

/* The executables that changed. */
typedef struct Named {
  const Executable *at[NAMED_MAX];
  size_t n;
} Named;

static void replace_in(Executable *e, uint32_t kernel, const Kiln__V1__KernelBinary *binary,
                       Named *named) {
  Artifact *a = e->artifact;
  Kiln__V1__KernelBinary *before = a->binaries[kernel];
  bool same = before->object.len == binary->object.len && !strcmp(before->opts, binary->opts) &&
              !memcmp(before->object.data, binary->object.data, binary->object.len);
  if (!same) { /* else another executable with the same artifact has brought it */
    Kiln__V1__KernelBinary *after;
    Status st = tune_copy(&a->arena, &binary->base, &after);
    status_drop(st); /* without memory it keeps what it has */
    if (st) return;
    a->binaries[kernel] = after;
  }
  if (e->loaded_in && e->loaded_in == device_lane_incarnation(e->device))
    send_to_device(e, kernel, before);
  if (named->n < NAMED_MAX) named->at[named->n++] = e;
}

/* Tells the tenants that have any, and the one that the search was for. */
static void publish(Server *s, const Named *named, const Tenant *searcher,
                    const Kiln__V1__KernelReplaced *what) {
  char ids[NAMED_MAX][ID_TEXT], *list[NAMED_MAX];
  Kiln__V1__KernelReplaced m = *what;
  Kiln__V1__Event event = KILN__V1__EVENT__INIT;
  event.what_case = KILN__V1__EVENT__WHAT_KERNEL;
  event.kernel = &m;
  m.executables = list;
  for (const Tenant *t = s->tenants.first; t; t = t->next) {
    m.n_executables = 0;
    for (size_t i = 0; i < named->n; i++) {
      const Executable *e = named->at[i];
      if (e->tenant != t) continue;
      list[m.n_executables] = ids[m.n_executables];
      id_text("exe", e->id, e->secret, ids[m.n_executables++]);
    }
    if (m.n_executables || t == searcher) events_publish(s, t, &event);
  }
}

void tune_replace(Server *s, const Executable *of, const TuneKernel *k,
                  const Kiln__V1__KernelBinary *binary, int64_t before_ns, int64_t after_ns) {
  Named named = {.n = 0};
  bool self = false;
  for (Executable *e = s->executables.newest; e; e = e->older) {
    const Kiln__V1__Plan *plan = e->artifact->plan;
    if (e->device != of->device || e->tenant->store != of->tenant->store) continue;
    self |= e == of;
    for (uint32_t i = 0; i < plan->n_kernels; i++)
      if (!memcmp(plan->kernels[i]->hash.data, k->plan->hash.data, DIGEST_BYTES))
        replace_in(e, i, binary, &named);
  }
  /* one that was unloaded meanwhile is tuned to the end all the same */
  if (!self) replace_in((Executable *)(uintptr_t)of, k->index, binary, &named);
  s->metrics.kernels_replaced_total[0][0]++;
  LOG_INFO("kernel replaced", "kernel=%s opts=\"%s\" before_us=%.1f after_us=%.1f", k->plan->name,
           binary->opts, (double)before_ns / 1e3, (double)after_ns / 1e3);
  Kiln__V1__KernelReplaced m = KILN__V1__KERNEL_REPLACED__INIT;
  m.kernel = k->plan->name;
  m.device = (char *)(uintptr_t)device_lane_name(of->device);
  m.opts = binary->opts;
  m.before_ns = before_ns;
  m.after_ns = after_ns;
  publish(s, &named, of->tenant, &m);
}
