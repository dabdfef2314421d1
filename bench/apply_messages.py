"""Benchmark of `apply_messages`, what `gnnaccel.pyg.TGNMemory` calls for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.apply_messages import PROVIDERS
from gnnaccel.baselines.reference.apply_messages import apply_messages as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.memory_update import make as make_update
from gnnaccel.ops._apply_messages import CLEAN, FRESH, PENDING, apply_messages


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """A share `pending` of the nodes has a message, `fresh` has not been seen; the others are clean."""
    N, D = params["N"], params["D"]
    cell = make_update({**params, "Dm": 2 * D + params["F"]}, device, seed)
    gen = torch.Generator().manual_seed(seed)
    draw = torch.rand(N, generator=gen)
    status = torch.where(draw < params["pending"], PENDING, torch.where(draw > 1 - params["fresh"], FRESH, CLEAN))
    other, time = torch.randint(0, N, (N,), generator=gen), torch.zeros(N, dtype=torch.int64, device=device)
    time[cell["rows"]] = cell.pop("dt")
    mail = cell.pop("mail")
    return {
        "memory": cell.pop("memory"),
        "last_update": torch.zeros_like(time),
        "status": status.to(torch.uint8).to(device),
        "other": other.to(device),
        "time": time,
        "raw": mail[:, 2 * D :].contiguous(),
        "nodes": cell.pop("rows"),
        **cell,
    }


def flops(args: Mapping[str, Any]) -> int:
    pending = int((args["status"][args["nodes"]] == PENDING).sum())
    return 2 * pending * (args["w_ih"].numel() + args["w_hh"].numel())


def flops_bwd(args: Mapping[str, Any]) -> int:
    # weights, and the time part of the input: tables get no gradient
    pending = int((args["status"][args["nodes"]] == PENDING).sum())
    return flops(args) + 2 * pending * args["w_ih"].shape[0] * args["time_w"].shape[0]


def moved(args: Mapping[str, Any]) -> int:
    """Memory of a node and its new row; of those with a message also the other end's memory and the raw message."""
    pending = int((args["status"][args["nodes"]] == PENDING).sum())
    D, F = args["memory"].shape[1], args["raw"].shape[1]
    return 4 * (2 * len(args["nodes"]) * D + pending * (D + F) + args["w_ih"].numel() + args["w_hh"].numel())


PYG = {"N": 9227, "F": 172, "T": 100, "D": 100, "fresh": 0.02, "pending": 0.95}

register(
    Entry(
        op="apply_messages",
        cases={
            "pyg_batch200": {**PYG, "U": 1000},
            "pyg_batch200_1thread": {**PYG, "U": 1000, "threads": 1},
            "pyg_batch200_start": {**PYG, "U": 700, "fresh": 0.6, "pending": 0.4},
        },
        make=make,
        providers={"gnnaccel": apply_messages, **PROVIDERS},
        compile="torch",
        reference=reference,
        grad=("time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh"),
        bytes=moved,
        flops=flops,
        flops_bwd=flops_bwd,
        tiny={"N": 60, "F": 5, "T": 4, "D": 6, "U": 40, "fresh": 0.3, "pending": 0.4},
    )
)
