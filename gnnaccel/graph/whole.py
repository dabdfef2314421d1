"""All neighbours of consecutive nodes of a `Graph`, for convolutions over whole graphs."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gnnaccel.graph.static import Graph


class GraphRows(NamedTuple):
    """All in-neighbours of nodes `start` to `start + R`, by the nodes' own ids: what a convolution takes instead of a hop.

    Attributes:
        row: Neighbours, int32 or int64 `[M']`.
        indptr: Where each node's begin, int64 `[R + 1]`.
        start: The first node.
        eid, relation, weight: As of the graph, `[M']`, or None.
    """

    row: Tensor
    indptr: Tensor
    start: int = 0
    eid: Tensor | None = None
    relation: Tensor | None = None
    weight: Tensor | None = None

    @property
    def num_dst(self) -> int:
        return self.indptr.shape[0] - 1

    @property
    def count(self) -> None:
        """There is no padding to count."""
        return None


def graph_rows(graph: Graph, start: int = 0, stop: int | None = None) -> GraphRows:
    """Rows `start` to `stop` of a graph; nothing but `indptr` is copied, and that only if `start` is not 0."""
    stop = graph.num_nodes if stop is None else stop
    if not 0 <= start <= stop <= graph.num_nodes:
        raise ValueError(
            f"graph_rows: start and stop must be in [0, {graph.num_nodes}] in order, got {start} and {stop}"
        )
    indptr = graph.indptr[start : stop + 1]
    low, high = int(indptr[0]), int(indptr[-1])
    part = slice(low, high)
    relation = None if graph.relation is None else graph.relation[part]
    weight = None if graph.weight is None else graph.weight[part]
    return GraphRows(graph.nbr[part], indptr - low if low else indptr, start, graph.eid[part], relation, weight)


def row_chunks(indptr: Tensor, edges: int, rows: int) -> list[tuple[int, int]]:
    """Ranges of consecutive rows with about `edges` entries, and at most `rows` rows, each; a longer row stands alone."""
    ends: list[int] = [0]
    total = len(indptr) - 1
    while ends[-1] < total:
        at = ends[-1]
        stop = int(torch.searchsorted(indptr, indptr[at] + edges, right=True)) - 1
        ends.append(min(max(stop, at + 1), at + rows, total))
    return list(pairwise(ends))


def with_self(rows: GraphRows) -> GraphRows:
    """The rows with each node before its own neighbours. Edge ids, relations and weights are dropped."""
    R, M = rows.num_dst, len(rows.row)
    nodes = torch.arange(R, device=rows.row.device)
    indptr = rows.indptr + torch.arange(R + 1, device=rows.row.device)
    row = rows.row.new_empty(M + R)
    own = indptr[:-1]
    row[own] = (nodes + rows.start).to(row.dtype)
    of = torch.repeat_interleave(nodes, rows.indptr.diff(), output_size=M)
    row[torch.arange(M, device=row.device) + of + 1] = rows.row
    return GraphRows(row, indptr, rows.start)
