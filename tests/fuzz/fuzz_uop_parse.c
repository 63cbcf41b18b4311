/* uop_parse takes any text; what it accepts prints to a text that parses to the same node. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler/ir/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
  Str text;
  StrBuf printed;
} Input;

static void parse(Job *job, void *arg) {
  Input *in = arg;
  UOp *first, *second;
  Status st = uop_parse(job, in->text, &first);
  if (!st) {
    uop_print(job, first, &in->printed);
    st = uop_parse(job, (Str){in->printed.ptr, in->printed.len}, &second);
    if (st || first != second) {
      fprintf(stderr, "does not round-trip:\n%s", in->printed.ptr);
      abort();
    }
    in->printed.len = 0;
    uop_print_kernel(job, first, &in->printed);
  }
  status_drop(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Job job;
  Input in = {.text = {(const char *)data, size}};
  job_init(&job, 64 << 20);
  status_drop(job_run(&job, parse, &in));
  strbuf_deinit(&in.printed);
  job_deinit(&job);
  return 0;
}
