"""`memory_read`: memory of a batch's nodes with their pending mail applied. Internal; `MemoryUpdater.read` calls it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, on_host, once_differentiable
from gnnaccel.ops.memory_update import check_cell

# `saved`: as `memory_update`'s, for the nodes with mail one after another and zeros after them (C++), or for every node
_TABLES = "Tensor mail, Tensor mail_time, Tensor has_mail, Tensor memory, Tensor last_update, Tensor nodes"
_WEIGHTS = "Tensor time_w, Tensor time_b, Tensor w_ih, Tensor w_hh"
define(
    f"memory_read({_TABLES}, {_WEIGHTS}, Tensor b_ih, Tensor b_hh, bool gru, bool save)"
    " -> (Tensor out, Tensor last_update, Tensor saved)"
)
define(
    f"memory_read_backward(Tensor grad, Tensor saved, {_TABLES}, {_WEIGHTS}, bool gru, bool grad_time, bool grad_weights)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


# On CUDA, and without the extension, every node is updated and those without mail are put back: shapes stay static, and
# nobody waits for a count.
@impl("memory_read", "CompositeExplicitAutograd")
def _composite(
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    memory: Tensor,
    last_update: Tensor,
    nodes: Tensor,
    *cell: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    N = memory.shape[0]
    if on_host(nodes) and nodes.numel():
        low, high = (int(v) for v in nodes.aminmax())
        if low < 0 or high >= N:
            raise ValueError(f"memory_read: nodes must be in [0, {N}), got {low if low < 0 else high}")
    sent, has, last = mail_time[nodes], has_mail[nodes], last_update[nodes]
    *weights, gru, save = cell
    new, saved = torch.ops.gnnaccel.memory_update(mail, sent - last, memory, *weights, nodes, gru, save)
    return torch.where(has.unsqueeze(1), new, memory[nodes]), torch.where(has, sent, last), saved


@impl("memory_read_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor,
    saved: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    memory: Tensor,
    last_update: Tensor,
    nodes: Tensor,
    *cell: Any,
) -> Grads:
    *weights, gru, grad_time, grad_weights = cell
    grad = torch.where(has_mail[nodes].unsqueeze(1), grad, 0)
    dt = mail_time[nodes] - last_update[nodes]
    wanted = (False, False, grad_time, grad_weights)
    return torch.ops.gnnaccel.memory_update_backward(grad, saved, mail, dt, memory, *weights, nodes, gru, *wanted)[2:]


@fake("memory_read")
def _fake(
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    memory: Tensor,
    last_update: Tensor,
    nodes: Tensor,
    *cell: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    U, D, (gru, save) = nodes.shape[0], memory.shape[1], cell[-2:]
    acc = torch.float64 if memory.dtype == torch.float64 else torch.float32
    saved = memory.new_empty((U if save else 0, (4 if gru else 1) * D), dtype=acc)
    return memory.new_empty((U, D)), last_update.new_empty(U), saved


@fake("memory_read_backward")
def _fake_backward(grad: Tensor, saved: Tensor, *args: Any) -> Grads:
    time_w, time_b, w_ih, w_hh, _, grad_time, grad_weights = args[6:]
    bias = w_ih.new_empty(w_ih.shape[0] if grad_weights else 0)
    time = [t.new_empty(t.shape if grad_time else (0,)) for t in (time_w, time_b)]
    weights = [t.new_empty(t.shape if grad_weights else (0,)) for t in (w_ih, w_hh)]
    return time[0], time[1], weights[0], weights[1], bias, torch.empty_like(bias)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for `saved`
    ctx.save_for_backward(output[2], *inputs[:10])
    ctx.gru, ctx.save = inputs[12:]


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 14
    if not ctx.save:
        raise RuntimeError("gnnaccel::memory_read was called with save=False: nothing to differentiate from")
    need = ctx.needs_input_grad
    wanted = (need[6] or need[7], any(need[8:12]))
    grads = torch.ops.gnnaccel.memory_read_backward(grad, *ctx.saved_tensors, ctx.gru, *wanted)
    return *[None] * 6, *(g if n else None for g, n in zip(grads, need[6:12], strict=True)), None, None


autograd("memory_read", _backward, _setup)
once_differentiable("memory_read_backward")


def memory_read(
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    memory: Tensor,
    last_update: Tensor,
    nodes: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
) -> tuple[Tensor, Tensor]:
    """Memory of nodes with their pending mail applied, and the times of its last update (Rossi et al., TGN, 2020, eq. 3).

    For a node with mail: `memory_update` of its rows with `dt = mail_time - last_update`, and `mail_time`. For one without:
    its row and `last_update`. The tables are not changed.

    Args:
        mail: Mail table, `[N, M]`, floating. Where there is no mail its rows must be finite.
        mail_time: Time of each node's mail, `[N]`, int64 or float64.
        has_mail: Whether a node has mail, `[N]`, bool.
        memory: Memory table, `[N, D]`, dtype of `mail`.
        last_update: Time of each node's last update, `[N]`, dtype of `mail_time`.
        nodes: Ids, `[U]`, int64 or int32. Not checked on CUDA.
        time_w, time_b, w_ih, w_hh, b_ih, b_hh, cell: As in `memory_update`.

    Returns:
        `[U, D]`, dtype of `memory`, and `[U]`, dtype of `last_update`.

    Gradients: of the weights and the time encoder, once. The tables are state: they get none.

    Determinism: as `memory_update`. With the extension the bits are those of `memory_update` on the rows that have mail.

    Raises:
        TypeError: An argument has an unsupported dtype, or not the dtype it must share.
        ValueError: Shapes do not fit, `cell` is unknown, a table requires grad, or (CPU) a node is out of range.
    """
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    check_cell("memory_read", cell, mail, memory, *weights)
    if mail.requires_grad or memory.requires_grad:
        raise ValueError("memory_read: mail and memory must not require grad (they are state), got one that does")
    if mail_time.dtype not in (torch.int64, torch.float64):
        raise TypeError(f"memory_read: mail_time must be int64 or float64, got {mail_time.dtype}")
    if last_update.dtype != mail_time.dtype:
        raise TypeError(f"memory_read: last_update must be {mail_time.dtype} like mail_time, got {last_update.dtype}")
    if has_mail.dtype != torch.bool:
        raise TypeError(f"memory_read: has_mail must be bool, got {has_mail.dtype}")
    if nodes.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"memory_read: nodes must be int64 or int32, got {nodes.dtype}")
    if nodes.dim() != 1:
        raise ValueError(f"memory_read: nodes must have one dimension, got {list(nodes.shape)}")
    N = memory.shape[0]
    for name, table in (("mail_time", mail_time), ("has_mail", has_mail), ("last_update", last_update)):
        if table.shape != (N,):
            raise ValueError(f"memory_read: {name} must be [{N}], got {list(table.shape)}")
    save = torch.is_grad_enabled() and any(t.requires_grad for t in weights)
    out, times, _ = torch.ops.gnnaccel.memory_read(
        mail, mail_time, has_mail, memory, last_update, nodes, *weights, cell == "gru", save
    )
    return out, times
