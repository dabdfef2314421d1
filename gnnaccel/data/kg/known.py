"""Which triples are true: the answers to (head, relation, ?) and (?, relation, tail), for filtered ranking and negatives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.kg._keys import distinct_rows, packs

if TYPE_CHECKING:
    from gnnaccel.data.kg.graph import Triples

__all__ = ["Answers", "KnownTriples"]

_SIDES = ("tail", "head")


class Answers(NamedTuple):
    """Known entities of a batch of queries: those of query b are `ids[offsets[b]:offsets[b + 1]]`, ascending, distinct.

    Attributes:
        offsets: int64 [B + 1].
        ids: int64 [M].
    """

    offsets: Tensor
    ids: Tensor


@dataclass(frozen=True, eq=False)
class _Side:
    """CSR over sorted keys `entity * R + relation`."""

    keys: Tensor
    indptr: Tensor
    ids: Tensor

    def span(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Start and stop of each key's row; an empty one for a key that is not there."""
        if len(self.keys) == 0:
            return torch.zeros_like(key), torch.zeros_like(key)
        at = torch.searchsorted(self.keys, key).clamp_(max=len(self.keys) - 1)
        start = self.indptr[at]
        return start, torch.where(self.keys[at] == key, self.indptr[at + 1], start)


class KnownTriples:
    """An index of distinct triples, by both sides: on each, 4 bytes for a triple and 16 for a distinct (entity, relation).

    Only integers are compared, so results are exact, and the same on any device and for any number of threads.

    Attributes:
        num_entities, num_relations: Bounds of the ids.
    """

    def __init__(self, tails: _Side, heads: _Side, num_entities: int, num_relations: int):
        self._sides = {"tail": tails, "head": heads}
        self.num_entities, self.num_relations = num_entities, num_relations

    @classmethod
    def build(cls, parts: Iterable[Triples], num_entities: int, num_relations: int) -> KnownTriples:
        """From triples that may repeat. O(T log T) time, O(T) memory.

        Raises:
            ValueError: An id is not below its bound.
        """
        parts = list(parts)
        if not packs(num_entities, num_relations):
            raise ValueError(f"KnownTriples: entities * relations must be < 2^63, got {num_entities} * {num_relations}")
        columns = []
        for arg, bound in (("head", num_entities), ("relation", num_relations), ("tail", num_entities)):
            x = [getattr(p, arg).cpu().numpy() for p in parts]
            x = np.concatenate(x) if x else np.empty(0, np.int64)
            if len(x) and int(x.max()) >= bound:
                raise ValueError(f"KnownTriples: {arg} must be in [0, {bound}), got {int(x.max())}")
            columns.append(x)
        head, relation, tail = columns
        small = np.int32 if num_entities <= 2**31 else np.int64
        sides = []
        for key, value in ((head, tail), (tail, head)):
            keys, indptr, ids = distinct_rows(key * num_relations + relation, value, num_entities)
            sides.append(_Side(*(torch.from_numpy(x) for x in (keys, indptr, ids.astype(small)))))
        return cls(sides[0], sides[1], num_entities, num_relations)

    def __len__(self) -> int:
        """Number of distinct triples."""
        return len(self._sides["tail"].ids)

    def __repr__(self) -> str:
        return f"KnownTriples({len(self)} triples, {self.nbytes / 2**20:.1f} MiB)"

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for s in self._sides.values() for x in (s.keys, s.indptr, s.ids))

    def to(self, device: Any) -> KnownTriples:
        """The index on another device."""
        moved = [_Side(*(x.to(device) for x in (s.keys, s.indptr, s.ids))) for s in self._sides.values()]
        return KnownTriples(moved[0], moved[1], self.num_entities, self.num_relations)

    def _ids(self, x: Any, arg: str, bound: int, device: Any) -> Tensor:
        x = torch.as_tensor(x, device=device)
        if x.numel() == 0:
            x = x.long()
        if x.is_floating_point() or x.dtype == torch.bool:
            raise TypeError(f"KnownTriples: {arg} must be integer ids, got {x.dtype}")
        x = x.long()
        # An id out of range would be another pair's key
        if x.numel() and (int(x.min()) < 0 or int(x.max()) >= bound):
            bad = x[(x < 0) | (x >= bound)].reshape(-1)[0]
            raise ValueError(f"KnownTriples: {arg} must be in [0, {bound}), got {int(bad)}")
        return x

    def _key(self, entity: Any, arg: str, relation: Any) -> Tensor:
        device = self._sides["tail"].keys.device
        e = self._ids(entity, arg, self.num_entities, device)
        return e * self.num_relations + self._ids(relation, "relation", self.num_relations, device)

    def spans(self, entity: Any, relation: Any, side: str = "tail") -> tuple[Tensor, Tensor, Tensor]:
        """`(start, stop, ids)`: the answers of query b are `ids[start[b]:stop[b]]`, ascending; `ids` is the index's own.

        Arguments as in `lookup`; nothing of the size of the answers is made.
        """
        if side not in _SIDES:
            raise ValueError(f"KnownTriples: side must be 'tail' or 'head', got {side!r}")
        index = self._sides[side]
        start, stop = index.span(self._key(entity, "head" if side == "tail" else "tail", relation))
        return start, stop, index.ids

    def lookup(self, entity: Any, relation: Any, side: str = "tail") -> Answers:
        """True entities of a batch of queries.

        Args:
            entity: Heads for `side="tail"`, tails for `side="head"`; int [B].
            relation: int [B].
            side: What is asked for: the tails of (entity, relation, ?), or the heads of (?, relation, entity).

        Returns:
            `Answers` on the index's device; a query without a true entity has an empty row. O(B log K + M).

        Raises:
            ValueError: An unknown side, an id out of range, not one relation for each entity.
        """
        if side not in _SIDES:
            raise ValueError(f"KnownTriples: side must be 'tail' or 'head', got {side!r}")
        key = self._key(entity, "head" if side == "tail" else "tail", relation)
        if key.dim() != 1 or torch.as_tensor(entity).shape != torch.as_tensor(relation).shape:
            given = f"{list(torch.as_tensor(entity).shape)} and {list(torch.as_tensor(relation).shape)}"
            raise ValueError(f"KnownTriples: entity and relation must both be [B], got {given}")
        index = self._sides[side]
        start, stop = index.span(key)
        count = stop - start
        offsets = torch.zeros(len(key) + 1, dtype=torch.int64, device=key.device)
        torch.cumsum(count, 0, out=offsets[1:])
        total = int(offsets[-1])
        at = torch.repeat_interleave(start - offsets[:-1], count, output_size=total)
        at += torch.arange(total, device=key.device)
        return Answers(offsets, index.ids[at].long())

    def counts(self, entity: Any, relation: Any, side: str = "tail") -> Tensor:
        """How many true entities each query has, int64 [B], without listing them; arguments as in `lookup`."""
        start, stop, _ = self.spans(entity, relation, side)
        return stop - start

    def contains(self, head: Any, relation: Any, tail: Any) -> Tensor:
        """Whether each triple is true, bool; the ids are integers that broadcast against each other.

        `contains(h[:, None], r[:, None], negatives)` is the mask of false negatives [B, N].
        """
        index = self._sides["tail"]
        tail = self._ids(tail, "tail", self.num_entities, index.keys.device)
        low, high = index.span(self._key(head, "head", relation))
        shape = torch.broadcast_shapes(low.shape, tail.shape)
        if len(index.ids) == 0:
            return torch.zeros(shape, dtype=torch.bool, device=tail.device)
        longest = int((high - low).max()) if low.numel() else 0
        end = high.expand(shape)
        low, high = low.expand(shape), end
        for _ in range(longest.bit_length()):  # all rows are searched by halves at once
            middle = (low + high) >> 1
            less = (index.ids[middle.clamp(max=len(index.ids) - 1)] < tail) & (low < high)
            low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
        return (low < end) & (index.ids[low.clamp(max=len(index.ids) - 1)] == tail)
