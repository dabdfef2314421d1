"""`TemporalGraph`: events by node and time."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gnnaccel.ops._tcsr import tcsr_build

_INT32_MAX = 2**31 - 1
_ARRAYS = ("indptr", "nbr", "eid", "t")
_HEADER = "temporal_graph.json"
_FORMAT = {"format": "gnnaccel.TemporalGraph", "version": 1}


class TemporalGraph:
    """Time-stamped events in rows, one a node, each sorted by (t, eid) (T-CSR; Zhou et al., TGL, VLDB 2022).

    Node n's events are the entries `row_start[n]` to `row_end[n]` of `nbr`, `eid` and `t`.

    Attributes:
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
        self.row_start, self.row_end = indptr[:-1], indptr[1:]
        self.nbr, self.eid, self.t = nbr, eid, t
        self.num_nodes, self.num_events, self.add_reverse = indptr.shape[0] - 1, num_events, add_reverse
        self._indptr: Tensor | None = indptr
        # once rows have slack, int64 [3, >= N]: start, end, and end of the space that each row owns
        self._rows: Tensor | None = None
        self._used = nbr.shape[0]
        self._last_time: int | float | None = None

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
        return self._used if self._indptr is not None else int((self.row_end - self.row_start).sum())

    @property
    def indptr(self) -> Tensor:
        """int64 `[N + 1]`. After `append` rows have slack between them: `compact()` first."""
        if self._indptr is None:
            raise ValueError(
                "TemporalGraph: indptr must be asked of a compact graph, got one with slack; use compact()"
            )
        return self._indptr

    def __repr__(self) -> str:
        return (
            f"TemporalGraph(num_nodes={self.num_nodes}, num_events={self.num_events}, entries={self.num_entries}, "
            f"t={_name(self.t.dtype)}, ids={_name(self.nbr.dtype)}, device={self.device})"
        )

    def to(self, device: torch.device | str) -> TemporalGraph:
        """The graph with all its arrays on `device`."""
        if torch.device(device) == self.device:
            return self
        packed = self.compact()
        arrays = (getattr(packed, name).to(device) for name in _ARRAYS)
        return TemporalGraph(*arrays, num_events=self.num_events, add_reverse=self.add_reverse)

    def compact(self) -> TemporalGraph:
        """The graph without slack between rows: itself if there is none."""
        if self._indptr is not None:
            return self
        length = self.row_end - self.row_start
        indptr = torch.zeros(self.num_nodes + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(length, 0, out=indptr[1:])
        at = _positions(self.row_start, length)
        arrays = (self.nbr[at], self.eid[at], self.t[at])
        return TemporalGraph(indptr, *arrays, num_events=self.num_events, add_reverse=self.add_reverse)

    # --- streams ------------------------------------------------------------------------------------------------------

    def append(self, src: Any, dst: Any, t: Any) -> None:
        """Add events in place; they get the ids `num_events`, `num_events + 1`, ...

        A row without room moves to the end of the arrays with twice its size, so that the cost is O(1) an event, amortised.
        New node ids grow the graph.

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
        n = len(src)
        if n == 0:
            return
        if (least := int(torch.minimum(src.min(), dst.min()))) < 0:
            raise ValueError(f"TemporalGraph.append: src and dst must be >= 0, got {least}")
        if self._last_time is None and self.num_events:
            self._last_time = self.t.max().item()
        if self._last_time is not None and t[0].item() < self._last_time:
            given = f"{t[0].item()} after {self._last_time}"
            raise ValueError(f"TemporalGraph.append: t must not be earlier than the last event, got {given}")
        if bool((t[1:] < t[:-1]).any()):
            i = int((t[1:] < t[:-1]).nonzero()[0])
            given = f"{t[i + 1].item()} after {t[i].item()}"
            raise ValueError(f"TemporalGraph.append: t must be non-decreasing, got {given} at position {i + 1}")

        eid = torch.arange(self.num_events, self.num_events + n, device=self.device)
        node, nbr = src, dst
        if self.add_reverse:
            back = src != dst
            node, nbr = torch.cat([src, dst[back]]), torch.cat([dst, src[back]])
            eid, t = torch.cat([eid, eid[back]]), torch.cat([t, t[back]])
        order = (node * n + (eid - self.num_events)).argsort()
        node, nbr, eid, t = node[order], nbr[order], eid[order], t[order]
        rows, count = node.unique_consecutive(return_counts=True)

        self._make_room(rows, count, max(self.num_nodes, int(rows[-1]) + 1), self.num_events + n)
        at = _positions(self.row_end[rows], count)
        self.nbr[at], self.eid[at], self.t[at] = nbr.to(self.nbr.dtype), eid.to(self.eid.dtype), t
        self.row_end[rows] += count
        self.num_events += n
        self._last_time = t.max().item()

    def _make_room(self, rows: Tensor, count: Tensor, num_nodes: int, num_events: int) -> None:
        """Give `rows` (sorted) space for `count` more entries each, and the graph `num_nodes` rows."""
        if self._rows is None:
            # no slack so far; the arrays may be somebody else's or a read-only map, so get our own
            self._set_rows(torch.stack([self.row_start, self.row_end, self.row_end]), self.num_nodes)
            self._indptr = None
        if num_nodes > self.num_nodes:
            rows_now = cast(Tensor, self._rows)
            if num_nodes > rows_now.shape[1]:
                more = rows_now.new_zeros(3, max(num_nodes, 2 * rows_now.shape[1]))
                more[:, : self.num_nodes] = rows_now[:, : self.num_nodes]
                rows_now = more
            self._set_rows(rows_now, num_nodes)
        dtype = _id_dtype(num_nodes, num_events)
        if dtype == torch.int64 and self.nbr.dtype == torch.int32:
            self.nbr, self.eid = self.nbr.to(dtype), self.eid.to(dtype)

        row_room = cast(Tensor, self._rows)[2]
        start, end = self.row_start[rows], self.row_end[rows]
        short = end + count > row_room[rows]
        rows, start, length = rows[short], start[short], (end - start)[short]
        room = 2 * (length + count[short])
        new_start = self._used + room.cumsum(0) - room
        used = self._used + int(room.sum())
        if used > len(self.nbr):
            size = max(used, 2 * len(self.nbr))
            self.nbr, self.eid, self.t = (_grown(a, self._used, size) for a in (self.nbr, self.eid, self.t))
        old, new = _positions(start, length), _positions(new_start, length)
        for a in (self.nbr, self.eid, self.t):
            a[new] = a[old]
        self.row_start[rows], self.row_end[rows], row_room[rows] = new_start, new_start + length, new_start + room
        self._used = used

    def _set_rows(self, rows: Tensor, num_nodes: int) -> None:
        self._rows, self.num_nodes = rows, num_nodes
        self.row_start, self.row_end = rows[0, :num_nodes], rows[1, :num_nodes]

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the arrays and a header to `folder`. The header is written last and by renaming, so that a reader finds the old
        graph or the new one, whenever the writer stops."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        packed = self.compact()
        token = secrets.token_hex(4)
        header: dict[str, Any] = {
            **_FORMAT,
            "num_events": self.num_events,
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


def _grown(a: Tensor, used: int, size: int) -> Tensor:
    out = a.new_zeros(size)
    out[:used] = a[:used]
    return out
