"""Reference for `commit_events`: events in order of time, then id, one end after the other."""

from torch import Tensor


def commit_events(
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
    """Later ends overwrite what earlier ones of the same node left."""
    B = len(event_ids)
    for p in sorted(range(2 * B), key=lambda p: (times[p].item(), event_ids[p % B].item(), p)):
        node, own, other = int(ends[p]), int(row[p]), int(row[p + B if p < B else p - B])
        D = memory.shape[1]
        memory[node], last_update[node] = rows_memory[own], rows_time[own]
        mail[node, :D], mail[node, D : 2 * D] = rows_memory[own], rows_memory[other]
        if edge_feat is not None:
            mail[node, 2 * D :] = edge_feat[event_ids[p % B]].to(mail.dtype)
        mail_time[node], has_mail[node] = times[p], True
