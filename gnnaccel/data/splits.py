"""Chronological splits."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents

__all__ = ["Split", "chronological_split", "inductive_mask"]


class Split(NamedTuple):
    """Three consecutive ranges of events: indices for tensors, and `TemporalEvents.slice`."""

    train: slice
    val: slice
    test: slice


def chronological_split(t: Tensor | np.ndarray | TemporalEvents, val: float = 0.15, test: float = 0.15) -> Split:
    """Cut a stream in time: train before val before test, and events of one time are never parted.

    The last training time is the (1 - val - test) quantile of the times, the last validation time the (1 - test) quantile, both
    rounded down to a time that occurs; events at a boundary time belong to the earlier part. These are the
    parts of TGN's and TGB's `t <= np.quantile(t, q)`, without its rounding in floating point.

    Args:
        t: Times in order [E], or the events.
        val, test: Shares of the events; ties may shift the cuts.

    Raises:
        ValueError: A part would be empty, the shares do not leave a training part, or times are out of order.
    """
    if isinstance(t, TemporalEvents):
        t = t.t
    times = t.numpy() if isinstance(t, Tensor) else np.asarray(t)
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(f"chronological_split: val and test must be > 0 with a sum < 1, got {val} and {test}")
    if times.ndim != 1:
        raise ValueError(f"chronological_split: t must be a vector [E], got shape {list(times.shape)}")
    E = len(times)
    if E > 1 and bool((times[1:] < times[:-1]).any()):
        raise ValueError(
            "chronological_split: t must be in time order, got a time before the one of the event before it"
        )
    cut = [0, 0, 0, E]
    if E:
        for i, q in ((1, 1 - val - test), (2, 1 - test)):
            # The tolerance undoes 1 - 0.15 - 0.15 = 0.7 - 1e-16
            at = min(E - 1, int(q * (E - 1) + 1e-9))
            cut[i] = int(np.searchsorted(times, times[at], side="right"))
    for name, (a, b) in zip(Split._fields, pairwise(cut), strict=True):
        if a >= b:
            raise ValueError(
                f"chronological_split: the {name} part must have events, got none of {E} with val={val}, test={test}"
                " (too few events, or too many at one time)"
            )
    return Split(*(slice(a, b) for a, b in pairwise(cut)))


def inductive_mask(events: TemporalEvents, split: Split) -> Tensor:
    """Which events of val and test have an endpoint that no training event has. bool [E], False on the training part."""
    seen = torch.zeros(events.num_nodes, dtype=torch.bool)
    seen[events.src[split.train]] = True
    seen[events.dst[split.train]] = True
    mask = ~(seen[events.src] & seen[events.dst])
    mask[: split.val.start] = False
    return mask
