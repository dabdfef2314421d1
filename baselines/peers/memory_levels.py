"""What a user would write for `memory_levels`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


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
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
) -> tuple[Tensor, ...]:
    """Torch's cell, a call for each level."""
    B = len(event_ids)
    other = row[(last + B) % (2 * B)]
    mail_time = times[last]
    last_update = torch.where(before < 0, old_update[node[last]], mail_time[before])
    memory = old.new_zeros(len(before), old.shape[1])
    step = torch.gru_cell if cell == "gru" else torch.rnn_tanh_cell

    def mails(rows: Tensor) -> Tensor:
        parts = [memory[rows], memory[other[rows]]]
        if edge_feat is not None:
            parts.append(edge_feat[event_ids[last[rows] % B]].to(old.dtype))
        return torch.cat(parts, dim=1)

    for level, (a, b) in enumerate(pairwise(offset.tolist())):
        rows = order[a:b]
        if level == 0:
            memory[rows] = old[node[last[rows]]]
            continue
        source = before[rows]
        dt = (mail_time[source] - last_update[source]).double()
        phi = torch.cos(dt.unsqueeze(1) * time_w.double() + time_b.double()).to(old.dtype)
        x = torch.cat([mails(source), phi], dim=1)
        memory[rows] = step(x, memory[source], w_ih, w_hh, b_ih, b_hh)
    return memory, last_update, mails(torch.arange(len(before))), mail_time


PROVIDERS = {"torch": eager}
