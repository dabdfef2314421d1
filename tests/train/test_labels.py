"""Classes, their metrics and the baselines, each against something slower and plainer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from gnnaccel.data import DataError, chronological_split, synthetic_events
from gnnaccel.train.label_baselines import (
    activity_features,
    baselines,
    logistic_scores,
    prior_scores,
    static_features,
)
from gnnaccel.train.labels import label_metrics, read_labels


def stream(labels=None, n=400, seed=0, **kwargs):
    events = synthetic_events(num_events=n, num_src=20, num_dst=12, feat_dim=0, seed=seed, **kwargs)
    return events if labels is None else replace(events, label=torch.as_tensor(labels))


def test_classes_are_ranks_of_the_labels():
    events = stream(np.tile([7, -1, 7, 30], 100))
    labels = read_labels(events, chronological_split(events.t))
    assert labels.values == (-1, 7, 30)
    assert labels.y[:4].tolist() == [1, 0, 1, 2]
    train = chronological_split(events.t).train
    assert int(labels.counts.sum()) == train.stop - train.start
    assert labels.main_metric == "macro_f1"
    n = labels.counts.double()
    assert float((labels.weights * n).sum() / n.sum()) == pytest.approx(1)
    assert (labels.weights * n).std() < 1e-3 * n.mean()


def test_rare_classes():
    y = np.zeros(400)
    y[::50] = 1
    events = stream(y)
    labels = read_labels(events, chronological_split(events.t))
    assert labels.rare
    assert labels.binary
    assert labels.main_metric == "auc"


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "has no labels"),
        (np.zeros(400), "the train part has label 0 only"),
        (np.r_[np.tile([0, 1], 140), np.zeros(120)], "the val part has label 0 only"),
        (np.full(400, 0.5), "labels must be whole numbers, event 0 has 0.5"),
        (np.r_[np.zeros(3), np.nan, np.ones(396)], "event 3 has nan"),
        (np.arange(4000), "has 4,000 different labels"),
    ],
)
def test_labels_that_cannot_be_learned(labels, says):
    events = replace(stream(n=400 if labels is None else len(labels)), label=None)
    events = events if labels is None else replace(events, label=torch.as_tensor(labels))
    with pytest.raises(DataError) as error:
        read_labels(events, chronological_split(events.t))
    assert says in str(error.value)


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_are_those_of_sklearn(classes):
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, 400)
    events = stream(y)
    split = chronological_split(events.t)
    labels = read_labels(events, split)
    scores = rng.standard_normal((split.test.stop - split.test.start, classes)).astype(np.float32)
    got = label_metrics(labels, split.test, scores)
    true, told = y[split.test], scores.argmax(1)
    assert got["accuracy"] == got["micro_f1"] == pytest.approx(oracle.f1_score(true, told, average="micro"))
    assert got["macro_f1"] == pytest.approx(oracle.f1_score(true, told, average="macro"))
    p, r, f, s = oracle.precision_recall_fscore_support(true, told)
    for i in range(classes):
        assert list(got["per_class"][str(i)].values()) == pytest.approx([p[i], r[i], f[i], s[i]])
    if classes == 2:
        margin = scores[:, 1].astype(float) - scores[:, 0]
        assert got["auc"] == pytest.approx(oracle.roc_auc_score(true, margin))
        assert got["ap"] == pytest.approx(oracle.average_precision_score(true, margin))
    else:
        assert "auc" not in got


def test_the_prior_tells_nothing():
    events = stream(np.tile([0, 0, 1, 0], 100))
    split = chronological_split(events.t)
    labels = read_labels(events, split)
    got = label_metrics(labels, split.test, prior_scores(labels, split.test.stop - split.test.start))
    assert got["auc"] == 0.5
    assert got["accuracy"] == pytest.approx(0.75, abs=0.02)


def slow_history(events, key, keys_of):
    """[count, log time since the latest, none] of each event, by going through all earlier ones."""
    out = []
    for i in range(len(events)):
        times = [float(events.t[j]) for j in range(len(events)) for k in keys_of(j) if k == key(i)]
        times = [x for x in times if x < float(events.t[i])]
        out.append([len(times), float(events.t[i]) - max(times) if times else 0.0, float(not times)])
    a = np.array(out)
    return np.stack([np.log1p(a[:, 0]), np.log1p(a[:, 1]), a[:, 2]], axis=1)


def test_counts_of_earlier_events_see_nothing_of_their_own_time():
    events = stream(n=120, seed=3)
    events = replace(
        events, t=events.t // 5000 * 5000, bipartite=False, dst=torch.where(events.t % 7 == 0, events.src, events.dst)
    )
    src, dst = events.src.tolist(), events.dst.tolist()
    node = activity_features(events, "node")
    ends = lambda j: (src[j], dst[j])  # noqa: E731
    np.testing.assert_allclose(node, slow_history(events, lambda i: src[i], ends))
    edge = activity_features(events, "edge")
    np.testing.assert_allclose(edge[:, :3], node)
    np.testing.assert_allclose(edge[:, 3:6], slow_history(events, lambda i: dst[i], ends))
    pairs = slow_history(events, ends, lambda j: (ends(j),))
    np.testing.assert_allclose(edge[:, 6:8], pairs[:, :2])
    assert edge[:, 8].tolist() == [float(a == b) for a, b in zip(src, dst, strict=True)]
    assert edge[:, 8].sum() > 3


def test_static_features_are_who():
    events = stream(n=60)
    one = static_features(events, "edge").toarray()
    assert one.shape == (60, 2 * events.num_nodes + 1)
    assert one[5].nonzero()[0].tolist() == [int(events.src[5]), events.num_nodes + int(events.dst[5])]
    given = replace(events, node_feat=torch.randn(events.num_nodes, 4))
    np.testing.assert_allclose(static_features(given, "node").toarray(), given.node_feat[given.src].numpy(), rtol=1e-6)


def test_a_regression_learns_what_it_can_and_leaves_absent_classes_alone():
    x = np.r_[np.zeros((50, 1)), np.ones((50, 1)), np.zeros((5, 1)), np.ones((5, 1))]
    y = np.r_[np.zeros(50), np.full(50, 2), np.zeros(5), np.full(5, 2)].astype(int)
    scores = logistic_scores(x, y, slice(0, 100), slice(100, 110), 3, True)
    assert scores.argmax(1).tolist() == y[100:].tolist()
    assert np.isneginf(scores[:, 1]).all()


@pytest.mark.parametrize("kind", ["node", "edge"])
def test_baselines_of_a_stream_whose_labels_are_the_node(kind):
    events = stream(n=500)
    events = replace(events, label=events.src % 2)
    split = chronological_split(events.t)
    got = baselines(events, split, read_labels(events, split), kind)
    assert set(got) == {"prior", "static", "activity"}
    assert got["prior"]["auc"] == 0.5
    assert got["static"]["auc"] > 0.9
