"""End to end: training batches of TGN, ours against PyG's and TGM's compositions, over the same events with the same negatives.

All train one epoch in segments of 20 batches, in turns: ours, PyG's, TGM's, then TGM's, PyG's, ours, and so on. PyG's and TGM's
are eager PyTorch; on a GPU they stand for it. A row's time is milliseconds
a batch (percentiles over segments), the ratio is taken segment by segment. The floor is the arithmetic nobody can skip: the
updater's matrix products over the nodes of a batch that have a pending mail, at the GEMM rate measured in the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gnnaccel.bench.device import no_gc, percentiles
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end

if TYPE_CHECKING:
    from gnnaccel.data.events import TemporalEvents

DIM, NEIGHBORS, HEADS, EDGE_FEATURES, TRAIN_FRACTION = 100, 10, 2, 172, 0.7
SEGMENT = 20  # batches a turn
SIZES = {
    **{name: DIM for name in ("memory.dim", "memory.dim_time", "aggregator.dim", "aggregator.dim_time")},
    "sampler.neighbors": NEIGHBORS,
    "aggregator.heads": HEADS,
    "model.node_features": "none",
}
LEARNING_RATE = 1e-3  # no effect on time; large enough to see the loss fall within a run


@dataclass(frozen=True)
class Stream:
    """Events with random features, and the destination that each event is trained against, the same for every contender."""

    events: TemporalEvents
    negatives: Tensor  # [E]


class Contender(Protocol):
    """One library's training loop. `seconds` sums wall time by stage."""

    @property
    def seconds(self) -> Mapping[str, float]: ...

    def reset(self) -> None:
        """Start of an epoch; also zeroes `seconds`."""

    def train(self, lo: int, hi: int) -> float:
        """One training step on events [lo, hi); returns the loss."""
        ...


def wikipedia_like(users: int = 8227, pages: int = 1000, events: int = 157_474, seed: int = 0) -> tuple[Tensor, ...]:
    """Sources, destinations and times of the size of JODIE's Wikipedia: heavy-tailed users who come back to pages."""
    rng = np.random.default_rng(seed)
    user = rng.zipf(1.4, events) % users
    page = rng.zipf(1.3, events) % pages
    stays = rng.random(events) < 0.8
    last: dict[int, int] = {}
    for i in range(events):
        u = int(user[i])
        if stays[i] and u in last:
            page[i] = last[u]
        last[u] = int(page[i])
    t = np.sort(rng.integers(0, 2_678_400, events))
    return tuple(torch.from_numpy(x.astype(np.int64)) for x in (user, users + page, t))


def load_stream(path: str | None, settings: Settings) -> Stream:
    """The stream at `path` (anything `gnnaccel.data` reads), or one shaped like Wikipedia, with random features."""
    from gnnaccel.data.events import TemporalEvents

    if path is None:
        size: dict[str, int] = {}
        if settings.correctness_only:
            size = {"users": 300, "pages": 50, "events": 4000}
        elif settings.quick:
            size = {"users": 2000, "pages": 250, "events": 40_000}
        name, (src, dst, t) = "wikipedia_like", wikipedia_like(**size, seed=settings.seed)
        name += f"_{len(src) // 1000}k_events" if size else ""
    else:
        from gnnaccel.data import load

        found = load(path)
        name, src, dst, t = found.name, found.src, found.dst, found.t
    gen = torch.Generator().manual_seed(settings.seed)
    features = torch.randn(len(src), EDGE_FEATURES, generator=gen)
    return with_negatives(TemporalEvents(name, src, dst, t, edge_feat=features), settings)


def with_negatives(events: TemporalEvents, settings: Settings) -> Stream:
    """With what our trainer draws in its first epoch; the draws do not depend on the batch."""
    from gnnaccel.data.negatives import NegativeSampler

    drawn = NegativeSampler(events, strategy="random", seed=settings.seed).sample(
        torch.arange(len(events)), n=1, epoch=1
    )
    return Stream(events, drawn.reshape(-1))


def train_end(stream: Stream) -> int:
    """Number of events that are trained on."""
    return int(TRAIN_FRACTION * len(stream.events))


class PyGContender:
    def __init__(self, stream: Stream, settings: Settings, batch_size: int) -> None:
        from gnnaccel.baselines.peers.tgn_pyg import PyGTGN

        e = stream.events
        self.model = PyGTGN(
            SimpleNamespace(src=e.src, dst=e.dst, t=e.t, msg=e.edge_feat),
            num_nodes=e.num_nodes,
            dim_memory=DIM,
            dim_time=DIM,
            dim_embed=DIM,
            neighbors=NEIGHBORS,
            heads=HEADS,
            lr=LEARNING_RATE,
            seed=settings.seed,
            device=settings.device,
            clock=settings.device.type == "cpu",
        )
        self.seconds = self.model.clock.seconds
        self.negatives = stream.negatives

    def reset(self) -> None:
        self.model.reset()
        self.seconds.clear()

    def train(self, lo: int, hi: int) -> float:
        return self.model.train_step(lo, hi, self.negatives[lo:hi])


class TGMContender:
    """tgm-lib, in the faster of its ways; `baselines/peers/tgn_tgm.py` says which."""

    def __init__(self, stream: Stream, settings: Settings, batch_size: int) -> None:
        from gnnaccel.baselines.peers.tgn_tgm import TGMTGN

        e = stream.events
        end = train_end(stream)  # its loader ends where its events do
        features = None if e.edge_feat is None else e.edge_feat[:end]
        self.model = TGMTGN(
            SimpleNamespace(src=e.src[:end], dst=e.dst[:end], t=e.t[:end], msg=features),
            stream.negatives[:end],
            num_nodes=e.num_nodes,
            batch_size=batch_size,
            dim_memory=DIM,
            dim_time=DIM,
            dim_embed=DIM,
            neighbors=NEIGHBORS,
            lr=LEARNING_RATE,
            seed=settings.seed,
            device=settings.device,
            clock=settings.device.type == "cpu",
        )
        self.seconds = self.model.clock.seconds

    def reset(self) -> None:
        self.model.reset()
        self.seconds.clear()

    def train(self, lo: int, hi: int) -> float:
        return self.model.train_step(lo, hi)


class OurContender:
    """`gnnaccel.train`'s own step."""

    def __init__(
        self,
        stream: Stream,
        settings: Settings,
        batch_size: int,
        preset: str = "tgn",
        sizes: Mapping[str, Any] | None = None,
        capture: str = "auto",
    ) -> None:
        from gnnaccel.train.config import load_config
        from gnnaccel.train.link import LinkTask
        from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step

        values = {
            **(SIZES if sizes is None else sizes),
            "train.batch_size": batch_size,
            "train.learning_rate": LEARNING_RATE,
            "train.seed": settings.seed,
            "train.capture": capture,
        }
        config = load_config(preset, overrides=[f"{key}={value}" for key, value in values.items()])
        self.task = LinkTask.create(config, stream.events, settings.device)
        self.optimizer = make_optimizer(self.task)
        self.timer = StageTimer(settings.device.type == "cpu")
        self.seconds = self.timer.seconds
        self.batch_size = batch_size
        self.step = train_step
        self.static = self.task.static_step(self.optimizer)  # on a GPU, as the trainer does

    def reset(self) -> None:
        self.task.model.train()
        self.task.reset()
        self.seconds.clear()

    def train(self, lo: int, hi: int) -> float:
        if self.static is not None:
            return float(self.static(slice(lo, hi), 0, lo // self.batch_size))
        return float(self.step(self.task, self.optimizer, slice(lo, hi), 0, lo // self.batch_size, self.timer))


def launched(stream: Stream, settings: Settings, batch_size: int) -> OurContender:
    """Ours kernel by kernel, without a CUDA graph."""
    return OurContender(stream, settings, batch_size, capture="off")


CONTENDERS: dict[str, Callable[[Stream, Settings, int], Contender]] = {
    "gnnaccel": OurContender,
    "pyg": PyGContender,
    "tgm": TGMContender,
}


@dataclass
class Lap:
    """What one contender did in the race: per segment, seconds, batches and mean loss."""

    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def ms_a_batch(self) -> list[float]:
        return [1e3 * s / n for s, n in zip(self.seconds, self.batches, strict=True)]


def race(
    contenders: Mapping[str, Contender],
    batches: Sequence[tuple[int, int]],
    *,
    segment: int = SEGMENT,
    now: Callable[[], float] = time.perf_counter,
    failed: dict[str, str] | None = None,
) -> dict[str, Lap]:
    """Train all contenders over `batches`, in turns of `segment` batches.

    Those that fail in the two batches of warming up take no part, and `failed` gets their messages; without it they raise.
    """
    order = []
    for name, contender in contenders.items():
        try:
            contender.reset()
            for lo, hi in batches[:2]:
                contender.train(lo, hi)
            contender.reset()
        except Exception as error:
            if failed is None:
                raise
            failed[name] = first_line(error)
        else:
            order.append(name)
    laps = {name: Lap() for name in order}
    with no_gc():
        for first in range(0, len(batches), segment):
            part = batches[first : first + segment]
            for name in order:
                start = now()
                # the loss is read back after every step, as a trainer does; on CUDA that also waits for the step
                losses = [contenders[name].train(lo, hi) for lo, hi in part]
                laps[name].seconds.append(now() - start)
                laps[name].batches.append(len(part))
                laps[name].losses.append(sum(losses) / len(losses))
            order.reverse()
    return laps


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def verdict(lap: Lap) -> tuple[str, str]:
    """The gate of a race: it must have learned something, i.e. end below the loss of a coin, 2 ln 2."""
    if not all(np.isfinite(lap.losses)):
        return "red", "the loss is not finite"
    quarter = max(1, len(lap.losses) // 4)
    last = sum(lap.losses[-quarter:]) / quarter
    if not last < 2 * math.log(2):
        return "red", f"nothing was learned: the loss is {last:.4f} at last, and a coin's is 1.3863"
    return "ok", ""


def updater_rows(stream: Stream, batches: Sequence[tuple[int, int]]) -> float:
    """Mean number of distinct nodes a batch, roots and their recent neighbours, that have had an event before the batch."""
    from gnnaccel import TemporalGraph, temporal_sample

    e = stream.events
    graph = TemporalGraph.from_events(e.src, e.dst, e.t, num_nodes=e.num_nodes)
    seen = torch.zeros(e.num_nodes, dtype=torch.bool)
    total = 0
    for lo, hi in batches:
        roots = torch.cat([e.src[lo:hi], e.dst[lo:hi], stream.negatives[lo:hi]])
        block = temporal_sample(graph, roots, e.t[lo:hi].repeat(3), fanout=NEIGHBORS)
        nodes = torch.cat([roots, block.nbr[block.nbr >= 0].long()]).unique()
        total += int(seen[nodes].sum())
        seen[e.src[lo:hi]] = True
        seen[e.dst[lo:hi]] = True
    return total / len(batches)


def updater_gflop(rows: float) -> float:
    """GFLOP of a GRU's matrix products over `rows` nodes, forward and backward.

    Forward 2 * 3D * (I + D) a row, the same again for the weights' gradient, and 2 * 3D * T for the time encoder's; mail and
    memory are state and need none.
    """
    inputs = 2 * DIM + EDGE_FEATURES + DIM
    return rows * 2 * 3 * DIM * (2 * (inputs + DIM) + DIM) / 1e9


def run(runner: Runner) -> Iterator[Row]:
    from gnnaccel.train.allocator import keep_freed_memory

    settings = runner.settings
    keep_freed_memory()  # as `gnnaccel train` does; it serves every contender of this process
    stream = load_stream(settings.data, settings)
    end = train_end(stream)
    for size in (600,) if settings.quick else (600, 200):
        batches = [(lo, min(lo + size, end)) for lo in range(0, end, size)]
        if settings.quick:
            batches = batches[: 2 * SEGMENT]
        yield from _size(runner, stream, batches, f"{stream.events.name}_b{size}", size)


def _size(runner: Runner, stream: Stream, batches: Sequence[tuple[int, int]], case: str, size: int) -> Iterator[Row]:
    settings = runner.settings
    threads = torch.get_num_threads()
    contenders: dict[str, Contender] = {}
    more = {"not captured": launched} if settings.device.type == "cuda" else {}
    for name, build in {**CONTENDERS, **more}.items():
        try:
            contenders[name] = build(stream, settings, size)
        except Exception as error:  # the others go on
            absent = isinstance(error, ImportError)
            gate = "missing" if absent and name != "gnnaccel" else "error"
            detail = str(error) if absent else first_line(error)
            yield Row("tgn", case, "train", name, name == "gnnaccel", gate, detail, threads)
    failed: dict[str, str] = {}
    laps = race(contenders, batches, failed=failed)
    for name, detail in failed.items():
        del contenders[name]
        yield Row("tgn", case, "train", name, name == "gnnaccel", "error", detail, threads)
    mine = laps.get("gnnaccel")
    for name, lap in laps.items():
        gate, detail = verdict(lap)
        row = Row("tgn", case, "train", name, name == "gnnaccel", gate, detail, threads)
        if settings.correctness_only:
            row.mode = "gate"
        elif gate == "ok" and (mine is None or verdict(mine)[0] == "ok"):
            fill(row, lap, mine, contenders[name].seconds)
            if row.ours:
                row.extra |= _floor(runner, stream, batches, row)
        yield row


def fill(row: Row, lap: Lap, mine: Lap | None, stages: Mapping[str, float]) -> None:
    times, count = lap.ms_a_batch(), sum(lap.batches)
    row.p20_ms, row.p50_ms, row.p80_ms = percentiles(times)
    row.rounds, row.inner = len(times), lap.batches[0]
    if not row.ours and mine is not None:
        turns = [theirs / own for theirs, own in zip(times, mine.ms_a_batch(), strict=True)]
        row.ratio_p20, row.ratio, row.ratio_p80 = percentiles(turns)
    row.extra = {
        "batches": count,
        "total_s": sum(lap.seconds),
        "mean_ms": 1e3 * sum(lap.seconds) / count,
        "loss_first": lap.losses[0],
        "loss_last": lap.losses[-1],
        "stages_ms": {stage: 1e3 * s / count for stage, s in stages.items()},
    }


def _floor(runner: Runner, stream: Stream, batches: Sequence[tuple[int, int]], row: Row) -> dict[str, Any]:
    rows = updater_rows(stream, batches)
    gflop, rate = updater_gflop(rows), runner.rates_now()["gemm_gflops"]
    return {
        "updater_rows": rows,
        "updater_gflop": gflop,
        "gemm_gflops": rate,
        "floor_ms": 1e3 * gflop / rate,
        "reached_gflops": 1e3 * gflop / (row.extra["mean_ms"]),
    }


register_end_to_end(EndToEnd("tgn", run, (190.0, 8.0)))
