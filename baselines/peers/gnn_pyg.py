"""GraphSAGE, GAT and R-GCN for classes of nodes, as PyG's examples write them: the whole graph is one batch."""

from __future__ import annotations

import warnings
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: steps on the whole graph, where a configuration samples batches
WHOLE_EPOCHS = 60


class PyGNet(nn.Module):
    """Convolutions of PyG with the widths, heads, dropouts and activations of a configuration of ours."""

    def __init__(self, model: SimpleNamespace, dim_in: int, classes: int, relations: int) -> None:
        from torch_geometric.nn import GATConv, RGCNConv, SAGEConv

        super().__init__()
        self.m = model
        dims = [dim_in, *[model.hidden] * (model.layers - 1), classes]
        pairs = list(pairwise(dims))
        if model.name == "sage":
            convs = [SAGEConv(a, b, aggr=model.reduce) for a, b in pairs]
        elif model.name == "gat":
            rate = model.attention_dropout
            convs = [GATConv(a, b // model.heads, model.heads, dropout=rate) for a, b in pairs[:-1]]
            convs.append(GATConv(*pairs[-1], heads=model.heads_out, concat=False, dropout=rate))
        else:
            bases = model.bases or min(relations, 8)
            convs = [RGCNConv(a, b, relations, num_bases=bases) for a, b in pairs]
        self.convs = nn.ModuleList(convs)
        norm = model.norm == "layer"
        self.norms = nn.ModuleList(nn.LayerNorm(d) for d in dims[1:-1]) if norm else None

    def forward(self, x: Tensor, edges: Tensor, kinds: Tensor) -> Tensor:
        m = self.m
        x = F.dropout(x, m.dropout_in, self.training)
        for i, conv in enumerate(self.convs):
            x = conv(x, edges, kinds) if m.name == "rgcn" else conv(x, edges)
            if i < len(self.convs) - 1:
                x = F.elu(x) if m.name == "gat" else x.relu()
                x = x if self.norms is None else self.norms[i](x)
                x = F.dropout(x, m.dropout, self.training)
        return x


def train_pyg(config: Any, data: Any, progress: Any = lambda epoch: None) -> dict[str, float]:
    """Train on the whole graph with the settings of a `GNNConfig`; accuracy of the epoch that validates best.

    Args:
        config: `model` and `train` are read.
        data: A `NodeData` with features.
        progress: Called with the number of the epoch.
    """
    t = config.train
    torch.manual_seed(t.seed)
    src, dst = data.graph.edges()
    edges = torch.stack([src.long(), dst.long()])
    order = data.graph.eid.argsort()
    kinds = torch.zeros(edges.shape[1], dtype=torch.int64)
    if data.graph.relation is not None:
        kinds = data.graph.relation[order].long()
    x = data.x.float() if data.scale is None else data.x.float() * data.scale[:, None]
    adjacency: Any = edges
    if config.model.name == "sage":  # sums by a sparse product, not by gathering a row for each edge
        ones = torch.ones(edges.shape[1])
        shape = (data.num_nodes, data.num_nodes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its sparse CSR support young
            adjacency = torch.sparse_coo_tensor(edges.flip(0), ones, shape).coalesce().to_sparse_csr()
    epochs, patience = (t.epochs, t.patience) if config.whole_graph else (WHOLE_EPOCHS, WHOLE_EPOCHS)
    net = PyGNet(config.model, x.shape[1], data.num_classes, data.graph.num_relations)
    optimizer = torch.optim.Adam(net.parameters(), lr=t.learning_rate, weight_decay=t.weight_decay)
    best = {"val_accuracy": -1.0, "test_accuracy": 0.0, "epochs": 0}
    stale = 0
    for epoch in range(epochs):
        net.train()
        optimizer.zero_grad()
        out = net(x, adjacency, kinds)
        F.cross_entropy(out[data.train_mask], data.y[data.train_mask]).backward()
        optimizer.step()
        net.eval()
        with torch.no_grad():
            told = net(x, adjacency, kinds).argmax(1) == data.y
        val = float(told[data.val_mask].double().mean())
        stale += 1
        if val > best["val_accuracy"]:
            best, stale = {"val_accuracy": val, "test_accuracy": float(told[data.test_mask].double().mean())}, 0
        best["epochs"] = epoch + 1
        progress(epoch)
        if stale > patience:
            break
    return best
