"""Benchmark of `temporal_attention`: the whole layer, ours (absorbed projections) against the projected form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.temporal_attention import PROVIDERS
from gnnaccel.baselines.peers.temporal_attention import layer as projected
from gnnaccel.bench.harness import Entry, register
from gnnaccel.nn.attention import TemporalAttention

PARAMETERS = {
    "time_w": "time.w",
    "time_b": "time.b",
    "wq": "query.weight",
    "bq": "query.bias",
    "wk": "key.weight",
    "bk": "key.bias",
    "wv": "value.weight",
    "bv": "value.bias",
    "wo": "output.weight",
    "bo": "output.bias",
    "norm_weight": "norm.weight",
    "norm_bias": "norm.bias",
}
BLOCK = ("h_root", "node_table", "edge_table", "nbr_row", "edge_row", "dt", "count")


def make_layer(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    R, K, U, E, D = params["R"], params["K"], params["U"], params["E"], params["D"]
    De, T = params["De"], params["T"]
    torch.manual_seed(seed)
    module = TemporalAttention(D, D, De, T, D, heads=params["H"])
    named = dict(module.named_parameters())
    count = torch.where(torch.rand(R, generator=gen) < 0.9, K, torch.randint(0, K + 1, (R,), generator=gen))
    dead = torch.arange(K) >= count.unsqueeze(1)
    args: dict[str, Any] = {
        "h_root": torch.randn(R, D, generator=gen),
        "node_table": torch.randn(U, D, generator=gen),
        "edge_table": torch.randn(E, De, generator=gen) if De else None,
        "nbr_row": torch.randint(0, U, (R, K), generator=gen).masked_fill(dead, -1),
        "edge_row": torch.randint(0, E, (R, K), generator=gen).masked_fill(dead, -1),
        # short spans: the peer forms its angle in float32 and would fail the correctness gate at Unix scales
        "dt": torch.randint(0, 100, (R, K), generator=gen).masked_fill(dead, 0),
        "count": count.to(torch.int32),
        **{short: named[name].detach().clone() for short, name in PARAMETERS.items()},
    }
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in args.items()} | {"heads": params["H"]}


def ours(**args: Any) -> Tensor:
    D, heads = args["wq"].shape[0], args["heads"]
    De = 0 if args["edge_table"] is None else args["edge_table"].shape[1]
    key = (args["h_root"].shape[1], args["node_table"].shape[1], De, args["time_w"].shape[0], D, heads)
    if key not in _MODULES:
        # only its forward is used: the parameters are given in each call
        _MODULES[key] = TemporalAttention(*key).to("meta")
    parameters = {name: args[short] for short, name in PARAMETERS.items()}
    return torch.func.functional_call(_MODULES[key], parameters, tuple(args[k] for k in BLOCK))


_MODULES: dict[tuple[int, ...], TemporalAttention] = {}


def flops(args: dict[str, Any]) -> int:
    """Two products of R rows a head with the key and value weights, and two passes over the neighbours."""
    (R, Dq), (D, F) = args["h_root"].shape, args["wk"].shape
    edges = int(args["count"].sum())
    return 2 * R * D * (2 * F + 2 * Dq + D) + edges * (4 * args["heads"] * F + 20 * args["time_w"].shape[0])


def moved(args: dict[str, Any]) -> int:
    """Each neighbour's rows, its ids and time once; u and z once."""
    (R, _), (_, F), item = args["h_root"].shape, args["wk"].shape, args["wk"].element_size()
    edges = int(args["count"].sum())
    return edges * ((F - args["time_w"].shape[0]) * item + 24) + 2 * R * args["heads"] * F * item


WIKIPEDIA = {"R": 1800, "K": 10, "U": 1500, "E": 157474, "D": 100, "De": 172, "T": 100, "H": 2}

register(
    Entry(
        op="temporal_attention",
        cases={
            "wikipedia_batch600_k10": WIKIPEDIA,
            "wikipedia_batch600_k10_1thread": {**WIKIPEDIA, "threads": 1},
            "wikipedia_batch200_k10": {**WIKIPEDIA, "R": 600, "U": 700},
            "no_edge_features_batch600_k20": {**WIKIPEDIA, "K": 20, "De": 0},
        },
        make=make_layer,
        providers={"gnnaccel": ours, **PROVIDERS},
        compile="torch",
        reference=projected,
        grad=("h_root", "node_table", *PARAMETERS),
        bytes=moved,
        flops=flops,
        flops_bwd=lambda args: 2 * flops(args),
        quick=("wikipedia_batch200_k10",),
        tiny={"R": 30, "K": 4, "U": 20, "E": 40, "D": 8, "De": 6, "T": 5, "H": 2},
    )
)
