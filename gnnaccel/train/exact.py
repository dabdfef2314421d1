"""A large batch with the memory of batch 1: state updates ordered by levels, every prediction on the state of its own time.

In a batch of B events a memory model lets all of them see the state from before the batch, and keeps only the last of a node's
events (TGN, section 3.2): the larger the batch, the more is missed. Here the state updates of a batch are put into levels
(`event_levels`). A level holds the reads that depend on earlier levels alone, so each is one `memory_read`, and a batch costs
as many of them as its longest chain of events. Each prediction then reads the versions of its nodes from just before its own
time. All bits are those of a pass with one event a batch and the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gnnaccel.graph.batch import Hop, TemporalBatch
from gnnaccel.models import ComposedModel
from gnnaccel.nn import MemoryUpdater
from gnnaccel.ops._event_levels import EventLevels, event_levels
from gnnaccel.ops._memory_levels import memory_levels
from gnnaccel.ops._memory_read import memory_read


class ExactRows(NamedTuple):
    """What the state updates of a batch read and leave, a row each (`event_levels`)."""

    levels: EventLevels
    ends: Tensor  # nodes [2 B]
    memory: Tensor  # [R, D], detached: memory with pending mail applied
    last_update: Tensor  # [R]
    mail: Tensor  # [R, M]
    mail_time: Tensor  # [R]


def event_groups(t: Tensor, semantics: str) -> Tensor:
    """Which events of a batch happen at once, int64 `[B]`: those of one time under `strict`, else each alone."""
    if semantics != "strict" or len(t) == 0:
        return torch.arange(len(t), device=t.device)
    group = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    group[1:] = (t[1:] != t[:-1]).cumsum(0)
    return group


def exact_embed(
    model: ComposedModel,
    batch: TemporalBatch,
    event_ids: Tensor,
    group: Tensor,
    edge_feat: Tensor | None = None,
    edges: Tensor | None = None,
) -> tuple[Tensor, ExactRows]:
    """Embeddings `[R, dim_embed]` of a batch's roots as if its groups of events happened one after the other.

    Args:
        model: One with a `MemoryUpdater`, a mailbox of one slot and at most one hop of neighbours. Its state is not changed.
        batch: Its roots are the B sources, the B destinations, and further ones, equally many for each event.
        event_ids: Event ids `[B]`.
        group: Group of each event, int64 `[B]`, not decreasing: `event_groups`.
        edge_feat: Features of all edges by event id, or None.
        edges: Features that `batch` refers to, if it was numbered anew (`TemporalBatch.gather_edges`).

    Gradients: as of the sum over predictions with one group a batch and unchanged weights: through the read of a prediction's
    own nodes, not through stored state.

    Determinism: in evaluation mode the bits of one group a batch on CPU (`recent` neighbours; `uniform` ones are keyed by the
    batch), for any number of threads.

    Raises:
        ValueError: The model is not of this kind.
    """
    updater = model.updater
    fits = len(batch.chains) == 1 and len(batch.hops) <= 1 and batch.node_times is None and model.mailbox.slots == 1
    if not isinstance(updater, MemoryUpdater) or not fits:
        raise ValueError("exact_embed: model must have a MemoryUpdater and at most one hop of neighbours, got another")
    B, ends = len(event_ids), batch.roots[: 2 * len(event_ids)]
    nbr_row = batch.nbr_row if batch.hops else batch.root_row.new_empty(len(batch.roots), 0)
    levels = event_levels(batch.root_row, nbr_row, group, len(batch.nodes))
    old, old_update = model.read(batch.nodes)
    time = updater.time_encoder
    weights = (time.w, time.b, updater.weight_ih, updater.weight_hh, updater.bias_ih, updater.bias_hh)
    state = memory_levels(
        old,
        old_update,
        batch.root_row[: 2 * B],
        *levels[:5],
        batch.times[: 2 * B],
        event_ids,
        edge_feat,
        *weights,
        cell=updater.cell,
    )
    rows = ExactRows(levels, ends, *state)
    has_mail = torch.ones(len(rows.memory), dtype=torch.bool, device=ends.device)
    left = (rows.mail, rows.mail_time, has_mail, rows.memory, rows.last_update)
    new, new_update = memory_read(*left, levels.read, *weights, cell=updater.cell)
    nodes = torch.cat([batch.nodes, rows.ends[levels.last[levels.read]].to(batch.nodes.dtype)])
    versions = torch.cat([old, new]), torch.cat([old_update, new_update])
    hops = tuple(Hop(hop.block, levels.root_version, levels.nbr_version) for hop in batch.hops)
    batch = replace(batch, nodes=nodes, root_row=levels.root_version, chains=(hops,))
    return model.embed(batch, edge_feat if edges is None else edges, read=lambda *_: versions)[0], rows


@torch.no_grad()
def exact_commit(model: ComposedModel, rows: ExactRows) -> None:
    """Store the state that the events of a batch leave; in training after `backward`."""
    assert model.memory is not None
    before = rows.levels.before
    final = torch.ones(len(before), dtype=torch.bool, device=before.device)
    final[before[before >= 0]] = False
    last = final.nonzero().squeeze(1)
    nodes = rows.ends[rows.levels.last[last]]
    model.memory.update(nodes, rows.memory[last], rows.last_update[last])
    model.mailbox.store(nodes, rows.mail[last], rows.mail_time[last])
