"""Reference for `kg_score` and `kg_score_negatives`: one triple at a time, in float64, as the papers write the scores."""

from __future__ import annotations

import torch
from torch import Tensor


def _complex(row: Tensor) -> Tensor:
    re, im = row.chunk(2)
    return torch.complex(re, im)


def _transe(h: Tensor, r: Tensor, t: Tensor, p: float, gamma: float) -> Tensor:
    return gamma - torch.linalg.vector_norm(h + r - t, ord=p)


def _complex_score(h: Tensor, r: Tensor, t: Tensor) -> Tensor:
    return (_complex(h) * _complex(r) * _complex(t).conj()).real.sum()


def _rotate(h: Tensor, r: Tensor, t: Tensor, gamma: float) -> Tensor:
    return gamma - (_complex(h) * torch.polar(torch.ones_like(r), r) - _complex(t)).abs().sum()


def _simple(h: Tensor, r: Tensor, t: Tensor) -> Tensor:
    (hi, hj), (ra, rb), (ti, tj) = h.chunk(2), r.chunk(2), t.chunk(2)
    return ((hi * ra * tj).sum() + (ti * rb * hj).sum()) / 2


def triple(model: str, h: Tensor, r: Tensor, t: Tensor, gamma: float, projection: Tensor | None) -> Tensor:
    """The score of one triple of rows."""
    if model == "transe_l1":
        return _transe(h, r, t, 1, gamma)
    if model == "transe_l2":
        return _transe(h, r, t, 2, gamma)
    if model == "distmult":
        return (h * r * t).sum()
    if model == "complex":
        return _complex_score(h, r, t)
    if model == "rotate":
        return _rotate(h, r, t, gamma)
    if model == "rescal":
        return h @ r.reshape(h.shape[0], h.shape[0]) @ t
    if model == "transr":
        assert projection is not None
        return _transe(h @ projection, r, t @ projection, 1, gamma)
    if model == "simple":
        return _simple(h, r, t)
    raise ValueError(f"no model {model!r}")


def _relation(b: int, r: Tensor, projection: Tensor | None, relation: Tensor | None) -> tuple[Tensor, Tensor | None]:
    i = b if relation is None else int(relation[b])
    return r[i].double(), None if projection is None else projection[i].double()


def kg_score(
    model: str,
    h: Tensor,
    r: Tensor,
    t: Tensor,
    *,
    gamma: float = 12.0,
    projection: Tensor | None = None,
    relation: Tensor | None = None,
) -> Tensor:
    """Scores `[B]`."""
    scores = [
        triple(model, h[b].double(), row, t[b].double(), gamma, p)
        for b in range(h.shape[0])
        for row, p in [_relation(b, r, projection, relation)]
    ]
    return torch.stack(scores) if scores else h.double().sum().expand(0)


def kg_score_negatives(
    model: str,
    h: Tensor | None,
    r: Tensor,
    t: Tensor | None,
    neg: Tensor,
    side: str = "tail",
    *,
    gamma: float = 12.0,
    projection: Tensor | None = None,
    relation: Tensor | None = None,
) -> Tensor:
    """Scores `[C, S, N]`: triple b with its head or tail replaced by each candidate of its chunk `b // S`."""
    kept = h if side == "tail" else t
    assert kept is not None
    neg = neg if neg.dim() == 3 else neg.unsqueeze(0)
    B, (C, N, _) = kept.shape[0], neg.shape
    scores = []
    for b in range(B):
        row, p = _relation(b, r, projection, relation)
        for candidate in neg[b // (B // C)].double():
            pair = (kept[b].double(), candidate) if side == "tail" else (candidate, kept[b].double())
            scores.append(triple(model, pair[0], row, pair[1], gamma, p))
    empty = kept.double().sum() + neg.double().sum()
    return torch.stack(scores).reshape(C, B // C, N) if scores else empty.expand(C, B // C if C else 0, N)
