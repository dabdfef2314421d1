"""What users write today for the scores of shared negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _turn(e: Tensor, re: Tensor, im: Tensor) -> Tensor:
    a, b = e.chunk(2, -1)
    return torch.cat([a * re - b * im, a * im + b * re], -1)


def eager(model: str, h: Tensor, r: Tensor, t: Tensor | None, neg: Tensor, gamma: float = 12.0) -> Tensor:
    """Corrupted tails by cdist for TransE, by a matrix product for the products, by broadcasting for RotatE."""
    C, _, D = neg.shape
    if model in ("transe_l1", "transe_l2"):
        return gamma - torch.cdist((h + r).view(C, -1, D), neg, p=1 if model == "transe_l1" else 2)
    if model == "rotate":
        q = _turn(h, torch.cos(r), torch.sin(r)).view(C, -1, 1, D)
        re, im = (q - neg.unsqueeze(1)).chunk(2, -1)
        return gamma - torch.hypot(re, im).sum(-1)
    if model == "distmult":
        q = h * r
    elif model == "complex":
        q = _turn(h, *r.chunk(2, -1))
    elif model == "rescal":
        q = torch.bmm(h.unsqueeze(1), r.view(-1, D, D)).squeeze(1)
    else:
        raise ValueError(f"no peer of {model!r}")
    return torch.bmm(q.view(C, -1, D), neg.transpose(1, 2))


PROVIDERS: dict[str, Any] = {"torch": eager}
MISSING: dict[str, str] = {}

try:
    from pykeen.nn import modules as _pykeen
except ImportError as error:
    MISSING["pykeen"] = str(error)
else:

    def pykeen(model: str, h: Tensor, r: Tensor, t: Tensor | None, neg: Tensor, gamma: float = 12.0) -> Tensor:
        """PyKEEN's interactions, broadcast; of complex models on views of the rows as complex numbers."""
        C, _, D = neg.shape
        make = {
            "transe_l1": lambda: _pykeen.TransEInteraction(p=1),
            "transe_l2": lambda: _pykeen.TransEInteraction(p=2),
            "distmult": _pykeen.DistMultInteraction,
            "complex": _pykeen.ComplExInteraction,
            "rescal": _pykeen.RESCALInteraction,
        }
        if model not in make:
            # its RotatE takes another norm
            raise ValueError(f"no PyKEEN interaction is {model!r}")
        h, t = h.view(C, -1, 1, D), neg.unsqueeze(1)
        if model == "complex":
            h, r, t = (torch.complex(*x.chunk(2, -1)) for x in (h, r, t))
        r = r.view(C, -1, 1, *((D, D) if model == "rescal" else (r.shape[-1],)))
        scores = make[model]()(h, r, t)
        return scores + gamma if model.startswith("transe") else scores

    PROVIDERS["pykeen"] = pykeen
