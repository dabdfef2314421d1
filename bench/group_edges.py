"""Benchmark of `group_edges`, what `gnnaccel.pyg.TransformerConv` calls for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.group_edges import PROVIDERS
from gnnaccel.baselines.reference.group_edges import group_edges as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._group_edges import group_edges


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """A share `attending` of the nodes has `K` edges or nearly, the others none; by target, unless `shuffled`."""
    gen = torch.Generator().manual_seed(seed)
    N, K = params["N"], params["K"]
    full = torch.where(torch.rand(N, generator=gen) < 0.9, K, torch.randint(0, K + 1, (N,), generator=gen))
    count = torch.where(torch.rand(N, generator=gen) < params["attending"], full, 0)
    target = torch.arange(N).repeat_interleave(count)
    if params.get("shuffled"):
        target = target[torch.randperm(len(target), generator=gen)]
    source = torch.randint(0, N, (len(target),), generator=gen)
    return {"source": source.to(device), "target": target.to(device), "num_nodes": N, "limit": N * K}


WIKIPEDIA = {"N": 1000, "K": 10, "attending": 0.55}

register(
    Entry(
        op="group_edges",
        cases={
            "wikipedia_batch200_k10": WIKIPEDIA,
            "wikipedia_batch200_k10_shuffled": {**WIKIPEDIA, "shuffled": True},
            "batch2000_k20": {"N": 20_000, "K": 20, "attending": 0.55},
        },
        tiny={"N": 30, "K": 4, "attending": 0.6, "shuffled": True},
        make=make,
        providers={"gnnaccel": group_edges, **PROVIDERS},
        reference=reference,
        bytes=lambda args: 2 * 8 * 2 * len(args["source"]),  # both ends, read and written
    )
)
