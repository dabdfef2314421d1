"""Benchmark of `latest_per_node`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.latest_per_node import MISSING, PROVIDERS
from gnnaccel.baselines.reference.latest_per_node import latest_per_node as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.latest_per_node import latest_per_node


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """Both ends of a batch of events; all times differ and rise, as every peer needs them."""
    gen = torch.Generator().manual_seed(seed)
    n, num_nodes = params["events"] * 2, params["num_nodes"]
    nodes = (torch.rand(n, generator=gen, dtype=torch.float64) ** 3 * num_nodes).long()
    t = torch.randint(1, 100, (n,), generator=gen).cumsum(0)
    return {"nodes": nodes.to(device), "t": t.to(device), "eid": torch.arange(n).to(device)}


def view(result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """In order of node: peers sort or keep their own order."""
    nodes, position = result
    order = nodes.argsort()
    return nodes[order], position[order]


PROVIDERS = {"gnnaccel": latest_per_node, **PROVIDERS}

register(
    Entry(
        op="latest_per_node",
        cases={
            "tgn_batch600_wikipedia": {"events": 600, "num_nodes": 9227},
            "batch200_wikipedia": {"events": 200, "num_nodes": 9227},
            "batch100k_1m_nodes": {"events": 100_000, "num_nodes": 1_000_000},
        },
        tiny={"events": 50, "num_nodes": 30},
        make=make,
        providers=PROVIDERS,
        missing=MISSING,
        reference=reference,
        view=dict.fromkeys((*PROVIDERS, "reference"), view),
        bytes=lambda a: a["nodes"].numel() * 24,
    )
)
