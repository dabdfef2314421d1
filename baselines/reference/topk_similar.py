"""Reference for `topk_similar`: every row's score, sorted, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def topk_similar(
    query: Tensor, table: Tensor, k: int, *, metric: str = "dot", exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ids, int64, and scores of the best k, `[Q, k]`; -1 and -inf where there are fewer."""
    best = torch.full((len(query), k), -1)
    scores = torch.full((len(query), k), -torch.inf, dtype=torch.float64)
    for i, x in enumerate(query.double().tolist()):
        found = []
        for j, y in enumerate(table.double().tolist()):
            if metric == "l2":
                score = -math.dist(x, y)
            else:
                score = sum(a * b for a, b in zip(x, y, strict=True))
            if metric == "cosine":
                lengths = math.hypot(*x) * math.hypot(*y)
                score = score / lengths if lengths > 0 else 0.0
            if score == score and (exclude is None or exclude[i] != j):
                found.append((-score, j))
        for place, (score, j) in enumerate(sorted(found)[:k]):
            best[i, place], scores[i, place] = j, -score
    return best, scores
