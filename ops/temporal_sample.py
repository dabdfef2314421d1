"""`temporal_sample`: the neighbours that a node has had before a time."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, fields
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops._philox import philox4x32

#: Semantics by name -> the op's number (`Visibility` in kernels/cuda/temporal_sample.cuh).
MODES = {"strict": 0, "inclusive": 1, "by_event_id": 2, "before_batch": 3, "tgl_compat": 4}
STRATEGIES = ("recent", "uniform")

# Times that are scalars (window, bound_t) travel as the 64 bits of the graph's time dtype.
_INPUTS = (
    "Tensor row_start, Tensor row_end, Tensor nbr, Tensor eid, Tensor t, Tensor nodes, Tensor times, "
    "Tensor? event_ids, Tensor? draw_keys, int fanout, int visibility, bool uniform, bool replace, int window"
)
_OUTPUTS = "(Tensor, Tensor, Tensor, Tensor, Tensor)"
define(
    f"temporal_sample({_INPUTS}, int bound_t, int bound_eid, int seed, int epoch, int batch, int root_offset, int hop)"
    f" -> {_OUTPUTS}"
)
# with what changes from batch to batch in a tensor: epoch, batch, bound_t, bound_eid
define(f"temporal_sample.keyed({_INPUTS}, Tensor counters, int seed, int root_offset, int hop) -> {_OUTPUTS}")

_NO_WINDOW = {torch.int64: -1, torch.float64: struct.unpack("q", struct.pack("d", math.inf))[0]}
_INT32 = 0xFFFFFFFF
_ALL_EIDS = 2**63 - 1

Sample = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _bits(value: float, dtype: torch.dtype) -> int:
    return int(value) if dtype == torch.int64 else struct.unpack("q", struct.pack("d", value))[0]


def _from_bits(bits: int, dtype: torch.dtype) -> int | float:
    return bits if dtype == torch.int64 else struct.unpack("d", struct.pack("q", bits))[0]


@impl("temporal_sample", "CUDA")
def _cuda(*args: Any) -> Sample:
    from gnnaccel.kernels.cuda.temporal_sample import temporal_sample

    return temporal_sample(*args)


@impl("temporal_sample.keyed", "CUDA")
def _cuda_keyed(*args: Any) -> Sample:
    from gnnaccel.kernels.cuda.temporal_sample import temporal_sample

    *inputs, counters, seed, root_offset, hop = args
    return temporal_sample(*inputs, 0, 0, seed, 0, 0, root_offset, hop, counters)


@impl("temporal_sample.keyed", "CompositeExplicitAutograd")
def _read(*args: Any) -> Sample:
    *inputs, counters, seed, root_offset, hop = args
    epoch, batch, bound_t, bound_eid = counters.tolist()
    return torch.ops.gnnaccel.temporal_sample.default(*inputs, bound_t, bound_eid, seed, epoch, batch, root_offset, hop)


# --- plain torch ----------------------------------------------------------------------------------------------------------


def _lower_bound(start: Tensor, end: Tensor, precedes: Any) -> Tensor:
    """First position in each [start, end) whose event does not precede."""
    low, high = start.clone(), end.clone()
    longest = int((end - start).max()) if len(start) else 0
    for _ in range(longest.bit_length()):
        middle = (low + high) >> 1
        go = low < high
        left = precedes(torch.where(go, middle, 0)) & go
        low = torch.where(left, middle + 1, low)
        high = torch.where(go & ~left, middle, high)
    return low


def _draw(
    n: Tensor, fanout: int, count: Tensor, replace: bool, keys: Tensor | None, key: tuple[int, int, int, int, int]
) -> Tensor:
    """`count` positions in [0, n) for each root, descending, -1 past `count`."""
    seed, epoch, batch, root_offset, hop = key
    roots = len(n)
    if keys is None:
        keys = (torch.arange(roots, device=n.device) + root_offset) & _INT32
    root, high = keys & _INT32, (keys >> 32) & _INT32
    fixed = [root, torch.full_like(root, batch & _INT32), high ^ (epoch & _INT32)]
    picks = torch.full((roots, fanout), -1, dtype=torch.int64, device=n.device)
    for i in range(fanout):
        if i % 2 == 0:
            words = philox4x32([torch.full_like(root, hop << 24 | i // 2), *fixed], seed)
        low, high = words[i % 2 * 2], words[i % 2 * 2 + 1]
        last = n - count + i
        bound = torch.where(count > i, n if replace else last + 1, 1)
        pick = (high * bound + (low * bound >> 32)) >> 32
        if not replace:
            pick = torch.where((picks == pick[:, None]).any(1), last, pick)
        picks[:, i] = torch.where(count > i, pick, -1)
    return picks.sort(dim=1, descending=True).values


def _tgl_range(
    start: Tensor, end: Tensor, t: Tensor, times: Tensor, fanout: int, window: int, uniform: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`tgl_seen` of the shared header: the range, and whether it is drawn from. [start, end): events up to the root's time."""
    now = _lower_bound(start, end, lambda i: t[i] < times)
    if window != _NO_WINDOW[t.dtype]:
        limit = _from_bits(window, t.dtype)
        start = torch.maximum(start, _lower_bound(start, end, lambda i: (times - t[i]) >= limit) - 1)
    drawn = uniform & (end - 1 - start >= fanout)
    first = torch.maximum(start, end - 1 - fanout) + 1
    return torch.where(drawn, start, first), torch.where(drawn, end, torch.maximum(now, first)), drawn


@impl("temporal_sample", "CompositeExplicitAutograd")
def _composite(
    row_start: Tensor,
    row_end: Tensor,
    nbr: Tensor,
    eid: Tensor,
    t: Tensor,
    nodes: Tensor,
    times: Tensor,
    event_ids: Tensor | None,
    draw_keys: Tensor | None,
    fanout: int,
    visibility: int,
    uniform: bool,
    replace: bool,
    window: int,
    bound_t: int,
    bound_eid: int,
    seed: int,
    epoch: int,
    batch: int,
    root_offset: int,
    hop: int,
) -> Sample:
    if bool(((nodes < -1) | (nodes >= len(row_start))).any()) or bool((times != times).any()):
        raise RuntimeError("temporal_sample: bad root")
    rows = nodes.long()
    real = rows >= 0
    if len(row_start):
        rows = rows.clamp(min=0)
        start, end = torch.where(real, row_start[rows], 0), torch.where(real, row_end[rows], 0)
    else:
        start = end = torch.zeros_like(rows)

    key_t, key_eid = times, torch.zeros_like(rows)
    if visibility == MODES["by_event_id"] and event_ids is not None:
        key_eid = event_ids
    elif visibility == MODES["before_batch"]:
        bound = torch.full_like(times, _from_bits(bound_t, t.dtype))
        key_t = torch.minimum(times, bound)
        key_eid = torch.where(times < bound, _ALL_EIDS, bound_eid)

    def precedes(i: Tensor) -> Tensor:
        if visibility == MODES["strict"]:
            return t[i] < key_t
        if visibility in (MODES["inclusive"], MODES["tgl_compat"]):
            return t[i] <= key_t
        return (t[i] < key_t) | ((t[i] == key_t) & (eid[i] < key_eid))

    empty, tgl = t.numel() == 0, visibility == MODES["tgl_compat"]
    replace = replace and not tgl  # TGL walks where a row is short, and always replaces where it draws
    drawn = torch.full_like(rows, uniform, dtype=torch.bool)
    if not empty:
        end = _lower_bound(start, end, precedes)
    if not empty and tgl:
        start, end, drawn = _tgl_range(start, end, t, times, fanout, window, drawn)
    elif not empty:
        if window != _NO_WINDOW[t.dtype]:
            limit = _from_bits(window, t.dtype)
            start = _lower_bound(start, end, lambda i: (times - t[i]) > limit)
    n = (end - start).clamp(min=0)
    count = torch.where(n > 0, fanout, 0) if uniform and replace else n.clamp(max=fanout)
    slot = torch.arange(fanout, device=t.device)
    newest = n[:, None] - 1 - slot
    if uniform:
        draws = _draw(n, fanout, count, replace or tgl, draw_keys, (seed, epoch, batch, root_offset, hop))
        drawn &= (n > fanout) | replace
        if tgl and not empty:
            # what is not earlier than the root is drawn all the same, and dropped: the first ones
            late = (t[torch.where(drawn[:, None], start[:, None] + draws, 0)] >= times[:, None]).sum(1)
            late = torch.where(drawn, late, 0)
            draws = draws.gather(1, (slot + late[:, None]).clamp(max=fanout - 1))
            count = count - late
        newest = torch.where(drawn[:, None], draws, newest)
    valid = slot < count[:, None]
    at = torch.where(valid, start[:, None] + newest, 0)
    shape = (len(nodes), fanout)
    if empty:
        no_id, no_time = torch.full(shape, -1, device=t.device), t.new_zeros(shape)
        out = no_id.to(nbr.dtype), no_id.to(eid.dtype), no_time, no_time.clone()
    else:
        out = (
            torch.where(valid, nbr[at], -1),
            torch.where(valid, eid[at], -1),
            torch.where(valid, times[:, None] - t[at], 0),
            torch.where(valid, t[at], 0),
        )
    return (*out[:3], count.to(torch.int32), out[3] if t.dtype == torch.float64 else t.new_empty((0, fanout)))


@fake("temporal_sample.keyed")
@fake("temporal_sample")
def _fake(
    row_start: Tensor, row_end: Tensor, nbr: Tensor, eid: Tensor, t: Tensor, nodes: Tensor, times: Tensor, *args: Any
) -> Sample:
    roots, fanout = nodes.shape[0], args[2]
    return (
        nbr.new_empty((roots, fanout)),
        eid.new_empty((roots, fanout)),
        t.new_empty((roots, fanout)),
        t.new_empty((roots,), dtype=torch.int32),
        t.new_empty((roots if t.dtype == torch.float64 else 0, fanout)),
    )


# --- public ---------------------------------------------------------------------------------------------------------------


class Rows(Protocol):
    """What is sampled from: the arrays of a `gnnaccel.TemporalGraph`."""

    row_start: Tensor
    row_end: Tensor
    nbr: Tensor
    eid: Tensor
    t: Tensor


class Semantics(Protocol):
    """A `gnnaccel.TimeSemantics`."""

    @property
    def mode(self) -> str: ...
    @property
    def window(self) -> int | float | None: ...


@dataclass(frozen=True, slots=True)
class Block:
    """Sampled neighbours of R roots, K slots each, newest first. Slots past `count` hold -1 (ids) and 0 (times).

    Attributes:
        nbr: Neighbours, `[R, K]`, the graph's id dtype.
        eid: Ids of the events that led to them, `[R, K]`, as `nbr`.
        dt: Root time minus event time, `[R, K]`, the graph's time dtype (int64 or float64).
        count: Slots in use, int32 `[R]`.
        times: Times of the roots, `[R]`, dtype of `dt`.
        float_t: Event times `[R, K]` of a float64 graph, since there they do not follow from `dt` exactly; else empty.
    """

    nbr: Tensor
    eid: Tensor
    dt: Tensor
    count: Tensor
    times: Tensor
    float_t: Tensor

    @property
    def t(self) -> Tensor:
        """Event times `[R, K]`, exact, 0 past `count`."""
        if self.dt.dtype == torch.float64:
            return self.float_t
        return (self.times[:, None] - self.dt).masked_fill_(self.nbr < 0, 0)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Block:
        """The block on `device`."""
        return Block(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))


def _bad_root(g: Rows, nodes: Tensor, times: Tensor) -> NoReturn:
    """Say which root the kernel refused."""
    bad = (nodes < -1) | (nodes >= g.row_start.shape[0])
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        given = f"{int(nodes[i])} at position {i}"
        raise ValueError(f"temporal_sample: nodes must be in [-1, {g.row_start.shape[0]}), got {given}") from None
    i = int((times != times).nonzero()[0])
    raise ValueError(f"temporal_sample: times must not be NaN, got NaN at position {i}") from None


def _scalar_time(name: str, value: Any, dtype: torch.dtype) -> int:
    if isinstance(value, bool) or not isinstance(value, int if dtype == torch.int64 else (int, float)):
        kind = "an integer" if dtype == torch.int64 else "a number"
        raise TypeError(f"temporal_sample: {name} must be {kind} on a graph with {dtype} times, got {value!r}")
    if value != value:
        raise ValueError(f"temporal_sample: {name} must not be NaN, got {value!r}")
    if dtype == torch.int64 and not -(2**63) <= value < 2**63:
        raise ValueError(f"temporal_sample: {name} must fit int64, got {value!r}")
    return _bits(value, dtype)


def temporal_sample(
    g: Rows,
    nodes: Tensor,
    times: Tensor,
    fanout: int = 10,
    strategy: str = "recent",
    replace: bool = False,
    window: int | float | None = None,
    semantics: str | Semantics = "strict",
    seed: int = 0,
    hop: int = 0,
    *,
    epoch: int = 0,
    batch: int = 0,
    event_ids: Tensor | None = None,
    batch_start: tuple[int | float, int] | None = None,
    root_offset: int = 0,
    draw_keys: Tensor | None = None,
    counters: Tensor | None = None,
) -> Block:
    """Sample up to `fanout` past events of each root (node, time), with their other endpoints.

    Args:
        g: A `gnnaccel.TemporalGraph`: each node's events sorted by (t, eid).
        nodes: Root nodes, `[R]`, int64 or int32. -1 is a padding root and has no neighbours.
        times: Root times, `[R]`, the graph's time dtype.
        fanout: Slots a root, at least 1.
        strategy: `"recent"`: the newest. `"uniform"`: every visible event equally likely.
        replace: Whether `"uniform"` may draw an event several times. Without, every subset is equally likely, and a root with
            no more than `fanout` visible events gets them all.
        window: If given, only events with t - t' <= window (an event exactly `window` ago is seen).
        semantics: Which events (t', eid') a root at time t sees: `"strict"`: t' < t. `"inclusive"`: t' <= t.
            `"by_event_id"`: (t', eid') < (t, event_ids[root]). `"before_batch"`: (t', eid') < `batch_start`, and t' <= t. Pairs
            compare lexicographically. Or a `gnnaccel.graph.TimeSemantics`, whose window then holds too.
            `"tgl_compat"` is what TGL's sampler does (Zhou et al., VLDB 2022), for comparison only, since it gives labels away:
            of the events up to t the last `fanout` are walked, those at t (a root's own among them) use up slots and are then
            dropped, and the oldest event is never taken; `"uniform"` draws with replacement and drops what is at t. An event
            exactly `window` ago is not seen. Its cursor shared by the roots of a node, its float32 times and its random
            generator are faults of another kind and left out.
        seed: 64 bits; with `epoch`, `batch`, the root's index + `root_offset` and `hop` it keys the draws of `"uniform"`
            (Philox4x32-10), so these are the same on every device and for any number of threads.
        hop: 0..255.
        event_ids: int64 `[R]`, for `"by_event_id"`.
        batch_start: (time, event id) of the first event of the batch, for `"before_batch"`.
        root_offset: Index of the first root, when one set of roots is sampled in several calls.
        draw_keys: int64 `[R]`, takes the place of index + `root_offset` in the key of the draws, all 64 bits of it: roots with
            the same key draw the same words wherever they stand, roots with distinct keys unrelated ones. Keys
            0, 1, 2, ... are the default. Not looked at by `"recent"`.
        counters: int64 `[4]` on the graph's device: epoch, batch, and `batch_start`'s two numbers (of a float64 time its bits).
            They take the places of these arguments, and are read when the op runs: for a step in a CUDA graph.

    Returns:
        A `Block`: `nbr`, `eid`, `dt` `[R, fanout]`, newest first, and `count` `[R]`. The search is exact and keeps no state;
        events that are not visible use up no slots.

    Determinism: bitwise reproducible. Roots out of range are an error on CPU; on CUDA they have no neighbours, since checking
    would wait for the GPU.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: A shape, name or value is wrong, or a root is out of range or has NaN for a time.
    """
    g = getattr(g, "view", g)  # read once: `append` may publish another one at any moment
    t = g.t
    dtype = t.dtype
    if times.dtype != dtype:
        raise TypeError(f"temporal_sample: times must be {dtype} like the graph's, got {times.dtype}")
    if nodes.dtype != torch.int64 and nodes.dtype != torch.int32:
        raise TypeError(f"temporal_sample: nodes must be int64 or int32, got {nodes.dtype}")
    if nodes.dim() != 1:
        raise ValueError(f"temporal_sample: nodes must be [R], got {list(nodes.shape)}")
    if times.shape != nodes.shape:
        raise ValueError(f"temporal_sample: times must be {list(nodes.shape)} like nodes, got {list(times.shape)}")
    if nodes.device != t.device or times.device != t.device:
        devices = f"{nodes.device} and {times.device}"
        raise ValueError(f"temporal_sample: nodes and times must be on {t.device} like the graph, got {devices}")
    if not isinstance(fanout, int) or isinstance(fanout, bool):
        raise TypeError(f"temporal_sample: fanout must be an int, got {fanout!r}")
    if not 1 <= fanout < 2**24:
        raise ValueError(f"temporal_sample: fanout must be in [1, 2**24), got {fanout}")
    if strategy not in STRATEGIES:
        raise ValueError(f"temporal_sample: strategy must be one of {list(STRATEGIES)}, got {strategy!r}")
    if not 0 <= hop < 256:
        raise ValueError(f"temporal_sample: hop must be in [0, 256), got {hop}")
    mode = semantics
    if not isinstance(mode, str):
        if window is not None and mode.window is not None:
            raise ValueError(f"temporal_sample: window must be given once, got {window} and {mode.window} in semantics")
        mode, window = mode.mode, mode.window if window is None else window
    visibility = MODES.get(mode)
    if visibility is None:
        raise ValueError(f"temporal_sample: semantics must be one of {list(MODES)}, got {mode!r}")

    limit = _NO_WINDOW[dtype]
    if window is not None:
        if window < 0:
            raise ValueError(f"temporal_sample: window must be >= 0, got {window!r}")
        if window != math.inf:
            limit = _scalar_time("window", window, dtype)
    bound_t = bound_eid = 0
    if visibility == 2:
        if event_ids is None:
            raise ValueError("temporal_sample: event_ids must be given with semantics='by_event_id', got None")
        if event_ids.dtype != torch.int64:
            raise TypeError(f"temporal_sample: event_ids must be int64, got {event_ids.dtype}")
        if event_ids.shape != nodes.shape:
            given = list(event_ids.shape)
            raise ValueError(f"temporal_sample: event_ids must be {list(nodes.shape)} like nodes, got {given}")
        event_ids = event_ids.contiguous()
    elif visibility == 3:
        if batch_start is None and counters is None:
            raise ValueError("temporal_sample: batch_start must be given with semantics='before_batch', got None")
        if batch_start is not None:
            bound_t, bound_eid = _scalar_time("batch_start[0]", batch_start[0], dtype), int(batch_start[1])
    if draw_keys is not None:
        if draw_keys.dtype != torch.int64:
            raise TypeError(f"temporal_sample: draw_keys must be int64, got {draw_keys.dtype}")
        if draw_keys.shape != nodes.shape:
            given = list(draw_keys.shape)
            raise ValueError(f"temporal_sample: draw_keys must be {list(nodes.shape)} like nodes, got {given}")
        if draw_keys.device != t.device:
            raise ValueError(f"temporal_sample: draw_keys must be on {t.device} like the graph, got {draw_keys.device}")
        draw_keys = draw_keys.contiguous() if strategy == "uniform" else None
    if counters is not None and (
        counters.dtype != torch.int64 or counters.shape != (4,) or counters.device != t.device
    ):
        given = f"{counters.dtype} {list(counters.shape)} on {counters.device}"
        raise ValueError(f"temporal_sample: counters must be int64 [4] on {t.device} like the graph, got {given}")
    args = (
        *(g.row_start, g.row_end, g.nbr, g.eid, t, nodes.contiguous(), times.contiguous()),
        *(event_ids if visibility == 2 else None, draw_keys),
        *(fanout, visibility, strategy == "uniform", replace, limit),
    )
    sample = torch.ops.gnnaccel.temporal_sample
    try:
        if counters is None:
            out = sample.default(*args, bound_t, bound_eid, seed, epoch, batch, root_offset, hop)
        else:
            out = sample.keyed(*args, counters.contiguous(), seed, root_offset, hop)
    except RuntimeError as error:
        if "bad root" in str(error):
            _bad_root(g, nodes, times)
        raise
    nbr, eid, dt, count, float_t = out
    return Block(nbr, eid, dt, count, times, float_t)
