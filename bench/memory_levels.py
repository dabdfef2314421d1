"""Benchmark of `memory_levels`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.memory_levels import PROVIDERS
from gnnaccel.baselines.reference.memory_levels import memory_levels as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._event_levels import event_levels
from gnnaccel.ops._memory_levels import memory_levels


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """B events between nodes of a heavy-tailed activity, sizes of TGN on wikipedia."""
    gen = torch.Generator().manual_seed(seed)
    B, D, De, T = params["B"], params["D"], params["De"], params["T"]
    N = max(2 * B, 4)
    ends = (torch.rand(2 * B, generator=gen) ** 3 * N).long()
    _, node = ends.unique(return_inverse=True)
    U = int(node.max()) + 1
    levels = event_levels(node, node.new_empty(2 * B, 0), torch.arange(B), U)
    bound = D**-0.5

    def weight(*shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=gen) * 2 - 1) * bound

    args = {
        "old": torch.randn(U, D, generator=gen),
        "old_update": torch.zeros(U, dtype=torch.int64),
        "node": node,
        **{k: getattr(levels, k) for k in ("row", "before", "last", "order", "offset")},
        "times": torch.arange(1, B + 1).repeat(2),
        "event_ids": torch.arange(B),
        "edge_feat": torch.randn(B, De, generator=gen),
        "time_w": torch.rand(T, generator=gen),
        "time_b": torch.rand(T, generator=gen),
        "w_ih": weight(3 * D, 2 * D + De + T),
        "w_hh": weight(3 * D, D),
        "b_ih": weight(3 * D),
        "b_hh": weight(3 * D),
    }
    return {name: t.to(device) for name, t in args.items()}


register(
    Entry(
        op="memory_levels",
        cases={
            "tgn_batch4000": {"B": 4000, "D": 100, "De": 172, "T": 100},
            "tgn_batch200": {"B": 200, "D": 100, "De": 172, "T": 100},
        },
        make=make,
        providers={"gnnaccel": memory_levels, **PROVIDERS},
        reference=reference,
        bytes=lambda a: 4 * (2 * a["old"].numel() + a["edge_feat"].numel() + a["w_ih"].numel() + a["w_hh"].numel()),
        reference_cases=("tiny", "tgn_batch200"),
        quick=("tgn_batch200",),
        tiny={"B": 20, "D": 8, "De": 3, "T": 4},
    )
)
