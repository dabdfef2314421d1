"""What users write today to read memory with the message of each node's last event."""

import torch
from torch import Tensor


def eager(
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
    """Gathers, one concatenation and `nn.GRUCell`'s function on the nodes with a message, put among the other rows.

    Fresh nodes (status 0) go through the cell with a message and a memory of zeros, in the same call.
    """
    state, last = status[nodes], last_update[nodes]
    through = (state < 2).nonzero().squeeze(1)
    ids, pending = nodes[through], (state[through] == 1).unsqueeze(1)
    own, sent = memory[ids], time[ids]
    dt = (sent - last[through]).to(time_w.dtype).unsqueeze(1)
    message = torch.cat([own, memory[other[ids]], raw[ids], torch.cos(dt * time_w + time_b)], dim=1)
    new = torch.gru_cell(message * pending, own * pending, w_ih, w_hh, b_ih, b_hh)
    return memory[nodes].index_copy(0, through, new), torch.where(state == 1, time[nodes], last)


PROVIDERS = {"torch": eager}
