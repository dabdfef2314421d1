"""What users call or write to sample neighbours: DGL, torch-sparse (which PyG's loader calls), and plain vectorised torch.

A sampler is made of a graph's arrays and has two methods: `one(nodes, fanout)` for one hop, `hops(seeds, fanouts)` for several,
fanouts from the seeds outwards, nodes numbered. `nbr_view` and `hops_view` bring results into one form for judging.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Found(NamedTuple):
    """Nodes in order, and for each hop from the seeds outwards its edges as positions in `nodes`: source, destination.
    `complete`: each hop samples for all nodes so far, not for the new ones alone."""

    nodes: Tensor
    edges: list[tuple[Tensor, Tensor]]
    complete: bool


class TorchSampler:
    """Plain torch, on the device of the arrays: Floyd's algorithm a column at a time, `torch.unique` to number the nodes."""

    def __init__(self, indptr: Tensor, nbr: Tensor) -> None:
        self.indptr, self.nbr = indptr, nbr

    def one(self, nodes: Tensor, fanout: int) -> tuple[Tensor, Tensor]:
        start = self.indptr[nodes]
        n = self.indptr[nodes + 1] - start
        columns = torch.arange(fanout, device=nodes.device)
        picks = columns.expand(len(nodes), fanout).clone()
        drawn = (n > fanout).nonzero()[:, 0]
        mine = picks[drawn].fill_(-1)
        for i in range(fanout):
            last = n[drawn] - fanout + i
            pick = (torch.rand(len(drawn), dtype=torch.float64, device=nodes.device) * (last + 1)).long()
            mine[:, i] = torch.where((mine[:, :i] == pick[:, None]).any(1), last, pick)
        picks[drawn] = mine
        count = n.clamp(max=fanout)
        valid = columns < count[:, None]
        at = torch.where(valid, start[:, None] + picks, 0)
        return torch.where(valid, self.nbr[at], -1), count

    def hops(self, seeds: Tensor, fanouts: list[int]) -> Found:
        nodes, edges, device = seeds, [], seeds.device
        table = torch.empty(len(self.indptr) - 1, dtype=torch.int64, device=device)
        for fanout in fanouts:
            nbr, count = self.one(nodes, fanout)
            found = nbr[nbr >= 0].long()
            unique = found.unique()
            table[unique] = -1
            table[nodes] = torch.arange(len(nodes), device=device)
            new = unique[table[unique] < 0]
            table[new] = torch.arange(len(nodes), len(nodes) + len(new), device=device)
            edges.append((table[found], torch.arange(len(nodes), device=device).repeat_interleave(count)))
            nodes = torch.cat([nodes, new])
        return Found(nodes, edges, True)


def _dgl() -> ModuleType:
    """DGL. Its wheel's graphbolt was built for one torch; nothing here needs it, so where it does not load it is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("dgl")
        except (ImportError, OSError):
            for name in [n for n in sys.modules if n == "dgl" or n.startswith("dgl.")]:
                del sys.modules[name]
            sys.modules["dgl.graphbolt"] = ModuleType("dgl.graphbolt")
            return importlib.import_module("dgl")


class DGLSampler:
    """DGL's `sample_neighbors`, and its `NeighborSampler`: sampling and `to_block`."""

    def __init__(self, indptr: Tensor, nbr: Tensor) -> None:
        self.dgl = _dgl()
        kind = torch.int32 if len(nbr) < 2**31 else torch.int64
        arrays = (indptr.to(kind), nbr.to(kind), torch.arange(len(nbr), dtype=kind))
        self.graph = self.dgl.graph(("csc", arrays), num_nodes=len(indptr) - 1)
        self.kind = kind

    def one(self, nodes: Tensor, fanout: int) -> Any:
        return self.dgl.sampling.sample_neighbors(self.graph, nodes.to(self.kind), fanout), nodes

    def sampler(self, fanouts: list[int], **options: Any) -> Any:
        """Not the fused one, which runs where there are several threads: DGL 2.1's gives edges of other nodes from the second
        batch on."""
        # it lists from the input side
        return self.dgl.dataloading.NeighborSampler(fanouts[::-1], fused=False, **options)

    def hops(self, seeds: Tensor, fanouts: list[int]) -> Any:
        return self.sampler(fanouts).sample_blocks(self.graph, seeds.to(self.kind))


class TorchSparseSampler:
    """`torch_sparse.neighbor_sample`, as PyG's NeighborLoader calls it without pyg-lib: each node is sampled for once."""

    def __init__(self, indptr: Tensor, nbr: Tensor) -> None:
        importlib.import_module("torch_sparse")
        self.indptr, self.nbr = indptr, nbr.long()  # the only dtype it takes

    def hops(self, seeds: Tensor, fanouts: list[int]) -> Any:
        nodes, row, col, _ = torch.ops.torch_sparse.neighbor_sample(self.indptr, self.nbr, seeds, fanouts, False, True)
        return Found(nodes, [(row, col)], False)


def nbr_view(result: Any) -> list[Tensor]:
    """Neighbours of one hop, ascending in each row, and their number, from whatever a sampler returned."""
    if isinstance(result, tuple) and isinstance(result[0], Tensor):
        nbr, count = result
        nbr = torch.where(nbr < 0, torch.iinfo(nbr.dtype).max, nbr).sort(1).values
        return [nbr.long(), count.long()]
    graph, nodes = result
    src, dst = (x.long() for x in graph.edges())
    count = torch.bincount(dst, minlength=graph.num_nodes())
    order = src.argsort(stable=True)
    order = order[dst[order].argsort(stable=True)]
    src, dst = src[order], dst[order]
    first = count.cumsum(0) - count
    out = torch.full((graph.num_nodes(), int(count.max())), torch.iinfo(torch.int32).max)
    out[dst, torch.arange(len(dst)) - first[dst]] = src
    return [out[nodes], count[nodes]]


def hops_view(result: Any) -> Found:
    if isinstance(result, Found):
        return result
    inputs, _, blocks = result
    edges = [tuple(x.long() for x in block.edges()) for block in reversed(blocks)]
    return Found(inputs.long(), edges, True)  # type: ignore[arg-type]


def problem(indptr: Tensor, nbr: Tensor, seeds: Tensor, fanouts: list[int], found: Found) -> str:
    """What is wrong with a sampled neighbourhood; empty if nothing is. Edges of the graph, as many as there must be."""
    nodes, edges, complete = found
    if not torch.equal(nodes[: len(seeds)], seeds) or len(nodes.unique()) != len(nodes):
        return "the nodes do not begin with the seeds, each once"
    size = len(indptr) - 1
    degree = indptr[1:] - indptr[:-1]
    row = torch.repeat_interleave(torch.arange(size), degree)
    keys = row * size + nbr.long()
    if bool((keys[1:] < keys[:-1]).any()):
        keys = keys.sort().values
    known, before = len(seeds), 0
    hops = list(zip(fanouts, edges, strict=True)) if complete else [(0, edges[0])]
    for fanout, (src, dst) in hops:
        if not complete:
            known, fanout = len(nodes), max(fanouts)
        if len(src) and max(int(src.max()), int(dst.max())) >= len(nodes):
            return "an edge is of a node that is not listed"
        key = (nodes[dst] * size + nodes[src].long()).sort().values
        at = torch.searchsorted(keys, key).clamp(max=max(len(keys) - 1, 0))
        if len(key) and not torch.equal(keys[at], key):
            return "an edge is not of the graph"
        count = torch.bincount(dst, minlength=known)
        if complete and not torch.equal(count, degree[nodes[:known]].clamp(max=fanout)):
            return "a node has another number of neighbours than it must"
        if not complete and bool((count > degree[nodes].clamp(max=fanout)).any()):
            return "a node has more neighbours than it may"
        before, known = known, max(known, int(src.max()) + 1 if len(src) else 0)
    if known != len(nodes) or before > known:
        return "there are nodes that nothing leads to"
    return ""


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


ONE: dict[str, Any] = {"torch": TorchSampler}
HOPS: dict[str, Any] = {"torch": TorchSampler}
MISSING: dict[str, str] = {}
for _name, _module, _kind in (("dgl", "dgl", DGLSampler), ("torch-sparse", "torch_sparse", TorchSparseSampler)):
    if not installed(_module):
        MISSING[_name] = f"{_module} is not installed"
        continue
    HOPS[_name] = _kind
    if hasattr(_kind, "one"):
        ONE[_name] = _kind
PROVIDERS = {**ONE, **HOPS}
