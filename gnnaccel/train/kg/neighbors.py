"""Which rows of an embedding table are most alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.models.kge import KGE
from gnnaccel.ops import kg_score, kg_score_negatives, topk_similar

__all__ = ["METRICS", "Similar", "pair_similarity", "similar", "table_of"]

#: Metric -> the model of `kg_score` that compares by it, and whether more is more alike
METRICS = {
    "cosine": ("distmult", True),
    "l2": ("transe_l2", False),
    "l1": ("transe_l1", False),
    "dot": ("distmult", True),
    "jaccard": ("distmult", True),
}
#: Those that `topk_similar` knows
FUSED = ("cosine", "l2", "dot")
_QUERIES, _ROWS = 256, 8192  # of a tile
_FUSED_QUERIES = 4096


class Similar(NamedTuple):
    """The rows most like each of n rows, best first, of equal ones the smaller id first.

    Attributes:
        ids: int64 `[n, k]`; -1 where there are fewer than k.
        value: The metric, float32 `[n, k]`; NaN there.
    """

    ids: Tensor
    value: Tensor


def table_of(model: KGE, kind: str = "entity") -> Tensor:
    """The rows of entities, or of relations without inverses; RotatE's phases as what they do, [cos | sin].

    Raises:
        ValueError: Another kind.
    """
    if kind not in ("entity", "relation"):
        raise ValueError(f"table_of: kind must be entity or relation, got {kind!r}")
    if kind == "entity":
        return model.entity.detach()
    rows = model.relation.detach()[: model.num_relations]
    if model.model == "rotate":
        return torch.cat([rows.float().cos(), rows.float().sin()], 1)
    return rows


def similar(
    table: Tensor,
    queries: Tensor | None = None,
    k: int = 10,
    *,
    metric: str = "cosine",
    candidates: Tensor | None = None,
    keep_self: bool = False,
    progress: Any = None,
) -> Iterator[Similar]:
    """The k rows most like each query, exactly, in blocks of queries.

    Nothing of the size of the table is made, but for `cosine`, and of half types, copies of the candidates in float32.

    | metric | value of rows x and y | best |
    | --- | --- | --- |
    | `cosine` | x y / (norm x norm y); 0 for a row of zeros | most |
    | `l2`, `l1` | norm of x - y | least |
    | `dot` | x y | most |
    | `jaccard` | x y / (x x + y y - x y), extended Jaccard (Tanimoto); 0 for two rows of zeros | most |

    Args:
        table: `[N, D]`, floating; half types are computed in float32.
        queries: Rows, int64 `[n]`; all by default.
        k: Rows to name for each.
        metric: One of the table above.
        candidates: Rows to choose from, int64 `[m]`; all by default. A repeated one counts once.
        keep_self: Whether a row may be its own neighbour.
        progress: Its `update(n)` is called, n queries at a time.

    Yields:
        `Similar` of up to 256 queries, in order.

    Raises:
        ValueError: An unknown metric, an id out of range, `k` below 1, or a table that is not `[N, D]`.
    """
    _check(table, metric, queries=queries, candidates=candidates)
    if k < 1:
        raise ValueError(f"similar: k must be at least 1, got {k}")
    N, device = len(table), table.device
    asked = torch.arange(N, device=device) if queries is None else queries.to(device).long()
    pool = torch.arange(N, device=device) if candidates is None else candidates.to(device).unique()
    if metric in FUSED:
        yield from _fused(table, asked, None if candidates is None else pool, k, metric, keep_self, progress)
        return
    for block in asked.split(_QUERIES):
        best = _Best(len(block), k, METRICS[metric][1])
        rows = _real(table[block])
        for some in pool.split(_ROWS):
            value = _compared(metric, rows, _real(table[some])).cpu().numpy()
            if not keep_self:
                value[block.cpu().numpy()[:, None] == some.cpu().numpy()] = np.nan
            best.add(some.cpu().numpy(), value)
        if progress is not None:
            progress.update(len(block))
        yield best.done()


@torch.no_grad()
def _fused(
    table: Tensor, asked: Tensor, pool: Tensor | None, k: int, metric: str, keep_self: bool, progress: Any
) -> Iterator[Similar]:
    """`similar` by `topk_similar`; candidates ascend, so that its order among equals is that of the ids."""
    rows = _real(table if pool is None else table[pool])
    for some in asked.split(_FUSED_QUERIES):
        own = None
        if not keep_self:
            own = some
            if pool is not None:
                at = torch.searchsorted(pool, some).clamp(max=max(len(pool) - 1, 0))
                own = torch.where(pool[at] == some, at, -1) if len(pool) else torch.full_like(some, -1)
        ids, score = topk_similar(_real(table[some]), rows, k, metric=metric, exclude=own)
        if pool is not None and len(pool):
            ids = torch.where(ids < 0, ids, pool[ids.clamp(min=0)])
        value = torch.where(ids < 0, torch.nan, -score if metric == "l2" else score).cpu()
        for part, found in zip(ids.cpu().split(_QUERIES), value.split(_QUERIES), strict=True):
            if progress is not None:
                progress.update(len(part))
            yield Similar(part, found)


@torch.no_grad()
def pair_similarity(table: Tensor, left: Tensor, right: Tensor, metric: str = "cosine") -> Tensor:
    """The metric of each pair of rows, int64 `[n]` and `[n]` -> float32 (float64 for such a table) `[n]`; see `similar`."""
    _check(table, metric, left=left, right=right)
    if left.shape != right.shape:
        raise ValueError(f"similar: left and right must be equally long, got {len(left)} and {len(right)}")
    parts = [table.new_empty(0, dtype=torch.promote_types(table.dtype, torch.float32))]
    for a, b in zip(left.split(_ROWS), right.split(_ROWS), strict=True):
        x, y = _real(table[a.to(table.device)]), _real(table[b.to(table.device)])
        parts.append(_finished(metric, x, y, kg_score(_model(metric), x, _none(metric, x), y, gamma=0.0)))
    return torch.cat(parts).cpu()


def _check(table: Tensor, metric: str, **ids: Tensor | None) -> None:
    if metric not in METRICS:
        raise ValueError(f"similar: metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if table.dim() != 2 or not table.is_floating_point():
        raise ValueError(f"similar: table must be floating [N, D], got {table.dtype} {list(table.shape)}")
    for arg, x in ids.items():
        if x is not None and len(x) and not (int(x.min()) >= 0 and int(x.max()) < len(table)):
            bad = x[(x < 0) | (x >= len(table))][0]
            raise ValueError(f"similar: {arg} must be in [0, {len(table)}), got {int(bad)}")


def _model(metric: str) -> str:
    return METRICS[metric][0]


def _real(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _none(metric: str, x: Tensor) -> Tensor:
    """Relation rows that change nothing."""
    return torch.ones_like(x) if _model(metric) == "distmult" else torch.zeros_like(x)


@torch.no_grad()
def _compared(metric: str, x: Tensor, y: Tensor) -> Tensor:
    score = kg_score_negatives(_model(metric), x, _none(metric, x), None, y, gamma=0.0)[0]
    return _finished(metric, x.unsqueeze(1), y, score)


def _finished(metric: str, x: Tensor, y: Tensor, score: Tensor) -> Tensor:
    """Products or negative distances -> the metric."""
    if metric in ("l1", "l2"):
        return -score
    if metric == "dot":
        return score
    xx, yy = (rows.square().sum(-1) for rows in (x, y))
    below = (xx.sqrt() * yy.sqrt()) if metric == "cosine" else xx + yy - score
    return torch.where(below == 0, 0.0, score / below)


class _Best:
    """The best k columns of each row, of tiles that come one after another."""

    def __init__(self, rows: int, k: int, most: bool) -> None:
        self.k, self.sign = k, -1.0 if most else 1.0
        self.ids = np.full((rows, k), -1, np.int64)
        self.value: np.ndarray | None = None  # less is better; NaN is nobody

    def add(self, ids: np.ndarray, value: np.ndarray) -> None:
        """Values [rows, len(ids)]."""
        value = self.sign * value
        if self.value is None:
            self.value = np.full(self.ids.shape, np.nan, value.dtype)
        if len(ids) > self.k:
            # what is worse than the k-th of the tile is out; ties with it stay, and the smaller ids win below
            bound = np.partition(value, self.k - 1, axis=1)[:, self.k - 1, None]
            keep = ~(value > bound)
            width = int(keep.sum(1).max(initial=0))
            at = np.argsort(~keep, axis=1, kind="stable")[:, :width]
            value = np.where(np.take_along_axis(keep, at, 1), np.take_along_axis(value, at, 1), np.nan)
            ids = ids[at]
        value = np.concatenate([self.value, value], 1)
        ids = np.concatenate([self.ids, np.broadcast_to(ids, (len(value), ids.shape[-1]))], 1)
        order = np.lexsort((ids, value, np.isnan(value)), axis=1)[:, : self.k]
        self.value, self.ids = np.take_along_axis(value, order, 1), np.take_along_axis(ids, order, 1)

    def done(self) -> Similar:
        value = np.full(self.ids.shape, np.nan, np.float32) if self.value is None else self.value
        ids = np.where(np.isnan(value), -1, self.ids)
        return Similar(torch.from_numpy(ids), torch.from_numpy(self.sign * value))
