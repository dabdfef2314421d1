"""Benchmark of `random_walk`: walks from every node of a graph whose degrees follow a power law.

Draws differ from peer to peer, so the gate compares shapes, starts, and frequencies over many walks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.random_walk import MISSING, PROVIDERS, SECOND_ORDER
from gnnaccel.bench.harness import Args, Entry, register
from gnnaccel.data.synthetic import power_law_events
from gnnaccel.graph import Graph
from gnnaccel.ops import random_walk


def make(params: Mapping[str, Any], device: str, seed: int) -> Args:
    events = power_law_events(params["N"], params["E"], seed=seed)
    graph = Graph.from_edges(events.src, events.dst, params["N"], add_reverse=True).to(device)
    gen = torch.Generator().manual_seed(seed)
    start = torch.randint(0, params["N"], (params["walks"],), generator=gen).to(device)
    second = {"p": params["p"], "q": params["q"]} if "p" in params else {}
    return {"indptr": graph.indptr, "nbr": graph.nbr, "start": start, "length": params["length"], **second}


def ours(indptr: Tensor, nbr: Tensor, start: Tensor, length: int, **options: float) -> Tensor:
    return random_walk(indptr, nbr, start, length, sorted_rows=True, **options)


def view(walk: Tensor) -> list[Tensor]:
    return [walk.long()]


def check(provider: str, got: list[Tensor], want: list[Tensor]) -> str | None:
    """Two samples of walks: how often a step goes back where the walk came from, and to the first quarter of the ids."""
    if got[0].shape != want[0].shape or not torch.equal(got[0][:, 0], want[0][:, 0]):
        return "another shape or other starts"
    for name, share in (("steps back", lambda x: x[:, 2:] == x[:, :-2]), ("low ids", lambda x: x < x.max() // 4)):
        shares = [share(x[0]).double().mean().item() for x in (got, want)]
        if abs(shares[0] - shares[1]) > 0.02:
            return f"shares of {name} differ: {shares}"
    return None


def touched(a: Args) -> int:
    """Two offsets, an entry and a result for each step."""
    return len(a["start"]) * a["length"] * (16 + 2 * a["nbr"].element_size())


SIZES = {"arxiv_size_16k_walks_of_20": {"N": 169_343, "E": 1_166_243, "walks": 16_384, "length": 20}} | {
    "2m_nodes_20m_edges_100k_walks_of_20": {"N": 2_000_000, "E": 20_000_000, "walks": 100_000, "length": 20}
}
TINY = {"N": 2000, "E": 20_000, "walks": 3000, "length": 20}

for op, peers, options in (
    ("random_walk", PROVIDERS, {}),
    ("random_walk_node2vec", SECOND_ORDER, {"p": 0.5, "q": 2.0}),
):
    register(
        Entry(
            op=op,
            cases={name: {**size, **options} for name, size in SIZES.items()},
            quick={"arxiv_size_2k_walks_of_20": {**SIZES["arxiv_size_16k_walks_of_20"], "walks": 2048, **options}},
            tiny={**TINY, **options},
            make=make,
            providers={"gnnaccel": ours, **peers},
            missing=MISSING,
            view=dict.fromkeys(("gnnaccel", *peers), view),
            check=check,
            bytes=touched,
        )
    )
