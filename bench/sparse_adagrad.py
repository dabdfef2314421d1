"""Benchmark of `sparse_adagrad_`: heads, tails and negatives of a batch on the table of a real graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers import sparse_adagrad as adagrad_peers
from gnnaccel.baselines.reference.sparse_adagrad import sparse_adagrad_ as adagrad_reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.sparse_adagrad import sparse_adagrad_

FB15K237, WN18RR, RELATIONS = 14541, 40943, 237

CASES = {
    "fb15k237_entities": {"n": FB15K237, "D": 400, "lists": 3, "m": 1024},
    "fb15k237_entities_1thread": {"n": FB15K237, "D": 400, "lists": 3, "m": 1024, "threads": 1},
    "fb15k237_relations": {"n": RELATIONS, "D": 400, "lists": 1, "m": 1024},
    "wn18rr_entities": {"n": WN18RR, "D": 400, "lists": 3, "m": 512},
}
TINY = {"n": 50, "D": 8, "lists": 3, "m": 20}


def rows(params: Mapping[str, Any], device: str, seed: int) -> tuple[torch.Generator, dict[str, Any]]:
    gen = torch.Generator().manual_seed(seed)
    n, D, m = params["n"], params["D"], params["m"]
    lists = range(params["lists"])
    return gen, {
        "table": (torch.rand(n, D, generator=gen) - 0.5).to(device),
        "ids": [torch.randint(n, (m,), generator=gen).to(device) for _ in lists],
        "grad": [(torch.randn(m, D, generator=gen) / m).to(device) for _ in lists],
        "lr": 0.1,
    }


def make_adagrad(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen, args = rows(params, device, seed)
    shape = args["table"].shape if params["mode"] == "full" else args["table"].shape[:1]
    return {**args, "state": torch.rand(shape, generator=gen).to(device) / params["m"] ** 2, "mode": params["mode"]}


def giving_tables(op: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """What the harness compares: the tables after the call."""

    @wraps(op)
    def call(**args: Any) -> tuple[Tensor, ...]:
        op(**args)
        return tuple(args[name] for name in ("table", "state", "exp_avg", "exp_avg_sq") if name in args)

    return call


def moved(args: dict[str, Any]) -> int:
    """Gradients once, rows and states of them twice."""
    distinct = len(torch.cat(args["ids"]).unique())
    state = sum(args[k].shape[-1] if args[k].dim() == 2 else 1 for k in ("state", "exp_avg", "exp_avg_sq") if k in args)
    return 4 * (sum(g.numel() for g in args["grad"]) + 2 * distinct * (args["table"].shape[1] + state))


for mode, peers in adagrad_peers.PROVIDERS.items():
    providers: dict[str, Callable[..., Any]] = {"gnnaccel": sparse_adagrad_, **peers}
    register(
        Entry(
            op=f"sparse_adagrad_{mode}",
            cases={name: {**case, "mode": mode} for name, case in CASES.items()},
            tiny={**TINY, "mode": mode},
            reference_cases=("tiny",),
            make=make_adagrad,
            providers={name: giving_tables(op) for name, op in providers.items()},
            reference=giving_tables(adagrad_reference),
            fresh=("table", "state"),
            bytes=moved,
        )
    )
