"""A batch of temporal roots with their sampled neighbours, every node once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gnnaccel.graph import _mapped
from gnnaccel.graph.block import Block, sample_before, temporal_sample
from gnnaccel.graph.semantics import TimeSemantics
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.ops import gather_rows, unique_nodes
from gnnaccel.ops.temporal_sample import STRATEGIES


@dataclass(frozen=True)
class Sampling:
    """Which neighbours a model wants.

    Attributes:
        fanouts: Neighbours a root, hop by hop from the roots outwards; empty for a model that needs none.
        strategy: "recent" or "uniform".
        replace: Uniform draws with replacement.
        window: Only events at most this long before the query (None: all). With snapshots, the length of one.
        hop_time: Time at which the neighbours of a neighbour are asked for: of the "edge" that led there, or of the "root".
        snapshots: Ranges of time that are sampled apart: snapshot j asks at time t - j * window. Whatever the semantics, those
            with j > 0 end before that time, so that no event is in two of them.
        ends_only: Sample for the ends of the batch's events alone, not for candidates, and give the neighbours no rows: for
            models that send mail to neighbours and read none. One hop.
        per_time: Rows of the node table are distinct (node, time) pairs instead of nodes, for models whose input to the
            first layer depends on the time of the query.
    """

    fanouts: tuple[int, ...] = (10,)
    strategy: str = "recent"
    replace: bool = False
    window: int | float | None = None
    hop_time: str = "edge"
    snapshots: int = 1
    ends_only: bool = False
    per_time: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "fanouts", tuple(self.fanouts))
        if any(k < 1 for k in self.fanouts):
            raise ValueError(f"Sampling: fanouts must be at least 1, got {list(self.fanouts)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"Sampling: strategy must be one of {list(STRATEGIES)}, got {self.strategy!r}")
        if self.ends_only and len(self.fanouts) > 1:
            raise ValueError(f"Sampling: fanouts must have one hop with ends_only, got {list(self.fanouts)}")
        if self.snapshots < 1:
            raise ValueError(f"Sampling: snapshots must be at least 1, got {self.snapshots}")
        if self.snapshots > 1 and self.window is None:
            raise ValueError(f"Sampling: window must be given for {self.snapshots} snapshots, got None")


@dataclass(frozen=True)
class Hop:
    """The wiring of one layer: it reads a table of rows and gives one row a root.

    Attributes:
        block: Neighbours of the hop's roots, `[P, K]`.
        root_row: Row of each root in the layer's input table, int64 `[P]`.
        nbr_row: Row of each neighbour in it, int64 `[P, K]`, -1 past `count`.
    """

    block: Block
    root_row: Tensor
    nbr_row: Tensor

    def to(self, device: torch.device | str) -> Hop:
        return Hop(self.block.to(device), self.root_row.to(device), self.nbr_row.to(device))


@dataclass(frozen=True)
class TemporalBatch:
    """Roots, their neighbours, and the compact node set that models compute on.

    Attributes:
        roots: Root nodes, `[R]`.
        times: Query time of each root, `[R]`, int64 or float64.
        nodes: Rows of the node table in order of first appearance, int64 `[U]`: the distinct nodes among roots and
            neighbours, or the distinct (node, time) pairs (`Sampling.per_time`).
        root_row: Row of each root in `nodes`, int64 `[R]`.
        chains: The hops of each snapshot, oldest snapshot first; within one, innermost hop first. The first hop reads the
            node table, the next one the rows that the first gives, and so on; roots of the last hop are `roots` in order.
        node_times: Time of each row of `nodes`, `[U]`, if rows are pairs; else None.
        seed: Seed of this batch's dropout; the same batch gets the same mask on every device.
    """

    roots: Tensor
    times: Tensor
    nodes: Tensor
    root_row: Tensor
    chains: tuple[tuple[Hop, ...], ...] = ((),)
    node_times: Tensor | None = None
    seed: int = 0

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The hops of the newest snapshot, innermost first."""
        return self.chains[-1]

    @property
    def block(self) -> Block:
        """Neighbours of the roots, `[R, K]`, in the newest snapshot."""
        return self.hops[-1].block

    @property
    def nbr_row(self) -> Tensor:
        """Row of each neighbour of the roots in the table that the last hop reads, `[R, K]`."""
        return self.hops[-1].nbr_row

    def gather_edges(self, edge_feat: Tensor, dtype: torch.dtype) -> tuple[TemporalBatch, Tensor]:
        """The batch with events numbered anew, and a table `[n, dim_edge]` of just its events' features, in `dtype`.

        So a table of all events may be of a smaller dtype than the model computes in, and memory-mapped: what is read of it are
        the rows of this batch.
        """
        hops = [hop for chain in self.chains for hop in chain]
        if not hops:
            return self, edge_feat[:0].to(dtype)
        ids = torch.cat([hop.block.eid.reshape(-1) for hop in hops])
        distinct, row = unique_nodes(ids)  # by hashing: a table of all events would cost more the longer the history
        rows = iter(row.split([hop.block.eid.numel() for hop in hops]))

        def renumbered(hop: Hop) -> Hop:
            eid = next(rows).reshape(hop.block.eid.shape)
            return replace(hop, block=replace(hop.block, eid=eid))

        chains = tuple(tuple(renumbered(hop) for hop in chain) for chain in self.chains)
        rows_of_batch = gather_rows(edge_feat, distinct, dtype=dtype)
        _mapped.trim()
        return replace(self, chains=chains), rows_of_batch

    def to(self, device: torch.device | str) -> TemporalBatch:
        moved = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **moved, chains=tuple(tuple(hop.to(device) for hop in chain) for chain in self.chains))


def build_batch(
    graph: TemporalGraph,
    roots: Tensor,
    times: Tensor,
    sampling: Sampling | None = None,
    *,
    semantics: str | TimeSemantics = "strict",
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    batch_start: tuple[int | float, int] | None = None,
    event_ids: Tensor | None = None,
    ends: int | None = None,
) -> TemporalBatch:
    """Sample the neighbours of `(roots, times)` and number the distinct nodes.

    Args:
        sampling: Which neighbours; by default the ten most recent.
        ends: How many of the roots, from the first on, are ends of the batch's events (for `Sampling.ends_only`).

    The others are `gnnaccel.temporal_sample`'s; `seed`, `epoch` and `batch` also key the dropout of the batch. Of several hops,
    all but the first sample each distinct (node, time) pair once, and key its draws by the pair: they change with the batch's
    number, not with what else is in the batch.
    """
    sampling = Sampling() if sampling is None else sampling
    rule = TimeSemantics.of(semantics)
    if sampling.hop_time != rule.hop_time:
        rule = replace(rule, hop_time=sampling.hop_time)
    how = {"semantics": rule, "seed": seed, "epoch": epoch, "batch": batch, "batch_start": batch_start}
    window = _window(sampling.window, times.dtype)
    chains = []
    for j in reversed(range(sampling.snapshots)):
        at = times if j == 0 or window is None else times - j * window
        ids = event_ids if j == 0 or rule.mode != "by_event_id" else None  # of older ones the time alone is asked
        chains.append(_sample_chain(graph, roots, at, sampling, window, ids, ends, 16 * j, how))
    # all chains end in one table of nodes
    asked = _Points(roots, times, None)
    read = [] if sampling.ends_only else [p for _, points in chains for p in points if p.nodes is not roots]
    table, rows = _number([asked, *read], graph.num_nodes, sampling.per_time)
    root_row, rest = rows[0], iter(rows[1:])
    hops = []
    for chain, points in chains:
        if points and sampling.ends_only:
            block = chain[0].block
            chain = (Hop(block, root_row[: len(block.count)], torch.full_like(block.nbr, -1, dtype=torch.int64)),)
        elif points:
            inner, block = points[0], chain[0].block
            inner_row = root_row if inner.nodes is roots else next(rest)
            chain = (Hop(block, inner_row, next(rest).reshape(block.nbr.shape)), *chain[1:])
        hops.append(chain)
    return TemporalBatch(
        roots=roots,
        times=times,
        nodes=table.nodes,
        root_row=root_row,
        chains=tuple(hops),
        node_times=table.times if sampling.per_time else None,
        seed=dropout_seed(seed, epoch, batch),
    )


@dataclass(frozen=True)
class _Points:
    """Nodes at times, padded with -1; `event_ids` where the semantics order by them."""

    nodes: Tensor
    times: Tensor
    event_ids: Tensor | None

    def keys(self) -> list[Tensor]:
        return [self.times] if self.event_ids is None else [self.times, self.event_ids]

    def draw_keys(self) -> Tensor:
        """64 bits that depend on a point and not on where it stands, int64 `[P]`."""
        mixed = _mix(self.nodes.long())
        for key in self.keys():
            bits = (key + 0.0).view(torch.int64) if key.dtype == torch.float64 else key  # -0.0 is 0.0
            mixed = _mix(mixed + bits)
        return mixed


def _sample_chain(
    graph: TemporalGraph,
    roots: Tensor,
    times: Tensor,
    sampling: Sampling,
    window: int | float | None,
    event_ids: Tensor | None,
    ends: int | None,
    first_hop: int,
    how: dict,
) -> tuple[tuple[Hop, ...], list[_Points]]:
    """The hops of one snapshot, innermost first, and what the innermost reads: its roots, then their neighbours.

    The rows of the innermost hop are still to be numbered.
    """
    hops: list[Hop] = []
    points = _Points(roots, times, event_ids)
    if sampling.ends_only and ends is not None and sampling.fanouts:
        points = _Points(roots[:ends], times[:ends], None if event_ids is None else event_ids[:ends])
    for depth, fanout in enumerate(sampling.fanouts):
        block = (sample_before if first_hop else temporal_sample)(
            graph,
            points.nodes,
            points.times,
            fanout,
            sampling.strategy,
            sampling.replace,
            window,
            hop=first_hop + depth,
            event_ids=points.event_ids,
            draw_keys=points.draw_keys() if depth > 0 and sampling.strategy == "uniform" else None,
            **how,
        )
        neighbours = _neighbours(block, points, sampling.hop_time)
        if depth + 1 == len(sampling.fanouts):
            hops.insert(0, Hop(block, points.nodes, block.nbr))
            return tuple(hops), [points, neighbours]
        table, (root_row, nbr_row) = _number([points, neighbours], graph.num_nodes, True)
        hops.insert(0, Hop(block, root_row, nbr_row.reshape(block.nbr.shape)))
        points = table
    return (), []


def _neighbours(block: Block, points: _Points, hop_time: str) -> _Points:
    if hop_time == "edge":
        ids = None if points.event_ids is None else block.eid.reshape(-1).to(torch.int64)
        return _Points(block.nbr.reshape(-1), block.t.reshape(-1), ids)
    fanout = block.nbr.shape[1]
    ids = None if points.event_ids is None else points.event_ids.repeat_interleave(fanout)
    return _Points(block.nbr.reshape(-1), points.times.repeat_interleave(fanout), ids)


def _number(parts: list[_Points], num_nodes: int, by_time: bool) -> tuple[_Points, list[Tensor]]:
    """Distinct nodes, or (node, time) pairs, of all parts in order of first appearance, and the row of each point there."""
    dtype = parts[-1].nodes.dtype
    nodes = torch.cat([p.nodes.to(dtype) for p in parts])
    if not by_time:
        distinct, row = unique_nodes(nodes, num_nodes=num_nodes)
        table = _Points(distinct.long(), distinct, None)
    else:
        columns = [torch.cat(c) for c in zip(*(p.keys() for p in parts), strict=True)]
        row, codes = nodes.long(), []
        for column in columns:
            rank, values = _ranks(column)
            code, row = unique_nodes(torch.where(row < 0, -1, row * len(values) + rank))
            codes.append((code, values))
        at, picked = torch.arange(len(codes[-1][0]), device=row.device), []
        for code, values in reversed(codes):
            picked.insert(0, values[code[at] % len(values)])
            at = code[at] // len(values)
        table = _Points(at, picked[0], picked[1] if len(picked) > 1 else None)
    return table, list(row.long().split([len(p.nodes) for p in parts]))


def _ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values, and the index of each value among them."""
    if len(values) == 0:
        return values.long(), values.new_zeros(1)
    if values.min() < 0:  # a negative id is padding to unique_nodes
        distinct, rank = torch.unique(values, return_inverse=True)
    elif values.dtype == torch.float64:
        bits, rank = unique_nodes((values + 0.0).view(torch.int64))
        distinct = bits.view(torch.float64)
    else:
        distinct, rank = unique_nodes(values.long())
    return rank, distinct


def _mix(x: Tensor) -> Tensor:
    """A step of SplitMix64 (Steele et al., OOPSLA 2014), a bijection of int64; sums and products wrap."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ (x >> 30 & 2**34 - 1)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ (x >> 27 & 2**37 - 1)) * (0x94D049BB133111EB - 2**64)
    return x ^ (x >> 31 & 2**33 - 1)


def _window(window: int | float | None, dtype: torch.dtype) -> int | float | None:
    if window is None or dtype == torch.float64:
        return window
    if window != int(window):
        raise ValueError(f"Sampling: window must be a whole number for integer times, got {window}")
    return int(window)


def dropout_seed(seed: int, epoch: int, batch: int) -> int:
    """One 63-bit seed from three counters (multiplicative hashing; distinct batches get unrelated masks)."""
    mixed = (
        seed * 0x9E3779B97F4A7C15 + epoch * 0xC2B2AE3D27D4EB4F + batch * 0x165667B19E3779F9 + 0x27D4EB2F165667C5
    ) & (2**64 - 1)
    mixed ^= mixed >> 29
    return (mixed * 0xBF58476D1CE4E5B9 & (2**64 - 1)) >> 1
