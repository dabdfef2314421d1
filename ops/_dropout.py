"""`dropout`: dropout of rows by a counter-based generator. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, check_seed, define, fake, impl, keyed, seeded
from gnnaccel.ops._relu_norm import dropout_factors

#: Fourth word of the counters: no other op's counters have it in that place, so the same seed may be given to all.
STREAM = 0x64726F70

define("dropout(Tensor x, float rate, SymInt seed) -> Tensor")


@impl("dropout", "CUDA")
def _cuda(x: Tensor, rate: float, seed: int) -> Tensor:
    from gnnaccel.kernels.triton.dropout import dropout_fwd

    return dropout_fwd(x.contiguous(), rate, seed)


@impl("dropout", "CompositeExplicitAutograd")
def _composite(x: Tensor, rate: float, seed: int) -> Tensor:
    factors = dropout_factors(x.shape[0], x.shape[1], rate, seed, x.device, STREAM)
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (x.to(acc) * factors.to(acc)).to(x.dtype).contiguous()


@fake("dropout")
def _fake(x: Tensor, rate: float, seed: int) -> Tensor:
    return x.new_empty(x.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.rate, ctx.seed = inputs


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # linear in x: the gradient is dropout of the gradient, and so are those of higher order
    return seeded("dropout", ctx.seed)(grad, ctx.rate, ctx.seed), None, None


autograd("dropout", _backward, _setup)
keyed("dropout")


def dropout(x: Tensor, rate: float, seed: int | Tensor) -> Tensor:
    """`x` with a share of its elements zeroed and the others scaled by `1 / (1 - rate)` (Srivastava et al., JMLR 2014).

    The mask is a function of (seed, row, column), the same on every device, and another one than `temporal_attention` and
    `relu_norm` make of the same seed; it is drawn again in the backward pass, never stored. Philox4x32-10 draws it.

    Args:
        x: `[R, D]`, floating.
        rate: In `[0, 1)`; at 0 the result is `x` itself.
        seed: Seed of the mask, a number or an int64 tensor of one element, which is read when the op runs.

    Returns:
        `[R, D]`, dtype of `x`.

    Gradients: `x`, of any order.

    Determinism: bitwise reproducible; the bits of an element depend on it and on its row and column alone.

    Raises:
        TypeError: `x` is not floating.
        ValueError: `x` is not `[R, D]`, or `rate` is out of its range.
    """
    if not x.dtype.is_floating_point:
        raise TypeError(f"dropout: x must be floating, got {x.dtype}")
    if x.dim() != 2:
        raise ValueError(f"dropout: x must be [R, D], got {list(x.shape)}")
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout: rate must be in [0, 1), got {rate}")
    check_seed("dropout", seed)
    return x if rate == 0 else seeded("dropout", seed)(x, rate, seed)
