"""`apply_messages`: memory of nodes with their last message applied. Internal; `gnnaccel.pyg` calls it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops.memory_update import check_cell

#: What a node's memory waits for, by its status.
FRESH, PENDING, CLEAN = 0, 1, 2

_TABLES = "Tensor memory, Tensor last_update, Tensor status, Tensor other, Tensor time, Tensor raw, Tensor nodes"
_WEIGHTS = "Tensor time_w, Tensor time_b, Tensor w_ih, Tensor w_hh, Tensor b_ih, Tensor b_hh"
# what is kept for the backward pass: statuses; messages, times and gates, of the pending nodes one after another (C++) or of
# every node
define(
    f"apply_messages({_TABLES}, {_WEIGHTS}, bool save)"
    " -> (Tensor out, Tensor last_update, Tensor state, Tensor mail, Tensor dt, Tensor saved)"
)
define(
    f"apply_messages_backward(Tensor grad, Tensor state, Tensor mail, Tensor dt, Tensor saved, {_WEIGHTS}, "
    "bool grad_time, bool grad_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_FIRST_WEIGHT, _NUM_INPUTS = 7, 13


def _zero_cell(b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gates r, z and n of the cell of a zero message and a zero memory, `[D]` each."""
    D = len(b_ih) // 3
    r, z = torch.sigmoid(b_ih[: 2 * D] + b_hh[: 2 * D]).split(D)
    return r, z, torch.tanh(b_ih[2 * D :] + r * b_hh[2 * D :])


def _check_rows(name: str, rows: Tensor, N: int) -> None:
    if rows.device.type == "cpu" and rows.numel():
        low, high = (int(v) for v in rows.aminmax())
        if low < 0 or high >= N:
            raise ValueError(f"apply_messages: {name} must be in [0, {N}), got {low if low < 0 else high}")


# On CUDA, and without the extension, every node goes through the cell, and those without a message are put back: shapes stay
# static, and nobody waits for a count.
@impl("apply_messages", "CompositeExplicitAutograd")
def _composite(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    nodes: Tensor,
    *cell: Any,
) -> tuple[Tensor, ...]:
    *weights, save = cell
    _check_rows("nodes", nodes, len(memory))
    state, last, sent, own = status[nodes], last_update[nodes], time[nodes], memory[nodes]
    pending = state == PENDING
    end = torch.where(pending, other[nodes], 0)
    _check_rows("other", end, len(memory))
    mail = torch.cat([own, memory[end], raw[nodes]], dim=1)
    dt = torch.where(pending, sent - last, 0).to(torch.float64)
    new, saved = torch.ops.gnnaccel.memory_update(mail, dt, own, *weights, None, True, save)
    _, z, n = _zero_cell(*weights[4:])
    out = torch.where((state == FRESH).unsqueeze(1), (1 - z) * n, own)
    return torch.where(pending.unsqueeze(1), new, out), torch.where(pending, sent, last), state, mail, dt, saved


@impl("apply_messages_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor, state: Tensor, mail: Tensor, dt: Tensor, saved: Tensor, *weights_and_options: Any
) -> tuple[Tensor, ...]:
    *weights, b_ih, b_hh, grad_time, grad_weights = weights_and_options
    D = weights[3].shape[1]
    own = torch.where((state == PENDING).unsqueeze(1), grad, 0)
    options = (None, True, False, False, grad_time, grad_weights)
    grads = torch.ops.gnnaccel.memory_update_backward(own, saved, mail, dt, mail[:, :D], *weights, *options)[2:]
    if not grad_weights:
        return grads
    r, z, n = _zero_cell(b_ih, b_hh)
    g = torch.where((state == FRESH).unsqueeze(1), grad, 0).sum(0)
    dn = g * (1 - z) * (1 - n * n)
    common = torch.cat([dn * b_hh[2 * D :] * r * (1 - r), -g * n * z * (1 - z)])
    *others, d_ih, d_hh = grads
    return *others, d_ih + torch.cat([common, dn]), d_hh + torch.cat([common, dn * r])


@fake("apply_messages")
def _fake(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    nodes: Tensor,
    *cell: Any,
) -> tuple[Tensor, ...]:
    U, D, save = nodes.shape[0], memory.shape[1], cell[-1]
    acc = torch.float64 if memory.dtype == torch.float64 else torch.float32
    return (
        memory.new_empty((U, D)),
        last_update.new_empty(U),
        status.new_empty(U),
        memory.new_empty((U, 2 * D + raw.shape[1])),
        memory.new_empty(U, dtype=torch.float64),
        memory.new_empty((U if save else 0, 4 * D), dtype=acc),
    )


@fake("apply_messages_backward")
def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *weights, grad_time, grad_weights = args[4:]
    wanted = (grad_time, grad_time, *[grad_weights] * 4)
    return tuple(t.new_empty(t.shape if want else (0,)) for t, want in zip(weights, wanted, strict=True))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[2:], *inputs[_FIRST_WEIGHT:_NUM_INPUTS])
    ctx.save = inputs[_NUM_INPUTS]


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * (_NUM_INPUTS + 1)
    if not ctx.save:
        raise RuntimeError("gnnaccel::apply_messages was called with save=False: nothing to differentiate from")
    need = ctx.needs_input_grad[_FIRST_WEIGHT:_NUM_INPUTS]
    grads = torch.ops.gnnaccel.apply_messages_backward(grad, *ctx.saved_tensors, any(need[:2]), any(need[2:]))
    return *[None] * _FIRST_WEIGHT, *(g if n else None for g, n in zip(grads, need, strict=True)), None


autograd("apply_messages", _backward, _setup)
once_differentiable("apply_messages_backward")


def apply_messages(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    nodes: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, Tensor]:
    """Memory of nodes by their status, and the times of its last update (Rossi et al., TGN, 2020, eq. 1 to 3).

    PENDING: the GRU cell of the message `[memory | memory of the other end | raw | cos(dt * time_w + time_b)]`, with
    `dt = time - last_update`, and `time`. FRESH: the cell of a zero message and a zero memory. Any other: the row as it is.
    Both ends' memory is that of now. The tables are not changed, and may be before the backward pass.

    Args:
        memory: Memory table, `[N, D]`, floating; a row of a fresh node is not looked at.
        last_update: Time of each node's last update, int64 `[N]`.
        status: FRESH, PENDING or CLEAN, uint8 `[N]`.
        other, time: Other end and time of each pending node's last event, int64 `[N]`.
        raw: Its raw message, `[N, F]`, dtype of `memory`. Rows of other nodes must be finite.
        nodes: Ids, int64 `[U]`. Neither they nor `other` are checked on CUDA.
        time_w, time_b: `[T]`, dtype of `memory`; and the cell's weights as in `memory_update`, for messages of 2 D + F.

    Returns:
        `[U, D]`, dtype of `memory`, and int64 `[U]`.

    Gradients: of the weights and the time encoder, once. The tables are state: they get none.

    Determinism: as `memory_update`.

    Raises:
        TypeError: An argument has an unsupported dtype, or not the dtype it must share.
        ValueError: Shapes do not fit, a table requires grad, or (CPU) a node or another end is out of range.
    """
    name, N = "apply_messages", memory.shape[0]
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    if raw.dim() != 2 or memory.dim() != 2 or len(raw) != N:
        raise ValueError(
            f"{name}: memory and raw must be [N, D] and [N, F], got {list(memory.shape)}, {list(raw.shape)}"
        )
    check_cell(name, "gru", raw.new_empty(()).expand(N, 2 * memory.shape[1] + raw.shape[1]), memory, *weights)
    if memory.requires_grad or raw.requires_grad:
        raise ValueError(f"{name}: memory and raw must not require grad (they are state), got one that does")
    columns = (("last_update", last_update), ("other", other), ("time", time), ("nodes", nodes))
    for what, t, dtype in (*((*column, torch.int64) for column in columns), ("status", status, torch.uint8)):
        if t.dtype != dtype:
            raise TypeError(f"{name}: {what} must be {dtype}, got {t.dtype}")
        if t.dim() != 1 or (what != "nodes" and len(t) != N):
            raise ValueError(f"{name}: {what} must be {'[U]' if what == 'nodes' else f'[{N}]'}, got {list(t.shape)}")
    save = torch.is_grad_enabled() and any(t.requires_grad for t in weights)
    return torch.ops.gnnaccel.apply_messages(
        memory, last_update, status, other, time, raw, nodes, *weights, save
    )[:2]  # fmt: skip
