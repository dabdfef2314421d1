"""Reference for `random_walk`: one step of one walk after the other, over plain numbers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from gnnaccel.baselines.reference.temporal_sample import philox4x32

WORD = 2**32


def words(seed: int, epoch: int, walk: int, step: int, attempt: int) -> tuple[int, int, int]:
    """64 bits that pick, 32 that decide about a restart, 32 that accept."""
    counter = (step, walk % WORD, attempt, epoch % WORD ^ walk // WORD % WORD)
    a, b, c, d = philox4x32(counter, (seed % WORD, seed // WORD % WORD))
    return a + b * WORD, c, d


def shares(p: float, q: float) -> tuple[int, int, int]:
    """Weights of going back, to a neighbour of the node before, and away, the largest being 2^32."""
    largest = max(1 / p, 1.0, 1 / q)
    return tuple(max(1, round(w / largest * WORD)) for w in (1 / p, 1.0, 1 / q))


def random_walk(
    indptr: Tensor,
    nbr: Tensor,
    start: Tensor,
    length: int,
    *,
    p: float = 1.0,
    q: float = 1.0,
    restart: float = 0.0,
    sorted_rows: bool = False,
    seed: int = 0,
    epoch: int = 0,
    walk_offset: int = 0,
) -> Tensor:
    """`[S, length + 1]`, int64."""
    bounds = indptr.tolist()
    rows = [nbr[a:b].tolist() for a, b in pairwise(bounds)]
    back, near, away = shares(p, q)
    out = []
    for w, first in enumerate(start.tolist()):
        path, before = [first], None
        for step in range(1, length + 1):
            at, attempt = path[-1], 0
            pick, again, accept = words(seed, epoch, w + walk_offset, step, 0)
            if at >= 0 and again < round(restart * WORD):
                path.append(first)
                before = None
                continue
            if at < 0 or not rows[at]:
                path.append(-1)
                continue
            row = rows[at]
            node = row[pick * len(row) // WORD**2]
            if before is not None and len(row) > 1 and not back == near == away:
                weight = {x: back if x == before else near if x in rows[before] else away for x in row}
                while accept >= weight[node] and attempt < 64:
                    attempt += 1
                    pick, _, accept = words(seed, epoch, w + walk_offset, step, attempt)
                    node = row[pick * len(row) // WORD**2]
                if attempt == 64:  # drawn from the whole row
                    left = pick * sum(weight[x] for x in row) // WORD**2
                    for node in row:
                        left -= weight[node]
                        if left < 0:
                            break
            before = at
            path.append(node)
        out.append(path)
    return torch.tensor(out, dtype=torch.int64).reshape(len(start), length + 1)
