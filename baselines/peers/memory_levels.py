"""What a user would write for `memory_levels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.memory_update import eager as updated


def eager(
    old: Tensor,
    old_update: Tensor,
    node: Tensor,
    row: Tensor,
    before: Tensor,
    last: Tensor,
    order: Tensor,
    offset: Tensor,
    times: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None,
    **cell: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cell of `memory_update`'s peer, a call for each level; `cell`: its weights and kind."""
    B, R = len(event_ids), len(before)
    other = row[(last + B) % (2 * B)]
    features = old.new_zeros(B, 0) if edge_feat is None else edge_feat[event_ids].to(old.dtype)
    mail_time = times[last]
    last_update = torch.where(before < 0, old_update[node[last]], mail_time[before])
    memory = old[node[last]]  # of the first level; rows of the others are written over

    def mails(rows: Tensor) -> Tensor:
        return torch.cat([memory[rows], memory[other[rows]], features[last[rows] % B]], dim=1)

    for rows in order.tensor_split(offset[1:-1].tolist())[1:]:
        source = before[rows]
        memory[rows] = updated(mails(source), mail_time[source] - last_update[source], memory[source], **cell)
    return memory, last_update, mails(torch.arange(R, device=old.device)), mail_time


PROVIDERS = {"torch": eager}
