"""End to end: training batches of TGAT, ours against plain PyTorch, over the same events with the same negatives.

Two layers of attention over 10 uniform neighbours each, 172 edge features, no dropout. Before the race both, with the same
weights and the newest neighbours instead of random ones, must have the same losses over some steps. Then they train in turns,
as `gnnaccel bench tgn` has it; a row's time is milliseconds a batch. PyG has no TGAT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from gnnaccel.baselines.peers.tgat_torch import TorchTGAT
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.bench.tgn import (
    DIM,
    HEADS,
    LEARNING_RATE,
    NEIGHBORS,
    TRAIN_FRACTION,
    Contender,
    OurContender,
    Stream,
    fill,
    load_stream,
    race,
    verdict,
    with_negatives,
)

SEGMENT = 10  # batches a turn
STEPS = 4  # of the gate
VALUES = {
    "aggregator.dim": DIM,
    "aggregator.dim_time": DIM,
    "aggregator.heads": HEADS,
    "aggregator.dropout": 0.0,
    "model.node_features": "none",
    "sampler.neighbors": f"[{NEIGHBORS}, {NEIGHBORS}]",
}


class TorchContender:
    def __init__(self, stream: Stream, settings: Settings, uniform: bool) -> None:
        e = stream.events
        assert e.edge_feat is not None
        src, dst, t, feat = (x.to(settings.device) for x in (e.src, e.dst, e.t, e.edge_feat))
        options = {"dim": DIM, "neighbors": NEIGHBORS, "heads": HEADS, "lr": LEARNING_RATE, "seed": settings.seed}
        self.model = TorchTGAT(src, dst, t, feat, num_nodes=e.num_nodes, uniform=uniform, **options)
        self.negatives = stream.negatives.to(settings.device)
        self.seconds: Mapping[str, float] = {}

    def reset(self) -> None:
        pass  # no state but the weights

    def train(self, lo: int, hi: int) -> float:
        return self.model.train_step(lo, hi, self.negatives[lo:hi])


def ours(stream: Stream, settings: Settings, size: int, uniform: bool) -> OurContender:
    strategy = "uniform" if uniform else "recent"
    return OurContender(stream, settings, size, "tgat", {**VALUES, "sampler.strategy": strategy})


def gate(stream: Stream, settings: Settings) -> str:
    """What is wrong with the peer, or with ours; empty if both do the same.

    On the first events, one a unit of time: the peer forms its angles in float32, as its users do, and at a month in seconds
    would be off; and of events at one time each takes others first.
    """
    from gnnaccel.data.events import TemporalEvents

    e, size = stream.events, 50
    part = slice(0, min(len(e), 1000))
    feat = None if e.edge_feat is None else e.edge_feat[part]
    few = with_negatives(
        TemporalEvents(e.name, e.src[part], e.dst[part], torch.arange(len(e.src[part])), edge_feat=feat), settings
    )
    mine, theirs = ours(few, settings, size, False), TorchContender(few, settings, False)
    theirs.model.load(dict(mine.task.model.named_parameters()))
    mine.reset()
    for step in range(STEPS):
        lo = len(few.events) // 2 + step * size
        got, want = mine.train(lo, lo + size), theirs.train(lo, lo + size)
        # later losses are of weights on which rounding may have told
        if not abs(got - want) <= (1e-4 if step else 1e-5) * want:
            return f"step {step + 1}: loss {got:.7g}, of plain PyTorch {want:.7g}"
    return ""


def run(runner: Runner) -> Iterator[Row]:
    from gnnaccel.train.allocator import keep_freed_memory

    settings = runner.settings
    keep_freed_memory()  # as `gnnaccel train` does; it serves every contender of this process
    stream = load_stream(settings.data, settings)
    size = 50 if settings.correctness_only else 200 if settings.quick else 600
    train_end = int(TRAIN_FRACTION * len(stream.events))
    # the middle of the stream: neighbourhoods are as full as on average, and no state has to be there
    first = train_end // 2
    count = 2 if settings.correctness_only else SEGMENT * (2 if settings.quick else 8)
    batches = [(lo, lo + size) for lo in range(first, train_end - size + 1, size)][:count]
    case = f"{stream.events.name}_b{size}" + (f"_{count}_batches" if settings.quick else "")
    rows = {name: Row("tgat", case, "train", name, name == "gnnaccel", "ok") for name in ("gnnaccel", "torch")}
    problem = gate(stream, settings)
    for row in rows.values():
        row.threads = torch.get_num_threads()
        if settings.correctness_only:
            row.mode = "gate"
        if problem:
            row.gate, row.detail = "red", problem
    if not problem and not settings.correctness_only:
        contenders: dict[str, Contender] = {
            "gnnaccel": ours(stream, settings, size, True),
            "torch": TorchContender(stream, settings, True),
        }
        laps = race(contenders, batches, segment=SEGMENT)
        for name, row in rows.items():
            row.gate, row.detail = verdict(laps[name])
            if row.gate == "ok" and verdict(laps["gnnaccel"])[0] == "ok":
                fill(row, laps[name], laps["gnnaccel"], contenders[name].seconds)
    yield from rows.values()


register_end_to_end(EndToEnd("tgat", run, (90.0, 8.0)))
