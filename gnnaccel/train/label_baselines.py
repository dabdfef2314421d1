"""What a label can be told from without a temporal model: the class prior, who the nodes are, how active they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.splits import Split
from gnnaccel.train.labels import Labels, label_metrics


def prior_scores(labels: Labels, n: int) -> np.ndarray:
    """The same logits `[n, C]` for every event: the shares of the classes in the training part."""
    share = labels.counts.numpy() / int(labels.counts.sum())
    return np.tile(np.log(np.maximum(share, 1e-12)), (n, 1))


def static_features(events: TemporalEvents, kind: str) -> Any:
    """Who takes part, and nothing of when: the features of the nodes if the data has any, else one indicator a node.

    Of the source for `kind` "node"; of source and destination, and whether they are the same, for "edge".
    A sparse matrix with a row an event.
    """
    src, dst = events.src.numpy(), events.dst.numpy()
    x: Any = sp.identity(events.num_nodes) if events.node_feat is None else events.node_feat.double().numpy()
    x = sp.csr_matrix(x)
    if kind == "node":
        return x[src]
    return sp.csr_matrix(sp.hstack([x[src], x[dst], sp.csr_matrix((src == dst).astype(float)[:, None])]))


def activity_features(events: TemporalEvents, kind: str) -> np.ndarray:
    """What a count of earlier events tells, standardised nowhere: float64 `[E, 3]` for "node", `[E, 9]` for "edge".

    For the source, and for "edge" also the destination and the pair: log(1 + events strictly before t), log(1 + time since the
    latest of them), and whether there are none. For "edge" column 8 says more: 1 where source and destination are the same.
    """
    src, dst, t = (x.numpy() for x in (events.src, events.dst, events.t))
    ends, both = np.concatenate([src, dst]), np.concatenate([t, t])
    columns = [*_history(src, t, ends, both)]
    if kind == "edge":
        pair = src * np.int64(events.num_nodes) + dst
        known = _history(pair, t, pair, t)
        columns += [*_history(dst, t, ends, both), *known[:2], (src == dst).astype(float)]
    return np.stack(columns, axis=1)


def _history(keys: np.ndarray, t: np.ndarray, past: np.ndarray, when: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of entries (past, when): how many have this key and lie strictly before t, how long ago the latest, whether none."""
    times, rank = np.unique(np.concatenate([t, when]), return_inverse=True)
    _, ids = np.unique(np.concatenate([keys, past]), return_inverse=True)
    span = len(times)
    at = ids * np.int64(span) + rank  # orders by key, then by time
    line = np.sort(at[len(keys) :])
    upto = np.searchsorted(line, at[: len(keys)])
    count = upto - np.searchsorted(line, ids[: len(keys)] * np.int64(span))
    none = count == 0
    latest = np.where(none, t, times[line[np.maximum(upto - 1, 0)] % span])
    return np.log1p(count), np.log1p((t - latest).astype(float)), none.astype(float)


def logistic_scores(x: Any, y: np.ndarray, train: slice, test: slice, classes: int, balanced: bool) -> np.ndarray:
    """Logits `[n, C]` of part `test` by a logistic regression fitted to part `train`; -inf for a class that `train` lacks."""
    if not sp.issparse(x):
        mean, std = x[train].mean(0), x[train].std(0)
        x = (x - mean) / np.where(std > 0, std, 1.0)
    model = LogisticRegression(max_iter=500, tol=1e-3, class_weight="balanced" if balanced else None)
    model.fit(x[train], y[train])
    margin = model.decision_function(x[test])
    scores = np.full((test.stop - test.start, classes), -np.inf)
    scores[:, model.classes_] = np.stack([np.zeros_like(margin), margin], 1) if margin.ndim == 1 else margin
    return scores


def baselines(events: TemporalEvents, split: Split, labels: Labels, kind: str) -> dict[str, dict[str, Any]]:
    """Test metrics of the baselines `prior`, `static` and `activity`, under the protocol of the trained classifier.

    Both regressions are fitted to the training part, with balanced classes where one is rare.
    """
    train, test, y, C = split.train, split.test, labels.y.numpy(), len(labels.values)
    scores = {
        "prior": prior_scores(labels, test.stop - test.start),
        "static": logistic_scores(static_features(events, kind), y, train, test, C, labels.rare),
        "activity": logistic_scores(activity_features(events, kind), y, train, test, C, labels.rare),
    }
    return {name: label_metrics(labels, test, s) for name, s in scores.items()}
