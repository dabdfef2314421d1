"""Stacks of graph convolutions: GraphSAGE, GAT, R-GCN; and the perceptron that they are compared with or distilled into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.graph.static import Graph
from gnnaccel.graph.whole import graph_rows, row_chunks
from gnnaccel.nn.conv import GATConv, Neighbors, RGCNConv, SAGEConv, Source, TableRows
from gnnaccel.nn.linear import Linear
from gnnaccel.ops._dropout import dropout
from gnnaccel.ops._relu_norm import relu_norm

EDGES, ROWS = 1 << 21, 1 << 17  # of a chunk of full-graph inference


class _Norm(nn.Module):
    """Weight and bias of `relu_norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))


class GNN(nn.Module):
    """Convolutions with a ReLU (or ELU) and dropout between them; the last one's result is the output.

    Args:
        convs: One a layer, each with `forward(x, block, *, dst, projected, seed)`, `projects`, `project(x)` and `dim_out`; and
            with `fuses_relu`, whether `forward` takes `relu` too.
        dropout: Of the rows between layers, in training.
        dropout_in: Of the input rows, in training.
        activation: "relu" or "elu".
        norm: "none", or "layer": rows normalised after the ReLU.

    Determinism: bitwise reproducible on CPU for any number of threads; dropout is a function of the seed of a call alone.
    """

    def __init__(
        self,
        convs: Sequence[nn.Module],
        *,
        dropout: float = 0.5,
        dropout_in: float = 0.0,
        activation: str = "relu",
        norm: str = "none",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        for name, rate in (("dropout", dropout), ("dropout_in", dropout_in)):
            if not 0 <= rate < 1:
                raise ValueError(f"{owner}: {name} must be in [0, 1), got {rate}")
        if activation not in ("relu", "elu"):
            raise ValueError(f"{owner}: activation must be relu or elu, got {activation!r}")
        if norm not in ("none", "layer") or (norm == "layer" and activation != "relu"):
            raise ValueError(f"{owner}: norm must be none, or layer with activation relu, got {norm!r}")
        self.convs = nn.ModuleList(convs)
        dims = [conv.dim_out for conv in convs[:-1]]
        self.norms = nn.ModuleList(_Norm(d) for d in dims) if norm == "layer" else None  # type: ignore[arg-type]
        self.dropout, self.dropout_in, self.activation = dropout, dropout_in, activation

    @property
    def num_layers(self) -> int:
        return len(self.convs)

    def _fused(self, layer: int) -> dict[str, bool]:
        """The argument that makes a layer's convolution end in the ReLU, where it can."""
        last = layer == self.num_layers - 1
        conv: Any = self.convs[layer]
        return {"relu": True} if conv.fuses_relu and not last and self.activation == "relu" and not self.norms else {}

    def _after(self, layer: int, h: Tensor, seed: int) -> Tensor:
        """What follows the convolution of a layer."""
        if layer == self.num_layers - 1:
            return h
        rate = self.dropout if self.training else 0.0
        if self.norms is not None:
            norm: Any = self.norms[layer]
            return relu_norm(h, norm.weight, norm.bias, dropout=rate, seed=seed + layer)
        if self.activation == "elu":
            h = nn.functional.elu(h)
        elif not self._fused(layer):
            h = h.relu()
        return dropout(h, rate, seed + layer)

    def forward(self, x: Source, blocks: Sequence[Neighbors | None], seed: int = 0) -> Tensor:
        """Results of the destinations of the last block, `[R, dim_out]`.

        Args:
            x: Rows of the sources of the first block, `[S, dim_in]`, or the table that they are in.
            blocks: One a layer, from the input on, as in `Hops.layers`; for a whole graph the same `GraphRows` each time.
            seed: Of all dropouts; give a new one each step.

        Raises:
            ValueError: There are not as many blocks as layers.
        """
        if len(blocks) != self.num_layers:
            raise ValueError(f"{type(self).__name__}: blocks must be {self.num_layers}, one a layer, got {len(blocks)}")
        seed = 64 * seed
        if self.training and self.dropout_in:
            x = dropout(x.gather() if isinstance(x, TableRows) else x, self.dropout_in, seed + 63)
        for layer, (conv, block) in enumerate(zip(self.convs, blocks, strict=True)):
            x = self._after(layer, conv(x, block, seed=seed + 32 + layer, **self._fused(layer)), seed)
        assert isinstance(x, Tensor)
        return x

    @torch.no_grad()
    def infer(
        self,
        x: Source,
        graph: Graph,
        *,
        edges: int = EDGES,
        rows: int = ROWS,
        progress: Callable[[int], Any] = lambda n: None,
    ) -> Tensor:
        """Results of all nodes, each layer computed once for all of them (Wang et al., DGL, "offline inference").

        Memory beyond the inputs: the results of two layers, and a chunk.

        Args:
            x: Rows of all nodes, `[N, dim_in]`.
            graph: All neighbours are used.
            edges, rows: At most about so many neighbours and rows are in one chunk.
            progress: Called with the number of rows done, after each chunk.

        Returns:
            `[N, dim_out]`, without dropout whatever the mode.
        """
        was_training = self.training
        self.eval()
        try:
            chunks = row_chunks(graph.indptr, edges, rows)
            for layer, conv in enumerate(self.convs):
                x = self._infer_layer(layer, conv, x, graph, chunks, progress)
        finally:
            self.train(was_training)
        assert isinstance(x, Tensor)
        return x

    def _infer_layer(
        self,
        layer: int,
        conv: Any,
        x: Source,
        graph: Graph,
        chunks: list[tuple[int, int]],
        progress: Callable[[int], Any],
    ) -> Tensor:
        def part(a: int, b: int) -> Tensor:
            return x.gather(slice(a, b)) if isinstance(x, TableRows) else x[a:b]

        projected = torch.cat([conv.project(part(a, b)) for a, b in chunks]) if conv.projects and chunks else None
        out = torch.empty(0, conv.dim_out)
        for a, b in chunks:
            h = conv(x, graph_rows(graph, a, b), dst=part(a, b), projected=projected, **self._fused(layer))
            if a == 0:
                out = h.new_empty(graph.num_nodes, h.shape[1])
            out[a:b] = self._after(layer, h, 0)
            progress(b - a)
        return out


class GraphSAGE(GNN):
    """GraphSAGE (Hamilton et al., NeurIPS 2017).

    Args:
        dim_in: Width of a feature row.
        dim_hidden: Width between layers.
        dim_out: Width of the result: classes, or an embedding's size.
        layers: Number of convolutions.
        reduce: How neighbours are aggregated: "mean", "sum" or "max".
        options: Of `GNN`.
    """

    def __init__(
        self, dim_in: int, dim_hidden: int, dim_out: int, layers: int = 2, *, reduce: str = "mean", **options: Any
    ) -> None:
        dims = _dims(dim_in, dim_hidden, dim_out, layers)
        super().__init__([SAGEConv(a, b, reduce=reduce) for a, b in dims], **options)


class GAT(GNN):
    """Graph attention network (Velickovic et al., ICLR 2018): heads side by side, in the last layer averaged.

    Args:
        dim_in: Width of a feature row.
        dim_hidden: Width between layers, of all heads together.
        dim_out: Width of the result.
        layers: Number of convolutions.
        heads: In all layers but the last.
        heads_out: In the last one.
        attention_dropout: Of the attention weights.
        options: Of `GNN`; activation is "elu" unless given.
    """

    def __init__(
        self,
        dim_in: int,
        dim_hidden: int,
        dim_out: int,
        layers: int = 2,
        *,
        heads: int = 8,
        heads_out: int = 1,
        attention_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        if dim_hidden % heads:
            raise ValueError(f"GAT: heads must divide dim_hidden ({dim_hidden}), got {heads}")
        dims = _dims(dim_in, dim_hidden, dim_out, layers)
        convs = [GATConv(a, b // heads, heads, dropout=attention_dropout) for a, b in dims[:-1]]
        convs.append(GATConv(*dims[-1], heads_out, concat=False, dropout=attention_dropout))
        super().__init__(convs, **{"activation": "elu", **options})


class RGCN(GNN):
    """Relational graph convolutional network (Schlichtkrull et al., ESWC 2018).

    Args:
        dim_in: Width of a feature row.
        dim_hidden: Width between layers.
        dim_out: Width of the result.
        num_relations: Of the graph.
        layers: Number of convolutions.
        num_bases: As of `RGCNConv`.
        options: Of `GNN`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_hidden: int,
        dim_out: int,
        num_relations: int,
        layers: int = 2,
        *,
        num_bases: int | None = None,
        **options: Any,
    ) -> None:
        dims = _dims(dim_in, dim_hidden, dim_out, layers)
        super().__init__([RGCNConv(a, b, num_relations, num_bases=num_bases) for a, b in dims], **options)


class _Own(Linear):
    """A "convolution" of each node's own row."""

    projects = fuses_relu = False

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out)
        self.dim_out = dim_out

    def forward(
        self, x: Source, block: Any, *, dst: Tensor | None = None, projected: None = None, seed: int = 0
    ) -> Tensor:  # type: ignore[override]
        if dst is None:
            dst = x.gather() if isinstance(x, TableRows) else x
        return super().forward(dst)


class MLP(GNN):
    """A perceptron that sees a node's own row alone; its blocks are not read and may be None.

    Args:
        dim_in: Width of a feature row.
        dim_hidden: Width between layers.
        dim_out: Width of the result.
        layers: Number of linear layers.
        options: Of `GNN`.
    """

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, layers: int = 2, **options: Any) -> None:
        super().__init__([_Own(a, b) for a, b in _dims(dim_in, dim_hidden, dim_out, layers)], **options)


def _dims(dim_in: int, dim_hidden: int, dim_out: int, layers: int) -> list[tuple[int, int]]:
    """Widths before and after each layer."""
    for name, value in (("dim_in", dim_in), ("dim_hidden", dim_hidden), ("dim_out", dim_out), ("layers", layers)):
        if value < 1:
            raise ValueError(f"GNN: {name} must be at least 1, got {value}")
    dims = [dim_in, *[dim_hidden] * (layers - 1), dim_out]
    return list(pairwise(dims))
