"""Benchmark of `edge_softmax_aggregate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.edge_softmax_aggregate import MISSING, PROVIDERS
from gnnaccel.baselines.peers.gather_aggregate import edge_list
from gnnaccel.baselines.reference.edge_softmax_aggregate import edge_softmax_aggregate as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.edge_softmax_aggregate import edge_softmax_aggregate


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    S, R, K, H, D = (params[k] for k in ("S", "R", "K", "H", "D"))
    count = torch.where(torch.rand(R, generator=gen) < 0.9, K, torch.randint(1, K + 1, (R,), generator=gen))
    args = {
        "x": torch.randn(S, H, D, generator=gen),
        "src_logit": torch.randn(S, H, generator=gen),
        "dst_logit": torch.randn(R, H, generator=gen),
        "nbr": torch.randint(0, S, (R, K), generator=gen).masked_fill(torch.arange(K) >= count.unsqueeze(1), -1),
        "count": count,
    }
    return {k: v.to(device) for k, v in args.items()}


def flat(args: dict[str, Any]) -> dict[str, Any]:
    """The same edges as a list, for the peers."""
    ids, root, indptr = edge_list(args["nbr"], args["count"])
    others: dict[str, Tensor] = {name: args[name] for name in ("x", "src_logit", "dst_logit")}
    return {**others, "ids": ids, "root": root, "indptr": indptr}


def moved(args: Mapping[str, Any]) -> int:
    (_, H, D), (R, K), edges = args["x"].shape, args["nbr"].shape, int(args["count"].sum())
    return 4 * (edges * (H * D + H) + R * (H + H * D)) + 8 * R * K


BLOCK = {"S": 150_000, "R": 16_000, "K": 10, "H": 8, "D": 16, "threads": 1}

register(
    Entry(
        op="edge_softmax_aggregate",
        cases={
            "block_16k_k10_8x16": BLOCK,
            "block_16k_k10_8x16_2threads": {**BLOCK, "threads": 2},
            "cora_8x8": {"S": 2_708, "R": 2_708, "K": 5, "H": 8, "D": 8, "threads": 1},
            "one_head_128": {**BLOCK, "H": 1, "D": 128},
        },
        quick=("cora_8x8",),
        tiny={"S": 40, "R": 30, "K": 4, "H": 2, "D": 5},
        make=make,
        providers={"gnnaccel": edge_softmax_aggregate, **PROVIDERS},
        compile="scattered softmax",
        gathers=True,
        missing=MISSING,
        prepare=dict.fromkeys(PROVIDERS, flat),
        reference=reference,
        reference_cases=("tiny",),
        grad=("x", "src_logit", "dst_logit"),
        bytes=moved,
    )
)
