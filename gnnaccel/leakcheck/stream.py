"""Cutting a stream into batches, changing parts of it, and counting what a root may know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents
from gnnaccel.train.schedule import batch_bounds

#: What a root at time t may see of events (t', id): t' < t, t' <= t, or those from before the batch.
SEMANTICS = ("strict", "inclusive", "before_batch")
KINDS = ("destinations", "sources", "times", "features", "labels")


def told(thing: object) -> str:
    """What a factory returned, in an error."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def batches(events: TemporalEvents, start: int, stop: int, size: int, semantics: str) -> list[slice]:
    """Consecutive batches of `size` events; under "strict" and "inclusive" events of one time are not parted."""
    bounds = batch_bounds(events.t, slice(start, stop), size, whole_times=semantics != "before_batch")
    return [slice(a, b) for a, b in pairwise(bounds)]


def change(events: TemporalEvents, which: Tensor, how: str, seed: int = 0) -> TemporalEvents | None:
    """`events` with one thing about the events `which` (bool `[E]`) different: one of `KINDS`. Times move to after the stream's
    end, so `which` must be its tail. None where the events have no such thing, or no event would change."""
    if not bool(which.any()):
        return None
    if how == "times":
        if bool((which[1:] < which[:-1]).any()):
            raise ValueError("change: which must be the last events of the stream to change times, got a gap")
        later = events.t + (events.t[-1] - events.t[0] + 1)
        return replace(events, t=torch.where(which, later, events.t))
    if how == "features":
        if events.edge_feat is None:
            return None
        return replace(events, edge_feat=torch.where(which[:, None], -3 * events.edge_feat - 1, events.edge_feat))
    if how == "labels":
        return (
            None if events.label is None else replace(events, label=torch.where(which, events.label + 1, events.label))
        )
    if how not in ("destinations", "sources"):
        raise ValueError(f"change: how must be one of {list(KINDS)}, got {how!r}")
    name = "dst" if how == "destinations" else "src"
    old = getattr(events, name)
    pool = old.unique()
    if len(pool) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    # another one of the same kind of node, never the same
    step = torch.randint(1, len(pool), (len(old),), generator=generator)
    new = pool[(torch.searchsorted(pool, old) + step) % len(pool)]
    return replace(events, **{name: torch.where(which, new, old)})


def culprit(
    events: TemporalEvents, which: Tensor, how: str, seed: int, differs: Callable[[TemporalEvents], bool]
) -> int:
    """The last event that matters: with those of `which` from it on changed the finding `differs`, from the next one on not."""
    low, high = int(which.nonzero()[0]), int(which.nonzero()[-1]) + 1
    while high - low > 1:
        middle = (low + high) // 2
        changed = change(events, which & (torch.arange(len(events)) >= middle), how, seed)
        if changed is not None and differs(changed):
            low = middle
        else:
            high = middle
    return low


def pick_cuts(events: TemporalEvents, start: int, stop: int, count: int, seed: int) -> list[int]:
    """Events of [start, stop) to look at closely: spread over it, and one from its largest group of equal times."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(start, stop - 1, count + 2)[1:-1].long()
    spread = (spread + torch.randint(0, max(1, (stop - start) // (2 * count)), (count,), generator=generator)).clamp(
        max=stop - 1
    )
    times, sizes = events.t[start:stop].unique_consecutive(return_counts=True)
    if int(sizes.max()) > 1:
        tied = int(torch.searchsorted(events.t, times[sizes.argmax()])) + int(sizes.max()) // 2
        spread[-1] = min(max(tied, start), stop - 1)
    return sorted(set(spread.tolist()))


class History:
    """Events of each node, counted up to any event."""

    def __init__(self, events: TemporalEvents) -> None:
        self.t, E = events.t, len(events)
        loop = events.src == events.dst
        ids = torch.arange(E)
        node = torch.cat([events.src, events.dst[~loop]])
        self.stride = E + 1
        self.keys = (node * self.stride + torch.cat([ids, ids[~loop]])).sort().values

    def end(self, times: Tensor, semantics: str, batch_start: int) -> Tensor:
        """The first event that roots at `times` may not see."""
        if semantics == "before_batch":
            return torch.full(times.shape, batch_start)
        return torch.searchsorted(self.t, times, right=semantics == "inclusive")

    def count(self, nodes: Tensor, end: Tensor) -> Tensor:
        """How many events before `end` each node has."""
        upto = torch.searchsorted(self.keys, nodes * self.stride + end)
        return upto - torch.searchsorted(self.keys, nodes * self.stride)


def as_event_ids(result: object, roots: int, events: int) -> np.ndarray:
    """What a sampler gave, as event ids int64 `[roots, K]`, -1 for nothing: from such an array, lists of lists, (nbr, eid, ...)
    or an object with `eid`."""
    if hasattr(result, "eid"):
        result = result.eid  # type: ignore[attr-defined]
    elif isinstance(result, tuple) and len(result) in (2, 3):
        result = result[1]
    try:
        if isinstance(result, Tensor):
            out = result.detach().cpu().numpy()
        elif isinstance(result, np.ndarray):
            out = result
        else:
            assert isinstance(result, Sequence)
            rows = [np.asarray(r, dtype=np.int64).reshape(-1) for r in result]
            out = np.full((len(rows), max((len(r) for r in rows), default=0)), -1, np.int64)
            for i, r in enumerate(rows):
                out[i, : len(r)] = r
    except (AssertionError, TypeError, ValueError):
        out = np.empty(0)
    if out.ndim != 2 or len(out) != roots or out.dtype.kind not in "iu":
        given = f"{out.dtype}{list(out.shape)}" if out.size else type(result).__name__
        raise ValueError(
            f"leakcheck: a sample must be event ids [{roots}, K], a list of ids for each of {roots} roots, or (nbr, eid, t);"
            f" got {given}"
        )
    if out.size and not (-1 <= out.min() and out.max() < events):
        raise ValueError(f"leakcheck: event ids of a sample must be in [-1, {events}), got {out.min()}..{out.max()}")
    return out.astype(np.int64)
