"""`commit_events`: what a batch of events leaves in memory and mailboxes, in place. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops.gather_rows import FLOATING, gather_rows
from gnnaccel.ops.latest_per_node import latest_per_node

IDS = (torch.int32, torch.int64)

_INPUTS = (
    "Tensor(a!) memory, Tensor(b!) last_update, Tensor(c!) mail, Tensor(d!) mail_time, Tensor(e!) has_mail,"
    " Tensor ends, Tensor times, Tensor row, Tensor rows_memory, Tensor rows_time, Tensor event_ids, Tensor? edge_feat"
)
define(f"commit_events({_INPUTS}) -> ()")
# with room for more events than there are: how many is a number on the device
define(f"commit_events.counted({_INPUTS}, Tensor count) -> ()")


@impl("commit_events", "CUDA")
def _cuda(*args: Any) -> None:
    from gnnaccel.kernels.triton.commit_events import commit_events

    commit_events(*args)


@impl("commit_events.counted", "CUDA")
def _cuda_counted(*args: Any) -> None:
    from gnnaccel.kernels.triton.commit_events import commit_events

    commit_events(*args)


@impl("commit_events.counted", "CompositeExplicitAutograd")
def _sliced(*args: Any) -> None:
    *tables, ends, times, row, rows_memory, rows_time, event_ids, edge_feat, count = args
    B = int(count)
    of_ends = (x[: 2 * B] for x in (ends, times, row))
    torch.ops.gnnaccel.commit_events.default(*tables, *of_ends, rows_memory, rows_time, event_ids[:B], edge_feat)


@impl("commit_events", "CompositeExplicitAutograd")
def _composite(
    memory: Tensor,
    last_update: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    ends: Tensor,
    times: Tensor,
    row: Tensor,
    rows_memory: Tensor,
    rows_time: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None,
) -> None:
    B = len(event_ids)
    limits = {"ends": (ends, len(memory)), "row": (row, len(rows_memory))}
    if edge_feat is not None:
        limits["event_ids"] = (event_ids, len(edge_feat))
    for name, (ids, limit) in limits.items():
        if B and ids.device.type == "cpu" and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
            raise ValueError(f"commit_events: {name} must be in [0, {limit}), got {int(ids.min())}..{int(ids.max())}")
    nodes, last = latest_per_node(ends, times, event_ids.repeat(2))
    nodes, row = nodes.long(), row.long()
    own, other = row[last], row[(last + B) % (2 * B)] if B else last
    parts = [rows_memory[own], rows_memory[other]]
    if edge_feat is not None:
        parts.append(gather_rows(edge_feat, event_ids[last % B] if B else last, dtype=memory.dtype))
    memory.index_copy_(0, nodes, parts[0])
    last_update.index_copy_(0, nodes, rows_time[own])
    mail.index_copy_(0, nodes, torch.cat(parts, dim=1))
    mail_time.index_copy_(0, nodes, times[last])
    has_mail.index_fill_(0, nodes, True)


@fake("commit_events.counted")
@fake("commit_events")
def _fake(*args: Tensor | None) -> None:
    return None


def commit_events(
    memory: Tensor,
    last_update: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    *,
    ends: Tensor,
    times: Tensor,
    row: Tensor,
    rows_memory: Tensor,
    rows_time: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None = None,
    count: Tensor | None = None,
) -> None:
    """Store the memory of the ends of a batch's events, and leave them the last event of each as mail (TGN, TGL), in place.

    Of the ends of a node the last is that of the largest (time, event id, position). Its node then has
    `memory[node] = rows_memory[row]`, `last_update[node] = rows_time[row]`, and the mail
    `[own row | row of the event's other end | feature]` of the event's time.

    Args:
        memory: `[N, D]`, floating, contiguous, as all tables.
        last_update: `[N]`, int64 or float64.
        mail: `[N, 2 D + De]`, dtype of `memory`.
        mail_time: `[N]`, dtype of `last_update`.
        has_mail: `[N]`, bool.
        ends: Nodes `[2 B]`, int32 or int64; ends `i` and `B + i` belong to event `i`.
        times: Times of the ends, `[2 B]`, dtype of `last_update`.
        row: Row of each end in the next two, `[2 B]`, int32 or int64; equal for equal nodes and for no others.
        rows_memory: New memory, `[U, D]`, dtype of `memory`.
        rows_time: Time of its last update, `[U]`, dtype of `last_update`.
        event_ids: Event ids, int64 `[B]`.
        edge_feat: Features of all events by id, `[E, De]`, floating, converted to the dtype of `memory`; None for De = 0.

        count: How many events there are, int64 `[1]` in `[0, B]` on the device of the tables, when B is only the room for them:
            then the first `count` ends are sources, the next `count` their destinations, the first `count` event ids theirs,
            and the rest is not looked at. None: B.

    Gradients: none; the tables are state.

    Determinism: the same on every device; no result depends on the order in which threads run.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes do not fit, a table is not contiguous, or on CPU an id is out of range (before anything is written).
    """
    if memory.dim() != 2 or mail.dim() != 2:
        raise ValueError(
            f"commit_events: memory and mail must be matrices, got {list(memory.shape)} and {list(mail.shape)}"
        )
    B, (N, D) = len(event_ids), memory.shape
    extra = 0 if edge_feat is None else edge_feat.shape[1]
    shapes = {
        "last_update": (last_update, (N,)),
        "mail": (mail, (N, 2 * D + extra)),
        "mail_time": (mail_time, (N,)),
        "has_mail": (has_mail, (N,)),
        "ends": (ends, (2 * B,)),
        "times": (times, (2 * B,)),
        "row": (row, (2 * B,)),
        "rows_memory": (rows_memory, (rows_memory.shape[0], D)),
        "rows_time": (rows_time, rows_memory.shape[:1]),
        "event_ids": (event_ids, (B,)),
    }
    for name, (tensor, shape) in shapes.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"commit_events: {name} must be {list(shape)}, got {list(tensor.shape)}")
    if memory.dtype not in FLOATING or (edge_feat is not None and edge_feat.dtype not in FLOATING):
        given = memory.dtype if edge_feat is None else f"{memory.dtype} and {edge_feat.dtype}"
        raise TypeError(f"commit_events: memory and edge_feat must be floating, got {given}")
    if last_update.dtype not in (torch.int64, torch.float64):
        raise TypeError(f"commit_events: last_update must be int64 or float64, got {last_update.dtype}")
    likes = {"mail": memory, "rows_memory": memory, "mail_time": last_update, "times": last_update}
    for name, like in {**likes, "rows_time": last_update}.items():
        if shapes[name][0].dtype != like.dtype:
            raise TypeError(f"commit_events: {name} must be {like.dtype}, got {shapes[name][0].dtype}")
    for name, wanted in (("has_mail", (torch.bool,)), ("event_ids", (torch.int64,)), ("ends", IDS), ("row", IDS)):
        if shapes[name][0].dtype not in wanted:
            raise TypeError(
                f"commit_events: {name} must be {' or '.join(map(str, wanted))}, got {shapes[name][0].dtype}"
            )
    for name, table in (
        ("memory", memory),
        ("mail", mail),
        *((n, shapes[n][0]) for n in ("last_update", "mail_time", "has_mail")),
    ):
        if not table.is_contiguous():
            raise ValueError(f"commit_events: {name} must be contiguous, got strides {list(table.stride())}")
    if not torch.compiler.is_compiling():
        # an op made by Library.define does not tell autograd what it writes: a backward pass that still needs it would not know
        torch.autograd.graph.increment_version((memory, last_update, mail, mail_time, has_mail))
    state = (memory, last_update, mail, mail_time, has_mail)
    batch = (ends, times, row, rows_memory, rows_time, event_ids, edge_feat)
    if count is None:
        torch.ops.gnnaccel.commit_events.default(*state, *batch)
    elif count.dtype != torch.int64 or count.numel() != 1:
        raise ValueError(f"commit_events: count must be int64 [1], got {count.dtype} {list(count.shape)}")
    else:
        torch.ops.gnnaccel.commit_events.counted(*state, *batch, count)
