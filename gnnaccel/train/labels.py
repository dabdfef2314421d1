"""Labels of events as classes, and how well they were told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from gnnaccel.data.events import DataError, TemporalEvents
from gnnaccel.data.splits import Split

MAX_CLASSES = 1000
RARE = 0.05  # a class below this share of the training part is rare


@dataclass(frozen=True)
class Labels:
    """The class of each event.

    Attributes:
        y: Class indices, int64 `[E]`.
        values: The label that each class stands for, ascending.
        counts: Events of each class in the training part, int64 `[C]`.
    """

    y: Tensor
    values: tuple[int, ...]
    counts: Tensor

    @property
    def binary(self) -> bool:
        return len(self.values) == 2

    @property
    def main_metric(self) -> str:
        """What the best epoch is chosen by: AUC of two classes, macro F1 of more."""
        return "auc" if self.binary else "macro_f1"

    @property
    def rare(self) -> bool:
        return int(self.counts.min()) < RARE * int(self.counts.sum())

    @property
    def weights(self) -> Tensor:
        """Inverse frequencies in the training part, float32 `[C]`, 1 on average over it; 0 for a class it lacks."""
        n = self.counts.double()
        return torch.where(n > 0, n.sum() / (n > 0).sum() / n.clamp(min=1), 0.0).float()


def read_labels(events: TemporalEvents, split: Split) -> Labels:
    """Classes of the labels of `events`.

    Raises:
        DataError: No labels, labels that are not whole numbers, too many different ones, or a part with one class only.
    """
    name, label = events.name, events.label
    if label is None:
        raise DataError(None, f"{name} has no labels", "name their column with --label, or give other data")
    if label.is_floating_point():
        bad = (~torch.isfinite(label) | (label != label.round())).nonzero()
        if len(bad):
            i = int(bad[0, 0])
            raise DataError(None, f"{name}: labels must be whole numbers, event {i} has {label[i].item()}")
    values, y = torch.unique(label.long(), return_inverse=True)
    if len(values) > MAX_CLASSES:
        raise DataError(None, f"{name} has {len(values):,} different labels, at most {MAX_CLASSES} can be told apart")
    counts = torch.bincount(y[split.train], minlength=len(values))
    names = tuple(int(v) for v in values)
    for part in ("train", "val"):
        here = torch.unique(y[getattr(split, part)])
        # without both of two classes there is neither anything to learn nor an AUC to stop by
        if len(here) < 2 and (part == "train" or len(values) == 2):
            only = f"label {names[int(here[0])]} only" if len(here) else "no labels"
            raise DataError(None, f"{name}: the {part} part has {only}, nothing to tell apart")
    return Labels(y, names, counts)


def label_metrics(labels: Labels, part: slice, scores: np.ndarray) -> dict[str, Any]:
    """Metrics of logits `[n, C]` over all events of `part` at once.

    Returns:
        For two classes `auc` and `ap` (area under the precision-recall curve) of the larger label; `accuracy`, which is also
        micro F1; `macro_f1`, over the classes that occur or were told; `per_class` precision, recall, F1 and support.
        AUC and AP are NaN where only one class occurs, all of them where there are no events.
    """
    y, C = labels.y[part].numpy(), len(labels.values)
    told = scores.argmax(1)
    table = np.bincount(y * C + told, minlength=C * C).reshape(C, C)  # rows: true, columns: told
    hit, support, said = table.diagonal(), table.sum(1), table.sum(0)
    f1 = np.divide(2 * hit, support + said, out=np.zeros(C), where=support + said > 0)
    precision = np.divide(hit, said, out=np.zeros(C), where=said > 0)
    recall = np.divide(hit, support, out=np.zeros(C), where=support > 0)
    accuracy = float(hit.sum() / len(y)) if len(y) else float("nan")
    seen = f1[support + said > 0]
    result: dict[str, Any] = {}
    if labels.binary:
        margin = scores[:, 1].astype(np.float64) - scores[:, 0]
        both = 0 < int(y.sum()) < len(y)
        result["auc"] = float(roc_auc_score(y, margin)) if both else float("nan")
        result["ap"] = float(average_precision_score(y, margin)) if both else float("nan")
    result |= {
        "accuracy": accuracy,
        "micro_f1": accuracy,
        "macro_f1": float(seen.mean()) if len(seen) else float("nan"),
    }
    result["events"] = len(y)
    result["per_class"] = {
        str(v): {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, v in enumerate(labels.values)
    }
    return result
