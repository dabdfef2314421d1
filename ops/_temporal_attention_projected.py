"""`temporal_attention_projected`: `temporal_attention` between its projections, from queries to attended values. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops.temporal_attention import SLOPES, acc_dtype, check_block

_INPUTS = (
    "Tensor q, Tensor wk, Tensor bk, Tensor wv, Tensor bv, Tensor node_table, Tensor? edge_table, "
    "Tensor nbr_row, Tensor edge_row, Tensor dt, Tensor count, Tensor time_w, Tensor time_b"
)
_OPTIONS = "float scale, float slope, float dropout, SymInt seed, bool deterministic"
# the second result, the logits [R, H, K], is what the backward pass starts from
define(f"temporal_attention_projected({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor)")
define(
    f"temporal_attention_projected_backward(Tensor grad, {_INPUTS}, Tensor logit, {_OPTIONS}, bool need_node, "
    "bool need_edge) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _per_head(q: Tensor, weight: Tensor) -> Tensor:
    return weight.view(q.shape[1], q.shape[2], weight.shape[1])


def _carry(x: Tensor, weight: Tensor) -> Tensor:
    """`[R, H, a]` times a matrix a head, `[H, a, b]`; the heads stay outside in memory, which the op reads as it is."""
    return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)


# On CUDA, and without the C++ extension, this is two products around `temporal_attention`; the C++ kernel fuses all three.
@impl("temporal_attention_projected", "CompositeExplicitAutograd")
def _composite(
    q: Tensor, wk: Tensor, bk: Tensor, wv: Tensor, bv: Tensor, node_table: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    c = (q * bk.view(q.shape[1:])).sum(-1)
    z, s, logit = torch.ops.gnnaccel.temporal_attention(_carry(q, _per_head(q, wk)), c, node_table, *rest)
    out = _carry(z, _per_head(q, wv).transpose(1, 2)) + s.unsqueeze(-1) * bv.view(q.shape[1:])
    return out.contiguous(), logit


@impl("temporal_attention_projected_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor,
    q: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    logit: Tensor,
    *options: Any,
) -> tuple[Tensor, ...]:
    block = (node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b)
    heads = q.shape[1:]
    u = _carry(q, _per_head(q, wk))
    c = (q * bk.view(heads)).sum(-1)
    # u and z cost two products to make again, and R * H * F numbers each to keep
    z, s, _ = torch.ops.gnnaccel.temporal_attention(u, c, *block, *options[:5])
    dwv = torch.bmm(grad.permute(1, 2, 0), z.transpose(0, 1))
    dbv = (s.unsqueeze(-1) * grad).sum(0)
    dz, ds = _carry(grad, _per_head(q, wv)), (grad * bv.view(heads)).sum(-1)
    du, dc, d_node, d_edge, dw, db = torch.ops.gnnaccel.temporal_attention_backward(dz, ds, u, *block, logit, *options)
    dwk = torch.bmm(q.permute(1, 2, 0), du.transpose(0, 1))
    dq = _carry(du, _per_head(q, wk).transpose(1, 2)) + dc.unsqueeze(-1) * bk.view(heads)
    dbk = (dc.unsqueeze(-1) * q).sum(0)
    return (
        dq.contiguous(),
        dwk.reshape(wk.shape),
        dbk.reshape(bk.shape),
        dwv.reshape(wv.shape),
        dbv.reshape(bv.shape),
        d_node,
        d_edge,
        dw,
        db,
    )


@fake("temporal_attention_projected")
def _fake(q: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    (R, H, d), K = q.shape, args[6].shape[1]
    return q.new_empty((R, H, d)), q.new_empty((R, H, K), dtype=acc_dtype(q))


@fake("temporal_attention_projected_backward")
def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    node_table, edge_table, (need_node, need_edge) = args[5], args[6], args[-2:]
    edge = node_table if edge_table is None else edge_table
    return (
        *(t.new_empty(t.shape) for t in args[:5]),
        node_table.new_empty(node_table.shape if need_node else (0,)),
        edge.new_empty(edge.shape if need_edge else (0,)),
        *(t.new_empty(t.shape) for t in args[11:13]),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:13], output[1])
    ctx.options = inputs[13:]


def _backward(ctx: Any, grad: Tensor, grad_logit: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    *projections, d_node, d_edge, dw, db = torch.ops.gnnaccel.temporal_attention_projected_backward(
        grad, *ctx.saved_tensors, *ctx.options, need[5], need[6]
    )
    tables = (d_node if need[5] else None, d_edge if need[6] else None)
    return *projections, *tables, None, None, None, None, dw, db, None, None, None, None, None


autograd("temporal_attention_projected", _backward, _setup)
once_differentiable("temporal_attention_projected_backward")


def temporal_attention_projected(
    q: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float = 1.0,
    activation: str = "none",
    dropout: float = 0.0,
    seed: int = 0,
    deterministic: bool = True,
) -> Tensor:
    """Attention with keys `Wk x + bk` and values `Wv x + bv` of neighbours x, none of which is formed.

        out_rh = sum_k p_rhk (Wv_h x_rk + bv_h),  p as in `temporal_attention` with logits scale * (q_rh . (Wk_h x_rk + bk_h))

    is computed as `Wv_h z_rh + s_rh bv_h` with `u_rh = Wk_h^T q_rh`, `c_rh = q_rh . bk_h` and
    `z, s = temporal_attention(u, c, ...)`. On CPU a few roots at a time go through all three steps in cache, and only the
    logits are kept for the gradient.

    Args:
        q: Queries, `[R, H, d]`, floating. Half types accumulate in float32.
        wk, bk: Key projection, `[H * d, F]` and `[H * d]`, dtype of `q`, F = Dn + De + T; rows `h * d` on belong to head h.
        wv, bv: Value projection, likewise.
        node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b: As in `temporal_attention`.
        scale, activation, dropout, seed, deterministic: As in `temporal_attention`.

    Returns:
        `[R, H, d]`, dtype of `q`. A root without neighbours has 0.

    Gradients: all floating arguments (`edge_table` only if it requires grad); once differentiable.

    Determinism: as `temporal_attention`; on CPU the bits of a root's result depend neither on the threads nor on other roots.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes disagree, or an option is out of its range.
        ValueError: On CPU, a used row or a count is out of range. On CUDA neither is checked (that would synchronise).
    """
    name = "temporal_attention_projected"
    if q.dim() != 3:
        raise ValueError(f"{name}: q must be [R, H, d], got {list(q.shape)}")
    columns = check_block(
        name, "q", q, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, activation, dropout
    )
    D = q.shape[1] * q.shape[2]
    for what, t, shape in (("wk", wk, (D, columns)), ("bk", bk, (D,)), ("wv", wv, (D, columns)), ("bv", bv, (D,))):
        if t.dtype != q.dtype:
            raise TypeError(f"{name}: {what} must be {q.dtype} like q, got {t.dtype}")
        if t.shape != shape:
            raise ValueError(f"{name}: {what} must be {list(shape)}, got {list(t.shape)}")
    out, _ = torch.ops.gnnaccel.temporal_attention_projected(
        q,
        wk,
        bk,
        wv,
        bv,
        node_table,
        edge_table,
        nbr_row,
        edge_row,
        dt,
        count,
        time_w,
        time_b,
        scale,
        SLOPES[activation],
        dropout,
        seed,
        deterministic,
    )
    return out
