"""Reference for `kg_topk`: all scores of a query, sorted, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.reference.kg_rank import listed, score


def kg_topk(
    model: str,
    entity_table: Tensor,
    relation_table: Tensor,
    queries: Tensor,
    k: int = 10,
    side: str = "tail",
    *,
    gamma: float = 12.0,
    projection_table: Tensor | None = None,
    exclude: Any = None,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Ids, int64, and scores of the best k, `[B, k]`; -1 and -inf where there are fewer."""
    tables, memory = (entity_table, relation_table, projection_table), {}
    among = set(range(len(entity_table)) if candidates is None else candidates.tolist())
    best = torch.full((len(queries), k), -1)
    scores = torch.full((len(queries), k), -torch.inf, dtype=torch.float64)
    for b, (e, r) in enumerate(queries.tolist()):
        found = []
        for c in among - listed(exclude, b):
            s = score(model, tables, *((e, r, c) if side == "tail" else (c, r, e)), gamma, memory)
            if s == s:
                found.append((-s, c))
        for i, (s, c) in enumerate(sorted(found)[:k]):
            best[b, i], scores[b, i] = c, -s
    return best, scores
