"""Benchmark of `commit_events`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.commit_events import PROVIDERS
from gnnaccel.baselines.reference.commit_events import commit_events as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._commit_events import commit_events


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """A batch of B events between 2 B / 3 nodes, as on wikipedia at batch 600."""
    gen = torch.Generator().manual_seed(seed)
    B, N, D, De = params["B"], params["N"], params["D"], params["De"]
    active = torch.randperm(N, generator=gen)[: 2 * B // 3]
    ends = active[torch.randint(len(active), (2 * B,), generator=gen)]
    nodes, row = ends.unique(return_inverse=True)
    args = {
        "memory": torch.zeros(N, D),
        "last_update": torch.zeros(N, dtype=torch.int64),
        "mail": torch.zeros(N, 2 * D + De),
        "mail_time": torch.zeros(N, dtype=torch.int64),
        "has_mail": torch.zeros(N, dtype=torch.bool),
        "ends": ends,
        "times": torch.arange(B).repeat(2),
        "row": row,
        "rows_memory": torch.randn(len(nodes), D, generator=gen),
        "rows_time": torch.randint(B, (len(nodes),), generator=gen),
        "event_ids": torch.arange(B),
        "edge_feat": torch.randn(B, De, generator=gen),
    }
    return {name: t.to(device) for name, t in args.items()}


def giving_tables(op: Callable[..., None]) -> Callable[..., tuple[Tensor, ...]]:
    """What the harness compares: the tables after the call, which gives the same whenever it is repeated."""

    @wraps(op)
    def call(
        memory: Tensor, last_update: Tensor, mail: Tensor, mail_time: Tensor, has_mail: Tensor, **rest: Any
    ) -> tuple[Tensor, ...]:
        tables = (memory, last_update, mail, mail_time, has_mail)
        op(*tables, **rest)
        return tables

    return call


def moved(args: Mapping[str, Any]) -> int:
    """Of each node the new memory, and its mail: read and written once."""
    return 2 * 4 * len(args["rows_memory"]) * (args["memory"].shape[1] + args["mail"].shape[1])


register(
    Entry(
        op="commit_events",
        cases={
            "tgn_batch600": {"B": 600, "N": 9228, "D": 100, "De": 172},
            "tgn_batch200": {"B": 200, "N": 9228, "D": 100, "De": 172},
        },
        make=make,
        providers={name: giving_tables(op) for name, op in {"gnnaccel": commit_events, **PROVIDERS}.items()},
        reference=giving_tables(reference),
        bytes=moved,
    )
)
