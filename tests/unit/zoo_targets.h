/* Devices that tests compile for: a CPU, GPUs by their two programming models. None need be here.
 */
#pragma once

#include "compiler/ir/plan.h"

static const Target zoo_cpu = {.kind = "cpu",
                               .features = "+fma,+avx512vnni,+avx512bf16",
                               .vector_bytes = 64,
                               .vector_registers = 32,
                               .threads = 2,
                               .l1_bytes = 48 << 10,
                               .l2_bytes = 2 << 20,
                               .l3_bytes = 64 << 20};

static const Target zoo_opencl = {.kind = "opencl",
                                  .triple = "",
                                  .cpu = "",
                                  .features = "fp64 fma crdiv",
                                  .compiler = "",
                                  .vector_bytes = 16,
                                  .vector_registers = 64,
                                  .threads = 1,
                                  .l1_bytes = 16 << 10,
                                  .l2_bytes = 1 << 20,
                                  .l3_bytes = 1 << 20,
                                  .memory_bytes = (uint64_t)8 << 30,
                                  .max_group = 256,
                                  .warp = 32,
                                  .local_bytes = 48 << 10};

static const Target zoo_cuda = {.kind = "cuda",
                                .triple = "nvptx64-nvidia-cuda",
                                .cpu = "sm_90a",
                                .features = "+ptx85",
                                .compiler = "",
                                .vector_bytes = 16,
                                .vector_registers = 64,
                                .threads = 132,
                                .l1_bytes = 227 << 10,
                                .l2_bytes = 50 << 20,
                                .l3_bytes = 50 << 20,
                                .memory_bytes = (uint64_t)80 << 30,
                                .max_group = 1024,
                                .warp = 32,
                                .local_bytes = 227 << 10};
