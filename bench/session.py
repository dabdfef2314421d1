"""End to end: latency of a `Session` on a stream of Wikipedia's size with 172 edge features.

`score_1x1000`: one source against 1,000 candidates at a time after the last event, memory up to date; the peer is the
trainer's `LinkTask.probabilities`, which applies pending mail anew for each question. `score_after_ingest`: the same question
just after one event, which must first reach memory. `ingest_1` and `ingest_200`: one call, each of which lets the events of the
call before reach memory. Weights are random: they do not change the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from gnnaccel.bench.device import no_gc, percentiles
from gnnaccel.bench.harness import EndToEnd, Row, Runner, register_end_to_end
from gnnaccel.bench.tgn import DIM, HEADS, NEIGHBORS, load_stream

CANDIDATES = 1000
CALLS = 400
WARM_UP = 40_000  # events that memory has seen


def run(runner: Runner) -> Iterator[Row]:
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.session import Session

    settings = runner.settings
    events = load_stream(settings.data, settings).events
    small = settings.correctness_only
    calls = 5 if small else CALLS // 4 if settings.quick else CALLS
    values = {
        **{f"{part}.dim": DIM for part in ("memory", "aggregator")},
        **{f"{part}.dim_time": DIM for part in ("memory", "aggregator")},
        "sampler.neighbors": NEIGHBORS,
        "aggregator.heads": HEADS,
        "model.node_features": "none",
    }
    config = load_config("tgn", overrides=[f"{key}={value}" for key, value in values.items()])
    task, twin = (LinkTask.create(config, events, settings.device) for _ in range(2))
    start = len(events) - calls * 202  # what is left to ingest
    start = max(start, len(events) // 4)
    task.replay(slice(max(0, start - WARM_UP), start))
    twin.model.load_state_dict(task.model.state_dict())
    task.model.eval()
    session = Session.of(twin, start, replay=False)

    rng = np.random.default_rng(settings.seed)
    pool = events.destinations[:CANDIDATES]
    sources = events.src[torch.from_numpy(rng.integers(0, start, calls))]
    now = events.t[start].item()

    def ask(i: int) -> torch.Tensor:
        return session.score(int(sources[i]), pool, now)

    def ask_task(i: int) -> torch.Tensor:
        with torch.no_grad():
            at = torch.tensor([now], dtype=events.t.dtype, device=settings.device)
            where = settings.device
            return task.probabilities(sources[i : i + 1].to(where), pool[None].to(where), at)[0].cpu()

    case, found = f"score_1x{len(pool)}", {}
    worst = max(float((ask(i) - ask_task(i)).abs().max()) for i in range(min(calls, 5)))
    gate = ("ok", "") if worst < 1e-6 else ("red", f"answers differ from the trainer's by {worst:.2g}")
    if small or gate[0] != "ok":
        yield Row("session", case, "gate", "gnnaccel", True, *gate, torch.get_num_threads())
        return
    with no_gc():
        found = _turns({"gnnaccel": ask, "LinkTask": ask_task}, calls)
    yield _row(case, "gnnaccel", found["gnnaccel"])
    yield _row(case, "LinkTask", found["LinkTask"], found["gnnaccel"])

    at = start

    def ingest(count: int) -> float:
        nonlocal at
        part = slice(at, min(at + count, len(events)))
        at = part.stop
        feat = None if events.edge_feat is None else events.edge_feat[part]
        begin = time.perf_counter()
        session.ingest(events.src[part], events.dst[part], events.t[part], feat)
        return time.perf_counter() - begin

    def ask_now(i: int) -> float:
        later = events.t[at - 1].item() + 1
        begin = time.perf_counter()
        session.score(int(sources[i]), pool, later)
        return time.perf_counter() - begin

    with no_gc():
        ones = [ingest(1) for _ in range(calls)]
        after = [(ingest(1), ask_now(i))[1] for i in range(calls)]
        hundreds = [ingest(200) for _ in range(min(calls, (len(events) - at) // 200))]
    yield _row("score_after_ingest", "gnnaccel", after)
    yield _row("ingest_1", "gnnaccel", ones)
    yield _row("ingest_200", "gnnaccel", hundreds)


def _turns(contenders: dict[str, Callable[[int], object]], calls: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(calls):
        for name, ask in contenders.items():
            begin = time.perf_counter()
            ask(i)
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def _row(case: str, provider: str, seconds: list[float], ours: list[float] | None = None) -> Row:
    row = Row("session", case, "latency", provider, ours is None, "ok", threads=torch.get_num_threads())
    p20, p50, p80 = percentiles(seconds)
    row.p20_ms, row.p50_ms, row.p80_ms = 1e3 * p20, 1e3 * p50, 1e3 * p80
    row.rounds, row.inner = len(seconds), 1
    p99 = 1e3 * float(np.quantile(seconds, 0.99))
    row.extra = {"p99_ms": p99, "calls": len(seconds)}
    row.detail = f"p99 {p99:.2f} ms of {len(seconds)} calls"
    if ours is not None:
        row.ratio_p20, row.ratio, row.ratio_p80 = percentiles([a / b for a, b in zip(seconds, ours, strict=True)])
    return row


register_end_to_end(EndToEnd("session", run, (30.0, 3.0)))
