"""Benchmark of `temporal_attention_layer`: roots are rows of the node table, less than half of them distinct, as in TGN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.temporal_attention_layer import PROVIDERS, eager
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.temporal_attention import PARAMETERS, WIKIPEDIA, make_layer
from gnnaccel.ops._temporal_attention_layer import temporal_attention_layer


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    args = make_layer(params, device, seed)
    R = len(args.pop("h_root"))
    gen = torch.Generator().manual_seed(seed)
    return {**args, "root_row": torch.randint(0, params["roots"], (R,), generator=gen).to(device)}


def ours(**args: Any) -> Tensor:
    return temporal_attention_layer(root_table=None, **args)


def moved(args: Mapping[str, Any]) -> int:
    """Each neighbour's rows, its ids and time; each root's row and result."""
    (D, F), R, edges = args["wk"].shape, len(args["root_row"]), int(args["count"].sum())
    return edges * (4 * (F - args["time_w"].shape[0]) + 24) + 4 * R * (args["node_table"].shape[1] + D)


def flops(args: Mapping[str, Any]) -> int:
    """As `temporal_attention`, whose queries are as many as there are rows of roots."""
    (D, F), R, edges = args["wk"].shape, len(args["root_row"]), int(args["count"].sum())
    distinct, Dq = args["root_row"].unique().numel(), args["node_table"].shape[1]
    products = distinct * (Dq + F + Dq) + R * (F + D)
    return 2 * D * products + edges * (4 * args["heads"] * F + 20 * args["time_w"].shape[0])


register(
    Entry(
        op="temporal_attention_layer",
        cases={
            "wikipedia_batch600_k10": {**WIKIPEDIA, "roots": 750},
            "wikipedia_batch600_k10_1thread": {**WIKIPEDIA, "roots": 750, "threads": 1},
            "wikipedia_batch200_k10": {**WIKIPEDIA, "R": 600, "U": 600, "roots": 300},
        },
        make=make,
        providers={"gnnaccel": ours, **PROVIDERS},
        compile="torch",
        reference=eager,
        bytes=moved,
        flops=flops,
        flops_bwd=lambda args: 2 * flops(args),
        grad=("node_table", *PARAMETERS),
        quick=("wikipedia_batch200_k10",),
        tiny={"R": 30, "K": 4, "U": 20, "E": 40, "D": 8, "De": 6, "T": 5, "H": 2, "roots": 12},
    )
)
