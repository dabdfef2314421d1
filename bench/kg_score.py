"""Benchmark of `kg_score_negatives`: the step of FB15k-237 that the issue of knowledge graphs names, and 1-vs-all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.kg_score import MISSING, PROVIDERS
from gnnaccel.baselines.reference.kg_score import kg_score_negatives as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.kg_score import kg_score_negatives


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    C, S, N, D, model = params["C"], params["S"], params["N"], params["D"], params["model"]
    width = {"rotate": D // 2, "rescal": D * D}.get(model, D)
    # uniform, as DGL-KE starts its tables
    h, r, neg = (torch.rand(*shape, generator=gen) - 0.5 for shape in ((C * S, D), (C * S, width), (C, N, D)))
    return {"model": model, "h": h.to(device), "r": r.to(device), "t": None, "neg": neg.to(device)}


def moved(args: dict[str, Any]) -> int:
    rows = args["h"].numel() + args["r"].numel() + args["neg"].numel()
    return 4 * (rows + args["h"].shape[0] * args["neg"].shape[1])


def operations(args: dict[str, Any]) -> int:
    """A subtraction or product and a sum for each pair and dimension."""
    return 2 * args["h"].numel() * args["neg"].shape[1]


def providers(model: str) -> dict[str, Any]:
    peers = {name: peer for name, peer in PROVIDERS.items() if name != "pykeen" or model != "rotate"}
    return {"gnnaccel": kg_score_negatives, **peers}


STEP, ALL = {"C": 4, "S": 256, "N": 256, "D": 400}, {"C": 1, "S": 128, "N": 14541, "D": 400}
TINY = {"C": 2, "S": 3, "N": 5, "D": 8}

for model in ("transe_l1", "transe_l2", "distmult", "complex", "rotate"):
    register(
        Entry(
            op=f"kg_score_{model}",
            cases={"fb15k237_step": {**STEP, "model": model}},
            quick={"fb15k237_one_chunk": {**STEP, "C": 1, "model": model}},
            tiny={**TINY, "model": model},
            reference_cases=("tiny",),
            make=make,
            providers=providers(model),
            compile="torch",
            missing={} if model == "rotate" else MISSING,
            reference=reference,
            grad=("h", "r", "neg"),
            bytes=moved,
            flops=operations,
            flops_bwd=lambda args: 2 * operations(args),
        )
    )

for model in ("transe_l1", "transe_l2", "distmult", "complex"):
    register(
        Entry(
            op=f"kg_score_all_{model}",
            cases={"fb15k237_128_queries": {**ALL, "model": model}},
            quick={"fb15k237_32_queries": {**ALL, "S": 32, "model": model}},
            tiny={**TINY, "model": model},
            reference_cases=("tiny",),
            make=make,
            providers={name: peer for name, peer in providers(model).items() if name != "pykeen"},
            reference=reference,
            modes=("fwd",),
            bytes=moved,
            flops=operations,
        )
    )
