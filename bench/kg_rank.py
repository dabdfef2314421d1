"""Benchmark of `kg_rank`: filtered ranks of triples like FB15k-237's among all of its entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers import kg_rank as peers
from gnnaccel.baselines.reference.kg_rank import kg_rank as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.kg_rank import kg_rank


def tables(params: Mapping[str, Any], device: str, gen: torch.Generator) -> dict[str, Any]:
    E, R, D, model = (params[x] for x in ("E", "R", "D", "model"))
    width = {"rotate": D // 2, "rescal": D * D}.get(model, D)
    # uniform, as DGL-KE starts its tables
    entity, relation = (torch.rand(*shape, generator=gen) - 0.5 for shape in ((E, D), (R, width)))
    return {"model": model, "entity_table": entity.to(device), "relation_table": relation.to(device)}


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    args = tables(params, device, gen)
    B, E, R = (params[x] for x in ("B", "E", "R"))
    h, r, t = (torch.randint(0, n, (B,), generator=gen) for n in (E, R, E))
    # a query of FB15k-237's test set has 7 known tails in the median and 38 on average
    count = (7 * torch.rand(B, generator=gen).reciprocal().sqrt()).long().clamp(max=E // 4)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    ids = torch.randint(0, E, (int(indptr[-1]),), generator=gen)
    triples = torch.stack([h, r, t], 1)
    return {**args, "triples": triples.to(device), "side": "tail", "known": (indptr.to(device), ids.to(device))}


def operations(args: dict[str, Any]) -> int:
    """A subtraction or product and a sum for each pair and dimension."""
    return 2 * len(args["triples"]) * args["entity_table"].numel()


def check(provider: str, got: list[Tensor], want: list[Tensor]) -> str | None:
    """Rounding may exchange neighbours."""
    greater, _, count = (a - b for a, b in zip(got, want, strict=True))
    if count.any():
        return f"{int((count != 0).sum())} numbers of candidates differ"
    far = int((greater.abs() > 2).sum())
    return f"{far} of {len(greater)} ranks differ by more than 2" if far else None


TINY = {"B": 5, "E": 40, "R": 3, "D": 8}

# as many triples as the slower of torch and ours ranks in about a second
for model, B in (("transe_l1", 128), ("transe_l2", 512), ("distmult", 512), ("complex", 512), ("rotate", 32)):
    shape = {"B": B, "E": 14541, "R": 237, "D": 400, "model": model}
    register(
        Entry(
            op=f"kg_rank_{model}",
            cases={f"fb15k237_{B}_triples": shape},
            quick={f"fb15k237_{B // 4}_triples": {**shape, "B": B // 4}},
            tiny={**TINY, "model": model},
            reference_cases=("tiny",),
            make=make,
            # its RotatE takes another norm
            providers={
                "gnnaccel": kg_rank,
                **{k: v for k, v in peers.PROVIDERS.items() if k != "pykeen" or model != "rotate"},
            },
            prepare={"pykeen": peers.prepared} if "pykeen" in peers.PROVIDERS and model != "rotate" else {},
            missing={} if model == "rotate" else peers.MISSING,
            reference=reference,
            check=check,
            flops=operations,
            bytes=lambda args: 4 * args["entity_table"].numel(),
        )
    )
