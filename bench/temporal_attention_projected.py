"""Benchmark of `temporal_attention_projected`: the attention of a layer without its query and output projections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gnnaccel.baselines.peers.temporal_attention_projected import PROVIDERS, eager
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.temporal_attention import WIKIPEDIA, make_layer
from gnnaccel.ops._temporal_attention_projected import temporal_attention_projected

WEIGHTS = ("wk", "bk", "wv", "bv")
BLOCK = ("node_table", "edge_table", "nbr_row", "edge_row", "dt", "count", "time_w", "time_b")


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    args = make_layer(params, device, seed)
    q = args["h_root"].view(params["R"], params["H"], -1)
    return {"q": q, **{name: args[name] for name in (*WEIGHTS, *BLOCK)}, "activation": "leaky_relu"}


register(
    Entry(
        op="temporal_attention_projected",
        cases={"wikipedia_batch600_k10": WIKIPEDIA, "wikipedia_batch600_k10_1thread": {**WIKIPEDIA, "threads": 1}},
        make=make,
        providers={"gnnaccel": temporal_attention_projected, **PROVIDERS},
        reference=eager,
        grad=("q", *WEIGHTS, "node_table", "time_w", "time_b"),
        tiny={"R": 30, "K": 4, "U": 20, "E": 40, "D": 8, "De": 6, "T": 5, "H": 2},
    )
)
