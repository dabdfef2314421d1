"""Benchmark of `edge_attention`, what `gnnaccel.pyg.TransformerConv` calls for a batch: times first, roots are all nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.edge_attention import MISSING, PROVIDERS
from gnnaccel.baselines.reference.edge_attention import edge_attention as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._edge_attention import edge_attention

WEIGHTS = ("wq", "bq", "wk", "bk", "wv", "bv", "ws", "bs", "we")


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """The ends of a batch have `K` neighbours or nearly, the neighbours themselves none, as in PyG's example."""
    gen = torch.Generator().manual_seed(seed)
    R, K, E, Dn, D, De, T = (params[k] for k in ("R", "K", "E", "Dn", "D", "De", "T"))
    full = torch.where(torch.rand(R, generator=gen) < 0.9, K, torch.randint(0, K + 1, (R,), generator=gen))
    count = torch.where(torch.rand(R, generator=gen) < params["attending"], full, 0)
    dead = torch.arange(K) >= count.unsqueeze(1)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=gen) * 2 - 1) / math.sqrt(shape[-1])

    args: dict[str, Any] = {
        "node_table": torch.randn(R, Dn, generator=gen),
        "root_table": None,
        **{name: uniform(D, De + T if name == "we" else Dn) if name[0] == "w" else uniform(D) for name in WEIGHTS},
        "edge_table": torch.randn(E, De, generator=gen),
        "nbr_row": torch.randint(0, R, (R, K), generator=gen).masked_fill(dead, -1),
        "edge_row": torch.randint(0, E, (R, K), generator=gen).masked_fill(dead, -1),
        # short spans: the peers form their angles in float32 and would fail the correctness gate at Unix scales
        "dt": torch.rand(R, K, generator=gen).mul(100).masked_fill(dead, 0),
        "count": count.to(torch.int32),
        "time_w": 1.0 / 10 ** torch.linspace(0, 9, T),
        "time_b": torch.zeros(T),
    }
    args = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in args.items()}
    return {**args, "heads": params["H"], "time_first": True}


def flops(args: Mapping[str, Any]) -> int:
    """Own terms of all roots; for those with neighbours four products with a head's weights; two passes over neighbours."""
    R, Dq = args["node_table"].shape
    (D, columns), edges = args["we"].shape, int(args["count"].sum())
    F, attending = args["wk"].shape[1] + columns, int((args["count"] > 0).sum())
    return 2 * D * (R * Dq + attending * (Dq + 2 * F)) + 4 * edges * args["heads"] * F


def moved(args: Mapping[str, Any]) -> int:
    """Each edge's rows, its ids and time; each root's row and result."""
    (R, Dn), De, edges = args["node_table"].shape, args["edge_table"].shape[1], int(args["count"].sum())
    return edges * (4 * (Dn + De) + 24) + 4 * R * (Dn + args["we"].shape[0])


WIKIPEDIA = {"R": 1000, "K": 10, "E": 5500, "Dn": 100, "D": 100, "De": 172, "T": 100, "H": 2, "attending": 0.55}

register(
    Entry(
        op="edge_attention",
        cases={
            "wikipedia_batch200_k10": WIKIPEDIA,
            "wikipedia_batch200_k10_1thread": {**WIKIPEDIA, "threads": 1},
            "all_attend_k10": {**WIKIPEDIA, "attending": 1.0},
        },
        make=make,
        providers={"gnnaccel": edge_attention, **PROVIDERS},
        compile="torch",
        missing=MISSING,
        reference=reference,
        grad=("node_table", *(name for name in WEIGHTS if name != "bk"), "time_w", "time_b"),
        bytes=moved,
        flops=flops,
        flops_bwd=lambda args: 2 * flops(args),
        tiny={"R": 30, "K": 4, "E": 40, "Dn": 5, "D": 8, "De": 6, "T": 5, "H": 2, "attending": 0.6},
    )
)
