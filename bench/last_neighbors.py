"""Benchmark of `last_neighbors`, what `gnnaccel.pyg.LastNeighborLoader` calls for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.last_neighbors import MISSING, PROVIDERS
from gnnaccel.baselines.reference.last_neighbors import last_neighbors as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._last_neighbors import last_neighbors, last_neighbors_insert_


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """Tables after `events` events of a skewed stream, and the distinct ends of a batch after it."""
    gen = torch.Generator().manual_seed(seed)
    N, B, events = params["N"], params["B"], params["events"]
    src, dst = ((torch.rand(events + B, generator=gen) ** 3 * N).long() for _ in range(2))
    tables = torch.zeros((N, 10), dtype=torch.int64), torch.full((N, 10), -1)
    last_neighbors_insert_(*tables, src[:events], dst[:events], 0)
    n_id = torch.cat([src[events:], dst[events:]]).unique()
    return {"neighbors": tables[0].to(device), "e_id": tables[1].to(device), "n_id": n_id.to(device)}


register(
    Entry(
        op="last_neighbors",
        cases={
            "batch200_wikipedia": {"B": 300, "N": 9227, "events": 50_000},
            "batch2000_1m_nodes": {"B": 3000, "N": 1_000_000, "events": 1_000_000},
        },
        tiny={"B": 20, "N": 30, "events": 100},
        make=make,
        providers={"gnnaccel": last_neighbors, **PROVIDERS},
        missing=MISSING,
        reference=reference,
        # a node's neighbours and their events, read and written
        bytes=lambda args: 2 * 2 * 8 * len(args["n_id"]) * args["neighbors"].shape[1],
    )
)
