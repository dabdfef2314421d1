"""What users write today for the loss of triples against shared negatives: scores [B, N], then the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.baselines.peers import kg_score
from gnnaccel.baselines.peers.kg_score import MISSING, _turn

Exclude = tuple[Tensor, Tensor]


def triples(model: str, h: Tensor, r: Tensor, t: Tensor, gamma: float) -> Tensor:
    """Scores `[B]` of the triples themselves."""
    if model in ("transe_l1", "transe_l2"):
        return gamma - torch.linalg.vector_norm(h + r - t, ord=1 if model == "transe_l1" else 2, dim=-1)
    if model == "rotate":
        re, im = (_turn(h, torch.cos(r), torch.sin(r)) - t).chunk(2, -1)
        return gamma - torch.hypot(re, im).sum(-1)
    return ((h * r if model == "distmult" else _turn(h, *r.chunk(2, -1))) * t).sum(-1)


def _loss(negatives: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(
        model: str,
        h: Tensor,
        r: Tensor,
        t: Tensor,
        neg: Tensor,
        loss: str,
        adversarial_temperature: float | None = None,
        exclude: Exclude | None = None,
        gamma: float = 12.0,
    ) -> Tensor:
        x = negatives(model, h, r, None, neg, gamma).reshape(h.shape[0], -1)
        if loss == "softmax":
            # 1-vs-all: the candidates contain the answer, which here has rows of its own
            assert exclude is not None
            own = triples(model, h, r, t, gamma).unsqueeze(1)
            return F.cross_entropy(x.scatter_(1, exclude[1].unsqueeze(1), own), exclude[1])
        w = torch.softmax(adversarial_temperature * x.detach(), 1) if adversarial_temperature else 1 / x.shape[1]
        return (F.softplus(-triples(model, h, r, t, gamma)) + (w * F.softplus(x)).sum(1)).mean() / 2

    return call


#: Provider -> loss; only logsigmoid and 1-vs-all softmax, tails replaced.
PROVIDERS: dict[str, Any] = {name: _loss(scores) for name, scores in kg_score.PROVIDERS.items()}
__all__ = ["MISSING", "PROVIDERS", "triples"]
