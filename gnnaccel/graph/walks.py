"""Random walks on a `Graph`."""

from __future__ import annotations

from torch import Tensor

from gnnaccel.graph.static import Graph
from gnnaccel.ops import random_walk as walk_rows


def random_walk(
    graph: Graph,
    start: Tensor,
    length: int,
    *,
    p: float = 1.0,
    q: float = 1.0,
    restart: float = 0.0,
    seed: int = 0,
    epoch: int = 0,
    walk_offset: int = 0,
) -> Tensor:
    """A walk of `length` steps from each start, uniform or as node2vec's.

    A step goes to an entry of the node's row, so it goes AGAINST the edges: for walks along them give `graph.reverse()`. On a
    graph with `add_reverse=True` there is no difference. Relations and weights of edges are not looked at.

    Args:
        graph: The graph.
        start: Where the walks start, int64 or int32 `[S]`, -1 for padding; repeat a node for several walks from it.
        length, p, q, restart, seed, epoch, walk_offset: See `gnnaccel.ops.random_walk`.

    Returns:
        `[S, length + 1]`, dtype of `graph.nbr`; -1 after a dead end.

    Determinism: bitwise reproducible, for any number of threads and on every device.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape or value is wrong, or a start is out of range.
    """
    sorted_rows = graph.relation is None  # rows are sorted by relation first
    return walk_rows(
        graph.indptr, graph.nbr, start, length, p=p, q=q, restart=restart, sorted_rows=sorted_rows, seed=seed,
        epoch=epoch, walk_offset=walk_offset,
    )  # fmt: skip
