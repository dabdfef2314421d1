"""End to end on a GPU: a training step and the filtered evaluation of knowledge-graph embeddings, all tables on the device.

    gnnaccel bench kg-gpu --device cuda

Steps: ours replayed as a CUDA graph ("gnnaccel"), ours launched kernel by kernel ("not captured"), plain PyTorch and the same
under torch.compile, which draw on the device too. Evaluation: ours against plain PyTorch a chunk of questions at a time.
Everybody is checked first: steps and ranks against float64, replayed steps against launched ones to the bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.kg_train import Batch, Tables, TorchStep, compare, forms, query
from gnnaccel.bench import _kg
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end
from gnnaccel.bench.kg_eval import CHECKED, SIDES, bands, make_work
from gnnaccel.bench.kg_eval import gate as gate_ranks
from gnnaccel.bench.kg_train import LEARNING_RATE, STEPS, Size, fixed_batch, gate, run_oracle

if TYPE_CHECKING:
    from gnnaccel.bench.kg_eval import Work
    from gnnaccel.data.kg import KnowledgeGraph

STEP_MODELS = ("transe_l2", "rotate", "complex")
EVAL_MODELS = ("complex", "rotate")
TURN = 64  # steps a turn


def moved(tables: Tables, device: torch.device) -> Tables:
    return Tables(*(None if x is None else x.to(device, copy=True) for x in tables))


class Ours:
    """The trainer's own step; `captured`: replayed."""

    def __init__(self, kg: KnowledgeGraph, size: Size, model: str, start: Tables, settings: Settings, captured: bool):
        from gnnaccel.models import KGE
        from gnnaccel.train.kg import Schedule, SparseOptimizer, TrainStep, validate_kg
        from gnnaccel.train.kg.static import StaticStep

        config = validate_kg(
            {
                "model": {"name": model, "dim": size.dim, "gamma": _kg.GAMMA},
                # nobody else leaves positives out
                "negatives": {"count": size.negatives, "chunk": size.chunk, "mask": "none", "sides": "alternate"},
                "train": {"batch_size": size.batch, "learning_rate": LEARNING_RATE},
            }
        )
        kge = KGE(model, kg.num_entities, kg.num_relations, size.dim, gamma=_kg.GAMMA).to(settings.device)
        self.device = settings.device
        self.tables = moved(start, settings.device)
        for own, given in zip((kge.entity, kge.relation, kge.projection), self.tables, strict=True):
            if own is not None and given is not None:
                own.data = given
        self.schedule = Schedule(config, kg)
        optimizer = SparseOptimizer(kge, config.train, config.loss, self.schedule.total)
        optimizer.stretch = {}  # the peers' phases learn at the rate of all rows
        self.step_ = TrainStep(kge, optimizer, config)
        self.static = StaticStep(self.step_, self.schedule) if captured else None

    def step(self, batch: Batch) -> float:
        """A batch of the gate, launched kernel by kernel."""
        from gnnaccel.data.kg import NegativeBatch
        from gnnaccel.train.kg import Batch as OurBatch

        drawn = NegativeBatch(batch.negative, None, len(batch.head) // len(batch.negative))
        ours = OurBatch(0, batch.head, batch.relation, batch.tail, None, {batch.side: drawn})
        return self.step_(ours.to(self.device))

    def run(self, first: int, n: int) -> None:
        if self.static is not None:
            for low in range(first, first + n, self.static.capacity):
                self.static(range(low, min(first + n, low + self.static.capacity)))
            return
        for i in range(first, first + n):
            self.step_(self.schedule(i).to(self.device))


class Plain(TorchStep):
    """Plain PyTorch with everything on the device. Losses are read back as seldom as ours."""

    def __init__(self, kg: KnowledgeGraph, size: Size, model: str, start: Tables, settings: Settings, backend: Any):
        form = forms(model, backend is not None)[0]
        super().__init__(
            model, moved(start, settings.device), gamma=_kg.GAMMA, lr=LEARNING_RATE, form=form, backend=backend
        )
        self.kg, self.size, self.device = kg, size, settings.device
        self.columns = [x.to(settings.device) for x in (kg.train.head, kg.train.relation, kg.train.tail)]
        self.order = torch.randperm(len(kg.train), device=settings.device)

    def step(self, batch: Batch) -> float:
        moved_batch = Batch(*(x.to(self.device) for x in batch[:4]), batch.side)
        return super().step(moved_batch)

    def run(self, first: int, n: int) -> None:
        B, device = min(self.size.batch, len(self.order)), self.device
        for i in range(first, first + n):
            low = i % max(1, len(self.order) // B) * B
            at = self.order[low : low + B]
            shape = (B // self.size.chunk, self.size.negatives)
            negative = torch.randint(self.kg.num_entities, shape, device=device)
            h, r, t = (x[at] for x in self.columns)
            super().step(Batch(h, r, t, negative, SIDES[i % 2]))


def same_steps(make: Callable[[bool], Ours], n: int) -> str:
    """Whether replayed steps leave the tables of launched ones; empty if they do."""
    a, b = make(True), make(False)
    a.run(0, n)
    b.run(0, n)
    for name, x, y in zip(Tables._fields, a.tables, b.tables, strict=True):
        if x is not None and y is not None and not torch.equal(x, y):
            return f"after {n} steps the {name} table is not that of steps that are not captured"
    return ""


def steps(settings: Settings, kg: KnowledgeGraph, size: Size, model: str) -> Iterator[Row]:
    only_gate, case = settings.correctness_only, f"{kg.name}_{model}_b{size.batch}_n{size.negatives}_d{size.dim}"
    start = _kg.make_tables(model, kg.num_entities, kg.num_relations, size.dim, settings.seed)
    batches = [fixed_batch(kg, size, i, settings.seed) for i in range(STEPS)]
    oracle = run_oracle(model, start, batches)
    backend = "aot_eager" if only_gate else "inductor"
    makers: dict[str, Callable[[], Any]] = {
        "gnnaccel": lambda: Ours(kg, size, model, start, settings, True),
        "not captured": lambda: Ours(kg, size, model, start, settings, False),
        "torch": lambda: Plain(kg, size, model, start, settings, None),
        "torch.compile": lambda: Plain(kg, size, model, start, settings, backend),
    }
    rows, contenders = {}, {}
    for name, make in makers.items():
        mode = "gate" if only_gate else "step"
        row = rows[name] = Row("kg-gpu", case, mode, name, name == "gnnaccel", "ok", threads=torch.get_num_threads())
        with judging(row):
            judged = make()
            judged_tables = judged.tables
            checker = _OnHost(judged, judged_tables)
            reject(gate(checker, oracle, start, batches))  # type: ignore[arg-type]
            if name == "gnnaccel":
                reject(same_steps(lambda c: Ours(kg, size, model, start, settings, c), 2 * STEPS))
            contenders[name] = make()
    if not only_gate and "gnnaccel" in contenders:
        work = {name: turns(c.run, TURN, settings.device) for name, c in contenders.items()}
        for turn in work.values():
            turn()  # compiles, and records
        laps = _kg.take_turns(work, settings.budget, min_turns=3)
        for name, lap in laps.items():
            lap.fill(rows[name], laps["gnnaccel"])
            rows[name].inner = TURN
            rows[name].extra = {"triples_per_second": size.batch * lap.done / lap.spent}
    yield from rows.values()


class _OnHost:
    """A contender whose tables the gate sees on the host."""

    seconds: dict[str, float]

    def __init__(self, inner: Any, tables: Tables) -> None:
        self.inner, self._tables, self.seconds = inner, tables, {}

    @property
    def tables(self) -> Tables:
        return moved(self._tables, torch.device("cpu"))

    def sample(self, i: int) -> Any:
        return None

    def step(self, batch: Batch) -> float:
        return self.inner.step(batch)


def turns(run: Callable[[int, int], None], n: int, device: torch.device) -> Callable[[], int]:
    starts = itertools.count(0, n)

    def turn() -> int:
        run(next(starts), n)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return n

    return turn


# --- evaluation -----------------------------------------------------------------------------------------------------------


def plain_ranks(work: Work, tables: Tables, part: slice, chunk: int = 512) -> Tensor:
    """Filtered ranks `[2, n]` in plain PyTorch on the device, a chunk of questions at a time."""
    device, form, found = tables.entity.device, forms(work.model)[-1], []
    chunk = 16 if work.model == "rotate" else chunk  # broadcasting makes D numbers of a pair
    for side in SIDES:
        offsets, ids = (x.to(device) for x in work.answers(part, side))
        triples, ranks = work.kg.test[part].tensor().to(device), []
        row = torch.repeat_interleave(torch.arange(len(triples), device=device), offsets.diff())
        for low in range(0, len(triples), chunk):
            h, r, t = triples[low : low + chunk].unbind(1)
            kept, true = (h, t) if side == "tail" else (t, h)
            q = query(work.model, tables.entity[kept], tables.relation[r], side == "tail")
            scores = compare(work.model, form, q, tables.entity, _kg.GAMMA)
            own = scores.gather(1, true.unsqueeze(1))
            a, b = offsets[low], offsets[min(low + chunk, len(triples))]
            scores[row[a:b] - low, ids[a:b]] = -torch.inf
            scores.scatter_(1, true.unsqueeze(1), -torch.inf)
            ranks.append(1 + (scores > own).sum(1) + (scores == own).sum(1).double() / 2)
        found.append(torch.cat(ranks).cpu())
    return torch.stack(found)


def evaluation(settings: Settings, kg: KnowledgeGraph, model: str, dim: int) -> Iterator[Row]:
    from gnnaccel.models import KGE
    from gnnaccel.train.kg import rank_triples

    work, device = make_work(kg, model, dim, settings.seed), settings.device
    tables, total = moved(work.tables, device), len(kg.test)
    kge = KGE(model, kg.num_entities, kg.num_relations, dim, gamma=_kg.GAMMA).to(device)
    kge.entity.data, kge.relation.data = tables.entity, tables.relation

    def ours(part: slice) -> Tensor:
        return torch.stack([rank_triples(kge, kg.test[part], side, work.known).rank("realistic") for side in SIDES])

    checked = slice(0, min(CHECKED, total))
    allowed = bands(work, checked)
    ways = {"gnnaccel": ours, "torch": lambda part: plain_ranks(work, tables, part)}
    rows = {}
    for name, way in ways.items():
        mode = "gate" if settings.correctness_only else "filtered"
        row = rows[name] = Row("kg-gpu", f"{kg.name}_{model}_d{dim}", mode, name, name == "gnnaccel", "ok")
        row.threads = torch.get_num_threads()
        with judging(row):
            reject(gate_ranks(way(checked), allowed))
    good = {n: w for n, w in ways.items() if rows[n].gate == "ok"}
    if not settings.correctness_only and "gnnaccel" in good:
        whole = slice(0, total)

        def turn(way: Callable[[slice], Tensor]) -> Callable[[], int]:
            def go() -> int:
                way(whole)
                return 1

            return go

        laps = _kg.take_turns({n: turn(w) for n, w in good.items()}, settings.budget, min_turns=3)
        for name, lap in laps.items():
            lap.fill(rows[name], laps["gnnaccel"])
            rows[name].inner = 1
            rows[name].extra = {"triples": total}
    yield from rows.values()


def measure(runner: Runner) -> Iterator[Row]:
    settings = runner.settings
    if settings.device.type == "cpu" and not settings.correctness_only:
        return  # kg-train and kg-eval are the CPU's
    kg = _kg.load_graph(settings)
    size = Size(24, 8, 6, 8) if settings.correctness_only else Size()
    for model in STEP_MODELS:
        torch._dynamo.reset()
        yield from steps(settings, kg, size, model)
    for model in EVAL_MODELS:
        yield from evaluation(settings, kg, model, size.dim)


register_end_to_end(EndToEnd("kg-gpu", measure))
