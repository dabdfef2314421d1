"""Thinning a graph: fewer neighbours, less work a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.graph.partition import _words
from gnnaccel.graph.static import Graph

_STREAM = 0x7468696E


def sparsify(
    graph: Graph, keep: int, *, by: str = "similarity", x: Tensor | None = None, seed: int = 0, chunk: int = 1 << 16
) -> Graph:
    """The graph with at most `keep` in-edges a node: those that score highest; of equal ones the first in the row.

    Args:
        graph: Any.
        keep: At least 1.
        by: "similarity": cosine of the features of both ends (0 for a row of zeros);
            "weight": the edge's weight; "random": drawn by the seed.
        x: Features `[N, F]`, for "similarity"; int8 rows may lack their scale, which a cosine does not see.
        seed: Of "random"; a draw depends on it and the edge's place alone.
        chunk: Edges scored at a time; bounds the memory.

    Returns:
        A graph with the same nodes, edge ids, relations and weights.

    Determinism: bitwise reproducible.

    Raises:
        ValueError: An argument is out of its range, or what `by` needs is missing.
    """
    if keep < 1:
        raise ValueError(f"sparsify: keep must be at least 1, got {keep}")
    degree = graph.indptr.diff()
    dst = torch.repeat_interleave(torch.arange(graph.num_nodes), degree)
    if by == "similarity":
        if x is None or len(x) != graph.num_nodes:
            given = "None" if x is None else f"{len(x)} rows"
            raise ValueError(f"sparsify: x must have a row for each of {graph.num_nodes} nodes, got {given}")
        score = _cosines(graph.nbr, dst, x, chunk)
    elif by == "weight":
        if graph.weight is None:
            raise ValueError("sparsify: by must be similarity or random for a graph without weights, got weight")
        score = graph.weight
    elif by == "random":
        score = _words(graph.num_edges, seed, 0, _STREAM)
    else:
        raise ValueError(f"sparsify: by must be similarity, weight or random, got {by!r}")
    order = score.argsort(descending=True, stable=True)
    order = order[dst[order].argsort(stable=True)]  # by row, best first
    place = torch.arange(graph.num_edges) - graph.indptr[dst[order]]
    kept = order[place < keep].sort().values
    indptr = torch.zeros_like(graph.indptr)
    torch.cumsum(degree.clamp(max=keep), 0, out=indptr[1:])
    return Graph(
        indptr,
        graph.nbr[kept],
        graph.eid[kept],
        None if graph.relation is None else graph.relation[kept],
        None if graph.weight is None else graph.weight[kept],
        num_relations=graph.num_relations,
        node_ids=graph.node_ids,
        relation_ids=graph.relation_ids,
    )


def _cosines(src: Tensor, dst: Tensor, x: Tensor, chunk: int) -> Tensor:
    length = torch.cat([part.float().square().sum(1).sqrt() for part in x.split(chunk)]) if len(x) else torch.empty(0)
    out = torch.empty(len(src))
    for start in range(0, len(src), chunk):
        a, b = src[start : start + chunk].long(), dst[start : start + chunk]
        product = (x[a].float() * x[b].float()).sum(1)
        out[start : start + chunk] = product / (length[a] * length[b]).clamp(min=1e-30)
    return out
