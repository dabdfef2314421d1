"""A large batch with the memory of batch 1: state updates ordered by levels, every prediction on the state of its own time.

In a batch of B events a memory model lets all of them see the state from before the batch, and keeps only the last of a node's
events (TGN, section 3.2): the larger the batch, the more is missed. Here the state updates of a batch are put into levels
(`event_levels`). A level holds the reads that depend on earlier levels alone, so each is one `memory_read`, and a batch costs
as many of them as its longest chain of events. Each prediction then reads the versions of its nodes from just before its own
time. All bits are those of a pass with one event a batch and the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from gnnaccel.graph.batch import TemporalBatch
from gnnaccel.models.tgn import TGN
from gnnaccel.ops import gather_rows
from gnnaccel.ops._event_levels import EventLevels, event_levels


class _Memory(NamedTuple):
    """Rows of state, as an updater reads them from a `NodeMemory` ..."""

    memory: Tensor
    last_update: Tensor


class _Mailbox(NamedTuple):
    """... and from a `Mailbox`."""

    mail: Tensor
    mail_time: Tensor
    has_mail: Tensor
    slots: int = 1


class ExactRows(NamedTuple):
    """What each state update of a batch read, and so what it leaves."""

    levels: EventLevels
    memory: Tensor  # [R, D], detached: memory with pending mail applied
    last_update: Tensor  # [R]
    ends: Tensor  # nodes [2 B]
    times: Tensor  # [2 B]
    event_ids: Tensor  # [B]
    edge_feat: Tensor | None

    def left(self, rows: Tensor) -> tuple[_Memory, _Mailbox]:
        """The states that `rows` leave."""
        levels, B = self.levels, len(self.event_ids)
        end = levels.last[rows]
        other = levels.row[torch.where(end < B, end + B, end - B)]
        own = self.memory[rows]
        mail = [own, self.memory[other]]
        if self.edge_feat is not None:
            mail.append(gather_rows(self.edge_feat, self.event_ids[end % B], dtype=own.dtype))
        has = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        return _Memory(own, self.last_update[rows]), _Mailbox(torch.cat(mail, dim=1), self.times[end], has)


def event_groups(t: Tensor, semantics: str) -> Tensor:
    """Which events of a batch happen at once, int64 `[B]`: those of one time under `strict`, else each alone."""
    if semantics != "strict" or len(t) == 0:
        return torch.arange(len(t), device=t.device)
    group = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    group[1:] = (t[1:] != t[:-1]).cumsum(0)
    return group


def exact_embed(
    model: TGN, batch: TemporalBatch, event_ids: Tensor, group: Tensor, edge_feat: Tensor | None = None
) -> tuple[Tensor, ExactRows]:
    """Embeddings `[R, dim_embed]` of a batch's roots as if its groups of events happened one after the other.

    Args:
        model: One with a memory, a mailbox of one slot and at most one hop of neighbours. Its state is not changed.
        batch: Its roots are the B sources, the B destinations, and further ones, equally many for each event.
        event_ids: Event ids `[B]`.
        group: Group of each event, int64 `[B]`, not decreasing: `event_groups`.
        edge_feat: Features of all edges by event id, or None.

    Gradients: as of the sum over predictions with one group a batch and unchanged weights: through the read of a prediction's
    own nodes, not through stored state.

    Determinism: in evaluation mode the bits of one group a batch on CPU (`recent` neighbours; `uniform` ones are keyed by the
    batch), for any number of threads.
    """
    B, U = len(event_ids), len(batch.nodes)
    levels = event_levels(batch.root_row, batch.nbr_row, group, U)
    old, old_update = model.read(batch.nodes)
    ends = slice(0, 2 * B)
    R = len(levels.last)
    rows = ExactRows(
        levels,
        old.new_empty((R, old.shape[1])),
        old_update.new_empty(R),
        batch.roots[ends],
        batch.times[ends],
        event_ids,
        edge_feat,
    )
    _happen(model, rows, batch.root_row, old.detach(), old_update)
    new, new_update = _read_left(model, rows, levels.read)
    nodes = torch.cat([batch.nodes, rows.ends[levels.last[levels.read]].to(batch.nodes.dtype)])
    versions = torch.cat([old, new]), torch.cat([old_update, new_update])
    batch = replace(batch, nodes=nodes, root_row=levels.root_version, nbr_row=levels.nbr_version)
    return model.embed(batch, edge_feat, read=lambda _: versions)[0], rows


@torch.no_grad()
def exact_commit(model: TGN, rows: ExactRows) -> None:
    """Store the state that the events of a batch leave; in training after `backward`."""
    before = rows.levels.before
    final = torch.ones(len(before), dtype=torch.bool, device=before.device)
    final[before[before >= 0]] = False
    last = final.nonzero().squeeze(1)
    memory, mailbox = rows.left(last)
    nodes = rows.ends[rows.levels.last[last]]
    model.memory.update(nodes, memory.memory, memory.last_update)
    model.mailbox.store(nodes, mailbox.mail, mailbox.mail_time)


@torch.no_grad()
def _happen(model: TGN, rows: ExactRows, root_row: Tensor, old: Tensor, old_update: Tensor) -> None:
    """Fill `rows`, level by level; level 0 read the state from before the batch, `old [U]`."""
    order, bounds = rows.levels.order, rows.levels.offset.tolist()
    for level, (a, b) in enumerate(pairwise(bounds)):
        at = order[a:b]
        if level == 0:
            source = root_row[rows.levels.last[at]]
            memory, last_update = old[source], old_update[source]
        else:
            memory, last_update = _read_left(model, rows, rows.levels.before[at])
        rows.memory[at], rows.last_update[at] = memory, last_update


def _read_left(model: TGN, rows: ExactRows, at: Tensor) -> tuple[Tensor, Tensor]:
    return model.updater.read(*rows.left(at), torch.arange(len(at), device=at.device))  # type: ignore[arg-type]
