"""Benchmark of `kg_loss`: the training step of FB15k-237 that the issue of knowledge graphs names, and 1-vs-all.

Extra memory counts what torch allocates; the C++ kernels take their scratch, some 24 MB of scores and packed rows, by
themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.kg_loss import MISSING, PROVIDERS
from gnnaccel.baselines.reference.kg_loss import kg_loss as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.kg_loss import kg_loss


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    C, S, N, D, model = params["C"], params["S"], params["N"], params["D"], params["model"]
    width = {"rotate": D // 2}.get(model, D)
    # uniform, as DGL-KE starts its tables; small, for logits where a loss bends
    h, t, neg = (torch.rand(*shape, generator=gen) - 0.5 for shape in ((C * S, D), (C * S, D), (C, N, D)))
    args = {"model": model, "h": h, "r": torch.rand(C * S, width, generator=gen) - 0.5, "t": t, "neg": neg}
    args = {k: v / 8 if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    args |= {"loss": "logsigmoid", "adversarial_temperature": 1.0}
    if params.get("all"):
        answers = torch.randint(0, N, (C * S,), generator=gen)
        args |= {"loss": "softmax", "adversarial_temperature": None, "t": args["neg"][0, answers]}
        args["exclude"] = (torch.arange(C * S + 1).to(device), answers.to(device))
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in args.items()}


def moved(args: dict[str, Any]) -> int:
    return 4 * sum(args[name].numel() for name in ("h", "r", "t", "neg"))


def operations(args: dict[str, Any]) -> int:
    """A subtraction or product and a sum for each pair and dimension."""
    return 2 * args["h"].numel() * args["neg"].shape[1]


def providers(model: str) -> dict[str, Any]:
    peers = {name: peer for name, peer in PROVIDERS.items() if name != "pykeen" or model != "rotate"}
    return {"gnnaccel": kg_loss, **peers}


STEP, ALL = {"C": 4, "S": 256, "N": 256, "D": 400}, {"C": 1, "S": 512, "N": 14541, "D": 400, "all": True}
TINY = {"C": 2, "S": 3, "N": 5, "D": 8}

for model in ("transe_l1", "transe_l2", "distmult", "complex", "rotate"):
    register(
        Entry(
            op=f"kg_loss_{model}",
            cases={
                "fb15k237_step": {**STEP, "model": model},
                "fb15k237_step_1thread": {**STEP, "model": model, "threads": 1},
            },
            quick={"fb15k237_one_chunk": {**STEP, "C": 1, "model": model}},
            tiny={**TINY, "model": model},
            reference_cases=("tiny",),
            make=make,
            providers=providers(model),
            compile="torch",
            missing={} if model == "rotate" else MISSING,
            reference=reference,
            grad=("h", "r", "t", "neg"),
            # gradients are made in the forward pass: its time alone says nothing
            modes=("full",),
            bytes=moved,
            flops=operations,
            flops_bwd=lambda args: 2 * operations(args),
        )
    )

for model in ("distmult", "complex", "transe_l2"):
    register(
        Entry(
            op=f"kg_loss_all_{model}",
            cases={"fb15k237_512_queries": {**ALL, "model": model}},
            quick={"fb15k237_64_queries": {**ALL, "S": 64, "model": model}},
            tiny={**TINY, "C": 1, "model": model, "all": True},
            reference_cases=("tiny",),
            make=make,
            providers={name: peer for name, peer in providers(model).items() if name != "pykeen"},
            reference=reference,
            grad=("h", "r", "t", "neg"),
            modes=("full",),
            bytes=moved,
            flops=operations,
            flops_bwd=lambda args: 2 * operations(args),
        )
    )
