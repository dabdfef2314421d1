"""What a user would write for `event_levels`."""

from __future__ import annotations

import torch
from torch import Tensor


def python_dict(root: Tensor, nbr: Tensor, group: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    """Events in order, a dict keeps what each node was left with."""
    B, (S, K) = len(group), nbr.shape
    nodes, around, clock = root.tolist(), nbr.tolist(), group.tolist()
    C = S // B - 2 if B else 0
    state: dict[int, int] = {}
    row, seen, seen_nbr = [0] * (2 * B), [0] * S, [[0] * K] * S
    before: list[int] = []
    last: list[int] = []
    level: list[int] = []
    start = 0
    while start < B:
        stop = start
        while stop < B and clock[stop] == clock[start]:
            stop += 1
        for e in range(start, stop):
            for j in (e, B + e, *range(2 * B + e * C, 2 * B + (e + 1) * C)):
                seen[j] = num_nodes + state[nodes[j]] if nodes[j] in state else nodes[j]
                seen_nbr[j] = [num_nodes + state[n] if n in state else n for n in around[j]]
        new: dict[int, int] = {}
        for e in range(start, stop):
            for p in (e, B + e):
                node = nodes[p]
                if node not in new:
                    source = state.get(node, -1)
                    new[node] = len(before)
                    other = row[(last[source] + B) % (2 * B)] if source >= 0 else -1
                    level.append(1 + max(level[source], level[other]) if source >= 0 else 0)
                    before.append(source)
                    last.append(p)
                row[p] = new[node]
                last[new[node]] = p
        state.update(new)
        start = stop
    read = sorted({v - num_nodes for v in [*seen, *(v for vs in seen_nbr for v in vs)] if v >= num_nodes})
    rank = {num_nodes + r: num_nodes + i for i, r in enumerate(read)}
    levels = torch.tensor(level, dtype=torch.int64)
    offset = torch.cat([levels.new_zeros(1), torch.bincount(levels).cumsum(0)]) if level else levels.new_zeros(1)
    versions = [[rank.get(v, v) for v in vs] for vs in seen_nbr]
    return (
        torch.tensor(row),
        torch.tensor(before),
        torch.tensor(last),
        levels.argsort(stable=True),
        offset,
        torch.tensor([rank.get(v, v) for v in seen]),
        torch.tensor(versions).reshape(S, K),
        torch.tensor(read),
    )


PROVIDERS = {"python dict": python_dict}
