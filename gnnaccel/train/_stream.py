"""What a session is given, checked, and what grows in it: the ids of nodes, the features of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents


class NodeIds:
    """Original ids, integers or strings, to rows 0, 1, ...; ids that were not known get the next rows.

    Args:
        names: Ids of the first rows, int64 or str `[n]`, distinct; None: they are their rows' numbers.
        rows: Row of each, increasing; None: 0 to n - 1.
        count: n, when `names` is None.
    """

    def __init__(self, names: np.ndarray | None, rows: np.ndarray | None = None, count: int = 0) -> None:
        self.names, self.rows, self.count = names, rows, count
        self.new: dict[Any, int] = {}
        self.text = names is not None and names.dtype.kind == "U"
        if names is not None:
            self.rows = np.arange(len(names)) if rows is None else rows
            order = np.argsort(names, kind="stable")
            self._ranked, self._row_of = names[order], self.rows[order]

    def array(self, what: str, ids: Any) -> np.ndarray:
        """`ids` as an array of this kind of id, of any shape; ValueError for others."""
        out = np.asarray(ids)
        if self.text:
            if out.dtype.kind not in "Uiu" and out.size:
                raise ValueError(f"{what} must be strings like the ids of the data, got {out.dtype}")
            return out.astype(str)
        if out.dtype.kind not in "iu" and out.size:
            raise ValueError(f"{what} must be integers like the ids of the data, got {out.dtype}")
        return out.astype(np.int64)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Rows of `ids` (flat), -1 where an id is not known."""
        if self.names is None:
            rows = np.where((ids >= 0) & (ids < self.count), ids, -1)
        elif len(self._ranked):
            at = np.minimum(np.searchsorted(self._ranked, ids), len(self._ranked) - 1)
            rows = np.where(self._ranked[at] == ids, self._row_of[at], -1)
        else:
            rows = np.full(len(ids), -1)
        if self.new and len(missing := np.flatnonzero(rows < 0)):
            rows[missing] = [self.new.get(x, -1) for x in ids[missing].tolist()]
        return rows

    def add(self, name: Any, row: int) -> None:
        self.new[name] = row

    def truncate(self, count: int) -> None:
        """Forget the ids of rows from `count` on."""
        while self.new and next(reversed(self.new.values())) >= count:
            self.new.popitem()

    def state(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        names = None if self.names is None else self.names.tolist()
        rows = None if self.rows is None else self.rows.tolist()
        return {"names": names, "rows": rows, "count": self.count, "new": list(self.new.items()), "text": self.text}

    @classmethod
    def restore(cls, state: dict[str, Any]) -> NodeIds:
        names = None
        if state["names"] is not None:
            names = np.array(state["names"], str if state["text"] else np.int64)
        out = cls(names, None if state["rows"] is None else np.array(state["rows"], np.int64), state["count"])
        out.new = dict(state["new"])
        return out


def sides(events: TemporalEvents) -> tuple[NodeIds, NodeIds]:
    """The ids of sources and of destinations: one object, unless the data numbers the two separately."""
    names = events.node_ids
    if names is None or len(np.unique(names)) == len(names):
        both = NodeIds(names, count=events.num_nodes)
        return both, both
    parts = []
    for side in (events.src, events.dst):
        rows = np.unique(side.numpy())
        parts.append(NodeIds(names[rows], rows))
    return parts[0], parts[1]


class RowTable:
    """A matrix that rows are appended to, in place while there is room; twice the room when there is none.

    Args:
        rows: The first rows, `[n, F]`; not copied until more come.
    """

    def __init__(self, rows: Tensor) -> None:
        self._data, self.count = rows, len(rows)

    @property
    def dim(self) -> int:
        return self._data.shape[1]

    @property
    def rows(self) -> Tensor:
        """All rows, a view."""
        return self._data[: self.count]

    def append(self, rows: Tensor) -> None:
        total = self.count + len(rows)
        if total > len(self._data):
            old = self._data
            self._data = old.new_empty(max(total, 2 * len(old)), self.dim)
            self._data[: self.count] = old[: self.count]
        self._data[self.count : total] = rows
        self.count = total

    def truncate(self, count: int) -> None:
        self.count = min(self.count, count)


def checked_times(owner: str, t: Any, count: int, dtype: torch.dtype, *, happened: bool) -> Tensor:
    """Times `[count]` in `dtype`; one may stand for all, but for events that `happened`, which are not rounded either."""
    try:
        times = torch.as_tensor(t if isinstance(t, Tensor) else np.asarray(t))
    except TypeError:
        raise ValueError(f"{owner}: t must be numbers, got {type(t).__name__}") from None
    if times.dtype == torch.bool or times.dtype.is_complex:
        raise ValueError(f"{owner}: t must be numbers, got {times.dtype}")
    if times.dtype.is_floating_point:
        if not bool(torch.isfinite(times).all()):
            raise ValueError(f"{owner}: t must be finite, got NaN or infinity")
        if dtype == torch.int64 and times.numel():
            if happened:
                raise ValueError(f"{owner}: t must be integers like the times of the data, got {times.dtype}")
            times = times.ceil()  # nothing happens between ticks: t' < 1.5 is t' < 2
    if times.dim() == 0 and (not happened or count == 1):
        times = times.expand(count)
    if times.shape != (count,):
        raise ValueError(f"{owner}: t must be [{count}], one for each, got {list(times.shape)}")
    return times.to(dtype).contiguous()


def matrix(what: str, x: Any, shape: list[int]) -> Tensor:
    """Finite numbers of this shape, or a ValueError."""
    try:
        out = torch.as_tensor(x if isinstance(x, Tensor) else np.asarray(x))
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be {shape} numbers, got {type(x).__name__}") from None
    if list(out.shape) != shape:
        raise ValueError(f"{what} must be {shape}, got {list(out.shape)}")
    if not bool(torch.isfinite(out.float()).all()):
        raise ValueError(f"{what} must be finite, got NaN or infinity")
    return out


def unpacked(events: TemporalEvents, node_feat: Mapping[Any, Any] | None) -> tuple[Any, ...]:
    """Ends by original id, times and features of events."""
    ids = np.arange(events.num_nodes) if events.node_ids is None else events.node_ids
    if node_feat is None and events.node_feat is not None:
        node_feat = dict(zip(ids.tolist(), events.node_feat, strict=True))
    return ids[events.src.numpy()], ids[events.dst.numpy()], events.t, events.edge_feat, node_feat
