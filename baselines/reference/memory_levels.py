"""Reference for `memory_levels`: rows in the order of their numbers, which is that of the events."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.memory_update import memory_update


def memory_levels(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A row needs rows with smaller numbers alone."""
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    B, R, D = len(event_ids), len(before), old.shape[1]
    memory, last_update = torch.zeros(R, D, dtype=old.dtype), times.new_zeros(R)
    mail_time = times[last]

    def mail(r: int) -> Tensor:
        end = int(last[r])
        other = int(row[end + B if end < B else end - B])
        feature = [] if edge_feat is None else [edge_feat[event_ids[end % B]].to(old.dtype)]
        return torch.cat([memory[r], memory[other], *feature])

    for r in range(R):
        b = int(before[r])
        if b < 0:
            memory[r], last_update[r] = old[node[last[r]]], old_update[node[last[r]]]
            continue
        dt = (mail_time[b] - last_update[b]).reshape(1)
        memory[r] = memory_update(mail(b).unsqueeze(0), dt, memory[b].unsqueeze(0), *weights, cell=cell)[0]
        last_update[r] = mail_time[b]
    width = 2 * D + (0 if edge_feat is None else edge_feat.shape[1])
    mails = torch.stack([mail(r) for r in range(R)]) if R else torch.zeros(0, width, dtype=old.dtype)
    return memory, last_update, mails, mail_time
