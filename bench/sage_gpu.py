"""End to end on a GPU: batches of GraphSAGE on a large graph, graph and features on the device, against plain PyTorch there.

    gnnaccel bench sage-gpu --device cuda

Size and model are those of `sage-epoch`. Ours replayed as one CUDA graph a step, sampling included ("gnnaccel"); ours by the
trainer's ordinary stages and step ("not captured"); plain eager PyTorch, which samples on the device too ("torch"); and the
same with its layers under torch.compile. All take the same seeds and read each loss back, as the trainer does. Everybody is
checked first: losses of some steps, given all neighbours, against float64; replayed steps against launched ones to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.baselines.peers.sage_epoch import TorchSage, Weights
from gnnaccel.bench import _kg
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.bench.kg_gpu import turns
from gnnaccel.bench.sage_epoch import LEARNING_RATE, Size, fill_row, make_data
from gnnaccel.bench.sample_hops import power_law_graph
from gnnaccel.data.nodes import NodeData

TURN = 32  # batches a turn
STEPS = 4  # of the gate
TOLERANCE = 1e-3  # of a loss
SMALL = Size(300, 3000, 16, (400, 400), 8, 8, 4)


class Ours:
    """The trainer's own task and steps.

    Args:
        captured: The step of fixed size, which a GPU replays as a CUDA graph; else the ordinary stages and step.
        launch: That step, kernel by kernel on a GPU too.
    """

    def __init__(
        self, data: NodeData, size: Size, device: torch.device, captured: bool, launch: bool = False, seed: int = 0
    ) -> None:
        from gnnaccel.train.gnn import graph_task, validate_gnn
        from gnnaccel.train.gnn.static import StaticStep
        from gnnaccel.train.trainer import StageTimer, make_optimizer

        config = validate_gnn(
            {
                "model": {"name": "sage", "layers": len(size.fanouts), "hidden": size.hidden, "dropout": 0.0},
                "sampler": {"neighbors": list(size.fanouts)},
                "train": {
                    "batch_size": size.batch,
                    "learning_rate": LEARNING_RATE,
                    "weight_decay": 0.0,
                    "capture": "on" if captured else "off",
                    "seed": seed,
                },
            }
        )
        self.task: Any = graph_task(config, data, device)
        self.optimizer, self.timer = make_optimizer(self.task), StageTimer(False)
        self.task.model.train()
        self.batch = size.batch
        step = StaticStep(self.task, self.optimizer, capture=False) if launch else None
        self.static = step or self.task.static_step(self.optimizer)

    def weights(self) -> Weights:
        return [(c.self.weight, c.self.bias, c.neighbor.weight) for c in self.task.model.gnn.convs]

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        for mine, given in zip(self.weights(), weights, strict=True):
            for own, value in zip(mine, given, strict=True):
                own.copy_(value)

    def run(self, first: int, n: int) -> list[float]:
        """Losses of batches first, first + 1, ... of an epoch that begins again when it ends."""
        from gnnaccel.train.pipeline import Pipeline
        from gnnaccel.train.trainer import learn

        count = self.task.split.train.stop // self.batch
        numbers = [i % count for i in range(first, first + n)]
        batches = [(i, slice(i * self.batch, (i + 1) * self.batch)) for i in numbers]
        if self.static is not None:
            return [float(self.static(items, 0, i)) for i, items in batches]
        ahead = Pipeline(self.task.stages(0), self.task.config.train.lookahead)
        with ahead(batches) as steps:
            return [float(learn(self.task, self.optimizer, s, self.timer, self.task.commit)) for s in steps]


class Plain:
    """Plain PyTorch on what lies on the device already, and the seeds of ours."""

    def __init__(self, ours: Ours, size: Size, backend: str | None) -> None:
        task, g = ours.task, ours.task.graph
        y = task.data.y.to(task.device)
        self.model = TorchSage(g.indptr, g.nbr, task.x, y, size.dims, list(size.fanouts), LEARNING_RATE, backend)
        self.nodes, self.batch = task.nodes("train")[task.order(0).to(task.device)], size.batch

    def load(self, weights: Weights) -> None:
        self.model.load(weights)

    def run(self, first: int, n: int) -> list[float]:
        B, count = self.batch, len(self.nodes) // self.batch
        return [self.model.step(self.nodes[i % count * B :][:B]) for i in range(first, first + n)]


def makers(
    data: NodeData, size: Size, settings: Settings, peers_of: Callable[[], Ours]
) -> dict[str, Callable[[], Any]]:
    """What makes each contender; `peers_of` gives one of ours, whose tables the peers share."""
    device, seed = settings.device, settings.seed
    backend = "aot_eager" if settings.correctness_only else "inductor"
    return {
        "gnnaccel": lambda: Ours(data, size, device, True, seed=seed),
        "not captured": lambda: Ours(data, size, device, False, seed=seed),
        "torch": lambda: Plain(peers_of(), size, None),
        "torch.compile": lambda: Plain(peers_of(), size, backend),
    }


# --- the gate -------------------------------------------------------------------------------------------------------------


def exact_losses(data: NodeData, weights: Weights, batches: list[Tensor]) -> list[float]:
    """Losses of training steps in float64, layer by layer over all nodes, all neighbours taken."""
    src, dst = (x.long() for x in data.graph.edges())
    assert data.x is not None
    rows = len(data.x)
    count = torch.bincount(dst, minlength=rows).clamp(min=1).unsqueeze(1)
    parameters = [tuple(w.detach().cpu().double().requires_grad_() for w in layer) for layer in weights]
    optimizer = torch.optim.Adam([w for layer in parameters for w in layer], lr=LEARNING_RATE)
    losses = []
    for seeds in batches:
        x = data.x.double()
        for i, (own, bias, neighbor) in enumerate(parameters):
            mean = torch.zeros(rows, x.shape[1], dtype=torch.float64).index_add(0, dst, x[src]) / count
            x = x @ own.T + bias + mean @ neighbor.T
            x = x if i == len(parameters) - 1 else x.relu()
        loss = F.cross_entropy(x[seeds], data.y[seeds])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def off(losses: list[float], expected: list[float]) -> str:
    """What is wrong with the losses of some steps; empty if nothing is."""
    for i, (got, want) in enumerate(zip(losses, expected, strict=True)):
        if not abs(got - want) <= TOLERANCE * abs(want):  # also if it is not a number
            return f"the loss of step {i + 1} is {got:.6f}, not {want:.6f}"
    return ""


def same_steps(make: Callable[[bool], Ours], n: int) -> str:
    """Whether replayed steps leave the weights of launched ones; empty if they do."""
    a, b = make(False), make(True)
    b.load(a.weights())
    a.run(0, n)
    b.run(0, n)
    for mine, other in zip(a.weights(), b.weights(), strict=True):
        if not all(torch.equal(x, y) for x, y in zip(mine, other, strict=True)):
            return f"after {n} steps the weights are not those of steps that are not captured"
    return ""


def gates(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Of each contender its gate and what is to be said."""
    graph = power_law_graph(SMALL.nodes, SMALL.edges, settings.seed)
    size = replace(SMALL, fanouts=(int(graph.indptr.diff().max()),) * len(SMALL.fanouts))  # so all are taken
    data = make_data(graph, size, settings.seed)
    start = Ours(data, size, settings.device, False, seed=settings.seed)
    nodes = start.task.nodes("train").cpu()[start.task.order(0)]
    batches = [nodes[i * size.batch :][: size.batch] for i in range(STEPS)]
    weights = [tuple(w.detach().clone() for w in layer) for layer in start.weights()]
    expected = exact_losses(data, weights, batches)  # type: ignore[arg-type]
    for name, make in makers(data, size, settings, lambda: start).items():
        row = Row("sage-gpu", "-", "gate", name, name == "gnnaccel", "ok")
        with judging(row):
            contender = make()
            contender.load(weights)
            reject(off(contender.run(0, STEPS), expected))
            if row.ours:
                few = replace(size, fanouts=(4, 3))
                reject(
                    same_steps(
                        lambda launch, few=few: Ours(data, few, settings.device, True, launch, settings.seed), 2 * STEPS
                    )
                )
        yield name, row.gate, row.detail


# --- the race -------------------------------------------------------------------------------------------------------------


def race(data: NodeData, size: Size, settings: Settings, rows: dict[str, Row], turn: int = TURN) -> None:
    """Time those whose rows are green; one that fails now gets a row that says so."""
    ours: dict[str, Any] = {}
    work: dict[str, Callable[[], int]] = {}
    for name, make in makers(data, size, settings, lambda: ours["gnnaccel"]).items():
        if rows[name].gate != "ok":
            continue
        with judging(rows[name]):
            ours[name] = make()
            work[name] = turns(ours[name].run, turn, settings.device)
            work[name]()  # compiles, and records
        if rows[name].gate != "ok":
            work.pop(name, None)
            if rows[name].ours:
                return
    for name, lap in (laps := _kg.take_turns(work, 4 * settings.budget, min_turns=5)).items():
        row = rows[name]
        fill_row(row, lap, laps["gnnaccel"], size.batch, turn)


def measure(runner: Runner) -> Iterator[Row]:
    settings = runner.settings
    only_gate = settings.correctness_only
    if settings.device.type == "cpu" and not only_gate:
        return  # sage-epoch is the CPU's
    size = Size(100_000, 1_000_000) if settings.quick else Size()
    case = f"powerlaw_{size.nodes}_{size.edges}_b{size.batch}_f{size.features}_" + "-".join(map(str, size.fanouts))
    rows: dict[str, Row] = {}
    for name, gate, detail in gates(settings):
        mode = "gate" if only_gate else "batch"
        rows[name] = Row("sage-gpu", case, mode, name, name == "gnnaccel", gate, detail, torch.get_num_threads())
    if not only_gate and rows["gnnaccel"].gate == "ok":
        data = make_data(power_law_graph(size.nodes, size.edges, settings.seed), size, settings.seed)
        race(data, size, settings, rows)
    yield from rows.values()


register_end_to_end(EndToEnd("sage-gpu", measure))
