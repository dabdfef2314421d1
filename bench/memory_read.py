"""Benchmark of `memory_read`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.memory_read import PROVIDERS
from gnnaccel.baselines.reference.memory_read import memory_read as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.memory_update import TGN
from gnnaccel.bench.memory_update import make as make_update
from gnnaccel.ops._memory_read import memory_read


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    args = make_update(params, device, seed)
    gen = torch.Generator().manual_seed(seed)
    N, nodes = params["N"], args.pop("rows")
    mail_time = torch.zeros(N, dtype=torch.int64, device=device)
    mail_time[nodes] = args.pop("dt")
    has_mail = torch.rand(N, generator=gen) < params["pending"]
    state = {
        "mail": args.pop("mail"),
        "mail_time": mail_time,
        "has_mail": has_mail.to(device),
        "memory": args.pop("memory"),
        "last_update": torch.zeros_like(mail_time),
        "nodes": nodes,
    }
    return {**state, **args}


def flops(args: Mapping[str, Any]) -> int:
    return 2 * int(args["has_mail"][args["nodes"]].sum()) * (args["w_ih"].numel() + args["w_hh"].numel())


def flops_bwd(args: Mapping[str, Any]) -> int:
    # weights, and the time part of the input: tables get no gradient
    pending = int(args["has_mail"][args["nodes"]].sum())
    return flops(args) + 2 * pending * args["w_ih"].shape[0] * args["time_w"].shape[0]


def moved(args: Mapping[str, Any]) -> int:
    """Memory of a node and its new row, and the mail of those that have one."""
    pending = int(args["has_mail"][args["nodes"]].sum())
    rows = 2 * len(args["nodes"]) * args["memory"].shape[1] + pending * args["mail"].shape[1]
    return 4 * (rows + args["w_ih"].numel() + args["w_hh"].numel())


register(
    Entry(
        op="memory_read",
        cases={
            "tgn_batch600": {**TGN, "U": 1600, "pending": 0.95},
            "tgn_batch200": {**TGN, "U": 650, "pending": 0.95},
            "tgn_batch600_start": {**TGN, "U": 1000, "pending": 0.3},
        },
        make=make,
        providers={"gnnaccel": memory_read, **PROVIDERS},
        compile="torch",
        reference=reference,
        grad=("time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh"),
        bytes=moved,
        flops=flops,
        flops_bwd=flops_bwd,
    )
)
