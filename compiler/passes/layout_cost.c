/* The rates that decide whether a chain of tensors is worth being in blocks, from measurements of
 * whole models (docs/performance/cpu-models.md), per lane of a vector, since they are those of
 * multiply-adds: AVX-512 has 16 lanes of f32. In the plain layout strided windows do not fill
 * vectors and small images do not fill tiles; a depthwise convolution there has nothing that is
 * contiguous and used again. Only the ratio of these numbers to each other and to the rate of a
 * reorder matters. */
#include "compiler/passes/layout_cost.h"

enum { SMALL_IMAGE = 64 };

static const double GIGA = 1e9;
static const double IN_BLOCKS = 9.4, WINDOWS = 7.9, STRIDED = 6, SMALL = 5.5;
static const double DEPTHWISE_IN_BLOCKS = 5, DEPTHWISE = 3, DEPTHWISE_STRIDED = 0.65;
static const double REORDER_BYTES = 15;

/* Matrix instructions of workgroups, fed by copies of 16 bytes or by single elements. */
static const double GROUPS_IN_BLOCKS = 60e3, GROUPS_WINDOWS = 4e3, GROUPS_POINTS = 20e3;
static const double GROUPS_REORDER = 1000, GROUPS_LAUNCH = 2e-6;

double layout_gain(const Target *target, const Conv *c, double waste) {
  double lanes = target->vector_bytes / 4.0, pixels = (double)(c->out[0] * c->out[1]);
  int64_t factors = c->channels / c->groups * c->kernel[0] * c->kernel[1];
  double work = 2 * (double)c->batch * (double)c->filters * pixels * (double)factors;
  if (target->max_group) {
    bool points = c->kernel[0] * c->kernel[1] == 1;
    return work / GIGA * (1 / (points ? GROUPS_POINTS : GROUPS_WINDOWS) - 1 / GROUPS_IN_BLOCKS);
  }
  bool each = c->groups > 1, strided = c->stride[0] > 1 || c->stride[1] > 1;
  double plain = each                   ? (strided ? DEPTHWISE_STRIDED : DEPTHWISE)
                 : strided              ? STRIDED
                 : pixels < SMALL_IMAGE ? SMALL
                                        : WINDOWS;
  double blocked = (each ? DEPTHWISE_IN_BLOCKS : IN_BLOCKS) / waste;
  return work / (plain * lanes * GIGA) - work / (blocked * lanes * GIGA);
}

double layout_reorder(const Target *target, double bytes) {
  if (target->max_group) return GROUPS_LAUNCH + 2 * bytes / (GROUPS_REORDER * GIGA);
  return 2 * bytes / (REORDER_BYTES * GIGA);
}
