"""Reference for `kg_loss`: one triple at a time, in float64, from the reference scores."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.baselines.reference.kg_score import kg_score, kg_score_negatives


def row_loss(x: Tensor, negatives: Tensor, loss: str, temperature: float | None, margin: float | None) -> Tensor:
    """Of the score of a triple and those of its candidates, `[n]`."""
    n = negatives.shape[0]
    m = margin if margin is not None else {"hinge": 1.0, "pairwise_hinge": 1.0}.get(loss, 0.0)
    w = torch.full_like(negatives, 1 / max(n, 1))
    if temperature is not None:
        w = torch.softmax(temperature * negatives.detach(), 0)

    def soft(y: Tensor) -> Tensor:
        return torch.logaddexp(y, torch.zeros_like(y))

    if loss == "logsigmoid":
        return (soft(-(x + m)) + (w * soft(negatives + m)).sum()) / 2
    if loss == "hinge":
        return ((m - x).clamp(min=0) + (w * (m + negatives).clamp(min=0)).sum()) / 2
    if loss == "bce":
        return (soft(-x) + soft(negatives).sum()) / (1 + n)
    if loss == "pairwise_hinge":
        return (w * (m - x + negatives).clamp(min=0)).sum()
    if loss == "pairwise_logistic":
        return (w * soft(negatives - x - m)).sum()
    if loss == "softmax":
        return torch.logsumexp(torch.cat([x.reshape(1), negatives]), 0) - x
    raise ValueError(f"no loss {loss!r}")


def kg_loss(
    model: str,
    h: Tensor,
    r: Tensor,
    t: Tensor,
    neg: Tensor,
    side: str = "tail",
    *,
    loss: str = "logsigmoid",
    adversarial_temperature: float | None = None,
    gamma: float = 12.0,
    margin: float | None = None,
    relation: Tensor | None = None,
    projection: Tensor | None = None,
    weight: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The mean of the triples' weighted losses."""
    B = h.shape[0]
    options = {"gamma": gamma, "projection": projection, "relation": relation}
    own = kg_score(model, h, r, t, **options)
    every = kg_score_negatives(model, h, r, t, neg, side, **options).reshape(B, neg.shape[-2])
    total = own.sum() * 0 + every.sum() * 0
    for b in range(B):
        out = set() if exclude is None else set(exclude[1][exclude[0][b] : exclude[0][b + 1]].tolist())
        kept = every[b, [j for j in range(every.shape[1]) if j not in out]]
        scale = 1.0 if weight is None else weight[b].double()
        total = total + scale * row_loss(own[b], kept, loss, adversarial_temperature, margin) / B
    return total
