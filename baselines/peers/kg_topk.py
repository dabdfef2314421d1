"""What users write today for the best entities of a query."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.kg_rank import _BATCH, queries, scores


def eager(
    model: str,
    entity_table: Tensor,
    relation_table: Tensor,
    queries_: Tensor,
    k: int = 10,
    side: str = "tail",
    gamma: float = 12.0,
) -> tuple[Tensor, Tensor]:
    """Ids and scores, `[B, k]`."""
    best = []
    for part in queries_.split(_BATCH):
        q = queries(model, entity_table[part[:, 0]], relation_table[part[:, 1]], side)
        best.append(torch.topk(scores(model, q, entity_table, gamma), k))
    return torch.cat([x.indices for x in best]), torch.cat([x.values for x in best])


PROVIDERS: dict[str, Any] = {"torch": eager}
