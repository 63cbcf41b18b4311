"""ai.onnx.ml, NonMaxSuppression and DeformConv on random inputs, against ONNX Runtime."""
import numpy as np
import pytest

from one_node import SKIP, compare

ML = "ai.onnx.ml"


def rng(seed=0):
    return np.random.default_rng(seed)


def f32(*shape, seed=0):
    return rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op,inputs,attrs", [
    ("ArrayFeatureExtractor", {"x": f32(3, 5), "i": np.array([4, 0], np.int64)}, {}),
    ("Binarizer", {"x": f32(3, 5)}, {"threshold": 0.25}),
    ("Scaler", {"x": f32(3, 4)}, {"offset": [0.5, 1.0, -1.0, 2.0], "scale": [2.0, 1.0, 0.5, 3.0]}),
    ("Scaler", {"x": f32(3, 4)}, {"offset": [0.5], "scale": [2.0]}),
    ("Normalizer", {"x": f32(3, 5)}, {"norm": "L1"}), ("Normalizer", {"x": f32(3, 5)}, {"norm": "L2"}),
    ("Normalizer", {"x": np.abs(f32(3, 5))}, {"norm": "MAX"}),
    ("Imputer", {"x": np.array([[1, np.nan, 3], [np.nan, 5, 6]], np.float32)}, {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": float("nan")}),
    ("Imputer", {"x": np.array([[1, -1, 3], [-1, 5, 6]], np.int64)}, {"imputed_value_int64s": [7], "replaced_value_int64": -1}),
    ("FeatureVectorizer", {"a": f32(3, 2), "b": f32(3, 4)}, {"inputdimensions": [2, 4]}),
    ("OneHotEncoder", {"x": np.array([1, 7, 3], np.int64)}, {"cats_int64s": [3, 1, 5], "zeros": 1}),
    ("LabelEncoder", {"x": np.array([1, 7, 3, 1], np.int64)}, {"keys_int64s": [3, 1], "values_int64s": [30, 10], "default_int64": 99}),
    ("LabelEncoder", {"x": np.array([1, 7, np.nan], np.float32)}, {"keys_floats": [1.0, float("nan")], "values_floats": [0.5, 2.5], "default_float": -1.0, "domain_version": 4}),
    ("LabelEncoder", {"x": np.array([1, 7, 3], np.int64)}, {"keys_int64s": [3, 1], "values_floats": [0.5, 2.5]}),
    ("LinearRegressor", {"x": f32(3, 4)}, {"coefficients": f32(8).tolist(), "intercepts": [0.5, -1.0], "targets": 2}),
])
def test_simple(client, op, inputs, attrs):
    compare(client, op, inputs, ["y"], **{"domain": ML, "domain_version": 2, **attrs})


@pytest.mark.parametrize("post,rows,labels", [("NONE", 3, [5, 6, 9]), ("SOFTMAX", 3, [5, 6, 9]), ("LOGISTIC", 3, [5, 6, 9]), ("NONE", 1, [0, 1]), ("LOGISTIC", 1, [0, 1])])
def test_linear_classifier(client, post, rows, labels):
    attrs = {"coefficients": f32(4 * rows).tolist(), "intercepts": f32(rows, seed=2).tolist(), "classlabels_ints": labels, "post_transform": post}
    compare(client, "LinearClassifier", {"x": f32(6, 4)}, ["label", "score"], domain=ML, domain_version=1, **attrs)


def random_trees(count, depth, targets, features, modes, seed=0, one_target=False):
    """Attributes of TreeEnsembleRegressor without their prefixes."""
    r, nodes, leaves = rng(seed), [], []
    for tree in range(count):
        def grow(level):
            me = len([n for n in nodes if n["tree"] == tree])
            node = {"tree": tree, "id": me, "yes": 0, "no": 0, "feature": 0, "value": 0.0, "mode": "LEAF", "missing": 0}
            nodes.append(node)
            if level == depth or (level and r.random() < 0.25):
                for target in [0] if one_target else sorted(r.choice(targets, size=min(2, targets), replace=False)):
                    leaves.append((tree, me, int(target), float(np.float32(r.standard_normal()))))
                return me
            node.update(feature=int(r.integers(features)), value=float(np.float32(r.standard_normal())), mode=modes[int(r.integers(len(modes)))], missing=int(r.integers(2)))
            node["yes"], node["no"] = grow(level + 1), grow(level + 1)
            return me
        grow(0)
    attrs = {f"nodes_{long}": [n[key] for n in nodes] for long, key in (
        ("treeids", "tree"), ("nodeids", "id"), ("truenodeids", "yes"), ("falsenodeids", "no"), ("featureids", "feature"), ("values", "value"),
        ("modes", "mode"), ("missing_value_tracks_true", "missing"))}
    return attrs, [list(column) for column in zip(*leaves)]


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("modes", [["BRANCH_LEQ"], ["BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_LEQ"]])
def test_tree_regressor(client, how, modes):
    attrs, (tree, node, target, weight) = random_trees(7, 4, 1, 5, modes, one_target=True)
    x = f32(20, 5)
    x[3, 2] = np.nan
    compare(client, "TreeEnsembleRegressor", {"x": x}, ["y"], domain=ML, domain_version=1, **attrs, target_treeids=tree, target_nodeids=node, target_ids=target,
            target_weights=weight, n_targets=1, aggregate_function=how, base_values=[0.5])


def test_tree_regressor_of_several_targets(client):
    attrs, (tree, node, target, weight) = random_trees(5, 3, 3, 4, ["BRANCH_LEQ"])
    compare(client, "TreeEnsembleRegressor", {"x": f32(9, 4)}, ["y"], domain=ML, domain_version=1, **attrs, target_treeids=tree, target_nodeids=node,
            target_ids=target, target_weights=weight, n_targets=3)


@pytest.mark.parametrize("post", ["NONE", "SOFTMAX", "LOGISTIC"])
@pytest.mark.parametrize("classes", [2, 3])
def test_tree_classifier(client, post, classes):
    attrs, (tree, node, target, weight) = random_trees(6, 3, classes, 4, ["BRANCH_LEQ"], seed=4)
    labels = [3, 7, 9][:classes]
    got = compare(client, "TreeEnsembleClassifier", {"x": f32(12, 4)}, ["label", "score"], domain=ML, domain_version=1, **attrs, class_treeids=tree, class_nodeids=node,
                  class_ids=target, class_weights=weight, classlabels_int64s=labels, post_transform=post, look=lambda name, a: a if name == "score" else a[:0])
    # of two classes with scores of their own, ONNX Runtime does not give the larger one's label
    got = compare(client, "TreeEnsembleClassifier", {"x": f32(12, 4)}, ["label", "score"], domain=ML, domain_version=1, **attrs, class_treeids=tree, class_nodeids=node,
                  class_ids=target, class_weights=weight, classlabels_int64s=labels, post_transform=post, want=[np.array(labels)[got["score"].argmax(1)], got["score"]])


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("post", ["NONE", "LOGISTIC"])
def test_tree_classifier_of_one_score(client, post, positive):
    attrs, (tree, node, target, weight) = random_trees(6, 3, 1, 4, ["BRANCH_LEQ"], seed=5, one_target=True)
    weight = [abs(w) / 6 for w in weight] if positive else weight
    compare(client, "TreeEnsembleClassifier", {"x": f32(12, 4)}, ["label", "score"], domain=ML, domain_version=1, **attrs, class_treeids=tree, class_nodeids=node,
            class_ids=[1] * len(target), class_weights=weight, classlabels_int64s=[0, 1], post_transform=post)


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize("most,iou,least", [(5, 0.3, 0.2), (40, 0.1, None), (3, 0.9, 0.99), (0, 0.5, None)])
def test_non_max_suppression(client, centre, most, iou, least):
    boxes = rng(most).uniform(0, 1, (2, 30, 4)).astype(np.float32)
    if centre:
        boxes[..., 2:] *= 0.5
    scores = rng(1).uniform(0, 1, (2, 3, 30)).astype(np.float32)
    scores[0, 1, 4] = scores[0, 1, 9]
    inputs = {"boxes": boxes, "scores": scores, "most": np.array([most], np.int64), "iou": np.array([iou], np.float32)}
    if least is not None:
        inputs["least"] = np.array([least], np.float32)
    for constants in (("most",), tuple(inputs)[2:], ()):
        got = compare(client, "NonMaxSuppression", inputs, ["y"], constants=constants, imports=11, center_point_box=centre)
    assert got["y"].shape[1] == 3


@pytest.mark.parametrize("groups,offsets,mask", [(1, 1, False), (2, 1, True), (1, 2, True)])
def test_deform_conv(client, groups, offsets, mask):
    n, c, h, w, m, k = 2, 4, 7, 6, 6, 3
    oh, ow = (h + 2 - k) // 2 + 1, w + 1 - k + 1
    inputs = {"x": f32(n, c, h, w), "w": f32(m, c // groups, k, k), "offset": f32(n, offsets * k * k * 2, oh, ow) * 0.7, "b": f32(m),
              "mask": np.abs(f32(n, offsets * k * k, oh, ow)) if mask else SKIP}
    if not mask:
        del inputs["mask"]
    compare(client, "DeformConv", inputs, ["y"], imports=19, group=groups, offset_group=offsets, strides=[2, 1], pads=[1, 0, 1, 1], atol=1e-4)
