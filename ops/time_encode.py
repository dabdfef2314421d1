"""`time_encode`: phi(dt) = cos(dt * w + b)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable, run

define("time_encode(Tensor dt, Tensor w, Tensor b) -> Tensor")
define("time_encode_backward(Tensor grad, Tensor dt, Tensor w, Tensor b) -> (Tensor, Tensor)")


@impl("time_encode", "CUDA")
def _cuda(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    from gnnaccel.kernels.triton.time_encode import time_encode_fwd

    return time_encode_fwd(dt.contiguous(), w.contiguous(), b.contiguous())


@impl("time_encode_backward", "CUDA")
def _cuda_backward(grad: Tensor, dt: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.time_encode import time_encode_bwd

    return time_encode_bwd(grad.contiguous(), dt.contiguous(), w.contiguous(), b.contiguous())


def _angle(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    # float64: with Unix-second dt a float32 product has lost the fractional turn
    return dt.to(torch.float64).unsqueeze(-1) * w.to(torch.float64) + b.to(torch.float64)


@impl("time_encode", "CompositeExplicitAutograd")
def _composite(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.cos(_angle(dt, w, b)).to(w.dtype).contiguous()


@impl("time_encode_backward", "CompositeExplicitAutograd")
def _composite_backward(grad: Tensor, dt: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    grad_angle = (-torch.sin(_angle(dt, w, b)) * grad.to(torch.float64)).reshape(dt.numel(), w.shape[0])
    grad_w = (grad_angle * dt.to(torch.float64).reshape(dt.numel(), 1)).sum(0)
    return grad_w.to(w.dtype), grad_angle.sum(0).to(b.dtype)


@fake("time_encode")
def _fake(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return w.new_empty((*dt.shape, w.shape[0]))


@fake("time_encode_backward")
def _fake_backward(grad: Tensor, dt: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(w), torch.empty_like(b)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_w, grad_b = run(torch.ops.gnnaccel.time_encode_backward.default, grad, *ctx.saved_tensors)
    return None, grad_w, grad_b


autograd("time_encode", _backward, _setup)
once_differentiable("time_encode_backward")


def time_encode(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Functional time encoding `cos(dt * w + b)` (Xu et al., TGAT, ICLR 2020, eq. 6).

    Args:
        dt: Time differences, `[...]`, int64, float64 or float32, in the data's own unit.
        w: Frequencies (radians per unit of time), `[T]`, floating.
        b: Phases (radians), `[T]`, dtype of `w`.

    Returns:
        `[..., T]`, dtype of `w`.

    Precision: the angle is formed and reduced to one turn in float64, whatever the dtype of `w`, so the absolute error is
    about `1e-7 + 3e-16 * |dt * w|`; a float32 angle would be wrong by 0.06 radians at one Unix month.

    Gradients: `w` and `b`. `dt` is data and gets none: a `dt` that requires grad is refused.

    Determinism: bitwise reproducible, for any number of threads.

    Raises:
        TypeError: `dt`, `w` or `b` has an unsupported dtype.
        ValueError: `w` or `b` is not `[T]`, or `dt` requires grad.
    """
    if dt.dtype not in (torch.int64, torch.float64, torch.float32):
        raise TypeError(f"time_encode: dt must be int64, float64 or float32, got {dt.dtype}")
    if not w.dtype.is_floating_point:
        raise TypeError(f"time_encode: w must be floating, got {w.dtype}")
    if b.dtype != w.dtype:
        raise TypeError(f"time_encode: b must have the dtype of w ({w.dtype}), got {b.dtype}")
    if w.dim() != 1:
        raise ValueError(f"time_encode: w must be [T], got {list(w.shape)}")
    if b.shape != w.shape:
        raise ValueError(f"time_encode: b must be {list(w.shape)} like w, got {list(b.shape)}")
    if dt.requires_grad:
        raise ValueError("time_encode: dt must not require grad (it is data), got a tensor that does; detach it")
    return run(torch.ops.gnnaccel.time_encode.default, dt, w, b)
