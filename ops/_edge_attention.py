"""`edge_attention`: attention of nodes over their edges, with the projections of both. Internal; `gnnaccel.pyg` calls it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops._temporal_attention_layer import carry, without_autocast
from gnnaccel.ops.temporal_attention import acc_dtype, check_block

_WEIGHTS = ("wq", "bq", "wk", "bk", "wv", "bv", "ws", "bs", "we")
_INPUTS = (
    f"Tensor node_table, Tensor? root_table, {', '.join(f'Tensor {name}' for name in _WEIGHTS)}, Tensor? edge_table, "
    "Tensor nbr_row, Tensor edge_row, Tensor dt, Tensor count, Tensor time_w, Tensor time_b"
)
_OPTIONS = "int heads, float dropout, SymInt seed, bool time_first"
# the second result is for the backward pass of the same implementation; its rows are in an order of its own
define(f"edge_attention({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor)")
define(
    f"edge_attention_backward(Tensor grad, {_INPUTS}, Tensor logit, {_OPTIONS}, bool need_node, bool need_root, "
    f"bool need_edge) -> ({', '.join(['Tensor'] * 14)})"
)
_NUM_INPUTS, _FIRST_WEIGHT, _EDGE = 18, 2, 11

# On CUDA, and without the C++ extension, queries are carried into the space of neighbours' rows and sums out of it by
# products a head; the C++ kernel is one pass over the nodes.
_ops = torch.ops.gnnaccel


class _Projections:
    """Weights by head, `[H, C, F]`, with the columns of a neighbour's row; queries, and queries in their space."""

    def __init__(self, h: Tensor, weights: tuple[Tensor, ...], T: int, heads: int, time_first: bool) -> None:
        wq, bq, wk, bk, wv, bv, _, _, we = weights
        D = wq.shape[0]
        self.times = T if time_first else we.shape[1] - T
        edge = torch.cat([we[:, self.times :], we[:, : self.times]], dim=1) if time_first else we
        shape = (heads, D // heads, wk.shape[1] + we.shape[1])
        self.key, self.value = (torch.cat([w, edge], dim=1).view(shape) for w in (wk, wv))
        self.bk, self.bv = bk.view(heads, D // heads), bv.view(heads, D // heads)
        self.q = torch.addmm(bq, h, wq.T).view(-1, heads, D // heads)
        self.u, self.c = carry(self.q, self.key), (self.q * self.bk).sum(-1)
        self.options = 1.0 / math.sqrt(D // heads), 1.0


@impl("edge_attention", "CUDA")
@impl("edge_attention", "CompositeExplicitAutograd")
@without_autocast
def _composite(node_table: Tensor, root_table: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    weights, block, (heads, dropout, seed, time_first) = rest[:9], rest[9:16], rest[16:]
    h = node_table if root_table is None else root_table
    by = _Projections(h, weights, len(block[-1]), heads, time_first)
    options = (*by.options, dropout, seed, True)
    z, s, logit = _ops.temporal_attention(by.u, by.c, node_table, *block, *options)
    attended = carry(z, by.value.transpose(1, 2)) + s.unsqueeze(-1) * by.bv
    return torch.addmm(weights[7], h, weights[6].T) + attended.flatten(1), logit


@impl("edge_attention_backward", "CUDA")
@impl("edge_attention_backward", "CompositeExplicitAutograd")
@without_autocast
def _composite_backward(grad: Tensor, node_table: Tensor, root_table: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    weights, block, logit = rest[:9], rest[9:16], rest[16]
    heads, dropout, seed, time_first, need_node, need_root, need_edge = rest[17:]
    h = node_table if root_table is None else root_table
    wq, _, wk, _, _, _, ws, _, we = weights
    D, Dn = wq.shape[0], wk.shape[1]
    by = _Projections(h, weights, len(block[-1]), heads, time_first)
    options = (*by.options, dropout, seed, True)
    # u and z are made again: to keep them would take R * H * F numbers each
    z, s, _ = _ops.temporal_attention(by.u, by.c, node_table, *block, *options)
    g = grad.reshape(len(h), heads, D // heads)
    dz, ds = carry(g, by.value), (g * by.bv).sum(-1)
    du, dc, d_node, d_edge, dw, db = _ops.temporal_attention_backward(
        dz, ds, by.u, node_table, *block, logit, *options, need_node, need_edge
    )
    d_key = torch.bmm(by.q.permute(1, 2, 0), du.transpose(0, 1)).flatten(0, 1)
    d_value = torch.bmm(g.permute(1, 2, 0), z.transpose(0, 1)).flatten(0, 1)
    dq = (carry(du, by.key.transpose(1, 2)) + dc.unsqueeze(-1) * by.bk).flatten(1)
    dwe = d_key[:, Dn:] + d_value[:, Dn:]
    if time_first:
        edges = we.shape[1] - by.times
        dwe = torch.cat([dwe[:, edges:], dwe[:, :edges]], dim=1)
    d_root = h.new_empty(0)
    if need_node if root_table is None else need_root:
        d_root = dq @ wq + grad @ ws
    if root_table is None and need_node:
        d_node, d_root = d_node + d_root, h.new_empty(0)
    d_bk, d_bv = (dc.unsqueeze(-1) * by.q).sum(0).reshape(D), (s.unsqueeze(-1) * g).sum(0).reshape(D)
    own = dq.T @ h, dq.sum(0)
    skip = grad.T @ h, grad.sum(0)
    keys, values = (d_key[:, :Dn].contiguous(), d_bk), (d_value[:, :Dn].contiguous(), d_bv)
    return d_node, d_root, *own, *keys, *values, *skip, dwe, d_edge, dw, db


@fake("edge_attention")
def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    node_table, wq, nbr_row, heads = args[0], args[_FIRST_WEIGHT], args[_EDGE + 1], args[_NUM_INPUTS]
    R, K = nbr_row.shape
    return node_table.new_empty((R, wq.shape[0])), node_table.new_empty((R, heads, K), dtype=acc_dtype(wq))


@fake("edge_attention_backward")
def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    node_table, root_table, edge_table, (need_node, need_root, need_edge) = args[0], args[1], args[_EDGE], args[-3:]
    edge = node_table if edge_table is None else edge_table
    return (
        node_table.new_empty(node_table.shape if need_node else (0,)),
        node_table.new_empty(root_table.shape if need_root and root_table is not None else (0,)),
        *(t.new_empty(t.shape) for t in args[_FIRST_WEIGHT:_EDGE]),
        edge.new_empty(edge.shape if need_edge else (0,)),
        *(t.new_empty(t.shape) for t in args[_NUM_INPUTS - 2 : _NUM_INPUTS]),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # what is kept for the backward pass has no gradient
    ctx.save_for_backward(*inputs[:_NUM_INPUTS], output[1])
    ctx.options = inputs[_NUM_INPUTS:]


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    if grad is None:
        return (None,) * len(need)
    d_node, d_root, *weights, d_edge, dw, db = _ops.edge_attention_backward(
        grad, *ctx.saved_tensors, *ctx.options, need[0], need[1], need[_EDGE]
    )
    wanted = [g if n else None for g, n in zip(weights, need[_FIRST_WEIGHT:_EDGE], strict=True)]
    tables = (d_node if need[0] else None, d_root if need[1] else None)
    edges = (d_edge if need[_EDGE] else None, None, None, None, None)
    return *tables, *wanted, *edges, dw, db, None, None, None, None


autograd("edge_attention", _backward, _setup)
once_differentiable("edge_attention_backward")


def edge_attention(
    node_table: Tensor,
    root_table: Tensor | None,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    ws: Tensor,
    bs: Tensor,
    we: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    heads: int,
    dropout: float = 0.0,
    seed: int = 0,
    time_first: bool = False,
) -> Tensor:
    """Attention of every root over its edges, keys, values and projected edges not formed, and a term of its own.

        q_r    = Wq h_r + bq,    h_r = root_table[r]
        k_rk   = Wk x_k + bk + We e_k,    v_rk = Wv x_k + bv + We e_k
        e_k    = [edge_table[edge_row] | cos(dt * time_w + time_b)],    x_k = node_table[nbr_row]
        p_rh   = dropout(softmax_k(q_rh . k_rkh / sqrt(D / heads)))
        out_r  = sum_k p_rk v_rk + Ws h_r + bs

    On CPU a few roots at a time go through all of it in cache; roots without edges only through the last term. Source: Shi et
    al., Masked Label Prediction, IJCAI 2021, eq. 3 and 4, as PyTorch Geometric's `TransformerConv` has it.

    Args:
        node_table: Rows of neighbours, `[U, Dn]`, floating. Half types accumulate in float32.
        root_table: Rows of roots, `[R, Dq]`, dtype of `node_table`, or None for `node_table` itself.
        wq, bq, ws, bs: Query and own term, `[D, Dq]` and `[D]`, dtype of `node_table`. Rows `h * D / heads` on are head h's.
        wk, bk, wv, bv: Keys and values, `[D, Dn]` and `[D]`.
        we: Edges, `[D, De + T]`.
        edge_table, nbr_row, edge_row, dt, count, time_w, time_b: As in `temporal_attention`.
        heads: Attention heads H.
        dropout, seed: As in `temporal_attention`.
        time_first: Whether the T columns of the time encoding come first in `we`.

    Returns:
        `[R, D]`, dtype of `node_table`.

    Gradients: all floating arguments (tables only where they require grad); once differentiable.

    Determinism: on CPU bitwise reproducible for any number of threads, and the bits of a root's result do not depend on other
    roots (with dropout they depend on its number).

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes disagree, or an option is out of its range.
        ValueError: On CPU, a used row or a count is out of range. On CUDA neither is checked (that would synchronise).
    """
    name = "edge_attention"
    roots = node_table if root_table is None else root_table
    if roots.dim() != 2:
        raise ValueError(f"{name}: root_table must be [R, Dq], got {list(roots.shape)}")
    check_block(
        name, "node_table", node_table, roots.shape[0], "roots", node_table, edge_table, nbr_row, edge_row, dt, count,
        time_w, time_b, "none", dropout,
    )  # fmt: skip
    D, Dq, Dn = wq.shape[0], roots.shape[1], node_table.shape[1]
    De = 0 if edge_table is None else edge_table.shape[1]
    if heads < 1 or D % heads:
        raise ValueError(f"{name}: heads must divide the {D} rows of wq, got {heads}")
    shapes = (
        ("root_table", roots, roots.shape), ("wq", wq, (D, Dq)), ("bq", bq, (D,)), ("wk", wk, (D, Dn)), ("bk", bk, (D,)),
        ("wv", wv, (D, Dn)), ("bv", bv, (D,)), ("ws", ws, (D, Dq)), ("bs", bs, (D,)), ("we", we, (D, De + len(time_w))),
    )  # fmt: skip
    for what, t, shape in shapes:
        if t.dtype != node_table.dtype:
            raise TypeError(f"{name}: {what} must be {node_table.dtype} like node_table, got {t.dtype}")
        if t.shape != shape:
            raise ValueError(f"{name}: {what} must be {list(shape)}, got {list(t.shape)}")
    return _ops.edge_attention(
        node_table, root_table, wq, bq, wk, bk, wv, bv, ws, bs, we, edge_table, nbr_row, edge_row, dt, count,
        time_w, time_b, heads, dropout, seed, time_first,
    )[0]  # fmt: skip
