"""Parts of a graph: relations dealt to parts, METIS partitions of nodes, and orders of edges in which batches share rows.

All of it is a function of its arguments, on CPU, and ids are global everywhere but in what is called local.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gnnaccel.graph._metis import metis_parts, symmetric_rows
from gnnaccel.ops._philox import LOW, philox4x32

__all__ = [
    "LocalityOrder",
    "NodeBook",
    "PartitionBook",
    "RelationPartition",
    "locality_order",
    "metis_partition",
    "relation_partition",
]

# Streams of words: they keep these draws apart
_RELATIONS, _PARTS, _DEALT, _LABELS, _EDGES = range(0x70617230, 0x70617235)
_CHUNK = 1 << 18


def _words(n: int, seed: int, epoch: int, stream: int) -> Tensor:
    """62 random bits for each of n items, int64: a function of (seed, epoch, stream, item)."""
    out = torch.empty(n, dtype=torch.int64)
    rest = torch.tensor(epoch & LOW), torch.tensor(stream)
    for i in range(0, n, _CHUNK):
        item = torch.arange(i, min(n, i + _CHUNK))
        high, low, _, _ = philox4x32((item & LOW, item >> 32, *rest), seed)
        out[i : i + _CHUNK] = high >> 1 << 31 | low >> 1
    return out


def _ids(owner: str, name: str, ids: Any, limit: int | None = None) -> Tensor:
    ids = torch.as_tensor(ids).cpu()
    if ids.dim() != 1 or ids.dtype not in (torch.int64, torch.int32):
        given = f"{str(ids.dtype).removeprefix('torch.')}{list(ids.shape)}"
        raise ValueError(f"{owner}: {name} must be int64 or int32 [n], got {given}")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < (2**63 if limit is None else limit):
        bounds = "at least 0" if limit is None else f"in [0, {limit})"
        raise ValueError(f"{owner}: {name} must be {bounds}, got {int(ids.min())}..{int(ids.max())}")
    return ids.long()


def _at_least(owner: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {value}")


def _offsets(count: Tensor) -> Tensor:
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


@dataclass(frozen=True, eq=False)
class RelationPartition:
    """Which part works on which triples, by their relations.

    Attributes:
        part: Part of each triple, int64 `[T]`.
        relation_part: Part of each relation, int64 `[R]`; -1 for those split over all parts, and for those without triples.
        count: Triples of each part, int64 `[num_parts]`.
    """

    part: Tensor
    relation_part: Tensor
    count: Tensor


def relation_partition(
    relation: Tensor,
    num_parts: int,
    *,
    num_relations: int | None = None,
    share: float = 0.05,
    seed: int = 0,
    epoch: int = 0,
) -> RelationPartition:
    """Deal triples to parts so that most relations belong to one part, whose rows no other part then touches.

    Greedy, by frequency (Zheng et al., DGL-KE, SIGIR 2020): a relation with more than `share` of the triples, or with more
    than a part should have, is dealt evenly to all parts, a triple at a time; of the others each goes as a whole to the part
    with the fewest triples, the frequent ones first. Frequent means: of more binary digits. Among relations whose counts have
    as many digits, among equally full parts, and among the triples of a split relation, chance decides, so that every epoch has
    another partition.

    Args:
        relation: Relation of each triple, `[T]`, int64 or int32.
        num_parts: How many parts.
        num_relations: R; None: the largest id and one.
        share: Of all triples, from which on a relation is split; DGL-KE's is 0.05.
        seed, epoch: Of the draws, and of nothing else.

    Raises:
        ValueError: An argument is out of its range.
    """
    owner = "relation_partition"
    relation = _ids(owner, "relation", relation, num_relations)
    _at_least(owner, "num_parts", num_parts, 1)
    if not 0 < share <= 1:
        raise ValueError(f"{owner}: share must be in (0, 1], got {share}")
    T = len(relation)
    R = num_relations if num_relations is not None else int(relation.max()) + 1 if T else 0
    count = torch.bincount(relation, minlength=R)
    split = count > min(share * T, T / num_parts) if num_parts > 1 else torch.zeros(R, dtype=torch.bool)

    part = torch.empty(T, dtype=torch.int64)
    dealt = split[relation].nonzero().squeeze(1)
    dealt = dealt[_words(len(dealt), seed, epoch, _DEALT).argsort()]
    # one relation after the other, and each goes on where the one before stopped
    dealt = dealt[relation[dealt].argsort(stable=True)]
    part[dealt] = torch.arange(len(dealt)) % num_parts
    load = torch.bincount(part[dealt], minlength=num_parts).tolist()

    whole = ((count > 0) & ~split).nonzero().squeeze(1)
    whole = whole[_words(R, seed, epoch, _RELATIONS)[whole].argsort()]
    digits = torch.frexp(count[whole].double()).exponent
    whole = whole[digits.argsort(descending=True, stable=True)]
    chance = _words(num_parts, seed, epoch, _PARTS).tolist()
    heap = [(load[p], chance[p], p) for p in range(num_parts)]
    heapq.heapify(heap)
    relation_part = torch.full((R,), -1, dtype=torch.int64)
    for r, n in zip(whole.tolist(), count[whole].tolist(), strict=True):
        full, word, p = heap[0]
        heapq.heapreplace(heap, (full + n, word, p))
        relation_part[r] = p
    own = relation_part[relation]
    part = torch.where(own >= 0, own, part)
    return RelationPartition(part, relation_part, torch.bincount(part, minlength=num_parts))


@dataclass(frozen=True, eq=False)
class NodeBook:
    """Which part owns which node. Made by `of_parts`.

    Attributes:
        num_parts: P.
        part: Part of each node, int64 `[N]`.
        local: Number of each node in its own part, int64 `[N]`: ascending by global id.
        nodes, indptr: Nodes by part, int64 `[N]` and `[P + 1]`.
    """

    num_parts: int
    part: Tensor
    local: Tensor
    nodes: Tensor
    indptr: Tensor

    @staticmethod
    def of_parts(part: Tensor, num_parts: int) -> NodeBook:
        """From the part of each node."""
        part = _ids("NodeBook", "part", part, num_parts)
        return NodeBook(num_parts, part, *_numbered(part, num_parts))

    def inner(self, p: int) -> Tensor:
        """Global ids of the nodes of part p, ascending."""
        return self.nodes[int(self.indptr[p]) : int(self.indptr[p + 1])]


def _numbered(part: Tensor, num_parts: int) -> tuple[Tensor, Tensor, Tensor]:
    """`local`, `nodes` and `indptr` of a book."""
    nodes = part.argsort(stable=True)
    indptr = _offsets(torch.bincount(part, minlength=num_parts))
    local = torch.empty_like(nodes)
    local[nodes] = torch.arange(len(part)) - indptr[part[nodes]]
    return local, nodes, indptr


@dataclass(frozen=True, eq=False)
class PartitionBook(NodeBook):
    """Which part owns which node, and what each part sees of the others. Made by `of` or `metis_partition`.

    Locally a part numbers its own nodes from 0, ascending by global id, and then its halo: nodes of other parts with an edge
    to or from one of its own. An edge belongs to the part of its source.

    Attributes:
        num_parts, part, local, nodes, indptr: As in `NodeBook`.
        halo_nodes, halo_indptr: Halos, one part after the other, ascending by global id.
        edge_part: Part of each edge, int64 `[E]`.
        cut: Edges between nodes of different parts.
    """

    halo_nodes: Tensor
    halo_indptr: Tensor
    edge_part: Tensor
    cut: int

    @classmethod
    def of(cls, part: Tensor, src: Tensor, dst: Tensor, num_parts: int) -> PartitionBook:
        """From the part of each node, and the edges."""
        owner = "PartitionBook"
        part = _ids(owner, "part", part, num_parts)
        N = len(part)
        src, dst = _ids(owner, "src", src, N), _ids(owner, "dst", dst, N)
        if len(src) != len(dst):
            raise ValueError(f"{owner}: dst must be as long as src ({len(src)}), got {len(dst)}")
        local, nodes, indptr = _numbered(part, num_parts)
        edge_part, other = part[src], part[dst]
        crossing = edge_part != other
        seen = torch.cat([edge_part[crossing] * N + dst[crossing], other[crossing] * N + src[crossing]]).unique()
        halo_indptr = _offsets(torch.bincount(seen // max(N, 1), minlength=num_parts))
        return cls(num_parts, part, local, nodes, indptr, seen % max(N, 1), halo_indptr, edge_part, int(crossing.sum()))

    def halo(self, p: int) -> Tensor:
        """Global ids of the halo of part p, ascending."""
        return self.halo_nodes[int(self.halo_indptr[p]) : int(self.halo_indptr[p + 1])]

    def local_to_global(self, p: int) -> Tensor:
        """Global id of each local one of part p."""
        return torch.cat([self.inner(p), self.halo(p)])

    def to_local(self, p: int, ids: Tensor) -> Tensor:
        """Local numbers in part p, int64, shape of `ids`; -1 for nodes it does not see."""
        halo = self.halo(p)
        if len(halo) == 0:
            return torch.where(self.part[ids] == p, self.local[ids], -1)
        at = torch.searchsorted(halo, ids.long()).clamp_(max=len(halo) - 1)
        outside = torch.where(halo[at] == ids, at + len(self.inner(p)), -1)
        return torch.where(self.part[ids] == p, self.local[ids], outside)

    def edges(self, p: int) -> Tensor:
        """Positions of the edges of part p, ascending."""
        return (self.edge_part == p).nonzero().squeeze(1)

    @cached_property
    def cut_share(self) -> float:
        """Of the edges, how many are cut; 0 without edges."""
        return self.cut / max(len(self.edge_part), 1)

    @cached_property
    def imbalance(self) -> float:
        """Nodes of the largest part over the mean, less 1."""
        return int(self.indptr.diff().max()) * self.num_parts / max(len(self.part), 1) - 1


def metis_partition(
    src: Tensor,
    dst: Tensor,
    num_parts: int,
    *,
    num_nodes: int | None = None,
    balance: str = "nodes",
    imbalance: float = 0.03,
    seed: int = 0,
) -> PartitionBook:
    """Cut a graph into parts of about the same size with few edges between them, by METIS (Karypis and Kumar, 1998).

    METIS sees an undirected graph without loops, in which an edge weighs as much as there are edges between its ends.

    Args:
        src, dst: Ends of the edges (heads and tails of triples), `[E]`, int64 or int32.
        num_parts: How many parts, at most as many as nodes.
        num_nodes: N; None: the largest id and one.
        balance: What parts have as much of: "nodes", or "edges", where a node weighs its degree and one.
        imbalance: How much larger than the mean a part may be; METIS may miss it on graphs with large hubs.
        seed: Of METIS' own draws; the same seed gives the same parts on one machine.

    Raises:
        ImportError: pymetis is not installed (`pip install 'gnnaccel[partition]'`).
        ValueError: An argument is out of its range.
    """
    owner = "metis_partition"
    src, dst = _ids(owner, "src", src, num_nodes), _ids(owner, "dst", dst, num_nodes)
    if len(src) != len(dst):
        raise ValueError(f"{owner}: dst must be as long as src ({len(src)}), got {len(dst)}")
    N = num_nodes if num_nodes is not None else max(int(x.max()) + 1 if len(x) else 0 for x in (src, dst))
    _at_least(owner, "num_parts", num_parts, 1)
    if num_parts > max(N, 1):
        raise ValueError(f"{owner}: num_parts must be at most the number of nodes ({N}), got {num_parts}")
    if balance not in ("nodes", "edges"):
        raise ValueError(f"{owner}: balance must be nodes or edges, got {balance!r}")
    if not 0.001 <= imbalance <= 10:
        raise ValueError(f"{owner}: imbalance must be in [0.001, 10], got {imbalance}")
    indptr, nbr, count = symmetric_rows(src, dst, N)
    if len(nbr) == 0 or num_parts == 1:
        return PartitionBook.of(torch.arange(N) * num_parts // max(N, 1), src, dst, num_parts)
    degree = None if balance == "nodes" else torch.bincount(torch.cat([src, dst]), minlength=N) + 1
    part = metis_parts(owner, indptr, nbr, count, degree, num_parts, imbalance, seed)
    return PartitionBook.of(part, src, dst, num_parts)


@dataclass(frozen=True, eq=False)
class LocalityOrder:
    """An order of edges in which few parts are in use at a time.

    Attributes:
        positions: Every edge once, int64 `[E]`: batches are consecutive slices.
        group: When each edge comes: edges of one group use the same `resident` parts; int64 `[E]`.
        indptr: Where in `positions` each group begins, int64 `[G + 1]`.
        resident: The parts in use in each group, `[G]`.
    """

    positions: Tensor
    group: Tensor
    indptr: Tensor
    resident: tuple[tuple[int, ...], ...]

    @cached_property
    def loads(self) -> int:
        """How many parts come into use, one after the other, in an epoch."""
        before = [set(), *map(set, self.resident)]
        return sum(len(now - then) for now, then in zip(before[1:], before[:-1], strict=True))


def _residents(parts: list[int], capacity: int) -> list[tuple[int, ...]]:
    """All pairs of parts, with `capacity` at a time: all but one stay while the others come in turn, and then never again."""
    groups = []
    while len(parts) > capacity:
        fixed, others = parts[: capacity - 1], parts[capacity - 1 :]
        groups += [(*fixed, other) for other in others]
        parts = others[::-1]  # the last that came is the first to stay
    return [*groups, tuple(parts)]


def locality_order(
    src_part: Tensor, dst_part: Tensor, num_parts: int, *, resident: int = 2, seed: int = 0, epoch: int = 0
) -> LocalityOrder:
    """Order edges so that consecutive batches use rows of the same few parts of nodes.

    Edges are in buckets by the parts of their ends. With room for `resident` parts, all but one of them stay while the others
    come in turn; then those that stayed have met all others, and are done (as in the BETA order of Mohoney et al., Marius, OSDI
    2021: far fewer parts are loaded than there are buckets). The buckets that a new part opens are shuffled together. Parts
    change their places, and edges their order, with every epoch.

    Args:
        src_part, dst_part: Parts of the ends of each edge, `[E]`, e.g. `book.part[head]` and `book.part[tail]`.
        num_parts: P.
        resident: Parts whose rows are kept at a time, at least 2.
        seed, epoch: Of the draws.

    Raises:
        ValueError: An argument is out of its range.
    """
    owner = "locality_order"
    _at_least(owner, "num_parts", num_parts, 1)
    _at_least(owner, "resident", resident, 2)
    src_part, dst_part = _ids(owner, "src_part", src_part, num_parts), _ids(owner, "dst_part", dst_part, num_parts)
    if len(src_part) != len(dst_part):
        raise ValueError(f"{owner}: dst_part must be as long as src_part ({len(src_part)}), got {len(dst_part)}")
    groups = _residents(_words(num_parts, seed, epoch, _LABELS).argsort().tolist(), resident)
    first = torch.empty(num_parts, num_parts, dtype=torch.int64)
    for g in reversed(range(len(groups))):
        at = torch.tensor(groups[g])
        first[at[:, None], at] = g
    group = first[src_part, dst_part]
    positions = _words(len(group), seed, epoch, _EDGES).argsort()
    positions = positions[group[positions].argsort(stable=True)]
    indptr = _offsets(torch.bincount(group, minlength=len(groups)))
    return LocalityOrder(positions, group, indptr, tuple(groups))
