"""A graph in parts, as files: `write_parts` and `GraphParts`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.graph._files import load_arrays, save_arrays
from gnnaccel.graph.node_partition import node_split, partition_quality
from gnnaccel.graph.partition import NodeBook
from gnnaccel.graph.static import Graph, _sorted
from gnnaccel.graph.temporal import _positions

__all__ = ["GraphPart", "GraphParts", "write_parts"]

_BOOK, _PART = "partition.json", "part.json"
_BOOK_KIND = {"format": "gnnaccel.GraphParts", "version": 1}
_PART_KIND = {"format": "gnnaccel.GraphPart", "version": 1}
_MASKS = ("train_mask", "val_mask", "test_mask")


@dataclass(frozen=True, eq=False)
class GraphPart:
    """What one of several workers has of a graph.

    Nodes have local ids: first the part's own (inner) nodes, ascending by global id, then its halo, the nodes of other parts
    with an edge into it, likewise. Rows of inner nodes hold all their edges; those of the halo are empty.

    Attributes:
        number: Which part.
        graph: Over local ids; `eid` are the ids of the edges in the whole graph.
        nodes: Global id of each local one, int64 `[L]`.
        num_inner: I.
        x, scale, y: Features, their scales and classes of the inner nodes, `[I, F]`, `[I]`, `[I]`, or None.
        train_mask, val_mask, test_mask: bool `[I]`, or None.
        train_nodes: Nodes that this part trains on, global ids, ascending; every part has as many (see `node_split`), so that a
            few may be of other parts. None without a training mask.
    """

    number: int
    graph: Graph
    nodes: Tensor
    num_inner: int
    x: Tensor | None = None
    scale: Tensor | None = None
    y: Tensor | None = None
    train_mask: Tensor | None = None
    val_mask: Tensor | None = None
    test_mask: Tensor | None = None
    train_nodes: Tensor | None = None

    @property
    def inner(self) -> Tensor:
        """Global ids of the inner nodes, ascending."""
        return self.nodes[: self.num_inner]

    @property
    def halo(self) -> Tensor:
        """Global ids of the halo, ascending."""
        return self.nodes[self.num_inner :]

    def to_global(self, ids: Tensor) -> Tensor:
        """Global ids, int64, shape of `ids`; -1 stays."""
        if len(self.nodes) == 0:
            return ids.long()
        return torch.where(ids >= 0, self.nodes[ids.long().clamp(min=0)], -1)

    def to_local(self, ids: Tensor) -> Tensor:
        """Local ids, int64, shape of `ids`; -1 for nodes that the part does not see."""
        out = torch.full(ids.shape, -1, dtype=torch.int64)
        for known, first in ((self.inner, 0), (self.halo, self.num_inner)):
            if len(known):
                at = torch.searchsorted(known, ids.long().contiguous()).clamp_(max=len(known) - 1)
                out = torch.where(known[at] == ids, at + first, out)
        return out


def cut_part(graph: Graph, book: NodeBook, p: int) -> tuple[Graph, Tensor]:
    """The graph of part p over local ids, and the global id of each of them."""
    inner = book.inner(p)
    start, degree = graph.indptr[inner], graph.indptr[inner + 1] - graph.indptr[inner]
    at = _positions(start, degree)
    nbr = graph.nbr[at].long()
    outside = torch.zeros(graph.num_nodes, dtype=torch.bool)
    outside[nbr] = True
    outside[inner] = False
    nodes = torch.cat([inner, outside.nonzero().squeeze(1)])
    local = torch.empty(graph.num_nodes, dtype=torch.int64)
    local[nodes] = torch.arange(len(nodes))
    row = torch.repeat_interleave(torch.arange(len(inner)), degree, output_size=len(at))
    relation, weight = (None if x is None else x[at] for x in (graph.relation, graph.weight))
    # entries of one (row, relation, neighbour) lie in the order of their ids, as the sort needs them
    dtype, R = graph.nbr.dtype, graph.num_relations
    part = _sorted(row, local[nbr], len(nodes), graph.eid[at], relation, weight, R, dtype)
    part.relation_ids = graph.relation_ids
    return part, nodes


def write_parts(
    folder: str | os.PathLike[str],
    graph: Graph,
    part: Tensor,
    num_parts: int,
    *,
    x: Tensor | None = None,
    scale: Tensor | None = None,
    y: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> GraphParts:
    """Write a graph in parts: `part_0`, `part_1`, ... and, last, `partition.json` with the book.

    Args:
        folder: Made if it is not there.
        part: Part of each node, `[N]`.
        x, scale, y: Of all nodes, `[N, F]`, `[N]`, `[N]`; each part gets the rows of its own nodes.
        masks: `train`, `val` and `test`, bool `[N]` each. Of `train` each part also gets its share (`node_split`).
        facts: Anything else for the header.
        overwrite: Replace the parts that are there.
        progress: Called with the number of edges of each part that is written.

    Raises:
        ValueError: The folder already has parts, or an argument does not fit the graph.
    """
    path, owner = Path(folder), "write_parts"
    if (path / _BOOK).exists():
        if not overwrite:
            raise ValueError(f"{owner}: {path} already holds parts; choose another folder, or overwrite")
        (path / _BOOK).unlink()  # half of the new parts with the old book would be neither
    if len(part) != graph.num_nodes:
        raise ValueError(f"{owner}: part must be [{graph.num_nodes}], got [{len(part)}]")
    book = NodeBook.of_parts(part, num_parts)
    masks = dict(masks or {})
    table = {"x": x, "scale": scale, "y": y} | {f"{name}_mask": mask for name, mask in masks.items()}
    for name, values in table.items():
        if values is not None and len(values) != graph.num_nodes:
            raise ValueError(f"{owner}: {name} must have a row for each of {graph.num_nodes} nodes, got {len(values)}")
    train = masks.get("train")
    shares = None if train is None else node_split(book.part, num_parts, train.nonzero().squeeze(1))
    for p in range(num_parts):
        inner = book.inner(p)
        local, nodes = cut_part(graph, book, p)
        arrays = {name: values[inner] for name, values in table.items() if values is not None}
        arrays["nodes"] = nodes
        if shares is not None:
            arrays["train_nodes"] = shares[p]
        where = path / f"part_{p}"
        local.save(where)
        numbers = {"number": p, "num_inner": len(inner)}
        save_arrays(where, _PART, _PART_KIND, numbers, {name: a.numpy() for name, a in arrays.items()})
        if progress is not None:
            progress(local.num_edges)
    quality = partition_quality(graph, part, num_parts, train)
    told: dict[str, Any] = {**(facts or {}), "num_parts": num_parts, "num_nodes": graph.num_nodes}
    told |= {"num_edges": graph.num_edges, "num_relations": graph.num_relations, "quality": quality.as_dict()}
    arrays = {"part": book.part.numpy()}
    arrays |= {} if graph.node_ids is None else {"node_ids": graph.node_ids}
    save_arrays(path, _BOOK, _BOOK_KIND, told, arrays)
    for old in path.glob("part_*"):  # of more parts than there are now
        number = old.name.removeprefix("part_")
        if number.isdigit() and int(number) >= num_parts and (old / _PART).is_file():
            shutil.rmtree(old)
    return GraphParts.load(path)


@dataclass(frozen=True, eq=False)
class GraphParts:
    """A folder of parts. Ids are global but within a part.

    Attributes:
        folder: Where they are.
        book: Which part owns which node.
        facts: The header: `num_parts`, `num_nodes`, `num_edges`, `num_relations`, `quality`, and what the writer added.
        node_ids: Original id of each node, or None.
    """

    folder: Path
    book: NodeBook
    facts: dict[str, Any]
    node_ids: np.ndarray | None = None

    @property
    def num_parts(self) -> int:
        return self.book.num_parts

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> GraphParts:
        """Open what `write_parts` wrote.

        Raises:
            ValueError: The folder holds no parts, or damaged ones.
        """
        path = Path(folder)

        def bad(expected: str, given: object) -> ValueError:
            return ValueError(f"GraphParts.load: {path} must {expected}, got {given}")

        facts, arrays = load_arrays(path, _BOOK, _BOOK_KIND, ("part",), bad)
        facts.pop("arrays")
        P, N = facts.get("num_parts"), facts.get("num_nodes")
        part = torch.from_numpy(arrays["part"])
        if not isinstance(P, int) or P < 1 or part.dtype != torch.int64 or part.shape != (N,):
            raise bad(f"hold the part of each of {N} nodes", f"{part.dtype} {list(part.shape)} for {P} parts")
        try:
            book = NodeBook.of_parts(part, P)
        except ValueError as error:
            raise bad(f"hold parts below {P}", error) from None
        return cls(path, book, facts, arrays.get("node_ids"))

    def part(self, p: int, *, check: bool = True) -> GraphPart:
        """Part p, memory-mapped.

        Args:
            check: As in `Graph.load`.

        Raises:
            ValueError: There is no such part, or its files are damaged or of another partition.
        """
        if not 0 <= p < self.num_parts:
            raise ValueError(f"GraphParts.part: p must be in [0, {self.num_parts}), got {p}")
        path = self.folder / f"part_{p}"

        def bad(expected: str, given: object) -> ValueError:
            return ValueError(f"GraphParts.part: {path} must {expected}, got {given}")

        facts, arrays = load_arrays(path, _PART, _PART_KIND, ("nodes",), bad)
        tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
        graph = Graph.load(path, check=check)
        nodes, inner = tensors.pop("nodes"), self.book.inner(p)
        if facts.get("number") != p or facts.get("num_inner") != len(inner) or len(nodes) != graph.num_nodes:
            raise bad(f"be part {p} with {len(inner)} nodes", f"{facts.get('number')} with {facts.get('num_inner')}")
        if not torch.equal(nodes[: len(inner)], inner):
            raise bad("hold the nodes that the book gives it", "others")
        for name, values in tensors.items():
            if name != "train_nodes" and len(values) != len(inner):
                raise bad(f"hold {name} of {len(inner)} nodes", len(values))
        return GraphPart(p, graph, nodes, len(inner), **tensors)
