"""End to end: a training step of knowledge-graph embeddings, ours against plain PyTorch, torch.compile and PyKEEN.

    gnnaccel bench kg-train --threads 2 --data fb15k-237 --json bench/results/cpu-2t/kg-train.json
    python -m gnnaccel.bench.kg_train --models rotate --peers torch,torch.compile

A step samples, gathers, scores, takes the loss and its gradients, and updates the touched rows by row-wise Adagrad: 1,024
triples in chunks of 256 that share 256 negatives, heads and tails in turn, DGL-KE's logsigmoid loss. First all contenders take
the same steps from the same tables, and loss and tables must agree with float64. Then they take turns, each with its own
sampling, and the ratio is taken turn by turn. PyKEEN knows no shared negatives: 256 a triple, in its own training loop; only
its loss can be compared. PyTorch races twice: `sparse` as it is usually written and run (sparse embeddings, `cdist`, moduli by
`norm` as RotatE's authors have them, the allocator as it is), and in the fastest way that was found (of several `forms` the
fastest, freed memory kept).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import torch
import typer
from torch import Tensor

from gnnaccel.baselines.peers.kg_train import Batch, SparseStep, Tables, TorchStep, forms, usual_forms
from gnnaccel.bench import _kg
from gnnaccel.bench.device import peak_extra_bytes
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.train import allocator

if TYPE_CHECKING:
    from gnnaccel.data.kg import KnowledgeGraph

PEERS = ("torch", "torch sparse", "torch by chunk", "torch.compile", "torch.compile sparse", "pykeen")
LEARNING_RATE = 0.1
STEPS = 4  # of the gate
SIDES = ("tail", "head")


@dataclass(frozen=True)
class Size:
    batch: int = 1024
    chunk: int = 256
    negatives: int = 256
    dim: int = _kg.DIM


class Contender(Protocol):
    """One library's tables and step."""

    tables: Tables
    seconds: dict[str, float]

    def sample(self, i: int) -> Any: ...
    def step(self, batch: Any) -> float: ...


def fixed_batch(kg: KnowledgeGraph, size: Size, i: int, seed: int) -> Batch:
    """Batch `i` of the gate, the same for every contender."""
    gen = torch.Generator().manual_seed(seed + i)
    at = torch.randint(len(kg.train), (size.batch,), generator=gen)
    negative = torch.randint(kg.num_entities, (size.batch // size.chunk, size.negatives), generator=gen)
    return Batch(kg.train.head[at], kg.train.relation[at], kg.train.tail[at], negative, SIDES[i % 2])


class OwnDraws:
    """Draws of a plain PyTorch contender: the epoch's order made ahead, negatives by randint."""

    seconds: dict[str, float]

    def __init__(self, kg: KnowledgeGraph, size: Size, model: str, tables: Tables, **options: Any) -> None:
        super().__init__(model, tables, gamma=_kg.GAMMA, lr=LEARNING_RATE, **options)  # type: ignore[call-arg]
        self.kg, self.size = kg, size
        self.order = torch.randperm(len(kg.train)).repeat(-(-size.batch // len(kg.train)))

    def sample(self, i: int) -> Batch:
        start = time.perf_counter()
        n = self.size.batch
        low = i % max(1, len(self.order) // n) * n
        at, train = self.order[low : low + n], self.kg.train
        negative = torch.randint(self.kg.num_entities, (n // self.size.chunk, self.size.negatives))
        batch = Batch(train.head[at], train.relation[at], train.tail[at], negative, SIDES[i % 2])
        self.seconds["sample"] = self.seconds.get("sample", 0.0) + time.perf_counter() - start
        return batch


class TorchContender(OwnDraws, TorchStep):
    """Plain PyTorch in its fastest way."""


class SparseContender(OwnDraws, SparseStep):
    """Plain PyTorch as it is usually written and run: sparse embeddings, and an allocator that nobody set up."""

    def step(self, batch: Batch) -> float:
        allocator.give_back_freed_memory()
        try:
            return super().step(batch)
        finally:
            allocator.keep_freed_memory()


class OurContender:
    """The trainer's own schedule and step."""

    def __init__(self, kg: KnowledgeGraph, size: Size, model: str, tables: Tables) -> None:
        from gnnaccel.models import KGE
        from gnnaccel.train.kg import Schedule, SparseOptimizer, TrainStep, validate_kg

        config = validate_kg(
            {
                "model": {"name": model, "dim": size.dim, "gamma": _kg.GAMMA},
                # nobody else leaves positives out
                "negatives": {"count": size.negatives, "chunk": size.chunk, "mask": "none", "sides": "alternate"},
                "train": {"batch_size": size.batch, "learning_rate": LEARNING_RATE},
            }
        )
        kge = KGE(model, kg.num_entities, kg.num_relations, size.dim, gamma=_kg.GAMMA)
        for own, given in zip((kge.entity, kge.relation, kge.projection), tables, strict=True):
            if own is not None and given is not None:
                own.data = given
        self.tables, self.schedule = tables, Schedule(config, kg)
        optimizer = SparseOptimizer(kge, config.train, config.loss, self.schedule.total)
        optimizer.stretch = {}  # the peers' phases learn at the rate of all rows
        self.train_step = TrainStep(kge, optimizer, config)
        self.seconds = {"sample": 0.0, "gather": 0.0, "loss": 0.0, "update": 0.0}

    def sample(self, i: int) -> Any:
        start = time.perf_counter()
        batch = self.schedule(i)
        self.seconds["sample"] += time.perf_counter() - start
        return batch

    def step(self, batch: Any) -> float:
        if isinstance(batch, Batch):
            batch = self._ours(batch)
        step, start = self.train_step, time.perf_counter()
        rows = step.read(batch)
        gathered = time.perf_counter()
        update = step.compute(batch, rows)
        graded = time.perf_counter()
        step.apply(update)
        done = time.perf_counter()
        for stage, seconds in (("gather", gathered - start), ("loss", graded - gathered), ("update", done - graded)):
            self.seconds[stage] += seconds
        return update.loss

    @staticmethod
    def _ours(batch: Batch) -> Any:
        """A batch of the gate as the trainer has it."""
        from gnnaccel.data.kg import NegativeBatch
        from gnnaccel.train.kg import Batch as OurBatch

        drawn = NegativeBatch(batch.negative, None, len(batch.head) // len(batch.negative))
        return OurBatch(0, batch.head, batch.relation, batch.tail, None, {batch.side: drawn})


class PyKEENContender:
    def __init__(self, kg: KnowledgeGraph, size: Size, model: str, tables: Tables) -> None:
        from gnnaccel.baselines.peers.kg_pykeen import PyKEEN

        self.tables, self.seconds = tables, {}
        self.peer = PyKEEN(
            model,
            tables,
            kg.train.tensor(),
            gamma=_kg.GAMMA,
            lr=LEARNING_RATE,
            batch_size=size.batch,
            negatives=size.negatives,
        )

    def sample(self, i: int) -> None:
        return None

    def step(self, batch: None) -> float:
        return self.peer.step()


# --- gate -----------------------------------------------------------------------------------------------------------------


def distance(got: Tensor, want: Tensor, start: Tensor) -> float:
    """How far apart two tables are, as a fraction of the way that they went.

    A norm over the table, since single rows do differ: L1's gradient changes its sign with the last bit of a coordinate, and
    Adagrad makes a whole step of a row's first gradient, even where that is what rounding left of a sum of 0.
    """
    moved = (want - start.double()).norm()
    return float((got.double() - want).norm() / moved.clamp_min(1e-30))


def gate(contender: Contender, oracle: tuple[list[float], Tables], start: Tables, batches: list[Batch]) -> str:
    """What is wrong with a contender after the same steps as the float64 oracle; empty if nothing is."""
    losses, tables = oracle
    for i, batch in enumerate(batches):
        loss = contender.step(batch)
        # later losses are of tables on which a bit may have told, see `distance`
        allowed = (1e-3 if i else 1e-5) * max(1.0, abs(losses[i]))
        if not abs(loss - losses[i]) <= allowed:  # also catches NaN
            return f"step {i + 1}: loss {loss:.7g}, expected {losses[i]:.7g}"
    for name, got, want, first in zip(Tables._fields, contender.tables, tables, start, strict=True):
        if got is not None and want is not None and first is not None:
            if not (error := distance(got, want, first)) <= 1e-2:
                return f"the {name} table is off by {error:.1e} of its way"
    return ""


def gate_pykeen(peer: Any, start: Tables, batch: Batch) -> str:
    want, got = peer.expected(start.copy(torch.float64), batch, _kg.GAMMA), peer.loss(batch)
    return "" if abs(got - want) <= 1e-5 * max(1.0, abs(want)) else f"loss {got:.7g}, expected {want:.7g}"


def run_oracle(model: str, start: Tables, batches: list[Batch]) -> tuple[list[float], Tables]:
    """Losses and tables of the same steps in float64, without products for distances."""
    form = "broadcast" if model in ("transe_l1", "transe_l2", "rotate", "transr") else "product"
    tables = start.copy(torch.float64)
    made = TorchStep(model, tables, gamma=_kg.GAMMA, lr=LEARNING_RATE, form=form, by_chunk=True)
    return [made.step(batch) for batch in batches], tables


# --- turns ----------------------------------------------------------------------------------------------------------------


def next_turn(contender: Contender, inner: int) -> Callable[[], int]:
    """A contender's turns: `inner` steps each, with their sampling."""
    steps = itertools.count()

    def turn() -> int:
        for i in itertools.islice(steps, inner):
            # the loss is read back after every step, as a trainer does
            contender.step(contender.sample(i))
        return inner

    return turn


def steps_a_turn(contender: Contender) -> int:
    """An even number that takes about a tenth of a second."""
    start = time.perf_counter()
    for i in range(2):
        contender.step(contender.sample(i))
    pair = time.perf_counter() - start
    contender.seconds.update(dict.fromkeys(contender.seconds, 0.0))
    return 2 * max(1, min(16, round(0.1 / max(pair, 1e-6))))


def fastest_form(build: Callable[[str], Contender], names: tuple[str, ...]) -> str:
    """Of several ways to write a contender, the one with the best time of three pairs of steps."""
    seconds = {}
    for name in names if len(names) > 1 else ():
        contender, times = build(name), []
        for pair in range(4):
            start = time.perf_counter()
            for i in range(2):
                contender.step(contender.sample(2 * pair + i))
            times.append(time.perf_counter() - start)
        seconds[name] = min(times[1:])  # the first compiles
    return min(names, key=lambda name: seconds.get(name, 0.0))


# --- rows -----------------------------------------------------------------------------------------------------------------


def make_contender(
    name: str, kg: KnowledgeGraph, size: Size, model: str, start: Tables, fast: bool
) -> tuple[Contender, str]:
    """A contender on its own copy of the tables, and how it is written."""
    if name == "gnnaccel":
        return OurContender(kg, size, model, start.copy()), ""
    if name == "pykeen":
        return PyKEENContender(kg, size, model, start.copy()), ""
    # inductor takes seconds to compile what the gate runs for microseconds
    backend = None if not name.startswith("torch.compile") else "inductor" if fast else "aot_eager"
    options = {"backend": backend, "by_chunk": name == "torch by chunk"}
    sparse = name.endswith("sparse")

    def build(form: str) -> TorchContender | SparseContender:
        return (SparseContender if sparse else TorchContender)(kg, size, model, start.copy(), form=form, **options)

    names = usual_forms(model) if sparse else forms(model, backend is not None)
    form = fastest_form(build, names) if fast else names[0]
    return build(form), form


def measure(
    runner: Runner,
    models: tuple[str, ...] | None = None,
    peers: tuple[str, ...] = PEERS,
    size: Size | None = None,
) -> Iterator[Row]:
    """Rows of a run: for each model, ours and the peers."""
    settings = runner.settings
    short = settings.quick and not settings.correctness_only
    models = models or (_kg.QUICK_MODELS if short else _kg.MODELS)
    allocator.keep_freed_memory()  # as `gnnaccel train` does; all but `SparseContender` have it
    kg = _kg.load_graph(settings)
    size = size or (Size(24, 8, 6, 8) if settings.correctness_only else Size(dim=_kg.QUICK_DIM) if short else Size())
    for model in models:
        # compiled code of earlier models counts against the number of times that one function is compiled
        torch._dynamo.reset()
        yield from _model(settings, kg, size, model, peers)


def _model(settings: Settings, kg: KnowledgeGraph, size: Size, model: str, peers: tuple[str, ...]) -> Iterator[Row]:
    case, threads, only_gate = _kg.case_name(kg, model, settings), torch.get_num_threads(), settings.correctness_only
    start = _kg.make_tables(model, kg.num_entities, kg.num_relations, size.dim, settings.seed)
    batches = [fixed_batch(kg, size, i, settings.seed) for i in range(STEPS)]
    oracle = run_oracle(model, start, batches)
    rows: dict[str, Row] = {}
    contenders: dict[str, Contender] = {}
    for name in ("gnnaccel", *peers):
        if name == "torch by chunk" and model not in ("rotate", "transr"):
            continue  # the others have nothing large in between
        row = rows[name] = Row("kg-train", case, "gate" if only_gate else "step", name, name == "gnnaccel", "ok")
        row.threads = threads
        if settings.quick and not only_gate and name.startswith("torch.compile"):
            row.gate, row.detail = "skipped", "it compiles for longer than a quick run may take"
            continue
        with judging(row):
            contender, form = make_contender(name, kg, size, model, start, not only_gate)
            if isinstance(contender, PyKEENContender):
                reject(gate_pykeen(contender.peer, start, batches[0]))
            else:
                reject(gate(contender, oracle, start, batches))
            contenders[name] = contender
        row.extra = {"form": form} if form else {}
    if not only_gate and "gnnaccel" in contenders:
        inner = {name: 1 if name == "pykeen" else steps_a_turn(c) for name, c in contenders.items()}
        laps = _kg.take_turns(
            {name: next_turn(c, inner[name]) for name, c in contenders.items()},
            _kg.EPOCH * settings.budget,
            min_turns=2 if settings.quick else 3,
        )
        for name, lap in laps.items():
            row, c = rows[name], contenders[name]
            lap.fill(row, laps["gnnaccel"])
            row.inner = inner[name]
            row.extra |= {
                "batches": lap.done,
                "total_s": lap.spent,
                "mean_ms": 1e3 * lap.spent / lap.done,
                "stages_ms": {stage: 1e3 * s / lap.done for stage, s in c.seconds.items()},
            }
            row.peak_bytes = peak_extra_bytes(lambda c=c: c.step(c.sample(0)), settings.device)
    yield from rows.values()


register_end_to_end(EndToEnd("kg-train", measure, (400.0, 6.0)))


def main(
    data: _kg.Data = "",
    models: _kg.Models = "",
    peers: _kg.Peers = "",
    dim: _kg.Dim = _kg.DIM,
    threads: _kg.Threads = 0,
    budget: Annotated[float, typer.Option(help="Seconds of steps for each contender of each model.", min=0)] = 10.0,
    json_file: _kg.Json = None,
) -> None:
    """Race training steps on a knowledge graph against plain PyTorch, torch.compile and PyKEEN."""
    which = _kg.chosen(models, "--models", _kg.MODELS + _kg.MORE, _kg.MODELS)
    others = _kg.chosen(peers, "--peers", PEERS, PEERS)
    settings = Settings(data=data or None, budget=budget / _kg.EPOCH)
    _kg.report(lambda runner: measure(runner, which, others, Size(dim=dim)), settings, threads, json_file)


if __name__ == "__main__":
    typer.run(main)
