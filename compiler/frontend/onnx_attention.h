/* What the attention ops of ai.onnx and com.microsoft share. Heads: [batch, heads, tokens, size].
 */
#pragma once

#include "compiler/frontend/build_nn.h"
#include "compiler/frontend/onnx_node.h"

/* [B, S, heads * D] to heads; a source of rank 4 already is. */
UOp *attention_split(Node *n, UOp *x, int64_t heads);
/* Heads to [B, S, heads * D]. */
UOp *attention_join(Node *n, UOp *y);
/* Each head `times` times in a row. */
UOp *attention_repeat(Node *n, UOp *x, int64_t times);
/* Rotary embedding of the first 2 * half elements of every head, with cosines and sines [B, 1, S,
 * half]. Pairs are neighbours when interleaved, else half apart. */
UOp *attention_rotate(Node *n, UOp *x, UOp *c, UOp *s, bool interleaved);
