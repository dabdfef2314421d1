"""`TemporalGraph`: events by node and time."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.ops._tcsr import tcsr_build

_INT32_MAX = 2**31 - 1
_ARRAYS = ("indptr", "nbr", "eid", "t")
_HEADER = "temporal_graph.json"
_FORMAT = {"format": "gnnaccel.TemporalGraph", "version": 1}


class GraphView(NamedTuple):
    """A graph at one moment: what a call to `temporal_sample` reads, whatever `append` does meanwhile."""

    row_start: Tensor
    row_end: Tensor
    nbr: Tensor
    eid: Tensor
    t: Tensor
    indptr: Tensor | None  # while rows lie without slack between them
    num_events: int


class _Spare(NamedTuple):
    """The row table of the view before the published one. Once nobody holds a part of it, the next one is written here."""

    table: Tensor
    stale: Tensor  # rows that differ from the published table's

    def is_free(self) -> bool:
        # a slice of the view's arrays outlives them, so only the storage knows
        count: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)
        if count is None:
            return False
        alone = torch.empty(1)
        return count(self.table.untyped_storage()._cdata) == count(alone.untyped_storage()._cdata)


class TemporalGraph:
    """Time-stamped events in rows, one a node, each sorted by (t, eid) (T-CSR; Zhou et al., TGL, VLDB 2022).

    Node n's events are the entries `row_start[n]` to `row_end[n]` of `nbr`, `eid` and `t`.

    Attributes:
        view: The arrays as of one moment, replaced as a whole by `append` and `truncate`. Take it once where several arrays
            are needed and events may arrive meanwhile, as `temporal_sample` does; the next five are its fields.
        row_start: int64 `[N]`.
        row_end: int64 `[N]`.
        nbr: The other endpoint, int32 or int64 `[M]`.
        eid: The event's index, dtype of `nbr`, `[M]`.
        t: The event's time, int64 or float64 `[M]`, in the data's own unit.
        num_nodes: N.
        num_events: E. Events that `append` adds are numbered on from here.
        add_reverse: Whether an event stands in the rows of both its endpoints (a self-loop once).
    """

    def __init__(
        self, indptr: Tensor, nbr: Tensor, eid: Tensor, t: Tensor, *, num_events: int, add_reverse: bool = True
    ) -> None:
        """From arrays that are already sorted into rows (not checked; `from_events` is the usual way)."""
        self.view = GraphView(indptr[:-1], indptr[1:], nbr, eid, t, indptr, num_events)
        self.add_reverse = add_reverse
        # of the writer alone. int64 [2, >= N] start and end of each row, behind the view; and the end of the row's space
        self._table: Tensor | None = None
        self._room: Tensor | None = None
        self._spare: _Spare | None = None
        self._used = nbr.shape[0]
        self._fixed = num_events  # the first events, which `truncate` cannot take back
        self._last_time: int | float | None = None
        self._writing = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writing": None, "_spare": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _writing=threading.Lock())

    @property
    def row_start(self) -> Tensor:
        return self.view.row_start

    @property
    def row_end(self) -> Tensor:
        return self.view.row_end

    @property
    def nbr(self) -> Tensor:
        return self.view.nbr

    @property
    def eid(self) -> Tensor:
        return self.view.eid

    @property
    def t(self) -> Tensor:
        return self.view.t

    @property
    def num_nodes(self) -> int:
        return self.view.row_start.shape[0]

    @property
    def num_events(self) -> int:
        return self.view.num_events

    @classmethod
    def from_events(
        cls,
        src: Any,
        dst: Any,
        t: Any,
        num_nodes: int | None = None,
        add_reverse: bool = True,
        *,
        id_dtype: torch.dtype | None = None,
    ) -> TemporalGraph:
        """Build from events (src[i], dst[i], t[i]); event i gets id i. O(M), parallel; times may be in any order.

        Args:
            src: Node ids, integers `[E]` (tensor or array), at least 0.
            dst: Likewise.
            t: Times `[E]`. Integers become int64, floats float64; never float32, which merges Unix seconds.
            num_nodes: Number of nodes; by default the largest id plus 1.
            add_reverse: Whether an event stands in the rows of both endpoints.
            id_dtype: int32 or int64; by default int32 if ids and events fit.

        Raises:
            TypeError: Ids are not integers, or times not numbers.
            ValueError: Shapes differ, an id is negative or not below `num_nodes`, or a time is not finite.
        """
        src, dst, t = _events("TemporalGraph.from_events", src, dst, t)
        least, most = _id_range(src, dst)
        if num_nodes is None:
            num_nodes = most + 1
        if least < 0:
            raise ValueError(f"TemporalGraph.from_events: src and dst must be >= 0, got {least}")
        if most >= num_nodes:
            raise ValueError(f"TemporalGraph.from_events: src and dst must be below num_nodes={num_nodes}, got {most}")
        if id_dtype is None:
            id_dtype = _id_dtype(num_nodes, len(src))
        elif id_dtype not in (torch.int32, torch.int64):
            raise TypeError(f"TemporalGraph.from_events: id_dtype must be int32 or int64, got {id_dtype}")
        elif id_dtype == torch.int32 and _id_dtype(num_nodes, len(src)) != torch.int32:
            given = f"{num_nodes} nodes and {len(src)} events"
            raise ValueError(f"TemporalGraph.from_events: id_dtype must be int64 for {given}, got {id_dtype}")
        arrays = tcsr_build(src, dst, t, num_nodes, add_reverse, id_dtype == torch.int64)
        return cls(*arrays, num_events=len(src), add_reverse=add_reverse)

    @property
    def device(self) -> torch.device:
        return self.t.device

    @property
    def num_entries(self) -> int:
        """M: entries in all rows."""
        view = self.view
        return int((view.row_end - view.row_start).sum()) if view.indptr is None else view.nbr.shape[0]

    @property
    def indptr(self) -> Tensor:
        """int64 `[N + 1]`. After `append` rows have slack between them: `compact()` first."""
        if (indptr := self.view.indptr) is None:
            raise ValueError(
                "TemporalGraph: indptr must be asked of a compact graph, got one with slack; use compact()"
            )
        return indptr

    def __repr__(self) -> str:
        return (
            f"TemporalGraph(num_nodes={self.num_nodes}, num_events={self.num_events}, entries={self.num_entries}, "
            f"t={_name(self.t.dtype)}, ids={_name(self.nbr.dtype)}, device={self.device})"
        )

    def to(self, device: torch.device | str) -> TemporalGraph:
        """The graph with all its arrays on `device`."""
        if torch.device(device) == self.device:
            return self
        view = self.compact().view
        arrays = (getattr(view, name).to(device) for name in _ARRAYS)
        return TemporalGraph(*arrays, num_events=view.num_events, add_reverse=self.add_reverse)

    def compact(self) -> TemporalGraph:
        """The graph without slack between rows: itself if there is none."""
        view = self.view
        if view.indptr is not None:
            return self
        length = view.row_end - view.row_start
        indptr = torch.zeros(len(length) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(length, 0, out=indptr[1:])
        at = _positions(view.row_start, length)
        arrays = (view.nbr[at], view.eid[at], view.t[at])
        return TemporalGraph(indptr, *arrays, num_events=view.num_events, add_reverse=self.add_reverse)

    # --- streams ------------------------------------------------------------------------------------------------------

    def append(self, src: Any, dst: Any, t: Any) -> None:
        """Add events in place; they get the ids `num_events`, `num_events + 1`, ...

        A row without room moves to the end of the arrays with twice its size, so that the cost is O(1) an event, amortised.
        New node ids grow the graph. With one thread on a server CPU, for 10 thousand and for 1 million nodes: 4,000 events/s
        one at a time with either, 440,000 and 180,000 in batches of 200, 1.6 and 0.3 million in batches of 10,000.

        Threads: other threads may sample meanwhile. Each call to `temporal_sample` reads one view of the graph, with all events
        of an `append` or none of them; it takes no lock and waits for nobody. Entries of a view are never moved or overwritten:
        new ones are written past its rows' ends, then a new view is published by one assignment. Its row table is that of
        the view before, once nobody reads it, and a copy until then. Writers take turns. (On CUDA: on one stream.)

        Args:
            src: Node ids, integers `[n]`, at least 0.
            dst: Likewise.
            t: Times `[n]` in non-decreasing order, none before the graph's last event.

        Raises:
            TypeError: A dtype is wrong; float times do not go into a graph with integer times.
            ValueError: Shapes differ, an id is negative, or time runs backwards. The graph is then unchanged.
        """
        src, dst, t = _events("TemporalGraph.append", src, dst, t)
        src, dst, t = src.to(self.device), dst.to(self.device), t.to(self.device)
        if t.dtype != self.t.dtype:
            if t.dtype == torch.float64:
                raise TypeError("TemporalGraph.append: t must be integers like the graph's times, got torch.float64")
            t = t.to(self.t.dtype)
        if len(src) == 0:
            return
        if (least := int(torch.minimum(src.min(), dst.min()))) < 0:
            raise ValueError(f"TemporalGraph.append: src and dst must be >= 0, got {least}")
        if bool((t[1:] < t[:-1]).any()):
            i = int((t[1:] < t[:-1]).nonzero()[0])
            given = f"{t[i + 1].item()} after {t[i].item()}"
            raise ValueError(f"TemporalGraph.append: t must be non-decreasing, got {given} at position {i + 1}")
        with self._writing:
            last = self.last_time
            if last is not None and t[0].item() < last:
                given = f"{t[0].item()} after {last}"
                raise ValueError(f"TemporalGraph.append: t must not be earlier than the last event, got {given}")
            try:
                self._append(src, dst, t)
            except BaseException:
                # an interrupt, no memory: what readers see is whole, what the writer knows is not
                self._table = self._room = None
                self._used = len(self.view.nbr)
                raise

    @property
    def last_time(self) -> int | float | None:
        """Time of the latest event, None without events."""
        view = self.view
        if self._last_time is None and view.num_events:
            some = view.row_end > view.row_start
            self._last_time = view.t[view.row_end[some] - 1].max().item()
        return self._last_time

    def _append(self, src: Tensor, dst: Tensor, t: Tensor) -> None:
        first, n, last_time = self.num_events, len(src), t[-1].item()
        eid = torch.arange(first, first + n, device=self.device)
        node, nbr = src, dst
        if self.add_reverse:
            back = src != dst
            node, nbr = torch.cat([src, dst[back]]), torch.cat([dst, src[back]])
            eid, t = torch.cat([eid, eid[back]]), torch.cat([t, t[back]])
        order = (node * n + (eid - first)).argsort()
        node, nbr, eid, t = node[order], nbr[order], eid[order], t[order]
        rows, count = node.unique_consecutive(return_counts=True)

        num_nodes = max(self.num_nodes, int(rows[-1]) + 1)
        table = self._unread_table(num_nodes)
        arrays, all_moved = self._make_room(table, rows, count, _id_dtype(num_nodes, first + n))
        at = _positions(table[1, rows], count)
        for array, new in zip(arrays, (nbr, eid, t), strict=True):
            array[at] = new.to(array.dtype)
        table[1, rows] += count
        self._publish(table, num_nodes, arrays, first + n, None if all_moved else rows)
        self._last_time = last_time

    def truncate(self, num_events: int) -> None:
        """Take back the newest events, in place, down to `num_events`; nodes stay. Only events that `append` added.

        O(N). Threads that sample meanwhile see the graph before or after. Rows that were cut get new space at their next event;
        what they leave is collected when the arrays next grow.

        Raises:
            ValueError: `num_events` is not between the number of events before the first `append` and the number now.
        """
        with self._writing:
            view = self.view
            if not self._fixed <= num_events <= view.num_events:
                expected = f"between {self._fixed} (events not added by append) and {view.num_events}"
                raise ValueError(f"TemporalGraph.truncate: num_events must be {expected}, got {num_events}")
            if num_events == view.num_events:
                return
            table = self._unread_table(self.num_nodes)
            start, end = table[0, : self.num_nodes], table[1, : self.num_nodes]
            rows = (end > start).nonzero().squeeze(1)
            rows = rows[view.eid[end[rows] - 1] >= num_events]
            low, high = start[rows], end[rows]
            # the events taken back come last in their row: those of `append` lie in the order of their ids, after all others
            while bool((open_ := low < high).any()):
                middle = (low + high) >> 1
                keep = (view.eid[middle.clamp(max=len(view.eid) - 1)] < num_events) & open_
                low, high = torch.where(keep, middle + 1, low), torch.where(keep, high, middle)
            table[1, rows] = low
            assert self._room is not None
            self._room[rows] = low  # a reader of an older view may still look at what lies beyond
            self._publish(table, self.num_nodes, (view.nbr, view.eid, view.t), num_events, rows)
            self._last_time = None

    def _unread_table(self, num_nodes: int) -> Tensor:
        """The row table as published, with at least `num_nodes` rows, in memory that nobody reads."""
        view, spare = self.view, self._spare
        self._spare = None  # should anything fail below, its rows are no longer known
        if self._table is None or self._room is None:
            # no slack so far; the arrays may be somebody else's or a read-only map, so get our own
            self._table, self._room = torch.stack([view.row_start, view.row_end]), view.row_end.clone()
        elif spare is not None and spare.table.shape[1] >= num_nodes and spare.is_free():
            spare.table[:, spare.stale] = self._table[:, spare.stale]
            return spare.table
        size = self._table.shape[1]
        if num_nodes > size:
            size = max(num_nodes, 2 * size)
        table = _grown(self._table, size)
        if size > len(self._room):
            self._room = _grown(self._room, size)
        return table

    def _make_room(
        self, table: Tensor, rows: Tensor, count: Tensor, dtype: torch.dtype
    ) -> tuple[tuple[Tensor, ...], bool]:
        """Give `rows` (sorted) of `table` space for `count` more entries each; the arrays, and whether all rows moved."""
        assert self._room is not None
        view, used = self.view, self._used
        arrays: tuple[Tensor, ...] = (view.nbr, view.eid, view.t)
        if dtype == torch.int64 and view.nbr.dtype == torch.int32:
            arrays = (view.nbr.to(dtype), view.eid.to(dtype), view.t)
        need = table[1, rows] - table[0, rows] + count
        short = table[0, rows] + need > self._room[rows]
        moved, room = rows[short], 2 * need[short]
        old, move_all = arrays, False
        if used + int(room.sum()) > len(arrays[0]):
            length = table[1] - table[0]
            if used > 8 * int(length.sum()):  # nearly all is what cut rows have left: gather every row
                move_all, used = True, 0
                length[rows] = need
                moved, room = torch.arange(len(length), device=self.device), 2 * length
                arrays = tuple(a.new_zeros(2 * int(room.sum())) for a in arrays)
            else:
                size = max(used + int(room.sum()), 2 * len(arrays[0]))
                arrays = tuple(_grown(a, size, used) for a in arrays)
        start = table[0, moved]
        length = table[1, moved] - start
        new_start = used + room.cumsum(0) - room
        at, to = _positions(start, length), _positions(new_start, length)
        for source, target in zip(old, arrays, strict=True):
            target[to] = source[at]
        table[0, moved], table[1, moved], self._room[moved] = new_start, new_start + length, new_start + room
        self._used = used + int(room.sum())
        return arrays, move_all

    def _publish(
        self,
        table: Tensor,
        num_nodes: int,
        arrays: tuple[Tensor, ...],
        num_events: int,
        changed: Tensor | None,
    ) -> None:
        """Show readers `table`, in which the rows `changed` (None: all) are new."""
        old, behind = self.view, self._table
        nbr, eid, t = arrays
        self.view = GraphView(table[0, :num_nodes], table[1, :num_nodes], nbr, eid, t, None, num_events)
        self._table = table
        if changed is not None and behind is not None and old.indptr is None:
            self._spare = _Spare(behind, changed)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the arrays and a header to `folder`. The header is written last and by renaming, so that a reader finds the old
        graph or the new one, whenever the writer stops."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        packed = self.compact().view
        token = secrets.token_hex(4)
        header: dict[str, Any] = {
            **_FORMAT,
            "num_events": packed.num_events,
            "add_reverse": self.add_reverse,
            "arrays": {},
        }
        for name in _ARRAYS:
            array = getattr(packed, name).cpu().numpy()
            file = f"{name}-{token}.npy"
            with open(path / file, "wb") as f:
                np.save(f, array)
                f.flush()
                os.fsync(f.fileno())
            header["arrays"][name] = {"file": file, "dtype": str(array.dtype), "length": len(array)}
        temporary = path / f".{_HEADER}-{token}"
        with open(temporary, "w", encoding="utf-8") as f:
            json.dump(header, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path / _HEADER)
        for name in _ARRAYS:
            for old in path.glob(f"{name}-*.npy"):
                if token not in old.name:
                    old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TemporalGraph:
        """Map the arrays that `save` wrote: nothing is read until it is used, and changes stay private.

        Raises:
            ValueError: The folder holds no graph, or header and arrays disagree.
        """
        path = Path(folder)

        def bad(expected: str, given: object) -> ValueError:
            return ValueError(f"TemporalGraph.load: {path} must {expected}, got {given}")

        try:
            header = json.loads((path / _HEADER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise bad(f"hold {_HEADER}", "none") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise bad(f"hold JSON in {_HEADER}", error) from None
        if not isinstance(header, dict) or {k: header.get(k) for k in _FORMAT} != _FORMAT:
            raise bad(f"say {_FORMAT} in {_HEADER}", str(header)[:100])
        arrays: dict[str, Tensor] = {}
        try:
            num_events, add_reverse = int(header["num_events"]), bool(header["add_reverse"])
            for name in _ARRAYS:
                want = header["arrays"][name]
                file = path / Path(want["file"]).name
                # mode "c": private pages, so that torch may treat the array as writable
                array = np.load(file, mmap_mode="c", allow_pickle=False)
                if array.dtype != want["dtype"] or array.shape != (want["length"],):
                    expected = f"hold {want['dtype']} [{want['length']}] in {file.name}"
                    raise bad(expected, f"{array.dtype} {list(array.shape)}")
                arrays[name] = torch.from_numpy(array)
        except (KeyError, TypeError) as error:
            raise bad(f"name its arrays in {_HEADER}", repr(error)) from None
        except (OSError, EOFError) as error:
            raise bad("hold the files that its header names", error) from None
        except ValueError as error:
            if str(error).startswith("TemporalGraph.load"):
                raise
            raise bad("hold complete files", error) from None
        indptr, nbr, eid, t = (arrays[name] for name in _ARRAYS)
        if indptr.dtype != torch.int64 or t.dtype not in (torch.int64, torch.float64):
            raise bad("hold indptr int64 and t int64 or float64", f"{indptr.dtype} and {t.dtype}")
        if nbr.dtype not in (torch.int32, torch.int64) or eid.dtype != nbr.dtype:
            raise bad("hold nbr and eid both int32 or both int64", f"{nbr.dtype} and {eid.dtype}")
        if not len(nbr) == len(eid) == len(t):
            raise bad("hold nbr, eid and t of one length", f"{len(nbr)}, {len(eid)} and {len(t)}")
        # the sampler trusts indptr
        if len(indptr) < 1 or indptr[0] != 0 or indptr[-1] != len(nbr) or bool((indptr[1:] < indptr[:-1]).any()):
            raise bad("hold an indptr that rises from 0 to the number of entries", "another one")
        return cls(indptr, nbr, eid, t, num_events=num_events, add_reverse=add_reverse)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _id_dtype(num_nodes: int, num_events: int) -> torch.dtype:
    return torch.int32 if max(num_nodes, num_events) <= _INT32_MAX else torch.int64


def _id_range(src: Tensor, dst: Tensor) -> tuple[int, int]:
    if len(src) == 0:
        return 0, -1
    low, high = zip(*(torch.aminmax(x) for x in (src, dst)), strict=True)
    return int(min(low)), int(max(high))


def _tensor(what: str, name: str, x: Any) -> Tensor:
    if isinstance(x, np.ndarray) and x.dtype.kind == "u":
        x = x.astype(np.int64)
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what}: {name} must be a tensor or array of numbers, got {type(x).__name__}") from error
    if x.dim() != 1:
        raise ValueError(f"{what}: {name} must be [E], got {list(x.shape)}")
    if x.dtype == torch.bool or x.dtype.is_complex:
        raise TypeError(f"{what}: {name} must be numbers, got {x.dtype}")
    return x


def _events(what: str, src: Any, dst: Any, t: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Checked, contiguous: int64 ids, int64 or float64 times."""
    ids = []
    for name, x in (("src", src), ("dst", dst)):
        x = _tensor(what, name, x)
        if x.dtype.is_floating_point and x.numel():
            raise TypeError(f"{what}: {name} must be integers, got {x.dtype}")
        ids.append(x.to(torch.int64).contiguous())
    time = _tensor(what, "t", t)
    for name, x in (("dst", ids[1]), ("t", time)):
        if len(x) != len(ids[0]):
            raise ValueError(f"{what}: {name} must be [{len(ids[0])}] like src, got [{len(x)}]")
    time = time.to(torch.float64 if time.dtype.is_floating_point else torch.int64).contiguous()
    if time.dtype == torch.float64 and not bool(torch.isfinite(time).all()):
        i = int((~torch.isfinite(time)).nonzero()[0])
        raise ValueError(f"{what}: t must be finite, got {time[i].item()} at position {i}")
    return ids[0], ids[1], time


def _positions(start: Tensor, length: Tensor) -> Tensor:
    """start[0], start[0] + 1, ... (length[0] of them), start[1], ..."""
    first = start - (length.cumsum(0) - length)
    return torch.repeat_interleave(first, length) + torch.arange(int(length.sum()), device=start.device)


def _grown(a: Tensor, size: int, used: int | None = None) -> Tensor:
    """A copy with `size` places in the last dimension, of which the first `used` (all) are filled."""
    used = a.shape[-1] if used is None else used
    out = a.new_zeros(*a.shape[:-1], size)
    out[..., :used] = a[..., :used]
    return out
