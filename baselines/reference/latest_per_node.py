"""Reference for `latest_per_node`."""

import torch
from torch import Tensor


def latest_per_node(nodes: Tensor, t: Tensor, eid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each distinct non-negative node, in order of first appearance, the position of its largest (t, eid, position)."""
    events = eid.tolist() if eid is not None else [0] * len(nodes)
    last: dict[int, tuple] = {}
    for i, (node, time, event) in enumerate(zip(nodes.tolist(), t.tolist(), events, strict=True)):
        if node >= 0:
            last[node] = max(last.get(node, (time, event, i)), (time, event, i))
    positions = [key[-1] for key in last.values()]
    return torch.tensor(list(last), dtype=nodes.dtype), torch.tensor(positions, dtype=torch.int64)
