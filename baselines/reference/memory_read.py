"""Reference for `memory_read`."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.memory_update import memory_update


def memory_read(
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    memory: Tensor,
    last_update: Tensor,
    nodes: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
) -> tuple[Tensor, Tensor]:
    """One node at a time, in float64: `-> [U, D], [U]`."""
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    out, times = [], []
    # the products keep a result without mail attached to the graph
    nothing = sum(w.double().sum() * 0 for w in weights)
    for node in nodes.tolist():
        row = memory[node].double() + nothing
        time = last_update[node]
        if has_mail[node]:
            dt = (mail_time[node] - time).unsqueeze(0)
            row = memory_update(mail[node].unsqueeze(0), dt, memory[node].unsqueeze(0), *weights, cell)[0]
            time = mail_time[node]
        out.append(row)
        times.append(time)
    if not out:
        return memory[:0].double() + nothing, last_update[:0]
    return torch.stack(out), torch.stack(times)
