"""Negative destinations for link prediction."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.philox import below

__all__ = ["STRATEGIES", "NegativeSampler"]

STRATEGIES = ("random", "historical")
_RANDOM, _HISTORICAL = 1, 2


@dataclass
class _Ragged:
    """Sorted values of each row: `values[indptr[r]:indptr[r + 1]]`."""

    indptr: np.ndarray
    values: np.ndarray

    def shift(self, draws: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Draws from [0, bound - len(row)) -> the numbers of [0, bound) that are not in the row: uniform stays uniform."""
        start, size = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        live, k = np.flatnonzero(size), 0
        while len(live):
            draws[live] += draws[live] >= self.values[start[live] + k][:, None]
            k += 1
            live = live[size[live] > k]
        return draws


class NegativeSampler:
    """Draws destinations that did not happen, reproducibly.

    Draw j for event e in an epoch is a function of (seed, epoch, e, j) alone: the same in any batch, in any order.
    Draws of one event are independent, so one destination may come twice (TGB draws its evaluation sets without replacement).

    `random`: uniform over the pool without the positives of the event: the destinations its source interacts with at
    exactly its time, the true one among them. TGB filters the same.

    `historical`: uniform over the distinct destinations that the source interacted with strictly before the event's time, again
    without the positives; where there is none, as `random`. TGB's historical half instead knows the training part only, so its
    negatives grow stale, and makes at most half of them historical; here history ends at the event, and every draw is
    historical if it can be.

    Args:
        events: The stream, whose event ids `sample` takes and whose destinations are the pool; or the pool alone, int64 ids [P]
            (then only `random`, with the positives given to `sample`).
        strategy: "random" or "historical".
        seed: 64 bits.
        pool: Other candidates than all destinations of the stream (for example those of the training part), int64 [P].

    Attributes:
        pool: The candidates, ascending, int64 [P].
    """

    def __init__(
        self,
        events: TemporalEvents | Tensor | np.ndarray,
        strategy: str = "random",
        seed: int = 0,
        pool: Tensor | np.ndarray | None = None,
    ):
        if strategy not in STRATEGIES:
            raise ValueError(f"NegativeSampler: strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        self.strategy, self.seed = strategy, int(seed)
        if isinstance(events, TemporalEvents):
            ids = events.destinations if pool is None else pool
        else:
            if strategy != "random" or pool is not None:
                raise ValueError(
                    f"NegativeSampler: events must be TemporalEvents for {strategy!r} or a pool, got a pool alone"
                )
            ids = events
        self._pool = np.unique(ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids))
        if self._pool.ndim != 1 or self._pool.dtype.kind not in "iu" or len(self._pool) < 2:
            raise ValueError(f"NegativeSampler: the pool must hold at least 2 destination ids, got {len(self._pool)}")
        self.pool = torch.from_numpy(self._pool.astype(np.int64))
        self._count: int | None = None
        # the index takes seconds and gigabytes for many millions of events, and not every sampler is ever asked
        self._to_index: TemporalEvents | None = None
        self._indexing = threading.Lock()
        if isinstance(events, TemporalEvents):
            self._count, self._to_index = len(events), events

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_indexing": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _indexing=threading.Lock())

    def _indexed(self) -> None:
        with self._indexing:
            if (events := self._to_index) is not None:
                self._index(events.src.numpy(), events.dst.numpy(), events.t.numpy(), events.num_nodes)
                self._to_index = None

    def _index(self, src: np.ndarray, dst: np.ndarray, t: np.ndarray, num_nodes: int) -> None:
        """A group is the events of one source at one time. `_group[e]`; `_positives`: ranks in the pool, by group."""
        E = len(src)
        order = _stable_order(src, num_nodes)
        s, d, t = src[order], dst[order], t[order]
        new = np.ones(E, bool)
        new[1:] = (s[1:] != s[:-1]) | (t[1:] != t[:-1])
        group = np.cumsum(new) - 1
        self._group = np.empty(E, np.int64)
        self._group[order] = group
        start = np.flatnonzero(new)
        G = len(start)
        rank = np.full(num_nodes, -1, np.int64)
        inside = self._pool[(self._pool >= 0) & (self._pool < num_nodes)]
        rank[inside] = np.searchsorted(self._pool, inside)

        # The distinct destinations of each group, ascending. Events are numbered as in `s` from here on
        each = np.arange(E)
        many = np.flatnonzero((np.diff(start, append=E) > 1)[group])
        some = many[_stable_order(d[many], num_nodes)]
        each[many] = some[_stable_order(group[some], G)]
        once = np.ones(E, bool)
        once[1:] = (group[each][1:] != group[each][:-1]) | (d[each][1:] != d[each][:-1])
        each = each[once]
        r = rank[d[each]]
        self._positives = _Ragged(_indptr(group[each[r >= 0]], G), r[r >= 0])
        if self.strategy == "random":
            return
        # First event of each (source, destination), by source, in time order: the distinct history at any time is a prefix
        by_dst = _stable_order(d, num_nodes)
        pairs = by_dst[_stable_order(s[by_dst], num_nodes)]
        head = np.ones(E, bool)
        head[1:] = (s[pairs][1:] != s[pairs][:-1]) | (d[pairs][1:] != d[pairs][:-1])
        first = np.empty(E, np.int64)
        first[pairs] = pairs[head][np.cumsum(head) - 1]
        is_first = first == np.arange(E)
        self._past = d[is_first]
        before = np.concatenate([[0], np.cumsum(is_first)])
        row = np.flatnonzero(np.concatenate([[True], s[1:] != s[:-1]])[:E])
        self._past_start = before[row[np.searchsorted(row, start, side="right") - 1]]
        self._past_size = before[start] - self._past_start
        # Where in its source's history each positive is, to leave it out
        g = group[each]
        where = before[first[each]] - self._past_start[g]
        known = where < self._past_size[g]
        g, where = g[known], where[known]
        by_place = _stable_order(where, E)
        by_place = by_place[_stable_order(g[by_place], G)]
        self._known = _Ragged(_indptr(g, G), where[by_place])

    def sample(
        self,
        event_ids: Tensor | np.ndarray | Sequence[int] | slice,
        n: int = 1,
        epoch: int = 0,
        positives: Tensor | np.ndarray | None = None,
    ) -> Tensor:
        """Negative destinations.

        Args:
            event_ids: Ids of events [B], in any order, or a range of them as a slice.
            n: Draws for each event.
            epoch: Another epoch, other draws; evaluation should keep to one.
            positives: True destination of each event, int64 [B]: for a sampler made from a pool alone.

        Returns:
            int64 [B, n] on the CPU.

        Raises:
            ValueError: Bad ids; or an event whose positives are the whole pool.
        """
        if n < 1:
            raise ValueError(f"NegativeSampler: n must be >= 1, got {n}")
        if isinstance(event_ids, slice):
            if self._count is None and event_ids.stop is None:
                raise ValueError(
                    "NegativeSampler: event_ids must have an end for a sampler without events, got an open slice"
                )
            event_ids = np.arange(*event_ids.indices(event_ids.stop if self._count is None else self._count))
        ids = event_ids.cpu().numpy() if isinstance(event_ids, Tensor) else np.asarray(event_ids)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ValueError(f"NegativeSampler: event_ids must be integers [B], got {ids.dtype}{list(ids.shape)}")
        ids = ids.astype(np.int64)
        top = 2**63 - 1 if self._count is None else self._count
        if ids.size and not (ids.min() >= 0 and ids.max() < top):
            raise ValueError(f"NegativeSampler: event_ids must be in [0, {top}), got {ids.min()}..{ids.max()}")
        if self._count is None:
            rows, known = self._given(ids, positives)
        else:
            if positives is not None:
                raise ValueError("NegativeSampler: positives must be None for a sampler that knows the events")
            self._indexed()
            rows, known = self._group[ids], self._positives
        out = self._random(ids, rows, known, n, epoch)
        if self.strategy == "historical":
            self._historical(ids, rows, n, epoch, out)
        return torch.from_numpy(out)

    def _given(self, ids: np.ndarray, positives: Tensor | np.ndarray | None) -> tuple[np.ndarray, _Ragged]:
        rows = np.arange(len(ids))
        if positives is None:
            return rows, _Ragged(np.zeros(len(ids) + 1, np.int64), np.empty(0, np.int64))
        true = positives.cpu().numpy() if isinstance(positives, Tensor) else np.asarray(positives)
        if true.shape != ids.shape:
            raise ValueError(f"NegativeSampler: positives must have shape {list(ids.shape)}, got {list(true.shape)}")
        rank = np.searchsorted(self._pool, true)
        hit = self._pool[np.minimum(rank, len(self._pool) - 1)] == true
        return rows, _Ragged(_indptr(rows[hit], len(ids)), rank[hit])

    def _random(self, ids: np.ndarray, rows: np.ndarray, known: _Ragged, n: int, epoch: int) -> np.ndarray:
        bound = len(self._pool) - (known.indptr[rows + 1] - known.indptr[rows])
        if bound.size and bound.min() < 1:
            e = ids[int(bound.argmin())]
            raise ValueError(
                f"NegativeSampler: event {e} has no negative: all {len(self._pool)} candidates are its positives"
            )
        draws = below(bound, ids, n, seed=self.seed, epoch=epoch, stream=_RANDOM)
        return self.pool.numpy()[known.shift(draws, rows)]

    def _historical(self, ids: np.ndarray, rows: np.ndarray, n: int, epoch: int, out: np.ndarray) -> None:
        bound = self._past_size[rows] - (self._known.indptr[rows + 1] - self._known.indptr[rows])
        live = np.flatnonzero(bound > 0)
        draws = below(bound[live], ids[live], n, seed=self.seed, epoch=epoch, stream=_HISTORICAL)
        draws = self._known.shift(draws, rows[live])
        out[live] = self._past[self._past_start[rows[live]][:, None] + draws]


def _indptr(sorted_rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(sorted_rows, minlength=count))]).astype(np.int64)


def _stable_order(keys: np.ndarray, bound: int) -> np.ndarray:
    """`argsort(kind="stable")` of keys in [0, bound): sorting key and position in one word is several times faster."""
    n = len(keys)
    if bound * n >= 1 << 63:
        return np.argsort(keys, kind="stable")
    packed = keys * n + np.arange(n)
    packed.sort()
    return packed % max(n, 1)
