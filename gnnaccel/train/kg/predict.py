"""The best triples of a model where any of head, relation and tail is open: exact, a few queries at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.kg import KnownTriples
from gnnaccel.models.kge import KGE

__all__ = ["BEST_OF", "Predictions", "Search", "answer"]

BEST_OF = ("query", "head", "relation", "tail", "all")
HEAD, RELATION, TAIL = range(3)
_FOUND = 1 << 20  # results that exist at a time, before the best of them are taken
_NUMBERS = 1 << 18  # numbers of the rows that triples are scored by: they stay in the cache


class Predictions(NamedTuple):
    """The best triples of each of n queries, best first; equal scores by (head, relation, tail).

    Attributes:
        head, relation, tail: int64 `[n, k]`; -1 where a query has fewer than k.
        score: float32 (float64 for float64 tables) `[n, k]`; -inf there.
    """

    head: Tensor
    relation: Tensor
    tail: Tensor
    score: Tensor


class Search:
    """The best k triples among given heads, relations and tails, as blocks of `Predictions`.

    Every combination of the given ids is a query, and what is not given is open: with heads and a relation, the best tails of
    each head. Tails are found by `kg_topk` where they are open, else heads, else relations; of more open ones every pair is
    asked and the answers are merged, so a search costs a score for each triple it ranges over: with two entities open,
    E^2 of them. Memory does not grow with that, but for the block in hand.

    Args:
        model: The embeddings. Heads that are asked for go by inverse relations where it has them.
        heads, relations, tails: Ids, int64 `[n]`; None: open.
        k: Triples of each query, fewer if there are fewer.
        best_of: The k best of each `"query"`; of each `"head"`, `"relation"` or `"tail"` (over all combinations of the others);
            or of `"all"`.
        known: Triples not to name.
        progress: Its `update(n)` is called with n of `total`.

    Attributes:
        total: Questions to the model, one for each open entity and pair of the others.

    Raises:
        ValueError: An id is out of range, `k` is below 1, or `best_of` is unknown.
    """

    def __init__(
        self,
        model: KGE,
        heads: Tensor | None = None,
        relations: Tensor | None = None,
        tails: Tensor | None = None,
        k: int = 10,
        *,
        best_of: str = "query",
        known: KnownTriples | None = None,
        progress: Any = None,
    ) -> None:
        if best_of not in BEST_OF:
            raise ValueError(f"Search: best_of must be one of {', '.join(BEST_OF)}, got {best_of!r}")
        if k < 1:
            raise ValueError(f"Search: k must be at least 1, got {k}")
        self.model, self.k, self.known, self.progress = model, k, known, progress
        given = [heads, relations, tails]
        for arg, ids, bound in zip(("heads", "relations", "tails"), given, _bounds(model), strict=True):
            _check_ids("Search", arg, ids, bound)
        if best_of == "query":
            self.groups = [i for i in range(3) if given[i] is not None]
        else:
            self.groups = [] if best_of == "all" else [("head", "relation", "tail").index(best_of)]
        self.sets: list[_Set] = []
        for i, (ids, bound) in enumerate(zip(given, _bounds(model), strict=True)):
            ids = None if ids is None else ids.cpu().long()
            self.sets.append(_Set(bound, ids if ids is None or i in self.groups else ids.unique()))
        self.plan = _Plan(self.groups, [len(s) for s in self.sets])
        self.count = math.prod(len(self.sets[i]) for i in self.groups)
        self.total = self.count * math.prod(len(self.sets[i]) for i in self.plan.minor)

    def __iter__(self) -> Iterator[Predictions]:
        step = _step(self.k)
        for start in range(0, self.count, step):
            at = torch.arange(start, min(start + step, self.count))
            rows = torch.full((len(at), 3), -1, dtype=torch.int64)
            _fill(rows, self.groups, self.sets, at)
            yield _search(self.model, rows, self.plan, self.sets, self.k, self.known, self.progress)


def answer(
    model: KGE,
    queries: Tensor,
    k: int = 10,
    *,
    known: KnownTriples | None = None,
    progress: Any = None,
) -> Predictions:
    """The best k triples of each row, in which -1 stands for what is open.

    Args:
        model: The embeddings.
        queries: Ids (head, relation, tail), int64 `[n, 3]`. A row without -1 gets its score.
        k: Triples of each row.
        known: Triples not to name; rows without -1 get their score all the same.
        progress: Its `update(n)` is called, n rows at a time.

    Returns:
        `[n, k]`, see `Predictions`.

    Raises:
        ValueError: A shape does not fit, or an id is out of range.
    """
    if queries.dim() != 2 or queries.shape[1] != 3 or queries.is_floating_point():
        raise ValueError(f"answer: queries must be int64 [n, 3], got {queries.dtype} {list(queries.shape)}")
    if k < 1:
        raise ValueError(f"answer: k must be at least 1, got {k}")
    queries = queries.cpu().long()
    for column, (arg, bound) in enumerate(zip(("heads", "relations", "tails"), _bounds(model), strict=True)):
        _check_ids("answer", arg, queries[queries[:, column] != -1, column], bound)
    every = [_Set(n) for n in _bounds(model)]
    out = _nothing(len(queries), k, model)
    patterns = (queries == -1).long() @ torch.tensor([4, 2, 1])
    for pattern in patterns.unique().tolist():
        groups = [i for i in range(3) if not pattern >> (2 - i) & 1]
        plan = _Plan(groups, [len(x) for x in every])
        # one row may ask for many answers before they are merged
        for at in (patterns == pattern).nonzero().squeeze(1).split(_step(k)):
            hidden = known if len(groups) < 3 else None
            found = _search(model, queries[at], plan, every, k, hidden)
            for to, part in zip(out, found, strict=True):
                to[at] = part
            if progress is not None:
                progress.update(len(at))
    return out


class _Set:
    """Some ids, or all below a bound, which are not written down: there may be very many."""

    def __init__(self, bound: int, ids: Tensor | None = None) -> None:
        self.bound, self.ids = bound, ids

    def __len__(self) -> int:
        return self.bound if self.ids is None else len(self.ids)

    def __getitem__(self, place: Tensor) -> Tensor:
        return place if self.ids is None else self.ids[place]


class _Plan:
    """Which of the three is found for each pair of the others, and which others are gone through one by one."""

    def __init__(self, groups: list[int], sizes: list[int]) -> None:
        entities = [i for i in (TAIL, HEAD) if i not in groups]
        self.axis = max(entities, key=lambda i: sizes[i], default=RELATION if RELATION not in groups else None)
        self.minor = [i for i in range(3) if i not in groups and i != self.axis]


def _step(k: int) -> int:
    return max(1, min(4096, _FOUND // k))


def _bounds(model: KGE) -> tuple[int, int, int]:
    return model.num_entities, model.num_relations, model.num_entities


def _check_ids(owner: str, arg: str, ids: Tensor | None, bound: int) -> None:
    if ids is not None and len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < bound):
        bad = ids[(ids < 0) | (ids >= bound)][0]
        raise ValueError(f"{owner}: {arg} must be in [0, {bound}), got {int(bad)}")


def _fill(rows: Tensor, columns: list[int], sets: list[_Set], at: Tensor) -> None:
    """Combination number `at` of the sets, the last one changing fastest."""
    for i in reversed(columns):
        at, place = at // max(len(sets[i]), 1), at % max(len(sets[i]), 1)
        rows[:, i] = sets[i][place]


def _nothing(n: int, k: int, model: KGE) -> Predictions:
    dtype = torch.promote_types(model.entity.dtype, torch.float32)
    h, r, t = (torch.full((n, k), -1, dtype=torch.int64) for _ in range(3))
    return Predictions(h, r, t, torch.full((n, k), -torch.inf, dtype=dtype))


def _search(
    model: KGE,
    rows: Tensor,
    plan: _Plan,
    sets: list[_Set],
    k: int,
    known: KnownTriples | None,
    progress: Any = None,
) -> Predictions:
    best = _nothing(len(rows), k, model)
    others = math.prod(len(sets[i]) for i in plan.minor)
    step = max(1, _step(k) // max(len(rows), 1))
    for start in range(0, others, step):
        at = torch.arange(start, min(start + step, others))
        asked = rows.repeat_interleave(len(at), 0)
        _fill(asked, plan.minor, sets, at.repeat(len(rows)))
        found = _asked(model, asked, plan.axis, sets, k, known)
        best = found if others == 1 else _merged(best, found, k)
        if progress is not None:
            progress.update(len(asked))
    return best


def _asked(
    model: KGE, rows: Tensor, axis: int | None, sets: list[_Set], k: int, known: KnownTriples | None
) -> Predictions:
    """The best k of each row, found on one axis; without an axis, the row's own score."""
    device = model.entity.device
    out = _nothing(len(rows), k, model)
    h, r, t = rows.unbind(1)
    if axis is None:
        score = _scores(model, h, r, t)
        keep = torch.ones(len(rows), dtype=torch.bool) if known is None else ~known.contains(h, r, t)
        for to, value in zip(out, (h, r, t, score), strict=True):
            to[keep, 0] = value[keep].to(to.dtype)
        return out
    if axis == RELATION:
        relations = sets[RELATION][torch.arange(len(sets[RELATION]))]
        ids, score = _relations(model, h, t, relations, k, known)
    else:
        side, kept = ("tail", h) if axis == TAIL else ("head", t)
        exclude = None if known is None else tuple(x.to(device) for x in known.lookup(kept, r, side))
        some = sets[axis].ids
        choices = None if some is None else some.to(device)
        ids, score = model.topk(torch.stack([kept, r], 1).to(device), k, side, exclude=exclude, candidates=choices)
    ids, score = ids.cpu(), score.cpu().to(out.score.dtype)
    # a row that has no answer there names nobody
    h, r, t = (torch.where(ids < 0, -1, ids if i == axis else rows[:, i, None]) for i in range(3))
    if axis != RELATION and model.entity.element_size() < 4:  # scores rounded to half types cannot be merged
        inverse = model.reciprocal and axis == HEAD
        there = ids >= 0
        asked = (t, r + model.num_relations, h) if inverse else (h, r, t)
        score[there] = _scores(model, *(x[there] for x in asked))
    return Predictions(h, r, t, score)


@torch.no_grad()
def _scores(model: KGE, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
    device, size = model.entity.device, max(1, _NUMBERS // model.dim)
    parts = zip(*(x.to(device).split(size) for x in (h, r, t)), strict=True)
    return torch.cat([model.score(*part).cpu() for part in parts])


def _relations(
    model: KGE, h: Tensor, t: Tensor, relations: Tensor, k: int, known: KnownTriples | None
) -> tuple[Tensor, Tensor]:
    """The best k relations of pairs."""
    n, R = len(h), len(relations)
    ids, best = torch.full((n, k), -1, dtype=torch.int64), torch.full((n, k), -torch.inf)
    best = best.to(torch.promote_types(model.entity.dtype, torch.float32))
    for at in torch.arange(n).split(max(1, _NUMBERS // (model.dim * max(R, 1)))):
        pairs = [x[at].repeat_interleave(R) for x in (h, t)]
        score = _scores(model, pairs[0], relations.repeat(len(at)), pairs[1]).view(len(at), R)
        hidden = score.isnan()
        if known is not None:
            hidden |= known.contains(h[at, None], relations, t[at, None])
        score, order = score.masked_fill(hidden, -torch.inf).sort(dim=1, descending=True, stable=True)
        score, order = score[:, :k], order[:, :k]
        best[at, : score.shape[1]] = score
        ids[at, : score.shape[1]] = torch.where(score == -torch.inf, -1, relations[order])
    return ids, best


def _merged(best: Predictions, found: Predictions, k: int) -> Predictions:
    """The k best of each row of `best` with those of its rows in `found`."""
    n = len(best.score)
    both = [torch.cat([b, f.view(n, -1)], 1).numpy() for b, f in zip(best, found, strict=True)]
    h, r, t, score = both
    order = np.lexsort((t, r, h, -score, h < 0), axis=1)[:, :k]
    h, r, t, score = (torch.from_numpy(np.take_along_axis(x, order, 1)) for x in both)
    return Predictions(h, r, t, score)
