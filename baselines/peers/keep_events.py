"""What users write today to store a batch's memory and its last events."""

import torch
from torch import Tensor


def eager(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    place: Tensor,
    src: Tensor,
    dst: Tensor,
    t: Tensor,
    raw_msg: Tensor,
    nodes: Tensor,
    rows: Tensor,
    rows_time: Tensor,
) -> bool:
    """Rows by a table of places, as torch_geometric's `_assoc`; the last event by `amax`. Events must be in order of time."""
    # the ends of one event follow each other, so that the last position is the last end
    ends, others = torch.stack([src, dst], dim=1).view(-1), torch.stack([dst, src], dim=1).view(-1)
    place.fill_(-1)
    place[nodes] = torch.arange(len(nodes), device=nodes.device)
    found, inverse = ends.unique(return_inverse=True)
    row = place[found]
    if bool((row < 0).any()):
        return False
    last = torch.full_like(found, -1).scatter_reduce_(0, inverse, torch.arange(len(ends), device=ends.device), "amax")
    event = last.div(2, rounding_mode="floor")
    memory[found] = rows[row]
    last_update[found] = rows_time[row]
    other[found] = others[last]
    time[found] = t[event]
    raw[found] = raw_msg[event]
    status[found] = 1
    return True


PROVIDERS = {"torch": eager}
