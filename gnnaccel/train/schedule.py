"""Where the batches of a pass over events begin and end."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.philox import below

_SHIFT = 16  # keeps these draws apart from those of negatives


def chunk_shift(batch_size: int, chunks: int, *, seed: int, epoch: int) -> int:
    """How far the batch grid of an epoch is shifted: `batch_size / chunks` times a uniform integer in [0, chunks).

    Random chunk scheduling (Zhou et al., TGL, VLDB 2022, algorithm 2): events that share a batch in one epoch are in different
    batches in another, so dependencies that a large batch hides are seen in some epochs. Time is never reordered.

    Args:
        batch_size: Events a batch.
        chunks: Chunks a batch, which must divide `batch_size`; 1 never shifts.
        seed, epoch: Keys of the draw: the shift is a function of them, so that a resumed run has the grid of the unbroken one.

    Raises:
        ValueError: `chunks` is below 1 or does not divide `batch_size`.
    """
    if chunks < 1 or batch_size % chunks:
        raise ValueError(f"chunk_shift: chunks must be at least 1 and divide batch_size ({batch_size}), got {chunks}")
    draw = int(below(chunks, np.zeros(1, np.int64), 1, seed=seed, epoch=epoch, stream=_SHIFT)[0, 0])
    return draw * (batch_size // chunks)


def batch_bounds(t: Tensor, part: slice, batch_size: int, *, shift: int = 0, whole_times: bool = True) -> list[int]:
    """Where the batches of events `part` begin, and its end.

    They begin at `part.start`, `part.start + shift`, and every `batch_size` events from there on. With a shift the first batch
    is short (in TGL those events are left out of the epoch).

    Args:
        t: Times of all events, in order, int64 or float64 `[E]`.
        part: Events to cut, with start and stop.
        batch_size: Events a batch.
        shift: Length of the first batch, in `[0, batch_size)`; 0 for a whole one.
        whole_times: Whether events of one time stay together: a batch is then longer by the rest of its last time.

    Returns:
        Bounds, increasing; one alone for a part without events.
    """
    bounds, start = [part.start], part.start
    if part.stop <= part.start:
        return bounds
    step = shift or batch_size
    while start + step < part.stop:
        start, step = start + step, batch_size
        if whole_times and t[start] == t[start - 1]:
            start = min(int(torch.searchsorted(t, t[start], right=True)), part.stop)
            if start == part.stop:
                break
        bounds.append(start)
    return [*bounds, part.stop]
