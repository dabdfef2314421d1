"""Reference for `event_levels`: the groups of a batch one after the other, each seeing what those before it left."""

import torch
from torch import Tensor


def event_levels(root: Tensor, nbr: Tensor, group: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    """Who reads and leaves which state; see the op for the names."""
    B, (S, K) = len(group), nbr.shape
    ends = root.tolist()[: 2 * B]
    roots_of = [[e, B + e, *(j for j in range(2 * B, S) if (j - 2 * B) // ((S - 2 * B) // B) == e)] for e in range(B)]
    row, before, last, level = [-1] * (2 * B), [], [], []
    left: dict[int, int] = {}  # node -> the row that left its state
    seen_root, seen_nbr = [-1] * S, [[-1] * K for _ in range(S)]
    for g in dict.fromkeys(group.tolist()):
        events = [e for e in range(B) if group[e] == g]
        for j in (j for e in events for j in roots_of[e]):
            seen_root[j] = left.get(int(root[j]), -1)
            seen_nbr[j] = [left.get(n, -1) for n in nbr[j].tolist()]
        mine: dict[int, int] = {}
        for e in events:
            for p in (e, B + e):
                node = ends[p]
                if node not in mine:
                    mine[node] = len(before)
                    source = left.get(node, -1)
                    before.append(source)
                    other = -1 if source < 0 else row[(last[source] + B) % (2 * B)]
                    level.append(0 if source < 0 else 1 + max(level[source], level[other]))
                    last.append(p)
                row[p] = mine[node]
                last[mine[node]] = p
        left |= mine
    read = sorted({r for r in seen_root if r >= 0} | {r for rs in seen_nbr for r in rs if r >= 0})

    def version(node: int, r: int) -> int:
        return -1 if node < 0 else node if r < 0 else num_nodes + read.index(r)

    levels = max(level) + 1 if level else 0
    out = (
        row,
        before,
        last,
        sorted(range(len(level)), key=lambda r: level[r]),
        [sum(v < n for v in level) for n in range(levels + 1)],
        [version(int(root[j]), seen_root[j]) for j in range(S)],
        [[version(int(nbr[j, k]), seen_nbr[j][k]) for k in range(K)] for j in range(S)],
        read,
    )
    shapes = [(-1,)] * 6 + [(S, K), (-1,)]
    return tuple(torch.tensor(v, dtype=torch.int64).reshape(s) for v, s in zip(out, shapes, strict=True))
