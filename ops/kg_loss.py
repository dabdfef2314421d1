"""`kg_loss`: scores of triples and of the candidates they share, the loss and its gradients, without a matrix of scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops import _kg_loss as rows_of
from gnnaccel.ops._kg_loss import LOSSES
from gnnaccel.ops._kg_project import kg_project
from gnnaccel.ops._library import on_host
from gnnaccel.ops.gather_rows import gather_rows
from gnnaccel.ops.kg_score import KINDS, _check_entities, _check_relations

_OPERATIONS = {
    "transe_l1": (rows_of.PLUS, rows_of.MINUS),
    "transe_l2": (rows_of.PLUS, rows_of.MINUS),
    "distmult": (rows_of.TIMES, rows_of.TIMES),
    "complex": (rows_of.TURN, rows_of.TURN_BACK),
    "rotate": (rows_of.ROTATE, rows_of.ROTATE_BACK),
    "rescal": (rows_of.GIVEN, rows_of.GIVEN),
    "simple": (rows_of.CROSS, rows_of.CROSS_BACK),
}
_WEIGHTED = ("logsigmoid", "hinge", "pairwise_hinge", "pairwise_logistic")
_MARGINS = {"hinge": 1.0, "pairwise_hinge": 1.0}

Exclude = tuple[Tensor, Tensor]


def _check(
    model: str, h: Tensor, r: Tensor, t: Tensor, neg: Tensor, side: str, projection: Any, relation: Tensor | None
) -> None:
    if side not in ("head", "tail"):
        raise ValueError(f"kg_loss: side must be head or tail, got {side!r}")
    _check_entities("kg_loss", model, {"h": h, "t": t, "neg": neg})
    if t.shape != h.shape:
        raise ValueError(f"kg_loss: t must be {list(h.shape)} like h, got {list(t.shape)}")
    (B, D), C = h.shape, neg.shape[0] if neg.dim() == 3 else 1
    if neg.dim() not in (2, 3) or neg.shape[-1] != D:
        raise ValueError(f"kg_loss: neg must be [C, N, {D}] or [N, {D}], got {list(neg.shape)}")
    if (B % C if C else B) != 0:
        raise ValueError(f"kg_loss: neg must have a number of chunks that divides {B}, got {C}")
    _check_relations("kg_loss", model, h, r, projection, relation)


def _check_loss(loss: str, temperature: float | None, margin: float | None) -> float:
    """The margin."""
    if loss not in LOSSES:
        raise ValueError(f"kg_loss: loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if temperature is not None and loss not in _WEIGHTED:
        raise ValueError(f"kg_loss: adversarial_temperature must be None for {loss}, got {temperature}")
    if temperature is not None and not 0 <= temperature < math.inf:
        raise ValueError(f"kg_loss: adversarial_temperature must be at least 0 and finite, got {temperature}")
    if margin is None:
        return _MARGINS.get(loss, 0.0)
    if loss not in _WEIGHTED:
        raise ValueError(f"kg_loss: margin must be None for {loss}, got {margin}")
    if not math.isfinite(margin):
        raise ValueError(f"kg_loss: margin must be finite, got {margin}")
    return float(margin)


def _check_bits(bits: Tensor, B: int, N: int) -> tuple[Tensor | None, Tensor]:
    """Bits of the excluded, as the op takes them on the device."""
    if bits.dtype != torch.int32:
        raise TypeError(f"kg_loss: exclude must be int32 bits, got {bits.dtype}")
    if tuple(bits.shape) != (B, -(-N // 32)):
        raise ValueError(f"kg_loss: exclude must be bits [{B}, {-(-N // 32)}], got {list(bits.shape)}")
    return rows_of.rows_of_bits(bits) if on_host(bits) else (None, bits)


def _check_rows(B: int, weight: Tensor | None, exclude: Exclude | None) -> None:
    if weight is not None:
        if not weight.dtype.is_floating_point:
            raise TypeError(f"kg_loss: weight must be floating, got {weight.dtype}")
        if tuple(weight.shape) != (B,):
            raise ValueError(f"kg_loss: weight must be [{B}], got {list(weight.shape)}")
    if exclude is None:
        return
    if not isinstance(exclude, (tuple, list)) or len(exclude) != 2:
        raise TypeError(f"kg_loss: exclude must be a pair (indptr, position), got {type(exclude).__name__}")
    indptr, position = exclude
    if indptr.dtype != torch.int64:
        raise TypeError(f"kg_loss: exclude[0] must be int64, got {indptr.dtype}")
    if tuple(indptr.shape) != (B + 1,):
        raise ValueError(f"kg_loss: exclude[0] must be [{B + 1}], got {list(indptr.shape)}")
    if position.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"kg_loss: exclude[1] must be int64 or int32, got {position.dtype}")
    if position.dim() != 1:
        raise ValueError(f"kg_loss: exclude[1] must be [P], got {list(position.shape)}")


def _outputs(
    model: str,
    h: Tensor,
    r: Tensor,
    t: Tensor,
    neg: Tensor,
    side: str,
    relation: Tensor | None,
    projection: Tensor | None,
    row_options: tuple[Tensor | None, ...],
    numbers: tuple[Any, ...],
) -> tuple[Tensor, ...]:
    """The op's: the loss, and gradients of the rows that it was given."""
    tail = side == "tail"
    e, other = (h, t) if tail else (t, h)
    n = neg if neg.dim() == 3 else neg.unsqueeze(0)
    acc = torch.promote_types(h.dtype, torch.float32)
    if model in ("rescal", "transr"):
        every = torch.arange(h.shape[0], device=h.device) if relation is None else relation
        e, other = e.to(acc), other.to(acc)
        if projection is not None:
            rows = r.to(acc) if relation is None else gather_rows(r, relation, dtype=acc)
            e, other = kg_project(e, projection, every), kg_project(other, projection, every)
            q = e + rows if tail else e - rows
            return torch.ops.gnnaccel.kg_loss_projected(q, other, n, projection, every, *row_options, *numbers)
        D = h.shape[1]
        e = kg_project(e, r.view(r.shape[0], D, D), every, not tail)
        r = e.new_empty((h.shape[0], 0))
    elif relation is not None:
        r = gather_rows(r, relation)
    made = (_OPERATIONS[model][0 if tail else 1], KINDS[model])
    return torch.ops.gnnaccel.kg_loss_rows(e, r, other, n, *row_options, *made, *numbers)


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
    exclude: Exclude | None = None,
) -> Tensor:
    """Loss of triples against candidates for their head or tail that the triples of a chunk share.

    With x the score of a triple (as `kg_score`), x_j those of its candidates A (as `kg_score_negatives`, without the excluded),
    w_j = 1 / |A|, or with a temperature a softmax_j(a x_j), through which no gradient flows:

    | loss | of a triple | margin m |
    | --- | --- | --- |
    | `logsigmoid` | (softplus(-x - m) + sum_j w_j softplus(x_j + m)) / 2 | 0 |
    | `hinge` | (max(0, m - x) + sum_j w_j max(0, m + x_j)) / 2 | 1 |
    | `bce` | (softplus(-x) + sum_j softplus(x_j)) / (1 + abs(A)) | |
    | `pairwise_hinge` | sum_j w_j max(0, m - x + x_j) | 1 |
    | `pairwise_logistic` | sum_j w_j softplus(x_j - x - m) | 0 |
    | `softmax` | logsumexp(x, x_1, ...) - x | |

    `logsigmoid` with a temperature is RotatE's loss (Sun et al., ICLR 2019). 1-vs-all is `neg` = the whole table, `softmax` and
    each triple's own answer excluded. Sums over no candidate are 0. Scores and differences live in tiles: beside results and
    rows, memory does not grow with the number of pairs, nor with their columns.

    Args:
        model: One of `kg_score`'s names.
        h: Rows of the heads, `[B, D]`, floating; half types are computed in float32.
        r: Rows of the relations, `[B, .]`, or with `relation` one a relation; dtype of `h`.
        t: Rows of the tails, `[B, D]`, dtype of `h`.
        neg: Rows of the candidates, `[C, N, D]` for C chunks of B / C triples, or `[N, D]`, one chunk; dtype of `h`.
        side: What the candidates replace: `"tail"` or `"head"`.
        loss: One of the table.
        adversarial_temperature: a above, at least 0; for the losses with w_j.
        gamma: Added to the distance models.
        margin: m above; for the losses with one.
        relation: As `kg_score`'s.
        projection: As `kg_score`'s.
        weight: Multiplies each triple's loss, `[B]`, floating, not differentiated; default 1.
        exclude: `(indptr, position)`, `[B + 1]` int64 and `[P]` int64 or int32: what is at `position[indptr[b]:indptr[b + 1]]`
            among the candidates of triple b's chunk is none of its own. In any order. Values are not checked on CUDA.

    Returns:
        The mean over the triples, a scalar of the dtype of `h`; 0 without triples.

    Gradients: h, r, t, neg, projection; once differentiable. They are made in the forward pass, unless autograd is off. A
    difference of 0 has gradient 0.

    Determinism: bitwise reproducible on one machine, on CPU for any number of threads.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, a name is unknown, an option does not go with the model or the loss, or `exclude` has
            positions out of range.
    """
    _check(model, h, r, t, neg, side, projection, relation)
    m = _check_loss(loss, adversarial_temperature, margin)
    # 0: equal weights
    a = adversarial_temperature or None
    _check_rows(h.shape[0], weight, exclude)
    leaves = (h, r, t, neg) if projection is None else (h, r, t, neg, projection)
    grads = torch.is_grad_enabled() and any(x.requires_grad for x in leaves)
    numbers = (LOSSES.index(loss), gamma, m, a, grads)
    indptr, position = (None, None) if exclude is None else exclude
    return _outputs(model, h, r, t, neg, side, relation, projection, (weight, indptr, position), numbers)[0]


def kg_loss_grads(
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
    exclude: Exclude | Tensor | None = None,
) -> tuple[Tensor, ...]:
    """`kg_loss` and its gradients `(loss, dh, dr, dt, dneg)`, and TransR's dprojection, made without autograd. Internal.

    For trainers: arguments as `kg_loss`'s. Nothing is copied; only RESCAL, TransR and a table of relations go through autograd.
    `exclude` may be bits, int32 `[B, ceil(N / 32)]`: on CUDA nothing waits then.
    """
    _check(model, h, r, t, neg, side, projection, relation)
    if isinstance(exclude, Tensor):
        indptr, position = _check_bits(exclude, h.shape[0], neg.shape[-2])
        exclude = None
    else:
        indptr, position = (None, None) if exclude is None else exclude
    m = _check_loss(loss, adversarial_temperature, margin)
    # 0: equal weights
    a = adversarial_temperature or None
    _check_rows(h.shape[0], weight, exclude)
    numbers = (LOSSES.index(loss), gamma, m, a, True)
    options = (weight, indptr, position)
    if relation is None and model not in ("rescal", "transr"):
        with torch.no_grad():
            out = _outputs(model, h, r, t, neg, side, None, None, options, numbers)
        total, de, dr, do, dn = out
        dh, dt = (de, do) if side == "tail" else (do, de)
        return total, dh, dr, dt, dn.view(neg.shape)
    given = (h, r, t, neg) if projection is None else (h, r, t, neg, projection)
    leaves = [x.detach().requires_grad_() for x in given]
    h, r, t, neg, *rest = leaves
    with torch.enable_grad():
        total = _outputs(model, h, r, t, neg, side, relation, rest[0] if rest else None, options, numbers)[0]
        return total.detach(), *torch.autograd.grad(total, leaves)


def kg_loss_grads_by_id(
    model: str,
    entity: Tensor,
    relation: Tensor,
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
    weight: Tensor | None = None,
    exclude: Exclude | None = None,
) -> tuple[Tensor, ...]:
    """`kg_loss_grads` of rows of tables, which are read where they lie. Internal.

    For trainers: `h`, `r`, `t` int64 `[B]` and `neg` int64 `[C, N]` are rows of `entity` and `relation`, of float32 or float64.
    Not for RESCAL and TransR. The same bits as `kg_loss_grads` of gathered rows. ValueError, on CPU, for ids out of range.
    """
    if side not in ("head", "tail"):
        raise ValueError(f"kg_loss: side must be head or tail, got {side!r}")
    m, B, C = _check_loss(loss, adversarial_temperature, margin), h.shape[0], neg.shape[0]
    if (B % C if C else B) != 0:
        raise ValueError(f"kg_loss: neg must have a number of chunks that divides {B}, got {C}")
    _check_rows(B, weight, exclude)
    tail = side == "tail"
    e, other = (h, t) if tail else (t, h)
    indptr, position = (None, None) if exclude is None else exclude
    total, de, dr, do, dn = torch.ops.gnnaccel.kg_loss_ids(
        *(entity.detach(), relation.detach(), e, r, other, neg, weight, indptr, position),
        *(
            _OPERATIONS[model][0 if tail else 1],
            KINDS[model],
            LOSSES.index(loss),
            gamma,
            m,
            adversarial_temperature or None,
        ),
    )
    dh, dt = (de, do) if tail else (do, de)
    return total, dh, dr, dt, dn
