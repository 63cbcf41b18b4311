/* The wrappers that callers use, and the list of devices by name.
 *
 * Wrappers assert what only a bug can break and forward; what depends on the machine or on sizes is
 * the backend's to refuse with a Status. */
#include "devices/device.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"

static Status noted(Device *d, Status st) {
  d->lost |= status_code(st) == ST_UNAVAILABLE;
  return st;
}

void device_destroy(Device *d) {
  if (d) d->v->destroy(d);
}

Status device_buffer_alloc(Device *d, size_t size, int fd, Buffer **out) {
  *out = NULL;
  return noted(d, d->v->buffer_alloc(d, size, fd, out));
}

void device_buffer_free(Device *d, Buffer *b) {
  if (b) d->v->buffer_free(d, b);
}

Status device_program_load(Device *d, const ProgramSpec *spec, Program **out) {
  *out = NULL;
  assert(spec->entry && spec->threads >= 1);
  return noted(d, d->v->program_load(d, spec, out));
}

void device_program_free(Device *d, Program *p) {
  if (p) d->v->program_free(d, p);
}

static Status check_part(const Buffer *b, uint64_t offset, uint64_t bytes) {
  if (offset <= b->size && bytes <= b->size - offset) return NULL;
  return FAIL(OUT_OF_RANGE, "%llu bytes at %llu of a buffer of %zu", (unsigned long long)bytes,
              (unsigned long long)offset, b->size);
}

Status device_program_check(Device *d, const Program *p) {
  return d->v->program_check ? noted(d, d->v->program_check(d, p)) : NULL;
}

Status device_assemble(Device *d, const Bytes *images, size_t n, StrBuf *code) {
  return d->v->assemble && n ? noted(d, d->v->assemble(d, images, n, code)) : NULL;
}

Status device_write(Device *d, Buffer *b, uint64_t offset, const void *from, uint64_t bytes) {
  TRY(check_part(b, offset, bytes));
  return bytes ? noted(d, d->v->write(d, b, offset, from, bytes)) : NULL;
}

Status device_read(Device *d, const Buffer *b, uint64_t offset, void *to, uint64_t bytes) {
  TRY(check_part(b, offset, bytes));
  return bytes ? noted(d, d->v->read(d, b, offset, to, bytes)) : NULL;
}

Status device_copy(Device *d, Buffer *to, uint64_t to_offset, const Buffer *from,
                   uint64_t from_offset, uint64_t bytes) {
  TRY(check_part(to, to_offset, bytes));
  TRY(check_part(from, from_offset, bytes));
  return bytes ? noted(d, d->v->copy(d, to, to_offset, from, from_offset, bytes)) : NULL;
}

/* Without a mapping: a piece from here, then twice as much each time from what is zero already. */
Status device_zero(Device *d, Buffer *b, uint64_t bytes) {
  static const char zeros[4096];
  TRY(check_part(b, 0, bytes));
  if (b->host) {
    memset(b->host, 0, bytes);
    return NULL;
  }
  uint64_t done = bytes < sizeof zeros ? bytes : sizeof zeros;
  if (done) TRY(noted(d, d->v->write(d, b, 0, zeros, done)));
  while (done < bytes) {
    uint64_t n = done < bytes - done ? done : bytes - done;
    TRY(noted(d, d->v->copy(d, b, done, b, 0, n)));
    done += n;
  }
  return NULL;
}

Status device_scrub(Device *d) { return d->v->scrub ? noted(d, d->v->scrub(d)) : NULL; }

Status device_submit(Device *d, const Launch *launches, size_t n, Fence *out) {
  *out = 0;
  return noted(d, d->v->submit(d, launches, n, out));
}

Status device_wait(Device *d, Fence fence, int64_t timeout_ns) {
  return noted(d, d->v->wait(d, fence, timeout_ns));
}

Status device_timer_start(Device *d) {
  d->started_ns = clock_now_ns();
  return d->v->timer_start ? noted(d, d->v->timer_start(d)) : NULL;
}

Status device_timer_stop(Device *d, Fence last, int64_t *ns) {
  *ns = 0;
  if (d->v->timer_stop) return noted(d, d->v->timer_stop(d, ns));
  TRY(d->v->wait(d, last, -1));
  *ns = clock_now_ns() - d->started_ns;
  return NULL;
}

void device_interrupt(Device *d, bool on) {
  if (d->v->interrupt) d->v->interrupt(d, on);
}

typedef struct DeviceKind {
  const char *prefix;
  Status (*create)(uint32_t ordinal, Device **out);
} DeviceKind;

/* There is one CPU, and one null device. */
static Status create_cpu(uint32_t ordinal, Device **out) {
  if (ordinal) return FAIL(UNAVAILABLE, "this machine has only cpu:0");
  return device_cpu_create(0, out);
}

static Status create_null(uint32_t ordinal, Device **out) {
  if (ordinal) return FAIL(UNAVAILABLE, "this machine has only null:0");
  return device_null_create(out);
}

static const DeviceKind kinds[] = {{"cpu:", create_cpu},
                                   {"cuda:", device_cuda_create},
                                   {"null:", create_null},
                                   {"opencl:", device_opencl_create}};

static bool parse_ordinal(const char *text, uint32_t *out) {
  uint32_t n = 0;
  if (!*text || strlen(text) > 3 || (text[0] == '0' && text[1])) return false;
  for (; *text; text++) {
    if (*text < '0' || *text > '9') return false;
    n = n * 10 + (uint32_t)(*text - '0');
  }
  *out = n;
  return true;
}

Status device_open(const char *name, Device **out) {
  uint32_t ordinal;
  *out = NULL;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    size_t n = strlen(kinds[i].prefix);
    if (strncmp(name, kinds[i].prefix, n) != 0 || !parse_ordinal(name + n, &ordinal)) continue;
    Status st = kinds[i].create(ordinal, out);
    return st ? WRAP(st, "device '%s'", name) : NULL;
  }
  return FAIL(UNAVAILABLE, "device '%s': devices are named cpu:0, cuda:N, opencl:N, null:0", name);
}
