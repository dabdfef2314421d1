"""The model of a configuration, with what it needs beside its convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.data.nodes import NodeData
from gnnaccel.graph.static import Graph
from gnnaccel.models.gnn import GAT, GNN, MLP, RGCN, GraphSAGE
from gnnaccel.nn.conv import TableRows
from gnnaccel.nn.linear import Linear
from gnnaccel.train.gnn.config import GNNConfig
from gnnaccel.train.settings import ConfigError


def feature_kind(config: GNNConfig, data: NodeData) -> str:
    """Where input rows come from: "given", "learned" or "degree"."""
    kind = config.model.features
    if kind == "auto":
        kind = "given" if data.num_features or config.model.name == "mlp" else "learned"
    if kind == "given" and not data.num_features:
        take = "'degree'" if config.model.name == "mlp" else "'learned' or 'degree'"
        raise ConfigError(f"setting model.features: {data.name} has no features; take {take}")
    return kind


def degree_features(graph: Graph) -> Tensor:
    """Functions of the in- and out-degree, float32 `[N, 6]`: log(1 + d), 1 / sqrt(1 + d), whether there is any."""
    received = graph.indptr.diff().double()
    sent = torch.bincount(graph.nbr.long(), minlength=graph.num_nodes).double()
    columns = [
        f(d) for d in (received, sent) for f in (torch.log1p, lambda d: (1 + d).rsqrt(), lambda d: (d > 0).double())
    ]
    return torch.stack(columns, 1).float()


class LinkScore(nn.Module):
    """Score of pairs by a perceptron of the product of their rows: symmetric, `[.., D]` twice to `[..]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden, self.out = Linear(dim, dim), Linear(dim, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(self.hidden(a * b).relu()).squeeze(-1)


class GraphModel(nn.Module):
    """A `GNN`, rows of nodes that are learned if there are no features, and a scorer of pairs for links.

    Args:
        gnn: From input rows to classes, or to embeddings.
        learned: Width and number of learned rows, or None.
        link: The scorer, or None.
    """

    def __init__(self, gnn: nn.Module, learned: tuple[int, int] | None = None, link: nn.Module | None = None) -> None:
        super().__init__()
        self.gnn, self.link = gnn, link
        self.embedding = None
        if learned is not None:
            self.embedding = nn.Parameter(torch.empty(learned))
            nn.init.xavier_uniform_(self.embedding)

    def source(self, x: Any, nodes: Tensor | None) -> Any:
        """`x`, or the learned rows of `nodes` (of all without)."""
        return x if self.embedding is None else TableRows(self.embedding, nodes)


def make_graph_model(config: GNNConfig, data: NodeData, graph: Graph, dim_in: int | None) -> GraphModel:
    """The untrained model of a configuration.

    Args:
        dim_in: Width of given rows; None: they are learned.
    """
    m = config.model
    learned = (data.num_nodes, m.dim_learned) if dim_in is None else None
    dim_in = m.dim_learned if dim_in is None else dim_in
    link = config.data.task == "link"
    dim_out = m.hidden if link else data.num_classes
    options: dict[str, Any] = {"dropout": m.dropout, "dropout_in": m.dropout_in}
    torch.manual_seed(config.train.seed)
    gnn: nn.Module
    if m.name == "sage":
        gnn = GraphSAGE(dim_in, m.hidden, dim_out, m.layers, reduce=m.reduce, norm=m.norm, **options)
    elif m.name == "gat":
        heads = {"heads": m.heads, "heads_out": m.heads_out, "attention_dropout": m.attention_dropout}
        gnn = GAT(dim_in, m.hidden, dim_out, m.layers, **heads, **options)
    elif m.name == "rgcn":
        if m.bases is not None and m.bases > graph.num_relations:
            raise ConfigError(
                f"setting model.bases: must be at most the number of relations ({graph.num_relations}), got {m.bases}"
            )
        gnn = RGCN(dim_in, m.hidden, dim_out, graph.num_relations, m.layers, num_bases=m.bases, norm=m.norm, **options)
    elif m.name == "mlp":
        gnn = MLP(dim_in, m.hidden, dim_out, m.layers, norm=m.norm, **options)
    else:
        from gnnaccel.train.gnn.transformer import make_transformer

        gnn = make_transformer(config, graph, dim_in, dim_out)
    return GraphModel(gnn, learned, LinkScore(dim_out) if link else None)


def infer_all(model: GraphModel, x: Any, graph: Graph, progress: Any = None) -> Tensor:
    """Results of all nodes, all neighbours used, without gradients."""
    source = model.source(x, None)
    report = (lambda n: progress.update(n)) if progress is not None else (lambda n: None)
    gnn: GNN | Any = model.gnn
    with torch.no_grad():
        return gnn.infer(source, graph, progress=report)
