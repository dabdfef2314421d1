"""Attention over grouped edges with absorbed projections, forward and backward in one node of the graph."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import gnnaccel.ops.temporal_attention  # noqa: F401  (defines the ops called below)


class Grouped(NamedTuple):
    """Edges by target: row r of the tables `[R, K]` holds those of node `nodes[r]`, -1 past `count[r]`."""

    nodes: Tensor
    source: Tensor
    edge: Tensor
    count: Tensor


def _per_head(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """`out[h] = a[h] @ b[h]`; with two heads `bmm` costs more than two products, and copies what is not dense."""
    for h in range(out.shape[0]):
        torch.mm(a[h], b[h], out=out[h])
    return out


class EdgeAttention(torch.autograd.Function):
    """`sum_k p_k (Wv x_k + We e_k + bv)` of the grouped targets, zeros for the others, `[N, H * C]`.

    p is the softmax of `q . (Wk x_k + We e_k + bk) / sqrt(C)`, `q = Wq x + bq`, head by head, with dropout by `seed`. Queries
    are carried into the space of `[x_k | e_k]` and sums out of it, see `gnnaccel.temporal_attention`. Once differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_source: Tensor,
        x_target: Tensor,
        edge_attr: Tensor | None,
        wq: Tensor,
        bq: Tensor | None,
        wk: Tensor,
        bk: Tensor | None,
        wv: Tensor,
        bv: Tensor | None,
        we: Tensor | None,
        groups: Grouped,
        heads: int,
        dropout: float,
        seed: int,
    ) -> Tensor:
        R, D = len(groups.nodes), wq.shape[0]
        C = D // heads
        key, value = (wk, wv) if we is None else (torch.cat([w, we], dim=1) for w in (wk, wv))
        rows = x_target.index_select(0, groups.nodes)
        q = torch.mm(rows, wq.T) if bq is None else torch.addmm(bq, rows, wq.T)
        by_head = q.view(R, heads, C).transpose(0, 1)
        u = _per_head(by_head, key.view(heads, C, -1), q.new_empty((heads, R, key.shape[1])))
        c = q.new_zeros((R, heads)) if bk is None else (q * bk).view(R, heads, C).sum(-1)
        nothing = q.new_empty(0)
        block = (edge_attr, groups.source, groups.edge, groups.edge, groups.count, nothing, nothing)
        options = (1.0 / math.sqrt(C), 1.0, dropout, seed, True)
        z, s, logit = torch.ops.gnnaccel.temporal_attention(u.transpose(0, 1), c, x_source, *block, *options)
        out = q.new_empty((R, heads, C))
        _per_head(z.transpose(0, 1), value.view(heads, C, -1).transpose(1, 2), out.transpose(0, 1))
        if bv is not None:
            out += s.unsqueeze(-1) * bv.view(heads, C)
        ctx.save_for_backward(
            x_source, x_target, edge_attr, wq, bk, wk, bv, we, key, value, rows, q, u, z, s, logit, *groups
        )
        ctx.options, ctx.biased, ctx.same = options, bq is not None, x_source is x_target
        return q.new_zeros((len(x_target), D)).index_copy_(0, groups.nodes, out.view(R, D))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x_source, x_target, edge_attr, wq, bk, wk, bv, we, key, value, rows, q, u, z, s, logit, *groups = (
            ctx.saved_tensors
        )
        nodes, source, edge, count = groups
        heads, R, F = u.shape
        D, Dn, need = wq.shape[0], wk.shape[1], ctx.needs_input_grad
        C = D // heads
        g = grad.index_select(0, nodes).view(R, heads, C)
        g_head, q_head = g.transpose(0, 1), q.view(R, heads, C).transpose(0, 1)
        d_value = _per_head(g_head.transpose(1, 2), z.transpose(0, 1), z.new_empty((heads, C, F)))
        dz = _per_head(g_head, value.view(heads, C, F), z.new_empty((heads, R, F)))
        ds = torch.zeros_like(s) if bv is None else (g * bv.view(heads, C)).sum(-1)
        nothing = q.new_empty(0)
        block = (edge_attr, source, edge, edge, count, nothing, nothing)
        du, dc, d_node, d_edge, _, _ = torch.ops.gnnaccel.temporal_attention_backward(
            dz.transpose(0, 1), ds, u.transpose(0, 1), x_source, *block, logit, *ctx.options, need[0], need[2]
        )
        du = du.transpose(0, 1)
        d_key = _per_head(q_head.transpose(1, 2), du, z.new_empty((heads, C, F)))
        dq = _per_head(du, key.view(heads, C, F).transpose(1, 2), z.new_empty((heads, R, C)))
        dq = dq.transpose(0, 1).reshape(R, D)
        if bk is not None:
            dq = dq + (dc.unsqueeze(-1) * bk.view(heads, C)).view(R, D)
        d_key, d_value = d_key.view(D, F), d_value.view(D, F)
        d_target = None
        if need[1]:
            d_rows = torch.mm(dq, wq)
            if ctx.same:  # one gradient for one tensor
                d_node.index_add_(0, nodes, d_rows)
            else:
                d_target = torch.zeros_like(x_target).index_add_(0, nodes, d_rows)
        return (
            d_node if need[0] else None,
            d_target,
            d_edge if need[2] else None,
            torch.mm(dq.T, rows),
            dq.sum(0) if ctx.biased else None,
            d_key[:, :Dn],
            None if bk is None else (dc.unsqueeze(-1) * q.view(R, heads, C)).sum(0).view(D),
            d_value[:, :Dn],
            None if bv is None else (s.unsqueeze(-1) * g).sum(0).view(D),
            None if we is None else d_key[:, Dn:] + d_value[:, Dn:],
            None, None, None, None,
        )  # fmt: skip
