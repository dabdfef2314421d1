"""Reference for `temporal_sample`: loops over plain numbers, one event after the other."""

import torch
from torch import Tensor


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011)."""
    a, b, c, d = counter
    k, l = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = right // 2**32 ^ b ^ k, right % 2**32, left // 2**32 ^ d ^ l, left % 2**32
        k, l = (k + 0x9E3779B9) % 2**32, (l + 0xBB67AE85) % 2**32
    return a, b, c, d


def random_words(seed: int, epoch: int, batch: int, root: int, hop: int):
    """64-bit random words of one root."""
    word = 2**32
    for i in range(2**24):
        counter = (hop * 2**24 + i, root % word, batch % word, epoch % word ^ root // word % word)
        a, b, c, d = philox4x32(counter, (seed % word, seed // word % word))
        yield a + b * word
        yield c + d * word


def choose(n: int, k: int, replace: bool, words) -> list[int]:
    """k of range(n), in descending order; without replacement by Floyd's algorithm."""
    chosen: list[int] = []
    for last in range(n - k, n):
        bound = n if replace else last + 1
        pick = next(words) * bound // 2**64
        chosen.append(last if not replace and pick in chosen else pick)
    return sorted(chosen, reverse=True)


def sees(mode: str, event: tuple, time, event_id, batch_start) -> bool:
    t, eid = event
    if mode == "strict":
        return t < time
    if mode == "inclusive":
        return t <= time
    if mode == "by_event_id":
        return (t, eid) < (time, event_id)
    return (t, eid) < batch_start and t <= time


def tgl_picks(events: list[tuple], time, fanout: int, strategy: str, window, words) -> list[tuple]:
    """What TGL's sampler takes of a node's events, sorted by (t, eid): its indices and loops, our generator."""
    end = -1  # last event with t <= time
    start = -1  # last event that is at least a window old
    for i, event in enumerate(events):
        if event[0] <= time:
            end = i
            if window is not None and time - event[0] >= window:
                start = i
    end, start = max(end, 0), max(start, 0)
    if not events:
        return []
    if strategy == "recent" or end - start < fanout:
        walked = range(end, max(start, end - fanout), -1)
    else:
        walked = sorted((start + next(words) * (end - start + 1) // 2**64 for _ in range(fanout)), reverse=True)
    return [events[i] for i in walked if events[i][0] < time]


def temporal_sample(
    src: Tensor,
    dst: Tensor,
    t: Tensor,
    nodes: Tensor,
    times: Tensor,
    fanout: int = 10,
    strategy: str = "recent",
    replace: bool = False,
    window: int | float | None = None,
    semantics: str = "strict",
    seed: int = 0,
    hop: int = 0,
    *,
    epoch: int = 0,
    batch: int = 0,
    event_ids: Tensor | None = None,
    batch_start: tuple | None = None,
    root_offset: int = 0,
    draw_keys: Tensor | None = None,
    add_reverse: bool = True,
    id_dtype: torch.dtype = torch.int32,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(nbr, eid, dt, count, t) from the events themselves."""
    history: dict[int, list[tuple]] = {}
    for e, (u, v, time) in enumerate(zip(src.tolist(), dst.tolist(), t.tolist(), strict=True)):
        history.setdefault(u, []).append((time, e, v))
        if add_reverse and u != v:
            history.setdefault(v, []).append((time, e, u))
    shape = (len(nodes), fanout)
    nbr, eid = torch.full(shape, -1, dtype=id_dtype), torch.full(shape, -1, dtype=id_dtype)
    dt, at = torch.zeros(shape, dtype=t.dtype), torch.zeros(shape, dtype=t.dtype)
    count = torch.zeros(len(nodes), dtype=torch.int32)
    for r, (node, time) in enumerate(zip(nodes.tolist(), times.tolist(), strict=True)):
        events = sorted(history.get(node, []))
        event_id = None if event_ids is None else event_ids[r].item()
        key = (r + root_offset) % 2**32 if draw_keys is None else int(draw_keys[r])
        words = random_words(seed, epoch, batch, key, hop)
        if semantics == "tgl_compat":
            seen = tgl_picks(events, time, fanout, strategy, window, words)
        else:
            seen = [
                (s, e, other)
                for s, e, other in events
                if sees(semantics, (s, e), time, event_id, batch_start) and (window is None or time - s <= window)
            ]
            if strategy == "uniform" and seen and (replace or len(seen) > fanout):
                seen = [seen[i] for i in choose(len(seen), fanout, replace, words)]
            else:
                seen = seen[::-1][:fanout]
        count[r] = len(seen)
        for k, (s, e, other) in enumerate(seen):
            nbr[r, k], eid[r, k], dt[r, k], at[r, k] = other, e, time - s, s
    return nbr, eid, dt, count, at
