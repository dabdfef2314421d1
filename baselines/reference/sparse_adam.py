"""Reference for `sparse_adam_`: one row after the other, float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gnnaccel.baselines.reference.sparse_adagrad import by_row, with_penalty


def sparse_adam_(
    table: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    step: int,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    regularization: float = 0.0,
    norm: int = 3,
    seed: int | None = None,
) -> Tensor:
    """In place, without rounding."""
    beta1, beta2 = betas
    for row, occurrences in by_row(ids, grad).items():
        w = table[row].clone()
        g = sum((with_penalty(w, g, regularization, norm) for _, g in occurrences), torch.zeros_like(w))
        exp_avg[row] = beta1 * exp_avg[row] + (1 - beta1) * g
        exp_avg_sq[row] = beta2 * exp_avg_sq[row] + (1 - beta2) * g**2
        mean, square = exp_avg[row] / (1 - beta1**step), exp_avg_sq[row] / (1 - beta2**step)
        table[row] = w - lr * mean / (torch.sqrt(square) + eps)
    return table
