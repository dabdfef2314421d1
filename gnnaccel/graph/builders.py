"""Graphs of other libraries and files as `Graph`. `Graph.from_scipy` and its like call these."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.graph._edges import names
from gnnaccel.graph.static import Graph

__all__ = ["from_csv", "from_networkx", "from_npz", "from_pyg", "from_scipy"]


def from_scipy(matrix: Any, *, weighted: bool | None = None, add_reverse: bool = False) -> Graph:
    """From a square sparse matrix (or array) of SciPy in any format: the stored entry (u, v) is the edge u -> v.

    Args:
        matrix: `[N, N]`. Edges are numbered in the order of `matrix.tocoo()`; entries that are stored twice are two edges, and
            stored zeros are edges.
        weighted: Whether the values become weights; by default if any is not 1.
        add_reverse: As in `Graph.from_edges`.

    Raises:
        ValueError: The matrix is not square, or a weight is negative or not finite.
    """
    if not hasattr(matrix, "tocoo"):
        raise TypeError(f"Graph.from_scipy: matrix must be a sparse matrix of SciPy, got {type(matrix).__name__}")
    coo = matrix.tocoo()
    if len(coo.shape) != 2 or coo.shape[0] != coo.shape[1]:
        raise ValueError(f"Graph.from_scipy: matrix must be square, got {list(coo.shape)}")
    weight = coo.data if weighted or (weighted is None and bool((coo.data != 1).any())) else None
    return Graph.from_edges(coo.row, coo.col, coo.shape[0], weight=weight, add_reverse=add_reverse)


def from_pyg(data: Any) -> Graph:
    """From a `Data` of torch_geometric: `edge_index`, and `edge_type` and `edge_weight` if it has them.

    A `HeteroData` is taken as `data.to_homogeneous()`: nodes are numbered type by type, and edge types are relations.

    Raises:
        ValueError: There is no `edge_index`, or an edge is not sound.
    """
    if hasattr(data, "to_homogeneous"):
        kinds = list(data.edge_types)
        graph = from_pyg(data.to_homogeneous(node_attrs=[], edge_attrs=[]))
        graph.relation_ids = names("/".join(kind) for kind in kinds)
        return graph
    index = getattr(data, "edge_index", None)
    if not isinstance(index, Tensor) or index.dim() != 2 or index.shape[0] != 2:
        raise ValueError("Graph.from_pyg: data must have edge_index [2, E], got none")
    relation, weight = (getattr(data, name, None) for name in ("edge_type", "edge_weight"))
    return Graph.from_edges(index[0], index[1], data.num_nodes, relation=relation, weight=weight)


def from_networkx(graph: Any, *, weight: str | None = None, relation: str | None = None) -> Graph:
    """From a graph of NetworkX, directed or not, also with parallel edges.

    Nodes are numbered in the order of `graph.nodes`; `node_ids` keeps the original ones unless they are 0 .. N - 1 in that
    order. An edge of an undirected graph is two, one each way, of which the second has the id E + i; a loop is one.

    Args:
        graph: `networkx.Graph`, `DiGraph`, `MultiGraph` or `MultiDiGraph`.
        weight: Attribute of the edges' weights; 1 where an edge has none.
        relation: Attribute of the edges' types, integers or names; every edge must have it.

    Raises:
        ValueError: An edge lacks its relation, or a weight is negative or not finite.
    """
    number = {node: i for i, node in enumerate(graph.nodes)}
    N, E = len(number), graph.number_of_edges()
    src, dst = np.empty(E, np.int64), np.empty(E, np.int64)
    weights = None if weight is None else np.empty(E, np.float64)
    kinds: list[Any] = []
    for i, (u, v, attributes) in enumerate(graph.edges(data=True)):
        src[i], dst[i] = number[u], number[v]
        if weights is not None:
            weights[i] = attributes.get(weight, 1)
        if relation is not None:
            if relation not in attributes:
                raise ValueError(f"Graph.from_networkx: every edge must have {relation!r}, got ({u!r}, {v!r}) without")
            kinds.append(attributes[relation])
    relation_ids = types = None
    if relation is not None:
        relation_ids, types = np.unique(names(kinds), return_inverse=True)
        types = types.reshape(-1)
        if np.array_equal(relation_ids, np.arange(len(relation_ids))):
            relation_ids = None
    if not graph.is_directed():
        back = src != dst
        src, dst = np.concatenate([src, dst[back]]), np.concatenate([dst, src[back]])
        weights, types = (None if x is None else np.concatenate([x, x[back]]) for x in (weights, types))
    out = Graph.from_edges(src, dst, N, relation=types, weight=weights)
    own = names(number)
    out.node_ids = None if np.array_equal(own, np.arange(N)) else own
    out.relation_ids = relation_ids
    return out


def from_csv(path: str | os.PathLike[str], **options: Any) -> Graph:
    """From CSV or TSV with a header, also gzipped. Columns and options are those of `gnnaccel.data.read_graph`."""
    from gnnaccel.data.edges import read_graph  # files are read there

    return read_graph(Path(path), **options)


def from_npz(path: str | os.PathLike[str], *, add_reverse: bool = False, reverse_relation: str = "new") -> Graph:
    """From an npz file, without pickled objects.

    Arrays: `edge_index` `[2, E]` (row 0 the sources), or `src` and `dst`, or rows of in-neighbours `indptr` and `nbr` (then
    `eid` too, if it is there); optionally `relation` (or `edge_type`), `weight` (or `edge_weight`) and `num_nodes`. A file of
    `scipy.sparse.save_npz` is taken as `from_scipy` takes it.

    Raises:
        ValueError: The file is none of these, or an edge is not sound.
    """

    def bad(given: object) -> ValueError:
        return ValueError(f"Graph.from_npz: {path} must hold edge_index, src and dst, or indptr and nbr, got {given}")

    try:
        with np.load(path, allow_pickle=False) as file:
            a = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and NumPy have an error of their own for every kind of damage
        raise bad(f"a file that is not npz ({' '.join(str(error).split())[:80]})") from None
    if {"format", "shape", "data"} <= a.keys():
        from scipy.sparse import load_npz  # type: ignore[import-untyped]

        return from_scipy(load_npz(path), add_reverse=add_reverse)
    options = {"relation": a.get("relation", a.get("edge_type")), "weight": a.get("weight", a.get("edge_weight"))}
    if "indptr" in a and "nbr" in a:
        graph = Graph.from_csr(torch.from_numpy(a["indptr"]), torch.from_numpy(a["nbr"]), eid=a.get("eid"), **options)
        if not add_reverse:
            return graph
        raise ValueError("Graph.from_npz: add_reverse must be False with indptr, got True")
    if "edge_index" in a and a["edge_index"].ndim == 2 and len(a["edge_index"]) == 2:
        src, dst = a["edge_index"]
    elif "src" in a and "dst" in a:
        src, dst = a["src"], a["dst"]
    else:
        raise bad(", ".join(f"{k}{list(v.shape)}" for k, v in sorted(a.items())) or "nothing")
    N = int(a["num_nodes"]) if "num_nodes" in a else None
    return Graph.from_edges(src, dst, N, add_reverse=add_reverse, reverse_relation=reverse_relation, **options)
