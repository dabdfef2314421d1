"""`temporal_attention_layer`: from rows of nodes and edges to embeddings of the roots. Internal."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

import gnnaccel.ops._linear
import gnnaccel.ops._relu_norm
import gnnaccel.ops.gather_rows  # noqa: F401  (these three define what the composition below calls)
from gnnaccel.ops._library import autograd, check_seed, define, fake, impl, keyed, on_host, once_differentiable, seeded
from gnnaccel.ops.temporal_attention import SLOPES, acc_dtype, check_block

_INPUTS = (
    "Tensor node_table, Tensor? root_table, Tensor? root_row, Tensor wq, Tensor bq, Tensor wk, Tensor bk, Tensor wv, "
    "Tensor bv, Tensor wo, Tensor bo, Tensor norm_weight, Tensor norm_bias, Tensor? edge_table, Tensor nbr_row, "
    "Tensor edge_row, Tensor dt, Tensor count, Tensor time_w, Tensor time_b"
)
_SAVED = "Tensor logit, Tensor attended, Tensor out, Tensor mean, Tensor rstd"
_OPTIONS = "int heads, float dropout, SymInt seed, float eps"
# all results but the first are for the backward pass of the same implementation; rows are in an order of its own
define(f"temporal_attention_layer({_INPUTS}, {_OPTIONS}) -> ({', '.join(['Tensor'] * 6)})")
define(
    f"temporal_attention_layer_backward(Tensor grad, {_INPUTS}, {_SAVED}, {_OPTIONS}, bool need_node, bool need_root, "
    f"bool need_edge) -> ({', '.join(['Tensor'] * 15)})"
)
_NUM_INPUTS, _FIRST_WEIGHT, _EDGE = 20, 3, 13

# On CUDA, and without the C++ extension, the layer is composed of the ops below; the C++ kernel is one pass over the roots.
_ops = torch.ops.gnnaccel
_ATTENTION = (1.0, SLOPES["leaky_relu"])


def without_autocast(fn: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Autocast would round the products below in the middle of an op that keeps its dtype."""

    @wraps(fn)
    def call(table: Tensor, *args: Any) -> tuple[Tensor, ...]:
        if not torch.is_autocast_enabled(table.device.type):
            return fn(table, *args)
        with torch.autocast(table.device.type, enabled=False):
            return fn(table, *args)

    return call


def carry(x: Tensor, weight: Tensor) -> Tensor:
    """`[R, H, a]` times a matrix a head, `[H, a, b]`; the heads stay outside in memory, which the op reads as it is."""
    return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)


class _Queries:
    """The roots' rows and queries, and the queries in the space of neighbours' rows."""

    def __init__(
        self,
        node_table: Tensor,
        root_table: Tensor | None,
        root_row: Tensor | None,
        wq: Tensor,
        bq: Tensor,
        wk: Tensor,
        bk: Tensor,
        time_b: Tensor,
        heads: int,
    ) -> None:
        self.table = node_table if root_table is None else root_table
        if root_row is not None and on_host(root_row) and root_row.numel():
            low, high = torch.aminmax(root_row)
            if int(low) < 0 or int(high) >= len(self.table):
                raise ValueError(f"temporal_attention_layer: root_row must be in [0, {len(self.table)})")
        self.row = root_row
        self.h = self.table
        if root_row is not None:
            self.h = _ops.gather_rows(self.table, root_row, None, self.table.dtype, True)
        self.own, self.now = wq[:, : self.h.shape[1]], wq[:, self.h.shape[1] :]
        # phi(0) is one vector for all roots: its share of the query is a bias
        self.phi = torch.cos(time_b.to(torch.float64)).to(wq.dtype)
        D = wq.shape[0]
        self.key, self.bk = wk.view(heads, D // heads, wk.shape[1]), bk.view(heads, D // heads)
        self.q = _ops.linear(self.h, self.own, bq + self.now @ self.phi).view(-1, heads, D // heads)
        self.u, self.c = carry(self.q, self.key), (self.q * self.bk).sum(-1)

    def table_gradient(self, dh: Tensor) -> Tensor:
        if self.row is None:
            return dh
        return _ops.gather_rows_backward(dh, self.row, self.table.shape[0], dh.dtype, True)


@impl("temporal_attention_layer", "CUDA")
@impl("temporal_attention_layer", "CompositeExplicitAutograd")
@without_autocast
def _composite(
    node_table: Tensor,
    root_table: Tensor | None,
    root_row: Tensor | None,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    wo: Tensor,
    bo: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *block_and_options: Any,
) -> tuple[Tensor, ...]:
    *block, heads, dropout, seed, eps = block_and_options
    D = wq.shape[0]
    roots = _Queries(node_table, root_table, root_row, wq, bq, wk, bk, block[-1], heads)
    attention, tail = seeded("temporal_attention", seed), seeded("relu_norm", seed)
    z, s, logit = attention(roots.u, roots.c, node_table, *block, *_ATTENTION, dropout, seed, True)
    value = wv.view(heads, D // heads, wv.shape[1])
    attended = carry(z, value.transpose(1, 2)) + s.unsqueeze(-1) * bv.view(heads, -1)
    attended = attended.reshape(-1, D)
    out = _ops.linear(torch.cat([attended, roots.h], dim=1), wo, bo)
    y, mean, rstd = tail(out, norm_weight, norm_bias, dropout, seed, eps)
    acc = acc_dtype(out)
    return y, logit, attended.to(acc).contiguous(), out.to(acc), mean, rstd


@impl("temporal_attention_layer_backward", "CUDA")
@impl("temporal_attention_layer_backward", "CompositeExplicitAutograd")
@without_autocast
def _composite_backward(
    grad: Tensor,
    node_table: Tensor,
    root_table: Tensor | None,
    root_row: Tensor | None,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    wo: Tensor,
    bo: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    block, (logit, attended, out, mean, rstd) = rest[:7], rest[7:12]
    heads, dropout, seed, _, need_node, need_root, need_edge = rest[12:]
    D, time_b = wq.shape[0], block[-1]
    per_head = (heads, D // heads, wv.shape[1])
    roots = _Queries(node_table, root_table, root_row, wq, bq, wk, bk, time_b, heads)
    options = (*_ATTENTION, dropout, seed, True)
    # u and z are made again: to keep them would take R * H * F numbers each
    z, s, _ = seeded("temporal_attention", seed)(roots.u, roots.c, node_table, *block, *options)

    d_out, d_norm_weight, d_norm_bias = seeded("relu_norm_backward", seed)(
        grad, out.to(grad.dtype), norm_weight, mean, rstd, dropout, seed
    )
    ends = torch.cat([attended.to(grad.dtype), roots.h], dim=1)
    d_ends, dwo, dbo = _ops.linear_backward(d_out, ends, wo, True, True, True)
    g = d_ends[:, :D].reshape(-1, heads, D // heads)
    dwv = torch.bmm(g.permute(1, 2, 0), z.transpose(0, 1))
    dbv = (s.unsqueeze(-1) * g).sum(0)
    dz, ds = carry(g, wv.view(per_head)), (g * bv.view(heads, -1)).sum(-1)
    du, dc, d_node, d_edge, dw, db = seeded("temporal_attention_backward", seed)(
        dz, ds, roots.u, node_table, *block, logit, *options, need_node, need_edge
    )
    dwk = torch.bmm(roots.q.permute(1, 2, 0), du.transpose(0, 1))
    dbk = (dc.unsqueeze(-1) * roots.q).sum(0)
    dq = carry(du, roots.key.transpose(1, 2)) + dc.unsqueeze(-1) * roots.bk
    dh, d_own, dbq = _ops.linear_backward(dq.reshape(-1, D), roots.h, roots.own, True, True, True)
    dwq = torch.cat([d_own, torch.outer(dbq, roots.phi)], dim=1)
    db = db - (torch.sin(time_b.to(torch.float64)) * (dbq @ roots.now).to(torch.float64)).to(time_b.dtype)
    dh = dh + d_ends[:, D:]
    d_root = dh.new_empty(0)
    if root_table is None:
        d_node = d_node + roots.table_gradient(dh) if need_node else d_node
    elif need_root:
        d_root = roots.table_gradient(dh).contiguous()
    weights = (dwq, dbq, dwk.reshape(wk.shape), dbk.reshape(bk.shape), dwv.reshape(wv.shape), dbv.reshape(bv.shape))
    return (d_node, d_root, *weights, dwo, dbo, d_norm_weight, d_norm_bias, d_edge, dw, db)


@fake("temporal_attention_layer")
def _fake(*args: Any) -> tuple[Tensor, ...]:
    node_table, wq, nbr_row, heads = args[0], args[_FIRST_WEIGHT], args[_EDGE + 1], args[_NUM_INPUTS]
    (R, K), D, acc = nbr_row.shape, wq.shape[0], acc_dtype(wq)
    shapes = ((R, heads, K), (R, D), (R, D), (R,), (R,))
    return node_table.new_empty((R, D)), *(node_table.new_empty(shape, dtype=acc) for shape in shapes)


@fake("temporal_attention_layer_backward")
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


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # what is kept for the backward pass has no gradient
    ctx.save_for_backward(*inputs[:_NUM_INPUTS], *output[1:])
    ctx.options = inputs[_NUM_INPUTS:]


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    if grad is None:
        return (None,) * len(need)
    d_node, d_root, *weights, d_edge, dw, db = seeded("temporal_attention_layer_backward", ctx.options[2])(
        grad, *ctx.saved_tensors, *ctx.options, need[0], need[1], need[_EDGE]
    )
    tables = (d_node if need[0] else None, d_root if need[1] else None)
    edges = (d_edge if need[_EDGE] else None, None, None, None, None)
    return *tables, None, *weights, *edges, dw, db, None, None, None, None


autograd("temporal_attention_layer", _backward, _setup)
once_differentiable("temporal_attention_layer_backward")
keyed("temporal_attention_layer", "temporal_attention_layer_backward")


def temporal_attention_layer(
    node_table: Tensor,
    root_table: Tensor | None,
    root_row: Tensor | None,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    wo: Tensor,
    bo: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    heads: int,
    dropout: float = 0.0,
    seed: int | Tensor = 0,
    eps: float = 1e-5,
) -> Tensor:
    """The attention layer of TGAT as TGL has it, keys and values of neighbours not formed, roots' rows read in place.

        q_r   = Wq [h_r | phi(0)] + bq,  h_r = root_table[root_row[r]],  phi(0) = cos(time_b)
        a_rh  = sum_k p_rhk (Wv_h x_rk + bv_h),  p and x as in `temporal_attention`, logits LeakyReLU(q_rh . (Wk_h x_rk + bk_h))
        out_r = LayerNorm(ReLU(dropout(Wo [a_r | h_r] + bo)))

    On CPU a few roots at a time go through all of it in cache, and what depends on a root's row alone is computed once for all
    roots of that row. Source: Xu et al., TGAT, ICLR 2020; the form of TGL, VLDB 2022.

    Args:
        node_table: Rows of neighbours, `[U, Dn]`, floating. Half types accumulate in float32.
        root_table: Rows of roots, `[U', Dq]`, dtype of `node_table`, or None for `node_table` itself.
        root_row: Row of each root, `[R]`, int32 or int64, or None where root r has row r.
        wq, bq: Query projection, `[D, Dq + T]` and `[D]`, dtype of `node_table`. D = heads * d; rows `h * d` on are head h's.
        wk, bk, wv, bv: Key and value projections, `[D, F]` and `[D]`, F = Dn + De + T.
        wo, bo: Output projection, `[D, D + Dq]` and `[D]`.
        norm_weight, norm_bias: Of the normalisation, `[D]`.
        edge_table, nbr_row, edge_row, dt, count, time_w, time_b: As in `temporal_attention`.
        heads: Attention heads H.
        dropout: Rate in `[0, 1)`, of the attention weights as in `temporal_attention` and of the output as in `relu_norm`.
        seed: Seed of both, a number or an int64 tensor of one element, which is read when the op runs.
        eps: Added to the variance, above 0.

    Returns:
        `[R, D]`, dtype of `node_table`. A root without neighbours has a = 0.

    Gradients: all floating arguments (tables only where they require grad); once differentiable.

    Determinism: bitwise reproducible; on CPU for any number of threads, and the bits of a root's result do not depend on other
    roots (with dropout they depend on its number).

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes disagree, or an option is out of its range.
        ValueError: On CPU, a used row or a count is out of range. On CUDA neither is checked (that would synchronise).
    """
    name = "temporal_attention_layer"
    roots = node_table if root_table is None else root_table
    R = roots.shape[0] if root_row is None else root_row.shape[0]
    of_roots = "roots" if root_row is None else "root_row"
    columns = check_block(
        name, "node_table", node_table, R, of_roots, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b,
        "leaky_relu", dropout,
    )  # fmt: skip
    if roots.dim() != 2:
        raise ValueError(f"{name}: root_table must be [rows, Dq], got {list(roots.shape)}")
    if root_row is not None and (root_row.dim() != 1 or root_row.dtype not in (torch.int32, torch.int64)):
        given = f"{root_row.dtype} {list(root_row.shape)}"
        raise ValueError(f"{name}: root_row must be int32 or int64 [R], got {given}")
    D, Dq, T = wq.shape[0], roots.shape[1], time_w.shape[0]
    if heads < 1 or D % heads:
        raise ValueError(f"{name}: heads must divide the {D} rows of wq, got {heads}")
    if not eps > 0.0:
        raise ValueError(f"{name}: eps must be above 0, got {eps}")
    shapes = (
        ("root_table", roots, roots.shape),
        ("wq", wq, (D, Dq + T)), ("bq", bq, (D,)), ("wk", wk, (D, columns)), ("bk", bk, (D,)),
        ("wv", wv, (D, columns)), ("bv", bv, (D,)), ("wo", wo, (D, D + Dq)), ("bo", bo, (D,)),
        ("norm_weight", norm_weight, (D,)), ("norm_bias", norm_bias, (D,)),
    )  # fmt: skip
    for what, t, shape in shapes:
        if t.dtype != node_table.dtype:
            raise TypeError(f"{name}: {what} must be {node_table.dtype} like node_table, got {t.dtype}")
        if t.shape != shape:
            raise ValueError(f"{name}: {what} must be {list(shape)}, got {list(t.shape)}")
    check_seed(name, seed)
    return seeded(name, seed)(
        node_table, root_table, root_row, wq, bq, wk, bk, wv, bv, wo, bo, norm_weight, norm_bias,
        edge_table, nbr_row, edge_row, dt, count, time_w, time_b, heads, dropout, seed, eps,
    )[0]  # fmt: skip
