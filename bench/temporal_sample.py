"""Benchmark of `temporal_sample`: batches of a chronological stream as roots [src, dst, negative].

Two entries, since peers see different events: `temporal_sample` (strict: all events before the root's time, from a finished
graph) and `temporal_sample_before_batch` (the events of earlier batches). In the second the state-keeping peers insert events
as they pass, and ours builds its graph, inside the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.temporal_sample import BEFORE_BATCH, MISSING, STRICT, pyg_view, strict, tgm_view
from gnnaccel.baselines.reference.temporal_sample import temporal_sample as one_by_one
from gnnaccel.bench.harness import Args, Entry, register
from gnnaccel.data.synthetic import power_law_events
from gnnaccel.graph import TemporalGraph, temporal_sample

FANOUT = 10
Batches = list[tuple[Tensor, Tensor]]


class Last(list[Any]):
    """The last results only. A training loop drops one batch before the next; to keep all would time fresh pages instead."""

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.keep = keep

    def append(self, result: Any) -> None:
        if len(self) == self.keep:
            self.clear()
        super().append(result)


def make(params: Mapping[str, Any], device: str, seed: int) -> Args:
    events = power_law_events(params["N"], params["E"], seed=seed, bipartite=True)
    gen = torch.Generator().manual_seed(seed)
    size, first = params["B"], params["E"] // 2 if params["middle"] else 0
    starts = range(first, params["E"] - size + 1, size)[: params["batches"]]
    src, dst, t = (x.to(device) for x in (events.src, events.dst, events.t))
    batches = []
    for lo in starts:
        part = slice(lo, lo + size)
        negative = torch.randint(params["N"] // 2, params["N"], (size,), generator=gen).to(device)
        batches.append((torch.cat([src[part], dst[part], negative]), t[part].repeat(3)))
    return {
        "src": src,
        "dst": dst,
        "t": t,
        "num_nodes": params["N"],
        "batches": batches,
        "size": size,
        "fanout": FANOUT,
        "out": Last(params.get("keep", 1)),
    }


# --- strict ---------------------------------------------------------------------------------------------------------------


def finder(kind: Any) -> Any:
    def prepare(a: Args) -> Args:
        g = kind(a["src"], a["dst"], a["t"], a["num_nodes"])
        return {"g": g, "batches": a["batches"], "fanout": a["fanout"], "out": a["out"]}

    return prepare


def ours(g: TemporalGraph, batches: Batches, fanout: int, out: Last) -> list[Any]:
    out.clear()
    for nodes, times in batches:
        out.append(temporal_sample(g, nodes, times, fanout))
    return list(out)


def theirs(g: Any, batches: Batches, fanout: int, out: Last) -> list[Any]:
    out.clear()
    return list(strict(g, batches, fanout, out))


def reference(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, batches: Batches, size: int, fanout: int, out: Last
) -> list[Any]:
    return [one_by_one(src, dst, t, nodes.cpu(), times.cpu(), fanout) for nodes, times in batches]


def event_ids(result: list[Any]) -> list[Tensor]:
    """Judged: neighbour, event and time difference of every slot."""
    out = []
    for block in result:
        parts = (block.nbr, block.eid, block.dt) if hasattr(block, "nbr") else block[:3]
        out += [torch.as_tensor(x).long() for x in parts]
    return out


def sampled(a: Args) -> int:
    """Bytes of the result, and of the entries it is made of."""
    return sum(len(nodes) for nodes, _ in a["batches"]) * a["fanout"] * 2 * (4 + 4 + 8)


WIKIPEDIA = {"N": 9228, "E": 157_474, "B": 600, "middle": True, "threads": 1}

register(
    Entry(
        op="temporal_sample",
        cases={
            "wikipedia_size_b600_k10": {**WIKIPEDIA, "batches": 30},
            "1m_nodes_20m_events_b600_k10": {
                **{"N": 1_000_000, "E": 20_000_000, "B": 600, "batches": 30, "middle": True, "threads": 1}
            },
        },
        quick={"wikipedia_size_b600_k10_8_batches": {**WIKIPEDIA, "batches": 8}},
        tiny={"N": 60, "E": 900, "B": 50, "batches": 4, "middle": True, "keep": 9},
        make=make,
        providers={"gnnaccel": ours, **dict.fromkeys(STRICT, theirs)},
        prepare={
            "gnnaccel": finder(TemporalGraph.from_events),
            **{name: finder(kind) for name, kind in STRICT.items()},
        },
        view=dict.fromkeys(("gnnaccel", "reference", *STRICT), event_ids),
        reference=reference,
        reference_cases=("tiny",),
        bytes=sampled,
    )
)


# --- before the batch -----------------------------------------------------------------------------------------------------


def ours_before_batch(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, batches: Batches, size: int, fanout: int, out: Last
) -> list[Any]:
    out.clear()
    g = TemporalGraph.from_events(src, dst, t, num_nodes)
    start = t[::size].tolist()
    for i, (nodes, times) in enumerate(batches):
        bound = (start[i], i * size)
        out.append(temporal_sample(g, nodes, times, fanout, semantics="before_batch", batch_start=bound))
    return list(out)


def peer(fn: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def run(out: Last, **args: Any) -> list[Any]:
        out.clear()
        return list(fn(out=out, **args))

    return run


def reference_before_batch(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, batches: Batches, size: int, fanout: int, out: Last
) -> list[Any]:
    return [
        one_by_one(
            *(src, dst, t, nodes.cpu(), times.cpu(), fanout),
            semantics="before_batch",
            batch_start=(t[i * size].item(), i * size),
        )
        for i, (nodes, times) in enumerate(batches)
    ]


def ids_only(result: list[Any]) -> list[Tensor]:
    return [(block.eid if hasattr(block, "eid") else block[1]).long() for block in result]


def nearly(name: str, got: list[Tensor], want: list[Tensor]) -> str | None:
    """PyG keeps arbitrary ones of more than K events that a node has in one batch; TGM also asks for times before the root's,
    and its ties have no order. All else is exact."""
    wrong = sum(int((a != b).any(1).sum()) for a, b in zip(got, want, strict=True))
    roots = sum(len(a) for a in want)
    allowed = roots // 5 if name in ("pyg", "tgm") else 0
    return f"{wrong} of {roots} roots differ" if wrong > allowed else None


register(
    Entry(
        op="temporal_sample_before_batch",
        cases={
            "wikipedia_size_b600_k10": {
                "N": 9228,
                "E": 157_474,
                "B": 600,
                "batches": 262,
                "middle": False,
                "threads": 1,
            },
            "wikipedia_size_b200_k10": {
                "N": 9228,
                "E": 157_474,
                "B": 200,
                "batches": 787,
                "middle": False,
                "threads": 1,
            },
        },
        quick={"wikipedia_size_b600_k10_20_batches": {**WIKIPEDIA, "batches": 20, "middle": False}},
        tiny={"N": 60, "E": 900, "B": 50, "batches": 8, "middle": False, "keep": 9},
        make=make,
        providers={"gnnaccel": ours_before_batch, **{name: peer(fn) for name, fn in BEFORE_BATCH.items()}},
        view={
            **dict.fromkeys(("gnnaccel", "reference", *BEFORE_BATCH), ids_only),
            "pyg": lambda result: pyg_view(result, FANOUT),
            "tgm": tgm_view,
        },
        check=nearly,
        reference=reference_before_batch,
        reference_cases=("tiny",),
        bytes=sampled,
        missing=MISSING,
    )
)
