/* uop_deserialize takes any bytes; what it accepts serializes to bytes that give the same node. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler/ir/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
  Bytes bytes;
  StrBuf out;
} Input;

static void decode(Job *job, void *arg) {
  Input *in = arg;
  UOp *first, *second;
  Status st = uop_deserialize(job, in->bytes, &first);
  if (!st) {
    uop_serialize(job, first, &in->out);
    st = uop_deserialize(job, (Bytes){(const uint8_t *)in->out.ptr, in->out.len}, &second);
    if (st || first != second) {
      fprintf(stderr, "%zu bytes do not round-trip\n", in->bytes.len);
      abort();
    }
  }
  status_drop(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Job job;
  Input in = {.bytes = {data, size}};
  job_init(&job, 64 << 20);
  status_drop(job_run(&job, decode, &in));
  strbuf_deinit(&in.out);
  job_deinit(&job);
  return 0;
}
