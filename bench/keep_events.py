"""Benchmark of `keep_events_`, what `gnnaccel.pyg.TGNMemory.update_state` calls for a batch in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.keep_events import PROVIDERS
from gnnaccel.baselines.reference.keep_events import keep_events as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._keep_events import keep_events_


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """A batch of B events in order of time; its nodes and their neighbours, U together, have been read."""
    gen = torch.Generator().manual_seed(seed)
    N, D, F, B, U = (params[k] for k in ("N", "D", "F", "B", "U"))
    nodes = torch.randperm(N, generator=gen)[:U].sort().values
    src, dst = nodes[(torch.rand(2, B, generator=gen) ** 2 * U).long()]
    args = {
        "memory": torch.zeros(N, D),
        "last_update": torch.zeros(N, dtype=torch.int64),
        "status": torch.zeros(N, dtype=torch.uint8),
        "other": torch.zeros(N, dtype=torch.int64),
        "time": torch.zeros(N, dtype=torch.int64),
        "raw": torch.zeros(N, F),
        "place": torch.zeros(N, dtype=torch.int64),
        "src": src,
        "dst": dst,
        "t": torch.randint(0, B, (B,), generator=gen).sort().values,
        "raw_msg": torch.randn(B, F, generator=gen),
        "nodes": nodes,
        "rows": torch.randn(U, D, generator=gen),
        "rows_time": torch.randint(0, B, (U,), generator=gen),
    }
    return {name: t.to(device) for name, t in args.items()}


def giving_tables(op: Callable[..., bool]) -> Callable[..., tuple[Tensor, ...]]:
    """What the harness compares: the tables after the call, which gives the same whenever it is repeated."""

    @wraps(op)
    def call(**args: Any) -> tuple[Tensor, ...]:
        op(**args)
        return tuple(args[name] for name in ("memory", "last_update", "status", "other", "time", "raw"))

    return call


def moved(args: Mapping[str, Any]) -> int:
    """Memory of the nodes that were read, and of those with events the last message: read and written once."""
    ends = torch.cat([args["src"], args["dst"]]).unique().numel()
    return 2 * 4 * (args["rows"].numel() + ends * args["raw"].shape[1])


register(
    Entry(
        op="keep_events",
        cases={
            "pyg_batch200": {"N": 9227, "D": 100, "F": 172, "B": 200, "U": 1000},
            "pyg_batch200_1thread": {"N": 9227, "D": 100, "F": 172, "B": 200, "U": 1000, "threads": 1},
            "batch2000_1m_nodes": {"N": 1_000_000, "D": 100, "F": 16, "B": 2000, "U": 20_000},
        },
        tiny={"N": 60, "D": 6, "F": 5, "B": 30, "U": 40},
        make=make,
        providers={name: giving_tables(op) for name, op in {"gnnaccel": keep_events_, **PROVIDERS}.items()},
        reference=giving_tables(reference),
        bytes=moved,
    )
)
