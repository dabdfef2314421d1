"""What the sparse optimisers share: checks of arguments, sums of gradients by row, regularisation, rounding. Internal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gnnaccel.ops._philox import LOW, philox4x32

#: Fourth word of the counters: no other op's counters have it in that place, so the same seed may be given to all.
STREAM = 0x726F756E

_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def accumulate_type(dtype: torch.dtype) -> torch.dtype:
    """What rows of `dtype` are computed in, and the dtype of their state."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_rows(
    owner: str, table: Tensor, ids: Tensor | Sequence[Tensor], grad: Tensor | Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The lists of ids and of gradients, checked against the table; detached from autograd."""
    if table.dtype not in _FLOATING:
        raise TypeError(f"{owner}: table must be float64, float32, float16 or bfloat16, got {table.dtype}")
    if table.dim() != 2:
        raise ValueError(f"{owner}: table must be [n, D], got {list(table.shape)}")
    if not table.is_contiguous():
        raise ValueError(f"{owner}: table must be contiguous, got strides {list(table.stride())}")
    if isinstance(ids, Tensor) != isinstance(grad, Tensor):
        raise TypeError(f"{owner}: ids and grad must be two tensors or two lists of tensors, got one of each")
    ids = [ids] if isinstance(ids, Tensor) else list(ids)
    grad = [grad] if isinstance(grad, Tensor) else list(grad)
    if len(ids) != len(grad):
        raise ValueError(f"{owner}: ids and grad must be equally long lists, got {len(ids)} and {len(grad)}")
    acc = accumulate_type(table.dtype)
    for i, g in zip(ids, grad, strict=True):
        if i.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{owner}: ids must be int64 or int32, got {i.dtype}")
        if i.dim() != 1:
            raise ValueError(f"{owner}: ids must be [n], got {list(i.shape)}")
        if g.dtype not in (table.dtype, acc) or g.dtype != grad[0].dtype:
            expected = f"all {table.dtype}" + ("" if acc == table.dtype else f" or all {acc}")
            raise TypeError(f"{owner}: grad must be {expected}, got {g.dtype}")
        if tuple(g.shape) != (i.shape[0], table.shape[1]):
            raise ValueError(f"{owner}: grad must be [{i.shape[0]}, {table.shape[1]}], got {list(g.shape)}")
    return ids, [g.detach() for g in grad]


def check_state(owner: str, table: Tensor, state: dict[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    acc = accumulate_type(table.dtype)
    for name, (tensor, shape) in state.items():
        if tensor.dtype != acc:
            raise TypeError(f"{owner}: {name} must be {acc} for a table of {table.dtype}, got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{owner}: {name} must be {list(shape)}, got {list(tensor.shape)}")
        if not tensor.is_contiguous():
            raise ValueError(f"{owner}: {name} must be contiguous, got strides {list(tensor.stride())}")


def check_numbers(owner: str, lr: float, eps: float, regularization: float, norm: int) -> None:
    for name, value in (("lr", lr), ("regularization", regularization)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{owner}: {name} must be at least 0, got {value}")
    if not 0 < eps < math.inf:
        raise ValueError(f"{owner}: eps must be positive, got {eps}")
    if norm != int(norm) or norm < 1:
        raise ValueError(f"{owner}: norm must be an integer of at least 1, got {norm}")


def check_ids(owner: str, ids: Sequence[Tensor], n: int) -> None:
    """On CPU, where it costs no wait; devices do not check."""
    for i in ids:
        if i.numel() and i.device.type == "cpu" and not 0 <= int(i.min()) <= int(i.max()) < n:
            bad = i[(i < 0) | (i >= n)]
            raise ValueError(f"{owner}: ids must be in [0, {n}) (rows of table), got {int(bad[0])}")


def penalty(w: Tensor, regularization: float, norm: int) -> Tensor:
    """Gradient of `regularization * sum |w|^norm` by one occurrence of each row."""
    return regularization * norm * (torch.sign(w) if norm == 1 else w * w.abs() ** (norm - 2))


def coalesce(
    table: Tensor, ids: Sequence[Tensor], grad: Sequence[Tensor], regularization: float, norm: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows `[U]`, their values and the sums of their gradients `[U, D]` with the penalty of each occurrence."""
    acc = accumulate_type(table.dtype)
    rows, where, count = torch.unique(torch.cat([i.long() for i in ids]), return_inverse=True, return_counts=True)
    w = table.index_select(0, rows).to(acc)
    total = torch.zeros_like(w).index_add_(0, where, torch.cat([g.to(acc) for g in grad]))
    if regularization:
        total += penalty(w, regularization, norm) * count[:, None]
    return rows, w, total


def stochastic_words(rows: Tensor, D: int, seed: int) -> Tensor:
    """A random 32-bit word for each element of the rows, int64 `[U, D]`: a function of (seed, row, column)."""
    group = torch.arange((D + 3) // 4, device=rows.device)
    low, high = (rows & LOW)[:, None], ((rows >> 32) & LOW)[:, None]
    words = philox4x32((low, group[None], high, torch.full_like(low, STREAM)), seed)
    return torch.stack(torch.broadcast_tensors(*words), -1).reshape(len(rows), -1)[:, :D]


def round_rows(x: Tensor, rows: Tensor, seed: int | None, dtype: torch.dtype) -> Tensor:
    """`x` in `dtype`: rounded to nearest, or with a seed up or down with the probabilities that keep its mean."""
    if seed is None or dtype not in (torch.float16, torch.bfloat16):
        return x.to(dtype)
    bits = x.contiguous().view(torch.int32).long() & 0x7FFFFFFF
    word = stochastic_words(rows, x.shape[1], seed)
    cut = 16 if dtype == torch.bfloat16 else 13  # bits of a float32 that the type has not
    up = ((bits + (word >> (32 - cut))) >> cut << cut).to(torch.int32).view(torch.float32)
    if dtype == torch.float16:
        # below 2^-14 halfs are multiples of 2^-24
        steps = torch.floor(x.abs() * 2.0**24 + (word >> 19).float() * 2.0**-13)
        up = torch.where(bits < 113 << 23, steps * 2.0**-24, up)
    return torch.where(x.isfinite(), torch.copysign(up, x), x).to(dtype)


def store_rows(table: Tensor, rows: Tensor, values: Tensor, seed: int | None) -> None:
    table.index_copy_(0, rows, round_rows(values, rows, seed, table.dtype))
