/* What the families of ai.onnx.ml share. */
#pragma once

#include "compiler/frontend/onnx_node.h"

enum { ML_NONE, ML_SOFTMAX, ML_LOGISTIC, ML_SOFTMAX_ZERO, ML_PROBIT };

/* The node's post_transform, of the attribute with a name. */
int ml_post_attr(Node *n);
/* Scores [rows, targets] after a post_transform. */
UOp *ml_post(Node *n, UOp *scores, int how);
/* Features as a float matrix [rows, features]. */
UOp *ml_rows(Node *n, UOp *x);
/* A list attribute as a vector; NULL when it is absent or empty. */
Val *ml_floats(Node *n, const char *name);
/* Aborts when the attribute has strings. */
void ml_no_strings(Node *n, const char *name);
