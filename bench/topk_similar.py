"""Benchmark of `topk_similar`: the nearest of all rows, for every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.topk_similar import MISSING, PROVIDERS
from gnnaccel.baselines.reference.topk_similar import topk_similar as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.kg_topk import check
from gnnaccel.ops.topk_similar import topk_similar


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    query, table = (torch.randn(params[n], params["D"], generator=gen).to(device) for n in ("Q", "N"))
    return {"query": query, "table": table, "k": params["k"], "metric": params["metric"]}


def operations(args: dict[str, Any]) -> int:
    return 2 * len(args["query"]) * args["table"].numel()


for metric in ("dot", "cosine", "l2"):
    case = {"Q": 20_000, "N": 20_000, "D": 64, "k": 10, "metric": metric}
    peers = {name: fn for name, fn in PROVIDERS.items() if metric != "dot" or name != "sklearn"}
    register(
        Entry(
            op=f"topk_similar_{metric}",
            cases={
                "q20k_n20k_d64_k10": case,
                "q4k_n100k_d128_k10": {**case, "Q": 4000, "N": 100_000, "D": 128},
                "cora_q2708_n2708_d64_k16": {**case, "Q": 2708, "N": 2708, "k": 16},
            },
            quick=("cora_q2708_n2708_d64_k16",),
            tiny={**case, "Q": 30, "N": 50, "D": 8, "k": 4},
            reference_cases=("tiny",),
            make=make,
            providers={"gnnaccel": topk_similar, **peers},
            missing={} if metric == "dot" else MISSING,
            reference=reference,
            check=check,
            flops=operations,
            bytes=lambda args: 4 * (args["query"].numel() + args["table"].numel()),
        )
    )
