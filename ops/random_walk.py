"""`random_walk`: walks along the rows of a graph, uniform or as node2vec's, with restarts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops._philox import philox4x32
from gnnaccel.ops.temporal_sample import _lower_bound

# back, near, away: weights of an entry by where it leads, of which 2^32 is always taken; restart: a share of 2^32
define(
    "random_walk(Tensor indptr, Tensor nbr, Tensor start, SymInt length, int back, int near, int away, int restart, "
    "bool sorted_rows, int seed, int epoch, int offset) -> Tensor"
)

_ONE = 1 << 32
_LOW = _ONE - 1
_ATTEMPTS = 64  # kWalkAttempts
_IDS = (torch.int64, torch.int32)


@impl("random_walk", "CUDA")
def _cuda(*args: Any) -> Tensor:
    from gnnaccel.kernels.cuda.random_walk import random_walk

    return random_walk(*args)


# --- plain torch ----------------------------------------------------------------------------------------------------------


def _draw(low: Tensor, high: Tensor, n: Tensor) -> Tensor:
    """floor((high 2^32 + low) n / 2^64) for n below 2^63; products wrap, their bits are right all the same."""
    n_low, n_high = n & _LOW, n >> 32
    ll, lh, hl = low * n_low, low * n_high, high * n_low
    middle = (ll >> 32 & _LOW) + (lh & _LOW) + (hl & _LOW)
    return high * n_high + (lh >> 32 & _LOW) + (hl >> 32 & _LOW) + (middle >> 32)


class _Walks:
    """The fallback: every step is taken by all walks at once."""

    def __init__(
        self, indptr: Tensor, nbr: Tensor, weights: tuple[int, int, int], sorted_rows: bool, key: tuple[int, int, int]
    ) -> None:
        self.indptr, self.nbr, self.weights, self.key = indptr, nbr.long(), weights, key
        self.second_order = len(set(weights)) > 1
        self.ordered = self.nbr
        if self.second_order and not sorted_rows:
            row = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=nbr.device), indptr.diff())
            order = self.nbr.argsort(stable=True)
            self.ordered = self.nbr[order[row[order].argsort(stable=True)]]

    def words(self, walk: Tensor, step: int, attempt: int) -> list[Tensor]:
        seed, epoch, offset = self.key
        number = walk + offset
        step_word, attempt_word = torch.full_like(walk, step & _LOW), torch.full_like(walk, attempt)
        return philox4x32([step_word, number & _LOW, attempt_word, number >> 32 & _LOW ^ epoch & _LOW], seed)

    def weight(self, before: Tensor, node: Tensor) -> Tensor:
        back, near, away = self.weights
        if not len(node):
            return node
        end = self.indptr[before + 1]
        place = _lower_bound(self.indptr[before], end, lambda i: self.ordered[i] < node)
        there = (place < end) & (self.ordered[place.clamp(max=len(self.ordered) - 1)] == node)
        return torch.where(node == before, back, torch.where(there, near, away))

    def weighed(self, before: Tensor, begin: Tensor, end: Tensor, words: list[Tensor]) -> Tensor:
        """Entries drawn from whole rows by weight."""
        degree = end - begin
        owner = torch.repeat_interleave(torch.arange(len(begin), device=begin.device), degree)
        first = degree.cumsum(0) - degree
        node = self.nbr[torch.arange(len(owner), device=begin.device) + (begin - first)[owner]]
        weight = self.weight(before[owner], node)
        total = weight.cumsum(0)
        base = (total - weight)[first]
        left = _draw(words[0], words[1], total[first + degree - 1] - base)
        passed = (total - base[owner]) <= left[owner]
        count = torch.bincount(owner[passed], minlength=len(begin))
        return node[first + count]

    def next(self, walk: Tensor, step: int, at: Tensor, before: Tensor, words: list[Tensor]) -> Tensor:
        """A step of each walk, from a row that is not empty."""
        begin, end = self.indptr[at], self.indptr[at + 1]
        node = self.nbr[begin + _draw(words[0], words[1], end - begin)]
        if not self.second_order:
            return node
        free = (before < 0) | (end - begin == 1)
        rest = (~free).nonzero().squeeze(1)
        for attempt in range(_ATTEMPTS):
            if attempt:
                words = self.words(walk[rest], step, attempt)
                node[rest] = self.nbr[begin[rest] + _draw(words[0], words[1], (end - begin)[rest])]
            accept = words[3] if attempt else words[3][rest]
            rest = rest[accept >= self.weight(before[rest], node[rest])]
            if not len(rest):
                return node
        words = self.words(walk[rest], step, _ATTEMPTS)
        node[rest] = self.weighed(before[rest], begin[rest], end[rest], words)
        return node


@impl("random_walk", "CompositeExplicitAutograd")
def _composite(
    indptr: Tensor,
    nbr: Tensor,
    start: Tensor,
    length: int,
    back: int,
    near: int,
    away: int,
    restart: int,
    sorted_rows: bool,
    seed: int,
    epoch: int,
    offset: int,
) -> Tensor:
    N = len(indptr) - 1
    start = start.long()
    if bool(((start < -1) | (start >= N)).any()) or bool(((nbr < 0) | (nbr >= N)).any()):
        raise RuntimeError("random_walk: bad node")
    walks = _Walks(indptr, nbr, (back, near, away), sorted_rows, (seed, epoch, offset))
    out = nbr.new_empty((len(start), length + 1))
    at, before = start.clone(), torch.full_like(start, -1)
    out[:, 0] = at
    for step in range(1, length + 1):
        words = walks.words(torch.arange(len(start), device=nbr.device), step, 0)
        again = (words[2] < restart) & (at >= 0)
        row = at.clamp(min=0)
        go = (at >= 0) & ~again
        if N:
            go &= indptr[row + 1] > indptr[row]
        moving = go.nonzero().squeeze(1)
        here = at
        at = torch.where(again, start, -1)
        if len(moving):
            some = [w[moving] for w in words]
            at[moving] = walks.next(moving, step, here[moving], before[moving], some)
        before = torch.where(again, -1, here)
        out[:, step] = at
    return out


@fake("random_walk")
def _fake(indptr: Tensor, nbr: Tensor, start: Tensor, length: int, *_: Any) -> Tensor:
    return nbr.new_empty((start.shape[0], length + 1))


# --- public ---------------------------------------------------------------------------------------------------------------


def _weights(p: float, q: float) -> tuple[int, int, int]:
    """node2vec's 1/p, 1 and 1/q as shares of 2^32 of the largest; none is 0."""
    weights = (1 / p, 1.0, 1 / q)
    back, near, away = (max(1, round(w / max(weights) * _ONE)) for w in weights)
    return back, near, away


def _tell_bad_node(indptr: Tensor, nbr: Tensor, start: Tensor) -> None:
    """Say which node the kernel refused."""
    N = len(indptr) - 1
    for name, x, least in (("start", start, -1), ("nbr", nbr, 0)):
        bad = ((x < least) | (x >= N)).nonzero()
        if len(bad):
            i = int(bad[0])
            given = f"{int(x[i])} at position {i}"
            raise ValueError(f"random_walk: {name} must be in [{least}, {N}), got {given}") from None


def _check(owner: str, indptr: Tensor, nbr: Tensor, start: Tensor) -> None:
    if indptr.dtype != torch.int64:
        raise TypeError(f"{owner}: indptr must be int64, got {indptr.dtype}")
    for name, x in (("nbr", nbr), ("start", start)):
        if x.dtype not in _IDS:
            raise TypeError(f"{owner}: {name} must be int64 or int32, got {x.dtype}")
    for name, x, shape in (("indptr", indptr, "[N + 1]"), ("nbr", nbr, "[M]"), ("start", start, "[S]")):
        if x.dim() != 1 or (x is indptr and len(x) == 0):
            raise ValueError(f"{owner}: {name} must be {shape}, got {list(x.shape)}")
        if x.device != nbr.device:
            raise ValueError(f"{owner}: {name} must be on {nbr.device} like nbr, got {x.device}")


def random_walk(
    indptr: Tensor,
    nbr: Tensor,
    start: Tensor,
    length: int,
    *,
    p: float = 1.0,
    q: float = 1.0,
    restart: float = 0.0,
    sorted_rows: bool = False,
    seed: int = 0,
    epoch: int = 0,
    walk_offset: int = 0,
) -> Tensor:
    """A walk of `length` steps from each start; a step goes to an entry of the row of the node that the walk is at.

    With p = q = 1 every entry of the row is equally likely. Else, for a walk that came from t, an entry x has the weight 1 / p
    if x is t, 1 if x is in the row of t, and 1 / q otherwise: node2vec (Grover and Leskovec, KDD 2016, sec. 3.2.2), drawn by
    rejection (a row of which 64 candidates were rejected is weighed whole, which changes no probability). The first step, and
    the first after a restart, is uniform. Equal entries of a row count as often as they are there.

    Args:
        indptr: Offsets of the rows, int64 `[N + 1]`, ascending from 0 to M. Not checked.
        nbr: Entries, int64 or int32 `[M]`, in `[0, N)`.
        start: Where the walks start, int64 or int32 `[S]`; -1 is padding.
        length: Steps, at least 0.
        p: node2vec's return parameter, above 0: large, and a walk seldom goes back where it came from.
        q: node2vec's in-out parameter, above 0: large, and a walk stays near where it came from.
        restart: Probability, in `[0, 1)`, with which a step goes to the start instead.
        sorted_rows: Whether each row is ascending, so that node2vec may search it and need not read all of it. Not checked.
        seed: 64 bits; with `epoch`, the number of the walk (its place in `start` + `walk_offset`) and the number of the step
            it keys the draws (Philox4x32-10), which are the same on every device and for any number of threads.
        walk_offset: Number of the first walk, when one set of walks is made in several calls.

    Returns:
        `[S, length + 1]`, dtype of `nbr`: the start, then one node a step. A walk that stands at an empty row and does not
        restart ends: -1 from there on. A walk from -1 is -1 throughout.

    Determinism: bitwise reproducible. Weights and `restart` are rounded to multiples of 2^-32 (weights: of the largest, and at
    least one such part). Nodes out of range are an error on CPU; on CUDA a walk ends there, since checking would wait for the
    GPU.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape or value is wrong, or a node is out of range.
    """
    _check("random_walk", indptr, nbr, start)
    if not isinstance(length, int) or isinstance(length, bool):
        raise TypeError(f"random_walk: length must be an int, got {length!r}")
    if not 0 <= length < 2**31:
        raise ValueError(f"random_walk: length must be in [0, 2**31), got {length}")
    for name, value in (("p", p), ("q", q)):
        if not (0 < value < math.inf):
            raise ValueError(f"random_walk: {name} must be above 0 and finite, got {value}")
    if not 0 <= restart < 1:
        raise ValueError(f"random_walk: restart must be in [0, 1), got {restart}")
    if walk_offset < 0:
        raise ValueError(f"random_walk: walk_offset must be at least 0, got {walk_offset}")
    again = min(round(restart * _ONE), _LOW)
    tensors = (indptr.contiguous(), nbr.contiguous(), start.contiguous())
    try:
        return torch.ops.gnnaccel.random_walk(
            *tensors, length, *_weights(p, q), again, sorted_rows, seed, epoch, walk_offset
        )
    except RuntimeError as error:
        if "bad node" in str(error):
            _tell_bad_node(*tensors)
        raise
