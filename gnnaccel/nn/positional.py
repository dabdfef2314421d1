"""Positional encodings of nodes: where in the graph a node is, as features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.graph.static import Graph
from gnnaccel.graph.walks import random_walk
from gnnaccel.ops import gather_aggregate

METHODS = ("auto", "exact", "sampled")
_EXACT = 5_000_000_000  # sums of neighbours up to which "auto" computes exactly
_BLOCK = 1 << 22  # elements of a block of rows, or of walks


def random_walk_pe(graph: Graph, steps: int = 16, *, method: str = "auto", walks: int = 256, seed: int = 0) -> Tensor:
    """How likely a random walk from a node is back at it after 1, 2, ... steps: the diagonals of the powers of D^-1 A.

    Source: Dwivedi et al., Graph Neural Networks with Learnable Structural and Positional Representations, ICLR 2022, eq. 6.
    A walk steps to the entries of the node's row, equal ones as often as they are there, and ends at an empty row.

    Args:
        graph: The graph, usually with edges both ways.
        steps: Columns, at least 1.
        method: `"exact"`: in float64, N M `steps` operations for M edges, and memory for some columns of all nodes at a time.
            `"sampled"`: the share of `walks` walks from each node, N `walks` `steps` operations; an entry x has the standard
            error sqrt(x (1 - x) / walks). `"auto"`: exact where that is at most 5e9 operations.
        walks: Walks from each node, for `"sampled"`.
        seed: Of the walks.

    Returns:
        float32 `[N, steps]`, in [0, 1], on the graph's device.

    Determinism: bitwise reproducible, on CPU for any number of threads.

    Raises:
        ValueError: `steps` or `walks` is below 1, or `method` is unknown.
    """
    if steps < 1:
        raise ValueError(f"random_walk_pe: steps must be at least 1, got {steps}")
    if walks < 1:
        raise ValueError(f"random_walk_pe: walks must be at least 1, got {walks}")
    if method not in METHODS:
        raise ValueError(f"random_walk_pe: method must be one of {', '.join(METHODS)}, got {method!r}")
    N = graph.num_nodes
    if method == "auto":
        method = "exact" if N * graph.num_edges * steps <= _EXACT else "sampled"
    out = torch.zeros((N, steps), dtype=torch.float32, device=graph.device)
    size = max(1, _BLOCK // max(N, 1) if method == "exact" else _BLOCK // (walks * (steps + 1)))
    for first in range(0, N, size):
        nodes = torch.arange(first, min(first + size, N), device=graph.device)
        if method == "sampled":
            start = nodes.repeat_interleave(walks)
            paths = random_walk(graph, start, steps, seed=seed, walk_offset=first * walks)
            back = (paths[:, 1:] == start[:, None]).view(len(nodes), walks, steps).sum(1)
            out[nodes] = (back.double() / walks).float()
            continue
        # x[v, s]: how likely a walk from v is at s after so many steps
        x = torch.zeros((N, len(nodes)), dtype=torch.float64, device=graph.device)
        place = torch.arange(len(nodes), device=graph.device)
        x[nodes, place] = 1
        for step in range(steps):
            x = gather_aggregate(x, graph.nbr, reduce="mean", indptr=graph.indptr)
            out[nodes, step] = x[nodes, place].float()
    return out


def laplacian_pe(graph: Graph, k: int = 8) -> Tensor:
    """Eigenvectors of the normalised Laplacian I - D^-1/2 A D^-1/2 for its smallest eigenvalues but the trivial 0.

    Source: Dwivedi and Bresson, A Generalization of Transformer Networks to Graphs, 2020, eq. 7. The graph is made symmetric;
    loops, repeated edges, relations and weights do not count. Of a graph in several pieces each piece gets its own
    eigenvectors: column j of a node is the j-th of its piece, and 0 where the piece has no more than j + 1 nodes. A column has
    a mean square of 1 over a piece. Its sign is arbitrary in theory, and such here that its largest entry (of equal ones the
    first) is positive; eigenvectors of one and the same eigenvalue are any basis of their space.

    Args:
        graph: The graph.
        k: Columns, at least 1.

    Returns:
        float32 `[N, k]`, on the graph's device.

    Determinism: reproducible on one machine; other linear algebra libraries, or numbers of their threads, give other last bits,
    and another basis where eigenvalues are equal. Compute it once and keep it.

    Raises:
        ImportError: SciPy is not installed.
        ValueError: k is below 1, or the eigenvalues of a piece lie so close that they are not found.
    """
    if k < 1:
        raise ValueError(f"laplacian_pe: k must be at least 1, got {k}")
    try:
        import numpy as np
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
    except ImportError as error:
        raise ImportError("laplacian_pe: needs SciPy; pip install scipy") from error
    N = graph.num_nodes
    out = np.zeros((N, k), np.float32)
    src, dst = (x.cpu().numpy() for x in graph.edges())
    kept = src != dst
    pairs = np.concatenate([src[kept], dst[kept]]), np.concatenate([dst[kept], src[kept]])
    adjacency = coo_array((np.ones(len(pairs[0])), pairs), shape=(N, N)).tocsr()  # adds up what is repeated
    adjacency.data[:] = 1
    degree = np.diff(adjacency.indptr)
    root = 1 / np.sqrt(np.maximum(degree, 1))
    adjacency.data *= root[adjacency.indices] * np.repeat(root, degree)
    _, piece = connected_components(adjacency, directed=False)
    order = np.argsort(piece, kind="stable")
    for nodes in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
        if len(nodes) > 1:
            columns = _eigenvectors(adjacency[nodes][:, nodes], min(k, len(nodes) - 1))
            out[nodes, : columns.shape[1]] = columns
    return torch.from_numpy(out).to(graph.device)


_DENSE = 300  # nodes of a piece whose matrix may as well be dense


def _eigenvectors(matrix: Any, k: int) -> Any:
    """Those of a connected piece's D^-1/2 A D^-1/2 for its k largest eigenvalues after the first, `[n, k]`."""
    import numpy as np
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = matrix.shape[0]
    if n <= _DENSE or k + 2 > n:
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        begin = np.cos(np.arange(n, dtype=np.float64))  # anything that is the same every time
        try:
            values, vectors = eigsh(
                matrix, k=k + 1, which="LA", v0=begin, ncv=min(n, max(4 * k + 1, 40)), maxiter=50 * n
            )
        except ArpackNoConvergence:
            raise ValueError(
                f"laplacian_pe: k must be so small that {n} nodes in one piece have distinct eigenvalues, got {k}"
            ) from None
    vectors = vectors[:, np.argsort(-values, kind="stable")[1 : k + 1]]
    vectors = vectors * np.sqrt(n / np.square(vectors).sum(0))
    size = np.abs(vectors)
    largest = np.argmax(size >= size.max(0) * (1 - 1e-6), axis=0)
    return vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
