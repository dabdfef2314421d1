"""End to end: an epoch of GraphSAGE on a large graph, ours against DGL, PyG and plain PyTorch.

    python -m gnnaccel.bench.sage_epoch --threads 2 --json bench/results/cpu-2t/sage-epoch.json

A batch samples [15, 10, 5] neighbours of 1,024 nodes of a graph with 2M nodes and 40M power-law edges, fetches 128 float
features, and trains a three-layer GraphSAGE (mean, 128 wide, 16 classes, Adam). Before the race all contenders, given the same
weights and all neighbours on a small graph, must give the same logits. Then they take turns of some batches each. Ours runs as
the trainer does, with batches prepared ahead ("gnnaccel"), and without ("inline"). PyG's sampler samples each node once, so it
has fewer edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from gnnaccel.baselines.peers import sage_epoch as peer
from gnnaccel.bench import _kg
from gnnaccel.bench.device import peak_extra_bytes
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.bench.sample_hops import power_law_graph, seeds_of
from gnnaccel.data.nodes import NodeData
from gnnaccel.graph import Graph

PEERS = ("inline", "dgl", "pyg", "torch")
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Size:
    nodes: int = 2_000_000
    edges: int = 40_000_000
    batch: int = 1024
    fanouts: tuple[int, ...] = (15, 10, 5)
    features: int = 128
    hidden: int = 128
    classes: int = 16
    batches: int = 4  # of a turn

    @property
    def dims(self) -> list[int]:
        return [self.features, *[self.hidden] * (len(self.fanouts) - 1), self.classes]


def make_data(graph: Graph, size: Size, seed: int) -> NodeData:
    """Features and labels that mean nothing, and a mask over all nodes."""
    gen = torch.Generator().manual_seed(seed)
    N = graph.num_nodes
    mask = torch.ones(N, dtype=torch.bool)
    x = torch.randn(N, size.features, generator=gen)
    y = torch.randint(size.classes, (N,), generator=gen)
    return NodeData("power-law", graph, x, y, mask, ~mask, ~mask, size.classes)


class Ours:
    """The trainer's own task, stages and step.

    Args:
        lookahead: Batches prepared ahead.
        edges: Whether all neighbours are taken, for the gate.
    """

    def __init__(self, data: NodeData, size: Size, lookahead: int, fanouts: list[int]) -> None:
        from gnnaccel.train.gnn import graph_task, validate_gnn
        from gnnaccel.train.gnn.report import StageRecorder
        from gnnaccel.train.pipeline import Pipeline
        from gnnaccel.train.trainer import make_optimizer

        config = validate_gnn(
            {
                "model": {"name": "sage", "layers": len(fanouts), "hidden": size.hidden, "dropout": 0.0},
                "sampler": {"neighbors": fanouts},
                "train": {"batch_size": size.batch, "learning_rate": LEARNING_RATE, "weight_decay": 0.0},
            }
        )
        self.task = graph_task(config, data)
        self.optimizer, self.recorder = make_optimizer(self.task), StageRecorder(0)
        self.task.model.train()
        self.lookahead, self.pipeline, self.epoch = lookahead, Pipeline, 0

    def weights(self) -> peer.Weights:
        convs: Any = self.task.model.gnn.convs
        return [(c.self.weight, c.self.bias, c.neighbor.weight) for c in convs]

    def _steps(self, seeds: list[Tensor], lookahead: int) -> Any:
        from gnnaccel.train.gnn.steps import Seeds

        stages = self.task._stages(lambda index, nodes: Seeds(nodes, self.task.data.y[nodes]), self.epoch)
        return self.pipeline(stages, lookahead, self.recorder)(enumerate(seeds))

    def logits(self, seeds: Tensor) -> Tensor:
        with self._steps([seeds], 0) as steps:
            return self.task.forward(next(iter(steps)))

    def run(self, seeds: list[Tensor]) -> None:
        from gnnaccel.train.trainer import learn

        self.epoch += 1
        with self._steps(seeds, self.lookahead) as steps:
            for step in steps:
                float(learn(self.task, self.optimizer, step, self.recorder, self.task.commit))


def run_peer(contender: Any, seeds: list[Tensor]) -> None:
    for nodes in seeds:
        contender.step(nodes)


def make_contender(name: str, data: NodeData, size: Size, fanouts: list[int]) -> Any:
    if name in ("gnnaccel", "inline"):
        return Ours(data, size, 2 if name == "gnnaccel" else 0, fanouts)
    g = data.graph
    return peer.PEERS[name][0](g.indptr, g.nbr, data.x, data.y, size.dims, fanouts, LEARNING_RATE)


def gate(name: str, seed: int) -> str:
    """What is wrong with a contender on a small graph, all neighbours taken; empty if nothing is."""
    size = Size(300, 3000, 16, (400, 400), 8, 8, 4)
    data = make_data(power_law_graph(size.nodes, size.edges, seed), size, seed)
    fanouts = list(size.fanouts)
    ours = make_contender("inline", data, size, fanouts)
    other = make_contender(name, data, size, fanouts)
    if isinstance(other, Ours):
        other.task.model.load_state_dict(ours.task.model.state_dict())
    else:
        other.load(ours.weights())
    seeds = seeds_of(_hop_size(size), 0, seed)
    want, got = exact(data, ours.weights(), seeds), other.logits(seeds)
    error = float((got.detach().double() - want).abs().max() / want.abs().max())
    return "" if error <= 1e-5 else f"logits are off by {error:.1e} of the largest"


def exact(data: NodeData, weights: peer.Weights, seeds: Tensor) -> Tensor:
    """Logits in float64, layer by layer over all nodes."""
    src, dst = data.graph.edges()
    assert data.x is not None
    x = data.x.double()
    count = torch.bincount(dst, minlength=len(x)).clamp(min=1).unsqueeze(1)
    for i, (own, bias, neighbor) in enumerate(weights):
        mean = torch.zeros(len(x), x.shape[1], dtype=torch.float64).index_add_(0, dst.long(), x[src.long()]) / count
        x = x @ own.double().T + bias.double() + mean @ neighbor.double().T
        x = x if i == len(weights) - 1 else x.relu()
    return x[seeds].detach()


def _hop_size(size: Size) -> Any:
    from gnnaccel.bench.sample_hops import Size as HopSize

    return HopSize(size.nodes, size.edges, size.batch, size.fanouts)


def next_turn(run: Callable[[list[Tensor]], None], batches: list[Tensor], n: int) -> Callable[[], int]:
    """A contender's turns: `n` batches each."""
    turn = itertools.cycle(batches)

    def go() -> int:
        run(list(itertools.islice(turn, n)))
        return n

    return go


def measure(runner: Runner, peers: tuple[str, ...] = PEERS, size: Size | None = None) -> Iterator[Row]:
    """Rows of a run: ours and the peers."""
    from gnnaccel.train.allocator import keep_freed_memory

    settings = runner.settings
    only_gate = settings.correctness_only
    if settings.device.type != "cpu":
        return  # a race of CPUs; sage-gpu is a GPU's
    keep_freed_memory()  # as `gnnaccel train` does; it serves every contender of this process
    size = size or (Size(100_000, 1_000_000, batches=2) if settings.quick else Size())
    case = f"powerlaw_{size.nodes}_{size.edges}_b{size.batch}_f{size.features}_" + "-".join(map(str, size.fanouts))
    rows: dict[str, Row] = {}
    for name in ("gnnaccel", *peers):
        row = rows[name] = Row("sage-epoch", case, "gate" if only_gate else "batch", name, name == "gnnaccel", "ok")
        row.threads = torch.get_num_threads()
        if name in peer.PEERS and (lacking := peer.missing(name)):
            row.gate, row.detail = "missing", lacking
            continue
        with judging(row):
            reject(gate(name, settings.seed))
    if not only_gate and rows["gnnaccel"].gate == "ok":
        data = make_data(power_law_graph(size.nodes, size.edges, settings.seed), size, settings.seed)
        _race(settings, data, size, {n: row for n, row in rows.items() if row.gate == "ok"})
    yield from rows.values()


def fill_row(row: Row, lap: _kg.Lap, ours: _kg.Lap, batch: int, inner: int) -> None:
    """What turns of `inner` batches of so many nodes took."""
    lap.fill(row, ours)
    row.inner = inner
    row.extra = {
        "batches": lap.done,
        "total_s": lap.spent,
        "mean_ms": 1e3 * lap.spent / lap.done,
        "epoch_of_200k_s": 200_000 / batch * (row.p50_ms or 0.0) / 1e3,
        "stages_ms": {},
    }


def _race(settings: Settings, data: NodeData, size: Size, rows: dict[str, Row]) -> None:
    batches = [seeds_of(_hop_size(size), i, settings.seed) for i in range(12)]
    contenders = {name: make_contender(name, data, size, list(size.fanouts)) for name in rows}

    def runner_of(contender: Any) -> Callable[[list[Tensor]], None]:
        return contender.run if isinstance(contender, Ours) else lambda seeds: run_peer(contender, seeds)

    work = {n: next_turn(runner_of(c), batches, size.batches) for n, c in contenders.items()}
    for name in work:  # warm up: tables, threads, allocator
        work[name]()
        if isinstance(contender := contenders[name], Ours):
            contender.recorder.total.clear()
    laps = _kg.take_turns(work, _kg.EPOCH * settings.budget, min_turns=2 if settings.quick else 4)
    for name, lap in laps.items():
        row, contender = rows[name], contenders[name]
        fill_row(row, lap, laps["gnnaccel"], size.batch, size.batches)
        if isinstance(contender, Ours):
            row.extra["stages_ms"] = {k: 1e3 * s / lap.done for k, s in contender.recorder.total.items()}
        run = runner_of(contender)
        row.peak_bytes = peak_extra_bytes(lambda run=run: run(batches[:1]), settings.device)


register_end_to_end(EndToEnd("sage-epoch", measure, (90.0, 4.0)))


def main(
    nodes: Annotated[int, typer.Option(help="Nodes of the graph.", min=1)] = Size.nodes,
    edges: Annotated[int, typer.Option(help="Edges of the graph.", min=1)] = Size.edges,
    batch: Annotated[int, typer.Option(help="Seeds of a batch.", min=1)] = Size.batch,
    features: Annotated[int, typer.Option(help="Width of a feature row.", min=1)] = Size.features,
    peers: _kg.Peers = "",
    threads: _kg.Threads = 0,
    budget: Annotated[float, typer.Option(help="Seconds for each contender.", min=0)] = 20.0,
    json_file: _kg.Json = None,
) -> None:
    """Race epochs of GraphSAGE against DGL, PyG and plain PyTorch."""
    size = Size(nodes, edges, min(batch, nodes), features=features)
    others = _kg.chosen(peers, "--peers", PEERS, PEERS)
    settings = Settings(budget=budget / _kg.EPOCH)
    _kg.report(lambda runner: measure(runner, others, size), settings, threads, json_file)


if __name__ == "__main__":
    typer.run(main)
