"""Benchmark of `time_encode`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.time_encode import PROVIDERS
from gnnaccel.baselines.reference.time_encode import time_encode as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.time_encode import time_encode


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    # short spans: the eager peer forms its angle in float32 and would fail the correctness gate at Unix scales
    dt = torch.randint(0, 100, (params["R"], params["K"]), generator=gen)
    w = 1.0 / 10 ** torch.linspace(0, 9, params["T"])
    return {"dt": dt.to(device), "w": w.to(device), "b": torch.zeros(params["T"], device=device)}


register(
    Entry(
        op="time_encode",
        cases={"tgn_batch600_k10": {"R": 1800, "K": 10, "T": 100}, "one_hop_small": {"R": 200, "K": 10, "T": 100}},
        make=make,
        providers={"gnnaccel": time_encode, **PROVIDERS},
        compile="torch",
        reference=reference,
        grad=("w", "b"),
        bytes=lambda a: a["dt"].numel() * (8 + a["w"].numel() * a["w"].element_size()),
        flops=lambda a: a["dt"].numel() * a["w"].numel() * 20,
        flops_bwd=lambda a: a["dt"].numel() * a["w"].numel() * 20,
    )
)
