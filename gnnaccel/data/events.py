"""`TemporalEvents`: a stream of time-stamped interactions in memory, and the one error every reader raises."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["DataError", "TemporalEvents"]


class DataError(ValueError):
    """Data that cannot be used, told in one line: file, row, what is wrong, what to do.

    Attributes:
        path: The file or folder, None for data in memory.
        row: 1-based number of the data row (the header and empty lines are not counted), None when no single row is at fault.
    """

    def __init__(self, path: str | Path | None, problem: str, remedy: str | None = None, row: int | None = None):
        self.path = None if path is None else str(path)
        self.row = row
        # A stray quote makes a value of half the file
        problem = problem if len(problem) <= 240 else problem[:180] + " ... " + problem[-55:]
        parts = [str(x) for x in (path,) if x is not None] + ([f"row {row}"] if row is not None else [])
        text = ": ".join([*parts, problem]) + (f"; {remedy}" if remedy else "")
        super().__init__(" ".join(text.split()))


def numpy_reason(error: Exception) -> str:
    """Why NumPy could not read a file. Its own words advise to load pickled objects, which runs code from the file."""
    text = " ".join(str(error).split())
    return "no NumPy file, or one with pickled objects, which are never loaded" if "pickle" in text.lower() else text


def _expect(ok: bool, arg: str, expected: str, given: Any) -> None:
    if not ok:
        raise ValueError(f"TemporalEvents: {arg} must be {expected}, got {given}")


def _shape(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
    return type(x).__name__


@dataclass(frozen=True, eq=False, repr=False)
class TemporalEvents:
    """E interactions in time order between `num_nodes` nodes with contiguous ids.

    Event i is `src[i] -> dst[i]` at `t[i]`; its position is its event id everywhere in gnnaccel. All tensors are on the CPU.
    Construction checks everything below and raises ValueError naming the field.

    Attributes:
        name: What to call the data in tables and logs.
        src, dst: int64 [E], ids in [0, num_nodes).
        t: int64 [E] or float64 [E], finite, never decreasing. Never float32: it cannot hold Unix seconds.
        label: A number for each event [E], or None.
        edge_feat: Floating [E, De] or None; may be memory-mapped (`torch.from_numpy` of a copy-on-write `np.memmap`).
        node_feat: Floating [num_nodes, Dn] or None.
        num_nodes: Number of nodes; -1 means the largest id + 1.
        node_ids: Original id of each node, int64 or str array [num_nodes]; None means the ids are their own.
            In a bipartite stream whose users and items were numbered separately an original id may occur twice.
        bipartite: No node is both a source and a destination.
        time_unit: Such as "s" or "days", None when unknown. Nothing is computed from it.
    """

    name: str
    src: Tensor
    dst: Tensor
    t: Tensor
    label: Tensor | None = None
    edge_feat: Tensor | None = None
    node_feat: Tensor | None = None
    num_nodes: int = -1
    node_ids: np.ndarray | None = None
    bipartite: bool = False
    time_unit: str | None = None

    def __post_init__(self) -> None:
        for arg in ("src", "dst"):
            x = getattr(self, arg)
            _expect(
                isinstance(x, Tensor) and x.dtype == torch.int64 and x.dim() == 1, arg, "an int64 tensor [E]", _shape(x)
            )
        t, n = self.t, len(self.src)
        ok = isinstance(t, Tensor) and t.dtype in (torch.int64, torch.float64) and t.dim() == 1
        _expect(ok, "t", "an int64 or float64 tensor [E]", _shape(t))
        _expect(len(self.dst) == n, "dst", f"as long as src ({n})", len(self.dst))
        _expect(len(t) == n, "t", f"as long as src ({n})", len(t))
        if self.num_nodes == -1:
            object.__setattr__(self, "num_nodes", 1 + int(max(self.src.max(), self.dst.max())) if n else 0)
        N = self.num_nodes
        _expect(isinstance(N, int) and N >= 0, "num_nodes", "an int >= 0", N)
        if n:
            for arg in ("src", "dst"):
                lo, hi = (int(x) for x in getattr(self, arg).aminmax())
                _expect(lo >= 0 and hi < N, arg, f"ids in [0, {N})", f"{lo}..{hi}")
            _expect(bool(torch.isfinite(t).all()), "t", "finite", "NaN or infinity")
            _expect(bool((t[1:] >= t[:-1]).all()), "t", "in time order", "a time before the one of the event before it")
        if self.label is not None:
            x = self.label
            _expect(isinstance(x, Tensor) and x.shape == (n,), "label", f"a tensor [{n}]", _shape(x))
        for arg, rows in (("edge_feat", n), ("node_feat", N)):
            x = getattr(self, arg)
            if x is not None:
                ok = isinstance(x, Tensor) and x.is_floating_point() and x.dim() == 2 and len(x) == rows
                _expect(ok, arg, f"a floating tensor with {rows} rows", _shape(x))
        if self.node_ids is not None:
            x = self.node_ids
            ok = isinstance(x, np.ndarray) and (x.dtype == np.int64 or x.dtype.kind == "U")
            _expect(ok, "node_ids", "an int64 or str array", getattr(x, "dtype", type(x).__name__))
            _expect(x.shape == (N,), "node_ids", f"of shape ({N},)", x.shape)
        if self.bipartite and n:
            both = self._seen(self.src) & self._seen(self.dst)
            _expect(not bool(both.any()), "bipartite", "False when a node is both source and destination", True)

    def _seen(self, ids: Tensor) -> Tensor:
        seen = torch.zeros(self.num_nodes, dtype=torch.bool)
        seen[ids] = True
        return seen

    def __len__(self) -> int:
        return len(self.src)

    def __repr__(self) -> str:
        feat = "".join(f", {k}={_shape(x)}" for k in ("edge_feat", "node_feat") if (x := getattr(self, k)) is not None)
        kind = ", bipartite" if self.bipartite else ""
        return (
            f"TemporalEvents({self.name!r}: {len(self)} events, {self.num_nodes} nodes{kind}, t={_shape(self.t)}{feat})"
        )

    @cached_property
    def destinations(self) -> Tensor:
        """Ids that occur as a destination, ascending, int64 [D]: the pool that negatives are drawn from."""
        return self._seen(self.dst).nonzero().squeeze(1)

    def slice(self, start: int | builtins.slice, stop: int | None = None) -> TemporalEvents:
        """Events [start, stop) as views of the same memory, same nodes. Event ids of the result count from its own start."""
        s = start if isinstance(start, builtins.slice) else builtins.slice(start, stop)
        if s.step not in (None, 1):
            raise ValueError(f"slice: step must be 1, got {s.step}")
        cut = {k: None if (x := getattr(self, k)) is None else x[s] for k in ("src", "dst", "t", "label", "edge_feat")}
        return replace(self, **cut)

    def lookup(self, ids: Any, side: str | None = None) -> Tensor:
        """Contiguous ids of original ids.

        Args:
            ids: Original ids, integers or strings [n].
            side: "src" or "dst" looks among sources or destinations only, for streams that number them separately.

        Raises:
            KeyError: An id does not occur; names the first.
            ValueError: `side` is missing but the original ids are not unique.
        """
        if side not in (None, "src", "dst"):
            raise ValueError(f"lookup: side must be 'src', 'dst' or None, got {side!r}")
        names = np.arange(self.num_nodes) if self.node_ids is None else self.node_ids
        nodes = np.arange(self.num_nodes)
        if side is not None and self.bipartite:
            nodes = self._seen(self.src if side == "src" else self.dst).nonzero().squeeze(1).numpy()
            names = names[nodes]
        want = np.asarray(ids)
        if names.dtype.kind == "U":
            want = want.astype(str)
        elif want.dtype.kind not in "iu":
            try:
                want = want.astype(str).astype(np.int64)
            except (ValueError, OverflowError):
                given = want.reshape(-1)[:1].tolist()[0]  # as the user wrote it, not as NumPy's scalar
                raise KeyError(f"lookup: the original ids of {self.name} are integers, got {given!r}") from None
        order = np.argsort(names, kind="stable")
        ranked = names[order]
        if side is None and len(ranked) > 1 and bool((ranked[1:] == ranked[:-1]).any()):
            raise ValueError(
                f"lookup: side must be 'src' or 'dst': {self.name} numbers sources and destinations separately"
            )
        pos = np.searchsorted(ranked, want)
        hit = pos < len(ranked)
        hit &= ranked[np.minimum(pos, len(ranked) - 1)] == want if len(ranked) else False
        if not hit.all():
            raise KeyError(f"lookup: no node with id {want[~hit].flat[0]!s} in {self.name}")
        return torch.from_numpy(nodes[order[pos]].astype(np.int64))

    def summary(self) -> dict[str, Any]:
        """Counts that describe the stream: sizes, time range, ties, self-loops, repeats, degrees, features. O(E log E)."""
        E, N = len(self), self.num_nodes
        src, dst, t = self.src.numpy(), self.dst.numpy(), self.t.numpy()
        degree = np.bincount(src, minlength=N) + np.bincount(dst, minlength=N)
        new_t = np.ones(E, bool)
        new_t[1:] = t[1:] != t[:-1]
        pair = src * max(N, 1) + dst
        order = np.lexsort((np.cumsum(new_t), pair))
        same = (pair[order][1:] == pair[order][:-1]) & (np.cumsum(new_t)[order][1:] == np.cumsum(new_t)[order][:-1])
        pairs = len(np.unique(pair))
        live = degree[degree > 0]
        q = (lambda p: int(np.quantile(live, p, method="lower"))) if len(live) else (lambda p: 0)
        return {
            "name": self.name,
            "nodes": N,
            "sources": int(np.count_nonzero(np.bincount(src, minlength=N))),
            "destinations": len(self.destinations),
            "events": E,
            "bipartite": self.bipartite,
            "time_dtype": str(self.t.dtype).removeprefix("torch."),
            "time_unit": self.time_unit,
            "t_min": self.t[0].item() if E else None,
            "t_max": self.t[-1].item() if E else None,
            "distinct_times": int(new_t.sum()),
            "tied_events": int(E - new_t.sum()),
            "self_loops": int((src == dst).sum()),
            "repeated_events": int(same.sum()),
            "distinct_pairs": pairs,
            "repeated_pairs": E - pairs,
            "edge_feat": None if self.edge_feat is None else self.edge_feat.shape[1],
            "node_feat": None if self.node_feat is None else self.node_feat.shape[1],
            "labels": None if self.label is None else int((self.label != 0).sum()),
            "degree_mean": float(degree.mean()) if N else 0.0,
            "degree_median": q(0.5),
            "degree_p99": q(0.99),
            "degree_max": q(1.0),
            "isolated_nodes": int(N - len(live)),
        }

    @classmethod
    def from_pyg(cls, data: Any, name: str = "pyg", time_unit: str | None = None) -> TemporalEvents:
        """From a `torch_geometric.data.TemporalData`: `msg` becomes `edge_feat`, `y` becomes `label`.

        Node ids are kept. Unsorted times are sorted, stably. float32 times become float64.
        """
        src, dst = (torch.as_tensor(x).cpu().long() for x in (data.src, data.dst))
        t = torch.as_tensor(data.t).cpu()
        t = t.double() if t.is_floating_point() else t.long()
        msg, y = getattr(data, "msg", None), getattr(data, "y", None)
        if msg is not None:
            msg = msg.cpu()
            msg = msg[:, None] if msg.dim() == 1 else msg
            msg = msg if msg.is_floating_point() else msg.float()
        y = None if y is None else y.cpu()
        if bool((t[1:] < t[:-1]).any()):
            order = torch.argsort(t, stable=True)
            src, dst, t = src[order], dst[order], t[order]
            msg, y = (None if x is None else x[order] for x in (msg, y))
        n = 1 + int(max(src.max(), dst.max())) if len(src) else 0
        n = max(n, int(getattr(data, "num_nodes", 0) or 0))
        seen = torch.zeros(2, n, dtype=torch.bool)
        seen[0, src], seen[1, dst] = True, True
        bipartite = bool(len(src)) and not bool((seen[0] & seen[1]).any())
        return cls(name, src, dst, t, y, msg, None, n, None, bipartite, time_unit)

    def to_pyg(self) -> Any:
        """As a `torch_geometric.data.TemporalData` (which has no place for node features or original ids)."""
        from torch_geometric.data import TemporalData

        extra = {k: x for k, x in (("msg", self.edge_feat), ("y", self.label)) if x is not None}
        return TemporalData(src=self.src, dst=self.dst, t=self.t, **extra)
