"""Sampling of several hops with numbered nodes, as a mini-batch takes it: ours against DGL, torch-sparse and plain torch.

    python -m gnnaccel.bench.sample_hops --threads 1 --json bench/results/cpu-1t/hops.json

The graph has as many nodes and edges as told, and power laws for both degrees. All contenders take the same seeds, turn by
turn; their results are checked to be neighbourhoods of the seeds. A row's `extra` has edges a batch and edges a second.
torch-sparse samples for new nodes alone, so it has fewer edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from gnnaccel.baselines.peers import neighbor_sample as peer
from gnnaccel.bench import _kg
from gnnaccel.bench.device import peak_extra_bytes
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.graph import Graph, sample_hops

PEERS = ("dgl", "torch-sparse", "torch")


@dataclass(frozen=True)
class Size:
    nodes: int = 2_000_000
    edges: int = 40_000_000
    batch: int = 1024
    fanouts: tuple[int, ...] = (15, 10, 5)

    @classmethod
    def of(cls, settings: Settings) -> Size:
        """What a run is to measure unless told otherwise."""
        if settings.correctness_only:
            return cls(300, 4000, 8, (4, 3))
        return cls(200_000, 2_000_000) if settings.quick else cls()


def power_law_graph(nodes: int, edges: int, seed: int = 0) -> Graph:
    """Edges whose two ends are drawn independently, the node of rank i with a probability in proportion to (i + 10)^-0.75: of
    2M nodes with 40M edges the largest degree is about 50,000, the median 9. Ranks lie anywhere among the ids."""
    rng = np.random.Generator(np.random.Philox(seed))
    place = rng.permutation(nodes)

    def ends() -> np.ndarray:
        # the inverse of the distribution function, which is a difference of fourth roots
        u = rng.random(edges)
        u *= (nodes + 10) ** 0.25 - 10**0.25
        u += 10**0.25
        np.power(u, 4, out=u)
        u -= 10
        return place[np.clip(u.astype(np.int64), 0, nodes - 1)]

    src = ends()
    return Graph.from_edges(src, ends(), nodes)


class Ours:
    def __init__(self, graph: Graph) -> None:
        self.graph, self.batch = graph, 0

    def hops(self, seeds: Tensor, fanouts: list[int]) -> Any:
        self.batch += 1
        return sample_hops(self.graph, seeds, fanouts, batch=self.batch)


def view(result: Any) -> peer.Found:
    if not hasattr(result, "layers"):
        return peer.hops_view(result)
    edges = []
    for layer in reversed(result.layers):
        valid = layer.row >= 0
        edges.append((layer.row[valid].long(), torch.arange(layer.num_dst).repeat_interleave(layer.count)))
    return peer.Found(result.nodes.long(), edges, True)


def seeds_of(size: Size, i: int, seed: int) -> Tensor:
    """Batch i: distinct nodes."""
    return torch.randperm(size.nodes, generator=torch.Generator().manual_seed(1000 * seed + i))[: size.batch]


def make_contender(name: str, graph: Graph) -> Any:
    return Ours(graph) if name == "gnnaccel" else peer.HOPS[name](graph.indptr, graph.nbr)


def next_turn(contender: Any, batches: list[Tensor], fanouts: list[int], inner: int) -> Callable[[], int]:
    """A contender's turns: `inner` batches each, each result dropped before the next."""
    turn = itertools.cycle(batches)

    def run() -> int:
        for seeds in itertools.islice(turn, inner):
            contender.hops(seeds, fanouts)
        return inner

    return run


def measure(runner: Runner, peers: tuple[str, ...] = PEERS, size: Size | None = None) -> Iterator[Row]:
    """Rows of a run: ours and the peers."""
    from gnnaccel.train.allocator import keep_freed_memory

    settings = runner.settings
    only_gate = settings.correctness_only
    if settings.device.type != "cpu":
        return  # a race of CPUs: here the samplers of peers run on them
    keep_freed_memory()  # as `gnnaccel train` does; it serves every contender of this process
    size = size or Size.of(settings)
    graph, fanouts = power_law_graph(size.nodes, size.edges, settings.seed), list(size.fanouts)
    batches = [seeds_of(size, i, settings.seed) for i in range(2 if only_gate else 12)]
    case = f"powerlaw_{size.nodes}_{size.edges}_b{size.batch}_" + "-".join(map(str, fanouts))
    rows: dict[str, Row] = {}
    contenders: dict[str, Any] = {}
    for name in ("gnnaccel", *peers):
        row = rows[name] = Row("hops", case, "gate" if only_gate else "sample", name, name == "gnnaccel", "ok")
        row.threads = torch.get_num_threads()
        if name in peer.MISSING:
            row.gate, row.detail = "missing", peer.MISSING[name]
            continue
        with judging(row):
            contender = make_contender(name, graph)
            for seeds in batches[:2]:  # what one leaves behind can harm the next
                found = view(contender.hops(seeds, fanouts))
                reject(peer.problem(graph.indptr, graph.nbr, seeds, fanouts, found))
            contenders[name] = contender
    if not only_gate and "gnnaccel" in contenders:
        edges = {
            name: [sum(len(src) for src, _ in view(c.hops(b, fanouts)).edges) for b in batches]
            for name, c in contenders.items()
        }
        laps = _kg.take_turns(
            {name: next_turn(c, batches, fanouts, 2) for name, c in contenders.items()},
            _kg.EPOCH * settings.budget,
            min_turns=2 if settings.quick else 6,
        )
        for name, lap in laps.items():
            row = rows[name]
            lap.fill(row, laps["gnnaccel"])
            mean = sum(edges[name]) / len(batches)
            row.inner = 2
            row.extra = {"edges_a_batch": mean, "edges_a_second": 1e3 * mean / (row.p50_ms or 1.0)}
            row.peak_bytes = peak_extra_bytes(lambda c=contenders[name]: c.hops(batches[0], fanouts), settings.device)
    yield from rows.values()


register_end_to_end(EndToEnd("hops", measure, (45.0, 4.0)))


def main(
    nodes: Annotated[int, typer.Option(help="Nodes of the graph.", min=1)] = Size.nodes,
    edges: Annotated[int, typer.Option(help="Edges of the graph.", min=1)] = Size.edges,
    batch: Annotated[int, typer.Option(help="Seeds of a batch.", min=1)] = Size.batch,
    fanouts: Annotated[str, typer.Option(help="Neighbours by hop from the seeds outwards, with commas.")] = "15,10,5",
    peers: _kg.Peers = "",
    threads: _kg.Threads = 0,
    budget: Annotated[float, typer.Option(help="Seconds for each contender.", min=0)] = 10.0,
    json_file: _kg.Json = None,
) -> None:
    """Race the sampling of mini-batches against DGL, torch-sparse and plain torch."""
    try:
        hops = tuple(int(f) for f in fanouts.split(","))
    except ValueError:
        raise typer.BadParameter(f"--fanouts must be numbers with commas, got {fanouts!r}") from None
    if min(hops) < 1:
        raise typer.BadParameter(f"--fanouts must be at least 1, got {fanouts!r}")
    size = Size(nodes, edges, min(batch, nodes), hops)
    others = _kg.chosen(peers, "--peers", PEERS, PEERS)
    settings = Settings(budget=budget / _kg.EPOCH)
    _kg.report(lambda runner: measure(runner, others, size), settings, threads, json_file)


if __name__ == "__main__":
    typer.run(main)
