"""The graph transformer of a configuration: a model of whole graphs, with its positional encodings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gnnaccel.graph.static import Graph
from gnnaccel.models.graph_transformer import GraphTransformer
from gnnaccel.nn.conv import Source, TableRows
from gnnaccel.nn.graph_transformer import AttentionRows
from gnnaccel.nn.positional import laplacian_pe, random_walk_pe
from gnnaccel.train.gnn.config import GNNConfig


class WholeGraphTransformer(nn.Module):
    """`GraphTransformer` beside the encodings of the one graph that it is of.

    Args:
        transformer: The model.
        encodings: `[N, pe]`, kept in checkpoints, or None.
    """

    def __init__(self, transformer: GraphTransformer, encodings: Tensor | None) -> None:
        super().__init__()
        self.transformer = transformer
        self.register_buffer("encodings", encodings)
        self._rows: tuple[Graph, AttentionRows] | None = None

    def whole(self, x: Source, graph: Graph, seed: int = 0) -> Tensor:
        """Results of all nodes."""
        if self._rows is None or self._rows[0] is not graph:
            self._rows = graph, AttentionRows.of(graph)
        x = x.gather() if isinstance(x, TableRows) else x
        return self.transformer(x, self._rows[1], self.encodings, seed)

    def infer(self, x: Source, graph: Graph, *, progress: Callable[[int], Any] = lambda n: None) -> Tensor:
        """Results of all nodes without dropout, whatever the mode."""
        was_training = self.training
        self.eval()
        try:
            out = self.whole(x, graph)
        finally:
            self.train(was_training)
        progress(graph.num_nodes)
        return out


def make_transformer(config: GNNConfig, graph: Graph, dim_in: int, dim_out: int) -> WholeGraphTransformer:
    """The untrained model; computes its positional encodings."""
    m = config.model
    encodings = None
    if m.positional == "random_walk":
        encodings = random_walk_pe(graph, m.dim_positional, seed=config.train.seed)
    elif m.positional == "laplacian":
        encodings = laplacian_pe(graph, m.dim_positional)
    model = GraphTransformer(
        dim_in,
        m.hidden,
        dim_out,
        m.layers,
        m.heads,
        m.global_neighbors,
        0 if encodings is None else m.dim_positional,
        dropout=m.dropout,
        dropout_in=m.dropout_in,
        attention_dropout=m.attention_dropout,
        expand=m.perceptron,
    )
    return WholeGraphTransformer(model, encodings)
