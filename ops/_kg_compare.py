"""`kg_compare`: each query row against each candidate row of its chunk, by product or distance. Internal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable

# `modulus`: the sum of the moduli of complex differences, rows being [re | im]
DOT, L1, L2, MODULUS = range(4)

# q [C, S, D] in float32 or float64, n [C, N, D] in any floating dtype, which is the dtype of the scores [C, S, N]:
# q . n, or gamma less the distance
define("kg_compare(Tensor q, Tensor n, int kind, float gamma) -> Tensor")
define("kg_compare_backward(Tensor grad, Tensor q, Tensor n, int kind) -> (Tensor, Tensor)")

_TILE = 1 << 20  # elements [C, S, N, D] of a tile


def _tiles(C: int, S: int, N: int, D: int) -> Iterator[tuple[slice, slice, slice]]:
    n = max(1, min(N, _TILE // max(D, 1)))
    s = max(1, min(S, _TILE // max(D * n, 1)))
    c = max(1, min(C, _TILE // max(D * n * s, 1)))
    for i in range(0, C, c):
        for j in range(0, S, s):
            for k in range(0, N, n):
                yield slice(i, i + c), slice(j, j + s), slice(k, k + n)


def _difference(q: Tensor, n: Tensor) -> Tensor:
    return q.unsqueeze(2) - n.unsqueeze(1)


def _moduli(x: Tensor) -> Tensor:
    re, im = x.chunk(2, -1)
    return torch.hypot(re, im)


def _unit(x: Tensor, kind: int) -> Tensor:
    """The gradient of the distance in x, [..., D]; 0 where the distance has none."""
    if kind == L1:
        return x.sign()
    d = torch.linalg.vector_norm(x, dim=-1, keepdim=True) if kind == L2 else _moduli(x)
    d = d.expand_as(x) if kind == L2 else torch.cat([d, d], -1)
    return torch.where(d > 0, x / d, 0.0)


@impl("kg_compare", "CompositeExplicitAutograd")
def _composite(q: Tensor, n: Tensor, kind: int, gamma: float) -> Tensor:
    (C, S, D), N = q.shape, n.shape[1]
    out = n.new_empty((C, S, N))
    for c, s, k in _tiles(C, S, N, D):
        a, b = q[c, s], n[c, k].to(q.dtype)
        if kind == DOT:
            out[c, s, k] = torch.bmm(a, b.transpose(1, 2))
            continue
        x = _difference(a, b)
        d = _moduli(x).sum(-1) if kind == MODULUS else torch.linalg.vector_norm(x, ord=1 if kind == L1 else 2, dim=-1)
        out[c, s, k] = gamma - d
    return out


@impl("kg_compare_backward", "CompositeExplicitAutograd")
def _composite_backward(grad: Tensor, q: Tensor, n: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    (C, S, D), N = q.shape, n.shape[1]
    dq, dn = q.new_zeros(q.shape), q.new_zeros(n.shape)
    for c, s, k in _tiles(C, S, N, D):
        g, a, b = grad[c, s, k].to(q.dtype), q[c, s], n[c, k].to(q.dtype)
        if kind == DOT:
            dq[c, s] += torch.bmm(g, b)
            dn[c, k] += torch.bmm(g.transpose(1, 2), a)
        else:
            x = _unit(_difference(a, b), kind) * g.unsqueeze(-1)
            dq[c, s] -= x.sum(2)
            dn[c, k] += x.sum(1)
    return dq, dn.to(n.dtype)


@impl("kg_compare", "CUDA")
def _cuda(q: Tensor, n: Tensor, kind: int, gamma: float) -> Tensor:
    # a pair is not a tile, and products are the library's
    if kind == DOT or q.shape[1] == n.shape[1] == 1:
        return _composite(q, n, kind, gamma)
    from gnnaccel.kernels.triton.kg_score import kg_distances

    return kg_distances(q.contiguous(), n.contiguous(), kind, gamma, n.dtype)


@impl("kg_compare_backward", "CUDA")
def _cuda_backward(grad: Tensor, q: Tensor, n: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    if kind == DOT or q.shape[1] == n.shape[1] == 1:
        return _composite_backward(grad, q, n, kind)
    from gnnaccel.kernels.triton.kg_score import kg_distance_gradients

    return kg_distance_gradients(grad.contiguous(), q.contiguous(), n.contiguous(), kind)


@fake("kg_compare")
def _fake(q: Tensor, n: Tensor, kind: int, gamma: float) -> Tensor:
    return n.new_empty((*q.shape[:2], n.shape[1]))


@fake("kg_compare_backward")
def _fake_backward(grad: Tensor, q: Tensor, n: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), n.new_empty(n.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, n, ctx.kind, _ = inputs
    ctx.save_for_backward(q, n)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dq, dn = torch.ops.gnnaccel.kg_compare_backward(grad, *ctx.saved_tensors, ctx.kind)
    return dq, dn, None, None


autograd("kg_compare", _backward, _setup)
once_differentiable("kg_compare_backward")


def kg_compare(q: Tensor, n: Tensor, kind: int, gamma: float = 0.0) -> Tensor:
    """Scores `[C, S, N]` of queries `[C, S, D]` against candidates `[C, N, D]`; arguments as the schema says, unchecked."""
    return torch.ops.gnnaccel.kg_compare(q, n, kind, gamma)
