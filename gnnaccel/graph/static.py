"""`Graph`: edges by their destination."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.graph._edges import MOST_RELATIONS, check_range, check_rows, ids, narrow, relations, weights
from gnnaccel.graph._files import load_arrays, save_arrays
from gnnaccel.graph.temporal import _id_dtype, _id_range, _name
from gnnaccel.ops._tcsr import tcsr_build

__all__ = ["Graph"]

_HEADER = "graph.json"
_KIND = {"format": "gnnaccel.Graph", "version": 1}


class Graph:
    """Directed edges u -> v in rows, one a node: row v lists the in-neighbours u of v (the CSC of the adjacency matrix).

    Messages flow from u to v, so a row is what a layer aggregates. Node v's edges are the entries from `indptr[v]` up to
    `indptr[v + 1]`, sorted by (relation, neighbour, eid). Loops, repeated edges and nodes without an edge are kept.

    Attributes:
        indptr: int64 `[N + 1]`.
        nbr: In-neighbours, int32 or int64 `[M]`.
        eid: Index of each edge in the input, dtype of `nbr`, `[M]`.
        relation: Type of each edge, int16 `[M]`, or None.
        weight: Of each edge, float32 `[M]`, finite and at least 0, or None.
        num_nodes: N.
        num_edges: M.
        num_relations: 1 without relations.
        node_ids: Original id of each node, an int64 or str array `[N]`, where a builder numbered them anew; else None.
        relation_ids: Original name of each relation, likewise `[num_relations]`.
    """

    def __init__(
        self,
        indptr: Tensor,
        nbr: Tensor,
        eid: Tensor,
        relation: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        num_relations: int = 1,
        node_ids: np.ndarray | None = None,
        relation_ids: np.ndarray | None = None,
    ) -> None:
        """From arrays that are already sorted into rows (not checked; `from_edges` and `from_csr` are the usual ways)."""
        self.indptr, self.nbr, self.eid = indptr, nbr, eid
        self.relation, self.weight = relation, weight
        self.num_relations = num_relations
        self.node_ids, self.relation_ids = node_ids, relation_ids

    @property
    def num_nodes(self) -> int:
        return self.indptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        return self.nbr.shape[0]

    @property
    def device(self) -> torch.device:
        return self.nbr.device

    def __repr__(self) -> str:
        typed = "" if self.relation is None else f", num_relations={self.num_relations}"
        weighted = "" if self.weight is None else ", weighted"
        ids = f"ids={_name(self.nbr.dtype)}, device={self.device}"
        return f"Graph(num_nodes={self.num_nodes}, num_edges={self.num_edges}{typed}{weighted}, {ids})"

    # --- builders -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_edges(
        cls,
        src: Any,
        dst: Any,
        num_nodes: int | None = None,
        *,
        relation: Any = None,
        num_relations: int | None = None,
        weight: Any = None,
        add_reverse: bool = False,
        reverse_relation: str = "new",
        id_dtype: torch.dtype | None = None,
    ) -> Graph:
        """Build from edges src[i] -> dst[i]; edge i gets id i. O(M), parallel, the same bits for any number of threads.

        Args:
            src: Node ids, integers `[E]` (tensor or array), at least 0.
            dst: Likewise.
            num_nodes: Number of nodes; by default the largest id plus 1.
            relation: Type of each edge, integers `[E]`, at least 0.
            num_relations: How many there are, at most 32,767; by default the largest plus 1.
            weight: Of each edge, numbers `[E]`, finite and at least 0; kept in float32.
            add_reverse: Every edge i = (u, v) also stands in u's row, with id E + i (a loop stands there twice), so M = 2E.
                For edges that are listed once but have no direction.
            reverse_relation: What relation the added edges have: "new": r + num_relations, so that there are twice as many
                (as R-GCN has them); or "same".
            id_dtype: int32 or int64; by default int32 if ids and edges fit.

        Raises:
            TypeError: Ids or relations are not integers, or weights not numbers.
            ValueError: Shapes differ, an id, relation or weight is out of its range.
        """
        owner = "Graph.from_edges"
        src, dst = ids(owner, "src", src), ids(owner, "dst", dst)
        if len(dst) != len(src):
            raise ValueError(f"{owner}: dst must be [{len(src)}] like src, got [{len(dst)}]")
        if reverse_relation not in ("new", "same"):
            raise ValueError(f"{owner}: reverse_relation must be new or same, got {reverse_relation!r}")
        least, most = _id_range(src, dst)
        if num_nodes is None:
            num_nodes = most + 1
        if least < 0:
            raise ValueError(f"{owner}: src and dst must be >= 0, got {least}")
        if most >= num_nodes:
            raise ValueError(f"{owner}: src and dst must be below num_nodes={num_nodes}, got {most}")
        relation, num_relations = relations(owner, relation, num_relations, len(src))
        weight = weights(owner, weight, len(src))
        if add_reverse:
            src, dst = torch.cat([src, dst]), torch.cat([dst, src])
            if weight is not None:
                weight = weight.repeat(2)
            if relation is not None and reverse_relation == "same":
                relation = relation.repeat(2)
            elif relation is not None:
                relation, num_relations = torch.cat([relation.int(), relation.int() + num_relations]), 2 * num_relations
                relation = narrow(owner, relation, num_relations)
        fits = _id_dtype(num_nodes, len(src))
        if id_dtype is None:
            id_dtype = fits
        elif id_dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{owner}: id_dtype must be int32 or int64, got {id_dtype}")
        elif id_dtype == torch.int32 and fits != torch.int32:
            given = f"{num_nodes} nodes and {len(src)} edges"
            raise ValueError(f"{owner}: id_dtype must be int64 for {given}, got {id_dtype}")
        return _sorted(dst, src, num_nodes, None, relation, weight, num_relations, id_dtype)

    @classmethod
    def from_csr(
        cls,
        indptr: Any,
        nbr: Any,
        *,
        eid: Any = None,
        relation: Any = None,
        num_relations: int | None = None,
        weight: Any = None,
    ) -> Graph:
        """From rows of in-neighbours: those of node v are `nbr[indptr[v]:indptr[v + 1]]`. Everything is checked.

        Arrays of the right dtypes whose rows are already sorted are taken as they are, memory-mapped ones too; others, and
        arrays of NumPy that are read-only, are copied.

        Args:
            indptr: Integers `[N + 1]`, from 0 to M, never falling.
            nbr: Integers `[M]` in [0, N); int32 stays int32.
            eid: Id of each edge, integers `[M]`, at least 0; by default its position in `nbr`.
            relation, num_relations, weight: As in `from_edges`, `[M]`.

        Raises:
            TypeError, ValueError: As `from_edges`, or `indptr` is not one.
        """
        owner = "Graph.from_csr"
        indptr, nbr = ids(owner, "indptr", indptr), ids(owner, "nbr", nbr, keep=True)
        check_rows(owner, indptr, len(nbr))
        N, M = len(indptr) - 1, len(nbr)
        check_range(owner, "nbr", nbr, N)
        dtype = torch.int64 if nbr.dtype == torch.int64 else _id_dtype(N, M)
        if eid is None:
            eid = torch.arange(M, dtype=dtype, device=nbr.device)
        else:
            eid = ids(owner, "eid", eid, keep=True)
            if len(eid) != M:
                raise ValueError(f"{owner}: eid must be [{M}] like nbr, got [{len(eid)}]")
            least, most = (int(x) for x in torch.aminmax(eid)) if M else (0, 0)
            if least < 0:
                raise ValueError(f"{owner}: eid must be >= 0, got {least}")
            if most >= 2**31:
                dtype = torch.int64
        relation, num_relations = relations(owner, relation, num_relations, M)
        weight = weights(owner, weight, M)
        graph = cls(indptr, nbr.to(dtype), eid.to(dtype), relation, weight, num_relations=num_relations)
        if graph._rows_sorted():
            return graph
        order = eid.argsort(stable=True)
        relation, weight = (None if x is None else x[order] for x in (relation, weight))
        row, nbr = graph._row_of_entries()[order], nbr.long()[order]
        return _sorted(row, nbr, N, eid[order], relation, weight, num_relations, dtype)

    @classmethod
    def from_scipy(cls, matrix: Any, *, weighted: bool | None = None, add_reverse: bool = False) -> Graph:
        """From a sparse matrix of SciPy: entry (u, v) is the edge u -> v. See `gnnaccel.graph.builders.from_scipy`."""
        from gnnaccel.graph.builders import from_scipy

        return from_scipy(matrix, weighted=weighted, add_reverse=add_reverse)

    @classmethod
    def from_pyg(cls, data: Any) -> Graph:
        """From a `Data` or `HeteroData` of torch_geometric. See `gnnaccel.graph.builders.from_pyg`."""
        from gnnaccel.graph.builders import from_pyg

        return from_pyg(data)

    @classmethod
    def from_networkx(cls, graph: Any, *, weight: str | None = None, relation: str | None = None) -> Graph:
        """From a graph of NetworkX. See `gnnaccel.graph.builders.from_networkx`."""
        from gnnaccel.graph.builders import from_networkx

        return from_networkx(graph, weight=weight, relation=relation)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], **options: Any) -> Graph:
        """From CSV or TSV, also gzipped. See `gnnaccel.graph.builders.from_csv`."""
        from gnnaccel.graph.builders import from_csv

        return from_csv(path, **options)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str], **options: Any) -> Graph:
        """From arrays in an npz file. See `gnnaccel.graph.builders.from_npz`."""
        from gnnaccel.graph.builders import from_npz

        return from_npz(path, **options)

    # --- views and other graphs ---------------------------------------------------------------------------------------

    def in_degree(self) -> Tensor:
        """Entries in each row, int64 `[N]`."""
        return self.indptr.diff()

    def row(self, node: int) -> slice:
        """Where the entries of a node stand."""
        return slice(int(self.indptr[node]), int(self.indptr[node + 1]))

    def edges(self) -> tuple[Tensor, Tensor]:
        """`(src, dst)` of all edges in the order of their ids, dtype of `nbr`, `[M]` each: the input of `from_edges`."""
        order = self._order()
        rows = self._row_of_entries().to(self.nbr.dtype)
        return self.nbr.index_select(0, order), rows.index_select(0, order)

    def reverse(self) -> Graph:
        """All edges turned round, with the same ids, relations and weights: row u lists where u's edges lead. O(M)."""
        node, nbr = self.nbr.long(), self._row_of_entries()
        return self._renewed(node, nbr, self.eid, self.relation, self.weight)

    def without_self_loops(self) -> Graph:
        """The graph without edges (v, v); the others keep their ids."""
        keep = self.nbr != self._row_of_entries()
        count = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        relation, weight = (None if x is None else x[keep] for x in (self.relation, self.weight))
        return Graph(
            count[self.indptr],
            self.nbr[keep],
            self.eid[keep],
            relation,
            weight,
            num_relations=self.num_relations,
            node_ids=self.node_ids,
            relation_ids=self.relation_ids,
        )

    def with_self_loops(self) -> Graph:
        """The graph with an edge (v, v) for every node that has none.

        The new edges have the ids after the largest one, by node, weight 1 in a weighted graph, and in a typed graph a relation
        of their own: the last one, so that there is one more.
        """
        rows = self._row_of_entries()
        lacks = torch.ones(self.num_nodes, dtype=torch.bool, device=self.device)
        lacks[rows[self.nbr == rows]] = False
        new = lacks.nonzero().squeeze(1)
        first = int(self.eid.max()) + 1 if self.num_edges else 0
        eid = torch.cat([self.eid.long(), torch.arange(first, first + len(new), device=self.device)])
        weight = None if self.weight is None else torch.cat([self.weight, self.weight.new_ones(len(new))])
        relation, R = self.relation, self.num_relations
        if relation is not None:
            R += 1
            relation = narrow(
                "Graph.with_self_loops", torch.cat([relation.int(), relation.new_full((len(new),), R - 1)]), R
            )
        return self._renewed(torch.cat([rows, new]), torch.cat([self.nbr.long(), new]), eid, relation, weight, R)

    def to(self, device: torch.device | str) -> Graph:
        """The graph with all its arrays on `device`."""
        if torch.device(device) == self.device:
            return self
        relation, weight = (None if x is None else x.to(device) for x in (self.relation, self.weight))
        return Graph(
            self.indptr.to(device),
            self.nbr.to(device),
            self.eid.to(device),
            relation,
            weight,
            num_relations=self.num_relations,
            node_ids=self.node_ids,
            relation_ids=self.relation_ids,
        )

    def _row_of_entries(self) -> Tensor:
        """Row of each entry, int64 `[M]`."""
        nodes = torch.arange(self.num_nodes, device=self.device)
        return torch.repeat_interleave(nodes, self.in_degree(), output_size=self.num_edges)

    def _order(self) -> Tensor:
        """Positions of the entries in the order of their ids."""
        M = self.num_edges
        if M and int(self.eid.max()) == M - 1:
            at = torch.full((M,), -1, dtype=torch.int64, device=self.device)
            at.index_copy_(0, self.eid.long(), torch.arange(M, device=self.device))
            if int(at.min()) >= 0:  # a permutation
                return at
        return self.eid.argsort(stable=True)

    def _rows_sorted(self) -> bool:
        if self.num_edges < 2:
            return True
        before, after = slice(None, -1), slice(1, None)
        starts = torch.zeros(self.num_edges + 1, dtype=torch.bool, device=self.device)
        starts[self.indptr] = True
        falls = self.nbr[after] < self.nbr[before]
        falls |= (self.nbr[after] == self.nbr[before]) & (self.eid[after] < self.eid[before])
        if self.relation is not None:
            falls &= self.relation[after] == self.relation[before]
            falls |= self.relation[after] < self.relation[before]
        return not bool((falls & ~starts[1:-1]).any())

    def _renewed(
        self,
        node: Tensor,
        nbr: Tensor,
        eid: Tensor,
        relation: Tensor | None,
        weight: Tensor | None,
        num_relations: int | None = None,
    ) -> Graph:
        """A graph of these edges over the same nodes."""
        R = self.num_relations if num_relations is None else num_relations
        wide = self.nbr.dtype == torch.int64 or (len(eid) > 0 and int(eid.max()) >= 2**31)
        graph = _sorted(node, nbr, self.num_nodes, eid, relation, weight, R, torch.int64 if wide else torch.int32)
        graph.node_ids = self.node_ids
        graph.relation_ids = self.relation_ids if self.num_relations == R else None
        return graph

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the arrays and a header to `folder`. The header is written last and by renaming, so that a reader finds the old
        graph or the new one, whenever the writer stops."""
        arrays = {name: getattr(self, name) for name in ("indptr", "nbr", "eid", "relation", "weight")}
        numpy = {name: x.cpu().numpy() for name, x in arrays.items() if x is not None}
        numpy |= {n: x for n in ("node_ids", "relation_ids") if (x := getattr(self, n)) is not None}
        save_arrays(folder, _HEADER, _KIND, {"num_relations": self.num_relations}, numpy)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, check: bool = True) -> Graph:
        """Map the arrays that `save` wrote: nothing is kept in memory before it is used, and changes stay private.

        Args:
            check: Whether ids, relations and weights are looked at, too, which reads each array once. Sizes, dtypes and
                `indptr` always are.

        Raises:
            ValueError: The folder holds no graph, or a damaged one.
        """

        def bad(expected: str, given: object) -> ValueError:
            return ValueError(f"Graph.load: {Path(folder)} must {expected}, got {given}")

        facts, arrays = load_arrays(folder, _HEADER, _KIND, ("indptr", "nbr", "eid"), bad)
        given_ids = {name: arrays.pop(name, None) for name in ("node_ids", "relation_ids")}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        indptr, nbr, eid = (tensors[name] for name in ("indptr", "nbr", "eid"))
        relation, weight = tensors.get("relation"), tensors.get("weight")
        num_relations = facts.get("num_relations")
        if not isinstance(num_relations, int) or not 1 <= num_relations <= MOST_RELATIONS:
            raise bad(f"say num_relations in {_HEADER}", num_relations)
        if indptr.dtype != torch.int64 or nbr.dtype not in (torch.int32, torch.int64) or eid.dtype != nbr.dtype:
            given = ", ".join(_name(x.dtype) for x in (indptr, nbr, eid))
            raise bad("hold indptr int64, and nbr and eid both int32 or both int64", given)
        for name, x, dtype in (
            ("eid", eid, eid.dtype),
            ("relation", relation, torch.int16),
            ("weight", weight, torch.float32),
        ):
            if x is not None and x.dtype != dtype:
                raise bad(f"hold {name} as {_name(dtype)}", _name(x.dtype))
            if x is not None and len(x) != len(nbr):
                raise bad(f"hold a {name} for each of the {len(nbr)} edges", len(x))
        for name, size in (("node_ids", len(indptr) - 1), ("relation_ids", num_relations)):
            if (x := given_ids[name]) is not None and len(x) != size:
                raise bad(f"hold {size} {name}", len(x))
        try:
            check_rows("Graph.load", indptr, len(nbr))
            if check:
                check_range("Graph.load", "nbr", nbr, len(indptr) - 1)
                if len(eid) and int(eid.min()) < 0:
                    raise ValueError("Graph.load: eid must be >= 0, got a negative one")
                relations("Graph.load", relation, num_relations, len(nbr))
                weights("Graph.load", weight, len(nbr))
        except ValueError as error:
            raise bad("hold a sound graph", str(error).removeprefix("Graph.load: ")) from None
        return cls(indptr, nbr, eid, relation, weight, num_relations=num_relations, **given_ids)


def _sorted(
    node: Tensor,
    nbr: Tensor,
    num_nodes: int,
    eid: Tensor | None,
    relation: Tensor | None,
    weight: Tensor | None,
    num_relations: int,
    dtype: torch.dtype,
) -> Graph:
    """Edges nbr[i] -> node[i] (int64 `[M]`, checked) in rows. `eid` None: their positions.

    Edges of one (row, relation, neighbour) stay in the order in which they come: it must be that of their ids.
    """
    wide = dtype == torch.int64 or len(nbr) > 2**31 - 1
    key = nbr if relation is None else relation.long().mul_(num_nodes).add_(nbr)
    indptr, nbr, at, key = tcsr_build(node, nbr, key, num_nodes, False, wide)
    del key
    relation, weight = (None if x is None else x.index_select(0, at) for x in (relation, weight))
    eid = at if eid is None else eid.index_select(0, at)
    return Graph(indptr, nbr.to(dtype), eid.to(dtype), relation, weight, num_relations=num_relations)
