/* Protobuf text format for .kgraph files, so that a graph can be written by hand:
 *
 *   params { name: "x" dtype: DTYPE_F32 dims { size: 4 } }
 *   nodes { op: PARAM ints: 0 }          # node 0
 *   nodes { op: EXP2 src: [0] }
 *   outputs { name: "y" node: 1 }
 *
 * The subset: scalars, enums by name or number, quoted strings, nested messages, lists, comments.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/status.h"
#include "base/str.h"

/* Encodes text as a message of desc. Errors name the line. */
Status textgraph_encode(Str text, const ProtobufCMessageDescriptor *desc, StrBuf *out);
/* Reads a .kgraph file; *is_text says whether it was text, and then out holds the encoded graph. */
Status textgraph_load(const char *path, StrBuf *out, bool *is_text);
