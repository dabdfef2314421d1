"""`memory_update`: new memory of nodes from their mail, h' = cell([mail | cos(dt w + b)], h)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable, run
from gnnaccel.ops._linear import blocked_product, padded_linear

# `saved` is what backward needs of the gates, [U, 4 D] (r, z, n, W_hn h + b_hn) or [U, D] (rnn), in the accumulation dtype
define(
    "memory_update(Tensor mail, Tensor dt, Tensor memory, Tensor time_w, Tensor time_b, Tensor w_ih, Tensor w_hh,"
    " Tensor b_ih, Tensor b_hh, Tensor? rows, bool gru, bool save) -> (Tensor out, Tensor saved)"
)
define(
    "memory_update_backward(Tensor grad, Tensor saved, Tensor mail, Tensor dt, Tensor memory, Tensor time_w, Tensor time_b,"
    " Tensor w_ih, Tensor w_hh, Tensor? rows, bool gru, bool grad_mail, bool grad_memory, bool grad_time,"
    " bool grad_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@impl("memory_update", "CUDA")
def _cuda(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    save: bool,
) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.memory_update import memory_update_fwd

    return memory_update_fwd(mail, dt, memory, time_w, time_b, w_ih, w_hh, b_ih, b_hh, rows, gru, save)


@impl("memory_update_backward", "CUDA")
def _cuda_backward(
    grad: Tensor,
    saved: Tensor,
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    grad_mail: bool,
    grad_memory: bool,
    grad_time: bool,
    grad_weights: bool,
) -> Grads:
    from gnnaccel.kernels.triton.memory_update import memory_update_bwd

    wanted = (grad_mail, grad_memory, grad_time, grad_weights)
    return memory_update_bwd(grad, saved, mail, dt, memory, time_w, time_b, w_ih, w_hh, rows, gru, *wanted)


def _acc_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _gathered(
    mail: Tensor, dt: Tensor, memory: Tensor, time_w: Tensor, time_b: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x [U, Dm + T] and h [U, D] in the accumulation dtype, and the angles in float64."""
    acc = _acc_dtype(memory.dtype)
    if rows is not None:
        if rows.device.type == "cpu" and rows.numel():
            low, high = (int(v) for v in rows.aminmax())
            if low < 0 or high >= memory.shape[0]:
                raise ValueError(
                    f"memory_update: rows must be in [0, {memory.shape[0]}), got {low if low < 0 else high}"
                )
        mail, memory = mail[rows], memory[rows]
    # float64: with Unix-second dt a float32 product has lost the fractional turn
    angle = dt.to(torch.float64).unsqueeze(-1) * time_w.to(torch.float64) + time_b.to(torch.float64)
    return torch.cat([mail.to(acc), torch.cos(angle).to(acc)], dim=1), memory.to(acc), angle


@impl("memory_update", "CompositeExplicitAutograd")
def _composite(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    save: bool,
) -> tuple[Tensor, Tensor]:
    x, h, _ = _gathered(mail, dt, memory, time_w, time_b, rows)
    D, acc = h.shape[1], h.dtype
    gi = padded_linear(x, w_ih.to(acc), b_ih.to(acc))
    gh = padded_linear(h, w_hh.to(acc), b_hh.to(acc))
    if gru:
        r, z = torch.sigmoid(gi[:, : 2 * D] + gh[:, : 2 * D]).split(D, dim=1)
        hn = gh[:, 2 * D :]
        n = torch.tanh(gi[:, 2 * D :] + r * hn)
        out, parts = n + z * (h - n), [r, z, n, hn]
    else:
        out = torch.tanh(gi + gh)
        parts = [out]
    saved = torch.cat(parts, dim=1) if save else h.new_empty((0, len(parts) * D))
    return out.to(memory.dtype, copy=not gru), saved


def _scatter(table: Tensor, rows: Tensor | None, values: Tensor) -> Tensor:
    if rows is None:
        return values.to(table.dtype)
    # a stable sort, then sums within runs of equal rows: one order of addition, on any device
    ids, order = torch.sort(rows.to(torch.int64), stable=True)
    counts = torch.bincount(ids, minlength=table.shape[0])
    return torch.segment_reduce(values[order], "sum", lengths=counts, unsafe=True, initial=0).to(table.dtype)


@impl("memory_update_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor,
    saved: Tensor,
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    grad_mail: bool,
    grad_memory: bool,
    grad_time: bool,
    grad_weights: bool,
) -> Grads:
    x, h, angle = _gathered(mail, dt, memory, time_w, time_b, rows)
    D, Dm, acc = h.shape[1], mail.shape[1], h.dtype
    g = grad.to(acc)
    if gru:
        r, z, n, hn = saved.split(D, dim=1)
        dn = g * (1 - z) * (1 - n * n)
        drz = [dn * hn * r * (1 - r), g * (h - n) * z * (1 - z)]
        di, dh = torch.cat([*drz, dn], dim=1), torch.cat([*drz, dn * r], dim=1)
    else:
        di = dh = g * (1 - saved * saved)
    out = [memory.new_empty(0) for _ in range(8)]
    if grad_mail:
        out[0] = _scatter(mail, rows, padded_linear(di, w_ih[:, :Dm].to(acc).T))
    if grad_memory:
        direct = padded_linear(dh, w_hh.to(acc).T)
        out[1] = _scatter(memory, rows, direct + g * z if gru else direct)
    if grad_time:
        d_angle = -torch.sin(angle) * padded_linear(di, w_ih[:, Dm:].to(acc).T).to(torch.float64)
        out[2] = (d_angle * dt.to(torch.float64).unsqueeze(-1)).sum(0).to(time_w.dtype)
        out[3] = d_angle.sum(0).to(time_b.dtype)
    if grad_weights:
        out[4:] = [blocked_product(di, x).to(w_ih.dtype), blocked_product(dh, h).to(w_hh.dtype), di.sum(0), dh.sum(0)]
        # rnn: both biases have one gradient, but outputs must not share memory
        out[6:] = [out[6].to(w_ih.dtype), out[7].to(w_hh.dtype)]
    return out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]


@fake("memory_update")
def _fake(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    save: bool,
) -> tuple[Tensor, Tensor]:
    U, D = dt.shape[0], memory.shape[1]
    saved = memory.new_empty((U if save else 0, (4 if gru else 1) * D), dtype=_acc_dtype(memory.dtype))
    return memory.new_empty((U, D)), saved


@fake("memory_update_backward")
def _fake_backward(
    grad: Tensor,
    saved: Tensor,
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    grad_mail: bool,
    grad_memory: bool,
    grad_time: bool,
    grad_weights: bool,
) -> Grads:
    def like(tensor: Tensor, wanted: bool) -> Tensor:
        return tensor.new_empty(tensor.shape if wanted else (0,))

    bias = memory.new_empty(w_ih.shape[0] if grad_weights else 0)
    return (
        like(mail, grad_mail),
        like(memory, grad_memory),
        like(time_w, grad_time),
        like(time_b, grad_time),
        like(w_ih, grad_weights),
        like(w_hh, grad_weights),
        bias,
        torch.empty_like(bias),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    mail, dt, memory, time_w, time_b, w_ih, w_hh, _, _, rows, gru, save = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for `saved`
    ctx.save_for_backward(output[1], mail, dt, memory, time_w, time_b, w_ih, w_hh, rows)
    ctx.gru, ctx.save = gru, save


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 12
    if not ctx.save:
        raise RuntimeError("gnnaccel::memory_update was called with save=False: nothing to differentiate from")
    need = ctx.needs_input_grad
    wanted = (need[0], need[2], need[3] or need[4], any(need[5:9]))
    grads = run(torch.ops.gnnaccel.memory_update_backward.default, grad, *ctx.saved_tensors, ctx.gru, *wanted)
    positions = (0, 2, 3, 4, 5, 6, 7, 8)
    out: list[Tensor | None] = [None] * 12
    for i, g in zip(positions, grads, strict=True):
        out[i] = g if need[i] else None
    return tuple(out)


autograd("memory_update", _backward, _setup)
once_differentiable("memory_update_backward")


def check_cell(
    op: str,
    cell: str,
    mail: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> None:
    """Raise unless the tables have as many rows as each other and the weights are a `cell`'s for them."""
    if cell not in ("gru", "rnn"):
        raise ValueError(f"{op}: cell must be 'gru' or 'rnn', got {cell!r}")
    if not memory.dtype.is_floating_point:
        raise TypeError(f"{op}: memory must be floating, got {memory.dtype}")
    for name, tensor in (("mail", mail), ("memory", memory)):
        if tensor.dim() != 2:
            raise ValueError(f"{op}: {name} must have two dimensions, got {list(tensor.shape)}")
    if time_w.dim() != 1:
        raise ValueError(f"{op}: time_w must have one dimension, got {list(time_w.shape)}")
    (N, D), Dm, T = memory.shape, mail.shape[1], time_w.shape[0]
    G = (3 if cell == "gru" else 1) * D
    for name, tensor, shape in (
        ("mail", mail, (N, Dm)),
        ("time_w", time_w, (T,)),
        ("time_b", time_b, (T,)),
        ("w_ih", w_ih, (G, Dm + T)),
        ("w_hh", w_hh, (G, D)),
        ("b_ih", b_ih, (G,)),
        ("b_hh", b_hh, (G,)),
    ):
        if tensor.dtype != memory.dtype:
            raise TypeError(f"{op}: {name} must have the dtype of memory ({memory.dtype}), got {tensor.dtype}")
        if tensor.shape != shape:
            raise ValueError(f"{op}: {name} must be {list(shape)}, got {list(tensor.shape)}")


def memory_update(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
    *,
    rows: Tensor | None = None,
) -> Tensor:
    """Memory of nodes after their mail: `cell([mail[rows] | cos(dt w + b)], memory[rows])` (Rossi et al., TGN, 2020, eq. 3).

    The cell is `torch.nn.GRUCell` (gates in the order r, z, n) or `torch.nn.RNNCell` with tanh, with their weights. Rows are
    gathered, encoded, multiplied and gated tile by tile.

    Args:
        mail: Mail table, `[N, Dm]`, floating; `[U, Dm]` when `rows` is None.
        dt: Time from the last update to the mail, `[U]`, int64, float64 or float32, in the data's own unit.
        memory: Memory table, `[N, D]`, dtype of `mail`; `[U, D]` when `rows` is None.
        time_w: Frequencies (radians per unit of time), `[T]`, same dtype.
        time_b: Phases (radians), `[T]`, same dtype.
        w_ih: Weights of the input, `[G D, Dm + T]`, G = 3 for "gru" and 1 for "rnn", same dtype.
        w_hh: Weights of the memory, `[G D, D]`, same dtype.
        b_ih: Bias of the input, `[G D]`, same dtype.
        b_hh: Bias of the memory, `[G D]`, same dtype.
        cell: "gru" or "rnn".
        rows: Table row of each updated node, `[U]`, int64 or int32, repeats allowed. None: row `u` is node `u`. Not checked on
            CUDA.

    Returns:
        `[U, D]`, dtype of `memory`. The tables are not changed.

    Precision: half types are accumulated in float32. The time encoding is that of `time_encode`. On CUDA, products follow
    torch's float32 matmul precision.

    Gradients: all floating arguments but `dt`, once. Gradients of rows that repeat are added in the order of the call.

    Determinism: bitwise reproducible. On CPU with the extension no bit depends on the number of threads, and a row's bits not
    on the other rows of the call: neither on their values nor on their number or order.

    Raises:
        TypeError: An argument has an unsupported dtype, or not the dtype of `memory`.
        ValueError: Shapes do not fit, `cell` is unknown, `dt` requires grad, or (CPU) a row is out of range.
    """
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    check_cell("memory_update", cell, mail, memory, *weights)
    if dt.dtype not in (torch.int64, torch.float64, torch.float32):
        raise TypeError(f"memory_update: dt must be int64, float64 or float32, got {dt.dtype}")
    if dt.requires_grad:
        raise ValueError("memory_update: dt must not require grad (it is data), got a tensor that does; detach it")
    if dt.dim() != 1:
        raise ValueError(f"memory_update: dt must have one dimension, got {list(dt.shape)}")
    if rows is None:
        if memory.shape[0] != dt.shape[0]:
            raise ValueError(
                f"memory_update: memory must have one row for each dt ({dt.shape[0]}) when rows is None, got {memory.shape[0]}"
            )
    elif rows.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"memory_update: rows must be int64 or int32, got {rows.dtype}")
    elif rows.shape != dt.shape:
        raise ValueError(f"memory_update: rows must be {list(dt.shape)} like dt, got {list(rows.shape)}")
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (mail, memory, *weights))
    out, _ = run(torch.ops.gnnaccel.memory_update.default, mail, dt, memory, *weights, rows, cell == "gru", save)
    return out
