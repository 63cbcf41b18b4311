/* Tree ensembles. All trees lie in one table of nodes; a leaf's branches lead to itself. Every row
 * of features walks down all trees at once: as often as the deepest tree is deep, each (row, tree)
 * looks its node up, compares one feature and takes a branch. Then the leaves' weights are added up
 * per target.
 *
 * A test for membership in a set becomes a chain of tests for equality. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "compiler/frontend/onnx_math.h"
#include "compiler/frontend/onnx_ml.h"

typedef enum TreeMode { LEQ, LT, GTE, GT, EQ, NEQ, MEMBER, LEAF } TreeMode;

typedef struct TreeNode {
  int64_t feature, mode, missing; /* missing: NaN takes the first branch */
  int64_t yes, no;                /* positions in the table */
  double value;
} TreeNode;

typedef struct Trees {
  struct {
    TreeNode *at;
    size_t len, cap;
  } nodes;
  int64_t *roots;
  int64_t nroots, targets;
  float *weights; /* [nodes, targets] */
  bool *given;    /* the same: the leaf has a weight for the target */
  DType dtype;
} Trees;

enum { MAX_NODES = 1 << 22, MAX_CELLS = 1 << 24 };
typedef enum Combine { AVERAGE, SUM, MINIMUM, MAXIMUM } Combine;

static _Noreturn void bad_trees(Node *n, const char *why) {
  job_abort(n->job, FAIL(INVALID_ARGUMENT, "not a forest: %s", why));
}

static void check_size(Node *n, Trees *t) {
  if (t->nodes.len > MAX_NODES || t->targets < 1 || t->targets > MAX_NODES ||
      (int64_t)t->nodes.len > MAX_CELLS / t->targets)
    job_abort(n->job, FAIL(RESOURCE_EXHAUSTED, "%zu tree nodes with %lld targets", t->nodes.len,
                           (long long)t->targets));
  size_t cells = t->nodes.len * (size_t)t->targets;
  t->weights = arena_array(&n->job->arena, cells + 1, sizeof *t->weights);
  t->given = arena_array(&n->job->arena, cells + 1, sizeof *t->given);
}

static void add_weight(Node *n, Trees *t, int64_t node, int64_t target, double w, Combine how) {
  if (target < 0 || target >= t->targets) bad_trees(n, "a target that does not exist");
  size_t cell = (size_t)(node * t->targets + target);
  double old = (double)t->weights[cell];
  if (!t->given[cell] || how == SUM || how == AVERAGE)
    t->weights[cell] = (float)(t->given[cell] ? old + w : w);
  else
    t->weights[cell] = (float)(how == MINIMUM ? fmin(old, w) : fmax(old, w));
  t->given[cell] = true;
}

/* A walk that leaves heights behind. */
typedef struct Climb {
  const Trees *t;
  int64_t *height; /* of the tree below a node, and 1; 0: not known yet */
  uint8_t *open;   /* its height is being computed */
  int64_t *stack;
  size_t top;
} Climb;

/* Whether the height of the node can be told by now. */
static bool is_ready(const Climb *c, int64_t i) {
  const TreeNode *node = &c->t->nodes.at[i];
  if (c->height[i] || node->mode == LEAF) return true;
  return c->open[i] && c->height[node->yes] && c->height[node->no];
}

static void settle(Climb *c, int64_t i) {
  const TreeNode *node = &c->t->nodes.at[i];
  bool leaf = node->mode == LEAF;
  int64_t a = leaf ? 0 : c->height[node->yes], b = leaf ? 0 : c->height[node->no];
  if (!c->height[i]) c->height[i] = (a > b ? a : b) + 1;
}

static void open_node(Node *n, Climb *c, int64_t i) {
  const TreeNode *node = &c->t->nodes.at[i];
  const int64_t next[2] = {node->yes, node->no};
  if (c->open[i]) bad_trees(n, "a node below itself");
  c->open[i] = 1;
  for (int k = 0; k < 2; k++) {
    if (c->height[next[k]]) continue;
    if (c->open[next[k]]) bad_trees(n, "a node below itself");
    if (k == 0 || next[1] != next[0]) c->stack[c->top++] = next[k];
  }
}

/* The longest way from a root to a leaf; aborts on a cycle. */
static int64_t depth_of(Node *n, const Trees *t) {
  size_t count = t->nodes.len;
  int64_t deepest = 0;
  Climb c = {.t = t,
             .height = arena_array(&n->job->arena, count + 1, sizeof *c.height),
             .open = arena_array(&n->job->arena, count + 1, 1),
             .stack = arena_array(&n->job->arena, 2 * count + 2, sizeof *c.stack)};
  for (int64_t r = 0; r < t->nroots; r++) {
    c.stack[c.top++] = t->roots[r];
    while (c.top) {
      int64_t i = c.stack[c.top - 1];
      if (is_ready(&c, i))
        settle(&c, i), c.top--;
      else
        open_node(n, &c, i);
    }
    if (c.height[t->roots[r]] > deepest) deepest = c.height[t->roots[r]];
  }
  return deepest - 1;
}

/* -- evaluation ------------------------------------------------------------------------------ */

static UOp *table_i64(Node *n, const Trees *t, size_t offset) {
  int64_t *list = arena_array(&n->job->arena, t->nodes.len, sizeof *list);
  for (size_t i = 0; i < t->nodes.len; i++)
    memcpy(&list[i], (const char *)&t->nodes.at[i] + offset, sizeof *list);
  return val_uop(n->f, val_from_i64(n->f, list, t->nodes.len));
}

static UOp *thresholds(Node *n, const Trees *t, DType d) {
  int64_t count = (int64_t)t->nodes.len;
  double *list = arena_array(&n->job->arena, t->nodes.len, sizeof *list);
  for (int64_t i = 0; i < count; i++) list[i] = t->nodes.at[i].value;
  return cast(n, val_uop(n->f, val_from_data(n->f, DT_F64, shape_make(&count, 1), list)), d);
}

static UOp *compare(Node *n, int64_t mode, UOp *x, UOp *v) {
  switch (mode) {
  case LEQ: return upto(n, x, v);
  case LT: return less(n, x, v);
  case GTE: return upto(n, v, x);
  case GT: return less(n, v, x);
  case EQ: return equal(n, x, v);
  default: return two(n, OP_CMPNE, x, v);
  }
}

/* What each (row, tree) decides at its node: one comparison per mode that occurs. */
static UOp *decide(Node *n, const Trees *t, UOp *modes, UOp *at, UOp *x, UOp *v) {
  uint32_t seen = 0;
  UOp *result = NULL, *mode = NULL;
  for (size_t i = 0; i < t->nodes.len; i++)
    if (t->nodes.at[i].mode != LEAF) seen |= 1u << t->nodes.at[i].mode;
  for (int64_t m = LEQ; m <= NEQ; m++) {
    if (!(seen >> m & 1)) continue;
    UOp *c = compare(n, m, x, v);
    if (result && !mode) mode = build_gather(n->job, modes, at, 0);
    result = result ? choose(n, equal(n, mode, i64(n, m)), c, result) : c;
  }
  return result ? result : equal(n, x, x);
}

/* The leaf of every (row, tree). */
static UOp *leaves(Node *n, const Trees *t, UOp *x) {
  Job *job = n->job;
  int64_t rows = x->shape.at[0], features = x->shape.at[1];
  Ints shape = {(int64_t[]){rows, t->nroots}, 2};
  UOp *at =
      build_expand(job, val_uop(n->f, val_from_i64(n->f, t->roots, (size_t)t->nroots)), shape);
  UOp *feature = table_i64(n, t, offsetof(TreeNode, feature));
  UOp *mode = table_i64(n, t, offsetof(TreeNode, mode));
  UOp *missing = table_i64(n, t, offsetof(TreeNode, missing));
  UOp *yes = table_i64(n, t, offsetof(TreeNode, yes)),
      *no = table_i64(n, t, offsetof(TreeNode, no));
  UOp *value = thresholds(n, t, uop_dtype(x)), *row = build_iota(job, DT_I64, 0, shape);
  UOp *flat = build_reshape_v(job, x, 1, dim_mul(job, rows, features));
  bool nan = false;
  for (size_t i = 0; i < t->nodes.len; i++) nan |= t->nodes.at[i].missing != 0;
  for (int64_t d = depth_of(n, t); d > 0; d--) {
    UOp *f = add(n, mul(n, row, i64(n, features)), build_gather(job, feature, at, 0));
    UOp *have = build_gather(job, flat, f, 0);
    UOp *go = decide(n, t, mode, at, have, build_gather(job, value, at, 0));
    UOp *tracks = equal(n, build_gather(job, missing, at, 0), i64(n, 1));
    if (nan) go = either(n, go, both(n, two(n, OP_CMPNE, have, have), tracks));
    at = choose(n, go, build_gather(job, yes, at, 0), build_gather(job, no, at, 0));
    at = uop_make(job, OP_CONTIGUOUS, DT_VOID, arg_none(), &at, 1);
  }
  return at;
}

/* [rows, targets]: the leaves' weights, combined over the trees. */
static UOp *forest(Node *n, const Trees *t, UOp *x, Combine how) {
  Job *job = n->job;
  int64_t count = (int64_t)t->nodes.len;
  for (int64_t i = 0; i < count; i++)
    if (t->nodes.at[i].feature < 0 || t->nodes.at[i].feature >= x->shape.at[1])
      bad_trees(n, "a feature that does not exist");
  UOp *at = leaves(n, t, x);
  Ints shape = {(int64_t[]){count, t->targets}, 2};
  UOp *w = val_uop(n->f, val_from_data(n->f, DT_F32, shape, t->weights));
  w = build_gather(job, cast(n, w, t->dtype), at, 0); /* [rows, trees, targets] */
  if (how == SUM || how == AVERAGE) {
    UOp *sum = build_reduce(job, OP_ADD, w, axis_bit(1), false);
    return how == SUM ? sum : quot(n, sum, num(n, sum, (double)t->nroots));
  }
  UOp *there = val_uop(n->f, val_from_data(n->f, DT_BOOL, shape, t->given));
  there = build_gather(job, there, at, 0);
  Op op = how == MINIMUM ? OP_MIN : OP_MAX;
  double inf = how == MINIMUM ? (double)INFINITY : -(double)INFINITY;
  UOp *best = build_reduce(job, op, choose(n, there, w, num(n, w, inf)), axis_bit(1), false);
  UOp *none = equal(n, best, num(n, best, inf)), *zero = num(n, best, 0);
  return choose(n, none, zero, best);
}

/* -- TreeEnsemble (ai.onnx.ml 5) ------------------------------------------------------------- */

static Val *table_attr(Node *n, const char *name, int64_t count) {
  const OnnxAttribute *a = attr_find(n, name, ONNX_ATTR_TENSOR);
  Val *v = a ? onnx_tensor(n->f, a->t, name) : NULL;
  if (v && count >= 0 && (v->shape.n != 1 || v->shape.at[0] != count))
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' has shape %s, expected [%lld]", name,
                           shape_text(n->job, v->shape), (long long)count));
  return v;
}

static Ints list_attr(Node *n, const char *name, uint32_t count) {
  Ints a = attr_ints(n, name);
  if (a.n != count)
    job_abort(n->job, FAIL(INVALID_ARGUMENT, "attribute '%s' has %u elements, expected %u", name,
                           a.n, count));
  return a;
}

/* A branch of the attributes as a position in the table: leaves follow the inner nodes. */
static int64_t branch(Node *n, int64_t id, int64_t leaf, int64_t inner, int64_t leafs) {
  if (id < 0 || id >= (leaf ? leafs : inner)) bad_trees(n, "a branch to nowhere");
  return leaf ? inner + id : id;
}

/* Node i tests for membership in the set that starts at members[*at]: it and new nodes test for one
 * member each. */
static void expand_members(Node *n, Trees *t, size_t i, const Val *members, int64_t *at) {
  int64_t count = members ? shape_numel(members->shape) : 0;
  size_t now = i;
  for (int64_t k = 0;; k++, ++*at) {
    if (*at >= count) bad_trees(n, "too few membership_values");
    double v = data_float(members->dtype, members->data, *at);
    if (v != v) break;
    if (k) {
      TreeNode next = t->nodes.at[now];
      t->nodes.at[now].no = (int64_t)t->nodes.len;
      avec_push(&n->job->arena, &t->nodes, next);
      now = t->nodes.len - 1;
    }
    t->nodes.at[now].mode = EQ;
    t->nodes.at[now].value = v;
  }
  ++*at;
  if (t->nodes.at[i].mode == MEMBER) bad_trees(n, "an empty set");
}

static void read_nodes(Node *n, Trees *t, int64_t leafs) {
  Ints feature = attr_ints(n, "nodes_featureids");
  uint32_t inner = feature.n;
  Ints yes = list_attr(n, "nodes_truenodeids", inner),
       no = list_attr(n, "nodes_falsenodeids", inner);
  Ints yes_leaf = list_attr(n, "nodes_trueleafs", inner);
  Ints no_leaf = list_attr(n, "nodes_falseleafs", inner);
  Ints missing = attr_ints(n, "nodes_missing_value_tracks_true");
  Val *splits = table_attr(n, "nodes_splits", inner), *modes = table_attr(n, "nodes_modes", inner);
  Val *members = table_attr(n, "membership_values", -1);
  if (!splits || !modes || !dtype_is_float(splits->dtype) || (missing.n && missing.n != inner) ||
      dtype_is_float(modes->dtype) || (members && !dtype_is_float(members->dtype)))
    bad_trees(n, "nodes_splits, nodes_modes or nodes_missing_value_tracks_true");
  t->dtype = splits->dtype;
  for (uint32_t i = 0; i < inner; i++) {
    TreeNode node = {.feature = feature.at[i],
                     .mode = data_int(modes->dtype, modes->data, i),
                     .missing = missing.n ? missing.at[i] : 0,
                     .yes = branch(n, yes.at[i], yes_leaf.at[i], inner, leafs),
                     .no = branch(n, no.at[i], no_leaf.at[i], inner, leafs),
                     .value = data_float(splits->dtype, splits->data, i)};
    if (node.mode < LEQ || node.mode > MEMBER) bad_trees(n, "an unknown mode");
    avec_push(&n->job->arena, &t->nodes, node);
  }
  for (int64_t i = 0; i < leafs; i++) {
    int64_t self = (int64_t)inner + i;
    TreeNode leaf = {.mode = LEAF, .yes = self, .no = self};
    avec_push(&n->job->arena, &t->nodes, leaf);
  }
  int64_t at = 0;
  for (uint32_t i = 0; i < inner; i++)
    if (t->nodes.at[i].mode == MEMBER) expand_members(n, t, i, members, &at);
}

static void op_tree_ensemble(Node *n) {
  Trees t = {.targets = attr_int(n, "n_targets", 1)};
  Ints target = attr_ints(n, "leaf_targetids"), roots = attr_ints(n, "tree_roots");
  Val *weights = table_attr(n, "leaf_weights", target.n);
  int64_t how = attr_int(n, "aggregate_function", SUM), post = attr_int(n, "post_transform", 0);
  if (!weights || !dtype_is_float(weights->dtype) || !target.n || !roots.n || how < AVERAGE ||
      how > MAXIMUM || post < ML_NONE || post > ML_PROBIT)
    bad_trees(n, "leaves or roots are missing, or aggregate_function or post_transform is unknown");
  read_nodes(n, &t, target.n);
  int64_t inner = attr_ints(n, "nodes_featureids").n;
  t.roots = arena_copy(&n->job->arena, roots.at, roots.n * sizeof *t.roots);
  t.nroots = roots.n;
  for (int64_t i = 0; i < t.nroots; i++)
    if (t.roots[i] < 0 || t.roots[i] >= inner) bad_trees(n, "a root that does not exist");
  check_size(n, &t);
  for (uint32_t i = 0; i < target.n; i++)
    add_weight(n, &t, inner + i, target.at[i], data_float(weights->dtype, weights->data, i), SUM);
  UOp *x = ml_rows(n, node_u(n, 0));
  UOp *y = forest(n, &t, x, (Combine)how);
  node_out(n, 0, cast(n, ml_post(n, y, (int)post), uop_dtype(x)));
}

/* -- TreeEnsembleRegressor and TreeEnsembleClassifier ------------------------------------------ */

/* Numbers of an attribute of floats or of its double form NAME_as_tensor, as doubles. */
static const double *numbers(Node *n, const char *name, size_t *count) {
  const char *wide = arena_printf(&n->job->arena, "%s_as_tensor", name);
  Val *v = table_attr(n, wide, -1);
  if (!v) v = ml_floats(n, name);
  *count = v ? (size_t)shape_numel(v->shape) : 0;
  double *out = arena_array(&n->job->arena, *count + 1, sizeof *out);
  for (size_t i = 0; i < *count; i++) out[i] = data_float(v->dtype, v->data, (int64_t)i);
  return out;
}

static int64_t mode_named(Node *n, Str name) {
  static const char *const names[] = {"BRANCH_LEQ", "BRANCH_LT",  "BRANCH_GTE", "BRANCH_GT",
                                      "BRANCH_EQ",  "BRANCH_NEQ", "",           "LEAF"};
  for (int64_t i = 0; i < 8; i++)
    if (i != MEMBER && str_is(name, names[i])) return i;
  bad_trees(n, "an unknown mode");
}

typedef struct TreeKey {
  int64_t tree, node, at;
} TreeKey;

static int by_key(const void *a, const void *b) {
  const TreeKey *x = a, *y = b;
  if (x->tree != y->tree) return x->tree < y->tree ? -1 : 1;
  return x->node < y->node ? -1 : x->node > y->node;
}

static int64_t find_node(Node *n, const TreeKey *keys, size_t count, int64_t tree, int64_t node) {
  TreeKey want = {.tree = tree, .node = node};
  const TreeKey *k = bsearch(&want, keys, count, sizeof *keys, by_key);
  if (!k) bad_trees(n, "a node that does not exist");
  return k->at;
}

/* The nodes of the old form, where a tree and a number in it name a node, and the first node of a
 * tree is its root. */
static TreeKey *read_old_nodes(Node *n, Trees *t) {
  Ints tree = attr_ints(n, "nodes_treeids");
  uint32_t count = tree.n;
  Ints id = list_attr(n, "nodes_nodeids", count), feature = list_attr(n, "nodes_featureids", count);
  Ints yes = list_attr(n, "nodes_truenodeids", count),
       no = list_attr(n, "nodes_falsenodeids", count);
  Ints missing = attr_ints(n, "nodes_missing_value_tracks_true");
  const OnnxAttribute *modes = attr_find(n, "nodes_modes", ONNX_ATTR_STRINGS);
  size_t nvalues;
  const double *values = numbers(n, "nodes_values", &nvalues);
  if (!count || nvalues != count || !modes || modes->strings.n != count ||
      (missing.n && missing.n != count))
    bad_trees(n, "attributes of different lengths");
  TreeKey *keys = arena_array(&n->job->arena, count, sizeof *keys);
  for (uint32_t i = 0; i < count; i++) keys[i] = (TreeKey){tree.at[i], id.at[i], i};
  qsort(keys, count, sizeof *keys, by_key);
  t->roots = arena_array(&n->job->arena, count, sizeof *t->roots);
  for (uint32_t i = 0; i < count; i++) {
    if (i && keys[i].tree == keys[i - 1].tree) {
      if (keys[i].node == keys[i - 1].node) bad_trees(n, "a node that is given twice");
      int64_t *root = &t->roots[t->nroots - 1];
      if (keys[i].at < *root) *root = keys[i].at;
    } else {
      t->roots[t->nroots++] = keys[i].at;
    }
  }
  for (uint32_t i = 0; i < count; i++) {
    TreeNode node = {.feature = feature.at[i],
                     .mode = mode_named(n, modes->strings.at[i]),
                     .missing = missing.n ? missing.at[i] : 0,
                     .yes = i,
                     .no = i,
                     .value = values[i]};
    if (node.mode == LEAF) {
      node.feature = 0;
    } else {
      node.yes = find_node(n, keys, count, tree.at[i], yes.at[i]);
      node.no = find_node(n, keys, count, tree.at[i], no.at[i]);
    }
    avec_push(&n->job->arena, &t->nodes, node);
  }
  return keys;
}

/* Weights of the attributes PREFIX_treeids, _nodeids, _ids, _weights. */
static void read_old_weights(Node *n, Trees *t, const TreeKey *keys, const char *prefix,
                             Combine how) {
  char name[40];
  size_t nweights;
  snprintf(name, sizeof name, "%s_weights", prefix);
  const double *weights = numbers(n, name, &nweights);
  snprintf(name, sizeof name, "%s_treeids", prefix);
  Ints tree = list_attr(n, name, (uint32_t)nweights);
  snprintf(name, sizeof name, "%s_nodeids", prefix);
  Ints node = list_attr(n, name, (uint32_t)nweights);
  snprintf(name, sizeof name, "%s_ids", prefix);
  Ints id = list_attr(n, name, (uint32_t)nweights);
  check_size(n, t);
  for (size_t i = 0; i < nweights; i++)
    add_weight(n, t, find_node(n, keys, t->nodes.len, tree.at[i], node.at[i]), id.at[i], weights[i],
               how);
}

static UOp *base_values(Node *n, int64_t targets, DType d) {
  size_t count;
  const double *base = numbers(n, "base_values", &count);
  int64_t dim = (int64_t)count;
  if (!count) return NULL;
  if (dim != targets && dim != 1) bad_trees(n, "base_values of another length");
  return cast(n, val_uop(n->f, val_from_data(n->f, DT_F64, shape_make(&dim, 1), base)), d);
}

static void op_tree_regressor(Node *n) {
  static const char *const names[] = {"AVERAGE", "SUM", "MIN", "MAX"};
  Trees t = {.targets = attr_int(n, "n_targets", 1), .dtype = DT_F32};
  Str agg = attr_str(n, "aggregate_function", "SUM");
  int how = 0;
  while (how < 4 && !str_is(agg, names[how])) how++;
  if (how == 4) bad_trees(n, "an unknown aggregate_function");
  UOp *x = ml_rows(n, node_u(n, 0));
  if (uop_dtype(x) == DT_F64) t.dtype = DT_F64;
  TreeKey *keys = read_old_nodes(n, &t);
  read_old_weights(n, &t, keys, "target", (Combine)how);
  UOp *y = forest(n, &t, x, (Combine)how), *base = base_values(n, t.targets, t.dtype);
  if (base) y = add(n, y, base);
  node_out(n, 0, cast(n, ml_post(n, y, ml_post_attr(n)), DT_F32));
}

static void op_tree_classifier(Node *n) {
  Job *job = n->job;
  Trees t = {.dtype = DT_F32};
  ml_no_strings(n, "classlabels_strings");
  Ints labels = attr_ints(n, "classlabels_int64s"), ids = attr_ints(n, "class_ids");
  size_t nweights;
  const double *weights = numbers(n, "class_weights", &nweights);
  bool one = labels.n == 2, positive = true;
  for (uint32_t i = 0; i < ids.n; i++) one &= ids.at[i] == ids.at[0];
  for (size_t i = 0; i < nweights; i++) positive &= weights[i] >= 0;
  if (!labels.n) bad_trees(n, "classlabels_int64s is missing");
  t.targets = labels.n;
  UOp *x = ml_rows(n, node_u(n, 0)), *label;
  if (uop_dtype(x) == DT_F64) t.dtype = DT_F64;
  TreeKey *keys = read_old_nodes(n, &t);
  read_old_weights(n, &t, keys, "class", SUM);
  UOp *s = forest(n, &t, x, SUM), *base = base_values(n, labels.n, t.dtype);
  int how = ml_post_attr(n);
  if (base) s = add(n, s, base);
  if (one) { /* of two classes the trees weigh one: its own score decides */
    UOp *border = num(n, s, positive ? 0.5 : 0);
    label = cast(n, less(n, border, column(n, s, 1)), DT_I64);
  } else {
    label = build_squeeze(job, build_argmax(job, s, 1, OP_MAX, false), 1);
  }
  s = ml_post(n, s, how);
  UOp *names = val_uop(n->f, val_from_i64(n->f, labels.at, labels.n));
  node_out(n, 0, build_gather(job, names, label, 0));
  node_out(n, 1, cast(n, s, DT_F32));
}

const OnnxOp onnx_trees_ops[] = {
    {"ai.onnx.ml", "TreeEnsemble", 5, 1, 1, op_tree_ensemble},
    {"ai.onnx.ml", "TreeEnsembleRegressor", 1, 1, 1, op_tree_regressor},
    {"ai.onnx.ml", "TreeEnsembleClassifier", 1, 1, 1, op_tree_classifier},
    {0},
};
