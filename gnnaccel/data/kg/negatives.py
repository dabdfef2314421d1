"""What a step of training sees: batches of triples, and negatives that the triples of a chunk share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.kg._exclude import SharedCandidates
from gnnaccel.data.kg.graph import Triples
from gnnaccel.data.kg.known import KnownTriples
from gnnaccel.data.kg.relations import DegreeTable
from gnnaccel.data.philox import uint64_below, words

__all__ = ["STRATEGIES", "ChunkedNegatives", "NegativeBatch", "TripleBatches", "chunk_size", "subsampling_weights"]

STRATEGIES = ("uniform", "degree")
_SIDES = ("head", "tail")
# Streams of words: they keep these draws apart
_ORDER, _GROUPS, _NEGATIVES = 0x6B670001, 0x6B670002, 0x6B670003
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def _positive(owner: str, arg: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{owner}: {arg} must be an int >= 1, got {value!r}")
    return value


def _permutation(n: int, *, seed: int, stream: int, epoch: int) -> np.ndarray:
    """A permutation of n positions: random words with the position in their low bits, sorted in place. int64 [n]."""
    out, bits = words(n, seed=seed, stream=stream, epoch=epoch), np.uint64(max(n - 1, 0).bit_length())
    np.right_shift(out, bits, out=out)
    np.left_shift(out, bits, out=out)
    for i in range(0, n, 1 << 20):
        out[i : i + (1 << 20)] |= np.arange(i, min(n, i + (1 << 20)), dtype=np.uint64)
    out.sort()
    np.bitwise_and(out, (np.uint64(1) << bits) - np.uint64(1), out=out)
    return out.view(np.int64)


class TripleBatches:
    """Batches of positions in a split, every position once an epoch, in a new random order each epoch.

    A batch is a function of (seed, epoch, index) alone: it may be asked for in any order, by any thread, or after a resume.
    The last batch of an epoch may be short. The order of the last epoch asked for is kept: 8 bytes a triple.

    Args:
        triples: The split, or how many triples it has.
        batch_size: Triples a batch.
        seed: 64 bits.
        order: Group of each triple (the part of its relation or of its entities), int [T], or a function of the epoch that
            gives it. Groups come one after another, in an order that is new each epoch, each shuffled: batches share rows.

    Raises:
        ValueError: A count is not positive, or the groups are not int [T].
    """

    def __init__(
        self,
        triples: Triples | int,
        batch_size: int,
        *,
        seed: int = 0,
        order: Tensor | np.ndarray | Callable[[int], Tensor | np.ndarray] | None = None,
        positions: Callable[[int], Tensor] | None = None,
    ):
        if order is not None and positions is not None:
            raise ValueError("TripleBatches: order must be None with positions, got both")
        self.positions = positions
        self.count = len(triples) if isinstance(triples, Triples) else triples
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 0:
            raise ValueError(f"TripleBatches: triples must be Triples or an int >= 0, got {triples!r}")
        self.batch_size, self.seed, self.order = _positive("TripleBatches", "batch_size", batch_size), int(seed), order
        self._lock, self._cache = threading.Lock(), (-1, np.empty(0, np.int64))
        if order is not None and not callable(order):
            self._groups(0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.count // self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_cache": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _cache=(-1, np.empty(0, np.int64)))

    def _groups(self, epoch: int) -> np.ndarray:
        groups = self.order(epoch) if callable(self.order) else self.order
        groups = groups.cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
        if groups.shape != (self.count,) or (groups.size and groups.dtype.kind not in "iu"):
            given = f"{groups.dtype}{list(groups.shape)}"
            raise ValueError(f"TripleBatches: order must be a group for each triple, int [{self.count}], got {given}")
        return groups

    def _given(self, positions: Tensor) -> np.ndarray:
        if positions.shape != (self.count,) or not torch.equal(positions.sort().values, torch.arange(self.count)):
            given = f"{str(positions.dtype).removeprefix('torch.')}{list(positions.shape)}"
            raise ValueError(f"TripleBatches: positions must be every one of {self.count} positions once, got {given}")
        return positions.numpy()

    def permutation(self, epoch: int) -> Tensor:
        """The order of an epoch, int64 [T]; not to be written to."""
        if epoch < 0:
            raise ValueError(f"TripleBatches: epoch must be >= 0, got {epoch}")
        with self._lock:
            if self._cache[0] != epoch:
                self._cache = (-1, np.empty(0, np.int64))  # the old order goes before the new one is made
                if self.positions is None:
                    positions = _permutation(self.count, seed=self.seed, stream=_ORDER, epoch=epoch)
                else:
                    positions = self._given(self.positions(epoch))
                if self.order is not None:
                    _, group = np.unique(self._groups(epoch), return_inverse=True)
                    count = int(group.max(initial=-1)) + 1
                    rank = np.argsort(_permutation(count, seed=self.seed, stream=_GROUPS, epoch=epoch))
                    positions = positions[np.argsort(rank[group[positions]], kind="stable")]
                self._cache = (epoch, positions)
            return torch.from_numpy(self._cache[1])

    def batch(self, epoch: int, index: int) -> Tensor:
        """Positions of batch `index` of an epoch, int64 [b], b = `batch_size` but for a short last one."""
        if not 0 <= index < len(self):
            raise ValueError(f"TripleBatches: index must be in [0, {len(self)}), got {index}")
        low = index * self.batch_size
        return self.permutation(epoch)[low : low + self.batch_size].clone()


def chunk_size(triples: int, chunk: int) -> int:
    """How many triples of a batch share their negatives.

    Chunks are equally long, so their size divides the batch. It is the largest divisor of `triples` in [chunk / 2, chunk];
    where there is none (997 is prime), the smallest above: fewer sets of negatives, never one for each triple. A batch of at
    most `chunk` triples is one chunk.
    """
    if triples <= chunk:
        return triples
    smaller = (s for s in range(chunk, (chunk + 1) // 2 - 1, -1) if triples % s == 0)
    larger = (triples // c for c in range(triples // chunk, 0, -1) if triples % c == 0 and triples // c >= chunk)
    return next(smaller, None) or next(larger)


class NegativeBatch(NamedTuple):
    """Candidates of a batch of B triples in C chunks.

    Attributes:
        ids: Entities, int64 [C, N].
        exclude: `(indptr int64 [B + 1], position int64 [P])`: the positions, in [0, N) of its own chunk and ascending, that
            are no negatives of each triple, as `kg_loss` takes them; None if the options leave nothing out.
        chunk: Triples a chunk, B / C.
    """

    ids: Tensor
    exclude: tuple[Tensor, Tensor] | None
    chunk: int


class ChunkedNegatives:
    """Draws the entities that replace the heads or the tails of a batch, one set for each chunk of triples.

    The draw is a function of (seed, epoch, batch, side) and the options: any batch can be drawn alone, ahead of time, by
    another thread or after a resume. Draws are independent, so an entity may come twice.

    Shared negatives are DGL-KE's (Zheng et al., SIGIR 2020) and PBG's (Lerer et al., MLSys 2019). Other than DGL-KE's, a
    positive among the candidates is left out of the loss by `exclude`; DGL-KE leaves it in, or multiplies its score by 0, which
    the loss still counts.

    Args:
        num_entities: E.
        negatives: Entities drawn for a chunk.
        chunk: Triples that share them; `chunk_size` says what becomes of a batch that it does not divide.
        strategy: "uniform" over all entities, or "degree": by `degree`.
        degree: A `DegreeTable` for both sides, or a pair of tables for (head, tail). Its own seed is not used.
        in_batch: The chunk's own entities of the side stand before the drawn ones: True for all of them (at most `chunk`), k
            for the first k, 0 for none (DGL-KE's neg_deg_sample, PBG's batch negatives).
        filtered: Candidates that make one of these triples are excluded.
        mask_own: Candidates equal to the triple's own true entity are excluded; always so with `in_batch` or `filtered`.
        seed: 64 bits.

    Raises:
        ValueError: A count is not positive, an unknown strategy, or `degree` or `filtered` is for other entities.
    """

    def __init__(
        self,
        num_entities: int,
        *,
        negatives: int = 256,
        chunk: int = 256,
        strategy: str = "uniform",
        degree: DegreeTable | tuple[DegreeTable, DegreeTable] | None = None,
        in_batch: int | bool = 0,
        filtered: KnownTriples | None = None,
        mask_own: bool = False,
        seed: int = 0,
    ):
        owner = "ChunkedNegatives"
        self.num_entities = _positive(owner, "num_entities", num_entities)
        self.negatives, self.chunk = _positive(owner, "negatives", negatives), _positive(owner, "chunk", chunk)
        if num_entities >= 2**31:
            raise ValueError(f"{owner}: num_entities must be below 2^31, got {num_entities}")
        if strategy not in STRATEGIES:
            raise ValueError(f"{owner}: strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        if (degree is not None) != (strategy == "degree"):
            given = "None" if degree is None else f"one with strategy {strategy!r}"
            raise ValueError(f"{owner}: degree must be given for strategy 'degree' and no other, got {given}")
        if int(in_batch) < 0:
            raise ValueError(f"{owner}: in_batch must be True or >= 0, got {in_batch!r}")
        if filtered is not None and filtered.num_entities != num_entities:
            raise ValueError(f"{owner}: filtered must know {num_entities} entities, got {filtered.num_entities}")
        tables = degree if isinstance(degree, tuple) else (degree, degree)
        for table in tables:
            if table is not None and len(table.total) != num_entities:
                raise ValueError(f"{owner}: degree must be of {num_entities} entities, got {len(table.total)}")
        self.strategy, self.filtered, self.seed = strategy, filtered, int(seed)
        self.in_batch = chunk if in_batch is True else int(in_batch)
        self.mask_own = bool(mask_own or self.in_batch or filtered is not None)
        self._total = [None if x is None else x.total.numpy() for x in tables]

    def draw(
        self, heads: Tensor, relations: Tensor, tails: Tensor, side: str = "tail", epoch: int = 0, batch: int = 0
    ) -> NegativeBatch:
        """Negatives of a batch of triples.

        Args:
            heads, relations, tails: int64 [B] on the CPU; triple b is in chunk b // `chunk`.
            side: What the candidates replace, "tail" or "head".
            epoch, batch: Keys of the draw, >= 0.

        Raises:
            ValueError: An unknown side, a negative key, an entity out of range where entities are looked at.
        """
        if side not in _SIDES:
            raise ValueError(f"ChunkedNegatives: side must be 'head' or 'tail', got {side!r}")
        if epoch < 0 or batch < 0:
            raise ValueError(f"ChunkedNegatives: epoch and batch must be >= 0, got {epoch} and {batch}")
        B = len(heads)
        S = chunk_size(B, self.chunk)
        C = B // S if S else 0
        ids = self._drawn(C, side, epoch, batch)
        if not self.mask_own:
            return NegativeBatch(torch.from_numpy(ids), None, S)
        h, r, t = (x.numpy() for x in (heads, relations, tails))
        true, kept = (t, h) if side == "tail" else (h, t)
        if B and not (true.min() >= 0 and true.max() < self.num_entities):
            raise ValueError(f"ChunkedNegatives: {side}s must be in [0, {self.num_entities}), got another id")
        if self.in_batch and B:
            ids = np.concatenate([true.reshape(C, S)[:, : self.in_batch], ids], axis=1)
        candidates = SharedCandidates(ids, B, self.num_entities)
        pairs = candidates.equal(np.arange(B), true)
        if self.filtered is not None:
            pairs = np.concatenate([pairs, candidates.known(self.filtered, kept, r, side)])
        indptr, position = candidates.csr(pairs)
        return NegativeBatch(torch.from_numpy(ids), (torch.from_numpy(indptr), torch.from_numpy(position)), S)

    def _drawn(self, chunks: int, side: str, epoch: int, batch: int) -> np.ndarray:
        w = words(
            chunks * self.negatives,
            seed=self.seed,
            stream=_NEGATIVES,
            epoch=epoch,
            batch=batch,
            part=_SIDES.index(side),
        )
        total = self._total[_SIDES.index(side)]
        if total is None:
            ids = uint64_below(w >> _32, w & _LOW, self.num_entities)
        else:
            ids = np.searchsorted(total, uint64_below(w >> _32, w & _LOW, int(total[-1])), side="right")
        return ids.reshape(chunks, self.negatives)


def subsampling_weights(
    triples: Triples, num_relations: int, smoothing: float = 4.0, *, normalize: bool = False
) -> Tensor:
    """Weights that make frequent questions count less: w = (n(h, r) + n(r, t))^(-1/2).

    n(h, r) is the number of triples with that head and relation, plus `smoothing` - 1, as in RotatE's code, whose counts begin
    at 4 (Sun et al., ICLR 2019; the idea is word2vec's). RotatE divides the loss of a batch by the sum of its weights.

    Args:
        triples: Those of train; a repeated one counts again.
        num_relations: R.
        smoothing: >= 1.
        normalize: Scale them to a mean of 1, so that the loss and its gradient keep their size.

    Returns:
        float32 [T].
    """
    if not 1 <= smoothing < float("inf"):
        raise ValueError(f"subsampling_weights: smoothing must be finite and >= 1, got {smoothing}")
    h, r, t = triples.numpy()
    if len(r) and int(r.max()) >= num_relations:
        raise ValueError(f"subsampling_weights: relation ids must be in [0, {num_relations}), got {int(r.max())}")
    if len(h) == 0:
        return torch.empty(0)
    count = np.full(len(h), 2 * (smoothing - 1))
    for entity in (h, t):
        _, inverse, n = np.unique(entity * num_relations + r, return_inverse=True, return_counts=True)
        count += n[inverse]
    weight = count**-0.5
    if normalize:
        weight /= weight.mean()
    return torch.from_numpy(weight.astype(np.float32))
