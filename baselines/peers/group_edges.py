"""What users write today to lay out edges by target: a stable sort, counts, and a scatter."""

import torch
from torch import Tensor


def eager(source: Tensor, target: Tensor, num_nodes: int, limit: int) -> tuple[Tensor, Tensor, Tensor] | None:
    target, order = target.sort(stable=True)
    count = torch.bincount(target, minlength=num_nodes)
    most = int(count.max())
    if num_nodes * most > limit:
        return None
    slot = torch.arange(len(target), device=target.device) - (count.cumsum(0) - count)[target]
    neighbor, edge = (torch.full((num_nodes, most), -1, device=target.device) for _ in range(2))
    neighbor[target, slot], edge[target, slot] = source[order], order
    return neighbor, edge, count.to(torch.int32)


PROVIDERS = {"torch": eager}
