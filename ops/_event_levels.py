"""`event_levels`: which state each event of a batch reads and leaves, as if events happened one by one. Internal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

define(
    "event_levels(Tensor root, Tensor nbr, Tensor group, SymInt num_nodes) -> (Tensor row, Tensor before, Tensor last,"
    " Tensor order, Tensor offset, Tensor root_version, Tensor nbr_version, Tensor read)"
)


class EventLevels(NamedTuple):
    """Result of `event_levels`."""

    row: Tensor
    before: Tensor
    last: Tensor
    order: Tensor
    offset: Tensor
    root_version: Tensor
    nbr_version: Tensor
    read: Tensor


@impl("event_levels", "CompositeExplicitAutograd")
def _composite(root: Tensor, nbr: Tensor, group: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    B, S = len(group), len(root)
    if root.device.type == "cpu":
        if B and bool((group[1:] < group[:-1]).any()):
            raise ValueError("event_levels: group must not decrease")
        for name, ids, low in (("root", root, 0), ("nbr", nbr, -1)):
            if ids.numel() and not low <= int(ids.min()) <= int(ids.max()) < num_nodes:
                given = int(ids.min()) if int(ids.min()) < low else int(ids.max())
                raise ValueError(f"event_levels: {name} must be in [{low}, {num_nodes}), got {given}")
    at = torch.arange(S, device=root.device)
    event = torch.where(at < 2 * B, at % max(B, 1), (at - 2 * B).clamp(min=0) // max(S // max(B, 1) - 2, 1))
    dense = torch.unique_consecutive(group, return_inverse=True)[1]
    G = max(B, 1)  # more than there are groups
    clock = dense[event] if B else event
    # distinct (node, group) pairs of the ends, in order of node, then group
    turn = 2 * event[: 2 * B] + (at[: 2 * B] >= B)  # events in order, the source before the destination
    keys, inverse = torch.unique(root[: 2 * B] * G + clock[: 2 * B], return_inverse=True)
    R = len(keys)
    first = keys.new_full((R,), 2 * B).scatter_reduce_(0, inverse, turn, "amin")
    latest = keys.new_zeros(R).scatter_reduce_(0, inverse, turn, "amax")
    by_key = torch.empty_like(keys)  # row of each key
    by_key[first.argsort()] = at[:R]
    row = by_key[inverse]
    last = torch.empty_like(keys)
    last[by_key] = latest // 2 + latest % 2 * B
    before = torch.full_like(keys, -1)
    again = (keys[1:] // G == keys[:-1] // G).nonzero().squeeze(1)
    before[by_key[again + 1]] = by_key[again]
    # levels: the longest path, found by as many rounds as it is long
    other = row[(last + B) % (2 * B)] if B else last
    level, found = torch.full_like(keys, -1), torch.zeros_like(keys)
    while not torch.equal(level, found):
        level = found
        found = torch.where(before < 0, 0, 1 + torch.maximum(level, level[other])[before])
    order = level.argsort(stable=True)
    offset = torch.cat([keys.new_zeros(1), torch.bincount(level).cumsum(0)])
    # what was left by the last row of the same node and an earlier group
    ids = torch.cat([root.unsqueeze(1), nbr], dim=1)
    version = ids
    if R:
        found_at = torch.searchsorted(keys, ids * G + clock.unsqueeze(1)) - 1
        hit = (found_at >= 0) & (keys[found_at] // G == ids) & (ids >= 0)
        seen = by_key[found_at]
        read = torch.unique(seen[hit])
        version = torch.where(hit, num_nodes + torch.searchsorted(read, seen), ids)
    else:
        read = keys.clone()
    return row, before, last, order, offset, version[:, 0].clone(), version[:, 1:].contiguous(), read


@fake("event_levels")
def _fake(root: Tensor, nbr: Tensor, group: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    rows, bounds, versions = (context.new_dynamic_size() for _ in range(3))
    new = root.new_empty
    return (
        new((2 * group.shape[0],)),
        new((rows,)),
        new((rows,)),
        new((rows,)),
        new((bounds,)),
        new((root.shape[0],)),
        new(nbr.shape),
        new((versions,)),
    )


def event_levels(root: Tensor, nbr: Tensor, group: Tensor, num_nodes: int) -> EventLevels:
    """Order the state updates of a batch as if its groups of events happened one after the other.

    A node with events in a group reads its state once, and leaves a new one made of what it and the other end of its last
    event of the group read. A *row* is such a read: a (node, group) pair of an end, numbered by event, source before
    destination. Rows of one level depend on rows of lower levels only, so a level can be computed at once. A *version* of a
    node is its state before the batch, or what one of its rows left.

    Args:
        root: Nodes, int64 `[S]` in `[0, num_nodes)`, S = (2 + C) B: the sources of the events, their destinations, then C
            further nodes of the first event, of the second and so on.
        nbr: Nodes that each root looks at too, int64 `[S, K]`, -1 for none.
        group: Group of each event, int64 `[B]`, not decreasing. What an event looks at is as before its group.
        num_nodes: N.

    Returns:
        All int64:
        `row [2 B]`: row of each end.
        `before [R]`: the row that left what row r reads, -1 for the state before the batch.
        `last [R]`: position in `root` of the last end of a row (the destination is after the source).
        `order [R]`, `offset [L + 1]`: rows by level; level l is `order[offset[l] : offset[l + 1]]`.
        `root_version [S]`, `nbr_version [S, K]`: what is looked at: n < N is node n before the batch, N + k what row `read[k]`
        left, -1 for none.
        `read [W]`: rows whose result is looked at, increasing.

    Cost: O(S K) on CPU. Elsewhere, and without the extension, one sort and a round for each level.

    Determinism: the same on every device.

    Raises:
        TypeError: An argument is not int64.
        ValueError: Shapes do not fit, or on CPU an id is out of range or `group` decreases.
    """
    for name, tensor, dims in (("root", root, 1), ("nbr", nbr, 2), ("group", group, 1)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"event_levels: {name} must be int64, got {tensor.dtype}")
        if tensor.dim() != dims:
            raise ValueError(f"event_levels: {name} must have {dims} dimension(s), got {list(tensor.shape)}")
    S, B = root.shape[0], group.shape[0]
    if (S % B if B else S) or S < 2 * B:
        raise ValueError(f"event_levels: root must have 2 or more nodes for each of {B} events, got {S}")
    if nbr.shape[0] != S:
        raise ValueError(f"event_levels: nbr must be [{S}, K], got {list(nbr.shape)}")
    return EventLevels(*torch.ops.gnnaccel.event_levels(root, nbr, group, num_nodes))
