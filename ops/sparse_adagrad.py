"""`sparse_adagrad_`: Adagrad on the rows of a table that have gradients, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops._sparse_rows import (
    accumulate_type,
    check_ids,
    check_numbers,
    check_rows,
    check_state,
    coalesce,
    penalty,
    store_rows,
)

NAME = "sparse_adagrad_"
MODES = ("row", "row_dup", "full")
ROW, ROW_DUP, FULL = range(3)

define(
    "sparse_adagrad_(Tensor(a!) table, Tensor(b!) state, Tensor[] ids, Tensor[] grad, float lr, int kind, float eps,"
    " float regularization, int norm, SymInt? seed) -> ()"
)


@impl(NAME, "CUDA")
def _cuda(*args: Any) -> None:
    from gnnaccel.kernels.triton.sparse_adagrad import sparse_adagrad_step

    sparse_adagrad_step(*args)


@impl(NAME, "CompositeExplicitAutograd")
def _composite(
    table: Tensor,
    state: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    lr: float,
    kind: int,
    eps: float,
    regularization: float,
    norm: int,
    seed: int | None,
) -> None:
    check_ids(NAME, ids, len(table))
    if table.shape[1] == 0 or sum(len(i) for i in ids) == 0:
        return
    if kind == ROW_DUP:
        _composite_dup(table, state, ids, grad, lr, eps, regularization, norm, seed)
        return
    rows, w, g = coalesce(table, ids, grad, regularization, norm)
    s = state.index_select(0, rows) + (g.square().mean(1) if kind == ROW else g.square())
    state.index_copy_(0, rows, s)
    store_rows(table, rows, w - lr * g / (torch.sqrt(s[:, None] if kind == ROW else s) + eps), seed)


def _composite_dup(
    table: Tensor,
    state: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    lr: float,
    eps: float,
    regularization: float,
    norm: int,
    seed: int | None,
) -> None:
    acc = accumulate_type(table.dtype)
    rows, where = torch.unique(torch.cat([i.long() for i in ids]), return_inverse=True)
    w, s = table.index_select(0, rows).to(acc), state.index_select(0, rows)
    extra = penalty(w, regularization, norm) if regularization else None
    for at, trace in zip(where.split([len(i) for i in ids]), grad, strict=True):
        g = trace.to(acc) if extra is None else trace.to(acc) + extra.index_select(0, at)
        s.index_add_(0, at, g.square().mean(1))
        w.index_add_(0, at, -lr * g / (torch.sqrt(s.index_select(0, at))[:, None] + eps))
    state.index_copy_(0, rows, s)
    store_rows(table, rows, w, seed)


@fake(NAME)
def _fake(*args: object) -> None:
    return None


def sparse_adagrad_(
    table: Tensor,
    state: Tensor,
    ids: Tensor | Sequence[Tensor],
    grad: Tensor | Sequence[Tensor],
    lr: float,
    mode: str = "row",
    *,
    eps: float = 1e-10,
    regularization: float = 0.0,
    norm: int = 3,
    seed: int | None = None,
) -> Tensor:
    """One step of Adagrad (Duchi et al., JMLR 2011) on the rows of a table that have gradients, in place.

    With g the sum of the gradients of a row, over all lists:

    | mode | state of the row | row | who does so |
    | --- | --- | --- | --- |
    | `row` | s += mean(g^2), one number | w -= lr g / (sqrt(s) + eps) | PyTorch-BigGraph's RowAdagrad |
    | `full` | s += g^2, for each column | w -= lr g / (sqrt(s) + eps) | `torch.optim.Adagrad` on sparse gradients, Marius |
    | `row_dup` | s += mean(g_i^2) of every occurrence i | w -= lr g / (sqrt(s) + eps) | DGL-KE |

    In `row_dup` each entry of the lists is a trace, and they are applied one after the other, as DGL-KE applies those of the
    positive entities, of the negatives and of the relations: a row that is in two traces moves twice, the second time with
    the larger state. In the other modes it does not matter how the lists are cut.

    Args:
        table: `[n, D]`, floating, contiguous. Half types are computed in float32.
        state: `[n]`, in mode `full` `[n, D]`; contiguous, float32, float64 for a table of float64. Starts at 0.
        ids: Rows with gradients, `[m]`, int64 or int32, in any order and as often as you like; or a list of such.
        grad: Their gradients, `[m, D]`, dtype of `table` or of `state`; or a list of such, as long as that of `ids`.
            They are read where they lie (on CPU; on CUDA several are copied together first).
        lr: Step size.
        mode: As above.
        eps: Added to the root.
        regularization: c of a penalty c |w|^norm: every occurrence of a row adds c norm |w|^(norm - 1) sign(w) to its
            gradient, by the row's value before the step.
        norm: Its power, an integer; 3 is DGL-KE's.
        seed: Rows of half types are rounded up or down at random, so that their mean is kept, with Philox4x32-10 of (seed,
            row, column): give a new seed each step. None rounds to nearest. Other types ignore it.

    Returns:
        `table`.

    NaN and infinite gradients go into their rows and states as arithmetic has it: who trains has to look for them.

    Gradients: none; autograd knows that `table` and `state` were changed.

    Cost: O(m D) and no work that grows with `n`: each row is read and written once, whatever its number of occurrences.

    Determinism: a row's gradients are added in the order of the lists: same bits for any number of threads.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes do not fit, a number is out of its range, a table is not contiguous, or on CPU an id is negative or
            not below `n` (before anything is written).
    """
    ids, grad = check_rows(NAME, table, ids, grad)
    if mode not in MODES:
        raise ValueError(f"{NAME}: mode must be one of {', '.join(MODES)}, got {mode!r}")
    check_state(NAME, table, {"state": (state, tuple(table.shape) if mode == "full" else (table.shape[0],))})
    check_numbers(NAME, lr, eps, regularization, norm)
    if not torch.compiler.is_compiling():
        # an op made by Library.define does not tell autograd what it writes: a backward pass that still needs it would not know
        torch.autograd.graph.increment_version((table, state))
    torch.ops.gnnaccel.sparse_adagrad_(
        table.detach(), state, ids, grad, lr, MODES.index(mode), eps, regularization, int(norm), seed
    )
    return table
