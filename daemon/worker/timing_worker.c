/* One TimingJob at a time. Before each step that runs a kernel for the first time a TimingProgress
 * says which; when the process ends or is killed, kilnd knows what to blame. */
#include "daemon/worker/timing_worker.h"

#include "base/log.h"
#include "daemon/worker/answer.h"
#include "daemon/worker/sandbox.h"
#include "daemon/worker/timing.h"

typedef struct TimingWorker {
  Channel channel;
  Timing timing;
  uint64_t id; /* of the job */
} TimingWorker;

static void on_progress(void *ctx, Kiln__V1__TimingProgress__What what, uint32_t candidate,
                        uint32_t limit_ms) {
  TimingWorker *w = ctx;
  Kiln__V1__TimingProgress m = KILN__V1__TIMING_PROGRESS__INIT;
  Kiln__V1__Envelope env = KILN__V1__ENVELOPE__INIT;
  m.what = what;
  m.candidate = candidate;
  m.limit_ms = limit_ms;
  env.id = w->id;
  env.body_case = KILN__V1__ENVELOPE__BODY_TIMING_PROGRESS;
  env.timing_progress = &m;
  status_drop(channel_send(&w->channel, &env, NULL, 0)); /* without kilnd the answer fails too */
}

static Status timing(void *ctx, const Kiln__V1__Envelope *request, Answer *out) {
  TimingWorker *w = ctx;
  w->id = request->id;
  kiln__v1__timing_done__init(&out->body.timing);
  out->env.body_case = KILN__V1__ENVELOPE__BODY_TIMING_DONE;
  out->env.timing_done = &out->body.timing;
  return timing_job(&w->timing, request->timing, &out->arena, &out->body.timing);
}

static Status serve(TimingWorker *w) {
  for (;;) {
    Message m;
    TRY(channel_recv(&w->channel, &m));
    Status st = m.env->body_case == KILN__V1__ENVELOPE__BODY_TIMING
                    ? answer(&w->channel, m.env, timing, w)
                    : FAIL(INTERNAL, "unexpected message %d", (int)m.env->body_case);
    Status sent = NULL;
    if (st && w->timing.dev->lost) {
      message_close(&m);
      return st;
    }
    if (st) sent = channel_send_error(&w->channel, m.env->id, st, "");
    status_drop(st);
    message_close(&m);
    if (sent) return sent;
  }
}

int timing_worker_main(int socket, const char *device, WorkerLimits limits) {
  TimingWorker w = {.timing = {.progress = on_progress}};
  w.timing.ctx = &w;
  log_init("worker:timing", LOG_LEVEL_INFO);
  timing_notice_stops();
  Status st = channel_init(&w.channel, socket);
  if (!st) st = device_open(device, &w.timing.dev);
  if (!st) st = sandbox_limit_memory(limits.memory_bytes);
  if (!st) st = w.timing.dev->caps.shares_memory ? sandbox_enter() : sandbox_enter_driver();
  if (!st) st = serve(&w);
  bool ended = status_code(st) == ST_UNAVAILABLE && w.timing.dev && !w.timing.dev->lost;
  int code = ended ? 0 : 1;
  char text[512];
  status_text(st, text, sizeof text);
  if (code) LOG_ERROR("the timing worker ends", "device=%s error=\"%s\"", device, text);
  status_drop(st);
  timing_deinit(&w.timing);
  device_destroy(w.timing.dev);
  channel_deinit(&w.channel);
  return code;
}
