/* The messages of the client that fuzz_requests.c plays: whole and right unless the input says
 * otherwise. All choices are bytes of the input, taken from a Choices; an input that has ended says
 * 0 for ever. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "daemon/server/rpc.h"

typedef struct Choices {
  const uint8_t *at, *end;
} Choices;

static inline unsigned pick(Choices *c, unsigned n) {
  unsigned v = c->at < c->end ? *c->at++ : 0;
  return v % n;
}

/* Handles that answers have brought, and some that nobody ever had. */
enum { HANDLES = 8, HANDLE_TEXT = 48 };
typedef struct Handles {
  char exe[HANDLES][HANDLE_TEXT], buf[HANDLES][HANDLE_TEXT];
  unsigned nexe, nbuf; /* how many there have been */
} Handles;

static inline const char *handle(Choices *c, const Handles *h, bool exe) {
  unsigned k = pick(c, HANDLES + 2);
  const char(*all)[HANDLE_TEXT] = exe ? h->exe : h->buf;
  if (k == HANDLES) return "exe-00000000000000000000000000000001";
  return k < HANDLES && *all[k] ? all[k] : all[0];
}

/* A message that grows; what does not fit is left out. */
typedef struct Out {
  size_t n;
  uint8_t bytes[4096];
} Out;

static inline void put_byte(Out *o, uint64_t v) {
  if (o->n < sizeof o->bytes) o->bytes[o->n++] = (uint8_t)v;
}
static inline void put_varint(Out *o, uint64_t v) {
  for (; v > 127; v >>= 7) put_byte(o, v | 128);
  put_byte(o, v);
}
static inline void put_number(Out *o, unsigned field, uint64_t v) {
  put_varint(o, field << 3);
  put_varint(o, v);
}
static inline void put_bytes(Out *o, unsigned field, const void *at, size_t n) {
  put_varint(o, field << 3 | 2);
  put_varint(o, n);
  for (size_t i = 0; i < n; i++) put_byte(o, ((const uint8_t *)at)[i]);
}
static inline void put_text(Out *o, unsigned field, const char *text) {
  put_bytes(o, field, text, strlen(text));
}
static inline void put_message(Out *o, unsigned field, const Out *m) {
  put_bytes(o, field, m->bytes, m->n);
}

/* -- graphs ------------------------------------------------------------------------------------ */

enum { OP_CODE_PARAM = 1, OP_CODE_ADD = 70, F32_CODE = 12 };

static inline void put_param(Out *g, const char *name, unsigned n, bool named, bool state) {
  Out p = {0}, dim = {0};
  if (named)
    put_text(&dim, 2, "n"), put_number(&dim, 4, 64); /* n, at most 64 */
  else
    put_number(&dim, 1, n);
  put_text(&p, 1, name);
  put_number(&p, 2, F32_CODE);
  put_message(&p, 3, &dim);
  if (state) put_number(&p, 5, 1);
  put_message(g, 2, &p);
}

static inline void put_node(Out *g, unsigned op, const uint8_t *src, size_t nsrc, int param) {
  Out n = {0};
  uint8_t index = (uint8_t)(param * 2); /* zigzag */
  put_number(&n, 1, op);
  if (nsrc) put_bytes(&n, 3, src, nsrc);
  if (param >= 0) put_bytes(&n, 4, &index, 1);
  put_message(g, 1, &n);
}

/* y = x + b over `size` floats, or over a size that the run chooses. */
static inline void make_graph(Out *g, unsigned size, bool named) {
  Out y = {0};
  put_param(g, "x", size, named, false);
  put_param(g, "b", size, named, false);
  put_node(g, OP_CODE_PARAM, NULL, 0, 0);
  put_node(g, OP_CODE_PARAM, NULL, 0, 1);
  put_node(g, OP_CODE_ADD, (const uint8_t[]){0, 1}, 2, -1);
  put_text(&y, 1, "y");
  put_number(&y, 2, 2);
  put_message(g, 3, &y);
}

/* -- requests ---------------------------------------------------------------------------------- */

static inline void put_tensor(Out *m, unsigned field, Choices *c) {
  static const unsigned sizes[] = {16, 16, 4, 1, 0, 64, 300, 65536};
  Out t = {0};
  static const uint8_t zeros[2048];
  unsigned n = sizes[pick(c, 8)], dtype = pick(c, 8) ? F32_CODE : pick(c, 26);
  size_t bytes = (size_t)n * 4;
  if (!pick(c, 8)) bytes += pick(c, 16);
  put_number(&t, 1, dtype);
  uint8_t dims[2] = {(uint8_t)(n & 127), 0};
  if (n < 128)
    put_bytes(&t, 2, dims, 1);
  else
    put_number(&t, 2, n);
  put_bytes(&t, 3, zeros, bytes < sizeof zeros ? bytes : sizeof zeros);
  put_message(m, field, &t);
}

static const char *const input_names[] = {"x", "b", "y", ""};

static inline void make_run(Out *m, Choices *c, const Handles *h) {
  put_text(m, 1, handle(c, h, true));
  unsigned n = pick(c, 8) ? 2 : pick(c, 4);
  for (unsigned i = 0; i < n; i++) {
    Out in = {0};
    put_text(&in, 1, pick(c, 16) ? input_names[i % 4] : input_names[pick(c, 4)]);
    if (pick(c, 4))
      put_tensor(&in, 2, c);
    else
      put_text(&in, 3, handle(c, h, false));
    put_message(m, 2, &in);
  }
  unsigned flags = pick(c, 64);
  if (!(flags & 7)) put_text(m, 3, input_names[pick(c, 4)]);
  if (flags & 8) put_number(m, 4, 1);
  if (flags & 16) put_number(m, 6, 1);
  if (flags & 32) put_number(m, 7, pick(c, 5));
}

/* The header first, then chunks, the last of them as long as it should be. */
static inline void make_compile(Out *m, Choices *c, unsigned sent) {
  Out g = {0}, header = {0};
  unsigned which = pick(c, 8), size = which < 6 ? 16 : pick(c, 40) + 1;
  make_graph(&g, size, which == 5);
  if (sent && pick(c, 16)) {
    size_t half = g.n / 2, from = sent == 1 ? 0 : half, to = sent == 1 ? half : g.n;
    put_bytes(m, 2, g.bytes + from, to - from);
    return;
  }
  Out options = {0};
  unsigned flags = pick(c, 32);
  if (flags & 1) put_number(&options, 3, 1);
  if (!(flags & 30)) put_text(&options, 2, "cpu:9");
  put_number(&header, 1, flags & 30 ? 2 : pick(c, 4));
  put_text(&header, 2, "fuzz");
  put_message(&header, 3, &options);
  put_number(&header, 4, pick(c, 16) ? g.n : pick(c, 256));
  put_message(m, 1, &header);
}

static inline void make_upload(Out *m, Choices *c, unsigned sent) {
  static const uint8_t zeros[1024];
  Out header = {0};
  if (sent && pick(c, 16)) {
    put_bytes(m, 2, zeros, pick(c, 8) ? 64 : pick(c, 200));
    return;
  }
  uint8_t dims[2] = {16, 1};
  put_number(&header, 1, pick(c, 16) ? F32_CODE : pick(c, 26));
  put_bytes(&header, 2, dims, 1 + !pick(c, 8));
  if (!pick(c, 16)) put_number(&header, 2, UINT64_MAX / (pick(c, 4) + 1));
  unsigned memory = pick(c, 8);
  if (memory > 3) put_number(&header, 4, memory - 3); /* a descriptor that was passed, or none */
  put_message(m, 1, &header);
}

static inline void make_infer(Out *m, Choices *c) {
  static const uint8_t zeros[256];
  bool raw = pick(c, 4);
  put_text(m, 1, pick(c, 8) ? "m" : "nothing");
  if (!pick(c, 8)) put_text(m, 2, pick(c, 2) ? "1" : "7");
  for (unsigned i = 0; i < 2; i++) {
    Out in = {0}, contents = {0};
    uint8_t shape = pick(c, 8) ? 16 : (uint8_t)pick(c, 128);
    put_text(&in, 1, input_names[i]);
    put_text(&in, 2, pick(c, 8) ? "FP32" : pick(c, 2) ? "INT8" : "BYTES");
    put_bytes(&in, 3, &shape, 1);
    if (!raw) {
      put_bytes(&contents, pick(c, 8) ? 6 : pick(c, 9), zeros, shape * 4u % sizeof zeros);
      put_message(&in, 5, &contents);
    }
    put_message(m, 5, &in);
  }
  if (!pick(c, 8)) put_message(m, 6, &(Out){3, {10, 1, 'y'}});
  for (unsigned i = 0; raw && i < (pick(c, 8) ? 2 : pick(c, 4)); i++) put_bytes(m, 7, zeros, 64);
}

static inline void make_load(Out *m, Choices *c) {
  Out g = {0}, value = {0}, row = {0}, config = {0}, config_row = {0};
  make_graph(&g, 16, !pick(c, 4));
  put_text(m, 2, pick(c, 4) ? "m" : "other");
  put_text(&config, 3, "{}");
  put_text(&config_row, 1, "config");
  put_message(&config_row, 2, &config);
  put_message(m, 3, &config_row);
  put_bytes(&value, 4, g.bytes, g.n);
  put_text(&row, 1, pick(c, 8) ? "file:1/model.kgraph" : "file:../x");
  put_message(&row, 2, &value);
  put_message(m, 3, &row);
}

/* Bytes that the input spells out. */
static inline void make_raw(Out *m, Choices *c) {
  for (unsigned n = pick(c, 64); n; n--) put_byte(m, pick(c, 256));
}

/* The sent-th message of a call of this method. */
static inline void make_message(Out *m, const char *path, unsigned sent, Choices *c,
                                const Handles *h) {
  const char *name = strrchr(path, '/') + 1;
  unsigned kind = pick(c, 16);
  if (kind == 15)
    make_raw(m, c);
  else if (!strcmp(name, "Run"))
    make_run(m, c, h);
  else if (!strcmp(name, "Compile") || !strcmp(name, "Inspect"))
    make_compile(m, c, sent);
  else if (!strcmp(name, "Upload"))
    make_upload(m, c, sent);
  else if (!strcmp(name, "ModelInfer"))
    make_infer(m, c);
  else if (!strcmp(name, "RepositoryModelLoad"))
    make_load(m, c);
  else if (!strncmp(name, "RepositoryModel", 15))
    put_text(m, 2, "m");
  else if (!strncmp(name, "Model", 5))
    put_text(m, 1, "m");
  else if (!strcmp(name, "Download") || !strcmp(name, "FreeBuffers"))
    put_text(m, 1, handle(c, h, false));
  else if (!strcmp(name, "Explain") || !strcmp(name, "ReleaseExecutable"))
    put_text(m, 1, handle(c, h, true));
  else if (!strcmp(name, "Tune"))
    put_text(m, 1, handle(c, h, true)), put_number(m, 2, 1000000u * pick(c, 30));
  else if (kind > 8)
    make_raw(m, c);
  if (kind == 14 && m->n) m->bytes[pick(c, 256) % m->n] ^= (uint8_t)(1 + pick(c, 255));
}
