"""Benchmark of `neighbor_sample`: one hop for the nodes of a middle hop, on a power-law graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.neighbor_sample import MISSING, ONE, nbr_view
from gnnaccel.baselines.reference.neighbor_sample import neighbor_sample as one_by_one
from gnnaccel.bench.harness import Args, Entry, register
from gnnaccel.bench.sample_hops import power_law_graph
from gnnaccel.graph import Graph, neighbor_sample


def make(params: Mapping[str, Any], device: str, seed: int) -> Args:
    gen = torch.Generator().manual_seed(seed)
    g = power_law_graph(params["N"], params["E"], seed).to(device)
    nodes = torch.randperm(params["N"], generator=gen)[: params["R"]]
    return {"g": g, "nodes": nodes.to(device), "fanout": params["K"]}


def ours(g: Graph, nodes: Tensor, fanout: int) -> tuple[Tensor, Tensor]:
    block = neighbor_sample(g, nodes, fanout, edge_ids=False)
    return block.nbr, block.count


def reference(g: Graph, nodes: Tensor, fanout: int) -> tuple[Tensor, Tensor]:
    g = g.to("cpu")
    nbr, _, count, *_ = one_by_one(g.indptr, g.nbr, nodes, fanout, eid=g.eid)
    return nbr, count


def prepared(kind: Any) -> Any:
    return lambda a: {"g": kind(a["g"].indptr, a["g"].nbr), "nodes": a["nodes"], "fanout": a["fanout"]}


def theirs(g: Any, nodes: Tensor, fanout: int) -> Any:
    return g.one(nodes, fanout)


def agree(name: str, got: list[Tensor], want: list[Tensor]) -> str | None:
    """Draws differ by library. Numbers of neighbours do not, nor do rows that come whole."""
    (nbr, count), (want_nbr, want_count) = got, want
    if not torch.equal(count, want_count):
        return f"{int((count != want_count).sum())} of {len(count)} roots have another number of neighbours"
    slots = want_nbr.shape[1]
    whole = (count < slots).nonzero()[:, 0]
    used = torch.arange(slots) < count[whole, None]
    same = nbr[whole, : used.shape[1]] == want_nbr[whole]
    return None if bool((same | ~used).all()) else "a row that comes whole has other neighbours"


register(
    Entry(
        op="neighbor_sample",
        cases={
            "powerlaw_500k_10m_r20000_k10": {"N": 500_000, "E": 10_000_000, "R": 20_000, "K": 10, "threads": 1},
        },
        quick={"powerlaw_100k_1m_r5000_k10": {"N": 100_000, "E": 1_000_000, "R": 5000, "K": 10, "threads": 1}},
        tiny={"N": 200, "E": 1500, "R": 60, "K": 9},
        make=make,
        providers={"gnnaccel": ours, **dict.fromkeys(ONE, theirs)},
        prepare={name: prepared(kind) for name, kind in ONE.items()},
        view=dict.fromkeys(("gnnaccel", "reference", *ONE), nbr_view),
        check=agree,
        reference=reference,
        reference_cases=("tiny",),
        bytes=lambda a: len(a["nodes"]) * a["fanout"] * 2 * 4,
        missing={k: v for k, v in MISSING.items() if k == "dgl"},
    )
)
