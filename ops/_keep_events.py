"""`keep_events_`: memory of a batch's nodes written, and their last events kept. Internal; `gnnaccel.pyg` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._apply_messages import PENDING
from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops.gather_rows import FLOATING
from gnnaccel.ops.latest_per_node import latest_per_node

define(
    "keep_events_(Tensor(a!) memory, Tensor(b!) last_update, Tensor(c!) status, Tensor(d!) other, Tensor(e!) time, "
    "Tensor(f!) raw, Tensor(g!) place, Tensor src, Tensor dst, Tensor t, Tensor raw_msg, Tensor nodes, Tensor rows, "
    "Tensor rows_time) -> Tensor"
)


@impl("keep_events_", "CompositeExplicitAutograd")
def _composite(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    place: Tensor,
    src: Tensor,
    dst: Tensor,
    t: Tensor,
    raw_msg: Tensor,
    nodes: Tensor,
    rows: Tensor,
    rows_time: Tensor,
) -> Tensor:
    if src.device.type == "cpu":
        for name, ids in (("src", src), ("dst", dst), ("nodes", nodes)):
            bad = ids[(ids < 0) | (ids >= len(memory))]
            if len(bad):
                raise ValueError(f"keep_events: {name} must be in [0, {len(memory)}), got {int(bad[0])}")
    B, U = len(src), len(nodes)
    ends, event = torch.cat([src, dst]), torch.arange(B, device=t.device)
    place.index_copy_(0, nodes, torch.arange(U, device=nodes.device))
    found, last = latest_per_node(ends, t.repeat(2), event.repeat(2))
    found, last = found.long(), last.long()
    row = place.index_select(0, found)
    known = (row >= 0) & (row < U)
    if U:
        known &= nodes[row.clamp(0, U - 1)] == found
    if not bool(known.all()):
        return torch.zeros((), dtype=torch.bool, device=t.device)
    for table, values, at in (
        (memory, rows, row),
        (last_update, rows_time, row),
        (other, torch.cat([dst, src]), last),
        (time, t, last % max(B, 1)),
        (raw, raw_msg, last % max(B, 1)),
    ):
        table.index_copy_(0, found, values.index_select(0, at))
    status.index_fill_(0, found, PENDING)
    return torch.ones((), dtype=torch.bool, device=t.device)


@fake("keep_events_")
def _fake(memory: Tensor, *others: Tensor) -> Tensor:
    return memory.new_empty((), dtype=torch.bool)


def keep_events_(
    memory: Tensor,
    last_update: Tensor,
    status: Tensor,
    other: Tensor,
    time: Tensor,
    raw: Tensor,
    place: Tensor,
    src: Tensor,
    dst: Tensor,
    t: Tensor,
    raw_msg: Tensor,
    nodes: Tensor,
    rows: Tensor,
    rows_time: Tensor,
) -> bool:
    """Give the nodes of a batch of events what `apply_messages` made of them, and keep each one's last event, in place.

    Of the tables of `apply_messages` the rows of all ends change: memory and last update to those of the node in `rows`, the
    rest to its last event (largest time, the last of several, a destination rather than a source), and PENDING.

    Args:
        memory, last_update, status, other, time, raw: As in `apply_messages`, contiguous.
        place: Scratch, int64 `[N]`; holds anything before and after.
        src, dst, t: Events, int64 `[B]`.
        raw_msg: Their raw messages, `[B, F]`, dtype of `raw`.
        nodes: Distinct nodes, int64 `[U]`.
        rows, rows_time: Their memory, `[U, D]`, dtype of `memory`, and last updates, int64 `[U]`.

    Returns:
        Whether that was done; if an end is not among `nodes`, nothing was. Waits for the device.

    Determinism: the same everywhere.

    Raises:
        TypeError: An argument has another dtype.
        ValueError: Shapes do not fit, a table is not contiguous, or (CPU, before anything is written) an id is out of range.
    """
    if memory.dim() != 2 or raw.dim() != 2:
        raise ValueError(
            f"keep_events: memory and raw must be matrices, got {list(memory.shape)} and {list(raw.shape)}"
        )
    if memory.dtype not in FLOATING:
        raise TypeError(f"keep_events: memory must be floating, got {memory.dtype}")
    name, (N, D), (B, U) = "keep_events", memory.shape, (src.numel(), nodes.numel())
    tables = (
        ("memory", memory, memory.dtype, (N, D)), ("last_update", last_update, torch.int64, (N,)),
        ("status", status, torch.uint8, (N,)), ("other", other, torch.int64, (N,)), ("time", time, torch.int64, (N,)),
        ("raw", raw, memory.dtype, (N, raw.shape[-1])), ("place", place, torch.int64, (N,)),
    )  # fmt: skip
    inputs = (
        ("src", src, torch.int64, (B,)), ("dst", dst, torch.int64, (B,)), ("t", t, torch.int64, (B,)),
        ("raw_msg", raw_msg, memory.dtype, (B, raw.shape[-1])), ("nodes", nodes, torch.int64, (U,)),
        ("rows", rows, memory.dtype, (U, D)), ("rows_time", rows_time, torch.int64, (U,)),
    )  # fmt: skip
    for what, tensor, dtype, shape in (*tables, *inputs):
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: {what} must be {dtype}, got {tensor.dtype}")
        if tensor.shape != shape:
            raise ValueError(f"{name}: {what} must be {list(shape)}, got {list(tensor.shape)}")
    for what, tensor, *_ in tables:
        if not tensor.is_contiguous():
            raise ValueError(f"{name}: {what} must be contiguous, got strides {list(tensor.stride())}")
    written = tuple(tensor for _, tensor, *_ in tables)
    # an op made by Library.define does not tell autograd what it writes: a backward pass that still needs it would not know
    torch.autograd.graph.increment_version(written)
    return bool(torch.ops.gnnaccel.keep_events_(*written, *(tensor for _, tensor, *_ in inputs)))
