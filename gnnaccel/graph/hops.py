"""Neighbours of nodes of a static graph, one hop and several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from gnnaccel.ops.neighbor_sample import neighbor_sample as _neighbor_sample
from gnnaccel.ops.sample_hops import sample_hops as _sample_hops

Self = TypeVar("Self", bound="_Tensors")


class Rows(Protocol):
    """What is sampled from: the arrays of a `gnnaccel.Graph`."""

    indptr: Tensor
    nbr: Tensor
    eid: Tensor
    relation: Tensor | None
    weight: Tensor | None
    num_relations: int


class _Tensors:
    def to(self: Self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on `device`."""

        def move(x: Any) -> Any:
            if isinstance(x, list):
                return [move(y) for y in x]
            return x.to(device, non_blocking=non_blocking) if isinstance(x, (Tensor, _Tensors)) else x

        return type(self)(*(move(getattr(self, f.name)) for f in fields(self)))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class NeighborBlock(_Tensors):
    """Sampled neighbours of R roots, K slots each, in the order of the graph's rows. Slots past `count` hold -1 (weights: 0).

    Attributes:
        nbr: Neighbours, `[R, K]`, dtype of the graph's.
        eid: Ids of the edges that led to them, as `nbr`; None if not asked for.
        count: Slots in use, int32 `[R]`.
        relation: Relations of the edges, int16 `[R, K]`; None on a graph without.
        weight: Weights of the edges, float32 `[R, K]`; None on a graph without.
    """

    nbr: Tensor
    eid: Tensor | None
    count: Tensor
    relation: Tensor | None
    weight: Tensor | None


@dataclass(frozen=True)
class HopBlock(_Tensors):
    """The edges of one hop among the nodes of a `Hops`: from `.nodes[:num_src]` to `.nodes[:R]`.

    Attributes:
        row: Sources of the edges as positions in `.nodes[:num_src]`, int32 `[R, K]`, -1 past `count`.
        count: Slots in use, int32 `[R]`.
        num_src: Number of nodes that the sources are among; the destinations come first.
        eid, relation, weight: As in `NeighborBlock`.
    """

    row: Tensor
    count: Tensor
    num_src: int
    eid: Tensor | None
    relation: Tensor | None
    weight: Tensor | None

    @property
    def num_dst(self) -> int:
        """R."""
        return self.count.shape[0]


@dataclass(frozen=True)
class Hops(_Tensors):
    """A sampled neighbourhood, its nodes numbered.

    Attributes:
        nodes: All nodes, each once, `[S]`, dtype of the graph's `nbr`: seeds first, then new ones hop by hop in order of first
            appearance. So the nodes of each hop are a prefix of those of the next.
        layers: From the input side to the seeds: a model applies its first layer to `layers[0]`, whose sources are all nodes;
            the destinations of the last are the seeds.
    """

    nodes: Tensor
    layers: list[HopBlock]

    @property
    def num_edges(self) -> int:
        """Edges of all layers. On a GPU this waits for the device."""
        return sum(int(layer.count.sum()) for layer in self.layers)


def neighbor_sample(
    graph: Rows,
    nodes: Tensor,
    fanout: int | Sequence[int] | None = 10,
    *,
    strategy: str = "uniform",
    replace: bool = False,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    hop: int = 0,
    edge_ids: bool = True,
    exclude: Tensor | None = None,
) -> NeighborBlock:
    """Sample up to `fanout` neighbours of each of `nodes`.

    Args:
        graph: A `gnnaccel.Graph`: rows of in-neighbours.
        nodes: Roots, `[R]`, int64 or int32. -1 is padding and has no neighbours.
        fanout: Slots a root, at least 1; or one number for each relation, of which some may be 0. None with `"all"`.
        strategy: `"uniform"`: every neighbour equally likely. `"weighted"`: in proportion to `graph.weight`; 0 is never drawn.
            `"all"`: every neighbour; as many slots as the largest degree among `nodes`, at least 1.
        replace: Whether a neighbour may be drawn several times. Without, rows of at most `fanout` neighbours come whole.
        seed: 64 bits; with `epoch`, `batch`, `hop` (0..255) and the position of a root in `nodes` it keys the draws.
        edge_ids: Whether to return the ids of the edges.
        exclude: Edge ids that are never taken, ascending int64 `[X]`.

    Determinism: the same draws on every device and for any number of threads.

    Raises:
        TypeError, ValueError: As `gnnaccel.ops.neighbor_sample`, which has the details.
    """
    out = _neighbor_sample(
        graph.indptr,
        graph.nbr,
        nodes,
        fanout,
        eid=graph.eid,
        relation=graph.relation,
        weight=graph.weight,
        num_relations=graph.num_relations,
        strategy=strategy,
        replace=replace,
        seed=seed,
        epoch=epoch,
        batch=batch,
        hop=hop,
        edge_ids=edge_ids,
        exclude=exclude,
    )
    return NeighborBlock(*out)


def sample_hops(
    graph: Rows,
    seeds: Tensor,
    fanouts: Sequence[int | Sequence[int]],
    *,
    strategy: str = "uniform",
    replace: bool = False,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    edge_ids: bool = False,
    exclude: Tensor | None = None,
) -> Hops:
    """Sample the neighbourhood of `seeds` hop by hop, each hop for all nodes so far, and number its nodes.

    Args:
        graph: A `gnnaccel.Graph`.
        seeds: Distinct nodes, `[B]`, int64 or int32.
        fanouts: Slots a root for each hop, from the seeds outwards: (15, 10, 5) gives each seed 15 neighbours, like PyG; DGL
            lists the other way round. An entry may be -1 (all neighbours; as many slots as the largest degree among the roots)
            or have one number for each relation.
        edge_ids: Whether to return the ids of the edges.
        exclude: Edge ids that are never taken, ascending int64 `[X]`: in link prediction those of the batch and their reverses.

    The other arguments are `neighbor_sample`'s; hop h draws with `hop=h`.

    Cost: one call for all hops. New nodes are numbered by a table of 4 bytes a node of the graph, which outlives the call (on
    CPU).

    Determinism: the same bits for any number of threads and on every device.

    Raises:
        TypeError, ValueError: As `gnnaccel.ops.sample_hops`, which has the details.
    """
    nodes, row, count, eid, relation, weight = _sample_hops(
        graph.indptr,
        graph.nbr,
        seeds,
        fanouts,
        eid=graph.eid,
        relation=graph.relation,
        weight=graph.weight,
        num_relations=graph.num_relations,
        strategy=strategy,
        replace=replace,
        seed=seed,
        epoch=epoch,
        batch=batch,
        edge_ids=edge_ids,
        exclude=exclude,
    )
    sizes = [*(len(c) for c in count[1:]), len(nodes)]
    layers = [
        HopBlock(
            row[h],
            count[h],
            sizes[h],
            eid[h] if eid else None,
            relation[h] if relation else None,
            weight[h] if weight else None,
        )
        for h in reversed(range(len(row)))
    ]
    return Hops(nodes, layers)
