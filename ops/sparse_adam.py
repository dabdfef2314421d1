"""`sparse_adam_`: lazy Adam on the rows of a table that have gradients, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops._sparse_rows import check_ids, check_numbers, check_rows, check_state, coalesce, store_rows

NAME = "sparse_adam_"

define(
    "sparse_adam_(Tensor(a!) table, Tensor(b!) exp_avg, Tensor(c!) exp_avg_sq, Tensor[] ids, Tensor[] grad, SymInt step,"
    " float lr, float beta1, float beta2, float eps, float regularization, int norm, SymInt? seed) -> ()"
)


@impl(NAME, "CUDA")
def _cuda(*args: Any) -> None:
    from gnnaccel.kernels.triton.sparse_adam import sparse_adam_step

    sparse_adam_step(*args)


@impl(NAME, "CompositeExplicitAutograd")
def _composite(
    table: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    regularization: float,
    norm: int,
    seed: int | None,
) -> None:
    check_ids(NAME, ids, len(table))
    if table.shape[1] == 0 or sum(len(i) for i in ids) == 0:
        return
    rows, w, g = coalesce(table, ids, grad, regularization, norm)
    m = beta1 * exp_avg.index_select(0, rows) + (1 - beta1) * g
    v = beta2 * exp_avg_sq.index_select(0, rows) + (1 - beta2) * g.square()
    exp_avg.index_copy_(0, rows, m)
    exp_avg_sq.index_copy_(0, rows, v)
    scale, root = lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
    store_rows(table, rows, w - scale * m / (torch.sqrt(v) / root + eps), seed)


@fake(NAME)
def _fake(*args: object) -> None:
    return None


def sparse_adam_(
    table: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    ids: Tensor | Sequence[Tensor],
    grad: Tensor | Sequence[Tensor],
    step: int,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    regularization: float = 0.0,
    norm: int = 3,
    seed: int | None = None,
) -> Tensor:
    """One step of Adam (Kingma and Ba, ICLR 2015) on the rows of a table that have gradients, in place.

    Lazy: rows without gradients keep their moments, as in `torch.optim.SparseAdam`; eps is added to the corrected root, as in
    the paper and in `torch.optim.Adam`. With g the sum of the gradients of a row:

        m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
        w -= lr / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step)) + eps)

    Args:
        table: `[n, D]`, floating, contiguous. Half types are computed in float32.
        exp_avg: m, `[n, D]`, contiguous, float32, float64 for a table of float64. Starts at 0.
        exp_avg_sq: v, as `exp_avg`.
        ids: Rows with gradients, `[m]`, int64 or int32, in any order and as often as you like; or a list of such.
        grad: Their gradients, `[m, D]`, dtype of `table` or of its moments; or a list of such, as long as that of `ids`.
            They are read where they lie (on CPU; on CUDA several are copied together first).
        step: Number of this step, from 1.
        lr: Step size.
        betas: Decay of the moments, in `[0, 1)`.
        eps: Added to the root.
        regularization, norm, seed: As in `sparse_adagrad_`.

    Returns:
        `table`.

    NaN and infinite gradients go into their rows and moments as arithmetic has it: who trains has to look for them.

    Gradients: none; autograd knows that the table and its moments were changed.

    Cost: O(m D) and no work that grows with `n`.

    Determinism: a row's gradients are added in the order of the lists: same bits for any number of threads.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes do not fit, a number is out of its range, a table is not contiguous, or on CPU an id is negative or
            not below `n` (before anything is written).
    """
    ids, grad = check_rows(NAME, table, ids, grad)
    shape = tuple(table.shape)
    check_state(NAME, table, {"exp_avg": (exp_avg, shape), "exp_avg_sq": (exp_avg_sq, shape)})
    check_numbers(NAME, lr, eps, regularization, norm)
    if step < 1:
        raise ValueError(f"{NAME}: step must be at least 1, got {step}")
    beta1, beta2 = betas
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(f"{NAME}: betas must be in [0, 1), got {betas}")
    if not torch.compiler.is_compiling():
        # an op made by Library.define does not tell autograd what it writes: a backward pass that still needs it would not know
        torch.autograd.graph.increment_version((table, exp_avg, exp_avg_sq))
    torch.ops.gnnaccel.sparse_adam_(
        table.detach(),
        exp_avg,
        exp_avg_sq,
        ids,
        grad,
        step,
        lr,
        beta1,
        beta2,
        eps,
        regularization,
        int(norm),
        seed,
    )
    return table
