"""Training GraphSAGE on sampled neighbourhoods by DGL, PyG and plain PyTorch, each called as its documentation says.

All have the layer `W_self x_v + b + W_nbr mean(x_u)` with ReLU between layers, cross-entropy, Adam. The three methods of each:
`load(weights)` sets `[(W_self, b, W_nbr), ...]` from the input layer on, `logits(seeds)` samples and computes, `step(seeds)`
trains on a batch.
"""

from __future__ import annotations

import importlib
import importlib.util
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gnnaccel.baselines.peers.neighbor_sample import DGLSampler, Found, TorchSampler, TorchSparseSampler

Weights = list[tuple[Tensor, Tensor, Tensor]]


class _Layer(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.own, self.neighbor = nn.Linear(dim_in, dim_out), nn.Linear(dim_in, dim_out, bias=False)

    def forward(self, x: Tensor, src: Tensor, dst: Tensor, count: Tensor) -> Tensor:
        rows = count.shape[0]
        total = x.new_zeros(rows, x.shape[1]).index_add_(0, dst, x[src])
        return self.own(x[:rows]) + self.neighbor(total / count)


class TorchSage:
    """Plain PyTorch on the device of the arrays: vectorised sampling, gathering, `index_add_`.

    Args:
        backend: The layers by torch.compile with this backend, for shapes that change from batch to batch.
    """

    sampler: Any = TorchSampler

    def __init__(
        self,
        indptr: Tensor,
        nbr: Tensor,
        x: Tensor,
        y: Tensor,
        dims: list[int],
        fanouts: list[int],
        lr: float,
        backend: str | None = None,
    ) -> None:
        self.x, self.y, self.fanouts = x, y, fanouts
        self.samples = self.sampler(indptr, nbr)
        self.layers = self.make(dims).to(x.device)
        self.optimizer = torch.optim.Adam(self.layers.parameters(), lr=lr, fused=x.is_cuda or None)
        self.outputs: Any = self.apply
        if backend is not None:
            self.outputs = torch.compile(self.apply, dynamic=True, backend=backend)

    def make(self, dims: list[int]) -> nn.ModuleList:
        return nn.ModuleList(_Layer(a, b) for a, b in pairwise(dims))

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        for layer, (own, bias, neighbor) in zip(self.layers, weights, strict=True):
            layer.own.weight.copy_(own)  # type: ignore[union-attr]
            layer.own.bias.copy_(bias)  # type: ignore[union-attr]
            layer.neighbor.weight.copy_(neighbor)  # type: ignore[union-attr]

    def logits(self, seeds: Tensor) -> Tensor:
        found: Found = self.samples.hops(seeds, self.fanouts)
        sizes = destinations(found, len(seeds))
        counts = [
            torch.bincount(dst, minlength=rows).clamp(min=1).unsqueeze(1)
            for (_, dst), rows in zip(found.edges, sizes, strict=True)
        ]
        return self.outputs(self.x[found.nodes], found.edges[::-1], counts[::-1])

    def apply(self, x: Tensor, edges: list[tuple[Tensor, Tensor]], counts: list[Tensor]) -> Tensor:
        """The layers, each with its edges and `[rows, 1]` numbers of neighbours, from the input on."""
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, *edges[i], counts[i])
            x = x if i == last else x.relu()
        return x

    def step(self, seeds: Tensor) -> float:
        loss = F.cross_entropy(self.logits(seeds), self.y[seeds])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def destinations(found: Found, seeds: int) -> list[int]:
    """Of each hop from the seeds outwards, how many nodes it sampled for: all that there were before."""
    sizes = [seeds]
    for src, _ in found.edges[:-1]:
        sizes.append(max(sizes[-1], int(src.max()) + 1 if len(src) else 0))
    return sizes


class DGLSage(TorchSage):
    """DGL: `NeighborSampler`, `to_block`, `dgl.nn.SAGEConv`."""

    sampler = DGLSampler

    def make(self, dims: list[int]) -> nn.ModuleList:
        conv = self.samples.dgl.nn.SAGEConv
        return nn.ModuleList(conv(a, b, "mean") for a, b in pairwise(dims))

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        for layer, (own, bias, neighbor) in zip(self.layers, weights, strict=True):
            layer.fc_self.weight.copy_(own)  # type: ignore[union-attr]
            layer.fc_neigh.weight.copy_(neighbor)  # type: ignore[union-attr]
            place = layer.fc_self.bias if getattr(layer.fc_self, "bias", None) is not None else layer.bias  # type: ignore[union-attr]
            place.copy_(bias)  # type: ignore[union-attr]

    def logits(self, seeds: Tensor) -> Tensor:
        inputs, _, blocks = self.samples.hops(seeds, self.fanouts)
        x = self.x[inputs.long()]
        for i, (layer, block) in enumerate(zip(self.layers, blocks, strict=True)):
            x = layer(block, x)
            x = x if i == len(self.layers) - 1 else x.relu()
        return x


class PyGSage(TorchSage):
    """PyG: the sampler of `NeighborLoader` (torch-sparse), which samples each node once, and `SAGEConv`."""

    sampler = TorchSparseSampler

    def make(self, dims: list[int]) -> nn.ModuleList:
        conv = importlib.import_module("torch_geometric.nn").SAGEConv
        return nn.ModuleList(conv(a, b, aggr="mean") for a, b in pairwise(dims))

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        for layer, (own, bias, neighbor) in zip(self.layers, weights, strict=True):
            layer.lin_r.weight.copy_(own)  # type: ignore[union-attr]
            layer.lin_l.weight.copy_(neighbor)  # type: ignore[union-attr]
            layer.lin_l.bias.copy_(bias)  # type: ignore[union-attr]

    def logits(self, seeds: Tensor) -> Tensor:
        found: Found = self.samples.hops(seeds, self.fanouts)
        x, edges = self.x[found.nodes], torch.stack(found.edges[0])
        for i, layer in enumerate(self.layers):
            x = layer(x, edges)
            x = x if i == len(self.layers) - 1 else x.relu()
        return x[: len(seeds)]


PEERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "dgl": (DGLSage, ("dgl",)),
    "pyg": (PyGSage, ("torch_sparse", "torch_geometric")),
    "torch": (TorchSage, ()),
}


def missing(name: str) -> str:
    """What a peer needs and is not installed; empty if it can run."""
    lacking = [module for module in PEERS[name][1] if importlib.util.find_spec(module) is None]
    return f"{', '.join(lacking)} is not installed" if lacking else ""
