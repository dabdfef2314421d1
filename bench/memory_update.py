"""Benchmark of `memory_update`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.memory_update import PROVIDERS
from gnnaccel.baselines.reference.memory_update import memory_update as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.memory_update import memory_update


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    N, U, Dm, T, D = (params[k] for k in ("N", "U", "Dm", "T", "D"))
    bound = D**-0.5

    def uniform(*shape: int) -> torch.Tensor:
        return ((torch.rand(*shape, generator=gen) * 2 - 1) * bound).to(device)

    return {
        "mail": torch.randn(N, Dm, generator=gen).to(device),
        # short spans: the eager peer forms its angle in float32 and would fail the correctness gate at Unix scales
        "dt": torch.randint(0, 100, (U,), generator=gen).to(device),
        "memory": torch.randn(N, D, generator=gen).to(device),
        "time_w": (1.0 / 10 ** torch.linspace(0, 9, T)).to(device),
        "time_b": torch.zeros(T, device=device),
        "w_ih": uniform(3 * D, Dm + T),
        "w_hh": uniform(3 * D, D),
        "b_ih": uniform(3 * D),
        "b_hh": uniform(3 * D),
        "rows": torch.randperm(N, generator=gen)[:U].to(device),
    }


def products(args: Mapping[str, Any], outputs: int) -> int:
    """Operations of a product of all rows with `outputs` weights."""
    return 2 * args["dt"].shape[0] * outputs


def flops(args: Mapping[str, Any]) -> int:
    return products(args, args["w_ih"].numel() + args["w_hh"].numel())


def flops_bwd(args: Mapping[str, Any]) -> int:
    # weights, and the time part of the input; mail and memory are tables that get no gradient
    time_part = args["w_ih"].shape[0] * args["time_w"].shape[0]
    return products(args, args["w_ih"].numel() + args["w_hh"].numel() + time_part)


def moved(args: Mapping[str, Any]) -> int:
    U, width = args["dt"].shape[0], args["mail"].shape[1] + 2 * args["memory"].shape[1]
    return 4 * (U * width + args["w_ih"].numel() + args["w_hh"].numel())


TGN = {"N": 10_000, "Dm": 372, "T": 100, "D": 100}

register(
    Entry(
        op="memory_update",
        cases={
            "tgn_u1000": {**TGN, "U": 1000},
            "tgn_u400": {**TGN, "U": 400},
            "tgn_u1000_1thread": {**TGN, "U": 1000, "threads": 1},
            "tgn_u400_1thread": {**TGN, "U": 400, "threads": 1},
        },
        make=make,
        providers={"gnnaccel": memory_update, **PROVIDERS},
        compile="torch",
        reference=reference,
        grad=("time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh"),
        bytes=moved,
        flops=flops,
        flops_bwd=flops_bwd,
    )
)
