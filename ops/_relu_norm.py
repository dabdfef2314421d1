"""`relu_norm`: LayerNorm(ReLU(dropout(x))) * weight + bias in one pass, the tail of an attention layer. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, check_seed, define, fake, impl, keyed, once_differentiable, seeded
from gnnaccel.ops._philox import LOW, philox4x32

#: Fourth word of the counters: no other op's counters have it in that place, so the same seed may be given to all.
STREAM = 0xEE6F726D

define(
    "relu_norm(Tensor x, Tensor weight, Tensor bias, float dropout, SymInt seed, float eps) -> (Tensor, Tensor, Tensor)"
)
define(
    "relu_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor mean, Tensor rstd, float dropout, SymInt seed)"
    " -> (Tensor, Tensor, Tensor)"
)


@impl("relu_norm", "CUDA")
def _cuda(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float, seed: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.relu_norm import relu_norm_fwd

    return relu_norm_fwd(x.contiguous(), weight.contiguous(), bias.contiguous(), dropout, seed, eps)


@impl("relu_norm_backward", "CUDA")
def _cuda_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.relu_norm import relu_norm_bwd

    *tensors, dropout, seed = args
    return relu_norm_bwd(*(t.contiguous() for t in tensors), dropout, seed)


def _acc(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def dropout_factors(R: int, D: int, dropout: float, seed: int, device: torch.device, stream: int = STREAM) -> Tensor:
    """0 or 1 / (1 - dropout), `[R, D]` float64: word `column % 4` of counter (row low, column // 4, row high, stream)."""
    row = torch.arange(R, device=device).unsqueeze(1)
    group = torch.arange((D + 3) // 4, device=device)
    words = philox4x32(torch.broadcast_tensors(row & LOW, group, row >> 32, torch.full_like(row, stream)), seed)
    word = torch.stack(words, dim=-1).reshape(R, 4 * len(group))[:, :D]
    return ((word >> 8) >= int(dropout * 2**24)).to(torch.float64) / (1.0 - dropout)


def _rectified(x: Tensor, dropout: float, seed: int) -> tuple[Tensor, Tensor | None]:
    """ReLU(dropout(x)) in the accumulation dtype, and the factors."""
    h = x.to(_acc(x.dtype))
    if dropout == 0:
        return torch.relu(h), None
    factors = dropout_factors(x.shape[0], x.shape[1], dropout, seed, x.device).to(h.dtype)
    return torch.relu(h * factors), factors


@impl("relu_norm", "CompositeExplicitAutograd")
def _composite(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float, seed: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    h, _ = _rectified(x, dropout, seed)
    D = max(x.shape[1], 1)
    mean = h.sum(1) / D
    centred = h - mean.unsqueeze(1)
    rstd = torch.rsqrt((centred * centred).sum(1) / D + eps)
    y = centred * rstd.unsqueeze(1) * weight.to(h.dtype) + bias.to(h.dtype)
    return y.to(x.dtype).contiguous(), mean, rstd


@impl("relu_norm_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, dropout: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    h, factors = _rectified(x, dropout, seed)
    D = max(x.shape[1], 1)
    dy = grad.to(h.dtype)
    normal = (h - mean.unsqueeze(1)) * rstd.unsqueeze(1)
    g = dy * weight.to(h.dtype)
    d = g - g.sum(1, keepdim=True) / D - normal * ((g * normal).sum(1, keepdim=True) / D)
    d = (d * rstd.unsqueeze(1)).masked_fill(h <= 0, 0)
    dx = d if factors is None else d * factors
    # float64: torch may add columns up in another order for another number of threads
    dweight, dbias = (dy * normal).to(torch.float64).sum(0), dy.to(torch.float64).sum(0)
    return dx.to(x.dtype).contiguous(), dweight.to(weight.dtype), dbias.to(weight.dtype)


@fake("relu_norm")
def _fake(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float, seed: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.new_empty(x.shape[0], dtype=_acc(x.dtype))
    return x.new_empty(x.shape), rows, torch.empty_like(rows)


@fake("relu_norm_backward")
def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, dropout: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, _, ctx.dropout, ctx.seed, _ = inputs
    ctx.save_for_backward(x, weight, output[1], output[2])


def _backward(ctx: Any, grad: Tensor, grad_mean: Tensor, grad_rstd: Tensor) -> tuple[Tensor | None, ...]:
    # mean and rstd are for the backward pass alone: the public function does not give them out
    grads = seeded("relu_norm_backward", ctx.seed)(grad, *ctx.saved_tensors, ctx.dropout, ctx.seed)
    return *grads, None, None, None


autograd("relu_norm", _backward, _setup)
once_differentiable("relu_norm_backward")
keyed("relu_norm", "relu_norm_backward")


def relu_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, dropout: float = 0.0, seed: int | Tensor = 0, eps: float = 1e-5
) -> Tensor:
    """`LayerNorm(ReLU(dropout(x))) * weight + bias`, rows normalised over their D columns (Ba et al., 2016).

    Args:
        x: `[R, D]`, floating; half types are computed in float32. On CUDA D is at most 4096.
        weight: `[D]`, dtype of `x`.
        bias: `[D]`, dtype of `x`.
        dropout: Rate in `[0, 1)`; kept elements are scaled by `1 / (1 - dropout)`. 0 draws nothing.
        seed: Seed of the dropout: the mask is a function of (seed, row, column), the same on every device, and another one
            than `temporal_attention` makes of the same seed. It is drawn again in the backward pass, never stored. An int64
            tensor of one element is read when the op runs: a replayed CUDA graph sees what is in it then.
        eps: Added to the variance, above 0.

    Returns:
        `[R, D]`, dtype of `x`.

    Gradients: `x`, `weight`, `bias`; once differentiable.

    Determinism: bitwise reproducible, on CPU for any number of threads. The bits of a row depend on that row and, with dropout,
    on its number.

    Raises:
        TypeError: `x` is not floating, or `weight` or `bias` is of another dtype.
        ValueError: Shapes do not fit, or an option is out of its range.
    """
    if not x.dtype.is_floating_point:
        raise TypeError(f"relu_norm: x must be floating, got {x.dtype}")
    if x.dim() != 2:
        raise ValueError(f"relu_norm: x must be [R, D], got {list(x.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.dtype != x.dtype:
            raise TypeError(f"relu_norm: {name} must have the dtype of x ({x.dtype}), got {tensor.dtype}")
        if tensor.dim() != 1 or tensor.shape[0] != x.shape[1]:
            raise ValueError(f"relu_norm: {name} must be [{x.shape[1]}], got {list(tensor.shape)}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"relu_norm: dropout must be in [0, 1), got {dropout}")
    if not eps > 0.0:
        raise ValueError(f"relu_norm: eps must be above 0, got {eps}")
    check_seed("relu_norm", seed)
    return seeded("relu_norm", seed)(x, weight, bias, dropout, seed, eps)[0]
