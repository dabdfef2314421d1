"""Reference for `neighbor_sample`: loops over plain numbers, one row after the other."""

import math

import torch
from torch import Tensor

from gnnaccel.baselines.reference.temporal_sample import random_words


def choose(n: int, k: int, replace: bool, words) -> list[int]:
    """k of range(n), ascending; without replacement by Floyd's algorithm."""
    chosen: list[int] = []
    for last in range(n - k, n):
        pick = next(words) * (n if replace else last + 1) // 2**64
        chosen.append(last if not replace and pick in chosen else pick)
    return sorted(chosen)


def unit(words) -> float:
    return ((next(words) >> 11) + 0.5) / 2**53


def pick_uniform(row: list[int], allowed: set[int], k: int, replace: bool, words) -> list[int]:
    """Of the positions `row`, drawn without a look at `allowed`, and again among the allowed ones if one is not."""
    picks = row
    if row and (replace or len(row) > k):
        picks = [row[i] for i in choose(len(row), k, replace, words)]
    if all(i in allowed for i in picks):
        return picks
    row = [i for i in row if i in allowed]
    if not row or (not replace and len(row) <= k):
        return row
    return [row[i] for i in choose(len(row), k, replace, words)]


def pick_weighted(row: list[int], allowed: set[int], weight: list[float], k: int, replace: bool, words) -> list[int]:
    able = [i for i in row if i in allowed and weight[i] > 0]
    if not able:
        return []
    if replace:
        total = sum(weight[i] for i in able)
        draws, picks = sorted(unit(words) * total for _ in range(k)), []
        for x in draws:
            below = 0.0
            for i in able:
                below += weight[i]
                if x < below:
                    break
            picks.append(i)
        return picks
    if len(row) <= k:
        return able
    keys = [(-math.log(unit(words)) / weight[i], i) for i in able]
    return sorted(i for _, i in sorted(keys)[:k])


def neighbor_sample(
    indptr: Tensor,
    nbr: Tensor,
    nodes: Tensor,
    fanout: int | list[int] | None = 10,
    *,
    eid: Tensor | None = None,
    relation: Tensor | None = None,
    weight: Tensor | None = None,
    num_relations: int | None = None,
    strategy: str = "uniform",
    replace: bool = False,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    hop: int = 0,
    edge_ids: bool = True,
    exclude: Tensor | None = None,
):
    """(nbr, eid, count, relation, weight), the arguments being the op's."""
    start, neighbors = indptr.tolist(), nbr.tolist()
    banned = set() if exclude is None else set(exclude.tolist())
    weights = None if weight is None else weight.tolist()
    picked: list[list[int]] = []
    for r, node in enumerate(nodes.tolist()):
        row = list(range(start[node], start[node + 1])) if node >= 0 else []
        allowed = {i for i in row if not banned or int(eid[i]) not in banned}
        words = random_words(seed, epoch, batch, r, hop)
        parts = [(row, fanout)]
        if isinstance(fanout, (list, tuple)):
            parts = [([i for i in row if relation[i] == k], f) for k, f in enumerate(fanout)]
        picks: list[int] = []
        for part, f in parts:
            if strategy == "all":
                picks += [i for i in part if i in allowed]
            elif f == 0:
                continue
            elif strategy == "weighted":
                picks += pick_weighted(part, allowed, weights, f, replace, words)
            else:
                picks += pick_uniform(part, allowed, f, replace, words)
        picked.append(picks)
    if strategy == "all":
        slots = max([start[v + 1] - start[v] for v in nodes.tolist() if v >= 0] + [1])
    else:
        slots = sum(fanout) if isinstance(fanout, (list, tuple)) else fanout

    def table(values: list, dtype: torch.dtype, fill: int = -1) -> Tensor:
        rows = [[values[i] for i in picks] + [fill] * (slots - len(picks)) for picks in picked]
        return torch.tensor(rows, dtype=dtype).reshape(len(picked), slots)

    return (
        table(neighbors, nbr.dtype),
        table(eid.tolist(), nbr.dtype) if edge_ids else None,
        torch.tensor([len(p) for p in picked], dtype=torch.int32),
        None if relation is None else table(relation.tolist(), torch.int16),
        None if weights is None else table(weights, torch.float32, 0),
    )
