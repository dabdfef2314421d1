"""A mini-batch of a large graph, whole: several hops sampled, nodes numbered, their feature rows copied out.

    python -m gnnaccel.bench.node_batch --threads 1 --json bench/results/cpu-1t/node-batch.json

Ours is `sample_hops` and `gather_rows(..., out=buffer)`, which fetches into the same memory each time. The peers fetch into
memory that the C library gives them, as they do in their users' programs: a block of more than 32 MiB comes fresh from the
system each time, page by page. `--keep-memory` takes that cost away from all (`gnnaccel.train.allocator`). All contenders
take the same seeds, turn by turn; neighbourhoods and rows are checked first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from gnnaccel.baselines.peers import neighbor_sample as samplers
from gnnaccel.baselines.peers.node_batch import PEERS as KINDS
from gnnaccel.bench import _kg
from gnnaccel.bench.device import peak_extra_bytes
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.bench.sample_hops import Size, power_law_graph, seeds_of, view
from gnnaccel.graph import Graph, sample_hops
from gnnaccel.ops.gather_rows import gather_rows
from gnnaccel.train import allocator

PEERS = tuple(KINDS)
WIDTH = 128


class Ours:
    def __init__(self, graph: Graph, x: Tensor) -> None:
        self.graph, self.x, self.batch = graph, x, 0
        self.buffer = x.new_empty(0, x.shape[1])

    def batches(self, seeds: list[Tensor], fanouts: list[int]) -> Iterator[tuple[Any, Tensor]]:
        for nodes in seeds:
            self.batch += 1
            hops = sample_hops(self.graph, nodes, fanouts, batch=self.batch)
            n = len(hops.nodes)
            if n > len(self.buffer):
                self.buffer = self.x.new_empty(n + n // 8, self.x.shape[1])
            yield hops, gather_rows(self.x, hops.nodes, out=self.buffer[:n])


def make_contender(name: str, graph: Graph, x: Tensor) -> Any:
    if name == "gnnaccel":
        return Ours(graph, x)
    return KINDS[name](graph.indptr, graph.nbr, x)


def problem(contender: Any, graph: Graph, x: Tensor, seeds: list[Tensor], fanouts: list[int]) -> str:
    """What is wrong with a contender's batches; empty if nothing is."""
    for nodes, (result, rows) in zip(seeds, contender.batches(seeds, fanouts), strict=True):
        found = view(result)
        if wrong := samplers.problem(graph.indptr, graph.nbr, nodes, fanouts, found):
            return wrong
        if not torch.equal(rows, x[found.nodes]):
            return "feature rows are not those of the nodes"
    return ""


def next_turn(contender: Any, batches: list[Tensor], fanouts: list[int], inner: int) -> Callable[[], int]:
    """A contender's turns: `inner` batches each."""
    turn = itertools.cycle(batches)

    def run() -> int:
        for _ in contender.batches(list(itertools.islice(turn, inner)), fanouts):
            pass
        return inner

    return run


def measure(
    runner: Runner, peers: tuple[str, ...] = PEERS, size: Size | None = None, keep_memory: bool = False
) -> Iterator[Row]:
    """Rows of a run: ours and the peers."""
    settings = runner.settings
    only_gate = settings.correctness_only
    if settings.device.type != "cpu":
        return  # a race of CPUs: here the samplers of peers run on them
    (allocator.keep_freed_memory if keep_memory else allocator.give_back_freed_memory)()
    size = size or Size.of(settings)
    graph, fanouts = power_law_graph(size.nodes, size.edges, settings.seed), list(size.fanouts)
    x = torch.randn(size.nodes, WIDTH, generator=torch.Generator().manual_seed(settings.seed))
    batches = [seeds_of(size, i, settings.seed) for i in range(2 if only_gate else 12)]
    case = f"powerlaw_{size.nodes}_{size.edges}_b{size.batch}_f{WIDTH}_" + "-".join(map(str, fanouts))
    case += "_memory_kept" if keep_memory else ""
    rows: dict[str, Row] = {}
    contenders: dict[str, Any] = {}
    for name in ("gnnaccel", *peers):
        row = rows[name] = Row("node-batch", case, "gate" if only_gate else "batch", name, name == "gnnaccel", "ok")
        row.threads = torch.get_num_threads()
        if name.startswith("dgl") and "dgl" in samplers.MISSING:
            row.gate, row.detail = "missing", samplers.MISSING["dgl"]
            continue
        with judging(row):
            contender = make_contender(name, graph, x)
            reject(problem(contender, graph, x, batches[:2], fanouts))
            contenders[name] = contender
    if not only_gate and "gnnaccel" in contenders:
        turns = {n: next_turn(c, batches, fanouts, 2) for n, c in contenders.items()}
        laps = _kg.take_turns(turns, _kg.EPOCH * settings.budget, min_turns=2 if settings.quick else 6)
        for name, lap in laps.items():
            row = rows[name]
            lap.fill(row, laps["gnnaccel"])
            row.inner = 2
            row.peak_bytes = peak_extra_bytes(turns[name], settings.device)
    yield from rows.values()


register_end_to_end(EndToEnd("node-batch", measure, (60.0, 2.0)))


def main(
    nodes: Annotated[int, typer.Option(help="Nodes of the graph.", min=1)] = Size.nodes,
    edges: Annotated[int, typer.Option(help="Edges of the graph.", min=1)] = Size.edges,
    batch: Annotated[int, typer.Option(help="Seeds of a batch.", min=1)] = Size.batch,
    keep_memory: Annotated[bool, typer.Option("--keep-memory", help="No page faults for anybody.")] = False,
    threads: _kg.Threads = 0,
    budget: Annotated[float, typer.Option(help="Seconds for each contender.", min=0)] = 10.0,
    json_file: _kg.Json = None,
) -> None:
    """Race whole mini-batches, features included, against DGL and plain torch."""
    size = Size(nodes, edges, min(batch, nodes))
    settings = Settings(budget=budget / _kg.EPOCH)
    _kg.report(lambda runner: measure(runner, PEERS, size, keep_memory), settings, threads, json_file)


if __name__ == "__main__":
    typer.run(main)
