"""Which of the candidates that a chunk of triples shares are no negatives of one of its triples."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from gnnaccel.data.kg.known import KnownTriples

_BLOCK = 1 << 20  # answers listed at a time


class SharedCandidates:
    """Candidates [C, N] of B triples in C chunks, sorted once so that any entity is found in its chunk.

    Found pairs are numbers `triple * N + position`.
    """

    def __init__(self, ids: np.ndarray, triples: int, num_entities: int):
        C, self.N = ids.shape
        self.num_entities = num_entities
        self.order = np.argsort(ids, axis=1, kind="stable")
        self.sorted = np.take_along_axis(ids, self.order, axis=1)
        chunk = np.arange(C)
        self._keys = (self.sorted + chunk[:, None] * num_entities).reshape(-1)
        self._order = self.order.reshape(-1)
        self.chunk = np.repeat(chunk, triples // max(C, 1))

    def equal(self, row: np.ndarray, entity: np.ndarray) -> np.ndarray:
        """Pairs of triples `row` [n] with the candidates that are `entity` [n]."""
        key = self.chunk[row] * self.num_entities + entity
        low = np.searchsorted(self._keys, key)
        hit = np.flatnonzero(self._keys[np.minimum(low, len(self._keys) - 1)] == key)
        row, low = row[hit], low[hit]
        count = np.searchsorted(self._keys, key[hit], side="right") - low
        return np.repeat(row, count) * self.N + self._order[_ranges(low, count)]

    def known(self, known: KnownTriples, entity: np.ndarray, relation: np.ndarray, side: str) -> np.ndarray:
        """Pairs of the triples, of which `entity` [B] and `relation` [B] stay, with the candidates that make them true.

        O(B N log) whatever the number of answers, and O(2^20 + B) memory beside the pairs.
        """
        start, stop, answers = (x.numpy() for x in known.spans(entity, relation, side))
        count = stop - start
        # A sorted chunk is looked up in a long list of answers; answers of short lists are looked up in the chunk
        long = np.flatnonzero(count > 2 * self.N)
        short = np.flatnonzero((count > 0) & (count <= 2 * self.N))
        pairs, step = [], max(1, _BLOCK // (2 * self.N))
        for i in range(0, len(short), step):
            rows = short[i : i + step]
            pairs.append(self._listed(rows, start[rows], count[rows], answers))
        candidates = self.sorted.astype(answers.dtype)
        found: dict[tuple[int, int], np.ndarray] = {}
        for b, c, low, high in zip(
            *(x.tolist() for x in (long, self.chunk[long], start[long], stop[long])), strict=True
        ):
            hits = found.get((c, low))
            if hits is None:  # triples of a chunk that ask the same have the same answers
                own, asked = answers[low:high], candidates[c]
                hits = found[c, low] = self.order[c][own.take(own.searchsorted(asked), mode="clip") == asked]
            pairs.append(hits + b * self.N)
        return np.concatenate(pairs) if pairs else np.empty(0, np.int64)

    @cached_property
    def _seen(self) -> np.ndarray:
        """By chunk, which low bits of an id occur: most answers are no candidate, and this says so for 15 of 16 of them."""
        slots = 1 << (16 * self.N - 1).bit_length()
        seen = np.zeros((len(self.sorted), slots), bool)
        seen[np.arange(len(seen))[:, None], self.sorted & (slots - 1)] = True
        return seen

    def _listed(self, row: np.ndarray, start: np.ndarray, count: np.ndarray, answers: np.ndarray) -> np.ndarray:
        entity = answers.take(_ranges(start, count))
        slots = self._seen.shape[1]
        slot = np.repeat(self.chunk[row] * slots, count)
        slot += entity & (slots - 1)
        hit = np.flatnonzero(self._seen.take(slot))
        owner = row[np.searchsorted(np.cumsum(count), hit, side="right")]
        return self.equal(owner, entity[hit].astype(np.int64))

    def csr(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distinct pairs by triple: indptr int64 [B + 1] and positions int64 [P], ascending in each triple."""
        pairs = np.sort(pairs)
        if len(pairs):
            pairs = pairs[np.concatenate([[True], pairs[1:] != pairs[:-1]])]
        indptr = np.searchsorted(pairs, np.arange(len(self.chunk) + 1) * self.N)
        return indptr, pairs % self.N


def _ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1 ... (count[0] of them), start[1] ..."""
    end = np.cumsum(count)
    at = np.repeat(start - (end - count), count)
    at += np.arange(len(at))
    return at
