"""Lists of negative destinations, one list a query and each of its own length: made, written, read, checked."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import DataError, TemporalEvents, numpy_reason
from gnnaccel.data.negatives import NegativeSampler

__all__ = ["RaggedNegatives", "draw_negatives", "read_negatives", "write_negatives"]

FORMAT = "gnnaccel-negatives-1"
REMEDY = "write one with gnnaccel data negatives"
_CHUNK = 1 << 20  # draws worked on at once


@dataclass(frozen=True, eq=False)
class RaggedNegatives:
    """Candidates of each query, in CSR form: those of query i are `ids[indptr[i]:indptr[i + 1]]`.

    Attributes:
        indptr: int64 `[n + 1]`, from 0 to `len(ids)`, never decreasing.
        ids: Node ids, int64 `[total]`.
    """

    indptr: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        for name in ("indptr", "ids"):
            x = getattr(self, name)
            if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.dim() != 1:
                given = f"{x.dtype}{list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(f"RaggedNegatives: {name} must be an int64 vector, got {given}")
        p = self.indptr
        if len(p) == 0 or p[0] != 0 or p[-1] != len(self.ids) or bool((p[1:] < p[:-1]).any()):
            ends = f"{p[0]}..{p[-1]}" if len(p) else "nothing"
            raise ValueError(
                f"RaggedNegatives: indptr must never decrease, from 0 to the number of ids ({len(self.ids)}), got {ends}"
                + (" with a step down" if len(p) and bool((p[1:] < p[:-1]).any()) else "")
            )

    @classmethod
    def from_lists(cls, lists: Iterable[Iterable[int]]) -> RaggedNegatives:
        """From one sequence of ids a query."""
        rows = [np.asarray(x, dtype=np.int64).reshape(-1) for x in lists]
        indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
        ids = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return cls(torch.from_numpy(indptr), torch.from_numpy(ids))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def counts(self) -> Tensor:
        """Candidates of each query, int64 `[n]`."""
        return self.indptr[1:] - self.indptr[:-1]

    def part(self, start: int, stop: int) -> RaggedNegatives:
        """Queries [start, stop); their ids are a view."""
        p = self.indptr[start : stop + 1]
        return RaggedNegatives(p - p[0], self.ids[int(p[0]) : int(p[-1])])

    def check(self, events: TemporalEvents, part: slice, source: str = "negatives") -> None:
        """Raise `DataError` unless these can be the negatives of events `part`, one list an event, none of them empty."""
        n = part.stop - part.start
        if len(self) != n:
            raise DataError(None, f"{source}: {len(self):,} lists, but there are {n:,} events to judge")
        if n and int(self.counts.min()) == 0:
            raise DataError(None, f"{source}: query {int(self.counts.argmin())} has an empty list")
        if len(self.ids) and not (int(self.ids.min()) >= 0 and int(self.ids.max()) < events.num_nodes):
            bad = int(self.ids.min()) if int(self.ids.min()) < 0 else int(self.ids.max())
            raise DataError(None, f"{source}: node {bad} is not one of the {events.num_nodes:,} nodes of {events.name}")
        true = events.dst[part].repeat_interleave(self.counts)
        hit = (self.ids == true).nonzero()
        if len(hit):
            query = int(torch.searchsorted(self.indptr, hit[0, 0], right=True)) - 1
            raise DataError(None, f"{source}: the true destination of query {query} is among its own negatives")


def draw_negatives(
    events: TemporalEvents, part: slice, *, count: int = 100, historical: float = 0.5, seed: int = 0
) -> RaggedNegatives:
    """Lists in the manner of TGB: distinct, a share of them former destinations of the source, the rest at random.

    Args:
        events: The stream.
        part: Which of its events are the queries.
        count: Candidates a query, at most: a query has fewer where the stream has fewer destinations to offer.
        historical: Share of them drawn from what the source interacted with before the event; repeated draws are made up for
            by random ones, so a source with a short history has fewer, as in TGB.
        seed: 64 bits. The list of an event depends on the seed and that event alone.

    TGB's own lists know the history of the training part only; here history ends at the event, see `NegativeSampler`.
    """
    if count < 1:
        raise ValueError(f"draw_negatives: count must be >= 1, got {count}")
    if not 0 <= historical <= 1:
        raise ValueError(f"draw_negatives: historical must be in [0, 1], got {historical}")
    old = int(count * historical)
    random = NegativeSampler(events, strategy="random", seed=seed)
    past = NegativeSampler(events, strategy="historical", seed=seed) if old else None
    width = old + 2 * count  # twice as many random ones as may be needed: repeats are dropped
    rows, sizes = [], []
    step = max(1, _CHUNK // width)
    for start in range(part.start, part.stop, step):
        chunk = slice(start, min(start + step, part.stop))
        drawn = random.sample(chunk, n=2 * count).numpy()
        if past is not None:
            drawn = np.concatenate([past.sample(chunk, n=old).numpy(), drawn], axis=1)
        keep = _first_of_each(drawn)
        keep &= keep.cumsum(1) <= count
        rows.append(drawn[keep])
        sizes.append(keep.sum(1))
    sizes = np.concatenate(sizes) if sizes else np.empty(0, np.int64)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ids = np.concatenate(rows) if rows else np.empty(0, np.int64)
    return RaggedNegatives(torch.from_numpy(indptr), torch.from_numpy(ids))


def _first_of_each(x: np.ndarray) -> np.ndarray:
    """Which entries of each row have no equal before them in it, bool like `x`."""
    order = np.argsort(x, axis=1, kind="stable")
    ranked = np.take_along_axis(x, order, 1)
    new = np.ones(x.shape, bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, 1)
    return first


def write_negatives(path: str | Path, negatives: RaggedNegatives, events: TemporalEvents, part: slice) -> None:
    """Write lists as an npz that anyone can read.

    Query i is `src[i]`, `dst[i]` at `t[i]`, to be ranked against `ids[indptr[i]:indptr[i + 1]]`. Ids are the original ones of
    the data. Written beside its place and renamed.
    """
    negatives.check(events, part)
    path = Path(path)
    names = np.arange(events.num_nodes) if events.node_ids is None else events.node_ids
    arrays = {
        "format": np.array(FORMAT),
        "indptr": negatives.indptr.numpy(),
        "ids": names[negatives.ids.numpy()],
        "src": names[events.src[part].numpy()],
        "dst": names[events.dst[part].numpy()],
        "t": events.t[part].numpy(),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_negatives(path: str | Path, events: TemporalEvents, part: slice) -> RaggedNegatives:
    """Read lists for events `part`: an npz as of `write_negatives`; only `indptr` and `ids` are required of it.

    Raises:
        DataError: No such file, not such an npz, an id that the data does not have, queries (`src`, `dst`, `t`, if there)
            that are not these events, another number of them, an empty list, or a list with its own true destination.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        with open(path, "rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it holds a single array")
            arrays = {k: file[k] for k in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(path, f"not a readable npz of lists ({numpy_reason(error)})", REMEDY) from None
    for name in ("indptr", "ids"):
        if name not in arrays:
            raise DataError(path, f"has no {name!r}, only {', '.join(sorted(arrays)) or 'nothing'}")
    if "format" in arrays and str(arrays["format"]) != FORMAT:
        raise DataError(
            path, f"has format {str(arrays['format'])!r}, this version reads {FORMAT!r}", "upgrade gnnaccel"
        )
    if arrays["indptr"].ndim != 1 or arrays["indptr"].dtype.kind not in "iu":
        raise DataError(path, f"indptr must be integers [n + 1], got {_shape(arrays['indptr'])}")
    if arrays["ids"].ndim != 1 or arrays["ids"].dtype.kind not in "iuU":
        raise DataError(path, f"ids must be integers or text [total], got {_shape(arrays['ids'])}")
    try:
        indptr = torch.from_numpy(arrays["indptr"].astype(np.int64))
        negatives = RaggedNegatives(indptr, _lookup(events, arrays["ids"], "dst"))
        _same_queries(path, arrays, events, part)
    except KeyError as error:
        raise DataError(path, str(error.args[0]).removeprefix("lookup: ")) from None
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(path, str(error)) from None
    negatives.check(events, part, source=str(path))
    return negatives


def _lookup(events: TemporalEvents, ids: np.ndarray, side: str) -> Tensor:
    unique, inverse = np.unique(ids, return_inverse=True)  # millions of ids, thousands of nodes
    return events.lookup(unique, side=side)[torch.from_numpy(inverse.reshape(-1))]


def _same_queries(path: Path, arrays: dict[str, np.ndarray], events: TemporalEvents, part: slice) -> None:
    n = part.stop - part.start
    for name in ("src", "dst", "t"):
        if name not in arrays:
            continue
        ours = getattr(events, name)[part]
        theirs = torch.from_numpy(arrays[name]) if name == "t" else _lookup(events, arrays[name], name)
        if len(theirs) != n:
            raise DataError(
                path, f"{len(theirs):,} queries, but there are {n:,} events to judge", "is it the other split?"
            )
        differing = (theirs != ours).nonzero()
        if len(differing):
            i = int(differing[0, 0])
            raise DataError(
                path, f"query {i} is not event {part.start + i} of {events.name}: {name} differs", "other data?"
            )


def _shape(x: np.ndarray) -> str:
    return f"{x.dtype}{list(x.shape)}"
