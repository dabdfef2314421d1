"""Benchmark of `tcsr_build`. `pct_copy` compares with reading the events once and writing the rows once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.reference.tcsr import tcsr_build as reference
from gnnaccel.bench.harness import Args, Entry, register
from gnnaccel.data.synthetic import power_law_events
from gnnaccel.ops._tcsr import tcsr_build


def make(params: Mapping[str, Any], device: str, seed: int) -> Args:
    events = power_law_events(params["N"], params["E"], seed=seed)
    src, dst, t = (x.to(device) for x in (events.src, events.dst, events.t))
    return {"src": src, "dst": dst, "t": t, "num_nodes": params["N"], "add_reverse": True, "wide": False}


def torch_sort(src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool) -> tuple[Any, ...]:
    """One stable sort by node; `t` is in order."""
    node = torch.stack([src, dst], 1).flatten()
    other = torch.stack([dst, src], 1).flatten()
    node, order = node.sort(stable=True)
    event = order >> 1
    indptr = torch.searchsorted(node, torch.arange(num_nodes + 1, device=node.device))
    return indptr, other[order].int(), event.int(), t[event]


register(
    Entry(
        op="tcsr_build",
        cases={
            "wikipedia_size": {"N": 9227, "E": 157_474},
            "1m_nodes_20m_events": {"N": 1_000_000, "E": 20_000_000},
        },
        tiny={"N": 50, "E": 700},
        make=make,
        providers={"gnnaccel": tcsr_build, "torch_sort": torch_sort},
        reference=reference,
        reference_cases=("tiny",),
        bytes=lambda a: len(a["src"]) * (24 + 2 * (4 + 4 + 8)) + a["num_nodes"] * 8,
    )
)
