"""How cost grows: with fanout, batch, width, length of history, number of negatives, threads.

    gnnaccel bench scaling-fanout          also -batch, -dim, -history, -negatives, -threads

Each is one op at a handful of points, ours beside eager PyTorch, in turns and through the same gate as every entry. A row says
where it lies in `extra["scaling"] = {"axis", "x", "what"}`; `gnnaccel.bench.report` draws a curve of them.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from gnnaccel.baselines.peers import gather_aggregate as aggregate_peer
from gnnaccel.baselines.peers import kg_loss as loss_peer
from gnnaccel.baselines.peers import temporal_sample as sample_peer
from gnnaccel.bench import gather_aggregate, kg_loss, temporal_attention, temporal_sample
from gnnaccel.bench.harness import Args, EndToEnd, Entry, Row, Runner, register_end_to_end
from gnnaccel.graph import TemporalGraph

SECONDS = (12.0, 3.5)  # that a curve takes, in full and quick
BUDGET, QUICK_BUDGET = 1.0, 0.25  # seconds of timing a point at most: it is the slope that counts here

Params = Mapping[str, Any]


def measure(runner: Runner, entry: Entry, axis: str, what: str, xs: Mapping[str, int]) -> Iterator[Row]:
    """Rows of all points of a curve; of a tiny one if only correctness is asked for."""
    settings = runner.settings
    if axis == "threads" and settings.device.type != "cpu":
        return
    inner = copy.copy(runner)  # the same clock and rates
    inner.settings = replace(
        settings, budget=min(settings.budget, QUICK_BUDGET if settings.quick else BUDGET), one_thread=False
    )
    for row in inner.run(entry):
        yield replace(row, extra={**row.extra, "scaling": {"axis": axis, "x": xs.get(row.case, 0), "what": what}})


def register(axis: str, what: str, base: Params, name: str, xs: Sequence[int], few: int = 9, **fields: Any) -> None:
    """A curve: `base` with the parameter `name` set to each of `xs`; of the first `few` if it is to be quick."""
    cases = {f"{axis}_{x}": {**base, name: x} for x in xs}
    entry = Entry(
        op=f"scaling-{axis}", cases=cases, quick=tuple(cases)[:few], reference_cases=("tiny",), **fields
    )  # fmt: skip
    points = dict(zip(cases, xs, strict=True))
    run = partial(measure, entry=entry, axis=axis, what=what, xs=points)
    register_end_to_end(EndToEnd(entry.op, run, SECONDS))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ..., and all."""
    return sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})


# --- fanout ---------------------------------------------------------------------------------------------------------------

SEGMENTS = "index_select+segment_reduce"

register(
    "fanout",
    "gather_aggregate, mean of 4,000 roots' neighbours, 128 features",
    {"N": 200_000, "F": 128, "R": 4000},
    "K",
    (2, 5, 10, 20, 40),
    tiny={"N": 40, "F": 20, "R": 30, "K": 4},
    make=gather_aggregate.make,
    providers={"gnnaccel": gather_aggregate.gather_aggregate, SEGMENTS: aggregate_peer.segment_reduce},
    prepare={SEGMENTS: gather_aggregate.flat},
    reference=gather_aggregate.reference,
    bytes=gather_aggregate.moved,
)

# --- batch, width, threads: the attention layer ---------------------------------------------------------------------------

LAYER = {"R": 600, "K": 10, "U": 700, "E": 20_000, "D": 100, "De": 100, "T": 100, "H": 2}
ATTENTION: dict[str, Any] = {
    "tiny": {"R": 30, "K": 4, "U": 20, "E": 40, "D": 8, "De": 6, "T": 5, "H": 2},
    "providers": {"gnnaccel": temporal_attention.ours, "torch": temporal_attention.PROVIDERS["torch"]},
    "reference": temporal_attention.projected,
    "grad": ("h_root", "node_table", *temporal_attention.PARAMETERS),
    "modes": ("full",),
}


def wide(params: Params, device: str, seed: int) -> Args:
    """A layer whose rows of nodes, edges, times and output are all equally wide."""
    D = params["D"]
    return temporal_attention.make_layer({"De": D, "T": D, **params}, device, seed)


register(
    "batch", "temporal_attention, 10 neighbours, width 100", LAYER, "R", (75, 150, 300, 600, 1200),
    make=temporal_attention.make_layer, **ATTENTION,
)  # fmt: skip
register(
    "dim", "temporal_attention, 600 roots, 10 neighbours", {k: v for k, v in LAYER.items() if k not in ("De", "T")}, "D",
    (32, 64, 128, 256), make=wide, **ATTENTION,
)  # fmt: skip
register(
    "threads", "temporal_attention, 600 roots, 10 neighbours, width 100", LAYER, "threads", thread_counts(cores()),
    make=temporal_attention.make_layer, **ATTENTION,
)  # fmt: skip

# --- history --------------------------------------------------------------------------------------------------------------


def long_histories(params: Params, device: str, seed: int) -> Args:
    """Sixteen nodes of `H` events each on average, and roots of random nodes and times among them."""
    gen = torch.Generator().manual_seed(seed)
    nodes, events = 16, 8 * params["H"]
    src = torch.randint(nodes // 2, (events,), generator=gen)
    dst = torch.randint(nodes // 2, nodes, (events,), generator=gen)
    t = 7 * torch.arange(events)
    roots = torch.randint(nodes, (params["R"],), generator=gen)
    times = torch.randint(7 * events, (params["R"],), generator=gen)
    batches = [(roots.to(device), times.to(device))]
    stream = {"src": src.to(device), "dst": dst.to(device), "t": t.to(device), "num_nodes": nodes}
    return {**stream, "batches": batches, "size": params["R"], "fanout": 10, "out": temporal_sample.Last(1)}


SEARCH = "torch_searchsorted"

register(
    "history",
    "temporal_sample, 10 latest of 2,000 roots",
    {"R": 2000, "threads": 1},
    "H",
    (100, 1_000, 10_000, 100_000, 1_000_000),
    few=4,
    tiny={"R": 40, "H": 30},
    make=long_histories,
    providers={"gnnaccel": temporal_sample.ours, SEARCH: temporal_sample.theirs},
    prepare={
        "gnnaccel": temporal_sample.finder(TemporalGraph.from_events),
        SEARCH: temporal_sample.finder(sample_peer.TorchSearch),
    },
    view=dict.fromkeys(("gnnaccel", "reference", SEARCH), temporal_sample.event_ids),
    reference=temporal_sample.reference,
)

# --- negatives ------------------------------------------------------------------------------------------------------------

register(
    "negatives",
    "kg_loss, ComplEx, 1,024 triples, width 200",
    {"C": 4, "S": 256, "D": 200, "model": "complex"},
    "N",
    (16, 64, 256, 1024),
    tiny={**kg_loss.TINY, "model": "complex"},
    make=kg_loss.make,
    providers={"gnnaccel": kg_loss.kg_loss, "torch": loss_peer.PROVIDERS["torch"]},
    reference=kg_loss.reference,
    grad=("h", "r", "t", "neg"),
    modes=("full",),
)
