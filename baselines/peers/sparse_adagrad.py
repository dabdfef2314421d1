"""Adagrad on the rows of a table as users of PyTorch write it, or as torch.optim has it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad


def joined(ids: Sequence[Tensor], grad: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat(list(ids)), torch.cat(list(grad))


def sparse(table: Tensor, ids: Sequence[Tensor], grad: Sequence[Tensor]) -> Tensor:
    """The gradient that `torch.nn.Embedding(sparse=True)` makes."""
    rows, values = joined(ids, grad)
    return torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False)


def row(table: Tensor, state: Tensor, ids: Sequence[Tensor], grad: Sequence[Tensor], lr: float, mode: str) -> Tensor:
    """Sums by `unique` and `index_add`, as in PyTorch-BigGraph's RowAdagrad."""
    at, values = joined(ids, grad)
    rows, where = at.unique(return_inverse=True)
    g = values.new_zeros(len(rows), values.shape[1]).index_add_(0, where, values)
    s = state[rows] + g.square().mean(1)
    state[rows] = s
    table[rows] -= lr * g / (s.sqrt() + 1e-10)[:, None]
    return table


def row_dup(
    table: Tensor, state: Tensor, ids: Sequence[Tensor], grad: Sequence[Tensor], lr: float, mode: str
) -> Tensor:
    """DGL-KE's: one trace after the other, occurrences by `index_add`."""
    for at, g in zip(ids, grad, strict=True):
        state.index_add_(0, at, g.square().mean(1))
        table.index_add_(0, at, -lr * g / (state[at].sqrt() + 1e-10)[:, None])
    return table


def full(table: Tensor, state: Tensor, ids: Sequence[Tensor], grad: Sequence[Tensor], lr: float, mode: str) -> Tensor:
    """`torch.optim.Adagrad` on a sparse gradient, without its object."""
    with torch.sparse.check_sparse_tensor_invariants(False):
        adagrad(
            [table],
            [sparse(table, ids, grad)],
            [state],
            [torch.tensor(0.0)],
            has_sparse_grad=True,
            foreach=False,
            lr=lr,
            weight_decay=0.0,
            lr_decay=0.0,
            eps=1e-10,
            maximize=False,
        )
    return table


PROVIDERS = {"row": {"torch": row}, "row_dup": {"torch": row_dup}, "full": {"torch.optim": full}}
