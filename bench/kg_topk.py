"""Benchmark of `kg_topk`: many queries of FB15k-237's shape, and one among a million entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.kg_topk import PROVIDERS
from gnnaccel.baselines.reference.kg_topk import kg_topk as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.kg_rank import TINY, tables
from gnnaccel.ops.kg_topk import kg_topk


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    args = tables(params, device, gen)
    e, r = (torch.randint(0, params[n], (params["B"],), generator=gen) for n in ("E", "R"))
    return {**args, "queries": torch.stack([e, r], 1).to(device), "k": params["k"], "side": "tail"}


def operations(args: dict[str, Any]) -> int:
    """A subtraction or product and a sum for each pair and dimension."""
    return 2 * len(args["queries"]) * args["entity_table"].numel()


def moved(args: dict[str, Any]) -> int:
    return 4 * args["entity_table"].numel()


def check(provider: str, got: list[Tensor], want: list[Tensor]) -> str | None:
    """Rounding may exchange neighbours."""
    error = (got[1].double() - want[1].double()).abs().max().item()
    same = (got[0] == want[0]).double().mean().item()
    return None if error <= 1e-4 and same >= 0.99 else f"scores differ by {error:.1e}, {same:.2%} of the ids agree"


for model, B in (("transe_l1", 128), ("transe_l2", 512), ("distmult", 512), ("rotate", 32)):
    fb = {"B": B, "E": 14541, "R": 237, "D": 400, "k": 10, "model": model}
    register(
        Entry(
            op=f"kg_topk_{model}",
            cases={
                f"fb15k237_{B}_queries": fb,
                "a_million_entities": {**fb, "B": 1, "E": 1000000, "D": 100},
                "a_million_entities_k1000": {**fb, "B": 1, "E": 1000000, "D": 100, "k": 1000},
            },
            quick={f"fb15k237_{B // 4}_queries": {**fb, "B": B // 4}},
            tiny={**TINY, "k": 4, "model": model},
            reference_cases=("tiny",),
            make=make,
            providers={"gnnaccel": kg_topk, **PROVIDERS},
            prepare={"torch": lambda args: {("queries_" if k == "queries" else k): v for k, v in args.items()}},
            reference=reference,
            check=check,
            flops=operations,
            bytes=moved,
        )
    )
