"""`kg_project` and `kg_projected_l1`: rows through the matrix of their relation, one product a relation. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._kg_compare import L1
from gnnaccel.ops._kg_compare import _composite as compare
from gnnaccel.ops._kg_compare import _composite_backward as compare_backward
from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable

# e [B, D] in float32 or float64, w [R, D, M] in any floating dtype, relation [B]: e_b W, or e_b W^T where D and M change
# places; [B, M] in the dtype of e
define("kg_project(Tensor e, Tensor w, Tensor relation, bool transposed) -> Tensor")
define("kg_project_backward(Tensor grad, Tensor e, Tensor w, Tensor relation, bool transposed) -> (Tensor, Tensor)")
# q [C, S, M] in float32 or float64, n [C, N, D], w [R, D, M], relation [C S]: gamma - |q - n W|_1, [C, S, N] in the dtype
# of n
define("kg_projected_l1(Tensor q, Tensor n, Tensor w, Tensor relation, float gamma) -> Tensor")
define(
    "kg_projected_l1_backward(Tensor grad, Tensor q, Tensor n, Tensor w, Tensor relation) -> (Tensor, Tensor, Tensor)"
)


def _groups(key: Tensor, limit: int) -> list[tuple[int, Tensor]]:
    """Each key that occurs, ascending, with its positions, ascending."""
    order = torch.argsort(key, stable=True)
    keys, counts = torch.unique_consecutive(key[order], return_counts=True)
    found = keys.tolist()
    if found and not 0 <= found[0] <= found[-1] < limit:
        raise ValueError(f"kg_score: relation must be in [0, {limit}), got {found[0] if found[0] < 0 else found[-1]}")
    return list(zip(found, order.split(counts.tolist()), strict=True))


@impl("kg_project", "CompositeExplicitAutograd")
def _project(e: Tensor, w: Tensor, relation: Tensor, transposed: bool) -> Tensor:
    out = e.new_empty((e.shape[0], w.shape[1 if transposed else 2]))
    for i, rows in _groups(relation, w.shape[0]):
        m = w[i].to(e.dtype)
        out[rows] = e[rows] @ (m.T if transposed else m)
    return out


@impl("kg_project_backward", "CompositeExplicitAutograd")
def _project_backward(grad: Tensor, e: Tensor, w: Tensor, relation: Tensor, transposed: bool) -> tuple[Tensor, Tensor]:
    de, dw = torch.empty_like(e), torch.zeros_like(w)
    for i, rows in _groups(relation, w.shape[0]):
        m, g, x = w[i].to(e.dtype), grad[rows], e[rows]
        de[rows] = g @ (m if transposed else m.T)
        dw[i] = (g.T @ x if transposed else x.T @ g).to(w.dtype)
    return de, dw


def _pairs(q: Tensor, relation: Tensor, R: int) -> list[tuple[int, int, Tensor]]:
    """Chunk, relation, and the chunk's rows of that relation."""
    S = q.shape[1]
    out = []
    for c, part in enumerate(relation.split(S) if S else ()):
        out += [(c, i, rows) for i, rows in _groups(part, R)]
    return out


@impl("kg_projected_l1", "CompositeExplicitAutograd")
def _projected_l1(q: Tensor, n: Tensor, w: Tensor, relation: Tensor, gamma: float) -> Tensor:
    out = n.new_empty((*q.shape[:2], n.shape[1]))
    for c, i, rows in _pairs(q, relation, w.shape[0]):
        candidates = n[c].to(q.dtype) @ w[i].to(q.dtype)
        out[c, rows] = compare(q[c, rows][None], candidates[None], L1, gamma)[0].to(n.dtype)
    return out


@impl("kg_projected_l1_backward", "CompositeExplicitAutograd")
def _projected_l1_backward(
    grad: Tensor, q: Tensor, n: Tensor, w: Tensor, relation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dn, dw = torch.empty_like(q), q.new_zeros(n.shape), q.new_zeros(w.shape)
    for c, i, rows in _pairs(q, relation, w.shape[0]):
        x, m = n[c].to(q.dtype), w[i].to(q.dtype)
        g, d = compare_backward(grad[c, rows][None], q[c, rows][None], (x @ m)[None], L1)
        dq[c, rows] = g[0]
        dn[c] += d[0] @ m.T
        dw[i] += x.T @ d[0]
    return dq, dn.to(n.dtype), dw.to(w.dtype)


@fake("kg_project")
def _fake_project(e: Tensor, w: Tensor, relation: Tensor, transposed: bool) -> Tensor:
    return e.new_empty((e.shape[0], w.shape[1 if transposed else 2]))


@fake("kg_project_backward")
def _fake_project_backward(
    grad: Tensor, e: Tensor, w: Tensor, relation: Tensor, transposed: bool
) -> tuple[Tensor, Tensor]:
    return e.new_empty(e.shape), w.new_empty(w.shape)


@fake("kg_projected_l1")
def _fake_projected_l1(q: Tensor, n: Tensor, w: Tensor, relation: Tensor, gamma: float) -> Tensor:
    return n.new_empty((*q.shape[:2], n.shape[1]))


@fake("kg_projected_l1_backward")
def _fake_projected_l1_backward(
    grad: Tensor, q: Tensor, n: Tensor, w: Tensor, relation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), n.new_empty(n.shape), w.new_empty(w.shape)


def _setup_project(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.transposed = inputs
    ctx.save_for_backward(*tensors)


def _backward_project(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.gnnaccel.kg_project_backward(grad, *ctx.saved_tensors, ctx.transposed), None, None


def _setup_projected_l1(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _backward_projected_l1(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.gnnaccel.kg_projected_l1_backward(grad, *ctx.saved_tensors), None, None


autograd("kg_project", _backward_project, _setup_project)
autograd("kg_projected_l1", _backward_projected_l1, _setup_projected_l1)
once_differentiable("kg_project_backward")
once_differentiable("kg_projected_l1_backward")


def kg_project(e: Tensor, w: Tensor, relation: Tensor, transposed: bool = False) -> Tensor:
    """`e_b @ w[relation_b]`, or by the transposed matrix; arguments as the schema says, unchecked."""
    return torch.ops.gnnaccel.kg_project(e, w, relation, transposed)


def kg_projected_l1(q: Tensor, n: Tensor, w: Tensor, relation: Tensor, gamma: float) -> Tensor:
    """`gamma - |q_csd - n_cnd W|_1`, the candidates projected once for each relation of their chunk."""
    return torch.ops.gnnaccel.kg_projected_l1(q, n, w, relation, gamma)
