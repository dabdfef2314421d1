"""Memory rows of a batch, forward and backward in one node of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import gnnaccel.ops.memory_update  # noqa: F401  (defines the ops called below)


class ApplyMessages(torch.autograd.Function):
    """Memory `[U, D]`: at `pending` the GRU cell of `[mail | cos(dt w + b)]`, at `fresh` the cell of zeros, else `memory`.

    Args:
        memory: Rows of all nodes, `[U, D]`; overwritten with the result.
        mail: Messages of the pending nodes, `[P, M]`; the first D columns are the nodes' own memory.
        dt: Times from last updates to messages, `[P]`.
        pending, fresh: Positions, `[P]` and `[Q]`.
        save: Whether there will be a backward pass.
        time_w: `[T, 1]`; then the other weights as `gnnaccel.memory_update` has them.

    Gradients: weights only, once; memory and messages are state.
    """

    @staticmethod
    def forward(
        ctx: Any,
        memory: Tensor,
        mail: Tensor,
        dt: Tensor,
        pending: Tensor,
        fresh: Tensor,
        save: bool,
        time_w: Tensor,
        time_b: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        D = memory.shape[1]
        weights = (time_w[:, 0], time_b, w_ih, w_hh, b_ih, b_hh)
        new, saved = torch.ops.gnnaccel.memory_update(mail, dt, mail[:, :D], *weights, None, True, save)
        out = new
        if len(pending) < len(memory):
            ctx.mark_dirty(memory)
            out = memory.index_copy_(0, pending, new)
        r, z, n = _zero_cell(b_ih, b_hh)
        if len(fresh):
            out.index_copy_(0, fresh, ((1 - z) * n).expand(len(fresh), D))
        if save:
            ctx.save_for_backward(saved, mail, dt, pending, fresh, r, z, n, time_w, time_b, w_ih, w_hh, b_hh)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        saved, mail, dt, pending, fresh, r, z, n, time_w, time_b, w_ih, w_hh, b_hh = ctx.saved_tensors
        D, need = w_hh.shape[1], ctx.needs_input_grad
        own = grad if len(pending) == len(grad) else grad.index_select(0, pending)
        wanted = (False, False, need[6] or need[7], any(need[8:]))
        _, _, *grads = torch.ops.gnnaccel.memory_update_backward(
            own, saved, mail, dt, mail[:, :D], time_w[:, 0], time_b, w_ih, w_hh, None, True, *wanted
        )
        grads[0] = grads[0].unsqueeze(-1)
        if len(fresh) and wanted[3]:
            g = grad.index_select(0, fresh).sum(0)
            dn = g * (1 - z) * (1 - n * n)
            common = torch.cat([dn * b_hh[2 * D :] * r * (1 - r), -g * n * z * (1 - z)])
            grads[4] = grads[4] + torch.cat([common, dn])
            grads[5] = grads[5] + torch.cat([common, dn * r])
        return *[None] * 6, *(g if wish else None for g, wish in zip(grads, need[6:], strict=True))


def _zero_cell(b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gates of the cell of a zero message and a zero memory, `[D]` each."""
    D = len(b_ih) // 3
    r, z = torch.sigmoid(b_ih[: 2 * D] + b_hh[: 2 * D]).split(D)
    return r, z, torch.tanh(b_ih[2 * D :] + r * b_hh[2 * D :])
