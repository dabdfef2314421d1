"""`kg_score` and `kg_score_negatives`: scores of knowledge-graph triples, and of candidates that share a chunk.

Every model compares a query, made of two parts of the triple, with the rows of the third: by a product or a distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._kg_compare import DOT, L1, L2, MODULUS, kg_compare
from gnnaccel.ops._kg_project import kg_project, kg_projected_l1
from gnnaccel.ops.gather_rows import gather_rows

KINDS = {
    "transe_l1": L1,
    "transe_l2": L2,
    "distmult": DOT,
    "complex": DOT,
    "rotate": MODULUS,
    "rescal": DOT,
    "transr": L1,
    "simple": DOT,
}
MODELS = tuple(KINDS)
HALVES = ("complex", "rotate", "simple")  # models whose entity rows have two halves
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def relation_width(model: str, dim: int, relation_dim: int | None = None) -> int:
    """Columns of a relation's row, for entity rows of `dim` columns; TransR's are `relation_dim`, or as many as `dim`."""
    if model == "transr":
        return relation_dim or dim
    return {"rotate": dim // 2, "rescal": dim * dim}.get(model, dim)


def _check_entities(owner: str, model: str, rows: dict[str, Tensor]) -> None:
    if model not in KINDS:
        raise ValueError(f"{owner}: model must be one of {', '.join(MODELS)}, got {model!r}")
    (first, kept), *others = rows.items()
    if kept.dtype not in _FLOATING:
        raise TypeError(f"{owner}: {first} must be float64, float32, float16 or bfloat16, got {kept.dtype}")
    if kept.dim() != 2:
        raise ValueError(f"{owner}: {first} must be [B, D], got {list(kept.shape)}")
    for name, tensor in others:
        if tensor.dtype != kept.dtype:
            raise TypeError(f"{owner}: {name} must have the dtype of {first} ({kept.dtype}), got {tensor.dtype}")
    if model in HALVES and kept.shape[1] % 2:
        raise ValueError(f"{owner}: {first} must have an even number of columns for {model}, got {kept.shape[1]}")


def _check_relations(
    owner: str, model: str, kept: Tensor, r: Tensor, projection: Tensor | None, relation: Tensor | None
) -> None:
    B, D = kept.shape
    if r.dtype != kept.dtype:
        raise TypeError(f"{owner}: r must have the dtype of the entity rows ({kept.dtype}), got {r.dtype}")
    if r.dim() != 2 or (model != "transr" and r.shape[1] != relation_width(model, D)):
        width = "M" if model == "transr" else relation_width(model, D)
        raise ValueError(f"{owner}: r must be [{'B' if relation is None else 'R'}, {width}], got {list(r.shape)}")
    if relation is None and r.shape[0] != B:
        raise ValueError(f"{owner}: r must have {B} rows, or come with `relation`, got {r.shape[0]}")
    if relation is not None:
        if relation.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{owner}: relation must be int64 or int32, got {relation.dtype}")
        if tuple(relation.shape) != (B,):
            raise ValueError(f"{owner}: relation must be [{B}], got {list(relation.shape)}")
    if model != "transr":
        if projection is not None:
            raise ValueError(f"{owner}: projection must be None for {model}, got a tensor")
        return
    if projection is None:
        raise ValueError(f"{owner}: projection must be given for transr, got None")
    if projection.dtype != kept.dtype:
        raise TypeError(f"{owner}: projection must have the dtype of r ({kept.dtype}), got {projection.dtype}")
    want = (r.shape[0], D, r.shape[1])
    if tuple(projection.shape) != want:
        raise ValueError(f"{owner}: projection must be {list(want)}, got {list(projection.shape)}")


def _turn(e: Tensor, re: Tensor, im: Tensor) -> Tensor:
    """Rows [re | im] times re + i im."""
    a, b = e.chunk(2, -1)
    return torch.cat([a * re - b * im, a * im + b * re], -1)


def _query(model: str, e: Tensor, r: Tensor, relation: Tensor | None, projection: Tensor | None, tail: bool) -> Tensor:
    """Queries [B, .], float32 or float64, that are compared with tails (`e` being heads), or with heads."""
    acc = torch.promote_types(e.dtype, torch.float32)
    e = e.to(acc)
    if model in ("rescal", "transr"):
        every = torch.arange(e.shape[0], device=e.device) if relation is None else relation
        if model == "rescal":
            return kg_project(e, r.view(r.shape[0], e.shape[1], e.shape[1]), every, not tail)
        assert projection is not None
        e = kg_project(e, projection, every)
    r = r.to(acc) if relation is None else gather_rows(r, relation, dtype=acc)
    if KINDS[model] in (L1, L2):
        return e + r if tail else e - r
    if model == "distmult":
        return e * r
    if model == "complex":
        re, im = r.chunk(2, -1)
        return _turn(e, re, im if tail else -im)
    if model == "rotate":
        return _turn(e, torch.cos(r), torch.sin(r) if tail else -torch.sin(r))
    # simple: the halves change places
    (a, b), (forth, back) = e.chunk(2, -1), r.chunk(2, -1)
    return (torch.cat([b * back, a * forth], -1) if tail else torch.cat([b * forth, a * back], -1)) / 2


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
    """Scores of triples of embedding rows; higher is more likely.

    | model | score | r | source |
    | --- | --- | --- | --- |
    | `transe_l1`, `transe_l2` | gamma - norm(h + r - t), not squared | D | Bordes et al., NIPS 2013 |
    | `distmult` | sum h r t | D | Yang et al., ICLR 2015 |
    | `complex` | Re sum h r conj(t), rows [re, im] | D | Trouillon et al., ICML 2016 |
    | `rotate` | gamma - sum abs(h exp(i r) - t), rows [re, im], phases r in radians | D / 2 | Sun et al., ICLR 2019 |
    | `rescal` | h M t, M = r as [D, D] by rows | D D | Nickel et al., ICML 2011 |
    | `transr` | gamma - abs(h P + r - t P) summed | M | Lin et al., AAAI 2015; the norm is DGL-KE's |
    | `simple` | sum (h1 r1 t2 + t1 r2 h2) / 2, rows in halves | D | Kazemi and Poole, NeurIPS 2018 |

    DGL-KE clamps SimplE to +-20 in training; here it is not clamped.

    Args:
        model: One of the names above.
        h: Rows of the heads, `[B, D]`, floating; half types are computed in float32. D is even where rows have halves.
        r: Rows of the relations, `[B, .]` as above, dtype of `h`; with `relation`, one row a relation.
        t: Rows of the tails, `[B, D]`, dtype of `h`.
        gamma: Added to the distance models; the others ignore it.
        projection: TransR's P, `[B, D, M]`, dtype of `h`; with `relation`, one matrix a relation.
        relation: Which row of `r` (and of `projection`) each triple takes, `[B]`, int64 or int32. RESCAL and TransR then read
            each matrix once and sum its gradient in one product, instead of a copy for each triple.

    Returns:
        `[B]`, dtype of `h`.

    Gradients: all floating tensors; once differentiable. A difference of 0 has gradient 0.

    Determinism: bitwise reproducible on one machine.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, `model` is unknown, or `projection` is missing or not wanted.
    """
    _check_entities("kg_score", model, {"h": h, "t": t})
    if t.shape != h.shape:
        raise ValueError(f"kg_score: t must be {list(h.shape)} like h, got {list(t.shape)}")
    _check_relations("kg_score", model, h, r, projection, relation)
    q = _query(model, h, r, relation, projection, tail=True)
    if projection is not None:
        every = torch.arange(h.shape[0], device=h.device) if relation is None else relation
        t = kg_project(t.to(q.dtype), projection, every)
    return kg_compare(q.unsqueeze(1), t.unsqueeze(1), KINDS[model], gamma).flatten().to(h.dtype)


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
    """Scores of triples with the head or the tail replaced by each candidate of their chunk.

    The B triples lie in C chunks of S = B / C, and those of chunk c share its N candidates. One chunk whose candidates are all
    entities is 1-vs-all. A candidate equal to the true entity gets the score of `kg_score` up to rounding. The models are those
    of `kg_score`; nothing of the size B N D is made.

    Args:
        model: One of `kg_score`'s names.
        h: Rows of the heads, `[B, D]`, floating; not read, and may be None, for `side="head"`.
        r: Rows of the relations, `[B, .]`, or with `relation` one a relation; dtype of the entity rows.
        t: Rows of the tails, `[B, D]`; not read, and may be None, for `side="tail"`.
        neg: Rows of the candidates, `[C, N, D]`, C a divisor of B; or `[N, D]`, one chunk. Dtype of the entity rows.
        side: What is replaced: `"tail"` or `"head"`.
        gamma: Added to the distance models.
        projection: As `kg_score`'s.
        relation: As `kg_score`'s; TransR projects candidates once for each relation of a chunk, without it once a triple.

    Returns:
        `[C, S, N]`, dtype of the entity rows.

    Gradients: all floating tensors that are read; once differentiable. A difference of 0 has gradient 0.

    Determinism: bitwise reproducible on one machine.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, `model` or `side` is unknown, the kept side is None, or `projection` is missing or
            not wanted.
    """
    if side not in ("head", "tail"):
        raise ValueError(f"kg_score_negatives: side must be head or tail, got {side!r}")
    name, kept = ("h", h) if side == "tail" else ("t", t)
    if kept is None:
        raise ValueError(f"kg_score_negatives: {name} must be given for side={side!r}, got None")
    _check_entities("kg_score_negatives", model, {name: kept, "neg": neg})
    (B, D), C = kept.shape, neg.shape[0] if neg.dim() == 3 else 1
    if neg.dim() not in (2, 3) or neg.shape[-1] != D:
        raise ValueError(f"kg_score_negatives: neg must be [C, N, {D}] or [N, {D}], got {list(neg.shape)}")
    if (B % C if C else B) != 0:
        raise ValueError(f"kg_score_negatives: neg must have a number of chunks that divides {B}, got {C}")
    _check_relations("kg_score_negatives", model, kept, r, projection, relation)
    candidates = neg if neg.dim() == 3 else neg.unsqueeze(0)
    q = _query(model, kept, r, relation, projection, side == "tail")
    q = q.view(C, B // C if C else 0, q.shape[1])
    if projection is None:
        return kg_compare(q, candidates, KINDS[model], gamma)
    every = torch.arange(B, device=kept.device) if relation is None else relation
    return kg_projected_l1(q, candidates, projection, every, gamma)
