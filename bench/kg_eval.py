"""End to end: the full filtered evaluation of knowledge-graph embeddings, ours against plain PyTorch and PyKEEN.

    gnnaccel bench kg-eval --threads 2 --data fb15k-237 --json bench/results/cpu-2t/kg-eval.json
    python -m gnnaccel.bench.kg_eval --models rotate --peers torch

Every test triple is ranked among all entities on both sides, the other known answers left out. The contenders take turns, each
with its next part of the test triples; a slow one stops when its budget is spent, and its time is scaled to all triples (the
detail says so). The index of known triples is made before; looking answers up is timed. PyKEEN has its own way, which is timed.
First every contender's ranks of some triples must lie where the scores in float64, give or take rounding, allow. Peak memory is
that of a process of its own, beyond what it held with graph, tables and library loaded.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from gnnaccel.baselines.peers.kg_eval import filtered_ranks, forms
from gnnaccel.baselines.peers.kg_train import Tables, compare, query
from gnnaccel.bench import _kg
from gnnaccel.bench.gate import judging, reject
from gnnaccel.bench.harness import EndToEnd, Row, Runner, Settings, register_end_to_end

if TYPE_CHECKING:
    from gnnaccel.data.kg import KnowledgeGraph, KnownTriples

PEERS = ("torch", "pykeen")
SIDES = ("tail", "head")
CHECKED = 32  # triples of the gate
TURN = 1024  # triples of a turn


class Work(NamedTuple):
    """What there is to do: `triples` of the test split with `tables` as embeddings."""

    kg: KnowledgeGraph
    known: KnownTriples
    model: str
    tables: Tables

    def answers(self, part: slice, side: str) -> tuple[Tensor, Tensor]:
        triples = self.kg.test[part]
        kept = triples.head if side == "tail" else triples.tail
        return self.known.lookup(kept, triples.relation, side)


Contender = Callable[[slice], Tensor]  # part of the test triples -> ranks [2, n] float64 of tails, of heads


def ours(work: Work) -> Contender:
    """The evaluation of the trainer and of `gnnaccel kg eval`."""
    from gnnaccel.models import KGE
    from gnnaccel.train.kg import rank_triples

    kg, dim = work.kg, work.tables.entity.shape[1]
    kge = KGE(work.model, kg.num_entities, kg.num_relations, dim, gamma=_kg.GAMMA)
    for own, given in zip((kge.entity, kge.relation, kge.projection), work.tables, strict=True):
        if own is not None and given is not None:
            own.data = given

    def ranks(part: slice) -> Tensor:
        found = [rank_triples(kge, kg.test[part], side, work.known) for side in SIDES]
        return torch.stack([x.rank("realistic") for x in found])

    return ranks


def plain(work: Work, form: str, chunk: int) -> Contender:
    def ranks(part: slice) -> Tensor:
        triples = work.kg.test[part].tensor()
        return torch.stack(
            [
                filtered_ranks(
                    work.model,
                    work.tables,
                    triples,
                    side,
                    work.answers(part, side),
                    gamma=_kg.GAMMA,
                    form=form,
                    chunk=chunk,
                )
                for side in SIDES
            ]
        )

    return ranks


def pykeen(work: Work) -> Contender:
    from gnnaccel.baselines.peers.kg_pykeen import PyKEEN

    kg = work.kg
    peer = PyKEEN(work.model, work.tables, kg.train.tensor(), gamma=_kg.GAMMA, lr=0.1, batch_size=1, negatives=1)
    ranks = peer.ranker([kg.train.tensor(), kg.valid.tensor(), kg.test.tensor()])
    return lambda part: ranks(kg.test[part].tensor())


def make_contender(name: str, work: Work, form: str = "") -> Contender:
    if name == "gnnaccel":
        return ours(work)
    if name == "pykeen":
        return pykeen(work)
    # broadcasting makes D numbers of a pair
    return plain(work, form, 4 if work.model == "rotate" else 256)


# --- gate -----------------------------------------------------------------------------------------------------------------


def bands(work: Work, part: slice, euclidean: bool = False) -> tuple[Tensor, Tensor]:
    """Least and greatest rank `[2, n]` of each answer, if scores may be off by 1e-5 of the largest of their question.

    In float64, by differences and not by products. `euclidean` is PyKEEN's RotatE, which takes another norm.
    """
    model, tables = work.model, work.tables.copy(torch.float64)
    distance = model in ("transe_l1", "transe_l2", "rotate", "transr")
    low, high = [], []
    for side in SIDES:
        offsets, ids = work.answers(part, side)
        for i, (h, r, t) in enumerate(work.kg.test[part].tensor().unbind(0)):
            kept, true = (h, t) if side == "tail" else (t, h)
            entity = tables.entity if tables.projection is None else tables.entity @ tables.projection[r]
            q = query(model, entity[kept][None], tables.relation[r][None], side == "tail")
            form = ("cdist" if euclidean else "broadcast") if distance else "product"
            scores = compare("transe_l2" if euclidean else model, form, q, entity, 0.0)[0]
            keep = torch.ones(len(scores), dtype=torch.bool)
            keep[ids[offsets[i] : offsets[i + 1]]] = False
            keep[true] = False
            slack = 1e-5 * scores.abs().max()
            low.append(1 + int((scores[keep] > scores[true] + slack).sum()))
            high.append(1 + int((scores[keep] > scores[true] - slack).sum()))
    return torch.tensor(low).view(2, -1), torch.tensor(high).view(2, -1)


def gate(found: Tensor, allowed: tuple[Tensor, Tensor]) -> str:
    """What is wrong with ranks; empty if nothing is."""
    low, high = allowed
    if found.shape != low.shape:
        return f"ranks of shape {list(found.shape)}, expected {list(low.shape)}"
    wrong = ~((found >= low) & (found <= high))  # also catches NaN
    if not wrong.any():
        return ""
    side, i = (int(x) for x in wrong.nonzero()[0])
    expected = f"{int(low[side, i])} to {int(high[side, i])}"
    return f"{int(wrong.sum())} of {wrong.numel()} ranks are wrong, the first: {found[side, i]:g}, expected {expected}"


# --- memory ---------------------------------------------------------------------------------------------------------------


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def peak_of(call: Callable[[], Any]) -> int | None:
    """Bytes of resident memory at the peak of `call` beyond those before it; None where the system does not tell."""
    try:
        before = _status("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    except OSError:
        return None
    call()
    return _status("VmHWM:") - before


def _child(pipe: Any, settings: Settings, name: str, model: str, dim: int, form: str, count: int, threads: int) -> None:
    torch.set_num_threads(threads)
    work = make_work(_kg.load_graph(settings), model, dim, settings.seed)
    contender = make_contender(name, work, form)
    contender(slice(0, 1))  # starts threads and loads what loads late
    pipe.send(peak_of(lambda: contender(slice(0, count))))


def peak_memory(settings: Settings, name: str, model: str, dim: int, form: str, count: int) -> int | None:
    """`peak_of` ranking `count` triples in a process of its own, which shares no allocator's leftovers."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    args = (there, settings, name, model, dim, form, count, torch.get_num_threads())
    child = context.Process(target=_child, args=args, daemon=True)
    child.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        return None
    finally:
        child.join()


# --- rows -----------------------------------------------------------------------------------------------------------------


def make_work(kg: KnowledgeGraph, model: str, dim: int, seed: int) -> Work:
    return Work(kg, kg.known(), model, _kg.make_tables(model, kg.num_entities, kg.num_relations, dim, seed))


def next_turn(contender: Contender, total: int, size: int) -> Callable[[], int]:
    """A contender's turns: the next `size` triples each, until there are no more."""
    starts = iter(range(0, total, size))

    def turn() -> int:
        low = next(starts, total)
        high = min(low + size, total)
        if high > low:
            contender(slice(low, high))
        return high - low

    return turn


def fastest_form(work: Work, count: int) -> str:
    """Of several ways to write the scores in plain PyTorch, the one that ranks `count` triples first."""
    names, seconds = forms(work.model), {}
    for name in names if len(names) > 1 else ():
        contender, times = make_contender("torch", work, name), []
        for _ in range(3):
            start = time.perf_counter()
            contender(slice(0, count))
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    return min(names, key=lambda name: seconds.get(name, 0.0))


def measure(
    runner: Runner,
    models: tuple[str, ...] | None = None,
    peers: tuple[str, ...] = PEERS,
    dim: int = 0,
    memory: bool = True,
) -> Iterator[Row]:
    """Rows of a run: for each model, ours and the peers."""
    settings = runner.settings
    kg = _kg.load_graph(settings)
    short = settings.quick and not settings.correctness_only
    dim = dim or (8 if settings.correctness_only else _kg.QUICK_DIM if short else _kg.DIM)
    for model in models or (_kg.QUICK_MODELS if short else _kg.MODELS):
        # a process for each contender's memory takes seconds
        yield from _model(settings, make_work(kg, model, dim, settings.seed), peers, memory and not short)


def _model(settings: Settings, work: Work, peers: tuple[str, ...], memory: bool) -> Iterator[Row]:
    kg, model, only_gate = work.kg, work.model, settings.correctness_only
    dim, total, checked = work.tables.entity.shape[1], len(kg.test), slice(0, min(CHECKED, len(kg.test)))
    allowed = bands(work, checked)
    rows: dict[str, Row] = {}
    contenders: dict[str, Contender] = {}
    form = forms(model)[0] if only_gate else fastest_form(work, min(256, total))
    case, mode = _kg.case_name(kg, model, settings), "gate" if only_gate else "filtered"
    for name in ("gnnaccel", *peers):
        row = Row("kg-eval", case, mode, name, name == "gnnaccel", "ok")
        rows[name], row.threads = row, torch.get_num_threads()
        with judging(row):
            contender = make_contender(name, work, form)
            own = bands(work, checked, True) if name == "pykeen" and model == "rotate" else allowed
            reject(gate(contender(checked), own))
            contenders[name] = contender
            row.extra = {"form": form} if name == "torch" else {}
    if not only_gate and "gnnaccel" in contenders:
        # a slow contender's turns must not keep the others waiting for minutes
        sizes = {"gnnaccel": TURN, "torch": {"rotate": 64, "transe_l1": 256}.get(model, TURN), "pykeen": 64}
        work_of = {name: next_turn(c, total, sizes[name]) for name, c in contenders.items()}
        laps = _kg.take_turns(work_of, _kg.EPOCH * settings.budget, min_turns=2)
        for name, lap in laps.items():
            row = rows[name]
            lap.fill(row, laps["gnnaccel"], scale=total)
            row.inner = sizes[name]
            row.extra |= {"triples": lap.done, "test_triples": total, "total_s": lap.spent / lap.done * total}
            if lap.done < total:
                row.detail = f"timed on {lap.done} of {total} triples, scaled"
            if memory:
                row.peak_bytes = peak_memory(settings, name, model, dim, form, min(total, 4 * sizes[name]))
    yield from rows.values()


register_end_to_end(EndToEnd("kg-eval", measure, (150.0, 2.0)))


def main(
    data: _kg.Data = "",
    models: _kg.Models = "",
    peers: _kg.Peers = "",
    dim: _kg.Dim = _kg.DIM,
    threads: _kg.Threads = 0,
    budget: Annotated[float, typer.Option(help="Seconds for each contender of each model.", min=0)] = 60.0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory in processes of their own.")] = True,
    json_file: _kg.Json = None,
) -> None:
    """Race full filtered evaluations on a knowledge graph against plain PyTorch and PyKEEN."""
    which = _kg.chosen(models, "--models", _kg.MODELS + _kg.MORE, _kg.MODELS)
    others = _kg.chosen(peers, "--peers", PEERS, PEERS)
    settings = Settings(data=data or None, budget=budget / _kg.EPOCH)
    _kg.report(lambda runner: measure(runner, which, others, dim, memory), settings, threads, json_file)


if __name__ == "__main__":
    typer.run(main)
