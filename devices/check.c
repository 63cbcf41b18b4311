/* The checking decorator.
 *
 * It keeps a list of what is alive on the inner device and refuses, or dies on, what contradicts
 * it. What a caller's data can cause (an argument outside every buffer, an unknown fence) is a
 * Status; what only a bug in the program can cause (a double free, another thread, a leak at
 * destruction) logs the fact and aborts, for going on would corrupt memory. */
#include <pthread.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/vec.h"
#include "devices/device.h"

typedef struct CheckDevice {
  Device base; /* first */
  Device *inner;
  pthread_t owner;
  VEC(Buffer *) buffers;
  VEC(Program *) programs;
  Fence last;
} CheckDevice;

_Noreturn static void bug(const char *what) {
  LOG_ERROR("device misuse", "what=\"%s\"", what);
  abort();
}

static CheckDevice *check_device(Device *d) {
  CheckDevice *c = (CheckDevice *)d;
  if (!pthread_equal(c->owner, pthread_self())) bug("a device is driven by one thread");
  return c;
}

static void check_destroy(Device *d) {
  CheckDevice *c = check_device(d);
  if (c->buffers.len) bug("a device was destroyed before its buffers");
  if (c->programs.len) bug("a device was destroyed before its programs");
  vec_deinit(&c->buffers);
  vec_deinit(&c->programs);
  device_destroy(c->inner);
  free(c);
}

static Status check_buffer_alloc(Device *d, size_t size, int fd, Buffer **out) {
  CheckDevice *c = check_device(d);
  if (size > c->base.caps.max_buffer_bytes) {
    return FAIL(RESOURCE_EXHAUSTED, "a buffer of %zu bytes exceeds the device's limit of %llu",
                size, (unsigned long long)c->base.caps.max_buffer_bytes);
  }
  if (!vec_reserve(&c->buffers, c->buffers.len + 1)) return FAIL(RESOURCE_EXHAUSTED, "a buffer");
  Buffer *b;
  if (fd >= 0 && !c->base.caps.shares_memory) bug("memory for a device that cannot share it");
  TRY(device_buffer_alloc(c->inner, size, fd, &b));
  if (b->size != size || (size && !b->host && b->fd >= 0)) bug("a backend made a wrong buffer");
  b->dev = d;
  (void)vec_push(&c->buffers, b);
  *out = b;
  return NULL;
}

static void check_buffer_free(Device *d, Buffer *b) {
  CheckDevice *c = check_device(d);
  for (size_t i = 0; i < c->buffers.len; i++) {
    if (c->buffers.at[i] != b) continue;
    c->buffers.at[i] = c->buffers.at[--c->buffers.len];
    b->dev = c->inner;
    device_buffer_free(c->inner, b);
    return;
  }
  bug("a buffer was freed twice or belongs to another device");
}

static Status check_program_load(Device *d, const ProgramSpec *spec, Program **out) {
  CheckDevice *c = check_device(d);
  if (!spec->entry || !*spec->entry)
    return FAIL(INVALID_ARGUMENT, "a program without an entry name");
  if (spec->threads < 1) return FAIL(INVALID_ARGUMENT, "a program of 0 threads");
  if (!vec_reserve(&c->programs, c->programs.len + 1)) return FAIL(RESOURCE_EXHAUSTED, "a program");
  Program *p;
  TRY(device_program_load(c->inner, spec, &p));
  (void)vec_push(&c->programs, p);
  *out = p;
  return NULL;
}

static bool is_live(const CheckDevice *c, const Program *p, size_t *at) {
  for (size_t i = 0; i < c->programs.len; i++) {
    if (c->programs.at[i] != p) continue;
    *at = i;
    return true;
  }
  return false;
}

static Status check_program_check(Device *d, const Program *p) {
  return device_program_check(check_device(d)->inner, p);
}

static Status check_assemble(Device *d, const Bytes *images, size_t n, StrBuf *code) {
  return device_assemble(check_device(d)->inner, images, n, code);
}

static void check_program_free(Device *d, Program *p) {
  CheckDevice *c = check_device(d);
  size_t at;
  if (!is_live(c, p, &at)) bug("a program was freed twice or belongs to another device");
  c->programs.at[at] = c->programs.at[--c->programs.len];
  device_program_free(c->inner, p);
}

static bool is_buffer(const CheckDevice *c, const Buffer *b) {
  for (size_t i = 0; i < c->buffers.len; i++)
    if (c->buffers.at[i] == b) return true;
  return false;
}

static void must_live(const CheckDevice *c, const Buffer *b) {
  if (!is_buffer(c, b)) bug("a copy to or from a buffer that is freed or of another device");
}

static Status check_write(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes) {
  CheckDevice *c = check_device(d);
  must_live(c, b);
  return device_write(c->inner, b, offset, from, bytes);
}

static Status check_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes) {
  CheckDevice *c = check_device(d);
  must_live(c, b);
  return device_read(c->inner, b, offset, to, bytes);
}

static Status check_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                         uint64_t from_offset, uint64_t bytes) {
  CheckDevice *c = check_device(d);
  must_live(c, to);
  must_live(c, from);
  uint64_t apart = to_offset > from_offset ? to_offset - from_offset : from_offset - to_offset;
  if (to == from && apart < bytes)
    return FAIL(INVALID_ARGUMENT, "a copy of %llu bytes onto itself", (unsigned long long)bytes);
  return device_copy(c->inner, to, to_offset, from, from_offset, bytes);
}

/* Inside its buffer, or at the end when that is all that is left of it. */
static bool is_argument(const CheckDevice *c, const LaunchArg *a) {
  return is_buffer(c, a->buffer) && a->offset <= a->buffer->size;
}

static Status check_submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  CheckDevice *c = check_device(d);
  for (size_t i = 0; i < n; i++) {
    size_t at;
    if (!is_live(c, launches[i].program, &at)) {
      return FAIL(INVALID_ARGUMENT, "launch %zu of %zu: its program is not loaded", i, n);
    }
    for (uint32_t k = 0; k < launches[i].nargs; k++) {
      if (is_argument(c, &launches[i].args[k])) continue;
      return FAIL(INVALID_ARGUMENT, "launch %zu of %zu: argument %u is in no buffer of the device",
                  i, n, k);
    }
  }
  TRY(device_submit(c->inner, launches, n, out));
  if (*out <= c->last) bug("a backend's fences do not grow");
  c->last = *out;
  return NULL;
}

static Status check_wait(Device *d, Fence fence, int64_t timeout_ns) {
  CheckDevice *c = check_device(d);
  if (fence > c->last) {
    return FAIL(INVALID_ARGUMENT, "fence %llu was never submitted", (unsigned long long)fence);
  }
  return device_wait(c->inner, fence, timeout_ns);
}

static Status check_timer_start(Device *d) { return device_timer_start(check_device(d)->inner); }

static Status check_timer_stop(Device *d, int64_t *ns) {
  CheckDevice *c = check_device(d);
  return device_timer_stop(c->inner, c->last, ns);
}

static Status check_scrub(Device *d) { return device_scrub(check_device(d)->inner); }

static void check_interrupt(Device *d, bool on) { device_interrupt(check_device(d)->inner, on); }

static const DeviceVtbl check_vtbl = {
    .name = "check",
    .destroy = check_destroy,
    .buffer_alloc = check_buffer_alloc,
    .buffer_free = check_buffer_free,
    .program_load = check_program_load,
    .program_free = check_program_free,
    .program_check = check_program_check,
    .assemble = check_assemble,
    .write = check_write,
    .read = check_read,
    .copy = check_copy,
    .submit = check_submit,
    .wait = check_wait,
    .scrub = check_scrub,
    .timer_start = check_timer_start,
    .timer_stop = check_timer_stop,
    .interrupt = check_interrupt,
};

Status device_check_create(Device *inner, Device **out) {
  CheckDevice *c = calloc(1, sizeof *c);
  *out = c ? &c->base : NULL;
  if (!c) {
    device_destroy(inner);
    return FAIL(RESOURCE_EXHAUSTED, "memory for a device");
  }
  c->base = (Device){.v = &check_vtbl, .caps = inner->caps};
  c->inner = inner;
  c->owner = pthread_self();
  return NULL;
}
