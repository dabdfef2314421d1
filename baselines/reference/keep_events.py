"""Reference for `keep_events_`: events in order of time, a source before its destination."""

from torch import Tensor


def keep_events(
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
    """Later ends overwrite what earlier ones of the same node left. `place` is not used."""
    events = list(zip(src.tolist(), dst.tolist(), t.tolist(), strict=True))
    row = {node: i for i, node in enumerate(nodes.tolist())}
    if any(u not in row or v not in row for u, v, _ in events):
        return False
    for e in sorted(range(len(events)), key=lambda e: (events[e][2], e)):
        u, v, when = events[e]
        for node, end in ((u, v), (v, u)):
            memory[node], last_update[node] = rows[row[node]], rows_time[row[node]]
            status[node], other[node], time[node], raw[node] = 1, end, when, raw_msg[e]
    return True
