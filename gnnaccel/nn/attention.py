"""Temporal attention layer."""

from __future__ import annotations

from torch import Tensor, nn

from gnnaccel.nn.linear import Linear
from gnnaccel.nn.time import TimeEncoder
from gnnaccel.ops._temporal_attention_layer import temporal_attention_layer


class TemporalAttention(nn.Module):
    """Attention of roots over their temporal neighbours (TGAT, Xu et al., ICLR 2020; the layer as in TGL, VLDB 2022).

    With `x_k = [node | edge | phi(dt_k)]`, `q = Wq [h_root | phi(0)] + bq`, and for each head

        a_k = dropout(softmax_k(LeakyReLU_0.2(q . (Wk x_k + bk))))
        h   = LayerNorm(ReLU(dropout(Wo [sum_k a_k (Wv x_k + bv) | h_root] + bo)))

    Logits are not scaled. A root without neighbours keeps its own term `Wo [0 | h_root]` (in TGL it is lost when no root of the
    batch has a neighbour). Keys and values are never formed: the query is carried into the space of x, and the weighted sum
    of x out of it, which is the same function with K times less work (see `gnnaccel.temporal_attention`).

    Args:
        dim_query: Size of `h_root`.
        dim_node: Size of a row of `node_table`.
        dim_edge: Size of a row of `edge_table`, 0 for none.
        dim_time: Size of the time encoding, 0 for none.
        dim_out: Size of the result, a multiple of `heads`.
        heads: Attention heads.
        dropout: Rate in [0, 1), of the attention weights and of the output, both by `seed`. Training only.

    Parameters: `query`, `key`, `value`, `output` (`nn.Linear`, as in the projected form), `norm` (`nn.LayerNorm`), `time`
    (`TimeEncoder`).
    """

    def __init__(
        self,
        dim_query: int,
        dim_node: int,
        dim_edge: int,
        dim_time: int,
        dim_out: int,
        heads: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or dim_out % heads:
            raise ValueError(f"TemporalAttention: dim_out must be a multiple of heads ({heads}), got {dim_out}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"TemporalAttention: dropout must be in [0, 1), got {dropout}")
        self.dim_query, self.dim_edge, self.dim_out, self.heads, self.rate = (
            dim_query,
            dim_edge,
            dim_out,
            heads,
            dropout,
        )
        dim_row = dim_node + dim_edge + dim_time
        self.time = TimeEncoder(dim_time)
        self.query = Linear(dim_query + dim_time, dim_out)
        self.key = nn.Linear(dim_row, dim_out)
        self.value = nn.Linear(dim_row, dim_out)
        self.output = Linear(dim_out + dim_query, dim_out)
        self.norm = nn.LayerNorm(dim_out)

    def forward(
        self,
        h_root: Tensor,
        node_table: Tensor,
        edge_table: Tensor | None,
        nbr_row: Tensor,
        edge_row: Tensor,
        dt: Tensor,
        count: Tensor,
        seed: int = 0,
        root_row: Tensor | None = None,
    ) -> Tensor:
        """Embeddings of the roots.

        Args:
            h_root: Roots, `[R, dim_query]`; with `root_row` a table `[., dim_query]` of their rows, which may be `node_table`.
            node_table: Rows that neighbours point into, `[U, dim_node]`.
            edge_table: Edge features, `[E, dim_edge]`, or None when `dim_edge` is 0.
            nbr_row, edge_row, dt, count: Neighbours, as `gnnaccel.temporal_attention` takes them.
            seed: Seed of the dropout; give a new one each step.
            root_row: Row of each root in `h_root`, `[R]`, int32 or int64. What depends on the row alone (the query, most of
                all) is computed once for all roots of that row.

        Returns:
            `[R, dim_out]`.
        """
        if (edge_table is None) != (self.dim_edge == 0):
            given = "None" if edge_table is None else list(edge_table.shape)
            raise ValueError(
                f"TemporalAttention: edge_table must have {self.dim_edge} columns (None for 0), got {given}"
            )
        return temporal_attention_layer(
            node_table,
            None if h_root is node_table else h_root,
            root_row,
            self.query.weight,
            self.query.bias,
            self.key.weight,
            self.key.bias,
            self.value.weight,
            self.value.bias,
            self.output.weight,
            self.output.bias,
            self.norm.weight,
            self.norm.bias,
            edge_table,
            nbr_row,
            edge_row,
            dt,
            count,
            self.time.w,
            self.time.b,
            heads=self.heads,
            dropout=self.rate if self.training else 0.0,
            seed=seed,
            eps=self.norm.eps,
        )

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.rate}"
