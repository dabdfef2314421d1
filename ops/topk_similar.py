"""`topk_similar`: the rows of a table most similar to each query, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._kg_compare import DOT, L2
from gnnaccel.ops._library import define, fake, impl

#: Metric -> how rows are compared; rows of unit length make the product the cosine.
METRICS = {"dot": DOT, "cosine": DOT, "l2": L2}

# a frame around `kg_topk_queries`, whose tiles and selections it shares
define("topk_similar(Tensor query, Tensor table, Tensor? exclude, SymInt k, str metric) -> (Tensor, Tensor)")

_FOUND = 1 << 21  # results, and elements of queries, of a block
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_IDS = (torch.int64, torch.int32)


def _unit(x: Tensor) -> Tensor:
    """Rows of unit length, rows of zeros as they are; half types in float32."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    most = x.abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
    x = x / torch.where(most > 0, most, 1.0)  # the squares of what is left neither overflow nor vanish
    length = x.square().sum(1, keepdim=True).sqrt()
    return x / torch.where(length > 0, length, 1.0)


@impl("topk_similar", "CompositeExplicitAutograd")
def _topk(query: Tensor, table: Tensor, exclude: Tensor | None, k: int, metric: str) -> tuple[Tensor, Tensor]:
    (Q, D), N = query.shape, table.shape[0]
    best = torch.empty((Q, k), dtype=torch.int64, device=query.device)
    scores = torch.empty((Q, k), dtype=query.dtype, device=query.device)
    left = torch.full((Q,), -1, device=query.device) if exclude is None else exclude.long()
    if Q and bool(((left < -1) | (left >= N)).any()):
        bad = int(left[(left < -1) | (left >= N)][0])
        raise ValueError(f"topk_similar: exclude must be in [-1, {N}), got {bad}")
    rows = _unit(table) if metric == "cosine" else table
    acc = torch.promote_types(query.dtype, torch.float32)
    nothing = torch.zeros(Q, dtype=torch.int64, device=query.device)
    for at in torch.arange(Q, device=query.device).split(max(1, _FOUND // max(k, D, 1))) if Q else ():
        q = _unit(query[at]) if metric == "cosine" else query[at].to(acc)
        start = torch.arange(len(at), device=query.device)
        out = left[at]
        best[at], found = torch.ops.gnnaccel.kg_topk_queries(
            q, rows, None, nothing[at], start, start + (out >= 0), out, None, k, METRICS[metric], 0.0
        )
        scores[at] = found.to(query.dtype)
    return best, scores


@fake("topk_similar")
def _fake(query: Tensor, table: Tensor, exclude: Tensor | None, k: int, metric: str) -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], k)
    return query.new_empty(shape, dtype=torch.int64), query.new_empty(shape)


def topk_similar(
    query: Tensor, table: Tensor, k: int, *, metric: str = "dot", exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k rows of `table` that are most similar to each query, exactly. Nothing of the size Q N is made.

    Args:
        query: `[Q, D]`, floating; half types are computed in float32.
        table: `[N, D]`, dtype of `query`.
        k: Rows of a query, at least 1; thousands are fine.
        metric: `"dot"`: the inner product. `"cosine"`: of rows of unit length, 0 for a row of zeros; a copy of the table is
            made. `"l2"`: minus the distance.
        exclude: A row that each query does not get, for example itself: int64 or int32 `[Q]`, -1 for none.

    Returns:
        `(ids, scores)`, int64 `[Q, k]` and `[Q, k]` in the dtype of `query`, best first, of equal scores the smaller id first
        (half types: equal before the score is rounded to them). With fewer than k rows the rest is id -1, score -inf. A row
        whose score is NaN is not returned.

    Gradients: none; compare the rows anew for scores with gradients.

    Cost: 2 Q N D operations; memory O(Q k) and tiles. The tiles and selections are those of `kg_topk`.

    Determinism: bitwise reproducible on one machine, for any number of threads. Equal rows are ties.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, `exclude` is out of range, k is below 1, or `metric` is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"topk_similar: metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if query.dtype not in _FLOATING:
        raise TypeError(f"topk_similar: query must be float64, float32, float16 or bfloat16, got {query.dtype}")
    if table.dtype != query.dtype:
        raise TypeError(f"topk_similar: table must be {query.dtype} like query, got {table.dtype}")
    if query.dim() != 2:
        raise ValueError(f"topk_similar: query must be [Q, D], got {list(query.shape)}")
    if table.dim() != 2 or table.shape[1] != query.shape[1]:
        raise ValueError(f"topk_similar: table must be [N, {query.shape[1]}], got {list(table.shape)}")
    if table.device != query.device:
        raise ValueError(f"topk_similar: table must be on {query.device} like query, got {table.device}")
    if exclude is not None:
        if exclude.dtype not in _IDS:
            raise TypeError(f"topk_similar: exclude must be int64 or int32, got {exclude.dtype}")
        if exclude.shape != query.shape[:1]:
            raise ValueError(f"topk_similar: exclude must be [{query.shape[0]}], got {list(exclude.shape)}")
        if exclude.device != query.device:
            raise ValueError(f"topk_similar: exclude must be on {query.device} like query, got {exclude.device}")
    if k < 1:
        raise ValueError(f"topk_similar: k must be at least 1, got {k}")
    return torch.ops.gnnaccel.topk_similar(query.detach(), table.detach(), exclude, k, metric)
