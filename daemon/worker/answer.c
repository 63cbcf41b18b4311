/* What an answer is made of lives in an arena of its own until it is sent, so that workers neither
 * keep nor leak anything from one job to the next. Errors go back to the worker's loop, which sends
 * them all in the same way. */
#include "daemon/worker/answer.h"

Status answer(Channel *c, const Kiln__V1__Envelope *request, AnswerFn fn, void *ctx) {
  Answer a = {.env = KILN__V1__ENVELOPE__INIT};
  arena_init(&a.arena, 0);
  a.env.id = request->id;
  Status st = fn(ctx, request, &a);
  if (!st) st = channel_send(c, &a.env, NULL, 0);
  arena_deinit(&a.arena);
  return st;
}
