"""Parts of a static graph's nodes: by METIS, by chance, by a hash; how good they are; and who trains on which nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnnaccel.graph._edges import check_range, check_rows
from gnnaccel.graph._level import level_parts
from gnnaccel.graph._metis import metis_parts, symmetric_rows
from gnnaccel.graph.partition import _at_least, _ids, _words
from gnnaccel.graph.static import Graph

__all__ = [
    "BALANCES",
    "METHODS",
    "PartitionQuality",
    "hash_partition",
    "metis_node_partition",
    "node_split",
    "partition_nodes",
    "partition_quality",
    "random_partition",
]

METHODS = ("metis", "random", "hash")
BALANCES = ("nodes", "edges", "train", "both")
_RANDOM, _HASH = 0x70617236, 0x70617237


def random_partition(num_nodes: int, num_parts: int, *, seed: int = 0) -> Tensor:
    """Part of each node, int64 `[N]`: drawn, with sizes that differ by at most 1."""
    _at_least("random_partition", "num_parts", num_parts, 1)
    part = torch.empty(num_nodes, dtype=torch.int64)
    part[_words(num_nodes, seed, 0, _RANDOM).argsort()] = torch.arange(num_nodes) * num_parts // max(num_nodes, 1)
    return part


def hash_partition(num_nodes: int, num_parts: int, *, seed: int = 0) -> Tensor:
    """Part of each node, int64 `[N]`: a function of (seed, node) alone, so that nobody needs a table of it."""
    _at_least("hash_partition", "num_parts", num_parts, 1)
    return _words(num_nodes, seed, 0, _HASH).remainder_(num_parts)


def metis_node_partition(
    graph: Graph,
    num_parts: int,
    *,
    balance: str = "nodes",
    train_mask: Tensor | None = None,
    imbalance: float = 0.03,
    seed: int = 0,
) -> Tensor:
    """Part of each node, int64 `[N]`, by METIS: few edges between parts of about the same size (Karypis and Kumar, 1998).

    METIS sees an undirected graph without loops, in which an edge weighs as much as there are edges between its ends, and one
    weight a node (pymetis has no more), whose sums are balanced:

    - "nodes": 1;
    - "edges": edges into the node, and 1: what a layer computes on;
    - "train": 1, and for a node to train on as much as makes these ten times all others together;
    - "both": as "edges"; then nodes move, those first that cost the fewest edges, until nodes to train on are level, too.

    Args:
        graph: On CPU; its ids are checked, because METIS ends the process on bad ones.
        num_parts: At most as many as nodes.
        train_mask: bool `[N]`; for "train" and "both".
        imbalance: How much heavier than the mean a part may be; METIS may miss it on graphs with large hubs.
        seed: Of METIS' own draws; the same seed gives the same parts on one machine.

    Raises:
        ImportError: pymetis is not installed (`pip install 'gnnaccel[partition]'`).
        ValueError: An argument is out of its range.
    """
    owner = "metis_node_partition"
    _check_parts(owner, graph, num_parts)
    if balance not in BALANCES:
        raise ValueError(f"{owner}: balance must be one of {list(BALANCES)}, got {balance!r}")
    if not 0.001 <= imbalance <= 10:
        raise ValueError(f"{owner}: imbalance must be in [0.001, 10], got {imbalance}")
    weight = _node_weight(owner, graph, balance, train_mask)
    check_rows(owner, graph.indptr, graph.num_edges)
    check_range(owner, "graph.nbr", graph.nbr, graph.num_nodes)
    indptr, nbr, count = symmetric_rows(graph.nbr.long(), graph._row_of_entries(), graph.num_nodes)
    if num_parts == 1:
        return torch.zeros(graph.num_nodes, dtype=torch.int64)
    if len(nbr) == 0:
        return torch.arange(graph.num_nodes) * num_parts // graph.num_nodes
    part = metis_parts(owner, indptr, nbr, count, weight, num_parts, imbalance, seed)
    if balance != "both" or train_mask is None:
        return part
    return level_parts(indptr, nbr, part, torch.stack([graph.in_degree(), train_mask.long()], 1), num_parts, imbalance)


def _check_parts(owner: str, graph: Graph, num_parts: int) -> None:
    _at_least(owner, "num_parts", num_parts, 1)
    if num_parts > max(graph.num_nodes, 1):
        raise ValueError(f"{owner}: num_parts must be at most the number of nodes ({graph.num_nodes}), got {num_parts}")


def _node_weight(owner: str, graph: Graph, balance: str, train_mask: Tensor | None) -> Tensor | None:
    if balance == "nodes":
        return None
    one = torch.ones(graph.num_nodes, dtype=torch.int64)
    if balance == "edges":
        return graph.in_degree() + one
    if train_mask is None or train_mask.dtype != torch.bool or train_mask.shape != one.shape:
        given = "None" if train_mask is None else f"{train_mask.dtype}{list(train_mask.shape)}"
        raise ValueError(f"{owner}: train_mask must be bool [{graph.num_nodes}] for balance={balance!r}, got {given}")
    if balance == "both":
        return graph.in_degree() + one
    each = round(10 * graph.num_nodes / max(int(train_mask.sum()), 1))
    return one + each * train_mask


def partition_nodes(graph: Graph, num_parts: int, method: str = "metis", *, seed: int = 0, **options: Any) -> Tensor:
    """Part of each node, int64 `[N]`, by one of `METHODS`; `options` are those of `metis_node_partition`."""
    _check_parts("partition_nodes", graph, num_parts)
    if method == "metis":
        return metis_node_partition(graph, num_parts, seed=seed, **options)
    if method not in METHODS:
        raise ValueError(f"partition_nodes: method must be one of {list(METHODS)}, got {method!r}")
    return (random_partition if method == "random" else hash_partition)(graph.num_nodes, num_parts, seed=seed)


@dataclass(frozen=True, eq=False)
class PartitionQuality:
    """How good parts are.

    Attributes:
        cut: Edges between nodes of different parts.
        num_edges: All edges.
        nodes: Nodes of each part, int64 `[P]`.
        edges: Edges into the nodes of each part, int64 `[P]`.
        train: Nodes to train on, int64 `[P]`; None without a mask.
        halo: Nodes of other parts with an edge into the part, int64 `[P]`: rows that a layer must fetch.
    """

    cut: int
    num_edges: int
    nodes: Tensor
    edges: Tensor
    train: Tensor | None
    halo: Tensor

    @property
    def cut_share(self) -> float:
        """Of the edges, how many are cut; 0 without edges."""
        return self.cut / max(self.num_edges, 1)

    def imbalance(self, what: str) -> float:
        """Of `nodes`, `edges`, `train` or `halo`: the largest part over the mean, less 1; 0 without any."""
        x = getattr(self, what)
        return 0.0 if x is None or int(x.sum()) == 0 else float(x.max() * len(x) / x.sum() - 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures: dict[str, Any] = {"cut": self.cut, "cut_share": self.cut_share}
        for what in ("nodes", "edges", "train", "halo"):
            if (x := getattr(self, what)) is not None:
                figures[what] = x.tolist()
                figures[f"{what}_imbalance"] = self.imbalance(what)
        return figures


def partition_quality(graph: Graph, part: Tensor, num_parts: int, train_mask: Tensor | None = None) -> PartitionQuality:
    """Measure the parts of a graph. O(M + P (N + cut)).

    Args:
        part: Part of each node, `[N]`.
        train_mask: bool `[N]`, optional.
    """
    part = _ids("partition_quality", "part", part, num_parts)
    if len(part) != graph.num_nodes:
        raise ValueError(f"partition_quality: part must be [{graph.num_nodes}], got [{len(part)}]")
    small = part.int()
    owner = small.repeat_interleave(graph.in_degree(), output_size=graph.num_edges)
    crossing = (owner != small[graph.nbr]).nonzero().squeeze(1)
    owner, source = owner[crossing], graph.nbr[crossing].long()
    halo = []
    for p in range(num_parts):
        seen = torch.zeros(graph.num_nodes, dtype=torch.bool)
        seen[source[owner == p]] = True
        halo.append(int(seen.sum()))
    edges = torch.zeros(num_parts, dtype=torch.int64).index_add_(0, part, graph.in_degree())
    train = None if train_mask is None else torch.bincount(part[train_mask], minlength=num_parts)
    nodes = torch.bincount(part, minlength=num_parts)
    return PartitionQuality(len(crossing), graph.num_edges, nodes, edges, train, torch.tensor(halo))


def node_split(part: Tensor, num_parts: int, nodes: Tensor) -> list[Tensor]:
    """Deal nodes to train on to the parts, as many to each (differing by at most 1), their own where they can.

    Each part keeps its first ones, up to the mean; those that are over go to the parts that have too few, by the part they come
    from and then by id. So parts take the same number of steps an epoch.

    Args:
        part: Part of each node, `[N]`.
        nodes: Ids to deal, distinct.

    Returns:
        Global ids of each part, ascending, int64.
    """
    part = _ids("node_split", "part", part, num_parts)
    nodes = _ids("node_split", "nodes", nodes, len(part)).sort().values
    own = [nodes[part[nodes] == p] for p in range(num_parts)]
    quota = [len(nodes) // num_parts + (p < len(nodes) % num_parts) for p in range(num_parts)]
    over = torch.cat([x[q:] for x, q in zip(own, quota, strict=True)])
    dealt, at = [], 0
    for x, q in zip(own, quota, strict=True):
        lacks = max(0, q - len(x))
        dealt.append(torch.cat([x[:q], over[at : at + lacks]]).sort().values)
        at += lacks
    return dealt
