"""What users call to get a mini-batch with its features: DGL's loader, DGL's sampler with indexing, plain PyTorch.

Each is made of `(indptr, nbr, x)` and has `batches(seeds, fanouts)`, which yields `(result of the sampler, rows)` for each
tensor of seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.neighbor_sample import DGLSampler, TorchSampler


class TorchBatches:
    """Vectorised sampling and `x[nodes]`."""

    def __init__(self, indptr: Tensor, nbr: Tensor, x: Tensor) -> None:
        self.samples, self.x = TorchSampler(indptr, nbr), x

    def batches(self, seeds: list[Tensor], fanouts: list[int]) -> Iterator[tuple[Any, Tensor]]:
        for nodes in seeds:
            found = self.samples.hops(nodes, fanouts)
            yield found, self.x[found.nodes]


class DGLLoader:
    """`dgl.dataloading.DataLoader` over `NeighborSampler(prefetch_node_feats=...)`, in this process."""

    def __init__(self, indptr: Tensor, nbr: Tensor, x: Tensor) -> None:
        self.samples = DGLSampler(indptr, nbr)
        self.samples.graph.ndata["x"] = x

    def batches(self, seeds: list[Tensor], fanouts: list[int]) -> Iterator[tuple[Any, Tensor]]:
        loading = self.samples.dgl.dataloading
        sampler = self.samples.sampler(fanouts, prefetch_node_feats=["x"])
        nodes = torch.cat(seeds).to(self.samples.kind)
        loader = loading.DataLoader(self.samples.graph, nodes, sampler, batch_size=len(seeds[0]), shuffle=False)
        for found in loader:
            yield found, found[2][0].srcdata["x"]


class DGLIndexing:
    """DGL's `NeighborSampler`, and `x[nodes]` as its examples have it."""

    def __init__(self, indptr: Tensor, nbr: Tensor, x: Tensor) -> None:
        self.samples, self.x = DGLSampler(indptr, nbr), x

    def batches(self, seeds: list[Tensor], fanouts: list[int]) -> Iterator[tuple[Any, Tensor]]:
        for nodes in seeds:
            found = self.samples.hops(nodes, fanouts)
            yield found, self.x[found[0].long()]


PEERS: dict[str, Any] = {"dgl loader": DGLLoader, "dgl + indexing": DGLIndexing, "torch": TorchBatches}
