"""`read_graph`: a table of edges -> `Graph`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gnnaccel.data import _columns as col
from gnnaccel.data._text import TextFile
from gnnaccel.data.events import DataError
from gnnaccel.graph.static import Graph

__all__ = ["read_graph"]


def read_graph(
    path: str | Path,
    *,
    src: str = "src",
    dst: str = "dst",
    relation: str | None = None,
    weight: str | None = None,
    num_nodes: int | None = None,
    nodes: np.ndarray | None = None,
    add_reverse: bool = False,
    reverse_relation: str = "new",
) -> Graph:
    """Read a graph from CSV or TSV with a header, also gzipped; edge i is row i.

    Args:
        path: The file.
        src, dst: Columns of the edges' ends: integers at least 0, or names.
        relation: Column of types, integers or names; by default `relation`, if there is such a column. `relation_ids` keeps the
            original ones; numbers 0 .. R - 1 are their own.
        weight: Column of weights; by default `weight`, if there is such a column.
        num_nodes: Ids are integers below this, and are their own. By default the ids that occur become contiguous, in their
            order, and `node_ids` keeps the original ones.
        nodes: Ids of all nodes, in the order in which they are to be numbered, int64 or str `[N]`; instead of `num_nodes`.
        add_reverse, reverse_relation: As in `Graph.from_edges`.

    Raises:
        DataError: (a ValueError) The file cannot be read, or an edge is not sound; its row is named where one is at fault.
    """
    path = Path(path)
    file = TextFile(path)
    for name in (src, dst, relation, weight):
        if name is not None and name not in file.header:
            raise DataError(path, f"no column {name!r}: it has {', '.join(file.header)}", "name the columns")
    relation = "relation" if relation is None and "relation" in file.header else relation
    weight = "weight" if weight is None and "weight" in file.header else weight
    table = file.read([c for c in dict.fromkeys((src, dst, relation, weight)) if c is not None])
    ends = [col.id_column(table, name, what) for name, what in ((src, "source"), (dst, "destination"))]
    node_ids = None
    if nodes is not None:
        num_nodes = len(nodes)
        node_ids = nodes
        ends = [_positions(table, x, nodes) for x in ends]
    elif num_nodes is None:
        first, second, node_ids = col.contiguous(ends[0], ends[1], False)
        ends = [first, second]
        num_nodes = len(node_ids)
    types, relation_ids = _types(table, relation)
    options: dict[str, Any] = {"add_reverse": add_reverse, "reverse_relation": reverse_relation}
    if weight is not None:
        options["weight"] = col.feature_columns(table, [weight])[:, 0]  # type: ignore[index]
    try:
        graph = Graph.from_edges(ends[0], ends[1], num_nodes, relation=types, **options)
    except (TypeError, ValueError) as e:
        raise DataError(path, str(e).removeprefix("Graph.from_edges: ")) from None
    if node_ids is not None and not np.array_equal(node_ids, np.arange(num_nodes)):
        graph.node_ids = node_ids
    if relation_ids is not None and graph.num_relations == len(relation_ids):
        graph.relation_ids = relation_ids
    return graph


def _positions(table: col.Table, x: np.ndarray | pa.ChunkedArray, nodes: np.ndarray) -> np.ndarray:
    """Where each id stands among `nodes`."""
    text = not (isinstance(x, np.ndarray) and nodes.dtype.kind == "i")
    known = pa.array(nodes.astype(str).tolist() if text else nodes)
    given = pa.chunked_array([x]) if isinstance(x, np.ndarray) else x
    found = col.pc.index_in(given.cast(known.type), value_set=known)
    if (at := col.first(found.is_null())) is not None:
        raise table.fail(f"node {given[at].as_py()!r} is not among the nodes", "list every node", at)
    return found.to_numpy().astype(np.int64)


def _types(table: col.Table, name: str | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    if name is None:
        return None, None
    x = col.id_column(table, name, "relation")
    if isinstance(x, np.ndarray):
        ids, number = np.unique(x, return_inverse=True)
        return (x, None) if len(ids) == int(ids[-1]) + 1 else (number.reshape(-1), ids)
    code = col.pc.dictionary_encode(x).combine_chunks()
    names = np.array(code.dictionary.to_pylist(), dtype=str)
    order = np.argsort(names)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[code.indices.to_numpy()], names[order]
