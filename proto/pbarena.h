/* A protobuf-c allocator over an Arena, with a hard cap. free() does nothing: the arena goes as a
 * whole. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

typedef struct PbArena {
  ProtobufCAllocator allocator; /* pass &allocator to protobuf-c; the PbArena must not move */
  Arena *arena;
  size_t left; /* bytes that may still be asked for */
  bool full;   /* an allocation was refused */
} PbArena;

void pbarena_init(PbArena *p, Arena *arena, size_t cap);
