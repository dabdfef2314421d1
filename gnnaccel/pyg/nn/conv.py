"""Attention over the edges of a graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gnnaccel.ops._edge_attention import edge_attention
from gnnaccel.ops._group_edges import group_edges
from gnnaccel.pyg._promises import edge_parts

# where the largest degree is this many times the mean one, padding costs more than projecting keys and values
_MAX_PADDING = 8


class TransformerConv(nn.Module):
    """Attention of nodes over their incoming edges (Shi et al., Masked Label Prediction, 2021), as
    `torch_geometric.nn.TransformerConv`.

        out_i = W_skip x_i + sum_j p_ij (W_value x_j + W_edge e_ij),
        p_ij  = softmax_j((W_query x_i) . (W_key x_j + W_edge e_ij) / sqrt(out_channels)), for each head

    Same parameters and initial values. Keys, values and projected edges are never formed: queries are carried into the space of
    `[x_j | e_ij]` and sums out of it, which is the same function (see `gnnaccel.temporal_attention`); projections cost by the
    node, not by the edge. Edges may come in any order; those of `LastNeighborLoader` are grouped already.

    Args:
        in_channels: Size of a row of x, or of sources and of targets; -1 to learn it from the first call.
        out_channels: Size of a head's output.
        heads: Number of heads.
        concat: Concatenate the heads; False averages them.
        beta: Weigh skip and attention by a learned gate.
        dropout: Rate in [0, 1) of the attention weights. The mask depends on a seed drawn from torch's generator; it is not
            torch_geometric's mask of the same seed.
        edge_dim: Size of a row of edge features, or None for none.
        bias: Biases of query, key, value and skip.
        root_weight: Whether the skip term is added.
        **kwargs: `aggr="add"`, and `flow`, "source_to_target" or "target_to_source".
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.flow = kwargs.pop("flow", "source_to_target")
        if self.flow not in ("source_to_target", "target_to_source"):
            raise ValueError(
                f"TransformerConv: flow must be 'source_to_target' or 'target_to_source', got {self.flow!r}"
            )
        if kwargs.pop("aggr", "add") not in ("add", "sum") or kwargs.pop("node_dim", 0) != 0 or kwargs:
            raise ValueError(f"TransformerConv: aggr must be 'add', and other options are not known, got {kwargs}")
        self.in_channels, self.out_channels, self.heads, self.concat = in_channels, out_channels, heads, concat
        self.beta, self.root_weight, self.dropout, self.edge_dim = beta and root_weight, root_weight, dropout, edge_dim
        source, target = (in_channels, in_channels) if isinstance(in_channels, int) else in_channels
        inner, outer = heads * out_channels, heads * out_channels if concat else out_channels

        def linear(columns: int, rows: int, with_bias: bool = bias) -> nn.Linear:
            return nn.LazyLinear(rows, with_bias) if columns == -1 else nn.Linear(columns, rows, with_bias)

        # in torch_geometric's order: the same seed gives the same weights
        self.lin_key = linear(source, inner)
        self.lin_query = linear(target, inner)
        self.lin_value = linear(source, inner)
        self.lin_edge = None if edge_dim is None else linear(edge_dim, inner, False)
        self.lin_skip = linear(target, outer)
        self.lin_beta = linear(3 * outer, 1, False) if self.beta else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for layer in (self.lin_key, self.lin_query, self.lin_value, self.lin_edge, self.lin_skip, self.lin_beta):
            if layer is not None:
                layer.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Rows of the targets, `[N, heads * out_channels]`, or `[N, out_channels]` without `concat`.

        Args:
            x: Rows of all nodes, `[N, in_channels]`, or of sources and of targets.
            edge_index: Source over target, int64 `[2, E]`.
            edge_attr: Edge features, `[E, edge_dim]`.
            return_attention_weights: A bool, whichever, also returns `(edge_index, weights [E, heads])`.
        """
        if not isinstance(edge_index, Tensor) or edge_index.dtype != torch.int64 or edge_index.dim() != 2:
            given = f"{edge_index.dtype} {list(edge_index.shape)}" if isinstance(edge_index, Tensor) else edge_index
            raise TypeError(f"TransformerConv: edge_index must be an int64 tensor [2, E], got {given}")
        if (edge_attr is None) != (self.lin_edge is None):
            given = "None" if edge_attr is None else list(edge_attr.shape)
            raise ValueError(f"TransformerConv: edge_attr must be given if edge_dim is, got {given}")
        if edge_attr is not None:
            shape = [edge_index.shape[1], edge_attr.shape[-1] if self.edge_dim == -1 else self.edge_dim]
            if list(edge_attr.shape) != shape:
                raise ValueError(f"TransformerConv: edge_attr must be {shape}, got {list(edge_attr.shape)}")
        x_source, x_target = (x, x) if isinstance(x, Tensor) else x
        of_sources, of_targets = (self.lin_key, self.lin_value), (self.lin_query, self.lin_skip)
        inputs = [(layer, x_source) for layer in of_sources] + [(layer, x_target) for layer in of_targets]
        for layer, rows in (*inputs, (self.lin_edge, edge_attr)):
            if isinstance(layer, nn.LazyLinear) and rows is not None:
                layer(rows[:0])  # learns its size
        source, target = edge_index if self.flow == "source_to_target" else edge_index.flip(0)
        groups = None
        rounded = torch.is_autocast_enabled(x_source.device.type)
        if not isinstance(return_attention_weights, bool) and self.dropout < 1.0 and not rounded:
            limit = _MAX_PADDING * (len(source) + len(x_target))
            groups = group_edges(source, target, len(x_target), limit)
        alpha = None
        if groups is None:
            out, alpha = self._projected(x_source, x_target, source, target, edge_attr)
            out = self._combine(out, x_target)
        elif self.concat and self.root_weight and self.lin_beta is None:
            out = self._absorbed(x_source, x_target, groups, edge_attr, self.lin_skip)
        else:
            out = self._absorbed(x_source, x_target, groups, edge_attr, None)
            out = self._combine(out.view(-1, self.heads, self.out_channels), x_target)
        return out if alpha is None or not isinstance(return_attention_weights, bool) else (out, (edge_index, alpha))

    def _combine(self, out: Tensor, x_target: Tensor) -> Tensor:
        out = out.flatten(1) if self.concat else out.mean(dim=1)
        if not self.root_weight:
            return out
        skip = self.lin_skip(x_target)
        if self.lin_beta is None:
            return out + skip
        gate = self.lin_beta(torch.cat([out, skip, out - skip], dim=-1)).sigmoid()
        return gate * skip + (1 - gate) * out

    def _absorbed(
        self,
        x_source: Tensor,
        x_target: Tensor,
        groups: tuple[Tensor, Tensor, Tensor],
        edge_attr: Tensor | None,
        skip: nn.Linear | None,
    ) -> Tensor:
        """Attention, `[N, heads * out_channels]`, plus `skip` of the targets."""
        source, edge, count = groups
        table, rows, t, time_w, time_b = edge_parts(edge_attr)
        dropout = self.dropout if self.training else 0.0
        nothing = x_source.new_zeros(self.heads * self.out_channels)

        def weights(layer: nn.Linear | None, columns: int) -> tuple[Tensor, Tensor]:
            if layer is None:
                return nothing.new_zeros((len(nothing), columns)), nothing
            return layer.weight, nothing if layer.bias is None else layer.bias

        if t is None:
            time_w = time_b = nothing[:0]
        return edge_attention(
            x_source,
            None if x_source is x_target else x_target,
            *weights(self.lin_query, x_target.shape[1]),
            *weights(self.lin_key, x_source.shape[1]),
            *weights(self.lin_value, x_source.shape[1]),
            *weights(skip, x_target.shape[1]),
            weights(self.lin_edge, 0)[0],
            table,
            source,
            edge if rows is None else rows[edge],
            # in the padding any row does
            edge if t is None else t[edge],
            count,
            time_w,
            time_b,
            self.heads,
            dropout,
            int(torch.randint(2**62, ())) if dropout > 0 else 0,
            time_first=True,
        )

    def _projected(
        self, x_source: Tensor, x_target: Tensor, source: Tensor, target: Tensor, edge_attr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Keys and values edge by edge: for a few hubs among many nodes, and where the weights themselves are asked for."""
        H, C, N = self.heads, self.out_channels, len(x_target)
        query = self.lin_query(x_target).view(-1, H, C)[target]
        key = self.lin_key(x_source).view(-1, H, C)[source]
        value = self.lin_value(x_source).view(-1, H, C)[source]
        if edge_attr is not None and self.lin_edge is not None:
            edge = self.lin_edge(edge_attr).view(-1, H, C)
            key, value = key + edge, value + edge
        logit = (query * key).sum(-1) / math.sqrt(C)
        per_head = target.unsqueeze(1).expand(-1, H)
        top = logit.new_zeros((N, H)).scatter_reduce(0, per_head, logit.detach(), "amax", include_self=False)
        weight = (logit - top[target]).exp()
        alpha = weight / logit.new_zeros((N, H)).index_add(0, target, weight)[target]
        kept = F.dropout(alpha, p=self.dropout, training=self.training)
        return value.new_zeros((N, H, C)).index_add(0, target, value * kept.unsqueeze(-1)), alpha

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, heads={self.heads}"
