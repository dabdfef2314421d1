"""Reference for `memory_levels`: one row after the other, in the order of their events."""

from typing import Any

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
    **cell: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In float64; `cell`: weights and kind, as in `memory_update`. Levels are not looked at: rows read earlier ones alone."""
    B, R, D = len(event_ids), len(before), old.shape[1]
    features = torch.zeros(B, 0) if edge_feat is None else edge_feat[event_ids]
    memory: list[Tensor] = []

    def mail(r: int) -> Tensor:
        end = int(last[r])
        other = int(row[end + B if end < B else end - B])
        return torch.cat([memory[r], memory[other], features[end % B].double()])

    def updated(r: int) -> Tensor:
        return old_update[node[last[r]]] if before[r] < 0 else times[last[before[r]]]

    for r, b in enumerate(before.tolist()):
        if b < 0:
            memory.append(old[node[last[r]]].double())
        else:
            dt = times[last[b]] - updated(b)
            memory.append(memory_update(mail(b).unsqueeze(0), dt.reshape(1), memory[b].unsqueeze(0), **cell)[0])
    mails = [mail(r) for r in range(R)]
    return (
        torch.stack(memory) if R else torch.zeros(0, D, dtype=torch.float64),
        torch.stack([updated(r) for r in range(R)]) if R else old_update[:0],
        torch.stack(mails) if R else torch.zeros(0, 2 * D + features.shape[1], dtype=torch.float64),
        times[last],
    )
