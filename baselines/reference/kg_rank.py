"""Reference for `kg_rank`: one triple, one candidate at a time, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.reference.kg_score import triple


def score(
    model: str,
    tables: tuple[Tensor, Tensor, Tensor | None],
    h: int,
    r: int,
    t: int,
    gamma: float,
    memory: dict[Any, float],
) -> float:
    entity, relation, projection = tables
    if (h, r, t) not in memory:
        p = None if projection is None else projection[r].double()
        rows = entity[h].double(), relation[r].double(), entity[t].double()
        memory[h, r, t] = float(triple(model, *rows, gamma, p))
    return memory[h, r, t]


def listed(given: Any, b: int) -> set[int]:
    if given is None:
        return set()
    indptr, ids = given
    return set(ids[indptr[b] : indptr[b + 1]].tolist())


def kg_rank(
    model: str,
    entity_table: Tensor,
    relation_table: Tensor,
    triples: Tensor,
    side: str = "tail",
    known: Any = None,
    *,
    gamma: float = 12.0,
    projection_table: Tensor | None = None,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of candidates with a greater score and with the same score, and of candidates, int64 `[B]` each."""
    tables, memory = (entity_table, relation_table, projection_table), {}
    among = set(range(len(entity_table)) if candidates is None else candidates.tolist())
    rows = []
    for b, (h, r, t) in enumerate(triples.tolist()):
        left = among - listed(known, b) - {t if side == "tail" else h}
        true = score(model, tables, h, r, t, gamma, memory)
        others = [score(model, tables, *((h, r, e) if side == "tail" else (e, r, t)), gamma, memory) for e in left]
        greater, less = sum(s > true for s in others), sum(s < true for s in others)
        # NaN is neither; a true score of NaN is behind all
        rows.append((greater, len(left) - greater - less, len(left)) if true == true else (len(left), 0, len(left)))
    greater, equal, count = torch.tensor(rows, dtype=torch.int64).view(-1, 3).unbind(1)
    return greater, equal, count
