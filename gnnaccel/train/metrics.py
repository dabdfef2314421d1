"""Link-prediction metrics over a whole split."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score


def reciprocal_ranks(positive: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """1 / rank of each positive among its negatives; tied scores share the average rank.

    Args:
        positive: Scores of the positives, `[n]`.
        negatives: Scores of each positive's negatives, `[n, C]`.

    Rank = 1 + (negatives above) + (negatives equal) / 2, the mean of the optimistic and the pessimistic rank (as TGB).
    """
    above = (negatives > positive[:, None]).sum(1)
    equal = (negatives == positive[:, None]).sum(1)
    return 1.0 / (1.0 + above + 0.5 * equal)


def pair_metrics(positive: np.ndarray, negative: np.ndarray) -> dict[str, float]:
    """Average precision and ROC AUC of positives `[n]` against negatives `[m]`, over all of them at once.

    NaN for both where there are no positives.
    """
    if len(positive) == 0 or len(negative) == 0:
        return {"ap": float("nan"), "auc": float("nan")}
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    scores = np.concatenate([positive, negative])
    return {"ap": float(average_precision_score(labels, scores)), "auc": float(roc_auc_score(labels, scores))}
