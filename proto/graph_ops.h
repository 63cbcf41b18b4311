/* The numbers that proto/graph_ops.def has for an op's integers when they are not counted. */
#pragma once

enum {
  G_ANY = -1,
  G_AXES = -2,  /* one per axis of source 0 */
  G_AXES2 = -3, /* two per axis of source 0 */
};
