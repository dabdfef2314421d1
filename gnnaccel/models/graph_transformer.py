"""A graph transformer for node classification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.graph.static import Graph
from gnnaccel.nn.graph_transformer import AttentionRows, GraphTransformerLayer, row_norm, step_seed
from gnnaccel.nn.linear import Linear
from gnnaccel.ops._dropout import dropout


class GraphTransformer(nn.Module):
    """Nodes' features and positions, `GraphTransformerLayer`s over the whole graph, a classifier.

    Args:
        dim_in: Features of a node.
        dim_hidden: Width of the layers, a multiple of `heads`.
        num_classes: Classes, or whatever the results are.
        layers: Layers.
        heads: Attention heads of a layer.
        global_k: Similar nodes that a node attends to beside its neighbours (0: none).
        pe: Columns of the positional encoding (`gnnaccel.nn.random_walk_pe`, `laplacian_pe`), 0 for none.
        dropout: Rate in the layers, in training.
        dropout_in: Rate of the input features, in training.
        attention_dropout: Rate of the attention weights, in training.
        expand: Width of the layers' perceptrons, in `dim_hidden`s; 0 for none.
        global_bias: Bias that similar nodes start from, see `GraphTransformerLayer`.

    Determinism: bitwise reproducible on CPU, for any number of threads; dropout is a function of the seed of a call alone.
    """

    def __init__(
        self,
        dim_in: int,
        dim_hidden: int,
        num_classes: int,
        layers: int = 2,
        heads: int = 4,
        global_k: int = 8,
        pe: int = 0,
        *,
        dropout: float = 0.5,
        dropout_in: float = 0.0,
        attention_dropout: float = 0.0,
        expand: int = 2,
        global_bias: float = -3.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"GraphTransformer: layers must be at least 1, got {layers}")
        if pe < 0:
            raise ValueError(f"GraphTransformer: pe must be at least 0, got {pe}")
        for what, rate in (("dropout", dropout), ("dropout_in", dropout_in)):
            if not 0 <= rate < 1:
                raise ValueError(f"GraphTransformer: {what} must be in [0, 1), got {rate}")
        self.dim_in, self.dropout, self.dropout_in, self.pe = dim_in, dropout, dropout_in, pe
        self.input = Linear(dim_in, dim_hidden)
        self.position = Linear(pe, dim_hidden, bias=False) if pe else None
        options: dict[str, Any] = {"dropout": dropout, "attention_dropout": attention_dropout, "expand": expand}
        options["global_bias"] = global_bias
        self.layers = nn.ModuleList(
            GraphTransformerLayer(dim_hidden, heads, global_k, **options) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim_hidden)
        self.output = Linear(dim_hidden, num_classes)

    def forward(self, x: Tensor, graph: Graph | AttentionRows, pe: Tensor | None = None, seed: int = 0) -> Tensor:
        """Results of all nodes, `[N, num_classes]`.

        Args:
            x: Features, `[N, dim_in]`.
            graph: The graph; messages flow along its edges. `AttentionRows.of(graph)`, made once, saves some time each step.
            pe: Positional encodings, `[N, pe]`, dtype of x.
            seed: Of all dropouts; give a new one each step.

        Raises:
            ValueError: A shape does not fit, or `pe` is missing or not wanted.
        """
        rows = AttentionRows.of(graph) if isinstance(graph, Graph) else graph
        if x.shape != (rows.num_nodes, self.dim_in):
            raise ValueError(f"GraphTransformer: x must be {[rows.num_nodes, self.dim_in]}, got {list(x.shape)}")
        wanted = (rows.num_nodes, self.pe) if self.pe else None
        if (None if pe is None else tuple(pe.shape)) != wanted:
            expected = "None" if wanted is None else list(wanted)
            raise ValueError(f"GraphTransformer: pe must be {expected}, got {None if pe is None else list(pe.shape)}")
        if self.training:
            x = dropout(x, self.dropout_in, step_seed(seed, -1))
        h = self.input(x)
        if self.position is not None and pe is not None:
            h = h + self.position(pe)
        h = dropout(h, self.dropout if self.training else 0.0, step_seed(seed, -2))
        for i, layer in enumerate(self.layers):
            h = layer(h, rows, step_seed(seed, 1000 + i))
        return self.output(row_norm(self.norm, h))

    @torch.no_grad()
    def infer(self, x: Tensor, graph: Graph | AttentionRows, pe: Tensor | None = None) -> Tensor:
        """Results of all nodes without dropout, whatever the mode."""
        was_training = self.training
        self.eval()
        try:
            return self(x, graph, pe)
        finally:
            self.train(was_training)
