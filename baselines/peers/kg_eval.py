"""Filtered ranks of test triples in plain PyTorch, as a good user writes them: a chunk of questions at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.baselines.peers.kg_train import Tables, compare, query


def forms(model: str) -> tuple[str, ...]:
    """Ways to write the scores; a good user takes the fastest."""
    if model == "transe_l2":
        return ("cdist", "expansion")
    if model in ("transe_l1", "transr"):
        return ("cdist",)
    return ("broadcast",) if model == "rotate" else ("product",)


@torch.no_grad()
def filtered_ranks(
    model: str,
    tables: Tables,
    triples: Tensor,
    side: str,
    known: tuple[Tensor, Tensor],
    *,
    gamma: float,
    form: str = "",
    chunk: int = 256,
) -> Tensor:
    """Ranks among all entities less the other known answers, ties at their middle: float64 `[T]`.

    Args:
        triples: `(head, relation, tail)`, int64 `[T, 3]`.
        known: Answers of each triple's question, `(offsets [T + 1], ids)`.
        form: One of `forms`; by default the first.
        chunk: Questions at a time; the scores of `chunk * E` pairs are in memory.
    """
    form = form or forms(model)[0]
    offsets, ids = known
    if tables.projection is not None:
        order = triples[:, 1].argsort(stable=True)
        parts = order.split(triples[:, 1].bincount().tolist())
    else:
        parts = torch.arange(len(triples)).split(len(triples) or 1)
    ranks = torch.empty(len(triples), dtype=torch.float64)
    for part in parts:
        if not len(part):
            continue
        entity = tables.entity
        if tables.projection is not None:
            entity = entity @ tables.projection[triples[part[0], 1]]
        for at in part.split(chunk):
            h, r, t = triples[at].unbind(1)
            kept, true = (h, t) if side == "tail" else (t, h)
            q = query(model, entity[kept], tables.relation[r], side == "tail")
            scores = compare(model, form, q, entity, gamma)
            own = scores.gather(1, true.unsqueeze(1))
            count = offsets[at + 1] - offsets[at]
            row = torch.repeat_interleave(torch.arange(len(at)), count)
            place = torch.arange(len(row)) + (offsets[at] - count.cumsum(0) + count)[row]
            scores[row, ids[place]] = -torch.inf
            scores[torch.arange(len(at)), true] = -torch.inf
            ranks[at] = 1 + (scores > own).sum(1) + (scores == own).sum(1).double() / 2
    return ranks
