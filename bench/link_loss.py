"""Benchmark of `link_loss`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.link_loss import PROVIDERS
from gnnaccel.baselines.reference.link_loss import link_loss as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._link_loss import link_loss


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    B, C, D = params["B"], params["C"], params["D"]
    shapes = {"h": (B * (2 + C), D), "w_src": (D, D), "b_src": (D,), "w_dst": (D, D), "w_out": (D,), "b_out": (1,)}
    tensors = {name: torch.randn(*shape, generator=gen) for name, shape in shapes.items()}
    for name in ("w_src", "w_dst", "w_out"):
        tensors[name] *= D**-0.5
    return {name: t.to(device) for name, t in tensors.items()} | {"events": B}


def flops(args: Mapping[str, Any]) -> int:
    return 2 * args["h"].numel() * args["w_src"].shape[0]


register(
    Entry(
        op="link_loss",
        cases={
            "tgn_batch600": {"B": 600, "C": 1, "D": 100},
            "tgn_batch200": {"B": 200, "C": 1, "D": 100},
            "candidates": {"B": 64, "C": 49, "D": 100},
        },
        make=make,
        providers={"gnnaccel": link_loss, **PROVIDERS},
        compile="torch",
        reference=reference,
        grad=("h", "w_src", "b_src", "w_dst", "w_out", "b_out"),
        bytes=lambda a: 4 * (a["h"].numel() + a["w_src"].numel() + a["w_dst"].numel()),
        flops=flops,
        flops_bwd=lambda a: 2 * flops(a),
    )
)
