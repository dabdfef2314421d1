"""`dual_linear`: the sum of two linear layers, and its ReLU, in one pass. Internal; what a GraphSAGE layer is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops._linear import blocked_product, padded_linear

define("dual_linear(Tensor x, Tensor weight, Tensor? bias, Tensor other, Tensor other_weight, bool relu) -> Tensor")
# `output`: of the forward pass, where that ended in a ReLU; `need`: which of the five gradients
define(
    "dual_linear_backward(Tensor grad, Tensor? output, Tensor x, Tensor weight, Tensor other, Tensor other_weight, "
    "bool[] need) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@impl("dual_linear", "CompositeExplicitAutograd")
def _composite(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, other_weight: Tensor, relu: bool
) -> Tensor:
    y = padded_linear(x, weight, bias) + padded_linear(other, other_weight)
    return y.relu() if relu else y


@impl("dual_linear_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor,
    output: Tensor | None,
    x: Tensor,
    weight: Tensor,
    other: Tensor,
    other_weight: Tensor,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:
    if output is not None:
        grad = torch.where(output > 0, grad, 0)
    makers = (
        lambda: padded_linear(grad, weight.T).contiguous(),
        lambda: blocked_product(grad, x),
        lambda: grad.sum(0),
        lambda: padded_linear(grad, other_weight.T).contiguous(),
        lambda: blocked_product(grad, other),
    )
    return tuple(make() if wanted else x.new_empty(0) for make, wanted in zip(makers, need, strict=True))


@fake("dual_linear_backward")
def _fake_backward(
    grad: Tensor,
    output: Tensor | None,
    x: Tensor,
    weight: Tensor,
    other: Tensor,
    other_weight: Tensor,
    need: Sequence[bool],
) -> tuple[Tensor, ...]:
    shapes = (x.shape, weight.shape, weight.shape[:1], other.shape, other_weight.shape)
    return tuple(x.new_empty(shape if wanted else (0,)) for shape, wanted in zip(shapes, need, strict=True))


@fake("dual_linear")
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, other_weight: Tensor, relu: bool) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, other, other_weight, ctx.relu = inputs
    ctx.save_for_backward(x, weight, other, other_weight, *([output] if ctx.relu else []))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, output = ctx.saved_tensors if ctx.relu else (*ctx.saved_tensors, None)
    need = list(ctx.needs_input_grad[:5])
    grads = torch.ops.gnnaccel.dual_linear_backward(grad, output, *inputs, need)
    return *(g if n else None for g, n in zip(grads, need, strict=True)), None


autograd("dual_linear", _backward, _setup)
once_differentiable("dual_linear_backward")


def dual_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor, other_weight: Tensor, relu: bool = False
) -> Tensor:
    """`x @ weight.T + bias + other @ other_weight.T`, and the ReLU of it; the bits of a row depend on that row alone (CPU).

    Args:
        x: `[R, K]`, floating; half types are accumulated in float32.
        weight: `[N, K]`, dtype of `x`.
        bias: `[N]`, dtype of `x`, or None.
        other: `[R, L]`, dtype of `x`.
        other_weight: `[N, L]`, dtype of `x`.
        relu: Whether negative sums become 0.

    Returns:
        `[R, N]`, dtype of `x`.

    Gradients: all tensors, once.

    Determinism: bitwise reproducible; for any number of threads and row-invariant on CPU with the extension.

    Raises:
        TypeError: `x` is not floating, or another tensor is of another dtype.
        ValueError: Shapes do not fit.
    """
    if not x.dtype.is_floating_point:
        raise TypeError(f"dual_linear: x must be floating, got {x.dtype}")
    if x.dim() != 2:
        raise ValueError(f"dual_linear: x must be [R, K], got {list(x.shape)}")
    if other.dim() != 2 or other.shape[0] != x.shape[0]:
        raise ValueError(f"dual_linear: other must be [{x.shape[0]}, L], got {list(other.shape)}")
    N = weight.shape[0] if weight.dim() == 2 else -1
    if weight.dim() != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"dual_linear: weight must be [N, {x.shape[1]}], got {list(weight.shape)}")
    if tuple(other_weight.shape) != (N, other.shape[1]):
        raise ValueError(f"dual_linear: other_weight must be {[N, other.shape[1]]}, got {list(other_weight.shape)}")
    if bias is not None and tuple(bias.shape) != (N,):
        raise ValueError(f"dual_linear: bias must be [{N}], got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias), ("other", other), ("other_weight", other_weight)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"dual_linear: {name} must have the dtype of x ({x.dtype}), got {tensor.dtype}")
    return torch.ops.gnnaccel.dual_linear(x, weight, bias, other, other_weight, relu)
