"""Sampling one hop and several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gnnaccel.graph.semantics import TimeSemantics
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.ops.temporal_sample import Block as _Block
from gnnaccel.ops.temporal_sample import temporal_sample as _temporal_sample

# assigned, not only imported: type checkers do not see through the mapping of gnnaccel.ops to ops/
Block: TypeAlias = _Block
temporal_sample = _temporal_sample


def sample_before(
    g: TemporalGraph,
    nodes: Tensor,
    times: Tensor,
    *args: Any,
    semantics: TimeSemantics,
    batch_start: tuple[int | float, int] | None = None,
    **kwargs: Any,
) -> Block:
    """`temporal_sample` of those events alone, of all that `semantics` shows, that are before `times`."""
    if semantics.mode == "tgl_compat":  # it drops what is at the root's time by itself
        return temporal_sample(g, nodes, times, *args, semantics=semantics, **kwargs)
    block = temporal_sample(g, nodes, times, *args, semantics=replace(semantics, mode="strict"), **kwargs)
    if semantics.mode != "before_batch" or batch_start is None:
        return block
    late = times > batch_start[0]
    if not bool(late.any()):
        return block  # what is before these times is before the batch
    # and for later times what is before the batch is before them
    known = temporal_sample(g, nodes, times, *args, semantics=semantics, batch_start=batch_start, **kwargs)
    pairs = ((getattr(block, f.name), getattr(known, f.name)) for f in fields(Block))
    chosen = (torch.where(late if a.dim() == 1 else late[:, None], b, a) if len(a) else a for a, b in pairs)
    return Block(*chosen)


def temporal_sample_hops(
    g: TemporalGraph,
    nodes: Tensor,
    times: Tensor,
    fanouts: Sequence[int] = (10, 10),
    strategy: str = "recent",
    replace: bool = False,
    window: int | float | None = None,
    semantics: str | TimeSemantics = "strict",
    seed: int = 0,
    *,
    epoch: int = 0,
    batch: int = 0,
    event_ids: Tensor | None = None,
    batch_start: tuple[int | float, int] | None = None,
) -> list[Block]:
    """Sample neighbours, neighbours of these, and so on.

    The roots of hop i + 1 are the slots of hop i in order, `[R * K]`, padding included (as -1). Their time is the time of the
    event that led there, or with `hop_time="root"` the time of the first root. Under `"by_event_id"` their event id is that
    event's, or the first root's.

    Args:
        fanouts: Slots a root, hop by hop.
        semantics: A mode, or a `TimeSemantics` for another hop time.

    The other arguments are `temporal_sample`'s.

    Returns:
        One `Block` a hop: block i has `R * fanouts[0] * ... * fanouts[i-1]` roots.
    """
    semantics = TimeSemantics.of(semantics)
    by_event = semantics.mode == "by_event_id"
    blocks: list[Block] = []
    for hop, fanout in enumerate(fanouts):
        block = temporal_sample(
            g,
            nodes,
            times,
            fanout,
            strategy,
            replace,
            window,
            semantics,
            seed,
            hop,
            epoch=epoch,
            batch=batch,
            event_ids=event_ids,
            batch_start=batch_start,
        )
        blocks.append(block)
        if hop + 1 == len(fanouts):
            break
        nodes = block.nbr.reshape(-1)
        if semantics.hop_time == "edge":
            times = block.t.reshape(-1)
            event_ids = block.eid.reshape(-1).to(torch.int64) if by_event else None
        else:
            times = times.repeat_interleave(fanout)
            event_ids = event_ids.repeat_interleave(fanout) if event_ids is not None else None
    return blocks
