"""Reference for `sparse_adagrad_`: one row after the other, float64."""

from collections.abc import Sequence

import torch
from torch import Tensor


def with_penalty(w: Tensor, g: Tensor, regularization: float, norm: int) -> Tensor:
    """The gradient of one occurrence of a row."""
    return g.double() + regularization * norm * w.abs() ** (norm - 1) * torch.sign(w)


def by_row(ids: Sequence[Tensor], grad: Sequence[Tensor]) -> dict[int, list[tuple[int, Tensor]]]:
    """Row -> its (trace, gradient), in order."""
    found: dict[int, list[tuple[int, Tensor]]] = {}
    for trace, (rows, gs) in enumerate(zip(ids, grad, strict=True)):
        for row, g in zip(rows.tolist(), gs, strict=True):
            found.setdefault(row, []).append((trace, g))
    return found


def sparse_adagrad_(
    table: Tensor,
    state: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    lr: float,
    mode: str = "row",
    *,
    eps: float = 1e-10,
    regularization: float = 0.0,
    norm: int = 3,
    seed: int | None = None,
) -> Tensor:
    """In place, without rounding."""
    for row, occurrences in by_row(ids, grad).items() if table.shape[1] else ():
        w = table[row].clone()
        gs = [(trace, with_penalty(w, g, regularization, norm)) for trace, g in occurrences]
        if mode == "row_dup":
            for trace in sorted({t for t, _ in gs}):
                mine = [g for t, g in gs if t == trace]
                for g in mine:
                    state[row] += (g**2).mean()
                for g in mine:
                    table[row] -= lr * g / (torch.sqrt(state[row]) + eps)
            continue
        total = sum((g for _, g in gs), torch.zeros_like(w))
        state[row] += (total**2).mean() if mode == "row" else total**2
        table[row] = w - lr * total / (torch.sqrt(state[row]) + eps)
    return table
