/* Between the messages of worker.proto and the compiler's and device's own types. */
#pragma once

#include "compiler/compile.h"
#include "devices/device.h"
#include "kiln/v1/worker.pb-c.h"

/* Copies the strings into arena. INVALID_ARGUMENT when spec is NULL. */
Status convert_target(Arena *arena, const Kiln__V1__TargetSpec *spec, Target *out);
/* Nothing that is not a sensible number; m may be NULL. */
void convert_peaks(const Kiln__V1__MachinePeaks *m, Target *out);
/* The strings stay the device's. */
void convert_caps(const DeviceCaps *caps, Kiln__V1__TargetSpec *out);
Status convert_format(Kiln__V1__ModelFormat format, ModelKind *out);
/* The dims of the options as bindings, in arena. options may be NULL. */
Status convert_dims(Arena *arena, const Kiln__V1__CompileOptions *options, FrontendOptions *out);
/* Interface and weights of a graph, in arena; views of the graph's names are copied. */
Status convert_interface(Arena *arena, const TensorGraph *g, Kiln__V1__FrontendDone *out);
/* -- convert_sizes.c: sizes that a run decides -- */
/* The program of times * dim. */
Status convert_size(Arena *arena, int64_t dim, uint64_t times, Kiln__V1__SizeProgram **out);
/* The shape of a slot for clients: largest sizes, names, bounds. */
Status convert_shape(Arena *arena, const TensorGraph *g, Ints shape, Kiln__V1__TensorSpec *spec);
Status convert_vars(Arena *arena, const GraphVar *vars, size_t n, Kiln__V1__PlanVar ***out);
/* VARs and shapes of a graph that has VARs. */
Status convert_slots(Arena *arena, const TensorGraph *g, Kiln__V1__FrontendDone *out);

/* The plan with its kernels serialised and hashed, in arena. Uses the job's memory on the way. */
Status convert_plan(Arena *arena, Job *job, const Plan *plan, Kiln__V1__Plan **out);
