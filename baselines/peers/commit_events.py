"""What users write today to store a batch's memory and mail."""

import torch
from torch import Tensor


def eager(
    memory: Tensor,
    last_update: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    *,
    ends: Tensor,
    times: Tensor,
    row: Tensor,
    rows_memory: Tensor,
    rows_time: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None = None,
) -> None:
    """TGL's form: mails of all events, then the last of each node by sorting. Events must be in order of time and id."""
    B = len(event_ids)
    other = torch.cat([row[B:], row[:B]])
    mails = torch.cat([rows_memory[row], rows_memory[other]], dim=1)
    if edge_feat is not None:
        mails = torch.cat([mails, edge_feat[event_ids].repeat(2, 1)], dim=1)
    # ends of one event follow each other, so that the last position is the last end
    order = torch.arange(2 * B, device=row.device).view(2, B).T.reshape(-1)
    nodes, inverse = ends[order].unique(return_inverse=True)
    last = torch.full_like(nodes, -1).scatter_reduce_(0, inverse, torch.arange(2 * B, device=row.device), "amax")
    last = order[last]
    memory[nodes] = rows_memory[row[last]]
    last_update[nodes] = rows_time[row[last]]
    mail[nodes] = mails[last]
    mail_time[nodes] = times[last]
    has_mail[nodes] = True


PROVIDERS = {"torch": eager}
