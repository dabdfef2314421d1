"""`link_loss`: decoder, cross-entropy and their gradients of a batch of links in one pass. Internal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops._linear import blocked_product, padded_linear

_WEIGHTS = "Tensor w_src, Tensor b_src, Tensor w_dst, Tensor w_out, Tensor b_out"
_GRADS = "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor"
# the loss is a number: its gradients are made with it, and `backward` only scales them
define(f"link_loss(Tensor h, {_WEIGHTS}, SymInt events, bool grads) -> (Tensor, {_GRADS})")
# with room for more events than there are: how many is a number on the device
define(f"link_loss.counted(Tensor h, {_WEIGHTS}, SymInt events, bool grads, Tensor count) -> (Tensor, {_GRADS})")
define(
    "link_loss_backward(Tensor grad, Tensor dh, Tensor dw_src, Tensor db_src, Tensor dw_dst, Tensor dw_out,"
    f" Tensor db_out) -> ({_GRADS})"
)


@impl("link_loss", "CompositeExplicitAutograd")
def _composite(
    h: Tensor,
    w_src: Tensor,
    b_src: Tensor,
    w_dst: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    events: int,
    grads: bool,
) -> tuple[Tensor, ...]:
    return _composed((h, w_src, b_src, w_dst, w_out, b_out), events, grads, 1.0 / events)


def _composed(tensors: Sequence[Tensor], events: int, grads: bool, share: float | Tensor) -> tuple[Tensor, ...]:
    """`share`: what an event counts, one number or `[B, 1]`."""
    dtype, B, C = tensors[0].dtype, events, tensors[0].shape[0] // events - 2
    acc = torch.promote_types(dtype, torch.float32)
    h, w_src, b_src, w_dst, w_out, b_out = (t.to(acc) for t in tensors)
    src, other = padded_linear(h[:B], w_src, b_src), padded_linear(h[B:], w_dst)
    # [B, 1 + C, hidden]: the destination of an event, then its candidates
    pre = src.unsqueeze(1) + torch.cat([other[:B].unsqueeze(1), other[B:].view(B, C, other.shape[1])], dim=1)
    hidden = torch.relu(pre)
    logit = (hidden * w_out).sum(-1) + b_out
    # filled on the device: a copy from the host would wait
    sign, weight = logit.new_ones(1 + C), logit.new_full((1 + C,), 1 / C)
    sign[0].fill_(-1)
    weight[0].fill_(1)
    weight = weight * share
    # float64: torch may add up in another order for another number of threads
    cross = torch.logaddexp(sign * logit, torch.zeros_like(logit))
    loss = (cross * weight).double().sum().to(dtype)
    if not grads:
        empty = (h.new_empty((0, n), dtype=dtype) for n in (h.shape[1], h.shape[1]))
        dh, dw = empty
        db = h.new_empty(0, dtype=dtype)
        return loss, dh, dw, db, torch.empty_like(dw), torch.empty_like(db), torch.empty_like(db)
    g = torch.sigmoid(sign * logit) * sign * weight
    d = (g.unsqueeze(-1) * w_out).masked_fill(pre <= 0, 0)
    d_src, d_other = d.sum(1), torch.cat([d[:, 0], d[:, 1:].reshape(B * C, d.shape[2])])
    results = (
        torch.cat([padded_linear(d_src, w_src.T), padded_linear(d_other, w_dst.T)]),
        blocked_product(d_src, h[:B]),
        d_src.double().sum(0),
        blocked_product(d_other, h[B:]),
        (g.unsqueeze(-1) * hidden).double().sum((0, 1)),
        g.double().sum().reshape(1),
    )
    return loss, *(t.to(dtype) for t in results)


@impl("link_loss.counted", "CompositeExplicitAutograd")
def _sliced(h: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights, events, grads, count = rest
    parts, rows = h.shape[0] // events, int(count) * (h.shape[0] // events)
    loss, dh, *made = torch.ops.gnnaccel.link_loss.default(h[:rows], *weights, rows // parts, grads)
    return loss, torch.nn.functional.pad(dh, (0, 0, 0, h.shape[0] - rows)) if grads else dh, *made


@impl("link_loss.counted", "CUDA")
def _masked(h: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *weights, events, grads, count = rest
    B, C, n = events, h.shape[0] // events - 2, count.reshape(())
    event = torch.arange(B, device=h.device)
    live, at = event < n, torch.minimum(event, n - 1)
    candidate = (2 * n + at.unsqueeze(1) * C + torch.arange(C, device=h.device)).reshape(-1)
    apart = h.index_select(0, torch.cat([at, n + at, candidate]))  # each part with room for B
    share = live.unsqueeze(1) / n.to(torch.promote_types(h.dtype, torch.float32))
    loss, dh, *made = _composed((apart, *weights), events, grads, share)
    if grads:
        row = torch.arange(h.shape[0], device=h.device)
        part = torch.minimum(row // n, torch.full_like(row, 2))
        there = (part * B + row - part * n).clamp(max=h.shape[0] - 1)
        dh = torch.where((row < (2 + C) * n).unsqueeze(1), dh.index_select(0, there), 0)
    return loss, dh, *made


@impl("link_loss_backward", "CompositeExplicitAutograd")
def _composite_backward(grad: Tensor, *made: Tensor) -> tuple[Tensor, ...]:
    return tuple(grad * t for t in made)


@fake("link_loss")
def _fake(
    h: Tensor,
    w_src: Tensor,
    b_src: Tensor,
    w_dst: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    events: int,
    grads: bool,
) -> tuple[Tensor, ...]:
    D, N = h.shape[1], w_src.shape[0]
    shapes = [(h.shape[0] if grads else 0, D), *[(N if grads else 0, *rest) for rest in ((D,), (), (D,), ())]]
    return h.new_empty(()), *(h.new_empty(s) for s in shapes), h.new_empty(1 if grads else 0)


@fake("link_loss_backward")
def _fake_backward(grad: Tensor, *made: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in made)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.grads = inputs[7]


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    if not ctx.grads:
        raise RuntimeError("gnnaccel::link_loss was called with grads=False: nothing to differentiate from")
    made = torch.ops.gnnaccel.link_loss_backward(grad, *ctx.saved_tensors)
    need = ctx.needs_input_grad
    return *(g if n else None for g, n in zip(made, need, strict=False)), None, None


@fake("link_loss.counted")
def _fake_counted(*args: Any) -> tuple[Tensor, ...]:
    return _fake(*args[:-1])


def _backward_counted(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
    return *_backward(ctx, *grads), None


autograd("link_loss", _backward, _setup)
autograd("link_loss.counted", _backward_counted, _setup)
once_differentiable("link_loss_backward")


def link_loss(
    h: Tensor,
    w_src: Tensor,
    b_src: Tensor,
    w_dst: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    *,
    events: int,
    count: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of links against candidates: `mean softplus(-s(i, dst_i)) + mean softplus(s(i, cand_ic))`.

    The score of two embeddings is `s(a, b) = w_out . relu(W_src a + b_src + W_dst b) + b_out` (the decoder of TGN and TGL).
    Blocks of events go from embeddings to gradients in cache; neither scores nor hidden layers are stored.

    Args:
        h: Embeddings, `[B (2 + C), D]`, floating: sources, destinations, then C candidates of the first event, of the second
            and so on. Half types are computed in float32.
        w_src: `[N, D]`, dtype of `h`, as the others.
        b_src: `[N]`.
        w_dst: `[N, D]`.
        w_out: `[N]`.
        b_out: `[1]`.
        events: B, at least 1; C, at least 1, follows from it.
        count: How many events there are, int64 `[1]` in `[1, B]` on the device of `h`, when B is only the room for them: the
            first `count * (2 + C)` rows of `h` are as above, and the others are not looked at and get zeros for a gradient.
            The result is that of these rows alone. None: B.

    Returns:
        The loss, a scalar of the dtype of `h`.

    Gradients: all tensors; once differentiable. They are made in the forward pass, unless autograd is off.

    Determinism: bitwise reproducible, on CPU for any number of threads.

    Raises:
        TypeError: `h` is not floating, or a weight is of another dtype.
        ValueError: Shapes do not fit.
    """
    if not h.dtype.is_floating_point:
        raise TypeError(f"link_loss: h must be floating, got {h.dtype}")
    if h.dim() != 2:
        raise ValueError(f"link_loss: h must be [B (2 + C), D], got {list(h.shape)}")
    if events < 1 or h.shape[0] % events or h.shape[0] // events < 3:
        raise ValueError(
            f"link_loss: events must divide the {h.shape[0]} rows of h into 2 + C parts, C >= 1, got {events}"
        )
    D, N = h.shape[1], w_src.shape[0]
    weights = (w_src, b_src, w_dst, w_out, b_out)
    shapes = ((N, D), (N,), (N, D), (N,), (1,))
    for name, tensor, shape in zip(("w_src", "b_src", "w_dst", "w_out", "b_out"), weights, shapes, strict=True):
        if tensor.dtype != h.dtype:
            raise TypeError(f"link_loss: {name} must have the dtype of h ({h.dtype}), got {tensor.dtype}")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"link_loss: {name} must be {list(shape)}, got {list(tensor.shape)}")
    grads = torch.is_grad_enabled() and any(t.requires_grad for t in (h, *weights))
    if count is not None:
        if count.dtype != torch.int64 or count.numel() != 1:
            raise ValueError(f"link_loss: count must be int64 [1], got {count.dtype} {list(count.shape)}")
        return torch.ops.gnnaccel.link_loss.counted(h, *weights, events, grads, count)[0]
    return torch.ops.gnnaccel.link_loss.default(h, *weights, events, grads)[0]
