"""Benchmark of `relu_norm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.relu_norm import PROVIDERS
from gnnaccel.baselines.reference.relu_norm import relu_norm as reference
from gnnaccel.bench.harness import TOLERANCE, Entry, register
from gnnaccel.ops._relu_norm import relu_norm


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    D = params["D"]
    return {
        "x": torch.randn(params["R"], D, generator=gen).to(device),
        "weight": torch.ones(D, device=device),
        "bias": torch.zeros(D, device=device),
        "dropout": params["dropout"],
        "seed": seed,
    }


def moved(args: Mapping[str, Any]) -> int:
    return 2 * args["x"].numel() * args["x"].element_size()


def normalised(provider: str, outs: list[Tensor], wanted: list[Tensor]) -> str | None:
    """Ours against the reference; of a peer, whose mask is its own, that its rows are normalised."""
    got, want = outs[0].double().cpu(), wanted[0].double().cpu()
    if provider == "gnnaccel":
        error = (got - want).abs().max().item()
        return None if error <= TOLERANCE[torch.float32] * want.abs().max().item() else f"output: error {error:.2e}"
    mean, deviation = got.mean(1).abs().max().item(), (got.std(1, correction=0) - 1).abs().max().item()
    return None if max(mean, deviation) < 1e-3 else f"rows of mean {mean:.1e} and deviation 1 +- {deviation:.1e}"


TGN = {"R": 1800, "D": 100}
COMMON: dict[str, Any] = {
    "make": make,
    "providers": {"gnnaccel": relu_norm, **PROVIDERS},
    "compile": "torch",
    "reference": reference,
    "grad": ("x", "weight", "bias"),
    "bytes": moved,
    "bytes_bwd": lambda a: 3 * a["x"].numel() * a["x"].element_size(),
}

register(
    Entry(
        op="relu_norm",
        cases={
            "tgn_batch600": {**TGN, "dropout": 0.0},
            "tgn_batch600_1thread": {**TGN, "dropout": 0.0, "threads": 1},
        },
        **COMMON,
    )
)

register(
    Entry(
        op="relu_norm_dropout",
        cases={
            "tgn_batch600": {**TGN, "dropout": 0.1},
            "tgn_batch600_1thread": {**TGN, "dropout": 0.1, "threads": 1},
            "tgn_batch200": {**TGN, "R": 600, "dropout": 0.1},
        },
        check=normalised,
        # the peer's mask is another: its gradients are judged without dropout, above
        tol={"torch": 100.0},
        **COMMON,
    )
)
