"""Reference for `group_edges`: one edge at a time, lists."""

import torch
from torch import Tensor


def group_edges(source: Tensor, target: Tensor, num_nodes: int, limit: int) -> tuple[Tensor, Tensor, Tensor] | None:
    groups: list[list[tuple[int, int]]] = [[] for _ in range(num_nodes)]
    for e, (u, v) in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        groups[v].append((u, e))
    most = max(map(len, groups), default=0)
    if num_nodes * most > limit:
        return None
    padded = [group + [(-1, -1)] * (most - len(group)) for group in groups]
    neighbor, edge = (
        torch.tensor([[pair[i] for pair in group] for group in padded], dtype=torch.int64).reshape(num_nodes, most)
        for i in (0, 1)
    )
    return neighbor, edge, torch.tensor([len(group) for group in groups], dtype=torch.int32)
