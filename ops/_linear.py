"""`row_invariant_linear`: a linear layer whose rows do not know of each other, down to the bit. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable, run

define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
define(
    "linear_backward(Tensor grad, Tensor x, Tensor weight, bool grad_x, bool grad_weight, bool grad_bias)"
    " -> (Tensor, Tensor, Tensor)"
)


def padded_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, as near to this file's promise as a BLAS library allows.

    Libraries keep special kernels for a few rows, and split some products of a transposed matrix between their threads: so at
    least 16 rows, and no transposed matrix. On CUDA neither helps.
    """
    if x.is_cuda:
        return F.linear(x, weight, bias)
    few, enough, matrix = x.shape[0], 16, weight.T.contiguous()
    if few < enough:
        x = F.pad(x, (0, 0, 0, enough - few))
    y = x @ matrix if bias is None else torch.addmm(bias, x, matrix)
    return y[:few]


def blocked_product(a: Tensor, b: Tensor) -> Tensor:
    """`a.T @ b`, on CPU in blocks of rows: BLAS libraries split a long sum between their threads."""
    if a.is_cuda:
        return a.T @ b
    block = 128
    out = a.new_zeros((a.shape[1], b.shape[1]))
    for i in range(0, a.shape[0], block):
        out += a[i : i + block].T.contiguous() @ b[i : i + block]
    return out


@impl("linear", "CompositeExplicitAutograd")
def _composite(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return padded_linear(x, weight, bias).contiguous()


@impl("linear_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor, x: Tensor, weight: Tensor, grad_x: bool, grad_weight: bool, grad_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    none = x.new_empty(0)
    return (
        padded_linear(grad, weight.T).contiguous() if grad_x else none,
        blocked_product(grad, x) if grad_weight else torch.empty_like(none),
        grad.sum(0) if grad_bias else torch.empty_like(none),
    )


@fake("linear")
def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


@fake("linear_backward")
def _fake_backward(
    grad: Tensor, x: Tensor, weight: Tensor, grad_x: bool, grad_weight: bool, grad_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if grad_x else (0,)),
        x.new_empty(weight.shape if grad_weight else (0,)),
        x.new_empty(weight.shape[0] if grad_bias else 0),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    grads = run(torch.ops.gnnaccel.linear_backward.default, grad, *ctx.saved_tensors, *need)
    return tuple(g if n else None for g, n in zip(grads, need, strict=True))


autograd("linear", _backward, _setup)
once_differentiable("linear_backward")


def row_invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` where the bits of a row depend on that row alone (CPU extension).

    A vendor's matrix product picks its kernel, and with it the order of its sums, by the number of rows. Use this where that
    number varies and a prediction must not change with its batch.

    Args:
        x: `[..., K]`, floating; half types are accumulated in float32.
        weight: `[N, K]`, dtype of `x`.
        bias: `[N]`, dtype of `x`, or None.

    Returns:
        `[..., N]`, dtype of `x`.

    Gradients: all arguments, once.

    Determinism: bitwise reproducible; for any number of threads and row-invariant on CPU with the extension. Elsewhere it is
    torch's own product.

    Raises:
        TypeError: `x` is not floating, or `weight` or `bias` is of another dtype.
        ValueError: Shapes do not fit.
    """
    if not x.dtype.is_floating_point:
        raise TypeError(f"row_invariant_linear: x must be floating, got {x.dtype}")
    if x.dim() == 0:
        raise ValueError("row_invariant_linear: x must be [..., K], got a scalar")
    K = x.shape[-1]
    if weight.dim() != 2 or weight.shape[1] != K:
        raise ValueError(f"row_invariant_linear: weight must be [N, {K}], got {list(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"row_invariant_linear: bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(f"row_invariant_linear: {name} must have the dtype of x ({x.dtype}), got {tensor.dtype}")
    if x.dim() == 2:  # no views, which an in-place op on the result would have to copy
        return run(torch.ops.gnnaccel.linear.default, x, weight, bias)
    rows = x.reshape(-1, K) if K else x.new_empty((x.shape[:-1].numel(), 0))
    return run(torch.ops.gnnaccel.linear.default, rows, weight, bias).reshape(*x.shape[:-1], weight.shape[0])
