"""Delivery of mail: whom an event writes to, and what is kept when a node gets several mails in one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from gnnaccel.graph.batch import TemporalBatch
from gnnaccel.nn.memory import Mailbox
from gnnaccel.ops import gather_rows, latest_per_node

COMBINE = ("last", "mean")


class Mails(NamedTuple):
    """Mails that are not written out: mail i is `[memory[own[i]] | memory[other[i]] | feature of event[i]]`.

    A batch of B events with K neighbours a root makes up to 2 B (K + 1) of them, of which a mailbox keeps one a node.
    """

    nodes: Tensor  # [n], whom it is for; negative for nobody
    own: Tensor  # [n], row of the end that the node is or neighbours
    other: Tensor  # [n], row of the event's other end
    event: Tensor  # [n], position of the event in the batch
    times: Tensor  # [n], time of the event
    event_ids: Tensor  # [B], ids of the batch's events


def end_mails(batch: TemporalBatch, event_ids: Tensor) -> Mails:
    """The mails that events leave for their own ends (TGN). Arguments as of `neighbor_mails`."""
    B = len(event_ids)
    row, event = batch.root_row[: 2 * B], torch.arange(B, device=event_ids.device).repeat(2)
    return Mails(batch.roots[: 2 * B], row, row.roll(B), event, batch.times[: 2 * B], event_ids)


def neighbor_mails(batch: TemporalBatch, event_ids: Tensor) -> Mails:
    """The mails that events leave for their ends and for every sampled neighbour of these (APAN, Wang et al., SIGMOD 2021).

    Event (u, v) with feature f sends `[memory_u | memory_v | f]` to u and to the neighbours of u, and
    `[memory_v | memory_u | f]` to v and to the neighbours of v. A neighbour that was sampled several times gets it as often.
    Of mails of one event a node's own comes last.

    Args:
        batch: Its roots start with the sources of B events, then their destinations, and it has the neighbours of these.
        event_ids: Event ids, int64 `[B]`.
    """
    ends, B = end_mails(batch, event_ids), len(event_ids)
    nbr = batch.block.nbr[: 2 * B]
    if len(nbr) < 2 * B:
        raise ValueError(f"neighbor_mails: batch must have neighbours of {2 * B} roots, got those of {len(nbr)}")
    K = nbr.shape[1]

    def passed_on(per_end: Tensor) -> Tensor:
        """A value an end, for its neighbours and then for itself."""
        return torch.cat([per_end.repeat_interleave(K), per_end])

    return Mails(
        nodes=torch.cat([nbr.reshape(-1), ends.nodes.to(nbr.dtype)]),
        own=passed_on(ends.own),
        other=passed_on(ends.other),
        event=passed_on(ends.event),
        times=passed_on(ends.times),
        event_ids=event_ids,
    )


@torch.no_grad()
def deliver(
    mailbox: Mailbox,
    nodes: Tensor,
    mails: Tensor,
    times: Tensor,
    combine: str = "last",
    event_ids: Tensor | None = None,
) -> None:
    """Leave `mails [n, M]`, sent at `times [n]`, for `nodes [n]`, which may repeat: a node's mails become one, in one slot.

    Args:
        mailbox: Changed in place; each node's cursor moves on by one.
        nodes: int64 or int32; negative for nobody.
        mails: Floating.
        times: dtype of the mailbox's times.
        combine: "last" keeps the mail of the largest (time, event id, position). "mean" keeps the mean of the mails and of
            their times, added up in the order they are given in; of integer times rounded down.
        event_ids: Event of each mail, int64 `[n]`, or None; for "last".

    Determinism: bitwise reproducible, on CPU for any number of threads.

    Raises:
        ValueError: Shapes do not fit, or `combine` is unknown.
    """
    if mails.shape != (len(nodes), mailbox.dim_mail):
        raise ValueError(f"deliver: mails must be {[len(nodes), mailbox.dim_mail]}, got {list(mails.shape)}")
    if combine == "last":
        who, last = latest_per_node(nodes, times, event_ids)
        mailbox.store(who, mails[last], times[last])
        return
    order, who, groups = _by_node("deliver", nodes, combine)
    mailbox.store(who, _means(mails, order, groups), _mean_times(times[order], groups))


@torch.no_grad()
def deliver_mails(
    mailbox: Mailbox, mails: Mails, memory: Tensor, edge_feat: Tensor | None = None, combine: str = "last"
) -> None:
    """`deliver` of `mails` that are formed here, only those that are kept.

    Args:
        mailbox: Changed in place; its mails have the size `2 * D + dim_edge`.
        mails: From `neighbor_mails` or `end_mails`.
        memory: The rows that they point into, `[U, D]`.
        edge_feat: Features of all events by id, `[E, dim_edge]`, or None.
        combine: As for `deliver`.
    """
    if combine == "last":
        who, last = latest_per_node(mails.nodes, mails.times, mails.event_ids[mails.event])
        parts = [memory[mails.own[last]], memory[mails.other[last]]]
        if edge_feat is not None:
            parts.append(gather_rows(edge_feat, mails.event_ids[mails.event[last]], dtype=memory.dtype))
        mailbox.store(who, torch.cat(parts, dim=1), mails.times[last])
        return
    order, who, groups = _by_node("deliver_mails", mails.nodes, combine)
    parts = [_means(memory, mails.own[order], groups), _means(memory, mails.other[order], groups)]
    if edge_feat is not None:
        features = gather_rows(edge_feat, mails.event_ids, dtype=memory.dtype)
        parts.append(_means(features, mails.event[order], groups))
    mailbox.store(who, torch.cat(parts, dim=1), _mean_times(mails.times[order], groups))


class _Groups(NamedTuple):
    start: Tensor  # [U], first of a group
    count: Tensor  # [U]


def _by_node(owner: str, nodes: Tensor, combine: str) -> tuple[Tensor, Tensor, _Groups]:
    """Positions of the mails that are for somebody, those of a node together and in order; the nodes; their groups."""
    if combine not in COMBINE:
        raise ValueError(f"{owner}: combine must be one of {list(COMBINE)}, got {combine!r}")
    order = (nodes >= 0).nonzero().squeeze(1)
    order = order[nodes[order].argsort(stable=True)]
    who, count = torch.unique_consecutive(nodes[order], return_counts=True)
    return order, who, _Groups(count.cumsum(0) - count, count)


def _means(table: Tensor, rows: Tensor, groups: _Groups) -> Tensor:
    """Means of the table's rows of each group, without the rows themselves."""
    if not len(rows):
        return table.new_empty(0, table.shape[1])
    return embedding_bag(rows, table, groups.start, mode="mean")


def _mean_times(times: Tensor, groups: _Groups) -> Tensor:
    if not len(times):
        return times
    first = times[groups.start]
    # differences are small: sums of whole Unix nanoseconds would overflow, and of fractional seconds lose digits
    since = times - first.repeat_interleave(groups.count)
    if times.dtype == torch.float64:
        return first + _means(since.unsqueeze(1), torch.arange(len(times), device=times.device), groups).squeeze(1)
    total = since.cumsum(0)
    total = total[groups.start + groups.count - 1] - total[groups.start]  # `since` is 0 at the start
    return first + total.div(groups.count, rounding_mode="floor")
