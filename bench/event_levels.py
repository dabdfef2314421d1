"""Benchmark of `event_levels`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.event_levels import PROVIDERS
from gnnaccel.baselines.reference.event_levels import event_levels as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._event_levels import event_levels


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """B events between nodes of a heavy-tailed activity, one candidate each, K neighbours a root."""
    gen = torch.Generator().manual_seed(seed)
    B, K = params["B"], params["K"]
    S, N = 3 * B, max(2 * B, 4)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=gen) ** 3 * N).long()  # a few nodes have most events

    return {
        "root": draw(S).to(device),
        "nbr": draw(S, K).to(device),
        "group": torch.arange(B, device=device),
        "num_nodes": N,
    }


register(
    Entry(
        op="event_levels",
        cases={"batch4000_k10": {"B": 4000, "K": 10}, "batch200_k10": {"B": 200, "K": 10}},
        make=make,
        providers={"gnnaccel": lambda **args: tuple(event_levels(**args)), **PROVIDERS},
        reference=reference,
        bytes=lambda args: 8 * (args["root"].numel() + args["nbr"].numel() + args["group"].numel()),
        reference_cases=("tiny", "batch200_k10"),
        quick=("batch200_k10",),
        tiny={"B": 20, "K": 3},
    )
)
