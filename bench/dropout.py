"""Benchmark of `dropout`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.dropout import PROVIDERS
from gnnaccel.baselines.reference.dropout import dropout as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops._dropout import dropout


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(params["R"], params["D"], generator=gen).to(device), "rate": 0.1, "seed": seed}


def same_rate(provider: str, outs: list[Tensor], wanted: list[Tensor]) -> str | None:
    """Ours against the reference; of a peer, whose mask is its own, how many elements it kept."""
    got, want = outs[0].double().cpu(), wanted[0].double().cpu()
    if provider == "gnnaccel":
        return None if torch.allclose(got, want, rtol=1e-6, atol=0) else "output differs"
    off = abs((got == 0).double().mean().item() - (want == 0).double().mean().item())
    return None if off < 0.02 else f"share of zeros is off by {off:.3f}"


register(
    Entry(
        op="dropout",
        cases={"apan_batch600": {"R": 1800, "D": 100}, "apan_batch600_1thread": {"R": 1800, "D": 100, "threads": 1}},
        make=make,
        providers={"gnnaccel": dropout, **PROVIDERS},
        compile="torch",
        reference=reference,
        grad=("x",),
        check=same_rate,
        # the peer's mask is another, and so are its gradients
        tol={"torch": 100.0},
        bytes=lambda args: 2 * args["x"].numel() * args["x"].element_size(),
        tiny={"R": 100, "D": 40},
    )
)
