"""A batch of temporal roots with their sampled neighbours, every node once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gnnaccel.graph.block import Block
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.ops import temporal_sample, unique_nodes


@dataclass(frozen=True)
class TemporalBatch:
    """Roots, their neighbours, and the compact node set that models compute on.

    Attributes:
        roots: Root nodes, `[R]`.
        times: Query time of each root, `[R]`, int64 or float64.
        block: Sampled neighbours of the roots, `[R, K]`.
        nodes: Distinct nodes among roots and neighbours in order of first appearance, int64 `[U]`.
        root_row: Row of each root in `nodes`, int64 `[R]`.
        nbr_row: Row of each neighbour in `nodes`, int64 `[R, K]`, -1 past `count`.
        seed: Seed of this batch's dropout; the same batch gets the same mask on every device.
    """

    roots: Tensor
    times: Tensor
    block: Block
    nodes: Tensor
    root_row: Tensor
    nbr_row: Tensor
    seed: int = 0

    def to(self, device: torch.device | str) -> TemporalBatch:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in ("seed",)}
        return replace(self, **moved)


def build_batch(
    graph: TemporalGraph,
    roots: Tensor,
    times: Tensor,
    *,
    fanout: int,
    strategy: str = "recent",
    semantics: str = "strict",
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    batch_start: tuple[int | float, int] | None = None,
    event_ids: Tensor | None = None,
) -> TemporalBatch:
    """Sample the neighbours of `(roots, times)` and number the distinct nodes.

    Args are those of `gnnaccel.temporal_sample`; `seed`, `epoch` and `batch` also key the dropout of the batch.
    """
    block = temporal_sample(
        graph,
        roots,
        times,
        fanout=fanout,
        strategy=strategy,
        semantics=semantics,
        seed=seed,
        epoch=epoch,
        batch=batch,
        batch_start=batch_start,
        event_ids=event_ids,
    )
    ids = torch.cat([roots.to(block.nbr.dtype), block.nbr.reshape(-1)])
    nodes, row = unique_nodes(ids, num_nodes=graph.num_nodes)
    row = row.long()
    return TemporalBatch(
        roots=roots,
        times=times,
        block=block,
        nodes=nodes.long(),
        root_row=row[: len(roots)],
        nbr_row=row[len(roots) :].reshape(block.nbr.shape),
        seed=dropout_seed(seed, epoch, batch),
    )


def dropout_seed(seed: int, epoch: int, batch: int) -> int:
    """One 63-bit seed from three counters (multiplicative hashing; distinct batches get unrelated masks)."""
    mixed = (
        seed * 0x9E3779B97F4A7C15 + epoch * 0xC2B2AE3D27D4EB4F + batch * 0x165667B19E3779F9 + 0x27D4EB2F165667C5
    ) & (2**64 - 1)
    mixed ^= mixed >> 29
    return (mixed * 0xBF58476D1CE4E5B9 & (2**64 - 1)) >> 1
