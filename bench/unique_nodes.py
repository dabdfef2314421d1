"""Benchmark of `unique_nodes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.unique_nodes import PROVIDERS
from gnnaccel.baselines.reference.unique_nodes import unique_nodes as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.unique_nodes import unique_nodes


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """Roots and their sampled neighbours: popular nodes come often, a tenth of the slots is padding."""
    gen = torch.Generator().manual_seed(seed)
    n, num_nodes = params["n"], params["num_nodes"]
    ids = (torch.rand(n, generator=gen, dtype=torch.float64) ** 3 * num_nodes).long()
    ids = ids * 7919 % num_nodes  # popular ids lie anywhere in the range
    ids = ids.masked_fill(torch.rand(n, generator=gen) < 0.1, -1)
    return {"ids": ids.to(device), "num_nodes": num_nodes if params["bounded"] else None}


def view(result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What all agree on whatever their order: the distinct ids, and the ids that (unique, inverse) stand for."""
    unique, inverse = result
    return unique[unique >= 0].sort().values, torch.where(inverse >= 0, unique[inverse], -1)


PROVIDERS = {"gnnaccel": unique_nodes, **PROVIDERS}

register(
    Entry(
        op="unique_nodes",
        cases={
            "tgn_batch600_k10_wikipedia": {"n": 19800, "num_nodes": 9227, "bounded": True},
            "tgn_batch600_k10_hashed": {"n": 19800, "num_nodes": 9227, "bounded": False},
            "batch600_k10_1m_nodes": {"n": 19800, "num_nodes": 1_000_000, "bounded": True},
            "two_hops_1m_nodes": {"n": 1_000_000, "num_nodes": 1_000_000, "bounded": True},
        },
        tiny={"n": 300, "num_nodes": 100, "bounded": True},
        make=make,
        providers=PROVIDERS,
        reference=reference,
        view=dict.fromkeys((*PROVIDERS, "reference"), view),
        bytes=lambda a: a["ids"].numel() * (a["ids"].element_size() + 8),
    )
)
