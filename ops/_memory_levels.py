"""`memory_levels`: the state updates of a batch, level by level. Internal; exact batches call it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops.gather_rows import FLOATING, gather_rows
from gnnaccel.ops.memory_update import check_cell

define(
    "memory_levels(Tensor old, Tensor old_update, Tensor node, Tensor row, Tensor before, Tensor last, Tensor order,"
    " Tensor offset, Tensor times, Tensor event_ids, Tensor? edge_feat, Tensor time_w, Tensor time_b, Tensor w_ih,"
    " Tensor w_hh, Tensor b_ih, Tensor b_hh, bool gru) -> (Tensor memory, Tensor last_update, Tensor mail, Tensor mail_time)"
)


@impl("memory_levels", "CompositeExplicitAutograd")
def _composite(
    old: Tensor,
    old_update: Tensor,
    node: Tensor,
    row: Tensor,
    before: Tensor,
    last: Tensor,
    order: Tensor,
    offset: Tensor,
    times: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None,
    *cell: Any,
) -> tuple[Tensor, ...]:
    *weights, gru = cell
    B, R, D = len(event_ids), len(before), old.shape[1]
    limits = [("node", node, len(old)), ("row", row, R), ("last", last, 2 * B), ("before", before + 1, R + 1)]
    if edge_feat is not None:
        limits.append(("event_ids", event_ids, len(edge_feat)))
    for name, ids, limit in limits:
        if ids.device.type == "cpu" and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
            raise ValueError(f"memory_levels: {name} is out of range, got {int(ids.min())}..{int(ids.max())}")
    memory = old.new_zeros(R, D)
    mail = old.new_zeros(R, 2 * D + (0 if edge_feat is None else edge_feat.shape[1]))
    mail_time = times[last]
    last_update = torch.where(before < 0, old_update[node[last]], mail_time[before]) if R else mail_time
    other = row[torch.where(last < B, last + B, last - B)]

    def leave(rows: Tensor) -> None:
        parts = [memory[rows], memory[other[rows]]]
        if edge_feat is not None:
            parts.append(gather_rows(edge_feat, event_ids[last[rows] % B], dtype=mail.dtype))
        mail[rows] = torch.cat(parts, dim=1)

    for level, (a, b) in enumerate(pairwise(offset.tolist())):
        rows = order[a:b]
        if level == 0:
            memory[rows] = old[node[last[rows]]]
            continue
        source = before[rows]
        leave(source)
        dt = mail_time[source] - last_update[source]
        memory[rows] = torch.ops.gnnaccel.memory_update(mail, dt, memory, *weights, source, gru, False)[0]
    if R:
        leave(torch.arange(R, device=before.device))
    return memory, last_update, mail, mail_time


@fake("memory_levels")
def _fake(old: Tensor, old_update: Tensor, node: Tensor, row: Tensor, before: Tensor, *args: Any) -> tuple[Tensor, ...]:
    times, edge_feat = args[3], args[5]
    R, D = before.shape[0], old.shape[1]
    width = 2 * D + (0 if edge_feat is None else edge_feat.shape[1])
    return old.new_empty((R, D)), times.new_empty((R,)), old.new_empty((R, width)), times.new_empty((R,))


def memory_levels(
    old: Tensor,
    old_update: Tensor,
    node: Tensor,
    row: Tensor,
    before: Tensor,
    last: Tensor,
    order: Tensor,
    offset: Tensor,
    times: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each state update of a batch reads and leaves; updates are the rows of `event_levels`.

    Row r reads memory with pending mail applied: `old[node]` if nothing in the batch came before it, else `memory_update` of
    what row `before[r]` left. It leaves this memory, and the mail `[own | row of the other end | feature]` of its last event.

    Args:
        old: Memory of the batch's nodes with the mail from before the batch applied, `[U, D]`, float32 or float64.
        old_update: Time of its last update, `[U]`, int64 or float64.
        node: Row in `old` of each end, int64 `[2 B]`.
        row, before, last, order, offset: From `event_levels`.
        times: Times of the ends, `[2 B]`, dtype of `old_update`.
        event_ids: Event ids, int64 `[B]`.
        edge_feat: Features of all events by id, `[E, De]`, floating, or None.
        time_w, time_b, w_ih, w_hh, b_ih, b_hh, cell: As in `memory_update`.

    Returns:
        `memory [R, D]` and `last_update [R]`, which each row read and leaves; `mail [R, 2 D + De]` and `mail_time [R]`, which
        it leaves.

    Gradients: none; the results are state.

    Determinism: a row has the bits that `memory_update` gives it, whatever the other rows and the number of threads.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes do not fit, or on CPU an index is out of range.
    """
    if old.dim() != 2:
        raise ValueError(f"memory_levels: old must have two dimensions, got {list(old.shape)}")
    B, R, D = event_ids.shape[0], before.shape[0], old.shape[1]
    if old.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"memory_levels: old must be float32 or float64, got {old.dtype}")
    if old_update.dtype not in (torch.int64, torch.float64) or times.dtype != old_update.dtype:
        raise TypeError(
            f"memory_levels: old_update and times must both be int64 or float64, got {old_update.dtype} and {times.dtype}"
        )
    if edge_feat is not None and edge_feat.dtype not in FLOATING:
        raise TypeError(f"memory_levels: edge_feat must be floating, got {edge_feat.dtype}")
    extra = 0 if edge_feat is None else edge_feat.shape[1]
    shapes = {
        "old_update": (old_update, (old.shape[0],)),
        "node": (node, (2 * B,)),
        "row": (row, (2 * B,)),
        "last": (last, (R,)),
        "order": (order, (R,)),
        "times": (times, (2 * B,)),
    }
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"memory_levels: {name} must be {list(shape)}, got {list(tensor.shape)}")
    for name, ids in (("node", node), ("row", row), ("before", before), ("last", last), ("order", order)):
        if ids.dtype != torch.int64:
            raise TypeError(f"memory_levels: {name} must be int64, got {ids.dtype}")
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    # tables of no rows, for their widths
    mail, memory = (torch.empty(0, width, dtype=old.dtype, device="meta") for width in (2 * D + extra, D))
    check_cell("memory_levels", cell, mail, memory, *weights)
    with torch.no_grad():
        return torch.ops.gnnaccel.memory_levels(
            old,
            old_update,
            node,
            row,
            before,
            last,
            order,
            offset,
            times,
            event_ids,
            edge_feat,
            *weights,
            cell == "gru",
        )
