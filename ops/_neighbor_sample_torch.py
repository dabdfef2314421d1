"""`neighbor_sample` in plain torch: every device without a kernel, and builds without the extension. Internal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnaccel.ops._philox import LOW, philox4x32


@dataclass
class Draws:
    """Random words of every root, and how many of them have been used."""

    root: Tensor
    used: Tensor
    seed: int
    fixed: tuple[int, int, int]  # epoch, batch, hop

    def words(self, rows: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """High and low half of the word `ahead` of what is used."""
        epoch, batch, hop = self.fixed
        root, i = self.root[rows], self.used[rows] + ahead
        high = ((root >> 32) & LOW) ^ (epoch & LOW)
        first = ((hop << 24) + (i >> 1)) & LOW
        w = philox4x32([first, root & LOW, torch.full_like(root, batch & LOW), high], self.seed)
        odd = (i & 1).bool()
        return torch.where(odd, w[3], w[1]), torch.where(odd, w[2], w[0])

    def unit(self, rows: Tensor, ahead: Tensor) -> Tensor:
        high, low = self.words(rows, ahead)
        return ((high << 21 | low >> 11).double() + 0.5) * 2.0**-53


@dataclass
class Graph:
    indptr: Tensor
    nbr: Tensor
    eid: Tensor | None
    weight: Tensor | None
    exclude: Tensor | None

    def excluded(self, at: Tensor) -> Tensor:
        if self.exclude is None or self.eid is None:
            return torch.zeros_like(at, dtype=torch.bool)
        e = self.eid[at].long()
        i = torch.searchsorted(self.exclude, e).clamp(max=len(self.exclude) - 1)
        return self.exclude[i] == e


def ragged(start: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of all rows one after the other, and the row of each."""
    row = torch.repeat_interleave(torch.arange(len(n), device=n.device), n)
    first = n.cumsum(0) - n
    return start[row] + torch.arange(len(row), device=n.device) - first[row], row


def draw(d: Draws, rows: Tensor, n: Tensor, fanout: int, replace: bool) -> Tensor:
    """`fanout` of range(n) for each row, ascending."""
    picks = torch.full((len(rows), fanout), -1, dtype=torch.int64, device=n.device)
    for i in range(fanout if len(rows) else 0):
        high, low = d.words(rows, torch.full_like(rows, i))
        last = n - fanout + i
        bound = n if replace else last + 1
        pick = (high * bound + (low * bound >> 32)) >> 32
        if not replace:
            pick = torch.where((picks == pick[:, None]).any(1), last, pick)
        picks[:, i] = pick
    return picks.sort(1).values


def compact(row: Tensor, place: Tensor, order: Tensor, rows: int, fanout: int) -> tuple[Tensor, Tensor]:
    """The first `fanout` places of each row in the order given, ascending, and how many."""
    row, place = row[order], place[order]
    n = torch.bincount(row, minlength=rows)
    slot = torch.arange(len(row), device=row.device) - (n.cumsum(0) - n)[row]
    picks = torch.full((rows, fanout), 2**62, dtype=torch.int64, device=row.device)
    kept = slot < fanout
    picks[row[kept], slot[kept]] = place[kept]
    return picks.sort(1).values, n.clamp(max=fanout)


def uniform(g: Graph, d: Draws, start: Tensor, n: Tensor, fanout: int, replace: bool) -> tuple[Tensor, Tensor]:
    slot = torch.arange(fanout, device=n.device)
    picks = slot.expand(len(n), fanout).clone()
    count = torch.where(n > 0, fanout, 0) if replace else n.clamp(max=fanout)
    rows = ((n > 0) & (replace | (n > fanout))).nonzero()[:, 0]
    picks[rows] = draw(d, rows, n[rows], fanout, replace)
    d.used[rows] += fanout
    if g.exclude is None:
        return picks, count
    valid = slot < count[:, None]
    hit = (g.excluded(torch.where(valid, start[:, None] + picks, 0).clamp(max=max(len(g.nbr) - 1, 0))) & valid).any(1)
    again = hit.nonzero()[:, 0]
    at, row = ragged(start[again], n[again])
    free = ~g.excluded(at)
    at, row = at[free], row[free]
    allowed = torch.bincount(row, minlength=len(again))
    first = allowed.cumsum(0) - allowed
    drawn = (allowed > 0) & (replace | (allowed > fanout))
    rank = slot.expand(len(again), fanout).clone()
    rank[drawn] = draw(d, again[drawn], allowed[drawn], fanout, replace)
    d.used[again[drawn]] += fanout
    count[again] = torch.where(allowed > 0, fanout, 0) if replace else allowed.clamp(max=fanout)
    valid = slot < count[again][:, None]
    place = torch.where(valid, first[:, None] + rank, 0)
    if len(at):
        picks[again] = torch.where(valid, at[place] - start[again][:, None], 0)
    return picks, count


def weighted(g: Graph, d: Draws, start: Tensor, n: Tensor, fanout: int, replace: bool) -> tuple[Tensor, Tensor]:
    assert g.weight is not None
    at, row = ragged(start, n)
    w = g.weight[at].double()
    if not bool(((w >= 0) & (w <= torch.finfo(torch.float32).max)).all()):
        raise RuntimeError("neighbor_sample: bad weight")
    free = (w > 0) & ~g.excluded(at)
    at, row, w = at[free], row[free], w[free]
    place = at - start[row]
    able = torch.bincount(row, minlength=len(n))
    first = able.cumsum(0) - able
    if not replace:
        rank = torch.arange(len(row), device=row.device) - first[row]
        drawn = n[row] > fanout
        key = torch.where(drawn, -d.unit(row, rank).log() / w, rank.double())
        d.used += torch.where(n > fanout, able, 0)
        order = key.argsort(stable=True)
        order = order[row[order].argsort(stable=True)]
        return compact(row, place, order, len(n), fanout)
    rows = (able > 0).nonzero()[:, 0]
    count = torch.where(able > 0, fanout, 0)
    picks = torch.zeros((len(n), fanout), dtype=torch.int64, device=n.device)
    if len(rows) == 0:
        return picks, count
    end, begin = (first + able - 1)[rows], first[rows]
    total = w.cumsum(0)
    before = total[begin] - w[begin]
    slot = torch.arange(fanout, device=n.device).repeat(len(rows))
    target = d.unit(rows.repeat_interleave(fanout), slot).reshape(len(rows), fanout) * (total[end] - before)[:, None]
    found = torch.searchsorted(total, target.sort(1).values + before[:, None], right=True)
    picks[rows] = place[torch.minimum(found, end[:, None])]
    d.used[rows] += fanout
    return picks, count


Pick = Callable[[Graph, Draws, Tensor, Tensor, int, bool], tuple[Tensor, Tensor]]


def by_relation(
    g: Graph, d: Draws, start: Tensor, n: Tensor, relation: Tensor, fanout: list[int], replace: bool, pick: Pick
) -> tuple[Tensor, Tensor]:
    at, row = ragged(start, n)
    kind = relation[at].long()
    key = row * len(fanout) + kind
    if bool(((kind < 0) | (kind >= len(fanout))).any()) or bool((key[1:] < key[:-1]).any()):
        raise RuntimeError("neighbor_sample: bad row")
    size = torch.bincount(key, minlength=len(n) * len(fanout)).reshape(len(n), len(fanout))
    before = size.cumsum(1) - size
    parts, rows, count = [], [], torch.zeros_like(n)
    for r, f in enumerate(fanout):
        if f == 0:
            continue
        picks, some = pick(g, d, start + before[:, r], size[:, r], f, replace)
        valid = torch.arange(f, device=n.device) < some[:, None]
        parts.append((picks + before[:, r, None])[valid])
        rows.append(valid.nonzero()[:, 0])
        count += some
    row, place = torch.cat(rows), torch.cat(parts)
    order = row.argsort(stable=True)
    picks, _ = compact(row, place, order, len(n), sum(fanout))
    return picks, count


def neighbor_sample(
    indptr: Tensor,
    nbr: Tensor,
    eid: Tensor | None,
    relation: Tensor | None,
    weight: Tensor | None,
    exclude: Tensor | None,
    nodes: Tensor,
    fanout: list[int],
    typed: bool,
    by_weight: bool,
    replace: bool,
    edge_ids: bool,
    seed: int,
    epoch: int,
    batch: int,
    hop: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op's arguments and results."""
    size, slots, device = len(indptr) - 1, sum(fanout), nbr.device
    if bool(((nodes < -1) | (nodes >= size)).any()):
        raise RuntimeError("neighbor_sample: bad root")
    real = nodes >= 0
    rows = torch.where(real, nodes, 0).long()
    start = indptr[rows] * real if size else torch.zeros_like(rows)
    n = (indptr[rows + 1] - indptr[rows]) * real if size else torch.zeros_like(rows)
    if bool(((start < 0) | (n < 0) | (start + n > len(nbr)) | (n >= 2**31)).any()):
        raise RuntimeError("neighbor_sample: bad row")
    g = Graph(indptr, nbr, eid, weight, exclude)
    root = torch.arange(len(nodes), device=device)
    d = Draws(root, torch.zeros_like(root), seed, (epoch, batch, hop))
    pick = weighted if by_weight else uniform
    if typed and relation is not None:
        picks, count = by_relation(g, d, start, n, relation, fanout, replace, pick)
    else:
        picks, count = pick(g, d, start, n, slots, replace)
    valid = torch.arange(slots, device=device) < count[:, None]
    at = torch.where(valid, start[:, None] + picks, 0)

    def take(tensor: Tensor | None, fill: int, wanted: bool = True) -> Tensor:
        assert tensor is not None
        if not wanted or tensor.numel() == 0:
            return tensor.new_full((len(nodes) if wanted else 0, slots), fill)
        return torch.where(valid, tensor[at], fill)

    return (
        take(nbr, -1),
        take(eid if edge_ids else nbr, -1, edge_ids),
        count.to(torch.int32),
        take(
            relation if relation is not None else torch.empty(0, dtype=torch.int16, device=device),
            -1,
            relation is not None,
        ),
        take(weight if weight is not None else torch.empty(0, device=device), 0, weight is not None),
    )
