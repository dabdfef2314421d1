"""Reference for `apply_messages`."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.memory_update import memory_update


def apply_messages(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    nodes: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
) -> tuple[Tensor, Tensor]:
    """One node at a time, in float64: `-> [U, D], [U]`."""
    D, F = memory.shape[1], raw.shape[1]
    cell = (w_ih.double(), w_hh, b_ih, b_hh)
    # the products keep a result without messages attached to the graph
    nothing = sum(w.double().sum() * 0 for w in (time_w, time_b, *cell))
    out, times = [], []
    for node in nodes.tolist():
        row, when = memory[node].double(), last_update[node]
        if status[node] == 0:
            # a message of zeros, its time encoding too: no columns of time are needed
            zeros = torch.zeros(1, w_ih.shape[1], dtype=torch.float64)
            no_time = torch.zeros(0, dtype=torch.float64)
            row = memory_update(zeros, torch.zeros(1), torch.zeros(1, D), no_time, no_time, *cell)[0]
        elif status[node] == 1:
            end = int(other[node])
            mail = torch.cat([memory[node], memory[end], raw[node]]).reshape(1, 2 * D + F)
            dt = (time[node] - when).reshape(1)
            row = memory_update(mail, dt, memory[node].unsqueeze(0), time_w, time_b, *cell)[0]
            when = time[node]
        out.append(row + nothing)
        times.append(when)
    if not out:
        return memory[:0].double() + nothing, last_update[:0]
    return torch.stack(out), torch.stack(times)
